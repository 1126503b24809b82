"""Equality of what two runs of one command wrote: the same files, weights bitwise, metrics without times.

The weights of each finished run in them must have the SHA-256 in its `config.json`.
"""

import csv
import json
import re

import uproot
from safetensors.numpy import load_file

from subquad.errors import SubquadError
from subquad.runs.folder import CONFIG, METRICS, WEIGHTS, check_weights

TIMES = {
    "seconds",
    "task_seconds",
    "jets_per_second",
    "memory_mb",
    "core_hours",
    "date",
    "machine",
    "cpu_seconds",
}
"""Keys of values that differ between two runs."""


def differences(first, second):
    """Return what differs between the files and folders of two folders, as lines; none: they are equal."""
    mine, other = _entries(first), _entries(second)
    lines = [f"only in {first if name in mine else second}: {name}" for name in sorted(mine.keys() ^ other.keys())]
    common = sorted(name for name in mine.keys() & other.keys() if not name.endswith("/"))
    lines += [f"{name} differs" for name in common if _content(mine[name], first) != _content(other[name], second)]
    return lines + _damage(first) + _damage(second)


def _damage(output):
    """Return the finished runs in a folder whose weights have another SHA-256 than in their config, as lines."""
    lines = []
    for path in sorted(output.rglob(METRICS)):
        folder = path.parent
        if (folder / WEIGHTS).is_file() and "subquad" in json.loads((folder / CONFIG).read_text(encoding="utf-8")):
            try:
                check_weights(folder)
            except SubquadError as error:
                lines.append(str(error))
    return lines


def _entries(output):
    """Return all files and folders, also empty ones, by name; names of folders end in a slash."""
    return {f"{path.relative_to(output)}{'/' * path.is_dir()}": path for path in output.rglob("*")}


def _content(path, output):
    """Return the content of a file as a value that can be compared."""
    match path.suffix:
        case ".safetensors":
            return {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in load_file(path).items()}
        case ".root":
            with uproot.open(path) as file:
                return {key: file[key].arrays().to_list() for key in file.keys(filter_classname="TTree")}
        case ".json" | ".jsonl":
            # an output may name itself
            text = path.read_text(encoding="utf-8").replace(str(output), "")
            return [_timeless(json.loads(one)) for one in ([text] if path.suffix == ".json" else text.splitlines())]
        case ".csv":
            with path.open(newline="", encoding="utf-8") as file:
                return [_timeless(row) for row in csv.DictReader(file)]
        case ".md":
            # some numbers are times
            return re.sub(r"\d[\d.,]*", "0", path.read_text(encoding="utf-8").replace(str(output), ""))
        case ".html" | ".log":
            # pages that show times
            return path.stat().st_size > 0
        case _:
            return path.read_bytes()


def _timeless(value):
    """Return JSON values without times."""
    if isinstance(value, dict):
        return {key: _timeless(entry) for key, entry in value.items() if key not in TIMES}
    return [_timeless(entry) for entry in value] if isinstance(value, list) else value
