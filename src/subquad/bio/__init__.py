"""Biological sequences with measurements (Lyra, arXiv:2503.16351). Importing this loads nothing heavy."""

from typing import TYPE_CHECKING

from subquad.lazy import lazy_names

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

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
