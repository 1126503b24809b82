"""Conversion of scikit-learn's X and sample weights to inputs of this field. Costs one pass over the rows.

Axes: n rows, T positions, L letters of a sequence, p base pairs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import issparse

from subquad.bio.data.alphabet import alphabet_of
from subquad.bio.data.covariates import fill_missing
from subquad.bio.data.dataset import Inputs, InputSchema
from subquad.bio.data.inputs import InputOptions, read_inputs
from subquad.bio.settings import ALPHABETS
from subquad.errors import SubquadError, raise_errors, unknown

__all__ = [
    "check_weights",
    "holdout_mask",
    "read_X",
    "take_rows",
]

WHERE = "X"
"""Name of the table in error messages."""
MIN_ROWS, MIN_HELD_OUT, MAX_FRACTION = 10, 20, 0.25
"""Number of rows below which none is held out; minimum number of held-out rows; maximum fraction for that minimum."""


def read_X(
    estimator: Any, X: Any, schema: InputSchema | None, *, alphabet: str, ambiguity: str
) -> tuple[Inputs, InputSchema]:
    """Return X as inputs, and the schema with which another X is read in the same way.

    Args:
        estimator: Its `n_features_in_` and `feature_names_in_` are set in a fit, and checked afterwards.
        X: Sequences; a table with one or two columns of sequences and with covariates; numbers alone; or `Inputs`.
        schema: Schema of the fit; None if this is the fit.
        alphabet: Name of the alphabet, or `auto`.
        ambiguity: `any` or `refuse`.

    Raises:
        SubquadError: Invalid letters or lengths, or text among numbers, each with its row from 1; or missing columns.
        ValueError: Numbers that are not finite, or other columns than in the fit.
    """
    if isinstance(X, Inputs):
        return _as_given(estimator, X, schema)
    frame = _frame(X, schema)
    if schema is not None and (frame is None) != (schema.source == "numbers"):
        raise SubquadError(f"{WHERE}: the model was trained on {schema.source}, and X has others")
    if frame is None:
        return _numbers(estimator, X, schema)
    if schema is None:
        sequence, partner, covariates = _sort_columns(frame)
        _note_features(estimator, frame, has_names=isinstance(X, pd.DataFrame))
    else:
        sequence, partner, covariates = _same_columns(frame, schema)
    frame = frame.rename(columns=str)
    return _sequences(frame, sequence, partner, covariates, schema, alphabet=alphabet, ambiguity=ambiguity)


def _as_given(estimator: Any, X: Inputs, schema: InputSchema | None) -> tuple[Inputs, InputSchema]:
    T, E = X.codes.shape[1], X.covariates.shape[1]
    if schema is None:
        if X.partner_chain is not None:
            raise ValueError("pairs of two chains are given as a table with two columns, not as Inputs")
        estimator.n_features_in_ = (T > 0) + (X.partner is not None) + E
        return X, InputSchema(
            source="inputs",
            partner=None if X.partner is None else "partner",
            covariates={str(k): float(np.median(X.covariates[:, k])) for k in range(E)},
            alphabet=alphabet_of(X.letters),
            is_aligned=X.is_aligned,
            length=T if X.is_aligned else None,
        )
    counts = {"letters": X.letters, "covariates": E, "partner": X.partner is not None}
    expected = {"letters": len(schema.letters), "covariates": len(schema.covariates)}
    expected |= {"partner": schema.partner is not None}
    if counts != expected or schema.length not in (None, T):
        raise ValueError(f"these inputs have {counts} and {T} positions, but the fit had {expected}, {schema.length}")
    return X, schema


def _frame(X: Any, schema: InputSchema | None) -> pd.DataFrame | None:
    """Return X as a table if it has sequences, else None."""
    if isinstance(X, pd.DataFrame):
        return X if any(_is_text(column) for _, column in X.items()) else None
    if isinstance(X, pd.Series | list | tuple) or (isinstance(X, np.ndarray) and X.ndim == 1):
        values = list(X)
        if not any(isinstance(value, str) for value in values):
            return None
        name = (None if schema is None else schema.sequence) or "sequence"
        return pd.DataFrame({name: pd.Series(values, dtype=object)})
    if isinstance(X, np.ndarray) and X.ndim == 2 and X.dtype.kind in "OUT":
        frame = pd.DataFrame(X, columns=[str(k) for k in range(X.shape[1])]).infer_objects()
        return frame if any(_is_text(column) for _, column in frame.items()) else None
    return None


def _is_text(column: Any) -> bool:
    if pd.api.types.is_numeric_dtype(column) or isinstance(column.dtype, pd.CategoricalDtype):
        return False
    known = column.dropna()
    texts = [value for value in known if isinstance(value, str)]
    # numbers read as text are numbers
    return bool(texts) and bool(np.isnan(_to_numbers(pd.Series(texts))).any())


def _numbers(estimator: Any, X: Any, schema: InputSchema | None) -> tuple[Inputs, InputSchema]:
    from sklearn.utils.validation import validate_data

    is_first = schema is None
    least = 2 if is_first else 1
    values: Any = validate_data(estimator, X, reset=is_first, dtype=np.float64, ensure_min_samples=least)
    # without sequences any alphabet will do
    codes = np.zeros((len(values), 0), dtype=np.int8)
    inputs = Inputs(codes=codes, letters=len(ALPHABETS["dna"]), covariates=values, is_aligned=True)
    if schema is not None:
        return inputs, schema
    names = [str(name) for name in getattr(estimator, "feature_names_in_", range(values.shape[1]))]
    fill = dict(zip(names, np.median(values, axis=0).tolist(), strict=True))
    return inputs, InputSchema(source="numbers", alphabet="dna", is_aligned=True, length=None, covariates=fill)


def _sort_columns(frame: pd.DataFrame) -> tuple[str, str | None, list[str]]:
    """Return the columns of the sequences, of the partner sequences, and of the covariates."""
    texts = [name for name, column in frame.items() if _is_text(column)]
    if len(texts) > 2:
        raise SubquadError(f"{WHERE}: {len(texts)} columns are text ({', '.join(map(repr, texts))}); keep one or two")
    # a guide is shorter than the context that it lies on; of two chains the longer one is the first
    texts.sort(key=lambda name: -np.mean([len(text) for text in frame[name] if isinstance(text, str)]))
    covariates = [str(name) for name in frame.columns if name not in texts]
    return str(texts[0]), str(texts[1]) if len(texts) == 2 else None, covariates


def _note_features(estimator: Any, frame: pd.DataFrame, *, has_names: bool) -> None:
    estimator.n_features_in_ = frame.shape[1]
    if has_names and all(isinstance(name, str) for name in frame.columns):
        estimator.feature_names_in_ = np.array(frame.columns, dtype=object)
    elif hasattr(estimator, "feature_names_in_"):
        del estimator.feature_names_in_


def _same_columns(frame: pd.DataFrame, schema: InputSchema) -> tuple[str, str | None, list[str]]:
    sequence, covariates = schema.sequence or "sequence", list(schema.covariates)
    needed = [sequence, *([schema.partner] if schema.partner else []), *covariates]
    names = [str(name) for name in frame.columns]
    if len(names) == 1 and len(needed) == 1:
        # one column of sequences, whatever its name is
        return names[0], schema.partner, covariates
    errors = [str(unknown("column", name, names)) for name in needed if name not in names]
    raise_errors(f"{WHERE}: the model was trained on columns that X does not have; add them", errors)
    return sequence, schema.partner, covariates


def _sequences(
    frame: pd.DataFrame,
    sequence: str,
    partner: str | None,
    covariate_columns: list[str],
    schema: InputSchema | None,
    *,
    alphabet: str,
    ambiguity: str,
) -> tuple[Inputs, InputSchema]:
    columns = (sequence,) if partner is None else (sequence, partner)
    texts = pd.DataFrame({name: _texts(frame[name]) for name in columns}, dtype=object)
    if schema is None:
        options = InputOptions(
            sequence=sequence,
            mutant=None,
            partner=partner,
            alphabet=alphabet,
            ambiguity=ambiguity,
            wild_type=None,
            offset=None,
        )
    else:
        options = InputOptions.of_schema(schema, sequence=sequence, partner=partner)
    made = read_inputs(WHERE, texts, options)
    covariates, fill = _covariates(frame, covariate_columns, None if schema is None else schema.covariates)
    # the wild type completes truncated proteins; as variants the sequences are not read
    wild_type = made.schema.wild_type if made.schema.alphabet == "protein_stop" else None
    own = schema or replace(made.schema, source="sequences", covariates=fill, wild_type=wild_type)
    return replace(made.inputs, covariates=covariates), own


def _texts(column: Any) -> list[str]:
    values = column.tolist()
    errors = [
        f"row {row + 1}: {value!r} is not a sequence" for row, value in enumerate(values) if not isinstance(value, str)
    ]
    raise_errors(f"{WHERE}: {len(errors):,} of {len(values):,} rows have no sequence; leave them out", errors)
    return values


def _to_numbers(column: Any) -> np.ndarray:
    """Return a column as numbers; NaN for other text."""
    numbers: Any = pd.to_numeric(column, errors="coerce")
    return numbers.to_numpy(dtype=np.float64)


def _covariates(
    frame: pd.DataFrame, names: Sequence[str], fill: Mapping[str, float] | None
) -> tuple[np.ndarray, Mapping[str, float]]:
    """Return the covariates `(n, E)`, and the median of the fit that replaces missing values of each column."""
    columns = [_to_numbers(frame[name]) for name in names]
    values = np.stack(columns, axis=1) if columns else np.zeros((len(frame), 0))
    wrong = np.argwhere(frame[list(names)].notna().to_numpy(dtype=bool) & ~np.isfinite(values))
    raise_errors(
        f"{WHERE}: {len(wrong):,} covariates are not finite numbers; correct or empty them",
        [f"row {row + 1}: {frame[names[k]].iloc[row]} in column {names[k]!r}" for row, k in wrong],
    )
    return fill_missing(WHERE, values, names, fill, flag="X")[:2]


def take_rows(values: Any, rows: np.ndarray) -> Any:
    """Return the given rows of a list, an array or a column."""
    if isinstance(values, list | tuple):
        return [values[row] for row in rows]
    if issparse(values):
        return values.tocsr()[rows]
    return values.iloc[rows] if hasattr(values, "iloc") else np.asarray(values)[rows]


def check_weights(values: Any, rows: int) -> np.ndarray | None:
    """Return validated sample weights, or None if there are none.

    Raises:
        ValueError: Another shape, or values that are not finite, negative, or all zero.
    """
    from sklearn.utils.validation import check_array

    if values is None:
        return None
    options: dict[str, Any] = {"ensure_2d": False, "dtype": np.float64, "input_name": "sample_weight"}
    weight: np.ndarray = check_array(values, **options)
    if weight.shape != (rows,):
        raise ValueError(f"sample_weight has the shape {weight.shape}, expected ({rows},)")
    if (weight < 0).any():
        raise ValueError("sample_weight must not be negative")
    if not weight.any():
        raise ValueError("sample_weight is zero in all rows")
    return weight


def holdout_mask(
    inputs: Inputs, strata: np.ndarray, groups: Any, *, fraction: float, random: np.random.Generator
) -> np.ndarray:
    """Return `(n,)` bool: the rows held out for model selection, stratified and in whole groups.

    Args:
        inputs: Rows with equal sequences (or equal numbers, without sequences) are one group.
        strata: `(n,)` class of each row, or zeros; a group has the class of its first row.
        groups: `(n,)` groups instead of equal sequences, or None.
        fraction: Fraction of the rows; a larger one if there are few rows, and none below ten rows or with one group.
        random: Random generator.
    """
    if groups is None:
        own = inputs.all_codes if inputs.codes.shape[1] else inputs.covariates
        flat = np.ascontiguousarray(own).view(np.uint8).reshape(len(own), -1)
        groups = flat.view(f"V{flat.shape[1]}").ravel()
    names, first, group = np.unique(np.asarray(groups), return_index=True, return_inverse=True)
    is_out = np.zeros(len(names), dtype=bool)
    if len(group) < MIN_ROWS:
        return is_out[group]
    fraction = max(fraction, min(MIN_HELD_OUT / len(group), MAX_FRACTION))
    sizes, strata = np.bincount(group), strata[first]
    for stratum in np.unique(strata):
        own = random.permutation(np.flatnonzero(strata == stratum))
        wanted = fraction * sizes[own].sum()
        # groups larger than the wanted number of rows come last
        own = own[np.argsort(sizes[own] > wanted, kind="stable")]
        reached = np.cumsum(sizes[own]) - sizes[own]
        is_out[own[: len(own) - 1][reached[: len(own) - 1] < wanted]] = True
    return is_out[group]
