"""Several documents in one row of tokens: attention to the tokens of the same document only.

Documents are given for training by `separate_documents`, or by packed positions, which start again at 0.

Axes: B sequences, T positions.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

Spans = Sequence[Sequence[tuple[int, int]]]
"""Start and stop of the documents in each sequence."""


@contextmanager
def separate_documents(model: nn.Module, documents: Int[Tensor, "B T"] | None) -> Iterator[None]:
    """Restrict attention to tokens of the same document, within a `with` block that includes the backward pass.

    Args:
        model: A converted model, called without padding or cache.
        documents: Number of each token's document, not decreasing; None changes nothing.
    """
    spans = None if documents is None else [_spans(row) for row in documents]
    # layers that keep softmax attention read it as well
    layers: list[Any] = [
        module for module in model.modules() if hasattr(module, "o_proj") and hasattr(module, "layer_idx")
    ]
    for layer in layers:
        layer.documents = spans
    try:
        yield
    finally:
        for layer in layers:
            layer.documents = None


def packed_documents(position_ids: Tensor | None, mask: Tensor) -> Spans | None:
    """Return the first and the end of each sequence in each row, by their positions; None if each row has one.

    Args:
        position_ids: Positions of the tokens, one row or one per sequence of the batch.
        mask: The mask that transformers made of them, True where a token attends to another.

    Raises:
        ValueError: There are no positions, they neither rise by 1 nor start again at 0, or the mask is another one.
    """
    refused = "hybrid attention supports padding masks and packed positions only, and no other masks"
    if position_ids is None or position_ids.ndim != 2 or mask.dtype != torch.bool:
        raise ValueError(refused)
    rows, length = len(mask), mask.shape[2]
    position_ids = position_ids.expand(max(rows, len(position_ids)), -1)
    begins = F.pad(position_ids.diff(dim=1) != 1, (1, 0))
    jumps = begins & (position_ids != 0)
    if jumps.any():
        row, place = jumps.nonzero()[0].tolist()
        before, here = position_ids[row, place - 1 : place + 1].tolist()
        raise ValueError(
            f"packed positions must rise by 1 or start again at 0, but in row {row} {here} follows {before}"
        )
    documents = begins.cumsum(1)
    expected = (documents[:, :, None] == documents[:, None]).tril()[:, None]
    if mask.shape[3] != length or not (mask == expected).all():
        raise ValueError(refused)
    return [_spans(row) for row in documents] if begins.any() else None


def each_document(documents: Spans | None, attend: Callable[..., Tensor], *given: Tensor) -> Tensor:
    """Return the outputs of `attend` for each document alone, from [B, H, T, C] with positions on the third axis."""
    if documents is None:
        return attend(*given)
    return concatenated(documents, lambda row, part: attend(*(x[row, :, part] for x in given)), 2)


def concatenated(documents: Spans, attend: Callable[[slice, slice], Tensor], axis: int) -> Tensor:
    """Return the outputs of concatenated documents, each computed separately, along the axis of positions."""
    rows = [
        torch.cat([attend(slice(row, row + 1), slice(*ends)) for ends in spans], axis)
        for row, spans in enumerate(documents)
    ]
    return torch.cat(rows)


def _spans(documents: Int[Tensor, " T"]) -> list[tuple[int, int]]:
    ends = documents.unique_consecutive(return_counts=True)[1].cumsum(0).tolist()
    return list(zip([0, *ends], ends, strict=False))
