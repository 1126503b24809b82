"""Jets: tag them with a particle Chebyshev network (PCN, arXiv:2309.08630). Importing this loads nothing heavy."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from subquad.hep.sample import sample_path
    from subquad.hep.settings import FitSettings, NetSettings, PredictSettings
    from subquad.hep.simulate import simulate
    from subquad.hep.simulate_settings import SimulateSettings
    from subquad.hep.tasks import fit, predict

__all__ = [
    "FitSettings",
    "NetSettings",
    "PredictSettings",
    "SimulateSettings",
    "fit",
    "predict",
    "sample_path",
    "simulate",
]

_HOMES = {
    "FitSettings": "subquad.hep.settings",
    "NetSettings": "subquad.hep.settings",
    "PredictSettings": "subquad.hep.settings",
    "SimulateSettings": "subquad.hep.simulate_settings",
    "fit": "subquad.hep.tasks",
    "predict": "subquad.hep.tasks",
    "sample_path": "subquad.hep.sample",
    "simulate": "subquad.hep.simulate",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'subquad.hep' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    # importing subquad.hep.simulate puts the module under this name; the call is what is meant
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
