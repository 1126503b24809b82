"""The top tagging reference data set (Zenodo 2603256): the four-vectors of 200 particles in a table of pandas.

pandas and PyTables are not needed. Names of columns are stored as a pickle, which is searched as text, not unpickled.

Axes: n jets of a chunk, P places of particles.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from subquad.errors import SubquadError
from subquad.hep.data.padded_arrays import SequentialArray, arrays_of_rows, rows_of

SPLIT = "ttv"
"""Column with the part of each jet: 0 for training, 1 for testing, 2 for validation."""

LABEL = "is_signal_new"
_TRUTH = ("truthE", "truthPX", "truthPY", "truthPZ")
_FLOATS, _INTEGERS = "values_block_0", "values_block_1"
_NAME = re.compile(rb"(?:E|PX|PY|PZ)_\d+|truth(?:E|PX|PY|PZ)|ttv|is_signal_new")


def pandas_table(datasets: Mapping[str, Any]) -> Any | None:
    """Return the dataset with the rows of a data frame in pandas' table format, or None."""
    for name, dataset in datasets.items():
        if name.count("/") == 1 and name.endswith("/table") and _FLOATS in (dataset.dtype.names or ()):
            return dataset
    return None


def top_arrays(path: Path, table: Any) -> dict[str, SequentialArray]:
    """Return `vectors`, padded by 0, the label and, if there is one, the split.

    Args:
        path: The file, for messages.
        table: Dataset of a compound type, with the columns in blocks of one type.

    Raises:
        SubquadError: The columns are not those of the data set.
    """
    has_truth = _names(table, _FLOATS)[-1:] in ([], [_TRUTH[-1]])
    # rounded up, so that a missing column is named
    places = -((len(_TRUTH) * has_truth - _width(table, _FLOATS)) // 4)
    momenta = [f"{part}_{i}" for i in range(places) for part in ("E", "PX", "PY", "PZ")]
    _check_names(path, table, _FLOATS, [*momenta, *(_TRUTH if has_truth else ())])
    # jets without labels can be scored
    integers = [SPLIT, LABEL][-_width(table, _INTEGERS) :] if _width(table, _INTEGERS) else []
    _check_names(path, table, _INTEGERS, integers)
    blocks = [_FLOATS, *([_INTEGERS] if integers else [])]

    def make(rows: np.ndarray, begin: int) -> dict[str, np.ndarray]:
        energy_first = rows[_FLOATS][:, : 4 * places].reshape(-1, places, 4)
        return {
            "vectors": energy_first[..., [1, 2, 3, 0]].swapaxes(1, 2).astype(np.float32),
            **{name: rows[_INTEGERS][:, i] for i, name in enumerate(integers)},
        }

    jets = len(table)
    shapes = {"vectors": (jets, 4, places), **dict.fromkeys(integers, (jets,))}
    return arrays_of_rows(rows_of(table.fields(blocks)), make, shapes)


def _width(table: Any, block: str) -> int:
    """Return the number of columns in a block."""
    field = table.dtype.fields.get(block)
    return field[0].shape[0] if field and field[0].shape else 0


def _names(table: Any, block: str) -> list[str]:
    """Return the names of a block's columns; empty if they are not stored."""
    return [name.decode() for name in _NAME.findall(bytes(table.attrs.get(f"{block}_kind", b"")))]


def _check_names(path: Path, table: Any, block: str, expected: Sequence[str]) -> None:
    names, width = _names(table, block), _width(table, block)
    if width != len(expected) or names not in ([], list(expected)):
        missing = [name for name in expected if name not in names] if names else []
        what = f"no column {missing[0]}" if missing else f"{width} columns, or another order"
        raise SubquadError(f"{path}: table {table.name}, {block}: {what}; it must have {', '.join(expected[:5])}, …")
