"""The page of an evaluation: its metrics, verdicts and figures. Some seconds."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from subquad.errors import counted
from subquad.hep.metrics.classification import METRICS
from subquad.hep.metrics.curves import Curve, against_pt, mass_edges, pt_edges, roc, sculpting
from subquad.hep.metrics.predictions import ModelPredictions
from subquad.hep.metrics.summary import difference_of
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
from subquad.hep.plots.tables import mass_shapes_table, models_table, rejections_table, seeds_text
from subquad.reporting.metrics import difference_table, value_text
from subquad.reporting.page import Picture, Section, Table, page, picture
from subquad.reporting.statistics import Difference

ROC, MASS_SHAPES, TARGETS = "ROC curves", "Mass decorrelation", "Regression targets"

Drawings = Iterator[tuple[str, Picture]]
"""Pictures, each with the title of its section."""


def draw(
    evaluation: Mapping[str, Any],
    models: Sequence[ModelPredictions],
) -> tuple[dict[str, list[Picture]], dict[str, dict[str, Any]]]:
    """Return the pictures by the title of their section, and the values of the curves `mass` and `against_pt` by model.

    Args:
        evaluation: Content of `metrics.json`.
        models: The models.
    """
    curves: dict[str, dict[str, Any]] = {model.name: {"against_pt": {}, "mass": {}} for model in models}
    pictures: dict[str, list[Picture]] = {}
    for title, drawn in _drawings(evaluation, models, curves):
        pictures.setdefault(title, []).append(drawn)
    return pictures, curves


def _drawings(
    evaluation: Mapping[str, Any],
    models: Sequence[ModelPredictions],
    curves: dict[str, dict[str, Any]],
) -> Drawings:
    classes, background = evaluation["classes"], evaluation["background"]
    yield from _signal_drawings(evaluation, models, curves)
    yield from _model_drawings(models, classes, background, curves)
    measured = evaluation["models"]
    if signals := [name for name in measured[0]["trainings"][0]["rejection"] if has_mass_shapes(measured, name)]:
        caption = (
            f"Rejection of {background} against 1 / JSD of its mass before and after the cut; upper right is better. "
            "Pale bars: as many jets drawn at random, beyond which nothing can be measured."
        )
        yield MASS_SHAPES, picture(mass_shape_figure(measured, background, signals), caption)
    for model in models:
        for target in model.median_training.predicted:
            figure = regression_figure(model.median_training, target, classes, background)
            yield TARGETS, picture(figure, f"{model.name}, {target}. {CAPTION}")
    caption = (
        "Observed fraction of each class against the predicted probability, with 68 % Wilson intervals and the "
        "calibration error. A calibrated tagger follows the diagonal."
    )
    yield "Calibration", picture(calibration_figure(models, classes), caption)
    if any(model.median_training.batches is not None for model in models):
        caption = f"Time of the network per jet, one point per batch, on {evaluation['device']}."
        yield "Inference time", picture(time_figure(models), caption, is_half=True)
    sample = next((model.median_training for model in models if model.median_training.sdmass is not None), None)
    if sample is not None:
        yield from (("Test jets", drawn) for drawn in observer_histograms(sample, classes, background))


def _signal_drawings(
    evaluation: Mapping[str, Any],
    models: Sequence[ModelPredictions],
    curves: dict[str, dict[str, Any]],
) -> Drawings:
    """Yield the ROC curves of each signal, and efficiency and rejection against pT."""
    with_pt = [model.median_training for model in models if model.median_training.pt is not None]
    edges = pt_edges(with_pt) if with_pt else None
    classes, background = evaluation["classes"], evaluation["background"]
    b = classes.index(background)
    signals = [(i, name) for i, name in enumerate(classes) if name != background]
    first = models[0].median_training
    if len(models) == 1 and any(roc([first], i, b) is not None for i, _ in signals):
        caption = f"Rejection of {background} against the efficiency of each signal; higher is better."
        yield ROC, picture(roc_figure(first, classes, background), caption)
    for i, name in signals:
        efficiency = evaluation["models"][0]["trainings"][0]["rejection"][name]["efficiency"]
        labels = {"signal": name, "background": background, "efficiency": efficiency}
        all_rocs = {model.name: roc(model.trainings, i, b) for model in models}
        rocs = {model: curve for model, curve in all_rocs.items() if curve is not None}
        if rocs:
            reference = evaluation["reference"] if evaluation["reference"] in rocs else next(iter(rocs))
            jets = max(effective_jets(model.median_training, b) for model in models)
            ratio = f" and its ratio to {reference}" * has_ratios(rocs, reference)
            caption = (
                f"{name}: rejection of {background}{ratio}, with the 68 % interval over jets or the range over "
                "trainings. Grey: fewer than ten background jets pass."
            )
            figure = ratio_figure(rocs, reference=reference, background_jets=jets, **labels)
            yield ROC, picture(figure, caption, is_half=True)
        pairs = {}
        for model in models if edges is not None else ():
            assert edges is not None
            found = against_pt(model.median_training, i, b, efficiency=efficiency, edges=edges)
            if found is not None:
                pairs[model.name] = found
                curves[model.name]["against_pt"][name] = _as_json(found, edges)
        if pairs:
            caption = (
                f"{name}: efficiency and rejection against jet pT at one threshold, with 68 % intervals. Triangles are "
                "lower limits: no background jet passes there."
            )
            yield ROC, picture(pt_figure(pairs, **labels), caption, is_half=True)


def _as_json(pair: tuple[Curve, Curve], edges: np.ndarray) -> dict[str, Any]:
    """Return the curves against pT as lists; a rejection without an upper limit is None."""
    found: dict[str, Any] = {"edges": edges.tolist()}
    for name, curve in zip(("efficiency", "rejection"), pair, strict=True):
        columns = {"pt": curve.x, "value": curve.value, "low": curve.low, "high": curve.high}
        found[name] = {key: [v if np.isfinite(v) else None for v in column.tolist()] for key, column in columns.items()}
    return found


def _model_drawings(
    models: Sequence[ModelPredictions], classes: Sequence[str], background: str, curves: dict[str, dict[str, Any]]
) -> Drawings:
    """Yield the confusion matrix, the scores and the mass sculpting of each model."""
    b = classes.index(background)
    for model in models:
        one, is_half = model.median_training, len(models) > 1
        which = model.name if len(model.trainings) == 1 else f"{model.name} (training of median accuracy)"
        caption = f"{which}: predicted class of the jets of each true class, in per cent."
        yield "Confusion matrices", picture(confusion_figure(one, classes), caption, is_half=is_half)
        caption = f"{which}: score of each signal against {background}, for jets of the signal and of {background}."
        yield "Scores", picture(scores_figure(one, classes, background), caption)
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
        caption = (
            f"{which}: soft-drop mass of {background} before and after cuts that keep the given fraction of it, with "
            "the Jensen–Shannon distance to the mass before. In brackets: the distance of as many jets drawn at random."
        )
        yield "Mass sculpting", picture(mass_figure(found, edges=edges, background=background), caption)


def evaluation_tables(evaluation: Mapping[str, Any]) -> tuple[Table, Table]:
    """Return the metrics of all models, and their background rejections."""
    names = {model["name"]: model["name"] for model in evaluation["models"]}
    return models_table(evaluation, names), rejections_table(evaluation, names, evaluation["background"])


def evaluation_page(evaluation: Mapping[str, Any], pictures: Mapping[str, Sequence[Picture]]) -> str:
    """Return the HTML page."""
    sections: dict[str, list[Any]] = {title: list(blocks) for title, blocks in pictures.items()}
    tables = {
        MASS_SHAPES: mass_shapes_table(evaluation, evaluation["background"]),
        TARGETS: regression_table(evaluation["models"]),
    }
    for title, table in tables.items():
        if table is not None:
            sections.setdefault(title, []).append(table)
    if evaluation.get("runs"):
        rows = [
            [run["run"], run["model"], run["seed"], run["settings"] or "the defaults"] for run in evaluation["runs"]
        ]
        sections["Runs"] = [Table(["run", "model", "seed", "settings"], rows)]
    metrics, rejections = evaluation_tables(evaluation)
    first = [*evaluation["notes"], metrics, *_differences(evaluation), rejections]
    return page(
        "Comparison of jet taggers",
        lead=_lead(evaluation),
        sections=[Section("Metrics", first), *(Section(title, blocks) for title, blocks in sections.items())],
    )


def _differences(evaluation: Mapping[str, Any]) -> list[Table]:
    """Return the paired differences of the best model from all others, if the models were compared."""
    return [
        difference_table(
            [(name, METRICS["accuracy"], Difference.read(gap)) for name, gap in gaps.items()],
            what=f"{best} less",
            caption="Differences in the top-1 accuracy, paired by jet.",
        )
        for best, gaps in evaluation["differences"].items()
    ]


def _lead(evaluation: Mapping[str, Any]) -> str:
    """Return the top-1 accuracies, and whether the best model is clearly better than the next one."""
    models, limits = evaluation["models"], evaluation["intervals"]["test"]
    counts = {sum(one["jets"].values()) for model in models for one in model["trainings"]}
    jets = f"{min(counts):,} to {counted(max(counts), 'jet')}" if len(counts) > 1 else counted(max(counts), "jet")
    values = {name: own["accuracy"] for name, own in evaluation["test"].items()}
    order = sorted(values, key=lambda name: -values[name])
    # names of models with settings have commas
    listed = "; ".join(f"{name} {value_text(values[name], limits[name].get('accuracy'))}" for name in order)
    text = f"Top-1 accuracy, with 68 % intervals, on {jets} of {len(evaluation['classes'])} classes: {listed}."
    if len(models) == 1:
        return text
    if reason := evaluation.get("not_compared"):
        return f"{text} The models were not compared: {reason}."
    gap = difference_of(evaluation, order[0], order[1])
    return f"{text} {METRICS['accuracy'].compare(order[0], order[1], gap)} {seeds_text(evaluation)}".rstrip()
