r"""Sparse cache of hybrid attention: of the tokens before the window, a constant number that stay exact.

A sum of features cannot recall a single token, such as a name or a number. LoLA (arXiv:2505.23666) keeps the keys that
the sum recalls worst. Here each key head keeps the C tokens that are best by two measures together:

- its *mass* $m_s = \sum_b \delta^{b} \sum_{t \in b} P_{ts}$, the softmax attention $P$ that it got from the queries of
  its query heads (heavy hitters, arXiv:2306.14048), b blocks before the present one;
- its *novelty* $-\cos(x_s, \sum_{r} x_r / |x_r|)$, how much it differs from all tokens up to the end of its block
  (redundant keys go first, arXiv:2504.15364), with x what the feature map of keys reads.

Whenever a block of the window `terrace` begins, the block that leaves the window joins the cached tokens as candidates.
Candidates are ranked by mass and by novelty; the C with the highest sums of both ranks stay. Of candidates with equal
measures the newest ranks highest; of equal sums the oldest stays. In a window of two tokens, rounding decides between
the first two: their cosines with their sum are equal.
Cached tokens are keys of every window, so $c_t$ and the softmax terms of Eq. (7) include them. With feature maps the
linear terms are those without a cache; moments describe the tokens that are not cached, so that up to C tokens before
the window all is softmax attention. Sinks are no candidates. Which tokens are kept has no gradient.

Cost: O(T · (C + window)) for T tokens.

Axes: B rows, T positions, Hq query heads, Hkv key heads, K key width, U width of the inputs of the keys' map, C cached
tokens, CS those and the slots of the ring. Inside: L = N w positions of N blocks, w positions of a block, J = 2w
positions of a block and the one before it, E sinks, EJ = E + J, X = C + (N + 2) w sources of cached tokens: the cache
before the first block, the block that leaves the window when it begins, the block before it, and the blocks; ECJ keys
that a block sees, M its queries, of all query heads of a key head.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

__all__ = [
    "CHOICE_VERSION",
    "DECAY",
    "Choice",
    "Marks",
    "NearTerms",
    "Sources",
    "attend",
    "choose",
    "evict",
    "is_cached",
    "no_marks",
    "pick",
    "select_rows",
    "sum_of_ranks",
    "with_cached",
]

CHOICE_VERSION = 1
"""Raised whenever other tokens are chosen: measurements of an earlier choice are not reused."""

DECAY = 0.6
"""Factor δ on the mass of all tokens when a block begins."""


class Marks(NamedTuple):
    """What decides which tokens are kept."""

    mass: Float[Tensor, "B Hkv CS"]
    """Mass of the cached tokens, and behind them of those in the ring."""
    novelty: Float[Tensor, "B Hkv C"]
    """Novelty of the cached tokens."""
    direction: Float[Tensor, "B Hkv U"]
    """Sum of the normalised inputs of all tokens that have left the window."""


class Sources(NamedTuple):
    """What cached tokens are chosen from: the cache, the block that leaves the window, the block before, the blocks."""

    keys: Float[Tensor, "B Hkv X K"]
    values: Float[Tensor, "B Hkv X V"]
    inputs: Float[Tensor, "B Hkv X U"]
    """What the feature map of keys reads; of the cache it is not read."""
    marks: Marks
    """Marks before the first query."""
    before: Int[Tensor, " B"]
    """Number of tokens that each row has processed before."""
    after: Int[Tensor, " B"]
    """Number of tokens that each row has processed after the last query."""


class NearTerms(NamedTuple):
    """Softmax attention of blocks of queries to the keys that they see, cached ones included."""

    level: Float[Tensor, "*B M"]
    r"""$\ln \sum_s e^{score_s}$; very small for a query that sees no key."""
    value: Float[Tensor, "*B M V"]
    """Weighted mean of the values; 0 for a query that sees no key."""


class Choice(NamedTuple):
    """Which tokens are cached during each block, and after the last token."""

    places: Int[Tensor, "B Hkv N C"]
    """Their places among the sources."""
    visible: Bool[Tensor, "B N C"]
    """Which of them exist."""
    gone: Int[Tensor, "B Hkv N w"]
    """Places of the candidates that do not stay when each block begins."""
    is_gone: Bool[Tensor, "B N w"]
    """Which of them exist."""
    last: Int[Tensor, "B Hkv C"]
    """Places of the tokens that are cached after the last token."""
    marks: Marks
    """Marks after the last token."""
    near: NearTerms | None
    """What the choice computes besides; None unless asked for."""


def no_marks(batch: int, heads: int, *, cache: int, ring: int, width: int, like: Tensor) -> Marks:
    """Return the marks before the first token; without a cache they are empty."""
    sizes = (cache + ring, cache, width) if cache else (0, 0, 0)
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    return Marks(*(like.new_zeros(batch, heads, size, dtype=dtype) for size in sizes))


def is_cached(behind: Int[Tensor, "*B"], *, sinks: int, cache: int) -> Bool[Tensor, "*B C"]:
    """Return which slots of the cache are in use after `behind` tokens have left the window."""
    return torch.arange(cache, device=behind.device) < (behind - sinks)[..., None]


def with_cached(
    softmax: Bool[Tensor, "#B N w EJ"], visible: Bool[Tensor, "B N C"], *, sinks: int
) -> Bool[Tensor, "B N w ECJ"]:
    """Return which keys each query sees, with the cached ones behind the sinks."""
    softmax = softmax.expand(len(visible), visible.shape[1], -1, -1)
    cached = visible[:, :, None].expand(-1, -1, softmax.shape[2], -1)
    return torch.cat((softmax[..., :sinks], cached, softmax[..., sinks:]), 3)


class Eviction(NamedTuple):
    """Which candidates stay when a block leaves the window: the slots of the cache, and behind them the block."""

    stay: Int[Tensor, "B Hkv C"]
    """The candidates that stay, in the order of their positions."""
    gone: Int[Tensor, "B Hkv w"]
    """The others."""
    is_gone: Bool[Tensor, "B w"]
    """Which of the others exist."""
    marks: Marks
    """Marks of those that stay; the mass is that of the cache alone."""


@torch.no_grad()
def evict(
    marks: Marks, left: Float[Tensor, "B Hkv w U"], *, mass: Float[Tensor, "B Hkv w"], behind: Int[Tensor, " B"],
    sinks: int,
) -> Eviction:  # fmt: skip
    """Return which candidates stay when a block leaves the window.

    Args:
        marks: Marks before.
        left: What the feature map of keys reads of the block's tokens.
        mass: Mass of the block's tokens.
        behind: Tokens of each row that have left the window, the block included; less than w if a part of the block, or
            all of it, does not exist.
        sinks: Number of first tokens that are no candidates.
    """
    cache, window = marks.novelty.shape[2], left.shape[2]
    position = behind[:, None] - window + torch.arange(window, device=left.device)
    unit = functional.normalize(left.to(marks.direction.dtype), dim=-1)
    unit = unit.masked_fill((position < 0)[:, None, :, None], 0.0)
    direction = marks.direction + unit.sum(2)
    novelty = -(unit @ functional.normalize(direction, dim=-1)[..., None])[..., 0]
    exists = torch.cat((is_cached(behind - window, sinks=sinks, cache=cache), position >= sinks), 1)[:, None]
    measures = torch.cat((marks.mass[:, :, :cache], mass), 2), torch.cat((marks.novelty, novelty), 2)
    ranks = sum_of_ranks(*(x.masked_fill(~exists, -torch.inf) for x in measures)).masked_fill(~exists, -1)
    best, gone = ranks.argsort(dim=-1, stable=True, descending=True).tensor_split([cache], -1)
    # candidates that do not exist are the last ones
    is_gone = torch.arange(window, device=left.device) < exists.sum(-1) - cache
    # back to the order of positions, and candidates that do not exist to the end
    size = exists.shape[2]
    index = (best + size * ~exists.expand_as(ranks).gather(2, best)).sort(-1).values % size
    marks = Marks(measures[0].gather(2, index), measures[1].gather(2, index), direction)
    return Eviction(index, gone, is_gone, marks)


@torch.no_grad()
def choose(
    q: Float[Tensor, "B Hq L K"], sources: Sources, *,
    first: tuple[Float[Tensor, "B Hkv E K"], Float[Tensor, "B Hkv E V"]], softmax: Bool[Tensor, "#B N w EJ"],
    start: Int[Tensor, " B"], scale: float, needs_terms: bool = False,
) -> Choice:  # fmt: skip
    """Return which tokens are cached during each block of queries.

    Args:
        q: Queries, whole blocks.
        sources: What they are chosen from.
        first: Keys and values of the sinks.
        softmax: Which sinks, and which keys of the block before and its own, each query sees.
        start: Position of the first query of each row.
        scale: Factor on the scores.
        needs_terms: Return `near` as well. The weights of a block are computed for its mass anyway, and are then still
            in the processor's cache.
    """
    keys, values, inputs, marks, before, after = sources
    cache, sinks, heads, window = marks.novelty.shape[2], first[0].shape[2], keys.shape[1], softmax.shape[2]
    if not needs_terms:
        first, values = (first[0], first[1][..., :0]), values[..., :0]
    pair = torch.arange(2 * window, device=q.device)
    # mass of the block before and the own one; before a new block begins, of the two blocks before it
    held = torch.where(before % window == 0, start - 2 * window, start - window)[:, None] + pair
    near = marks.mass[:, :, cache:].gather(2, (held % (2 * window))[:, None].expand(-1, heads, -1))
    near = near.masked_fill(((held < 0) | (held >= before[:, None]))[:, None], 0.0)
    marks = marks._replace(mass=marks.mass[:, :, :cache])
    index = torch.arange(cache, device=q.device).expand(*marks.novelty.shape)
    indices, visibles, gones, are_gone, near_terms = [], [], [], [], []
    for block, queries in enumerate(q.split(window, 2)):
        own = start + block * window
        begins = (own >= before) & (own < after)
        places = cache + block * window + pair[:window]
        leaving = places.expand(*index.shape[:2], -1)
        found = evict(marks, inputs[:, :, places], mass=near[:, :, :window], behind=own - window, sinks=sinks)
        changed = found.marks._replace(mass=DECAY * found.marks.mass)
        candidates = torch.cat((index, leaving), 2)
        index = select_rows(begins, candidates.gather(2, found.stay), index)
        gones.append(candidates.gather(2, found.gone))
        are_gone.append(found.is_gone & begins[:, None])
        marks = Marks(*(select_rows(begins, *both) for both in zip(changed, marks, strict=True)))
        near = select_rows(begins, DECAY * functional.pad(near[:, :, window:], (0, window)), near)
        visible = is_cached(own - window, sinks=sinks, cache=cache)
        indices.append(index)
        visibles.append(visible)

        is_seen = with_cached(softmax[:, block : block + 1], visible[:, None], sinks=sinks)[:, 0]
        asked = own[:, None] + pair[:window]
        is_seen = is_seen & ((asked >= before[:, None]) & (asked < after[:, None]))[..., None]
        pair_places = slice(cache + (block + 1) * window, cache + (block + 3) * window)
        seen, of_seen = (
            torch.cat((of_sinks, pick(x, index), x[:, :, pair_places]), 2)
            for of_sinks, x in zip(first, (keys, values), strict=True)
        )
        scores = (queries * scale).unflatten(1, (heads, -1)).flatten(2, 3) @ seen.mT
        scores.unflatten(2, (-1, window)).masked_fill_(~is_seen[:, None, None], -torch.inf)
        weights, bottom, terms = attend(scores, of_seen)
        near_terms.append(terms)
        # summed over queries and their heads
        mass = (bottom.reciprocal().mT @ weights)[:, :, 0, sinks:]
        marks = marks._replace(mass=marks.mass + mass[:, :, :cache])
        near = near + mass[:, :, cache:]
    # the ring holds the block of the last token and the one before
    slots = ((after - 1) // window * window - window)[:, None] + pair
    ring = torch.zeros_like(near).scatter(2, (slots % (2 * window))[:, None].expand_as(near), near)
    marks = marks._replace(mass=torch.cat((marks.mass, ring), 2))
    terms = NearTerms(*(torch.stack(x, 2) for x in zip(*near_terms, strict=True))) if needs_terms else None
    return Choice(
        *(torch.stack(indices, 2), torch.stack(visibles, 1), torch.stack(gones, 2), torch.stack(are_gone, 1)),
        *(index, marks, terms),
    )


def sum_of_ranks(mass: Float[Tensor, "*B M"], novelty: Float[Tensor, "*B M"]) -> Int[Tensor, "*B M"]:
    """Return the sum of the two ranks of each candidate, where the lowest rank is 0."""
    return sum(
        (x.argsort(dim=-1, stable=True).argsort(-1) for x in (mass, novelty)), start=torch.zeros_like(mass).long()
    )


def attend(
    scores: Float[Tensor, "*B M ECJ"], v: Float[Tensor, "*B ECJ V"]
) -> tuple[Float[Tensor, "*B M ECJ"], Float[Tensor, "*B M 1"], NearTerms]:
    """Return softmax attention: weights, which are not normalised, their sum, and level and value of each query.

    Scores are -inf where a query does not see a key.
    """
    top = scores.amax(-1, keepdim=True).detach().clamp(min=torch.finfo(scores.dtype).min)
    weights = (scores - top).exp()
    # at least 1 where a key is seen: the weight of the largest score
    bottom = weights.sum(-1, keepdim=True).clamp(min=1.0)
    return weights, bottom, NearTerms((top + bottom.log())[..., 0], weights @ v / bottom)


def pick(x: Float[Tensor, "B Hkv X K"], index: Int[Tensor, "B Hkv C"]) -> Float[Tensor, "B Hkv C K"]:
    """Return the elements at the positions of `index`, which each row and head has its own."""
    begin = x.shape[2] * torch.arange(x.shape[0] * x.shape[1], device=x.device)
    rows = index + begin.view(*x.shape[:2], 1)
    # whole rows are copied, unlike by `gather`, which reads one number at a time
    return x.flatten(0, 2).index_select(0, rows.flatten()).unflatten(0, index.shape)


def select_rows(rows: Bool[Tensor, " B"], one: Tensor, other: Tensor) -> Tensor:
    """Return one tensor where the row is chosen, and the other elsewhere."""
    return torch.where(rows.view(-1, *(1,) * (one.ndim - 1)), one, other)
