"""Chats with a softmax teacher and its linear student side by side: both answer the same questions, token by token."""

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from subquad.llm.evaluation.model_variants import models_to_evaluate
from subquad.llm.models.checkpoints import open_checkpoint
from subquad.llm.models.decoding import beyond_training
from subquad.llm.models.loading import load
from subquad.llm.serving.chat import ChatSession
from subquad.llm.serving.settings import ChatSettings

__all__ = ["SIDES", "Chat", "Chats", "Side"]

SIDES = {"teacher": "Softmax teacher", "student": "Linear student"}
"""The two models, and their names on the page."""
MOST_CHATS = 8
"""Chats that are kept in memory; the oldest ones are forgotten."""
MOST_PAIRS = 2
"""Linearized models, each with its teacher, that are kept in memory."""
TOKENS_PER_POINT = 4
SECONDS_BETWEEN_VIEWS = 0.2


@dataclass
class Side:
    """One of the two models in a chat."""

    chat: ChatSession
    model: Any = None
    """The model that answers."""
    turns: list[tuple[str, str]] = field(default_factory=list)
    """Questions and answers."""
    tokens: int = 0
    """Tokens of the last answer."""
    seconds: float = 0.0
    """Time that they took, without reading the question."""
    reading: float = 0.0
    """Time until the first token of the last answer."""
    memory: list[tuple[int, int]] = field(default_factory=list)
    """Tokens of the context, and bytes of the cache or state."""

    @property
    def speed(self) -> float | None:
        """Tokens per second after the first one; None before there are any."""
        return (self.tokens - 1) / self.seconds if self.tokens > 1 and self.seconds else None

    def note_memory(self) -> None:
        """Add the present size of the cache or state."""
        point = (self.chat.length, self.chat.memory)
        if point[0] and point not in self.memory[-1:]:
            self.memory.append(point)


@dataclass
class Chat:
    """A chat with both models."""

    folder: Path
    """The linearized model."""
    sides: dict[str, Side]
    warning: str | None = None
    """Warning that the chat is longer than the texts that the student was trained on."""
    stopped: threading.Event = field(default_factory=threading.Event)
    is_waiting: bool = False
    """Whether a question is about to wait for another answer."""
    is_closed: bool = False
    """Whether its models are no longer kept, so that it answers no more."""

    def answers(self, question: str, lock: threading.Lock) -> Iterator[None]:
        """Let both models answer in turns of one token; yields whenever there is something new to show."""
        self.stopped.clear()
        if lock.locked():
            self.is_waiting = True
            try:
                yield
            finally:
                self.is_waiting = False
        # one chat computes at a time, so that its speed is that of the model; a second question in the same chat, from
        # another window, follows the first answer
        with lock:
            if self.stopped.is_set() or self.is_closed:
                return
            streams = {}
            for name, side in self.sides.items():
                streams[name] = side.chat.answer(question, self.stopped.is_set)
                side.turns.append((question, ""))
                side.tokens, side.seconds, side.reading = 0, 0.0, 0.0
            last = time.monotonic()
            while streams:
                for name in list(streams):
                    if not self._advance(self.sides[name], streams[name]):
                        del streams[name]
                if time.monotonic() - last > SECONDS_BETWEEN_VIEWS:
                    last = time.monotonic()
                    yield
        student = self.sides["student"]
        self.warning = None if student.model is None else beyond_training(student.model, student.chat.length)
        yield

    def _advance(self, side: Side, stream: Iterator[str]) -> bool:
        began = time.perf_counter()
        delta = next(stream, None)
        taken = time.perf_counter() - began
        if delta is None:
            side.note_memory()
            return False
        question, answer = side.turns[-1]
        side.turns[-1] = (question, answer + delta)
        if side.tokens:
            side.seconds += taken
        else:
            side.reading = taken
        side.tokens += 1
        if side.tokens % TOKENS_PER_POINT == 1:
            side.note_memory()
        return True


class Chats:
    """The chats of all users, and the models that they use."""

    def __init__(self) -> None:
        self._chats: OrderedDict[str, Chat] = OrderedDict()
        self._models: OrderedDict[Path, tuple[dict[str, Any], Any]] = OrderedDict()
        self._opening = threading.Lock()
        self.computing = threading.Lock()
        """Held while a chat computes."""

    def find(self, user: str) -> Chat | None:
        """Return the chat of a user, if there is one."""
        return self._chats.get(user)

    def forget(self, user: str) -> None:
        """End the chat of a user."""
        chat = self._chats.pop(user, None)
        if chat is not None:
            chat.is_closed = True
            chat.stopped.set()

    def start(self, user: str, folder: Path, settings: ChatSettings) -> Chat:
        """Open both models, unless they are open, and start a chat.

        Of more than `MOST_PAIRS` linearized models, one that no other user chats with is closed, or else the one whose
        last chat began longest ago, with its chats.

        Raises:
            SubquadError: The folder holds no linearized model, or its teacher is not found.
        """
        with self._opening:
            models, tokenizer = self._models.get(folder) or self._open(folder, user)
            self.forget(user)
            self._models[folder] = models, tokenizer
            self._models.move_to_end(folder)
            sides = {name: Side(ChatSession(model, tokenizer, settings), model) for name, model in models.items()}
            self._chats[user] = chat = Chat(folder=folder, sides=sides)
            while len(self._chats) > MOST_CHATS:
                self.forget(next(iter(self._chats)))
        return chat

    def _open(self, folder: Path, user: str) -> tuple[dict[str, Any], Any]:
        teacher = next(own for own in models_to_evaluate([folder])[0].variants if own.role == "teacher")
        # closed first, so that memory holds no more pairs than allowed
        while len(self._models) >= MOST_PAIRS:
            chats = [*self._chats.items()]
            others = {chat.folder for name, chat in chats if name != user}
            # models that no other user chats with, or else those whose chats began longest ago
            closed = min(self._models, key=others.__contains__)
            del self._models[closed]
            for name in [name for name, chat in chats if chat.folder == closed]:
                self.forget(name)
        student, tokenizer = load(folder)
        softmax, _ = open_checkpoint(teacher.path)
        models = {"teacher": softmax.eval().requires_grad_(False), "student": student.requires_grad_(False)}
        return models, tokenizer
