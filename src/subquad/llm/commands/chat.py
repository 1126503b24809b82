"""`subquad llm chat`: a chat in the terminal, or one turn per line of standard input."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console

from subquad.errors import SubquadError
from subquad.llm.models.decoding import beyond_training
from subquad.llm.serving.chat import ChatSession
from subquad.llm.serving.generation import load_for_generation
from subquad.llm.serving.settings import ChatSettings
from subquad.progress import say

__all__ = ["chat"]

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
    model, tokenizer = load_for_generation(run, settings)
    session = ChatSession(model, tokenizer, settings, seed=seed)
    console, is_terminal, is_warned = Console(), sys.stdin.isatty(), False
    if is_terminal:
        say(f"{Path(run).resolve().name}: {COMMANDS}. Ctrl-C stops an answer.")
    for line in _lines(console, is_terminal=is_terminal):
        if line.startswith("/"):
            if _is_quit(session, line):
                return
            continue
        _answer(console, session, line)
        if not is_warned and (warning := beyond_training(model, session.length)):
            is_warned = True
            say(f"warning: {warning}; /reset starts a new chat")


def _answer(console: Console, session: ChatSession, line: str) -> None:
    with _interruptible() as is_stopped:
        try:
            for delta in session.answer(line, is_stopped):
                console.out(delta.translate(CONTROLS), end="", highlight=False)
                console.file.flush()
        except SubquadError as error:
            # a turn that the template rejects does not end the chat
            say(str(error))
        console.out("", highlight=False)
        if is_stopped():
            say("(stopped)")


def _lines(console: Console, *, is_terminal: bool) -> Iterator[str]:
    """Yield the lines that are not empty."""
    if is_terminal:
        # gives `input` a history and the arrow keys, where Python was built with it
        with suppress(ImportError):
            import readline  # noqa: F401
    while True:
        try:
            line = console.input("[bold green]> [/]") if is_terminal else sys.stdin.readline()
        except EOFError:
            return
        except UnicodeDecodeError as error:
            raise SubquadError(f"standard input: not {error.encoding}; give the turns as UTF-8") from error
        except KeyboardInterrupt:
            if not is_terminal:
                return
            say(f"\n{COMMANDS}")
            continue
        if not line and not is_terminal:
            return
        if line.strip():
            yield line.strip()


def _is_quit(session: ChatSession, line: str) -> bool:
    """Execute a command; return whether it ends the chat."""
    name, _, text = line.partition(" ")
    try:
        match name:
            case "/quit":
                return True
            case "/reset":
                session.reset(session.system)
                say("new chat")
            case "/system":
                session.reset(text.strip() or None)
                say("new chat, with this system message" if text.strip() else "new chat, without a system message")
            case _:
                say(f"no command {name}: {COMMANDS}")
    except SubquadError as error:
        say(str(error))
    return False


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether Ctrl-C was pressed; an exception would leave a state half updated."""
    pressed = threading.Event()
    previous = signal.signal(signal.SIGINT, lambda *_: pressed.set())
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, previous)
