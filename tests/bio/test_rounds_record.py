"""`rounds.json` of earlier rounds: damaged contents and paths outside its folder are errors of the user."""

import json
import re

import pytest

from subquad.bio.commands.rounds import rounds
from subquad.bio.design_search.settings import RoundsSettings
from subquad.errors import SubquadError

STEP = {
    "measured": ["m.csv"],
    "fingerprints": ["0123"],
    "settings": {"propose": None, "acquisition": "ucb"},
    "is_finished": True,
    "run": "round-1/run",
    "table": "round-1/table.csv",
}


def record_of(folder, **changes):
    stamp = {"kind": "bio rounds", "version": "0.1"}
    whole = {"subquad": stamp, "source": str((folder / "start").resolve()), "direction": None, "target": None}
    return {**whole, "rounds": [STEP], **changes}


def without(record, name):
    return {key: value for key, value in record.items() if key != name}


def answer(folder, content):
    """Return the error of the next round in a folder with a record."""
    out = folder / "rounds"
    out.mkdir(exist_ok=True)
    (out / "rounds.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(SubquadError) as error:
        rounds(folder / "start", RoundsSettings(propose=3), out=out, quiet=True)
    return str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: [], "must be an object with subquad (an object), and is []"),
        (lambda record: {}, "subquad is missing (an object)"),
        (lambda record: {"subquad": 3}, "subquad must be an object, got 3"),
        (lambda record: without(record, "source"), "source is missing (a string)"),
        (lambda record: {**record, "source": None}, "source must be a string, got null"),
        (lambda record: without(record, "rounds"), "rounds is missing (a list of objects)"),
        (lambda record: {**record, "rounds": {}}, "rounds must be a list of objects, got {}"),
        (lambda record: {**record, "rounds": [STEP, 5]}, "rounds[1] must be an object, got 5"),
        (lambda record: {**record, "direction": "up"}, 'direction must be "maximize" or "minimize" or null, got "up"'),
        (lambda record: {**record, "rounds": [{}]}, "round 1: fingerprints is missing (a list of strings), settings"),
        (lambda record: {**record, "rounds": [{**STEP, "settings": {}}]}, "round 1: settings: propose is missing"),
        (lambda record: {**record, "rounds": [{**STEP, "run": 3}]}, "round 1: run must be a string, got 3"),
        (lambda record: {**record, "rounds": [without(STEP, "table")]}, "round 1: table is missing (a string)"),
    ],
)
def test_a_damaged_record_is_refused_with_its_file_key_and_remedy(tmp_path, change, message):
    text = answer(tmp_path, change(record_of(tmp_path)))
    assert text.startswith(f"{tmp_path / 'rounds' / 'rounds.json'}: ")
    assert message in text
    assert "damaged or was written by another tool; choose another folder with --out" in text


@pytest.mark.parametrize("key", ["run", "table"])
@pytest.mark.parametrize("place", ["../elsewhere", "round-1/../../elsewhere", "/{}", "link", "a\0b", "\ud800"])
def test_a_path_outside_the_folder_of_the_rounds_is_refused(tmp_path, key, place):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "rounds").mkdir()
    (tmp_path / "rounds" / "link").symlink_to(tmp_path / "elsewhere")
    place = f"{tmp_path}/elsewhere" if place == "/{}" else place
    text = answer(tmp_path, record_of(tmp_path, rounds=[{**STEP, key: place}]))
    assert re.search(rf"rounds\.json: round 1: {key} is .*, which is not a path inside {tmp_path / 'rounds'}", text)
    assert "choose another folder with --out" in text


def test_a_whole_record_is_read_and_the_run_of_the_last_round_opened(tmp_path):
    assert str(tmp_path / "rounds" / "round-1" / "run") in answer(tmp_path, record_of(tmp_path))


def test_rounds_from_another_run_are_refused(tmp_path):
    text = answer(tmp_path, record_of(tmp_path, source="/elsewhere/run"))
    assert f"its rounds started from /elsewhere/run, not from {tmp_path / 'start'}" in text


def test_a_record_of_another_command_is_refused(tmp_path):
    text = answer(tmp_path, record_of(tmp_path, subquad={"kind": "bio scan"}))
    assert "not empty, and holds no rounds; choose another folder with --out" in text
