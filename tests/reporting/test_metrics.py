"""How metrics, their intervals and their differences are written."""

import math

import pytest

from subquad.reporting.metrics import Metric, metrics_table, value_text
from subquad.reporting.statistics import Difference

HIGHER, LOWER = Metric(title="Spearman", threshold=0.002), Metric(title="RMSE", threshold=0.002, better="lower")


@pytest.mark.parametrize(
    ("gap", "verdict"),
    [
        ((0.01, 0.005, 0.02), "clearly better"),
        ((-0.01, -0.02, -0.005), "clearly worse"),
        # the interval excludes 0, but the difference is smaller than what matters
        ((-0.00001, -0.00002, -0.000001), "no clear difference"),
        ((-0.0019, -0.0021, -0.0017), "no clear difference"),
        ((0.01, -0.005, 0.02), "no clear difference"),
        ((math.nan, math.nan, math.nan), "no clear difference"),
    ],
)
def test_a_difference_is_clear_if_it_matters_and_its_interval_excludes_zero(gap, verdict):
    assert HIGHER.verdict(Difference(*gap)) == verdict
    mirrored = {"clearly better": "clearly worse", "clearly worse": "clearly better"}
    assert LOWER.verdict(Difference(*gap)) == mirrored.get(verdict, verdict)


def test_no_clear_difference_reads_as_zero():
    for value in (0.0021, 0.01, 3.0):
        text = HIGHER.compare("a", "b", Difference(value, value - 1e-6, value + 1e-6))
        assert text.startswith("a against b: clearly better (+")
        assert "+0.0000" not in text
    assert HIGHER.compare("a", "b", None) == "a against b: no clear difference (no interval)."
    assert HIGHER.difference(Difference(0.0, 0.0, 0.0)) == "equal"


def test_a_value_has_as_many_digits_as_its_interval_needs():
    assert value_text(0.7349, (0.72, 0.75)) == "0.735 [0.720, 0.750]"
    assert value_text(0.7349, (0.73489, 0.73492)) == "0.73490 [0.73489, 0.73492]"
    assert value_text(-12.345, (-13.0, -11.0)) == "−12.3 [−13.0, −11.0]"
    assert value_text(None) == "–"


def test_a_table_of_metrics_leaves_out_what_no_model_has_and_marks_the_winner():
    metrics = {
        "test": {"a": {"r": 0.5, "mse": None}, "b": {"r": 0.7, "u": 3.0}},
        "intervals": {"test": {"a": {"r": [0.4, 0.6]}}},
        "undefined": {"u": "one class"},
    }
    names = {"r": "Spearman", "mse": "MSE", "u": "AUROC"}
    table = metrics_table(metrics, names, {"a": "A", "b": "B"}, more={"weight": {"b": 1.0}}, winner="b")
    assert table.header == ["model", "Spearman", "AUROC", "weight"]
    assert table.rows == [["A", "0.500\n[0.400, 0.600]", "–", None], ["B", "0.700", "–", 1.0]]
    assert table.winner == 1
    assert metrics_table(metrics, names, {"a": "A"}).winner is None
