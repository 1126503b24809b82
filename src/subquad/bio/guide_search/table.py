"""Tables of guides: their sites and properties, and the scores and ranks of a fitted model.

Axes: S sites, W letters of a window.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from subquad.bio.guide_search.settings import NUCLEASES, GuideSettings, Window
from subquad.bio.guide_search.sites import Sites, as_codes, complement, find_sites, letters, longest_stem, windows_of
from subquad.bio.models.scorer import SEPARATOR, Scorer

__all__ = ["COLUMNS", "GeneGuides", "batches", "find_guides", "spacers"]

COLUMNS = (
    "gene",
    "strand",
    "start",
    "end",
    "guide",
    "pam",
    "context",
    "gc",
    "has_poly_t",
    "stem_length",
    "soft_masked",
    "identical_sites",
    "off_targets",
    "score",
    "score_std",
    "rank",
    "remark",
)
MAX_STEM = 5
"""Longest stem of a guide that is not remarked as self-complementary."""
ROWS = 50_000
"""Guides held as text at once."""


def find_guides(
    sequence: str, nuclease: str = "cas9", *, pam: str | None = None, spacer: int | None = None
) -> pd.DataFrame:
    """Return all guides of one sequence.

    A guide has the sequence of its strand between `start` and `end`. Guides of Cas13 are reverse complements of the
    given transcript, so that their strand is "-", and `pam` holds the letters of the target that follow the
    protospacer.

    Args:
        sequence: Letters A, C, G, T or U; sites with other letters are skipped.
        nuclease: cas9, sacas9, cas12a, cas13a or cas13d.
        pam: PAM in IUPAC letters; by default that of the nuclease.
        spacer: Length of a guide; by default that of the nuclease.

    Returns:
        Columns `strand`, `start` and `end` (from 1, inclusive), `guide` and `pam`.

    Raises:
        SubquadError: Unknown nuclease, or an invalid PAM or length.
    """
    settings = GuideSettings(nuclease=nuclease, pam=pam, spacer=spacer)  # pyright: ignore[reportArgumentType]
    codes = as_codes(sequence)
    return _site_columns(codes, find_sites(codes, settings, settings.window().spacer), settings)


def spacers(codes: np.ndarray, sites: Sites, settings: GuideSettings) -> np.ndarray:
    """Return the guides of all sites as codes, `(S, W)`."""
    return windows_of(codes, sites, Window(0, 0, sites.spacer), is_reversed=NUCLEASES[settings.nuclease].is_rna)


def batches(sites: Sites) -> Iterator[tuple[slice, Sites]]:
    """Yield the sites in batches of `ROWS`, with their slice."""
    for begin in range(0, len(sites), ROWS):
        rows = slice(begin, min(begin + ROWS, len(sites)))
        yield rows, sites.take(rows)


def _site_columns(codes: np.ndarray, sites: Sites, settings: GuideSettings) -> pd.DataFrame:
    nuclease = NUCLEASES[settings.nuclease]
    size = len(settings.site_pam)
    around = Window(size if nuclease.pam_first else 0, 0 if nuclease.pam_first else size, sites.spacer)
    site = windows_of(codes, sites, around)
    return pd.DataFrame(
        {
            "strand": np.where(sites.is_reverse | nuclease.is_rna, "-", "+"),
            "start": sites.start + 1,
            "end": sites.start + sites.spacer,
            "guide": letters(spacers(codes, sites, settings)),
            "pam": letters(site[:, :size] if nuclease.pam_first else site[:, sites.spacer :]),
        }
    )


@dataclass
class GeneGuides:
    """All guides of one gene."""

    name: str
    sequence: str
    settings: GuideSettings
    window: Window
    """Context that the model reads."""

    def __post_init__(self) -> None:
        self.codes = as_codes(self.sequence)
        self.sites = find_sites(self.codes, self.settings, self.window.spacer)
        self.score = np.full(len(self.sites), np.nan)
        self.score_std = np.full(len(self.sites), np.nan)
        raw = np.frombuffer(self.sequence.encode("latin-1", "replace"), dtype=np.uint8)
        # cumulative number of soft-masked letters
        self.masked = np.concatenate([[0], np.cumsum(raw >= ord("a"), dtype=np.int32)])

    def score_with(self, scorer: Scorer, advance: Callable[[int], None]) -> None:
        """Score all guides whose context lies within the sequence and has no ambiguous letters."""
        for rows, sites in batches(self.sites):
            codes = self._contexts(sites)
            complete = np.flatnonzero((codes < 4).all(1))
            sequences = [scorer.normalized(text) for text in letters(codes[complete])]
            if scorer.schema.partner:
                guide = codes[complete][:, self.window.before : self.window.before + sites.spacer]
                if scorer.schema.alignment is not None and scorer.schema.alignment.is_reversed:
                    guide = complement(guide)
                partners = [scorer.normalized(text) for text in letters(guide)]
                sequences = [SEPARATOR.join(pair) for pair in zip(partners, sequences, strict=True)]
            self.score[complete + rows.start], self.score_std[complete + rows.start] = scorer.scores(sequences)
            advance(len(sites))

    def tables(self, similar: list[np.ndarray]) -> Iterator[pd.DataFrame]:
        """Yield the table of the guides in batches.

        Args:
            similar: Numbers of identical and of similar sites of each guide, `(S,)` each.
        """
        is_low_best = self.settings.direction == "minimize"
        rank: Any = pd.Series(self.score).rank(method="first", ascending=is_low_best).astype("Int64")
        for rows, sites in batches(self.sites):
            frame = _site_columns(self.codes, sites, self.settings)
            codes, context = spacers(self.codes, sites, self.settings), self._contexts(sites)
            frame.insert(0, "gene", self.name)
            frame["context"] = letters(context)
            frame["gc"] = ((codes == 1) | (codes == 2)).mean(1).round(3)
            frame["has_poly_t"] = frame["guide"].str.contains("TTTT", regex=False)
            frame["stem_length"] = longest_stem(codes)
            frame["soft_masked"] = self.masked[sites.start + sites.spacer] > self.masked[sites.start]
            frame["identical_sites"], frame["off_targets"] = (counts[rows] for counts in similar)
            frame["score"], frame["score_std"] = self.score[rows], self.score_std[rows]
            frame["remark"] = _remarks(frame, context)
            frame["rank"] = rank[rows].to_numpy()
            frame.index = pd.RangeIndex(rows.start, rows.stop)
            yield frame.filter(COLUMNS)

    def _contexts(self, sites: Sites) -> np.ndarray:
        nuclease = NUCLEASES[self.settings.nuclease]
        is_reversed = nuclease.is_rna and not nuclease.target_sense
        return windows_of(self.codes, sites, self.window, is_reversed=is_reversed)


def _remarks(frame: pd.DataFrame, context: np.ndarray) -> list[str]:
    checks = (
        ((context == 5).any(1), "not scored: context beyond the end of the sequence"),
        ((context == 4).any(1), "not scored: ambiguous letter in the context"),
        (frame["has_poly_t"], "TTTT terminates U6 transcription"),
        (frame["stem_length"] > MAX_STEM, "self-complementary"),
        ((frame["gc"] < 0.2) | (frame["gc"] > 0.8), "GC content outside 20–80 %"),
        (frame["identical_sites"] > 0, "identical site elsewhere in the file"),
    )
    texts = np.array([np.where(applies, text, "") for applies, text in checks], dtype=object)
    return ["; ".join(text for text in row if text) for row in texts.T]
