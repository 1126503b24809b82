"""Taggers side by side on labelled jets: ours, several trainings of each, and whatever others wrote as ROOT files."""

import shutil
import time
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from subquad import __version__
from subquad.errors import SubquadError, raise_errors, unknown
from subquad.hep.commands.fit import Files, listed
from subquad.hep.data.chunks import Piece
from subquad.hep.data.formats import expand
from subquad.hep.evaluation.scores import Scored, foreign, grouped, with_observers
from subquad.hep.metrics.scores import scores_of, spread
from subquad.hep.models.tagger import Inputs, logits, plan_by_length, using_threads
from subquad.hep.models.trained import Tagger, open_tagger
from subquad.hep.plots.evaluation_figures import draw
from subquad.hep.plots.evaluation_page import pdf, whole_page
from subquad.hep.plots.fit_page import SCORES
from subquad.hep.settings import EvaluateSettings
from subquad.progress import say
from subquad.runs.folder import METRICS, REPORT, load_config
from subquad.runs.storage import as_folder, atomic, plain, read_json, read_tensors, write_json
from subquad.train.distributed import processes

__all__ = ["evaluate"]

KIND = "hep evaluation"
BOOSTING = "boosting"

# what may differ between trainings of one model
OF_A_TRAINING = ("seed", "threads", "files", "test", "background", "net_alone")


def evaluate(
    runs: Files = (),
    settings: EvaluateSettings = EvaluateSettings(),
    *,
    files: Files = (),
    scores: Sequence[str] = (),
    out: Path | str,
    force: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Measure taggers on labelled jets, write figures, page and pictures into a folder, and return the figures.

    Args:
        runs: folders that `fit` wrote; those that differ in the seed alone are trainings of one model.
        settings: what is compared with what.
        files: ROOT files of labelled jets to score. Without them each run is measured on the test jets that it put
            aside, beside the boosting of then.
        scores: `name=scores.root`, of taggers that others ran: branches `score_<class>` and `label_<class>`.
        out: the folder to write: `metrics.json`, `report.html`, `report.pdf` and `figures/`.
        force: replace an evaluation that is there.
        quiet: no progress.

    Raises:
        SubquadError: runs, files or scores that cannot be used or do not fit together, or a folder in the way.
    """
    out = as_folder(out)
    _check_free(out, force)
    folders = list(dict.fromkeys(Path(run) for run in listed(runs)))
    if not folders and not scores:
        raise SubquadError(
            "nothing to evaluate; give folders that `subquad hep fit` wrote, or --scores name=scores.root"
        )
    if listed(files) and not folders:
        raise SubquadError("--files are jets for runs to score, and no run is given; --scores bring their own jets")
    configs = {folder: load_config(folder, "hep") for folder in folders}
    paths = expand(listed(files)) if listed(files) else []
    classes = _classes(configs)
    names = _names(configs)
    # before the jets are scored, which may take long
    others = _foreign(scores, {*names.values(), BOOSTING}, classes)
    classes = classes or others[0][1]
    background = _background(settings.background, configs, classes)
    if paths:
        scored = _scored(configs, names, paths, settings, classes, quiet=quiet)
    else:
        scored = [one for folder in folders for one in _own_test(folder, names[folder], configs[folder], classes)]
    scored += [with_observers(other, scored[0]) if scored else other for other, _ in others]
    evaluation = {
        "subquad": {"kind": KIND, "version": __version__, "settings": plain(settings)},
        "classes": list(classes),
        "background": background,
        "reference": _reference(settings.reference, scored),
        "files": [str(path) for path in paths],
        "notes": _notes(configs, paths, scored),
        "threads": settings.threads,
        "models": _figures(scored, classes, background),
    }
    say("drawing", quiet=quiet)
    _write(out, evaluation, scored)
    return evaluation


def _check_free(out: Path, force: bool) -> None:
    if not out.is_dir() or not any(out.iterdir()):
        return
    stamp = read_json(out / METRICS).get("subquad") if (out / METRICS).is_file() else None
    if not isinstance(stamp, dict) or stamp.get("kind") != KIND:
        raise SubquadError(f"{out}: not empty, and no evaluation is in it; name another folder with --out")
    if not force:
        raise SubquadError(f"{out}: holds an evaluation; name another folder with --out, or replace it with --force")


def _classes(configs: Mapping[Path, Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the classes of the first run, which all others must have, in any order."""
    first = next(iter(configs), None)
    mistakes = []
    for folder, config in configs.items():
        differing = sorted(set(config["classes"]) ^ set(configs[first]["classes"]))
        if differing:
            mistakes.append(f"{folder}: {', '.join(differing)} not in both it and {first}")
    raise_errors("Taggers of different classes cannot stand in one table:", mistakes)
    return tuple(configs[first]["classes"]) if first else ()


def _names(configs: Mapping[Path, Mapping[str, Any]]) -> dict[Path, str]:
    """Return the name of each run's model: its preset, and what else sets it apart from runs of the same preset."""
    stamps = {folder: config["subquad"]["settings"] for folder, config in configs.items()}
    names = {}
    for folder, own in stamps.items():
        alike = [other for other in stamps.values() if other.get("preset") == own.get("preset")]
        # an estimator knows nothing of files
        keys = sorted(set.intersection(*map(set, alike)) - {"preset", *OF_A_TRAINING})
        differing = [key for key in keys if any(other.get(key) != own.get(key) for other in alike)]
        names[folder] = ", ".join([str(own.get("preset")), *(f"{key} {own.get(key)}" for key in differing)])
    seen: dict[tuple[str, Any], Path] = {}
    for folder, name in names.items():
        key = (name, stamps[folder].get("seed"))
        if key in seen:
            raise SubquadError(
                f"{folder}: the same training as {seen[key]} (seed {key[1]}); "
                "the spread over trainings needs other seeds"
            )
        seen[key] = folder
    return names


def _scored(
    configs: Mapping[Path, Mapping[str, Any]],
    names: Mapping[Path, str],
    paths: Sequence[Path],
    settings: EvaluateSettings,
    classes: Sequence[str],
    *,
    quiet: bool,
) -> list[Scored]:
    """Score the jets of the files with one run after the other, piece by piece, on the clock."""
    scored = []
    for folder, name in names.items():
        tagger = open_tagger(folder)
        tagger.net.to(processes().device)
        order = [tagger.classes.index(one) for one in classes]
        probabilities, labels, lengths, batches = [], [], [], []
        observers: dict[str, list[np.ndarray]] = {"jet_pt": [], "jet_sdmass": []}
        with using_threads(settings.threads):
            for piece in tagger.pieces(paths, tree=settings.tree, title=f"scoring jets: {name}", quiet=quiet):
                if not len(piece):
                    continue
                inputs = tagger.inputs(piece)
                if not batches:
                    # what is done at the first call only is no time of a jet
                    _timed(tagger, inputs.part(torch.arange(min(settings.batch, len(piece)))), settings.batch)
                answer, times = _timed(tagger, inputs, settings.batch)
                probabilities.append(answer.softmax(-1).numpy()[:, order])
                batches.append(times)
                labels.append(_labels(piece, tagger.classes, classes, paths))
                lengths.append(piece.lengths)
                for observer, values in observers.items():
                    if observer in piece.observers:
                        values.append(piece.observers[observer].astype(np.float32))
        if not batches:
            raise SubquadError(f"{paths[0]} …: the card of {folder} selects no jet")
        scored.append(
            Scored(
                model=name,
                source=str(folder),
                seed=configs[folder]["seed"],
                probabilities=np.concatenate(probabilities),
                labels=np.concatenate(labels),
                particles=np.concatenate(lengths).astype(np.float32),
                batches=np.concatenate(batches),
                **{key.removeprefix("jet_"): np.concatenate(values) for key, values in observers.items() if values},
            )
        )
    return scored


def _timed(tagger: Tagger, inputs: Inputs, batch: int) -> tuple[torch.Tensor, np.ndarray]:
    """Return the logits; and of each batch the mean number of particles, the jets, and the seconds of the net."""
    clock = [time.perf_counter()]
    answer = logits(tagger.net, inputs, tagger.settings, batch, advance=lambda _: clock.append(time.perf_counter()))
    sizes = [(inputs.lengths[rows].float().mean().item(), len(rows)) for rows in plan_by_length(inputs.lengths, batch)]
    return answer, np.column_stack([sizes, np.diff(clock)])


def _labels(piece: Piece, own: Sequence[str], classes: Sequence[str], paths: Sequence[Path]) -> np.ndarray:
    """Return the labels as indices into `classes`; where the files have numbers, they count the tagger's own."""
    names = piece.classes or own
    new = sorted({names[i] for i in np.unique(piece.labels)} - set(classes))
    if new:
        raise SubquadError(
            f"{paths[0]} …: jets of {', '.join(new)}, which the taggers do not know ({', '.join(classes)})"
        )
    index = np.array([classes.index(name) if name in classes else -1 for name in names])
    return index[piece.labels]


def _own_test(folder: Path, name: str, config: Mapping[str, Any], classes: Sequence[str]) -> list[Scored]:
    """Return what the run kept of its test jets: the net's answers, and those of boosting where it was fitted."""
    if not (folder / SCORES).is_file():
        raise SubquadError(f"{folder}: keeps no test jets of its own; give --files")
    kept = {key: tensor.numpy() for key, tensor in read_tensors(folder / SCORES).items()}
    order = [config["classes"].index(one) for one in classes]
    shared = {
        **{"source": str(folder), "seed": config["seed"], "pt": kept.get("pt")},
        **{"labels": np.argsort(order)[kept["labels"]], "sdmass": kept.get("sdmass"), "particles": kept["particles"]},
    }
    answers = {name: "probabilities", BOOSTING: "probabilities_boosting"}
    return [
        Scored(model=model, probabilities=kept[key][:, order], **shared)
        for model, key in answers.items()
        if key in kept
    ]


def _foreign(
    scores: Sequence[str], taken: Container[str], classes: Sequence[str]
) -> list[tuple[Scored, tuple[str, ...]]]:
    """Return what others have scored; their classes are in the order of `classes`, or of the first file."""
    others: list[tuple[Scored, tuple[str, ...]]] = []
    for given in scores:
        name, _, path = given.rpartition("=")
        name = name or Path(path).stem
        if name in taken:
            raise SubquadError(f"--scores {given}: a run has the name {name!r}; give the scores another")
        others.append(foreign(Path(path), name, classes=classes or (others[0][1] if others else None)))
    return others


def _background(given: str | None, configs: Mapping[Path, Mapping[str, Any]], classes: Sequence[str]) -> str:
    if given is not None and given not in classes:
        raise unknown("class", given, classes)
    first = next(iter(configs.values()), {}).get("background")
    return given or first or ("QCD" if "QCD" in classes else classes[0])


def _reference(given: str | None, scored: Sequence[Scored]) -> str:
    names = list(dict.fromkeys(one.model for one in scored))
    if given is not None and given not in names:
        raise unknown("model", given, names)
    return given or names[0]


def _notes(configs: Mapping[Path, Mapping[str, Any]], paths: Sequence[Path], scored: Sequence[Scored]) -> list[str]:
    """Return what a reader must know before believing the figures."""
    notes = []
    asked = {path.resolve() for path in paths}
    for folder, config in configs.items():
        learnt = {Path(path).resolve() for path in config["files"]} & asked
        if learnt:
            notes.append(
                f"{folder} has learnt from jets of {len(learnt)} of the {len(paths)} files: its figures are too good; "
                "give files that it has not seen, or none: then its own test jets are taken."
            )
        if "estimator" in config:
            notes.append(
                f"{folder} has learnt from jets in memory: nobody knows here whether it has seen these, "
                "and its figures would then be too good."
            )
    first = scored[0]
    other = [one for one in scored[1:] if len(one.labels) != len(first.labels) or (one.labels != first.labels).any()]
    if other:
        notes.append(
            f"Not all are measured on the same jets: {', '.join(dict.fromkeys(one.source for one in other))} on others "
            f"than {first.source}."
        )
    return notes


def _figures(scored: Sequence[Scored], classes: Sequence[str], background: str) -> list[dict[str, Any]]:
    models = []
    for model in grouped(scored):
        trainings = [
            {
                **{"source": one.source, "seed": one.seed},
                "jets": dict(zip(classes, np.bincount(one.labels, minlength=len(classes)).tolist(), strict=True)),
                "milliseconds_per_jet": None
                if one.batches is None
                else 1e3 * one.batches[:, 2].sum() / one.batches[:, 1].sum(),
                **scores_of(one.probabilities, one.labels, classes, background),
            }
            for one in model.trainings
        ]
        shown = list(model.trainings).index(model.shown)
        models.append({"name": model.name, "spread": spread(trainings), "shown": shown, "trainings": trainings})
    return models


def _write(out: Path, evaluation: dict[str, Any], scored: Sequence[Scored]) -> None:
    """Write all into a folder beside `out`, and put it in its place when it is whole."""
    drawings, measured = draw(evaluation, grouped(scored))
    for model in evaluation["models"]:
        model.update(measured[model["name"]])
    with atomic(out) as folder:
        pdf(folder, evaluation, drawings)
        (folder / REPORT).write_text(whole_page(evaluation, drawings), encoding="utf-8")
        write_json(folder / METRICS, evaluation)
        if out.is_dir():
            shutil.rmtree(out)
