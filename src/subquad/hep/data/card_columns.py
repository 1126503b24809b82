"""Columns of a chunk of a file by a data card, whose expressions are evaluated when they are used."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from subquad.errors import SubquadError, require
from subquad.hep.data.card import Card
from subquad.hep.data.expressions import Expression
from subquad.runs.damage import damage_as_error

__all__ = ["CardColumns"]


class CardColumns(Mapping[str, Any]):
    """Columns of a chunk of a file and the new variables of a card, each of which is computed on first use."""

    def __init__(self, card: Card, given: Mapping[str, Any], count: int) -> None:
        self._card, self._known, self._count = card, dict(given), count

    def __getitem__(self, name: str) -> Any:
        if name not in self._known:
            self._known[name] = self.evaluate(self._card.new_variables[name])
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self._known, **self._card.new_variables})

    def __len__(self) -> int:
        return len({**self._known, **self._card.new_variables})

    def evaluate(self, expression: Expression) -> Any:
        """Return the values of an expression; a single number is repeated for all jets."""
        ak = require("awkward", extra="hep")
        value = expression(self)
        if isinstance(value, bool | int | float | np.generic):
            value = np.full(self._count, value)
        with damage_as_error(f"{expression.place}: {expression.text!r} gives no numbers"):
            value = ak.Array(value)
        if value.ndim and len(value) != self._count:
            raise SubquadError(
                f"{expression.place}: {expression.text!r} gives {len(value)} values for {self._count} jets; sums over "
                "the particles of a jet need axis=1"
            )
        return ak.from_regular(value, axis=1) if value.ndim == 2 else value
