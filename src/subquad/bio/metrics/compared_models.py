"""The models that a run compares on its test rows: one entry for each name in `metrics.json`."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["COMPARED_MODELS", "ComparedModel", "baselines_for", "colour_of", "label_of", "names_of"]

Role = Literal["baseline", "network", "stack"]


@dataclass(frozen=True)
class ComparedModel:
    """What pages and tables need to know of a model."""

    label: str
    """Name on pages and in the terminal."""
    role: Role
    colour: str
    """Colour in figures."""
    predicts_pairs: bool = False
    """Whether this baseline takes the place of the others in tasks of base pairs."""


COMPARED_MODELS = {
    "ridge": ComparedModel("ridge", "baseline", "#8a94a6"),
    "vienna": ComparedModel("ViennaRNA MFE", "baseline", "#8a94a6", predicts_pairs=True),
    "vienna_bpp": ComparedModel("ViennaRNA pair probabilities", "baseline", "#c08a3e", predicts_pairs=True),
    "boosting": ComparedModel("gradient boosting", "baseline", "#c08a3e"),
    "paper": ComparedModel("Lyra as published", "network", "#7fb39c"),
    "auto": ComparedModel("network (preset auto)", "network", "#7fb39c"),
    "net": ComparedModel("network", "network", "#1f6f54"),
    "stack": ComparedModel("stack of all models", "stack", "#2f6db3"),
}
"""Models by their name in `metrics.json`, the simplest first. `net` is the network of the run's own preset; `paper` and
`auto` are further presets fitted beside it."""


def names_of(role: Role) -> tuple[str, ...]:
    """Return the names of the models with a role, the simplest first."""
    return tuple(name for name, model in COMPARED_MODELS.items() if model.role == role)


def baselines_for(task_type: str) -> tuple[str, ...]:
    """Return the names of the baselines of a task type."""
    is_pairs = task_type == "pairs"
    return tuple(name for name in names_of("baseline") if COMPARED_MODELS[name].predicts_pairs == is_pairs)


def label_of(model: str) -> str:
    """Return the name of a model on pages and in the terminal."""
    return COMPARED_MODELS[model].label


def colour_of(model: str) -> str:
    """Return the colour of a model in figures."""
    return COMPARED_MODELS[model].colour
