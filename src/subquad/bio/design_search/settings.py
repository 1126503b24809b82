"""What a user can set for designs. Imports the standard library only, to start fast."""

from dataclasses import dataclass
from typing import Literal

from subquad.errors import SubquadError, validate_choices

__all__ = ["DesignSettings"]


@dataclass(frozen=True, kw_only=True)
class DesignSettings:
    """What a design may change, what is looked for, and how many are made. Positions count from 1 in the start."""

    start: str | None = None
    """The sequence to change: letters, or a FASTA file with one; by default the run's wild type."""
    number: int = 92
    """Designs; 92 and 4 wild types fill a plate of 96."""
    max_mutations: int = 4
    """Most changes in one design."""
    fixed: str | None = None
    """Positions that stay, such as 1-10,24."""
    only: str | None = None
    """The only positions that may change, such as 30-60."""
    allow: str | None = None
    """The only letters that positions may change to, such as 24=AGS,30=KR; all other positions stay free. A stop
    (*) comes in only where it stands here."""
    forbid_letters: str | None = None
    """Letters that no change may bring in, such as C or CM."""
    gc: str | None = None
    """Range of the part of G and C in a design, such as 0.4-0.6; for DNA and RNA."""
    forbid_sites: str | None = None
    """Sites that no design may have on either strand: letters (N, R, Y … stand for several) or enzymes, such as
    GAATTC,BsaI; for DNA and RNA."""
    unseen: bool = False
    """Allow letters at positions where training had none such; the model cannot know what they do."""
    repeat: bool = False
    """Allow variants that have been measured already."""
    goal: Literal["max", "min"] = "max"
    """Whether high or low values are looked for."""
    of: str | None = None
    """Which target or class, where the model has several."""
    beta: float = 1.0
    """How much the spread of the model's members counts beside their mean: 0 takes what is predicted best, more takes
    what might be best."""
    diversity: float = 0.2
    """How much of the best one's gain over the start a design loses for the changes that it shares with those chosen
    before; 0 takes the best, however alike."""
    rounds: int = 30
    """Most rounds of the search, where there are too many variants to try all."""
    population: int = 300
    """Parents in each round."""
    wells: Literal["96", "384"] = "96"
    """Of a plate."""
    controls: int = 4
    """Wells of each plate with the start."""

    def __post_init__(self) -> None:
        validate_choices(self)
        least = {
            "number": 1,
            "max_mutations": 1,
            "rounds": 1,
            "population": 2,
            "controls": 0,
            "beta": 0,
            "diversity": 0,
        }
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise SubquadError(f"--{name.replace('_', '-')} must be at least {bound}, got {getattr(self, name)}")
        if self.controls >= int(self.wells):
            raise SubquadError(f"--controls must leave wells for designs: below {self.wells}, got {self.controls}")
        if self.fixed is not None and self.only is not None:
            raise SubquadError("--fixed and --only both say which positions stay; give one of them")
