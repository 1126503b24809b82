"""`guides`: all CRISPR guides of the genes of a FASTA file, scored and ranked by a fitted model.

The file is read twice, one sequence at a time; memory holds one sequence and 20 bytes per site.
"""

import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np
import pandas as pd

from subquad.bio.data.fasta import read_fasta
from subquad.bio.data.names import TABLES, separator_of
from subquad.bio.guide_search.settings import NUCLEASES, GuideSettings, Window
from subquad.bio.guide_search.sites import as_codes, count_similar, find_sites, pack
from subquad.bio.guide_search.table import COLUMNS, GeneGuides, batches, spacers
from subquad.bio.models.scorer import Scorer, open_scorer
from subquad.bio.models.support import describe_direction
from subquad.bio.settings import AMBIGUITY
from subquad.errors import SubquadError, counted, raise_errors
from subquad.progress import say, track
from subquad.reporting.run_comparison import html_file
from subquad.runs.storage import atomic, check_not_inside, check_output, write_text

if TYPE_CHECKING:
    from subquad.bio.models.fitted import BioModel

__all__ = ["guides"]


def guides(
    genes: Path | str,
    settings: GuideSettings | None = None,
    *,
    out: Path | str,
    model: "BioModel | Path | str | None" = None,
    page: Path | str | None = None,
    force: bool = False,
    quiet: bool = False,
) -> pd.DataFrame:
    """Write all guides of all genes of a FASTA file; return the best guides of each gene, best first.

    Without a model the guides have no scores, and those with the fewest off-targets rank first.

    Args:
        genes: FASTA file, plain or gzipped.
        settings: Nuclease, PAM, context and ranking.
        out: Output table: CSV, or TSV if its name ends in `.tsv`; gzipped if it ends in `.gz`.
        model: Folder that `fit` wrote, or a `BioModel` of guides.
        page: HTML page to write (`.html`), with the best guides of each gene on its map.
        force: Overwrite existing outputs.
        quiet: Show no progress and no remarks.

    Raises:
        SubquadError: The file is not nucleotide FASTA, the model reads another context, or an output exists; nothing
            has been written then.
    """
    settings, genes = settings or GuideSettings(), Path(genes)
    out = check_output(out, suffixes=TABLES, force=force)
    page = None if page is None else html_file(page, force=force)
    for path in [out, *([] if page is None else [page])]:
        check_not_inside(path, genes)
    scorer = None if model is None else open_scorer(model, target=settings.target)
    window = _window(scorer, settings, quiet=quiet)
    identical, similar = _similar_sites(genes, settings, window, quiet=quiet)
    best, maps, begin = [], [], 0
    with _open(out) as file, track("guides", len(similar), quiet=quiet) as advance:
        separator = separator_of(out)
        file.write(separator.join(COLUMNS) + "\n")
        for name, sequence in read_fasta(genes):
            gene = GeneGuides(name, sequence, settings, window)
            if scorer is not None:
                gene.score_with(scorer, advance)
            rows = slice(begin, begin + len(gene.sites))
            begin = rows.stop
            best.append(_write_gene(gene, file, separator, [identical[rows], similar[rows]]))
            maps.append((name, len(sequence), gene.sites, gene.score))
    frame = pd.concat([own for own in best if len(own)], ignore_index=True)
    say(f"{counted(len(similar), 'guide')} in {counted(len(maps), 'sequence')}", quiet=quiet)
    if page is not None:
        from subquad.bio.guide_search.page import render

        score = None if scorer is None else scorer.title
        write_text(page, render(frame, maps, settings=settings, title=genes.name, score=score))
    return frame


def _window(scorer: Scorer | None, settings: GuideSettings, *, quiet: bool) -> Window:
    """Return the context that the model reads, and log it."""
    nuclease = NUCLEASES[settings.nuclease]
    window = settings.window() if scorer is None else _model_window(scorer, settings)
    pam = f"PAM {settings.site_pam}" if settings.site_pam else "no PAM"
    say(f"{nuclease.title}: guides of {window.spacer} letters, {pam}", quiet=quiet)
    if scorer is not None:
        say(describe_direction(settings.direction, scorer.title), quiet=quiet)
        sense = "target" if nuclease.target_sense else "guide"
        inferred = " (inferred from its length; override it with --context)" if settings.context is None else ""
        say(
            f"context of the model, in the sense of the {sense}: {window.before} letters before and {window.after} "
            f"after the guide{inferred}",
            quiet=quiet,
        )
    return window


def _model_window(scorer: Scorer, settings: GuideSettings) -> Window:
    length = scorer.schema.length
    if not scorer.is_nucleotide or scorer.schema.partner_chain is not None:
        raise SubquadError("guides need a model of DNA or RNA, with guides that are aligned to their targets")
    if length is None and settings.context is None:
        raise SubquadError("the model reads sequences of several lengths; name the context of a guide with --context")
    window = settings.window(length)
    alignment = scorer.schema.alignment
    offset = None if alignment is None else alignment.offset
    if offset not in (None, window.before):
        raise SubquadError(f"guides of the model start {offset} letters into their context, not {window.before}")
    return window


def _similar_sites(
    genes: Path, settings: GuideSettings, window: Window, *, quiet: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of identical and of similar other sites of each guide of the file; check its letters too."""
    packed, errors = [], []
    for name, sequence in read_fasta(genes):
        invalid = sequence.upper().translate({ord(letter): None for letter in (*AMBIGUITY, "U")})
        if invalid:
            position = sequence.upper().index(invalid[0]) + 1
            errors.append(f"{name}: {invalid[0]!r} at position {position} is not a nucleotide")
        elif not errors:
            codes = as_codes(sequence)
            sites = find_sites(codes, settings, window.spacer)
            packed += [pack(spacers(codes, some, settings)) for _, some in batches(sites)]
    raise_errors(f"{genes}: not all sequences are nucleotides:", errors)
    joined = np.concatenate(packed or [np.empty(0, np.uint64)])
    if not len(joined):
        raise SubquadError(f"{genes}: no guide of {window.spacer} letters for {NUCLEASES[settings.nuclease].title}")
    return count_similar(joined, window.spacer, settings.mismatches, quiet=quiet)


def _write_gene(gene: GeneGuides, file: TextIO, separator: str, similar: list[np.ndarray]) -> pd.DataFrame:
    """Write the guides of a gene, and return the best ones."""
    best = pd.DataFrame(columns=list(COLUMNS))
    for frame in gene.tables(similar):
        frame.to_csv(file, index=False, header=False, sep=separator, float_format="%.6g", lineterminator="\n")
        joined = pd.concat([best, frame]) if len(best) else frame
        joined = joined.sort_values(["rank", "off_targets", "stem_length", "start"], kind="stable")
        best = joined.head(gene.settings.best)
    return best


@contextmanager
def _open(out: Path) -> Iterator[TextIO]:
    """Yield the output file, which gets its name when it is complete."""
    with atomic(out) as temporary:
        if out.suffix == ".gz":
            # neither time nor name inside, so that equal guides give equal bytes
            with (
                temporary.open("wb") as raw,
                gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed,
                io.TextIOWrapper(packed, encoding="utf-8", newline="") as file,
            ):
                yield file
        else:
            with temporary.open("w", encoding="utf-8", newline="") as file:
                yield file
