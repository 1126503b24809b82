"""What the page shows of language models: progress of a linearization, chats, perplexity by position."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from subquad.app.charts import DRAWING, Line, line_chart
from subquad.app.chats import SIDES, STEPS, Chat, Opening, Side
from subquad.app.files import file_url, zip_url
from subquad.app.jobs import Job
from subquad.app.markup import blocks, columns, details, join, links, notice, progress_bar, table
from subquad.errors import counted
from subquad.llm.plots.evaluation_tables import LABELS, STUDENT, WINDOW, labels
from subquad.reporting.page import Table, show
from subquad.runs.folder import REPORT
from subquad.runs.history import HISTORY, read_history
from subquad.runs.storage import null_as_nan, read_json

__all__ = [
    "EVALUATE_FIELDS",
    "LINEARIZE_FIELDS",
    "chat_view",
    "in_page_words",
    "linearize_progress",
    "linearize_result",
    "opening_view",
    "perplexity_progress",
    "perplexity_result",
]

STAGES = {"transfer": "attention transfer", "lora": "fine-tuning"}
LOSSES = {"transfer": "mean squared error", "lora": "next-token loss"}
FIRST_POSITION = 16
NEW_AGAIN = "Your earlier chat was ended, since more people chat than fit into memory; the models have forgotten it."
MOST_LAYERS = 6
"""Layers whose error is drawn: evenly spaced, with the first and the last."""
LINEARIZE_FIELDS = {"--sequence-length": "Sequence length in tokens", "--minutes": "Minutes"}
EVALUATE_FIELDS = {
    "--sequence-length": "Length of the texts in tokens",
    "--evaluation-tokens": "Tokens altogether, at most",
}
"""Fields of the page by the flags of the commands that they set."""


def in_page_words(text: str, *, fields: Mapping[str, str]) -> str:
    """Return a message of a command with the fields of the page in place of flags."""
    for flag, label in fields.items():
        text = re.sub(rf"(?<![\w-]){flag}(?![\w-])", f'"{label}"', text)
    return text


def linearize_progress(job: Job) -> str:
    """Return losses and the error of layers so far."""
    history = read_history(job.out) if (job.out / HISTORY).is_file() else []
    if not history:
        first = Markup("<p>The model is opened and measured before training; the curves follow.</p>")
        return join(first, _latest(job))
    parts: list[str] = list(dict.fromkeys(str(entry["part"]) for entry in history))
    stages: dict[str, list[Line]] = {}
    for part in parts:
        # a stage that goes block by block has parts such as transfer-0
        own = stages.setdefault(part.split("-")[0], [])
        own.append(_line(history, part, "loss", _name(part), len(own)))
    transfer = [entry for entry in history if any(key.startswith("error/") for key in entry)]
    layers = sorted({int(key[6:]) for entry in transfer for key in entry if key.startswith("error/")})
    step = max(1, -(-(len(layers) - 1) // (MOST_LAYERS - 1))) if layers else 1
    drawn = sorted({*layers[::step], *layers[-1:]})
    errors = [_line(transfer, "transfer", f"error/{layer}", f"layer {layer}", k) for k, layer in enumerate(drawn)]
    latest = transfer[-1] if transfer else {}
    rows = [[f"{layer}", latest[f"error/{layer}"]] for layer in layers if f"error/{layer}" in latest]
    caption = "Squared difference of each layer's output to its softmax attention, relative to the latter's square."
    return join(
        columns(
            line_chart(
                errors, x="step", y="relative error", title="Error of layers in attention transfer", is_log_y=True
            ),
            # their losses differ in kind, and by orders of magnitude
            *(
                line_chart(
                    lines,
                    x="step",
                    y=LOSSES.get(stage, "loss"),
                    title=f"Training loss of {_name(stage)}",
                    is_log_y=stage == "transfer",
                )
                for stage, lines in stages.items()
            ),
        ),
        details("Error of every layer now", table(Table(["layer", "relative error"], rows, caption=caption)))
        if rows
        else None,
    )


def _latest(job: Job) -> Markup | None:
    """Return what the command does now, by its last message."""
    *_, last = job.log.strip().split("\n")
    # files without their folders
    text = in_page_words(re.sub(r"/\S*/", "", last), fields=LINEARIZE_FIELDS)
    return Markup('<p class="sq-hint">Now: {}</p>').format(text) if text else None


def _name(part: str) -> str:
    """Return the name of a stage, or of a block of it."""
    stage, _, block = part.partition("-")
    return f"{STAGES.get(stage, stage)}{f', block {block}' if block else ''}"


def _line(history: list[dict[str, Any]], part: str, key: str, name: str, number: int) -> Line:
    own = [entry for entry in history if entry["part"] == part and key in entry]
    return Line(name=name, x=[entry["step"] for entry in own], y=[entry[key] for entry in own], number=number)


def linearize_result(job: Job) -> str:
    """Return the result of a linearization as its report begins, and its files."""
    from subquad.llm.plots.linearize_page import sections

    with DRAWING:
        first = sections(job.out)[0]
    return join(
        blocks(first.blocks),
        links({
            "Open the report": file_url(job, job.out / REPORT),
            "Model folder (zip)": zip_url(job),
            "Model card": file_url(job, job.out / "README.md", download=True),
        }),
        linearize_progress(job),
    )  # fmt: skip


def opening_view(opening: Opening) -> str:
    """Return how far the opening of both models is."""
    steps = len(STEPS) - 1
    text = f"Opening both models, step {opening.step} of {steps}: {STEPS[opening.step]} …"
    if not opening.step:
        text = f"Waiting: {STEPS[0]} …"
    return join(
        progress_bar(max(0, opening.step - 1), steps, text, f"{opening.seconds:.0f} s"),
        Markup('<p class="sq-hint">SmolLM2 takes half a minute. Once models are open, new chats begin at once.</p>'),
    )


def chat_view(chat: Chat | None, *, is_waiting: bool = False) -> str:
    """Return both sides of a chat, with their speed and memory, and a note if the question waits for another answer."""
    if chat is None:
        return Markup('<p class="sq-hint">Ask something: both models answer the same questions, word by word.</p>')
    sides = Markup("")
    for name, side in chat.sides.items():
        turns = Markup("").join(
            Markup('<p class="sq-turn sq-question">{}</p><p class="sq-turn">{}</p>').format(question, answer or "…")
            for question, answer in side.turns
        )
        sides += Markup('<section class="sq-side"><h3>{}</h3><p class="sq-numbers">{}</p>{}</section>').format(
            SIDES[name], _numbers(name, side), turns
        )
    return join(
        Markup('<div class="sq-chat">{}</div>').format(sides),
        notice(NEW_AGAIN, "warning") if chat.is_new_again else None,
        notice(chat.warning, "warning") if chat.warning else None,
        notice("Another answer is being written; yours follows.") if is_waiting else None,
        _memory(chat),
    )


def _numbers(name: str, side: Side) -> str:
    what = "cache" if name == "teacher" else "state"
    size = f"{side.chat.memory / 2**20:,.2f} MiB {what} for {counted(side.chat.length, 'token')}"
    if side.speed is None:
        is_reading = bool(side.turns) and not side.turns[-1][1] and not side.tokens
        return f"{size}; reading the question …" if is_reading else size
    return f"{side.speed:,.1f} tokens per second; {size}"


def _memory(chat: Chat) -> Markup | None:
    lines = []
    for number, (name, side) in enumerate(chat.sides.items()):
        x, y = [tokens for tokens, _ in side.memory], [size / 2**20 for _, size in side.memory]
        lines.append(Line(name=SIDES[name], x=x, y=y, number=number))
    if not any(len(line.x) > 1 for line in lines):
        return None
    return line_chart(
        lines, x="tokens of the context", y="memory, MiB", zero=True,
        title="Memory: the key-value cache of the teacher grows with every token, the state of the student does not",
    )  # fmt: skip


def perplexity_progress(job: Job) -> str:
    """Return how many sequences of the text are measured, with each of the models after another."""
    if "sequences" not in job.about:
        return ""
    roles, most = job.about["roles"], job.about["sequences"]
    measured = [len(read_json(path)["rows"]) for path in (job.out / "measurements").glob("*.json")]
    # a text may be shorter than what is measured at most, which is known when the first model has measured all of it
    is_known = any(measured) and (len(measured) > 1 or measured == [most])
    count, done = max(measured) if is_known else most, sum(measured)
    names = labels(job.about)
    model, own = divmod(done, count)
    if model >= len(roles):
        text = "All is measured; the report is written."
    else:
        now, size = f"Model {model + 1} of {len(roles)}, {names[roles[model]]}", f"{job.about['tokens']:,} tokens"
        wanted = f"{'' if is_known else 'at most '}{counted(count, 'sequence')} of {size}"
        text = f"{now}: {own} of {wanted} measured."
        if not own and not _has_weights_of_others(roles[model], roles):
            text = f"{now}: it is opened, to measure {wanted}."
    return progress_bar(done, count * len(roles), text)


def _has_weights_of_others(role: str, roles: Sequence[str]) -> bool:
    # those that were measured before it
    return role in (WINDOW, "cache") or (role == STUDENT and "fine_tuned_without_linear" in roles)


def perplexity_result(job: Job) -> str:
    """Return perplexity by position, with the trained length marked."""
    model = read_json(job.out / "evaluation.json")["models"][0]
    about = model["about"]
    seen = "window and cache" if "cache" in about.get("roles", ()) else "window"
    found: list[Any] = []
    for name, text in model["perplexity"].items():
        bins = [own for own in text["positions"] if own["from"] >= FIRST_POSITION] or text["positions"]
        roles = [role for role in LABELS if role in bins[0]["models"]]
        names = labels(about)
        x = [(own["from"] * own["to"]) ** 0.5 for own in bins]
        lines = [
            Line(name=names[role], x=x, y=null_as_nan([own["models"][role]["value"] for own in bins]), number=k)
            for k, role in enumerate(roles)
        ]
        marks = [
            (place, label)
            for place, label in ((about["visible"], seen), (about["trained_length"], "trained length"))
            if place is not None and place <= x[-1]
        ] if "visible" in about else []  # fmt: skip
        rows = [[f"{own['from']}–{own['to']}", *(show(own["models"][role]["value"]) for role in roles)] for own in bins]
        beyond = about.get("trained_length")
        note = f" The student was trained on sequences of {beyond:,} tokens." if beyond else ""
        found.append(
            line_chart(
                lines, x="position in the text", y="perplexity", is_log_x=True, is_log_y=True, marks=marks,
                title=f"Perplexity by position on {Path(name).name}; lower is better.{note}",
                values=Table(["positions", *(names[role] for role in roles)], rows),
            )
        )  # fmt: skip
    return join(*found, links({"Open the report": file_url(job, job.out / REPORT)}))
