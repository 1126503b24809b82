"""Items of tasks from local files, in the columns that lm-eval's own task definitions read. Standard library only.

Each task is read as its authors publish it; ARC, HellaSwag and MMLU also in a form that others made of it.
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

__all__ = ["Item", "Splits", "find", "missing", "read", "subjects"]

Item = dict[str, Any]
"""One row as lm-eval's definition of the task reads it."""

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
"""The files of a task under the data folder; the first that are there are read."""

WRAPPED = re.compile(
    r"Please choose the correct answer to the question: (?P<question>.*)\n\n"
    r"(?P<choices>Answer1: .*)\n\nAnswer format: (?P<names>answer1\S*)",
    re.DOTALL,
)


def find(folder: Path, task: str) -> list[Path]:
    """Return the files of a task (those of all subjects, of mmlu), or nothing where some are missing."""
    if task == "mmlu":
        return [path for subject in subjects(folder) for path in _subject_files(folder, subject)]
    for names in FILES[task]:
        paths = [folder / name for name in names]
        if all(path.is_file() for path in paths):
            return paths
    return []


def missing(folder: Path, task: str) -> str:
    """Return what is looked for where a task has no files, in words."""
    if task == "mmlu":
        return f"mmlu: no {folder / 'mmlu' / 'test'}/SUBJECT_test.csv with mmlu/dev/SUBJECT_dev.csv beside it"
    return f"{task}: no {' or '.join(' with '.join(str(folder / name) for name in names) for names in FILES[task])}"


def subjects(folder: Path) -> list[str]:
    """Return the subjects of mmlu that have questions and examples."""
    names = sorted(path.name.removesuffix("_test.csv") for path in (folder / "mmlu" / "test").glob("*_test.csv"))
    return [name for name in names if all(path.is_file() for path in _subject_files(folder, name))]


def _subject_files(folder: Path, subject: str) -> list[Path]:
    return [folder / "mmlu" / split / f"{subject}_{split}.csv" for split in ("test", "dev")]


def read(folder: Path, task: str, subject: str | None = None) -> Splits:
    """Return the rows of a task; of one subject of mmlu.

    Raises:
        SubquadError: the files are missing, or have rows that cannot be read.
    """
    paths = _subject_files(folder, subject) if subject else find(folder, task)
    if not paths or not all(path.is_file() for path in paths):
        raise SubquadError(missing(folder, task))
    match task:
        case "piqa":
            return {"validation": _piqa(*paths)}
        case "hellaswag":
            lines = paths[0].suffix == ".jsonl"
            return {"validation": _objects(paths[0], _hellaswag) if lines else _six_lines(paths[0])}
        case "winogrande":
            return {"validation": _objects(paths[0], _winogrande)}
        case "mmlu":
            return {"test": _mmlu(paths[0]), "dev": _mmlu(paths[1])}
        case _:
            is_official = paths[0].suffix == ".jsonl"
            return {"test": _objects(paths[0], _arc) if is_official else _wrapped(paths[0])}


def _text(path: Path) -> str:
    data = path.read_bytes()
    try:
        return (bz2.decompress(data) if path.suffix == ".bz2" else data).decode("utf-8")
    except (UnicodeDecodeError, OSError, ValueError) as error:
        raise SubquadError(f"{path}: cannot be read: {error}") from error


def _collect(path: Path, what: str, given: Sequence[Any], make: Callable[[Any], Item]) -> list[Item]:
    """Return what `make` gives for each entry; all entries that it cannot read are said at once."""
    items, mistakes = [], []
    for number, entry in enumerate(given, start=1):
        try:
            items.append(make(entry))
        except (KeyError, ValueError, TypeError, IndexError) as error:
            said = f"no {error}" if isinstance(error, KeyError) else str(error)
            mistakes.append(f"{path}, {what} {number}: {said}")
    raise_errors(f"{path}: {len(mistakes)} of {len(given)} cannot be read", mistakes, most=5)
    if not items:
        raise SubquadError(f"{path}: there is nothing in it")
    return items


def _objects(path: Path, make: Callable[[Any], Item]) -> list[Item]:
    # not splitlines, which also cuts at marks that stand inside of texts
    lines = [line for line in _text(path).split("\n") if line.strip()]
    return _collect(path, "line", lines, lambda line: make(json.loads(line)))


def _index(value: Any, count: int) -> int:
    index = int(value)
    if not 0 <= index < count:
        raise ValueError(f"the answer {index} is none of {count}")
    return index


def _piqa(path: Path, labels: Path) -> list[Item]:
    answers = _text(labels).split()
    rows = _objects(path, lambda row: {name: row[name] for name in ("goal", "sol1", "sol2")})
    if len(answers) != len(rows):
        raise SubquadError(f"{labels}: {len(answers)} labels for the {len(rows)} items of {path.name}")
    labelled = _collect(labels, "line", answers, lambda answer: {"label": _index(answer, 2)})
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
        raise ValueError(f"the answer {row['answerKey']!r} is none of {', '.join(labels)}")
    texts = [choice["text"] for choice in choices]
    return {
        "question": row["question"]["stem"],
        "choices": {"text": texts, "label": labels},
        "answerKey": row["answerKey"],
    }


def _wrapped(path: Path) -> list[Item]:
    try:
        rows = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise SubquadError(f"{path}: this is not JSON ({error})") from error
    return _collect(path, "item", rows, _unwrap)


def _unwrap(row: Any) -> Item:
    """Return an ARC item that stands in an instruction, as the LLM-Adapters collection has it."""
    found = WRAPPED.fullmatch(row["instruction"])
    if not found:
        raise ValueError("its instruction is not 'Please choose the correct answer to the question: …'")
    count = len(found["names"].split("/"))
    marks = "".join(rf"Answer{number}: (.*?){' ' if number < count else ''}" for number in range(1, count + 1))
    texts = re.fullmatch(marks, found["choices"], re.DOTALL)
    if not texts:
        raise ValueError(f"its answers are not Answer1 to Answer{count}")
    labels = list(LABELS[:count])
    answer = labels[_index(int(row["answer"].removeprefix("answer")) - 1, count)]
    return {
        "question": found["question"],
        "choices": {"text": list(texts.groups()), "label": labels},
        "answerKey": answer,
    }


def _hellaswag(row: Any) -> Item:
    if len(row["endings"]) != 4:
        raise ValueError(f"{len(row['endings'])} endings")
    label = str(_index(row["label"], 4))
    return {**{name: row[name] for name in ("activity_label", "ctx_a", "ctx_b", "endings")}, "label": label}


def _six_lines(path: Path) -> list[Item]:
    lines = _text(path).rstrip("\n").split("\n")
    if len(lines) % 6:
        raise SubquadError(f"{path}: {len(lines)} lines, which is no multiple of 6 (context, answer, four endings)")
    return _collect(path, "item", [lines[start : start + 6] for start in range(0, len(lines), 6)], _six)


def _six(lines: Sequence[str]) -> Item:
    """Return an item of llama.cpp's text form, whose context is in one piece.

    lm-eval begins the second piece, an unfinished sentence, with a capital: here it is what follows the last full stop.
    """
    activity, colon, context = lines[0].partition(": ")
    if not colon:
        raise ValueError("no 'activity: ' before its context")
    first, second = context.rstrip(), ""
    if first[-1:] not in (".", "?", "!"):
        cut = max(first.rfind(f"{mark} ") for mark in ".?!") + 1
        first, second = first[:cut], first[cut + (cut > 0) :]
    endings = [line.strip() for line in lines[2:]]
    label = str(_index(lines[1], 4))
    return {"activity_label": activity, "ctx_a": first, "ctx_b": second, "endings": endings, "label": label}


def _mmlu(path: Path) -> list[Item]:
    rows = [row for row in csv.reader(io.StringIO(_text(path), newline="")) if row]
    # the authors' files have no header and letters for answers
    has_header = bool(rows) and rows[0][-1:] == ["answer"]
    return _collect(path, "row", rows[has_header:], _mmlu_row)


def _mmlu_row(row: Sequence[str]) -> Item:
    if len(row) != 6:
        raise ValueError(f"{len(row)} columns where a question, four choices and the answer are wanted")
    question, *choices, answer = row
    if answer in tuple("ABCD"):
        answer = "ABCD".index(answer)
    return {"question": question, "choices": choices, "answer": _index(answer, 4)}
