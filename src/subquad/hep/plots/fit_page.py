"""The page of a fitted tagger: figures beside the simple rival, pictures, how it was made. Some seconds."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from subquad.hep.evaluation.scores import Model, Scored, grouped
from subquad.hep.metrics.scores import spread
from subquad.hep.plots.comparison import calibration_figure
from subquad.hep.plots.figures import confusion_figure, history_figure, observables_figure, roc_figure, scores_figure
from subquad.hep.plots.tables import figures_table, rejections_table
from subquad.reporting.page import Section, Table, picture
from subquad.runs.folder import CONFIG, HISTORY, METRICS
from subquad.runs.storage import read_json, read_tensors

__all__ = ["SCORES", "card", "comparison", "history_of", "sections", "sections_of", "verdict", "winner"]

SCORES = "test_scores.safetensors"
"""Probabilities and labels of the test jets, in the folder of a run: what the pictures are drawn from."""


def sections(run: Path) -> list[Section]:
    """Return the sections of a finished run; the first one says how good the tagger is."""
    scores = {name: tensor.numpy() for name, tensor in read_tensors(run / SCORES).items()}
    return sections_of(read_json(run / METRICS), read_json(run / CONFIG), scores, history_of(run))


def history_of(run: Path) -> list[dict[str, float]]:
    """Return the lines of the run's history."""
    path = run / HISTORY
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def winner(metrics: Mapping[str, Any]) -> str:
    """Return which model has the better top-1 accuracy on the test jets: `net` or `boosting`."""
    rival = metrics.get("test_boosting")
    return "boosting" if rival and rival["accuracy"] > metrics["test"]["accuracy"] else "net"


def verdict(metrics: Mapping[str, Any], classes: int) -> str:
    """Return in a sentence or two who wins, and by how much."""
    ours, rival = metrics["test"], metrics.get("test_boosting")
    jets = metrics["jets"]["test"]
    error = (ours["accuracy"] * (1 - ours["accuracy"]) / jets) ** 0.5
    begin = f"On {jets:,} test jets the net names the right class of {classes} in {100 * ours['accuracy']:.1f} %"
    begin += f" (± {100 * error:.1f}; chance is {100 / classes:.0f} %)."
    if not rival:
        return begin
    gap = 100 * (ours["accuracy"] - rival["accuracy"])
    end = f"Gradient boosting on jet-level observers gets {100 * rival['accuracy']:.1f} %:"
    # as if the two were measured on different jets, which is on the safe side
    if abs(gap) < 2 * 2**0.5 * 100 * error:
        leader = "net" if gap > 0 else "boosting"
        end += f" the {leader} leads by {abs(gap):.1f}, which these jets cannot tell from a tie."
    elif winner(metrics) == "boosting":
        end += f" the boosting wins by {-gap:.1f}; use more jets or more epochs."
    else:
        end += f" the net wins by {gap:.1f}."
    return f"{begin} {end}"


def _models(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    names = {"test": "PCN", "test_boosting": "boosting"}
    return [
        {"name": name, "trainings": [metrics[key]], "spread": spread([metrics[key]])}
        for key, name in names.items()
        if key in metrics
    ]


def comparison(metrics: Mapping[str, Any]) -> Table:
    """Return the net beside its rival, gradient boosting on jet-level observers."""
    return figures_table(_models(metrics))


def _scored(scores: Mapping[str, np.ndarray]) -> list[Model]:
    answers = {"PCN": "probabilities", "boosting": "probabilities_boosting"}
    return grouped(
        [
            Scored(model=name, source="test", probabilities=scores[key], labels=scores["labels"])
            for name, key in answers.items()
            if key in scores
        ]
    )


def sections_of(
    metrics: Mapping[str, Any],
    config: Mapping[str, Any],
    scores: Mapping[str, np.ndarray],
    history: Sequence[Mapping[str, float]],
) -> list[Section]:
    """Return the sections from what the run holds."""
    classes, background = config["classes"], config["background"]
    probabilities, labels = scores["probabilities"], scores["labels"]
    jets, seconds, speed = metrics["jets"], metrics["seconds"], metrics["jets_per_second"]
    masses = {"soft-drop mass [GeV]": scores["sdmass"]} if "sdmass" in scores else {}
    observers = {**masses, "number of particles": scores["particles"]}
    return [
        Section(
            "How good it is",
            [
                verdict(metrics, len(classes)),
                comparison(metrics),
                picture(
                    roc_figure(probabilities, labels, classes, background),
                    f"Rejection of {background} against the efficiency of each signal; up and to the right is better. "
                    "Each curve ends where no background jet of the sample passes.",
                ),
            ],
        ),
        Section("Background rejection", [rejections_table(_models(metrics), background)]),
        Section(
            "What is taken for what",
            [
                picture(
                    confusion_figure(probabilities, labels, classes),
                    "In each row the jets of one class, in per cent, by the class of the largest score.",
                ),
                picture(
                    scores_figure(probabilities, labels, classes, background),
                    "The score of each signal, among its own jets and among those of the background.",
                ),
                picture(
                    calibration_figure(_scored(scores), classes),
                    "Of the jets that were given a probability, the part that is of the class, and the calibration "
                    "error of each class; on the diagonal the probabilities are true.",
                ),
                "subquad hep evaluate draws more: every signal beside the rival, against pT, and the mass of the "
                "background after cuts.",
            ],
        ),
        Section(
            "The jets",
            [
                f"{jets['train']:,} jets to learn from, {jets['validation']:,} that chose the best epoch, "
                f"{jets['test']:,} that all figures above are measured on. {config['split']}.",
                picture(
                    observables_figure(observers, labels, classes), "Two observers of the test jets, class by class."
                ),
            ],
        ),
        Section(
            "How it was made",
            [
                f"Preset {config['preset']}, {metrics['parameters']:,} parameters, {metrics['steps']:,} steps; the "
                f"best validation was at step {metrics['best_step']:,}. Training {seconds['training']:.0f} s "
                f"({speed['train']:,.0f} jets per second), scoring {speed['predict']:,.0f} jets per second"
                + (f", boosting {seconds['boosting']:.0f} s." if "boosting" in seconds else "."),
                picture(history_figure(history), "Loss and accuracy over the steps."),
            ],
        ),
    ]


def card(metrics: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Return the model card."""
    return "\n".join(
        [
            "# Jet tagger (subquad, PCN)",
            "",
            f"Tells {len(config['classes'])} classes of jets apart: {', '.join(config['classes'])}.",
            verdict(metrics, len(config["classes"])),
            "",
            f"Fitted on {metrics['jets']['train']:,} jets, preset `{config['preset']}`, seed {config['seed']}; "
            "figures in `metrics.json`, pictures in `report.html`, all settings in `config.json`.",
            "",
            "```",
            "subquad hep predict THIS_FOLDER jets.root --out scores.root",
            "```",
            "",
            "Particle Chebyshev network: arXiv:2309.08630.",
            "",
        ]
    )
