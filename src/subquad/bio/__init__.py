"""Biological sequences with measurements (Lyra, arXiv:2503.16351). Importing this loads nothing heavy."""

from typing import TYPE_CHECKING

from subquad.lazy import lazy_names

if TYPE_CHECKING:
    from subquad.bio.benching.bench import bench
    from subquad.bio.benching.bench_settings import BenchSettings
    from subquad.bio.crossval import cross_validate
    from subquad.bio.datasets import example
    from subquad.bio.designing.design import design
    from subquad.bio.designing.design_settings import DesignSettings
    from subquad.bio.designing.guide_settings import GuideSettings
    from subquad.bio.designing.guides import find_guides, guides
    from subquad.bio.designing.plates import plate_map
    from subquad.bio.learning.estimators import LyraClassifier, LyraPairing, LyraRegressor, LyraTagger
    from subquad.bio.learning.models import BioModel
    from subquad.bio.looking.epistasis import epistasis
    from subquad.bio.looking.explain import scan
    from subquad.bio.looking.report import report
    from subquad.bio.reading.table import read_table
    from subquad.bio.settings import FitSettings
    from subquad.bio.tasks import fit, predict

__all__ = [
    "BenchSettings",
    "BioModel",
    "DesignSettings",
    "FitSettings",
    "GuideSettings",
    "LyraClassifier",
    "LyraPairing",
    "LyraRegressor",
    "LyraTagger",
    "bench",
    "cross_validate",
    "design",
    "epistasis",
    "example",
    "find_guides",
    "fit",
    "guides",
    "plate_map",
    "predict",
    "read_table",
    "report",
    "scan",
]

_HOMES = {
    "BenchSettings": "subquad.bio.benching.bench_settings",
    "BioModel": "subquad.bio.learning.models",
    "DesignSettings": "subquad.bio.designing.design_settings",
    "FitSettings": "subquad.bio.settings",
    "GuideSettings": "subquad.bio.designing.guide_settings",
    "LyraClassifier": "subquad.bio.learning.estimators",
    "LyraPairing": "subquad.bio.learning.estimators",
    "LyraRegressor": "subquad.bio.learning.estimators",
    "LyraTagger": "subquad.bio.learning.estimators",
    "bench": "subquad.bio.benching.bench",
    "cross_validate": "subquad.bio.crossval",
    "design": "subquad.bio.designing.design",
    "epistasis": "subquad.bio.looking.epistasis",
    "example": "subquad.bio.datasets",
    "find_guides": "subquad.bio.designing.guides",
    "fit": "subquad.bio.tasks",
    "guides": "subquad.bio.designing.guides",
    "plate_map": "subquad.bio.designing.plates",
    "predict": "subquad.bio.tasks",
    "read_table": "subquad.bio.reading.table",
    "report": "subquad.bio.looking.report",
    "scan": "subquad.bio.looking.explain",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
