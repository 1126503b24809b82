"""What a user can set for a run over many tasks. Imports the standard library only, to start fast."""

from dataclasses import dataclass

from subquad.bio.settings import PRESETS, validate_presets
from subquad.errors import SubquadError

__all__ = ["BenchSettings"]


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """Which tasks are run, with what budget, and on how many cores or machines."""

    only: str | None = None
    """Tasks to run, by id, with commas between; `*` stands for any letters: `dms/*,pep/amp`."""
    kinds: str | None = None
    """Kinds of target to run, with commas between: `regression,binary`."""
    jobs: int = 2
    """Tasks at a time, one thread each, largest first."""
    ray: bool = False
    """Spread the tasks with Ray: over the cluster that RAY_ADDRESS names, else over `jobs` cores of this machine."""
    rows: int = 20_000
    """Most training rows of a task; more are drawn at random from."""
    tokens: int = 2_000_000
    """Letters that the training of one net goes over."""
    boosting_iterations: int | None = None
    """Most trees of the boosting; by default what keeps it to about a minute."""
    seconds: float | None = None
    """Longest time of one task; then it is ended and counts as failed. Started again, it goes on."""
    seeds: str = "0"
    """Seeds that each task is run with, with commas between: `0,1,2`."""
    presets: str = "auto,paper"
    """Nets to fit, with commas between; the first is the one that the rivals and the other nets are held against."""
    train_on: str | None = None
    """For tasks without training rows, the task whose rows they take, with commas between; `*` on the left stands for
    any letters: `idr/caid2_disorder_*=idr/disorder`."""

    def __post_init__(self) -> None:
        least = {"jobs": 1, "rows": 10, "tokens": 1, "boosting_iterations": 1}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise SubquadError(f"--{name.replace('_', '-')} must be at least {bound}, got {value}")
        if self.seconds is not None and self.seconds <= 0:
            raise SubquadError(f"--seconds must be above 0, got {self.seconds}")
        # asked once here, so that what is misspelt is said before anything is read
        _ = self.seed_numbers, self.preset_names, self.train_pairs

    @property
    def seed_numbers(self) -> tuple[int, ...]:
        """The seeds as numbers."""
        words = _words(self.seeds)
        if not words or not all(word.isdecimal() for word in words) or len(set(words)) < len(words):
            raise SubquadError(
                f"--seeds takes different whole numbers with commas between, such as 0,1,2; got {self.seeds!r}"
            )
        return tuple(int(word) for word in words)

    @property
    def preset_names(self) -> tuple[str, ...]:
        """The presets by name."""
        words = _words(self.presets)
        validate_presets(words)
        if not words or len(set(words)) < len(words):
            raise SubquadError(
                f"--presets takes different names with commas between ({','.join(PRESETS)}); got {self.presets!r}"
            )
        return words

    @property
    def train_pairs(self) -> tuple[tuple[str, str], ...]:
        """Pattern of the tasks without training rows, and id of the task whose rows they take."""
        pairs = [tuple(part.strip() for part in word.split("=")) for word in _words(self.train_on)]
        for pair in pairs:
            if len(pair) != 2 or not all(pair):
                raise SubquadError(f"--train-on takes TASK=TASK with commas between, got {self.train_on!r}")
        return tuple((pair[0], pair[1]) for pair in pairs)

    @property
    def patterns(self) -> tuple[str, ...]:
        """Of the ids; none: all tasks."""
        return _words(self.only)

    @property
    def kind_names(self) -> tuple[str, ...]:
        """The kinds by name; none: all."""
        return _words(self.kinds)


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())
