"""The models that a run fits and compares on its test rows: one entry for each name in `metrics.json`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from subquad.errors import SubquadError, unknown

__all__ = [
    "COMPARED_MODELS",
    "ENSEMBLE",
    "NETWORKS",
    "WITHOUT_LYRA",
    "ComparedModel",
    "check_names",
    "colour_of",
    "label_of",
    "members_of",
    "models_for",
    "models_suiting",
    "names_of",
]

Role = Literal["baseline", "lyra", "variant", "control", "ensemble"]
Tasks = Literal["regression", "classes", "residues", "pairs"]
ROWS: tuple[Tasks, ...] = ("regression", "classes")
"""Tasks with one target value, class or set of labels per row."""

ENSEMBLE, WITHOUT_LYRA = "ensemble", "ensemble-without-lyra"


@dataclass(frozen=True)
class ComparedModel:
    """What pages and tables need to know of a model."""

    label: str
    """Name on pages and in the terminal."""
    role: Role
    """A baseline, Lyra, a variant of Lyra that is only compared, a control of the ensemble, or the ensemble."""
    colour: str
    """Colour in figures."""
    tasks: tuple[Tasks, ...] = (*ROWS, "residues", "pairs")
    """Tasks that it suits: measurements or classes of rows, one value per residue, or base pairs."""
    is_default: bool = True
    """Whether it is fitted if no models are named."""
    max_rows: int | None = None
    """Number of training rows above which it is only fitted if it is named."""
    needs_sequence: bool = False
    """Whether it needs letters, and not covariates alone."""
    needs_embedding: bool = False
    """Whether it needs embeddings of a language model."""
    is_network: bool = False
    """Whether it is trained by gradient descent."""
    has_path: bool = False
    """Whether the network has an additive path, which starts at ridge regression, if there is one value per row."""
    has_posterior: bool = False
    """Whether it has a joint posterior of new rows, from which samples can be drawn."""


_network = partial(ComparedModel, is_network=True)

COMPARED_MODELS = {
    "ridge": ComparedModel("ridge", "baseline", "#8a94a6", (*ROWS, "residues")),
    "embedding-ridge": ComparedModel("ridge on the embedding", "baseline", "#7d6455", ROWS, needs_embedding=True),
    "vienna": ComparedModel("ViennaRNA MFE", "baseline", "#8a94a6", ("pairs",)),
    "vienna_bpp": ComparedModel("ViennaRNA pair probabilities", "baseline", "#c08a3e", ("pairs",)),
    "boosting": ComparedModel("gradient boosting", "baseline", "#c08a3e", (*ROWS, "residues")),
    "gp": ComparedModel("Gaussian process", "baseline", "#b5616a", ("regression",), max_rows=6000, has_posterior=True),
    "mlp": _network("MLP", "baseline", "#9a6fb0", ROWS, has_path=True),
    "cnn": _network("CNN", "baseline", "#5b8fa8", (*ROWS, "residues"), is_default=False, needs_sequence=True),
    "mlp-more": _network("more MLPs", "control", "#c9b3d6", ROWS, is_default=False, has_path=True),
    "lyra-paper": _network("Lyra as published", "variant", "#a9cdbd", is_default=False, needs_sequence=True),
    "lyra-alone": _network("Lyra without additive path", "variant", "#7fb39c", is_default=False, needs_sequence=True),
    "lyra-additive": _network("additive path of Lyra", "variant", "#b9c48b", ROWS, needs_sequence=True, has_path=True),
    "lyra": _network("Lyra", "lyra", "#1f6f54", needs_sequence=True, has_path=True),
    WITHOUT_LYRA: ComparedModel("ensemble without Lyra", "ensemble", "#8fb4dd"),
    ENSEMBLE: ComparedModel("ensemble", "ensemble", "#2f6db3"),
}
"""Models by their name in `metrics.json`, the simplest first."""
FITTED = {name: model for name, model in COMPARED_MODELS.items() if model.role != "ensemble"}
"""Those that are fitted themselves."""
NETWORKS = tuple(name for name, model in COMPARED_MODELS.items() if model.is_network)
"""Models that are trained by gradient descent."""


def names_of(*roles: Role) -> tuple[str, ...]:
    """Return the names of the models with one of the roles, the simplest first."""
    return tuple(name for name, model in COMPARED_MODELS.items() if model.role in roles)


def models_for(
    task_type: str,
    named: Sequence[str] = (),
    *,
    has_sequence: bool = True,
    has_embedding: bool = False,
    rows: int = 0,
) -> tuple[str, ...]:
    """Return the models to fit to a task, without the ensemble, the simplest first.

    Args:
        task_type: Type of the task.
        named: Models that the user named; without any, all that suit the task by default.
        has_sequence: The inputs have letters, and not covariates alone.
        has_embedding: The inputs have embeddings of a language model.
        rows: Number of training rows.

    Raises:
        SubquadError: There is no such model, or it does not suit the task.
    """
    check_names(named)
    suited = [
        name
        for name in models_suiting(task_type, FITTED)
        if has_sequence >= FITTED[name].needs_sequence and has_embedding >= FITTED[name].needs_embedding
    ]
    for name in named:
        if FITTED[name].needs_embedding and not has_embedding:
            raise SubquadError(
                f"--models {name} needs embeddings of a language model; name their file with --embeddings"
            )
        if name not in suited:
            reason = f"a task of type {task_type}" if has_sequence else "a table without sequences"
            raise SubquadError(f"--models {name} does not suit {reason}; choose from {', '.join(suited)}")
    if named:
        return tuple(name for name in suited if name in named)
    return tuple(name for name in suited if FITTED[name].is_default and rows <= (FITTED[name].max_rows or rows))


def models_suiting(task_type: str, named: Iterable[str]) -> tuple[str, ...]:
    """Return those of the named models that suit a task.

    Raises:
        SubquadError: There is no such model.
    """
    names = check_names(named)
    kinds: dict[str, Tasks] = {"regression": "regression", "pairs": "pairs"}
    kind = "residues" if task_type.startswith("residue") else kinds.get(task_type, "classes")
    return tuple(name for name in names if kind in FITTED[name].tasks)


def check_names(named: Iterable[str]) -> tuple[str, ...]:
    """Return the names of models that may be fitted.

    Raises:
        SubquadError: There is no such model.
    """
    names = tuple(named)
    for name in names:
        if name not in FITTED:
            raise SubquadError(f"--models: {unknown('model', name, FITTED)}")
    return names


def members_of(models: Sequence[str], ensemble: str = ENSEMBLE) -> tuple[str, ...]:
    """Return the models that an ensemble combines: baselines and Lyra, or baselines and the control that replaces it.

    Args:
        models: Models that were fitted.
        ensemble: `ENSEMBLE` or `WITHOUT_LYRA`.
    """
    roles = ("baseline", "lyra") if ensemble == ENSEMBLE else ("baseline", "control")
    return tuple(name for name in models if COMPARED_MODELS[name].role in roles)


def label_of(model: str) -> str:
    """Return the name of a model on pages and in the terminal."""
    return COMPARED_MODELS[model].label


def colour_of(model: str) -> str:
    """Return the colour of a model in figures."""
    return COMPARED_MODELS[model].colour
