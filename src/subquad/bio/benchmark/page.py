"""Results of a benchmark as an HTML page and as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from subquad.bio.benchmark.summary import MODELS, STATES
from subquad.bio.metrics.compared_models import COMPARED_MODELS, colour_of, label_of, names_of
from subquad.bio.metrics.scores import MIN_TEST_ROWS, TITLES
from subquad.bio.plots.maps import GREEN, INK
from subquad.reporting.page import Picture, Section, Table, page, picture, show

__all__ = ["markdown", "render", "summary_lines"]

MARKERS = {"network": "o", "baseline": "|", "stack": "D"}
MARKER_SIZES = {"|": 9, "o": 6, "D": 4.2}
HIGHER, EQUAL, LOWER = GREEN, "#9aa5b5", "#b4532a"

Results = Mapping[str, Any]
Block = str | Table | Picture


def render(results: Results) -> str:
    """Return the page as HTML.

    Args:
        results: Contents of `results.json`.
    """
    entries, labels = results["tasks"], _labels(results)
    scored = [entry for entry in entries if entry["state"] == "scored"]
    first: list[Block] = [_comparisons(results)]
    if any(entry.get("versus_baseline") for entry in scored):
        first.append(_differences(scored, labels))
    sections = [Section("Result", first)]
    for family, own in _families(scored).items():
        sections.append(Section(family, [*_tables(own, labels), _values(own, labels)]))
    published = _with_publication(entries)
    if published:
        sections.append(Section("Published results", [_published(published, labels)]))
    excluded = _excluded(entries)
    if excluded:
        sections.append(Section("Not counted", [_exclusions(excluded, labels)]))
    finished = [entry for entry in entries if "values" in entry]
    methods: list[Block] = [*_methods(results), *([_costs(finished, labels)] if finished else [])]
    sections.append(Section("Methods", methods))
    return page(f"{results['tasks_file']}: {len(entries)} tasks", lead=_summary(results), sections=sections)


def markdown(results: Results) -> str:
    """Return the same tables as Markdown.

    Args:
        results: Contents of `results.json`.
    """
    entries, labels = results["tasks"], _labels(results)
    scored = [entry for entry in entries if entry["state"] == "scored"]
    parts = [
        f"# {results['tasks_file']}: {len(entries)} tasks",
        _summary(results),
        *_methods(results),
        _as_markdown(_comparisons(results)),
    ]
    for family, own in _families(scored).items():
        parts += [f"## {family}", *(_as_markdown(table) for table in _tables(own, labels))]
    if published := _with_publication(entries):
        parts += ["## Published results", _as_markdown(_published(published, labels))]
    if excluded := _excluded(entries):
        parts += ["## Not counted", _as_markdown(_exclusions(excluded, labels))]
    return "\n\n".join(parts) + "\n"


def summary_lines(results: Results) -> list[str]:
    """Return one line per family and one for all tasks."""
    lines = []
    for family, counts in results["summary"].items():
        baseline = counts["baseline"]
        lines.append(
            f"{family}: {counts['scored']} scored; higher than the published network in "
            f"{_fraction(counts['paper'], 'higher')}; higher than the best baseline in "
            f"{_fraction(baseline, 'higher')}, not significantly lower in "
            f"{_fraction(baseline, 'not_significantly_lower')}; stack not significantly lower than the best model in "
            f"{_fraction(counts['stack'], 'not_significantly_lower')}"
        )
    return lines


def _families(entries: Sequence[Results]) -> dict[str, list[Results]]:
    names = dict.fromkeys(entry["family"] for entry in entries)
    return {name: [entry for entry in entries if entry["family"] == name] for name in names}


def _with_publication(entries: Sequence[Results]) -> list[Results]:
    return [entry for entry in entries if entry["published"] and "values" in entry]


def _excluded(entries: Sequence[Results]) -> list[Results]:
    return [entry for entry in entries if entry["state"] != "scored" or entry["messages"]]


def _labels(results: Results) -> dict[str, str]:
    """Return the label of each model; `net` is named by its preset."""
    return {**{name: label_of(name) for name in MODELS}, "net": label_of(results["settings"]["presets"][0])}


def _summary(results: Results) -> str:
    counts, net = results["summary"]["all"], _labels(results)["net"]
    parts = [f"{counts['scored']} of {len(results['tasks'])} tasks are scored"]
    if counts["paper"]["tasks"]:
        parts.append(f"{net} is higher than the published network in {_fraction(counts['paper'], 'higher')}")
    if counts["baseline"]["tasks"]:
        baseline = counts["baseline"]
        parts.append(
            f"higher than the best baseline in {_fraction(baseline, 'higher')}, and not significantly lower in "
            f"{_fraction(baseline, 'not_significantly_lower')}"
        )
    if counts["stack"]["tasks"]:
        stack = _fraction(counts["stack"], "not_significantly_lower")
        parts.append(f"the stack is not significantly lower than the best single model in {stack}")
    return "; ".join(parts) + "."


def _fraction(counts: Mapping[str, int], name: str) -> str:
    total = counts["tasks"]
    return f"{counts[name]} of {total} ({100 * counts[name] / total:.0f} %)" if total else "–"


def _comparisons(results: Results) -> Table:
    net = _labels(results)["net"]
    rows: list[list[Any]] = []
    for family, counts in results["summary"].items():
        cells = [_count(counts["paper"], "higher"), _count(counts["baseline"], "higher")]
        cells += [_count(counts["baseline"], name) for name in ("significantly_higher", "not_significantly_lower")]
        cells.append(_count(counts["stack"], "not_significantly_lower"))
        excluded = counts["small"] + counts["no training rows"] + counts["failed"]
        rows.append([family, counts["scored"], *cells, excluded])
    return Table(
        header=[
            "family",
            "scored",
            "> paper",
            "> baseline",
            "significant",
            "≥ baseline",
            "stack ≥ best",
            "not counted",
        ],
        rows=rows,
        caption=f"Main metric on the test rows. > paper: {net} is higher than the published network. > baseline: it is "
        "higher than the better of ridge and boosting (of ViennaRNA's two predictions for base pairs); significant: "
        "the 95 % interval of the difference is above 0; ≥ baseline: the interval is not below 0. Stack ≥ best: the "
        "stack is not significantly lower than the best single model. Not counted: fewer than "
        f"{MIN_TEST_ROWS} test rows, no training rows, or failed.",
        winner=len(rows) - 1,
    )


def _count(counts: Mapping[str, int], name: str) -> str:
    total = counts["tasks"]
    return f"{counts[name]} ({100 * counts[name] / total:.0f} %)" if total else "–"


def _tables(entries: Sequence[Results], labels: Mapping[str, str]) -> list[Table]:
    # tasks of base pairs have other baselines, and thus a table of their own
    by_models: dict[tuple[str, ...], list[Results]] = {}
    for entry in entries:
        by_models.setdefault(tuple(name for name in MODELS if name in entry["values"]), []).append(entry)
    return [_table(own, models, labels) for models, own in by_models.items()]


def _table(entries: Sequence[Results], models: Sequence[str], labels: Mapping[str, str]) -> Table:
    titles = [TITLES[entry["main"]] for entry in entries]
    usual = max(titles, key=titles.count)
    rows = []
    for entry, title in zip(entries, titles, strict=True):
        row = [_short(entry) + (f" ({title})" if title != usual else ""), entry["rows"]["test"]]
        row += [_with_std(entry, name) if name == "net" else entry["values"][name] for name in models]
        rows.append([*row, _interval(entry["versus_baseline"])])
    other = " (or the metric in brackets)" if len(set(titles)) > 1 else ""
    caption = f"{usual}{other} on the test rows, and the difference of {labels['net']} to the best baseline with its "
    caption += "95 % interval."
    if any(entry["std"]["net"] is not None for entry in entries):
        caption += f" Means over seeds; ±: standard deviation of {labels['net']} over seeds."
    header = ["task", "test rows", *(labels[name] for name in models), "versus best baseline"]
    return Table(header=header, rows=rows, caption=caption)


def _interval(gap: Mapping[str, float] | None) -> str | None:
    if gap is None:
        return None
    # without the leading zero, so that a row fits on the page
    value, low, high = (f"{gap[name]:+.3f}".replace("0.", ".", 1) for name in ("value", "low", "high"))
    return f"{value} ({low}, {high})"


def _with_std(entry: Results, name: str) -> str | float:
    value, std = entry["values"][name], entry["std"][name]
    return value if std is None else f"{value:.3f} ±{std:.3f}".replace("±0.", "±.")


def _short(entry: Results) -> str:
    return entry["id"].removeprefix(f"{entry['family']}/")


def _costs(entries: Sequence[Results], labels: Mapping[str, str]) -> Table:
    networks = [name for name in reversed(names_of("network")) if any(name in entry["values"] for entry in entries)]
    rows = []
    for entry in entries:
        runs = [run["seconds"] for run in entry["seeds"].values() if "test" in run]
        means = {name: sum(run.get(name, 0.0) for run in runs) / len(runs) for name in MODELS}
        others = sum(value for name, value in means.items() if name not in networks)
        cells = [round(value) for value in (*(means[name] for name in networks), others, entry["seconds"])]
        rows.append([entry["id"], entry["rows"]["train"], *cells, entry["memory_mb"]])
    return Table(
        header=["task", "training rows", *(labels[name] for name in networks), "other models", "total", "memory, MB"],
        rows=rows,
        caption="Seconds on one core (total: including reading and intervals), and peak memory.",
    )


def _published(entries: Sequence[Results], labels: Mapping[str, str]) -> Table:
    rows = []
    for entry in entries:
        name = entry["published_metric"] or entry["main"]
        values = entry["published_values"] or entry["values"]
        title = TITLES.get(name, name)
        rows.append([entry["id"], title, values["net"], values.get("stack"), entry["published"]])
    return Table(
        header=["task", "metric", labels["net"], "stack", "published"],
        rows=rows,
        caption="In the metric of the publication, if it is computed here. Published results are quoted from the task "
        "file; those on another split or other rows are not comparable.",
    )


def _exclusions(entries: Sequence[Results], labels: Mapping[str, str]) -> Table:
    rows = []
    for entry in entries:
        values, best = entry.get("values", {}), entry.get("best_baseline")
        reason = "; ".join([STATES[entry["state"]], *entry["messages"]])
        rows.append([entry["id"], entry.get("rows", {}).get("test"), values.get("net"), values.get(best), reason])
    return Table(header=["task", "test rows", labels["net"], "best baseline", "reason"], rows=rows)


def _methods(results: Results) -> list[str]:
    machine, settings = results["machine"], results["settings"]
    memory = f", {machine['memory_gb']:g} GiB" if machine["memory_gb"] else ""
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    trees = settings["boosting_iterations"]
    seeds = " ".join(map(str, settings["seeds"]))
    return [
        f"{results['date']}, {machine['processor']}, {machine['cores']} cores{memory}, {machine['system']}; "
        f"{results['core_hours']:.2f} core-hours. {versions}.",
        f"Each task: at most {settings['train_rows']:,} training rows, {settings['tokens']:,} tokens of training per "
        f"network{f', at most {trees} trees' if trees else ''}, {'seeds' if len(settings['seeds']) > 1 else 'seed'} "
        f"{seeds}, one thread. All models are trained on the same rows and evaluated on the same test rows; no choice "
        "was made on the test rows. Intervals are from bootstrap samples of the test rows (means over seeds), so that "
        "they do not include the variation of the training.",
    ]


def _as_markdown(table: Table) -> str:
    def cell(value: Any) -> str:
        return show(value).replace("|", "\\|").replace("\n", " ")

    lines = ["| " + " | ".join(table.header) + " |", "|" + "---|" * len(table.header)]
    lines += ["| " + " | ".join(cell(value) for value in row) + " |" for row in table.rows]
    return "\n".join([*lines, *(["", table.caption] if table.caption else [])])


def _differences(entries: Sequence[Results], labels: Mapping[str, str]) -> Picture:
    compared = [entry for entry in entries if entry["versus_baseline"]]
    own = sorted(compared, key=lambda entry: entry["versus_baseline"]["value"])
    figure = Figure(figsize=(8.6, 0.155 * len(own) + 1.1))
    axes = figure.add_subplot()
    for y, entry in enumerate(own):
        gap = entry["versus_baseline"]
        colour = HIGHER if gap["low"] > 0 else LOWER if gap["high"] < 0 else EQUAL
        axes.plot([gap["low"], gap["high"]], [y, y], color=colour, linewidth=1.3, alpha=0.7, solid_capstyle="butt")
        axes.plot(gap["value"], y, "o", color=colour, markersize=3.8)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(own)), [entry["id"] for entry in own], fontsize=6.6)
    axes.set_ylim(-0.8, len(own) - 0.2)
    axes.set_xlabel(f"{labels['net']} minus best baseline, main metric of the task")
    _style(axes)
    for label, colour in (("higher", HIGHER), ("not significant", EQUAL), ("lower", LOWER)):
        axes.plot([], [], "o-", color=colour, label=label, markersize=3.8, linewidth=1.3)
    axes.legend(frameon=False, loc="lower right", fontsize=8)
    caption = "Difference to the best baseline in each task, with its 95 % interval; right of 0 the network is higher."
    return picture(figure, caption)


def _values(entries: Sequence[Results], labels: Mapping[str, str]) -> Picture:
    figure = Figure(figsize=(8.6, 0.21 * len(entries) + 1.3))
    axes = figure.add_subplot()
    own = sorted(entries, key=lambda entry: entry["values"]["net"])
    models = [name for name in MODELS if any(name in entry["values"] for entry in own)]
    for y, entry in enumerate(own):
        if entry["best_baseline"]:
            ends = [entry["values"][entry["best_baseline"]], entry["values"]["net"]]
            axes.plot(ends, [y, y], color="#cdd3dd", linewidth=2.2, zorder=1)
    for name in models:
        known = [(entry["values"][name], y) for y, entry in enumerate(own) if name in entry["values"]]
        role = COMPARED_MODELS[name].role
        is_hollow, marker = name != "net" and role != "baseline", MARKERS[role]
        axes.plot(
            *zip(*known, strict=True),
            marker,
            color=colour_of(name),
            markersize=MARKER_SIZES[marker],
            markeredgewidth=2 if marker == "|" else 1.1,
            markerfacecolor="white" if is_hollow else colour_of(name),
            zorder=3 if name == "net" else 2,
            label=labels[name],
        )
    axes.set_yticks(range(len(own)), [_short(entry) for entry in own], fontsize=7.4)
    axes.set_ylim(-0.8, len(own) - 0.2)
    # a single failed fit must not compress the axis of all others
    left = min(value for entry in own for value in entry["values"].values())
    axes.set_xlim(left=max(-0.2, left - 0.03))
    titles = dict.fromkeys(TITLES[entry["main"]] for entry in own)
    axes.set_xlabel(" or ".join(titles) + " on the test rows")
    _style(axes)
    axes.legend(
        frameon=False,
        fontsize=8,
        ncols=min(len(models), 6),
        loc="upper center",
        bbox_to_anchor=(0.45, -0.55 / figure.get_figheight()),
    )
    return picture(figure, "Main metric of each task; the bar connects the network and the best baseline.")


def _style(axes: Axes) -> None:
    axes.grid(axis="x", color="#dfe3ea", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
