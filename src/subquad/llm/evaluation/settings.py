"""Settings of an evaluation. Imports the standard library and cyclopts only."""

from dataclasses import dataclass
from pathlib import Path

from subquad.errors import SubquadError, flag_name, validate_minima, validate_values
from subquad.llm.settings import PlacementSettings
from subquad.runs.options import Input, Model, Output

__all__ = ["EvaluateSettings"]

SPEED_LENGTHS = (128, 512, 2048)
"""Context lengths at which speed is measured by default."""


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(PlacementSettings):
    """What is measured, and on how much data."""

    tasks: Input[tuple[str, ...]] = ()
    """Tasks by lm-eval's names, such as `piqa hellaswag`, whose data lm-eval loads from the Hugging Face Hub."""
    task_definitions: Input[Path | None] = None
    """Folder of lm-eval definitions (YAML) of further tasks."""
    limit: Input[int | None] = None
    """Number of items of each task, from the first. Default: all."""
    sequence_length: Input[int] = 1024
    """Tokens of one sequence of `--text`."""
    evaluation_tokens: Input[int] = 32_768
    """Maximum number of tokens of each `--text`."""
    text_key: Input[str] = "text"
    """Key or column that holds the text of a row; without a `text`, conversations are detected."""
    passkey: Input[tuple[int, ...]] = ()
    """Prompt lengths of passkey retrieval, in tokens. Default: not measured."""
    passkey_depths: Input[tuple[float, ...]] = (0.1, 0.3, 0.5, 0.7, 0.9)
    """Positions of the passkey: 0 is the start of the prompt, 1 its end."""
    passkey_text: Input[Path | None] = None
    """Text that surrounds the passkey. Default: five sentences that are repeated, in which the passkey is easy to find,
    since nothing else is like it."""
    passkey_trials: Input[int] = 4
    """Passkeys per length and depth."""
    speed: Input[tuple[int, ...] | None] = None
    """Context lengths at which speed and memory are measured, in tokens; 0 alone for none. Default: 128 512 2048."""
    variants: Input[tuple[str, ...]] = ()
    """What is measured beside teacher and student, such as `window` or `cache_fine_tuned`; the names are those in
    `evaluation.json`. Without `window` there is no gap that the student could close. Default: everything there is."""
    batch_tokens: Model[int] = 4096
    """Maximum number of tokens in one forward pass, with padding."""
    resamples: Output[int] = 2000
    """Bootstrap resamples of the intervals."""

    def __post_init__(self) -> None:
        validate_values(self)
        validate_minima(self, limit=1, passkey_trials=1, batch_tokens=1, resamples=100)
        validate_minima(self, sequence_length=3, evaluation_tokens=3)
        object.__setattr__(self, "tasks", tuple(self.tasks))
        object.__setattr__(self, "variants", tuple(self.variants))
        # 0 alone asks for no speed
        speed = () if self.speed is not None and tuple(self.speed) == (0,) else self.speed
        for name, lengths in (("passkey", self.passkey), ("speed", speed)):
            if lengths and min(lengths) < 1:
                raise SubquadError(f"{flag_name(name)} must be at least 1 token, got {min(lengths)}")
            object.__setattr__(self, name, None if lengths is None else tuple(sorted(set(lengths))))
        object.__setattr__(self, "passkey_depths", tuple(sorted({float(depth) for depth in self.passkey_depths})))

    @property
    def speed_lengths(self) -> tuple[int, ...]:
        """Context lengths at which speed and memory are measured."""
        return SPEED_LENGTHS if self.speed is None else self.speed
