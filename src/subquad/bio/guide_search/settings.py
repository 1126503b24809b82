"""Nucleases, and the settings of `guides`."""

from dataclasses import dataclass
from typing import Annotated, Literal

from subquad.bio.settings import AMBIGUITY, Direction
from subquad.errors import SubquadError
from subquad.runs.options import Count, Ge, Input, Le, Model, Natural, Output, Settings

__all__ = ["NUCLEASES", "GuideSettings", "Nuclease", "Window"]


@dataclass(frozen=True)
class Window:
    """Sequence context that a model reads, in the direction of the guide unless the nuclease says otherwise."""

    before: int
    """Letters before the guide, including a PAM in front of it."""
    after: int
    """Letters after the guide, including a PAM behind it."""
    spacer: int
    """Length of the guide."""

    @property
    def length(self) -> int:
        """Total length."""
        return self.before + self.spacer + self.after


@dataclass(frozen=True, kw_only=True)
class Nuclease:
    """One CRISPR nuclease, and the contexts of published data sets for it."""

    title: str
    pam: str
    """Protospacer-adjacent motif in IUPAC letters; empty if none is needed."""
    pam_first: bool = False
    """The PAM precedes the protospacer."""
    is_rna: bool = False
    """It cuts the given transcript: guides are reverse complements of it, and of no other strand."""
    target_sense: bool = False
    """Published tables write guide and context in the sense of the target and not of the guide."""
    windows: tuple[Window, ...]
    """Contexts of published data sets; the first one is used if no model decides."""


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
    # 33 letters: 23 and 5 on each side (DeepCas13); both tables are in the sense of the guide
    "cas13d": Nuclease(
        title="Cas13d", pam="", is_rna=True, windows=(Window(0, 0, 30), Window(5, 5, 23), Window(0, 0, 23))
    ),
}


@dataclass(frozen=True, kw_only=True)
class GuideSettings(Settings):
    """Nuclease, context and ranking of guides."""

    nuclease: Input[Literal["cas9", "sacas9", "cas12a", "cas13a", "cas13d"]] = "cas9"
    """SpCas9 (NGG), SaCas9 (NNGRRT), Cas12a (TTTV before the protospacer), Cas13a or Cas13d (RNA, no PAM)."""
    pam: Input[str | None] = None
    """PAM in IUPAC letters, such as NG; for Cas13 the letter that follows the protospacer (H: any but G). Default: that
    of the nuclease."""
    spacer: Input[Annotated[int, Ge(15), Le(32)] | None] = None
    """Length of a guide. Default: that of the nuclease or of the model."""
    mismatches: Input[Annotated[int, Ge(0), Le(5)]] = 3
    """Off-targets are other sites of the file with at most this number of mismatches to the guide."""
    context: Model[tuple[Natural, Natural] | None] = None
    """Letters before and after the guide that the model reads, such as 4 6. Default: inferred from the length of the
    model's sequences."""
    target: Model[str | None] = None
    """Target column or class of the model that ranks the guides. Default: the first target column, or the second of two
    classes."""
    direction: Model[Direction | None] = None
    """Whether a high (maximize) or a low (minimize) score is better; for depletion scores and fold changes, minimize.
    Default: maximize, which the page and the terminal then call an assumption."""
    best: Output[Count] = 10
    """Guides per gene on the page and in the terminal; the output file lists all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pam is not None and (not self.pam or set(self.pam.upper()) - set(AMBIGUITY)):
            raise SubquadError(f"--pam must consist of the letters {''.join(AMBIGUITY)}, got {self.pam!r}")

    @property
    def site_pam(self) -> str:
        """The PAM of a site, in IUPAC letters."""
        return NUCLEASES[self.nuclease].pam if self.pam is None else self.pam.upper()

    def window(self, length: int | None = None) -> Window:
        """Return the context that is read.

        Args:
            length: Length of the sequences that the model reads; None if there is no model, or lengths vary.

        Raises:
            SubquadError: No published context of the nuclease has that length, or the requested one has another.
        """
        published = NUCLEASES[self.nuclease].windows
        matching = [window for window in published if self.spacer in (None, window.spacer)]
        spacer = self.spacer or published[0].spacer
        if self.context is not None:
            return self._requested(self.context, spacer, length)
        if length is None:
            return matching[0] if matching else Window(0, 0, spacer)
        for window in matching:
            if window.length == length:
                return window
        known = ", ".join(_describe(window) for window in matching) or f"no guide of {spacer}"
        raise SubquadError(
            f"the model reads sequences of {length} letters, but contexts of {self.nuclease} have {known} letters; "
            f"give the context with --context BEFORE AFTER, or another --nuclease ({_others(length)})"
        )

    def _requested(self, context: tuple[int, int], spacer: int, length: int | None) -> Window:
        # with given sides, the model's length determines that of the guide
        if length is not None and self.spacer is None and 15 <= length - sum(context) <= 32:
            spacer = length - sum(context)
        window = Window(*context, spacer)
        if length not in (None, window.length):
            raise SubquadError(
                f"--context {context[0]} {context[1]} and a guide of {spacer} letters have {window.length} letters, "
                f"but the model reads sequences of {length}"
            )
        return window


def _describe(window: Window) -> str:
    return f"{window.length} ({window.before}+{window.spacer}+{window.after})"


def _others(length: int) -> str:
    names = [name for name, nuclease in NUCLEASES.items() if length in [w.length for w in nuclease.windows]]
    return f"{length} letters match {', '.join(names)}" if names else f"none has contexts of {length} letters"
