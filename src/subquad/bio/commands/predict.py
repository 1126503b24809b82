"""`predict`: a table with the predictions of a fitted model in additional columns."""

from pathlib import Path

import pandas as pd

from subquad.bio.compared_models import ENSEMBLE
from subquad.bio.data.examples import resolve_table
from subquad.bio.data.files import naming
from subquad.bio.data.names import TABLES, file_of, separator_of
from subquad.bio.data.table import read_like
from subquad.bio.models.fitted import BioModel
from subquad.bio.models.predictions import add_predictions
from subquad.errors import SubquadError
from subquad.progress import say
from subquad.runs.storage import atomic, check_output

__all__ = ["predict"]


def predict(
    run: Path | str,
    table: Path | str,
    *,
    out: Path | str,
    model: str | None = None,
    sequence: str | None = None,
    embeddings: Path | str | None = None,
    force: bool = False,
    quiet: bool = False,
) -> pd.DataFrame:
    """Write the table with a model's predictions in additional columns, and return it.

    A regression adds `prediction`; several targets or labels add `prediction_NAME` each. Two classes add `prediction`,
    the probability of the second one, and `prediction_class`; more classes add `prediction`, the most likely class, and
    `probability_CLASS` for each. Residues add `prediction`, a JSON list (for classes: a string or a list of names), and
    base pairs a dot-bracket string. `prediction_std` is the standard deviation over the members of the model,
    and `prediction_low` and `prediction_high` are the 90 % interval (of several targets, `prediction_low_NAME` …),
    which is empty if the fit had too few validation rows.

    Args:
        run: Folder that `fit` or an estimator's `save` wrote.
        table: Table with sequences, or with variants if the run has a wild type.
        out: Output file; its suffix `.tsv` and `.gz` set the format.
        model: `ensemble`, or one of the models of the run, such as `lyra` or `ridge`. Default: the ensemble,
            or of a run without one the last model of the report's table.
        sequence: Column with the sequences, or with variants of the run's wild type. Default: the one of the fit,
            otherwise inferred.
        embeddings: File with the embeddings of the table, if the model was trained with some.
        force: Overwrite the output file.
        quiet: Print no remarks.

    Raises:
        SubquadError: The model or the table cannot be read, or the output exists; nothing has been written then.
    """
    out, fitted, path = check_output(out, suffixes=TABLES, force=force), BioModel.load(run), resolve_table(table)
    if out.exists() and out.samefile(file_of(path)):
        raise SubquadError(f"{out}: is the table itself; choose another name")
    if model is None and ENSEMBLE not in fitted.models and len(fitted.models) > 1:
        say(f"the run has no ensemble: {fitted.default} predicts; --model names another model", quiet=quiet)
    model = model or fitted.default
    fitted.check_model(model)
    read = read_like(path, fitted.schema, sequence=sequence, embeddings=embeddings)
    taken = [name for name in read.frame.columns if str(name).startswith(("prediction", "probability_"))]
    if taken:
        raise SubquadError(f"{path}: already has a column {taken[0]!r}; rename it, so that it is not overwritten")
    for remark in [*read.remarks, *fitted.warn_unobserved(read.inputs)]:
        say(remark, quiet=quiet)
    with naming(path):
        frame = add_predictions(read, fitted, model)
    if any(str(name).startswith("prediction_low") and frame[name].isna().all() for name in frame):
        say("no 90 % intervals: they need nine validation rows, and the fit had fewer", quiet=quiet)
    # pandas takes the compression from the name, which the temporary file shares
    with atomic(out) as temporary:
        # the temporary name has no suffix
        compression = "gzip" if out.suffix == ".gz" else None
        frame.to_csv(temporary, index=False, sep=separator_of(out), compression=compression)
    return frame
