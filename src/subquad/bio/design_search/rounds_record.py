"""The record of the rounds in a folder, `rounds.json`, checked when it is read."""

from pathlib import Path
from typing import Any

from subquad.bio.settings import Direction
from subquad.errors import SubquadError
from subquad.runs.records import check_inside, check_record, read_record

__all__ = ["KIND", "RECORD", "Step", "read_rounds"]

KIND, RECORD = "bio rounds", "rounds.json"

Step = dict[str, Any]
"""Entry of a round in `rounds.json`."""

TYPES = {"source": str, "direction": Direction | None, "target": str | None, "rounds": list[dict]}
OF_ROUNDS = {"fingerprints": list[str], "settings": dict, "is_finished": bool}
OF_MEASUREMENTS = {"run": str, "table": str}
"""Paths in the folder; a round that read measurements has both."""
OPTIONAL = {
    **{"new_measurements": int, "target": str, "best_new": float | None, "inside_interval": float | None},
    **{"is_replacing": bool, "proposed": int, "best_prediction": float | None},
}
"""Entries that are on the page of the rounds."""
REMEDY = "choose another folder with --out"


def read_rounds(out: Path) -> dict[str, Any]:
    """Return the record of the rounds in a folder.

    Args:
        out: The folder, which is not empty.

    Raises:
        SubquadError: The folder holds no rounds, or their record is damaged or names files outside the folder.
    """
    path = out / RECORD
    record = read_record(path, remedy=REMEDY, subquad=dict) if path.is_file() else {"subquad": {}}
    if record["subquad"].get("kind") != KIND:
        raise SubquadError(f"{out}: not empty, and holds no rounds; {REMEDY}")
    check_record(record, path, remedy=REMEDY, **TYPES)
    for number, step in enumerate(record["rounds"], start=1):
        place = f"{path}: round {number}"
        paths = OF_MEASUREMENTS if OF_MEASUREMENTS.keys() & step else {}
        others = {name: kind for name, kind in OPTIONAL.items() if name in step}
        check_record(step, place, remedy=REMEDY, **OF_ROUNDS, **paths, **others)
        acquisition = {"acquisition": str} if "proposed" in step else {}
        check_record(step["settings"], f"{place}: settings", remedy=REMEDY, propose=int | None, **acquisition)
        for name in paths:
            check_inside(out, step, name, place, remedy=REMEDY)
    return record
