"""The reader of training histories."""

import pytest

from subquad.errors import SubquadError
from subquad.runs.history import read_history


def test_entries_are_returned_in_order_and_a_run_without_history_has_none(tmp_path):
    assert read_history(tmp_path) == []
    (tmp_path / "history.jsonl").write_text('{"part": "fit", "step": 1}\n{"part": "fit", "step": 2}\n')
    assert [entry["step"] for entry in read_history(tmp_path)] == [1, 2]


def test_a_damaged_line_is_one_sentence(tmp_path):
    for line in (b'{"step": ', b'{"step": "\xff"}', b"[" * 100_000, b"9" * 5_000):
        (tmp_path / "history.jsonl").write_bytes(b'{"part": "fit", "step": 1}\n' + line + b"\n")
        with pytest.raises(SubquadError, match=r"history\.jsonl: cannot be read as a training history"):
            read_history(tmp_path)
