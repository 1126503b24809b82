"""README, the tutorial and the guides to sequences: their commands and their Python run in order, in one folder.

They need shipped and simulated tables only. A command that several pages show is run once, and the Python of a page
needs no names of other pages. README has a folder of its own, since its first fit has the name of the tutorial's.

Of the shipped table the single mutants and every twelfth double mutant are taken; test_tdp43.py reads all of it.
"""

import hashlib
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest

from subquad.bio.data.examples import EXAMPLES, resolve_table
from subquad.cli import main

DOCS = Path(__file__).parents[2] / "docs"
PAGES = (
    *("../README", "tutorial-sequences", "bio-report", "bio-table", "bio-guides", "bio-split", "bio-partner"),
    *("bio-residues", "bio-embeddings", "bio-scan", "bio-design", "bio-models", "bio-bench", "bio-python"),
)
"""In this order, each page finds the tables and runs of others that it names."""
STEPS = [
    (page, *step)
    for page in PAGES
    for step in re.findall(
        r"^```(sh|python|json)\n(.*?)^```",
        (DOCS / f"{page}.md").read_text(encoding="utf-8"),
        flags=re.DOTALL | re.MULTILINE,
    )
]
FIT = "--epochs 0.3 --boosting-iterations 5 --train-rows 200 --ensemble-size 1"
BUDGETS = {
    "fit": FIT,
    "cross-validate": FIT.replace("200", "53"),
    "bench": "--models ridge boosting lyra lyra-paper --tokens 20000 --boosting-iterations 5 --train-rows 50 --jobs 1",
    "design": "--generations 3 --population 50",
    "rounds": "--generations 2 --population 50",
}
"""Flags that a test adds to commands whose cost depends on them."""
SINGLES = 1_266
"""Rows of the shipped table that are single mutants; they come first."""

# one fit after the other, in the fixture that the tests share
pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


def commands(text):
    """Return the commands of a shell block, which in README has also those of other fields."""
    return [line.split("  #")[0] for line in text.splitlines() if line.startswith("subquad bio ")]


def arguments(line):
    """Return the words of a command behind `subquad`, with the flags of `BUDGETS` in place of its own."""
    name, *words = shlex.split(line)
    assert name == "subquad", f"{line!r} is not a command of subquad"
    if words[1] == "fit":
        words = shlex.split(re.sub(r" --(train-rows|tokens|boosting-iterations) \d+", "", line))[1:]
    return [*words, *BUDGETS.get(words[1], "").split()]


def with_small_budget(code):
    code = code.replace(
        "FitSettings(", "FitSettings(epochs=0.3, boosting_iterations=5, train_rows=200, ensemble_size=1, "
    )
    return re.sub(r"(Lyra\w+)\(", r"\1(epochs=0.3, ", code)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Return the folder after all steps, and the exit status of each command."""
    folder, status, names = tmp_path_factory.mktemp("docs"), {}, {page: {} for page in PAGES}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shipped = pd.read_csv(resolve_table("example:tdp43"))
        part = shipped[(shipped.index < SINGLES) | (shipped.index % 12 == 0)]
        part.to_csv("part.csv", index=False)
        Path("readme").mkdir()
        part.sample(300, random_state=0).rename(columns={"toxicity": "score"}).to_csv("readme/assay.csv", index=False)
        digest = hashlib.sha256(Path("part.csv").read_bytes()).hexdigest()
        patch.setitem(EXAMPLES, "tdp43", (str(folder / "part.csv"), digest))
        for page, language, text in STEPS:
            patch.chdir(folder / "readme" if page == "../README" else folder)
            if language == "json":
                (folder / "tasks.json").write_text(text)
            elif language == "python":
                exec(compile(with_small_budget(text), f"{page}.md", "exec"), names[page])
            else:
                for line in commands(text):
                    if line not in status:
                        status[line] = main(arguments(line))
    return folder, status


def test_every_command_of_the_pages_succeeds(ran):
    _, status = ran
    assert {line: code for line, code in status.items() if code} == {}


def test_the_pages_show_every_command():
    lines = [line for _, language, text in STEPS if language == "sh" for line in commands(text)]
    shown = {line.split()[2] for line in lines}
    assert shown == {
        "fit", "predict", "report", "scan", "epistasis", "design", "rounds", "guides", "cross-validate", "bench",
        "embed",
    }  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        *(f"run/{name}" for name in ("report.html", "metrics.json", "test.csv", "model.safetensors", "config.json")),
        *(f"run/{name}" for name in ("bootstrap.json", "ridge.safetensors", "boosting.safetensors", "README.md")),
        *(f"{run}/report.html" for run in ("variants", "pairs", "with_covariates", "disorder", "guide_model", "genes")),
        "compared/report.html",
        "comparison.html",
        *(f"with_embeddings{name}" for name in ("/report.html", "/embedding-ridge.safetensors", ".csv")),
        "variants.safetensors",
        "disorder_with_embeddings/report.html",
        "report.html",
        *(f"scan/{name}" for name in ("scan.csv", "scan.html", "heatmap.pdf")),
        *(f"epistasis/{name}" for name in ("pairs.csv", "cycles.csv.gz", "epistasis.html")),
        "epistasis_of_model/epistasis.html",
        "readme/designs/designs.csv",
        *(f"designs/{name}" for name in ("designs.csv", "designs.fasta", "plates.csv", "design.html")),
        *(f"rounds/round-1/{name}" for name in ("batch.csv", "batch.fasta", "plates.csv", "batch.html")),
        *(f"rounds/round-2/{name}" for name in ("table.csv", "measured.csv", "run/report.html", "batch.csv")),
        *(f"rounds/rounds.{ending}" for ending in ("html", "json")),
        "guides.html",
        *(f"bench/results.{ending}" for ending in ("html", "json", "csv", "md")),
        "guides_again/metrics.json",
    ],
)
def test_the_files_that_the_pages_name_are_written(ran, name):
    folder, _ = ran
    assert (folder / name).stat().st_size > 0


def test_the_tables_have_the_content_that_the_pages_describe(ran):
    folder, _ = ran
    predictions = pd.read_csv(folder / "predictions.csv")
    assert len(predictions) == len(pd.read_csv(folder / "part.csv"))
    assert {"toxicity", "prediction", "prediction_low", "prediction_high"} <= set(predictions.columns)
    pairs = pd.read_csv(folder / "epistasis" / "pairs.csv")
    assert {"i", "j", "rms", "max", "mean", "double_mutants"} <= set(pairs.columns)
    designs = pd.read_csv(folder / "designs" / "designs.csv")
    assert len(designs) == 44
    assert designs["mutations"].max() <= 3
    positions = designs["mutants"].str.findall(r"\d+").explode().astype(int)
    assert positions.min() > 10
    guides = pd.read_csv(folder / "guide_list.csv")
    assert guides["gene"].nunique() == 2
    assert set(guides["strand"]) == {"+", "-"}
    assert guides["score"].notna().any()
