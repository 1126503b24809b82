"""Jet tagging with graph networks, such as PCN (arXiv:2309.08630). Importing this loads no heavy package."""

from typing import TYPE_CHECKING

from subquad.lazy import lazy_names

if TYPE_CHECKING:
    from subquad.hep.commands.evaluate import evaluate
    from subquad.hep.commands.explain import explain
    from subquad.hep.commands.export import export
    from subquad.hep.commands.fit import fit
    from subquad.hep.commands.predict import predict
    from subquad.hep.commands.report import report
    from subquad.hep.commands.simulate import simulate
    from subquad.hep.data.examples import example_path
    from subquad.hep.data.jets import Jets, as_jets, read
    from subquad.hep.models.estimator import PCNTagger
    from subquad.hep.models.trained import TrainedTagger
    from subquad.hep.settings import (
        EvaluateSettings,
        ExplainSettings,
        ExportSettings,
        FitSettings,
        NetSettings,
        PredictSettings,
        SimulateSettings,
    )

__all__ = [
    "EvaluateSettings",
    "ExplainSettings",
    "ExportSettings",
    "FitSettings",
    "Jets",
    "NetSettings",
    "PCNTagger",
    "PredictSettings",
    "SimulateSettings",
    "TrainedTagger",
    "as_jets",
    "evaluate",
    "example_path",
    "explain",
    "export",
    "fit",
    "predict",
    "read",
    "report",
    "simulate",
]

_HOMES = {
    **dict.fromkeys(("EvaluateSettings", "ExplainSettings", "FitSettings", "NetSettings"), "subquad.hep.settings"),
    **dict.fromkeys(("ExportSettings", "PredictSettings", "SimulateSettings"), "subquad.hep.settings"),
    **dict.fromkeys(("Jets", "as_jets", "read"), "subquad.hep.data.jets"),
    **{
        name: f"subquad.hep.commands.{name}"
        for name in ("evaluate", "explain", "export", "fit", "predict", "report", "simulate")
    },
    "PCNTagger": "subquad.hep.models.estimator",
    "TrainedTagger": "subquad.hep.models.trained",
    "example_path": "subquad.hep.data.examples",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
