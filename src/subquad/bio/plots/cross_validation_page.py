"""The page of a cross-validation: means and spread over the folds, each fold, all rows together. Words only."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from subquad.bio.metrics.scores import title
from subquad.bio.plots import figures as plots
from subquad.bio.plots.run_files import WORDS
from subquad.reporting.page import Link, Section, Table, page, picture

__all__ = ["is_level", "render", "verdict"]


def render(metrics: Mapping[str, Any], name: str, *, how: str) -> str:
    """Return the page.

    Args:
        metrics: contents of `metrics.json`.
        name: the page's title.
        how: the first fold was cut, in words.
    """
    return page(name, lead=verdict(metrics), sections=_sections(metrics, how))


def verdict(metrics: Mapping[str, Any]) -> str:
    """Return who wins as the mean of the folds, and from whom the folds do not tell it."""
    main, mean, spread = metrics["main_metric"], metrics["mean"], metrics["spread"]
    best = max(mean, key=lambda model: mean[model][main])
    others = ", ".join(f"{WORDS[model]} {own[main]:.3f}" for model, own in mean.items() if model != best)
    count = len(metrics["rows"])
    level = [WORDS[model] for model, own in metrics["folds"].items() if is_level(metrics["folds"][best], own)]
    unclear = f" The folds do not tell it from {', '.join(level)}." if level else ""
    return (
        f"As the mean of {count} folds the winner is: {WORDS[best]}, {title(main)} {mean[best][main]:.3f} ± "
        f"{spread[best][main]:.3f} ({others}); it is first in {metrics['first'][best]} of {count}.{unclear}"
    )


def is_level(best: Sequence[float], other: Sequence[float]) -> bool:
    """Return whether the mean lead over the folds is within two standard errors of nought."""
    leads = np.subtract(best, other)
    return bool(leads.any()) and leads.mean() <= 2 * leads.std(ddof=1) / len(leads) ** 0.5


def _sections(metrics: Mapping[str, Any], how: str) -> list[Section]:
    main, mean, spread, folds = metrics["main_metric"], metrics["mean"], metrics["spread"], metrics["folds"]
    names = [name for name in mean["net"] if ":" not in name][:4]
    best = max(mean, key=lambda model: mean[model][main])
    rows = [
        [WORDS[model], *(f"{own[name]:.3f} ± {spread[model][name]:.3f}" for name in names), metrics["first"][model]]
        for model, own in mean.items()
    ]
    said = "Mean and standard deviation over the folds; in how many folds a model is first."
    blocks: list[Any] = [
        Table(["model", *map(title, names), "first"], rows, caption=said, winner=list(mean).index(best)),
        picture(
            plots.groups(
                [f"fold {k}" for k in range(len(metrics["rows"]))],
                folds,
                label=f"{title(main)}, test rows",
                words=WORDS,
            ),
            "Each fold: where all models move together the folds differ, not the models.",
        ),
    ]
    if "pooled" in metrics:
        rows = [
            [WORDS[model], own[main], *([_gap(metrics["differences"][model])] if model != "net" else ["–"])]
            for model, own in metrics["pooled"].items()
        ]
        said = (
            "All rows together, each predicted by models that did not see it. Where folds have levels of their own "
            "(genes, proteins), this can be far below the mean of the folds."
        )
        blocks.append(Table(["model", title(main), "net above it, 95 % interval"], rows, caption=said))
    links = [
        Link(f"fold {k}: {own['test']:,} test rows", f"fold-{k}/report.html") for k, own in enumerate(metrics["rows"])
    ]
    return [Section("Result", blocks), Section("Folds", [f"The first fold: {how}.", *links])]


def _gap(gap: Mapping[str, float]) -> str:
    return f"{gap['value']:+.4f} ({gap['low']:+.4f} to {gap['high']:+.4f})"
