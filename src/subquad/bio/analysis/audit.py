"""Audit of a table and its split: lengths, duplicates, targets, and distances of test rows to training rows.

Costs one pass over the table, and a nearest-neighbour search among samples of rows. Axes: n rows, T positions, A
letters.
"""

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from subquad.bio.data.dataset import ANY, PARTS, Inputs, Target
from subquad.bio.features.composition import is_nucleic
from subquad.bio.features.substitutions import reference_of
from subquad.bio.splits.near_duplicates import equal_sequences

if TYPE_CHECKING:
    from subquad.bio.data.table import Table
    from subquad.bio.splits.split import Split

__all__ = ["audit", "count_unseen", "nearest"]

BINS = 30
MAX_TEST_ROWS, MAX_TRAIN_ROWS = 500, 20_000
"""Rows sampled for the nearest-neighbour search."""
K_MER, K_MER_OF_NUCLEOTIDES = 3, 6


def audit(table: "Table", split: "Split") -> dict[str, Any]:
    """Return what the report shows about the data, as JSON values.

    Args:
        table: The table.
        split: Its split.

    Returns:
        A dictionary with the keys

        - `rows`, `measured`, `used`: rows of the file, with a measurement, and in each part of the split
        - `length`: `min`, `median`, `max`, and `edges` and `counts` of a histogram
        - `partners`: of pairs of chains `length` of the partner chain, as above, and the numbers of different
          `sequences` and `partners`; otherwise None
        - `letters`, `ambiguous`: number of each letter, and of ambiguous letters
        - `varying`: number of positions that vary; None if lengths vary
        - `duplicates`: `rows` that repeat an earlier sequence, and of those with measurements the median absolute
          `difference`, the `differences` by column of several columns, or the fraction that `disagree`
        - `mutations`: rows by number of mutations; None without a wild type
        - `target`: by column, `edges` and counts of `train`, `validation` and `test`, the fraction `known`, and the
          fractions that equal the `lowest` and `highest` value; or counts by class, under `classes`
        - `groups`: `count`, and the `largest`; None without groups
        - `remarks`: what was inferred or changed when the table was read
        - `nearest`: distances of test rows to the nearest training row, see `nearest`
        - `unseen`: number of test rows all of whose substitutions are in no training row; see `count_unseen`
        - `covariates`: names of the covariates
    """
    parts = {name: np.asarray(split.parts[name]) for name in PARTS}
    used = np.concatenate(list(parts.values()))
    inputs = table.inputs
    return {
        "rows": len(table.sequences),
        "measured": int(table.has_target.sum()),
        "used": {name: len(rows) for name, rows in parts.items()},
        "length": _lengths(inputs.chains[0]),
        "partners": _partners(inputs),
        "letters": _letters(inputs, table.schema.letters),
        "ambiguous": sum(int((chain.codes == ANY).sum()) for chain in inputs.chains),
        "varying": _varying(inputs) if inputs.are_aligned else None,
        "duplicates": _duplicates(table),
        "mutations": _mutations(table),
        "target": None if table.target is None else _target(table.target, parts),
        "groups": None if table.groups is None else _groups(table.groups[used]),
        "nearest": nearest(inputs, parts["train"], parts["test"]),
        "unseen": count_unseen(inputs, parts["train"], parts["test"]),
        "covariates": list(table.schema.covariates),
        "remarks": list(table.remarks),
    }


def count_unseen(inputs: Inputs, train: np.ndarray, test: np.ndarray) -> int:
    """Return the number of test rows all of whose substitutions are in no training row; 0 if lengths vary.

    One-hot letters do not tell such rows apart: their columns are constant in training.

    Args:
        inputs: Inputs of all rows.
        train: Training rows.
        test: Test rows.
    """
    known, codes = (inputs.take(rows).all_codes.astype(np.int64) for rows in (train, test))
    if not inputs.are_aligned or not codes.size or not len(known):
        return 0
    letters = max(chain.letters for chain in inputs.chains)
    reference, places = reference_of(known, letters), np.arange(codes.shape[1])
    # codes of padding and ambiguous letters are negative
    is_seen = np.zeros((len(places), letters + 2), dtype=bool)
    is_seen[np.broadcast_to(places, known.shape), known] = True
    is_substituted = (codes != reference) & (codes >= 0)
    is_new = is_substituted & ~is_seen[places, codes]
    return int((is_substituted.any(1) & (is_new == is_substituted).all(1)).sum())


def nearest(inputs: Inputs, train: np.ndarray, test: np.ndarray) -> dict[str, Any] | None:
    """Return the distances of test rows to the nearest training row, on samples of at most 500 and 20,000 rows.

    Args:
        inputs: Inputs of all rows.
        train: Training rows.
        test: Test rows.

    Returns:
        `measure` (substitutions of aligned sequences; otherwise the fraction of k-mers of the test row that the
        training row does not have, with k = 3, or 6 for nucleotides), `edges`, `counts`, `median` and `rows`; None if a
        part is empty.
    """
    if not len(train) or not len(test) or not inputs.codes.shape[1]:
        return None
    random = np.random.default_rng(0)
    train = random.choice(train, MAX_TRAIN_ROWS, replace=False) if len(train) > MAX_TRAIN_ROWS else train
    test = random.choice(test, MAX_TEST_ROWS, replace=False) if len(test) > MAX_TEST_ROWS else test
    if inputs.are_aligned:
        distances, measure = _substitutions(inputs, train, test), "substitutions"
        top = int(distances.max())
        edges = _integer_edges(0, top)
    else:
        distances, measure = _missing_k_mers(inputs, train, test), "missing k-mers"
        edges = np.linspace(0, 1, 21)
    return {
        "measure": measure,
        "edges": [float(edge) for edge in edges],
        "counts": np.histogram(distances, edges)[0].tolist(),
        "median": float(np.median(distances)),
        "rows": len(test),
    }


def _substitutions(inputs: Inputs, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    codes = inputs.all_codes
    known = codes[train]
    varies = (known != known[0]).any(0) | (codes[test] != known[0]).any(0)
    # positions first, so that each comparison is contiguous in memory
    known = np.ascontiguousarray(known[:, varies].T)
    found = np.empty(len(test))
    for k, row in enumerate(codes[test][:, varies]):
        count = np.zeros(known.shape[1], dtype=np.uint16)
        for letter, column in zip(row, known, strict=True):
            count += column != letter
        found[k] = count.min()
    return found


def _missing_k_mers(inputs: Inputs, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    from scipy import sparse

    def all_k_mers(rows: np.ndarray) -> sparse.csr_matrix:
        return sparse.csr_matrix(sparse.hstack([k_mers(chain, rows) for chain in inputs.chains], format="csr"))

    def k_mers(inputs: Inputs, rows: np.ndarray) -> sparse.csr_matrix:
        size = K_MER_OF_NUCLEOTIDES if is_nucleic(inputs.letters) else K_MER
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

    own = all_k_mers(test)
    shared = (own @ all_k_mers(train).T).max(axis=1).toarray().ravel()
    total = np.asarray(own.sum(1)).ravel()
    return 1 - shared / np.maximum(total, 1)


def _partners(inputs: Inputs) -> dict[str, Any] | None:
    if inputs.partner_chain is None:
        return None
    sequences, partners = (len(np.unique(equal_sequences(chain))) for chain in inputs.chains)
    return {"length": _lengths(inputs.partner_chain), "sequences": sequences, "partners": partners}


def _varying(inputs: Inputs) -> int:
    return sum(int((chain.codes != chain.codes[0]).any(0).sum()) for chain in inputs.chains)


def _lengths(inputs: Inputs) -> dict[str, Any]:
    lengths = inputs.lengths
    low, high = int(lengths.min()), int(lengths.max())
    edges = _integer_edges(low, high)
    counts = np.histogram(lengths, edges)[0]
    return {
        "min": low,
        "median": float(np.median(lengths)),
        "max": high,
        "edges": [float(edge) for edge in edges],
        "counts": counts.tolist(),
    }


def _integer_edges(low: int, high: int) -> np.ndarray:
    """Return the edges of at most `BINS` bins that hold equally many integers, from `low` to at least `high`."""
    size = -(-(high - low + 1) // BINS)
    return np.arange(low, high + size + 1, size)


def _letters(inputs: Inputs, alphabet: str) -> dict[str, int]:
    counts = np.bincount(inputs.codes[inputs.codes >= 0].ravel(), minlength=len(alphabet))
    return {letter: int(count) for letter, count in zip(alphabet, counts, strict=False)}


def _duplicates(table: "Table") -> dict[str, Any]:
    keys = table.sequences
    if table.inputs.covariates.shape[1]:
        # equal sequences with different covariates are not duplicates
        keys = [f"{s} {row.tobytes().hex()}" for s, row in zip(keys, table.inputs.covariates, strict=True)]
    first: dict[str, int] = {}
    repeated, original = [], []
    for row, key in enumerate(keys):
        if key in first:
            repeated.append(row)
            original.append(first[key])
        else:
            first[key] = row
    found: dict[str, Any] = {"rows": len(repeated)}
    target = table.target
    if not repeated or target is None or target.task_type not in ("regression", "binary", "multiclass"):
        return found
    both = table.has_target[repeated] & table.has_target[original]
    one, other = np.asarray(target.y)[repeated][both], np.asarray(target.y)[original][both]
    if not len(one):
        return found
    if target.task_type == "regression":
        differences = [_median_difference(*columns) for columns in zip(one.T, other.T, strict=True)]
        if len(differences) == 1:
            return found | {"difference": differences[0]}
        known = {name: value for name, value in zip(target.names, differences, strict=True) if value is not None}
        return found | ({"differences": known} if known else {})
    return found | {"disagree": float((one != other).mean())}


def _median_difference(one: np.ndarray, other: np.ndarray) -> float | None:
    """Return the median absolute difference of two measurements of the same sequences; None without any."""
    gaps = np.abs(one - other)
    return float(np.nanmedian(gaps)) if np.isfinite(gaps).any() else None


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
        return {"pairs per sequence": _histogram(sizes, parts)}
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
    used = values[np.concatenate(list(parts.values()))]
    is_known = np.isfinite(used)
    known = used[is_known]
    # without the outermost 0.2 %, which would leave few bins to the others
    low, high = np.quantile(known, [0.001, 0.999]) if known.size else (0.0, 1.0)
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    found: dict[str, Any] = {"edges": edges.tolist(), "known": float(is_known.mean())}
    for part, rows in parts.items():
        own = values[rows]
        found[part] = np.histogram(np.clip(own[np.isfinite(own)], edges[0], edges[-1]), edges)[0].tolist()
    if known.size:
        found |= {"lowest": float((known == known.min()).mean()), "highest": float((known == known.max()).mean())}
    return found


def _groups(groups: np.ndarray) -> dict[str, Any]:
    counts = Counter(map(str, groups))
    return {"count": len(counts), "largest": [[name, count] for name, count in counts.most_common(5)]}
