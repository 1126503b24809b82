"""What a design may be: which letter at which position, GC, forbidden sites. Array operations on whole populations.

Axes: n designs, L positions, A letters. Designs are codes: places of letters in the alphabet.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from subquad.bio.design_search.settings import DesignSettings
from subquad.bio.guide_search.sites import AMBIGUITY
from subquad.errors import raise_errors, require

__all__ = ["Rules", "read_rules"]

COMPLEMENT = {"A": "T", "C": "G", "G": "C", "T": "A", "R": "Y", "Y": "R", "S": "S", "W": "W", "K": "M", "M": "K"}
COMPLEMENT |= {"B": "V", "V": "B", "D": "H", "H": "D", "N": "N"}


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The constraints of one search, checked."""

    start: np.ndarray
    """`(L,)` int8."""
    offset: int
    """Positions are numbered from 1 and this."""
    letters: str
    """The alphabet."""
    options: np.ndarray
    """`(L, A)` bool: letters that a position may change to; its own is never among them."""
    max_mutations: int
    """Most changes."""
    gc: tuple[float, float] | None
    """Least and most of G and C."""
    sites: dict[str, tuple[str, ...]]
    """Name and forbidden texts in IUPAC letters, both strands."""

    @property
    def places(self) -> np.ndarray:
        """Positions, from 0, that may change."""
        return np.flatnonzero(self.options.any(1))

    def variants(self, most: int) -> int:
        """Return how many designs there are by letters alone, or `most` where there are more."""
        # the coefficients of the product of (1 + c x) over positions count the designs by number of changes
        counts = [1]
        for choices in self.options[self.places].sum(1).tolist():
            raised = [*counts, 0]
            for k, value in enumerate(counts):
                raised[k + 1] += value * choices
            counts = [min(value, most) for value in raised[: self.max_mutations + 1]]
        return min(sum(counts) - 1, most)

    def violations(self, codes: np.ndarray) -> np.ndarray:
        """Return how far each design is from satisfying GC and sites; 0 where it does."""
        bad = np.zeros(len(codes))
        if self.gc is not None:
            is_gc = np.isin(codes, [self.letters.index(letter) for letter in "GC"]).sum(1)
            length = codes.shape[1]
            low, high = np.ceil(self.gc[0] * length - 1e-9), np.floor(self.gc[1] * length + 1e-9)
            bad += np.maximum(low - is_gc, 0) + np.maximum(is_gc - high, 0)
        for patterns in self.sites.values():
            for pattern in patterns:
                bad += self._count(codes, pattern)
        return bad

    def _count(self, codes: np.ndarray, pattern: str) -> np.ndarray:
        width = codes.shape[1] - len(pattern) + 1
        if width < 1:
            return np.zeros(len(codes))
        is_site = np.ones((len(codes), width), dtype=bool)
        for k, letter in enumerate(pattern):
            wanted = [self.letters.index(one) for one in self._own(AMBIGUITY[letter])]
            is_site &= np.isin(codes[:, k : k + width], wanted)
        return is_site.sum(1)

    def _own(self, letters: str) -> str:
        return letters.replace("T", "U") if "U" in self.letters else letters

    def texts(self, codes: np.ndarray) -> list[str]:
        """Return designs as sequences."""
        table = np.frombuffer(self.letters.encode("ascii"), dtype=np.uint8)
        return [row.tobytes().decode("ascii") for row in table[codes]]

    def mutants(self, codes: np.ndarray) -> list[list[str]]:
        """Return the changes of each design, as A24G."""
        first = 1 + self.offset
        return [
            [
                f"{self.letters[self.start[p]]}{p + first}{self.letters[row[p]]}"
                for p in np.flatnonzero(row != self.start)
            ]
            for row in codes
        ]


def read_rules(
    start: str,
    letters: str,
    settings: DesignSettings,
    *,
    seen: Sequence[str] | None,
    is_nucleotide: bool,
    offset: int = 0,
) -> Rules:
    """Return what the settings allow to change in `start`.

    Args:
        start: the sequence to change.
        letters: the model's alphabet.
        settings: with the constraints as the user wrote them.
        seen: letters that each position had in training; None where that is not known.
        is_nucleotide: the letters are DNA or RNA.
        offset: positions are numbered from 1 and this, in the constraints too.

    Raises:
        SubquadError: all mistakes in the constraints, at once.
    """
    mistakes: list[str] = [
        f"start: {letter!r} at position {place} is no letter of the model ({letters})"
        for place, letter in enumerate(start, start=1 + offset)
        if letter not in letters
    ]
    numbers = range(1 + offset, len(start) + 1 + offset)
    options = np.ones((len(start), len(letters)), dtype=bool)
    fixed = _positions(settings.fixed, "--fixed", numbers, mistakes)
    only = _positions(settings.only, "--only", numbers, mistakes)
    if settings.only is not None:
        fixed = set(numbers) - only
    forbidden = settings.forbid_letters or ""
    forbidden = _letters(forbidden.replace(",", ""), "--forbid-letters", letters, is_nucleotide, mistakes)
    allowed = _allowed(settings, numbers, letters, is_nucleotide, mistakes)
    for position, choices in allowed.items():
        if position in fixed:
            kept = "--fixed keeps it" if settings.only is None else "--only leaves it out"
            mistakes.append(f"--allow: position {position} may change, but {kept}")
        both = sorted(set(choices) & set(forbidden))
        if both:
            mistakes.append(f"--allow: {''.join(both)} at position {position}, but --forbid-letters forbids it")
        options[numbers.index(position)] = [letter in choices for letter in letters]
    gc = _range(settings.gc, is_nucleotide, mistakes)
    sites = _sites(settings.forbid_sites, is_nucleotide, mistakes)
    raise_errors("these constraints cannot be met; change them", mistakes)
    options[[numbers.index(position) for position in fixed]] = False
    options[:, [letters.index(letter) for letter in forbidden]] = False
    _leave_out_stops(options, letters, [numbers.index(position) for position, own in allowed.items() if "*" in own])
    if seen is not None and not settings.unseen:
        known = np.array([[letter in own for letter in letters] for own in seen])
        unknown = [p for p in allowed if not (options & known)[numbers.index(p)].any()]
        options &= known
        raise_errors(
            "these constraints leave nothing that the model knows; change them, or allow more with --unseen",
            [f"--allow: no training sequence has {allowed[p]} at position {p}" for p in sorted(unknown)],
        )
    codes = np.array([letters.index(letter) for letter in start], dtype=np.int8)
    options[np.arange(len(codes)), codes] = False
    if not options.any():
        more = "" if settings.unseen or seen is None else ", with the letters that training had; --unseen allows others"
        raise_errors("no variant satisfies the constraints", [f"no position may change{more}"])
    most = min(settings.max_mutations, int(options.any(1).sum()))
    return Rules(start=codes, offset=offset, letters=letters, options=options, max_mutations=most, gc=gc, sites=sites)


def _leave_out_stops(options: np.ndarray, letters: str, asked: Sequence[int]) -> None:
    """Allow stops only where they were asked for: nobody else wants a cut protein, however well it is predicted."""
    if "*" in letters:
        options[np.setdiff1d(np.arange(len(options)), asked), letters.index("*")] = False


def _positions(text: str | None, flag: str, numbers: range, mistakes: list[str]) -> set[int]:
    found: set[int] = set()
    for part in (text or "").replace(";", ",").split(","):
        if not part.strip():
            continue
        match = re.fullmatch(r"\s*(-?\d+)(?:\s*-\s*(-?\d+))?\s*", part)
        if match is None:
            mistakes.append(f"{flag}: {part.strip()!r} is no position and no range such as 1-10")
            continue
        low, high = int(match[1]), int(match[2] or match[1])
        if low > high or low not in numbers or high not in numbers:
            ends = f"{numbers[0]} to {numbers[-1]}"
            mistakes.append(f"{flag}: {part.strip()} is outside the sequence, which has positions {ends}")
            continue
        found |= set(range(low, high + 1))
    return found


def _letters(given: str, flag: str, letters: str, is_nucleotide: bool, mistakes: list[str]) -> str:
    given = given.upper().strip()
    if is_nucleotide:
        given = given.replace("T", "U") if "U" in letters else given.replace("U", "T")
    mistakes += [f"{flag}: {one!r} is no letter of the model ({letters})" for one in given if one not in letters]
    return "".join(one for one in given if one in letters)


def _allowed(
    settings: DesignSettings, numbers: range, letters: str, is_nucleotide: bool, mistakes: list[str]
) -> dict[int, str]:
    allowed: dict[int, str] = {}
    for part in (settings.allow or "").replace(";", ",").split(","):
        if not part.strip():
            continue
        position, _, choices = part.partition("=")
        if not choices.strip():
            mistakes.append(f"--allow: {part.strip()!r} names no letters; write POSITION=LETTERS, such as 24=AGS")
            continue
        given = _letters(choices, f"--allow {part.strip()}", letters, is_nucleotide, mistakes)
        for place in _positions(position or "none", "--allow", numbers, mistakes):
            if place in allowed:
                mistakes.append(f"--allow: position {place} stands there twice")
            allowed[place] = given
    return allowed


def _range(text: str | None, is_nucleotide: bool, mistakes: list[str]) -> tuple[float, float] | None:
    if text is None:
        return None
    if not is_nucleotide:
        mistakes.append("--gc is for DNA and RNA, and the model reads proteins")
        return None
    match = re.fullmatch(r"\s*(\d*\.?\d+)\s*-\s*(\d*\.?\d+)\s*", text)
    low, high = (float(match[1]), float(match[2])) if match else (1.0, 0.0)
    if not 0 <= low <= high <= 1:
        mistakes.append(f"--gc: {text!r} is no range of parts such as 0.4-0.6")
        return None
    return low, high


def _sites(text: str | None, is_nucleotide: bool, mistakes: list[str]) -> dict[str, tuple[str, ...]]:
    if not text:
        return {}
    if not is_nucleotide:
        mistakes.append("--forbid-sites is for DNA and RNA, and the model reads proteins")
        return {}
    sites = {}
    for name in (part.strip() for part in text.replace(";", ",").split(",")):
        if not name:
            continue
        site = name.upper().replace("U", "T")
        if set(site) - set(AMBIGUITY):
            enzymes = require("Bio.Restriction", extra="bio").AllEnzymes
            found = [enzyme for enzyme in enzymes if str(enzyme).lower() == name.lower()]
            if not found:
                mistakes.append(f"--forbid-sites: {name!r} is neither a sequence nor an enzyme that Biopython knows")
                continue
            site = found[0].site
        if set(site) == {"N"}:
            mistakes.append(f"--forbid-sites: {name!r} forbids every sequence")
            continue
        back = "".join(COMPLEMENT[letter] for letter in reversed(site))
        sites[name] = (site,) if back == site else (site, back)
    return sites
