"""Checks of the `config.json` of a run of sequences, whose values decide how its models are called."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from subquad.bio.compared_models import COMPARED_MODELS, ENSEMBLE
from subquad.bio.data.dataset import EmbeddingSchema, InputSchema, PartnerAlignment, PartnerChain, TaskType
from subquad.bio.features.sequences import SequenceFeatures
from subquad.bio.models.lyra import NetSpec
from subquad.bio.models.stacking import Stacking
from subquad.bio.models.target_scaling import ScaledColumn
from subquad.bio.settings import ALPHABETS
from subquad.errors import counted
from subquad.runs.folder import CONFIG
from subquad.runs.records import check_fields, check_record, damaged, shown

__all__ = ["check_config"]

REMEDY = "fit again, or copy the whole folder again"
PARTS = {"alignment": PartnerAlignment, "partner_chain": PartnerChain, "embedding": EmbeddingSchema}
"""Entries of the inputs that are objects, or null."""


def check_config(config: Mapping[str, Any], folder: Path) -> None:
    """Check the entries of a `config.json` that are used when models predict, search or design.

    Args:
        config: Its content.
        folder: The run, which `subquad bio fit` or an estimator's `save` wrote.

    Raises:
        SubquadError: An entry is missing, has another type, or contradicts another one.
    """
    path = folder / CONFIG
    check_record(config, path, remedy=REMEDY, **dict.fromkeys(("inputs", "target", "networks", "selected"), dict))
    check_record(config, path, remedy=REMEDY, models=list[str])
    if not config["models"] or not {*config["models"]} <= {*COMPARED_MODELS}:
        raise damaged(path, f"there are no models {shown(config['models'])}", remedy=REMEDY)
    _check_inputs(config["inputs"], f"{path}: inputs")
    kinds: dict[str, Any] = {"task_type": TaskType, "classes": list[str | int | float | bool], "names": list[str]}
    target = check_record(config["target"], f"{path}: target", remedy=REMEDY, **kinds)
    outputs = _check_target(target, f"{path}: target")
    for name, network in config["networks"].items():
        _check_network(network, f"{path}: networks: {name}", target["task_type"], outputs)
    _check_training(config, path, outputs)
    if ENSEMBLE in config["models"]:
        place = f"{path}: stacking"
        stacking = check_fields(Stacking, config.get("stacking"), place, remedy=REMEDY)
        _check_equal(stacking, "task_type", target["task_type"], place)


def _check_inputs(inputs: dict[str, Any], place: str) -> None:
    check_fields(InputSchema, inputs, place, remedy=REMEDY)
    for name, kind in PARTS.items():
        if inputs.get(name) is not None:
            check_fields(kind, inputs[name], f"{place}: {name}", remedy=REMEDY)
    for own in (inputs, inputs.get("partner_chain") or inputs):
        if own["alphabet"] not in ALPHABETS:
            raise damaged(place, f"there is no alphabet {shown(own['alphabet'])}", remedy=REMEDY)


def _check_target(target: dict[str, Any], place: str) -> int:
    """Return the number of outputs of a prediction; see `Target.outputs`."""
    task_type, names, classes = target["task_type"], target["names"], target["classes"]
    has_classes = task_type in ("multiclass", "residue_multiclass")
    if not names or (has_classes and len(classes) < 2) or (task_type == "binary" and len(classes) != 2):
        raise damaged(place, f"there are no names, or other than two classes: {shown(target)}", remedy=REMEDY)
    if has_classes:
        return len(classes)
    return len(names) if task_type in ("regression", "multilabel") else 1


def _check_training(config: Mapping[str, Any], path: Path, outputs: int) -> None:
    """Check what is known of the training rows: letters, range of the measurements, and errors on validation rows."""
    given = {name: config.get(name) for name in ("observed_letters", "observed_partner_letters", "measured_range")}
    letters = list[list[int]] | None
    kinds = {"observed_letters": letters, "observed_partner_letters": letters}
    check_record(given, path, remedy=REMEDY, **kinds, measured_range=list[list[float | None]] | None)
    count = len(ALPHABETS[config["inputs"]["alphabet"]])
    if any(code >= count for codes in given["observed_letters"] or [] for code in codes):
        raise damaged(path, f"observed_letters has letters beyond the {count} of the alphabet", remedy=REMEDY)
    if given["measured_range"] is not None and [len(own) for own in given["measured_range"]] != [2] * outputs:
        raise damaged(path, f"measured_range must have {counted(outputs, 'pair')}", remedy=REMEDY)
    place = f"{path}: selected"
    conformal = check_record(config["selected"].get("conformal", {}), f"{place}: conformal", remedy=REMEDY)
    check_record(conformal, f"{place}: conformal", remedy=REMEDY, **dict.fromkeys(conformal, list[dict | None]))


def _check_network(network: Any, place: str, task_type: str, outputs: int) -> None:
    check_record(network, place, remedy=REMEDY, spec=dict, features=dict | None, scaler=list[dict])
    check_record(network, place, remedy=REMEDY, positions=list[int] | None, ensemble_size=int, selected=list[dict])
    spec = check_fields(NetSpec, network["spec"], f"{place}: spec", remedy=REMEDY)
    _check_equal(spec, "task_type", task_type, f"{place}: spec")
    _check_equal(spec, "outputs", outputs, f"{place}: spec")
    for k, column in enumerate(network["scaler"]):
        check_fields(ScaledColumn, column, f"{place}: scaler[{k}]", remedy=REMEDY)
    if task_type.endswith("regression") and len(network["scaler"]) != outputs:
        raise damaged(place, f"scaler must have {counted(outputs, 'column')}", remedy=REMEDY)
    features = network["features"] or {}
    for part in (features.get("first"), features.get("second")) if "second" in features else [network["features"]]:
        if part is not None:
            check_fields(SequenceFeatures, part, f"{place}: features", remedy=REMEDY)


def _check_equal(record: Mapping[str, Any], name: str, expected: Any, place: str) -> None:
    if record[name] != expected:
        mistake = f"{name} is {shown(record[name])}, and that of the target {shown(expected)}"
        raise damaged(place, mistake, remedy=REMEDY)
