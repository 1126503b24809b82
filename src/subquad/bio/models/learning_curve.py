"""Learning curve: the main metric of all models trained on fewer rows. Costs one fit per size and repetition."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from subquad.bio.data.dataset import Dataset
from subquad.bio.models.fit import fit_models
from subquad.bio.settings import MIN_CURVE_ROWS, FitSettings
from subquad.bio.splits.split import fewer_rows
from subquad.errors import SubquadError
from subquad.progress import say
from subquad.runs.folder import WORK


def learning_curve(
    dataset: Dataset, settings: FitSettings, metrics: Mapping[str, Any], *, directory: Path, seed: int, quiet: bool
) -> list[dict[str, Any]]:
    """Return the main metric on the test rows of models trained on fewer rows, smallest training set first.

    Args:
        dataset: Inputs, targets and split of the whole fit.
        settings: Settings of the fit, with the sizes of the curve.
        metrics: Metrics of the fit on all training rows, which are the last point.
        directory: Folder of the fits, one folder for each.
        seed: Seed of the random subsets.
        quiet: Show no progress.

    Returns:
        For each size: `rows`, the mean over the subsets by model, and their standard deviation `std` if there are
        several. Empty if no size is left beside all training rows, which are no curve.
    """
    main, names = metrics["main_metric"], tuple(metrics["test"])
    count = len(dataset.split["train"])
    points = [{"rows": count, **{name: metrics["test"][name][main] for name in names}}]
    halves = [count // 2**halving for halving in range(1, settings.learning_curve + 1)]
    fewer = replace(settings, learning_curve=0, learning_sizes=(), stack_folds=1)
    wanted = sorted(set(settings.learning_sizes), reverse=True) or halves
    sizes = [size for size in wanted if MIN_CURVE_ROWS <= size < count]
    if len(sizes) < len(wanted):
        dropped = ", ".join(f"{size:,}" for size in wanted if size not in sizes)
        say(
            f"learning curve: left out {dropped} rows; a size must be at least {MIN_CURVE_ROWS} and below the number "
            f"of training rows, {count:,}",
            quiet=quiet,
        )
    for size in sizes:
        found = []
        for repeat in range(settings.learning_repeats):
            say(f"learning curve: {size:,} rows, subset {repeat + 1} of {settings.learning_repeats}", quiet=quiet)
            folder = directory / WORK / f"rows-{size}-{repeat}"
            folder.mkdir(parents=True, exist_ok=True)
            draws = [np.random.default_rng([seed, repeat, k]) for k in range(2)]
            own = replace(dataset, split=fewer_rows(dataset.split, size, *draws))
            try:
                one = fit_models(own, fewer, directory=folder, seed=seed + repeat, quiet=True)
            except SubquadError as error:
                say(f"learning curve: subset left out, {error}", quiet=quiet)
                continue
            found.append({name: one.metrics["test"][name][main] for name in names})
        if found:
            points.insert(0, _point(size, found))
    if len(points) < 2:
        say("learning curve: none, because no size is left beside all training rows", quiet=quiet)
        return []
    return points


def _point(size: int, found: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    values = {name: [one[name] for one in found] for name in found[0]}
    point: dict[str, Any] = {"rows": size, **{name: fmean(own) for name, own in values.items()}}
    return point | ({"std": {name: stdev(own) for name, own in values.items()}} if len(found) > 1 else {})
