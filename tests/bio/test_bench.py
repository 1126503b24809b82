import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
from support.bio_bench import stand_in, write_tasks

from subquad.bio.benchmark.jobs import Job, beside, is_done, make_jobs, metrics_of, selected_model
from subquad.bio.benchmark.settings import BenchSettings
from subquad.bio.benchmark.tasks import read_tasks
from subquad.bio.cli import bench as bench_cli
from subquad.bio.commands.bench import bench
from subquad.errors import SubquadError
from subquad.runs.lock import lock_folder
from subquad.runs.options import OutputOptions
from subquad.runs.storage import write_json

DATA = os.environ.get("SUBQUAD_DATA")


@pytest.fixture
def fake_fit(tmp_path, monkeypatch):
    return stand_in(tmp_path, monkeypatch)


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # an orphan that nobody has waited for yet
    status = Path(f"/proc/{pid}/stat")
    return not status.is_file() or status.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.long
def test_finished_runs_are_not_done_again_and_failed_ones_are(tmp_path, fake_fit):
    tasks = write_tasks(tmp_path, {"a/one": "ACGT", "a/two": "ACGTACGT", "b/bad": "wrong", "b/bug": "crash"})
    results = bench(tasks, out=tmp_path / "out", quiet=True)
    assert len(fake_fit()) == 4
    # largest table first, two at a time
    assert any(line.startswith("two") for line in fake_fit()[:2])
    assert [run["id"] for run in results["failed"]] == ["b/bad", "b/bug"]
    failed = json.loads((tmp_path / "out" / "failed.json").read_text())
    assert failed[0]["message"] == "row 3: 'J' is not in the dna alphabet"
    assert "the process exited with status 1: ValueError: a bug (see " in failed[-1]["message"]
    again = bench(tasks, out=tmp_path / "out", quiet=True)
    assert len(fake_fit()) == 6
    assert again["tasks"] == results["tasks"]
    (tmp_path / "b_bad.csv").write_text("sequence,target,split\nACGT,1,train\n")
    (tmp_path / "b_bug.csv").write_text("sequence,target,split\nACGT,1,train\n")
    assert bench(tasks, out=tmp_path / "out", quiet=True)["failed"] == []
    assert not (tmp_path / "out" / "failed.json").exists()
    for name in ("results.json", "results.csv", "results.html", "results.md"):
        assert (tmp_path / "out" / name).is_file()
    frame = pd.read_csv(tmp_path / "out" / "results.csv")
    assert len(frame) == 4 * 5 * 2
    assert frame["memory_mb"].between(5, 500).all()


@pytest.mark.long
def test_a_killed_benchmark_is_resumed_with_the_same_results(tmp_path, fake_fit):
    tasks = write_tasks(tmp_path, {"a/one": "ACGT", "a/slow": "slow"})
    call = f"bench({str(tasks)!r}, out={str(tmp_path / 'out')!r}, quiet=True)"
    code = f"from subquad.bio import bench; {call}"
    process = subprocess.Popen([sys.executable, "-c", code])
    folder = tmp_path / "out" / "runs" / "a"
    pid = folder / "slow" / "0" / "pid"
    while not (folder / "one" / "0" / "metrics.json").is_file() or not (pid.is_file() and pid.read_text()):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # the process of the task ends with the one that started it
    while is_running(int(pid.read_text())):
        time.sleep(0.05)
    (folder / "slow" / "0" / "begun").touch()
    results = bench(tasks, out=tmp_path / "out", quiet=True)
    assert sorted(fake_fit()) == ["one 0 20000 target", "slow 0 20000 target", "slow 0 20000 target"]
    assert results["failed"] == []
    fresh = tmp_path / "fresh"
    (fresh / "runs" / "a" / "slow" / "0").mkdir(parents=True)
    (fresh / "runs" / "a" / "slow" / "0" / "begun").touch()
    write_json(fresh / "bench.json", {"benchmark": "subquad bio bench"})
    whole = bench(tasks, out=fresh, quiet=True)
    assert [entry["values"] for entry in whole["tasks"]] == [entry["values"] for entry in results["tasks"]]


@pytest.mark.slow
def test_a_task_beyond_its_timeout_is_stopped_and_reported(tmp_path, fake_fit):
    tasks = write_tasks(tmp_path, {"a/slow": "slow"})
    results = bench(tasks, BenchSettings(timeout=1.3), out=tmp_path / "out", quiet=True)
    assert results["failed"][0]["message"].startswith("stopped after 1.3 seconds (--timeout)")
    assert results["tasks"][0]["state"] == "failed"


@pytest.mark.long
def test_other_settings_are_refused_unless_forced(tmp_path, fake_fit):
    tasks = write_tasks(tmp_path, {"a/one": "ACGT"})
    bench(tasks, BenchSettings(seeds=(0, 1)), out=tmp_path / "out", quiet=True)
    with pytest.raises(SubquadError, match=r"a/one, seed 0: train_rows was 20000 and is 53") as caught:
        bench(tasks, BenchSettings(train_rows=53), out=tmp_path / "out", quiet=True)
    assert "choose another --out, or repeat these runs with --force" in str(caught.value)
    bench(tasks, BenchSettings(train_rows=53), out=tmp_path / "out", force=True, quiet=True)
    assert sorted(fake_fit()[:2]) == ["one 0 20000 target", "one 1 20000 target"]
    assert fake_fit()[2:] == ["one 0 53 target"]
    (tmp_path / "a_one.csv").write_text("sequence,target,split\nTTTT,1,train\n")
    with pytest.raises(SubquadError, match="the table, or a file that it is read with, has changed"):
        bench(tasks, BenchSettings(train_rows=53), out=tmp_path / "out", quiet=True)


@pytest.mark.long
def test_the_command_prints_comparisons_and_failures(tmp_path, fake_fit, capsys):
    tasks = write_tasks(tmp_path, {"a/one": "ACGT", "a/bad": "wrong"})
    with pytest.raises(SubquadError, match="a/bad, seed 0: row 3: 'J' is"):
        bench_cli(tasks, options=OutputOptions(out=tmp_path / "out"))
    shown = capsys.readouterr()
    assert (
        "all: 1 scored; Lyra against the best baseline: clearly better 1, no clear difference 0, clearly worse 0; "
        in shown.out
    )
    assert "tasks: 2/2" in shown.err
    assert "a/bad:0 failed: row 3" in shown.err


@pytest.mark.long
def test_ray_gives_the_same_table(tmp_path, fake_fit, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    tasks = write_tasks(tmp_path, {"a/one": "ACGT", "a/bad": "wrong"})
    # in a process of its own: Ray changes handlers and leaves sockets open
    code = f"""
        from subquad.bio.commands.bench import bench
        from subquad.bio.benchmark.settings import BenchSettings
        found = bench({str(tasks)!r}, BenchSettings(ray=True), out={str(tmp_path / "out")!r}, quiet=True)
        print("failed:", [run["id"] for run in found["failed"]])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert "failed: ['a/bad']" in done.stdout, done.stderr
    assert not list((tmp_path / "out").glob(".shared*"))
    here = bench(tasks, out=tmp_path / "here", quiet=True)
    there = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [entry.get("values") for entry in there["tasks"]] == [entry.get("values") for entry in here["tasks"]]


@pytest.mark.long
@pytest.mark.slow
def test_a_machine_without_the_folder_sends_the_files_back(tmp_path, fake_fit):
    from subquad.bio.benchmark.runners import run_remotely, store_files

    tasks = write_tasks(tmp_path, {"a/one": "ACGT"})
    settings = BenchSettings()
    job = make_jobs(read_tasks(tasks, settings, tmp_path), settings, tmp_path / "out", force=False)[0]
    outcome, files = run_remotely(job, str(tmp_path / "no such mark"), Path(job["table"]).read_bytes(), None)
    assert outcome["message"] is None
    assert set(files) == {"metrics.json", "bootstrap.json"}
    assert not is_done(job)
    store_files(job, outcome, files)
    assert is_done(job)
    # with other settings, on a machine that was lost
    again = Job(**{**job, "settings": {"train_rows": 53}, "force": True})
    store_files(again, {"message": "lost", "seconds": None, "memory_mb": None}, {})
    assert not is_done(again)
    assert not Path(job["out"]).exists()


def test_a_task_that_a_machine_without_connection_still_ends_is_not_started_again(tmp_path, monkeypatch):
    from subquad.bio.benchmark import runners

    tasks, settings = write_tasks(tmp_path, {"a/one": "ACGT"}), BenchSettings()
    job = make_jobs(read_tasks(tasks, settings, tmp_path), settings, tmp_path / "out", force=False)[0]
    monkeypatch.setattr(runners, "run_job", lambda job, timeout: {"message": "started again"})
    marker, has_begun = tmp_path / "mark", threading.Event()
    marker.touch()

    def end():
        with lock_folder(job["out"]):
            has_begun.set()
            time.sleep(0.3)
            write_json(metrics_of(job), {})
            write_json(beside(job, "done.json"), {"message": None, "seconds": 0.3, "memory_mb": 1.0})

    other = threading.Thread(target=end)
    other.start()
    assert has_begun.wait(60)
    outcome, files = runners.run_remotely(job, str(marker), b"", None)
    other.join()
    assert (outcome["message"], files) == (None, None)
    assert runners.run_remotely(Job(**{**job, "force": True}), str(marker), b"", None)[0]["message"] == "started again"


def test_a_task_whose_embeddings_have_changed_is_not_done(tmp_path):
    tasks, settings = write_tasks(tmp_path, {"a/one": "ACGT"}), BenchSettings()
    file = tmp_path / "vectors.npy"

    def marked(content):
        file.write_bytes(content)
        (task,) = read_tasks(tasks, settings, tmp_path)
        task.settings["embeddings"] = str(file)
        return make_jobs([task], settings, tmp_path / "out", force=False)[0]["fingerprint"]

    assert marked(b"one") == marked(b"one") != marked(b"two")


BAD = [
    ("{}", "must be a JSON list of tasks"),
    ("[3]", "task 1: cannot be read as a task"),
    ('[{"id": "../x", "file": "t.csv", "kind": "reg"}]', "id '../x' must be letters, digits"),
    ('[{"id": "x", "file": "u.csv", "kind": "reg"}]', r"u\.csv: no such file"),
    ('[{"id": "x", "kind": "reg"}]', "task 1: .*'file' is missing"),
    (
        '[{"id": "x", "file": "t.csv", "kind": "regg"}]',
        "no task type 'regg'",
    ),
    (
        '[{"id": "x", "file": "t.csv", "kind": "reg", "settings": {"epoch": 3}}]',
        "no setting 'epoch'; did you mean 'epochs'",
    ),
    (
        '[{"id": "x", "file": "t.csv", "kind": "reg", "settings": {"batch_size": 0}}]',
        "x: settings: --batch-size must be at least 1",
    ),
    ('[{"id": "x", "file": "t.csv", "kind": "reg", "train_on": "y"}]', "x: no task 'y'"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_an_invalid_task_file_is_refused(tmp_path, text, message):
    (tmp_path / "t.csv").write_text("sequence,target\nAC,1\n")
    (tmp_path / "tasks.json").write_text(text)
    with pytest.raises(SubquadError, match=message):
        read_tasks(tmp_path / "tasks.json", BenchSettings(), tmp_path)


def test_a_table_in_place_of_the_task_file_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("sequence,target\nAC,1\n")
    with pytest.raises(SubquadError, match=r"t\.csv: cannot be read as JSON"):
        read_tasks(tmp_path / "t.csv", BenchSettings(), tmp_path)


def test_all_errors_of_a_task_file_are_reported_at_once(tmp_path):
    (tmp_path / "t.csv").write_text("sequence,target\nAC,1\n")
    good = {"id": "x", "file": "t.csv", "kind": "bin"}
    (tmp_path / "tasks.json").write_text(json.dumps([good, good, {**good, "id": 7}, {**good, "kind": "mulit3"}]))
    with pytest.raises(SubquadError) as caught:
        read_tasks(tmp_path / "tasks.json", BenchSettings(), tmp_path)
    assert [word in str(caught.value) for word in ("task 3", "task 4", "'mulit3'")] == [True] * 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seeds": (0, 0)}, "--seeds needs different values, got 0 0"),
        ({"seeds": ()}, "--seeds must be a list of at least 1"),
        ({"jobs": 0}, "--jobs must be at least 1, got 0"),
        ({"timeout": 0.0}, "--timeout must be above 0"),
        ({"train_on": ("a",)}, "--train-on must be TASK=TASK"),
    ],
)
def test_invalid_settings_are_an_error(given, message):
    with pytest.raises(SubquadError, match=message):
        BenchSettings(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"only": ("z/*",)}, r"--only: no task 'z/\*'"),
        ({"task_types": ("binry",)}, "no task type 'binry'; did you mean 'binary'"),
        ({"task_types": ("pairs",)}, "no task matches both --only and --task-types"),
        ({"train_on": ("q=a/one",)}, "--train-on: no task 'q'"),
        ({"models": ("ridge", "lyra-papr")}, "no model 'lyra-papr'; did you mean 'lyra-paper'"),
        ({"models": ("vienna", "vienna_bpp")}, "a/one: none of --models vienna vienna_bpp suits a task of type regr"),
    ],
)
def test_a_choice_of_nothing_is_refused(tmp_path, given, message):
    tasks = write_tasks(tmp_path, {"a/one": "ACGT"})
    with pytest.raises(SubquadError, match=message):
        read_tasks(tasks, BenchSettings(**given), tmp_path)


def test_columns_kinds_and_alphabets_become_settings(tmp_path):
    (tmp_path / "pairs.tsv").write_text("guide\tcontext\ttarget\tsplit\tgroup\n")
    (tmp_path / "own.csv").write_text("seq,y,split\n")
    entries = [
        {"id": "p", "file": "pairs.tsv", "kind": "multi13", "alphabet": "ACGNRT|", "rows": 31, "length": [7, 11]},
        {
            "id": "q",
            "file": "own.csv",
            "kind": "perres_bin",
            "settings": {"target": "y", "tokens": 97},
            "alphabet": "*AEF",
        },
        {"id": "r", "file": "own.csv", "kind": "residue_multiclass", "alphabet": "ACGU", "anything": 3},
        {"id": "g", "file": "own.csv", "kind": "perres_bin", "settings": {"target": "y"}, "alphabet": "-AEF"},
    ]
    (tmp_path / "tasks.json").write_text(json.dumps(entries))
    p, q, r, g = read_tasks(tmp_path / "tasks.json", BenchSettings(train_rows=29), tmp_path)
    assert (p.task_type, p.settings["sequence"], p.settings["partner"], p.settings["alphabet"]) == (
        "multiclass",
        "context",
        "guide",
        "dna",
    )
    assert (p.settings["group"], p.settings["split"], p.settings["target"]) == ("group", "split", ("target",))
    assert p.size == 29 * 9
    assert (q.task_type, q.settings["target"], q.settings["tokens"], q.settings["alphabet"]) == (
        "residue_binary",
        ("y",),
        97,
        "protein_stop",
    )
    assert "sequence" not in q.settings
    assert (r.task_type, r.settings["alphabet"], r.family) == ("residue_multiclass", "rna", "tasks")
    assert "alphabet" not in g.settings, "only `fit` can tell an alignment from a few gaps"


def test_each_task_gets_the_named_models_that_suit_it_unless_it_names_its_own(tmp_path):
    (tmp_path / "t.csv").write_text("sequence,target\nAC,1\n")
    kinds = {"row": "reg", "residue": "perres_bin", "pair": "pairs", "own": "reg"}
    entries = [{"id": name, "file": "t.csv", "kind": kind} for name, kind in kinds.items()]
    entries[-1]["settings"] = {"models": "mlp"}
    (tmp_path / "tasks.json").write_text(json.dumps(entries))
    tasks = read_tasks(tmp_path / "tasks.json", BenchSettings(models=("lyra", "ridge", "mlp", "vienna")), tmp_path)
    assert {task.id: task.settings["models"] for task in tasks} == {
        "row": ("lyra", "ridge", "mlp"),
        "residue": ("lyra", "ridge"),
        "pair": ("lyra", "vienna"),
        "own": ("mlp",),
    }
    tasks = read_tasks(tmp_path / "tasks.json", BenchSettings(), tmp_path)
    assert [task.settings["models"] for task in tasks] == [(), (), (), ("mlp",)]


def test_a_header_of_windows_is_read(tmp_path):
    (tmp_path / "own.csv").write_bytes("sequence,größe,target\n".encode("cp1252"))
    (tmp_path / "tasks.json").write_text(json.dumps([{"id": "p", "file": "own.csv", "kind": "reg"}]))
    (task,) = read_tasks(tmp_path / "tasks.json", BenchSettings(), tmp_path)
    assert (task.settings["sequence"], task.settings["target"]) == ("sequence", ("target",))


def test_a_task_without_training_rows_takes_those_of_another(tmp_path):
    (tmp_path / "a.csv").write_text(
        "sequence,target,split\nAAA,010,train\nCCC,000,validation\nGGG,111,test\nTTT,1-1,train\n"
    )
    (tmp_path / "b.csv").write_text("sequence,target,split\nTTT,1-0,test\nGGG,110,test\n")
    entries = [
        {"id": "a", "file": "a.csv", "kind": "perres_bin", "splits": {"train": 2}},
        {"id": "b", "file": "b.csv", "kind": "perres_bin", "splits": {"test": 2}},
    ]
    (tmp_path / "tasks.json").write_text(json.dumps(entries))
    a, b = read_tasks(tmp_path / "tasks.json", BenchSettings(), tmp_path / "out")
    assert (a.has_training, b.has_training) == (True, False)
    settings = BenchSettings(train_on=("b*=a",))
    a, b = read_tasks(tmp_path / "tasks.json", settings, tmp_path / "out")
    frame = pd.read_csv(b.table, dtype=str)
    # TTT is tested, so it is not learned from
    assert frame.to_numpy().tolist() == [
        ["AAA", "010", "train"],
        ["CCC", "000", "validation"],
        ["TTT", "1-0", "test"],
        ["GGG", "110", "test"],
    ]
    assert b.has_training
    before = b.table.read_bytes()
    read_tasks(tmp_path / "tasks.json", settings, tmp_path / "out")
    assert b.table.read_bytes() == before
    assert [job["id"] for job in make_jobs([a, b], settings, tmp_path / "out", force=False)] == ["a", "b"]


def test_training_rows_of_another_task_are_found_by_all_names_of_the_parts(tmp_path):
    (tmp_path / "a.csv").write_text(
        "sequence,target,split\nAAA,1,Training\nCCC,2,val\nGGG,3,Test\nTTT,4,dev\nACA,5,unused\n"
    )
    (tmp_path / "b.csv").write_text("sequence;target;split\nGGT;1;Test\nGGC;2;train\n")
    (tmp_path / "c.csv").write_text("sequence,target,split\nGGT,1,train\n")
    (tmp_path / "d.csv").write_text("sequence,score,split\nGGT,1,probe\n")
    entries = [{"id": name, "file": f"{name}.csv", "kind": "reg"} for name in "abcd"]
    (tmp_path / "tasks.json").write_text(json.dumps(entries))
    own = BenchSettings(train_on=("b=a",), only=("b",))
    (task,) = read_tasks(tmp_path / "tasks.json", own, tmp_path / "out")
    assert pd.read_csv(task.table, dtype=str)["sequence"].tolist() == ["AAA", "CCC", "TTT", "GGT"]
    with pytest.raises(SubquadError) as error:
        read_tasks(tmp_path / "tasks.json", BenchSettings(train_on=("c=a", "d=a")), tmp_path / "out")
    assert f"c: {tmp_path / 'c.csv'}: train_on needs test rows, and column 'split' has none" in str(error.value)
    assert f"d: {tmp_path / 'd.csv'}: train_on needs more columns:" in str(error.value)


@pytest.mark.parametrize("content", [[], {}, {"settings": [3]}])
def test_a_damaged_file_of_a_job_is_refused(tmp_path, content):
    tasks, settings = write_tasks(tmp_path, {"a/one": "ACGT"}), BenchSettings()
    path = tmp_path / "out" / "runs" / "a" / "one" / "0.job.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(SubquadError, match=r"0\.job\.json: cannot be read as a task"):
        make_jobs(read_tasks(tasks, settings, tmp_path), settings, tmp_path / "out", force=True)


@pytest.mark.data
@pytest.mark.skipif(not DATA, reason="SUBQUAD_DATA does not say where the files are")
def test_the_tasks_of_the_paper_are_read(tmp_path):
    path = Path(DATA) / "bio" / "tasks.json"
    tasks = read_tasks(path, BenchSettings(), tmp_path)
    assert len(tasks) == 121
    assert [task.id for task in tasks if not task.has_training] == [
        f"idr/caid2_{name}" for name in ("disorder_pdb", "disorder_nox", "binding", "linker")
    ]
    by_id = {task.id: task for task in tasks}
    assert by_id["crispr/cas13a_active"].settings["partner"] == "guide"
    assert by_id["dna/splice_uci"].settings["alphabet"] == "dna"
    assert by_id["pep/ttca"].settings["alphabet"] == "protein"
    only = read_tasks(
        path, BenchSettings(only=("idr/caid2_linker",), train_on=("idr/caid2_linker=idr/flexible_linker",)), tmp_path
    )
    counts = pd.read_csv(only[0].table)["split"].value_counts().to_dict()
    assert counts == {"train": 589, "validation": 148, "test": 40}


def test_a_model_without_a_validation_metric_is_not_selected(tmp_path):
    selected = {"ridge": {"validation": 0.5}, "boosting": {"validation": None}, "lyra": [{"validation": 0.4}]}
    (tmp_path / "config.json").write_text(json.dumps({"selected": selected}))
    assert selected_model({"out": str(tmp_path)}) == "ridge"
