"""Controls of a linearized model: what its texts and tokens are worth without its linear branch.

A student has read its training texts and its teacher has not, so that a part of what it wins is their style; and a
window, or a window with a sparse cache, may do as well without a linear branch if it is fine-tuned and as large as the
student's state. Each control is the teacher's weights with LoRA updates, trained on the same texts with the tokens of
both stages together.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from subquad.llm.models.attention import Mode, attention_layers, new_hybrid
from subquad.llm.settings import AttentionSettings
from subquad.runs.folder import METRICS

MODES: dict[str, Mode] = {
    "teacher_fine_tuned": "softmax",
    "window_fine_tuned": "hybrid",
    "wide_window_fine_tuned": "hybrid",
    "cache_fine_tuned": "hybrid",
}
"""What the attention layers of each control compute: softmax attention, or without a linear branch the student's window
alone, a sliding window of the size of the student's state, and its window with a cache of that size together."""
FOLDER = "controls"


@dataclass(frozen=True, kw_only=True)
class Control:
    """A control: the attention that it is trained and measured with."""

    name: str
    """A key of `MODES`."""
    attention: AttentionSettings
    """The student's attention; of controls with a window, without a linear branch and with another window or cache."""

    @property
    def mode(self) -> Mode:
        """What the attention layers compute."""
        return MODES[self.name]


def control_names(attention: AttentionSettings) -> list[str]:
    """Return the names of the controls of a student."""
    # without a linear branch the last one is the student
    return [name for name in MODES if name != "cache_fine_tuned" or (attention.cache and attention.has_linear)]


def state_size(model: nn.Module) -> int:
    """Return the number of tokens whose keys and values take as much memory as the state of one layer."""
    hybrid = attention_layers(model)[0].hybrid
    numbers = sum(tensor.numel() for tensor in hybrid.empty_state(1) if tensor.is_floating_point())
    return -(-numbers // (2 * hybrid.kv_heads * hybrid.head_width))


def controls_of(model: nn.Module, attention: AttentionSettings) -> list[Control]:
    """Return the controls of a converted model."""
    hybrid, sinks = attention_layers(model)[0].hybrid, attention.sinks or 0
    tokens = state_size(model)
    # the linear branch's share of the state, in tokens of a cache: keys, values, mass and novelty
    linear = sum(tensor.numel() for tensor in (hybrid.empty_state(1).total, hybrid.empty_state(1).squares))
    spare = linear // (hybrid.kv_heads * (2 * hybrid.head_width + 2))
    changed: dict[str, dict[str, Any]] = {
        "window_fine_tuned": {"cache": 0},
        # a window that slides sees all of its tokens at any time
        "wide_window_fine_tuned": {"cache": 0, "window": tokens - sinks, "window_shape": "sliding"},
        "cache_fine_tuned": {"cache": (attention.cache or 0) + spare},
    }
    alone = {"feature_map": "none", "horizon": 0.0}
    controls = {
        name: replace(attention, **alone, **changed[name]) for name in control_names(attention) if name in changed
    }
    return [Control(name=name, attention=controls.get(name, attention)) for name in control_names(attention)]


@contextmanager
def as_control(model: nn.Module, control: Control) -> Iterator[None]:
    """Give all hybrid attention layers the attention of a control, within a `with` block."""
    layers = attention_layers(model)
    before = [layer.hybrid for layer in layers]
    for layer in layers:
        layer.hybrid = new_hybrid(layer, control.attention).requires_grad_(False)
    try:
        yield
    finally:
        for layer, hybrid in zip(layers, before, strict=True):
            layer.hybrid = hybrid


def control_folder(name: str) -> str:
    """Return the folder of a control within that of its student."""
    return f"{FOLDER}/{name}"


def trained_controls(folder: Path) -> list[str]:
    """Return the names of the controls that were trained beside a student."""
    return [name for name in MODES if (folder / control_folder(name) / METRICS).is_file()]
