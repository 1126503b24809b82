"""Page of simulated rounds: hits found and best value by round, as means and intervals over seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from subquad.bio.compared_models import colour_of
from subquad.bio.design_search.page import setting_text
from subquad.reporting.page import Picture, Section, Table, page, picture
from subquad.reporting.statistics import NOT_CLEAR, verdict
from subquad.reporting.style import INK, literal, tidy

__all__ = ["card", "interval_over_seeds", "render", "result_table", "summarize"]

TITLES = {
    "ensemble": "ensemble",
    "gp": "Gaussian process",
    "ridge": "additive (ridge)",
    "random": "random",
}
COLOURS = {**{name: colour_of(name) for name in ("ensemble", "gp", "ridge")}, "random": INK}
CONFIDENCE = 0.95
MIN_SEEDS = 3
"""Minimum number of seeds for an interval."""
MIN_GAP = 1.0
"""Largest difference in hits that does not matter."""


def interval_over_seeds(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean and both ends of the 95 % interval of Student's t over seeds; NaN ends for fewer than three.

    Args:
        values: `(seeds, …)`.
    """
    from scipy.stats import t

    values = np.asarray(values, dtype=np.float64)
    mean, count = values.mean(0), len(values)
    if count < MIN_SEEDS:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    half = t.ppf(0.5 + CONFIDENCE / 2, count - 1) * values.std(0, ddof=1) / np.sqrt(count)
    return mean, mean - half, mean + half


def summarize(found: Mapping[str, Sequence[Mapping[str, Any]]], sign: int) -> dict[str, Any]:
    """Return mean and interval of hits and best value of each strategy, and its difference to the first strategy.

    Args:
        found: Results of `replay` by strategy, one per seed, in the order of the seeds.
        sign: 1 if the target is maximized, -1 if it is minimized.
    """
    summary, first = {}, next(iter(found))
    for name, runs in found.items():
        own: dict[str, Any] = {}
        for key in ("hits", "best"):
            mean, low, high = interval_over_seeds(np.array([run[key] for run in runs]))
            own[key] = {"mean": mean.tolist(), "low": _known(low), "high": _known(high)}
        own["measured"] = float(np.mean([run["measured"] for run in runs]))
        own["cpu_seconds"] = round(sum(run["cpu_seconds"] for run in runs), 2)
        if name != first:
            gap = np.array([a["hits"][-1] - b["hits"][-1] for a, b in zip(found[first], runs, strict=True)])
            mean, low, high = interval_over_seeds(gap)
            own["difference"] = {"value": float(mean), "low": _known(low), "high": _known(high)}
            own["difference"]["verdict"] = verdict(*own["difference"].values(), threshold=MIN_GAP)
        summary[name] = own
    return {"sign": sign, "strategies": summary}


def _known(values: np.ndarray) -> Any:
    """Return an array as JSON, with None for NaN."""
    return [None if np.isnan(value) else float(value) for value in values] if values.ndim else _known(values[None])[0]


def render(metrics: Mapping[str, Any], name: str) -> str:
    """Return the page as HTML.

    Args:
        metrics: Contents of `metrics.json`.
        name: Name of the table.
    """
    settings = metrics["settings"]
    blocks = [result_table(metrics), _difference_text(metrics), *_figures(metrics)]
    return page(
        f"Simulated rounds: {name}",
        lead=lead(metrics),
        sections=[Section("Result", blocks), Section("Method", _method(settings))],
    )


def card(metrics: Mapping[str, Any], name: str) -> str:
    """Return the README of the folder."""
    return f"# Simulated rounds: {name}\n\n{lead(metrics)}\n\nOpen report.html.\n"


def lead(metrics: Mapping[str, Any]) -> str:
    """Return the result in sentences."""
    settings, strategies = metrics["settings"], metrics["strategies"]
    rounds, size = settings["rounds"], metrics["batch_size"]
    own = ", ".join(f"{TITLES[name]} {one['hits']['mean'][-1]:.1f}" for name, one in strategies.items())
    seeds = len(settings["seeds"])
    return (
        f"Of {metrics['rows']:,} variants, {metrics['hits']:,} are hits ({metrics['hit_text']}). After {rounds} rounds "
        f"of {size} from {settings['start_rows']} random start rows, the strategies found on average: {own} "
        f"({seeds} {'seed' if seeds == 1 else 'seeds'}). {_short_text(metrics)}{metrics['direction']}"
    )


def result_table(metrics: Mapping[str, Any]) -> Table:
    """Return hits, best value and difference to the first strategy, one row per strategy."""
    rows = []
    for name, own in metrics["strategies"].items():
        gap = own.get("difference")
        difference = None if gap is None else f"{gap['value']:+.1f}{_between(gap, '{:+.1f}')}: {gap['verdict']}"
        hits, best = ({side: one[side][-1] for side in ("mean", "low", "high")} for one in (own["hits"], own["best"]))
        if hits["low"] is not None:
            hits |= {"low": max(hits["low"], 0), "high": min(hits["high"], metrics["hits"])}
        cells = [f"{hits['mean']:.1f}{_between(hits, '{:.1f}')}", f"{best['mean']:.3g}{_between(best, '{:.3g}')}"]
        rows.append([TITLES[name], *cells, difference, f"{own['cpu_seconds']:.0f}"])
    first = TITLES[next(iter(metrics["strategies"]))]
    header = ["strategy", "hits found", f"best {metrics['target']}", f"hits: {first} less strategy", "CPU seconds"]
    caption = (
        f"After {metrics['settings']['rounds']} rounds, of {metrics['hits']:,} hits, those among the start rows "
        "included. Mean over seeds, with the 95 % interval (Student's t) of three or more seeds."
    )
    return Table(header, rows, caption=caption)


def _between(values: Mapping[str, Any], form: str) -> str:
    if values["low"] is None:
        return ""
    return f" ({form.format(values['low'])} to {form.format(values['high'])})"


def _difference_text(metrics: Mapping[str, Any]) -> str:
    seeds = len(metrics["settings"]["seeds"])
    if seeds < MIN_SEEDS:
        few = f"{'one seed' if seeds == 1 else f'{seeds} seeds'}, fewer than the {MIN_SEEDS} that an interval needs,"
        return f"With {few} there is no evidence that a strategy is better than another."
    gaps = {name: own["difference"] for name, own in metrics["strategies"].items() if "difference" in own}
    ties = [TITLES[name] for name, gap in gaps.items() if gap["verdict"] == NOT_CLEAR]
    first = TITLES[next(iter(metrics["strategies"]))]
    if not gaps:
        return ""
    if not ties:
        return f"The seeds separate {first} from all other strategies."
    return (
        f"The seeds do not separate {first} from {', '.join(ties)}: the 95 % interval of the difference in hits "
        "includes 0. Strategies of one seed share their start rows, so that the differences are paired."
    )


def _short_text(metrics: Mapping[str, Any]) -> str:
    """Return which strategies measured fewer rows than stated, because too few were far enough from each other."""
    settings = metrics["settings"]
    stated = settings["start_rows"] + settings["rounds"] * metrics["batch_size"]
    own = {TITLES[name]: one["measured"] for name, one in metrics["strategies"].items() if one["measured"] < stated}
    if not own:
        return ""
    texts = ", ".join(f"{name} {value:,.1f}" for name, value in own.items())
    return (
        f"Too few candidates of a round differ from each other by --min-distance {settings['min_distance']}, so that "
        f"fewer than {stated:,} rows were measured (mean over seeds): {texts}. "
    )


def _figures(metrics: Mapping[str, Any]) -> list[Picture]:
    size, limits = metrics["batch_size"], {"hits": (0.0, float(metrics["hits"])), "best": (-np.inf, np.inf)}
    captions = {
        "hits": f"Hits among the start rows (round 0) and after each round of {size} measurements.",
        "best": "Best measurement so far. Both: mean and 95 % interval over seeds.",
    }
    labels = {"hits": "hits found", "best": f"best {metrics['target']}"}
    return [picture(_curves(metrics, key, labels[key], limits[key]), captions[key], is_half=True) for key in labels]


def _curves(metrics: Mapping[str, Any], key: str, label: str, limits: tuple[float, float]) -> Figure:
    figure = Figure(figsize=(5.2, 4.0), layout="constrained")
    axes, strategies = figure.add_subplot(), metrics["strategies"]
    rounds = np.arange(metrics["settings"]["rounds"] + 1)
    for k, (name, own) in enumerate(strategies.items()):
        mean, colour = np.array(own[key]["mean"]), COLOURS[name]
        # intervals side by side, so that none hides another
        x = rounds + 0.07 * (k - (len(strategies) - 1) / 2)
        axes.plot(x, mean, "o-", color=colour, markersize=4, linewidth=1.6, label=TITLES[name])
        if own[key]["low"][-1] is not None:
            low, high = (np.array(own[key][side], dtype=np.float64).clip(*limits) for side in ("low", "high"))
            axes.vlines(x, low, high, color=colour, alpha=0.45, linewidth=1.4)
    axes.set(xlabel="round", ylabel=literal(label))
    axes.set_xticks(rounds)
    tidy(axes)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    return figure


def _method(settings: Mapping[str, Any]) -> list[str | Table]:
    rows = [
        [name.replace("_", " "), setting_text(settings[name])]
        for name in METHOD
        if settings[name] not in (None, [], "")
    ]
    return [
        "In each round every strategy is fitted to the rows that it measured so far, and ranks all others by the "
        "acquisition function; a fifth of the measured rows selects hyperparameters and weights of the ensemble. The "
        "measurements of the other rows are hidden from it. Ridge has no standard deviation and ranks by its "
        "prediction, and so does an ensemble whose weight is all on one model with a single member.",
        Table(["setting", "value"], rows, caption="config.json holds all settings."),
    ]


METHOD = (
    "acquisition",
    "beta",
    "diversity",
    "min_distance",
    "models",
    "tokens",
    "ensemble_size",
    "start_rows",
    "rounds",
    "seeds",
    "hit_fraction",
    "assay_rows",
)
"""Settings that the page lists."""
