"""The results of a run over many tasks as one HTML page and as Markdown. Words, tables and plots only."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from subquad.bio.benchmark.summary import MODELS, STATES
from subquad.bio.metrics.scores import MIN_TEST_ROWS, TITLES
from subquad.bio.plots.maps import GREEN, GREY, INK, OCHRE
from subquad.reporting.page import Picture, Section, Table, page, picture, show

__all__ = ["markdown", "render", "summary_lines"]

WORDS = {
    "auto": "Lyra, auto",
    "paper": "Lyra, paper",
    "ridge": "ridge",
    "boosting": "boosting",
    "vienna": "Vienna MFE",
    "vienna_bpp": "Vienna bpp",
    "stack": "stack",
}
COLOURS = {"net": GREEN, "auto": "#7fb6a0", "paper": "#7fb6a0", "ridge": GREY, "boosting": OCHRE}
COLOURS |= {"vienna": GREY, "vienna_bpp": OCHRE, "stack": INK}
MARKERS = {"net": "o", "auto": "s", "paper": "s", "ridge": "|", "boosting": "|", "vienna": "|", "vienna_bpp": "|"}
MARKERS |= {"stack": "D"}
CLEAR, LEVEL, BEHIND = GREEN, "#9aa5b5", "#b4532a"

Results = Mapping[str, Any]
Block = str | Table | Picture


def render(results: Results) -> str:
    """Return the page.

    Args:
        results: contents of `results.json`.
    """
    entries = results["tasks"]
    scored = [entry for entry in entries if entry["state"] == "scored"]
    first: list[Block] = [_wins(results)]
    if any(entry.get("above_rival") for entry in scored):
        first.append(_lead(scored, _words(results)))
    sections = [Section("Result", first)]
    for family in dict.fromkeys(entry["family"] for entry in scored):
        own = [entry for entry in scored if entry["family"] == family]
        sections.append(Section(family, [*_family(own, _words(results)), _dumbbells(own, _words(results))]))
    published = [entry for entry in entries if entry["published"] and "values" in entry]
    if published:
        sections.append(Section("Published", [_published(published, _words(results))]))
    apart = [entry for entry in entries if entry["state"] != "scored" or entry["messages"]]
    if apart:
        sections.append(Section("Not counted", [_apart(apart, _words(results))]))
    done = [entry for entry in entries if "values" in entry]
    sections.append(Section("How", [*_how(results), *([_costs(done, _words(results))] if done else [])]))
    return page(f"{results['tasks_file']}: {len(entries)} tasks", lead=_verdict(results), sections=sections)


def markdown(results: Results) -> str:
    """Return the same tables as Markdown, for a project's documentation."""
    entries = results["tasks"]
    words = _words(results)
    scored = [entry for entry in entries if entry["state"] == "scored"]
    parts = [
        f"# {results['tasks_file']}: {len(entries)} tasks",
        _verdict(results),
        *_how(results),
        _text_of(_wins(results)),
    ]
    for family in dict.fromkeys(entry["family"] for entry in scored):
        own = [entry for entry in scored if entry["family"] == family]
        parts += [f"## {family}", *(_text_of(table) for table in _family(own, words))]
    published = [entry for entry in entries if entry["published"] and "values" in entry]
    if published:
        parts += ["## Published", _text_of(_published(published, words))]
    apart = [entry for entry in entries if entry["state"] != "scored" or entry["messages"]]
    if apart:
        parts += ["## Not counted", _text_of(_apart(apart, words))]
    return "\n\n".join(parts) + "\n"


def summary_lines(results: Results) -> list[str]:
    """Return what came out, in a line for each family and one for all."""
    lines = []
    for family, counts in results["summary"].items():
        lines.append(
            f"{family}: {counts['scored']} scored; above paper {_share(counts['paper'], 'above')}; "
            f"above rivals {_share(counts['rival'], 'above')}, level or above "
            f"{_share(counts['rival'], 'within_or_above')}; stack kept {_share(counts['stack'], 'within_or_above')}"
        )
    return lines


def _words(results: Results) -> dict[str, str]:
    first = results["settings"]["presets"].split(",")[0].strip()
    return {**WORDS, "net": WORDS[first]}


def _verdict(results: Results) -> str:
    counts, net = results["summary"]["all"], _words(results)["net"]
    said = [f"{counts['scored']} of {len(results['tasks'])} tasks are scored"]
    if counts["paper"]["of"]:
        said.append(f"{net} is above the published net on {_share(counts['paper'], 'above')}")
    if counts["rival"]["of"]:
        said.append(
            f"above the better of its rivals on {_share(counts['rival'], 'above')}, "
            f"and within the interval or above on {_share(counts['rival'], 'within_or_above')}"
        )
    if counts["stack"]["of"]:
        said.append(
            "the stack is within its interval of the best single model, or above, on "
            f"{_share(counts['stack'], 'within_or_above')}"
        )
    return "; ".join(said) + "."


def _share(counts: Mapping[str, int], name: str) -> str:
    return f"{counts[name]} of {counts['of']} ({100 * counts[name] / counts['of']:.0f} %)" if counts["of"] else "–"


def _wins(results: Results) -> Table:
    net = _words(results)["net"]
    rows: list[list[Any]] = []
    for family, counts in results["summary"].items():
        cells = [_part(counts["paper"], "above"), _part(counts["rival"], "above")]
        cells += [_part(counts["rival"], "clearly_above"), _part(counts["rival"], "within_or_above")]
        apart = counts["small"] + counts["no training rows"] + counts["failed"]
        rows.append([family, counts["scored"], *cells, _part(counts["stack"], "within_or_above"), apart])
    return Table(
        header=["family", "scored", "> paper", "> rivals", "clearly >", "≥ rivals", "stack kept", "apart"],
        rows=rows,
        caption=f"> paper: {net} is above the net as published, in the main figure on the test rows. > rivals: it is "
        "above the better of ridge and boosting (of ViennaRNA's two predictions for base pairs); clearly: the whole "
        "95 % interval of the difference is above 0; ≥: not the whole interval is below 0. Stack kept: it is not below "
        f"the best single model by more than its interval. Apart: fewer than {MIN_TEST_ROWS} test rows, no training rows, or "
        "failed.",
        winner=len(rows) - 1,
    )


def _part(counts: Mapping[str, int], name: str) -> str:
    return f"{counts[name]} ({100 * counts[name] / counts['of']:.0f} %)" if counts["of"] else "–"


def _family(entries: Sequence[Results], words: Mapping[str, str]) -> list[Table]:
    # base pairs have other rivals, and so a table of their own
    by_models: dict[tuple[str, ...], list[Results]] = {}
    for entry in entries:
        by_models.setdefault(tuple(name for name in MODELS if name in entry["values"]), []).append(entry)
    return [_of_models(own, models, words) for models, own in by_models.items()]


def _of_models(entries: Sequence[Results], models: Sequence[str], words: Mapping[str, str]) -> Table:
    has_spread = any(entry["spread"]["net"] is not None for entry in entries)
    figures = [TITLES[entry["main"]] for entry in entries]
    usual = max(figures, key=figures.count)
    header = ["task", "rows", *(words[name].removeprefix("Lyra, ") for name in models)]
    header.append("above best rival")
    rows = []
    for entry, figure in zip(entries, figures, strict=True):
        row = [_short(entry) + (f" ({figure})" if figure != usual else ""), entry["rows"]["test"]]
        row += [_with_spread(entry, name) if name == "net" else entry["values"][name] for name in models]
        row.append(_interval(entry["above_rival"]))
        rows.append(row)
    caption = (
        f"{usual}{', or what stands behind the task,' if len(set(figures)) > 1 else ''} on the test rows, how many "
    )
    caption += f"there are, and {words['net']} above the best of its rivals with a 95 % interval."
    if has_spread:
        caption += f" Means over seeds; ±: standard deviation of {words['net']} over them."
    return Table(header=header, rows=rows, caption=caption)


def _interval(gap: Mapping[str, float] | None) -> str | None:
    if gap is None:
        return None
    # without the zero, so that a row fits on the page
    value, low, high = (f"{gap[name]:+.3f}".replace("0.", ".", 1) for name in ("value", "low", "high"))
    return f"{value} ({low}, {high})"


def _with_spread(entry: Results, name: str) -> str | float:
    value, spread = entry["values"][name], entry["spread"][name]
    return value if spread is None else f"{value:.3f} ±{spread:.3f}".replace("±0.", "±.")


def _short(entry: Results) -> str:
    return entry["id"].removeprefix(f"{entry['family']}/")


def _costs(entries: Sequence[Results], words: Mapping[str, str]) -> Table:
    nets = ("net", "auto", "paper")
    seen = [name for name in nets if any(name in entry["values"] for entry in entries)]
    rows = []
    for entry in entries:
        runs = [run["seconds"] for run in entry["seeds"].values() if "test" in run]
        means = {name: sum(run.get(name, 0.0) for run in runs) / len(runs) for name in MODELS}
        rivals = sum(value for name, value in means.items() if name not in nets)
        cells = [round(value) for value in (*(means[name] for name in seen), rivals, entry["seconds"])]
        rows.append([entry["id"], entry["rows"]["train"], *cells, entry["memory_mb"]])
    return Table(
        header=["task", "rows", *(words[name] for name in seen), "rivals, stack", "all", "MB"],
        rows=rows,
        caption="Training rows, seconds of one core (all: with reading and intervals), and the most memory held.",
    )


def _published(entries: Sequence[Results], words: Mapping[str, str]) -> Table:
    rows = []
    for entry in entries:
        name = entry["other"] or entry["main"]
        values = entry["other_values"] or entry["values"]
        rows.append([entry["id"], TITLES.get(name, name), values["net"], values.get("stack"), entry["published"]])
    return Table(
        header=["task", "figure", words["net"], "stack", "what others reached"],
        rows=rows,
        caption="In the figure that the task is measured by elsewhere, where it is among ours. What others reached is "
        "quoted from the file of tasks; on another split or other rows it is context only.",
    )


def _apart(entries: Sequence[Results], words: Mapping[str, str]) -> Table:
    rows = []
    for entry in entries:
        values = entry.get("values", {})
        why = "; ".join([STATES[entry["state"]], *entry["messages"]])
        rows.append(
            [
                entry["id"],
                entry.get("rows", {}).get("test"),
                values.get("net"),
                values.get(entry.get("best_rival")),
                why,
            ]
        )
    return Table(header=["task", "test rows", words["net"], "best rival", "why it is not counted"], rows=rows)


def _how(results: Results) -> list[str]:
    machine, settings = results["machine"], results["settings"]
    memory = f", {machine['memory_gb']:g} GiB" if machine["memory_gb"] else ""
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    trees = settings["boosting_iterations"]
    return [
        f"{results['date']}, {machine['processor']}, {machine['cores']} cores{memory}, {machine['system']}; "
        f"{results['core_hours']:.2f} core-hours in all. {versions}.",
        f"Each task: at most {settings['rows']:,} training rows, {settings['tokens']:,} letters gone over in the "
        f"training of each net{f', at most {trees} trees' if trees else ''}, "
        f"{'seeds' if ',' in settings['seeds'] else 'seed'} {settings['seeds']}, one thread. All models learn from the "
        "same rows and are measured on the same test rows; no choice is made on these. Intervals are of 200 bootstrap "
        "samples of the test rows (means over the seeds, where there are several).",
    ]


def _text_of(table: Table) -> str:
    def cell(value: Any) -> str:
        return show(value).replace("|", "\\|").replace("\n", " ")

    lines = ["| " + " | ".join(table.header) + " |", "|" + "---|" * len(table.header)]
    lines += ["| " + " | ".join(cell(value) for value in row) + " |" for row in table.rows]
    return "\n".join([*lines, *(["", table.caption] if table.caption else [])])


def _lead(entries: Sequence[Results], words: Mapping[str, str]) -> Picture:
    own = sorted((entry for entry in entries if entry["above_rival"]), key=lambda entry: entry["above_rival"]["value"])
    figure = Figure(figsize=(8.6, 0.155 * len(own) + 1.1))
    axes = figure.add_subplot()
    for y, entry in enumerate(own):
        gap = entry["above_rival"]
        colour = CLEAR if gap["low"] > 0 else BEHIND if gap["high"] < 0 else LEVEL
        axes.plot([gap["low"], gap["high"]], [y, y], color=colour, linewidth=1.3, alpha=0.7, solid_capstyle="butt")
        axes.plot(gap["value"], y, "o", color=colour, markersize=3.8)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(own)), [entry["id"] for entry in own], fontsize=6.6)
    axes.set_ylim(-0.8, len(own) - 0.2)
    axes.set_xlabel(f"{words['net']} above the best rival, in the task's main figure")
    axes.grid(axis="x", color="#dfe3ea", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    for label, colour in (("clearly above", CLEAR), ("no clear difference", LEVEL), ("clearly below", BEHIND)):
        axes.plot([], [], "o-", color=colour, label=label, markersize=3.8, linewidth=1.3)
    axes.legend(frameon=False, loc="lower right", fontsize=8)
    return picture(
        figure, "Each task's difference to the best of its rivals, with its 95 % interval; right of 0 the net wins."
    )


def _dumbbells(entries: Sequence[Results], words: Mapping[str, str]) -> Picture:
    figure = Figure(figsize=(8.6, 0.21 * len(entries) + 1.3))
    axes = figure.add_subplot()
    own = sorted(entries, key=lambda entry: entry["values"]["net"])
    seen = [name for name in MODELS if any(name in entry["values"] for entry in own)]
    for y, entry in enumerate(own):
        values = entry["values"]
        if entry["best_rival"]:
            axes.plot([values[entry["best_rival"]], values["net"]], [y, y], color="#cdd3dd", linewidth=2.2, zorder=1)
        for name in seen:
            if name in values:
                is_hollow = name in ("paper", "auto", "stack")
                axes.plot(
                    values[name],
                    y,
                    MARKERS[name],
                    color=COLOURS[name],
                    markersize={"|": 9, "o": 6, "s": 4.6, "D": 4.2}[MARKERS[name]],
                    markeredgewidth=2 if MARKERS[name] == "|" else 1.1,
                    markerfacecolor="white" if is_hollow else COLOURS[name],
                    zorder=3 if name == "net" else 2,
                    label=words[name] if all(name not in before["values"] for before in own[:y]) else None,
                )
    axes.set_yticks(range(len(own)), [_short(entry) for entry in own], fontsize=7.4)
    axes.set_ylim(-0.8, len(own) - 0.2)
    # one task that failed to learn must not squeeze all others
    left = min(value for entry in own for value in entry["values"].values())
    axes.set_xlim(left=max(-0.2, left - 0.03))
    names = dict.fromkeys(TITLES[entry["main"]] for entry in own)
    axes.set_xlabel(" or ".join(names) + " on the test rows")
    axes.grid(axis="x", color="#dfe3ea", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.legend(
        frameon=False,
        fontsize=8,
        ncols=min(len(seen), 6),
        loc="upper center",
        bbox_to_anchor=(0.45, -0.55 / figure.get_figheight()),
    )
    return picture(figure, "The bar joins the net and the best of its rivals; further right is better.")
