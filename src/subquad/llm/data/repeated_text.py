"""How much of a held-out text also stands in the training text, by equal runs of tokens.

Axes: T tokens, R runs, N tokens of a run.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

RUN = 32
"""Tokens of a run, a power of two: long enough that different texts hardly share one."""
BASE = 6364136223846793005
"""Base of the hash of a run, an odd number of 64 bits."""
BLOCK_TOKENS = 1 << 20
"""Tokens of the training text that are compared at a time."""


def repeated_fraction(held_out: Int[Tensor, " T"], training: Sequence[Int[Tensor, " T"]]) -> float:
    """Return the fraction of the different runs of a held-out text that also stand in a training text.

    The held-out text is cut into runs of 32 tokens, which are looked for at any place; 0 if it has less than one.

    Args:
        held_out: Tokens of the held-out text.
        training: Tokens of each training text.
    """
    if len(held_out) < RUN:
        return 0.0
    # a run that occurs often, as that of a system prompt, counts once
    wanted = _hash_rows(held_out[: len(held_out) // RUN * RUN].view(-1, RUN)).unique()
    found = torch.zeros(len(wanted), dtype=torch.bool)
    for tokens in training:
        for start in range(0, len(tokens) - RUN + 1, BLOCK_TOKENS):
            own = _hash_all(tokens[start : start + BLOCK_TOKENS + RUN - 1])
            places = torch.searchsorted(wanted, own).clamp(max=len(wanted) - 1)
            found[places[wanted[places] == own]] = True
    return float(found.float().mean())


def _hash_rows(rows: Int[Tensor, "R N"]) -> Int[Tensor, " R"]:
    """Return the hash Σ (tokenᵢ + 1) · BASE³¹⁻ⁱ modulo 2⁶⁴ of each run."""
    hashes = torch.zeros(len(rows), dtype=torch.int64)
    for tokens in rows.unbind(1):
        # products wrap around
        hashes = hashes * BASE + tokens + 1
    return hashes


def _hash_all(tokens: Int[Tensor, " T"]) -> Int[Tensor, " R"]:
    """Return the hash of the run that begins at each place, from those of its halves."""
    hashes, length, factor = tokens.to(torch.int64) + 1, 1, BASE
    while length < RUN:
        hashes = hashes[:-length] * factor + hashes[length:]
        length, factor = 2 * length, factor * factor % 2**64
        # as torch holds it
        factor -= 2**64 if factor >= 2**63 else 0
    return hashes
