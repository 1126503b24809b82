"""What `subquad hep simulate` can be told. Imports the standard library only, so that the command line starts fast."""

from dataclasses import dataclass

from subquad.errors import SubquadError, unknown

__all__ = ["CLASSES", "SimulateSettings"]

CLASSES = (
    "ZJetsToNuNu",
    "HToBB",
    "HToCC",
    "HToGG",
    "HToWW4Q",
    "HToWW2Q1L",
    "ZToQQ",
    "WToQQ",
    "TTBar",
    "TTBarLep",
)
"""The ten classes of JetClass by the names of its files, in the order of its labels."""


@dataclass(frozen=True, kw_only=True)
class SimulateSettings:
    """How many jets of which classes, in which files, on how many cores."""

    jets_per_class: int = 1000
    """Jets of each class."""
    jets_per_file: int = 1000
    """Jets in one file; each file is one job of one core."""
    classes: tuple[str, ...] = CLASSES
    """The classes, by the names of JetClass's files."""
    workers: int = 0
    """Processes at a time; 0: as many as there are cores. The jets do not depend on it."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        for name in ("jets_per_class", "jets_per_file"):
            if getattr(self, name) < 1:
                raise SubquadError(f"{name} is {getattr(self, name)}; give 1 or more")
        if self.workers < 0:
            raise SubquadError(f"workers is {self.workers}; give 0 (as many as there are cores) or more")
        if not self.classes:
            raise SubquadError(f"classes is empty; there are: {', '.join(CLASSES)}")
        for name in self.classes:
            if name not in CLASSES:
                raise unknown("class", name, CLASSES)
        if len(set(self.classes)) < len(self.classes):
            raise SubquadError(f"classes names one twice: {', '.join(self.classes)}")
