"""Weaver's data card: a YAML file that defines inputs, labels, selection and weights of jets.

Cards of weaver work unchanged, with one collection of inputs or several. A card is checked completely before a file of
jets is opened.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from subquad.errors import SubquadError, reading, unknown
from subquad.hep.data.event_collections import Collections
from subquad.hep.data.expressions import Expression, parse
from subquad.hep.data.input_collections import InputCollection, Variable
from subquad.hep.settings import Reweighting, bin_edges, is_number

LAYOUT_PREFIX = "layout "
"""Beginning of the names of the cards of public layouts, which have no file."""
WEIGHT_COLUMN = "event_weight"
"""Column with the event weights, in stores, predictions and external scores."""
LARGEST_CARD, LONGEST_BRANCH, MOST_ENTRIES = 2**20, 1000, 2**20
"""Characters of a card and of the name of a branch, and entries of a collection per jet."""
KEYS = (
    *("treename", "branch_magic", "file_magic", "selection", "test_time_selection", "preprocess", "new_variables"),
    *("inputs", "labels", "observers", "monitor_variables", "weights", "event_weights", "bucketing", "collections"),
)
GROUPS: dict[str, tuple[int, str] | None] = {
    "features": None,
    "points": (2, "Δη and Δφ"),
    "vectors": (4, "px, py, pz and energy"),
    "mask": (1, "a mask"),
}
"""Groups of inputs → number of their variables and what they are."""
WEIGHT_KEYS = (
    *("use_precomputed_weights", "weight_branches", "reweight_method", "reweight_basewgt", "reweight_vars"),
    *("reweight_classes", "class_weights", "reweight_threshold", "reweight_discard_under_overflow", "reweight_hists"),
)
_NOT_IN_JSON = {".inf": math.inf, "-.inf": -math.inf, ".nan": math.nan}
"""Numbers that YAML has and JSON has not, such as a clipping limit, by the text that stands for them in JSON."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """A checked data card."""

    name: str
    """Name of its file, for messages."""
    options: Mapping[str, Any] = field(repr=False)
    """Content of the file; saved with the model."""
    tree: str | None
    """Name of the tree; None takes the only one of each file."""
    selection: Expression | None
    """Selects the jets to fit on."""
    test_selection: Expression | None
    """Selects the jets to test on and to predict."""
    new_variables: Mapping[str, Expression]
    """Computed columns."""
    inputs: tuple[InputCollection, ...]
    """Particles, and further collections such as secondary vertices."""
    labels: tuple[Expression, ...]
    """One per class, 1 for its jets; or a single one that holds the class index."""
    classes: tuple[str, ...] | None
    """Names of the classes; None if they are numbers, as many as the jets have."""
    targets: Mapping[str, Expression]
    """Regression targets beside the classes."""
    observers: tuple[str, ...]
    """Columns that are copied to the predictions."""
    event_weights: Expression | None
    """Event weights, with which jets count in the loss and in metrics; None if they all count the same."""
    reweighting: Reweighting | None
    """Equalizes classes or spectra in the loss, in addition to the event weights."""
    branch_magic: Mapping[str, str]
    """Parts of names, and their replacements in the files."""
    file_magic: Mapping[str, Mapping[str, float]]
    """Columns that depend on the file: value by a regular expression that is searched in its path."""
    collections: Collections | None = None
    """Collections of events that hold several jets each; None for files with one entry per jet."""

    @property
    def length(self) -> int:
        """Largest number of particles per jet, entries of all collections counted."""
        return sum(one.length for one in self.inputs)

    @property
    def features(self) -> tuple[Variable, ...]:
        """Features of all collections."""
        return tuple(variable for one in self.inputs for variable in one.features)

    @property
    def points(self) -> tuple[Variable, ...]:
        """Coordinates of the first collection; may be empty."""
        return self.inputs[0].points

    @property
    def vectors(self) -> tuple[Variable, ...]:
        """px, py, pz, E in GeV of the first collection; may be empty."""
        return self.inputs[0].vectors

    @property
    def is_layout(self) -> bool:
        """Whether it is the card of a public layout."""
        return self.name.startswith(LAYOUT_PREFIX)

    @property
    def has_automatic(self) -> bool:
        """Whether some standardization has to be computed from the training jets."""
        return any(variable.is_automatic for variable in self.features)

    def as_config(self) -> dict[str, Any]:
        """Return name and options of the card as JSON, from which `card_of` makes it again."""
        return {"name": self.name, "options": _to_json(self.options)}

    def branch(self, column: str) -> str:
        """Return the name in the files of a column."""
        for part, replacement in self.branch_magic.items():
            # repeated doubling would fill the memory
            column = column.replace(part, replacement)[:LONGEST_BRANCH]
        return column

    def per_jet(self, *, is_training: bool) -> tuple[str, ...]:
        """Return the columns with one number per jet, besides the labels."""
        names = list(self.observers)
        if is_training and self.reweighting is not None:
            names += [*self.reweighting.bins, *self.reweighting.classes]
        return tuple(dict.fromkeys(names))

    def columns_of_inputs(self) -> tuple[str, ...]:
        """Return the columns with one number per particle, masks included."""
        masks = (one.mask for one in self.inputs if one.mask is not None)
        return tuple(dict.fromkeys((*(name for one in self.inputs for name in one.columns), *masks)))

    def branches(self, *, is_training: bool, has_labels: bool = True, has_weights: bool = True) -> dict[str, str]:
        """Return the columns that a file must have, each with the key of the card that asks for it."""
        asked = dict.fromkeys(self.columns_of_inputs(), "inputs")
        asked |= {
            name: "observers" if name in self.observers else "weights" for name in self.per_jet(is_training=is_training)
        }
        expressions = [self.selection if is_training else self.test_selection]
        expressions += [*self.labels, *self.targets.values()] if has_labels else []
        expressions += [self.event_weights] if has_weights else []
        for expression in filter(None, expressions):
            asked |= {name: expression.place.split(": ", 1)[-1] for name in expression.names if name not in asked}
        return self._origins(asked)

    def input_branches(self) -> set[str]:
        """Return the branches that the inputs of the network are computed from."""
        return {*self._origins(dict.fromkeys(self.columns_of_inputs(), "inputs"))}

    def _origins(self, asked: dict[str, str]) -> dict[str, str]:
        """Return the branches that columns are computed from, each with the key of the card that asks for it."""
        known: dict[str, str] = {}
        while asked:
            name, place = asked.popitem()
            if name in known or name in self.file_magic:
                continue
            known[name] = place
            if name in self.new_variables:
                asked |= dict.fromkeys(self.new_variables[name].names, f"new_variables: {name}")
        return {name: place for name, place in known.items() if name not in self.new_variables}


def standardized_card(card: Card, found: Mapping[str, tuple[float, float]]) -> Card:
    """Return the card with center and scale of these variables, under the keys where weaver writes them too."""
    standardized = []
    for variable in card.features:
        center, scale = found.get(variable.name, (variable.center, variable.scale))
        standardized.append(replace(variable, center=center, scale=scale))
    return _with_standardization(card, standardized)


def card_like(card: Card, other: Card) -> Card:
    """Return the card with the standardization of another card's features of the same names."""
    return _with_standardization(card, other.features)


def _with_standardization(card: Card, variables: Iterable[Variable]) -> Card:
    lengths = {variable.name: one.length for one in card.inputs for variable in one.features}
    params = {
        variable.name: {
            **{"length": lengths.get(variable.name, card.length), "pad_mode": "constant", "pad_value": 0},
            **{"center": variable.center, "scale": variable.scale, "min": variable.low, "max": variable.high},
        }
        for variable in variables
    }
    preprocess = {**(card.options.get("preprocess") or {}), "params": params}
    return card_of({**card.options, "preprocess": preprocess}, card.name)


def read_card(path: Path | str) -> Card:
    """Return the card in a YAML file.

    Raises:
        SubquadError: There is no such file, it is no YAML, or the card cannot be used.
    """
    path = Path(path)
    with reading(path, "a data card"):
        with path.open(encoding="utf-8") as file:
            text = file.read(LARGEST_CARD + 1)
        if len(text) > LARGEST_CARD:
            raise ValueError("it has more than 1 MiB")
        options = yaml.safe_load(text)
        # so that no file passes for a public layout
        return card_of(options, f"./{path.name}" if path.name.startswith(LAYOUT_PREFIX) else path.name)


def card_of(options: Mapping[str, Any], name: str) -> Card:
    """Return the card of the content of a file or of a saved model.

    Args:
        options: As YAML or JSON.
        name: Name of the card, for messages.

    Raises:
        SubquadError: The card cannot be used.
    """
    with reading(name, "a data card"):
        return _Parser(name, _from_json(options)).card()


class _Parser:
    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        self.name, self.options = name, options

    def card(self) -> Card:
        """Return the card."""
        options = self.options
        self.check_keys(options, KEYS, "")
        new_variables = {
            str(key): self.expression(text, f"new_variables: {key}")
            for key, text in self.mapping("new_variables").items()
            # weaver's cards may define a branch as itself
            if key != text
        }
        file_magic = {
            str(key): {re.compile(str(pattern)).pattern: value + 0 for pattern, value in values.items()}
            for key, values in self.mapping("file_magic").items()
        }
        for key in file_magic.keys() & new_variables.keys():
            self.check(False, f"{key} is defined by new_variables and by file_magic; rename one of them")
        labels, classes = self.labels()
        observers = tuple(dict.fromkeys(options.get("observers") or []))
        targets = self.targets(observers)
        event_weights, reweighting = self.weights()
        if event_weights is not None:
            is_other = WEIGHT_COLUMN not in observers or event_weights.text == WEIGHT_COLUMN
            self.check(is_other, f"observers: {WEIGHT_COLUMN} is the name of the event weights; rename it")
        selection = self.optional("selection")
        collections = self.mapping("collections")
        tree = options.get("treename")
        return Card(
            name=self.name,
            options=dict(options),
            tree=None if tree is None else str(tree),
            selection=selection,
            test_selection=self.optional("test_time_selection") or selection,
            new_variables=new_variables,
            inputs=self.inputs(),
            labels=labels,
            classes=classes,
            targets=targets,
            observers=observers,
            event_weights=event_weights,
            reweighting=reweighting,
            branch_magic={str(key): str(value) for key, value in self.mapping("branch_magic").items()},
            file_magic=file_magic,
            collections=Collections(**collections) if collections else None,
        )

    def check(self, holds: Any, message: str) -> None:
        """Raise an error unless a condition holds."""
        if not holds:
            raise SubquadError(f"{self.name}: {message}")

    def check_keys(self, given: Mapping[str, Any], known: Iterable[str], place: str) -> None:
        for name in given:
            self.check(name in known, f"{place}{unknown('key', str(name), known)}")

    def mapping(self, key: str) -> Mapping[str, Any]:
        value = self.options.get(key) or {}
        self.check(isinstance(value, Mapping), f"{key}: {value!r} is not a mapping `name: value`")
        return value

    def expression(self, text: Any, place: str) -> Expression:
        return parse(text, f"{self.name}: {place}")

    def optional(self, key: str) -> Expression | None:
        text = self.options.get(key)
        return None if text is None or not str(text).strip() else self.expression(" ".join(str(text).split()), key)

    def labels(self) -> tuple[tuple[Expression, ...], tuple[str, ...] | None]:
        """Return an expression per class and the names of the classes, or one expression of their number and None."""
        labels = self.options["labels"]
        self.check_keys(labels, ("type", "value", "value_custom"), "labels: ")
        kind, value = labels.get("type"), labels.get("value")
        if kind in ("simple", "hybrid") and isinstance(value, list) and len(value) > 1:
            names = tuple(str(entry).removeprefix("label_") for entry in value)
            return tuple(self.expression(entry, f"labels: {entry}") for entry in value), names
        numbers = dict(value) if kind in ("custom", "hybrid") and isinstance(value, Mapping) else {}
        self.check(
            len(numbers) == 1,
            "labels: give type: simple and two labels or more, or type: custom and a `name: number`",
        )
        ((key, text),) = numbers.items()
        return (self.expression(text, f"labels: {key}"),), None

    def targets(self, observers: Sequence[str]) -> dict[str, Expression]:
        """Return the regression targets beside the classes."""
        given = self.options["labels"].get("value_custom") or {}
        targets = {str(name): self.expression(text, f"regression target {name}") for name, text in given.items()}
        for name, target in targets.items():
            self.check(name not in observers or target.text == name, f"regression target {name} is an observer too")
        return targets

    def weights(self) -> tuple[Expression | None, Reweighting | None]:
        """Return event weights and the reweighting of the loss."""
        given, reweighting, key = self.mapping("weights"), None, "weights: weight_branches"
        self.check_keys(given, WEIGHT_KEYS, "weights: ")
        text = ""
        if given.get("use_precomputed_weights"):
            branches = given["weight_branches"]
            text = " * ".join(f"({branch})" for branch in branches) if len(branches) > 1 else str(branches[0])
        elif given:
            text, key = given.get("reweight_basewgt") or "", "weights: reweight_basewgt"
            reweighting = self.reweighting(given)
        own = self.optional("event_weights")
        self.check(not text or own is None, f"{key} and event_weights both give event weights; remove one of them")
        return self.expression(text, key) if text else own, reweighting

    def reweighting(self, given: Mapping[str, Any]) -> Reweighting:
        """Return the reweighting of classes and spectra."""
        method, threshold = given.get("reweight_method"), given.get("reweight_threshold")
        threshold = 10 if threshold is None else threshold
        classes, totals = given["reweight_classes"], given.get("class_weights") or []
        discard = given.get("reweight_discard_under_overflow")
        self.check(method in ("flat", "ref"), f"weights: reweight_method is {method!r}; flat or ref")
        self.check(is_number(threshold) and 0 <= threshold <= 100, "weights: reweight_threshold is no percentile")
        are_numbers = all(is_number(weight) and 0 <= weight < math.inf for weight in totals)
        self.check(are_numbers and len(totals) in (0, len(classes)), "weights: class_weights needs a number per class")
        return Reweighting(
            bins={str(name): bin_edges(str(name), values) for name, values in given["reweight_vars"].items()},
            classes=tuple(classes),
            method=str(method),
            class_weights=tuple(map(float, totals)),
            threshold=float(threshold),
            drops_outside=discard is None or bool(discard),
        )

    def inputs(self) -> tuple[InputCollection, ...]:
        """Return the collections: groups that share a prefix."""
        groups: dict[str, dict[str, Mapping[str, Any]]] = {}
        for name, group in self.options["inputs"].items():
            prefix, _, kind = str(name).rpartition("_")
            known = [f"{prefix or 'pf'}_{own}" for own in GROUPS]
            self.check(kind in GROUPS, f"inputs: {unknown('group', str(name), known)}")
            self.check_keys(group, ("length", "pad_mode", "vars"), f"inputs: {name}: ")
            groups.setdefault(prefix, {})[kind] = group
        collections = tuple(self.collection(prefix, own) for prefix, own in groups.items())
        self.check(collections, "inputs: no group of features, such as pf_features")
        owners: dict[str, str] = {}
        for one in collections if len(collections) > 1 else ():
            self.check(one.points, f"inputs: with several collections each needs points; add {one.prefix}_points")
            self.check(
                len({bool(other.vectors) for other in collections}) == 1, "inputs: give vectors to all or to none"
            )
            for name in one.columns:
                other = owners.setdefault(name, one.prefix)
                self.check(other == one.prefix, f"inputs: {name} is in {other} and {one.prefix}; rename one of them")
        return collections

    def collection(self, prefix: str, groups: Mapping[str, Mapping[str, Any]]) -> InputCollection:
        variables = {kind: self.variables(f"{prefix}_{kind}", kind, group["vars"]) for kind, group in groups.items()}
        self.check("features" in groups, f"inputs: no group of features, {prefix}_features")
        for kind, own in variables.items():
            if (rule := GROUPS[kind]) is not None:
                count, what = rule
                self.check(len(own) == count, f"inputs: {prefix}_{kind} needs {what}, and has {len(own)} variables")
        points, vectors = variables.get("points", ()), variables.get("vectors", ())
        self.check(points or vectors, f"inputs: add {prefix}_points, coordinates for nearest neighbours, or vectors")
        # only the second coordinate is compared modulo 2π
        words = [{word for word in ("eta", "phi") if word in point.name.lower()} for point in points]
        self.check(words != [{"phi"}, {"eta"}], f"inputs: {prefix}_points: write Δη first and Δφ second")
        length, *others = {repr(group.get("length")): group.get("length") for group in groups.values()}.values()
        is_length = isinstance(length, int) and 0 < length <= MOST_ENTRIES and not others
        self.check(is_length, f"inputs: all groups of {prefix} need the same length, a whole number above 0")
        return InputCollection(
            prefix=prefix,
            length=int(length or 0),
            features=variables["features"],
            points=points,
            vectors=vectors,
            mask=variables["mask"][0].name if "mask" in variables else None,
        )

    def variables(self, group: str, kind: str, given: Sequence[Any]) -> tuple[Variable, ...]:
        preprocess = self.mapping("preprocess")
        self.check_keys(preprocess, ("method", "data_fraction", "params"), "preprocess: ")
        method = str(preprocess.get("method", "manual")).lower()
        self.check(method.startswith(("manual", "auto")), f"preprocess: method is {method!r}; manual or auto")
        is_features = kind == "features"
        # weaver's params stand for all groups that a variable is in
        params = (preprocess.get("params") or {}) if is_features else {}
        variables = []
        for entry in given:
            name, *numbers = entry if isinstance(entry, list) else [entry]
            place = f"inputs: {group}: {name}"
            is_bare = is_features or kind == "mask" or all(number is None for number in numbers[:2])
            self.check(is_bare, f"{place}: {kind} are taken as they are; define another unit in new_variables")
            if name in params:
                numbers = [params[name].get(key) for key in ("center", "scale", "min", "max")]
            center, scale, low, high, *_ = [*numbers, None, None, None, None]
            is_automatic = center == "auto" or (is_features and method.startswith("auto") and not numbers)
            center, scale = None if center == "auto" else center, 1.0 if scale is None else scale
            low, high = -5.0 if low is None else low, 5.0 if high is None else high
            are_numbers = all(map(is_number, (center or 0, scale, low, high)))
            is_finite = are_numbers and math.isfinite(center or 0) and math.isfinite(scale)
            self.check(is_finite, f"{place}: write [name, subtract, multiply, clip_min, clip_max, pad]")
            self.check(scale != 0 and low < high, f"{place}: these numbers make the variable constant")
            self.check(name not in [variable.name for variable in variables], f"{place}: listed twice")
            center = None if center is None else float(center)
            limits = {"scale": float(scale), "low": float(low), "high": float(high)}
            variables.append(Variable(name=str(name), center=center, **limits, is_automatic=is_automatic))
        return tuple(variables)


def _to_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _to_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    return value


def _from_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _from_json(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_from_json(entry) for entry in value]
    return _NOT_IN_JSON.get(value, value) if isinstance(value, str) else value
