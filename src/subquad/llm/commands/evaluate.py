"""`subquad llm evaluate`: linearized models beside their controls, as `evaluation.json` and a page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from subquad import __version__
from subquad.errors import SubquadError
from subquad.llm.data.text_files import check_text
from subquad.llm.evaluation.measurements import measure_rows, measurements_of
from subquad.llm.evaluation.model_variants import ModelLoader, models_to_evaluate, trained_texts
from subquad.llm.evaluation.settings import EvaluateSettings
from subquad.llm.evaluation.store import RESULT, MeasurementStore
from subquad.llm.evaluation.summary import summarize
from subquad.llm.models.exact_lengths import seen_exactly
from subquad.llm.models.loading import chosen_device
from subquad.llm.plots.evaluation_page import evaluation_page, trained_on
from subquad.progress import say
from subquad.runs.lock import locks_output
from subquad.runs.storage import check_not_inside, plain, write_json, write_text
from subquad.train.distributed import device_name


@locks_output
def evaluate(
    runs: str | Path | Sequence[str | Path],
    settings: EvaluateSettings | None = None,
    *,
    out: str | Path,
    text: Sequence[str | Path] = (),
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
        teacher: The softmax model that the runs were made from; None for the one recorded in them.
        extend: Add to a finished evaluation in `out`, keeping its measurements.
        force: Overwrite a finished evaluation in `out`, and measure everything again.
        quiet: Print nothing.

    Raises:
        SubquadError: A model, a text, a file of a task or the output folder cannot be used.
    """
    settings = settings or EvaluateSettings()
    folders = [Path(runs)] if isinstance(runs, str | Path) else [Path(run) for run in runs]
    texts = [Path(path) for path in text]
    _check(texts, settings)
    check_not_inside(out, *texts, settings.passkey_text)
    store = MeasurementStore(out, force=force, extend=extend, quiet=quiet)
    models = models_to_evaluate(folders, teacher=teacher, only=settings.variants)
    for model in models:
        model.about["trained_texts"] = [path.name for path in trained_texts(model.folder, texts)]
        for name in model.about["trained_texts"]:
            say(f"warning: {trained_on(name)}", quiet=quiet)
        exact = seen_exactly(model.attention)
        if texts and settings.sequence_length <= exact:
            say(
                f"warning: --sequence-length {settings.sequence_length:,}: {model.about['folder']} sees each token of "
                f"a text of up to {exact:,} tokens exactly, so that its linear branch adds nothing here",
                quiet=quiet,
            )
    measurements = [measurements_of(model, settings, text=texts) for model in models]
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
        "machine": device_name(chosen_device(settings.device)),
        "models": results,
    }
    try:
        page = evaluation_page(evaluation)
    except Exception:
        # a figure that cannot be drawn costs no results
        write_json(store.directory / RESULT, evaluation)
        raise
    write_text(store.directory / "report.html", page)
    write_json(store.directory / RESULT, evaluation)
    return evaluation


def _check(texts: Sequence[Path], settings: EvaluateSettings) -> None:
    if not (texts or settings.tasks or settings.passkey or settings.speed):
        raise SubquadError("nothing to measure: there are no texts, tasks, passkeys and lengths for speed")
    names = [path.name for path in texts]
    if len(set(names)) != len(names):
        raise SubquadError(f"two texts have the same name: {', '.join(names)}; rename one of them")
    if texts:
        check_text(texts, text_key=settings.text_key)
