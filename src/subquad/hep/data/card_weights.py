"""How jets are weighted, as weaver's cards and `--reweight-vars` say it. Imports the standard library only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from subquad.errors import SubquadError, unknown

__all__ = ["Reweighting", "edges", "weights_of"]

KEYS = (
    *("use_precomputed_weights", "weight_branches", "reweight_method", "reweight_basewgt", "reweight_vars"),
    *("reweight_classes", "class_weights", "reweight_threshold", "reweight_discard_under_overflow", "reweight_hists"),
)


@dataclass(frozen=True, kw_only=True)
class Reweighting:
    """Weights by which the classes come to look alike in some variables of the jet."""

    bins: Mapping[str, tuple[float, ...]]
    """Edges of the bins of each variable."""
    classes: tuple[str, ...] = ()
    """Columns that are 1 for the jets of a class; none: the classes of the labels."""
    method: str = "flat"
    """`flat`: every class is made flat; `ref`: every class is made like the first one."""
    class_weights: tuple[float, ...] = ()
    """Share of each class behind the reweighting; none: all the same."""
    threshold: float = 10.0
    """Percentile of the bins that may not be made flat, since that would take too large weights."""
    drops_outside: bool = True
    """Jets outside of the bins count nothing; otherwise they count as those of the nearest bin."""
    base: str | None = None
    """A column with weights that the jets have already."""


def weights_of(given: Mapping[str, Any]) -> Reweighting | str:
    """Return what the `weights` of a card say; an expression where the weights are in the files.

    Raises:
        SubquadError: unknown keys, or values that cannot work.
    """
    for name in given:
        if name not in KEYS:
            raise unknown("key", str(name), KEYS)
    if given.get("use_precomputed_weights"):
        branches = given.get("weight_branches")
        if not isinstance(branches, list) or not branches:
            raise SubquadError("weight_branches must list one branch or more, as use_precomputed_weights is true")
        return " * ".join(f"({branch})" for branch in branches)
    method = given.get("reweight_method")
    if method not in ("flat", "ref"):
        raise SubquadError(f"reweight_method is {method!r}; flat or ref")
    variables = given.get("reweight_vars")
    if not isinstance(variables, Mapping) or not variables:
        raise SubquadError("reweight_vars must have one `variable: [edges of its bins]` or more")
    classes = _listed(given, "reweight_classes", str)
    if not classes:
        raise SubquadError("reweight_classes must list the labels of the classes")
    class_weights = _listed(given, "class_weights", (int, float))
    if class_weights and len(class_weights) != len(classes):
        raise SubquadError(f"class_weights has {len(class_weights)} numbers for {len(classes)} reweight_classes")
    discard, base = given.get("reweight_discard_under_overflow"), given.get("reweight_basewgt")
    threshold = given.get("reweight_threshold")
    return Reweighting(
        bins={str(name): edges(str(name), values) for name, values in variables.items()},
        classes=tuple(classes),
        method=method,
        class_weights=tuple(map(float, class_weights)),
        threshold=10.0 if threshold is None else float(threshold),
        drops_outside=discard is None or bool(discard),
        base=None if base is None else str(base),
    )


def edges(name: str, values: Any) -> tuple[float, ...]:
    """Return the edges of bins.

    Raises:
        SubquadError: fewer than two, or not in rising order.
    """
    if not isinstance(values, Sequence) or not all(isinstance(v, int | float) for v in values) or len(values) < 2:
        raise SubquadError(f"{name}: {values!r} are no edges of bins; give two numbers or more")
    if any(low >= high for low, high in pairwise(values)):
        raise SubquadError(f"{name}: the edges of its bins must rise: {', '.join(f'{value:g}' for value in values)}")
    return tuple(map(float, values))


def _listed(given: Mapping[str, Any], key: str, kind: Any) -> list[Any]:
    values = given.get(key) or []
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        raise SubquadError(f"{key}: {values!r} is no list")
    return values
