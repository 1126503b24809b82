"""What a user can set for an evaluation. Imports the standard library only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from subquad.errors import SubquadError, unknown, validate_choices

__all__ = ["TASKS", "EvaluateSettings"]

TASKS = ("piqa", "arc_easy", "arc_challenge", "hellaswag", "winogrande", "mmlu")
"""The tasks by lm-eval's names; mmlu with five examples before each question, the others with none."""


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """What is measured, and on how much."""

    tasks: str | None = None
    """Tasks by lm-eval's names, with commas between; without it all that have files in --data."""
    limit: int | None = None
    """Items of each task, the first so many; of each subject where a task has subjects."""
    length: int = 1024
    """Tokens of one sequence of the texts."""
    evaluation_tokens: int = 32_768
    """Tokens of each text, at most."""
    text_key: str = "text"
    """The key or column of a row's text; where there is no `text`, questions and answers are looked for."""
    passkey: str | None = None
    """Lengths of text to hide a number in, in tokens, with commas between: `1024,4096`; without it, none."""
    passkey_depths: str = "0.1,0.3,0.5,0.7,0.9"
    """Where the number is hidden: 0 is the start of the text, 1 its end."""
    passkey_trials: int = 4
    """Numbers hidden at each length and depth."""
    speed: str = "128,512,2048"
    """Lengths of text to measure speed and memory at, in tokens, with commas between; 0 measures none."""
    batch_tokens: int = 4096
    """Tokens that a model reads at a time, padding among them; memory grows with it."""
    precision: Literal["no", "bf16"] = "no"
    """Type of the matrix products for texts and tasks: float32, or bfloat16, which some processors do at twice the
    speed."""
    resamples: int = 2000
    """Resamples of an interval."""

    def __post_init__(self) -> None:
        validate_choices(self)
        least = {
            "limit": 1, "length": 3, "evaluation_tokens": 3, "passkey_trials": 1, "batch_tokens": 1, "resamples": 100,
        }  # fmt: skip
        for name, smallest in least.items():
            value = getattr(self, name)
            if value is not None and value < smallest:
                raise SubquadError(f"--{name.replace('_', '-')} must be at least {smallest}, got {value}")
        for name in self.task_names:
            if name not in TASKS:
                raise unknown("task", name, TASKS)
        for depth in self.depths:
            if not 0 <= depth <= 1:
                raise SubquadError(f"--passkey-depths {self.passkey_depths}: {depth} is not between 0 and 1")
        if self.passkey and not self.depths:
            raise SubquadError("--passkey-depths: no depth given")
        for name, lengths in (("passkey", self.contexts), ("speed", self.speed_contexts)):
            if any(length < 1 for length in lengths):
                raise SubquadError(f"--{name} {getattr(self, name)}: lengths are whole numbers from 1")

    @property
    def task_names(self) -> tuple[str, ...]:
        """Tasks asked for by name."""
        return _words(self.tasks)

    @property
    def contexts(self) -> tuple[int, ...]:
        """Lengths to hide a number in, ascending."""
        return _lengths("passkey", self.passkey)

    @property
    def depths(self) -> tuple[float, ...]:
        """Where the number is hidden, ascending."""
        try:
            return tuple(sorted({float(word) for word in _words(self.passkey_depths)}))
        except ValueError:
            raise SubquadError(
                f"--passkey-depths {self.passkey_depths}: depths are numbers from 0 to 1 with commas between"
            ) from None

    @property
    def speed_contexts(self) -> tuple[int, ...]:
        """Lengths to measure speed at, ascending."""
        return () if self.speed.strip() == "0" else _lengths("speed", self.speed)


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())


def _lengths(flag: str, text: str | None) -> tuple[int, ...]:
    words: Sequence[str] = _words(text)
    wrong = [word for word in words if not word.isdecimal()]
    if wrong:
        raise SubquadError(f"--{flag} {text}: {wrong[0]!r} is no number of tokens; give them as 1024,4096")
    return tuple(sorted({int(word) for word in words}))
