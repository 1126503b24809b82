"""The tab of language models: linearize one, chat with it, and compare it with its teacher."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import gradio as gr

from subquad.app.forms import OFFERED, Form
from subquad.app.inputs import RUNS, TEXTS
from subquad.app.tab import Context, Extra, FieldTab
from subquad.errors import SubquadError

__all__ = ["build_language"]

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
        sources={"runs": replace(MODEL, is_several=True), "text": TEXTS}, hidden=("data", "teacher", "extend"),
        words=("--speed=0",),
    )),
)  # fmt: skip
QUESTIONS = ["What is a list in Python?", "Name three animals.", "Why is the sky blue?"]
_opening = threading.Lock()


def build_language(context: Context) -> FieldTab:
    """Build the tab."""
    return FieldTab.build(
        context, "llm", forms=FORMS, extra=Extra("Chat", partial(_build_chat, context), MODEL),
        lead="Replace the softmax attention of a trained language model by linear attention, and chat with the result.",
    )  # fmt: skip


def _build_chat(context: Context) -> gr.Dropdown:
    choices = context.inputs.choices(MODEL)
    model = gr.Dropdown(choices, value=choices[0][1], label="Linearized model", **OFFERED)

    def answer(question: str, history: list[dict[str, Any]], name: str) -> Iterator[str]:
        try:
            yield from _answers(question, history, context.inputs.checked(MODEL, [name])[0])
        except SubquadError as error:
            raise gr.Error(str(error), print_exception=False) from error

    gr.ChatInterface(
        answer, additional_inputs=[model], examples=[[question, None] for question in QUESTIONS],
        chatbot=gr.Chatbot(height=380, label="Chat", layout="bubble", buttons=["copy"]), api_visibility="private",
        # the pictures of gradio's buttons have no name
        submit_btn="Ask", stop_btn="Stop",
    )  # fmt: skip
    return model


def _answers(question: str, history: list[dict[str, Any]], run: str) -> Iterator[str]:
    """Yield the answer as it grows.

    Raises:
        SubquadError: The folder holds no linearized model, or its chat template rejects the turn.
    """
    yield "Opening the model …"
    with _opening:
        session = _session(run)
    session.reset(None)
    # read again from the start at each turn, so that the server keeps no state of a chat
    session.messages = [{"role": turn["role"], "content": _text(turn["content"])} for turn in history]
    text = ""
    for delta in session.answer(question):
        text += delta
        yield text


@lru_cache(maxsize=1)
def _session(run: str) -> Any:
    """Open a model for chats, and keep it until another one is opened."""
    from subquad.llm.serving.chat import ChatSession
    from subquad.llm.serving.generation import load_for_generation
    from subquad.llm.serving.settings import ChatSettings

    settings = ChatSettings()
    return ChatSession(*load_for_generation(run, settings), settings)


def _text(content: Any) -> str:
    """Return the text of a message, which gradio may give in parts."""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
