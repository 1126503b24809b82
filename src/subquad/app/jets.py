"""The tab of jets: fit a tagger, tag jets with it, compare and explain taggers, and simulate jets."""

from dataclasses import replace

from subquad.app.forms import Form
from subquad.app.inputs import JETS, RUNS, Source
from subquad.app.tab import Context, Example, FieldTab

TAGGER = RUNS["hep"]
CARD = Source((".yaml", ".yml"), is_optional=True)
FORMS = (
    ("Train", Form(
        command="hep fit", action="Train a tagger", title="Tagger",
        about="Fits a tagger on labelled jets and compares it with gradient boosting on held-out jets.",
        sources={
            "files": JETS, "test": replace(JETS, examples=(), is_optional=True), "card": CARD,
            "from": replace(TAGGER, is_optional=True),
        },
        first=("preset", "epochs"),
    )),
    ("Tag jets", Form(
        command="hep predict", action="Tag jets", title="Scores",
        about="Writes a ROOT file with the scores of each jet, in the order of the input.",
        sources={"run": TAGGER, "files": JETS}, file="scores.root",
    )),
    ("Compare", Form(
        command="hep evaluate", action="Compare taggers", title="Comparison",
        about="Compares taggers on the same jets: metrics with intervals, ROC curves, dependence on pT, calibration.",
        sources={"runs": replace(TAGGER, is_several=True), "files": replace(JETS, is_optional=True)},
        hidden=("scores",),
    )),
    ("Explain", Form(
        command="hep explain", action="Explain a tagger", title="Explanation",
        about="Shows what the scores depend on: attributions, permutation importance, and displays of single jets.",
        sources={"run": TAGGER, "files": JETS},
    )),
    ("Simulate", Form(
        command="hep simulate", action="Simulate jets", title="Simulated jets",
        about="Simulates labelled jets with Pythia 8; they can then be chosen as files.",
        sources={}, first=("jets-per-class", "classes"),
    )),
)  # fmt: skip
EXAMPLE = Example(
    "Example: report of a tagger of JetClass's ten classes", "Report of example:tagger",
    ("hep", "report", "example:tagger"), "report.html",
)  # fmt: skip


def build_jets(context: Context) -> FieldTab:
    """Build the tab."""
    return FieldTab.build(
        context, "hep", forms=FORMS, example=EXAMPLE,
        lead="Tag jets with a network on the graph of their particles, beside gradient boosting.",
        steps=("Upload ROOT, HDF5, Parquet or NumPy files of labelled jets, or simulate some.",
               "Train a tagger, and compare it with gradient boosting.",
               "Tag jets, compare taggers, and see what their scores depend on."),
    )  # fmt: skip
