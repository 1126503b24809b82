"""Chats with a softmax teacher and its linear student side by side: both answer the same questions, token by token."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from subquad.errors import SubquadError
from subquad.llm.evaluation.model_variants import models_to_evaluate
from subquad.llm.models.checkpoints import open_checkpoint
from subquad.llm.models.decoding import trained_length
from subquad.llm.models.loading import load
from subquad.llm.serving.chat import ChatSession
from subquad.llm.serving.settings import ChatSettings
from subquad.runs.folder import CONFIG

__all__ = ["SIDES", "STEPS", "Chat", "Chats", "Opening", "Side"]

SIDES = {"teacher": "Softmax teacher", "student": "Linear student"}
"""The two models, and their names on the page."""
STEPS = ("other models are opened first", "the files are checked", "the linear student", "the softmax teacher")
"""Steps of the opening of both models; the first one is waiting."""
MOST_CHATS = 8
"""Chats that are kept in memory; the idle one that was not used for the longest time is ended for a new one."""
MOST_PAIRS = 2
"""Linearized models, each with its teacher, that are kept in memory."""
MOST_LETTERS = 100_000
"""Of a question; a longer one would be tokenized for seconds only to be refused."""
MOST_QUESTIONS = 4
"""Of one chat at a time, from several windows."""
SECONDS_TO_ASK = 30.0
"""Time after the opening of a chat in which its first question is expected, and the chat counts as busy."""
TOKENS_PER_POINT = 4
SECONDS_BETWEEN_VIEWS = 0.2
BEYOND = (
    "This chat has {tokens:,} tokens, and the student was trained on texts of {trained:,}: what it writes from here on "
    'may be much worse. "Perplexity by position" shows how much.'
)


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
    memory: list[tuple[int, int]] = field(default_factory=list)
    """Tokens of the context, and bytes of the cache or state."""

    @property
    def speed(self) -> float | None:
        """Tokens per second after the first one; None before there are any."""
        return (self.tokens - 1) / self.seconds if self.tokens > 1 and self.seconds else None

    def ask(self, question: str, is_stopped: Callable[[], bool]) -> Iterator[str]:
        """Begin a turn; return the answer as it is generated, until it ends or `is_stopped`."""
        self.turns.append((question, ""))
        self.tokens, self.seconds = 0, 0.0
        return self.chat.answer(question, is_stopped)

    def write(self, delta: str) -> None:
        """Add text to the last answer."""
        question, answer = self.turns[-1]
        self.turns[-1] = (question, answer + delta)

    def drop_unanswered(self) -> None:
        """Forget turns that the model does not remember, since it has not begun to answer, or has refused them."""
        del self.turns[self.chat.turns :]

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
    stops: int = 0
    """How often answers were stopped; a question that began before is not answered any more."""
    questions: list[str] = field(default_factory=list)
    """Those that wait for another answer, or are answered now."""
    asked_by: float = 0.0
    """Moment until which the first question is expected, as `time.monotonic` returns it."""
    is_closed: bool = False
    """Whether it was ended, so that it answers no more."""
    is_new_again: bool = False
    """Whether it follows a chat that was ended for those of others."""

    def stop(self) -> None:
        """Stop the answers to all questions so far."""
        self.stops += 1

    @property
    def is_busy(self) -> bool:
        """Whether somebody waits for an answer, or is about to ask the first question."""
        return bool(self.questions) or time.monotonic() < self.asked_by

    def answers(self, question: str, lock: threading.Lock) -> Iterator[bool]:
        """Let both models answer in turns of one token.

        Yields whenever there is something new to show: True if the question waits for another answer.

        Closing the iterator ends the answers, as stopping does: what was written so far is kept.

        Raises:
            SubquadError: A model refuses the question, which is then no part of the chat; or too many others wait.
        """
        if len(question) > MOST_LETTERS:
            raise SubquadError(f"the question has {len(question):,} characters; give at most {MOST_LETTERS:,}")
        if len(self.questions) >= MOST_QUESTIONS:
            raise SubquadError(f"{MOST_QUESTIONS} questions of this chat are not answered yet; ask again in a minute")
        stops = self.stops
        self.questions.append(question)
        try:
            self.asked_by = 0.0
            if lock.locked():
                yield True
            # one chat computes at a time, so that its speed is that of the model; a second question in the same chat,
            # from another window, follows the first answer
            with lock:
                if self.stops > stops or self.is_closed:
                    return
                yield from self._write(question, stops)
        finally:
            self.questions.remove(question)
        self.warning = self._beyond_training()
        yield False

    def _beyond_training(self) -> str | None:
        student = self.sides["student"]
        trained = None if student.model is None else trained_length(student.model)
        if trained is None or student.chat.length <= trained:
            return None
        return BEYOND.format(tokens=student.chat.length, trained=trained)

    def _write(self, question: str, stops: int) -> Iterator[bool]:
        """Let both models answer; afterwards the turns of each side are those that its model remembers."""
        is_left = threading.Event()
        streams = {
            name: side.ask(question, lambda: self.stops > stops or is_left.is_set())
            for name, side in self.sides.items()
        }
        last = time.monotonic()
        try:
            # reading a long question takes a while
            yield False
            while streams:
                for name in list(streams):
                    if not self._advance(self.sides[name], streams[name]):
                        del streams[name]
                if time.monotonic() - last > SECONDS_BETWEEN_VIEWS:
                    last = time.monotonic()
                    yield False
        except SubquadError:
            # refused by one model, so that the other one does not remember it either
            streams.clear()
            raise
        finally:
            # nobody waits for the rest when the page was closed or loaded again
            is_left.set()
            for name, stream in streams.items():
                for delta in stream:
                    self.sides[name].write(delta)
            for side in self.sides.values():
                side.drop_unanswered()

    def _advance(self, side: Side, stream: Iterator[str]) -> bool:
        began = time.perf_counter()
        delta = next(stream, None)
        taken = time.perf_counter() - began
        if delta is None:
            side.note_memory()
            return False
        side.write(delta)
        # the first token takes the time of reading the question
        side.seconds += taken if side.tokens else 0.0
        side.tokens += 1
        if side.tokens % TOKENS_PER_POINT == 1:
            side.note_memory()
        return True


@dataclass
class Opening:
    """How far the opening of both models is."""

    step: int = 0
    """Number of the present one of `STEPS`."""
    began: float = field(default_factory=time.monotonic)
    stopped: threading.Event = field(default_factory=threading.Event)

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.began


class Chats:
    """The chats of all users, and the models that they use."""

    def __init__(self) -> None:
        self._chats: OrderedDict[str, Chat] = OrderedDict()
        self._listing = threading.Lock()
        """Held while `_chats` is read or changed."""
        self._models: OrderedDict[tuple[Path, int], tuple[dict[str, Any], Any]] = OrderedDict()
        """Models and tokenizers by folder and time of its last change."""
        self._ended: set[str] = set()
        """Users whose chat was ended for another one, and who have not asked since."""
        self._openings: dict[str, Opening] = {}
        """Of users who wait until their models are open."""
        self._opening = threading.Lock()
        self.computing = threading.Lock()
        """Held while a chat computes."""

    def find(self, user: str) -> Chat | None:
        """Return the chat of a user, if there is one; others are then ended before it."""
        with self._listing:
            if user in self._chats:
                self._chats.move_to_end(user)
            return self._chats.get(user)

    def forget(self, user: str) -> None:
        """End the chat of a user, who wants a new one."""
        self.stop(user)
        self._ended.discard(user)
        self._end(user)

    def stop(self, user: str) -> None:
        """Stop what a user waits for: an answer, or the opening of the models."""
        with self._listing:
            chat = self._chats.get(user)
        opening = self._openings.get(user)
        if chat is not None:
            chat.stop()
        if opening is not None:
            opening.stopped.set()

    def _end(self, user: str) -> None:
        with self._listing:
            chat = self._chats.pop(user, None)
        if chat is not None:
            chat.is_closed = True
            chat.stop()

    def _end_for_others(self, user: str) -> None:
        self._ended.add(user)
        self._end(user)

    def opening(self, user: str, folder: Path, settings: ChatSettings) -> Iterator[Opening]:
        """Do what `start` does, and yield how far it is until the chat is there, or its user has stopped it.

        The models are opened by a thread of their own, and stay open when the iterator is closed or was stopped.

        Raises:
            SubquadError: As `start`.
        """
        opening = self._openings[user] = Opening()
        pool = ThreadPoolExecutor(1, "opening")
        future = pool.submit(self.start, user, folder, settings, opening)
        pool.shutdown(wait=False)
        try:
            while not wait([future], SECONDS_BETWEEN_VIEWS).done and not opening.stopped.is_set():
                yield opening
            if future.done():
                future.result()
        finally:
            if self._openings.get(user) is opening:
                del self._openings[user]

    def start(self, user: str, folder: Path, settings: ChatSettings, opening: Opening | None = None) -> Chat | None:
        """Open both models, unless they are open, and start a chat; none if the opening was stopped.

        Of more than `MOST_PAIRS` linearized models, one that no other user chats with is closed, or else the one whose
        last chat began longest ago, with its chats, if none of them is busy.

        Raises:
            SubquadError: The folder holds no linearized model, its teacher is not found, or too many chats are busy.
        """
        opening = opening or Opening()
        with self._opening:
            if opening.stopped.is_set():
                return None
            self._make_room(user)
            config = folder / CONFIG
            key = (folder, config.stat().st_mtime_ns if config.is_file() else 0)
            # of a model that was deleted, or trained again
            for other in [
                own for own in self._models if own != key and (own[0] == folder or (own[1] and not own[0].is_dir()))
            ]:
                del self._models[other]
            models, tokenizer = self._models.get(key) or self._open(folder, user, opening)
            self._models[key] = models, tokenizer
            self._models.move_to_end(key)
            if opening.stopped.is_set():
                return None
            self._end(user)
            sides = {name: Side(ChatSession(model, tokenizer, settings), model) for name, model in models.items()}
            asked_by = time.monotonic() + SECONDS_TO_ASK
            chat = Chat(folder=folder, sides=sides, asked_by=asked_by, is_new_again=user in self._ended)
            with self._listing:
                self._chats[user] = chat
            self._ended.discard(user)
        return chat

    def _listed(self) -> list[tuple[str, Chat]]:
        """Return all users and their chats; the one that was not used for the longest time is first."""
        with self._listing:
            return [*self._chats.items()]

    def _make_room(self, user: str) -> None:
        """End an idle chat of another user if there are too many."""
        others = {name: chat for name, chat in self._listed() if name != user}
        if len(others) < MOST_CHATS:
            return
        idle = next((name for name, chat in others.items() if not chat.is_busy), None)
        if idle is None:
            raise SubquadError(f"{MOST_CHATS} other chats wait for answers; ask again in a minute")
        self._end_for_others(idle)

    def _open(self, folder: Path, user: str, opening: Opening) -> tuple[dict[str, Any], Any]:
        opening.step = 1
        teacher = next(own for own in models_to_evaluate([folder])[0].variants if own.role == "teacher")
        # closed first, so that memory holds no more pairs than allowed
        while len(self._models) >= MOST_PAIRS:
            chats = self._listed()
            others = {chat.folder for name, chat in chats if name != user}
            busy = {chat.folder for name, chat in chats if name != user and chat.is_busy}
            # models that no other user chats with, or else those whose chats began longest ago
            closed = min(
                (own for own in self._models if own[0] not in busy), key=lambda own: own[0] in others, default=None
            )
            if closed is None:
                raise SubquadError(f"other chats wait for answers of {MOST_PAIRS} other models; ask again in a minute")
            del self._models[closed]
            for name in [name for name, chat in chats if chat.folder == closed[0]]:
                self._end_for_others(name)
        opening.step = 2
        student, tokenizer = load(folder)
        opening.step = 3
        softmax = open_checkpoint(teacher.path)
        models = {"teacher": softmax.eval().requires_grad_(False), "student": student.requires_grad_(False)}
        return models, tokenizer
