"""The report and the card of a fitted model, from the files that the run left. Plots only, no model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from subquad.bio.data.dataset import ROW_TASK_TYPES
from subquad.bio.metrics.scores import LOWER_IS_BETTER, title
from subquad.bio.plots import diagnostics as diagnosis
from subquad.bio.plots import figures as plots
from subquad.bio.plots.run_files import WORDS, Finished, read_history, read_run, silence, winner
from subquad.reporting.page import Picture, Section, Table, page, picture
from subquad.runs.folder import REPORT
from subquad.runs.storage import as_file, atomic

__all__ = ["WORDS", "card", "read_history", "render", "report", "sections", "silence", "winner"]

Block = str | Table | Picture
MOST_COLUMNS = 7
"""Figures in the first table; all are further down."""


def report(directory: Path | str, *, out: Path | str | None = None) -> Path:
    """Write the page about a finished run, and return where it is.

    Args:
        directory: the folder that `fit` wrote.
        out: the file; by default `report.html` in the folder.

    Raises:
        SubquadError: there is no finished run.
    """
    run = read_run(directory)
    out = Path(directory) / REPORT if out is None else as_file(out)
    with atomic(out) as temporary:
        temporary.write_text(_page(run), encoding="utf-8")
    return out


def sections(directory: Path | str) -> list[Section]:
    """Return the sections of a finished run's report, from its folder; the first holds the result."""
    return _sections(read_run(directory))


def render(
    metrics: Mapping[str, Any], facts: Mapping[str, Any], rows: Any, history: Sequence[Mapping[str, Any]]
) -> str:
    """Return the page.

    Args:
        metrics: contents of `metrics.json`.
        facts: contents of `config.json`, with the settings.
        rows: contents of `test.csv` as a frame, or of `test.json` as a list: measured and predicted.
        history: lines of `history.jsonl`.
    """
    return _page(Finished(metrics=metrics, facts=facts, rows=rows, history=history))


def card(metrics: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """Return the README of the saved folder."""
    run = Finished(metrics=metrics, facts=facts, rows=None, history=[])
    rows, settings = metrics["rows"], facts["settings"]
    lines = [
        f"# {_title(run)}",
        "",
        _verdict(run),
        "",
        "| model | " + " | ".join(title(name) for name in run.figures) + " |",
        "|---|" + "---|" * len(run.figures),
    ]
    for model in run.models:
        values = (run.figure(model, name) for name in run.figures)
        cells = " | ".join("–" if value is None else f"{value:.3f}" for value in values)
        lines.append(f"| {WORDS.get(model, model)} | {cells} |")
    lines += [
        "",
        f"Figures of {rows['test']:,} test rows; choices were made on {rows['validation']:,} validation rows, and "
        f"{rows['train']:,} rows were learned from. Split: {facts['split']['how']}.",
        "",
        "This folder holds the net. Use it with: `subquad bio predict FOLDER TABLE.csv --out predictions.csv`.",
        "",
        f"Alphabet {facts['table']['alphabet']}, preset {settings['preset']}, seed {settings['seed']}, data "
        f"fingerprint {settings['fingerprint']}.",
        "",
    ]
    return "\n".join(lines)


def _title(run: Finished) -> str:
    names = ", ".join(run.names[:3]) + (" …" if len(run.names) > 3 else "")
    return f"{names} from sequence: {run.facts['file']}"


def _page(run: Finished) -> str:
    return page(_title(run), lead=_winner(run), sections=_sections(run))


def _sections(run: Finished) -> list[Section]:
    found = [
        Section("Result", _result(run)),
        Section("Figures and intervals", _figures(run)),
        *diagnosis.sections(run),
        Section("Choices and training", _training(run)),
        Section("How to read this page", _reading(run)),
    ]
    return [section for section in found if section.blocks]


def _verdict(run: Finished) -> str:
    return _winner(run) if run.winner is None else f"{_winner(run)} {_leads(run)}"


def _winner(run: Finished) -> str:
    if run.winner is None:
        return f"No winner is named, with {silence(run.metrics)}."
    values = {name: figures[run.main] for name, figures in run.metrics["test"].items()}
    best, single = run.winner, run.best_single
    unit = "rows" if run.task_type in ROW_TASK_TYPES else "sequences"
    others = ", ".join(f"{WORDS.get(name, name)} {value:.3f}" for name, value in values.items() if name != best)
    said = f"On {run.metrics['rows']['test']:,} test {unit} the winner is: {WORDS.get(best, best)}, {run.title} "
    said += f"{values[best]:.3f} ({others})."
    if best == "stack":
        said += f" Of the single models it is: {WORDS.get(single, single)}."
    if single == "net":
        leads = run.metrics["differences"].items()
        level = [WORDS.get(name, name) for name, gap in leads if name != "stack" and _is_level(gap)]
        said += f" These rows do not tell it from {' and '.join(level)}, which is simpler." if level else ""
    return said


def _is_level(gap: Mapping[str, float]) -> bool:
    return gap["low"] <= 0 <= gap["high"]


def _leads(run: Finished) -> str:
    said = []
    for name, gap in run.metrics["differences"].items():
        if name != "stack":
            said.append(f"over {WORDS.get(name, name)} {_gap(gap)}")
    text = f"The net's lead in {run.title}: {'; '.join(said)}." if said else ""
    gap = run.metrics.get("stack_versus_best")
    if gap is not None:
        text += f" The stack's over the best single model, {WORDS.get(gap['best'], gap['best'])}: {_gap(gap)}."
    return text


def _gap(gap: Mapping[str, float]) -> str:
    rest = ", no clear difference" if _is_level(gap) else ""
    return f"{gap['value']:+.4f} (95 % interval {gap['low']:+.4f} to {gap['high']:+.4f}{rest})"


def _result(run: Finished) -> list[Block]:
    names = run.figures[:MOST_COLUMNS]
    seconds = run.metrics["seconds"]
    rows = [
        [WORDS.get(model, model), *(run.figure(model, name) for name in names), seconds.get(model)]
        for model in run.models
    ]
    said = "Figures on test rows, which no model and no choice has seen"
    said += "." if run.winner is None else f"; {run.title} decides who wins."
    lacking = {run.unmeasured[name] for name in names if name in run.unmeasured}
    said += f" –: {lacking.pop()} among them, nothing to measure." if lacking else ""
    table = Table(
        header=["model", *(title(name) for name in names), "seconds"],
        rows=rows,
        caption=said,
        winner=None if run.winner is None else run.models.index(run.winner),
    )
    return [_verdict(run), table, *diagnosis.main_pictures(run)]


def _figures(run: Finished) -> list[Block]:
    blocks = [] if run.main in run.unmeasured else _intervals(run)
    header = ["figure", *(WORDS.get(model, model) for model in run.models)]
    cells = [[_named(name), *(_with_interval(run, model, name) for model in run.models)] for name in run.figures]
    blocks.append(Table(header, cells, caption="All figures; in brackets their 95 % intervals."))
    more = [name for name in run.metrics["test"][run.models[0]] if ":" in name]
    if more:
        rows = [[_named(name), *(run.figure(model, name) for model in run.models)] for name in more[:60]]
        blocks.append(Table(header, rows, caption="By column or class."))
    return blocks


def _intervals(run: Finished) -> list[Block]:
    intervals = run.metrics.get("intervals", {}).get("test", {})
    rows, test = [], run.metrics["test"]
    for model in run.models:
        low, high = intervals.get(model, {}).get(run.main, [test[model][run.main]] * 2)
        rows.append((WORDS.get(model, model), model, test[model][run.main], low, high))
    said = f"{run.title} with 95 % intervals of 200 bootstrap samples of the test rows."
    blocks: list[Block] = [picture(plots.forest(rows, label=run.title), said)]
    gaps = [
        (f"net over {WORDS.get(name, name)}", name, gap["value"], gap["low"], gap["high"])
        for name, gap in run.metrics["differences"].items()
    ]
    if gaps:
        said = (
            "Differences on the same samples of rows: surer than the two intervals above, for what makes a row hard is "
        )
        said += "hard for both. An interval across nought is no clear difference."
        blocks.append(picture(plots.forest(gaps, label=f"difference in {run.title}", zero=True), said))
    return blocks


def _named(name: str) -> str:
    return title(name) + (" (lower is better)" if name in LOWER_IS_BETTER else "")


def _with_interval(run: Finished, model: str, name: str) -> str:
    value = run.figure(model, name)
    if value is None:
        return "–"
    ends = run.metrics.get("intervals", {}).get("test", {}).get(model, {}).get(name)
    return f"{value:.3f}" if ends is None else f"{value:.3f} ({ends[0]:.3f}–{ends[1]:.3f})"


def _training(run: Finished) -> list[Block]:
    settings, metrics = run.facts["settings"], run.metrics
    said = f"The net, preset {settings['preset']}, has {metrics['parameters']:,} parameters"
    members = metrics.get("ensemble_size", 1)
    said += f" in {members} nets whose predictions are averaged. " if members > 1 else ". "
    total = sum(value for name, value in metrics["seconds"].items() if name != "total")
    said += f"All of it took {total:,.0f} seconds"
    said += f" and {metrics['memory_mb']:,} MB of memory at most. " if metrics.get("memory_mb") else ". "
    said += f"Seed {settings['seed']}, data fingerprint {settings['fingerprint']}."
    blocks: list[Block] = [said]
    weights = metrics.get("stacking", {}).get("weights")
    if weights:
        parts = ", ".join(f"{WORDS.get(name, name)} {_short(value)}" for name, value in weights.items())
        blocks.append(f"Weights of the stack: {parts}.")
    rows = [[WORDS.get(name, name), text] for name, text in _choices(run.facts.get("selected", {}))]
    if rows:
        blocks.append(Table(["model", "chosen on the validation rows"], rows))
    if any("loss" in line for line in run.history):
        figure = plots.curves(run.history, run.main, run.title)
        said = "The net's training; the weights with the best value on the right are kept, or the start's, if better."
        blocks.append(picture(figure, said))
    return blocks


def _choices(chosen: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for name, facts in chosen.items():
        for one in facts if isinstance(facts, list) else [facts]:
            plain = {key: value for key, value in one.items() if isinstance(value, str | int | float)}
            if plain and name != "conformal":
                rows.append(
                    (name, ", ".join(f"{key.replace('_', ' ')} {_short(value)}" for key, value in plain.items()))
                )
    return rows


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _reading(run: Finished) -> list[Block]:
    words: list[Block] = [
        "Test rows are rows that no model learned from and no choice was made on. A figure of them is what you may "
        "expect of new sequences only if these are like the rows of the table: the section on the split says how "
        "near they are.",
        "The winner is named by one figure, for the others may disagree. Where the interval of a difference contains "
        "nought, take the simpler model: ridge says why it predicts what it does, and costs a second."
        if run.winner is not None
        else "Where no winner is named, ridge is the cautious choice until there are more test rows: measure more, or "
        "look at all folds (--fold) together.",
        _FIGURES_IN_WORDS[run.task_type],
    ]
    if "conformal" in run.metrics:
        words.append(
            "Intervals around predictions come from the errors on the validation rows. They hold for new rows like "
            "these, on average; for unusual sequences they are too narrow."
        )
    leads = [gap["low"] > 0 for name, gap in run.metrics["differences"].items() if name in ("ridge", "boosting")]
    if run.winner is not None and leads and not all(leads):
        words.append(
            "The net is not clearly better than all simple models here. That is a result too: the letters act nearly "
            "one by one, or the rows are too few or too noisy to learn more."
        )
    return words


_FIGURES_IN_WORDS = {
    "regression": "Spearman says whether the order is right (1: perfectly, 0: chance); R² how much of the variance is "
    "predicted; NDCG whether the best rows come first; top-10 % recall which share of the best tenth is in the "
    "predicted best tenth.",
    "binary": "AUROC is the chance that a row of the class looked for gets the higher probability of two (0.5: "
    "chance); average precision falls where that class is rare; MCC is 1 for no mistake and 0 for chance, at a "
    "probability of 0.5.",
    "multiclass": "Accuracy is the share of right rows, balanced accuracy its mean over the classes, so that a rare "
    "class counts as much as a common one; MCC is 1 for no mistake and 0 for chance.",
    "multilabel": "AUROC is, label by label, the chance that a row with the label gets the higher probability of two "
    "(0.5: chance), then averaged; F1 counts mistakes at a probability of 0.5.",
    "residue_regression": "R² is how much of the variance among all residues is predicted; intervals are drawn over "
    "whole sequences, for residues of one sequence resemble each other.",
    "residue_binary": "AUROC is the chance that a residue of the class gets the higher probability of two, over all "
    "test residues; its mean of sequences asks the same within each sequence.",
    "residue_multiclass": "Accuracy is the share of right residues; F1 is the mean over the classes, so that rare ones "
    "count as much. Intervals are drawn over whole sequences.",
    "pairs": "F1 joins precision (predicted pairs that are there) and recall (pairs that were found), sequence by "
    "sequence; F1, ±1 place also counts a pair that is one place off.",
}
