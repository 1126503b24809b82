"""Stored rows of an evaluation: damaged files are errors of the user."""

import json

import pytest

from subquad.errors import SubquadError
from subquad.llm.evaluation.store import MeasurementStore


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "must be an object with conditions (an object), rows (a list of objects), and is []"),
        ({}, "conditions is missing (an object), rows is missing (a list of objects)"),
        ({"conditions": {"text": "x"}}, "rows is missing (a list of objects)"),
        ({"conditions": {"text": "x"}, "rows": 7}, "rows must be a list of objects, got 7"),
        ({"conditions": {"text": "x"}, "rows": [{}, 7]}, "rows[1] must be an object, got 7"),
    ],
)
def test_a_damaged_file_of_rows_is_refused_with_its_key_and_remedy(tmp_path, content, message):
    path = tmp_path / "measurements" / "a.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content), encoding="utf-8")
    # by which the folder is recognised
    path.with_name("b.json").write_text(json.dumps({"conditions": {}, "rows": []}), encoding="utf-8")
    store = MeasurementStore(tmp_path, quiet=True)
    with pytest.raises(SubquadError) as error:
        store.rows("a", {"text": "x"}, 3, lambda start, stop: [{}] * (stop - start), step=2)
    assert str(error.value).startswith(f"{path}: {message}; ")
    assert str(error.value).endswith("delete it, and its rows are measured again")


def test_what_rows_need_is_prepared_once_and_only_if_rows_are_missing(tmp_path):
    store, opened = MeasurementStore(tmp_path, quiet=True), []

    def rows(total):
        return store.rows("a", {}, total, lambda start, stop: [{}], step=1, prepare=opened.append)

    assert len(rows(3)) == 3
    assert len(rows(2)) == 2
    assert len(rows(4)) == 4
    assert opened == [0, 3]
