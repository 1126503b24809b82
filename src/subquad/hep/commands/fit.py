"""`subquad hep fit`: fit a tagger on labelled jets and measure it beside gradient boosting.

The jets are read once, into a store in the run's folder that is removed at the end, so that memory stays bounded. Of
several processes (`torchrun`) each trains on its part of every epoch, and the first one measures and writes.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from subquad.errors import SubquadError
from subquad.hep.commands.fit_notes import data_notes, origin_notes, result_notes
from subquad.hep.data.card import WEIGHT_COLUMN
from subquad.hep.data.fit_files import fit_files
from subquad.hep.data.formats import Files
from subquad.hep.data.preparation import JETS, FitSource, move_store, source_of, temporary_store
from subquad.hep.data.splits import part_indices, reweighted, split_dataset, with_present_classes
from subquad.hep.data.store import JetDataset
from subquad.hep.metrics.classification import background_class
from subquad.hep.metrics.predictions import TEST_SCORES, group_by_model, predictions_of_run
from subquad.hep.metrics.summary import measure, missing_classes, summarize, weight_notes
from subquad.hep.metrics.weighting import weight_note
from subquad.hep.models.boosting import fit_boosting
from subquad.hep.models.decorrelation import Decorrelation
from subquad.hep.models.fine_tuning import Origin, origin_of
from subquad.hep.models.networks import (
    check_momenta,
    logits_and_targets,
    network_tensors,
    predict_outputs,
    using_threads,
)
from subquad.hep.models.presets import check_neighbours, net_settings, training_defaults
from subquad.hep.models.targets import Targets, standardized_targets, targets_of, true_targets
from subquad.hep.models.training import FittedNetwork, fit_network, monitor_of
from subquad.hep.plots.fit_page import model_card, sections_of, verdict
from subquad.hep.settings import FitSettings, NetSettings
from subquad.progress import say
from subquad.reporting.page import page
from subquad.runs.examples import run_folder
from subquad.runs.folder import METRICS, Run, check_run_folder
from subquad.runs.history import read_history
from subquad.runs.lock import locks_output
from subquad.runs.storage import as_folder, check_not_inside, read_json, write_tensors
from subquad.train.distributed import open_shared_run, processes, wait_for, wait_for_everyone


@dataclass(frozen=True, kw_only=True)
class _Fit:
    """A fit whose jets are read and split."""

    run: Run
    settings: FitSettings
    net: NetSettings
    parts: Mapping[str, JetDataset]
    """`train`, `validation` and `test`."""
    background: str
    split: str
    """Where the parts come from, in words."""
    is_marked: bool
    """Whether jets of the files to fit on are marked for another part."""
    digests: Sequence[str]
    """Size and fingerprint of each file for training and validation."""
    origin: Origin | None
    """The tagger that is fine-tuned."""
    targets: Targets
    """Regression targets, standardized by the training jets or as in the run that is fine-tuned."""
    notes: Sequence[str]
    """Warnings for the reader of the metrics."""
    seed: int
    quiet: bool

    @property
    def classes(self) -> tuple[str, ...]:
        return self.parts["train"].classes


@locks_output
def fit(
    files: Files,
    settings: FitSettings | None = None,
    *,
    out: Path | str,
    test: Files = (),
    seed: int = 0,
    force: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Fit a tagger on labelled jets, measure it beside gradient boosting, and return the metrics.

    Args:
        files: ROOT, Parquet, HDF5 or NPZ files in the layout of JetClass or of another public data set, or as
            `settings.card` describes: names, patterns such as `jets/*.root`, folders, or `example:jets`. Folders for
            training, validation and testing in a folder, such as JetClass's train_100M, val_5M and test_20M, are the
            parts of the fit.
        settings: Settings of inputs, network and training, such as FitSettings(card="my.yaml", epochs=12); defaults if
            None.
        out: Folder to write. An unfinished run of the same settings is resumed.
        test: Files to test on. Without them, a random fraction of `files` is held out, unless the data set comes with
            a split.
        seed: Seed of the split, the initial weights and the order of the jets.
        force: Overwrite a finished run.
        quiet: Print no progress.

    Returns:
        The content of `metrics.json`: `test.<model>.<metric>`, `intervals.test.<model>.<metric>`,
        `differences.<best>.<other>` (of the top-1 accuracies) and `wins` with the models `net` and `boosting`, the
        metrics in detail in `models`, and numbers of jets and seconds.

    Raises:
        SubquadError: Files or jets cannot be used, or the folder must not be written to.
    """
    settings = settings or FitSettings()
    began, group = time.perf_counter(), processes()
    # only the first process prints and writes
    quiet = quiet or not group.is_main_process
    origin = origin_of(settings.from_)
    settings = settings if origin is None else origin.settings(settings)
    net = net_settings(settings) if origin is None else origin.net
    source = source_of(fit_files(files, test), net, settings, default=origin and origin.card, quiet=quiet)
    if origin is not None:
        source = replace(source, layout=origin.layout(source.layout))
    net = replace(net, max_particles=source.layout.max_particles)
    check_momenta(net, source.layout)
    check_neighbours(settings, net.max_particles)
    job = _read_and_split(source, net, settings, as_folder(out), origin=origin, seed=seed, force=force, quiet=quiet)
    seconds = {"reading": time.perf_counter() - began}
    fitted = fit_network(
        job.parts,
        settings,
        net_settings=net,
        classes=len(job.classes),
        directory=job.run.directory,
        seed=seed,
        quiet=quiet,
        event_weights=_event_weights(job.parts["validation"]),
        decorrelation=_decorrelation(job),
        targets=job.targets,
        start=lambda net: () if origin is None else origin.load_into(net, job.classes, job.targets.names),
    )
    seconds |= {"training": fitted.result.seconds, "waiting": fitted.waiting}
    if group.is_main_process:
        with using_threads(settings.threads):
            scores = _test_scores(job, fitted, seconds)
        metrics = _metrics(job, fitted, scores, seconds)
        for note in metrics["notes"][len(job.notes) :]:
            say(note, quiet=quiet)
        _write(job, fitted, scores, metrics)
    wait_for((job.run.directory / METRICS).is_file)
    return read_json(job.run.directory / METRICS)


def _read_and_split(
    source: FitSource,
    net: NetSettings,
    settings: FitSettings,
    out: Path,
    *,
    origin: Origin | None,
    seed: int,
    force: bool,
    quiet: bool,
) -> _Fit:
    group = processes()
    stamp = {
        **dataclasses.asdict(settings),
        **{"seed": seed, "data": source.data, "processes": group.num_processes},
        "files": list(map(str, source.files.train)),
        **{part: list(map(str, getattr(source.files, part))) for part in ("validation", "test")},
        "origin_fingerprint": None if origin is None else origin.fingerprint,
    }
    # an unusable folder is refused before the jets are read; a new one is made after everything else was checked
    check_not_inside(out, *source.files.train, *source.files.validation, *source.files.test)
    check_not_inside(out, settings.card)
    check_not_inside(out, settings.from_ and run_folder(settings.from_))
    check_run_folder(out, kind="hep", settings=stamp, force=force)
    wait_for_everyone()
    with temporary_store(source, out, force=force, quiet=quiet) as folder:
        dataset = source.open(folder)
        assert dataset is not None
        first, *others = source.files.train
        dataset = with_present_classes(dataset, f"{first}{' …' * bool(others)}")
        _say_weights(dataset, quiet=quiet)
        parts, targets = _with_targets(_split(dataset, source, net=net, settings=settings, seed=seed), origin)
        _check_test_weights(parts["test"])
        marked = _marked_parts(dataset, source)
        background = background_class(settings.background, dataset.classes)
        # all processes have mapped the store afterwards
        run = open_shared_run(out, kind="hep", settings=stamp, force=force)
        if run.is_resumed:
            say(f"{run.directory}: resuming an unfinished run", quiet=quiet)
        if group.is_main_process and folder != run.directory / JETS:
            move_store(folder, run.directory / JETS)
    notes = [
        *origin_notes(origin, source, dataset),
        *data_notes(settings, dataset, background, source.reweighting),
    ]
    for note in notes:
        say(note, quiet=quiet)
    return _Fit(
        **{"run": run, "settings": settings, "net": net, "parts": parts, "background": background, "seed": seed},
        split=_split_text(source, marked, settings, seed),
        is_marked=bool(marked),
        # jets that the origin was fitted on count as training jets of this tagger too
        digests=[*source.digests, *(() if origin is None else origin.tagger.config.get("digests", ()))],
        origin=origin,
        targets=targets,
        notes=notes,
        quiet=quiet,
    )


def _with_targets(parts: dict[str, JetDataset], origin: Origin | None) -> tuple[dict[str, JetDataset], Targets]:
    """Return the parts with standardized regression targets, and the targets."""
    names = parts["train"].layout.targets
    if not names:
        return parts, Targets()
    is_kept = origin is not None and origin.tagger.targets.names == names
    targets = origin.tagger.targets if origin is not None and is_kept else targets_of(parts["train"])
    return {name: replace(part, targets=standardized_targets(part, targets)) for name, part in parts.items()}, targets


def _decorrelation(job: _Fit) -> Decorrelation | None:
    if job.settings.decorrelate is None:
        return None
    background = job.classes.index(job.background)
    return Decorrelation(background=background, weight=job.settings.decorrelation_weight)


def _event_weights(dataset: JetDataset) -> np.ndarray | None:
    """Return [J]; None without event weights."""
    return dataset.observer(WEIGHT_COLUMN) if dataset.layout.event_weights else None


def _check_test_weights(test: JetDataset) -> None:
    """Check that metrics will be defined, before the training.

    Raises:
        SubquadError: The event weights of the test jets do not add up to more than 0.
    """
    weights = _event_weights(test)
    if weights is not None and not (total := weights.sum(dtype=float)) > 0:
        raise SubquadError(f"the event weights of the test jets add up to {total:g}, which must be more than 0")


def _say_weights(dataset: JetDataset, *, quiet: bool) -> None:
    """Log the effective number of jets, and warn of negative weights."""
    weights = _event_weights(dataset)
    if weights is not None:
        note = weight_note(weights.astype(np.float64), f"jets ({dataset.layout.event_weights})")
        say(f"Warning: {note}" if (weights < 0).any() else note, quiet=quiet)


def _split(
    dataset: JetDataset, source: FitSource, *, net: NetSettings, settings: FitSettings, seed: int
) -> dict[str, JetDataset]:
    indices = part_indices(dataset, settings, seed)
    if settings.decorrelate is not None:
        values = dataset.observer(settings.decorrelate)
        assert values is not None
        dataset = replace(dataset, decorrelated=torch.from_numpy(values))
    both = dataset.subset(torch.cat([indices["train"], indices["validation"]]))
    return split_dataset(dataset, indices, reweighted(both, settings, source.reweighting), net)


def _test_scores(job: _Fit, fitted: FittedNetwork, seconds: dict[str, float]) -> dict[str, np.ndarray]:
    """Return probabilities, labels and observers of the test jets; add the times to `seconds`."""
    test, began = job.parts["test"], time.perf_counter()
    logits, outputs = logits_and_targets(fitted.net, predict_outputs(fitted.net, test))
    scores = {"probabilities": logits.double().softmax(-1).float().numpy()}
    for name, values in job.targets.predicted(outputs).items():
        scores |= {f"predicted.{name}": values, f"true.{name}": true_targets(test, [name])[:, 0].astype(np.float32)}
    seconds["predicting"] = time.perf_counter() - began
    if not job.settings.no_boosting:
        began = time.perf_counter()
        say("fitting the gradient-boosting baseline", quiet=job.quiet)
        boosting = fit_boosting(job.parts["train"], test, classes=len(job.classes), seed=job.seed)
        scores["probabilities_boosting"] = boosting.astype(np.float32)
        seconds["boosting"] = time.perf_counter() - began
    observers = {name: test.observer(f"jet_{name}") for name in ("pt", "sdmass")}
    observers["weights"] = _event_weights(test)
    scores |= {name: column for name, column in observers.items() if column is not None}
    return {**scores, "labels": test.labels.numpy(), "particles": test.multiplicities().numpy().astype(np.float32)}


def _metrics(
    job: _Fit, fitted: FittedNetwork, scores: Mapping[str, np.ndarray], seconds: Mapping[str, float]
) -> dict[str, Any]:
    names = {"net": "net", "boosting": "boosting"}
    predicted = predictions_of_run(scores, names, source="test jets", seed=job.seed, temperature=fitted.temperature)
    models = group_by_model(predicted)
    measured = measure(models, job.classes, job.background)
    result, jets = fitted.result, {name: len(part) for name, part in job.parts.items()}
    preset = training_defaults(job.settings)
    summary = summarize(measured, models)
    return {
        **summary,
        "notes": [
            *job.notes,
            *missing_classes(models[0].trainings, job.classes),
            *result_notes(summary["test"]["net"], scores, preset.learning_rate, result.steps),
            *weight_notes(models[0].trainings),
        ],
        "jets": jets,
        # waiting is a part of the training
        "seconds": {**seconds, "total": sum(seconds.values()) - seconds["waiting"]},
        "jets_per_second": {
            "train": jets["train"] * fitted.epochs / max(result.seconds, 1e-9),
            "predict": jets["test"] / max(seconds["predicting"], 1e-9),
        },
        "temperature": fitted.temperature,
        "parameters": sum(p.numel() for p in fitted.net.parameters()),
        **{"steps": result.steps, "best_step": result.best_step, "validation": result.best},
        **{name: getattr(preset, name) for name in ("learning_rate", "optimizer", "weight_decay", "batch_size")},
        "monitor": monitor_of(job.settings, job.targets),
        "models": measured,
    }


def _write(job: _Fit, fitted: FittedNetwork, scores: Mapping[str, np.ndarray], metrics: Mapping[str, Any]) -> None:
    layout, run = job.parts["train"].layout, job.run
    config = {
        **{"classes": job.classes, "background": job.background, "preset": job.settings.preset, "seed": job.seed},
        "net": dataclasses.asdict(job.net),
        "particle_features": layout.features.names,
        "jet_features": layout.jet_features if job.net.has_jet_features else (),
        "card": None if layout.card is None else layout.card.as_config(),
        **{"event_weights": layout.event_weights, "temperature": fitted.temperature},
        **{"split": job.split, "is_marked": job.is_marked},
        "from": None if job.origin is None else job.origin.as_config(job.classes, job.targets.names),
        "targets": job.targets.as_config(),
        **{name: run.settings[name] for name in ("data", "files", "validation", "test")},
        "digests": job.digests,
    }
    write_tensors(run.directory / TEST_SCORES, {name: torch.from_numpy(value) for name, value in scores.items()})
    files = [Path(file).name for file in run.settings["files"]]
    title = f"Jet tagger fitted on {', '.join(files[:3])}{' …' * (len(files) > 3)}"

    def report() -> str:
        sections = sections_of(metrics, config, scores, read_history(run.directory))
        return page(title, lead=verdict(metrics), sections=sections)

    run.finish(
        config=config,
        tensors=network_tensors(fitted.net, layout),
        metrics=metrics,
        card=model_card(metrics, config),
        report=report,
    )


def _marked_parts(dataset: JetDataset, source: FitSource) -> list[str]:
    """Return the parts that jets of the files to fit on are marked for, besides training."""
    return [part for part in ("test", "validation") if len(dataset.part(part)) and not getattr(source.files, part)]


def _split_text(source: FitSource, marked: Sequence[str], settings: FitSettings, seed: int) -> str:
    texts, drawn = [], []
    for part, what in (("test", "testing"), ("validation", "validation")):
        if part in marked:
            texts.append(f"{part.capitalize()} jets are those that the files mark for {what}")
        elif getattr(source.files, part):
            texts.append(f"{part.capitalize()} jets are from files of their own")
        else:
            drawn.append(f"{100 * getattr(settings, f'{part}_fraction'):g} % for {what}")
    if drawn:
        other = "other jets" if texts else "jets"
        texts.append(f"Of the {other} of each class, {' and '.join(drawn)} are drawn at random (seed {seed})")
    return "; ".join([texts[0], *(text[0].lower() + text[1:] for text in texts[1:])])
