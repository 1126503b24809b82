"""`subquad llm evaluate`: linearized models beside their controls, as `evaluation.json` and a page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from subquad import __version__
from subquad.errors import SubquadError
from subquad.llm.data.text_files import check_text
from subquad.llm.evaluation.measurements import available_tasks, measure_rows, measurements_of
from subquad.llm.evaluation.model_variants import ModelLoader, models_to_evaluate, trained_texts
from subquad.llm.evaluation.settings import EvaluateSettings
from subquad.llm.evaluation.store import RESULT, MeasurementStore
from subquad.llm.evaluation.summary import summarize
from subquad.llm.models.exact_lengths import seen_exactly
from subquad.llm.models.loading import chosen_device
from subquad.llm.plots.evaluation_page import evaluation_page, trained_on
from subquad.progress import say
from subquad.runs.disk import remove_temporaries
from subquad.runs.lock import locks_output
from subquad.runs.storage import atomic, check_not_inside, plain, write_json
from subquad.train.distributed import device_name

__all__ = ["evaluate"]


@locks_output
def evaluate(
    runs: str | Path | Sequence[str | Path],
    settings: EvaluateSettings | None = None,
    *,
    out: str | Path,
    text: Sequence[str | Path] = (),
    data: str | Path | None = None,
    teacher: str | Path | None = None,
    extend: bool = False,
    force: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Measure linearized models and their controls; write `evaluation.json` and `report.html`, and return the former.

    Args:
        runs: Folders that `linearize` wrote, with whole models or adapters.
        settings: What is measured, and on how much data; None for the defaults.
        out: Output folder; a stopped evaluation in it is resumed.
        text: Held-out texts for perplexity.
        data: Folder of the tasks' files.
        teacher: The softmax model that the runs were made from; None for the one recorded in them.
        extend: Add to a finished evaluation in `out`, keeping its measurements.
        force: Overwrite a finished evaluation in `out`, and measure everything again.
        quiet: Print nothing.

    Raises:
        SubquadError: A model, a text, a file of a task or the output folder cannot be used.
    """
    settings = settings or EvaluateSettings()
    folders = [Path(runs)] if isinstance(runs, str | Path) else [Path(run) for run in runs]
    texts, tasks_folder = [Path(path) for path in text], None if data is None else Path(data)
    tasks, missing = available_tasks(tasks_folder, settings)
    _check(folders, texts, tasks_folder, settings)
    check_not_inside(out, *texts, tasks_folder, flag="input")
    store = MeasurementStore(out, force=force, extend=extend, quiet=quiet)
    remove_temporaries(store.directory)
    for line in missing:
        say(f"not measured: {line}", quiet=quiet)

    models = models_to_evaluate(folders, teacher=teacher, only=settings.variants)
    for model in models:
        model.about["trained_texts"] = [path.name for path in trained_texts(model.folder, texts)]
        for name in model.about["trained_texts"]:
            say(f"warning: {model.about['folder']} {trained_on(name)}", quiet=quiet)
        exact = seen_exactly(model.attention)
        if texts and settings.sequence_length <= exact:
            say(
                f"warning: --sequence-length {settings.sequence_length:,}: {model.about['folder']} sees each token of "
                f"a text of up to {exact:,} tokens exactly, so that its linear branch adds nothing here",
                quiet=quiet,
            )
    measurements = [measurements_of(model, settings, text=texts, data=tasks_folder, tasks=tasks) for model in models]
    if force:
        store.clear()
    loader = ModelLoader(settings, quiet=quiet)
    results = [
        summarize(model, measure_rows(model, own, store, loader, settings), settings)
        for model, own in zip(models, measurements, strict=True)
    ]

    evaluation = {
        "subquad": {"kind": "llm evaluation", "version": __version__, "settings": plain(settings)},
        "texts": [path.name for path in texts],
        "not_measured": missing,
        "machine": device_name(chosen_device(settings.device)),
        "models": results,
    }
    try:
        page = evaluation_page(evaluation)
    except Exception:
        # a figure that cannot be drawn costs no results
        write_json(store.directory / RESULT, evaluation)
        raise
    with atomic(store.directory / "report.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    write_json(store.directory / RESULT, evaluation)
    return evaluation


def _check(folders: Sequence[Path], texts: Sequence[Path], data: Path | None, settings: EvaluateSettings) -> None:
    if not folders:
        raise SubquadError("no model folder to evaluate; name one or more that `subquad llm linearize` wrote")
    if not texts and data is None and not settings.passkey and not settings.speed:
        raise SubquadError("nothing to measure: give --text, --data, --passkey or --speed")
    if settings.limit is not None and data is None:
        raise SubquadError("--limit requires --data, the folder with the tasks' files")
    names = [path.name for path in texts]
    if len(set(names)) != len(names):
        name = next(name for name in names if names.count(name) > 1)
        raise SubquadError(f"--text: two files have the same name, {name}; rename one of them")
    if texts:
        check_text(texts, text_key=settings.text_key)
