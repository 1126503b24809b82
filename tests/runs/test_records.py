"""Records are checked when they are read: an error names file, key and expected type, and what to do."""

import json
from typing import Literal

import pytest

from subquad.errors import SubquadError
from subquad.runs.records import check_inside, check_record, read_record

REMEDY = "delete it"
DAMAGED = "the file is damaged or was written by another tool; delete it"


def read(path, content, **types):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return read_record(path, remedy=REMEDY, **types)


def test_a_whole_record_is_returned_with_its_other_entries(tmp_path):
    types = {"a": str, "b": int | None, "c": list[str], "d": Literal["x", "y"] | None, "e": float, "f": bool, "g": dict}
    content = {"a": "1", "b": None, "c": [], "d": "y", "e": 3, "f": False, "g": {}, "other": [1]}
    assert read(tmp_path / "a.json", content, **types) == content


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        ({}, str, "key is missing (a string)"),
        ({"key": None}, str, "key must be a string, got null"),
        ({"key": "1"}, int | None, 'key must be an integer or null, got "1"'),
        ({"key": True}, int, "key must be an integer, got true"),
        ({"key": True}, float, "key must be a number, got true"),
        ({"key": 1}, bool, "key must be true or false, got 1"),
        ({"key": 1.5}, int, "key must be an integer, got 1.5"),
        ({"key": {}}, list[dict], "key must be a list of objects, got {}"),
        ({"key": ["a", None, 3]}, list[str], "key[1] must be a string, got null"),
        ({}, list[float | None], "key is missing (a list of numbers or null)"),
        ({"key": [1, None, "a"]}, list[float | None], 'key[2] must be a number or null, got "a"'),
        ({"key": "z"}, Literal["x", "y"], 'key must be "x" or "y", got "z"'),
        ({"key": "ä" * 100}, dict, 'key must be an object, got "' + "\\u00e4" * 9 + "\\u0 …"),
        ([1], dict, "must be an object with key (an object), and is [1]"),
        (None, list[str], "must be an object with key (a list of strings), and is null"),
    ],
)
def test_a_wrong_entry_is_refused_with_its_file_key_and_expected_type(tmp_path, content, kind, message):
    with pytest.raises(SubquadError) as error:
        read(tmp_path / "a.json", content, key=kind)
    assert str(error.value) == f"{tmp_path / 'a.json'}: {message}; {DAMAGED}"


def test_all_wrong_entries_are_named_at_once(tmp_path):
    with pytest.raises(SubquadError) as error:
        read(tmp_path / "a.json", {"b": 1, "c": 2}, a=str, b=int, c=list)
    assert str(error.value) == f"{tmp_path / 'a.json'}: a is missing (a string), c must be a list, got 2; {DAMAGED}"


@pytest.mark.parametrize("content", ["", "{", '{"key": NULL}', "[" * 100_000])
def test_a_file_that_is_not_json_is_refused_with_the_remedy(tmp_path, content):
    with pytest.raises(SubquadError) as error:
        read(tmp_path / "a.json", content, key=str)
    assert str(error.value).startswith(f"{tmp_path / 'a.json'}: not JSON (")
    assert str(error.value).endswith("; delete it")


def test_a_missing_file_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(SubquadError) as error:
        read_record(tmp_path / "a.json", remedy=REMEDY, key=str)
    assert str(error.value) == f"{tmp_path / 'a.json'}: no such file; delete it"


def test_an_object_in_a_record_is_checked_with_its_place():
    with pytest.raises(SubquadError) as error:
        check_record({"key": 1}, "a.json: entry 3", remedy=REMEDY, key=str)
    assert str(error.value) == f"a.json: entry 3: key must be a string, got 1; {DAMAGED}"


@pytest.mark.parametrize("given", ["b/c", "b/../c", "", "."])
def test_a_path_in_the_folder_is_returned(tmp_path, given):
    assert check_inside(tmp_path, {"key": given}, "key", "a.json", remedy=REMEDY) == tmp_path / given


@pytest.mark.parametrize("given", ["..", "../a", "b/../../a", "/", "link", "link/a", "a\0b", "\ud800"])
def test_a_path_that_leaves_the_folder_is_refused(tmp_path, given):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(SubquadError) as error:
        check_inside(folder, {"key": given}, "key", "a.json", remedy=REMEDY)
    path = json.dumps(given)
    assert str(error.value) == f"a.json: key is {path}, which is not a path inside {folder}; {DAMAGED}"


def test_an_integer_that_no_float_can_be_is_no_number(tmp_path):
    path = tmp_path / "end.json"
    path.write_text(f'{{"ended": {10**308}}}')
    assert read_record(path, remedy="start again", ended=float) == {"ended": 10**308}
    path.write_text(f'{{"ended": {10**309}}}')
    with pytest.raises(SubquadError, match=r"end\.json: ended must be a number, got 10{20}"):
        read_record(path, remedy="start again", ended=float)
