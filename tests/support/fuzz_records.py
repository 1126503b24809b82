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


RECORDS = {
    "hep simulation.json": Target(read_simulation, write_simulation),
    "bio rounds.json": Target(read_rounds_of, write_rounds),
    "bio job.json": Target(read_job, write_job),
    "llm measurements.json": Target(read_rows, write_rows),
}
"""Name → reader and its input."""
