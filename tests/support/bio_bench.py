"""Benchmarks whose fits are stand-ins."""

import json

FAKE = """
import json, os, pathlib, sys, time, types

def fit(table, settings, *, out, seed, force, quiet):
    from subquad.runs.lock import lock_folder

    out = pathlib.Path(out)
    if events := os.environ.get("BENCH_EVENTS"):
        # where machines have no folder in common
        note(events, "start", table)
        with lock_folder(out):
            stand_in(table, settings, out, seed)
        note(events, "end", table)
        return
    with open(pathlib.Path(table).parent / "calls.txt", "a") as file:
        file.write(f"{out.parent.name} {seed} {settings.train_rows} {','.join(settings.target)}\\n")
    stand_in(table, settings, out, seed)

def note(events, word, table):
    with open(events, "a") as file:
        file.write(f"{word} {pathlib.Path(table).stem} {os.readlink('/proc/self/ns/net')}\\n")

def stand_in(table, settings, out, seed):
    from subquad.errors import SubquadError
    text = pathlib.Path(table).read_text()
    if "slow" in text:
        (out).mkdir(parents=True, exist_ok=True)
        (out / "config.json").write_text("{}")
        (out / "pid").write_text(str(os.getpid()))
        time.sleep(30 if not (out / "begun").exists() else 0)
    if "nap" in text:
        time.sleep(4)
    if "wrong" in text:
        raise SubquadError("row 3: 'J' is not in the dna alphabet")
    if "crash" in text:
        raise ValueError("a bug")
    names = [*(settings.models or ["ridge", "boosting", "lyra"]), "ensemble-without-lyra", "ensemble"]
    values = {name: 0.5 + 0.07 * k + 0.01 * seed for k, name in enumerate(names)}
    metrics = {
        "test": {name: {"spearman": value, "pearson": value / 2} for name, value in values.items()},
        "intervals": {"test": {name: {"spearman": [value - 0.1, value + 0.1]} for name, value in values.items()}},
        "rows": {"train": 41, "validation": 7, "test": 23},
        "weights": {"ensemble": {"ridge": 0.25, "boosting": 0.25, "lyra": 0.5}},
        "cpu_seconds": {name: 1.5 for name in names},
        "memory_mb": 5,
    }
    # in the second sample the ensemble is below Lyra, and the third one defines no metric
    bootstrap = {name: [value, value - 0.2 * (name == "ensemble"), None] for name, value in values.items()}
    out.mkdir(parents=True, exist_ok=True)
    (out / "bootstrap.json").write_text(json.dumps(bootstrap))
    (out / "metrics.json").write_text(json.dumps(metrics))

room = types.ModuleType("subquad.bio.commands.fit")
room.fit = fit
sys.modules["subquad.bio.commands.fit"] = room
"""


def stand_in(folder, monkeypatch):
    """Put a stand-in for the fit before the processes that do the tasks; return the lines that it leaves."""
    room = folder / "fake"
    room.mkdir()
    (room / "sitecustomize.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(room))
    calls = folder / "calls.txt"
    return lambda: calls.read_text().split("\n")[:-1] if calls.is_file() else []


def write_tasks(folder, texts, **more):
    entries = []
    for name, word in texts.items():
        file = f"{name.replace('/', '_')}.csv"
        (folder / file).write_text(f"sequence,target,split\n{word},1,train\n")
        entries.append({"id": name, "file": file, "kind": "reg", "metric": "Pearson", "alphabet": "ACGT", **more})
    (folder / "tasks.json").write_text(json.dumps(entries))
    return folder / "tasks.json"
