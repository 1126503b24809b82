"""`subquad llm chat`: a chat in the terminal, or one turn per line of standard input."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console

from subquad.errors import SubquadError, reading
from subquad.llm.models.decoding import beyond_training
from subquad.llm.models.loading import load, place
from subquad.llm.serving.chat import ChatSession
from subquad.llm.serving.settings import ChatSettings
from subquad.progress import say

CONTROLS = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
"""Control characters, which would let a model's text control the terminal."""
COMMANDS = "/reset starts a new chat, /system TEXT starts one with this system message, /quit (or Ctrl-D) ends"


def chat(run: Path | str, settings: ChatSettings | None = None, *, seed: int = 0) -> None:
    """Chat with a linearized model: turns from standard input, answers to standard output.

    Args:
        run: Folder of a linearized model or an adapter.
        settings: System message, length of answers and sampling parameters; None for the defaults.
        seed: Seed of the sampled tokens.

    Raises:
        SubquadError: The folder holds no linearized model, its tokenizer has no chat template, or standard input is not
            UTF-8.
    """
    settings = settings or ChatSettings()
    model, tokenizer = load(run)
    session = ChatSession(place(model, settings), tokenizer, settings, seed=seed)
    console, is_warned = Console(), False
    for line in _lines(console, Path(run).resolve().name):
        if line == "/quit":
            return
        try:
            if line.startswith("/"):
                _obey(session, line)
            else:
                _answer(console, session, line)
        except SubquadError as error:
            # a message that the template rejects does not end the chat
            say(str(error))
        if not is_warned and (warning := beyond_training(model, session.length)):
            is_warned = True
            say(f"warning: {warning}; /reset starts a new chat")


def _answer(console: Console, session: ChatSession, line: str) -> None:
    with _interruptible() as is_stopped:
        for delta in session.answer(line, is_stopped):
            console.out(delta.translate(CONTROLS), end="", highlight=False)
            console.file.flush()
        console.out("", highlight=False)
        if is_stopped():
            say("(stopped)")


def _lines(console: Console, name: str) -> Iterator[str]:
    """Yield the lines that are not empty."""
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        say(f"{name}: {COMMANDS}. Ctrl-C stops an answer.")
        # gives `input` a history and the arrow keys, where Python was built with it
        with suppress(ImportError):
            import readline  # noqa: F401
    while True:
        try:
            with reading("standard input", "UTF-8"):
                try:
                    line = console.input("[bold green]> [/]" if is_terminal else "")
                except EOFError:
                    return
        except KeyboardInterrupt:
            if not is_terminal:
                return
            say(f"\n{COMMANDS}")
            continue
        if line.strip():
            yield line.strip()


def _obey(session: ChatSession, line: str) -> None:
    name, _, text = line.partition(" ")
    if name == "/reset":
        session.reset(session.system)
        say("new chat")
    elif name == "/system":
        session.reset(text.strip() or None)
        say("new chat, with this system message" if text.strip() else "new chat, without a system message")
    else:
        say(f"no command {name}: {COMMANDS}")


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether Ctrl-C was pressed; an exception would leave a state half updated."""
    pressed = threading.Event()
    previous = signal.signal(signal.SIGINT, lambda *_: pressed.set())
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, previous)
