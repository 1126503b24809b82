"""`hybrid_step` and the Hedgehog map of one position as C code, for float32 on a CPU: decoding one token takes too
little arithmetic for dozens of calls of torch per layer.

These functions check and pass tensors; the code is compiled and loaded by `subquad.nn.native`. It gives the same result
as torch up to rounding.

Axes: B rows, Hq query heads, Hkv key and value heads, K key width, V value width, F features, U width of the inputs of
the keys' map.
"""

import ctypes

import torch
from jaxtyping import Float
from torch import Tensor

from subquad.ops.linattn_state import HybridState
from subquad.ops.linattn_step import StepPlace

__all__ = ["hedgehog_native", "is_native", "native_step"]

CPU = torch.device("cpu")
MOST_ROWS = 16
"""Rows times threads up to which one thread of C code is used rather than torch's threads."""


def is_native(
    q: Tensor, k: Tensor, v: Tensor, *, phi_q: Tensor | None, spread: Tensor | None, mix: Tensor, state: HybridState,
    inputs: Tensor | None, place: StepPlace,
) -> bool:  # fmt: skip
    """Return whether `native_step` can compute a step without padding; if sizes do not fit, torch has to say so."""
    if place.sink is not None or not state.keys.shape[2] or not _is_small(q):
        return False
    rows, heads, _, width = q.shape
    key_heads, values, slots = k.shape[1], v.shape[3], state.keys.shape[2]
    sums, features, inner = *state.total.shape[1:3], 0 if inputs is None else inputs.shape[3]
    ring, cache = state.inputs.shape[2], state.cached
    # one expression, since a loop over the tensors would take longer than the step
    return (
        heads % sums == heads % key_heads == 0
        and k.shape == (rows, key_heads, 1, width)
        and v.shape == (rows, key_heads, 1, values)
        and (
            features == width + 1
            and spread is not None
            and _is_plain(spread, (heads,))
            and sums == key_heads
            and _is_plain(state.squares, (rows, key_heads, width))
            if phi_q is None
            else _is_plain(phi_q, (rows, heads, 1, features))
        )
        and mix.shape == (heads,)
        and state.keys.shape == (rows, key_heads, slots, width)
        and state.values.shape == (rows, key_heads, slots, values)
        and state.total.shape == (rows, sums, features, values + 1)
        and state.inputs.shape == (rows, key_heads, ring, inner)
        and (inputs is None or inputs.shape == (rows, key_heads, 1, inner))
        and (not cache or state.mass.shape == (rows, key_heads, cache + ring))
        and place.hidden.shape == (rows, 1, 1, slots)
        and place.slot.shape == (rows,)
        and q.dtype is k.dtype is v.dtype is mix.dtype is torch.float32
        and state.keys.dtype is state.values.dtype is state.total.dtype is torch.float32
        and (inputs is None or inputs.dtype is state.inputs.dtype is torch.float32)
        and (not cache or state.mass.dtype is torch.float32)
        and q.device == k.device == v.device == mix.device == CPU
        and state.keys.device == state.values.device == state.total.device == state.inputs.device == CPU
        and state.mass.device == place.hidden.device == place.slot.device == CPU
        and (inputs is None or inputs.device == CPU)
        and state.keys.is_contiguous()
        and state.values.is_contiguous()
        and state.total.is_contiguous()
        and state.inputs.is_contiguous()
        and state.mass.is_contiguous()
        and place.hidden.is_contiguous()
        and place.slot.is_contiguous()
    )


def _is_plain(x: Tensor, shape: tuple[int, ...]) -> bool:
    return x.shape == shape and x.dtype is torch.float32 and x.device == CPU and x.is_contiguous()


def _is_small(x: Tensor) -> bool:
    return not torch.is_grad_enabled() and type(x) is Tensor and len(x) * torch.get_num_threads() <= MOST_ROWS


def native_step(
    q: Float[Tensor, "B Hq 1 K"],
    k: Float[Tensor, "B Hkv 1 K"],
    v: Float[Tensor, "B Hkv 1 V"],
    *,
    phi_q: Float[Tensor, "B Hq 1 F"] | None,
    spread: Float[Tensor, " Hq"] | None,
    mix: Float[Tensor, " Hq"],
    state: HybridState,
    inputs: Float[Tensor, "B Hkv 1 U"] | None,
    place: StepPlace,
    sinks: int,
    scale: float,
    library: ctypes.CDLL,
) -> Float[Tensor, "B Hq 1 V"]:
    """Write one token per row into the state, in place, and return the output.

    Without `phi_q` and `spread` there are no linear terms.

    The number of tokens in the state is not changed. `is_native` has to have checked the arguments; `library` is the
    compiled code.

    Raises:
        ValueError: The place is that of another window, or the state of other sinks.
    """
    rows, heads = q.shape[:2]
    slots, ring = state.keys.shape[2], state.keys.shape[2] - sinks - state.cached
    y = q.new_empty(*q.shape[:3], v.shape[3])
    if ring != state.inputs.shape[2]:
        raise ValueError(f"the ring has {ring} keys and {state.inputs.shape[2]} inputs")
    # the names keep contiguous copies in memory until the call returns
    q, k, v, mix = q.contiguous(), k.contiguous(), v.contiguous(), mix.contiguous()
    inputs = None if inputs is None else inputs.contiguous()
    phi_q = None if phi_q is None else phi_q.contiguous()
    failed = library.subquad_hybrid_step(
        rows, heads, k.shape[1], state.total.shape[1], q.shape[3], v.shape[3], state.total.shape[2],
        state.inputs.shape[3], slots, sinks, ring, scale,
        q.data_ptr(), k.data_ptr(), v.data_ptr(), None if inputs is None else inputs.data_ptr(),
        None if phi_q is None else phi_q.data_ptr(), None if spread is None else state.squares.data_ptr(),
        None if spread is None else spread.data_ptr(), mix.data_ptr(), place.hidden.data_ptr(), place.slot.data_ptr(),
        state.keys.data_ptr(), state.values.data_ptr(), state.total.data_ptr(),
        None if inputs is None else state.inputs.data_ptr(), state.mass.data_ptr() if state.cached else None,
        y.data_ptr(),
    )  # fmt: skip
    if failed:
        raise ValueError(f"place has slots outside of the ring, which has {ring}")
    return y


def hedgehog_native(
    x: Float[Tensor, "B Hx 1 K"], weight: Float[Tensor, "H K C"], *, library: ctypes.CDLL
) -> Float[Tensor, "B H 1 F"] | None:
    """Return the Hedgehog features of one position per row; None where the C code cannot compute them."""
    heads, width, columns = weight.shape
    if (
        not _is_small(x)
        or not x.dtype is weight.dtype is torch.float32
        or not x.device == weight.device == CPU
        or x.shape[2:] != (1, width)
        or heads % x.shape[1]
    ):
        return None
    x, weight = x.contiguous(), weight.contiguous()
    y = x.new_empty(len(x), heads, 1, 2 * columns)
    sizes = len(x), heads, x.shape[1], width, columns
    failed = library.subquad_hedgehog(*sizes, x.data_ptr(), weight.data_ptr(), y.data_ptr())
    return None if failed else y
