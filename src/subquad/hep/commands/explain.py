"""The physicist's call: what does a fitted tagger look at? Minutes for some thousand jets, most of them for shuffling.

Axes: J jets, C classes, H features of a particle, G = 4 variables of a pair.
"""

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from subquad import __version__
from subquad.errors import SubquadError, unknown
from subquad.hep.data.formats import expand
from subquad.hep.explanation.displays import Display, chosen, displays_of
from subquad.hep.explanation.gradients import Attribution, Means, attribute
from subquad.hep.explanation.groups import grouped
from subquad.hep.explanation.permutation import Fallen, area, shuffled_features, shuffled_observers
from subquad.hep.explanation.sample import sample_of
from subquad.hep.models.tagger import Batch, Inputs, answer, collate, plan_by_length, using_threads
from subquad.hep.models.trained import Tagger, open_tagger
from subquad.hep.plots.explain_page import figures_of, page_of
from subquad.hep.settings import ExplainSettings
from subquad.nn.kinematic import KinematicPCN
from subquad.ops.kinematics import VARIABLES
from subquad.progress import say, track
from subquad.runs.storage import as_folder, atomic, plain, read_json, write_json

__all__ = ["explain", "look"]

KIND, JSON = "hep explanation", "explain.json"
OBSERVERS = "numbers of the jet"
"""What the group of them is called."""


def explain(
    run: Path | str,
    settings: ExplainSettings = ExplainSettings(),
    *,
    files: Path | str | list[Path | str],
    out: Path | str,
    only: str | None = None,
    seed: int = 0,
    force: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Say what a tagger looks at: graphs, features, particles and edges; return what is in `explain.json`.

    Args:
        run: the folder that `subquad hep fit` wrote.
        settings: of the sample.
        files: labelled jets.
        out: the folder to write: `explain.json`, `report.html` and `figures/`.
        only: explain this class alone; without it each jet's own class.
        seed: of the shuffles.
        force: replace what an earlier call wrote.
        quiet: no progress.

    Raises:
        SubquadError: a run, files or a class that cannot be used, or a folder in the way.
    """
    out = as_folder(out)
    _check_free(out, force)
    tagger = open_tagger(run)
    if only is not None and only not in tagger.classes:
        raise unknown("class", only, tagger.classes)
    paths = expand([files] if isinstance(files, str | Path) else files)
    inputs = sample_of(tagger, paths, settings, quiet=quiet)
    with using_threads(settings.threads):
        found, displays = look(tagger, inputs, settings, only=only, seed=seed, quiet=quiet)
    found = {
        "subquad": {"kind": KIND, "version": __version__, "settings": plain(settings)},
        **{"run": str(run), "files": [str(path) for path in paths], "class": only, "seed": seed},
        **found,
    }
    say("drawing", quiet=quiet)
    figures = figures_of(found, displays)
    with atomic(out) as folder:
        (folder / "figures").mkdir(parents=True)
        for name, figure in figures.items():
            figure.savefig(folder / "figures" / f"{name}.pdf", bbox_inches="tight")
        (folder / "report.html").write_text(page_of(found, figures), encoding="utf-8")
        write_json(folder / JSON, found)
        if out.is_dir():
            shutil.rmtree(out)
    return found


def _check_free(out: Path, force: bool) -> None:
    if not out.is_dir() or not any(out.iterdir()):
        return
    stamp = read_json(out / JSON).get("subquad") if (out / JSON).is_file() else None
    if not isinstance(stamp, dict) or stamp.get("kind") != KIND:
        raise SubquadError(f"{out}: not empty, and no {JSON} of ours is in it; name another folder with --out")
    if not force:
        raise SubquadError(f"{out}: holds an explanation; name another folder with --out, or replace it with --force")


def look(
    tagger: Tagger, inputs: Inputs, settings: ExplainSettings, *, only: str | None, seed: int, quiet: bool
) -> tuple[dict[str, Any], list[Display]]:
    """Return what the tagger looks at in these jets, and the jets to draw."""
    net, classes = tagger.net, tagger.classes
    plan = plan_by_length(inputs.lengths, settings.batch)
    batches = [collate(inputs, rows, tagger.settings) for rows in plan]
    labels = torch.cat([batch.labels for batch in batches]).numpy()
    number = None if only is None else classes.index(only)
    if number is not None and not (labels == number).any():
        raise SubquadError(f"none of the {len(labels)} jets is {only}; give files with such jets, or more --jets")
    with torch.no_grad():
        probabilities = torch.cat([answer(net, batch) for batch in batches]).double().softmax(-1).numpy()
    particles = torch.cat([batch.x[batch.mask] for batch in batches])
    observers = None if inputs.scale is None else torch.cat([b.observers for b in batches if b.observers is not None])
    means = Means(features=particles.mean(0), observers=None if observers is None else observers.mean(0))
    looked = _attributions(tagger, batches, number, means, quiet=quiet)
    counted = np.unique(labels) if number is None else np.array([number])
    of_classes = {classes[i]: labels == i for i in counted}
    names, of_jet = inputs.layout.features.names, inputs.layout.jet_features if inputs.scale is not None else ()
    shuffles: dict[str, Any] = {"repeats": settings.repeats, "seed": seed, "only": number}
    fallen, together = _shuffled(tagger, batches, (names, of_jet), **shuffles, quiet=quiet)
    is_counted = np.isin(labels, counted)
    found = {
        **{"classes": list(of_classes), "net": type(net).__name__, "jets": len(labels), "explained": is_counted.sum()},
        "accuracy": (probabilities.argmax(1) == labels)[is_counted].mean(),
        "auc": area(probabilities, labels, number),
        "graphs": _means_of_shares(looked.get("branches"), of_classes),
        "variables": _means_of_shares(looked.get("variables"), of_classes),
        "exponents": net.exponents.detach().tolist() if isinstance(net, KinematicPCN) else None,
        "features": _side_by_side(looked, of_classes, names, of_jet, fallen),
        "groups": _groups(looked, of_classes, names, together),
        "by_class": _by_class(looked, of_classes, names, of_jet),
    }
    # the batches stand in their own order
    order = torch.cat(list(plan))
    rows = [chosen(probabilities, labels, int(i), settings.displays) for i in counted]
    in_order = inputs.part(order)
    displays = [
        display
        for of_class in rows
        for display in displays_of(
            net, in_order, of_class, probabilities, settings=tagger.settings, classes=classes, means=means
        )
    ]
    return plain(found), displays


def _attributions(
    tagger: Tagger, batches: list[Batch], number: int | None, means: Means, *, quiet: bool
) -> dict[str, np.ndarray]:
    """Return [J, …] of what is known of each jet, by name."""
    found: dict[str, list[np.ndarray]] = {}
    with track("gradients", sum(len(batch.labels) for batch in batches), quiet=quiet) as advance:
        for batch in batches:
            target = batch.labels if number is None else torch.full_like(batch.labels, number)
            of_batch: Attribution = attribute(tagger.net, batch, target, means)
            for name in ("features", "observers", "branches", "variables"):
                value = getattr(of_batch, name)
                if value is not None:
                    found.setdefault(name, []).append(value.double().numpy())
            advance(len(batch.labels))
    return {name: np.concatenate(values) for name, values in found.items()}


def _shuffled(
    tagger: Tagger,
    batches: list[Batch],
    names: tuple[tuple[str, ...], tuple[str, ...]],
    *,
    repeats: int,
    seed: int,
    only: int | None,
    quiet: bool,
) -> tuple[dict[str, Fallen], dict[str, Fallen]]:
    """Return what is lost by each feature and each number of the jet, and by each group of them."""
    features, of_jet = names
    how: dict[str, Any] = {"repeats": repeats, "seed": seed, "only": only}
    singles, groups = {name: [i] for i, name in enumerate(features)}, grouped(features)
    with track("shuffling", len(singles) + len(groups), quiet=quiet) as advance:
        fallen = shuffled_features(tagger.net, batches, singles, advance=advance, **how)
        together = shuffled_features(tagger.net, batches, groups, advance=advance, **how)
    if of_jet:
        fallen |= shuffled_observers(tagger.net, batches, {f"jet: {name}": [i] for i, name in enumerate(of_jet)}, **how)
        together |= shuffled_observers(tagger.net, batches, {OBSERVERS: range(len(of_jet))}, **how)
    return fallen, together


def _moved(looked: Mapping[str, np.ndarray], of: np.ndarray) -> np.ndarray:
    """Return [H + F]: the shares of features and numbers of the jet, on average over some jets."""
    parts = [looked[name][of].mean(0) for name in ("features", "observers") if name in looked]
    moved = np.concatenate(parts)
    return moved / max(moved.sum(), 1e-300)


def _side_by_side(
    looked: Mapping[str, np.ndarray],
    of_classes: Mapping[str, np.ndarray],
    names: tuple[str, ...],
    of_jet: tuple[str, ...],
    fallen: Mapping[str, Fallen],
) -> dict[str, Any]:
    shares = _moved(looked, np.any(list(of_classes.values()), axis=0))
    listed = [*names, *(f"jet: {name}" for name in of_jet)]
    return {
        name: {"gradient": share, "permutation": asdict(fallen[name])}
        for name, share in zip(listed, shares, strict=True)
    }


def _groups(
    looked: Mapping[str, np.ndarray],
    of_classes: Mapping[str, np.ndarray],
    names: tuple[str, ...],
    together: Mapping[str, Fallen],
) -> dict[str, Any]:
    shares = _moved(looked, np.any(list(of_classes.values()), axis=0))
    places = {**grouped(names), OBSERVERS: list(range(len(names), len(shares)))}
    return {
        name: {"gradient": shares[places[name]].sum(), "permutation": asdict(entry)} for name, entry in together.items()
    }


def _by_class(
    looked: Mapping[str, np.ndarray],
    of_classes: Mapping[str, np.ndarray],
    names: tuple[str, ...],
    of_jet: tuple[str, ...],
) -> dict[str, dict[str, float]]:
    listed = [*names, *(f"jet: {name}" for name in of_jet)]
    return {label: dict(zip(listed, _moved(looked, of).tolist(), strict=True)) for label, of in of_classes.items()}


def _means_of_shares(shares: np.ndarray | None, of_classes: Mapping[str, np.ndarray]) -> dict[str, Any] | None:
    """Return the mean share of each variable by class and over all, of the jets that have any."""
    if shares is None:
        return None
    has_any = ~np.isnan(shares).any(1)
    parts = {**of_classes, "all": np.any(list(of_classes.values()), axis=0)}
    found = {}
    for label, of in parts.items():
        rows = shares[of & has_any]
        means = rows.mean(0).tolist() if len(rows) else [None] * len(VARIABLES)
        found[label] = {**dict(zip(VARIABLES, means, strict=True)), "jets": len(rows)}
    return found
