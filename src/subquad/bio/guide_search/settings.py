"""Nucleases, what their guides look like, and what a user can set. Imports nothing heavy, to start fast."""

from dataclasses import dataclass
from typing import Literal

from subquad.errors import SubquadError, validate_choices

__all__ = ["NUCLEASES", "GuideSettings", "Nuclease", "Window"]

IUPAC = "ACGTRYSWKMBDHVN"
"""Letters that a PAM may be written in."""


@dataclass(frozen=True)
class Window:
    """Letters around a guide that a model reads, in the guide's own direction unless the nuclease says otherwise."""

    before: int
    """Letters before the guide; with a PAM in front they hold it."""
    after: int
    """Letters after the guide; with a PAM behind they hold it."""
    spacer: int
    """Letters of the guide."""

    @property
    def length(self) -> int:
        """All of it."""
        return self.before + self.spacer + self.after


@dataclass(frozen=True, kw_only=True)
class Nuclease:
    """One family of guides."""

    title: str
    pam: str
    """In IUPAC letters; empty where none is needed."""
    pam_first: bool = False
    """The PAM stands before the guide, not behind it."""
    is_rna: bool = False
    """It cuts the transcript that is given: guides are reverse complements of it, and only of it."""
    target_sense: bool = False
    """Tables for it write guide and window as the target reads, not as the guide does."""
    windows: tuple[Window, ...]
    """Those that data sets of measured guides have; the widest is listed where no model asks for another."""


NUCLEASES = {
    # 30 letters: Azimuth (Doench 2016); 23: guide and PAM
    "cas9": Nuclease(
        title="SpCas9", pam="NGG", windows=(Window(4, 6, 20), Window(0, 3, 20), Window(0, 0, 20), Window(20, 20, 20))
    ),
    "sacas9": Nuclease(title="SaCas9", pam="NNGRRT", windows=(Window(0, 8, 21), Window(0, 6, 21), Window(0, 0, 21))),
    # 34 letters: 4, the PAM, 23, 3 (Kim 2018)
    "cas12a": Nuclease(
        title="Cas12a", pam="TTTV", pam_first=True, windows=(Window(8, 3, 23), Window(4, 0, 23), Window(0, 0, 23))
    ),
    # 28 letters with 10 of the target on each side (ADAPT)
    "cas13a": Nuclease(
        title="Cas13a", pam="", is_rna=True, target_sense=True, windows=(Window(10, 10, 28), Window(0, 0, 28))
    ),
    # 33 letters: 23 and 5 on each side (DeepCas13); both tables are written as the guide reads
    "cas13d": Nuclease(
        title="Cas13d", pam="", is_rna=True, windows=(Window(0, 0, 30), Window(5, 5, 23), Window(0, 0, 23))
    ),
}
"""Name on the command line and what it stands for."""


@dataclass(frozen=True, kw_only=True)
class GuideSettings:
    """Which guides to list."""

    nuclease: Literal["cas9", "sacas9", "cas12a", "cas13a", "cas13d"] = "cas9"
    """SpCas9 (NGG), SaCas9 (NNGRRT), Cas12a (TTTV before the guide), Cas13a or Cas13d (RNA, no PAM)."""
    pam: str | None = None
    """Another PAM, in IUPAC letters, such as NG; for Cas13 the letter after the target: H is all but G."""
    spacer: int | None = None
    """Letters of the guide, where it is another number than the nuclease's own or the model's."""
    context: str | None = None
    """Letters before and after the guide that the model reads, such as 4,6; worked out from the model's length."""
    mismatches: int = 3
    """Other sites of the file with at most so many mismatches to a guide are counted."""
    goal: Literal["max", "min"] = "max"
    """Whether high or low scores rank first; depletion scores and fold changes are best when low."""
    of: str | None = None
    """Which target or class of the model to score by, where it has several."""
    best: int = 10
    """Guides of each gene on the page and on the screen; the file holds all."""

    def __post_init__(self) -> None:
        validate_choices(self)
        strange = sorted(set((self.pam or "").upper()) - set(IUPAC))
        if strange or self.pam == "":
            raise SubquadError(f"--pam must be letters of {IUPAC}, got {self.pam!r}")
        if self.spacer is not None and not 15 <= self.spacer <= 32:
            raise SubquadError(f"--spacer must be from 15 to 32 letters, got {self.spacer}")
        if not 0 <= self.mismatches <= 5:
            raise SubquadError(f"--mismatches must be from 0 to 5, got {self.mismatches}")
        if self.best < 1:
            raise SubquadError(f"--best must be at least 1, got {self.best}")
        _ = self.sides

    @property
    def sides(self) -> tuple[int, int] | None:
        """`context` as two numbers."""
        if self.context is None:
            return None
        parts = self.context.replace("+", ",").split(",")
        if len(parts) != 2 or not all(part.strip().isdigit() for part in parts):
            raise SubquadError(
                f"--context must be letters before and after the guide, such as 4,6; got {self.context!r}"
            )
        return int(parts[0]), int(parts[1])

    @property
    def site_pam(self) -> str:
        """The PAM that is looked for."""
        return NUCLEASES[self.nuclease].pam if self.pam is None else self.pam.upper()

    def window(self, length: int | None = None) -> Window:
        """Return the window that is read: as asked for, or the one of `length` letters, or the widest usual one.

        Raises:
            SubquadError: no usual window of the nuclease has that length, or the one asked for has another.
        """
        usual = NUCLEASES[self.nuclease].windows
        fitting = [window for window in usual if self.spacer in (None, window.spacer)]
        spacer = self.spacer or usual[0].spacer
        if self.sides is not None:
            asked = Window(*self.sides, spacer)
            # a model's length with given sides tells the guide's
            if length is not None and self.spacer is None and 15 <= length - sum(self.sides) <= 32:
                asked = Window(*self.sides, length - sum(self.sides))
            if length not in (None, asked.length):
                raise SubquadError(
                    f"--context {self.context} and a guide of {spacer} letters make {asked.length}, but the model was "
                    f"fitted on sequences of {length}"
                )
            return asked
        if length is None:
            return fitting[0] if fitting else Window(0, 0, spacer)
        for window in fitting:
            if window.length == length:
                return window
        raise SubquadError(
            f"the model was fitted on sequences of {length} letters, and windows of {self.nuclease} have "
            f"{', '.join(_describe(window) for window in fitting) or 'no guide of ' + str(spacer)}; say which letters "
            f"it reads with --context BEFORE,AFTER, or choose another --nuclease ({_elsewhere(length)})"
        )


def _describe(window: Window) -> str:
    return f"{window.length} ({window.before}+{window.spacer}+{window.after})"


def _elsewhere(length: int) -> str:
    names = [name for name, nuclease in NUCLEASES.items() if length in [w.length for w in nuclease.windows]]
    return f"{length} letters fit {', '.join(names)}" if names else f"none has one of {length}"
