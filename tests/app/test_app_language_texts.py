"""Texts that are dropped in the language tab: described if they can be used, and refused at once otherwise."""

import gzip
import json

import pytest

gr = pytest.importorskip("gradio")

from subquad.app import language_texts
from subquad.app.language_texts import describe_text, text_field
from subquad.app.reading import Busy
from subquad.errors import SubquadError
from subquad.runs import unpacking

AGAIN = "and drop the file again"
NOVEL = "It was a dark and stormy night.\nThe café was closed.\n"
BAD = {
    ("novel.txt", b""): f"the file is empty; write a text into it, {AGAIN}",
    ("rows.jsonl", b""): f"the file is empty; write a text into it, {AGAIN}",
    ("novel.txt", b"\xef\xbb\xbf \n\t\n"): f"the file has no text, only white space; write a text into it, {AGAIN}",
    (
        "novel.md.gz",
        gzip.compress(b" ", mtime=0),
    ): f"the file has no text, only white space; write a text into it, {AGAIN}",
    ("novel.txt", NOVEL.encode("latin-1")): (
        f"line 2, character 8 is not UTF-8 (byte 0xE9); save the file as UTF-8, {AGAIN}"
    ),
    ("novel.TXT.GZ", gzip.compress("ÄÖÜ\n".encode() * 9 + "ÄÖÜß".encode()[:-1], mtime=0)): (
        f"line 10, character 4 is not UTF-8 (byte 0xC3); save the file as UTF-8, {AGAIN}"
    ),
    ("novel.txt", NOVEL.encode("utf-16")): f"the file is UTF-16 and not UTF-8; save it as UTF-8, {AGAIN}",
    ("novel.txt", NOVEL.encode("utf-16-le")): "line 1, character 2 is a NUL character, so that the file is no text",
    ("rows.jsonl", b'{"text": "a"}\n{"text": "caf\xe9"}\n'): (
        "line 2: byte 13 of the line is not UTF-8; save the file as UTF-8"
    ),
    ("rows.jsonl", b'{"title": "a"}\n'): "no text under 'text'; the row has 'title'",
    ("rows.json", json.dumps([{"text": ""}, {"text": " "}]).encode()): (
        f"none of the 2 rows has any text; fill them in, {AGAIN}"
    ),
    ("novel.txt.gz", b"\x1f\x8b\x08\x00cut off"): "not a gzip file, or truncated",
}


def test_a_packed_line_that_expands_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "LARGEST_UNPACKED", 2**16)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"0" * 10**6))
    with pytest.raises(
        SubquadError, match=r"a.txt.gz, line 1: has more than [\d,]+ bytes; divide it, or check the file"
    ):
        describe_text(tmp_path / "a.txt.gz")


def dropped(workspace, name, content):
    """Return the path of a file as gradio receives it."""
    folder = workspace.received / name.replace(".", "-")
    folder.mkdir()
    (folder / name).write_bytes(content)
    return str(folder / name)


@pytest.fixture
def on_text(context, session, monkeypatch):
    """Return the function that is called with a text that was dropped; it works in this process."""
    monkeypatch.setattr(language_texts, "session_of", lambda *_: session)
    monkeypatch.setattr(language_texts, "call_in_process", lambda function, *arguments, session: function(*arguments))
    with gr.Blocks() as page:
        text_field(context, "Text", name="text", without="Without a file: another one.")
    return next(own.fn for own in page.fns.values() if getattr(own.fn, "__name__", "") == "on_text")


@pytest.mark.parametrize(("name", "content"), BAD)
def test_a_text_that_cannot_be_used_is_refused_at_the_drop_and_leaves_nothing(
    on_text, workspace, session, name, content
):
    value, shown = on_text(dropped(workspace, name, content), None)
    assert value is None
    assert 'role="alert"' in shown
    assert "The file was not taken. " in shown
    for text in (name, BAD[name, content]):
        assert text in shown.unescape()
    assert str(workspace.root) not in shown
    assert "--" not in shown
    assert not session.files("")
    assert not [path for path in workspace.received.rglob("*") if path.is_file()]


def test_a_text_that_cannot_be_read_yet_stays(on_text, workspace, session, monkeypatch):
    def refuse(*_, session):
        raise Busy("the page reads files of many users now; try again in a minute")

    monkeypatch.setattr(language_texts, "call_in_process", refuse)
    path = dropped(workspace, "novel.txt", NOVEL.encode())
    value, shown = on_text(path, None)
    assert value == path
    assert "The file was taken, but not read yet" in shown
    assert [own.name for own in session.files("")] == ["novel.txt"]


def test_a_text_is_described_and_stays_chosen(on_text, workspace, session):
    path = dropped(workspace, "novel.txt", b"\xef\xbb\xbf" + NOVEL.encode())
    value, shown = on_text(path, None)
    assert value == path
    assert "novel.txt: plain text, one document; 52 characters." in shown
    assert [own.name for own in session.files("")] == ["novel.txt"]
    _, shown = on_text(dropped(workspace, "short.txt", b"A"), None)
    assert "short.txt: plain text, one document; 1 character." in shown
    rows = "".join(json.dumps({"text": "ab " * k}) + "\n" for k in range(1, 4))
    _, shown = on_text(dropped(workspace, "rows.jsonl", rows.encode()), None)
    assert "rows.jsonl: text under &#39;text&#39;; 3 documents with 15 characters." in shown


def test_a_line_that_is_cut_within_a_character_of_several_bytes_is_found(tmp_path):
    (tmp_path / "long.txt").write_bytes(b"x" * 200_000 + "é".encode()[:1] + b"x")
    with pytest.raises(SubquadError, match="line 1, character 200,001 is not UTF-8"):
        describe_text(tmp_path / "long.txt")
