"""Report and model card of a fitted model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from subquad.bio.data.dataset import ROW_TASK_TYPES
from subquad.bio.metrics.compared_models import baselines_for, label_of
from subquad.bio.metrics.scores import LOWER_IS_BETTER, title
from subquad.bio.plots import diagnostics
from subquad.bio.plots.figures import forest, training_curves
from subquad.bio.plots.finished_run import FinishedRun, no_comparison, read_finished_run
from subquad.reporting.page import Picture, Section, Table, page, picture

__all__ = ["card", "render", "sections"]

Block = str | Table | Picture
MAX_COLUMNS = 7
"""Metrics in the first table; a later one has all."""
MAX_ROWS = 60
"""Metrics of single columns or classes that are shown."""


def render(run: FinishedRun) -> str:
    """Return the report as HTML."""
    return page(_title(run), lead=_summary(run), sections=_sections(run))


def sections(directory: Path | str) -> list[Section]:
    """Return the sections of the report of a finished run, of which the first is the result.

    Args:
        directory: Folder of the run.
    """
    run = read_finished_run(directory)
    result, *others = _sections(run)
    return [Section(result.title, [_summary(run), *result.blocks]), *others]


def card(run: FinishedRun) -> str:
    """Return the model card, `README.md` of the run folder."""
    rows, settings = run.metrics["rows"], run.config["settings"]
    lines = [
        f"# {_title(run)}",
        "",
        " ".join([_summary(run), *_network(run), *_differences(run)]),
        "",
        "| model | " + " | ".join(title(name) for name in run.metric_names) + " |",
        "|---|" + "---|" * len(run.metric_names),
    ]
    for model in run.models:
        values = (run.metric(model, name) for name in run.metric_names)
        cells = " | ".join("–" if value is None else f"{value:.3f}" for value in values)
        lines.append(f"| {label_of(model)} | {cells} |")
    lines += [
        "",
        f"Metrics of {rows['test']:,} test rows. Model selection used {rows['validation']:,} validation rows, training "
        f"{rows['train']:,} rows. Split: {run.config['split']['how']}.",
        "",
        "This folder holds the network. Use it with `subquad bio predict FOLDER TABLE.csv --out predictions.csv`.",
        "",
        f"Alphabet {run.config['inputs']['alphabet']}, preset {settings['preset']}, seed {settings['seed']}, data "
        f"fingerprint {settings['fingerprint']}.",
        "",
    ]
    return "\n".join(lines)


def _title(run: FinishedRun) -> str:
    names = ", ".join(run.names[:3]) + (" …" if len(run.names) > 3 else "")
    return f"{names} from sequence: {run.config['file']}"


def _sections(run: FinishedRun) -> list[Section]:
    found = [
        Section("Result", _result(run)),
        Section("Metrics and intervals", _metrics(run)),
        *diagnostics.sections(run),
        Section("Training and selected hyperparameters", _training(run)),
        Section("How to read this page", _explanation(run)),
    ]
    return [section for section in found if section.blocks]


def _summary(run: FinishedRun) -> str:
    """Return which model is best, and from which others the test rows do not tell it."""
    best = run.best
    if best is None:
        return f"No model is named best: {no_comparison(run.metrics)}."
    values = {name: own[run.main] for name, own in run.metrics["test"].items()}
    unit = "rows" if run.task_type in ROW_TASK_TYPES else "sequences"
    others = ", ".join(f"{label_of(name)} {value:.3f}" for name, value in values.items() if name != best)
    result = f"{run.title} {values[best]:.3f} ({others})"
    text = f"Best on {run.metrics['rows']['test']:,} test {unit}: {label_of(best)}, {result}."
    if run.metrics.get("wins") == best:
        return f"{text} Its lead exceeds the 95 % intervals over test rows; training seeds were not varied."
    text += " The test rows do not separate it from at least one other model; the simplest such model may be preferred."
    if best == "stack":
        text += f" Best single model: {label_of(run.best_single)}."
    return text


def _network(run: FinishedRun) -> list[str]:
    """Return what the network consists of, with the blending weights of its parts."""
    members = run.metrics.get("ensemble_size", 1)
    weights = blending_weights(run)
    if weights is None:
        return [f"The network is an ensemble of {members} networks."] if members > 1 else []
    parts = ", ".join(f"{name} {weight:.2f}" for name, weight in weights.items())
    ensemble = f", averaged over {members} ensemble members" if members > 1 else ""
    text = f"The network is a blend of a linear model, MLPs and Lyra; blending weights{ensemble}: {parts}."
    if weights["Lyra"] < 0.005:
        text += " Lyra does not contribute to its predictions."
    return [text]


def blending_weights(run: FinishedRun) -> dict[str, float] | None:
    """Return the blending weights of linear model, MLPs and Lyra; None if the network has no such parts."""
    weights = run.metrics.get("blending", {}).get("net", {})
    if "linear" not in weights:
        return None
    mlps = sum(weight for name, weight in weights.items() if name.startswith("mlp_"))
    return {"linear": weights["linear"], "MLPs": mlps, "Lyra": weights.get("lyra", 0.0)}


def _differences(run: FinishedRun) -> list[str]:
    if run.best is None:
        return []
    gaps = [f"{label_of(name)} {_gap(gap)}" for name, gap in run.metrics["differences"].items() if name != "stack"]
    texts = [f"Difference of the network in {run.title} to: {'; '.join(gaps)}."] if gaps else []
    gap = run.metrics.get("stack_versus_best")
    if gap is not None:
        texts.append(f"Difference of the stack to the best single model, {label_of(gap['best'])}: {_gap(gap)}.")
    return texts


def _gap(gap: Mapping[str, float]) -> str:
    rest = ", not significant" if gap["low"] <= 0 <= gap["high"] else ""
    return f"{gap['value']:+.4f} (95 % interval {gap['low']:+.4f} to {gap['high']:+.4f}{rest})"


def _result(run: FinishedRun) -> list[Block]:
    names = run.metric_names[:MAX_COLUMNS]
    seconds = run.metrics["seconds"]
    rows = [[label_of(model), *(run.metric(model, name) for name in names), seconds.get(model)] for model in run.models]
    caption = f"Metrics of the held-out test rows. The main metric is {run.title}."
    reasons = {run.undefined[name] for name in names if name in run.undefined}
    caption += (
        f" –: undefined, because there is {' and '.join(sorted(reasons))} among the test rows." if reasons else ""
    )
    table = Table(
        header=["model", *(title(name) for name in names), "seconds"],
        rows=rows,
        caption=caption,
        winner=None if run.best is None else run.models.index(run.best),
    )
    # the summary stands above, as the lead of the page
    texts = " ".join([*_network(run), *_differences(run)])
    return [*([texts] if texts else []), table, *diagnostics.main_figures(run)]


def _metrics(run: FinishedRun) -> list[Block]:
    blocks = [] if run.main in run.undefined else _intervals(run)
    header = ["metric", *map(label_of, run.models)]
    cells = [
        [_metric_title(name), *(_with_interval(run, model, name) for model in run.models)] for name in run.metric_names
    ]
    blocks.append(Table(header, cells, caption="All metrics, with 95 % intervals in parentheses."))
    single = [name for name in run.metrics["test"][run.models[0]] if ":" in name]
    if single:
        rows = [[_metric_title(name), *(run.metric(model, name) for model in run.models)] for name in single[:MAX_ROWS]]
        more = f" The first {MAX_ROWS} of {len(single)}." if len(single) > MAX_ROWS else ""
        blocks.append(Table(header, rows, caption=f"Metrics by column or class.{more}"))
    return blocks


def _intervals(run: FinishedRun) -> list[Block]:
    rows, test = [], run.metrics["test"]
    for model in run.models:
        low, high = run.interval(model, run.main) or [test[model][run.main]] * 2
        rows.append((label_of(model), model, test[model][run.main], low, high))
    caption = (
        f"{run.title} with 95 % bootstrap intervals over the test rows, without the variation between training runs."
    )
    blocks: list[Block] = [picture(forest(rows, label=run.title), caption)]
    gaps = [
        (f"network − {label_of(name)}", name, gap["value"], gap["low"], gap["high"])
        for name, gap in run.metrics["differences"].items()
    ]
    if gaps:
        caption = (
            "Paired differences on the same bootstrap samples, which are more precise than the intervals above, "
            "because difficult rows are difficult for all models. An interval that contains zero is not significant."
        )
        blocks.append(picture(forest(gaps, label=f"difference in {run.title}", zero=True), caption))
    return blocks


def _metric_title(name: str) -> str:
    return title(name) + (" (lower is better)" if name in LOWER_IS_BETTER else "")


def _with_interval(run: FinishedRun, model: str, name: str) -> str:
    value, ends = run.metric(model, name), run.interval(model, name)
    if value is None:
        return "–"
    return f"{value:.3f}" if ends is None else f"{value:.3f} ({ends[0]:.3f}–{ends[1]:.3f})"


def _training(run: FinishedRun) -> list[Block]:
    settings, metrics = run.config["settings"], run.metrics
    members = metrics.get("ensemble_size", 1)
    total = sum(value for name, value in metrics["seconds"].items() if name != "total")
    memory = f", peak memory {metrics['memory_mb']:,} MB" if metrics.get("memory_mb") else ""
    blocks: list[Block] = [
        f"Network: preset {settings['preset']}, {metrics['parameters']:,} parameters in {members} ensemble "
        f"member{'s' if members > 1 else ''}. Total time {total:,.0f} seconds{memory}. Seed {settings['seed']}, data "
        f"fingerprint {settings['fingerprint']}."
    ]
    weights = metrics.get("stacking", {}).get("weights")
    if weights:
        parts = ", ".join(f"{label_of(name)} {value:.2f}" for name, value in weights.items())
        blocks.append(f"Blending weights of the stack: {parts}.")
    weights = blending_weights(run)
    if weights:
        rows = [[name, weight] for name, weight in weights.items()]
        blocks.append(
            Table(["part of the network", "blending weight"], rows, caption="Mean over the ensemble members.")
        )
    rows = [[label_of(name), text] for name, text in _hyperparameters(run.config.get("selected", {}))]
    if rows:
        blocks.append(Table(["model", "selected on the validation rows"], rows))
    if any("loss" in line for line in run.history):
        caption = (
            "Training of the network. The weights with the best validation metric are kept, or the initial ones if "
            "they are better."
        )
        blocks.append(picture(training_curves(run.history, run.main, run.title), caption))
    return blocks


def _hyperparameters(chosen: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for name, facts in chosen.items():
        for one in facts if isinstance(facts, list) else [facts]:
            scalars = {key: value for key, value in one.items() if isinstance(value, str | int | float)}
            if scalars and name != "conformal":
                texts = [f"{key.replace('_', ' ')} {_short(value)}" for key, value in scalars.items()]
                rows.append((name, ", ".join(texts)))
    return rows


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _explanation(run: FinishedRun) -> list[Block]:
    texts: list[Block] = [
        "Test rows were used neither for training nor for model selection. Their metrics apply to new sequences that "
        "are similar to the table; the section on the split shows how similar the test rows are to the training rows.",
        "The best model is named by the main metric alone. If the interval of a difference contains zero, prefer the "
        "simpler model: ridge regression is interpretable and fast."
        if run.best is not None
        else "With so few test rows, ridge regression is the cautious choice. Measure more variants, or use all rows: "
        "`subquad bio cross-validate`.",
        METRIC_EXPLANATIONS[run.task_type],
    ]
    if "conformal" in run.metrics:
        texts.append(
            "Prediction intervals are split-conformal, calibrated on the validation rows. Their coverage holds on "
            "average for new rows like these; for dissimilar sequences they are too narrow."
        )
    significant = [run.metrics["differences"][name]["low"] > 0 for name in baselines_for(run.task_type)]
    if run.best is not None and significant and not all(significant):
        texts.append(
            "The network is not significantly better than all baselines here: positions act nearly additively, or "
            "there are too few or too noisy rows to learn more."
        )
    return texts


METRIC_EXPLANATIONS = {
    "regression": "Spearman's correlation measures the order of the predictions (1: perfect, 0: random); R² is the "
    "explained variance; NDCG measures whether the best rows rank first; top-10 % recall is the fraction of the best "
    "tenth that is in the predicted best tenth.",
    "binary": "AUROC is the probability that a row of the positive class ranks above one of the other class (0.5: "
    "random); average precision decreases if the positive class is rare; MCC is 1 without errors and 0 for random "
    "predictions, at a threshold of 0.5.",
    "multiclass": "Accuracy is the fraction of correct rows; balanced accuracy is its mean over classes, so that rare "
    "classes count as much as common ones; MCC is 1 without errors and 0 for random predictions.",
    "multilabel": "AUROC is the mean over labels of the probability that a row with the label ranks above one without "
    "it (0.5: random); F1 counts errors at a threshold of 0.5.",
    "residue_regression": "R² is the explained variance over all residues. Bootstrap samples are of whole sequences, "
    "because residues of one sequence are similar.",
    "residue_binary": "AUROC is the probability that a residue of the class ranks above another one, over all test "
    "residues; its mean over sequences compares residues of the same sequence only.",
    "residue_multiclass": "Accuracy is the fraction of correct residues; F1 is the mean over classes, so that rare "
    "classes count as much. Bootstrap samples are of whole sequences.",
    "pairs": "F1 combines precision (predicted pairs that exist) and recall (existing pairs that are predicted), "
    "sequence by sequence; F1, ±1 position also accepts pairs that are shifted by one position.",
}
