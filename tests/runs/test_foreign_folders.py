"""Every command refuses an output folder that belongs to something else, and leaves it as it is."""

import json

import pytest

from subquad.cli import app, main

JETS = ["example:tagger", "--files", "example:jets"]
TASKS = [{"id": "a/one", "file": "table.csv", "task_type": "regression"}]
COMMANDS = {
    "demo": [],
    "bio fit": ["TABLE"],
    "bio cross-validate": ["TABLE"],
    "bio scan": ["example:tdp43-model"],
    "bio epistasis": ["example:tdp43-model"],
    "bio design": ["example:tdp43-model"],
    "bio rounds": ["example:tdp43-model", "--propose", "2"],
    "bio bench": ["TASKS"],
    "bio embed": ["TABLE", "--model", "MODEL"],
    "llm linearize": ["smollm2", "--text", "TEXT"],
    "llm evaluate": ["example:linear-smollm2", "--text", "TEXT"],
    "llm merge": ["example:linear-smollm2"],
    "hep simulate": ["--jets-per-class", "1", "--classes", "TTBar"],
    "hep fit": ["example:jets"],
    "hep evaluate": JETS,
    "hep explain": JETS,
}
"""Command → its words, without `--out`."""
FILES = ("bio predict", "bio report", "bio guides", "llm report", "hep predict", "hep report", "hep export")
"""Commands whose output is a file, which is refused if it exists."""
STAMP = {"subquad": {"kind": "other", "format": 1, "version": "0.1.0", "settings": {}}}
RUN = "a run of another kind"
REPLACING_RUNS = ("bio fit", "bio cross-validate", "bio embed", "llm linearize", "hep fit")
FOREIGN = {
    "notes": {"notes.txt": "mine"},
    RUN: {"config.json": json.dumps(STAMP), "metrics.json": "{}", "model.safetensors": "mine"},
    "a report of another kind": {"other.json": json.dumps(STAMP), "report.html": "mine"},
    "folders of usual names": {
        "measurements/a.json": "[1]", "runs/one/a.csv": "mine", "round-1/a.csv": "mine", "jets/a.csv": "mine",
        "report.html": "mine",
    },
}  # fmt: skip
REFUSED = ("not empty", "not written by", "finished run", "unfinished", "a folder", "exists already", "something other")


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    folder = tmp_path / "inputs"
    (folder / "model").mkdir(parents=True)
    rows = [f"MKV{'ACDEFGHIKLMNPQRSTVWY'[i % 20]}LA{'ACDEFGHIKLMNPQRSTVWY'[i // 20]},{i}" for i in range(60)]
    (folder / "table.csv").write_text("sequence,score\n" + "\n".join(rows) + "\n")
    (folder / "tasks.json").write_text(json.dumps(TASKS))
    (folder / "text.txt").write_text("A sentence of some words.\n" * 2000)
    names = {"TABLE": "table.csv", "TASKS": "tasks.json", "TEXT": "text.txt", "MODEL": "model"}
    monkeypatch.chdir(tmp_path)
    return {name: str(folder / path) for name, path in names.items()}


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_every_command_with_an_output_folder_is_tried():
    names = [f"{field} {name}" for field in ("bio", "llm", "hep") for name in app[field] if not name.startswith("-")]
    with_out = {
        name
        for name in names
        if any("--out" in own.names for own in app[name.split()[0]][name.split()[1]].assemble_argument_collection())
    }
    assert {*COMMANDS, *FILES} == {"demo", *with_out}


def cases():
    """Yield the commands with each kind of folder, without and with `--force`."""
    for command in COMMANDS:
        for kind in FOREIGN:
            yield command, kind, False
            # runs are replaced, of whatever kind
            if command != "demo" and not (kind == RUN and command in REPLACING_RUNS):
                yield command, kind, True


@pytest.mark.parametrize("case", [*cases()], ids=lambda case: f"{case[0]}: {case[1]}{', --force' * case[2]}")
def test_a_folder_of_something_else_is_refused_and_stays_as_it_is(case, inputs, tmp_path, capsys):
    (command, kind, force), out = case, tmp_path / "mine"
    for name, text in FOREIGN[kind].items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text)
    words = [inputs.get(word, word) for word in COMMANDS[command]]
    status = main([*command.split(), *words, "--out", str(out), *["--force"] * force])
    message = capsys.readouterr().err
    assert status == 2, message
    if "is not installed" in message:
        pytest.skip(message)
    assert str(out) in message
    assert any(text in message for text in REFUSED), message
    assert contents(out) == FOREIGN[kind]
