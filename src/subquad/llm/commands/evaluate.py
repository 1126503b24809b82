"""Evaluation of linearized models: every figure for the model and its controls, kept as it comes, and a page."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from subquad import __version__
from subquad.errors import SubquadError
from subquad.llm.data.packing import read_documents
from subquad.llm.evaluation.measurements import Part, parts_of, task_list
from subquad.llm.evaluation.model_variants import Contender, Nets, Subject, subjects_of
from subquad.llm.evaluation.settings import EvaluateSettings
from subquad.llm.evaluation.store import Figures, Row
from subquad.llm.evaluation.summary import Rows, summary
from subquad.progress import say
from subquad.runs.storage import atomic, plain, write_json
from subquad.train.distributed import processes

__all__ = ["measure"]

SAME_INSIDE = {"window_only": "softmax", "tuned": "tuned_without_linear"}
"""Who computes the same as whom of an item that the window shows all of; the second is measured first."""


def measure(
    folders: str | Path | Sequence[str | Path],
    settings: EvaluateSettings = EvaluateSettings(),
    *,
    out: str | Path,
    text: Sequence[str | Path] = (),
    data: str | Path | None = None,
    teacher: str | Path | None = None,
    window_tuned: Sequence[str | Path] = (),
    force: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Measure linearized models and their controls, write `evaluation.json` and `report.html`, and return the former.

    Args:
        folders: Folders that `linearize` wrote.
        settings: What is measured, and on how much.
        out: The folder to write; figures that are there are not measured again.
        text: Held-out texts.
        data: The folder of the tasks' files.
        teacher: The softmax model that the folders were made from, where it is no longer where it was.
        window_tuned: A folder tuned with the window alone on as many tokens: one for all, or one each.
        force: Measure all again.
        quiet: Print nothing.

    Raises:
        SubquadError: a model, a text, a task's files or the output folder cannot be used; says why.
    """
    given = [Path(folders)] if isinstance(folders, str | Path) else [Path(folder) for folder in folders]
    texts, place = [Path(path) for path in text], None if data is None else Path(data)
    if not given:
        raise SubquadError("no model folder to evaluate")
    tasks, absent = task_list(place, settings)
    if not texts and place is None and not settings.contexts:
        raise SubquadError("nothing to measure: give --text, --data or --passkey")
    if len({path.name for path in texts}) != len(texts):
        raise SubquadError("--text: two files have the same name")
    for path in texts:
        next(read_documents(path, settings.text_key))
    figures, nets = Figures(out, quiet=quiet), Nets()
    for line in absent:
        say(f"left out: {line}", quiet=quiet)
    subjects = subjects_of(given, teacher=teacher, window_tuned=[Path(folder) for folder in window_tuned])
    parts = [parts_of(subject, settings, text=texts, data=place, tasks=tasks) for subject in subjects]
    if force:
        figures.forget()
    results = [
        summary(subject, _all_rows(subject, own, figures, nets, settings), settings)
        for subject, own in zip(subjects, parts, strict=True)
    ]
    evaluation = {
        "subquad": {"kind": "llm evaluation", "version": __version__, "settings": plain(settings)},
        "texts": [path.name for path in texts],
        "left_out": absent,
        "machine": _machine(),
        "models": results,
    }
    _write(figures.directory, evaluation)
    return evaluation


def _write(directory: Path, evaluation: Mapping[str, Any]) -> None:
    from subquad.llm.plots.evaluation_page import whole_page

    with atomic(directory / "report.html") as temporary:
        temporary.write_text(whole_page(evaluation), encoding="utf-8")
    write_json(directory / "evaluation.json", evaluation)


def _all_rows(
    subject: Subject, parts: Sequence[Part], figures: Figures, nets: Nets, settings: EvaluateSettings
) -> Rows:
    """Return the rows of all parts, contender by contender, so that each model is opened once."""
    found: dict[str, dict[str, list[tuple[Part, list[Row]]]]] = defaultdict(lambda: defaultdict(list))
    for contender in subject.contenders:
        for part in parts:
            if contender.role not in part.roles:
                continue

            # a token at a time, weights would be turned into halves for each
            is_half = settings.precision == "bf16" and part.kind in ("perplexity", "tasks")
            asked = {**part.asked, **({"precision": settings.precision} if is_half else {})}
            inside = _inside(found[part.kind].get(SAME_INSIDE.get(contender.role, "")), part, subject.shown)
            compute = _computing(part, contender, nets, inside=inside, is_half=is_half)
            rows = figures.rows(
                f"{contender.key}.{part.file}", asked, part.total, compute,
                step=part.step, title=f"{contender.role} {part.kind} {part.name}",
            )  # fmt: skip
            found[part.kind][contender.role].append((part, rows))
    return found


def _computing(
    part: Part, contender: Contender, nets: Nets, *, inside: Mapping[int, Row], is_half: bool
) -> Callable[[int, int], list[Row]]:
    """Return what computes a contender's rows from a start to a stop, but for those of `inside`, which are known."""

    def compute(start: int, stop: int) -> list[Row]:
        left = [number for number in range(start, stop) if number not in inside]
        made: Iterator[Row] = iter(())
        if left:
            net = nets.open(contender)
            with torch.autocast(net.device.type, dtype=torch.bfloat16, enabled=is_half):
                made = iter(part.compute(net, contender.mode, left))
        return [inside[number] if number in inside else next(made) for number in range(start, stop)]

    return compute


def _inside(others: Sequence[tuple[Part, list[Row]]] | None, part: Part, shown: int) -> dict[int, Row]:
    """Return a task's rows of another model that hold here too: of items of which the window shows all."""
    if part.kind != "tasks" or not others:
        return {}
    rows = next(rows for other, rows in others if other is part)
    return {number: row for number, row in enumerate(rows) if row["tokens"] <= shown}


def _machine() -> str:
    device = torch.device(processes().device or "cpu")
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{threads} CPU thread{'s' * (threads > 1)}"
