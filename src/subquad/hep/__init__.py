"""Jets: tag them with a particle Chebyshev network (PCN, arXiv:2309.08630). Importing this loads nothing heavy."""

from typing import TYPE_CHECKING

from subquad.lazy import lazy_names

if TYPE_CHECKING:
    from subquad.hep.commands.evaluate import evaluate
    from subquad.hep.commands.explain import explain
    from subquad.hep.commands.export import export
    from subquad.hep.commands.fit import fit, predict
    from subquad.hep.commands.simulate import simulate
    from subquad.hep.data.jets import Jets, as_jets, read
    from subquad.hep.data.sample import sample_path
    from subquad.hep.models.estimator import PCNTagger
    from subquad.hep.settings import EvaluateSettings, ExplainSettings, FitSettings, NetSettings, PredictSettings
    from subquad.hep.simulation.settings import SimulateSettings

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
    "Jets": "subquad.hep.data.jets",
    "NetSettings": "subquad.hep.settings",
    "PCNTagger": "subquad.hep.models.estimator",
    "PredictSettings": "subquad.hep.settings",
    "SimulateSettings": "subquad.hep.simulation.settings",
    "as_jets": "subquad.hep.data.jets",
    "evaluate": "subquad.hep.commands.evaluate",
    "explain": "subquad.hep.commands.explain",
    "export": "subquad.hep.commands.export",
    "fit": "subquad.hep.commands.fit",
    "predict": "subquad.hep.commands.fit",
    "read": "subquad.hep.data.jets",
    "sample_path": "subquad.hep.data.sample",
    "simulate": "subquad.hep.commands.simulate",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
