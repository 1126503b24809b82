"""The page of an evaluation, from its figures alone: every number beside its controls. Plots only, no model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from subquad.llm.evaluation.comparisons import ROLES, STUDENT, TEACHER
from subquad.llm.evaluation.labels import (
    MODELS,
    NOT_TRAINED,
    columns,
    gap_rows,
    perplexity_cell,
    reasons,
    task_rows,
)
from subquad.llm.plots.linearize_page import sections as training_sections
from subquad.reporting.page import Picture, Section, Table, page, picture

__all__ = ["whole_page"]

COLOURS = {
    "softmax": "#5b6474",
    "window_only": "#b9c4d4",
    "window_tuned": "#c98a2b",
    "tuned_without_linear": "#86b8a3",
    "tuned": "#1f6f54",
}
Block = str | Table | Picture


def whole_page(evaluation: Mapping[str, Any]) -> str:
    """Return the page of what `evaluation.json` holds."""
    models = evaluation["models"]
    names = ", ".join(Path(model["about"]["folder"]).name for model in models)
    sections = [section for model in models for section in _sections(model, evaluation, is_one=len(models) == 1)]
    return page(f"What linear attention costs: {names}", lead=_lead(models[0]["about"]), sections=sections)


def _lead(about: Mapping[str, Any]) -> str:
    return (
        "A model with hybrid attention, linear and window, is held against the softmax model that it was made from, "
        "and against what it would be with its window alone: untrained, tuned that way, and with its linear branch "
        f"taken out. {_window(about)}"
    )


def _window(about: Mapping[str, Any]) -> str:
    if about["window_shape"] == "none":
        return "There is no window: without its linear branch the model sees nothing."
    return (
        f"The window ({about['window']} tokens, {about['window_shape']}) shows all of a text of up to {about['shown']} "
        "tokens; only beyond can the linear branch do anything."
    )


def _sections(model: Mapping[str, Any], evaluation: Mapping[str, Any], *, is_one: bool) -> list[Section]:
    prefix = "" if is_one else f"{Path(model['about']['folder']).name}: "
    made = [
        ("What the linear branch wins", _gaps(model)),
        ("Perplexity", _perplexity(model)),
        ("Tasks", _tasks(model)),
        ("A hidden number", _passkey(model)),
        ("Speed and memory", _speed(model, evaluation["machine"])),
        ("Training", _training(Path(model["about"]["folder"]))),
        ("Method", _method(model, evaluation)),
    ]
    return [Section(prefix + title, blocks) for title, blocks in made if blocks]


def _gaps(model: Mapping[str, Any]) -> list[Block]:
    rows = gap_rows(model)
    if not rows:
        return []
    blocks: list[Block] = [
        Table(
            ["figure", "gap closed", *columns()[:-1]],
            rows,
            caption="Hybrid less each control, on the same items, ± half of the 95 % interval: losses in nats "
            "a token (below 0 is better), all else in percent points (above 0 is better). Gap closed: (hybrid "
            "- window only) / (softmax - window only); 100 % is as good as softmax, 0 % as the window alone.",
        )
    ]
    return blocks + [f"Where there is –: {reason}." for reason in reasons([model])]


def _perplexity(model: Mapping[str, Any]) -> list[Block]:
    figures = model["perplexity"]
    if not figures:
        return []
    table = Table(
        ["text", "tokens", *columns()],
        [
            [name, own["tokens"], *(perplexity_cell(own["models"].get(role)) for role in ROLES)]
            for name, own in figures.items()
        ],
        caption="Lower is better; ± half of the 95 % interval over sequences. Those of the differences above are "
        "narrower, since all models read the same sequences.",
    )
    return [
        table,
        *(
            picture(
                _by_position(own["positions"], model["about"]["shown"]),
                f"{name}: perplexity by how many tokens stand before. Left of the dashed line the window shows all, "
                "and models with the same weights are one; right of it they differ by what lies before the window.",
            )
            for name, own in figures.items()
        ),
    ]


def _by_position(positions: Sequence[Mapping[str, Any]], shown: int) -> Figure:
    figure = Figure(figsize=(8.2, 3.5))
    axes = figure.subplots()
    middles = [(bin_["from"] * bin_["to"]) ** 0.5 for bin_ in positions]
    for role in [role for role in ROLES if role in positions[0]["models"]]:
        own = [bin_["models"][role] for bin_ in positions]
        style = {"color": COLOURS[role], "zorder": 3 if role == STUDENT else 2}
        axes.plot(middles, [estimate["value"] for estimate in own], "o-", markersize=3.5, label=MODELS[role], **style)
        if all(estimate["low"] is not None for estimate in own):
            lows, highs = ([estimate[end] for estimate in own] for end in ("low", "high"))
            axes.fill_between(middles, lows, highs, color=COLOURS[role], alpha=0.13, linewidth=0)
    if shown < positions[-1]["to"]:
        axes.axvline(shown, color="#1c2330", linestyle="--", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_minor_formatter("")
    axes.set_xlabel("position in the sequence")
    axes.set_ylabel("perplexity")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    return figure


def _tasks(model: Mapping[str, Any]) -> list[Block]:
    if not model["tasks"]:
        return []
    return [
        Table(
            ["task", "items", "beyond", *columns()],
            task_rows(model["tasks"]),
            caption="Percent right, ± half of the 95 % interval over items; prompts and metrics are lm-eval's. Norm: "
            "an answer's log-likelihood is divided by its letters, as papers do for ARC-c and HellaSwag. MMLU has five "
            f"examples before each question. Beyond: items longer than the {model['about']['shown']} tokens that the "
            "window shows; on all others hybrid and no linear compute the same.",
        )
    ]


def _passkey(model: Mapping[str, Any]) -> list[Block]:
    figures = model["passkey"]
    if not figures:
        return []
    roles = [role for role in ROLES if role in next(iter(figures.values()))["by_depth"]]
    blocks: list[Block] = [
        picture(
            _heat_maps(figures, roles),
            "How often a number of five digits, hidden among sentences of no meaning, is given back: by length of the "
            "text and by where in it the number stands (0 start, 1 end). Dark is always, white never.",
        )
    ]
    long = [f"{int(name):,}" for name, own in figures.items() if own["is_beyond_training"]]
    if long:
        blocks.append(
            f"At {', '.join(long)} tokens the text is longer than the {model['about']['longest']:,} tokens that the "
            "model was made for: what fails there need not be the attention's fault."
        )
    return blocks


def _heat_maps(figures: Mapping[str, Any], roles: Sequence[str]) -> Figure:
    contexts = list(figures)
    depths = list(next(iter(figures.values()))["by_depth"][roles[0]])
    figure = Figure(figsize=(1.55 * len(roles) + 0.7, 0.36 * len(depths) + 1.15))
    for place, (axes, role) in enumerate(zip(figure.subplots(1, len(roles), squeeze=False)[0], roles, strict=True)):
        shares = [[figures[context]["by_depth"][role][depth] for context in contexts] for depth in depths]
        axes.imshow(shares, cmap="Greens", vmin=0, vmax=1, aspect="auto")
        for row, line in enumerate(shares):
            for column, share in enumerate(line):
                colour = "white" if share > 0.6 else "#1c2330"
                axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=8, color=colour)
        axes.set_xticks(range(len(contexts)), [f"{int(context):,}" for context in contexts], fontsize=8)
        axes.set_yticks(range(len(depths)), depths if place == 0 else [""] * len(depths), fontsize=8)
        axes.set_title(MODELS[role], fontsize=9.5)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        if place == 0:
            axes.set_ylabel("depth", fontsize=9)
    figure.supxlabel("tokens", fontsize=9)
    figure.tight_layout()
    return figure


def _speed(model: Mapping[str, Any], machine: str) -> list[Block]:
    figures = model["speed"]
    if not figures:
        return []
    names = {TEACHER: "softmax, key-value cache", STUDENT: "hybrid, state"}
    rows = [
        [
            names[role],
            row["tokens"],
            round(row["read_per_second"]),
            round(row["written_per_second"], 1),
            _size(row["bytes"]),
        ]
        for role in (TEACHER, STUDENT)
        for row in figures.get(role, [])
    ]
    return [
        picture(_curves(figures, names), "By tokens that stand before, one text at a time."),
        Table(
            ["attention", "tokens before", "read a second", "written a second", "kept"],
            rows,
            caption=f"On {machine}, in float32. Read: the whole text at once. Written: one token at a time after it. "
            "Kept: keys and values of all tokens, or the state of hybrid attention, of all layers.",
        ),
    ]


def _size(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB" if count >= 2**20 else f"{count / 2**10:,.0f} KiB"


def _curves(figures: Mapping[str, Any], names: Mapping[str, str]) -> Figure:
    figure = Figure(figsize=(9.5, 2.9))
    shown = (
        ("written_per_second", "tokens written a second", 1),
        ("read_per_second", "tokens read a second", 1),
        ("bytes", "kept, MiB", 2**20),
    )
    for axes, (key, title, unit) in zip(figure.subplots(1, 3), shown, strict=True):
        for role, rows in figures.items():
            points = [(row["tokens"], row[key] / unit) for row in rows]
            axes.plot(*zip(*points, strict=True), "o-", markersize=4, color=COLOURS[role], label=names[role])
        axes.set_title(title, fontsize=10)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("tokens before", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


def _training(folder: Path) -> list[Block]:
    # folders of save_pretrained have no history
    if not all((folder / name).is_file() for name in ("metrics.json", "evaluations.json", "history.jsonl")):
        return []
    found = [section for section in training_sections(folder) if section.title == "Training"]
    return [block for section in found for block in section.blocks if isinstance(block, str | Table | Picture)]


def _method(model: Mapping[str, Any], evaluation: Mapping[str, Any]) -> list[Block]:
    about, settings = model["about"], evaluation["subquad"]["settings"]
    blocks: list[Block] = [
        Table(
            ["model", "what it is"],
            [
                [MODELS["softmax"], f"{about['teacher']}, the model that was linearized, as it was"],
                [MODELS["window_only"], "the same weights with softmax over the window alone, never trained for it"],
                [MODELS["window_tuned"], _tuned(about)],
                [MODELS["tuned_without_linear"], "hybrid with its linear branch switched off"],
                [MODELS["tuned"], f"{about['folder']}, {_tokens(about['tokens'])}"],
            ],
        )
    ]
    limit = settings["limit"]
    if model["tasks"] and limit is not None:
        blocks.append(f"Of each task (of each subject of MMLU) the first {limit:,} items were measured, not all.")
    if evaluation["left_out"]:
        blocks.append(f"Left out, since there are no files: {'; '.join(evaluation['left_out'])}.")
    is_half, half = settings["precision"] == "bf16", " but for products of texts and tasks, which are in bfloat16"
    blocks.append(
        f"Intervals are of {settings['resamples']:,} bootstrap resamples of sequences or items, the same for all "
        f"models. Measured with subquad {evaluation['subquad']['version']} on {evaluation['machine']}, in "
        f"float32{half * is_half}."
    )
    return blocks


def _tuned(about: Mapping[str, Any]) -> str:
    if "window_tuned" not in about:
        return f"{NOT_TRAINED}; give a folder tuned with the window alone, on as many tokens, with --window-tuned"
    return f"{about['window_tuned']}, {_tokens(about['window_tuned_tokens'])}, its linear branch off throughout"


def _tokens(tokens: Mapping[str, int] | None) -> str:
    if not tokens:
        return "trained on tokens that nobody wrote down"
    return f"trained on {' + '.join(f'{count:,}' for count in tokens.values())} tokens"
