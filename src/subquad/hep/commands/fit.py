"""The physicist's two calls: fit a tagger on ROOT files, and score ROOT files with it."""

import dataclasses
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from subquad.errors import SubquadError, require, unknown
from subquad.hep.data.chunks import Piece
from subquad.hep.data.formats import expand
from subquad.hep.data.prefetch import Waiting
from subquad.hep.data.preparation import JETS, Plan, Prepared, plan_of, prepare, put_aside, wait_for
from subquad.hep.metrics.predictions import TEST_SCORES
from subquad.hep.metrics.scores import scores_of
from subquad.hep.models.boosting import MOST_JETS, boosting
from subquad.hep.models.tagger import Inputs, Net, build, logits, using_threads
from subquad.hep.models.trained import open_tagger
from subquad.hep.models.training import fit_net
from subquad.hep.plots.fit_page import model_card, sections_of
from subquad.hep.settings import FitSettings, NetSettings, PredictSettings
from subquad.progress import say
from subquad.reporting.page import page
from subquad.runs.folder import METRICS, Run, open_run
from subquad.runs.history import read_history
from subquad.runs.storage import atomic, plain, read_json, write_tensors
from subquad.train.distributed import processes
from subquad.train.loop import TrainingResult

__all__ = ["fit", "listed", "predict"]

Files = Path | str | Iterable[Path | str]


def fit(
    files: Files,
    settings: FitSettings = FitSettings(),
    *,
    out: Path | str,
    test: Files = (),
    seed: int = 0,
    force: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Fit a tagger on labelled jets, measure it on others beside gradient boosting, and return the figures.

    The jets are read once, and put aside in the run's folder until it is finished; so memory stays bounded. Of several
    processes (`torchrun`) each learns from its share of every epoch, and the first one measures and writes.

    Args:
        files: ROOT, Parquet, HDF5 or NPZ files in JetClass's layout, or as `settings.card` says: names, or patterns
            such as `jets/*.root`.
        settings: of the net and of the fit.
        out: the folder to write; an unfinished run in it goes on.
        test: files with the jets to measure on; without it a part of `files`, drawn by the seed.
        seed: of the split, the first weights and the order of the jets.
        force: replace what is in the folder.
        quiet: no progress.

    Raises:
        SubquadError: files or jets that cannot be used, or a folder that cannot be written to.
    """
    began, out, group = time.perf_counter(), Path(out), processes()
    # the first process speaks and writes for all
    quiet = quiet or not group.is_main_process
    paths, test_paths = expand(listed(files)), expand(listed(test)) if listed(test) else []
    plan = plan_of(paths, test_paths, settings.net, settings)
    run, prepared, background = _begin(plan, settings, out, seed=seed, force=force, quiet=quiet)
    seconds = {"reading": time.perf_counter() - began}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        net = build(plan.net, len(prepared.classes), prepared.layout)
    with using_threads(settings.threads):
        waiting = Waiting()
        outcome = fit_net(
            net,
            prepared.parts,
            settings,
            net_settings=plan.net,
            waiting=waiting,
            directory=run.directory,
            seed=seed,
            quiet=quiet,
        )
        seconds |= {"training": outcome.seconds, "waiting": waiting.seconds}
        if group.is_main_process:
            _finish(
                run,
                net,
                prepared,
                net_settings=plan.net,
                settings=settings,
                outcome=outcome,
                seconds=seconds,
                background=background,
                seed=seed,
                quiet=quiet,
            )
    wait_for((run.directory / METRICS).is_file)
    return read_json(run.directory / METRICS)


def _begin(
    plan: Plan, settings: FitSettings, out: Path, *, seed: int, force: bool, quiet: bool
) -> tuple[Run, Prepared, str]:
    """Return the run, its jets, and the class that the others are told from."""
    group = processes()
    asked = {
        **dataclasses.asdict(settings),
        **{"seed": seed, "data": plan.data, "processes": group.num_processes},
        **{"files": [str(path) for path in plan.files], "test": [str(path) for path in plan.test]},
    }
    # a folder that will not do is refused before the jets are read, a new one made after all else was found good
    is_begun = not force and out.exists() and (not out.is_dir() or any(out.iterdir()))
    group.wait_for_everyone()
    run = open_run(out, kind="hep", settings=asked) if is_begun else None
    with put_aside(plan, settings, out, quiet=quiet) as folder:
        prepared = prepare(folder, plan, settings, seed)
        background = _background(settings.background, prepared.classes)
        with group.main_process_first():
            run = run or open_run(out, kind="hep", settings=asked, force=force and group.is_main_process)
        # all have mapped the jets
        group.wait_for_everyone()
        if group.is_main_process and folder != run.directory / JETS:
            shutil.rmtree(run.directory / JETS, ignore_errors=True)
            folder.rename(run.directory / JETS)
    return run, prepared, background


def _finish(
    run: Run,
    net: Net,
    prepared: Prepared,
    *,
    net_settings: NetSettings,
    settings: FitSettings,
    outcome: TrainingResult,
    seconds: dict[str, float],
    background: str,
    seed: int,
    quiet: bool,
) -> None:
    """Measure the net and its rival on the test jets, and write all that the run leaves behind."""
    parts, classes, layout = prepared.parts, prepared.classes, prepared.layout
    began = time.perf_counter()
    probabilities = logits(net, parts["test"], net_settings).double().softmax(-1).numpy()
    seconds["predicting"] = time.perf_counter() - began
    labels = parts["test"].labels.numpy()
    metrics: dict[str, Any] = {"test": scores_of(probabilities, labels, classes, background)}
    rival = None
    if not settings.net_alone:
        began = time.perf_counter()
        say("fitting gradient boosting beside it", quiet=quiet)
        rival = _boosting(parts, len(classes), seed)
        metrics["test_boosting"] = scores_of(rival, labels, classes, background)
        seconds["boosting"] = time.perf_counter() - began
    metrics |= {
        "jets": {name: len(part) for name, part in parts.items()},
        # the waiting is a part of the training
        "seconds": {**seconds, "total": sum(seconds.values()) - seconds["waiting"]},
        "jets_per_second": {
            "train": len(parts["train"]) * settings.epochs / max(outcome.seconds, 1e-9),
            "predict": len(labels) / max(seconds["predicting"], 1e-9),
        },
        **{"parameters": sum(p.numel() for p in net.parameters())},
        **{"steps": outcome.steps, "best_step": outcome.best_step, "validation": outcome.best},
    }
    config = {
        **{"classes": classes, "background": background, "preset": settings.preset, "seed": seed},
        "net": dataclasses.asdict(net_settings),
        "particle_features": layout.features.names,
        "jet_features": layout.jet_features if net_settings.has_observers else (),
        "card": None if layout.card is None else {"name": layout.card.name, "options": plain(layout.card.options)},
        "split": _split_words(settings, seed, is_given=bool(run.settings["test"])),
        **{"data": run.settings["data"], "files": run.settings["files"], "test": run.settings["test"]},
    }
    scores = _scores(probabilities, rival, prepared)
    write_tensors(run.directory / TEST_SCORES, {name: torch.from_numpy(value) for name, value in scores.items()})
    sections = sections_of(metrics, config, scores, read_history(run.directory))
    scale = parts["train"].scale
    shutil.rmtree(run.directory / JETS, ignore_errors=True)
    files = run.settings["files"]
    run.finish(
        config=config,
        tensors={**net.state_dict(), **(scale.tensors() if scale else {})},
        metrics=metrics,
        card=model_card(metrics, config),
        report=page("Jet tagger", lead=f"PCN on {', '.join(files[:3])}{' …' * (len(files) > 3)}", sections=sections),
    )


def _boosting(parts: dict[str, Inputs], classes: int, seed: int) -> np.ndarray:
    learnt = parts["train"]
    some = learnt.part(torch.arange(0, len(learnt), -(-len(learnt) // MOST_JETS)))
    return boosting(
        learnt.jet_features[some.place].numpy(),
        some.labels.numpy(),
        parts["test"].jet_features[parts["test"].place].numpy(),
        classes=classes,
        seed=seed,
        weights=some.weights.numpy(),
    )


def predict(
    model: Path | str,
    files: Files,
    settings: PredictSettings = PredictSettings(),
    *,
    out: Path | str,
    force: bool = False,
    quiet: bool = False,
) -> Path:
    """Score the jets of files and write them as one ROOT file, whose path is returned.

    Its tree `Events` has one entry per jet, in the order of the files and entries: `score_<class>` (they add up to 1),
    the jet's observers, and the labels where all files have them. The files are read piece by piece; where the tagger
    was fitted with a data card, the card in the model's folder says how, and which jets.

    Raises:
        SubquadError: no such model, files that cannot be used, or `out` is there and `force` is off.
    """
    out, tagger = Path(out), open_tagger(model)
    tagger.net.to(processes().device)
    paths = expand(listed(files))
    if out.resolve() in {path.resolve() for path in paths}:
        raise SubquadError(f"{out}: is one of the files to read; give another --out")
    if out.exists() and not force:
        raise SubquadError(f"{out}: is there already; give another --out, or replace it with --force")
    uproot = require("uproot", extra="hep")
    with atomic(out) as temporary, uproot.recreate(temporary) as file:
        tree = None
        for piece in tagger.pieces(paths, tree=settings.tree, needs_labels=False, quiet=quiet):
            out_of_net = logits(tagger.net, tagger.inputs(piece), tagger.settings, settings.batch)
            columns = _columns(out_of_net.softmax(-1).numpy(), tagger.classes, piece)
            if tree is None:
                tree = file.mktree("Events", {name: column.dtype for name, column in columns.items()})
            tree.extend(columns)
    return out


def listed(files: Files) -> Sequence[Path | str]:
    """Return one file, or several, as several."""
    return [files] if isinstance(files, str | Path) else list(files)


def _background(given: str | None, classes: Sequence[str]) -> str:
    if given is not None and given not in classes:
        raise unknown("class", given, classes)
    return given or ("QCD" if "QCD" in classes else classes[0])


def _split_words(settings: FitSettings, seed: int, *, is_given: bool) -> str:
    validation = f"{100 * settings.validation_part:g} % for validation"
    if is_given:
        return (
            f"Test jets from files of their own; of the others {validation}, of each class alike, drawn by seed {seed}"
        )
    return f"Of each class {100 * settings.test_part:g} % for the test and {validation}, drawn by seed {seed}"


def _scores(probabilities: np.ndarray, rival: np.ndarray | None, prepared: Prepared) -> dict[str, np.ndarray]:
    test = prepared.parts["test"]
    observed = {name: prepared.columns("test", f"jet_{name}") for name in ("pt", "sdmass")}
    return {
        "probabilities": probabilities.astype(np.float32),
        **({} if rival is None else {"probabilities_boosting": rival.astype(np.float32)}),
        "labels": test.labels.numpy(),
        **{name: column for name, column in observed.items() if column is not None},
        "particles": test.lengths.numpy().astype(np.float32),
    }


def _columns(probabilities: np.ndarray, classes: Sequence[str], piece: Piece) -> dict[str, np.ndarray]:
    # classes that are numbers have no names in the files
    numbered = {name: int(name) for name in classes} if not piece.classes and (piece.labels >= 0).all() else {}
    labels = {name: i for i, name in enumerate(piece.classes)} or numbered
    return {
        **{f"score_{name}": probabilities[:, i].astype(np.float32) for i, name in enumerate(classes)},
        **piece.observers,
        **{f"label_{name}": (piece.labels == number).astype(np.int32) for name, number in labels.items()},
    }
