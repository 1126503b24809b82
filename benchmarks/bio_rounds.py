"""Replay of rounds of proposing and measuring on a complete assay: hits found by each strategy.

Run: python benchmarks/bio_rounds.py [ASSAY] [--direction maximize] [--rounds 5] [--size 20] [--start 50] [--seeds 3]
     [--rows N] [--quick]

Each strategy starts from the same random rows, and in each round picks from the rows that it has not measured, by the
upper confidence bound of `subquad bio design`: an ensemble of ridge, boosting and Lyra with small budgets, a Gaussian
process, ridge, which has no standard deviation, or chance. Hits are the best percent of the assay. The last line is
JSON: for each strategy the hits of every seed.
"""

import argparse
import json

import numpy as np

from subquad.bio.compared_models import NETWORKS
from subquad.bio.data.dataset import Dataset, Target
from subquad.bio.data.table import read_table
from subquad.bio.design_search.acquisition import make_acquisition
from subquad.bio.design_search.batch import pick_batch
from subquad.bio.features.substitutions import reference_of
from subquad.bio.models.baselines import fit_baseline, fit_gp, fit_ridge, refit_ridge
from subquad.bio.models.fit import fit_network
from subquad.bio.models.members import Members, deviation
from subquad.bio.models.stacking import combine, fit_stacking
from subquad.bio.models.training_data import prepare
from subquad.bio.settings import FitSettings

STRATEGIES = ("ensemble", "gp", "ridge", "random")
MODELS = ("ridge", "boosting", "lyra")
DIVERSITY, HIT_FRACTION = 0.2, 0.01


def read_assay(path, rows):
    table = read_table(path, FitSettings(lengths="vary"))
    groups = {}
    for row in np.flatnonzero(table.has_target):
        groups.setdefault(table.sequences[row], []).append(int(row))
    groups = list(groups.values())
    if rows is not None and len(groups) > rows:
        groups = [groups[k] for k in np.sort(np.random.default_rng(0).choice(len(groups), rows, replace=False))]
    y = np.array([table.target.y[group, 0].mean() for group in groups])
    return table.inputs.take(np.array([group[0] for group in groups])), y


def visible(inputs, y, known, random):
    """Return the measured rows, a fifth of which select hyperparameters; measurements of the others are hidden."""
    shuffled, hidden = random.permutation(known), np.full((len(y), 1), np.nan)
    count = max(10, int(0.2 * len(known)))
    hidden[known, 0] = y[known]
    split = {"train": np.sort(shuffled[count:]), "validation": np.sort(shuffled[:count]), "test": known[:0]}
    return Dataset(inputs=inputs, target=Target(task_type="regression", y=hidden), split=split)


def ensemble(dataset, pool, seed, tokens):
    data, fitted = prepare(dataset), {}
    budget = FitSettings(tokens=tokens, ensemble_size=2)
    validation, truth = dataset.part("validation")
    for name in MODELS:
        if name in NETWORKS:
            fitted[name] = fit_network(name, data, budget, ridge=fitted.get("ridge"), seed=seed)
        else:
            fitted[name] = fit_baseline(name, dataset, seed=seed, iterations=60)
    stacking = fit_stacking(truth, {name: model.predict(validation) for name, model in fitted.items()})
    return combine(stacking, {name: model.members(pool) for name, model in fitted.items()})


def members_of(strategy, dataset, known, pool, seed, tokens):
    if strategy == "gp":
        return fit_gp(dataset, seed=seed).members(pool)
    if strategy == "ensemble":
        return ensemble(dataset, pool, seed, tokens)
    ridge = fit_ridge(dataset, seed=seed)
    linear = refit_ridge(ridge, dataset, ridge.features.matrix(dataset.inputs), np.sort(known))
    return Members.of_equals([linear.predict(ridge.features.matrix(pool), "regression")])


def choose(strategy, inputs, y, known, pool, options, *, seed, random):
    if strategy == "random":
        return random.choice(pool, options.size, replace=False)
    dataset = visible(inputs, y, known, random)
    members = members_of(strategy, dataset, known, inputs.take(pool), seed, options.tokens)
    each = np.asarray(members.each)[..., 0]
    acquisition, _ = make_acquisition("ucb", options.direction, beta=None, members=len(each), best=None)
    values = acquisition.value(members.mean[:, 0], deviation(each, members.weights))
    codes = inputs.codes[pool] if inputs.is_aligned else None
    reference = reference_of(inputs.codes, inputs.letters) if inputs.is_aligned else None
    scale = DIVERSITY * float(values.max() - np.median(values))
    return pool[pick_batch(values, codes, reference, number=options.size, scale=scale)]


def replay(strategy, inputs, y, is_hit, options, seed):
    known = np.sort(np.random.default_rng(seed).choice(len(y), options.start, replace=False))
    for number in range(options.rounds):
        pool = np.setdiff1d(np.arange(len(y)), known)
        random = np.random.default_rng([seed, number])
        chosen = choose(strategy, inputs, y, known, pool, options, seed=seed + 1000 * number, random=random)
        known = np.concatenate([known, chosen])
    return int(is_hit[known].sum())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("assay", nargs="?", default="example:tdp43")
    parser.add_argument("--direction", choices=("maximize", "minimize"), default="maximize")
    for name, value in (("rounds", 5), ("size", 20), ("start", 50), ("seeds", 3), ("tokens", 100_000), ("rows", None)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.rows, options.rounds, options.seeds, options.tokens = 200, 1, 1, 2000
    inputs, y = read_assay(options.assay, options.rows)
    good = -y if options.direction == "minimize" else y
    is_hit = good >= np.sort(good)[-max(1, int(np.ceil(HIT_FRACTION * len(y))))]
    hits = {
        name: [replay(name, inputs, y, is_hit, options, seed) for seed in range(options.seeds)] for name in STRATEGIES
    }
    print(f"{len(y):,} variants, {is_hit.sum()} hits")
    for name, found in hits.items():
        print(f"{name:10}{np.mean(found):6.1f}  {found}")
    print(json.dumps({"benchmark": "bio_rounds", "hits": hits}))


if __name__ == "__main__":
    main()
