"""Settings: the type of a field is its check, its flag and its help."""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import pytest

from subquad.errors import SubquadError
from subquad.runs.options import (
    Count,
    Distinct,
    Fraction,
    Ge,
    Input,
    Le,
    MinLen,
    MoreTraining,
    Positive,
    Seed,
    Settings,
    Training,
    takes_settings,
)


@dataclass(frozen=True, kw_only=True)
class Example(Settings):
    epochs: Training[Count | None] = None
    rate: MoreTraining[Positive | Literal["auto"]] = "auto"
    fraction: Input[Fraction] = 0.5
    degree: Input[Annotated[int, Ge(2), Le(5)]] = 3
    seeds: Input[Annotated[tuple[Seed, ...], MinLen(1), Distinct()]] = (0,)
    sides: Input[tuple[int, int] | None] = None
    name: Input[str | None] = None


def test_values_of_the_types_are_kept_and_lists_become_tuples():
    settings = Example(epochs=np.int64(7), rate=3, fraction=0.25, seeds=[1, 2], sides=[3, 4], name="x")
    assert (settings.epochs, settings.rate, settings.seeds, settings.sides) == (7, 3, (1, 2), (3, 4))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "--epochs must be at least 1, got 0"),
        ({"epochs": 1.5}, "--epochs must be an integer, got 1.5"),
        ({"epochs": True}, "--epochs must be an integer, got True"),
        ({"rate": 0.0}, "--rate must be above 0, got 0.0"),
        ({"rate": float("nan")}, "--rate must be a number, got nan"),
        ({"fraction": 1}, "--fraction must be above 0 and below 1, got 1"),
        ({"degree": 7}, "--degree must be at least 2 and at most 5, got 7"),
        ({"seeds": ()}, "--seeds must be a list of at least 1"),
        ({"seeds": (3, 3)}, "--seeds needs different values, got 3 3"),
        ({"seeds": (2**32,)}, "--seeds must be at least 0 and below 4294967296"),
        ({"seeds": 3}, "--seeds takes several values"),
        ({"sides": (1, 2, 3)}, "--sides takes 2 values, got 3"),
        ({"name": 3}, "--name must be text, got 3"),
    ],
)
def test_other_values_are_refused_by_the_name_of_the_flag(values, message):
    with pytest.raises(SubquadError, match=message):
        Example(**values)


def test_an_estimator_takes_fields_of_settings_as_its_parameters():
    from sklearn.base import BaseEstimator, clone

    @takes_settings(Example, "epochs", "fraction", random_state=None)
    class Estimator(BaseEstimator):
        pass

    model = clone(Estimator(epochs=7).set_params(fraction=0.25))
    assert model.get_params() == {"epochs": 7, "fraction": 0.25, "random_state": None}
    with pytest.raises(TypeError, match="degree"):
        Estimator(degree=3)
