"""The readers of records that commands resume from, with a valid record of each."""

import json

from support.fuzzing import Target


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_simulation(folder):
    settings = {"jets_per_class": 5, "classes": ["TTBar", "HToBB"], "jets_per_file": 3}
    return write(folder / "simulation.json", {"physics": 2, "seed": 0, **settings})


def read_simulation(path):
    from subquad.hep.commands.simulate import _files_of, _read

    for found in _files_of(_read(path), path.parent):
        assert found.parent == path.parent


def write_rounds(folder):
    settings = {"propose": 3, "acquisition": "ucb", "max_mutations": 2}
    first = {"measured": [], "fingerprints": [], "settings": settings, "is_finished": True, "proposed": 3}
    second = {**first, "fingerprints": ["0123"], "run": "round-2/run", "table": "round-2/table.csv", "target": "a"}
    measured = {"new_measurements": 3, "best_new": 1.5, "inside_interval": None, "best_prediction": 0.25}
    stamp = {"kind": "bio rounds", "version": "0.1"}
    record = {"subquad": stamp, "source": "/start", "direction": "maximize", "target": None}
    write(folder / "rounds.json", {**record, "rounds": [first, {**second, **measured}]})
    return folder


def read_rounds_of(folder):
    from subquad.bio.commands.rounds import _current, _identity
    from subquad.bio.design_search.rounds_page import render
    from subquad.bio.design_search.rounds_record import read_rounds

    record = read_rounds(folder)
    # a folder gets its record together with its first round
    if record["rounds"]:
        render(record, {})
    for step in record["rounds"]:
        _identity(step)
    _current(record["rounds"], folder, folder)


def write_rows(folder):
    rows = [{"losses": [0.5, None, 1.5]}, {"losses": [2.5]}]
    return write(folder / "measurements" / "a.json", {"conditions": {"text": "x"}, "rows": rows})


def read_rows(path):
    from subquad.llm.evaluation.store import MeasurementStore

    before = path.read_bytes()
    store = MeasurementStore(path.parents[1], quiet=True)
    rows = store.rows("a", {"text": "x"}, 2, lambda start, stop: [{}] * (stop - start), step=2)
    # rows of other conditions are measured and written again
    path.write_bytes(before)
    assert len(rows) == 2


def job_in(folder):
    return {"id": "a/one", "seed": 0, "fingerprint": "0123", "settings": {"epochs": 3}, "out": str(folder / "0")}


def write_job(folder):
    return write(folder / "0.job.json", {**job_in(folder), "table": "a.csv", "force": False})


def read_job(path):
    from subquad.bio.benchmark.jobs import _changes

    _changes(job_in(path.parent))


def write_budget(folder):
    tokens = {"evaluation_sequences": 7, "transfer_tokens": 0, "lora_tokens": 31}
    seconds = {"evaluate": 0.5, "lora": 2.5}
    return write(folder / "budget.json", {"precision": "float32", **tokens, "seconds_per_sequence": seconds})


def read_budget(path):
    from subquad.llm.training.budget import _read

    assert sum(_read(path.parent).seconds_per_sequence.values()) is not None


def layout():
    from subquad.hep.data.layout import layout_of
    from subquad.hep.models.presets import PRESETS

    return layout_of(PRESETS["standard"].net, None)


def write_index(folder):
    import numpy as np

    from subquad.hep.data.jet_chunk import JetChunk
    from subquad.hep.data.store import write_store

    own, lengths = layout(), np.array([2, 3])
    tables = {"particles": np.ones((5, len(own.particles))), "jet_features": np.ones((2, len(own.jet_features)))}
    labels = {"labels": np.array([0, 1]), "classes": ("QCD", "Hbb"), "observers": {}}
    write_store(folder / "jets", own, {"train": [JetChunk(**tables, **labels, lengths=lengths)]}, key="0123")
    return folder / "jets" / "index.json"


def read_index(path):
    from subquad.hep.data.store import open_store

    before = {own.name: own.stat().st_size for own in path.parent.iterdir() if own != path}
    dataset = open_store(path.parent, "0123", layout())
    assert dataset is None or len(dataset) == 2
    # mapping could make a file longer
    assert before == {own.name: own.stat().st_size for own in path.parent.iterdir() if own != path}


def write_validations(folder):
    fitted = {"ridge": {"validation": 0.5, "cpu_seconds": 1.5}, "vienna": {"validation": None, "cpu_seconds": 2.5}}
    return write(folder / "validation.json", fitted)


def read_validations(path):
    from subquad.bio.models.fit import _read_validations

    for own in _read_validations(path.parent).values():
        assert own["cpu_seconds"] is not None


def write_failures(folder):
    return write(folder / "failed.json", [{"id": "a/one", "seed": 0, "message": "m"}])


def read_failures(path):
    from subquad.bio.commands.bench import _add_failures

    before = path.read_bytes()
    _add_failures(path.parent, [{"id": "a/two", "seed": 1, "message": "n"}])
    path.write_bytes(before)


def write_replay(folder):
    return write(folder / "ridge-0.json", {"picks": [[4, 0], []], "cpu_seconds": 1.5})


def read_replay(path):
    import numpy as np

    from subquad.bio.design_search.simulation import _read_picks

    picks, _ = _read_picks(path, np.array([2, 3]), 11)
    assert not {row for own in picks for row in own} & {2, 3}


def write_page_job(folder):
    write(folder / "status.json", {"state": "running", "pid": 2**22 + 1, "started": "boot 12", "began": 1.5})
    write(folder / "end.json", {"ended": 2.5, "exit_status": 0})
    words = {"kind": "bio fit", "title": "Fit", "words": ["/a", "--out", "/b"], "output": "out", "reads": ["/a"]}
    server = {"server": 2**22 + 1, "server_started": "boot 7"}
    write(folder / "job.json", {**words, **server, "created": 0.5, "about": {}, "can_resume": True})
    return folder


def read_page_job(folder):
    from subquad.app.job_records import Job

    job = Job(folder)
    if not job.is_damaged:
        assert (job.state, job.can_resume, job.seconds, job.message, job.reads, job.about) is not None


RECORDS = {
    "hep simulation.json": Target(read_simulation, write_simulation),
    "bio rounds.json": Target(read_rounds_of, write_rounds),
    "bio job.json": Target(read_job, write_job),
    "bio validation.json": Target(read_validations, write_validations),
    "bio failed.json": Target(read_failures, write_failures),
    "bio simulated rounds": Target(read_replay, write_replay),
    "hep index.json": Target(read_index, write_index),
    "llm budget.json": Target(read_budget, write_budget),
    "llm measurements.json": Target(read_rows, write_rows),
    "app job.json": Target(read_page_job, write_page_job),
}
"""Name → reader and its input."""
