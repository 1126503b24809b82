r"""Triton kernels of hybrid attention, one program per tile of a block; launched by `linattn_triton`.

This module needs Triton and is imported only where the kernels run. A query of block n is compared with each key of its
own block and of the one before; all earlier keys are in the state of its block. The distance from key to query decides
how a key is weighted: `terrace` from 0 on by softmax; `sliding` from 0 to W - 1 by softmax, from W on by features;
`none` from 0 on by features.

Tensors are contiguous. Names in lower case have the meaning that they have in `linattn_blocks`; names in upper case are
compile-time constants: `W` positions of a block, `HQ`, `HKV` and `H` heads, `K`, `V` and `F` widths, `LEAD` blocks
of keys in front of the first block of queries, and of the tiles `BT` positions, `BK`, `BV` and `BF` columns: powers of
two of at least 16, as `tl.dot` requires. Sums are in float32; `PRECISION` is that of a product of float32 tiles.
"""

from typing import no_type_check

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]

__all__ = ["forward", "keys_backward", "maps_backward", "queries_backward", "sums"]

TERRACE, SLIDING, NONE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


# the runtime type checker of the tests would wrap the kernels, and Triton could not read them any more
@triton.jit
@no_type_check
def _rows(base, place, columns, is_real, WIDTH: tl.constexpr):
    """Return rows of a matrix of that width, 0 where they are not real."""
    return tl.load(
        base + place[:, None] * WIDTH + columns[None, :], mask=is_real[:, None] & (columns < WIDTH)[None, :], other=0.0
    )


@triton.jit
@no_type_check
def _put(base, place, columns, is_real, x, WIDTH: tl.constexpr):
    """Write what `_rows` reads."""
    tl.store(base + place[:, None] * WIDTH + columns[None, :], x, mask=is_real[:, None] & (columns < WIDTH)[None, :])


@triton.jit
@no_type_check
def _product(a, b, PRECISION: tl.constexpr):
    # halves too: TF32 holds them exactly, and the interpreter cannot multiply bfloat16
    return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision=PRECISION)


@triton.jit
@no_type_check
def _in_softmax(distance, W: tl.constexpr, SHAPE: tl.constexpr):
    if SHAPE == SLIDING:
        return (distance >= 0) & (distance < W)
    else:
        return distance >= 0


@triton.jit
@no_type_check
def _in_features(distance, W: tl.constexpr, SHAPE: tl.constexpr):
    if SHAPE == SLIDING:
        return distance >= W
    else:
        return distance >= 0


@triton.jit
@no_type_check
def _scores(query, key, distance, is_key, scale, W: tl.constexpr, SHAPE: tl.constexpr, PRECISION: tl.constexpr):
    """Return the scores, -inf for keys outside the window."""
    score = _product(query, tl.trans(key), PRECISION) * scale
    return tl.where(_in_softmax(distance, W, SHAPE) & is_key[None, :], score, float("-inf"))


@triton.jit
@no_type_check
def _likeness(
    phi_q, phi_k, place, at, is_query, is_key, W: tl.constexpr, F: tl.constexpr, BT: tl.constexpr, BF: tl.constexpr,
    LEAD: tl.constexpr, SHAPE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Return φ(q) · φ(k) where a query weights a key by features, else 0."""
    weight = tl.zeros((BT, BT), tl.float32)
    for f in range(0, F, BF):
        features = f + tl.arange(0, BF)
        maps, other = _rows(phi_q, place, features, is_query, F), _rows(phi_k, at, features, is_key, F)
        weight += _product(maps, tl.trans(other), PRECISION)
    return tl.where(_in_features((place + LEAD * W)[:, None] - at[None, :], W, SHAPE), weight, 0.0)


@triton.jit
@no_type_check
def _is_key(offset, at, keys, past, row, W: tl.constexpr, LEAD: tl.constexpr, HAS_PAST: tl.constexpr):
    """Return which positions of a pair of blocks hold a key: the block in front can be empty."""
    is_key = (offset < 2 * W) & (at < keys)
    if HAS_PAST:
        # one scalar for all positions: the interpreter does not accept a broadcast mask
        return is_key & (at >= 0) & ((at >= W) | (tl.load(past + row + 0 * at) != 0))
    else:
        return is_key & (at >= LEAD * W)


@triton.jit
@no_type_check
def sums(
    phi, x, weight, out, norm, length, blocks, first, step,
    HP: tl.constexpr, HX: tl.constexpr, H: tl.constexpr, W: tl.constexpr, V: tl.constexpr, F: tl.constexpr,
    BT: tl.constexpr, BV: tl.constexpr, BF: tl.constexpr, IS_WEIGHTED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write the sum of φ [x, weight] over block n of positions to block `first + step n` of `out` and `norm`.

    HP heads of φ and HX heads of x are summed to H heads. Without weights all weights are 1.
    """
    n, features = tl.program_id(0), tl.program_id(1) * BF + tl.arange(0, BF)
    row, head = tl.program_id(2) // H, tl.program_id(2) % H
    columns = tl.arange(0, BV)
    top, bottom = tl.zeros((BF, BV), tl.float32), tl.zeros((BF,), tl.float32)
    for g in range(HP // H):
        hp = head * (HP // H) + g
        at_phi, at_x = (row * HP + hp).to(tl.int64) * length, (row * HX + hp // (HP // HX)).to(tl.int64) * length
        for tile in range((W + BT - 1) // BT):
            offset = tile * BT + tl.arange(0, BT)
            place = n * W + offset
            is_real = (offset < W) & (place < length)
            maps = _rows(phi + at_phi * F, place, features, is_real, F).to(tl.float32)
            top += _product(tl.trans(maps), _rows(x + at_x * V, place, columns, is_real, V), PRECISION)
            if IS_WEIGHTED:
                maps = maps * tl.load(weight + at_x + place, mask=is_real, other=0.0)[:, None]
            bottom += tl.sum(maps, 0)
    block = tl.program_id(2).to(tl.int64) * blocks + first + step * n
    _put(out + block * F * V, features, columns, features < F, top, V)
    tl.store(norm + block * F + features, bottom, mask=features < F)


@triton.jit
@no_type_check
def forward(
    q, k, v, phi_q, phi_k, mix, past, state, norm, y, bottom, largest, chosen, queries, keys, blocks, scale,
    HQ: tl.constexpr, HKV: tl.constexpr, H: tl.constexpr, W: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    F: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, BF: tl.constexpr, SHAPE: tl.constexpr,
    LEAD: tl.constexpr, HAS_PAST: tl.constexpr, USE_LINEAR: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write output and normaliser of a tile of queries; for the backward pass c - ln γ and the key of c."""
    tiles: tl.constexpr = (W + BT - 1) // BT
    n, i = tl.program_id(0) // tiles, (tl.program_id(0) % tiles) * BT + tl.arange(0, BT)
    row, head = tl.program_id(1) // HQ, tl.program_id(1) % HQ
    at_q = tl.program_id(1).to(tl.int64) * queries
    at_k = (row * HKV + head // (HQ // HKV)).to(tl.int64) * keys
    h = (row * H + head // (HQ // H)).to(tl.int64)
    place, across, along = n * W + i, tl.arange(0, BV), tl.arange(0, BK)
    is_query = (i < W) & (place < queries)
    top, under = tl.zeros((BT, BV), tl.float32), tl.zeros((BT,), tl.float32)
    if SHAPE != NONE:
        c, best = tl.full((BT,), float("-inf"), tl.float32), tl.zeros((BT,), tl.int32)
        query = _rows(q + at_q * K, place, along, is_query, K)
        for tile in range((2 * W + BT - 1) // BT):
            offset = tile * BT + tl.arange(0, BT)
            at = (n + LEAD - 1) * W + offset
            is_key = _is_key(offset, at, keys, past, row, W, LEAD, HAS_PAST)
            distance = (place + LEAD * W)[:, None] - at[None, :]
            key = _rows(k + at_k * K, at, along, is_key, K)
            score = _scores(query, key, distance, is_key, scale, W, SHAPE, PRECISION)
            high, which = tl.max(score, 1, return_indices=True)
            best = tl.where(high > c, (n + LEAD - 1) * W + tile * BT + which, best)
            higher = tl.maximum(c, high)
            # a query without keys has no largest score
            finite = tl.where(higher == float("-inf"), 0.0, higher)
            weight, fade = tl.exp(score - finite[:, None]), tl.exp(c - finite)
            top = top * fade[:, None] + _product(weight, _rows(v + at_k * V, at, across, is_key, V), PRECISION)
            under = under * fade + tl.sum(weight, 1)
            c = higher
        if USE_LINEAR:
            ln_gamma = tl.load(mix + head).to(tl.float32)
            top, under, c = top * tl.exp(ln_gamma), under * tl.exp(ln_gamma), c - ln_gamma
        tl.store(largest + at_q + place, c, mask=is_query)
        tl.store(chosen + at_q + place, best, mask=is_query)
    if USE_LINEAR:
        for f in range(0, F, BF):
            features = f + tl.arange(0, BF)
            maps = _rows(phi_q + at_q * F, place, features, is_query, F).to(tl.float32)
            past_sum = _rows(state + (h * blocks + n) * F * V, features, across, features < F, V)
            top += _product(maps, past_sum, PRECISION)
            ones = tl.load(norm + (h * blocks + n) * F + features, mask=features < F, other=0.0)
            under += tl.sum(maps * ones[None, :], 1)
        if SHAPE != TERRACE:
            for tile in range((2 * W + BT - 1) // BT):
                offset = tile * BT + tl.arange(0, BT)
                at = (n + LEAD - 1) * W + offset
                is_key = _is_key(offset, at, keys, past, row, W, LEAD, HAS_PAST)
                weight = _likeness(
                    phi_q + at_q * F, phi_k + h * keys * F, place, at, is_query, is_key, W, F, BT, BF, LEAD, SHAPE,
                    PRECISION,
                )  # fmt: skip
                top += _product(weight, _rows(v + at_k * V, at, across, is_key, V), PRECISION)
                under += tl.sum(weight, 1)
    under = tl.where(under == 0.0, 1.0, under)
    _put(y + at_q * V, place, across, is_query, top / under[:, None], V)
    tl.store(bottom + at_q + place, under, mask=is_query)


@triton.jit
@no_type_check
def queries_backward(
    q, k, v, phi_k, past, state, norm, largest, chosen, dtop, dbottom, dq, dphi_q, rows, queries, keys, blocks, scale,
    HQ: tl.constexpr, HKV: tl.constexpr, H: tl.constexpr, W: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    F: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, BF: tl.constexpr, SHAPE: tl.constexpr,
    LEAD: tl.constexpr, HAS_PAST: tl.constexpr, USE_LINEAR: tl.constexpr, NEEDS_Q: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Write the gradients of a tile of queries and of their features, and each query's part of the gradient of ln γ."""
    tiles: tl.constexpr = (W + BT - 1) // BT
    n, i = tl.program_id(0) // tiles, (tl.program_id(0) % tiles) * BT + tl.arange(0, BT)
    row, head = tl.program_id(1) // HQ, tl.program_id(1) % HQ
    at_q = tl.program_id(1).to(tl.int64) * queries
    at_k = (row * HKV + head // (HQ // HKV)).to(tl.int64) * keys
    h = (row * H + head // (HQ // H)).to(tl.int64)
    place, across, along = n * W + i, tl.arange(0, BV), tl.arange(0, BK)
    is_query = (i < W) & (place < queries)
    down = _rows(dtop + at_q * V, place, across, is_query, V)
    below = tl.load(dbottom + at_q + place, mask=is_query, other=0.0)
    if SHAPE != NONE:
        query = _rows(q + at_q * K, place, along, is_query, K)
        c = tl.load(largest + at_q + place, mask=is_query, other=0.0)
        total, dquery = tl.zeros((BT,), tl.float32), tl.zeros((BT, BK), tl.float32)
        for tile in range((2 * W + BT - 1) // BT):
            offset = tile * BT + tl.arange(0, BT)
            at = (n + LEAD - 1) * W + offset
            is_key = _is_key(offset, at, keys, past, row, W, LEAD, HAS_PAST)
            distance = (place + LEAD * W)[:, None] - at[None, :]
            key, value = _rows(k + at_k * K, at, along, is_key, K), _rows(v + at_k * V, at, across, is_key, V)
            weight = tl.exp(_scores(query, key, distance, is_key, scale, W, SHAPE, PRECISION) - c[:, None])
            dscore = weight * (_product(down, tl.trans(value), PRECISION) + below[:, None])
            total += tl.sum(dscore, 1)
            if NEEDS_Q:
                dquery += _product(dscore, key, PRECISION)
        tl.store(rows + at_q + place, total, mask=is_query)
        if NEEDS_Q:
            # the largest score, which was subtracted, has a gradient too: it belongs to the key of that score
            best = tl.load(chosen + at_q + place, mask=is_query, other=0)
            dquery -= total[:, None] * _rows(k + at_k * K, best, along, is_query, K).to(tl.float32)
            _put(dq + at_q * K, place, along, is_query, dquery * scale, K)
    if USE_LINEAR:
        for f in range(0, F, BF):
            features = f + tl.arange(0, BF)
            past_sum = _rows(state + (h * blocks + n) * F * V, features, across, features < F, V)
            ones = tl.load(norm + (h * blocks + n) * F + features, mask=features < F, other=0.0)
            dmaps = _product(down, tl.trans(past_sum), PRECISION) + below[:, None] * ones[None, :]
            if SHAPE != TERRACE:
                for tile in range((2 * W + BT - 1) // BT):
                    offset = tile * BT + tl.arange(0, BT)
                    at = (n + LEAD - 1) * W + offset
                    is_key = _is_key(offset, at, keys, past, row, W, LEAD, HAS_PAST)
                    distance = (place + LEAD * W)[:, None] - at[None, :]
                    value = _rows(v + at_k * V, at, across, is_key, V)
                    dweight = _product(down, tl.trans(value), PRECISION) + below[:, None]
                    dweight = tl.where(_in_features(distance, W, SHAPE), dweight, 0.0)
                    other = _rows(phi_k + h * keys * F, at, features, is_key, F)
                    dmaps += _product(dweight, other, PRECISION)
            _put(dphi_q + at_q * F, place, features, is_query, dmaps, F)


@triton.jit
@no_type_check
def keys_backward(
    q, k, v, phi_q, phi_k, past, dstate, largest, chosen, dtop, dbottom, rows, dk, dv, queries, keys, blocks, scale,
    HQ: tl.constexpr, HKV: tl.constexpr, H: tl.constexpr, W: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    F: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, BF: tl.constexpr, SHAPE: tl.constexpr,
    LEAD: tl.constexpr, HAS_PAST: tl.constexpr, USE_LINEAR: tl.constexpr, NEEDS_K: tl.constexpr,
    NEEDS_V: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write the gradients of a tile of keys and of their values."""
    tiles: tl.constexpr = (W + BT - 1) // BT
    m, j = tl.program_id(0) // tiles, (tl.program_id(0) % tiles) * BT + tl.arange(0, BT)
    row, group = tl.program_id(1) // HKV, tl.program_id(1) % HKV
    at_k = tl.program_id(1).to(tl.int64) * keys
    at, across, along = m * W + j, tl.arange(0, BV), tl.arange(0, BK)
    is_key = (j < W) & (at < keys)
    is_valid = is_key & _is_key(j, at, keys, past, row, W, LEAD, HAS_PAST)
    key, value = _rows(k + at_k * K, at, along, is_key, K), _rows(v + at_k * V, at, across, is_key, V)
    dkey, dvalue = tl.zeros((BT, BK), tl.float32), tl.zeros((BT, BV), tl.float32)
    # the queries of the block that has this one for its own, and of the next, for all heads that share the keys
    reach: tl.constexpr = (2 * W + BT - 1) // BT
    for step in range(HQ // HKV * reach):
        head = row * HQ + group * (HQ // HKV) + step // reach
        at_q, h = head.to(tl.int64) * queries, (head // (HQ // H)).to(tl.int64)
        i = (step % reach) * BT + tl.arange(0, BT)
        place = (m - LEAD) * W + i
        is_query = (i < 2 * W) & (place < queries) & (place >= 0)
        down = _rows(dtop + at_q * V, place, across, is_query, V)
        if SHAPE != NONE:
            query = _rows(q + at_q * K, place, along, is_query, K)
            distance = (place + LEAD * W)[:, None] - at[None, :]
            c = tl.load(largest + at_q + place, mask=is_query, other=0.0)
            weight = tl.exp(_scores(query, key, distance, is_valid, scale, W, SHAPE, PRECISION) - c[:, None])
            if NEEDS_V:
                dvalue += _product(tl.trans(weight), down, PRECISION)
            if NEEDS_K:
                below = tl.load(dbottom + at_q + place, mask=is_query, other=0.0)
                dscore = weight * (_product(down, tl.trans(value), PRECISION) + below[:, None])
                best = tl.load(chosen + at_q + place, mask=is_query, other=-1)
                total = tl.load(rows + at_q + place, mask=is_query, other=0.0)
                dscore -= tl.where(best[:, None] == at[None, :], total[:, None], 0.0)
                dkey += _product(tl.trans(dscore), query, PRECISION)
        if NEEDS_V and USE_LINEAR and SHAPE != TERRACE:
            weight = _likeness(
                phi_q + at_q * F, phi_k + h * keys * F, place, at, is_query, is_valid, W, F, BT, BF, LEAD, SHAPE,
                PRECISION,
            )  # fmt: skip
            dvalue += _product(tl.trans(weight), down, PRECISION)
    if NEEDS_K:
        _put(dk + at_k * K, at, along, is_key, dkey * scale, K)
    if NEEDS_V:
        # the gradients of states lie last block first, those of the last two blocks of keys nowhere
        behind = blocks - 1 - (m + 2 - LEAD)
        if USE_LINEAR and behind >= 0:
            for g in range(H // HKV):
                h = (row * H + group * (H // HKV) + g).to(tl.int64)
                for f in range(0, F, BF):
                    features = f + tl.arange(0, BF)
                    maps = _rows(phi_k + h * keys * F, at, features, is_key, F)
                    dsum = _rows(dstate + (h * blocks + behind) * F * V, features, across, features < F, V)
                    dvalue += _product(maps, dsum, PRECISION)
        _put(dv + at_k * V, at, across, is_key, dvalue, V)


@triton.jit
@no_type_check
def maps_backward(
    v, phi_q, past, dstate, dnorm, dtop, dbottom, dphi_k, queries, keys, blocks,
    HQ: tl.constexpr, HKV: tl.constexpr, H: tl.constexpr, W: tl.constexpr, V: tl.constexpr, F: tl.constexpr,
    BT: tl.constexpr, BV: tl.constexpr, BF: tl.constexpr, SHAPE: tl.constexpr, LEAD: tl.constexpr,
    HAS_PAST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write the gradient of a tile of the keys' features."""
    tiles: tl.constexpr = (W + BT - 1) // BT
    m, j = tl.program_id(0) // tiles, (tl.program_id(0) % tiles) * BT + tl.arange(0, BT)
    features = tl.program_id(1) * BF + tl.arange(0, BF)
    row, group, h = tl.program_id(2) // H, tl.program_id(2) % H, tl.program_id(2).to(tl.int64)
    at_k = (row * HKV + group // (H // HKV)).to(tl.int64) * keys
    at, across = m * W + j, tl.arange(0, BV)
    is_key = (j < W) & (at < keys)
    value = _rows(v + at_k * V, at, across, is_key, V)
    dmaps = tl.zeros((BT, BF), tl.float32)
    behind = blocks - 1 - (m + 2 - LEAD)
    if behind >= 0:
        dsum = _rows(dstate + (h * blocks + behind) * F * V, features, across, features < F, V)
        dmaps += _product(value, tl.trans(dsum), PRECISION)
        dmaps += tl.load(dnorm + (h * blocks + behind) * F + features, mask=features < F, other=0.0)[None, :]
    if SHAPE != TERRACE:
        is_valid = is_key & _is_key(j, at, keys, past, row, W, LEAD, HAS_PAST)
        reach: tl.constexpr = (2 * W + BT - 1) // BT
        for step in range(HQ // H * reach):
            at_q = (row * HQ + group * (HQ // H) + step // reach).to(tl.int64) * queries
            i = (step % reach) * BT + tl.arange(0, BT)
            place = (m - LEAD) * W + i
            is_query = (i < 2 * W) & (place < queries) & (place >= 0)
            down = _rows(dtop + at_q * V, place, across, is_query, V)
            below = tl.load(dbottom + at_q + place, mask=is_query, other=0.0)
            distance = (place + LEAD * W)[:, None] - at[None, :]
            dweight = _product(down, tl.trans(value), PRECISION) + below[:, None]
            dweight = tl.where(_in_features(distance, W, SHAPE) & is_valid[None, :], dweight, 0.0)
            dmaps += _product(tl.trans(dweight), _rows(phi_q + at_q * F, place, features, is_query, F), PRECISION)
    _put(dphi_k + h * keys * F, at, features, is_key, dmaps, F)
