"""Parsing and checks of weaver's data cards.

Everything that is wrong with a card is reported at once, with the key where it stands.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from subquad.errors import SubquadError, unknown
from subquad.hep.data.card_weights import parse_weights
from subquad.hep.data.event_collections import Collections
from subquad.hep.data.expressions import Expression, parse
from subquad.hep.data.input_collections import InputCollection, Variable
from subquad.hep.data.path_patterns import check_path_pattern
from subquad.hep.settings import Reweighting, is_number

__all__ = ["LARGEST_INTEGER", "WEIGHT_COLUMN", "CardParser"]

GROUPS = ("features", "points", "vectors", "mask")
DEEPEST, LARGEST_INTEGER = 100, 2**53
"""Most variables of which each needs the next; largest whole number of a card, up to which float64 has all."""
WEIGHT_COLUMN = "event_weight"
"""Column with the event weights, in stores, predictions and external scores."""
COORDINATES = ("points", "vectors")
"""Groups that no standardization applies to."""
KEYS = (
    *("treename", "branch_magic", "file_magic", "selection", "test_time_selection", "preprocess", "new_variables"),
    *("inputs", "labels", "observers", "monitor_variables", "weights", "event_weights", "bucketing", "collections"),
)


class CardParser:
    """Parses a card and collects its errors."""

    def __init__(self, name: str) -> None:
        self.name, self.errors = name, list[str]()

    def parse(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of the `Card`; empty if there are errors."""
        self._known(options, KEYS, "key", "")
        new_variables = {
            str(key): expression
            for key, text in self._mapping(options, "new_variables").items()
            # weaver's cards may define a branch as itself
            if key != text and (expression := self._expression(text, f"new_variables: {key}")) is not None
        }
        self._check_cycles(new_variables)
        inputs = self._inputs(options)
        labels, classes = self._labels(options)
        targets = self._targets(options)
        self._check_definitions(options, new_variables)
        selection = self._optional(options, "selection")
        test_selection = self._optional(options, "test_time_selection") or selection
        branch_magic = self._mapping(options, "branch_magic")
        observers = self._names(options, "observers")
        self._names(options, "monitor_variables")
        (event_weights, reweighting), collections = self._weights(options, observers), self._collections(options)
        if self.errors:
            return {}
        tree = options.get("treename")
        return {
            "name": self.name,
            "options": dict(options),
            "tree": None if tree is None else str(tree),
            "selection": selection,
            "test_selection": test_selection,
            "new_variables": new_variables,
            "inputs": inputs,
            "labels": labels,
            "classes": classes,
            "targets": targets,
            "observers": observers,
            "event_weights": event_weights,
            "reweighting": reweighting,
            "collections": collections,
            "branch_magic": {str(key): str(value) for key, value in branch_magic.items()},
            "file_magic": {
                str(key): {str(pattern): number for pattern, number in value.items()}
                for key, value in self._mapping(options, "file_magic").items()
            },
        }

    def _error(self, message: str) -> None:
        # the groups of several collections may share an error
        if f"{self.name}: {message}" not in self.errors:
            self.errors.append(f"{self.name}: {message}")

    def _expression(self, text: Any, place: str) -> Expression | None:
        try:
            return parse(text, f"{self.name}: {place}")
        except SubquadError as error:
            self.errors.append(str(error))
            return None

    def _optional(self, options: Mapping[str, Any], key: str) -> Expression | None:
        text = options.get(key)
        return None if text is None or not str(text).strip() else self._expression(" ".join(str(text).split()), key)

    def _known(self, given: Mapping[str, Any], known: Sequence[str], kind: str, place: str) -> None:
        for name in given:
            if name not in known:
                self._error(f"{place}{unknown(kind, str(name), known)}")

    def _mapping(self, options: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        value = options.get(key) or {}
        if not isinstance(value, Mapping):
            self._error(f"{key}: {value!r} is not a mapping `name: value`")
            return {}
        return value

    def _names(self, options: Mapping[str, Any], key: str) -> tuple[str, ...]:
        value = options.get(key) or []
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            self._error(f"{key}: {value!r} is not a list of names")
            return ()
        return tuple(dict.fromkeys(value))

    def _check_cycles(self, new_variables: Mapping[str, Expression]) -> None:
        def walk(name: str, above: tuple[str, ...]) -> int:
            """Return how many variables depend on one another up to this one."""
            if name in above:
                cycle = " → ".join((*above[above.index(name) :], name))
                self._error(f"new_variables: {cycle}: a variable cannot depend on itself")
                return 0
            if name in new_variables and name not in depths:
                below = [walk(part, (*above, name)) for part in new_variables[name].names if len(above) <= DEEPEST]
                depths[name] = 1 + max(below, default=0)
                if depths[name] == DEEPEST + 1:
                    self._error(f"new_variables: {name} depends on more than {DEEPEST} variables, one on the other")
            return depths.get(name, 0)

        depths: dict[str, int] = {}
        for name in new_variables:
            walk(name, ())

    def _check_definitions(self, options: Mapping[str, Any], new_variables: Mapping[str, Expression]) -> None:
        """Check that no other key of the card defines a new variable in another way."""
        for name, values in self._mapping(options, "file_magic").items():
            if not isinstance(values, Mapping):
                self._error(f"file_magic: {name}: {values!r} is not a mapping `pattern of the file name: value`")
                continue
            self._check_patterns(f"file_magic: {name}", values)
            if name in new_variables:
                text = new_variables[name].text
                self._error(
                    f"new_variables: {name} is defined as {text!r}, and by file_magic as {dict(values)}; rename one "
                    "of them"
                )
        value = self._mapping(options, "labels").get("value")
        for name, text in value.items() if isinstance(value, Mapping) else ():
            own = new_variables.get(str(name))
            if own is not None and _words(text) != _words(own.text):
                self._error(
                    f"labels: {name} is defined as {text!r}, and by new_variables as {own.text!r}; rename one of them"
                )

    def _check_patterns(self, place: str, values: Mapping[Any, Any]) -> None:
        for pattern, value in values.items():
            try:
                check_path_pattern(str(pattern))
            except SubquadError as error:
                self._error(f"{place}: {error}")
            if not isinstance(value, int | float):
                self._error(f"{place}: {pattern!r}: {value!r} is not a number")

    def _inputs(self, options: Mapping[str, Any]) -> tuple[InputCollection, ...]:
        groups: dict[str, dict[str, tuple[Variable, ...]]] = {}
        lengths: dict[str, dict[str, Any]] = {}
        for name, group in self._mapping(options, "inputs").items():
            prefix, _, kind = str(name).rpartition("_")
            if kind not in GROUPS:
                known = [f"{prefix or 'pf'}_{kind}" for kind in GROUPS]
                self._error(f"inputs: {unknown('group', str(name), known)}")
                continue
            own = groups.setdefault(prefix, {})
            if not isinstance(group, Mapping):
                self._error(f"inputs: {name}: it must have `length` and `vars`")
                continue
            self._known(group, ("length", "pad_mode", "vars"), "key", f"inputs: {name}: ")
            lengths.setdefault(prefix, {})[name] = group.get("length")
            if str(group.get("pad_mode", "constant")).lower() not in ("wrap", "constant"):
                self._error(f"inputs: {name}: pad_mode is {group['pad_mode']!r}; wrap or constant")
            own[kind] = self._variables(group.get("vars"), f"inputs: {name}", options, kind=kind)
        found = [self._collection(prefix, own, lengths.get(prefix, {})) for prefix, own in groups.items()]
        if not found:
            self._error("inputs: no group of features, such as pf_features")
        if len(found) > 1:
            self._check_union(found)
        return tuple(found)

    def _collection(
        self, prefix: str, groups: Mapping[str, tuple[Variable, ...]], lengths: Mapping[str, Any]
    ) -> InputCollection:
        if not groups.get("features"):
            self._error(f"inputs: no group of features, {prefix}_features")
        wanted = {"points": (2, "Δη and Δφ"), "vectors": (4, "px, py, pz and energy"), "mask": (1, "one variable")}
        for kind, (count, what) in wanted.items():
            if groups.get(kind) and len(groups[kind]) != count:
                self._error(f"inputs: {prefix}_{kind} has {len(groups[kind])} variables; it needs {what}")
        self._check_order(groups.get("points", ()))
        if not groups.get("points") and not groups.get("vectors"):
            self._error(f"inputs: neither points nor vectors; add {prefix}_points, coordinates for nearest neighbours")
        good = {length for length in lengths.values() if isinstance(length, int) and 0 < length <= LARGEST_INTEGER}
        if lengths and (len(good) != 1 or len(set(map(repr, lengths.values()))) != 1):
            listed = ", ".join(f"{name}: {length!r}" for name, length in lengths.items())
            is_large = any(isinstance(length, int) and length > LARGEST_INTEGER for length in lengths.values())
            most = f" and at most {LARGEST_INTEGER}" if is_large else ""
            self._error(f"inputs: all lengths of {prefix} must be the same whole number above 0{most} ({listed})")
        mask = groups.get("mask", ())
        return InputCollection(
            prefix=prefix,
            length=next(iter(good), 1),
            features=groups.get("features", ()),
            points=groups.get("points", ()),
            vectors=groups.get("vectors", ()),
            mask=mask[0].name if mask else None,
        )

    def _check_union(self, collections: Sequence[InputCollection]) -> None:
        """Check that the entries of several collections can form one set of points."""
        for one in collections:
            if not one.points:
                self._error(
                    f"inputs: {one.prefix}: with several collections each needs points; add {one.prefix}_points"
                )
        given = {bool(one.vectors): one.prefix for one in collections}
        if len(given) > 1:
            self._error(f"inputs: {given[True]} has vectors and {given[False]} has none; give them to all or to none")
        owners: dict[str, str] = {}
        for one in collections:
            for name in one.columns:
                if name in owners:
                    self._error(
                        f"inputs: {name} is in {owners[name]} and {one.prefix}; define it for {one.prefix} under "
                        "another name in new_variables"
                    )
                owners[name] = one.prefix

    def _check_order(self, points: Sequence[Variable]) -> None:
        """Check by their names that the points are Δη and Δφ; only the second one is an angle, compared modulo 2π."""
        words = [{word for word in ("eta", "phi") if word in point.name.lower()} for point in points]
        if words == [{"phi"}, {"eta"}]:
            first, second = (point.name for point in points)
            self._error(f"inputs: points are {first}, {second}; write Δη first and Δφ second: {second}, {first}")

    def _variables(self, given: Any, place: str, options: Mapping[str, Any], *, kind: str) -> tuple[Variable, ...]:
        preprocess = self._mapping(options, "preprocess")
        if kind == "features":
            self._known(preprocess, ("method", "data_fraction", "params"), "key", "preprocess: ")
            if not str(preprocess.get("method", "manual")).lower().startswith(("manual", "auto")):
                self._error(f"preprocess: method is {preprocess['method']!r}; manual or auto")
        is_auto = str(preprocess.get("method", "manual")).lower().startswith("auto") and kind == "features"
        # weaver's params stand for all groups that a variable is in
        params = self._params(preprocess) if kind == "features" else {}
        if not isinstance(given, list) or not given:
            self._error(f"{place}: vars must list one variable or more")
            return ()
        found = []
        for entry in given:
            name, *numbers = entry if isinstance(entry, list) and entry else [entry]
            where = f"{place}: {name}"
            if not isinstance(name, str) or len(numbers) > 5:
                self._error(f"{where}: write [name, subtract, multiply, clip_min, clip_max, pad]")
                continue
            if kind in COORDINATES and any(number is not None for number in numbers[:2]):
                self._error(
                    f"{where}: {entry!r}: {kind} are taken as they are; write [{name}, null], and define another unit "
                    "in new_variables"
                )
                continue
            if any(variable.name == name for variable in found):
                self._error(
                    f"{where}: listed twice; omit one of them, or define it in new_variables under another name"
                )
                continue
            if name in params:
                numbers = [params[name].get(key) for key in ("center", "scale", "min", "max")]
            center, scale, low, high, *_ = [*numbers, *(None, None, None, None)[len(numbers) :]]
            is_automatic = center == "auto" or (is_auto and not numbers)
            center = None if center == "auto" else center
            if not all(value is None or is_number(value) for value in (center, scale, low, high)):
                self._error(f"{where}: {entry!r}: the entries after the name must be numbers or null")
                continue
            if math.inf in (abs(center or 0), abs(scale or 0)):
                self._error(f"{where}: {entry!r}: the numbers to subtract and to multiply by must be finite")
                continue
            limits = -5.0 if low is None else float(low), 5.0 if high is None else float(high)
            if scale == 0 or limits[0] >= limits[1]:
                reason = (
                    "multiply is 0" if scale == 0 else f"clip_min {limits[0]:g} is not below clip_max {limits[1]:g}"
                )
                self._error(f"{where}: {entry!r}: {reason}, so that the variable would be constant; correct or omit it")
                continue
            found.append(
                Variable(
                    name=name,
                    center=None if center is None else float(center),
                    scale=1.0 if scale is None else float(scale),
                    low=limits[0],
                    high=limits[1],
                    is_automatic=is_automatic,
                )
            )
        return tuple(found)

    def _params(self, preprocess: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
        given = self._mapping(preprocess, "params")
        wrong = [str(name) for name, values in given.items() if not isinstance(values, Mapping)]
        if wrong:
            self._error(f"preprocess: params: {', '.join(wrong)}: write a mapping with center, scale, min and max")
        return {} if wrong else given

    def _labels(self, options: Mapping[str, Any]) -> tuple[tuple[Expression, ...], tuple[str, ...] | None]:
        if "labels" not in options:
            self._error(
                "the key labels is missing; add one such as labels: {type: simple, value: [is_qcd, is_top]}, with the "
                "branch or new variable of each class, which is 1 for its jets"
            )
            return (), None
        labels = self._mapping(options, "labels")
        self._known(labels, ("type", "value", "value_custom"), "key", "labels: ")
        kind, value = labels.get("type"), labels.get("value")
        if kind in ("simple", "hybrid") and isinstance(value, list) and len(value) > 1:
            found = [self._expression(entry, f"labels: {entry}") for entry in value]
            names = tuple(str(entry).removeprefix("label_") for entry in value)
            return tuple(entry for entry in found if entry), names
        if kind in ("custom", "hybrid") and isinstance(value, Mapping) and len(value) == 1:
            ((key, text),) = value.items()
            entry = self._expression(text, f"labels: {key}")
            return (entry,) if entry else (), None
        if kind in ("custom", "hybrid") and isinstance(value, Mapping) and value:
            self._error(
                f"labels: value has {len(value)} expressions, and one gives the class index; list regression "
                "targets under value_custom"
            )
            return (), None
        example = value if isinstance(value, str) else "truth"
        self._error(
            "labels: give type: simple with a list of two labels or more as value, or type: custom with one `name: "
            f"expression` that gives the class index, such as value: {{cls: {example}}}; got type: {kind} and value: "
            f"{value}"
        )
        return (), None

    def _targets(self, options: Mapping[str, Any]) -> dict[str, Expression]:
        """Return the regression targets beside the classes."""
        given = self._mapping(self._mapping(options, "labels"), "value_custom")
        found = {}
        for name, text in given.items():
            expression = self._expression(text, f"regression target {name}")
            if expression is not None:
                found[str(name)] = expression
            if name in (options.get("observers") or []) and _words(text) != name:
                self._error(
                    f"regression target {name} is {text!r}, and observers has another column of this name; rename it"
                )
        return found

    def _weights(
        self, options: Mapping[str, Any], observers: Sequence[str]
    ) -> tuple[Expression | None, Reweighting | None]:
        """Return event weights and the reweighting of the loss."""
        given, found = self._mapping(options, "weights"), dict[str, Expression | None]()
        branches, reweighting = "", None
        try:
            branches, reweighting = parse_weights(given) if given else ("", None)
        except SubquadError as error:
            self._error(f"weights: {error}")
        if branches:
            key = "weights: weight_branches" if reweighting is None else "weights: reweight_basewgt"
            found[key] = self._expression(branches, key)
        if (own := self._optional(options, "event_weights")) is not None:
            found["event_weights"] = own
        if len(found) > 1:
            self._error(f"{' and '.join(found)}: both give event weights; remove one of them")
        event_weights = next(iter(found.values()), None)
        if event_weights is not None and WEIGHT_COLUMN in observers and event_weights.text != WEIGHT_COLUMN:
            self._error(
                f"observers: {WEIGHT_COLUMN} is the name of the event weights ({event_weights.text}); rename it"
            )
        return event_weights, reweighting

    def _collections(self, options: Mapping[str, Any]) -> Collections | None:
        given = self._mapping(options, "collections")
        names = [field.name for field in fields(Collections)]
        self._known(given, names, "key", "collections: ")
        missing = [name for name in names if not isinstance(given.get(name), str)]
        if given and missing:
            self._error(
                f"collections: {', '.join(missing)}: give the names of collections and branches, such as jets: FatJet, "
                "particles: PFCands, jet_index: FatJetPFCands_jetIdx, particle_index: FatJetPFCands_pFCandsIdx"
            )
        return Collections(**given) if given and not missing and len(given) == len(names) else None


def _words(text: Any) -> str:
    """Return an expression without spaces."""
    return "".join(str(text).split())
