"""Report and model card of a fitted model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from subquad.bio.compared_models import ENSEMBLE, WITHOUT_LYRA, label_of, names_of
from subquad.bio.data.dataset import ROW_TASK_TYPES
from subquad.bio.metrics.scores import METRICS, title, verdict
from subquad.bio.models.finished_run import FinishedRun, lead_of, no_comparison, read_finished_run
from subquad.bio.plots import diagnostics
from subquad.bio.plots.figures import forest, training_curves
from subquad.reporting.page import Block, Section, Table, page, picture, signed

__all__ = ["card", "render", "sections"]

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
        " ".join([_summary(run), *_weights(run)]),
        "",
        "| model | " + " | ".join(title(name) for name in run.metric_names) + " |",
        "|---|" + "---|" * len(run.metric_names),
    ]
    for model in run.models:
        values = (run.metric(model, name) for name in run.metric_names)
        cells = " | ".join("–" if value is None else f"{value:.3f}" for value in values)
        lines.append(f"| {label_of(model)} | {cells} |")
    differences = _differences(run)
    if differences:
        lines += ["", f"| difference in {run.title} | | 95 % interval | |", "|---|---|---|---|"]
        lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in differences.items()]
    lines += [
        "",
        f"Metrics of {rows['test']:,} test rows. Model selection used {rows['validation']:,} validation rows, training "
        f"{rows['train']:,} rows. Split: {run.config['split']['how']}.",
        "",
        "This folder holds the models. Use them with `subquad bio predict FOLDER TABLE.csv --out predictions.csv`; "
        f"without `--model` the model is {label_of(run.shown)}.",
        "",
        f"Alphabet {run.config['inputs']['alphabet']}, seed {settings['seed']}, data fingerprint "
        f"{settings['fingerprint']}.",
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
    """Return which single model is best, whether the test rows tell it from the others, and what the ensemble has."""
    best = run.best_single
    if run.best is None:
        return f"No model is named best: {no_comparison(run.metrics)}."
    values = {name: own[run.main] for name, own in run.metrics["test"].items()}
    is_row = run.task_type in ROW_TASK_TYPES
    unit = "rows" if is_row else "sequences"
    together = f" (ensemble {values[ENSEMBLE]:.3f})" if ENSEMBLE in values else ""
    text = f"Best single model on {run.metrics['rows']['test']:,} test {unit}: {label_of(best)}, {run.title} "
    return f"{text}{values[best]:.3f}{together}. {lead_of(run.metrics)}".rstrip()


def _is_out_of_fold(run: FinishedRun) -> bool:
    """Return whether the weights of the ensemble were chosen on out-of-fold predictions of the training rows."""
    return (run.config.get("stacking") or {}).get("is_out_of_fold", False)


def _weights(run: FinishedRun) -> list[str]:
    """Return the weights of the ensemble's members."""
    weights = run.metrics["weights"].get(ENSEMBLE)
    if weights is None:
        return []
    parts = ", ".join(f"{label_of(name)} {weight:.2f}" for name, weight in weights.items())
    source = "out-of-fold predictions of the training rows" if _is_out_of_fold(run) else "the validation rows"
    text = f"Weights of the ensemble, chosen on {source}: {parts}."
    if weights.get("lyra", 1.0) < 0.005:
        text += " Lyra does not contribute to its predictions."
    return [text]


def _differences(run: FinishedRun) -> dict[str, tuple[str, str, str]]:
    """Return by title the difference in the main metric, its 95 % interval, and what it says."""
    if run.best is None:
        return {}
    differences, together = run.metrics["differences"], names_of("ensemble")
    gaps = {
        f"Lyra − {label_of(name)}": gap for name, gap in differences.get("lyra", {}).items() if name not in together
    }
    gap = run.metrics.get("ensemble_versus_best")
    if gap is not None:
        gaps[f"ensemble − best single model ({label_of(gap['best'])})"] = gap
    gap = differences.get(ENSEMBLE, {}).get(WITHOUT_LYRA)
    if gap is not None:
        gaps[f"ensemble − {label_of(WITHOUT_LYRA)}"] = gap
    return {
        name: (signed(gap["value"], 4), f"{signed(gap['low'], 4)} to {signed(gap['high'], 4)}", verdict(gap))
        for name, gap in gaps.items()
    }


def _result(run: FinishedRun) -> list[Block]:
    names = run.metric_names[:MAX_COLUMNS]
    seconds, weights = run.metrics["cpu_seconds"], run.metrics["weights"].get(ENSEMBLE, {})
    wins = run.metrics.get("wins")
    rows = [
        [
            label_of(model),
            *(run.metric(model, name) for name in names),
            *([weights.get(model)] if weights else []),
            round(seconds[model]) if model in seconds else None,
        ]
        for model in run.models
    ]
    caption = f"Metrics of the held-out test rows. The main metric is {run.title}."
    if weights:
        caption += " Weight: that of the model in the ensemble. An ensemble takes the time of its members"
        caption += ", also that of their fits on the folds that chose the weights." if _is_out_of_fold(run) else "."
    reasons = {run.undefined[name] for name in names if name in run.undefined}
    caption += (
        f" –: undefined, because there is {' and '.join(sorted(reasons))} among the test rows." if reasons else ""
    )
    table = Table(
        header=["model", *(title(name) for name in names), *(["weight"] if weights else []), "CPU seconds"],
        rows=rows,
        caption=caption,
        winner=None if run.best is None or wins is None else run.models.index(wins),
    )
    differences = [[name, *cells] for name, cells in _differences(run).items()]
    header = [f"difference in {run.title}", "value", "95 % interval", ""]
    paired = "Differences on the same test rows. The interval of a tie contains 0."
    compared = [Table(header, differences, caption=paired)] if differences else []
    # the summary stands above, as the lead of the page
    return [*_weights(run), table, *compared, *diagnostics.main_figures(run)]


def _metrics(run: FinishedRun) -> list[Block]:
    blocks = [] if run.main in run.undefined else _intervals(run)
    header = ["metric", *map(label_of, run.models)]
    cells = [
        [_metric_title(name), *(_with_interval(run, model, name) for model in run.models)] for name in run.metric_names
    ]
    blocks.append(Table(header, cells, caption="All metrics, with their 95 % intervals below them."))
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
        (f"{label_of(first)} − {label_of(name)}", name, gap["value"], gap["low"], gap["high"])
        for first, own in run.metrics["differences"].items()
        for name, gap in own.items()
        if first == ENSEMBLE or name not in names_of("ensemble")
    ]
    if gaps:
        caption = (
            "Paired differences on the same bootstrap samples, which are more precise than the intervals above, "
            "because difficult rows are difficult for all models. An interval that contains zero is a tie."
        )
        blocks.append(picture(forest(gaps, label=f"difference in {run.title}", zero=True), caption))
    return blocks


def _metric_title(name: str) -> str:
    return title(name) + (" (lower is better)" if name in METRICS and METRICS[name].is_lower_better else "")


def _with_interval(run: FinishedRun, model: str, name: str) -> str:
    value, ends = run.metric(model, name), run.interval(model, name)
    if value is None:
        return "–"
    text = f"{value:.3f}" if ends is None else f"{value:.3f}\n{ends[0]:.3f} to {ends[1]:.3f}"
    return text.replace("-", "−")


def _training(run: FinishedRun) -> list[Block]:
    settings, metrics = run.config["settings"], run.metrics
    memory = f", peak memory {metrics['memory_mb']:,} MB" if metrics.get("memory_mb") else ""
    # the time before an interruption is not known
    since = " since the fit was resumed" if metrics["seconds"].get("is_resumed") else ""
    blocks: list[Block] = [
        f"Total time {metrics['seconds']['total']:,.0f} seconds{since}{memory}. Seed {settings['seed']}, data "
        f"fingerprint {settings['fingerprint']}."
    ]
    networks = [
        [label_of(name), len(run.config["networks"][name]["selected"]), count]
        for name, count in metrics["parameters"].items()
    ]
    if networks:
        blocks.append(Table(["network", "seeds", "parameters in all"], networks))
    rows = [[label_of(name), text] for name, text in _hyperparameters(run.config.get("selected", {}), run.title)]
    if rows:
        blocks.append(Table(["model", "selected on the validation rows"], rows))
    if any("loss" in line for line in run.history):
        caption = (
            "Training of the networks. The weights with the best validation metric are kept, or the initial ones if "
            "they are better."
        )
        blocks.append(picture(training_curves(run.history, run.main, run.title), caption))
    return blocks


def _hyperparameters(chosen: Mapping[str, Any], main: str) -> list[tuple[str, str]]:
    names, rows = {"validation": f"validation {main}", "cpu_seconds": "CPU seconds of the training"}, []
    for name, facts in chosen.items():
        for one in facts if isinstance(facts, list) else [facts]:
            scalars = {
                key: value
                for key, value in one.items()
                if isinstance(value, str | int | float) and (key, value) != ("stopped_early", False)
            }
            if scalars and name != "conformal":
                texts = [f"{names.get(key, key.replace('_', ' '))} {_short(value)}" for key, value in scalars.items()]
                rows.append((name, ", ".join(texts)))
    return rows


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _advice(run: FinishedRun) -> str:
    """Return which model to prefer, as far as the test rows tell."""
    if run.main in run.undefined:
        return (
            f"The test rows do not define {run.title}, so that they cannot rank the models. Choose a split whose test "
            "rows have different measured values, or test on all rows: `subquad bio cross-validate`."
        )
    if run.best is None:
        return (
            "With so few test rows, ridge regression is the cautious choice. Measure more variants, or use all rows: "
            "`subquad bio cross-validate`."
        )
    return (
        "The best model is named by the main metric alone. If the interval of a difference contains zero, prefer the "
        "simpler model: ridge regression is interpretable and fast."
    )


def _explanation(run: FinishedRun) -> list[Block]:
    texts: list[Block] = [
        "Test rows were used neither for training nor for model selection. Their metrics apply to new sequences that "
        "are similar to the table; the section on the split shows how similar the test rows are to the training rows.",
        _advice(run),
        METRIC_EXPLANATIONS[run.task_type],
    ]
    if "conformal" in run.metrics:
        selected = "hyperparameters and epochs"
        if ENSEMBLE in run.metrics["weights"] and not _is_out_of_fold(run):
            selected = "hyperparameters, epochs and the weights of the ensemble"
        texts.append(
            "Prediction intervals are split-conformal, calibrated on the validation rows. These also selected "
            f"{selected}, so that the coverage of new rows like these can be slightly below the nominal one; the "
            "section on calibration has that of the test rows. For dissimilar sequences they can be too narrow."
        )
    differences = run.metrics["differences"].get("lyra", {})
    gaps = {name: gap for name, gap in differences.items() if name not in names_of("ensemble")}
    if run.best is not None and gaps and not all(gap["low"] > 0 for gap in gaps.values()):
        text = "Lyra is not clearly above every other single model here."
        if "lyra-additive" in gaps:
            text += " Its additive path, in a row of its own, shows what Lyra adds to it."
        texts.append(text)
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
