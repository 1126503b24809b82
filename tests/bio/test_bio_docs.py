"""docs/bio.md: its commands and its Python run in order, in one folder, on the published files that it names."""

import json
import os
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest

from subquad.cli import main

DATA = os.environ.get("SUBQUAD_DATA")
PAGE = Path(__file__).parents[2] / "docs" / "bio.md"
STEPS = re.findall(r"^```(sh|python|json)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
SHORT = {
    "fit": "--epochs 0.3 --boosting-iterations 5 --train-rows 211 --ensemble-size 1",
    "cross-validate": "--epochs 0.3 --boosting-iterations 5 --train-rows 53 --ensemble-size 1",
    "bench": "--tokens 20000 --boosting-iterations 5 --rows 50 --jobs 1",
    "design": "--rounds 3 --population 50",
}
"""Budgets that a test can afford, for the commands whose cost depends on one."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.data,
    pytest.mark.skipif(not DATA, reason="SUBQUAD_DATA is not set: the files that docs/bio.md uses are not here"),
]


def lay_out(folder):
    """Put the files that the page says its reader has into a folder."""
    bio = Path(DATA) / "bio"
    for path in [*(bio / "raw").glob("*.gz"), bio / "raw" / "adapt_published_predictions" / "classify__test.tsv.gz"]:
        (folder / path.name).symlink_to(path)
    tasks = {task["id"]: task for task in json.loads((bio / "tasks.json").read_text())}
    for name, task in {"disorder": "idr/disorder", "caid2": "idr/caid2_disorder_pdb"}.items():
        frame = pd.read_csv(bio / tasks[task]["file"], dtype=str)
        frame[frame["sequence"].str.len() < 211].groupby("split").head(53).to_csv(
            folder / f"{name}.csv.gz", index=False
        )
    (folder / "tem1.fasta").write_text(f">TEM-1\n{tasks['dms/metl_tem-1']['wild_type']}\n")
    guides = pd.read_csv(bio / "raw" / "azimuth_FC_plus_RES_withPredictions.csv.gz")
    genes = [f">{gene}\n{''.join(own['30mer'].unique()[:31])}\n" for gene, own in guides.groupby("Target gene")]
    (folder / "genes.fa").write_text("".join(genes[:3]))
    splice = pd.read_csv(bio / tasks["rna/mpsa_5ss_brca2"]["file"])
    splice[["sequence", "target"]].rename(columns={"target": "psi"}).to_csv(folder / "mpsa.csv", index=False)


def short_python(code):
    """Give the same calls with a budget that a test can afford."""
    code = code.replace("FitSettings(", "FitSettings(epochs=0.3, boosting_iterations=5, train_rows=211, ensemble_size=1, ")
    return re.sub(r"(Lyra\w+)\(", r"\1(epochs=0.3, ", code)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Return the folder after all steps, and the exit status of each command."""
    folder, status, names = tmp_path_factory.mktemp("docs"), {}, {}
    lay_out(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for language, text in STEPS:
            if language == "json":
                (folder / "tasks.json").write_text(text)
            elif language == "python":
                exec(compile(short_python(text), str(PAGE), "exec"), names)
            else:
                for line in text.splitlines():
                    name, *words = shlex.split(line)
                    assert name == "subquad", f"{PAGE}: {line!r} is no command of subquad"
                    status[line] = main([*words, *SHORT.get(words[1], "").split()])
    return folder, status


def test_every_command_of_the_page_ends_well(ran):
    _, status = ran
    assert status
    assert {line: code for line, code in status.items() if code} == {}


def test_the_page_shows_every_command(ran):
    _, status = ran
    shown = {line.split()[2] for line in status}
    own = {"fit", "predict", "report", "scan", "epistasis", "design", "guides", "cross-validate", "bench"}
    assert shown == own


@pytest.mark.parametrize(
    "name",
    [
        *(f"syua/{name}" for name in ("report.html", "metrics.json", "test.csv", "model.safetensors", "config.json")),
        *(f"{run}/report.html" for run in ("tem1", "cas13", "syua_scores", "disorder", "guide_model", "genes", "rrm")),
        *(f"scan/{name}" for name in ("scan.csv", "scan.html")),
        *(f"pairs/{name}" for name in ("pairs.csv", "cycles.csv.gz", "epistasis.html")),
        "pairs_of_net/epistasis.html",
        "orders/orders.csv",
        *(f"designs/{name}" for name in ("designs.csv", "designs.fasta", "plates.csv", "design.html")),
        "guides.html",
        *(f"bench/results.{ending}" for ending in ("html", "json", "csv", "md")),
        "bench_disorder/results.html",
        "syua_positions/metrics.json",
    ],
)
def test_the_page_promises_files_that_are_written(ran, name):
    folder, _ = ran
    assert (folder / name).stat().st_size > 0


def test_the_tables_hold_what_the_page_says(ran):
    folder, _ = ran
    scored = pd.read_csv(folder / "scored.csv")
    assert len(scored) == 2497
    assert {"DMS_score", "prediction", "prediction_low", "prediction_high"} <= set(scored.columns)
    assert {"i", "j", "rms", "max", "mean", "cycles"} <= set(pd.read_csv(folder / "pairs" / "pairs.csv").columns)
    designs = pd.read_csv(folder / "designs" / "designs.csv")
    assert len(designs) == 44
    assert designs["mutations"].max() <= 3
    positions = designs["mutants"].str.findall(r"\d+").explode().astype(int)
    assert positions.min() > 10
    guides = pd.read_csv(folder / "guides.csv")
    assert guides["gene"].nunique() == 3
    assert set(guides["strand"]) == {"+", "-"}
    assert guides["score"].notna().any()
