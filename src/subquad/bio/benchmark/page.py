"""Results of a benchmark as an HTML page and as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from subquad.bio.benchmark.summary import COMPARISONS, MAX_LOSS, STATES
from subquad.bio.compared_models import COMPARED_MODELS, ENSEMBLE, colour_of, label_of, names_of
from subquad.bio.metrics.scores import METRICS
from subquad.reporting.page import Block, Picture, Section, Table, page, picture, signed
from subquad.reporting.statistics import VERDICTS
from subquad.reporting.style import GREEN, INK, literal, tidy

__all__ = ["markdown", "render", "summary_lines"]

MARKERS = {"lyra": "o", "variant": "o", "baseline": "|", "control": "|", "ensemble": "D"}
MARKER_SIZES = {"|": 9, "o": 6, "D": 4.2}
VERDICT_COLOURS = dict(zip(VERDICTS, (GREEN, "#9aa5b5", "#b4532a"), strict=True))
OUTLIER = 3.0
"""A difference of more than this factor times the 0.9 quantile of the differences is beyond the axis."""
NBSP = "\N{NO-BREAK SPACE}"

Results = Mapping[str, Any]


def render(results: Results) -> str:
    """Return the page as HTML.

    Args:
        results: Contents of `results.json`.
    """
    entries = results["tasks"]
    scored = [entry for entry in entries if entry["state"] == "scored"]
    first: list[Block] = [_comparisons(results)]
    if any("lyra_baseline" in entry["comparisons"] for entry in scored):
        first.append(_differences(scored))
    sections = [Section("Result", first)]
    for family, own in _families(scored).items():
        sections.append(Section(family, [*_tables(own), _values(own)]))
    published = _with_publication(entries)
    if published:
        sections.append(Section("Published results", [_published(published)]))
    excluded = _excluded(entries)
    if excluded:
        sections.append(Section("Not counted", [_exclusions(excluded)]))
    finished = [entry for entry in entries if "values" in entry]
    methods: list[Block] = [*_methods(results), *([_costs(finished)] if finished else [])]
    sections.append(Section("Methods", methods))
    return page(f"{results['tasks_file']}: {len(entries)} tasks", lead=_summary(results), sections=sections)


def markdown(results: Results) -> str:
    """Return the same tables as Markdown.

    Args:
        results: Contents of `results.json`.
    """
    entries = results["tasks"]
    scored = [entry for entry in entries if entry["state"] == "scored"]
    parts = [
        f"# {results['tasks_file']}: {len(entries)} tasks",
        _summary(results),
        *_methods(results),
        _comparisons(results).as_markdown(),
    ]
    for family, own in _families(scored).items():
        parts += [f"## {family}", *(table.as_markdown() for table in _tables(own))]
    if published := _with_publication(entries):
        parts += ["## Published results", _published(published).as_markdown()]
    if excluded := _excluded(entries):
        parts += ["## Not counted", _exclusions(excluded).as_markdown()]
    return "\n\n".join(parts) + "\n"


def summary_lines(results: Results) -> list[str]:
    """Return one line per family and one for all tasks."""
    return [
        "; ".join([f"{family}: {counts['scored']} scored", *_verdicts(counts)])
        for family, counts in results["summary"].items()
    ]


def _verdicts(counts: Mapping[str, Any]) -> list[str]:
    """Return the verdicts of each comparison, as text."""
    return [
        f"{title}: {', '.join(f'{one} {counts[name][one]}' for one in VERDICTS)}"
        for name, title in COMPARISONS.items()
        if counts[name]["tasks"]
    ]


def _families(entries: Sequence[Results]) -> dict[str, list[Results]]:
    names = dict.fromkeys(entry["family"] for entry in entries)
    return {name: [entry for entry in entries if entry["family"] == name] for name in names}


def _with_publication(entries: Sequence[Results]) -> list[Results]:
    return [entry for entry in entries if entry["published"] and "values" in entry]


def _excluded(entries: Sequence[Results]) -> list[Results]:
    return [entry for entry in entries if entry["state"] != "scored" or entry["messages"]]


def _summary(results: Results) -> str:
    counts = results["summary"]["all"]
    parts = [f"{counts['scored']} of {len(results['tasks'])} tasks are scored"]
    parts += _verdicts(counts)
    others = {"ensemble_single": "the best single model", "ensemble_selected": "the one that validation rows choose"}
    for name, other in others.items():
        own = counts[name]
        if own["tasks"]:
            close = f"{own['close']} of {own['tasks']} ({100 * own['close'] / own['tasks']:.0f} %)"
            parts.append(f"ensemble neither clearly worse than {other} nor over {MAX_LOSS} below it: {close}")
    return "; ".join(parts) + "."


def _comparisons(results: Results) -> Table:
    rows: list[list[Any]] = []
    shown = [name for name in COMPARISONS if results["summary"]["all"][name]["tasks"]]
    for family, counts in results["summary"].items():
        cells = [
            " / ".join(str(counts[name][one]) for one in VERDICTS) if counts[name]["tasks"] else None for name in shown
        ]
        excluded = sum(counts[state] for state in STATES if state != "scored")
        rows.append([family, counts["scored"], *cells, excluded])
    whole = results["summary"]["all"]
    if whole["scored"] > 1:
        cells = [" / ".join(str(whole[name]["after_holm"][one]) for one in VERDICTS) for name in shown]
        rows.append(["all, Holm", whole["scored"], *cells, None])
    seeds = results["settings"]["seeds"]
    fitted = {name for entry in results["tasks"] for name in entry.get("values", {})}
    baselines = [label_of(name) for name in names_of("baseline") if name in fitted]
    caption = (
        f"Number of tasks in which the first model is {' / '.join(VERDICTS)}: better or worse by more than matters, "
        f"with a 95 % interval that excludes 0. The best of the baselines ({', '.join(baselines)}) is chosen on the "
        "test rows, and Holm corrects for the number of tasks."
    )
    if len(seeds) == 1:
        caption += " One seed: the intervals lack the variation between trainings."
    return Table(
        header=["family", "scored", *(COMPARISONS[name] for name in shown), "not counted"],
        rows=rows,
        caption=caption,
        winner=list(results["summary"]).index("all"),
    )


def _tables(entries: Sequence[Results]) -> list[Table]:
    # tasks of base pairs have other baselines, and thus a table of their own
    by_models: dict[tuple[str, ...], list[Results]] = {}
    for entry in entries:
        by_models.setdefault(tuple(name for name in COMPARED_MODELS if name in entry["values"]), []).append(entry)
    return [_table(own, models) for models, own in by_models.items()]


def _table(entries: Sequence[Results], models: Sequence[str]) -> Table:
    titles = [METRICS[entry["main"]].title for entry in entries]
    usual = max(titles, key=titles.count)
    rows = []
    for entry, title in zip(entries, titles, strict=True):
        row = [_short(entry) + (f" ({title})" if title != usual else ""), entry["rows"]["test"]]
        row += [_with_std(entry, name) for name in models]
        gaps = [entry["comparisons"].get(name) for name in ("lyra_baseline", "ensemble_single")]
        rows.append([*row, entry["weights"].get("lyra"), *(_interval(gap) for gap in gaps)])
    other = " (or the metric in brackets)" if len(set(titles)) > 1 else ""
    caption = (
        f"{usual}{other} on the test rows, the weight of Lyra in the ensemble, and differences with 95 % intervals."
    )
    if any(std is not None for entry in entries for std in entry["std"].values()):
        caption += " Means over seeds; ±: standard deviation over seeds."
    header = ["task", "test rows", *map(label_of, models), "weight of Lyra", "Lyra − best baseline"]
    return Table(header=[*header, "ensemble − best single model"], rows=rows, caption=caption)


def _interval(gap: Mapping[str, Any] | None) -> str | None:
    if gap is None:
        return None
    # without the leading zero, so that a row fits on the page
    value, low, high = (signed(gap[name], 3).replace("0.", ".", 1) for name in ("value", "low", "high"))
    # the only line break is before the verdict
    return f"{value}{NBSP}({low},{NBSP}{high}), {gap['verdict'].replace(' ', NBSP)}"


def _with_std(entry: Results, name: str) -> str | float:
    value, std = entry["values"][name], entry["std"][name]
    return value if std is None else f"{value:.3f} ±{std:.3f}".replace("±0.", "±.")


def _short(entry: Results) -> str:
    return entry["id"].removeprefix(f"{entry['family']}/")


def _costs(entries: Sequence[Results]) -> Table:
    models = [name for name in COMPARED_MODELS if any(name in entry["values"] for entry in entries)]
    models = [name for name in models if name not in names_of("ensemble")]
    rows = []
    for entry in entries:
        cells = [round(entry["cpu_seconds"][name]) if name in entry["cpu_seconds"] else None for name in models]
        rows.append([entry["id"], entry["rows"]["train"], *cells, round(entry["seconds"]), entry["memory_mb"]])
    return Table(
        header=["task", "training rows", *map(label_of, models), "total", "memory, MB"],
        rows=rows,
        caption="CPU seconds of each model, seconds in all (with reading and intervals), and peak memory.",
    )


def _published(entries: Sequence[Results]) -> Table:
    rows = []
    for entry in entries:
        name = entry["published_metric"] or entry["main"]
        values = entry["published_values"] or entry["values"]
        title = METRICS[name].title
        rows.append([entry["id"], title, values.get("lyra"), values.get(ENSEMBLE), entry["published"]])
    return Table(
        header=["task", "metric", label_of("lyra"), label_of(ENSEMBLE), "published"],
        rows=rows,
        caption="In the metric of the publication, if it is computed here. Published results are quoted from the task "
        "file; those on another split or other rows are not comparable.",
    )


def _exclusions(entries: Sequence[Results]) -> Table:
    rows = []
    for entry in entries:
        values, best = entry.get("values", {}), entry.get("best_baseline")
        reason = "; ".join([STATES[entry["state"]], *entry["messages"]])
        rows.append([entry["id"], entry.get("rows", {}).get("test"), values.get("lyra"), values.get(best), reason])
    return Table(header=["task", "test rows", label_of("lyra"), "best baseline", "reason"], rows=rows)


def _methods(results: Results) -> list[str]:
    machine, settings = results["machine"], results["settings"]
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    trees = settings["boosting_iterations"]
    seeds = " ".join(map(str, settings["seeds"]))
    return [
        f"{results['date']}, {machine['processor']}, {machine['cores']} cores, {machine['system']}; "
        f"{results['core_hours']:.2f} core-hours. {versions}.",
        f"Each task: at most {settings['train_rows']:,} training rows, {settings['tokens']:,} tokens of training per "
        f"network{f', at most {trees} trees' if trees else ''}, {'seeds' if len(settings['seeds']) > 1 else 'seed'} "
        f"{seeds}, one thread. All models are trained on the same rows and evaluated on the same test rows. "
        "Hyperparameters, stopping and weights were selected on validation rows (weights of tables with few of them on "
        "out-of-fold predictions of the training rows); the best baseline and the best single "
        "model, to which Lyra and the ensemble are compared, were chosen on the test rows. Intervals are from "
        "bootstrap samples of the test rows, widened by the variance between seeds (Student's t).",
    ]


def _differences(entries: Sequence[Results]) -> Picture:
    compared = [entry for entry in entries if "lyra_baseline" in entry.get("comparisons", {})]
    own = sorted(compared, key=lambda entry: entry["comparisons"]["lyra_baseline"]["value"])
    gaps = [entry["comparisons"]["lyra_baseline"] for entry in own]
    # a few far values must not compress the axis of all others
    most = OUTLIER * float(np.quantile([abs(gap["value"]) for gap in gaps], 0.9)) + 0.01
    figure = Figure(figsize=(8.6, 0.155 * len(own) + 1.1))
    axes = figure.add_subplot()
    for y, entry in enumerate(own):
        gap = entry["comparisons"]["lyra_baseline"]
        colour = VERDICT_COLOURS[gap["verdict"]]
        axes.plot([gap["low"], gap["high"]], [y, y], color=colour, linewidth=1.3, alpha=0.7, solid_capstyle="butt")
        axes.plot(gap["value"], y, "o", color=colour, markersize=3.8)
        if abs(gap["value"]) > most:
            side = -1 if gap["value"] < 0 else 1
            text = f"◀ {signed(gap['value'], 3)}" if side < 0 else f"{signed(gap['value'], 3)} ▶"
            axes.text(side * most, y, text, color=colour, fontsize=7, va="center", ha="left" if side < 0 else "right")
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(own)), [literal(entry["id"]) for entry in own], fontsize=6.6)
    axes.set_ylim(-0.8, len(own) - 0.2)
    ends = [gap[name] for gap in gaps for name in ("low", "high")]
    axes.set_xlim(max(1.05 * min(*ends, -0.01), -most), min(1.05 * max(*ends, 0.01), most))
    axes.set_xlabel("Lyra minus best baseline, main metric of the task")
    tidy(axes, grid="x")
    for label, colour in VERDICT_COLOURS.items():
        axes.plot([], [], "o-", color=colour, label=label, markersize=3.8, linewidth=1.3)
    # the rows are sorted, so that the upper left is free
    axes.legend(frameon=False, loc="upper left", fontsize=8)
    caption = "Difference to the best baseline in each task, with its 95 % interval; right of 0 Lyra is higher."
    if any(abs(gap["value"]) > most for gap in gaps):
        caption += " Arrows: beyond the axis."
    return picture(figure, caption)


def _values(entries: Sequence[Results]) -> Picture:
    figure = Figure(figsize=(8.6, 0.21 * len(entries) + 1.3))
    axes = figure.add_subplot()
    own = sorted(entries, key=lambda entry: entry["values"].get("lyra", 0.0))
    models = [name for name in COMPARED_MODELS if any(name in entry["values"] for entry in own)]
    for y, entry in enumerate(own):
        if entry["best_baseline"] and "lyra" in entry["values"]:
            ends = [entry["values"][entry["best_baseline"]], entry["values"]["lyra"]]
            axes.plot(ends, [y, y], color="#cdd3dd", linewidth=2.2, zorder=1)
    for name in models:
        known = [(entry["values"][name], y) for y, entry in enumerate(own) if name in entry["values"]]
        role = COMPARED_MODELS[name].role
        is_hollow, marker = role == "variant", MARKERS[role]
        axes.plot(
            *zip(*known, strict=True),
            marker,
            color=colour_of(name),
            markersize=MARKER_SIZES[marker],
            markeredgewidth=2 if marker == "|" else 1.1,
            markerfacecolor="white" if is_hollow else colour_of(name),
            zorder=3 if name == "lyra" else 2,
            label=label_of(name),
        )
    axes.set_yticks(range(len(own)), [literal(_short(entry)) for entry in own], fontsize=7.4)
    axes.set_ylim(-0.8, len(own) - 0.2)
    # a single failed fit must not compress the axis of all others
    left = min(value for entry in own for value in entry["values"].values())
    axes.set_xlim(left=max(-0.2, left - 0.03))
    titles = dict.fromkeys(METRICS[entry["main"]].title for entry in own)
    axes.set_xlabel(" or ".join(titles) + " on the test rows")
    tidy(axes, grid="x")
    axes.legend(
        frameon=False,
        fontsize=8,
        ncols=min(len(models), 6),
        loc="upper center",
        bbox_to_anchor=(0.45, -0.55 / figure.get_figheight()),
    )
    return picture(figure, "Main metric of each task; the bar connects Lyra and the best baseline.")
