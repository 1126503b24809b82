r"""Triton kernels for the blocks of hybrid attention on CUDA: equal to `hybrid_blocks`, forward and backward.

O(T · window) operations. Scores and repeated keys are not written to memory; the states of all blocks are (N · F · V
float32 numbers per head), and the backward pass recomputes them. Products accumulate in float32: half-precision inputs
on tensor cores (TF32 represents them exactly), float32 inputs as three such products, with the accuracy of float32.
float64 is not supported.

Triton is installed with PyTorch for CUDA and is imported by the first call. On a CPU the kernels run in Triton's
interpreter, for tests: set `TRITON_INTERPRET=1` before Triton is imported.

Axes: B rows, L positions of queries, S of keys, Hq query heads, Hkv key heads, H heads of the keys' features (Hq or
Hkv), K key width, V value width, V1 = V + 1, F features. Inside: N blocks of queries.
"""

import importlib.util
import os
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from subquad.errors import SubquadError
from subquad.ops.precision import autocast_disabled
from subquad.ops.window_lengths import WindowShape

__all__ = ["check_triton", "hybrid_triton"]


def check_triton(device: torch.device) -> None:
    """Check that the kernels can run on tensors of the device.

    Raises:
        SubquadError: Triton is not installed, or there is no GPU and the interpreter is off.
    """
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise SubquadError(
            f"the attention's kernel 'triton' needs a CUDA GPU, but its tensors are on {device}: take kernel 'torch' "
            "(--attention.kernel torch; in a saved model `kernel` under `hybrid_attention` of config.json), or for a "
            "test set TRITON_INTERPRET=1"
        )
    if importlib.util.find_spec("triton") is None:
        raise SubquadError(
            "the attention's kernel 'triton' needs Triton, which is not installed: it comes with PyTorch for CUDA; or "
            "take kernel 'torch'"
        )


def hybrid_triton(
    q: Float[Tensor, "B Hq L K"],
    k: Float[Tensor, "B Hkv S K"],
    v: Float[Tensor, "B Hkv S V"],
    *,
    phi_q: Float[Tensor, "B Hq L F"],
    phi_k: Float[Tensor, "B H S F"],
    mix: Float[Tensor, " Hq"],
    window: int,
    window_shape: WindowShape,
    scale: float,
    use_linear: bool,
    total: Float[Tensor, "B H F V1"] | None = None,
    has_past: Bool[Tensor, " B"] | None = None,
) -> Float[Tensor, "B Hq L V"]:
    """Return the attention of blocks of queries, in float32; the backward pass is not differentiable.

    Args:
        q: Queries; the last block can be incomplete.
        k: Keys of the same positions, S = L; or with the block before them in front, S = window + L.
        v: Values of the keys' tokens.
        phi_q: Feature map of the queries.
        phi_k: Feature map of the keys.
        mix: ln γ of each query head.
        window: Positions of a block.
        window_shape: `sliding`, `terrace` or `none`.
        scale: Factor on the scores.
        use_linear: False leaves all linear terms out.
        total: Sum of φ(k) [v, 1] over the tokens before the first key; None for none.
        has_past: Rows whose block in front of the queries has keys; None for no row.

    Raises:
        SubquadError: The kernels cannot run here; see `check_triton`.
        TypeError: The inputs are float64.
    """
    check_triton(q.device)
    if torch.float64 in (q.dtype, k.dtype, v.dtype, phi_q.dtype, phi_k.dtype):
        raise TypeError("the kernel 'triton' accumulates in float32; use kernel 'torch' for float64 tensors")
    with autocast_disabled(q.device.type):
        y = _HybridTriton.apply(
            q, k.to(q.dtype), v, phi_q, phi_k, mix, total, None if has_past is None else has_past.to(torch.int8),
            window, window_shape, scale, use_linear,
        )  # fmt: skip
    return cast(Tensor, y)


class _HybridTriton(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        q, k, v, phi_q, phi_k, mix, total, has_past, window, window_shape, scale, use_linear = inputs
        q, k, v, phi_q, phi_k, mix = (x.contiguous() for x in (q, k, v, phi_q, phi_k, mix))
        how = _sizes(q, k, v, phi_k, window=window, window_shape=window_shape, use_linear=use_linear)
        how["HAS_PAST"] = has_past is not None
        state, norm = _before(phi_k, v, total, how, blocks=-(-q.shape[2] // window))
        y = q.new_empty(*q.shape[:3], v.shape[3], dtype=torch.float32)
        bottom, largest = (q.new_empty(q.shape[:3], dtype=torch.float32) for _ in range(2))
        chosen = q.new_empty(q.shape[:3], dtype=torch.int32)
        _kernels().forward[_grid(q, how)](
            q, k, v, phi_q, phi_k, mix, has_past, state, norm, y, bottom, largest, chosen, q.shape[2], k.shape[2],
            state.shape[2], scale, **how,
        )  # fmt: skip
        ctx.save_for_backward(q, k, v, phi_q, phi_k, mix, total, has_past, y, bottom, largest, chosen)
        ctx.how, ctx.scale = how, scale
        return y

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        q, k, v, phi_q, phi_k, mix, total, has_past, y, bottom, largest, chosen = ctx.saved_tensors
        how, kernels = ctx.how, _kernels()
        needs_q, needs_k, needs_v = ctx.needs_input_grad[:3]
        with autocast_disabled(q.device.type):
            # of the numerator and of the normaliser
            dtop = gradients[0].float() / bottom[..., None]
            dbottom = -(dtop * y).sum(-1)
            state, norm = _before(phi_k, v, total, how, blocks=-(-q.shape[2] // how["W"]))
            lengths = (q.shape[2], k.shape[2], state.shape[2])
            dq, dk, dv, dphi_q, dphi_k = (torch.zeros_like(x, dtype=torch.float32) for x in (q, k, v, phi_q, phi_k))
            rows = torch.zeros_like(bottom)
            kernels.queries_backward[_grid(q, how)](
                q, k, v, phi_k, has_past, state, norm, largest, chosen, dtop, dbottom, dq, dphi_q, rows, *lengths,
                ctx.scale, **how, NEEDS_Q=needs_q,
            )  # fmt: skip
            dstate, dnorm = _behind(phi_q, dtop, dbottom, how, heads=phi_k.shape[1], blocks=state.shape[2])
            # attention transfer trains only the feature maps, which does not need this
            if needs_k or needs_v:
                kernels.keys_backward[_grid(k, how)](
                    q, k, v, phi_q, phi_k, has_past, dstate, largest, chosen, dtop, dbottom, rows, dk, dv, *lengths,
                    ctx.scale, **how, NEEDS_K=needs_k, NEEDS_V=needs_v,
                )  # fmt: skip
            dmix = dtotal = None
            if how["USE_LINEAR"]:
                known = {name: x for name, x in how.items() if name not in ("K", "BK", "USE_LINEAR")}
                first, last = _grid(phi_k, how)
                kernels.maps_backward[first, -(-how["F"] // how["BF"]), last](
                    v, phi_q, has_past, dstate, dnorm, dtop, dbottom, dphi_k, *lengths, **known
                )
                dmix = rows.sum((0, 2)).to(mix.dtype)
                if total is not None:
                    dtotal = torch.cat((dstate[:, :, -1], dnorm[:, :, -1, :, None]), -1)
            pairs = zip((dq, dk, dv, dphi_q, dphi_k), (q, k, v, phi_q, phi_k), strict=True)
            return *(x.to(like.dtype) for x, like in pairs), dmix, dtotal, *(None,) * 5


def _kernels() -> Any:
    # Triton is imported here and nowhere else
    return importlib.import_module("subquad.ops._linattn_kernels")


def _sizes(
    q: Tensor, k: Tensor, v: Tensor, phi_k: Tensor, *, window: int, window_shape: WindowShape, use_linear: bool
) -> dict[str, Any]:
    """Return the compile-time constants of the kernels."""
    is_exact = torch.float32 in (q.dtype, v.dtype)
    widest = max(_tile(q.shape[3]), _tile(v.shape[3]))
    # a program holds its rows of queries, keys, values and sums in registers and in 99 KiB of shared memory, as the
    # smaller cards have it: larger tiles spill, those of exact products, which split what they multiply, sooner
    rows = max(16, 64 >> (widest > 64) + (widest > 128) + is_exact)
    return {
        "HQ": q.shape[1], "HKV": k.shape[1], "H": phi_k.shape[1], "W": window, "K": q.shape[3], "V": v.shape[3],
        "F": phi_k.shape[3], "BT": min(_tile(window), rows), "BK": _tile(q.shape[3]), "BV": _tile(v.shape[3]),
        "BF": min(_tile(phi_k.shape[3]), 64 if widest <= 64 else 32),
        "SHAPE": ("terrace", "sliding", "none").index(window_shape), "LEAD": int(k.shape[2] > q.shape[2]),
        "USE_LINEAR": use_linear, "PRECISION": "tf32x3" if is_exact else "tf32",
        # multiply-adds rounded once: Triton's default so far, which it warns of where nothing is said
        "enable_fp_fusion": True,
    }  # fmt: skip


def _tile(size: int) -> int:
    """Return the next power of two, at least 16, as `tl.dot` requires."""
    return max(16, 1 << (size - 1).bit_length())


def _grid(x: Tensor, how: dict[str, Any]) -> tuple[int, int]:
    """Return the grid for x [B, H, T, C]: one program per tile of each block of each row and head."""
    return -(-x.shape[2] // how["W"]) * -(-how["W"] // how["BT"]), x.shape[0] * x.shape[1]


def _before(
    phi_k: Tensor, v: Tensor, total: Tensor | None, how: dict[str, Any], *, blocks: int
) -> tuple[Float[Tensor, "B H N F V"], Float[Tensor, "B H N F"]]:
    """Return, for each block of queries, the sums of φ(k) v and of φ(k) over all before the block before it."""
    state = v.new_zeros(*phi_k.shape[:2], blocks, phi_k.shape[3], v.shape[3], dtype=torch.float32)
    norm = v.new_zeros(state.shape[:4], dtype=torch.float32)
    if how["USE_LINEAR"]:
        if total is not None:
            state[:, :, 0], norm[:, :, 0] = total[..., :-1], total[..., -1]
        lag = 2 - how["LEAD"]
        if blocks > lag:
            _sum_up(phi_k, v, None, out=state, norm=norm, how=how, count=blocks - lag, first=lag, step=1)
        torch.cumsum(state, 2, out=state)
        torch.cumsum(norm, 2, out=norm)
    return state, norm


def _behind(
    phi_q: Tensor, dtop: Tensor, dbottom: Tensor, how: dict[str, Any], *, heads: int, blocks: int
) -> tuple[Float[Tensor, "B H N F V"], Float[Tensor, "B H N F"]]:
    """Return the gradients of what `_before` returns, summed from the last block on, which comes first."""
    dstate = phi_q.new_zeros(len(phi_q), heads, blocks, phi_q.shape[3], dtop.shape[3], dtype=torch.float32)
    dnorm = phi_q.new_zeros(dstate.shape[:4], dtype=torch.float32)
    if how["USE_LINEAR"]:
        _sum_up(phi_q, dtop, dbottom, out=dstate, norm=dnorm, how=how, count=blocks, first=blocks - 1, step=-1)
        torch.cumsum(dstate, 2, out=dstate)
        torch.cumsum(dnorm, 2, out=dnorm)
    return dstate, dnorm


def _sum_up(
    phi: Tensor, x: Tensor, weight: Tensor | None, *, out: Tensor, norm: Tensor, how: dict[str, Any], count: int,
    first: int, step: int,
) -> None:  # fmt: skip
    """Write the sums over the first `count` blocks to the blocks `first`, `first + step` and so on."""
    known = {name: how[name] for name in ("W", "V", "F", "BT", "BV", "BF", "PRECISION", "enable_fp_fusion")}
    _kernels().sums[count, -(-how["F"] // how["BF"]), out.shape[0] * out.shape[1]](
        phi, x, weight, out, norm, phi.shape[2], out.shape[2], first, step, HP=phi.shape[1], HX=x.shape[1],
        H=out.shape[1], IS_WEIGHTED=weight is not None, **known,
    )  # fmt: skip
