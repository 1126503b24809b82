"""The `weights` of weaver's data cards: event weights, or a reweighting of classes and spectra."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from subquad.errors import SubquadError, unknown
from subquad.hep.settings import Reweighting, bin_edges, is_number

__all__ = ["parse_weights"]

WEIGHT_KEYS = (
    *("use_precomputed_weights", "weight_branches", "reweight_method", "reweight_basewgt", "reweight_vars"),
    *("reweight_classes", "class_weights", "reweight_threshold", "reweight_discard_under_overflow", "reweight_hists"),
)


def parse_weights(given: Mapping[str, Any]) -> tuple[str, Reweighting | None]:
    """Return the expression of event weights in the `weights` of a card, empty for none, and the reweighting.

    Raises:
        SubquadError: There are unknown keys, or values that cannot work.
    """
    for name in given:
        if name not in WEIGHT_KEYS:
            raise unknown("key", str(name), WEIGHT_KEYS)
    if given.get("use_precomputed_weights"):
        branches = given.get("weight_branches")
        if not isinstance(branches, list) or not branches:
            raise SubquadError("weight_branches must list one branch or more, as use_precomputed_weights is true")
        return " * ".join(f"({branch})" for branch in branches) if len(branches) > 1 else str(branches[0]), None
    method = given.get("reweight_method")
    if method not in ("flat", "ref"):
        raise SubquadError(f"reweight_method is {method!r}; flat or ref")
    variables = given.get("reweight_vars")
    if not isinstance(variables, Mapping) or not variables:
        raise SubquadError("reweight_vars must have one `variable: [bin edges]` or more")
    classes = _listed(given, "reweight_classes", "names", lambda value: isinstance(value, str))
    if not classes:
        raise SubquadError("reweight_classes must list the labels of the classes")
    class_weights = _listed(given, "class_weights", "numbers", is_number)
    if class_weights and len(class_weights) != len(classes):
        raise SubquadError(f"class_weights has {len(class_weights)} numbers for {len(classes)} reweight_classes")
    if any(weight < 0 or weight == math.inf for weight in class_weights):
        raise SubquadError(f"class_weights: {class_weights} must be 0 or more")
    discard, base = given.get("reweight_discard_under_overflow"), given.get("reweight_basewgt")
    threshold = given.get("reweight_threshold")
    if threshold is not None and not (is_number(threshold) and 0 <= threshold <= 100):
        raise SubquadError(f"reweight_threshold is {threshold!r}; give a percentile from 0 to 100")
    return "" if base is None else str(base), Reweighting(
        bins={str(name): bin_edges(str(name), values) for name, values in variables.items()},
        classes=tuple(classes),
        method=method,
        class_weights=tuple(map(float, class_weights)),
        threshold=10.0 if threshold is None else float(threshold),
        drops_outside=discard is None or bool(discard),
    )


def _listed(given: Mapping[str, Any], key: str, what: str, is_fit: Callable[[Any], bool]) -> list[Any]:
    values = given.get(key) or []
    if not isinstance(values, list) or not all(map(is_fit, values)):
        raise SubquadError(f"{key}: {values!r} is not a list of {what}")
    return values
