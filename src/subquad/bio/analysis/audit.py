"""What is in a table, before anything is learned from it: counts that JSON can hold. One pass, and a neighbour search.

Axes: n rows, T positions, A letters.
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from subquad.bio.data.dataset import ANY, PARTS, Inputs, Target

if TYPE_CHECKING:
    from subquad.bio.data.table import Table
    from subquad.bio.splits.split import Split

__all__ = ["audit", "nearest"]

BINS = 30
MOST_TEST, MOST_TRAIN = 500, 20_000
"""Rows between which neighbours are searched."""
WORD = {4: 6}
"""Letters of a word in sequences of several lengths, by the size of the alphabet; 3 for amino acids."""


def audit(table: "Table", split: "Split", *, seed: int = 0) -> dict[str, Any]:
    """Return what the report says of the data, as JSON knows it.

    Keys:
        rows, measured, used: rows of the file, with a measurement, and in a part of the split.
        length: `min`, `median`, `max`, and `edges` and `counts` of a histogram.
        letters, ambiguous: how often each letter is there, and letters that stand for several.
        varying: positions that vary; null where rows are of several lengths.
        duplicates: `rows` whose sequence stood before; of those with measurements how far two are apart (`spread`,
            median of absolute differences) or how often they disagree (`disagree`).
        mutations: rows by number of mutations; null where there is no wild type.
        target: what each part holds, by column: `edges` and counts of `train`, `validation`, `test`; or by class, under
            `classes`. `lowest`, `highest`: share of measurements that equal the extremes; `known`: share that is there.
        groups: `count`, and the `largest`; null without groups.
        nearest: of test rows to the nearest training row: `measure`, `edges`, `counts`, `median`, `rows`.
        covariates: names of further columns.
    """
    parts = {name: np.asarray(split.parts[name]) for name in PARTS}
    used = np.concatenate(list(parts.values()))
    inputs = table.inputs
    return {
        "rows": len(table.sequences),
        "measured": int(table.has_target.sum()),
        "used": {name: len(rows) for name, rows in parts.items()},
        "length": _lengths(inputs),
        "letters": _letters(inputs, table.schema.letters),
        "ambiguous": int((inputs.codes == ANY).sum()),
        "varying": int((inputs.codes != inputs.codes[0]).any(0).sum()) if inputs.is_aligned else None,
        "duplicates": _duplicates(table),
        "mutations": _mutations(table),
        "target": None if table.target is None else _target(table.target, parts),
        "groups": None if table.groups is None else _groups(table.groups[used]),
        "nearest": nearest(inputs, parts["train"], parts["test"], seed=seed),
        "covariates": list(table.schema.covariates),
    }


def nearest(inputs: Inputs, train: np.ndarray, test: np.ndarray, *, seed: int = 0) -> dict[str, Any] | None:
    """Return how far test rows are from the nearest training row, of at most 500 and 20,000 of them.

    Aligned rows are as far apart as they have different letters. Of others, the words of three letters (six in DNA) of
    the test row that the training row lacks are counted, as a share.
    """
    if not len(train) or not len(test) or not inputs.codes.shape[1]:
        return None
    random = np.random.default_rng(seed)
    train = random.choice(train, MOST_TRAIN, replace=False) if len(train) > MOST_TRAIN else train
    test = random.choice(test, MOST_TEST, replace=False) if len(test) > MOST_TEST else test
    if inputs.is_aligned:
        distances, measure = _substitutions(inputs, train, test), "substitutions"
        top = int(distances.max())
        edges = np.arange(top + 2) if top < BINS else np.linspace(0, top + 1, BINS + 1).round()
    else:
        distances, measure = _missing_words(inputs, train, test), "words missing"
        edges = np.linspace(0, 1, 21)
    return {
        "measure": measure,
        "edges": [float(edge) for edge in edges],
        "counts": np.histogram(distances, edges)[0].tolist(),
        "median": float(np.median(distances)),
        "rows": len(test),
    }


def _substitutions(inputs: Inputs, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    codes = inputs.codes if inputs.partner is None else np.concatenate([inputs.codes, inputs.partner], axis=1)
    known = codes[train]
    varies = (known != known[0]).any(0) | (codes[test] != known[0]).any(0)
    # positions first, so that each comparison runs along a row of memory
    known = np.ascontiguousarray(known[:, varies].T)
    found = np.empty(len(test))
    for k, row in enumerate(codes[test][:, varies]):
        count = np.zeros(known.shape[1], dtype=np.uint16)
        for letter, column in zip(row, known, strict=True):
            count += column != letter
        found[k] = count.min()
    return found


def _missing_words(inputs: Inputs, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    from scipy import sparse

    size = WORD.get(inputs.letters, 3)

    def words(rows: np.ndarray) -> sparse.csr_matrix:
        codes = inputs.codes[rows].astype(np.int64)
        count = max(codes.shape[1] - size + 1, 0)
        key = np.zeros((len(rows), count), dtype=np.int64)
        whole = np.ones((len(rows), count), dtype=bool)
        for k in range(size):
            own = codes[:, k : k + count]
            key, whole = key * inputs.letters + np.maximum(own, 0), whole & (own >= 0)
        row, place = np.nonzero(whole)
        shape = (len(rows), inputs.letters**size)
        matrix = sparse.csr_matrix((np.ones(len(row), dtype=np.float32), (row, key[row, place])), shape=shape)
        matrix.data[:] = 1.0
        return matrix

    own = words(test)
    shared = (own @ words(train).T).max(axis=1).toarray().ravel()
    total = np.asarray(own.sum(1)).ravel()
    return 1 - shared / np.maximum(total, 1)


def _lengths(inputs: Inputs) -> dict[str, Any]:
    lengths = inputs.lengths
    low, high = int(lengths.min()), int(lengths.max())
    edges = np.arange(low, high + 2) if high - low < BINS else np.linspace(low, high + 1, BINS + 1)
    counts = np.histogram(lengths, edges)[0]
    return {
        "min": low,
        "median": float(np.median(lengths)),
        "max": high,
        "edges": [float(edge) for edge in edges],
        "counts": counts.tolist(),
    }


def _letters(inputs: Inputs, alphabet: str) -> dict[str, int]:
    counts = np.bincount(inputs.codes[inputs.codes >= 0].ravel(), minlength=len(alphabet))
    return {letter: int(count) for letter, count in zip(alphabet, counts, strict=False)}


def _duplicates(table: "Table") -> dict[str, Any]:
    keys = table.sequences
    if table.inputs.covariates.shape[1]:
        # equal sequences with other numbers beside them are other rows
        keys = [f"{s} {row.tobytes().hex()}" for s, row in zip(keys, table.inputs.covariates, strict=True)]
    first: dict[str, int] = {}
    again, of = [], []
    for row, key in enumerate(keys):
        if key in first:
            again.append(row)
            of.append(first[key])
        else:
            first[key] = row
    said: dict[str, Any] = {"rows": len(again)}
    target = table.target
    if not again or target is None or target.task_type not in ("regression", "binary", "multiclass"):
        return said
    both = table.has_target[again] & table.has_target[of]
    one, other = np.asarray(target.y)[again][both], np.asarray(target.y)[of][both]
    if not len(one):
        return said
    if target.task_type == "regression":
        return said | {"spread": float(np.nanmedian(np.abs(one - other)))}
    return said | {"disagree": float((one != other).mean())}


def _mutations(table: "Table") -> dict[str, int] | None:
    if table.mutants is not None:
        counts = Counter(len(mutant.split(":")) if mutant else 0 for mutant in table.mutants)
    elif table.wild_type is not None and table.inputs.is_aligned:
        letters = table.schema.letters
        own = np.array([letters.find(letter) for letter in table.wild_type])
        if len(own) != table.inputs.codes.shape[1]:
            return None
        counts = Counter((table.inputs.codes != own).sum(1).tolist())
    else:
        return None
    return {str(count): counts[count] for count in sorted(counts)}


def _target(target: Target, parts: dict[str, np.ndarray]) -> dict[str, Any]:
    if target.task_type == "pairs":
        sizes = np.array([len(pairs) for pairs in target.y], dtype=float)
        return {"pairs of a sequence": _histogram(sizes, parts)}
    y = np.asarray(target.y)
    if target.task_type in ("binary", "multiclass", "residue_binary", "residue_multiclass"):
        names = list(target.classes) or ["0", "1"]
        return {
            "classes": {
                name: {part: int((y[rows] == k).sum()) for part, rows in parts.items()} for k, name in enumerate(names)
            }
        }
    if target.task_type == "multilabel":
        columns = enumerate(target.names)
        return {
            "classes": {name: {p: int((y[rows, k] == 1).sum()) for p, rows in parts.items()} for k, name in columns}
        }
    columns = [y] if target.task_type == "residue_regression" else [y[:, k] for k in range(y.shape[1])]
    return {name: _histogram(values, parts) for name, values in zip(target.names, columns, strict=False)}


def _histogram(values: np.ndarray, parts: dict[str, np.ndarray]) -> dict[str, Any]:
    known = values[np.concatenate(list(parts.values()))]
    is_there = np.isfinite(known)
    share = float(is_there.mean())
    known = known[is_there]
    # the outermost two in a thousand would leave the others few bars
    low, high = np.quantile(known, [0.001, 0.999]) if known.size else (0.0, 1.0)
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    said: dict[str, Any] = {"edges": edges.tolist(), "known": share}
    for part, rows in parts.items():
        own = values[rows]
        said[part] = np.histogram(np.clip(own[np.isfinite(own)], edges[0], edges[-1]), edges)[0].tolist()
    if known.size:
        said |= {"lowest": float((known == known.min()).mean()), "highest": float((known == known.max()).mean())}
    return said


def _groups(groups: Sequence[str]) -> dict[str, Any]:
    counts = Counter(map(str, groups))
    return {"count": len(counts), "largest": [[name, count] for name, count in counts.most_common(5)]}
