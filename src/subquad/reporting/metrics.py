"""Metrics of models: how values, intervals and differences are written, and which difference counts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from subquad.reporting.page import LARGE, Table, show, signed
from subquad.reporting.statistics import CLEARLY_BETTER, CLEARLY_WORSE, NOT_CLEAR, THRESHOLDS, Difference


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What tables and sentences need to know of a metric."""

    title: str
    """Display name."""
    threshold: float = THRESHOLDS["correlation"]
    """Largest difference that does not matter, in the unit of differences."""
    better: Literal["higher", "lower"] = "higher"
    digits: int = 4
    """Decimals of a difference; more are written where it would read as 0."""
    unit: str = ""
    """Unit of a difference, with the space before it."""

    def difference(self, gap: Difference) -> str:
        """Return a difference with its interval, `+3.1 % [+1.0, +5.2]`; `equal` if both models are the same.

        Up to four decimals more than `digits` are written if the difference would read as 0 without them.
        """
        ends = (gap.value, gap.low, gap.high)
        if not any(ends):
            return "equal"
        # of an interval around 0, one limit tells how wide it is
        least = (max if gap.low <= 0 <= gap.high else min)(map(abs, ends))
        digits = next((more for more in range(self.digits, self.digits + 5) if round(least, more)), self.digits)
        value, low, high = (signed(end, digits) for end in ends)
        return f"{value}{self.unit} [{low}, {high}]"

    def verdict(self, gap: Difference | None) -> str:
        """Return what a difference says of the first of two models, one of `VERDICTS`.

        It is clear if its interval excludes 0 and it is larger than what matters; without an interval it says nothing.
        """
        if gap is None or not (abs(gap.value) > self.threshold and (gap.low > 0 or gap.high < 0)):
            return NOT_CLEAR
        return CLEARLY_BETTER if (gap.value > 0) == (self.better == "higher") else CLEARLY_WORSE

    def compare(self, first: str, second: str, gap: Difference | None) -> str:
        """Return a sentence on two models; without a difference it says that there is no interval."""
        text = "no interval" if gap is None else f"{self.difference(gap)}, 95 % interval"
        return f"{first} against {second}: {self.verdict(gap)} ({text})."


def value_text(value: float | None, interval: Sequence[float] | None = None, *, between: str = " ") -> str:
    """Return a value with its interval, `0.735 [0.720, 0.750]`, in as many digits as the interval needs.

    With a new line `between` both, the interval stands below the value in a table; a value of None is a dash.
    """
    if value is None or interval is None:
        return show(value)
    low, high = interval
    digits = 3 if abs(value) < 9.9995 else 1 if abs(value) < 99.95 else 0
    digits = next((more for more in range(digits, digits + 4) if round((high - low) / 2, more)), digits)
    value, low, high = (end + 0.0 for end in (value, low, high))
    texts = [show(end) if abs(end) >= LARGE else f"{end:,.{digits}f}".replace("-", "−") for end in (value, low, high)]
    return f"{texts[0]}{between}[{texts[1]}, {texts[2]}]"


def metrics_table(
    metrics: Mapping[str, Any],
    shown: Mapping[str, str],
    models: Mapping[str, str],
    *,
    more: Mapping[str, Mapping[str, Any]] | None = None,
    caption: str = "",
    winner: str | None = None,
) -> Table:
    """Return one row per model and one column per metric, with the intervals below the values.

    Args:
        metrics: Content of `metrics.json`: `test.<model>.<metric>`, `intervals.test.<model>.<metric>` and `undefined`,
            the metrics that the test items do not define.
        shown: Names of metrics by their keys; those that no model has are left out.
        models: Names of models by their keys.
        more: Further columns by their names: cells by the keys of models.
        winner: Key of the model whose row is marked.
    """
    test, limits = metrics["test"], metrics.get("intervals", {}).get("test", {})
    undefined = metrics.get("undefined", {})
    known = [key for key in shown if any(test[model].get(key) is not None for model in models)]

    def cell(model: str, key: str) -> str:
        value = None if key in undefined else test[model].get(key)
        return value_text(value, limits.get(model, {}).get(key), between="\n")

    columns = {shown[key]: {model: cell(model, key) for model in models} for key in known} | dict(more or {})
    rows = [[label, *(cells.get(model) for cells in columns.values())] for model, label in models.items()]
    marked = next((row for row, model in enumerate(models) if model == winner), None)
    return Table(["model", *columns], rows, caption=caption, winner=marked)


def difference_table(
    gaps: Iterable[tuple[str, Metric, Difference]], *, what: str = "difference", caption: str = ""
) -> Table:
    """Return one row per difference: its name, its value with the interval, and the verdict."""
    rows = [[name, metric.difference(gap), metric.verdict(gap)] for name, metric, gap in gaps]
    return Table([what, "95 % interval", "verdict"], rows, caption=caption)
