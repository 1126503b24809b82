"""What linear models and boosting see of a sequence: letters at places, or composition, as numbers. Costs one pass.

The same numbers come as a sparse matrix for scipy and scikit-learn and as a tensor for the additive path of the net.

Axes: n or B rows, T positions, A letters, F features.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from subquad.bio.data.dataset import ANY, PAD, Inputs
from subquad.bio.features.amino_acids import properties
from subquad.bio.settings import ALPHABETS

__all__ = ["HELIX", "NUCLEOTIDES", "Features", "spell", "words_of"]

PAIRS_UP_TO = 120
"""Aligned DNA and RNA of so many positions at most also show each pair of neighbours at its place."""
NUCLEOTIDES = 5
"""Alphabets of fewer letters are DNA or RNA."""
ENDS = 5
"""Letters at either end that are told by their place where lengths vary."""
HELIX = np.deg2rad(100.0)
"""Turn of an α-helix a residue, for the hydrophobic moment (Eisenberg 1982)."""
CHUNK = 1 << 14

Entries = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Row, column and value."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """Which features there are; `asdict` of it is JSON, and `Features.from_dict` its way back."""

    letters: int
    positions: int
    """Of aligned sequences; 0 where lengths vary."""
    word: int
    """Longest run of neighbouring letters that is a feature: placed where aligned, else as a frequency."""
    ends: int = 0
    """First and last letters that are told by their place, where lengths vary."""
    has_partner: bool = False
    covariate_mean: tuple[float, ...] = ()
    covariate_scale: tuple[float, ...] = ()
    """Covariates are shown less their mean, times this; 0 for a column that is constant."""
    kept: tuple[int, ...] | None = None
    """Columns that vary over the training rows, out of all; None keeps all."""

    @classmethod
    def for_inputs(cls, inputs: Inputs) -> "Features":
        """Return the features that fit these (training) rows, without those that are the same in all of them."""
        is_nucleic = inputs.letters < NUCLEOTIDES
        positions = inputs.codes.shape[1] if inputs.is_aligned else 0
        word = (2 if is_nucleic and positions <= PAIRS_UP_TO else 1) if inputs.is_aligned else 2 + is_nucleic
        spread = inputs.covariates.std(0)
        scale = np.where(spread > 0, 1 / np.maximum(spread, 1e-300), 0.0)
        whole = cls(
            letters=inputs.letters,
            positions=positions,
            word=word,
            ends=0 if inputs.is_aligned else ENDS,
            has_partner=inputs.partner is not None,
            covariate_mean=tuple(inputs.covariates.mean(0).tolist()),
            covariate_scale=tuple(scale.tolist()),
        )
        lowest, highest = np.inf, -np.inf
        for block in whole._blocks(inputs):
            lowest = np.minimum(lowest, block.min(0).toarray().ravel())
            highest = np.maximum(highest, block.max(0).toarray().ravel())
        varies = np.flatnonzero(np.broadcast_to(highest > lowest, whole.count))
        return replace(whole, kept=tuple(varies.tolist()))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Features":
        """Return the features that `asdict` wrote out, also after a way through JSON."""
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})

    def as_dict(self) -> dict[str, Any]:
        """Return all fields, ready for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @property
    def count(self) -> int:
        """F."""
        return self._width if self.kept is None else len(self.kept)

    @cached_property
    def is_unit(self) -> np.ndarray:
        """`(F,)`: the feature is 0 or 1 (letters at places), so its scale is known without looking at rows."""
        return np.repeat([is_unit for _, _, is_unit in self.layout], self._widths)[self.columns]

    @cached_property
    def blocks(self) -> np.ndarray:
        """`(F,)`: name of the block of `layout` that each feature is of."""
        return np.repeat([kind for kind, _, _ in self.layout], self._widths)[self.columns]

    def matrix(self, inputs: Inputs) -> sparse.csr_matrix:
        """Return the features of each row, `(n, F)` float32."""
        blocks = list(self._blocks(inputs))
        return sparse.vstack(blocks, format="csr") if blocks else sparse.csr_matrix((0, self.count), dtype=np.float32)

    def torch_matrix(self, codes: Any, partner: Any, covariates: Any) -> Any:
        """Return the same as a tensor `(B, F)`, float32, on the device of `codes`.

        Args:
            codes: `(B, T)` whole numbers; where lengths vary, padding may be cut off.
            partner: the partner sequence, or None.
            covariates: `(B, E)`, as measured.
        """
        from subquad.bio.features.tensors import torch_features

        return torch_features(self, codes, partner, covariates)

    def names(self, alphabet: str | None = None, covariates: Sequence[str] | None = None) -> list[str]:
        """Return what each feature is called: A24 (from 1), A24G as a mismatch, GC, dipeptide KR, a covariate.

        Args:
            alphabet: the letters; by default DNA or protein, by their number.
            covariates: names of the covariates.
        """
        alphabet = alphabet or next(own for own in ALPHABETS.values() if len(own) == self.letters)
        covariates = covariates or [f"covariate {k + 1}" for k in range(len(self.covariate_mean))]
        everything = [name for kind, _, _ in self.layout for name in _names(self, kind, alphabet, covariates)]
        return [everything[k] for k in self.columns]

    @cached_property
    def columns(self) -> np.ndarray:
        """Numbers of the features among all that the blocks of `layout` have."""
        return np.arange(self._width) if self.kept is None else np.array(self.kept, dtype=np.int64)

    @cached_property
    def layout(self) -> list[tuple[str, int, bool]]:
        """Blocks of features in order: name, columns, and whether they are 0 or 1."""
        A, T = self.letters, self.positions
        if T:
            layout = [("letters", T * A, True)]
            layout += [("pairs", (T - 1) * A**2, True)] if self.word == 2 else []
            if self.has_partner:
                layout += [("partner", T * A, True), ("mismatch", T, True)]
                layout += [("type", T * A**2, True)] if A < NUCLEOTIDES else []
                layout += [("mismatches", 1, False)]
        else:
            layout = [(f"word {k}", A**k, False) for k in range(1, self.word + 1)]
            layout += [
                ("global", len(_globals(A)), False),
                ("first", self.ends * A, True),
                ("last", self.ends * A, True),
            ]
            layout += [("mismatches", 1, False)] if self.has_partner else []
        return [*layout, ("covariates", len(self.covariate_mean), False)]

    @cached_property
    def _widths(self) -> list[int]:
        return [width for _, width, _ in self.layout]

    @cached_property
    def _width(self) -> int:
        return sum(self._widths)

    def _blocks(self, inputs: Inputs) -> Iterator[sparse.csr_matrix]:
        place = np.full(self._width, -1)
        place[self.columns] = np.arange(self.count)
        for begin in range(0, len(inputs), CHUNK):
            some = inputs.take(np.arange(begin, min(begin + CHUNK, len(inputs))))
            parts, offset = [], 0
            for kind, width, _ in self.layout:
                rows, columns, values = _entries(self, kind, some) if width else (np.zeros(0, int),) * 3
                columns = place[offset + columns]
                is_kept = columns >= 0
                parts.append((rows[is_kept], columns[is_kept], values[is_kept].astype(np.float32)))
                offset += width
            rows, columns, values = (np.concatenate(part) for part in zip(*parts, strict=True))
            # float32 from the start: a sum of duplicates is a small whole number or a frequency
            yield sparse.csr_matrix((values, (rows, columns)), shape=(len(some), self.count), dtype=np.float32)


def words_of(channels: Sequence[np.ndarray], letters: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return row, position, number and share of each word: the letters that stand at one place of all channels.

    A word with `PAD` in it is none; one with `ANY` is each word that it may stand for, in equal parts.
    """
    rows, positions = np.nonzero(np.all([channel != PAD for channel in channels], axis=0))
    word, share = np.zeros(len(rows), dtype=np.int64), np.ones(len(rows))
    for channel in channels:
        letter = channel[rows, positions].astype(np.int64)
        if (letter == ANY).any():
            times = np.where(letter == ANY, letters, 1)
            rows, positions, word, share, letter, times = (
                np.repeat(values, times) for values in (rows, positions, word, share / times, letter, times)
            )
            # repeats of one place stand together and count up from 0
            starts = np.flatnonzero(
                np.r_[True, (np.diff(rows) != 0) | (np.diff(positions) != 0) | (np.diff(word) != 0)]
            )
            within = np.arange(len(rows)) - np.repeat(starts, np.diff(np.r_[starts, len(rows)]))
            letter = np.where(letter == ANY, within, letter)
        word = word * letters + letter
    return rows, positions, word, share


def spell(word: int, length: int, alphabet: str) -> str:
    """Return the letters of a word from its number."""
    return "".join(alphabet[word // len(alphabet) ** k % len(alphabet)] for k in reversed(range(length)))


def _globals(letters: int) -> list[str]:
    if letters < NUCLEOTIDES:
        return ["length", "log length", "GC"]
    return ["length", "log length", "net charge", "mean hydropathy", "aromatic share", "hydrophobic moment"]


def _entries(features: Features, kind: str, inputs: Inputs) -> Entries:
    A, codes, partner = features.letters, inputs.codes, inputs.partner
    match kind:
        case "letters" | "partner":
            rows, positions, word, share = words_of([codes if kind == "letters" else partner], A)
            return rows, positions * A + word, share
        case "pairs":
            rows, positions, word, share = words_of([codes[:, :-1], codes[:, 1:]], A)
            return rows, positions * A**2 + word, share
        case "mismatch" | "type" | "mismatches":
            rows, positions, word, share = words_of([codes, partner], A)
            differs = word // A != word % A
            rows, positions, word, share = rows[differs], positions[differs], word[differs], share[differs]
            column = {"mismatch": positions, "type": positions * A**2 + word, "mismatches": np.zeros_like(rows)}
            return rows, column[kind], share
        case "first" | "last":
            rows, positions, word, share = words_of([_ends(inputs, features.ends, kind)], A)
            return rows, positions * A + word, share
        case "global":
            return _dense(_global_values(inputs))
        case "covariates":
            return _dense((inputs.covariates - np.array(features.covariate_mean)) * np.array(features.covariate_scale))
    length = int(kind.removeprefix("word "))
    T = codes.shape[1]
    rows, _, word, share = words_of([codes[:, k : max(T - length + 1 + k, k)] for k in range(length)], A)
    return rows, word, share / np.maximum(inputs.lengths - length + 1, 1)[rows]


def _dense(values: np.ndarray) -> Entries:
    rows, columns = np.indices(values.shape)
    return rows.ravel(), columns.ravel(), values.ravel()


def _ends(inputs: Inputs, count: int, kind: str) -> np.ndarray:
    """Return the first letters from the start on, or the last from the end on."""
    places = np.arange(count)[None] if kind == "first" else inputs.lengths[:, None] - 1 - np.arange(count)
    is_there = (places >= 0) & (places < inputs.lengths[:, None])
    padded = np.pad(inputs.codes, ((0, 0), (0, 1)), constant_values=PAD)
    return np.where(is_there, np.take_along_axis(padded, np.where(is_there, places, -1), axis=1), PAD)


def _global_values(inputs: Inputs) -> np.ndarray:
    lengths = np.maximum(inputs.lengths, 1)
    columns = [inputs.lengths / 100, np.log(lengths)]
    A = inputs.letters
    if A < NUCLEOTIDES:
        share = np.array([0.0, 1.0, 1.0, 0.0])
        return np.stack([*columns, _values(inputs.codes, share).sum(1) / lengths], axis=1)
    table = properties(A)
    hydropathy, charge, aromatic = (_values(inputs.codes, table[:, k]) for k in (0, 1, 3))
    turn = HELIX * np.arange(inputs.codes.shape[1])
    moment = np.hypot(hydropathy @ np.cos(turn), hydropathy @ np.sin(turn))
    columns += [charge.sum(1), hydropathy.sum(1) / lengths, aromatic.sum(1) / lengths, moment / lengths]
    return np.stack(columns, axis=1)


def _values(codes: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Return a number for each letter: 0 in the padding, the mean of all letters for `ANY`."""
    # the codes -2 and -1 count from the end
    return np.r_[table, table.mean(), 0.0][codes.astype(np.int64)]


def _names(features: Features, kind: str, alphabet: str, covariates: Sequence[str]) -> list[str]:
    places = range(1, features.positions + 1)
    A = len(alphabet)
    what = {2: "dinucleotide", 3: "trinucleotide"} if A < NUCLEOTIDES else {2: "dipeptide", 3: "tripeptide"}
    match kind:
        case "letters":
            return [f"{letter}{t}" for t in places for letter in alphabet]
        case "pairs":
            return [f"{spell(word, 2, alphabet)}{t}" for t in places[:-1] for word in range(A**2)]
        case "partner":
            return [f"partner {letter}{t}" for t in places for letter in alphabet]
        case "mismatch":
            return [f"mismatch {t}" for t in places]
        case "type":
            return [f"mismatch {a}{t}{b}" for t in places for a in alphabet for b in alphabet]
        case "mismatches":
            return ["mismatches"]
        case "global":
            return _globals(A)
        case "first":
            return [f"{letter}{t}" for t in range(1, features.ends + 1) for letter in alphabet]
        case "last":
            return [f"{letter}-{t}" for t in range(1, features.ends + 1) for letter in alphabet]
        case "covariates":
            return list(covariates)
    length = int(kind.removeprefix("word "))
    words = [spell(word, length, alphabet) for word in range(A**length)]
    return words if length == 1 else [f"{what[length]} {word}" for word in words]
