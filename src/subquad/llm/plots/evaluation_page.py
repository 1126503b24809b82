"""The HTML page of an evaluation, drawn from its results: every model beside its controls."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from subquad.errors import counted
from subquad.llm.plots.evaluation_result import missing_control, result_sentence
from subquad.llm.plots.evaluation_tables import (
    FINE_TUNED,
    NONE,
    STUDENT,
    TEACHER,
    branch,
    columns,
    gap_rows,
    has_gap,
    labels,
    perplexity_rows,
    reasons,
    task_rows,
)
from subquad.llm.plots.linearize_page import training_blocks
from subquad.reporting.page import Picture, Section, Table, page, picture
from subquad.reporting.run_comparison import model_name, run_name
from subquad.reporting.vector_figure import ON_DARK, ON_LIGHT, PAPER, SOFT

__all__ = ["evaluation_page", "trained_on"]

GREY, ORANGE, YELLOW, BLUE, GREEN = SOFT, "#d55e00", "#b8860b", "#2f6db3", "#1f6f54"
STYLES = {
    "teacher": (GREY, "--", "p"),
    "teacher_fine_tuned": (GREY, "-", "s"),
    "window": (ORANGE, "--", "v"),
    "cache": (BLUE, "--", "P"),
    "window_fine_tuned": (ORANGE, "-", "^"),
    "wide_window_fine_tuned": (YELLOW, "-", "D"),
    "cache_fine_tuned": (BLUE, "-", "X"),
    "fine_tuned_without_linear": (GREEN, ":", "<"),
    "fine_tuned": (GREEN, "-", "o"),
}
"""Colour by attention, dashes for what was not fine-tuned, and a marker of its own for those who see no colours."""
FIRST_SHOWN = 16
"""Position from which on perplexities by position are drawn."""
INTERVAL = "Brackets: 95 % interval"
VERTICAL_LINES = {
    "--": "Vertical dashed line, at {place}: left of it everything lies in the window, so that variants with the same "
    "weights are equal; right of it they differ by what lies before the window.",
    ":": "Vertical dotted line, at {place}: length of the training sequences; positions right of it were not trained.",
}
CURVES = {
    "-": "Solid curves: fine-tuned models.",
    "--": "Dashed curves: models that were not fine-tuned.",
    ":": "Dotted curve: the student with its {branch} switched off.",
}
"""What the dashes of `STYLES` mean."""
BANDS = (
    "Shaded bands, each in the colour of its curve: 95 % intervals over sequences. All models read the same sequences, "
    "so that two of them can differ clearly even where their bands overlap; the paired differences above say so."
)
Block = str | Table | Picture


def evaluation_page(evaluation: Mapping[str, Any]) -> str:
    """Return the page of what `evaluation.json` contains."""
    models = evaluation["models"]
    names = ", ".join(run_name(model["about"]["folder"]) for model in models)
    sections = [section for model in models for section in _sections(model, evaluation, is_one=len(models) == 1)]
    return page(f"Evaluation of {names}", lead=result_sentence(models), sections=sections)


def trained_on(name: str) -> str:
    """Return the end of a sentence about a student that is measured on a text of its training."""
    return f"was trained on {name}, so that its perplexity on it says little about other texts"


def _what_is_compared(about: Mapping[str, Any]) -> str:
    visible, size = (counted(about[key], "token") for key in ("visible", "window"))
    if not (has_linear := about.get("has_linear", True)):
        window = (
            f"Of a text of up to {visible} the student sees each token exactly (its window has "
            f"{size}, {about['window_shape']}); its attention differs from that of its teacher on longer ones only."
        )
    elif about["window_shape"] == "none":
        window = f"There is no window: without its {branch(about)} the student attends to nothing."
    else:
        window = (
            f"Of a text of up to {visible} the student sees each token exactly (its window has "
            f"{size}, {about['window_shape']}); only for longer ones its {branch(about)} can matter."
        )
    tuned = missing_control(about) or (
        "A student has read its training texts, so the fine-tuned controls, which have read as many tokens of them, "
        "are the fair comparison."
    )
    kind = f"hybrid attention ({'moments' if about.get('has_moments') else 'linear'} plus window)"
    kind = kind if has_linear else "softmax attention to a window and to cached tokens"
    return f"The student, with {kind}, is compared with {'; with '.join(_compared(about))}. {tuned} {window}"


def _compared(about: Mapping[str, Any]) -> list[str]:
    """Return what the student is compared with: the models that were measured."""
    roles, found = about["roles"], ["its teacher, the softmax model it was made from"]
    untrained = {"window": "a window alone", "cache": "a window and a cache"}
    if own := [name for role, name in untrained.items() if role in roles]:
        found.append(f"the teacher's weights and attention to {' or to '.join(own)}")
    if own := [labels(about)[role].removesuffix(", fine-tuned") for role in roles if role.endswith("_fine_tuned")]:
        found.append(f"fine-tuned controls ({', '.join(own)})")
    if "fine_tuned_without_linear" in roles:
        found.append(f"itself without its {branch(about)}")
    return found


def _sections(model: Mapping[str, Any], evaluation: Mapping[str, Any], *, is_one: bool) -> list[Section]:
    about = model["about"]
    prefix = "" if is_one else f"{run_name(about['folder'])}: "
    sections = [
        ("Student and controls", [_what_is_compared(about), *_gaps(model)]),
        ("Perplexity", _perplexity(model)),
        ("Tasks", _tasks(model)),
        ("Passkey retrieval", _passkey(model)),
        (
            "Speed and memory",
            _speed(model, machine=evaluation["machine"], dtype=evaluation["subquad"]["settings"]["dtype"]),
        ),
        ("Training", training_blocks(Path(about["folder"]))),
        ("Method", _method(model, evaluation)),
    ]
    return [Section(prefix + title, blocks) for title, blocks in sections if blocks]


def _gaps(model: Mapping[str, Any]) -> list[Block]:
    rows, roles = gap_rows(model), model["about"]["roles"]
    if not rows:
        return []
    are_tuned = all(role in roles for role in FINE_TUNED.values())
    ends = "the fine-tuned teacher and the fine-tuned wide window" if are_tuned else "teacher and window untrained"
    header = ["measurement", "gap closed", *(f"minus {name}" for name in columns(model["about"])[:-1])]
    caption = (
        "The student minus each control on the same items: loss in nats per token (negative is better), otherwise "
        "percentage points (positive is better)."
    )
    why = reasons([model])
    if not has_gap(rows):
        header, rows = [header[0], *header[2:]], [[row[0], *row[2:]] for row in rows]
        has_interval = any("[" in cell for row in rows for cell in row)
        caption += f" {INTERVAL}." * has_interval
        return [_table(header, rows, caption=caption), *(f"Gap closed: not known, since {reason}." for reason in why)]
    caption += (
        f" Gap closed: (student − window) / (teacher − window), with {ends}; 100 % equals the teacher, 0 % the window."
    )
    return [_table(header, rows, caption=f"{caption} {INTERVAL}."), *(f"{NONE}: {reason}." for reason in why)]


def _perplexity(model: Mapping[str, Any]) -> list[Block]:
    texts = model["perplexity"]
    if not texts:
        return []
    table = _table(
        ["text", "tokens", *columns(model["about"])],
        perplexity_rows(texts),
        caption=f"Lower is better. {INTERVAL} over sequences; the paired differences above have narrower ones, since "
        "all models read the same sequences.",
    )
    about = model["about"]
    learned = [f"The student {trained_on(name)}." for name in about.get("trained_texts", ())]
    return [table, *learned, *(_by_position(name, text["positions"], about) for name, text in texts.items())]


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]], *, caption: str) -> Table:
    """Return a table of few rows and many columns with the two exchanged, so that it fits the page."""
    if len(rows) >= len(header):
        return Table(header, rows, caption=caption)
    first, *others = zip(header, *rows, strict=True)
    return Table(list(map(str, first)), [list(row) for row in others], caption=caption)


def _by_position(name: str, positions: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> Block:
    """Return the figure of a text with its caption, or a sentence in its place."""
    # after the first words everything is possible, and the rest of the curves would be flat beside them
    later = [bin_ for bin_ in positions if bin_["from"] >= FIRST_SHOWN]
    positions = later if len(later) > 1 else positions
    if len(positions) < 2:
        return f"{name}: sequences are too short for a curve of the perplexity by position."
    lines = {
        style: place
        for style, place in (("--", about["visible"]), (":", about["trained_length"]))
        if place is not None and positions[0]["from"] < place < positions[-1]["to"]
    }
    roles = [role for role in labels(about) if role in positions[0]["models"]]
    parts = [f"{name}: perplexity by position in the sequence, from {positions[0]['from']} on, on logarithmic axes."]
    parts += [VERTICAL_LINES[style].format(place=f"{place:,}") for style, place in lines.items()]
    shown = {STYLES[role][1] for role in roles}
    parts += [meaning.format(branch=branch(about)) for style, meaning in CURVES.items() if style in shown]
    if all(estimate["low"] is not None for bin_ in positions for estimate in bin_["models"].values()):
        parts.append(BANDS)
    return picture(_positions_figure(positions, roles, lines, labels(about)), " ".join(parts))


def _positions_figure(
    positions: Sequence[Mapping[str, Any]], roles: Sequence[str], lines: Mapping[str, int], names: Mapping[str, str]
) -> Figure:
    figure = Figure(figsize=(8.2, 4.2), layout="constrained")
    axes = figure.subplots()
    centres = [(bin_["from"] * bin_["to"]) ** 0.5 for bin_ in positions]
    for role in roles:
        own = [bin_["models"][role] for bin_ in positions]
        style = {**_style(role), "zorder": 3 if role == STUDENT else 2}
        axes.plot(centres, [estimate["value"] for estimate in own], markersize=6, label=names[role], **style)
        if all(estimate["low"] is not None for estimate in own):
            lows, highs = ([estimate[end] for estimate in own] for end in ("low", "high"))
            axes.fill_between(centres, lows, highs, color=style["color"], alpha=0.13, linewidth=0)
    for style, place in lines.items():
        axes.axvline(place, color="#1c2330", linestyle=style, linewidth=1)
    _log2_axis(axes, "position in the sequence")
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.yaxis.set_minor_formatter("")
    axes.set_ylabel("perplexity")
    figure.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=3, handlelength=3.2)
    return figure


def _style(role: str) -> dict[str, Any]:
    """Return how the line of a model is drawn; the rim of a marker separates it from lines below."""
    colour, dashes, marker = STYLES[role]
    return {"color": colour, "linestyle": dashes, "marker": marker, "markeredgecolor": PAPER, "markeredgewidth": 0.4}


def _log2_axis(axes: Axes, label: str) -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)


def _tasks(model: Mapping[str, Any]) -> list[Block]:
    if not model["tasks"]:
        return []
    visible = counted(model["about"]["visible"], "token")
    return [
        Table(
            ["task", "items", "beyond window", *columns(model["about"])],
            task_rows({**model, "passkey": {}}),
            caption=f"Accuracy in percent, with prompts and metrics of lm-eval. {INTERVAL} (Wilson). Norm: the "
            "log-likelihood of an answer is divided by its length, as papers do for ARC-c and HellaSwag. "
            f"Beyond window: fraction of items longer than {visible}; on all others "
            f"the student computes the same with and without its {branch(model['about'])}.",
        )
    ]


def _passkey(model: Mapping[str, Any]) -> list[Block]:
    lengths = model["passkey"]
    if not lengths:
        return []
    table = Table(
        ["length", "trials", "", *columns(model["about"])],
        task_rows({**model, "tasks": {}}),
        caption=f"Passkeys reproduced, in percent. {INTERVAL} (Wilson).",
    )
    blocks: list[Block] = [
        table,
        picture(
            _heat_maps(lengths, labels(model["about"])),
            "Percentage of five-digit passkeys that are reproduced, by length of the prompt in tokens and by depth of "
            "the passkey in it (0: start, 1: end).",
        ),
    ]
    return blocks


def _heat_maps(lengths: Mapping[str, Any], names: Mapping[str, str]) -> Figure:
    first = next(iter(lengths.values()))["by_depth"]
    roles = [role for role in names if role in first]
    depths = list(first[roles[0]])
    figure = Figure(figsize=(1.55 * len(roles) + 0.7, 0.36 * len(depths) + 1.15))
    for place, (axes, role) in enumerate(zip(figure.subplots(1, len(roles), squeeze=False)[0], roles, strict=True)):
        rates = [[result["by_depth"][role][depth] for result in lengths.values()] for depth in depths]
        axes.imshow(rates, cmap="Greens", vmin=0, vmax=1, aspect="auto")
        for row, line in enumerate(rates):
            for column, rate in enumerate(line):
                colour = ON_DARK if rate > 0.6 else ON_LIGHT
                axes.text(column, row, f"{100 * rate:.0f}", ha="center", va="center", fontsize=8, color=colour)
        axes.set_xticks(range(len(lengths)), [f"{int(length):,}" for length in lengths], fontsize=8)
        axes.set_yticks(range(len(depths)), depths if place == 0 else [""] * len(depths), fontsize=8)
        axes.set_title(names[role].replace(" without", "\nwithout"), fontsize=9)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        if place == 0:
            axes.set_ylabel("depth", fontsize=9)
    figure.supxlabel("tokens", fontsize=9)
    figure.tight_layout()
    return figure


def _speed(model: Mapping[str, Any], *, machine: str, dtype: str) -> list[Block]:
    speed = model["speed"]
    if not speed:
        return []
    names = {TEACHER: "teacher, key-value cache", STUDENT: "student, state"}
    rows = [
        [
            name,
            row["tokens"],
            round(row["prefill_per_second"]),
            round(row["decoded_per_second"], 1),
            _size(row["bytes"]),
        ]
        for role, name in names.items()
        for row in speed.get(role, [])
    ]
    caption = (
        f"On {machine}, in {dtype}, one sequence. Prefill: the whole context at once. Decoding: one token at a time "
        "after it. Memory: key-value cache, or states of hybrid attention, of all layers."
    )
    table = Table(["model", "context", "prefill, tokens/s", "decoding, tokens/s", "memory"], rows, caption=caption)
    if len({row["tokens"] for own in speed.values() for row in own}) < 2:
        return ["One context length was measured, which gives no curve.", table]
    drawn = "Speed and memory by context length, one sequence at a time. Dashed: the teacher; solid: the student."
    return [picture(_curves(speed, names), drawn), table]


def _size(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB" if count >= 2**20 else f"{count / 2**10:,.0f} KiB"


def _curves(speed: Mapping[str, Any], names: Mapping[str, str]) -> Figure:
    figure = Figure(figsize=(9.5, 2.9))
    panels = (
        ("decoded_per_second", "decoding, tokens/s", 1),
        ("prefill_per_second", "prefill, tokens/s", 1),
        ("bytes", "memory, MiB", 2**20),
    )
    for axes, (key, title, unit) in zip(figure.subplots(1, 3), panels, strict=True):
        for role, rows in speed.items():
            contexts, values = [row["tokens"] for row in rows], [row[key] / unit for row in rows]
            axes.plot(contexts, values, markersize=6, label=names[role], **_style(role))
        axes.set_title(title, fontsize=10)
        _log2_axis(axes, "context, tokens")
        axes.margins(y=0.15)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.tick_params(labelsize=8)
    figure.axes[0].legend(loc="lower left", frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


def _method(model: Mapping[str, Any], evaluation: Mapping[str, Any]) -> list[Block]:
    about, settings = model["about"], evaluation["subquad"]["settings"]
    tuned = "LoRA updates of the teacher, with as many tokens of the same texts as the student"
    meanings = {
        "teacher": f"{model_name(about['teacher'])}, the softmax model that was linearized",
        "window": "the teacher's weights with softmax attention over the window alone, not trained for it",
        "cache": "the teacher's weights with softmax attention over the window and the cache, not trained for it",
        "teacher_fine_tuned": f"{tuned}; softmax attention",
        "window_fine_tuned": f"{tuned}; the student's window alone",
        "wide_window_fine_tuned": f"{tuned}; a sliding window that takes as much memory as the student's state",
        "cache_fine_tuned": f"{tuned}; the window and a larger cache that take as much memory as the student's state",
        "fine_tuned_without_linear": f"the student with its {branch(about)} switched off",
        "fine_tuned": f"{run_name(about['folder'])}, {_tokens(about['tokens'])}",
    }
    blocks: list[Block] = [
        Table(["model", "description"], [[labels(about)[role], meanings[role]] for role in about["roles"]])
    ]
    if model["tasks"] and settings["limit"] is not None:
        blocks.append(f"Each task was limited to its first {counted(settings['limit'], 'item')}.")
    blocks.append(
        "Intervals of losses and of gaps are bootstrapped over sequences or items "
        f"({counted(settings['resamples'], 'resample')}, the same for all models), those of few sequences are by "
        "Student's t (gaps: Fieller's interval), and those of rates are Wilson's, with Newcombe's for their "
        "differences on paired items. "
        f"Measured with subquad {evaluation['subquad']['version']} on {evaluation['machine']}, in {settings['dtype']}."
    )
    return blocks


def _tokens(tokens: Mapping[str, int] | None) -> str:
    if not tokens:
        return "trained on an unknown number of tokens"
    return f"trained on {' + '.join(f'{count:,}' for count in tokens.values())} tokens"
