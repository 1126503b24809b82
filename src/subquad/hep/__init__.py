"""Jets: tag them with a particle Chebyshev network (PCN, arXiv:2309.08630). Importing this loads nothing heavy."""

from typing import TYPE_CHECKING

from subquad.lazy import lazy_names

if TYPE_CHECKING:
    from subquad.hep.data import Jets, as_jets, read
    from subquad.hep.estimator import PCNTagger
    from subquad.hep.evaluating.job import evaluate
    from subquad.hep.explaining.job import explain
    from subquad.hep.export import export
    from subquad.hep.sample import sample_path
    from subquad.hep.settings import EvaluateSettings, ExplainSettings, FitSettings, NetSettings, PredictSettings
    from subquad.hep.simulate_settings import SimulateSettings
    from subquad.hep.simulator import simulate
    from subquad.hep.tasks import fit, predict

__all__ = [
    "EvaluateSettings",
    "ExplainSettings",
    "FitSettings",
    "Jets",
    "NetSettings",
    "PCNTagger",
    "PredictSettings",
    "SimulateSettings",
    "as_jets",
    "evaluate",
    "explain",
    "export",
    "fit",
    "predict",
    "read",
    "sample_path",
    "simulate",
]

_HOMES = {
    "EvaluateSettings": "subquad.hep.settings",
    "ExplainSettings": "subquad.hep.settings",
    "FitSettings": "subquad.hep.settings",
    "Jets": "subquad.hep.data",
    "NetSettings": "subquad.hep.settings",
    "PCNTagger": "subquad.hep.estimator",
    "PredictSettings": "subquad.hep.settings",
    "SimulateSettings": "subquad.hep.simulate_settings",
    "as_jets": "subquad.hep.data",
    "evaluate": "subquad.hep.evaluating.job",
    "explain": "subquad.hep.explaining.job",
    "export": "subquad.hep.export",
    "fit": "subquad.hep.tasks",
    "predict": "subquad.hep.tasks",
    "read": "subquad.hep.data",
    "sample_path": "subquad.hep.sample",
    "simulate": "subquad.hep.simulator",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
