"""Constraints of a design: allowed substitutions, GC content, forbidden sites. Vectorized over populations.

Axes: n designs, L positions, A letters. Designs are codes: indices into the alphabet.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from subquad.bio.data.alphabet import GAP
from subquad.bio.design_search.settings import SearchSettings
from subquad.bio.settings import AMBIGUITY
from subquad.errors import SubquadError, raise_errors, require

__all__ = ["Constraints", "read_constraints"]


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """The validated constraints of one search."""

    start: np.ndarray
    """`(L,)` int8 codes of the start sequence."""
    offset: int
    """Positions are numbered from 1 + `offset`."""
    letters: str
    """The alphabet."""
    allowed: np.ndarray
    """`(L, A)` bool: allowed substitutions; the start's own letter is never one."""
    observed: np.ndarray | None
    """`(L, A)` bool: letters observed at each position in training; None if unknown."""
    max_mutations: int
    """Largest number of mutations."""
    gc: tuple[float, float] | None
    """Lowest and highest GC content."""
    sites: dict[str, tuple[str, ...]]
    """Name of each forbidden site, and its IUPAC sequence on both strands."""

    @property
    def positions(self) -> np.ndarray:
        """Positions, from 0, that may mutate."""
        return np.flatnonzero(self.allowed.any(1))

    def count_variants(self, most: int) -> int:
        """Return the number of designs by letters alone, or `most` if there are more."""
        # coefficients of the product of (1 + c x) over positions count the designs by number of mutations
        counts = [1]
        for choices in self.allowed[self.positions].sum(1).tolist():
            raised = [*counts, 0]
            for k, value in enumerate(counts):
                raised[k + 1] += value * choices
            counts = [min(value, most) for value in raised[: self.max_mutations + 1]]
        return min(sum(counts) - 1, most)

    def violations(self, codes: np.ndarray) -> np.ndarray:
        """Return by how much each design violates GC content and forbidden sites, `(n,)`; 0 if it satisfies them."""
        total = np.zeros(len(codes))
        if self.gc is not None:
            gc = np.isin(codes, [self.letters.index(letter) for letter in "GC"]).sum(1)
            length = codes.shape[1]
            low, high = np.ceil(self.gc[0] * length - 1e-9), np.floor(self.gc[1] * length + 1e-9)
            total += np.maximum(low - gc, 0) + np.maximum(gc - high, 0)
        for patterns in self.sites.values():
            for pattern in patterns:
                total += self._count_sites(codes, pattern)
        return total

    def _count_sites(self, codes: np.ndarray, pattern: str) -> np.ndarray:
        width = codes.shape[1] - len(pattern) + 1
        if width < 1:
            return np.zeros(len(codes))
        is_site = np.ones((len(codes), width), dtype=bool)
        for k, letter in enumerate(pattern):
            own = AMBIGUITY[letter].replace("T", "U") if "U" in self.letters else AMBIGUITY[letter]
            is_site &= np.isin(codes[:, k : k + width], [self.letters.index(one) for one in own])
        return is_site.sum(1)

    def are_observed(self, codes: np.ndarray) -> np.ndarray | None:
        """Return whether all mutations of each design were observed in training, `(n,)` bool; None if unknown."""
        if self.observed is None:
            return None
        is_known = self.observed[np.arange(codes.shape[1]), codes]
        return (is_known | (codes == self.start)).all(1)

    def sequences(self, codes: np.ndarray) -> list[str]:
        """Return designs as sequences."""
        table = np.frombuffer(self.letters.encode("ascii"), dtype=np.uint8)
        return [row.tobytes().decode("ascii") for row in table[codes]]

    def mutants(self, codes: np.ndarray) -> list[list[str]]:
        """Return the mutations of each design, such as A24G."""
        first = 1 + self.offset
        return [
            [
                f"{self.letters[self.start[p]]}{p + first}{self.letters[row[p]]}"
                for p in np.flatnonzero(row != self.start)
            ]
            for row in codes
        ]


def read_constraints(
    start: str,
    letters: str,
    settings: SearchSettings,
    *,
    observed: Sequence[str] | None,
    is_nucleotide: bool,
    offset: int = 0,
) -> Constraints:
    """Return the constraints that the settings describe.

    Args:
        start: Sequence to mutate.
        letters: Alphabet of the model.
        settings: Constraints as the user wrote them.
        observed: Letters observed at each position in training; None if unknown.
        is_nucleotide: The letters are DNA or RNA.
        offset: Positions are numbered from 1 + `offset`, in the constraints too.

    Raises:
        SubquadError: All errors in the constraints at once, or no position may mutate.
    """
    parser = _Parser(letters, range(1 + offset, len(start) + 1 + offset), is_nucleotide)
    allowed = parser.substitutions(settings)
    sites = parser.sites(settings.forbid_sites)
    if settings.gc is not None and not is_nucleotide:
        parser.errors.append("--gc applies to DNA and RNA, but the model reads proteins")
    if is_nucleotide and GAP in start and (settings.gc is not None or settings.forbid_sites):
        parser.errors.append("--gc and --forbid-sites need a start sequence without gaps")
    raise_errors("the constraints are not valid:", parser.errors)
    is_observed = None if observed is None else np.array([[letter in own for letter in letters] for own in observed])
    is_open = allowed.copy()
    if is_observed is not None and not settings.allow_unobserved:
        listed = [position for position in parser.listed if not (allowed & is_observed)[parser.index(position)].any()]
        allowed &= is_observed
        raise_errors(
            "the constraints allow only letters that were not observed in training; change them, or allow these "
            "letters with --allow-unobserved:",
            [f"--allow: no training sequence has {parser.listed[p]} at position {p}" for p in sorted(listed)],
        )
    codes = np.array([letters.index(letter) for letter in start], dtype=np.int8)
    # an insertion is designed on request only, as a deletion is
    listed = {parser.index(position) for position in parser.listed}
    closed = [place for place, letter in enumerate(start) if letter == GAP and place not in listed]
    for own in (allowed, is_open):
        own[closed] = False
        own[np.arange(len(codes)), codes] = False
    if not allowed.any():
        is_limited = is_open.any()
        hint = " to a letter observed in training; --allow-unobserved allows other letters" if is_limited else ""
        raise SubquadError(f"no variant satisfies the constraints: no position may mutate{hint}")
    most = min(settings.max_mutations, int(allowed.any(1).sum()))
    return Constraints(
        start=codes,
        offset=offset,
        letters=letters,
        allowed=allowed,
        observed=is_observed,
        max_mutations=most,
        gc=settings.gc,
        sites=sites,
    )


class _Parser:
    """Reads constraints as the user writes them, and collects all errors."""

    def __init__(self, letters: str, numbers: range, is_nucleotide: bool) -> None:
        self.letters, self.numbers, self.is_nucleotide = letters, numbers, is_nucleotide
        self.errors: list[str] = []
        self.listed: dict[int, str] = {}
        """Letters of the positions in `--allow`."""

    def index(self, position: int) -> int:
        return self.numbers.index(position)

    def substitutions(self, settings: SearchSettings) -> np.ndarray:
        """Return `(L, A)` bool: the substitutions that the settings allow."""
        allowed = np.ones((len(self.numbers), len(self.letters)), dtype=bool)
        fixed = self._positions(settings.fixed, "--fixed")
        if settings.only:
            fixed = set(self.numbers) - self._positions(settings.only, "--only")
        forbidden = self._letters(settings.forbid_letters or "", "--forbid-letters")
        self._read_allowed(settings.allow)
        for position, choices in self.listed.items():
            if position in fixed:
                reason = "is not among --only" if settings.only else "is in --fixed"
                self.errors.append(f"--allow: position {position} {reason}")
            both = sorted(set(choices) & set(forbidden))
            if both:
                self.errors.append(f"--allow: {''.join(both)} at position {position} is in --forbid-letters")
            allowed[self.index(position)] = [letter in choices for letter in self.letters]
        allowed[[self.index(position) for position in fixed]] = False
        allowed[:, [self.letters.index(letter) for letter in forbidden]] = False
        for sign in set("*-") & set(self.letters):
            # a stop truncates the protein and a gap is a deletion, so that they are designed on request only
            requested = [self.index(position) for position, own in self.listed.items() if sign in own]
            allowed[np.setdiff1d(np.arange(len(allowed)), requested), self.letters.index(sign)] = False
        return allowed

    def _positions(self, given: Sequence[str], flag: str) -> set[int]:
        found: set[int] = set()
        for text in given:
            match = re.fullmatch(r"(-?\d+)(?:-(-?\d+))?", text.strip())
            if match is None:
                self.errors.append(f"{flag}: {text!r} is not a position or a range such as 1-10")
                continue
            low, high = int(match[1]), int(match[2] or match[1])
            if low > high:
                self.errors.append(f"{flag}: {text}: the range is reversed; write {high}-{low}")
                continue
            if low not in self.numbers or high not in self.numbers:
                span = f"{self.numbers[0]} to {self.numbers[-1]}"
                self.errors.append(f"{flag}: {text} is outside the sequence, which has positions {span}")
                continue
            found |= set(range(low, high + 1))
        return found

    def _letters(self, given: str, flag: str) -> str:
        given = given.upper().strip()
        if self.is_nucleotide:
            given = given.replace("T", "U") if "U" in self.letters else given.replace("U", "T")
        self.errors += [
            f"{flag}: {one!r} is not in the model's alphabet ({self.letters})"
            for one in given
            if one not in self.letters
        ]
        return "".join(one for one in given if one in self.letters)

    def _read_allowed(self, given: Sequence[str]) -> None:
        for text in given:
            position, _, choices = text.partition("=")
            if not choices.strip():
                self.errors.append(f"--allow: {text!r} has no letters; write POSITION=LETTERS, such as 24=AGS")
                continue
            letters = self._letters(choices, f"--allow {text}")
            for one in self._positions([position], "--allow"):
                if one in self.listed:
                    self.errors.append(f"--allow: position {one} is listed twice")
                self.listed[one] = letters

    def sites(self, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Return each forbidden site by name, with its sequence on both strands."""
        if names and not self.is_nucleotide:
            self.errors.append("--forbid-sites applies to DNA and RNA, but the model reads proteins")
            return {}
        found = {}
        for name in names:
            site = name.upper().replace("U", "T")
            if set(site) - set(AMBIGUITY):
                enzymes = require("Bio.Restriction", extra="bio").AllEnzymes
                matching = [enzyme for enzyme in enzymes if str(enzyme).lower() == name.lower()]
                if not matching:
                    self.errors.append(
                        f"--forbid-sites: {name!r} is neither an IUPAC sequence nor a restriction enzyme of Biopython"
                    )
                    continue
                site = matching[0].site
            if set(site) == {"N"}:
                self.errors.append(f"--forbid-sites: {name!r} matches every sequence")
                continue
            reverse = require("Bio.Seq", extra="bio").reverse_complement(site)
            found[name] = (site,) if reverse == site else (site, reverse)
        return found
