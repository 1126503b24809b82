"""`fit` and `predict`: from a table to a saved model with its report, and from a model to predictions."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from subquad.bio import baselines, report
from subquad.bio.baselines import Fitted, Problem
from subquad.bio.data import encode, find_sequences, find_target, letters_of, read_frame, read_measurements
from subquad.bio.metrics import MAIN, difference
from subquad.bio.net import BioNet
from subquad.bio.settings import ALPHABETS, FitSettings
from subquad.bio.split import PARTS, find_split, given_split, random_split
from subquad.bio.training import member_scores, scores, steps_for, train_member
from subquad.errors import SubquadError, all_of
from subquad.progress import say
from subquad.train.artifact import (
    Run,
    atomic,
    fingerprint,
    load_config,
    load_tensors,
    open_run,
    plain,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)

__all__ = ["fit", "predict"]

RIVALS = ("ridge", "boosting")


def fit(
    table: Path | str,
    settings: FitSettings | None = None,
    *,
    out: Path | str,
    seed: int = 0,
    force: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Fit ridge, boosting and the net on one split, save the net, and return the figures of `metrics.json`.

    Args:
        table: CSV or TSV, plain or gzipped, with full sequences and measurements.
        settings: which columns to read, and how to learn.
        out: the folder to write; an unfinished run with the same settings in it goes on.
        seed: of the random split, the order of the rows and the start of the net.
        force: replace what is in the folder.
        quiet: no progress and no remarks.

    Raises:
        SubquadError: the table cannot be read, or the folder is taken; nothing has been written then.
    """
    began = time.monotonic()
    settings, table = settings or FitSettings(), Path(table)
    read = _read(table, settings, seed=seed, quiet=quiet)
    problem, about = read.problem, read.about
    asked = {**plain(settings), "seed": seed, "table": table.name, "fingerprint": about["fingerprint"]}
    run = open_run(out, kind="bio", settings=asked, force=force)
    if run.is_resumed:
        say(f"{run.directory}: going on with an unfinished run", quiet=quiet)
    fitted, seconds = {}, {"read": time.monotonic() - began}
    matrices = None
    for name in RIVALS:
        say(f"fitting {name} ({len(problem.split['train']):,} rows) …", quiet=quiet)
        if not (run.directory / f"{name}.json").is_file() and matrices is None:
            matrices = {part: baselines.feature_matrix(problem, part) for part in PARTS}
        fitted[name], seconds[name] = _rival(run, name, problem, settings, matrices=matrices, seed=seed)
        say(f"{name}: validation {MAIN[problem.task]} {fitted[name].chosen['validation']:.3f}", quiet=quiet)
    nets, about["net"], seconds["net"] = _nets(run, problem, settings, fitted["ridge"], seed=seed, quiet=quiet)
    members = np.stack([_in_units(problem, member_scores(net, problem, "test")) for net in nets])
    predictions = {"net": members.mean(0)} | {name: fitted[name].predictions["test"] for name in RIVALS}
    truth = problem.y[problem.split["test"]]
    about["net_above"] = {
        name: difference(truth, predictions["net"], predictions[name], task=problem.task) for name in RIVALS
    }
    about["chosen"] = {name: fitted[name].chosen for name in RIVALS}
    seconds["total"] = sum(seconds.values())
    metrics = {
        "test": {name: problem.figures("test", values) for name, values in predictions.items()},
        "rows": {part: len(problem.split[part]) for part in PARTS},
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "parameters": sum(parameter.numel() for net in nets for parameter in net.parameters()),
    }
    _finish(run, read, nets, metrics=metrics, predictions=predictions)
    return metrics


def predict(
    directory: Path | str,
    table: Path | str,
    *,
    out: Path | str,
    sequence: str | None = None,
    quiet: bool = False,
) -> pd.DataFrame:
    """Write the table with the net's predictions beside its columns, and return it.

    A regression adds `prediction`. Two classes add `prediction`, the probability of the second one, and
    `prediction_class`; more classes add `prediction`, the likeliest, and one `probability_CLASS` each. `prediction_std`
    is the spread of the members, where the model has several.

    Args:
        directory: the folder that `fit` wrote.
        table: CSV or TSV, plain or gzipped, with sequences.
        out: the file to write; `.tsv` and `.gz` at its end say how.
        sequence: column of the sequences; by default the one of the fit, else guessed.
        quiet: no remarks.

    Raises:
        SubquadError: the model or the table cannot be read; nothing has been written then.
    """
    config, out, table = load_config(directory, "bio"), Path(out), Path(table)
    frame = read_frame(table)
    taken = [name for name in frame.columns if name.startswith(("prediction", "probability_"))]
    if taken:
        raise SubquadError(f"{table}: has a column {taken[0]!r} already; rename it, so that it is not overwritten")
    if sequence is None and config["sequence"] in frame.columns:
        sequence = config["sequence"]
    column = find_sequences(table, frame, sequence)
    if column.is_guessed:
        say(f"sequences: column {column.name!r} (guessed; --sequence names another)", quiet=quiet)
    sequences = frame[column.name].str.strip().str.upper().tolist()
    codes = encode(table, sequences, config["alphabet"], length=config["length"])
    _say_unseen(codes, config, quiet=quiet)
    if config["positions"] is not None:
        codes = codes[:, config["positions"]]
    nets = _load_nets(directory, config)
    members = np.stack([scores(net, codes, task=config["task"]) for net in nets])
    frame = _with_predictions(frame, members, config)
    separator = "\t" if ".tsv" in out.suffixes else ","
    # the compression is that of the name, which the temporary file shares
    with atomic(out) as temporary:
        frame.to_csv(temporary, index=False, sep=separator)
    return frame


@dataclass(frozen=True, kw_only=True)
class _Read:
    problem: Problem
    about: dict[str, Any]
    """What `config.json` says of the data."""
    sequences: list[str]


def _read(table: Path, settings: FitSettings, *, seed: int, quiet: bool) -> _Read:
    frame = read_frame(table)
    split_name = find_split(table, frame, settings.split)
    sequence = find_sequences(table, frame, settings.sequence)
    taken = [name for name in (sequence.name, split_name) if name is not None]
    target = find_target(table, frame, settings.target, taken)
    frame[sequence.name] = frame[sequence.name].str.strip().str.upper()
    sequences = frame[sequence.name].tolist()
    alphabet, is_guessed = letters_of(sequences, settings.alphabet)
    (y, task, classes, has_target), codes = all_of(
        lambda: read_measurements(table, frame[target.name], settings.task),
        lambda: encode(table, sequences, alphabet),
    )
    for what, name, guessed in (
        ("sequences", f"column {sequence.name!r}", sequence.is_guessed),
        ("target", f"column {target.name!r}, a {task}", target.is_guessed or settings.task == "auto"),
        ("split", f"column {split_name!r}" if split_name else "at random", settings.split is None),
        ("alphabet", f"{alphabet} ({ALPHABETS[alphabet]})", is_guessed),
    ):
        say(f"{what}: {name}{' (guessed)' if guessed else ''}", quiet=quiet)
    kept = np.flatnonzero(has_target)
    if len(kept) < len(y):
        say(f"{len(y) - len(kept):,} rows without a measurement are left out", quiet=quiet)
    split = _split(table, frame.iloc[kept].reset_index(drop=True), split_name, sequence.name, settings, seed=seed)
    split = {part: kept[rows] for part, rows in split.items()}
    problem, about = _problem(
        table, codes, split, y=y, task=task, classes=classes, alphabet=alphabet, settings=settings
    )
    about |= {"sequence": sequence.name, "target": target.name, "split": split_name, "table": table.name}
    about |= {"seed": seed, "fingerprint": fingerprint(table)}
    if about["positions"] is not None and len(about["positions"]) < about["length"]:
        say(f"{len(about['positions'])} of {about['length']} positions vary and are looked at", quiet=quiet)
    return _Read(problem=problem, about=about, sequences=sequences)


def _split(
    table: Path, frame: pd.DataFrame, name: str | None, sequence: str, settings: FitSettings, *, seed: int
) -> dict[str, np.ndarray]:
    sequences = frame[sequence].tolist()
    if name is not None:
        return given_split(table, frame[name], sequences, validation_fraction=settings.validation_fraction, seed=seed)
    return random_split(
        sequences,
        test_fraction=settings.test_fraction,
        validation_fraction=settings.validation_fraction,
        seed=seed,
    )


def _problem(
    table: Path,
    codes: np.ndarray,
    split: dict[str, np.ndarray],
    *,
    y: np.ndarray,
    task: str,
    classes: list[str],
    alphabet: str,
    settings: FitSettings,
) -> tuple[Problem, dict[str, Any]]:
    for part, least in (("train", 10), ("validation", 2), ("test", 2)):
        if len(split[part]) < least:
            raise SubquadError(
                f"{table}: {len(split[part])} rows to use for {part}, and at least {least} are needed; add rows"
            )
    present = np.unique(y[split["train"]])
    if len(present) < max(2, len(classes)):
        absent = ", ".join(repr(name) for k, name in enumerate(classes) if k not in present)
        what = f"no training row of class {absent}" if classes else "all training rows have the same measurement"
        raise SubquadError(f"{table}: {what}; there is nothing to learn from")
    lengths = (codes >= 0).sum(1)
    is_even = bool((lengths == lengths[0]).all())
    positions = None
    if is_even and settings.preset == "auto":
        train = codes[split["train"]]
        positions = np.flatnonzero((train != train[0]).any(0))
        if not len(positions):
            raise SubquadError(f"{table}: all training sequences are the same; there is nothing to learn from")
        codes = np.ascontiguousarray(codes[:, positions])
    problem = Problem(
        codes=codes,
        y=y,
        split=split,
        task=task,
        classes=classes,
        letters=len(ALPHABETS[alphabet]),
        has_positions=is_even,
    )
    length = int(lengths[0]) if is_even else None
    about = {
        "task": task,
        "classes": classes,
        "alphabet": alphabet,
        "length": length if settings.preset == "auto" else None,
        "positions": None if positions is None else positions.tolist(),
        "preset": settings.preset,
        "members": settings.members,
        "standard": problem.standard,
    }
    if positions is not None:
        about["seen"] = [np.unique(column).tolist() for column in train.T]
    return problem, about


def _rival(
    run: Run, name: str, problem: Problem, settings: FitSettings, *, matrices: Any, seed: int
) -> tuple[Fitted, float]:
    """Return a fitted rival, from the run's folder where it is there, and the seconds that it took."""
    arrays, facts = run.directory / f"{name}.safetensors", run.directory / f"{name}.json"
    if not facts.is_file():
        began = time.monotonic()
        if name == "ridge":
            fitted = baselines.fit_ridge(problem, matrices)
        else:
            most = settings.boosting_iterations
            fitted = baselines.fit_boosting(problem, matrices, iterations=most, seed=seed)
        tensors = {f"prediction.{part}": value for part, value in fitted.predictions.items()}
        tensors |= {f"linear.{key}": value for key, value in fitted.linear.items()}
        write_tensors(arrays, {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in tensors.items()})
        write_json(facts, {"chosen": fitted.chosen, "seconds": time.monotonic() - began})
    # read back also when just fitted, so that a resumed run sees the very same numbers
    tensors = {key: tensor.numpy() for key, tensor in read_tensors(arrays).items()}
    said = read_json(facts)
    fitted = Fitted(
        predictions={key.split(".")[1]: value for key, value in tensors.items() if key.startswith("prediction.")},
        chosen=said["chosen"],
        linear={key.split(".")[1]: value for key, value in tensors.items() if key.startswith("linear.")},
    )
    return fitted, said["seconds"]


def _nets(
    run: Run, problem: Problem, settings: FitSettings, ridge: Fitted, *, seed: int, quiet: bool
) -> tuple[list[BioNet], list[dict[str, Any]], float]:
    nets, facts, seconds = [], [], 0.0
    for member in range(settings.members):
        net = _new_net(problem, settings.preset, seed + 1000 * member)
        mean, scale = problem.standard
        weight, bias = ridge.linear["weight"] / scale, (ridge.linear["bias"] - mean) / scale
        net.start_at(*(torch.from_numpy(x).float() for x in (weight, bias, ridge.linear["scale"])))
        outcome, is_better = train_member(
            net, problem, settings, member=member, seed=seed + 1000 * member, directory=run.directory, quiet=quiet
        )
        if not is_better:
            say("training did not improve on ridge on the validation rows: ridge's own weights are kept", quiet=quiet)
        nets.append(net)
        facts.append({"steps": steps_for(problem, settings), "best_step": outcome.best_step if is_better else 0})
        facts[-1]["validation"] = outcome.best if is_better else ridge.chosen["validation"]
        seconds += outcome.seconds
    return nets, facts, seconds


def _new_net(problem: Problem, preset: str, seed: int) -> BioNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BioNet(
            problem.letters,
            problem.outputs,
            preset=preset,
            positions=problem.codes.shape[1] if problem.has_positions else 0,
            is_curved=problem.task == "regression",
        )


def _in_units(problem: Problem, prediction: np.ndarray) -> np.ndarray:
    mean, scale = problem.standard
    return mean + scale * prediction


def _finish(
    run: Run, read: _Read, nets: list[BioNet], *, metrics: dict[str, Any], predictions: dict[str, np.ndarray]
) -> None:
    problem = read.problem
    rows = problem.split["test"]
    frame = pd.DataFrame({"row": rows + 1, "sequence": [read.sequences[row] for row in rows]})
    names = np.asarray(problem.classes, dtype=object)
    frame["measured"] = names[problem.y[rows].astype(int)] if problem.classes else problem.y[rows]
    for name, values in predictions.items():
        # of more than two classes the likeliest is shown
        frame[name] = values if values.ndim == 1 else names[values.argmax(1)]
    with atomic(run.directory / "test.csv") as temporary:
        frame.to_csv(temporary, index=False)
    tensors = {f"{k}.{name}": tensor for k, net in enumerate(nets) for name, tensor in net.state_dict().items()}
    history = report.read_history(run.directory)
    facts = {**read.about, "settings": run.settings}
    run.finish(
        config=read.about,
        tensors=tensors,
        metrics=metrics,
        card=report.card(metrics, facts),
        report=report.render(metrics, facts, frame, history),
    )


def _load_nets(directory: Path | str, config: dict[str, Any]) -> list[BioNet]:
    tensors, nets = load_tensors(directory), []
    classes = config["classes"]
    for member in range(config["members"]):
        net = BioNet(
            len(ALPHABETS[config["alphabet"]]),
            len(classes) if len(classes) > 2 else 1,
            preset=config["preset"],
            positions=len(config["positions"]) if config["positions"] is not None else 0,
            is_curved=config["task"] == "regression",
        )
        own = {name.removeprefix(f"{member}."): t for name, t in tensors.items() if name.startswith(f"{member}.")}
        try:
            net.load_state_dict(own)
        except RuntimeError as error:
            raise SubquadError(f"{directory}: the weights do not fit its config.json; fit again") from error
        nets.append(net.eval())
    return nets


def _say_unseen(codes: np.ndarray, config: dict[str, Any], *, quiet: bool) -> None:
    """Say how many sequences hold what the model never saw, and so cannot know."""
    if config["positions"] is None:
        return
    strange = np.zeros(len(codes), dtype=bool)
    for column, seen in zip(codes.T, config["seen"], strict=True):
        strange |= ~np.isin(column, seen)
    if strange.any():
        say(
            f"{strange.sum():,} of {len(codes):,} sequences hold a letter at a position where training had none such; "
            "their predictions leave it out of account or guess",
            quiet=quiet,
        )


def _with_predictions(frame: pd.DataFrame, members: np.ndarray, config: dict[str, Any]) -> pd.DataFrame:
    classes = config["classes"]
    mean, scale = config["standard"]
    members = members * scale + mean
    average = members.mean(0)
    if average.ndim == 1:
        frame["prediction"] = average
        if classes:
            frame["prediction_class"] = np.asarray(classes, dtype=object)[(average > 0.5).astype(int)]
        if len(members) > 1:
            frame["prediction_std"] = members.std(0, ddof=1)
        return frame
    frame["prediction"] = np.asarray(classes, dtype=object)[average.argmax(1)]
    for k, name in enumerate(classes):
        frame[f"probability_{name}"] = average[:, k]
    return frame
