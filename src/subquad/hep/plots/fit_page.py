"""The report and the model card of a fitted tagger. Some seconds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from subquad.errors import counted
from subquad.hep.metrics.classification import METRICS
from subquad.hep.metrics.predictions import TEST_SCORES, Predictions, group_by_model, predictions_of_run
from subquad.hep.metrics.summary import difference_of, differences
from subquad.hep.models.presets import PRESETS
from subquad.hep.plots.class_histograms import observer_histograms
from subquad.hep.plots.figures import calibration_figure, confusion_figure, history_figure, roc_figure, scores_figure
from subquad.hep.plots.regression import CAPTION, regression_figure, regression_table
from subquad.hep.plots.tables import models_table, rejections_table
from subquad.reporting.metrics import value_text
from subquad.reporting.page import Section, Table, page, picture
from subquad.runs.folder import CONFIG
from subquad.runs.folder import METRICS as METRICS_FILE
from subquad.runs.history import read_history
from subquad.runs.storage import plain, read_json, read_tensors

MODELS = {"net": "tagger", "boosting": "gradient boosting"}
"""Keys of the models in `metrics.json`, and their names in tables and figures."""
KEYS = dict(zip(MODELS, MODELS, strict=True))
"""Names of the models in `metrics.json`, and their keys in the file of scores."""


def sections(run: Path) -> list[Section]:
    """Return the sections of a finished run's report; the first one holds the metrics."""
    lead, (first, *others) = _lead_and_sections(run)
    return [Section(first.title, [lead, *first.blocks]), *others]


def fit_page(run: Path) -> str:
    """Return the report of a finished run, from its folder."""
    lead, found = _lead_and_sections(run)
    files = [Path(file).name for file in read_json(run / CONFIG)["files"]]
    return page(f"Jet tagger fitted on {', '.join(files[:3])}{' …' * (len(files) > 3)}", lead=lead, sections=found)


def _lead_and_sections(run: Path) -> tuple[str, list[Section]]:
    """Return the verdict, which stands above all sections, and these."""
    scores = {name: tensor.numpy() for name, tensor in read_tensors(run / TEST_SCORES).items()}
    metrics = read_json(run / METRICS_FILE)
    if "differences" not in metrics:
        # of the tagger that ships with subquad
        metrics["differences"] = differences(group_by_model(predictions_of_run(scores, KEYS, source="test jets")))
    return verdict(metrics), sections_of(metrics, read_json(run / CONFIG), scores, read_history(run))


def _names(metrics: Mapping[str, Any]) -> dict[str, str]:
    return {model["name"]: MODELS[model["name"]] for model in metrics["models"]}


def verdict(metrics: Mapping[str, Any]) -> str:
    """Return the top-1 accuracy of the tagger, and whether it is clearly better than gradient boosting."""
    test, limits = metrics["test"], metrics.get("intervals", {}).get("test", {})
    interval = limits.get("net", {}).get("accuracy")
    reached = value_text(test["net"]["accuracy"], interval) + " (68 % interval)" * (interval is not None)
    text = f"The tagger reaches a top-1 accuracy of {reached} on {counted(metrics['jets']['test'], 'test jet')}."
    if "boosting" not in test:
        return text
    baseline = f"gradient boosting ({test['boosting']['accuracy']:.3f})"
    gap = difference_of(metrics, "net", "boosting")
    return f"{text} {METRICS['accuracy'].compare('Tagger', baseline, gap)} Training seeds were not varied."


def comparison_table(metrics: Mapping[str, Any]) -> Table:
    """Return the metrics of the tagger and, if it was fitted, of gradient boosting."""
    return models_table(metrics, _names(metrics))


def sections_of(
    metrics: Mapping[str, Any],
    config: Mapping[str, Any],
    scores: Mapping[str, np.ndarray],
    history: Sequence[Mapping[str, float]],
) -> list[Section]:
    """Return the sections of a run's report.

    Args:
        metrics: Content of `metrics.json`.
        config: Content of `config.json`.
        scores: Arrays of `test_scores.safetensors`.
        history: Entries of `history.jsonl`.
    """
    classes, background = config["classes"], config["background"]
    predictions = predictions_of_run(scores, MODELS, source="test jets")
    net = predictions[0]
    found = [
        Section(
            "Metrics",
            [
                *metrics.get("notes", ()),
                comparison_table(metrics),
                picture(
                    roc_figure(net, classes, background),
                    f"ROC curves: rejection of {background} against the efficiency of each signal; higher is better.",
                ),
            ],
        ),
        Section("Background rejection", [rejections_table(metrics, _names(metrics), background)]),
        _score_section(predictions, classes, background),
    ]
    if (
        table := regression_table([{**model, "name": MODELS[model["name"]]} for model in metrics["models"]])
    ) is not None:
        figures = [
            picture(regression_figure(net, name, classes, background), f"{name}. {CAPTION}") for name in net.predicted
        ]
        found.append(Section("Regression targets", [table, *figures]))
    found.append(
        Section("Jets", [_split_text(metrics, config), *observer_histograms(net, classes, background)]),
    )
    # a tagger that was copied without its history has none
    curves = [picture(history_figure(history), "Loss and accuracy during training.")] if history else []
    return [*found, Section("Training", [_training_text(metrics, config), *curves])]


def _score_section(predictions: Sequence[Predictions], classes: Sequence[str], background: str) -> Section:
    """Return confusion matrix and scores of the tagger, and the calibration of all models."""
    net = predictions[0]
    return Section(
        "Scores",
        [
            picture(
                confusion_figure(net, classes),
                "Confusion matrix: predicted class of the jets of each true class, in per cent.",
            ),
            picture(
                scores_figure(net, classes, background),
                f"Score of each signal against {background}, for jets of the signal and of {background}.",
            ),
            picture(
                calibration_figure(group_by_model(predictions), classes),
                "Observed fraction of each class against the predicted probability, with the calibration error. A "
                "calibrated tagger follows the diagonal.",
            ),
        ],
    )


def _split_text(metrics: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    train, validation, test = (
        counted(metrics["jets"][part], f"{name} jet")
        for part, name in (("train", "training"), ("validation", "validation"), ("test", "test"))
    )
    return (
        f"{train}, {validation} for choosing the best epoch, and {test}, on which all metrics above are measured. "
        f"{config['split']}."
    )


def _training_text(metrics: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    seconds, speed, net = metrics["seconds"], metrics["jets_per_second"], metrics["test"]["net"]
    text = (
        f"Preset {config['preset']} with {counted(metrics['parameters'], 'parameter')}, trained for "
        f"{counted(metrics['steps'], 'step')}; the best validation {metrics.get('monitor', 'accuracy')} was at step "
        f"{metrics['best_step']:,}. Training took {seconds['training']:,.0f} s "
        f"({speed['train']:,.0f} jets per second). Inference runs at {speed['predict']:,.0f} jets per second."
    )
    if "calibration_error_unscaled" not in net:
        return text
    return (
        f"{text} The temperature {metrics['temperature']:.3f}, fitted to the validation jets, changes the calibration "
        f"error from {net['calibration_error_unscaled']:.4f} to {net['calibration_error']:.4f}."
    )


def model_card(metrics: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Return the model card, `README.md` of the run."""
    jets = counted(metrics["jets"]["train"], "jet")
    return f"""# Jet tagger (subquad)

Classifies jets into {len(config["classes"])} classes: {", ".join(config["classes"])}.
{verdict(metrics)}

Trained on {jets} with preset `{config["preset"]}` and seed {config["seed"]}. Metrics are in
`metrics.json`, figures in `report.html`, all settings in `config.json`.

```
subquad hep predict THIS_FOLDER jets.root --out scores.root
```

{PRESETS[config["preset"]].origin}{_changes_text(config)}
"""


def _changes_text(config: Mapping[str, Any]) -> str:
    """Return a sentence on what the network does not have in common with its preset; empty if there is nothing."""
    preset = plain(PRESETS[config["preset"]].net)
    # the number of particles is that of the files
    changes = [
        f"`{name}` is {value} in place of {preset[name]}"
        for name, value in config["net"].items()
        if name != "max_particles" and value != preset[name]
    ]
    if config["card"] is not None:
        changes.append(f"the inputs are those of {config['card']['name']}")
    return f" Differences from the preset: {', '.join(changes)}." if changes else ""
