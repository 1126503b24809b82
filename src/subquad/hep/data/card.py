"""Weaver's data card: a YAML file that says what a net takes of a jet, and which jets are which.

A card of one collection of particles runs unchanged. What it says is checked whole, before a file of jets is opened.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from subquad.errors import SubquadError, raise_errors, unknown
from subquad.hep.data.card_weights import Reweighting, weights_of
from subquad.hep.data.expressions import Expression, parse

__all__ = ["Card", "Variable", "card_of", "read_card"]

GROUPS = ("features", "points", "vectors", "mask")
KEYS = (
    *("treename", "branch_magic", "file_magic", "selection", "test_time_selection", "preprocess", "new_variables"),
    *("inputs", "labels", "observers", "monitor_variables", "weights", "bucketing"),
)
LABEL_COLUMNS, WEIGHT_COLUMN = "_label_", "_weight_"


@dataclass(frozen=True, kw_only=True)
class Variable:
    """One number of a particle, and how it is moved, scaled and clipped: ((x - center) * scale) within low and high."""

    name: str
    """A branch, or a new variable of the card."""
    center: float | None
    """None: it is taken as it is."""
    scale: float = 1.0
    low: float = -5.0
    high: float = 5.0
    is_automatic: bool = False
    """Center and scale are to be found among the training jets."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """A checked card."""

    name: str
    """Its file, for what is told."""
    options: Mapping[str, Any] = field(repr=False)
    """What the file holds; kept in the saved model."""
    tree: str | None
    """Name of the tree; None: the only one of each file."""
    selection: Expression | None
    """Jets to fit on."""
    test_selection: Expression | None
    """Jets to measure and to predict on."""
    new_variables: Mapping[str, Expression]
    """Columns that are computed."""
    length: int
    """Particles of a jet that are looked at, the first ones."""
    features: tuple[Variable, ...]
    points: tuple[Variable, ...]
    vectors: tuple[Variable, ...]
    """px, py, pz, E in GeV; none where the card has none."""
    mask: str | None
    """Particles where it is 0 are left out."""
    labels: tuple[Expression, ...]
    """One per class, 1 for its jets; or a single one that counts the classes from 0."""
    classes: tuple[str, ...] | None
    """None: the classes are numbers, and as many as the jets have."""
    observers: tuple[str, ...]
    """Columns that are handed on to the predictions."""
    weights: Reweighting | Expression | None
    """How jets are weighted; an expression where the weights are in the files."""
    branch_magic: Mapping[str, str]
    """Pieces of names, and what stands in the files for each."""
    file_magic: Mapping[str, Mapping[str, float]]
    """Columns that depend on the file: a pattern of its name, and the value."""

    @property
    def has_automatic(self) -> bool:
        """Whether something is still to be found among the training jets."""
        return any(variable.is_automatic for variable in (*self.features, *self.points, *self.vectors))

    def branch(self, column: str) -> str:
        """Return the branch in the files that holds a column."""
        for piece, stands in self.branch_magic.items():
            column = column.replace(piece, stands)
        return column

    def per_jet(self, *, is_training: bool) -> tuple[str, ...]:
        """Return the columns with one number per jet that are read beside the labels."""
        names = list(self.observers)
        if is_training and isinstance(self.weights, Reweighting):
            names += [*self.weights.bins, *self.weights.classes, *([self.weights.base] if self.weights.base else [])]
        return tuple(dict.fromkeys(names))

    def per_particle(self) -> tuple[str, ...]:
        """Return the columns with one number per particle, each once."""
        return tuple(dict.fromkeys(v.name for v in (*self.features, *self.points, *self.vectors)))

    def branches(self, *, is_training: bool, has_labels: bool = True) -> dict[str, str]:
        """Return the columns that must be in a file, each with the place in the card that asks for it."""
        asked: dict[str, str] = dict.fromkeys(self.per_particle(), "inputs")
        if self.mask:
            asked[self.mask] = "inputs"
        asked |= {
            name: "observers" if name in self.observers else "weights" for name in self.per_jet(is_training=is_training)
        }
        expressions = [*(self.labels if has_labels else ()), self.selection if is_training else self.test_selection]
        expressions += [self.weights if is_training and isinstance(self.weights, Expression) else None]
        for expression in expressions:
            if expression is not None:
                asked |= {name: expression.place.split(": ", 1)[-1] for name in expression.names if name not in asked}
        found: dict[str, str] = {}
        seen: set[str] = set()
        while asked:
            name, place = asked.popitem()
            if name in seen or name in self.file_magic:
                continue
            seen.add(name)
            if name in self.new_variables:
                asked |= dict.fromkeys(self.new_variables[name].names, f"new_variables: {name}")
            else:
                found[name] = place
        return found

    def standardised(self, found: Mapping[str, tuple[float, float]]) -> "Card":
        """Return the card with center and scale of these variables, where weaver writes them too."""
        params = {
            variable.name: {
                **{"length": self.length, "pad_mode": "constant", "pad_value": 0},
                **dict(
                    zip(("center", "scale"), found.get(variable.name, (variable.center, variable.scale)), strict=True)
                ),
                **{"min": variable.low, "max": variable.high},
            }
            for variable in (*self.features, *self.points, *self.vectors)
        }
        preprocess = {**(self.options.get("preprocess") or {}), "params": params}
        return card_of({**self.options, "preprocess": preprocess}, self.name)


def read_card(path: Path | str) -> Card:
    """Return the card in a YAML file.

    Raises:
        SubquadError: no such file, no YAML, or a card that cannot be used; all mistakes are listed.
    """
    path = Path(path)
    try:
        options = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SubquadError(f"{path}: no such file (--card)") from None
    except (yaml.YAMLError, UnicodeDecodeError, IsADirectoryError) as error:
        raise SubquadError(f"{path}: this is no YAML ({' '.join(str(error).split())})") from error
    if not isinstance(options, dict):
        raise SubquadError(f"{path}: this is no data card; it must have `inputs` and `labels`")
    return card_of(options, path.name)


def card_of(options: Mapping[str, Any], name: str) -> Card:
    """Return the card of these options, as YAML or a saved model has them.

    Raises:
        SubquadError: a card that cannot be used; all mistakes are listed.
    """
    reader = _Reader(name)
    card = reader.card(options)
    raise_errors(f"{name}: this data card cannot be used:", reader.mistakes)
    assert card is not None
    return card


class _Reader:
    """Collects mistakes while it reads."""

    def __init__(self, name: str) -> None:
        self.name, self.mistakes = name, list[str]()

    def card(self, options: Mapping[str, Any]) -> Card | None:
        self._known(options, KEYS, "key", "")
        new_variables = {
            str(key): expression
            for key, text in self._mapping(options, "new_variables").items()
            # weaver's cards may name a branch itself
            if key != text and (expression := self.expression(text, f"new_variables: {key}")) is not None
        }
        self._no_circles(new_variables)
        groups, length = self._groups(options)
        labels, classes = self._labels(options)
        selection = self._optional(options, "selection")
        observers = self._names(options, "observers")
        self._names(options, "monitor_variables")
        weights = self._weights(options)
        if self.mistakes:
            return None
        mask = groups.get("mask", ())
        tree = options.get("treename")
        return Card(
            name=self.name,
            options=dict(options),
            tree=None if tree is None else str(tree),
            selection=selection,
            test_selection=self._optional(options, "test_time_selection") or selection,
            new_variables=new_variables,
            length=length,
            **{name: groups.get(name, ()) for name in GROUPS[:3]},
            mask=mask[0].name if mask else None,
            labels=labels,
            classes=classes,
            observers=observers,
            weights=weights,
            branch_magic={str(key): str(value) for key, value in self._mapping(options, "branch_magic").items()},
            file_magic={str(key): dict(value) for key, value in self._mapping(options, "file_magic").items()},
        )

    def expression(self, text: Any, place: str) -> Expression | None:
        try:
            return parse(text, f"{self.name}: {place}")
        except SubquadError as error:
            self.mistakes.append(str(error))
            return None

    def _optional(self, options: Mapping[str, Any], key: str) -> Expression | None:
        text = options.get(key)
        return None if text is None or not str(text).strip() else self.expression(" ".join(str(text).split()), key)

    def _known(self, given: Mapping[str, Any], known: Sequence[str], kind: str, place: str) -> None:
        for name in given:
            if name not in known:
                self.mistakes.append(f"{self.name}: {place}{unknown(kind, str(name), known)}")

    def _mapping(self, options: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        value = options.get(key) or {}
        if not isinstance(value, Mapping):
            self.mistakes.append(f"{self.name}: {key}: {value!r} is no list of `name: value`")
            return {}
        return value

    def _names(self, options: Mapping[str, Any], key: str) -> tuple[str, ...]:
        value = options.get(key) or []
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            self.mistakes.append(f"{self.name}: {key}: {value!r} is no list of names")
            return ()
        return tuple(dict.fromkeys(value))

    def _no_circles(self, new_variables: Mapping[str, Expression]) -> None:
        def walk(name: str, above: tuple[str, ...]) -> None:
            if name in above:
                circle = " → ".join((*above[above.index(name) :], name))
                self.mistakes.append(f"{self.name}: new_variables: {circle}: a variable cannot need itself")
                return
            if name in new_variables and name not in done:
                for part in new_variables[name].names:
                    walk(part, (*above, name))
                done.add(name)

        done: set[str] = set()
        for name in new_variables:
            walk(name, ())

    def _groups(self, options: Mapping[str, Any]) -> tuple[dict[str, tuple[Variable, ...]], int]:
        inputs = self._mapping(options, "inputs")
        groups: dict[str, tuple[Variable, ...]] = {}
        lengths: dict[str, Any] = {}
        prefixes = set()
        for name, group in inputs.items():
            prefix, _, kind = str(name).rpartition("_")
            if kind not in GROUPS:
                known = [f"{prefix or 'pf'}_{kind}" for kind in GROUPS]
                self.mistakes.append(f"{self.name}: inputs: {unknown('group', str(name), known)}")
                continue
            prefixes.add(prefix)
            if not isinstance(group, Mapping):
                self.mistakes.append(f"{self.name}: inputs: {name}: it must have `length` and `vars`")
                continue
            self._known(group, ("length", "pad_mode", "vars"), "key", f"inputs: {name}: ")
            lengths[name] = group.get("length")
            if str(group.get("pad_mode", "constant")).lower() not in ("wrap", "constant"):
                self.mistakes.append(
                    f"{self.name}: inputs: {name}: pad_mode is {group['pad_mode']!r}; wrap or constant"
                )
            groups[kind] = self._variables(group.get("vars"), f"inputs: {name}", options, is_mask=kind == "mask")
        if len(prefixes) > 1:
            self.mistakes.append(
                f"{self.name}: inputs: {', '.join(sorted(prefixes))}: the nets here take one collection of particles; "
                "leave the groups of one"
            )
        if not groups.get("features"):
            self.mistakes.append(f"{self.name}: inputs: no group of features, such as pf_features")
        for kind, count in (("vectors", 4), ("mask", 1)):
            if groups.get(kind) and len(groups[kind]) != count:
                what = "px, py, pz and energy" if kind == "vectors" else "one variable"
                self.mistakes.append(f"{self.name}: inputs: {kind} has {len(groups[kind])} variables; it takes {what}")
        if not groups.get("points") and not groups.get("vectors"):
            self.mistakes.append(
                f"{self.name}: inputs: neither points nor vectors; give pf_points, where particles lie near each other"
            )
        good = {length for length in lengths.values() if isinstance(length, int) and length > 0}
        if inputs and (len(good) != 1 or len(set(map(repr, lengths.values()))) != 1):
            listed = ", ".join(f"{name}: {length}" for name, length in lengths.items())
            self.mistakes.append(f"{self.name}: inputs: the lengths must be one whole number above 0 ({listed})")
        return groups, next(iter(good), 1)

    def _variables(self, given: Any, place: str, options: Mapping[str, Any], *, is_mask: bool) -> tuple[Variable, ...]:
        preprocess = self._mapping(options, "preprocess")
        if not is_mask and place.endswith("features"):
            self._known(preprocess, ("method", "data_fraction", "params"), "key", "preprocess: ")
            if not str(preprocess.get("method", "manual")).lower().startswith(("manual", "auto")):
                self.mistakes.append(f"{self.name}: preprocess: method is {preprocess['method']!r}; manual or auto")
        is_auto = str(preprocess.get("method", "manual")).lower().startswith("auto") and not is_mask
        params = preprocess.get("params") or {}
        if not isinstance(given, list) or not given:
            self.mistakes.append(f"{self.name}: {place}: vars must list one variable or more")
            return ()
        found = []
        for entry in given:
            name, *numbers = entry if isinstance(entry, list) and entry else [entry]
            where = f"{self.name}: {place}: {name}"
            if not isinstance(name, str) or len(numbers) > 5:
                self.mistakes.append(f"{where}: write [name, subtract, multiply, clip_min, clip_max, pad]")
                continue
            if name in params:
                numbers = [params[name].get(key) for key in ("center", "scale", "min", "max")]
            center, scale, low, high, *_ = [*numbers, *(None, None, None, None)[len(numbers) :]]
            is_automatic = center == "auto" or (is_auto and not numbers)
            center = None if center == "auto" else center
            values = (center, scale, low, high)
            if any(
                value is not None and (isinstance(value, bool) or not isinstance(value, int | float))
                for value in values
            ):
                self.mistakes.append(f"{where}: {entry!r}: what stands behind the name must be numbers or null")
                continue
            found.append(
                Variable(
                    name=name,
                    center=None if center is None else float(center),
                    scale=1.0 if scale is None else float(scale),
                    low=-5.0 if low is None else float(low),
                    high=5.0 if high is None else float(high),
                    is_automatic=is_automatic,
                )
            )
        return tuple(found)

    def _labels(self, options: Mapping[str, Any]) -> tuple[tuple[Expression, ...], tuple[str, ...] | None]:
        labels = self._mapping(options, "labels")
        self._known(labels, ("type", "value"), "key", "labels: ")
        kind, value = labels.get("type"), labels.get("value")
        if kind == "simple" and isinstance(value, list) and len(value) > 1:
            found = [self.expression(entry, f"labels: {entry}") for entry in value]
            names = tuple(str(entry).removeprefix("label_") for entry in value)
            return tuple(entry for entry in found if entry), names
        if kind == "custom" and isinstance(value, Mapping) and len(value) == 1:
            ((key, text),) = value.items()
            entry = self.expression(text, f"labels: {key}")
            return (entry,) if entry else (), None
        self.mistakes.append(
            f"{self.name}: labels: give type: simple with a list of two labels or more as value, or type: custom with "
            "one `name: expression` that counts the classes from 0"
        )
        return (), None

    def _weights(self, options: Mapping[str, Any]) -> Reweighting | Expression | None:
        given = self._mapping(options, "weights")
        if not given:
            return None
        try:
            weights = weights_of(given)
        except SubquadError as error:
            self.mistakes.append(f"{self.name}: weights: {error}")
            return None
        return self.expression(weights, "weights: weight_branches") if isinstance(weights, str) else weights
