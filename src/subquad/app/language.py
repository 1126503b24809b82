"""The tab of language models: chat with a linearized one, linearize another, and compare it with its teacher."""

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import gradio as gr

from subquad.app.forms import OFFERED, Form
from subquad.app.inputs import RUNS, TEXTS
from subquad.app.tab import Context, Extra, FieldTab
from subquad.errors import SubquadError

MODEL = RUNS["llm"]
FORMS = (
    ("Linearize", Form(
        command="llm linearize", action="Linearize", title="Linear model",
        about="Replaces softmax attention by attention with a state of constant size, and trains it to reproduce the "
        "model: SmolLM2, or another one of the Hugging Face Hub.",
        sources={"text": TEXTS, "eval-text": replace(TEXTS, is_optional=True)}, first=("model", "minutes"),
        values={"model": "smollm2"},
    )),
    ("Compare", Form(
        command="llm evaluate", action="Measure perplexity", title="Comparison",
        about="Compares a linearized model with its teacher and with controls on texts that neither was trained on.",
        sources={"runs": replace(MODEL, is_several=True), "text": TEXTS}, hidden=("teacher", "extend", "speed"),
        words=("--speed=0",),
    )),
)  # fmt: skip
QUESTIONS = ["What is a list in Python?", "What is the capital of France?", "Why is the sky blue?"]


def build_language(context: Context) -> FieldTab:
    """Build the tab."""
    return FieldTab.build(
        context, "llm", forms=FORMS, extra=Extra("Chat", partial(_build_chat, context), MODEL),
        lead="Replace the softmax attention of a trained language model by linear attention, and chat with the result.",
        steps=("Ask the linear SmolLM2 that ships with subquad a question.",
               "Linearize a model on a text of yours, in minutes on a laptop.",
               "Chat with it, and compare its perplexity with its teacher's."),
    )  # fmt: skip


def _build_chat(context: Context) -> gr.Dropdown:
    choices = context.inputs.choices(MODEL)
    model = gr.Dropdown(choices, value=choices[0][1], label="Linearized model", **OFFERED)
    note = gr.Markdown(elem_classes="sq-hint", render=False)

    def answer(question: str, history: list[dict[str, Any]], name: str) -> Iterator[tuple[str, str]]:
        try:
            yield from _answers(question, history, context.inputs.checked(MODEL, [name])[0])
        except SubquadError as error:
            raise gr.Error(str(error), print_exception=False) from error

    gr.ChatInterface(
        answer, additional_inputs=[model], additional_outputs=[note],
        examples=[[question, None] for question in QUESTIONS],
        chatbot=gr.Chatbot(height=380, label="Chat", layout="bubble", buttons=["copy"]), api_visibility="private",
        # the pictures of gradio's buttons have no name; a tokenizer serves one thread
        submit_btn="Ask", stop_btn="Stop", concurrency_limit=1,
    )  # fmt: skip
    note.render()
    return model


def _answers(question: str, history: list[dict[str, Any]], run: str) -> Iterator[tuple[str, str]]:
    """Yield the answer as it grows, and a note on its speed; the server keeps no state of a chat.

    Raises:
        SubquadError: The folder holds no linearized model, or its chat template rejects the turn.
    """
    yield "Opening the model …", ""
    from subquad.llm.models.decoding import beyond_training
    from subquad.llm.serving.chat import ChatSession

    model, tokenizer = _model(run)
    session = ChatSession(model, tokenizer)
    session.messages = [{"role": turn["role"], "content": _text(turn["content"])} for turn in history]
    text, count, began = "", 0, time.monotonic()
    for delta in session.answer(question):
        text, count = text + delta, count + 1
        yield text, ""
    note = f"About {count / (time.monotonic() - began):.0f} tokens per second; "
    note += f"{session.length:,} tokens of chat in a state of {session.memory / 2**20:.1f} MB"
    warning = beyond_training(model, session.length)
    yield text, f"{note}. {warning}" if warning else f"{note}, however long it gets."


@lru_cache(maxsize=1)
def _model(run: str) -> Any:
    """Open a model for chats, and keep it until another one is opened."""
    from subquad.llm.models.loading import load, place
    from subquad.llm.serving.settings import ChatSettings

    model, tokenizer = load(run)
    return place(model, ChatSettings()), tokenizer


def _text(content: Any) -> str:
    """Return the text of a message, which gradio may give in parts."""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
