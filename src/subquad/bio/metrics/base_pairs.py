"""Base pairs: from pair probabilities to a structure, and agreement of two structures. O(L² + L·C) for C likely pairs.

Axes: L letters, p pairs. A pair is two positions counted from 0, the lower one first.
"""

import numpy as np

__all__ = ["agreement", "decode_pairs", "dot_bracket"]

BRACKETS = ("()", "[]", "{}", "<>", *(f"{chr(k)}{chr(k + 32)}" for k in range(ord("A"), ord("Z") + 1)))
"""Brackets of pairs that cross each other, in the order in which they are used."""


def decode_pairs(P: np.ndarray, *, threshold: float = 0.5, min_loop: int = 3, crossing: bool = True) -> np.ndarray:
    r"""Return the structure, `(p, 2)`, of pairs that are likelier than a threshold.

    Its nested part has the largest sum of $P_{ij} - \theta$ of all structures without crossing pairs: the
    $\gamma$-centroid estimator of Hamada et al., Bioinformatics 25 (2009) 465, with $\theta = 1/(\gamma+1)$, by
    Nussinov's recursion. Pseudoknots are found as in IPknot (Sato et al., Bioinformatics 27 (2011) i85), but one level
    after the other: the letters that are left form a second nested structure, of which stacked pairs are kept.

    Args:
        P: `(L, L)` probability of each pair, symmetric.
        threshold: $\theta$; pairs must be more likely than this.
        min_loop: Minimum number of letters between the two of a pair.
        crossing: Add the second structure; otherwise no pairs cross.

    Raises:
        ValueError: P is not square.
    """
    P = np.asarray(P, dtype=np.float64)
    if P.ndim != 2 or P.shape[0] != P.shape[1]:
        raise ValueError(f"probabilities of pairs must be square, got {P.shape}")
    gain = np.triu(P - threshold, min_loop + 1)
    pairs = _best_nested(gain)
    if not crossing:
        return pairs
    gain[pairs.ravel()] = 0.0
    gain[:, pairs.ravel()] = 0.0
    left = {(int(i), int(j)) for i, j in _best_nested(gain)}
    stacked = [(i, j) for i, j in left if {(i - 1, j + 1), (i + 1, j - 1)} & left]
    return np.array(sorted([*map(tuple, pairs.tolist()), *stacked]), dtype=np.int64).reshape(-1, 2)


def _best_nested(gain: np.ndarray) -> np.ndarray:
    """Return the pairs, none of them crossing, with the largest sum of positive gains."""
    first, second = np.nonzero(gain > 0)
    both = np.concatenate([first, second])
    if len(np.unique(both)) == len(both) and not _crosses(first, second):
        return np.stack([first, second], axis=1)
    return _nested(gain, first, second)


def _crosses(first: np.ndarray, second: np.ndarray) -> bool:
    inside = (first[:, None] < first[None]) & (first[None] < second[:, None])
    return bool((inside & (second[None] > second[:, None])).any())


def _nested(gain: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    length = len(gain)
    # best[i, j] of the letters from i up to but excluding j; all j at once
    best = np.zeros((length + 2, length + 2))
    partner = np.full((length, length + 1), -1, dtype=np.int32)
    ends = np.searchsorted(first, np.arange(length + 1))
    for i in range(length - 1, -1, -1):
        row = best[i + 1].copy()
        for k in second[ends[i] : ends[i + 1]]:
            with_pair = gain[i, k] + best[i + 1, k] + best[k + 1, k + 1 : length + 1]
            is_better = with_pair > row[k + 1 : length + 1]
            row[k + 1 : length + 1][is_better] = with_pair[is_better]
            partner[i, k + 1 :][is_better] = k
        best[i] = row
    pairs, open_parts = [], [(0, length)]
    while open_parts:
        i, j = open_parts.pop()
        while i < j:
            k = int(partner[i, j])
            if k < 0:
                i += 1
                continue
            pairs.append((i, k))
            open_parts.append((k + 1, j))
            i, j = i + 1, k
    return np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)


def dot_bracket(pairs: np.ndarray, length: int) -> str:
    """Return pairs as a dot-bracket string; those that cross pairs in `()` are in `[]`, then `{}` …"""
    signs, levels = np.full(length, "."), [[] for _ in BRACKETS]
    for i, j in sorted(map(tuple, pairs.tolist())):
        free = [k for k, own in enumerate(levels) if not any(a < i < b < j for a, b in own)]
        levels[free[0]].append((i, j))
        signs[i], signs[j] = BRACKETS[free[0]]
    return "".join(signs)


def agreement(truth: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """Return precision, recall and F1 of predicted pairs, and F1 with a tolerance of one position (`f1_shifted`).

    Two structures without pairs agree fully. The tolerance is that of Mathews, BMC Bioinformatics 20 Suppl (2019): pair
    (i, j) is correct if (i, j), (i ± 1, j) or (i, j ± 1) is true.
    """
    true, predicted = _unique(truth), _unique(found)
    if not true or not predicted:
        return dict.fromkeys(("precision", "recall", "f1", "f1_shifted"), float(not true and not predicted))
    right = len(true & predicted)
    precision = sum(bool(_shifts(pair) & true) for pair in predicted) / len(predicted)
    recall = sum(bool(_shifts(pair) & predicted) for pair in true) / len(true)
    return {
        "precision": right / len(predicted),
        "recall": right / len(true),
        "f1": 2 * right / (len(predicted) + len(true)),
        "f1_shifted": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
    }


def _unique(pairs: np.ndarray) -> set[tuple[int, int]]:
    return {(min(i, j), max(i, j)) for i, j in np.asarray(pairs).reshape(-1, 2).tolist()}


def _shifts(pair: tuple[int, int]) -> set[tuple[int, int]]:
    i, j = pair
    return {(i, j), (i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)}
