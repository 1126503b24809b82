"""The report and the model card of a fitted tagger. Some seconds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from subquad.errors import counted
from subquad.hep.metrics.predictions import TEST_SCORES, Predictions, group_by_model, predictions_of_run
from subquad.hep.metrics.summary import differences, uncertainty
from subquad.hep.models.presets import PRESETS
from subquad.hep.plots.class_histograms import observer_histograms
from subquad.hep.plots.figures import (
    calibration_figure,
    confusion_figure,
    history_figure,
    roc_figure,
    scores_figure,
)
from subquad.hep.plots.regression import CAPTION, regression_figure, regression_table
from subquad.hep.plots.tables import accuracy_text, metrics_table, rejections_table
from subquad.reporting.page import Section, Table, difference_text, page, picture
from subquad.runs.folder import CONFIG, METRICS
from subquad.runs.history import read_history
from subquad.runs.storage import plain, read_json, read_tensors

__all__ = ["comparison_table", "fit_page", "model_card", "sections", "sections_of", "verdict"]

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
    return page(_title(read_json(run / CONFIG)), lead=lead, sections=found)


def _lead_and_sections(run: Path) -> tuple[str, list[Section]]:
    """Return the verdict, which stands above all sections, and these."""
    scores = {name: tensor.numpy() for name, tensor in read_tensors(run / TEST_SCORES).items()}
    metrics = read_json(run / METRICS)
    if "differences" not in metrics:
        # of a run of an earlier version
        metrics["differences"] = differences(group_by_model(predictions_of_run(scores, KEYS, source="test jets")))
    return verdict(metrics), sections_of(metrics, read_json(run / CONFIG), scores, read_history(run))


def _title(config: Mapping[str, Any]) -> str:
    files = [Path(file).name for file in config["files"]]
    return f"Jet tagger fitted on {', '.join(files[:3])}{' …' * (len(files) > 3)}"


def _measured(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the models with their names in tables."""
    return [{**model, "name": MODELS[model["name"]]} for model in metrics["models"]]


def verdict(metrics: Mapping[str, Any]) -> str:
    """Return one or two sentences: the top-1 accuracy of the tagger, and whether it exceeds that of the baseline."""
    accuracies = {name: test["accuracy"] for name, test in metrics["test"].items()}
    jets, accuracy = metrics["jets"]["test"], accuracies["net"]
    reached = accuracy_text(accuracy, uncertainty(metrics["models"][0], "accuracy"))
    text = f"The tagger reaches a top-1 accuracy of {reached} on {counted(jets, 'test jet')}."
    if "boosting" not in accuracies:
        return text
    text += f" Gradient boosting reaches {100 * accuracies['boosting']:.1f} %: "
    if accuracy == accuracies["boosting"]:
        return text + "the two are equal on these test jets."
    gap, reason = _gap_text(metrics, accuracies), metrics.get("not_compared")
    if reason:
        return text + f"the difference of {gap} was not tested, since {reason}."
    match metrics["wins"]:
        case None:
            return text + f"the difference of {gap} is not significant on these test jets."
        case "boosting":
            better, advice = "it is better", " More training jets or epochs may help the tagger."
        case _:
            better, advice = "the tagger is better", ""
    return text + f"{better} by {gap}. Training seeds were not varied.{advice}"


def _gap_text(metrics: Mapping[str, Any], accuracies: Mapping[str, float]) -> str:
    """Return by how much the better model is better, with its interval unless a run of an earlier version has none."""
    gaps = [gap for own in metrics.get("differences", {}).values() for gap in own.values()]
    ends = [abs(accuracies["net"] - accuracies["boosting"])]
    if gaps:
        ends = [gaps[0][end] for end in ("value", "low", "high")]
    # without the sign
    text = difference_text(*(100 * end for end in ends), digits=1, unit=" points")[1:]
    return f"{text} (95 % interval paired by jet)" if gaps else text


def comparison_table(metrics: Mapping[str, Any]) -> Table:
    """Return the metrics of the tagger and, if it was fitted, of gradient boosting."""
    return metrics_table(_measured(metrics), MODELS.get(metrics["wins"]), not_compared=metrics.get("not_compared"))


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
    return [
        Section(
            "Metrics",
            [
                *metrics.get("notes", ()),
                comparison_table(metrics),
                picture(
                    roc_figure(net, classes, background),
                    f"ROC curves: rejection of {background} against the efficiency of each signal; higher is better. "
                    "A curve begins where the first background jet passes.",
                ),
            ],
        ),
        Section("Background rejection", [rejections_table(_measured(metrics), background)]),
        _score_section(predictions, classes, background),
        *_target_sections(metrics, net, classes, background),
        Section(
            "Jets",
            [
                _split_text(metrics, config),
                *(picture(own.figure, own.caption) for own in observer_histograms(net, classes, background)),
            ],
        ),
        Section(
            "Training",
            [
                _training_text(metrics, config),
                # a tagger that was copied without its history has none
                *([picture(history_figure(history), "Loss and accuracy during training.")] if history else []),
            ],
        ),
    ]


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
                "Reliability diagram: observed fraction of each class against the predicted probability, with the "
                "calibration error of the class. A calibrated tagger follows the diagonal.",
            ),
            _more_text(net),
        ],
    )


def _more_text(net: Predictions) -> str:
    """Return what `subquad hep evaluate` draws more of test jets whose pT and mass may not be known."""
    names = ["ROC curves beside the baseline"]
    names += ["the dependence on pT"] * (net.pt is not None) + ["mass sculpting"] * (net.sdmass is not None)
    *others, last = names
    return f"subquad hep evaluate draws more: {', '.join(others)}{' and ' * bool(others)}{last}."


def _target_sections(
    metrics: Mapping[str, Any], net: Predictions, classes: Sequence[str], background: str
) -> list[Section]:
    table = regression_table(_measured(metrics))
    if table is None:
        return []
    figures = [
        picture(regression_figure(net, name, classes, background), f"{name}. {CAPTION}") for name in net.predicted
    ]
    return [Section("Regression targets", [table, *figures])]


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
    seconds, speed = metrics["seconds"], metrics["jets_per_second"]
    return (
        f"Preset {config['preset']} with {counted(metrics['parameters'], 'parameter')}, trained for "
        + counted(metrics["steps"], "step")
        + _optimizer_text(metrics)
        + f"; the best validation {metrics.get('monitor', 'accuracy')} was at step "
        f"{metrics['best_step']:,}. Training took {seconds['training']:,.0f} s "
        f"({speed['train']:,.0f} jets per second); inference runs at {speed['predict']:,.0f} jets per second"
        + (f". Gradient boosting took {seconds['boosting']:,.0f} s." if "boosting" in seconds else ".")
        + _temperature_text(metrics)
    )


def _optimizer_text(metrics: Mapping[str, Any]) -> str:
    # runs of earlier versions do not have it
    if "optimizer" not in metrics:
        return ""
    return (
        f" by the optimizer {metrics['optimizer']}, with a peak learning rate of {metrics['learning_rate']:g} and a "
        f"weight decay of {metrics['weight_decay']:g}"
    )


def _temperature_text(metrics: Mapping[str, Any]) -> str:
    net = metrics["test"]["net"]
    if "calibration_error_unscaled" not in net:
        return ""
    return (
        f" The logits are divided by the temperature {metrics['temperature']:.3f}, which maximizes the likelihood of "
        f"the validation jets: the calibration error of the test jets is {net['calibration_error']:.4f}, and "
        f"{net['calibration_error_unscaled']:.4f} without it."
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
