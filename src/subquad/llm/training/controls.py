"""Controls of a linearized model: what its texts and tokens are worth without linear attention.

A student has read its training texts and its teacher has not, so that a part of what it wins is their style; and a
window that is fine-tuned, or as large as the student's state, may need no linear branch. Each control is the teacher's
weights with LoRA updates, trained on the same texts with the tokens of both stages together.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from torch import nn

from subquad.llm.models.attention import Mode, attention_layers
from subquad.llm.settings import AttentionSettings
from subquad.ops.linattn_windows import WindowShape

__all__ = ["CONTROLS", "Control", "as_control", "control_folder", "controls_of", "state_size"]

CONTROLS = ("teacher_fine_tuned", "window_fine_tuned", "wide_window_fine_tuned")
"""Names of the controls: softmax attention, the student's window alone, and a window of the size of its state."""
FOLDER = "controls"


@dataclass(frozen=True, kw_only=True)
class Control:
    """A control: the attention that it is trained and measured with."""

    name: str
    """One of `CONTROLS`."""
    mode: Mode
    """`softmax` or `window`."""
    attention: AttentionSettings
    """The student's attention, for `wide_window_fine_tuned` with another window."""


def state_size(model: nn.Module) -> tuple[int, int]:
    """Return the numbers in the state of one layer, and the tokens whose keys and values are as many numbers."""
    hybrid = attention_layers(model)[0].hybrid
    numbers = sum(tensor.numel() for tensor in hybrid.empty_state(1) if tensor.is_floating_point())
    return numbers, -(-numbers // (2 * hybrid.kv_heads * hybrid.head_width))


def controls_of(model: nn.Module, attention: AttentionSettings) -> list[Control]:
    """Return the controls of a converted model; a model without a window has none of the same window."""
    tokens = state_size(model)[1]
    # a terrace window keeps two blocks of tokens
    wide = tokens if attention.window_shape == "sliding" else -(-tokens // 2)
    shape = "terrace" if attention.window_shape == "none" else attention.window_shape
    found = [
        Control(name=CONTROLS[0], mode="softmax", attention=attention),
        Control(name=CONTROLS[1], mode="window", attention=replace(attention, cache=0)),
        Control(
            name=CONTROLS[2], mode="window", attention=replace(attention, window=wide, window_shape=shape, cache=0)
        ),
    ]
    return [control for control in found if control.mode == "softmax" or control.attention.window_shape != "none"]


@contextmanager
def as_control(model: nn.Module, control: Control) -> Iterator[None]:
    """Give all hybrid attention layers the window of a control, within a `with` block."""
    layers = [layer.hybrid for layer in attention_layers(model)]
    before: list[tuple[int, WindowShape]] = [(hybrid.window, hybrid.window_shape) for hybrid in layers]
    for hybrid in layers:
        hybrid.window, hybrid.window_shape = control.attention.window, control.attention.window_shape
    try:
        yield
    finally:
        for hybrid, (window, shape) in zip(layers, before, strict=True):
            hybrid.window, hybrid.window_shape = window, shape


def control_folder(name: str) -> str:
    """Return the folder of a control within that of its student."""
    return f"{FOLDER}/{name}"
