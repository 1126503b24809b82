"""Stored rows of an evaluation: damaged files are errors of the user."""

import json

import pytest

from subquad.errors import SubquadError
from subquad.llm.evaluation.store import MeasurementStore


@pytest.mark.parametrize("content", [[], {}, {"conditions": {"text": "x"}}, {"conditions": {"text": "x"}, "rows": 7}])
def test_a_damaged_file_of_rows_is_refused(tmp_path, content):
    path = tmp_path / "measurements" / "a.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content), encoding="utf-8")
    store = MeasurementStore(tmp_path, quiet=True)
    with pytest.raises(SubquadError, match=r"a.json: cannot be read as rows of an evaluation"):
        store.rows("a", {"text": "x"}, 3, lambda start, stop: [{}] * (stop - start), step=2)


def test_what_rows_need_is_prepared_once_and_only_if_rows_are_missing(tmp_path):
    store, opened = MeasurementStore(tmp_path, quiet=True), []

    def rows(total):
        return store.rows("a", {}, total, lambda start, stop: [{}], step=1, prepare=lambda: opened.append(total))

    assert len(rows(3)) == 3
    assert len(rows(2)) == 2
    assert len(rows(4)) == 4
    assert opened == [3, 4]
