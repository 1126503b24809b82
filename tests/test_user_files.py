"""No command deletes or changes a file that it did not write, whatever its name, when it is refused."""

import json
import shutil

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.bio_tables import table as write_table
from support.hep_jets import columns, write

from subquad.cli import main
from subquad.runs.examples import run_folder

FOLDERS = {
    "bio fit": ["example:tdp43"],
    "bio cross-validate": ["example:tdp43"],
    "bio bench": ["tasks.json"],
    "bio scan": ["example:tdp43-model"],
    "bio epistasis": ["example:tdp43-model"],
    "bio design": ["example:tdp43-model", "--direction", "minimize"],
    "bio rounds": ["example:tdp43-model", "--propose", "3", "--direction", "minimize"],
    "llm linearize": ["example:linear-smollm2"],
    "llm merge": ["example:linear-smollm2"],
    "llm evaluate": ["example:linear-smollm2", "--text", "tasks.json"],
    "hep fit": ["example:jets"],
    "hep evaluate": ["example:tagger", "example:jets"],
    "hep explain": ["example:tagger", "example:jets"],
    "hep simulate": [],
    "demo": [],
}
FILES = {
    "bio predict": ["example:tdp43-model", "example:tdp43"],
    "bio embed": ["example:tdp43", "--model", "."],
    "bio guides": ["example:tdp43-model", "tasks.json"],
    "bio report": ["example:tdp43-model"],
    "llm report": ["example:linear-smollm2"],
    "hep predict": ["example:tagger", "example:jets"],
    "hep report": ["example:tagger"],
    "hep export": ["example:tagger"],
}
SUFFIXES = {"bio predict": ".csv", "bio embed": ".safetensors", "bio guides": ".csv", "hep predict": ".root",
            "hep export": ".onnx"}  # fmt: skip
OURS = ("jets/t.csv", "checkpoint-lyra.safetensors", "feature_maps-0.safetensors", "blockwise.json", "states-0.bin",
        "config.json", "metrics.json", "history.jsonl", "fold-0/t.csv", "runs/a.job.json", "rows/a.json", ".lock",
        ".tmpAb3x", ".out.1.new", "out.partial/t.csv", "round-1/batch.csv", "results.json")  # fmt: skip
"""Names that subquad's own files have, or had."""
NAMES = st.sets(
    st.sampled_from(OURS) | st.text("abcXYZ012 .-_~", min_size=1, max_size=9).filter(lambda name: name.strip(". ")),
    min_size=1,
    max_size=6,
)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def fill(folder, names):
    for name in names:
        path = folder / "kept" / name if name.partition("/")[0] in {"kept", *names} - {name} else folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"a user's {name}")


def refused(words, folder, capsys):
    before = contents(folder)
    assert main([str(word) for word in words]) == 2, capsys.readouterr()
    assert contents(folder) == before


def test_every_command_that_writes_is_tried():
    from subquad.cli import FIELDS, app

    writing = {
        f"{field} {name}"
        for field in FIELDS
        for name in app[field]
        if not name.startswith("-")
        and any(argument.name == "--out" for argument in app[field][name].assemble_argument_collection())
    }
    assert writing | {"demo"} == FOLDERS.keys() | FILES.keys()


@pytest.mark.slow
@pytest.mark.parametrize("command", FOLDERS)
def test_a_folder_with_other_files_is_refused_and_stays_as_it_is(command, tmp_path_factory, monkeypatch, capsys):
    @settings(max_examples=2)
    @given(NAMES)
    @example({name for name in OURS if name not in ("config.json", "metrics.json")})
    def check(names):
        folder = tmp_path_factory.mktemp("user")
        monkeypatch.chdir(folder)
        (folder / "tasks.json").write_text(json.dumps([]))
        fill(folder / "out", names)
        refused([*command.split(), *FOLDERS[command], "--out", "out"], folder, capsys)

    check()


@pytest.mark.slow
@pytest.mark.parametrize("command", FILES)
def test_a_file_that_exists_is_refused_and_what_lies_beside_it_stays(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks.json").write_text("[]")
    name = f"out{SUFFIXES.get(command, '.html')}"
    fill(tmp_path, [*OURS, name])
    refused([*command.split(), *FILES[command], "--out", name], tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("is_finished", [True, False])
@pytest.mark.parametrize("command", ["bio fit", "bio cross-validate", "hep fit"])
def test_an_input_in_the_folder_of_a_run_survives_a_refusal(command, is_finished, tmp_path, monkeypatch, capsys):
    field, name = command.split()
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run_folder("example:tagger" if field == "hep" else "example:tdp43-model"), tmp_path / "run")
    fill(tmp_path / "run", [name for name in OURS if name not in ("config.json", "metrics.json", "history.jsonl")])
    if not is_finished:
        (tmp_path / "run" / "metrics.json").unlink()
    if field == "hep":
        table = write(tmp_path / "run" / "jets" / "t.root", columns("Hbb", jets=47))
    else:
        table = tmp_path / "run" / "jets" / "t.csv"
        write_table(table, rows=149)
    refused([field, name, table, "--out", "run"], tmp_path, capsys)
