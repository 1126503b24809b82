"""Which design goes into which well. Costs nothing.

Wells are filled by rows (A1, A2, … B1); controls are spread over the plate, so that a gradient shows in them.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from subquad.errors import SubquadError

__all__ = ["SHAPES", "plate_map"]

SHAPES = {96: (8, 12), 384: (16, 24)}
"""Rows and columns of a plate."""


def plate_map(names: Sequence[str], *, wells: int = 96, controls: int = 4, control: str = "wild type") -> pd.DataFrame:
    """Return one row a filled well: `plate` (from 1), `well` (A01), `row`, `column` (from 1), `name`, `is_control`.

    Args:
        names: of the designs, in the order they are filled in.
        wells: 96 or 384.
        controls: wells of each plate that hold the control.
        control: its name.

    Raises:
        SubquadError: there is no such plate, or no well is left for designs.
    """
    if wells not in SHAPES:
        raise SubquadError(f"plates have {' or '.join(map(str, SHAPES))} wells, got {wells}")
    if not 0 <= controls < wells:
        raise SubquadError(f"controls must be from 0 to {wells - 1} for plates of {wells} wells, got {controls}")
    rows, room = [], wells - controls
    for plate, begin in enumerate(range(0, len(names), room), start=1):
        own = list(names[begin : begin + room])
        used = len(own) + controls
        # one control alone stands in the middle
        ends = (0, used - 1) if controls > 1 else (used // 2, used // 2)
        places = set(np.linspace(*ends, controls).round().astype(int).tolist())
        designs = iter(own)
        for place in range(used):
            row, column = divmod(place, SHAPES[wells][1])
            is_control = place in places
            rows.append(
                {
                    "plate": plate,
                    "well": f"{chr(ord('A') + row)}{column + 1:02d}",
                    "row": row + 1,
                    "column": column + 1,
                    "name": control if is_control else next(designs),
                    "is_control": is_control,
                }
            )
    columns = ["plate", "well", "row", "column", "name", "is_control"]
    return pd.DataFrame(rows, columns=columns)
