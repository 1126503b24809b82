"""Page of a cross-validation: means and standard deviations over folds, each fold, and all rows out-of-fold."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from subquad.bio.compared_models import label_of
from subquad.bio.metrics.scores import overall, title
from subquad.bio.plots.figures import dot_plot
from subquad.reporting.page import Link, Section, Table, page, picture, signed
from subquad.reporting.statistics import fold_difference

__all__ = ["is_tied", "mean_cell", "render", "verdict"]

MAX_METRICS = 4


def render(metrics: Mapping[str, Any], name: str, *, how: str) -> str:
    """Return the page as HTML.

    Args:
        metrics: Contents of `metrics.json`.
        name: Title of the page.
        how: Description of the split of the first fold.
    """
    links = [
        Link(f"fold {k}: {own['test']:,} test rows", f"fold-{k}/report.html") for k, own in enumerate(metrics["rows"])
    ]
    sections = [Section("Result", _result(metrics)), Section("Folds", [f"Split of the first fold: {how}.", *links])]
    return page(name, lead=verdict(metrics), sections=sections)


def verdict(metrics: Mapping[str, Any]) -> str:
    """Return which model is best on average, and from which others the folds do not tell it."""
    main, mean, std = metrics["main_metric"], metrics["test"], metrics["std"]
    if main in metrics["undefined"]:
        return f"No model is named best: no fold defines {title(main)} ({metrics['undefined'][main]} in the test rows)."
    best, folds, missing = _best(metrics), metrics["defined_folds"][main], metrics["folds"][_best(metrics)].count(None)
    others = ", ".join(f"{label_of(model)} {own[main]:.3f}" for model, own in mean.items() if model != best)
    tied = [label_of(model) for model in _tied(metrics, best)]
    unclear = f" The folds do not distinguish it from {', '.join(tied)} (95 % intervals over folds)." if tied else ""
    unclear += f" {missing} more {'folds do' if missing > 1 else 'fold does'} not define the metric." if missing else ""
    value = f"{label_of(best)}, {title(main)} {mean[best][main]:.3f} ± {std[best][main]:.3f}"
    over = f"{folds} {'folds' if folds > 1 else 'fold'}"
    if not others:
        return f"Mean over {over}: {value}.{unclear}"
    return f"Best on average over {over}: {value} ({others}); best in {metrics['best_folds'][best]} of {over}.{unclear}"


def mean_cell(metrics: Mapping[str, Any], model: str, name: str) -> str | None:
    """Return the mean of a metric and its standard deviation over the folds; None if no fold defines it."""
    if name in metrics["undefined"]:
        return None
    return f"{metrics['test'][model][name]:.3f} ± {metrics['std'][model][name]:.3f}"


def _best(metrics: Mapping[str, Any]) -> str:
    return max(metrics["test"], key=lambda model: metrics["test"][model][metrics["main_metric"]])


def is_tied(best: Sequence[float], other: Sequence[float], *, test_to_training: float) -> bool:
    """Return whether the 95 % interval of the mean difference over folds reaches zero, as `fold_difference`."""
    found = fold_difference(best, other, test_to_training=test_to_training)
    return found is None or found.low <= 0


def _tied(metrics: Mapping[str, Any], best: str) -> list[str]:
    """Return the models from which the folds do not distinguish the best one."""
    values = {model: [value for value in own if value is not None] for model, own in metrics["folds"].items()}
    # all rows that are not test rows of a fold
    ratio = fmean(own["test"] / (own["train"] + own["validation"]) for own in metrics["rows"])
    return [model for model in values if model != best and is_tied(values[best], values[model], test_to_training=ratio)]


def _result(metrics: Mapping[str, Any]) -> list[Any]:
    main, mean = metrics["main_metric"], metrics["test"]
    names = overall(next(iter(mean.values())))[:MAX_METRICS]
    rows = [
        [label_of(model), *(mean_cell(metrics, model, name) for name in names), metrics["best_folds"][model]]
        for model in mean
    ]
    caption = "Mean and standard deviation over the folds, and the number of folds in which each model is best."
    few = [name for name in names if metrics["defined_folds"][name] < len(metrics["rows"])]
    if few:
        counts = ", ".join(f"{metrics['defined_folds'][name]} define {title(name)}" for name in few)
        caption += f" Folds that do not define a metric are left out: of {len(metrics['rows'])} folds, {counts}."
    is_defined = main not in metrics["undefined"]
    winner = None
    if is_defined and len(mean) > 1 and not _tied(metrics, _best(metrics)):
        winner = list(mean).index(_best(metrics))
        caption += (
            " The marked model is distinguished from all others: the 95 % intervals of the mean differences over "
            "folds, by Student's t with Nadeau and Bengio's correction for overlapping training rows, are above 0."
        )
    blocks: list[Any] = [Table(["model", *map(title, names), "best in folds"], rows, caption=caption, winner=winner)]
    if is_defined:
        folds = {
            model: [np.nan if value is None else value for value in own] for model, own in metrics["folds"].items()
        }
        names_of_folds = [f"fold {k}" for k in range(len(metrics["rows"]))]
        figure = dot_plot(names_of_folds, folds, label=f"{title(main)}, test rows")
        caption = "Each fold. Where all models move together, the folds differ in difficulty."
        blocks.append(picture(figure, caption))
    if "pooled" in metrics:
        first = next(iter(metrics["differences"]))
        gaps = {name: _gap(gap) for name, gap in metrics["differences"][first].items()}
        rows = [[label_of(model), own[main], gaps.get(model)] for model, own in metrics["pooled"].items()]
        caption = (
            "All rows together, predicted out-of-fold. If folds have different means (genes, proteins), this can be "
            "far below the mean over folds."
        )
        header = ["model", title(main), f"{label_of(first)} minus model, 95 % interval"]
        blocks.append(Table(header, rows, caption=caption))
    return blocks


def _gap(gap: Mapping[str, float]) -> str:
    value, low, high = (signed(gap[name], 4) for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"
