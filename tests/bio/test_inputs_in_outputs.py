"""`--force` clears the folder of a run; a command that reads a file in it is refused before anything is deleted."""

import json
from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
from support.bio_bench import write_tasks
from support.bio_tables import settings, table

from subquad.bio.analysis.settings import EpistasisSettings, ScanSettings
from subquad.bio.benchmark.settings import BenchSettings
from subquad.bio.commands.bench import bench
from subquad.bio.commands.cross_validate import cross_validate
from subquad.bio.commands.design import design
from subquad.bio.commands.embed import embed
from subquad.bio.commands.epistasis import epistasis
from subquad.bio.commands.fit import fit
from subquad.bio.commands.scan import scan
from subquad.bio.design_search.settings import DesignSettings
from subquad.bio.language_models.settings import EmbedSettings
from subquad.errors import SubquadError
from subquad.runs.folder import open_run
from subquad.runs.storage import write_json


@pytest.fixture
def out(tmp_path):
    """Return the folder of a finished run in which somebody has put files."""
    run = open_run(tmp_path / "out", kind="bio", settings={})
    run.finish(config={}, tensors=None, metrics={})
    table(tmp_path / "t.csv")
    np.save(run.directory / "mine.npy", np.ones((211, 3), dtype=np.float32))
    (run.directory / "wild.fasta").write_text(">wild\nACDEFGH\n")
    return run.directory


def refused(out, command, *arguments, **options):
    """Return whether a command with `--force` is refused and deletes nothing."""
    before = sorted(path for path in out.rglob("*") if not path.name.startswith("."))
    with pytest.raises(SubquadError, match=r"lies in the output .*, which would be overwritten"):
        command(*arguments, out=out, force=True, quiet=True, **options)
    return before == sorted(path for path in out.rglob("*") if not path.name.startswith("."))


@pytest.mark.parametrize("command", [fit, cross_validate])
def test_files_of_a_fit_that_lie_in_its_output_are_kept(command, out, tmp_path):
    given = tmp_path / "t.csv"
    assert refused(out, command, given, settings(embeddings=str(out / "mine.npy")))
    assert refused(out, command, given, settings(wild_type=str(out / "wild.fasta")))
    # the link would be deleted, though not the file
    (out / "linked").symlink_to(tmp_path)
    np.save(tmp_path / "mine.npy", np.ones((211, 3), dtype=np.float32))
    assert refused(out, command, given, settings(embeddings=str(out / "linked" / "mine.npy")))


def test_letters_and_paths_through_the_output_are_no_files_in_it(out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out.joinpath("ACDEFGH").write_text("")
    with pytest.raises(SubquadError, match=r"mine.npy: no such file"):
        fit("t.csv", settings(embeddings="out/../mine.npy", wild_type="ACDEFGH"), out="out", force=True, quiet=True)


@pytest.mark.parametrize(
    ("command", "kind", "chosen"),
    [
        (scan, "bio scan", ScanSettings),
        (design, "bio design", DesignSettings),
        (epistasis, "bio epistasis", EpistasisSettings),
    ],
)
def test_files_of_an_analysis_that_lie_in_its_output_are_kept(command, kind, chosen, out, tmp_path):
    report = tmp_path / "report"
    write_json(report / f"{kind.split()[1]}.json", {"subquad": {"kind": kind}})
    out.rename(report / "run")
    assert refused(report, command, report / "run")
    (report / "given.csv").write_text("sequence\nACDEFGH\n")
    for flag in {"sequence", "start", "partner", "wild_type", "table"} & {field.name for field in fields(chosen)}:
        # of a table, the name of its column
        if (command, flag) != (epistasis, "sequence"):
            own = chosen(**{flag: str(report / "given.csv")})
            assert refused(report, command, tmp_path, own)


def test_the_table_of_an_epistasis_analysis_that_lies_in_its_output_is_kept(tmp_path):
    report = tmp_path / "report"
    write_json(report / "epistasis.json", {"subquad": {"kind": "bio epistasis"}})
    table(report / "t.csv")
    assert refused(report, epistasis, report / "t.csv")


def test_tables_of_a_benchmark_that_lie_in_its_runs_are_kept(tmp_path):
    folder = tmp_path / "out" / "runs" / "one" / "0"
    folder.mkdir(parents=True)
    write_json(tmp_path / "out" / "bench.json", {"benchmark": "subquad bio bench"})
    tasks = write_tasks(folder, {"one": "ACGT"})
    assert refused(tmp_path / "out", bench, tasks)
    entries = json.loads(tasks.read_text())
    outside = tmp_path / "tasks.json"
    outside.write_text(json.dumps([{**one, "file": str(folder / one["file"])} for one in entries]))
    with pytest.raises(SubquadError, match=r"lies in the output .*runs, which would be overwritten"):
        bench(outside, BenchSettings(), out=tmp_path / "out", force=True, quiet=True)
    assert (folder / entries[0]["file"]).is_file()


def test_files_that_an_embedding_reads_are_kept(tmp_path):
    partial, model = tmp_path / ".subquad-e.safetensors.partial", tmp_path / "model"
    for folder in (partial, model):
        folder.mkdir()
    pd.DataFrame({"sequence": ["ACD"]}).to_csv(partial / "t.csv", index=False)
    chosen = EmbedSettings(model=str(model))
    with pytest.raises(SubquadError, match=r"t.csv lies in the output .*partial, which would be overwritten"):
        embed(partial / "t.csv", chosen, out=tmp_path / "e.safetensors", force=True, quiet=True)
    (model / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(SubquadError, match=r"model.safetensors: lies in the folder of the model"):
        embed(partial / "t.csv", chosen, out=model / "model.safetensors", force=True, quiet=True)
    assert (model / "model.safetensors").read_bytes() == b"weights"
