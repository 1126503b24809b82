"""`subquad hep evaluate`: compare taggers on the same labelled jets.

Takes our runs, several trainings of each model, and scores that other programs wrote as ROOT files.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from subquad import __version__
from subquad.errors import SubquadError, unknown
from subquad.hep.data.fit_files import training_note
from subquad.hep.data.formats import Files, expand_files, list_files
from subquad.hep.evaluation.compared_runs import ComparedRuns, read_runs
from subquad.hep.evaluation.external_scores import read_external_scores
from subquad.hep.evaluation.scoring import is_baseline, score_files, stored_predictions
from subquad.hep.metrics.classification import background_class
from subquad.hep.metrics.predictions import Predictions, group_by_model, with_observers_of
from subquad.hep.metrics.summary import measure, missing_classes, summarize, weight_notes
from subquad.hep.models.networks import using_threads
from subquad.hep.plots.evaluation_page import draw, evaluation_page
from subquad.hep.settings import EVALUATION, EvaluateSettings
from subquad.progress import say
from subquad.runs.folder import METRICS, REPORT
from subquad.runs.storage import check_not_inside, check_report_folder, plain, write_json, write_report_folder
from subquad.train.distributed import device_name


def evaluate(
    runs: Files = (),
    settings: EvaluateSettings | None = None,
    *,
    files: Files = (),
    scores: Sequence[str] = (),
    out: Path | str,
    force: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Compare taggers on labelled jets, write metrics, figures and a report, and return the metrics.

    Args:
        runs: Folders that `subquad hep fit` wrote, or `name=folder` to name the model. Runs that differ only in their
            seed, or have one name, are trainings of one model.
        settings: Background class, reference model, batch size and threads; defaults if None.
        files: Files of labelled jets to score with every run. Without them, each run is measured on its own test jets,
            with the gradient-boosting baseline that was fitted beside it.
        scores: `name=scores.root` for each tagger that another program ran, with the branches `score_<class>` and
            `label_<class>`.
        out: Folder to write: `metrics.json` and `report.html`.
        force: Replace an earlier evaluation.
        quiet: Show no progress.

    Returns:
        The content of `metrics.json`: `test.<model>.<metric>`, `intervals.test.<model>.<metric>`,
        `differences.<best>.<other>` (of the top-1 accuracies), `wins` (the model whose top-1 accuracy is significantly
        the best, or None), and in `models` the metrics of every training.

    Raises:
        SubquadError: Runs, files or scores that are invalid or do not fit together, or an output folder that must not
            be overwritten.
    """
    settings, files = settings or EvaluateSettings(), list_files(files)
    compared = read_runs(list_files(runs))
    check_not_inside(out, *compared.names, *files, *(text.partition("=")[2] or text for text in scores))
    out = check_report_folder(out, kind=EVALUATION, file=METRICS, force=force)
    paths = _files_to_score(files, compared, scores, settings)
    # read before the jets are scored, which may take long
    external = _read_external(scores, compared, settings.event_weights, needs_weights=not paths)
    classes = compared.classes or external[0][1]
    of_first_run = next(iter(compared.configs.values()), {}).get("background")
    background = background_class(settings.background, classes, of_first_run)
    if paths:
        predictions = score_files(compared.taggers(settings.event_weights), paths, settings, classes, quiet=quiet)
    else:
        predictions = stored_predictions(compared.configs, compared.names, classes)
    predictions += _completed([one for one, _ in external], predictions, settings.event_weights)
    _check_weights(predictions)
    models = group_by_model(predictions)
    measured = measure(models, classes, background, efficiency=settings.efficiency)
    evaluation = {
        "subquad": {"kind": EVALUATION, "version": __version__, "settings": plain(settings)},
        **summarize(measured, models),
        "classes": list(classes),
        "background": background,
        "reference": _reference(settings.reference, [model.name for model in models]),
        "files": [str(path) for path in paths],
        "notes": [*_notes(compared, paths, predictions), *missing_classes(predictions, classes)],
        "device": _device(settings),
        "runs": compared.described(),
        "models": measured,
    }
    say("drawing figures", quiet=quiet)
    drawings, curves = draw(evaluation, models)
    for model in measured:
        model.update(curves[model["name"]])
    with write_report_folder(out) as folder:
        (folder / REPORT).write_text(evaluation_page(evaluation, drawings), encoding="utf-8")
        write_json(folder / METRICS, evaluation)
    return evaluation


def _files_to_score(
    files: Sequence[Path | str], compared: ComparedRuns, scores: Sequence[str], settings: EvaluateSettings
) -> list[Path]:
    if not compared.names and (files or not scores):
        raise SubquadError("there is no run to evaluate")
    if settings.event_weights is not None and not files and not scores:
        raise SubquadError(f"{settings.event_weights}: a run's own test jets have their event weights; give files")
    return expand_files(files) if files else []


def _read_external(
    scores: Sequence[str], compared: ComparedRuns, event_weights: str | None, *, needs_weights: bool
) -> list[tuple[Predictions, tuple[str, ...]]]:
    """Return external scores and their classes, in the order of the runs' classes or of those of the first file."""
    options = {"event_weights": event_weights, "needs_weights": needs_weights}
    found: list[tuple[Predictions, tuple[str, ...]]] = []
    for given in scores:
        name, path = given.split("=", 1) if "=" in given else ("", given)
        name = name or Path(path).stem
        if name in compared.names.values() or is_baseline(name):
            raise SubquadError(f"{given}: a run is already named {name!r}; choose another name")
        classes = compared.classes or (found[0][1] if found else None)
        for file in expand_files(path):
            scored = read_external_scores(file, name, classes=classes, **options)
            first = next((one for one, _ in found if one.model == name), scored[0])
            if not scored[0].is_on_jets_of(first):
                raise SubquadError(f"{file}: has other jets than {first.source}, another training of {name}")
            found.append(scored)
    return found


def _completed(
    external: Sequence[Predictions], own: Sequence[Predictions], event_weights: str | None
) -> list[Predictions]:
    """Return external scores with the observers that their files lack and the first run has for the same jets.

    Raises:
        SubquadError: Neither a file nor the run has the event weights that are asked for.
    """
    found = [with_observers_of(one, own[0]) if own else one for one in external]
    for one in found:
        if event_weights is not None and one.weights is None:
            raise SubquadError(f"{one.source}: has no branch {event_weights} with event weights")
    return found


def _check_weights(predictions: Sequence[Predictions]) -> None:
    """Check that there is something to measure on.

    Raises:
        SubquadError: The event weights of some jets do not add up to more than 0.
    """
    for one in predictions:
        if one.weights is not None and not (total := one.weights.sum(dtype=float)) > 0:
            raise SubquadError(f"{one.source}: the event weights add up to {total:g}, which must be more than 0")


def _reference(given: str | None, names: Sequence[str]) -> str:
    if given is not None and given not in names:
        raise unknown("model", given, names)
    return given or names[0]


def _device(settings: EvaluateSettings) -> str:
    with using_threads(settings.threads):
        return device_name()


def _on_other_jets(predictions: Sequence[Predictions]) -> list[str]:
    """Return the sources whose jets are not those of the first one."""
    return list(dict.fromkeys(one.source for one in predictions if not one.is_on_jets_of(predictions[0])))


def _notes(compared: ComparedRuns, files: Sequence[Path], predictions: Sequence[Predictions]) -> list[str]:
    """Return warnings that a reader needs in order to interpret the metrics."""
    notes = []
    for folder, config in compared.configs.items():
        if note := training_note(folder, config, files):
            notes.append(note)
        if "estimator" in config:
            notes.append(
                f"{folder} was trained on jets in memory. If these are among them, which is not known, its metrics are "
                "biased upwards."
            )
    notes += weight_notes(predictions)
    others = _on_other_jets(predictions)
    if others:
        notes.append(
            f"The models are not all measured on the same jets: {', '.join(others)} differ from "
            f"{predictions[0].source}. Differences between them include the difference of the samples."
        )
    return notes
