"""All guides of the genes of a FASTA file, scored by a fitted model: `subquad.bio.commands.guides` and `find_guides`.

The file is read twice, one sequence at a time; what stays in memory is one sequence and 20 bytes a site.
"""

import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pandas as pd

from subquad.bio.data.fasta import read_fasta
from subquad.bio.data.files import separator_of
from subquad.bio.guide_search.off_targets import count_near, pack
from subquad.bio.guide_search.settings import NUCLEASES, GuideSettings, Window
from subquad.bio.guide_search.sites import (
    Sites,
    as_codes,
    complement,
    find_sites,
    letters,
    longest_stem,
    windows_of,
)
from subquad.bio.models.scorer import Judge, open_model
from subquad.errors import SubquadError, raise_errors
from subquad.progress import say, track
from subquad.runs.storage import as_file, atomic

__all__ = ["COLUMNS", "find_guides", "guides"]

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
    "self_complement",
    "soft_masked",
    "identical_sites",
    "off_targets",
    "score",
    "score_spread",
    "rank",
    "remark",
)
"""Of the table of guides."""

STEM = 6
"""Letters of a stem from which on a guide is said to fold onto itself."""

ROWS = 50_000
"""Guides whose texts are in memory at once."""


def find_guides(
    sequence: str, nuclease: str = "cas9", *, pam: str | None = None, spacer: int | None = None
) -> pd.DataFrame:
    """Return all guides of one sequence: strand, start, end (from 1, both included), guide and PAM.

    A guide reads as its strand does between `start` and `end`. Guides of Cas13 are reverse complements of the sequence
    given, so their strand is "-", and what stands under `pam` is the target's letters behind the protospacer.

    Args:
        sequence: letters A, C, G, T or U; sites that hold any other are left out.
        nuclease: cas9, sacas9, cas12a, cas13a or cas13d.
        pam: another PAM in IUPAC letters.
        spacer: letters of a guide, where they are not the nuclease's usual ones.

    Raises:
        SubquadError: no such nuclease, or the PAM or the length cannot be.
    """
    settings = GuideSettings(nuclease=nuclease, pam=pam, spacer=spacer)
    codes = as_codes(sequence)
    sites = find_sites(codes, settings, settings.window().spacer)
    return _texts(codes, sites, settings)


def guides(
    fasta: Path | str,
    *,
    out: Path | str,
    model: Any = None,
    settings: GuideSettings | None = None,
    page: Path | str | None = None,
    quiet: bool = False,
) -> pd.DataFrame:
    """Write all guides of all genes of a FASTA file, and return the best of each gene, best first.

    Without a model the guides are listed without scores, and those with the fewest similar sites count as the best.

    Args:
        fasta: plain or gzipped.
        out: the CSV file to write; `.tsv` and `.gz` at its end say how.
        model: a `BioModel` of guides, or the folder that `fit` wrote.
        settings: nuclease, PAM, window, mismatches.
        page: an HTML file with the best guides of each gene on its map.
        quiet: no progress and no remarks.

    Raises:
        SubquadError: the file is no FASTA of nucleotides, or the model reads no window of the nuclease; nothing has
            been written then.
    """
    settings, fasta, out = settings or GuideSettings(), Path(fasta), as_file(out)
    page = None if page is None else as_file(page)
    judge = None if model is None else open_model(model, of=settings.of)
    window = _window(judge, settings)
    _say_window(window, settings, judge, quiet=quiet)
    similar = _similar(fasta, settings, window, quiet=quiet)
    total = len(similar[0])
    best, maps, begin = [], [], 0
    with _open(out) as file, track("guides", total, quiet=quiet) as advance:
        separator = separator_of(out)
        file.write(separator.join(COLUMNS) + "\n")
        for name, sequence in read_fasta(fasta):
            gene = _Gene(name, as_codes(sequence), sequence, settings, window)
            rows = slice(begin, begin + len(gene.sites))
            begin = rows.stop
            best.append(gene.write(file, judge, [each[rows] for each in similar], separator, advance))
            maps.append((name, len(sequence), gene.sites, gene.score))
    filled = [own for own in best if len(own)] or best[:1]
    frame = pd.concat(filled, ignore_index=True)
    say(f"{total:,} guides of {len(maps):,} sequences", quiet=quiet)
    if page is not None:
        from subquad.bio.plots.guides_page import render

        text = render(frame, maps, settings=settings, title=fasta.name, score=None if judge is None else judge.name)
        with atomic(page) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return frame


def _window(judge: Judge | None, settings: GuideSettings) -> Window:
    if judge is None:
        return settings.window()
    if not judge.is_nucleotide:
        raise SubquadError(f"the model reads the letters {judge.model.alphabet}; guides need one fitted on DNA or RNA")
    length = judge.model.about.get("length")
    if length is None and settings.context is None:
        usual = ", ".join(f"{w.before},{w.after}" for w in NUCLEASES[settings.nuclease].windows)
        raise SubquadError(
            "the model was fitted on sequences of several lengths, so it is not known which letters around a guide it "
            f"reads; say so with --context BEFORE,AFTER (usual for {settings.nuclease}: {usual})"
        )
    window = settings.window(length)
    lies = (judge.model.about.get("laid") or {}).get("offset")
    if judge.model.about.get("second") and lies not in (None, window.before):
        raise SubquadError(
            f"the model's guides lie {lies} letters into their context, and those of {settings.nuclease} would lie "
            f"{window.before} letters into it; say how many stand before and after with --context {lies},AFTER"
        )
    return window


def _say_window(window: Window, settings: GuideSettings, judge: Judge | None, *, quiet: bool) -> None:
    nuclease = NUCLEASES[settings.nuclease]
    pam = f"PAM {settings.site_pam}" if settings.site_pam else "no PAM"
    say(f"{nuclease.title}: guides of {window.spacer} letters, {pam}", quiet=quiet)
    if judge is not None:
        reads = "as the target reads" if nuclease.target_sense else "as the guide reads"
        say(
            f"the model reads {window.length} letters, {reads}: {window.before} before the guide and {window.after} "
            f"after it{' (guessed from its length)' if settings.context is None else ''}",
            quiet=quiet,
        )


def _similar(fasta: Path, settings: GuideSettings, window: Window, *, quiet: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of other sites that equal each guide of the file, and that nearly do; check the letters too."""
    packed, mistakes = [], []
    for name, sequence in read_fasta(fasta):
        strange = sequence.upper().translate({ord(letter): None for letter in "ACGTURYSWKMBDHVN"})
        if strange:
            place = sequence.upper().index(strange[0]) + 1
            mistakes.append(f"{name}: {strange[0]!r} at position {place} is no letter of DNA or RNA")
        elif not mistakes:
            codes = as_codes(sequence)
            sites = find_sites(codes, settings, window.spacer)
            packed += [pack(_spacers(codes, some, settings)) for _, some in _batches(sites)]
    raise_errors(f"{fasta}: not all sequences are nucleotides", mistakes)
    joined = np.concatenate(packed or [np.empty(0, np.uint64)])
    return count_near(joined, window.spacer, settings.mismatches, quiet=quiet)


def _spacers(codes: np.ndarray, sites: Sites, settings: GuideSettings) -> np.ndarray:
    return windows_of(codes, sites, Window(0, 0, sites.spacer), is_turned=NUCLEASES[settings.nuclease].is_rna)


def _batches(sites: Sites) -> Iterator[tuple[slice, Sites]]:
    for begin in range(0, len(sites), ROWS):
        rows = slice(begin, min(begin + ROWS, len(sites)))
        yield rows, sites.take(rows)


def _texts(codes: np.ndarray, sites: Sites, settings: GuideSettings) -> pd.DataFrame:
    nuclease = NUCLEASES[settings.nuclease]
    size = len(settings.site_pam)
    around = Window(size if nuclease.pam_first else 0, 0 if nuclease.pam_first else size, sites.spacer)
    whole = windows_of(codes, sites, around)
    pam = whole[:, :size] if nuclease.pam_first else whole[:, sites.spacer :]
    return pd.DataFrame(
        {
            "strand": np.where(sites.is_reverse | nuclease.is_rna, "-", "+"),
            "start": sites.start + 1,
            "end": sites.start + sites.spacer,
            "guide": letters(_spacers(codes, sites, settings)),
            "pam": letters(pam),
        }
    )


@dataclass
class _Gene:
    name: str
    codes: np.ndarray
    sequence: str
    settings: GuideSettings
    window: Window

    def __post_init__(self) -> None:
        self.sites = find_sites(self.codes, self.settings, self.window.spacer)
        self.score = np.full(len(self.sites), np.nan)
        self.spread = np.full(len(self.sites), np.nan)
        raw = np.frombuffer(self.sequence.encode("latin-1", "replace"), dtype=np.uint8)
        # letters below position k that are soft-masked
        self.masked = np.concatenate([[0], np.cumsum(raw >= ord("a"), dtype=np.int32)])

    def write(
        self, file: TextIO, judge: Judge | None, similar: list[np.ndarray], separator: str, advance: Any
    ) -> pd.DataFrame:
        """Write the rows of the gene, and return the best."""
        for rows, sites in _batches(self.sites):
            if judge is not None:
                self._judge(judge, rows, sites)
            advance(rows.stop - rows.start)
        rank, best = self._rank(), pd.DataFrame(columns=list(COLUMNS))
        for rows, sites in _batches(self.sites):
            frame = self._frame(rows, sites, [each[rows] for each in similar])
            frame["rank"] = rank[rows]
            frame = frame[list(COLUMNS)]
            frame.to_csv(file, index=False, header=False, sep=separator, float_format="%.6g", lineterminator="\n")
            best = _best(best, frame, self.settings.best)
        return best

    def _windows(self, sites: Sites) -> np.ndarray:
        nuclease = NUCLEASES[self.settings.nuclease]
        return windows_of(self.codes, sites, self.window, is_turned=nuclease.is_rna and not nuclease.target_sense)

    def _judge(self, judge: Judge, rows: slice, sites: Sites) -> None:
        codes = self._windows(sites)
        whole = np.flatnonzero((codes < 4).all(1))
        texts = [judge.normal(text) for text in letters(codes[whole])]
        if judge.model.about.get("second"):
            first, last = self.window.before, self.window.before + sites.spacer
            paired = codes[whole][:, first:last]
            if (judge.model.about.get("laid") or {}).get("reverse"):
                paired = complement(paired)
            texts = [f"{judge.normal(own)}|{text}" for own, text in zip(letters(paired), texts, strict=True)]
        self.score[whole + rows.start], self.spread[whole + rows.start] = judge.scores(texts)

    def _rank(self) -> pd.Series:
        is_low_best = self.settings.goal == "min"
        return pd.Series(self.score).rank(method="first", ascending=is_low_best).astype("Int64")

    def _frame(self, rows: slice, sites: Sites, similar: list[np.ndarray]) -> pd.DataFrame:
        frame = _texts(self.codes, sites, self.settings)
        codes, window = _spacers(self.codes, sites, self.settings), self._windows(sites)
        frame.insert(0, "gene", self.name)
        frame["context"] = letters(window)
        frame["gc"] = ((codes == 1) | (codes == 2)).mean(1).round(3)
        frame["has_poly_t"] = frame["guide"].str.contains("TTTT", regex=False)
        frame["self_complement"] = longest_stem(codes)
        frame["soft_masked"] = self.masked[sites.start + sites.spacer] > self.masked[sites.start]
        frame["identical_sites"], frame["off_targets"] = similar
        frame["score"], frame["score_spread"] = self.score[rows], self.spread[rows]
        frame["remark"] = _remarks(frame, window)
        frame.index = range(rows.start, rows.stop)
        return frame


def _remarks(frame: pd.DataFrame, window: np.ndarray) -> list[str]:
    checks = (
        ((window == 5).any(1), "context runs off the sequence, so no score"),
        ((window == 4).any(1), "ambiguous letter in the context, so no score"),
        (frame["has_poly_t"], "TTTT ends transcripts of U6"),
        (frame["self_complement"] >= STEM, "folds onto itself"),
        ((frame["gc"] < 0.2) | (frame["gc"] > 0.8), "GC outside 0.2 to 0.8"),
        (frame["identical_sites"] > 0, "cuts elsewhere in this file too"),
    )
    said = np.array([np.where(is_so, text, "") for is_so, text in checks], dtype=object)
    return ["; ".join(text for text in row if text) for row in said.T]


def _best(best: pd.DataFrame, more: pd.DataFrame, most: int) -> pd.DataFrame:
    """Return the best guides of two tables: by rank, else by similar sites."""
    joined = pd.concat([best, more]) if len(best) else more
    return joined.sort_values(["rank", "off_targets", "self_complement", "start"], kind="stable").head(most)


@contextmanager
def _open(out: Path) -> Iterator[TextIO]:
    """Yield the file to write; it is there, under its name, when all has been written."""
    with atomic(out) as temporary:
        if out.suffix == ".gz":
            # no time and no name inside, so that the same guides give the same bytes
            with (
                temporary.open("wb") as raw,
                gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed,
                io.TextIOWrapper(packed, encoding="utf-8", newline="") as file,
            ):
                yield file
        else:
            with temporary.open("w", encoding="utf-8", newline="") as file:
                yield file
