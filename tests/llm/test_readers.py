"""Readers of text files: file types, formats of rows, and errors with their places."""

import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from subquad.errors import SubquadError
from subquad.llm.data.readers import open_documents

DATA = Path(os.environ.get("SUBQUAD_DATA", "no data")) / "llm" / "instruct"

TURNS = [
    {"role": "system", "content": "be short"},
    {"role": "user", "content": "who sings?"},
    {"role": "assistant", "content": "the bird"},
]


def write(path, content):
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def read_documents(path, text_key="text"):
    return ["".join(document.blocks) for document in open_documents(path, text_key).documents]


def write_rows(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
        return path
    return write(path, json.dumps(rows) if ".json" in path.suffixes else "\n".join(map(json.dumps, rows)))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "one\ntwo"),
        ("a.md", "one\r\ntwo"),
        ("a.jsonl", '{"text": "one"}\n\n{"text": "two"}\n'),
        ("a.json", json.dumps([{"text": "one"}, {"text": "two"}])),
        ("b.json", json.dumps([{"text": "one"}, {"text": "two"}], indent=2)),
        ("c.json", '{"text": "one"}\n{"text": "two"}\n'),
        ("d.jsonl", '\ufeff{"text": "one"}\r\n{"text": "two"}\r\n'),
    ],
)
@pytest.mark.parametrize("is_packed", [False, True])
def test_each_type_of_file_is_read_plain_and_compressed(tmp_path, name, content, is_packed):
    path = write(tmp_path / (name + ".gz" * is_packed), content)
    assert read_documents(path) == (["one\ntwo"] if path.suffixes[0] in (".txt", ".md") else ["one", "two"])


def test_a_parquet_file_is_read_in_order_over_its_row_groups(tmp_path):
    rows = [{"number": number, "text": f"text {number}"} for number in range(7)]
    path = write_rows(tmp_path / "a.parquet", rows)
    assert pq.ParquetFile(path).num_row_groups == 4
    assert read_documents(path) == [row["text"] for row in rows]


def test_one_object_over_many_lines_is_one_document(tmp_path):
    path = write(tmp_path / "a.json", json.dumps({"text": "one\ntwo"}, indent=2))
    assert read_documents(path) == ["one\ntwo"]


def test_a_text_longer_than_a_block_is_read_completely(tmp_path, monkeypatch):
    monkeypatch.setattr("subquad.llm.data.readers.BLOCK_SIZE", 7)
    content = "caf\xe9 \u2028 \U0001f426\r\nnoir\rend\n" * 11
    path = write(tmp_path / "a.txt", content)
    assert read_documents(path) == [content.replace("\r\n", "\n").replace("\r", "\n")]


def test_json_lines_end_at_line_feeds_only(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"text": "one\u2028\x85two"}\n{"text": "three"}')
    assert read_documents(path) == ["one\u2028\x85two", "three"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet"])
@pytest.mark.parametrize(
    ("row", "text", "words"),
    [
        ({"text": "one", "instruction": "x", "output": "y"}, "one", "text under 'text'"),
        ({"messages": TURNS}, "be short\n\nwho sings?\n\nthe bird", "conversations under 'messages'"),
        (
            {"conversations": [{"from": "human", "value": "who?"}, {"from": "gpt", "value": "me"}]},
            "who?\n\nme",
            "conversations under 'conversations'",
        ),
        (
            {"instruction": "Sing.", "input": "a tune", "output": "la"},
            "Sing.\n\na tune\n\nla",
            "'instruction' with 'input' as the question, 'output' as the answer",
        ),
        ({"instruction": "Sing.", "input": "", "response": "la"}, "Sing.\n\nla", "'response' as the answer"),
        ({"instruction": "Sing.", "context": "a tune", "response": "la"}, "Sing.\n\na tune\n\nla", "with 'context'"),
        ({"prompt": "Sing.\n", "completion": " la<|endoftext|>"}, "Sing.\n\nla", "'prompt' as the question"),
        ({"question": "1 + 1?", "answer": "2"}, "1 + 1?\n\n2", "'question' as the question, 'answer' as the answer"),
        (
            {"instruction": "Sing.", "instances": [{"input": "a tune", "output": "la"}]},
            "Sing.\n\na tune\n\nla",
            "one each in 'instances'",
        ),
    ],
)
def test_the_format_of_rows_is_detected_from_their_keys_and_described(tmp_path, name, row, text, words):
    path = write_rows(tmp_path / name, [row, row, row])
    source = open_documents(path)
    assert words in source.description
    assert source.is_conversation == ("text under" not in words)
    assert ["".join(document.blocks) for document in source.documents] == [text] * 3


def test_each_instance_of_an_instruction_is_a_document(tmp_path):
    instances = [{"input": "", "output": "la"}, {"input": "low", "output": "lo"}]
    path = write_rows(tmp_path / "a.json", [{"instruction": "Sing.", "instances": instances}])
    assert read_documents(path) == ["Sing.\n\nla", "Sing.\n\nlow\n\nlo"]


def test_a_named_key_has_precedence_over_other_formats(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [{"text": "one", "question": "why?", "answer": "so"}])
    assert read_documents(path, "answer") == ["so"]
    with pytest.raises(SubquadError, match="its rows need 'body', and have 'text', 'question', 'answer'"):
        list(read_documents(path, "body"))


def test_the_context_of_a_question_is_optional(tmp_path):
    rows = [{"instruction": "Sing.", "output": "la"}, {"instruction": "Sing.", "input": "low", "output": "lo"}]
    expected = ["Sing.\n\nla", "Sing.\n\nlow\n\nlo"]
    for name in ("a.jsonl", "b.jsonl"):
        assert list(read_documents(write_rows(tmp_path / name, rows))) == expected
        rows, expected = rows[::-1], expected[::-1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"caf\xe9 noir", "a.txt: cannot be read as a text .*0xe9"),
        ("a.txt", b"\xff\xfea\0", "a.txt: contains NUL bytes"),
        ("a.txt", b"PK\0\0", "a.txt: contains NUL bytes"),
        ("a.json", b'[\n{"text": "\xe9"}]', "a.json: cannot be read as a text .*0xe9"),
        ("a.csv", b"text", r"a text ends in .txt, .md, .jsonl, .json"),
        ("text", b"text", r"a text ends in .txt, .md, .jsonl, .json"),
        ("a.jsonl", b'{"text": "one"}\n{"text": ', "a.jsonl, line 2: "),
        ("a.json", b'{\n"text": "one"\n', "a.json: cannot be read as a text"),
        ("a.jsonl", b'{"text": "one"}\n{"body": "two"}', "line 2: not text under 'text' .no 'text'"),
        ("a.jsonl", b'{"body": "two"}', "its rows need 'text', 'messages', .* and have 'body'"),
        ("a.json", b'["one"]', "its rows need 'text'"),
        ("a.json", b'[{"text": 7}]', "row 1: .*'text' is 7"),
        ("a.json", b'[{"text": null}]', "row 1: .*'text' is None"),
        ("a.json", b'[{"instruction": "", "output": "la"}]', "row 1: .*'instruction' is empty"),
        ("a.json", b'[{"messages": ["hi"]}]', "row 1: not conversations under 'messages'"),
        ("a.json", b'[{"messages": [{"role": "user"}]}]', "row 1: .*no 'content'"),
        (
            "a.json",
            b'[{"messages": [{"role": "bird", "content": "la"}]}]',
            "row 1: .*system, user, assistant, got 'bird'",
        ),
        ("a.jsonl", b'{"text": "one"}\n{"text": "cut \\ud83d"}', r"a.jsonl, line 2: .*lone surrogate \(U\+D83D\)"),
        ("a.parquet", b"PAR1 and no more", "a.parquet: cannot be read as a text"),
    ],
)
def test_an_invalid_file_is_rejected_with_the_place_of_the_error(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    with pytest.raises(SubquadError, match=message):
        read_documents(path)


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.gz", "a.json.gz"])
def test_a_truncated_or_damaged_gzip_file_is_rejected(tmp_path, name):
    text = "".join(f'{{"text": "{number * 7919 % 10_007}"}}\n' for number in range(3_001))
    data = gzip.compress(text.encode())
    damaged = data[:5_000] + bytes(255 - byte for byte in data[5_000:5_100]) + data[5_100:]
    for content in (data[:-3_000], b"no gzip", damaged):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(SubquadError, match=rf"{name}(: cannot be read as a text|, line 1917)"):
            read_documents(path)


def test_a_parquet_file_without_the_column_is_rejected_with_its_columns(tmp_path):
    path = write_rows(tmp_path / "a.parquet", [{"body": "one", "score": 1}])
    with pytest.raises(SubquadError, match=r"its rows need 'text', .* and have 'body', 'score'"):
        read_documents(path)
    assert list(read_documents(path, "body")) == ["one"]
    with pytest.raises(SubquadError, match=r"row 1: .*'score' is 1"):
        list(read_documents(path, "score"))


def test_a_folder_or_a_missing_file_is_refused(tmp_path):
    (tmp_path / "a.txt").mkdir()
    for name in ("a.txt", "none.txt"):
        with pytest.raises(SubquadError, match=rf"{name}: "):
            read_documents(tmp_path / name)


def test_a_parquet_file_damaged_in_its_middle_is_rejected(tmp_path):
    path = write_rows(tmp_path / "a.parquet", [{"text": f"{number} sings"} for number in range(6)])
    data = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(1).column(0).dictionary_page_offset
    data[start : start + 30] = bytes(30)
    path.write_bytes(data)
    with pytest.raises(SubquadError, match=r"a.parquet: cannot be read as a text"):
        read_documents(path)
    # in a later page of the same rows
    texts = pa.table({"text": [f"{number} sings" for number in range(20_000)]})
    pq.write_table(texts, path, use_dictionary=False, data_page_size=1024, compression="none")
    data, column = bytearray(path.read_bytes()), pq.ParquetFile(path).metadata.row_group(0).column(0)
    end = column.data_page_offset + column.total_compressed_size
    data[end - 40_000 : end] = bytes(40_000)
    path.write_bytes(data)
    with pytest.raises(SubquadError, match=r"a.parquet: cannot be read as a text"):
        list(read_documents(path))


def test_documents_are_read_lazily(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"text": "one two three four"}\n' * 30_011)
    positions = []
    next(open_documents(path, on_progress=positions.append).documents)
    assert 0 < max(positions) < path.stat().st_size / 4


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="SUBQUAD_DATA is not set: the instruction files are not here")
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("gpteacher/roleplay.json", 3146),
        ("gsm8k/gsm8k_train.json", 7473),
        ("selfinstruct/seed_tasks.jsonl", 175),
        ("selfinstruct/user_oriented_instructions.jsonl", 252),
        ("t0/samsum_Given_the_above_dialogue_write_a_summary.jsonl", 200),
    ],
)
def test_published_instructions_are_read_as_questions_and_answers(name, count):
    source = open_documents(DATA / name)
    documents = list(source.documents)
    assert source.is_conversation
    assert len(documents) == count
    for document in documents:
        (text,) = document.blocks
        ((start, stop),) = document.answers
        assert 0 < start < stop == len(text)
        assert "<|endoftext|>" not in text


def test_many_packed_rows_are_read(tmp_path):
    path = write(tmp_path / "a.jsonl.gz", "\n" * 10**5 + '{"text": "ab"}\n' * 10**5)
    assert read_documents(path) == ["ab"] * 10**5
