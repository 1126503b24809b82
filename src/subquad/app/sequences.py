"""The tab of sequences: fit models to a table of measurements, predict, and scan, design and measure variants."""

from dataclasses import replace
from typing import Any

import gradio as gr
from markupsafe import Markup

from subquad.app.forms import QUIET, BuiltForm, Form
from subquad.app.inputs import RUNS, TABLES, Source
from subquad.app.preview import preview
from subquad.app.tab import Context, Example, FieldTab
from subquad.bio.data.examples import resolve_table
from subquad.bio.data.names import file_of
from subquad.errors import SubquadError

MODEL = RUNS["bio"]
OTHER_TABLES = replace(TABLES, examples=(), is_optional=True)
MEASURED_OR_MODEL = Source(TABLES.endings, (*MODEL.examples, *TABLES.examples), MODEL.commands, MODEL.field)
EMBEDDINGS = Source((".npy", ".npz", ".h5"), is_optional=True)
GENES = Source((".fa", ".fasta", ".fna"))
FORMS = (
    ("Train", Form(
        command="bio fit", action="Train", title="Models",
        about="Fits ridge regression, gradient boosting, Lyra and their ensemble to a table of measurements, and "
        "compares them on held-out rows.",
        sources={"table": TABLES, "embeddings": EMBEDDINGS}, first=("target", "sequence", "models", "split-by"),
        columns=("target", "sequence", "mutant", "partner", "covariates", "split", "group", "weight", "error"),
    )),
    ("Predict", Form(
        command="bio predict", action="Predict", title="Predictions",
        about="Predicts sequences or variants that you type, or those of a table.",
        sources={"run": MODEL, "table": replace(OTHER_TABLES, has_text=True), "embeddings": EMBEDDINGS},
        hidden=("sequence",), file="predictions.csv",
    )),
    ("Mutants", Form(
        command="bio scan", action="Scan all single mutants", title="Single mutants",
        about="Predicts all single mutants of a sequence: heat map, sequence logo and table.",
        sources={"run": MODEL, "table": OTHER_TABLES}, first=("direction", "sequence"),
    )),
    ("Design", Form(
        command="bio design", action="Design variants", title="Designs",
        about="Searches the best variants under constraints: a diverse batch, laid out on plates.",
        sources={"run": MODEL, "table": OTHER_TABLES}, first=("direction", "number", "max-mutations"),
    )),
    ("Rounds", Form(
        command="bio rounds", action="Propose the next round", title="Round",
        about="Proposes variants to measure. From the second round on, choose the earlier rounds and the table with "
        "their measurements; the models are then fitted again.",
        sources={"source": MODEL, "measured": replace(OTHER_TABLES, is_several=True), "table": OTHER_TABLES},
        first=("measured", "propose", "direction"), continues=True,
    )),
    ("Epistasis", Form(
        command="bio epistasis", action="Estimate epistasis", title="Epistasis",
        about="Finds pairs of positions whose effects do not add up.",
        sources={"source": MEASURED_OR_MODEL, "table": OTHER_TABLES},
    )),
    ("Guides", Form(
        command="bio guides", action="List guides", title="Guides",
        about="Lists all CRISPR guides of the genes of a FASTA file, scored by a model if one is chosen.",
        sources={"genes": GENES, "model": replace(MODEL, examples=(), is_optional=True)},
        file="guides.csv", words=("--page=out/guides.html",),
    )),
)  # fmt: skip
EXAMPLE = Example(
    "Example: all single mutants of TDP-43", "Single mutants of example:tdp43-model",
    ("bio", "scan", "example:tdp43-model", "--direction=minimize"),
)  # fmt: skip


def build_sequences(context: Context) -> FieldTab:
    """Build the tab."""
    tab = FieldTab.build(
        context, "bio", forms=FORMS, example=EXAMPLE,
        lead="Fit models of proteins, DNA or RNA to measurements; predict, map and design variants.",
        steps=("Upload a table with sequences or variants and measurements.",
               "Train models, and see which one predicts held-out rows best.", "Predict, scan and design with them."),
    )  # fmt: skip
    _follow_table(context, tab.forms["bio fit"])
    return tab


def _follow_table(context: Context, built: BuiltForm) -> None:
    """Show the first rows of the chosen table, and let its columns be chosen by their names."""
    fields = [built.fields[name] for name in built.form.columns if name in built.fields]
    shown = built.notes["table"]

    def described(value: str | None) -> tuple[list[str], str]:
        if not value:
            return [], ""
        try:
            table = context.inputs.checked(TABLES, [value])[0]
            return preview(table, file_of(resolve_table(table)).stat().st_mtime)
        except (SubquadError, OSError) as error:
            return [], str(Markup('<p class="sq-hint">{}</p>').format(error))

    def on_table(value: str | None) -> Any:
        names, html = described(value)
        return [html, *(gr.update(choices=names, value=[] if entry.multiselect else None) for entry in fields)]

    names, shown.value = described(built.fields["table"].value)
    for entry in fields:
        entry.choices = [(name, name) for name in names]
    built.fields["table"].change(on_table, [built.fields["table"]], [shown, *fields], **QUIET)
