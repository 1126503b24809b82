"""Windows that are drawn for each training sequence, so that the linear branch learns to carry weight.

Windows of random size of arXiv:2509.24552. A model keeps its own window: drawn
ones exist within `drawn_windows` only.

Axes: B sequences.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from subquad.llm.models.documents import Spans, each_document
from subquad.nn.attention import HybridAttention


@contextmanager
def drawn_windows(model: nn.Module, windows: Sequence[int] | None) -> Iterator[None]:
    """Give each sequence of a batch a window of its own, within a `with` block that includes the backward pass.

    Args:
        model: A converted model, called without padding or cache.
        windows: Tokens of each sequence's window in all layers. None changes nothing.
    """
    layers: list[Any] = [module for module in model.modules() if isinstance(getattr(module, "hybrid", None), nn.Module)]
    for layer in layers:
        layer.windows = windows
    try:
        yield
    finally:
        for layer in layers:
            layer.windows = None


def each_window(
    hybrid: HybridAttention,
    windows: Sequence[int] | None,
    documents: Spans | None,
    attend: Callable[..., Tensor],
    *given: Tensor,
) -> Tensor:
    """Return the outputs of `attend` for sequences, each with its window and its documents.

    Args:
        hybrid: The attention that `attend` calls.
        windows: Window of each sequence; None for that of the model.
        documents: See `each_document`.
        attend: Function of these tensors.
        given: Tensors [B, H, T, C].
    """
    if windows is None:
        return each_document(documents, attend, *given)
    parts, order, before = [], [], hybrid.window
    try:
        for window in sorted(set(windows)):
            rows = [row for row, drawn in enumerate(windows) if drawn == window]
            spans = None if documents is None else [documents[row] for row in rows]
            hybrid.window = window
            parts.append(each_document(spans, attend, *(x[rows] for x in given)))
            order += rows
    finally:
        hybrid.window = before
    return torch.cat(parts)[torch.tensor(order).argsort().to(parts[0].device)]
