"""Settings of an evaluation. Imports the standard library and cyclopts only."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from subquad.llm.settings import PlacementSettings
from subquad.runs.options import Count, Ge, Input, MoreInput, MoreModel, MoreOutput, Natural, Probability

SPEED_LENGTHS = (128, 512, 2048)
"""Context lengths at which speed is measured by default."""


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(PlacementSettings):
    """What is measured, and on how much data."""

    tasks: Input[tuple[str, ...]] = ()
    """Tasks by lm-eval's names, such as `piqa hellaswag`, whose data lm-eval loads from the Hugging Face Hub."""
    limit: Input[Count | None] = None
    """Number of items of each task, from the first. Default: all."""
    sequence_length: Input[Annotated[int, Ge(3)]] = 1024
    """Tokens of one sequence of `--text`."""
    evaluation_tokens: Input[Annotated[int, Ge(3)]] = 32_768
    """Maximum number of tokens of each `--text`."""
    text_key: MoreInput[str] = "text"
    """Key or column that holds the text of a row; without a `text`, conversations are detected."""
    passkey: Input[tuple[Count, ...]] = ()
    """Prompt lengths of passkey retrieval, in tokens. Default: not measured."""
    passkey_depths: MoreInput[tuple[Probability, ...]] = (0.1, 0.3, 0.5, 0.7, 0.9)
    """Positions of the passkey: 0 is the start of the prompt, 1 its end."""
    passkey_text: MoreInput[Path | None] = None
    """Text that surrounds the passkey. Default: five sentences that are repeated, in which the passkey is easy to find,
    since nothing else is like it."""
    passkey_trials: MoreInput[Count] = 4
    """Passkeys per length and depth."""
    speed: Input[tuple[Natural, ...] | None] = None
    """Context lengths at which speed and memory are measured, in tokens; 0 alone for none. Default: 128 512 2048."""
    variants: MoreInput[tuple[str, ...]] = ()
    """What is measured beside teacher and student, such as `window` or `cache_fine_tuned`; the names are those in
    `evaluation.json`. Without `window` there is no gap that the student could close. Default: everything there is."""
    batch_tokens: MoreModel[Count] = 4096
    """Maximum number of tokens in one forward pass, with padding."""
    resamples: MoreOutput[Annotated[int, Ge(100)]] = 2000
    """Bootstrap resamples of the intervals."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("passkey", "passkey_depths", "speed"):
            if (values := getattr(self, name)) is not None:
                object.__setattr__(self, name, tuple(sorted(set(values))))

    @property
    def speed_lengths(self) -> tuple[int, ...]:
        """Context lengths at which speed and memory are measured."""
        # 0 alone asks for no speed
        return SPEED_LENGTHS if self.speed is None else tuple(length for length in self.speed if length)
