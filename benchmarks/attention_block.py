"""Attention over all positions, for the benchmarks that put it in place of Lyra's operators.

Axes: B sequences, T positions, N heads, K channels of a head, H channels.
"""

import torch
from torch import nn

HEADS = 4
BASE = 10_000
"""Base of the wavelengths of the rotary embedding."""


class SelfAttention(nn.Module):
    """Softmax attention of four heads with a rotary embedding, and a gated linear unit as behind the state space."""

    def __init__(self, width, dropout):
        super().__init__()
        self.project, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, 2 * width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, u, mask=None):
        """Return the layer's output, `B T H`, without the residual connection."""
        B, T, H = u.shape
        q, k, v = self.project(u).view(B, T, 3, HEADS, H // HEADS).permute(2, 0, 3, 1, 4)
        seen = None if mask is None else mask[:, None, None]
        y = nn.functional.scaled_dot_product_attention(rotated(q), rotated(k), v, attn_mask=seen)
        y = nn.functional.glu(self.mix(self.dropout(y.transpose(1, 2).reshape(B, T, H))), dim=-1)
        return y if mask is None else torch.where(mask[:, :, None], y, 0.0)


class Transformer(nn.Module):
    """What two pre-norm transformer blocks add to their input, `B T H`: attention, then a hidden layer of 2 H units."""

    def __init__(self, width, dropout, blocks=2):
        super().__init__()
        self.attention = nn.ModuleList(
            nn.ModuleList((nn.RMSNorm(width), SelfAttention(width, dropout))) for _ in range(blocks)
        )
        self.hidden = nn.ModuleList(
            nn.Sequential(
                nn.RMSNorm(width),
                nn.Linear(width, 2 * width),
                nn.GELU(),
                nn.Dropout(dropout),
                nn.Linear(2 * width, width),
            )
            for _ in range(blocks)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, u, mask=None):
        """Return the output less the input."""
        h = u
        for (norm, attention), hidden in zip(self.attention, self.hidden, strict=True):
            h = h + self.dropout(attention(norm(h), mask))
            h = h + self.dropout(hidden(h))
        return h - u if mask is None else torch.where(mask[:, :, None], h - u, 0.0)


def rotated(x):
    """Return queries or keys `B N T K`, turned by their positions."""
    T, K = x.shape[-2:]
    wavelengths = BASE ** (torch.arange(0, K, 2, device=x.device) / K)
    angle = torch.arange(T, device=x.device)[:, None] / wavelengths
    a, b = x.chunk(2, dim=-1)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)
