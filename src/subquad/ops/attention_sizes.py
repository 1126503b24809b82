"""Sizes of hybrid attention, without torch, so that settings can be checked at once.

Axes: B rows, T positions, Hq query heads, Hkv key heads, Hf heads of the keys' feature map, K key width, V value width,
F features, w window.
"""

from typing import Literal

__all__ = ["WindowShape", "hybrid_chunked_operations", "seen_whole"]

WindowShape = Literal["sliding", "terrace", "none"]


def seen_whole(window: int, window_shape: WindowShape, sinks: int) -> int:
    """Return the number of tokens up to which every token sees all earlier ones by softmax."""
    return {"sliding": window + sinks, "terrace": (sinks // window + 2) * window, "none": 0}[window_shape]


def hybrid_chunked_operations(
    *, B: int, Hq: int, Hkv: int, Hf: int, T: int, K: int, V: int, F: int, w: int = 64,
    window_shape: str = "terrace", sinks: int = 0, cache: int = 0,
) -> int:  # fmt: skip
    """Return the additions and multiplications of `hybrid_chunked`: linear in T."""
    L, exact = -(-T // w) * w, min(sinks, T) + cache
    window = 0 if window_shape == "none" else 2 * B * Hq * L * (exact + 2 * w) * (K + V)
    # scores again, their sums and the novelty of each token, to choose the cached ones
    choice = 2 * B * L * (Hq * (exact + 2 * w) * (K + 1) + Hkv * K) if cache else 0
    past = 2 * B * (Hf + Hq) * L * F * (V + 1)
    # blocks whose keys are weighted by features: the one before (`sliding`), or that and the query's own
    by_features = {"terrace": 0, "sliding": 1, "none": 2}[window_shape]
    return window + past + 2 * B * Hq * L * by_features * w * (F + V + 1) + choice
