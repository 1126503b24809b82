"""The physicist's two calls: fit a tagger on ROOT files, and score ROOT files with it."""

import dataclasses
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from subquad.errors import SubquadError, require, unknown
from subquad.hep.baselines import boosting
from subquad.hep.data import OBSERVERS, Jets, expand, read, read_pieces, selected
from subquad.hep.features import JET_FEATURES, RAW_FEATURES, STANDARD_FEATURES, jet_features
from subquad.hep.metrics import scores_of
from subquad.hep.report import SCORES, card, history_of, sections_of
from subquad.hep.settings import PRESETS, FitSettings, NetSettings, PredictSettings
from subquad.hep.tagger import Inputs, Scale, build, collate, epoch_plan, from_tensors, inputs_of, logits
from subquad.nn.graph import PCN
from subquad.progress import say
from subquad.report import page
from subquad.train.artifact import atomic, fingerprint, load_config, load_tensors, open_run, write_tensors
from subquad.train.loop import Backward, LoopSettings, Outcome, train
from subquad.train.optim import parameter_groups, schedule

__all__ = ["fit", "listed", "predict", "using_threads"]

Files = Path | str | Iterable[Path | str]

LEAST_JETS = 5
"""Of one class: fewer cannot be split into three parts."""


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

    Args:
        files: ROOT files in JetClass's layout: names, or patterns such as `jets/*.root`.
        settings: of the net and of the fit.
        out: the folder to write; an unfinished run in it goes on.
        test: files with the jets to measure on; without it a part of `files`, drawn by the seed.
        seed: of the split, the first weights and the order of the jets.
        force: replace what is in the folder.
        quiet: no progress.

    Raises:
        SubquadError: files or jets that cannot be used, or a folder that cannot be written to.
    """
    began = time.perf_counter()
    paths, test_paths = expand(listed(files)), expand(listed(test)) if listed(test) else []
    jets = read(paths, tree=settings.tree, title="reading jets", quiet=quiet)
    held_out = read(test_paths, tree=settings.tree, title="reading test jets", quiet=quiet) if test_paths else None
    jets, held_out = _classes_there(jets, held_out, paths)
    background = _background(settings.background, jets.classes)
    parts = _split(jets, held_out, settings, seed)
    run = open_run(
        out,
        kind="hep",
        settings={
            **dataclasses.asdict(settings),
            **{"seed": seed, "data": fingerprint(*paths, *test_paths)},
            **{"files": [str(path) for path in paths], "test": [str(path) for path in test_paths]},
        },
        force=force,
    )
    seconds = {"reading": time.perf_counter() - began}
    net_settings = PRESETS[settings.preset]
    scale = Scale.of(jet_features(parts["train"])) if net_settings.has_observers else None
    inputs = {name: inputs_of(part, net_settings, scale) for name, part in parts.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build(net_settings, len(jets.classes))
    with using_threads(settings.threads):
        outcome = _train(net, inputs, settings, directory=run.directory, seed=seed, quiet=quiet)
    seconds["training"] = outcome.seconds
    began = time.perf_counter()
    probabilities = logits(net, inputs["test"], net_settings).double().softmax(-1).numpy()
    seconds["predicting"] = time.perf_counter() - began
    labels = parts["test"].labels
    metrics: dict[str, Any] = {"test": scores_of(probabilities, labels, jets.classes, background)}
    rival = None
    if not settings.net_alone:
        began = time.perf_counter()
        say("fitting gradient boosting beside it", quiet=quiet)
        rival = boosting(parts["train"], parts["test"], seed=seed)
        metrics["test_boosting"] = scores_of(rival, labels, jets.classes, background)
        seconds["boosting"] = time.perf_counter() - began
    metrics |= {
        "jets": {name: len(part) for name, part in parts.items()},
        "seconds": {**seconds, "total": sum(seconds.values())},
        "jets_per_second": {
            "train": len(parts["train"]) * settings.epochs / max(outcome.seconds, 1e-9),
            "predict": len(labels) / max(seconds["predicting"], 1e-9),
        },
        **{"parameters": sum(p.numel() for p in net.parameters())},
        **{"steps": outcome.steps, "best_step": outcome.best_step, "validation": outcome.best},
    }
    config = {
        **{"classes": jets.classes, "background": background, "preset": settings.preset, "seed": seed},
        "net": dataclasses.asdict(net_settings),
        "particle_features": RAW_FEATURES if net_settings.features == "raw" else STANDARD_FEATURES,
        "jet_features": JET_FEATURES if net_settings.has_observers else (),
        "split": _split_words(settings, seed, is_given=held_out is not None),
        **{"data": run.settings["data"], "files": run.settings["files"], "test": run.settings["test"]},
    }
    scores = _scores(probabilities, rival, parts["test"])
    write_tensors(run.directory / SCORES, {name: torch.from_numpy(value) for name, value in scores.items()})
    sections = sections_of(metrics, config, scores, history_of(run.directory))
    run.finish(
        config=config,
        tensors={**net.state_dict(), **(scale.tensors() if scale else {})},
        metrics=metrics,
        card=card(metrics, config),
        report=page(
            "Jet tagger", lead=f"PCN on {', '.join(map(str, paths[:3]))}{' …' * (len(paths) > 3)}", sections=sections
        ),
    )
    return metrics


def predict(
    model: Path | str,
    files: Files,
    settings: PredictSettings = PredictSettings(),
    *,
    out: Path | str,
    force: bool = False,
    quiet: bool = False,
) -> Path:
    """Score the jets of ROOT files and write them as one ROOT file, whose path is returned.

    Its tree `Events` has one entry per jet, in the order of the files and entries: `score_<class>` (they add up to 1),
    the jet's observers, and the labels where all files have them. The files are read piece by piece.

    Raises:
        SubquadError: no such model, files that cannot be used, or `out` is there and `force` is off.
    """
    out = Path(out)
    config = load_config(model, "hep")
    paths = expand(listed(files))
    if out.resolve() in {path.resolve() for path in paths}:
        raise SubquadError(f"{out}: is one of the files to read; give another --out")
    if out.exists() and not force:
        raise SubquadError(f"{out}: is there already; give another --out, or replace it with --force")
    net_settings, classes = NetSettings(**config["net"]), config["classes"]
    net, scale = from_tensors(load_tensors(model), net_settings, len(classes))
    pieces = read_pieces(paths, tree=settings.tree, needs_labels=False, title="scoring jets", quiet=quiet)
    uproot = require("uproot", extra="hep")
    with atomic(out) as temporary, uproot.recreate(temporary) as file:
        tree = None
        for jets in pieces:
            out_of_net = logits(net, inputs_of(jets, net_settings, scale), net_settings, settings.batch)
            columns = _columns(out_of_net.softmax(-1).numpy(), classes, jets)
            if tree is None:
                tree = file.mktree("Events", {name: column.dtype for name, column in columns.items()})
            tree.extend(columns)
    return out


def listed(files: Files) -> Sequence[Path | str]:
    """Return one file, or several, as several."""
    return [files] if isinstance(files, str | Path) else list(files)


def _classes_there(jets: Jets, held_out: Jets | None, paths: Sequence[Path]) -> tuple[Jets, Jets | None]:
    """Keep the classes that the jets have; those of the test must be among them."""
    counts = np.bincount(jets.labels, minlength=len(jets.classes))
    there = [name for name, count in zip(jets.classes, counts, strict=True) if count]
    if len(there) < 2:
        raise SubquadError(f"all {len(jets)} jets of {paths[0]} … are {there[0]}; a tagger needs two classes or more")
    few = [f"{name} has {count}" for name, count in zip(jets.classes, counts, strict=True) if 0 < count < LEAST_JETS]
    if few:
        raise SubquadError(f"too few jets: {', '.join(few)}; a class needs {LEAST_JETS} or more, or none")

    def renamed(jets: Jets) -> Jets:
        index = np.array([there.index(name) if name in there else -1 for name in jets.classes])
        return dataclasses.replace(jets, labels=index[jets.labels], classes=tuple(there))

    if held_out is not None:
        new = sorted({held_out.classes[i] for i in np.unique(held_out.labels)} - set(there))
        if new:
            raise SubquadError(f"the test files have jets of {', '.join(new)}, and the files to fit on have none")
        held_out = renamed(held_out)
    return renamed(jets), held_out


def _background(given: str | None, classes: Sequence[str]) -> str:
    if given is not None and given not in classes:
        raise unknown("class", given, classes)
    return given or ("QCD" if "QCD" in classes else classes[0])


def _split(jets: Jets, held_out: Jets | None, settings: FitSettings, seed: int) -> dict[str, Jets]:
    """Return train, validation and test: of each class the same parts, drawn by the seed."""
    generator = np.random.default_rng(seed)
    part = np.zeros(len(jets), np.int64)
    for label in range(len(jets.classes)):
        rows = generator.permutation(np.flatnonzero(jets.labels == label))
        test = 0 if held_out is not None else max(1, round(settings.test_part * len(rows)))
        part[rows[:test]] = 2
        part[rows[test : test + max(1, round(settings.validation_part * len(rows)))]] = 1
    parts = {name: selected(jets, np.flatnonzero(part == i)) for i, name in enumerate(("train", "validation", "test"))}
    return parts if held_out is None else {**parts, "test": held_out}


def _split_words(settings: FitSettings, seed: int, *, is_given: bool) -> str:
    validation = f"{100 * settings.validation_part:g} % for validation"
    if is_given:
        return (
            f"Test jets from files of their own; of the others {validation}, of each class alike, drawn by seed {seed}"
        )
    return f"Of each class {100 * settings.test_part:g} % for the test and {validation}, drawn by seed {seed}"


def _train(
    net: PCN, inputs: dict[str, Inputs], settings: FitSettings, *, directory: Path, seed: int, quiet: bool
) -> Outcome:
    net_settings, learnt, held = PRESETS[settings.preset], inputs["train"], inputs["validation"]
    rows = torch.arange(len(learnt))

    def batches(epoch: int) -> Sequence[Tensor]:
        return epoch_plan(rows, learnt.lengths, settings.batch, seed=seed, epoch=epoch)

    def step(model: torch.nn.Module, item: Tensor, backward: Backward) -> dict[str, Tensor | float]:
        batch = collate(learnt, item, net_settings, next(model.parameters()).device)
        answer = model(batch.x, batch.points, batch.mask, observers=batch.observers)
        loss = torch.nn.functional.cross_entropy(answer, batch.labels)
        backward(loss)
        return {"loss": loss, "accuracy": (answer.detach().argmax(-1) == batch.labels).float().mean()}

    def validate(model: torch.nn.Module) -> dict[str, float]:
        assert isinstance(model, PCN)
        answer = logits(model, held, net_settings)
        return {
            "accuracy": (answer.argmax(-1) == held.labels).float().mean().item(),
            "loss": torch.nn.functional.cross_entropy(answer, held.labels).item(),
        }

    steps_of_epoch = len(batches(0))
    groups = parameter_groups(net, learning_rate=settings.rate, weight_decay=settings.weight_decay)
    return train(
        net,
        batches=batches,
        step=step,
        optimizer=torch.optim.AdamW(groups),
        settings=LoopSettings(
            steps=steps_of_epoch * settings.epochs, evaluate_every=steps_of_epoch, precision=settings.precision
        ),
        # the paper trains at one rate
        schedule=schedule("constant" if settings.preset == "paper" else "one_cycle"),
        validate=validate,
        monitor="accuracy",
        maximize=True,
        directory=directory,
        name="fit",
        seed=seed,
        quiet=quiet,
    )


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Compute with so many threads, and afterwards with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _scores(probabilities: np.ndarray, rival: np.ndarray | None, jets: Jets) -> dict[str, np.ndarray]:
    return {
        "probabilities": probabilities.astype(np.float32),
        **({} if rival is None else {"probabilities_boosting": rival.astype(np.float32)}),
        "labels": jets.labels,
        "pt": jets.observers[:, OBSERVERS.index("jet_pt")].copy(),
        "sdmass": jets.observers[:, OBSERVERS.index("jet_sdmass")].copy(),
        "particles": jets.lengths.astype(np.float32),
    }


def _columns(probabilities: np.ndarray, classes: Sequence[str], jets: Jets) -> dict[str, np.ndarray]:
    labels = {f"label_{name}": (jets.labels == i).astype(np.int32) for i, name in enumerate(jets.classes)}
    return {
        **{f"score_{name}": probabilities[:, i].astype(np.float32) for i, name in enumerate(classes)},
        **{name: jets.observers[:, i] for i, name in enumerate(OBSERVERS)},
        **labels,
    }
