"""What the page shows of the jobs on sequences: progress of a fit, its result, maps, designs and batches."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from markupsafe import Markup

from subquad.app.charts import DRAWING, HeatMap, Line, heat_map, line_chart
from subquad.app.files import file_url, zip_url
from subquad.app.jobs import Job
from subquad.app.markup import blocks, columns, join, links, notice, picture, remarks, table
from subquad.app.sequence_data import in_page_words
from subquad.errors import counted
from subquad.reporting.page import Table, show
from subquad.runs.folder import METRICS, REPORT
from subquad.runs.history import HISTORY, read_history
from subquad.runs.storage import read_json

__all__ = [
    "design_result", "epistasis_result", "fit_progress", "fit_result", "predict_result", "predict_sequences",
    "rounds_result", "scan_result",
]  # fmt: skip

MOST_SHOWN = 20
BLOCK, WIDEST = 120, 60
"""Positions of one heat map, and of one of its rows; longer sequences get several maps."""
MOST_BLOCKS = 6


def fit_progress(job: Job) -> str:
    """Return the models that are fitted and the curves of those that are trained."""
    from subquad.bio.compared_models import COMPARED_MODELS, label_of
    from subquad.bio.metrics.scores import title
    from subquad.bio.models.fit import VALIDATION

    path = job.out / VALIDATION
    fitted = read_json(path) if path.is_file() else {}
    rows = [[label_of(name), own["validation"], own["cpu_seconds"]] for name, own in fitted.items()]
    caption = "Fitted so far. The test rows are looked at once, after all models are fitted."
    history = read_history(job.out) if (job.out / HISTORY).is_file() else []
    parts = list(dict.fromkeys(entry["part"] for entry in history))
    order = list(COMPARED_MODELS)

    def lines(key: str) -> list[Line]:
        found = []
        for part in parts:
            own = [entry for entry in history if entry["part"] == part and key in entry]
            base, _, member = part.partition(" ")
            if own:
                name = f"{label_of(base)}{f' {member}' if member else ''}" if base in order else part
                number = list(dict.fromkeys(p.split(" ")[0] for p in parts)).index(base)
                x, y = [entry["seconds"] for entry in own], [entry[key] for entry in own]
                found.append(Line(name=name, x=x, y=y, number=number, is_thin=bool(member)))
        return found

    main = next((key for entry in history for key in entry if key.startswith("validation_")), "")
    metric = title(main.removeprefix("validation_"))
    seconds = "seconds of training"
    return join(
        table(Table(["model", "validation metric", "CPU seconds"], rows, caption=caption)) if rows else None,
        columns(
            line_chart(lines(main), x=seconds, y=f"validation {metric}", title="Validation rows") if main else None,
            line_chart(lines("loss"), x=seconds, y="loss", title="Training loss", is_log_y=True),
        )
        if history
        else None,
    )


def fit_result(job: Job) -> str:
    """Return the result of a fit as its report begins, and its files."""
    from subquad.bio.plots.fit_page import sections

    with DRAWING:
        first = sections(job.out)[0]
    return join(
        blocks(first.blocks),
        links({
            "Open the report": file_url(job, job.out / REPORT),
            "Model folder (zip)": zip_url(job),
            "Test rows (CSV)": file_url(job, job.out / "test.csv", download=True),
            "Model card": file_url(job, job.out / "README.md", download=True),
            "Metrics (JSON)": file_url(job, job.out / METRICS, download=True),
        }),
    )  # fmt: skip


def scan_result(job: Job) -> str:
    """Return the heat map of all single mutants; for values of residues and base pairs the figures."""
    frame = pd.read_csv(job.out / "scan.csv", keep_default_na=False, na_values=[""])
    files = links({
        "Open the page": file_url(job, job.out / "scan.html"),
        "Table (CSV)": file_url(job, job.out / "scan.csv", download=True),
        "Everything (zip)": zip_url(job),
    })  # fmt: skip
    if "difference" not in frame:
        shown = [picture(file_url(job, path), f"Prediction along the sequence: {path.stem}") for path in _pictures(job)]
        return join(*shown, files)
    logo = job.out / "logo.png"
    return join(
        *_warnings(job),
        *_heat_maps(frame, read_json(job.out / "scan.json").get("target", "the prediction")),
        picture(file_url(job, logo), "Sequence logo of the predicted preferences.") if logo.is_file() else None,
        files,
    )


def _pictures(job: Job) -> list[Path]:
    return sorted(job.out.glob("*.png"))


def _warnings(job: Job) -> list[Markup]:
    return [notice(in_page_words(text), "warning") for text in job.warnings]


def _heat_maps(frame: pd.DataFrame, target: str) -> list[Markup]:
    from subquad.bio.plots.maps import rows_of

    effects = frame["difference"].to_numpy(dtype=float)
    limit = float(np.nanquantile(np.abs(effects), 0.99)) or 1.0
    wild_type = dict(zip(frame["position"], frame["from"], strict=True))
    positions = sorted(wild_type)
    letters = "".join(sorted({*frame["to"], *frame["from"]}, key=lambda letter: (letter in "*-", letter)))
    keys = list(zip(frame["position"], frame["to"], strict=True))
    texts = dict(zip(keys, (_text(row) for row in frame.to_dict("records")), strict=True))
    marked = {key for key, value in zip(keys, frame["measured"], strict=True) if pd.notna(value)}
    hatched = {key for key, value in zip(keys, frame["observed"], strict=True) if value == "no"}
    caption = (
        "Blue is higher than the wild type, red is lower, white is unchanged; the colours saturate at the 99th "
        "percentile of all differences. A dot: the wild type; a dot with a rim: measured, in the test rows. Hatched: "
        "no training sequence had this residue here, so that its effect is an extrapolation."
    )
    label = f"Difference of {target} to the wild type"
    found = []
    for start in range(0, min(len(positions), MOST_BLOCKS * BLOCK), BLOCK):
        own = positions[start : start + BLOCK]
        cells = HeatMap(
            letters=letters,
            positions=own,
            wild_type="".join(wild_type[position] for position in own),
            rows=rows_of(len(own), WIDEST),
            values={key: value / limit for key, value in zip(keys, effects, strict=True)},
            texts=texts,
            marked=marked,
            hatched=hatched,
        )
        title = f"Single mutants of positions {own[0]} to {own[-1]}"
        # the first map explains the others
        found.append(heat_map(cells, title=title, label=label, limit=limit, caption="" if start else caption))
    if len(positions) > MOST_BLOCKS * BLOCK:
        found.append(notice(f"Only the first {MOST_BLOCKS * BLOCK} positions are drawn; the table has all."))
    return found


def _text(row: dict) -> str:
    low, high = row["prediction_low"], row["prediction_high"]
    interval = f", 90 % interval {show(low)} to {show(high)}" if pd.notna(low) else ""
    measured = f"measured {show(row['measured'])}" if pd.notna(row["measured"]) else "not measured"
    support = "; letter not observed here in training" if row["observed"] == "no" else ""
    return (
        f"{row['mutant']}: predicted {show(row['prediction'])}{interval}; difference to the wild type "
        f"{show(row['difference'])}; {measured}{support}"
    )


def design_result(job: Job) -> str:
    """Return the ranked designs."""
    return join(
        *_warnings(job),
        _variants(job.out / "designs.csv", "design", ", best first"),
        links({
            "Open the page": file_url(job, job.out / "design.html"),
            "Designs (CSV)": file_url(job, job.out / "designs.csv", download=True),
            "Designs (FASTA)": file_url(job, job.out / "designs.fasta", download=True),
            "Plates (CSV)": file_url(job, job.out / "plates.csv", download=True),
        }),
    )  # fmt: skip


def rounds_result(job: Job) -> str:
    """Return the batch that a round proposes."""
    rounds = read_json(job.out / "rounds.json")["rounds"]
    folder, last = job.out / f"round-{len(rounds)}", rounds[-1]
    texts = []
    if last.get("new_measurements"):
        texts.append(f"The models were fitted again, with {counted(last['new_measurements'], 'new measurement')}.")
    if "inside_interval" in last:
        texts.append(f"{100 * last['inside_interval']:.0f} % of them lie inside their 90 % prediction intervals.")
    texts.append("Write the measurements into the empty column of the batch, and upload it here for the next round.")
    return join(
        *_warnings(job),
        _variants(folder / "batch.csv", "variant", f" to measure in round {len(rounds)}"),
        remarks(texts),
        links({
            "Open the page": file_url(job, job.out / "rounds.html"),
            "Batch to fill in (CSV)": file_url(job, folder / "batch.csv", download=True),
            "Batch (FASTA)": file_url(job, folder / "batch.fasta", download=True),
            "Plates (CSV)": file_url(job, folder / "plates.csv", download=True),
        }),
    )  # fmt: skip


def _variants(path: Path, noun: str, more: str) -> Markup | None:
    """Return the first variants of a table; its caption counts all, as in `4 designs, best first`."""
    if not path.is_file():
        return None
    from subquad.bio.commands.printing import with_intervals

    frame = with_intervals(pd.read_csv(path))
    names = ("name", "mutants", "mutant", "prediction", "90 % interval", "distance", "well")
    first = f"First {MOST_SHOWN} of " if len(frame) > MOST_SHOWN else ""
    caption = f"{first}{counted(len(frame), noun)}{more}."
    return table(_rows(frame, [name for name in names if name in frame], caption))


def _rows(frame: pd.DataFrame, names: Sequence[str], caption: str = "", most: int = MOST_SHOWN) -> Table:
    """Return the first rows of a data frame as a table; columns without values are left out."""
    names = [name for name in names if len(frame[name].dropna())]
    shown = frame[names].head(most).astype(object)
    cells = shown.where(shown.notna(), None).to_numpy().tolist()
    return Table(names, [[_plain(cell) for cell in row] for row in cells], caption=caption)


def _plain(cell: object) -> str | float | int | None:
    if cell is None or isinstance(cell, bool | int | float | str):
        return cell
    return cell.item() if isinstance(cell, np.generic) else str(cell)


def epistasis_result(job: Job) -> str:
    """Return the map of pairs of positions, and the strongest pairs."""
    captions = {
        "pairs": "Epistasis of pairs of positions: darker pairs deviate more from the sum of both effects. Both axes "
        "are positions. Colours have the unit of the target, or log odds where a class is predicted.",
        "pairs_specific": "The same without what one curve of the sum explains: specific epistasis.",
        "orders": "Variance by order of interaction.",
    }
    titles = {
        "i": "position 1",
        "j": "position 2",
        "rms": "root mean square",
        "max": "largest",
        "mean": "mean",
        "double_mutants": "double mutants",
    }
    pairs = pd.read_csv(job.out / "pairs.csv").rename(columns=titles)
    names = [name for name in titles.values() if name in pairs]
    caption = f"Strongest pairs of positions: epistasis of their double mutants. All {len(pairs):,} are in pairs.csv."
    return join(
        *_warnings(job),
        *(picture(file_url(job, path), captions[path.stem]) for path in _pictures(job) if path.stem in captions),
        table(_rows(pairs, names, caption, most=10)) if len(pairs) else None,
        links({
            "Open the page": file_url(job, job.out / "epistasis.html"),
            "Pairs (CSV)": file_url(job, job.out / "pairs.csv", download=True),
            "Everything (zip)": zip_url(job),
        }),
    )  # fmt: skip


def predict_result(job: Job) -> str:
    """Return the first predictions of a table."""
    frame = pd.read_csv(job.out, keep_default_na=False, na_values=[""])
    return join(
        *_warnings(job), _predictions(frame), links({"Predictions (CSV)": file_url(job, job.out, download=True)})
    )


def _predictions(frame: pd.DataFrame) -> Markup:
    own = [name for name in frame.columns if str(name).startswith(("prediction", "probability_"))]
    given = [name for name in frame.columns if name not in own][:2]
    shown = frame.head(MOST_SHOWN).copy()
    for name in given:
        shown[name] = [text if len(text) <= 32 else f"{text[:14]}…{text[-14:]}" for text in shown[name].astype(str)]
    headings = {"prediction_low": "90 % from", "prediction_high": "90 % to", "prediction_std": "std of members"}
    found = _rows(shown, [*given, *own])
    caption = f"First {MOST_SHOWN} of {len(frame):,} rows." if len(frame) > MOST_SHOWN else ""
    return table(Table([headings.get(name, name) for name in found.header], found.rows, caption=caption))


def predict_sequences(run: Path, text: str, path: Path) -> str:
    """Return the predictions of sequences or variants that were pasted, one per line, or as FASTA.

    Args:
        run: Folder of the fitted models.
        text: What was pasted.
        path: File for the table that is made of it.

    Raises:
        SubquadError: There is no such model, or it cannot read what was pasted.
    """
    from subquad.bio.data.table import read_like
    from subquad.bio.models.fitted import BioModel
    from subquad.bio.models.predictions import add_predictions

    model, lines = BioModel.load(run), [line.strip() for line in text.strip().split("\n") if line.strip()]
    are_variants = all(re.search(r"\d", line) for line in lines) and not text.lstrip().startswith(">")
    column = "mutant" if are_variants else model.schema.sequence or "sequence"
    content = text if text.lstrip().startswith(">") else "\n".join([column, *lines])
    path.write_text(content + "\n", encoding="utf-8")
    # the page leaves out the line of an error that names the flag
    read = read_like(path, model.schema)
    frame = add_predictions(read, model, model.default)
    warnings = [notice(text, "warning") for text in model.warn_unobserved(read.inputs)]
    return join(*warnings, _predictions(frame))
