"""A chat in the terminal. The state is kept between turns: a turn costs its own tokens, not those of all before it."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from rich.console import Console
from transformers import PreTrainedTokenizerBase
from transformers.cache_utils import Cache
from transformers.modeling_utils import PreTrainedModel

from subquad.errors import SubquadError
from subquad.llm.serving.decoding import ending_tokens, forward, new_cache, open_linear
from subquad.llm.serving.detokenizer import Writer, chat_text, tokens_of
from subquad.llm.serving.sampling import Dice, Sampling, choose
from subquad.llm.serving.settings import ChatSettings
from subquad.progress import say

__all__ = ["Talk", "chat"]

CHUNK = 512
"""Tokens of a turn that are read between two looks at whether the user wants to stop."""
CONTROLS = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
"""Characters that would let a model's text steer the terminal."""
COMMANDS = "/reset forgets the talk, /system TEXT sets what the model is told before it, /quit ends (so does Ctrl-D)"


class Talk:
    """A conversation with a model."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        settings: ChatSettings = ChatSettings(),
        *,
        seed: int = 0,
    ):
        """Begin a conversation.

        Args:
            model: A linearized model.
            tokenizer: Of the model.
            settings: How answers are made.
            seed: Of the choice among likely tokens.

        Raises:
            SubquadError: the tokenizer has no chat template, or it takes no system message.
        """
        self._model, self._tokenizer, self._settings, self._seed = model, tokenizer, settings, seed
        self._endings = ending_tokens(model, tokenizer)
        self._specials = frozenset(tokenizer.all_special_ids) - self._endings
        self.read = 0
        """Tokens read in the last turn, before the answer."""
        self.reset(settings.system)

    @property
    def length(self) -> int:
        """Tokens in the state."""
        return self._cache.get_seq_length()

    def reset(self, system: str | None) -> None:
        """Forget all turns, and begin with this system message.

        Raises:
            SubquadError: the model's template takes no such message; nothing has changed then.
        """
        messages = [] if system is None else [{"role": "system", "content": system}]
        # a template that does not like it says so now
        chat_text(self._tokenizer, [*messages, {"role": "user", "content": "?"}])
        self.system, self.messages, self.turns = system, messages, 0
        self._forget_state()

    def _forget_state(self) -> None:
        self._cache: Cache = new_cache(self._model)
        self._text: str | None = ""
        self._unread: list[int] = []

    def answer(self, question: str, is_stopped: Callable[[], bool] = lambda: False) -> Iterator[str]:
        """Yield the answer piece by piece, until it ends or `is_stopped`; what was said by then is remembered.

        Raises:
            SubquadError: the model's template refuses the turn.
        """
        messages = [*self.messages, {"role": "user", "content": question}]
        text = chat_text(self._tokenizer, messages)
        if self._text is None or not text.startswith(self._text):
            self._forget_state()
        new = [*self._unread, *tokens_of(self._tokenizer, text[len(self._text or "") :], is_plain=False)]
        # until the answer is there, the state is of no known text
        self._text, self._unread, self.read = None, [], len(new)
        logits = self._read(new, is_stopped)
        if logits is None:
            return
        writer, said = Writer(self._tokenizer, new), ""
        how = Sampling(temperature=self._settings.temperature, top_p=self._settings.top_p)
        dice, is_plain = Dice(how, self._seed, self.turns), True
        self.turns += 1
        for count in range(1, self._settings.max_new_tokens + 1):
            (token,) = choose(logits, [dice])
            if token in self._endings:
                break
            is_plain = is_plain and token not in self._specials
            said += (piece := writer.add(token))
            yield piece
            if count == self._settings.max_new_tokens or is_stopped():
                self._unread = [token]
                break
            logits = forward(self._model, *self._inputs([token]), self._cache)
        said += (piece := writer.end())
        yield piece
        self.messages = [*messages, {"role": "assistant", "content": said}]
        # a token that shows in no text would be missing from a text that is read anew
        self._text = text + said if is_plain else None

    def _read(self, tokens: list[int], is_stopped: Callable[[], bool]) -> torch.Tensor | None:
        logits = None
        for start in range(0, len(tokens), CHUNK):
            if is_stopped():
                return None
            logits = forward(self._model, *self._inputs(tokens[start : start + CHUNK]), self._cache)
        return logits

    def _inputs(self, tokens: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.tensor(tokens, device=self._model.device)[None]
        return ids, torch.arange(self.length, self.length + len(tokens), device=ids.device)[None]


def chat(directory: Path | str, settings: ChatSettings = ChatSettings(), *, seed: int = 0) -> None:
    """Talk with a model: turns from standard input, answers to standard output.

    Raises:
        SubquadError: the folder is no linearized model, or its tokenizer has no chat template.
    """
    model, tokenizer = open_linear(directory)
    talk = Talk(model, tokenizer, settings, seed=seed)
    longest = getattr(model.config, "max_position_embeddings", None)
    console, is_terminal, is_told = Console(), sys.stdin.isatty(), False
    if is_terminal:
        say(f"{Path(directory).resolve().name}: {COMMANDS}. Ctrl-C stops an answer.")
    for line in _lines(console, is_terminal=is_terminal):
        if line.startswith("/"):
            if _is_end(talk, line):
                return
            continue
        _answer(console, talk, line)
        if longest is not None and talk.length > longest and not is_told:
            is_told = True
            say(f"the talk has passed the {longest} tokens that the model was made for; /reset begins anew")


def _answer(console: Console, talk: Talk, line: str) -> None:
    with _watching() as is_stopped:
        try:
            for piece in talk.answer(line, is_stopped):
                console.out(piece.translate(CONTROLS), end="", highlight=False)
                console.file.flush()
        except SubquadError as error:
            # one turn that the template refuses does not end the talk
            say(str(error))
        console.out("", highlight=False)
        if is_stopped():
            say("(stopped)")


def _lines(console: Console, *, is_terminal: bool) -> Iterator[str]:
    """Yield the turns: lines with something on them."""
    if is_terminal:
        # where Python has it, importing it gives `input` a history and the arrow keys
        with suppress(ImportError):
            import readline  # noqa: F401
    while True:
        try:
            line = console.input("[bold green]> [/]") if is_terminal else sys.stdin.readline()
        except EOFError:
            return
        except KeyboardInterrupt:
            if not is_terminal:
                return
            say(f"\n{COMMANDS}")
            continue
        if not line and not is_terminal:
            return
        if line.strip():
            yield line.strip()


def _is_end(talk: Talk, line: str) -> bool:
    """Do a command; return whether it ends the talk."""
    name, _, rest = line.partition(" ")
    try:
        match name:
            case "/quit":
                return True
            case "/reset":
                talk.reset(talk.system)
                say("forgotten")
            case "/system":
                talk.reset(rest.strip() or None)
                say("the talk begins anew, with this before it" if rest.strip() else "the talk begins anew")
            case _:
                say(f"no command {name}: {COMMANDS}")
    except SubquadError as error:
        say(str(error))
    return False


@contextmanager
def _watching() -> Iterator[Callable[[], bool]]:
    """Yield what tells whether Ctrl-C was pressed; it does not break into a forward pass, whose state is half new."""
    pressed = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: pressed.set())
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)
