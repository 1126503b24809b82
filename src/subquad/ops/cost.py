"""Cost of each form in `ops` and of its all-pairs baseline: operations, bytes and state, computed from the sizes.

Counts the forward pass as implemented: whole blocks, masked pairs included.

Axes: B rows, T positions, H channels, N modes; Hq query heads, Hkv key heads, Hf heads of the keys' feature map, K key
width, V value width, F features, w window; P particles, E neighbours, C channels in, O channels out, K terms, D
coordinates.
"""

import math
from dataclasses import dataclass

__all__ = [
    "Cost",
    "chebyshev",
    "chebyshev_direct",
    "chebyshev_rows",
    "fully_connected",
    "hybrid_chunked",
    "hybrid_quadratic",
    "hybrid_step",
    "knn_graph",
    "longconv_direct",
    "longconv_fft",
    "longconv_frozen",
    "longconv_toeplitz",
    "pair_means",
    "pair_means_direct",
    "s4d_kernel",
    "s4d_kernel_direct",
    "s4d_scan",
    "s4d_step",
    "softmax_attention",
    "softmax_step",
]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost of one forward pass."""

    operations: int
    """Real additions and multiplications in products, transforms and recurrences; masks and exponentials excluded."""
    bytes: int
    """Bytes of all tensors, each counted once: inputs, outputs and intermediate results."""
    state: int = 0
    """Bytes of the recurrent state of all rows; 0 for a form that processes all positions at once."""

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            operations=self.operations + other.operations,
            bytes=self.bytes + other.bytes,
            state=self.state + other.state,
        )


def longconv_direct(*, B: int, H: int, T: int, itemsize: int = 4) -> Cost:
    """Return the cost of a causal convolution by its definition: a Toeplitz matrix per channel."""
    return Cost(operations=2 * B * H * T * T, bytes=itemsize * (2 * B * H * T + H * T + H * T * T))


def longconv_toeplitz(*, B: int, H: int, T: int, itemsize: int = 4) -> Cost:
    """Return the cost of a convolution by one batched product; as many operations as the definition, in one kernel."""
    return Cost(operations=2 * B * H * T * T, bytes=itemsize * (2 * B * H * T + H * (2 * T - 1) + H * T * T))


def longconv_fft(*, B: int, H: int, T: int, itemsize: int = 4) -> Cost:
    """Return the cost of a convolution by real FFTs of twice the length: 5/2 n log₂ n operations each."""
    n = 2 * T
    transforms = (2 * B * H + H) * 5 * n * max(1, math.ceil(math.log2(n))) // 2
    spectra = (2 * B * H + H) * 2 * (T + 1)
    return Cost(operations=transforms + 6 * B * H * (T + 1), bytes=itemsize * (2 * B * H * T + H * T + spectra))


def longconv_frozen(*, B: int, H: int, T: int, itemsize: int = 4) -> Cost:
    """Return the cost of a convolution by real Fourier matrices, as exported."""
    frequencies = T + 1
    forward, kernel = 4 * B * H * T * frequencies, 8 * H * T * frequencies
    spectra = 2 * (2 * B + 1) * H * frequencies
    return Cost(
        operations=2 * forward + kernel + 6 * B * H * frequencies,
        bytes=itemsize * (2 * B * H * T + H * T + spectra + 4 * T * frequencies),
    )


def s4d_kernel_direct(*, H: int, N: int, T: int, itemsize: int = 4) -> Cost:
    """Return the cost of a state space's kernel by the Vandermonde matrix; a complex multiply-add counts 8."""
    return Cost(operations=8 * H * N * T, bytes=itemsize * (2 * H * N * T + 4 * H * N + H * T))


def s4d_kernel(*, H: int, N: int, T: int, itemsize: int = 4) -> Cost:
    """Return the cost of the same kernel by two matrices of about √T columns and one real product."""
    b = max(1, math.isqrt(max(T - 1, 0)) + 1)
    rows = -(-T // b)
    return Cost(
        operations=2 * H * rows * b * 2 * N, bytes=itemsize * (2 * H * N * (rows + b) + 4 * H * N + H * rows * b)
    )


def s4d_scan(*, B: int, H: int, N: int, T: int, itemsize: int = 4) -> Cost:
    """Return the cost of the recurrence over T positions: per mode 10 operations for the state and 8 to read it."""
    step = s4d_step(B=B, H=H, N=N, itemsize=itemsize)
    parameters = 4 * H * N
    return Cost(operations=T * step.operations, bytes=itemsize * (2 * B * H * T + parameters), state=step.state)


def s4d_step(*, B: int, H: int, N: int, itemsize: int = 4) -> Cost:
    """Return the cost of one position of the recurrence."""
    state = 2 * itemsize * B * H * N
    return Cost(operations=18 * B * H * N, bytes=2 * state + itemsize * (2 * B * H + 4 * H * N), state=state)


def softmax_attention(*, B: int, Hq: int, Hkv: int, T: int, K: int, V: int, itemsize: int = 4) -> Cost:
    """Return the cost of the all-pairs baseline: softmax attention over T positions with its weights written out."""
    return Cost(
        operations=2 * B * Hq * T * T * (K + V),
        bytes=itemsize * (B * T * (Hq * (K + V) + Hkv * (K + V)) + B * Hq * T * T),
    )


def softmax_step(*, B: int, Hq: int, Hkv: int, T: int, K: int, V: int, itemsize: int = 4) -> Cost:
    """Return the cost of softmax attention for one token on a cache of T keys and values."""
    cache = itemsize * B * Hkv * T * (K + V)
    return Cost(operations=2 * B * Hq * T * (K + V), bytes=cache + itemsize * B * Hq * (K + V + T), state=cache)


def hybrid_quadratic(*, B: int, Hq: int, Hkv: int, Hf: int, T: int, K: int, V: int, F: int, itemsize: int = 4) -> Cost:
    """Return the cost of hybrid attention by its definition: softmax attention and the T × T products of features."""
    return Cost(
        operations=2 * B * Hq * T * T * (K + F + V),
        bytes=_attention_bytes(B=B, Hq=Hq, Hkv=Hkv, Hf=Hf, T=T, K=K, V=V, F=F, itemsize=itemsize)
        + itemsize * 2 * B * Hq * T * T,
    )


def hybrid_chunked(
    *, B: int, Hq: int, Hkv: int, Hf: int, T: int, K: int, V: int, F: int, w: int = 64,
    window_shape: str = "terrace", sinks: int = 0, cache: int = 0, itemsize: int = 4,
) -> Cost:  # fmt: skip
    """Return the cost of hybrid attention in blocks: linear in T."""
    blocks = -(-T // w)
    L, exact = blocks * w, min(sinks, T) + cache
    window = 0 if window_shape == "none" else 2 * B * Hq * L * (exact + 2 * w) * (K + V)
    # scores again, their sums and the novelty of each token, to choose the cached ones
    choice = 2 * B * L * (Hq * (exact + 2 * w) * (K + 1) + Hkv * K) if cache else 0
    past = 2 * B * (Hf + Hq) * L * F * (V + 1)
    # blocks whose keys are weighted by features: the one before (`sliding`), or that and the query's own
    by_features = {"terrace": 0, "sliding": 1, "none": 2}[window_shape]
    near = 2 * B * Hq * L * by_features * w * (F + V + 1)
    between = B * Hq * L * ((by_features + (2 if window else 0)) * w + exact) + B * Hf * blocks * F * (V + 1)
    return Cost(
        operations=window + past + near + choice,
        bytes=_attention_bytes(B=B, Hq=Hq, Hkv=Hkv, Hf=Hf, T=T, K=K, V=V, F=F, itemsize=itemsize) + itemsize * between,
    )


def hybrid_step(
    *, B: int, Hq: int, Hkv: int, Hf: int, K: int, V: int, F: int, w: int = 64,
    window_shape: str = "terrace", sinks: int = 0, cache: int = 0, input_width: int = 0, moments: bool = False,
    itemsize: int = 4,
) -> Cost:  # fmt: skip
    """Return the cost of hybrid attention for one token: the same after any number of tokens.

    Args:
        B: Rows.
        Hq: Query heads.
        Hkv: Key heads.
        Hf: Heads of the keys' feature map; `Hkv` with moments.
        K: Key width.
        V: Value width.
        F: Features; K + 1 with moments, 0 without a linear branch.
        w: Window.
        window_shape: `sliding`, `terrace` or `none`.
        sinks: Sinks.
        cache: Cached tokens.
        input_width: Width of what the feature map, or the choice of cached tokens, reads in place of the keys; 0 for
            the keys.
        moments: Whether moments stand in place of features.
        itemsize: Bytes of a number.
    """
    ring = {"sliding": w, "terrace": 2 * w, "none": 0}[window_shape]
    slots = sinks + cache + ring
    read = 2 * B * Hq * (slots * (K + V) + F * (V + 1))
    # on average one token leaves the window
    write = 2 * B * Hf * F * (V + 1) + (2 * B * Hkv * K if cache else 0)
    # sums and marks are at least float32, and each row has one 8-byte counter
    marks = Hkv * (2 * cache + ring + (input_width or K)) if cache else 0
    sums = Hf * F * (V + 1) + moments * Hkv * K
    exact = Hkv * (slots * (K + V) + ring * input_width)
    state = B * (itemsize * exact + max(itemsize, 4) * (sums + marks) + 8)
    one = _attention_bytes(B=B, Hq=Hq, Hkv=Hkv, Hf=Hf, T=1, K=K, V=V, F=F, itemsize=itemsize)
    return Cost(operations=read + write, bytes=one + state, state=state)


def knn_graph(*, B: int, P: int, D: int, k: int, itemsize: int = 4) -> Cost:
    """Return the cost of finding k neighbours: all P² distances, then k searches; once for all layers on the graph."""
    return Cost(operations=B * P * P * (3 * D + k), bytes=itemsize * (B * P * D + 2 * B * P * P))


def chebyshev_direct(*, B: int, P: int, C: int, O: int, K: int, itemsize: int = 4) -> Cost:  # noqa: E741
    """Return the cost of the filter by its definition: powers of the Laplacian, P³ each, and one product per term."""
    powers = 2 * B * P**3 * (K - 1)
    terms = 2 * B * P * C * O * K + 2 * B * P * P * C * (K - 1)
    return Cost(operations=powers + terms, bytes=itemsize * (B * P * (C + O) + K * C * O + K * B * P * P))


def chebyshev(*, B: int, P: int, C: int, O: int, K: int, itemsize: int = 4) -> Cost:  # noqa: E741
    """Return the cost of the filter by dense batched products: P² per term, on the narrower side's channels."""
    hops = K - 1 if C <= O else K
    return Cost(
        operations=2 * B * P * C * O * K + hops * 2 * B * P * P * min(C, O),
        bytes=itemsize * (B * P * (C + O) + K * C * O + B * P * P + K * B * P * min(C, O)),
    )


def chebyshev_rows(*, B: int, P: int, E: int, C: int, O: int, K: int, itemsize: int = 4) -> Cost:  # noqa: E741
    """Return the cost of the filter on E neighbours of each particle: linear in P."""
    hops = K - 1 if C <= O else K
    return Cost(
        operations=2 * B * P * C * O * K + hops * 2 * B * P * E * min(C, O),
        bytes=itemsize * (B * P * (C + O) + K * C * O + B * P * E + K * B * P * min(C, O)) + 8 * B * P * E,
    )


def pair_means_direct(*, B: int, P: int, C: int, itemsize: int = 4) -> Cost:
    """Return the cost of the means over pairs by their definition, with weights of all pairs."""
    return Cost(operations=3 * B * P * P * C, bytes=itemsize * (2 * B * P * C + B * P * P * (C + 1)))


def pair_means(*, B: int, P: int, E: int, C: int, itemsize: int = 4) -> Cost:
    """Return the cost of the means over E neighbours of each particle: linear in P."""
    return Cost(
        operations=2 * B * P * E * C + B * P * C,
        # one weight for both directions of a pair, and two indices
        bytes=itemsize * (2 * B * P * C + B * P * E * C // 2) + 8 * B * P * E,
    )


def fully_connected(*, B: int, P: int, C: int, O: int, K: int, itemsize: int = 4) -> Cost:  # noqa: E741
    """Return the cost of the all-pairs baseline: the same filter with all other particles as neighbours."""
    return chebyshev_rows(B=B, P=P, E=max(P - 1, 1), C=C, O=O, K=K, itemsize=itemsize)


def _attention_bytes(*, B: int, Hq: int, Hkv: int, Hf: int, T: int, K: int, V: int, F: int, itemsize: int) -> int:
    return itemsize * B * T * (Hq * (K + F + V) + Hkv * (K + V) + Hf * F)
