"""Biological sequences with measurements (Lyra, arXiv:2503.16351). Importing this loads nothing heavy."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from subquad.bio.datasets import example
    from subquad.bio.settings import FitSettings
    from subquad.bio.tasks import fit, predict

__all__ = ["FitSettings", "example", "fit", "predict"]

_HOMES = {
    "FitSettings": "subquad.bio.settings",
    "example": "subquad.bio.datasets",
    "fit": "subquad.bio.tasks",
    "predict": "subquad.bio.tasks",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'subquad.bio' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
