"""Report and model card of a fitted model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from subquad.bio.compared_models import COMPARED_MODELS, ENSEMBLE, WITHOUT_LYRA, colour_of, label_of, names_of
from subquad.bio.data.dataset import ROW_TASK_TYPES
from subquad.bio.metrics.scores import METRICS, title
from subquad.bio.models.finished_run import FinishedRun, lead_of, no_comparison, read_finished_run
from subquad.bio.plots import diagnostics
from subquad.reporting.metrics import Metric, difference_table, metrics_table
from subquad.reporting.page import Block, Section, Table, page, picture
from subquad.reporting.statistics import Difference
from subquad.reporting.style import history_figure, interval_figure

MAX_ROWS = 60
"""Metrics of single columns or classes that are shown."""
MEANINGS = {
    "spearman": "Spearman's correlation compares the order of predictions and measurements: 1 is perfect, 0 random.",
    "auroc": "AUROC is the probability that a positive ranks above a negative: 1 is perfect, 0.5 random.",
    "accuracy": "Accuracy is the fraction that is assigned to the right class.",
    "r2": "R² is the explained variance: 1 is perfect, 0 no better than the mean.",
    "f1": "F1 combines precision (predicted pairs that exist) and recall (pairs that are predicted).",
}
"""What the main metrics mean."""


def render(run: FinishedRun) -> str:
    """Return the report as HTML."""
    return page(_title(run), lead=_summary(run), sections=_sections(run))


def sections(directory: Path | str) -> list[Section]:
    """Return the sections of the report of a finished run in a folder, of which the first is the result."""
    run = read_finished_run(directory)
    result, *others = _sections(run)
    return [Section(result.title, [_summary(run), *result.blocks]), *others]


def card(run: FinishedRun) -> str:
    """Return the model card, `README.md` of the run folder."""
    rows, settings = run.metrics["rows"], run.config["settings"]
    tables = [_metrics(run), _differences(run)]
    lines = [
        f"# {_title(run)}",
        " ".join([_summary(run), *_weights(run)]),
        *(table.as_markdown() for table in tables if table.rows),
        f"Metrics of {rows['test']:,} test rows, with 95 % intervals. Model selection used {rows['validation']:,} "
        f"validation rows, training {rows['train']:,} rows. Split: {run.config['split']['how']}.",
        "This folder holds the models. Use them with `subquad bio predict FOLDER TABLE.csv --out predictions.csv`; "
        f"without `--model` the model is {label_of(run.shown)}.",
        f"Alphabet {run.config['inputs']['alphabet']}, seed {settings['seed']}, data fingerprint "
        f"{settings['fingerprint']}.",
    ]
    return "\n\n".join(lines) + "\n"


def _title(run: FinishedRun) -> str:
    names = ", ".join(run.names[:3]) + (" …" if len(run.names) > 3 else "")
    return f"{names} from sequence: {run.config['file']}"


def _sections(run: FinishedRun) -> list[Section]:
    found = [
        Section("Result", _result(run)),
        Section("Metrics by column or class", _single_metrics(run)),
        *diagnostics.sections(run),
        Section("Training and selected hyperparameters", _training(run)),
    ]
    return [section for section in found if section.blocks]


def _summary(run: FinishedRun) -> str:
    """Return which single model is best, whether clearly, and the metric of the ensemble."""
    best = run.best_single
    if run.best is None:
        return f"No model is named best: {no_comparison(run.metrics)}."
    values = {name: own[run.main] for name, own in run.metrics["test"].items()}
    unit = "rows" if run.task_type in ROW_TASK_TYPES else "sequences"
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


def _metrics(run: FinishedRun) -> Table:
    weights, seconds = run.metrics["weights"].get(ENSEMBLE, {}), run.metrics["cpu_seconds"]
    meaning = MEANINGS.get(run.main, "")
    caption = f"Held-out test rows, with 95 % bootstrap intervals over rows (↓: lower is better). {meaning}".rstrip()
    reasons = {run.undefined[name] for name in run.metric_names if name in run.undefined}
    if reasons:
        caption = f"–: undefined, because there is {' and '.join(sorted(reasons))} among the test rows."
    return metrics_table(
        run.metrics,
        {name: _metric_title(name) for name in run.metric_names},
        {model: label_of(model) for model in run.models},
        more={
            **({"weight": weights} if weights else {}),
            "CPU seconds": {model: round(own) for model, own in seconds.items()},
        },
        caption=caption,
        winner=None if run.best is None else run.metrics.get("wins"),
    )


def _differences(run: FinishedRun) -> Table:
    """Return the differences of Lyra and the ensemble from the other models in the main metric."""
    metric, gaps = METRICS[run.main], list[tuple[str, Metric, Difference]]()
    if run.best is not None:
        differences = run.metrics["differences"]
        gaps += [
            (f"Lyra − {label_of(name)}", metric, Difference.read(gap))
            for name, gap in differences.get("lyra", {}).items()
            if name not in names_of("ensemble")
        ]
        if (gap := run.metrics.get("ensemble_versus_best")) is not None:
            gaps.append((f"ensemble − best single model ({label_of(gap['best'])})", metric, Difference.read(gap)))
        if (gap := differences.get(ENSEMBLE, {}).get(WITHOUT_LYRA)) is not None:
            gaps.append((f"ensemble − {label_of(WITHOUT_LYRA)}", metric, Difference.read(gap)))
    caption = f"Paired differences on the same test rows. Up to {metric.threshold:g} they do not matter."
    return difference_table(gaps, what=f"difference in {run.title}", caption=caption)


def _result(run: FinishedRun) -> list[Block]:
    blocks: list[Block] = [*_weights(run), _metrics(run)]
    differences = _differences(run)
    if differences.rows:
        blocks.append(differences)
    if run.main not in run.undefined:
        rows = []
        for model in run.models:
            value = run.metrics["test"][model][run.main]
            rows.append((label_of(model), value, *(run.interval(model, run.main) or (value, value)), colour_of(model)))
        caption = f"{run.title} with 95 % bootstrap intervals over the test rows."
        blocks.append(picture(interval_figure(rows, label=run.title), caption))
    return [*blocks, *diagnostics.main_figures(run)]


def _single_metrics(run: FinishedRun) -> list[Block]:
    names = [name for name in run.metrics["test"][run.models[0]] if ":" in name]
    if not names:
        return []
    rows = [[_metric_title(name), *(run.metric(model, name) for model in run.models)] for name in names[:MAX_ROWS]]
    more = f"The first {MAX_ROWS} of {len(names)}." if len(names) > MAX_ROWS else ""
    return [Table(["metric", *map(label_of, run.models)], rows, caption=more)]


def _metric_title(name: str) -> str:
    return title(name) + (" ↓" if name in METRICS and METRICS[name].better == "lower" else "")


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
    rows = _hyperparameters(run.config.get("selected", {}), run.title)
    if rows:
        blocks.append(Table(["model", "selected on the validation rows"], rows))
    charts: dict[str, Any] = {"training loss": {}, f"{run.title}, validation rows": {}}
    for part in dict.fromkeys(line["part"] for line in run.history):
        # several networks of one model are numbered
        model = part if part in COMPARED_MODELS else part.rpartition(" ")[0]
        for chart, key in zip(charts, ("loss", f"validation_{run.main}"), strict=True):
            points = [(line["step"], line[key]) for line in run.history if line["part"] == part and key in line]
            if points:
                name = label_of(model)
                charts[chart][f"_{part}" if name in charts[chart] else name] = (points, colour_of(model))
    if charts["training loss"]:
        caption = "Training of the networks. The weights with the best validation metric are kept."
        blocks.append(picture(history_figure({label: own for label, own in charts.items() if own}), caption))
    return blocks


def _hyperparameters(chosen: Mapping[str, Any], main: str) -> list[list[str]]:
    names, rows = {"validation": f"validation {main}", "cpu_seconds": "CPU seconds of the training"}, []
    for model, facts in chosen.items():
        for entry in facts if isinstance(facts, list) else [facts]:
            texts = [
                f"{names.get(key, key.replace('_', ' '))} {f'{value:.3g}' if isinstance(value, float) else value}"
                for key, value in entry.items()
                if isinstance(value, str | int | float) and (key, value) != ("stopped_early", False)
            ]
            if texts and model != "conformal":
                rows.append([label_of(model), ", ".join(texts)])
    return rows
