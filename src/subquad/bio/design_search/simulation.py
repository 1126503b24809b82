"""Replay of the loop of proposing and measuring on a complete assay: each strategy picks from the unmeasured rows.

Each strategy and seed costs one fit per round. Axes: n rows, R rounds, m members.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from subquad.bio.compared_models import NETWORKS
from subquad.bio.data.dataset import Dataset, Inputs, Target
from subquad.bio.data.table import read_table
from subquad.bio.design_search.acquisition import draws_of_members, make_acquisition
from subquad.bio.design_search.batch import MAX_DRAWN, pick_batch
from subquad.bio.design_search.settings import RoundsSettings, Strategy
from subquad.bio.features.substitutions import reference_of
from subquad.bio.models.baselines import Baseline, fit_baseline, fit_gp, fit_ridge, refit_ridge
from subquad.bio.models.fit import fit_network
from subquad.bio.models.members import Members, deviation
from subquad.bio.models.stacking import combine, fit_stacking
from subquad.bio.models.support import sign_of
from subquad.bio.models.training_data import prepare
from subquad.bio.settings import FitSettings
from subquad.errors import SubquadError
from subquad.runs.records import check_record, damaged, read_record
from subquad.runs.storage import write_json

__all__ = ["Assay", "read_assay", "replay"]

VALIDATION_FRACTION, MIN_VALIDATION = 0.2, 10
"""Measured rows that select hyperparameters and weights of the ensemble."""
BOOSTING_ITERATIONS = 60
"""Maximum number of trees of boosting in the ensemble."""


@dataclass(frozen=True, kw_only=True)
class Assay:
    """All variants of an assay with their measurements, each sequence once."""

    name: str
    """Column of the measurements."""
    inputs: Inputs
    y: np.ndarray
    """`(n,)` measurements; the mean of repeated sequences."""
    sign: int
    """1 to maximize, -1 to minimize."""
    reference: np.ndarray | None
    """`(L,)` most common letter at each position; None if the sequences are not aligned."""
    hits: np.ndarray
    """`(n,)` bool: the best rows."""


def read_assay(path: Path | str, settings: RoundsSettings) -> tuple[Assay, list[str]]:
    """Return the rows of an assay with a measurement, and remarks.

    Raises:
        SubquadError: The table cannot be read, has no single column of measurements, too few rows for the rounds, or
            sequences of several lengths although there is a minimum distance.
    """
    target = () if settings.target is None else (settings.target,)
    columns = {name: getattr(settings, name) for name in ("sequence", "mutant", "wild_type")}
    table = read_table(path, FitSettings(target=target, lengths="vary", **columns))
    assert table.target is not None
    if table.target.task_type != "regression" or table.target.outputs != 1:
        raise SubquadError(f"{table.path}: --simulate needs one column of measurements; select it with --target")
    if settings.min_distance > 1 and not table.inputs.is_aligned:
        raise SubquadError(
            f"{table.path}: --min-distance counts substitutions, and the sequences have several lengths; leave it out"
        )
    rows, values = np.flatnonzero(table.has_target), table.target.y[:, 0]
    first: dict[str, list[int]] = {}
    for row in rows:
        first.setdefault(table.sequences[row], []).append(int(row))
    groups = list(first.values())
    most, remarks = settings.assay_rows, list(table.remarks)
    if len(groups) < len(rows):
        remarks.append(f"{len(rows) - len(groups):,} rows repeat a sequence; their measurements were averaged")
    if most is not None and len(groups) > most:
        chosen = np.sort(np.random.default_rng(0).choice(len(groups), most, replace=False))
        remarks.append(f"{most:,} of {len(groups):,} sequences drawn at random (--assay-rows)")
        groups = [groups[k] for k in chosen]
    needed = settings.start_rows + settings.rounds * settings.batch_size
    if needed > len(groups):
        raise SubquadError(
            f"{table.path}: {len(groups):,} measured sequences are fewer than the {needed:,} of --start-rows and all "
            "rounds; choose smaller numbers"
        )
    inputs = table.inputs.take(np.array([own[0] for own in groups]))
    y = np.array([values[own].mean() for own in groups])
    sign = sign_of(settings.direction)
    count = max(1, int(np.ceil(settings.hit_fraction * len(y))))
    assay = Assay(
        name=table.target.names[0],
        inputs=inputs,
        y=y,
        sign=sign,
        reference=reference_of(inputs.codes, inputs.letters) if inputs.is_aligned and inputs.partner is None else None,
        hits=sign * y >= np.sort(sign * y)[-count],
    )
    return assay, remarks


def replay(
    assay: Assay,
    strategy: Strategy,
    settings: RoundsSettings,
    *,
    seed: int,
    path: Path,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Return what a strategy found in each round; finished rounds in the file `path` are not repeated.

    Args:
        assay: All measurements.
        strategy: What chooses the rows.
        settings: Number of rounds, batch size, acquisition and training budgets.
        seed: Seed of the start rows, which are the same for all strategies, and of the models.
        path: JSON file that holds the chosen rows after each round.
        advance: Called after each round.

    Returns:
        `hits` and `best` before the first and after each round, `(R + 1)` each, the number of rows `measured` in the
        end, which is smaller than stated if too few rows have the minimum distance, and `cpu_seconds`.

    Raises:
        SubquadError: The file with the finished rounds is damaged.
    """
    random = np.random.default_rng(seed)
    start = np.sort(random.choice(len(assay.y), settings.start_rows, replace=False))
    picks, seconds = _read_picks(path, start, len(assay.y)) if path.is_file() else ([], 0.0)
    for number in range(settings.rounds):
        if number >= len(picks):
            began = time.process_time()
            known = np.concatenate([start, *(np.array(own, dtype=np.int64) for own in picks)])
            pool = np.setdiff1d(np.arange(len(assay.y)), known)
            # one generator per round, so that a resumed replay draws the same numbers
            own_random = np.random.default_rng([seed, number])
            chosen = _choose(assay, strategy, settings, known, pool, seed=seed + 1000 * number, random=own_random)
            picks.append(pool[chosen].tolist())
            seconds += time.process_time() - began
            write_json(path, {"picks": picks, "cpu_seconds": round(seconds, 2)})
        advance()
    measured, hits, best = list(start), [], []
    for own in [[], *picks]:
        measured += own
        hits.append(int(assay.hits[measured].sum()))
        best.append(float(assay.sign * (assay.sign * assay.y[measured]).max()))
    return {"hits": hits, "best": best, "measured": len(measured), "cpu_seconds": round(seconds, 2)}


def _read_picks(path: Path, start: np.ndarray, count: int) -> tuple[list[list[int]], float]:
    """Return the rows that were chosen in each finished round, and the processor time in seconds.

    Args:
        path: File of a replay.
        start: Rows that were measured before the first round.
        count: Number of rows of the assay.

    Raises:
        SubquadError: The file is damaged.
    """
    remedy = "delete it, and the same command replays these rounds again"
    saved = read_record(path, remedy=remedy, picks=list[list], cpu_seconds=float)
    known = {*start.tolist()}
    for number, own in enumerate(saved["picks"], start=1):
        check_record({"picks": own}, f"{path}: round {number}", remedy=remedy, picks=list[int])
        for row in own:
            if row in known or not 0 <= row < count:
                mistake = f"round {number}: row {row} was measured before, or is none of the {count:,} of the assay"
                raise damaged(path, mistake, remedy=remedy)
            known.add(row)
    return saved["picks"], saved["cpu_seconds"]


def _choose(
    assay: Assay,
    strategy: Strategy,
    settings: RoundsSettings,
    known: np.ndarray,
    pool: np.ndarray,
    *,
    seed: int,
    random: np.random.Generator,
) -> np.ndarray:
    """Return the indices of the rows of the pool that a strategy measures next."""
    if strategy == "random":
        return random.choice(len(pool), settings.batch_size, replace=False)
    dataset = _dataset(assay, known, random)
    inputs = assay.inputs.take(pool)
    sample: Callable[[np.ndarray, int], np.ndarray] | None = None
    match strategy:
        case "gp":
            process = fit_gp(dataset, seed=seed)
            members = process.members(inputs)
            sample = partial(_posterior, process, inputs, seed)
        case "ridge":
            members = _ridge_members(dataset, known, inputs, seed=seed)
        case "ensemble":
            members = _ensemble_members(dataset, settings, inputs, seed=seed)
        case _:
            raise ValueError(f"no strategy {strategy!r}")
    best = float(assay.sign * (assay.sign * assay.y[known]).max())
    return _pick(assay, settings, pool, members, best=best, sample=sample, random=random)


def _posterior(process: Baseline, inputs: Inputs, seed: int, rows: np.ndarray, count: int) -> np.ndarray:
    return process.draws(inputs.take(rows), count, seed=seed)[..., 0]


def _pick(
    assay: Assay,
    settings: RoundsSettings,
    pool: np.ndarray,
    members: Members,
    *,
    best: float,
    sample: Callable[[np.ndarray, int], np.ndarray] | None,
    random: np.random.Generator,
) -> np.ndarray:
    """Return the indices of a diverse batch of the pool.

    Args:
        assay: Sequences.
        settings: Acquisition, batch size and diversity.
        pool: Rows to choose from.
        members: Predictions of the pool.
        best: Best measurement so far.
        sample: Function from indices of the pool and a number to samples of a posterior; None: members are drawn.
        random: Source of the draws.
    """
    each = np.asarray(members.each)[..., 0]
    mean, std = members.mean[:, 0], deviation(each, members.weights)
    # without a standard deviation there is only the prediction to rank by
    kind, beta = (settings.acquisition, settings.beta) if len(each) > 1 else ("ucb", None)
    acquisition, _ = make_acquisition(kind, settings.direction, beta=beta, members=len(each), best=best)
    values = acquisition.value(mean, std)
    rows = np.arange(len(pool))
    if kind == "thompson":
        rows = np.argsort(-values, kind="stable")[:MAX_DRAWN]
        count = settings.batch_size
        drawn = (
            draws_of_members(each[:, rows], members.weights, count, random) if sample is None else sample(rows, count)
        )
        values = assay.sign * drawn
    gain = float(values.max() - np.median(values))
    codes = None if assay.reference is None else assay.inputs.codes[pool][rows]
    chosen = pick_batch(
        values,
        codes,
        assay.reference,
        number=settings.batch_size,
        scale=settings.diversity * gain,
        min_distance=settings.min_distance,
    )
    return rows[chosen]


def _dataset(assay: Assay, known: np.ndarray, random: np.random.Generator) -> Dataset:
    """Return the measured rows, some of which select hyperparameters; measurements of the others are hidden."""
    shuffled = random.permutation(known)
    count = max(MIN_VALIDATION, int(VALIDATION_FRACTION * len(known)))
    y = np.full((len(assay.y), 1), np.nan)
    y[known, 0] = assay.y[known]
    target = Target(task_type="regression", y=y, names=(assay.name,))
    parts = {"train": np.sort(shuffled[count:]), "validation": np.sort(shuffled[:count])}
    return Dataset(
        inputs=assay.inputs, target=target, split={**parts, "test": np.empty(0, dtype=np.int64)}, weight=None
    )


def _ridge_members(dataset: Dataset, known: np.ndarray, inputs: Inputs, *, seed: int) -> Members:
    """Return the prediction of ridge, refitted to all measured rows with the penalty that the validation rows chose."""
    ridge = fit_ridge(dataset, seed=seed)
    linear = refit_ridge(ridge, dataset, ridge.features.matrix(dataset.inputs), np.sort(known))
    return Members.of_equals([linear.predict(ridge.features.matrix(inputs), "regression")])


def _ensemble_members(dataset: Dataset, settings: RoundsSettings, inputs: Inputs, *, seed: int) -> Members:
    """Return the prediction of an ensemble of some models, with small budgets.

    Its weights are chosen on the validation rows also where `fit` would fit all models five times more.
    """
    data, fitted = prepare(dataset), {}
    budget = FitSettings(tokens=settings.tokens, ensemble_size=settings.ensemble_size)
    validation, truth = dataset.part("validation")
    for name in settings.models:
        if name in NETWORKS:
            fitted[name] = fit_network(name, data, budget, ridge=fitted.get("ridge"), seed=seed)
        else:
            fitted[name] = fit_baseline(name, dataset, seed=seed, iterations=BOOSTING_ITERATIONS)
    found = {name: own.members(inputs) for name, own in fitted.items()}
    if len(found) == 1:
        return next(iter(found.values()))
    stacking = fit_stacking(truth, {name: own.predict(validation) for name, own in fitted.items()})
    return combine(stacking, found)
