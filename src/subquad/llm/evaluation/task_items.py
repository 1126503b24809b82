"""Items of tasks from local files, in the columns of lm-eval's task definitions. Standard library only.

Each task is read in the form that its authors publish; ARC and HellaSwag also as LLM-Adapters and llama.cpp have them.
"""

import bz2
import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from subquad.errors import SubquadError, raise_errors
from subquad.runs.markup import parse_json
from subquad.runs.unpacking import most_bytes, read_within

__all__ = ["Item", "Splits", "find", "missing", "read", "subject_files", "subjects"]

Item = dict[str, Any]
"""A row as lm-eval's definition of the task reads it."""

Splits = dict[str, list[Item]]
"""Rows by lm-eval's names of the splits."""

LABELS = "ABCDE"
ARC = {"arc_easy": "Easy", "arc_challenge": "Challenge"}
FILES: dict[str, tuple[tuple[str, ...], ...]] = {
    "piqa": (("piqa/valid.jsonl", "piqa/valid-labels.lst"),),
    "hellaswag": (
        ("hellaswag/hellaswag_val.jsonl",),
        ("hellaswag/hellaswag_val_full.txt.bz2",),
        ("hellaswag/hellaswag_val_full.txt",),
    ),
    "winogrande": (("winogrande/dev.jsonl",),),
    **{task: ((f"arc/ARC-{name}-Test.jsonl",), (f"arc/ARC-{name}.test.json",)) for task, name in ARC.items()},
}
"""Files of a task in the data folder, in alternative forms; the first complete one is read."""

WRAPPED = re.compile(
    r"Please choose the correct answer to the question: (?P<question>.*)\n\n"
    r"(?P<choices>Answer1: .*)\n\nAnswer format: (?P<names>answer1\S*)",
    re.DOTALL,
)


def find(folder: Path, task: str) -> list[Path]:
    """Return the files of a task (for mmlu of all subjects); an empty list if some are missing."""
    if task == "mmlu":
        return [path for subject in subjects(folder) for path in subject_files(folder, subject)]
    for names in FILES[task]:
        paths = [folder / name for name in names]
        if all(path.is_file() for path in paths):
            return paths
    return []


def missing(folder: Path, task: str) -> str:
    """Return a message about the files that a task needs."""
    if task == "mmlu":
        return f"mmlu: no {folder / 'mmlu' / 'test'}/SUBJECT_test.csv together with mmlu/dev/SUBJECT_dev.csv"
    return f"{task}: no {' or '.join(' with '.join(str(folder / name) for name in names) for names in FILES[task])}"


def subjects(folder: Path) -> list[str]:
    """Return the subjects of mmlu that have both questions and examples."""
    names = sorted(path.name.removesuffix("_test.csv") for path in (folder / "mmlu" / "test").glob("*_test.csv"))
    return [name for name in names if all(path.is_file() for path in subject_files(folder, name))]


def subject_files(folder: Path, subject: str) -> list[Path]:
    """Return the files of a subject of mmlu: questions and examples."""
    return [folder / "mmlu" / split / f"{subject}_{split}.csv" for split in ("test", "dev")]


def read(folder: Path, task: str, subject: str | None = None) -> Splits:
    """Return the rows of a task, for mmlu of one subject.

    Raises:
        SubquadError: The files are missing or have invalid rows.
    """
    paths = subject_files(folder, subject) if subject else find(folder, task)
    if not paths or not all(path.is_file() for path in paths):
        raise SubquadError(missing(folder, task))
    match task:
        case "piqa":
            return {"validation": _piqa(*paths)}
        case "hellaswag":
            is_official = paths[0].suffix == ".jsonl"
            return {"validation": _json_lines(paths[0], _hellaswag) if is_official else _six_lines(paths[0])}
        case "winogrande":
            return {"validation": _json_lines(paths[0], _winogrande)}
        case "mmlu":
            return {"test": _mmlu(paths[0]), "dev": _mmlu(paths[1])}
        case _:
            is_official = paths[0].suffix == ".jsonl"
            return {"test": _json_lines(paths[0], _arc) if is_official else _wrapped(paths[0])}


def _text(path: Path) -> str:
    try:
        with bz2.open(path) if path.suffix == ".bz2" else path.open("rb") as file:
            return read_within(path, file, most_bytes(path)).decode("utf-8")
    except (UnicodeDecodeError, OSError, EOFError, ValueError) as error:
        raise SubquadError(f"{path}: cannot be read: {error}") from error


def _parse(path: Path, unit: str, entries: Sequence[Any], parse: Callable[[Any], Item]) -> list[Item]:
    """Return the items of all entries, or raise the errors of all invalid ones."""
    items, errors = [], []
    for number, entry in enumerate(entries, start=1):
        try:
            items.append(parse(entry))
        except (KeyError, ValueError, TypeError, IndexError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            errors.append(f"{path}, {unit} {number}: {reason}")
    raise_errors(f"{path}: {len(errors)} of {len(entries)} entries are invalid", errors)
    if not items:
        raise SubquadError(f"{path}: the file is empty")
    return items


def _json_lines(path: Path, parse: Callable[[Any], Item]) -> list[Item]:
    # not splitlines, which also splits at characters that occur within texts
    lines = [line for line in _text(path).split("\n") if line.strip()]
    return _parse(path, "line", lines, lambda line: parse(parse_json(line)))


def _answer_index(value: Any, count: int) -> int:
    if not isinstance(value, int | str) and not (isinstance(value, float) and value.is_integer()):
        raise ValueError(f"the answer {value!r} is not a whole number")
    index = int(value)
    if not 0 <= index < count:
        raise ValueError(f"the answer {index} is not from 0 to {count - 1}")
    return index


def _piqa(path: Path, labels: Path) -> list[Item]:
    answers = _text(labels).split()
    rows = _json_lines(path, lambda row: {name: row[name] for name in ("goal", "sol1", "sol2")})
    if len(answers) != len(rows):
        raise SubquadError(f"{labels}: {len(answers)} labels for the {len(rows)} items of {path.name}")
    labelled = _parse(labels, "line", answers, lambda answer: {"label": _answer_index(answer, 2)})
    return [{**row, **label} for row, label in zip(rows, labelled, strict=True)]


def _winogrande(row: Any) -> Item:
    if "_" not in row["sentence"]:
        raise ValueError("no _ in the sentence")
    if row["answer"] not in ("1", "2"):
        raise ValueError(f"the answer {row['answer']!r} is neither 1 nor 2")
    return {name: row[name] for name in ("sentence", "option1", "option2", "answer")}


def _arc(row: Any) -> Item:
    choices = row["question"]["choices"]
    labels = [choice["label"] for choice in choices]
    if row["answerKey"] not in labels:
        raise ValueError(f"the answer {row['answerKey']!r} is not one of {', '.join(labels)}")
    texts = [choice["text"] for choice in choices]
    return {
        "question": row["question"]["stem"],
        "choices": {"text": texts, "label": labels},
        "answerKey": row["answerKey"],
    }


def _wrapped(path: Path) -> list[Item]:
    try:
        rows = parse_json(_text(path))
    except json.JSONDecodeError as error:
        raise SubquadError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(rows, list):
        raise SubquadError(f"{path}: must hold a list of items")
    return _parse(path, "item", rows, _unwrap)


def _unwrap(row: Any) -> Item:
    """Return an ARC item from an instruction of the LLM-Adapters collection."""
    found = WRAPPED.fullmatch(row["instruction"])
    if not found:
        raise ValueError("its instruction is not 'Please choose the correct answer to the question: …'")
    count = len(found["names"].split("/"))
    pattern = "".join(rf"Answer{number}: (.*?){' ' if number < count else ''}" for number in range(1, count + 1))
    texts = re.fullmatch(pattern, found["choices"], re.DOTALL)
    if not texts:
        raise ValueError(f"its answers are not Answer1 to Answer{count}")
    labels = list(LABELS[:count])
    if not isinstance(row["answer"], str):
        raise ValueError(f"the answer {row['answer']!r} is not one of answer1 to answer{count}")
    answer = labels[_answer_index(int(row["answer"].removeprefix("answer")) - 1, count)]
    return {
        "question": found["question"],
        "choices": {"text": list(texts.groups()), "label": labels},
        "answerKey": answer,
    }


def _hellaswag(row: Any) -> Item:
    if len(row["endings"]) != 4:
        raise ValueError(f"{len(row['endings'])} endings instead of 4")
    label = str(_answer_index(row["label"], 4))
    return {**{name: row[name] for name in ("activity_label", "ctx_a", "ctx_b", "endings")}, "label": label}


def _six_lines(path: Path) -> list[Item]:
    lines = _text(path).rstrip("\n").split("\n")
    if len(lines) % 6:
        raise SubquadError(
            f"{path}: {len(lines)} lines is not a multiple of 6 (context, answer and four endings per item)"
        )
    return _parse(path, "item", [lines[start : start + 6] for start in range(0, len(lines), 6)], _six)


def _six(lines: Sequence[str]) -> Item:
    """Return an item of llama.cpp's text form, whose context is one string.

    lm-eval capitalizes the start of the context's last, unfinished sentence: here everything after the last full stop.
    """
    activity, colon, context = lines[0].partition(": ")
    if not colon:
        raise ValueError("no 'activity: ' before its context")
    first, second = context.rstrip(), ""
    if first[-1:] not in (".", "?", "!"):
        cut = max(first.rfind(f"{mark} ") for mark in ".?!") + 1
        first, second = first[:cut], first[cut + (cut > 0) :]
    endings = [line.strip() for line in lines[2:]]
    return {
        "activity_label": activity,
        "ctx_a": first,
        "ctx_b": second,
        "endings": endings,
        "label": str(_answer_index(lines[1], 4)),
    }


def _mmlu(path: Path) -> list[Item]:
    try:
        rows = [row for row in csv.reader(io.StringIO(_text(path), newline="")) if row]
    except csv.Error as error:
        raise SubquadError(f"{path}: not a CSV file ({error}); close all quotation marks") from error
    # the authors' files have no header, and letters as answers
    has_header = bool(rows) and rows[0][-1:] == ["answer"]
    return _parse(path, "row", rows[has_header:], _mmlu_row)


def _mmlu_row(row: Sequence[str]) -> Item:
    if len(row) != 6:
        raise ValueError(f"{len(row)} columns instead of 6 (question, four choices, answer)")
    question, *choices, answer = row
    if answer in tuple("ABCD"):
        answer = "ABCD".index(answer)
    return {"question": question, "choices": choices, "answer": _answer_index(answer, 4)}
