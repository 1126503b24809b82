"""Biological sequences with measurements (Lyra, arXiv:2503.16351). Importing this loads nothing heavy."""

from typing import TYPE_CHECKING

from subquad.lazy import lazy_names

if TYPE_CHECKING:
    from subquad.bio.analysis.settings import EpistasisSettings, ScanSettings
    from subquad.bio.benchmark.settings import BenchSettings
    from subquad.bio.commands.bench import bench
    from subquad.bio.commands.cross_validate import cross_validate
    from subquad.bio.commands.design import design
    from subquad.bio.commands.embed import embed
    from subquad.bio.commands.epistasis import epistasis
    from subquad.bio.commands.fit import fit
    from subquad.bio.commands.guides import guides
    from subquad.bio.commands.predict import predict
    from subquad.bio.commands.report import report
    from subquad.bio.commands.rounds import rounds
    from subquad.bio.commands.scan import scan
    from subquad.bio.data.examples import resolve_table
    from subquad.bio.data.table import read_table
    from subquad.bio.design_search.batch import plate_map
    from subquad.bio.design_search.settings import DesignSettings, RoundsSettings
    from subquad.bio.guide_search.settings import GuideSettings
    from subquad.bio.guide_search.table import find_guides
    from subquad.bio.language_models.settings import EmbedSettings
    from subquad.bio.models.estimators import LyraClassifier, LyraPairing, LyraRegressor, LyraTagger
    from subquad.bio.models.fitted import BioModel
    from subquad.bio.settings import FitSettings

__all__ = [
    "BenchSettings",
    "BioModel",
    "DesignSettings",
    "EmbedSettings",
    "EpistasisSettings",
    "FitSettings",
    "GuideSettings",
    "LyraClassifier",
    "LyraPairing",
    "LyraRegressor",
    "LyraTagger",
    "RoundsSettings",
    "ScanSettings",
    "bench",
    "cross_validate",
    "design",
    "embed",
    "epistasis",
    "find_guides",
    "fit",
    "guides",
    "plate_map",
    "predict",
    "read_table",
    "report",
    "resolve_table",
    "rounds",
    "scan",
]

_HOMES = {
    "BenchSettings": "subquad.bio.benchmark.settings",
    "BioModel": "subquad.bio.models.fitted",
    "DesignSettings": "subquad.bio.design_search.settings",
    "EmbedSettings": "subquad.bio.language_models.settings",
    "EpistasisSettings": "subquad.bio.analysis.settings",
    "FitSettings": "subquad.bio.settings",
    "GuideSettings": "subquad.bio.guide_search.settings",
    "LyraClassifier": "subquad.bio.models.estimators",
    "LyraPairing": "subquad.bio.models.estimators",
    "LyraRegressor": "subquad.bio.models.estimators",
    "LyraTagger": "subquad.bio.models.estimators",
    "RoundsSettings": "subquad.bio.design_search.settings",
    "ScanSettings": "subquad.bio.analysis.settings",
    "bench": "subquad.bio.commands.bench",
    "cross_validate": "subquad.bio.commands.cross_validate",
    "design": "subquad.bio.commands.design",
    "embed": "subquad.bio.commands.embed",
    "epistasis": "subquad.bio.commands.epistasis",
    "find_guides": "subquad.bio.guide_search.table",
    "fit": "subquad.bio.commands.fit",
    "guides": "subquad.bio.commands.guides",
    "plate_map": "subquad.bio.design_search.batch",
    "predict": "subquad.bio.commands.predict",
    "read_table": "subquad.bio.data.table",
    "report": "subquad.bio.commands.report",
    "resolve_table": "subquad.bio.data.examples",
    "rounds": "subquad.bio.commands.rounds",
    "scan": "subquad.bio.commands.scan",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
