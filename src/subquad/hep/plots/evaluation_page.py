"""The report of an evaluation: its figures and an HTML page. Some seconds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from subquad.errors import counted
from subquad.hep.metrics.curves import Curve, against_pt, mass_edges, pt_edges, roc, sculpting
from subquad.hep.metrics.predictions import ModelPredictions
from subquad.hep.metrics.summary import uncertainty
from subquad.hep.plots.class_histograms import observer_histograms
from subquad.hep.plots.figures import (
    calibration_figure,
    confusion_figure,
    effective_jets,
    has_ratios,
    mass_figure,
    pt_figure,
    ratio_figure,
    roc_figure,
    scores_figure,
    time_figure,
)
from subquad.hep.plots.mass_shape_figure import has_mass_shapes, mass_shape_figure
from subquad.hep.plots.regression import CAPTION, regression_figure, regression_table
from subquad.hep.plots.tables import (
    accuracy_text,
    mass_shapes_table,
    metrics_table,
    rejections_table,
    unvaried_seeds,
)
from subquad.reporting.page import Section, Table, page, picture

__all__ = ["Drawing", "draw", "evaluation_page", "evaluation_tables"]

TITLE = "Comparison of jet taggers"
MASS_SHAPES, TARGETS = "Mass decorrelation", "Regression targets"


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure and its place in the report."""

    name: str
    """File name, without the number and `.pdf`."""
    section: str
    """Heading of its section on the page."""
    figure: Figure
    caption: str
    """What it shows, and how to read it."""
    is_half: bool = False
    """The figure takes half the width of the page."""


def draw(
    evaluation: Mapping[str, Any],
    models: Sequence[ModelPredictions],
) -> tuple[list[Drawing], dict[str, dict[str, Any]]]:
    """Return the figures, and the values of the curves `mass` and `against_pt` by model.

    Args:
        evaluation: Content of `metrics.json`.
        models: The models.
    """
    classes, background = evaluation["classes"], evaluation["background"]
    curves: dict[str, dict[str, Any]] = {model.name: {"against_pt": {}, "mass": {}} for model in models}
    drawings = [
        *_signal_drawings(evaluation, models, curves),
        *_model_drawings(models, classes, background, curves),
        *_mass_shape_drawings(evaluation),
        *_regression_drawings(models, classes, background),
        Drawing(
            name="calibration",
            section="Calibration",
            figure=calibration_figure(models, classes),
            caption="Reliability diagram of each class: observed fraction of the class against the predicted "
            "probability, with 68 % Wilson intervals. A calibrated tagger follows the diagonal. The legend gives the "
            "calibration error of the class. Bins with fewer than ten jets are not drawn.",
        ),
    ]
    if any(model.median_training.batches is not None for model in models):
        drawings.append(
            Drawing(
                name="time",
                section="Inference time",
                figure=time_figure(models),
                caption=f"Time of the network per jet, one point per batch of jets of similar length, on "
                f"{evaluation['device']}. Reading and preprocessing are not included.",
                is_half=True,
            )
        )
    sample = next((model.median_training for model in models if model.median_training.sdmass is not None), None)
    if sample is not None:
        drawings += [
            Drawing(name=found.name, section="Test jets", figure=found.figure, caption=found.caption)
            for found in observer_histograms(sample, classes, background)
        ]
    return drawings, curves


def _regression_drawings(
    models: Sequence[ModelPredictions], classes: Sequence[str], background: str
) -> Iterator[Drawing]:
    for number, model in enumerate(models, start=1):
        for target in model.median_training.predicted:
            yield Drawing(
                name=f"target_{target}_{number}",
                section=TARGETS,
                figure=regression_figure(model.median_training, target, classes, background),
                caption=f"{model.name}, {target}. {CAPTION}",
            )


def _mass_shape_drawings(evaluation: Mapping[str, Any]) -> list[Drawing]:
    models, background = evaluation["models"], evaluation["background"]
    signals = [name for name in models[0]["trainings"][0]["rejection"] if has_mass_shapes(models, name)]
    if not signals:
        return []
    figure = mass_shape_figure(models, background, signals)
    caption = (
        f"Rejection of {evaluation['background']} against the inverse Jensen–Shannon divergence between its mass "
        "before and after the cut, at signal efficiencies of 50 % (circles) and 30 % (squares): upper right is better. "
        "Pale bars: as many jets drawn at random, beyond which no sculpting can be measured on these jets."
    )
    return [Drawing(name="mass_shape", section=MASS_SHAPES, figure=figure, caption=caption)]


def _signal_drawings(
    evaluation: Mapping[str, Any],
    models: Sequence[ModelPredictions],
    curves: dict[str, dict[str, Any]],
) -> Iterator[Drawing]:
    """Yield the ROC curves of each signal, and efficiency and rejection against pT."""
    with_pt = [model.median_training for model in models if model.median_training.pt is not None]
    edges = pt_edges(with_pt) if with_pt else None
    section = "ROC curves" if edges is None else "ROC curves and pT dependence"
    classes, background = evaluation["classes"], evaluation["background"]
    b = classes.index(background)
    signals = [(i, name) for i, name in enumerate(classes) if name != background]
    first = models[0].median_training
    if len(models) == 1 and any(roc([first], i, b) is not None for i, _ in signals):
        yield Drawing(
            name="roc",
            section=section,
            figure=roc_figure(first, classes, background),
            caption=f"Rejection of {background} against the efficiency of each signal; higher is better.",
        )
    for i, name in signals:
        efficiency = evaluation["models"][0]["trainings"][0]["rejection"][name]["efficiency"]
        labels = {"signal": name, "background": background, "efficiency": efficiency}
        all_rocs = {model.name: roc(model.trainings, i, b) for model in models}
        rocs = {model: curve for model, curve in all_rocs.items() if curve is not None}
        if rocs:
            reference = evaluation["reference"] if evaluation["reference"] in rocs else next(iter(rocs))
            jets = max(effective_jets(model.median_training, b) for model in models)
            ratio = f" (top) and its ratio to {reference} (bottom)" * has_ratios(rocs, reference)
            yield Drawing(
                name=f"roc_{name}",
                section=section,
                figure=ratio_figure(rocs, reference=reference, background_jets=jets, **labels),
                caption=f"{name}: rejection of {background}{ratio}. Bands: "
                "range over trainings around their median, or the 68 % interval over jets of a single training. "
                "Grey: fewer than ten background jets pass. Dotted: the working point of the table.",
                is_half=True,
            )
        pairs = {}
        for model in models if edges is not None else ():
            assert edges is not None
            found = against_pt(model.median_training, i, b, efficiency=efficiency, edges=edges)
            if found is not None:
                pairs[model.name] = found
                curves[model.name]["against_pt"][name] = _as_json(found, edges)
        if pairs:
            yield Drawing(
                name=f"pt_{name}",
                section=section,
                figure=pt_figure(pairs, **labels),
                caption=f"{name}: signal efficiency and background rejection against jet pT, at one threshold with an "
                f"overall efficiency of {100 * efficiency:g} %; 68 % intervals. Triangles are lower limits: no "
                "background jet passes there.",
                is_half=True,
            )


def _as_json(pair: tuple[Curve, Curve], edges: np.ndarray) -> dict[str, Any]:
    """Return the curves against pT as lists; a rejection without an upper limit is None."""
    found: dict[str, Any] = {"edges": edges.tolist()}
    for name, curve in zip(("efficiency", "rejection"), pair, strict=True):
        columns = {"pt": curve.x, "value": curve.value, "low": curve.low, "high": curve.high}
        found[name] = {key: [v if np.isfinite(v) else None for v in column.tolist()] for key, column in columns.items()}
    return found


def _model_drawings(
    models: Sequence[ModelPredictions], classes: Sequence[str], background: str, curves: dict[str, dict[str, Any]]
) -> list[Drawing]:
    """Return the confusion matrix, the scores and the mass sculpting of each model."""
    b = classes.index(background)
    confusions, scores, masses = [], [], []
    for number, model in enumerate(models, start=1):
        one, suffix = model.median_training, f"_{number}" * (len(models) > 1)
        which = model.name if len(model.trainings) == 1 else f"{model.name} (training of median accuracy)"
        confusions.append(
            Drawing(
                name=f"confusion{suffix}",
                section="Confusion matrices",
                figure=confusion_figure(one, classes),
                caption=f"{which}: predicted class of the jets of each true class, in per cent; each row sums to 100.",
                is_half=len(models) > 1,
            )
        )
        scores.append(
            Drawing(
                name=f"scores{suffix}",
                section="Scores",
                figure=scores_figure(one, classes, background),
                caption=f"{which}: score of each signal against {background}, for jets of the signal and of "
                f"{background}.",
            )
        )
        edges = mass_edges(one, b)
        if edges is None:
            continue
        found = {name: sculpting(one, i, b, edges=edges) for i, name in enumerate(classes) if i != b}
        curves[model.name]["mass"] = {
            name: [
                {"efficiency": cut.efficiency, "jets": cut.jets, "distance": cut.distance, "by_chance": cut.by_chance}
                for cut in after
            ]
            for name, (_, after) in found.items()
        }
        masses.append(
            Drawing(
                name=f"mass{suffix}",
                section="Mass sculpting",
                figure=mass_figure(found, edges=edges, background=background),
                caption=f"{which}: soft-drop mass of {background} before and after cuts that keep the given fraction "
                "of it. Legend: Jensen–Shannon distance to the mass before the cut and, in brackets, the distance of "
                "equally many jets drawn at random: only the excess over it is mass sculpting.",
            )
        )
    return [*confusions, *scores, *masses]


def evaluation_tables(evaluation: Mapping[str, Any]) -> tuple[Table, Table]:
    """Return the metrics of all models, and their background rejections."""
    measured = evaluation["models"]
    metrics = metrics_table(measured, evaluation["wins"], not_compared=evaluation.get("not_compared"))
    return metrics, rejections_table(measured, evaluation["background"])


def evaluation_page(evaluation: Mapping[str, Any], drawings: Sequence[Drawing]) -> str:
    """Return the HTML page."""
    figures: dict[str, list[Any]] = {}
    for drawing in drawings:
        block = picture(drawing.figure, drawing.caption, is_half=drawing.is_half)
        figures.setdefault(drawing.section, []).append(block)
    tables = {
        MASS_SHAPES: mass_shapes_table(evaluation["models"], evaluation["background"]),
        TARGETS: regression_table(evaluation["models"]),
    }
    for section, table in tables.items():
        if table is not None:
            figures.setdefault(section, []).append(table)
    return page(
        TITLE,
        lead=_lead(evaluation),
        sections=[
            Section("Metrics", [*evaluation["notes"], *evaluation_tables(evaluation)]),
            *(Section(title, blocks) for title, blocks in figures.items()),
            *([Section("Runs", [_runs_table(evaluation["runs"])])] if evaluation.get("runs") else []),
        ],
    )


def _runs_table(runs: Sequence[Mapping[str, Any]]) -> Table:
    return Table(
        ["run", "model", "seed", "settings"],
        [[run["run"], run["model"], run["seed"], run["settings"] or "the defaults"] for run in runs],
        caption="Settings of the fits other than their defaults.",
    )


def _lead(evaluation: Mapping[str, Any]) -> str:
    """Return the result: the top-1 accuracies, and the best model only if it is told apart from all others."""
    models = evaluation["models"]
    counts = {sum(one["jets"].values()) for model in models for one in model["trainings"]}
    least, most = min(counts), max(counts)
    jets = counted(most, "jet") if least == most else f"{least:,} to {counted(most, 'jet')}"
    where = f"on {jets} of {len(evaluation['classes'])} classes"
    values = {model["name"]: _accuracy(model) for model in models}
    if len(models) == 1:
        ((name, value),) = values.items()
        return f"{name} reaches a top-1 accuracy of {value} {where}."
    wins = evaluation["wins"]
    # names of models with settings have commas
    listed = "; ".join(f"{name} {value}" for name, value in values.items() if name != wins)
    if reason := evaluation.get("not_compared"):
        return f"Top-1 accuracies {where}, not compared ({reason}): {listed}."
    if wins is None:
        text = f"No model has a significantly better top-1 accuracy than all others {where}: {listed}."
    else:
        text = f"{wins} has the best top-1 accuracy {where}, {values[wins]}, significantly above {listed}."
    return f"{text} {unvaried_seeds(models)}".rstrip()


def _accuracy(model: Mapping[str, Any]) -> str:
    """Return the top-1 accuracy with its uncertainty, over jets and trainings."""
    return accuracy_text(model["spread"]["accuracy"]["mean"], uncertainty(model, "accuracy"))
