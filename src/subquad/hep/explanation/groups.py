"""Features that belong together, by their names: JetClass's, and those that data cards usually have."""

import re
from collections.abc import Sequence

__all__ = ["GROUPS", "group_of", "grouped"]

GROUPS = ("kinematics", "types", "impact parameters")


def group_of(name: str) -> str:
    """Return the group of a particle's feature."""
    if re.search(r"(^|[^a-z])d[0z]|[sS]ignificance", name):
        return "impact parameters"
    return "types" if re.search(r"(^|_)(is[A-Z]\w+|charge)$", name) else "kinematics"


def grouped(names: Sequence[str]) -> dict[str, list[int]]:
    """Return the places of each group's features; groups without any are left out."""
    places = {group: [i for i, name in enumerate(names) if group_of(name) == group] for group in GROUPS}
    return {group: found for group, found in places.items() if found}
