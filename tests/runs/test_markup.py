"""JSON and YAML of users: each mistake is one type of error, and no text takes the memory or the time of a computer."""

import json
import os

import pytest
import yaml

from subquad.errors import SubquadError
from subquad.runs import markup
from subquad.runs.markup import parse_json, parse_yaml
from subquad.runs.storage import read_json

BOMB = "\n".join(["a0: &a0 [x, x]", *(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 12))])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting property name"),
        ("[" * 100_000, "Too many brackets inside each other"),
        ("9" * 5_000, "Exceeds the limit"),
    ],
)
def test_whatever_is_no_json_is_the_error_of_a_file(text, message, tmp_path):
    with pytest.raises(json.JSONDecodeError, match=message):
        parse_json(text)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(SubquadError, match=rf"config.json: not JSON \({message}"):
        read_json(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "expected the node content"),
        ("a: 2001-99-99", "month must be in 1..12"),
        ("a: !!int x", "invalid literal"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("[" * 100_000, "too many values inside each other"),
        (BOMB, "more than 100,000 values"),
        ("a: &a [*a]", "an alias that contains itself"),
        ("a: " + "b " * 2**19, "1,048,579 characters, and at most 1,048,576 are read"),
        # PyYAML reads 1:30 as 90
        (f"a: {'1:' + '00:' * 180}00.5", "a number of 546 characters: 1:00:00:00:00:00:00:…; quote it if it is text"),
        (f"a: {'1:' + '00:' * 10**5}00", "a number of 300,004 characters"),
        (f"a: !!float '{'1:' * 10**5}1'", "a number of 200,001 characters"),
        (f"a: 2001-01-01 00:00:00.{'0' * 10**5}", "a date of 100,020 characters"),
    ],
)
def test_whatever_is_no_yaml_is_one_type_of_error(text, message):
    with pytest.raises(yaml.YAMLError, match=message):
        parse_yaml(text)


def test_a_text_of_too_many_values_is_not_read_to_its_end(monkeypatch):
    monkeypatch.setattr(markup, "LARGEST", 100)
    with pytest.raises(yaml.YAMLError, match=r"^more than 100 values$"):
        parse_yaml("- a\n" * 200 + "}")


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "make", [os.mkdir, os.mkfifo, lambda path: os.symlink("/dev/zero", path)], ids=["folder", "pipe", "device"]
)
def test_what_is_no_file_is_not_read_as_json(make, tmp_path):
    make(tmp_path / "config.json")
    with pytest.raises(SubquadError, match=r"config.json: must be a file, and is a folder, a pipe or a device"):
        read_json(tmp_path / "config.json")


def test_anchors_and_merged_keys_are_read():
    assert parse_yaml("base: &base {a: 1}\nother: {<<: *base, b: 2}")["other"] == {"a": 1, "b": 2}
