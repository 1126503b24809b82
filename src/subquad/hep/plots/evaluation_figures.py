"""Which pictures an evaluation has, and what they are called. About a second per picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from subquad.hep.evaluation.scores import Model
from subquad.hep.metrics.curves import against_pt, mass_edges, pt_edges, roc, sculpting
from subquad.hep.metrics.scores import EFFICIENCIES
from subquad.hep.plots.comparison import calibration_figure, mass_figure, pt_figure, ratio_figure, time_figure
from subquad.hep.plots.figures import confusion_figure, observables_figure, roc_figure, scores_figure

__all__ = ["Drawing", "draw"]


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A picture and where it belongs."""

    name: str
    """Of its file, without the number and `.pdf`."""
    section: str
    """Heading of the page that it stands under."""
    figure: Figure
    caption: str
    """What it shows, and how to read it."""
    is_half: bool = False
    """Two stand side by side on the page."""


def draw(evaluation: Mapping[str, Any], models: Sequence[Model]) -> tuple[list[Drawing], dict[str, dict[str, Any]]]:
    """Return the pictures, and of each model what was measured for them: `mass` and `against_pt`."""
    classes, background = evaluation["classes"], evaluation["background"]
    b = classes.index(background)
    signals = [(i, name) for i, name in enumerate(classes) if name != background]
    measured: dict[str, dict[str, Any]] = {model.name: {"against_pt": {}, "mass": {}} for model in models}
    drawings = [
        *_signal_by_signal(evaluation, models, signals, b, measured),
        *_model_by_model(models, classes, background, signals, measured),
        Drawing(
            name="calibration",
            section="Are the probabilities true?",
            figure=calibration_figure(models, classes),
            caption="Of the jets that were given a probability, the part that is of the class; on the diagonal the "
            "probabilities are true. With each model its calibration error of that class. Bins with fewer than ten "
            "jets are not drawn.",
        ),
    ]
    if any(model.shown.batches is not None for model in models):
        drawings.append(
            Drawing(
                name="time",
                section="Time",
                figure=time_figure(models),
                caption=f"Time of the net per jet, a point for each batch of jets of like length, on "
                f"{evaluation['threads']} thread{'s' * (evaluation['threads'] > 1)} of this machine; "
                "reading and preparing the jets comes on top.",
                is_half=True,
            )
        )
    seen = next((model.shown for model in models if model.shown.sdmass is not None), None)
    if seen is not None:
        values = {
            "soft-drop mass [GeV]": seen.sdmass,
            r"jet $p_T$ [GeV]": seen.pt,
            "number of particles": seen.particles,
        }
        drawings.append(
            Drawing(
                name="jets",
                section="The jets",
                figure=observables_figure({k: v for k, v in values.items() if v is not None}, seen.labels, classes),
                caption="Observers of the jets, class by class.",
            )
        )
    return drawings, measured


def _signal_by_signal(
    evaluation: Mapping[str, Any],
    models: Sequence[Model],
    signals: Sequence[tuple[int, str]],
    b: int,
    measured: dict[str, dict[str, Any]],
) -> list[Drawing]:
    """Return ROC curves with ratios, and what depends on pT, of each signal."""
    section, background = "Signal by signal", evaluation["background"]
    drawings = []
    shown = models[0].shown
    if len(models) == 1 and any(roc([shown], i, b) is not None for i, _ in signals):
        drawings.append(
            Drawing(
                name="roc",
                section=section,
                figure=roc_figure(shown.probabilities, shown.labels, evaluation["classes"], background),
                caption=f"Rejection of {background} against the efficiency of each signal; up and right is better.",
            )
        )
    with_pt = [model.shown for model in models if model.shown.pt is not None]
    edges = pt_edges(with_pt) if with_pt else None
    for i, name in signals:
        efficiency = EFFICIENCIES.get(name, 0.5)
        words = {"signal": name, "background": background, "efficiency": efficiency}
        curves = {model.name: roc(model.trainings, i, b) for model in models}
        curves = {model: curve for model, curve in curves.items() if curve is not None}
        if curves:
            reference = evaluation["reference"] if evaluation["reference"] in curves else next(iter(curves))
            jets = max(int((model.shown.labels == b).sum()) for model in models)
            drawings.append(
                Drawing(
                    name=f"roc_{name}",
                    section=section,
                    figure=ratio_figure(curves, reference=reference, jets=jets, **words),
                    caption=f"{name}: rejection of {background}, and below over that of {reference}. Bands: of several "
                    "trainings from the least to the most around the median; of one, the 68 % interval. In the grey, "
                    "fewer than ten background jets pass.",
                    is_half=True,
                )
            )
        pairs = {}
        for model in models:
            found = None if edges is None else against_pt(model.shown, i, b, efficiency=efficiency, edges=edges)
            if found is not None:
                pairs[model.name] = found
                measured[model.name]["against_pt"][name] = _table(found, edges)
        if pairs:
            drawings.append(
                Drawing(
                    name=f"pt_{name}",
                    section=section,
                    figure=pt_figure(pairs, **words),
                    caption=f"{name}: one threshold for all pT, where {100 * efficiency:g} % of the signal passes; "
                    "68 % intervals. A triangle is a lower limit: no background jet passes there.",
                    is_half=True,
                )
            )
    return drawings


def _table(pair: Sequence[Any], edges: np.ndarray) -> dict[str, Any]:
    """Return curves against pT as JSON knows them; a rejection without an upper limit is None."""

    def listed(values: np.ndarray) -> list[float | None]:
        return [float(value) if np.isfinite(value) else None for value in values]

    return {
        "edges": edges.tolist(),
        **{
            what: {"pt": listed(c.x), "value": listed(c.value), "low": listed(c.low), "high": listed(c.high)}
            for what, c in zip(("efficiency", "rejection"), pair, strict=True)
        },
    }


def _model_by_model(
    models: Sequence[Model],
    classes: Sequence[str],
    background: str,
    signals: Sequence[tuple[int, str]],
    measured: dict[str, dict[str, Any]],
) -> list[Drawing]:
    """Return confusion, scores and sculpted masses of each model."""
    b = classes.index(background)
    confusions, scores, masses = [], [], []
    for number, model in enumerate(models, start=1):
        one, tail = model.shown, f"_{number}" * (len(models) > 1)
        which = model.name if len(model.trainings) == 1 else f"{model.name} (the training of median accuracy)"
        confusions.append(
            Drawing(
                name=f"confusion{tail}",
                section="What is taken for what",
                figure=confusion_figure(one.probabilities, one.labels, classes),
                caption=f"{which}: in each row the jets of one class, in per cent, by the class of the largest score.",
                is_half=len(models) > 1,
            )
        )
        scores.append(
            Drawing(
                name=f"scores{tail}",
                section="Scores",
                figure=scores_figure(one.probabilities, one.labels, classes, background),
                caption=f"{which}: the score of each signal, among its own jets and among those of {background}.",
            )
        )
        edges = mass_edges(one, b)
        if edges is None:
            continue
        found = {name: sculpting(one, i, b, edges=edges) for i, name in signals}
        measured[model.name]["mass"] = {
            name: [
                {"part": cut.part, "jets": cut.jets, "distance": cut.distance, "by_chance": cut.by_chance}
                for cut in after
            ]
            for name, (_, after) in found.items()
        }
        masses.append(
            Drawing(
                name=f"mass{tail}",
                section="Mass of the background",
                figure=mass_figure(found, edges=edges, background=background),
                caption=f"{which}: soft-drop mass of {background} before a cut, and after cuts that leave part of it. "
                "Behind each part the Jensen-Shannon distance from the mass before, and in brackets the distance that "
                "as many jets have which are drawn at random.",
            )
        )
    return [*confusions, *scores, *masses]
