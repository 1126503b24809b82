"""Page of a cross-validation: means and standard deviations over folds, each fold, and all rows out-of-fold."""

from collections.abc import Mapping
from statistics import fmean
from typing import Any

import numpy as np

from subquad.bio.compared_models import label_of
from subquad.bio.metrics.scores import METRICS, overall, title
from subquad.bio.plots.figures import dot_plot
from subquad.errors import counted
from subquad.reporting.metrics import difference_table
from subquad.reporting.page import Block, Link, Section, Table, page, picture
from subquad.reporting.statistics import NOT_CLEAR, Difference, fold_difference

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
    best, over = _best(metrics), counted(metrics["defined_folds"][main], "fold")
    value = f"{label_of(best)}, {title(main)} {mean[best][main]:.3f} ± {std[best][main]:.3f}"
    if len(mean) == 1:
        return f"Mean over {over}: {value}."
    unclear = [label_of(name) for name, gap in _gaps(metrics).items() if METRICS[main].verdict(gap) == NOT_CLEAR]
    text = f"Best on average over {over}: {value}; best in {metrics['best_folds'][best]} of them."
    return f"{text} No clear difference from {', '.join(unclear)}." if unclear else text


def mean_cell(metrics: Mapping[str, Any], model: str, name: str) -> str | None:
    """Return the mean of a metric and its standard deviation over the folds; None if no fold defines it."""
    if name in metrics["undefined"]:
        return None
    return f"{metrics['test'][model][name]:.3f} ± {metrics['std'][model][name]:.3f}"


def _best(metrics: Mapping[str, Any]) -> str:
    return max(metrics["test"], key=lambda model: metrics["test"][model][metrics["main_metric"]])


def _gaps(metrics: Mapping[str, Any]) -> dict[str, Difference | None]:
    """Return the differences of the best model from the others over folds; None of too few folds."""
    values = {model: [value for value in own if value is not None] for model, own in metrics["folds"].items()}
    # all rows that are not test rows of a fold
    ratio = fmean(own["test"] / (own["train"] + own["validation"]) for own in metrics["rows"])
    ours = values.pop(_best(metrics))
    return {model: fold_difference(ours, theirs, test_to_training=ratio) for model, theirs in values.items()}


def _result(metrics: Mapping[str, Any]) -> list[Block]:
    main, mean = metrics["main_metric"], metrics["test"]
    names = overall(next(iter(mean.values())))[:MAX_METRICS]
    rows = [
        [label_of(model), *(mean_cell(metrics, model, name) for name in names), metrics["best_folds"][model]]
        for model in mean
    ]
    caption = "Mean and standard deviation over the folds that define a metric, and the folds in which a model is best."
    blocks: list[Block] = [Table(["model", *map(title, names), "best in folds"], rows, caption=caption)]
    if main not in metrics["undefined"]:
        gaps = [(label_of(name), METRICS[main], gap) for name, gap in _gaps(metrics).items() if gap is not None]
        caption = (
            "Mean differences over folds, by Student's t with Nadeau and Bengio's correction for overlapping training "
            "rows."
        )
        if gaps:
            blocks.append(difference_table(gaps, what=f"{label_of(_best(metrics))} minus", caption=caption))
        folds = {
            model: [np.nan if value is None else value for value in own] for model, own in metrics["folds"].items()
        }
        figure = dot_plot([f"fold {k}" for k in range(len(metrics["rows"]))], folds, label=f"{title(main)}, test rows")
        blocks.append(picture(figure, "Each fold. Where all models move together, the folds differ in difficulty."))
    if "pooled" in metrics:
        first, gaps = next(iter(metrics["differences"].items()))
        caption = (
            "All rows together, predicted out-of-fold. If folds have different means (genes, proteins), this can be "
            "far below the mean over folds."
        )
        rows = [
            [
                label_of(model),
                own[main],
                METRICS[main].difference(Difference.read(gaps[model])) if model in gaps else None,
            ]
            for model, own in metrics["pooled"].items()
        ]
        header = ["model", title(main), f"{label_of(first)} minus model, 95 % interval"]
        blocks.append(Table(header, rows, caption=caption))
    return blocks
