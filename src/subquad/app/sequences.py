"""The tab of sequences: fit models to a table of measurements, predict, and scan, design and measure variants."""

from dataclasses import replace
from typing import Any

import gradio as gr
import pandas as pd

from subquad.app.forms import QUIET, BuiltForm, Form
from subquad.app.inputs import RUNS, TABLES, Source
from subquad.app.tab import Context, Example, FieldTab
from subquad.bio.data.examples import resolve_table
from subquad.errors import SubquadError, reading

__all__ = ["build_sequences"]

MODEL = RUNS["bio"]
OTHER_TABLES = replace(TABLES, examples=(), is_optional=True)
MEASURED_OR_MODEL = Source(TABLES.endings, (*MODEL.examples, *TABLES.examples), MODEL.commands, MODEL.field)
GENES = Source((".fa", ".fasta", ".fna"))
FORMS = (
    ("Train", Form(
        command="bio fit", action="Train", title="Models",
        about="Fits ridge regression, gradient boosting, Lyra and their ensemble to a table of measurements, and "
        "compares them on held-out rows.",
        sources={"table": TABLES}, first=("target", "sequence", "models", "tokens"),
        columns=("target", "sequence", "mutant", "partner", "covariates", "split", "group", "weight", "error"),
    )),
    ("Predict", Form(
        command="bio predict", action="Predict", title="Predictions",
        about="Predicts sequences or variants that you type, or those of a table.",
        sources={"run": MODEL, "table": replace(OTHER_TABLES, has_text=True)}, first=("model",),
        hidden=("sequence", "embeddings"), file="predictions.csv",
    )),
    ("Mutants", Form(
        command="bio scan", action="Scan all single mutants", title="Single mutants",
        about="Predicts all single mutants of a sequence: heat map, sequence logo and table.",
        sources={"run": MODEL}, first=("direction", "sequence"),
    )),
    ("Design", Form(
        command="bio design", action="Design variants", title="Designs",
        about="Searches the best variants under constraints: a diverse batch, laid out on plates.",
        sources={"run": MODEL}, first=("direction", "number", "max-mutations"),
    )),
    ("Rounds", Form(
        command="bio rounds", action="Propose the next round", title="Round",
        about="Proposes variants to measure. From the second round on, choose the earlier rounds and the table with "
        "their measurements; the models are then fitted again.",
        sources={"source": MODEL, "measured": replace(OTHER_TABLES, is_several=True)},
        first=("measured", "propose", "direction"), continues=True,
    )),
    ("Epistasis", Form(
        command="bio epistasis", action="Estimate epistasis", title="Epistasis",
        about="Finds pairs of positions whose effects do not add up.",
        sources={"source": MEASURED_OR_MODEL},
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
    ("bio", "scan", "example:tdp43-model"),
)  # fmt: skip
PREVIEW_ROWS = 4


def build_sequences(context: Context) -> FieldTab:
    """Build the tab."""
    tab = FieldTab.build(
        context, "bio", forms=FORMS, example=EXAMPLE,
        lead="Fit models of proteins, DNA or RNA to measurements; predict, map and design variants.",
    )  # fmt: skip
    _offer_columns(context, tab.forms["bio fit"])
    return tab


def _offer_columns(context: Context, built: BuiltForm) -> None:
    """Let the columns of the chosen table be chosen by their names."""
    fields = [built.fields[name] for name in built.form.columns if name in built.fields]
    if (table := built.fields["table"].value) is not None:
        for entry in fields:
            entry.choices = [(name, name) for name in _columns(table)]

    def on_table(value: str | None) -> Any:
        names: list[str] = []
        if value:
            try:
                names = _columns(context.inputs.checked(TABLES, [value])[0])
            except SubquadError as error:
                gr.Warning(str(error))
        return [gr.update(choices=names, value=[] if entry.multiselect else None) for entry in fields]

    built.fields["table"].change(on_table, [built.fields["table"]], fields, **QUIET)


def _columns(table: str) -> list[str]:
    """Return the names of the columns of a table; none of a FASTA file.

    Raises:
        SubquadError: It cannot be read.
    """
    path = resolve_table(table)
    ending = path.name.lower().removesuffix(".gz")
    with reading(table, "a table"):
        if ending.endswith((".csv", ".tsv")):
            return [*map(str, pd.read_csv(path, sep=None, engine="python", nrows=PREVIEW_ROWS))]
        if ending.endswith(".xlsx"):
            return [*map(str, pd.read_excel(path, nrows=PREVIEW_ROWS))]
        return [*map(str, pd.read_parquet(path))] if ending.endswith(".parquet") else []
