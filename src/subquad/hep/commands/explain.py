"""`subquad hep explain`: which inputs a tagger's predictions depend on. Minutes for some thousand jets.

Most of the time goes into permutations.

Axes: J jets, C classes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from subquad import __version__
from subquad.errors import SubquadError, unknown
from subquad.hep.data.batches import Batch, collate
from subquad.hep.data.fit_files import training_note
from subquad.hep.data.formats import Files, expand_files, list_files
from subquad.hep.data.store import JetDataset
from subquad.hep.explanation.attributions import attribute_all, input_means
from subquad.hep.explanation.displays import displays_of, select_jets
from subquad.hep.explanation.permutation import mean_auc
from subquad.hep.explanation.sample import read_sample
from subquad.hep.explanation.summary import (
    Features,
    by_class,
    by_columns,
    fractions_by_class,
    permute_all,
)
from subquad.hep.metrics.weighting import weight_note, weighted_mean
from subquad.hep.models.networks import Network, forward, using_threads
from subquad.hep.models.trained import TrainedTagger
from subquad.hep.plots.event_displays import JetDisplay
from subquad.hep.plots.explain_page import explain_figures, explain_page
from subquad.hep.settings import EXPLANATION, EXPLANATION_FILE, ExplainSettings
from subquad.nn.kinematic import KinematicNet
from subquad.progress import say
from subquad.runs.examples import run_folder
from subquad.runs.folder import REPORT
from subquad.runs.storage import check_not_inside, check_report_folder, plain, write_json, write_report_folder
from subquad.train.bucketing import batches_by_length


def explain(
    run: Path | str,
    settings: ExplainSettings | None = None,
    *,
    files: Files,
    out: Path | str,
    only: str | None = None,
    seed: int = 0,
    force: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Explain a tagger by attributions and permutation importance, and return the content of `explain.json`.

    Args:
        run: Folder that `subquad hep fit` wrote.
        settings: Size of the sample, permutations and displays; defaults if None.
        files: Labelled jets, preferably not the training jets.
        out: Folder to write: `explain.json` and `report.html`.
        only: Explain the logit of this class, for its jets; None for each jet's own class.
        seed: Seed of the permutations.
        force: Replace an earlier explanation.
        quiet: Show no progress.

    Raises:
        SubquadError: A run, files, a class or a seed that cannot be used, or an output folder that must not be
            overwritten.
    """
    settings, files = settings or ExplainSettings(), list_files(files)
    check_not_inside(out, run_folder(run), *files)
    out = check_report_folder(out, kind=EXPLANATION, file=EXPLANATION_FILE, force=force)
    tagger = TrainedTagger.load(run).weighted_by(settings.event_weights)
    if only is not None and only not in tagger.classes:
        raise unknown("class", only, tagger.classes)
    paths = expand_files(files)
    note = training_note(tagger.path, tagger.config, paths)
    if note:
        say(f"Warning: {note}", quiet=quiet)
    inputs = read_sample(tagger, paths, settings, quiet=quiet)
    missing = _missing_classes(tagger, inputs)
    if missing:
        say(f"Warning: {missing}", quiet=quiet)
        note = " ".join(filter(None, [note, missing]))
    target = None if only is None else tagger.classes.index(only)
    weight_text = _weight_text(inputs)
    if weight_text:
        say(weight_text, quiet=quiet)
    with using_threads(settings.threads):
        sample = _score(tagger, inputs, settings, target)
        found, displays = _explain(tagger, sample, settings, target, seed=seed, quiet=quiet)
    explanation = {
        "subquad": {"kind": EXPLANATION, "version": __version__, "settings": plain(settings)},
        **{"run": str(run), "files": [str(path) for path in paths], "class": only, "seed": seed, "note": note},
        "event_weights": weight_text,
        **plain(found),
    }
    say("drawing figures", quiet=quiet)
    figures = explain_figures(explanation, displays)
    with write_report_folder(out) as folder:
        (folder / REPORT).write_text(explain_page(explanation, figures), encoding="utf-8")
        write_json(folder / EXPLANATION_FILE, explanation)
    return explanation


def _weight_text(inputs: JetDataset) -> str:
    """Return a sentence about the event weights of the jets; empty if all count the same."""
    return weight_note(inputs.weights.double().numpy(), "Jets") if inputs.layout.event_weights else ""


def _missing_classes(tagger: TrainedTagger, inputs: JetDataset) -> str:
    """Return a warning about classes of the tagger that no jet has; empty if there are none."""
    present = set(inputs.labels.unique().tolist())
    missing = [name for i, name in enumerate(tagger.classes) if i not in present]
    if not missing:
        return ""
    return (
        f"None of the {len(inputs):,} jets is {', '.join(missing)}, so the importances hold for the other classes "
        "only. The first jets of each file are taken: increase --jets, or give files with jets of all classes."
    )


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """The jets, shortest first, in batches of similar length."""

    inputs: JetDataset
    batches: list[Batch]
    labels: np.ndarray
    """[J]."""
    weights: np.ndarray
    """[J], event weights; 1 without any."""
    probabilities: np.ndarray
    """[J, C]."""
    explained: np.ndarray
    """Indices of the classes whose jets are explained."""


def _score(tagger: TrainedTagger, inputs: JetDataset, settings: ExplainSettings, target: int | None) -> _Sample:
    plan = batches_by_length(inputs.lengths, settings.batch_size)
    batches = [collate(inputs, rows) for rows in plan]
    labels = torch.cat([batch.labels for batch in batches]).numpy()
    if target is not None and not (labels == target).any():
        raise SubquadError(f"none of the {len(labels)} jets is {tagger.classes[target]}; give files with such jets")
    with torch.no_grad():
        probabilities = torch.cat([forward(tagger.net, batch) for batch in batches]).double().softmax(-1).numpy()
    return _Sample(
        inputs=inputs.subset(torch.cat(list(plan))),
        batches=batches,
        labels=labels,
        weights=torch.cat([batch.weights for batch in batches]).double().numpy(),
        probabilities=probabilities,
        explained=np.unique(labels) if target is None else np.array([target]),
    )


def _exponents(net: Network) -> list[list[float]] | None:
    """Return the exponents of the edge weights [graphs, variables] of a network that has them."""
    exponents = net.exponents if isinstance(net, KinematicNet) else None
    return None if exponents is None else exponents.detach().tolist()


def _explain(
    tagger: TrainedTagger, sample: _Sample, settings: ExplainSettings, target: int | None, *, seed: int, quiet: bool
) -> tuple[dict[str, Any], list[JetDisplay]]:
    """Return the explanation, and displays of single jets."""
    net, classes, inputs = tagger.net, tagger.classes, sample.inputs
    means = input_means(sample.batches)
    attributions = attribute_all(net, sample.batches, target, means, quiet=quiet)
    jet_features = inputs.layout.jet_features if inputs.layout.jet_standardizer is not None else ()
    group = inputs.layout.features
    owners = [group.columns.index(column) for column in group.owners]
    card = inputs.layout.card
    prefixes = () if card is None or not owners else tuple(one.prefix for one in card.inputs)
    features = Features(particle=group.names, jet=jet_features, owners=owners, collections=prefixes)
    # no measure of importance has those that say which collection an entry belongs to
    attributions["features"][:, sorted({*owners})] = 0
    importance, grouped = permute_all(
        net, sample.batches, features, repeats=settings.repeats, seed=seed, only=target, quiet=quiet
    )
    by = {classes[i]: np.where(sample.labels == i, sample.weights, 0.0) for i in sample.explained}
    is_explained = np.isin(sample.labels, sample.explained)
    explained = np.where(is_explained, sample.weights, 0.0)
    found = {
        "classes": list(by),
        "net": type(net).__name__,
        "jets": len(sample.labels),
        "explained_jets": is_explained.sum(),
        "accuracy": weighted_mean(sample.probabilities.argmax(1) == sample.labels, explained),
        "auc": mean_auc(sample.probabilities, sample.labels, target, sample.weights),
        "graphs": fractions_by_class(attributions.get("graphs"), by),
        "variables": fractions_by_class(attributions.get("variables"), by),
        "exponents": _exponents(net),
        "features": by_columns(attributions, explained, features.singles, importance),
        "groups": by_columns(attributions, explained, features.groups, grouped),
        "by_class": by_class(attributions, by, features),
    }
    displays = [
        display
        for i in sample.explained
        for display in displays_of(
            net,
            inputs,
            select_jets(sample.probabilities, sample.labels, int(i), settings.displays),
            sample.probabilities,
            classes=classes,
            means=means,
        )
    ]
    return found, displays
