"""Weaver's data card: a YAML file that defines inputs, labels, selection and weights of jets.

Cards of weaver work unchanged, with one collection of inputs or several. A card is checked completely before a file of
jets is opened.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from subquad.errors import SubquadError, raise_errors
from subquad.hep.data.card_parser import LARGEST_INTEGER, WEIGHT_COLUMN, CardParser
from subquad.hep.data.event_collections import Collections
from subquad.hep.data.expressions import Expression
from subquad.hep.data.input_collections import InputCollection, Variable
from subquad.hep.settings import Reweighting
from subquad.runs.markup import defined_twice, parse_yaml

__all__ = [
    "LAYOUT_PREFIX",
    "WEIGHT_COLUMN",
    "Card",
    "Variable",
    "card_like",
    "card_of",
    "read_card",
    "standardized_card",
]

LAYOUT_PREFIX = "layout "
"""Beginning of the names of the cards of public layouts, which have no file."""
LONGEST_BRANCH = 1000
"""Largest number of characters of a name that `branch_magic` makes; repeated doubling would fill the memory."""
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
    def has_layout_names(self) -> bool:
        """Whether it is the card of a public layout, whose variables may have the names of branches."""
        return self.name.startswith(LAYOUT_PREFIX)

    @property
    def has_automatic(self) -> bool:
        """Whether some standardization has to be computed from the training jets."""
        return any(variable.is_automatic for variable in self.features)

    def as_config(self) -> dict[str, Any]:
        """Return name and options of the card as JSON, from which `card_of` makes it again."""
        return {"name": self.name, "options": _to_json(self.options)}

    def branch(self, column: str) -> str:
        """Return the name in the files of a column.

        Raises:
            SubquadError: `branch_magic` makes a name of more than 1,000 characters.
        """
        name = column
        for part, replacement in self.branch_magic.items():
            count = name.count(part)
            if count and len(name) + count * (len(replacement) - len(part)) > LONGEST_BRANCH:
                raise SubquadError(
                    f"{self.name}: branch_magic: {part[:60]!r}: {replacement[:60]!r}: makes a name of more than "
                    f"{LONGEST_BRANCH:,} characters of {column[:60]!r}; correct or remove this entry"
                )
            name = name.replace(part, replacement)
        return name

    def per_jet(self, *, is_training: bool) -> tuple[str, ...]:
        """Return the columns with one number per jet, besides the labels."""
        names = list(self.observers)
        if is_training and self.reweighting is not None:
            names += [*self.reweighting.bins, *self.reweighting.classes]
        return tuple(dict.fromkeys(names))

    def per_particle(self) -> tuple[str, ...]:
        """Return the columns with one number per particle, without masks."""
        return tuple(dict.fromkeys(name for one in self.inputs for name in one.columns))

    def masks(self) -> tuple[str, ...]:
        """Return the columns that are 0 for particles to drop."""
        return tuple(one.mask for one in self.inputs if one.mask is not None)

    def branches(self, *, is_training: bool, has_labels: bool = True, has_weights: bool = True) -> dict[str, str]:
        """Return the columns that a file must have, each with the key of the card that asks for it."""
        columns = self._columns(is_training=is_training, has_labels=has_labels, has_weights=has_weights)
        return {name: place for name, place in columns.items() if name not in self.new_variables}

    def used_variables(self, *, is_training: bool, has_labels: bool, has_weights: bool) -> set[str]:
        """Return the new variables that are needed."""
        columns = self._columns(is_training=is_training, has_labels=has_labels, has_weights=has_weights)
        return columns.keys() & self.new_variables.keys()

    def input_branches(self) -> set[str]:
        """Return the branches that the inputs of the network are computed from."""
        asked, found = [*self.per_particle(), *self.masks()], set[str]()
        while asked:
            name = asked.pop()
            if name not in found:
                found.add(name)
                asked += self.new_variables[name].names if name in self.new_variables else ()
        return found - self.new_variables.keys()

    def label_origins(self) -> list[str]:
        """Return the branches that labels are computed from, without labels that are branches themselves."""
        own = {name for label in self.labels for name in label.names if label.text == name}
        asked, found = sorted({name for label in self.labels for name in label.names}), dict[str, None]()
        done = set[str]()
        while asked:
            name = asked.pop(0)
            if name in self.new_variables and name not in done:
                done.add(name)
                asked += sorted(self.new_variables[name].names)
            elif name not in self.new_variables and name not in own:
                found[name] = None
        return list(found)

    def azimuths(self) -> dict[str, tuple[str, str | None]]:
        """Return the columns that must be angles in radians, each with the key that takes it as one, and its mask."""
        found = {
            one.points[1].name: (f"{self.name}: inputs: {one.prefix}_points", one.mask)
            for one in self.inputs
            if one.points
        }
        asked, done = [(vector.name, one.mask) for one in self.inputs for vector in one.vectors], set[str]()
        while asked:
            name, mask = asked.pop(0)
            if name in self.new_variables and name not in done:
                done.add(name)
                expression = self.new_variables[name]
                asked += [(part, mask) for part in sorted(expression.names)]
                for angle in sorted(expression.angles()):
                    found.setdefault(angle, (f"{self.name}: new_variables: {name}", mask))
        return found

    def differences(self, name: str) -> set[str]:
        """Return the columns that are a term of a difference in the definition of a column."""
        asked, done, found = [name], set[str](), set[str]()
        while asked:
            own = asked.pop()
            if own in self.new_variables and own not in done:
                done.add(own)
                found |= self.new_variables[own].differences()
                asked += self.new_variables[own].names
        return found

    def repaired_branches(self, *, is_training: bool, has_labels: bool, has_weights: bool) -> set[str]:
        """Return the branches that stand in `nan_to_num` wherever they are used, and may be NaN or infinite."""
        options = {"is_training": is_training, "has_labels": has_labels, "has_weights": has_weights}
        used = (self.new_variables[name] for name in self.used_variables(**options))
        places = [expression.repaired() for expression in (*self._expressions(**options), *used)]
        direct = {*self.per_particle(), *self.masks(), *self.per_jet(is_training=is_training)}
        return {name for inside, _ in places for name in inside}.difference(direct, *(bare for _, bare in places))

    def _expressions(self, *, is_training: bool, has_labels: bool, has_weights: bool) -> list[Expression]:
        """Return the expressions that are no new variables."""
        found = [*(self.labels if has_labels else ()), self.selection if is_training else self.test_selection]
        found += [self.event_weights] if has_weights else []
        found += self.targets.values() if has_labels else []
        return [expression for expression in found if expression is not None]

    def _columns(self, *, is_training: bool, has_labels: bool, has_weights: bool) -> dict[str, str]:
        """Return branches and new variables, each with the key of the card that asks for it."""
        asked: dict[str, str] = dict.fromkeys((*self.per_particle(), *self.masks()), "inputs")
        asked |= {
            name: "observers" if name in self.observers else "weights" for name in self.per_jet(is_training=is_training)
        }
        for expression in self._expressions(is_training=is_training, has_labels=has_labels, has_weights=has_weights):
            asked |= {name: expression.place.split(": ", 1)[-1] for name in expression.names if name not in asked}
        found: dict[str, str] = {}
        while asked:
            name, place = asked.popitem()
            if name in found or name in self.file_magic:
                continue
            found[name] = place
            if name in self.new_variables:
                asked |= dict.fromkeys(self.new_variables[name].names, f"new_variables: {name}")
        return found


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
        SubquadError: There is no such file, it is no YAML, or the card cannot be used; all errors are listed.
    """
    path = Path(path)
    # a device or a pipe may have no end
    if path.exists() and not path.is_file() and not path.is_dir():
        raise SubquadError(f"{path}: is a pipe or a device; --card must be a regular file")
    try:
        text = path.read_text(encoding="utf-8")
        options, twice = parse_yaml(text), defined_twice(text)
    except FileNotFoundError:
        raise SubquadError(f"{path}: no such file (--card)") from None
    except IsADirectoryError:
        raise SubquadError(f"{path}: a folder; give the file with the card (--card)") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SubquadError(f"{path}: not a YAML file ({' '.join(str(error).split())})") from error
    if not isinstance(options, dict):
        raise SubquadError(f"{path}: not a data card; it must have `inputs` and `labels`")
    messages = [*twice, *_large_integers(options)]
    raise_errors(f"{path}: this data card cannot be used:", [f"{path.name}: {message}" for message in messages])
    # so that no file passes for a public layout
    return card_of(options, f"./{path.name}" if path.name.startswith(LAYOUT_PREFIX) else path.name)


def card_of(options: Mapping[str, Any], name: str) -> Card:
    """Return the card of the content of a file or of a saved model.

    Args:
        options: As YAML or JSON.
        name: Name of the card, for messages.

    Raises:
        SubquadError: The card cannot be used; all errors are listed.
    """
    parser = CardParser(name)
    fields = parser.parse(_from_json(options))
    raise_errors(f"{name}: this data card cannot be used:", parser.errors)
    card = Card(**fields)
    for column in {**card.branches(is_training=True), **card.branches(is_training=False)}:
        card.branch(column)
    return card


def _large_integers(value: Any, place: str = "") -> Iterator[str]:
    """Yield a message for each whole number of a card that is too large."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            # Python does not write integers of thousands of digits
            yield from _large_integers(key, f"{place}name of a key: ")
            yield from _large_integers(entry, f"{place}{_written(key)}: ")
    elif isinstance(value, list | tuple):
        for number, entry in enumerate(value, start=1):
            yield from _large_integers(entry, f"{place}entry {number}: ")
    elif isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        yield (
            f"{place}{_written(value)} is beyond the largest whole number of a card, {LARGEST_INTEGER}; correct it, "
            "or write a number with a decimal point, such as 1.0e+20"
        )


def _written(value: Any) -> str:
    """Return a name or number as text; of a very large integer the first hex digits."""
    return f"{hex(value)[:20]}…" if isinstance(value, int) and abs(value) >= 10**30 else str(value)


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
