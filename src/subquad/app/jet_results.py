"""What the page shows of jets: files, progress of a fit, curves of a tagger, and displays of single jets."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from subquad.app.charts import DRAWING, Line, line_chart
from subquad.app.files import file_url, zip_url
from subquad.app.jobs import Job
from subquad.app.markup import blocks, columns, drawing, join, links, notice, pairs, table
from subquad.hep.metrics.predictions import Predictions
from subquad.reporting.page import picture as as_picture
from subquad.runs.folder import METRICS, REPORT, load_config
from subquad.runs.history import HISTORY, read_history
from subquad.runs.storage import read_json

__all__ = [
    "describe_files", "display_jets", "fit_progress", "fit_result", "performance", "score_result", "signals_of",
    "simulate_result",
]  # fmt: skip

MOST_JETS = 400
"""Jets of the files that single ones are chosen from."""
MOST_NAMES = 12
MODELS = {"net": "tagger", "boosting": "gradient boosting"}


def describe_files(paths: Sequence[Path]) -> str:
    """Return what files hold: jets and classes, and that their layout is unknown, if it is.

    Raises:
        SubquadError: A file is damaged or has no jets; all are listed.
    """
    from subquad.errors import raise_errors
    from subquad.hep.data.file_chunks import inspect_files
    from subquad.hep.data.jets import LABEL
    from subquad.hep.data.public_layouts import layout_of_source

    sources, errors = inspect_files(paths, None)
    raise_errors("Some files cannot be used:", errors)
    labels = list(dict.fromkeys(name for one in sources for name in one.columns if name.startswith(LABEL)))
    names = [name.removeprefix(LABEL) for name in labels]
    shown = ", ".join(names[:MOST_NAMES]) + " …" * (len(names) > MOST_NAMES)
    facts = {"jets": sum(one.entries for one in sources), "files": len(sources), "columns": len(sources[0].columns)}
    unknown = [one.path.name for one in sources if not layout_of_source(one)]
    return join(
        pairs(facts),
        Markup("<p>Classes: {}.</p>").format(shown) if names else None,
        notice(_unknown_layout(unknown), "warning") if unknown else None,
    )


def _unknown_layout(names: Sequence[str]) -> str:
    listed = ", ".join(names[:3]) + ", …" * (len(names) > 3)
    return (
        f"The layout of {listed} was not recognized, so no tagger can be trained on it here. Fit one on the command "
        "line with subquad hep fit --card, which describes the layout; a tagger that was fitted with such a card can "
        "score these files under 3."
    )


def fit_progress(job: Job) -> str:
    """Return loss and accuracy so far."""
    history = read_history(job.out) if (job.out / HISTORY).is_file() else []
    if not history:
        return Markup("<p>The jets are read and prepared; the curves follow.</p>")
    charts = []
    for key, title in (("accuracy", "top-1 accuracy"), ("loss", "cross-entropy")):
        lines = []
        for k, (name, part) in enumerate(((key, "training"), (f"validation_{key}", "validation"))):
            own = [entry for entry in history if name in entry]
            lines.append(Line(name=part, x=[e["step"] for e in own], y=[e[name] for e in own], number=k))
        charts.append(line_chart(lines, x="step", y=title, title=title.capitalize()))
    return columns(*charts)


def fit_result(job: Job) -> str:
    """Return the metrics of a fitted tagger beside gradient boosting, and its files."""
    from subquad.hep.plots.fit_page import comparison_table, verdict

    metrics = read_json(job.out / METRICS)
    return join(
        Markup("<p>{}</p>").format(verdict(metrics)),
        table(comparison_table(metrics)),
        links({
            "Open the report": file_url(job, job.out / REPORT),
            "Tagger folder (zip)": zip_url(job),
            "Model card": file_url(job, job.out / "README.md", download=True),
        }),
        fit_progress(job),
    )  # fmt: skip


def simulate_result(job: Job) -> str:
    """Return the simulated files."""
    files = sorted(job.out.glob("*.root"))
    return join(describe_files(files), links({"Simulated jets (zip)": zip_url(job)}))


def signals_of(run: Path) -> tuple[list[str], list[str]]:
    """Return the signals and all classes of a tagger.

    Raises:
        SubquadError: There is no such tagger.
    """
    config = load_config(run, "hep")
    return [name for name in config["classes"] if name != config["background"]], list(config["classes"])


def performance(run: Path, signal: str | None) -> str:
    """Return curves and tables of a tagger on its own test jets.

    Raises:
        SubquadError: There is no such tagger, or it has no test jets.
    """
    from subquad.hep.evaluation.scoring import stored_predictions

    config = load_config(run, "hep")
    predictions = stored_predictions({run: config}, {run: MODELS["net"]}, config["classes"])
    predictions = [replace(one, model=MODELS.get(one.model, one.model)) for one in predictions]
    models = read_json(run / METRICS)["models"]
    return _curves(predictions, config["classes"], config["background"], signal, measured=models)


def _curves(
    predictions: Sequence[Predictions],
    classes: Sequence[str],
    background: str,
    signal: str | None,
    *,
    measured: Sequence[Mapping[str, Any]] = (),
) -> str:
    from subquad.hep.metrics.curves import roc
    from subquad.hep.metrics.rejection import signal_efficiency
    from subquad.hep.plots.figures import confusion_figure, effective_jets, has_ratios, ratio_figure
    from subquad.hep.plots.tables import rejections_table

    if signal is None or signal not in classes or signal == background:
        signal = next(name for name in classes if name != background)
    b, i, efficiency = classes.index(background), classes.index(signal), signal_efficiency(signal)
    found = {one.model: roc([one], i, b) for one in predictions}
    rocs = {name: curve for name, curve in found.items() if curve is not None}
    shown: list[Any] = []
    if rocs:
        ratio = f", and below its ratio to {list(rocs)[-1]}" if has_ratios(rocs, list(rocs)[-1]) else ""
        caption = (
            f"Rejection of {background} against the efficiency of {signal}{ratio}. Bands: 68 % intervals. Grey: fewer "
            f"than ten background jets pass. Dotted: the working point, {100 * efficiency:g} %."
        )
        with DRAWING:
            figure = ratio_figure(
                rocs, reference=list(rocs)[-1], signal=signal, background=background, efficiency=efficiency,
                background_jets=effective_jets(predictions[0], b),
            )  # fmt: skip
            shown.append(as_picture(figure, caption))
    else:
        counts = np.bincount(predictions[0].labels, minlength=len(classes))
        missing = [name for name, count in ((signal, counts[i]), (background, counts[b])) if not count]
        # event weights of a class may cancel
        what = f"There are no jets of {' and none of '.join(missing)}" if missing else "The weights of a class are 0"
        shown.append(f"{what}, so that no curve can be drawn.")
    caption = (
        f"Confusion matrix of {predictions[0].model}: predicted class of the jets of each true class, in per cent."
    )
    with DRAWING:
        shown.append(as_picture(confusion_figure(predictions[0], list(classes)), caption))
    names = [{**model, "name": MODELS.get(model["name"], model["name"])} for model in measured]
    rejections = [table(rejections_table(names, background))] if names else []
    # the matrix of ten classes needs the whole width
    return join(columns(blocks(shown[:1]), *rejections), blocks(shown[1:]))


def score_result(job: Job) -> str:
    """Return the scores of files, with curves if their jets have labels."""
    from subquad.errors import SubquadError
    from subquad.hep.evaluation.external_scores import read_external_scores

    shown: Any = None
    try:
        predictions, classes = read_external_scores(job.out, MODELS["net"])
        background = job.about.get("background")
        if background in classes:
            accuracy = (
                f"Top-1 accuracy on the {len(predictions.labels):,} jets of these files: {predictions.accuracy:.3f}."
            )
            curves = _curves([predictions], list(classes), background, job.about.get("signal"))
            shown = join(Markup("<p>{}</p>").format(accuracy), curves)
    except SubquadError as error:
        shown = notice(f"No curves are drawn. {error}")
    warnings = [notice(text, "warning") for text in job.warnings]
    return join(links({"Scores (ROOT)": file_url(job, job.out, download=True)}), *warnings, shown)


def _sample(run: Path, files: Sequence[Path]) -> tuple[Any, Any, np.ndarray, Any]:
    """Return the tagger, its first jets of some files, their probabilities, and the means of the inputs."""
    import torch

    from subquad.hep.data.batches import collate
    from subquad.hep.explanation.attributions import input_means
    from subquad.hep.explanation.sample import read_sample
    from subquad.hep.models.networks import predict_logits
    from subquad.hep.models.trained import TrainedTagger
    from subquad.hep.settings import ExplainSettings

    tagger = TrainedTagger.load(run)
    inputs = read_sample(tagger, files, ExplainSettings(jets=MOST_JETS), quiet=True)
    probabilities = predict_logits(tagger.net, inputs).double().softmax(-1).numpy()
    means = input_means([collate(inputs, rows) for rows in torch.arange(len(inputs)).split(64)])
    return tagger, inputs, probabilities, means


def display_jets(run: Path, files: Sequence[Path], label: str | None, number: int) -> str:
    """Return the display of one jet of a class, and its probabilities; it takes some seconds.

    It reads files of users, so that the page calls it in a process of its own, where nobody else draws.

    Args:
        run: Folder of the tagger.
        files: Labelled jets.
        label: Class of the jet; None: any.
        number: Which of its jets, from 1.

    Raises:
        SubquadError: There is no such tagger, or the files have no such jets.
    """
    from subquad.errors import SubquadError
    from subquad.hep.explanation.displays import displays_of
    from subquad.hep.plots.event_displays import displays_figure
    from subquad.reporting.page import Table

    tagger, inputs, probabilities, means = _sample(run, files)
    labels = inputs.labels.numpy()
    rows = np.arange(len(labels)) if label is None else np.flatnonzero(labels == tagger.classes.index(label))
    if not len(rows):
        raise SubquadError(f"the first {len(labels):,} jets of these files have none of class {label}; choose another")
    shown = min(number, len(rows))
    row = rows[shown - 1]
    found = displays_of(tagger.net, inputs, np.array([row]), probabilities, classes=tagger.classes, means=means)
    caption = (
        "Particles in Δη and Δφ; areas are proportional to pT, symbols are particle types. Lines are edges of the "
        "graph. Yellow halos and red lines: particles and edges that the score of the predicted class depends on most."
    )
    order = np.argsort(-probabilities[row])[:5]
    best = Table(["class", "probability"], [[tagger.classes[k], float(probabilities[row, k])] for k in order])
    image = as_picture(displays_figure(found), caption)
    of = "these files" if label is None else f"class {label}"
    which = f"Jet {shown} of {len(rows)} of {of}; its true class is {tagger.classes[labels[row]]}."
    if shown < number:
        which = (
            f"There is no jet {number:,} of {of} among the first {len(labels):,} jets; the last one is shown. {which}"
        )
    return join(Markup("<p>{}</p>").format(which), columns(drawing(image, width="36rem"), table(best)))
