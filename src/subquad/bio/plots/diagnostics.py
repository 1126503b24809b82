"""Sections of a report on data, split, calibration, errors, groups and learning curve."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from subquad.bio.compared_models import label_of
from subquad.bio.data.dataset import ROW_TASK_TYPES, EmbeddingSchema
from subquad.bio.metrics.conformal import reliability
from subquad.bio.models.finished_run import FinishedRun
from subquad.bio.plots import examples, split_section
from subquad.bio.plots.figures import (
    boxes,
    confusion,
    dot_plot,
    histograms,
    learning_curve,
    measured_predicted,
    probability_histogram,
    reliability_diagram,
    residual_plot,
)
from subquad.reporting.page import Block, Section, Table, picture, show

MAX_WORST_ROWS = 15
MAX_GROUPS = 25
MAX_CLASSES = 60


def sections(run: FinishedRun) -> list[Section]:
    """Return the diagnostic sections of the report; those without content are empty."""
    is_rows = run.task_type in ROW_TASK_TYPES
    return [
        Section("Data", _data(run)),
        Section("Split and leakage", split_section.blocks(run)),
        Section("Single sequences", [] if is_rows else examples.blocks(run)),
        Section("Calibration", _calibration(run) if is_rows else []),
        Section("Errors", _errors(run) if is_rows else []),
        Section("Groups", _groups(run)),
        Section("Learning curve", _learning(run)),
    ]


def main_figures(run: FinishedRun) -> list[Block]:
    """Return the figures below the first table: predictions against measurements."""
    match run.task_type:
        case "regression":
            return _measured_predicted(run)
        case "binary" if run.main in run.undefined:
            # there is a single class to draw
            return []
        case "binary":
            is_positive, probability = run.measured_classes() == 1, run.probabilities(run.shown)[:, 1]
            figure = probability_histogram(is_positive, probability, run.classes)
            return [picture(figure, f"Predicted probability ({label_of(run.shown)}) of the test rows of each class.")]
        case "multiclass":
            predicted = run.probabilities(run.shown).argmax(1)
            figure = confusion(run.measured_classes(), predicted, run.classes)
            caption = f"Confusion matrix ({label_of(run.shown)}) of the test rows, in % of the measured class."
            return [picture(figure, caption)]
        case "multilabel":
            return []
        case _:
            return examples.main_figures(run)


def _drawn_column(run: FinishedRun) -> tuple[str | None, str]:
    """Return the first target column with measurements of test rows, which figures show, and its place as a sentence.

    There is no such column if the test rows have no measurement at all, and no sentence if there is a single column.
    """
    known = (name for name in run.names if np.isfinite(_measured(run, name)).any())
    name = next(known, None)
    if name is None or len(run.names) == 1:
        return name, ""
    which = "" if name == run.names[0] else " that are measured in test rows"
    return name, f" The first of {len(run.names)} target columns{which}."


def _measured_predicted(run: FinishedRun) -> list[Block]:
    name, place = _drawn_column(run)
    if name is None:
        return []
    other = run.best_single if run.best_single != run.shown else run.models[0]
    measured = _measured(run, name)
    known = np.isfinite(measured)
    panels = [
        (label_of(model), measured[known], run.column(model, name)[known])
        for model in dict.fromkeys((run.shown, other))
    ]
    caption = f"Predictions against measurements of the test rows; dashed line: equality.{place}"
    return [picture(measured_predicted(panels, target=name), caption)]


def _measured(run: FinishedRun, name: str) -> np.ndarray:
    return run.column("measured", name)


def _data(run: FinishedRun) -> list[Block]:
    audit = run.metrics.get("audit")
    if not audit:
        return []
    length = audit["length"]
    letters = f"{length['min']} letters each" if length["min"] == length["max"] else _span(length)
    text = (
        f"{audit['rows']:,} rows, {audit['measured']:,} with a measurement. Sequences: {letters}, alphabet "
        f"{run.config['inputs']['alphabet']}"
    )
    positions = length["max"] + (audit["partners"]["length"]["max"] if audit.get("partners") else 0)
    if audit["varying"] is not None and audit["varying"] < positions:
        text += f"; {audit['varying']} positions vary"
    text += f"; {audit['ambiguous']:,} ambiguous letters" if audit["ambiguous"] else ""
    text += f". Covariates: {', '.join(audit['covariates'])}." if audit["covariates"] else "."
    if (embedding := run.config["inputs"].get("embedding")) is not None:
        text += f" Further inputs: {EmbeddingSchema(**embedding).title}."
    remarks = "; ".join(audit.get("remarks", []))
    blocks: list[Block] = [text, *_partners(audit, run.config["inputs"]), *_duplicates(audit["duplicates"])]
    blocks += [f"How the table was read: {remarks}."] if remarks else []
    # the counts of classes have no keys that the names of classes could not have too
    columns = {} if run.has_classes else audit["target"] or {}
    others = _other_panels(audit)
    panels = [*_target_panels(columns), *others]
    for start in range(0, len(panels), 3):
        what = [*(["targets by part of the split"] if columns else []), *(own["title"] for own in others)]
        caption = f"Histograms of {', '.join(what)}." if start == 0 else "Continued."
        blocks.append(picture(histograms(panels[start : start + 3]), caption))
    blocks += _classes(audit["target"]["classes"]) if run.has_classes and audit["target"] else []
    for name, one in columns.items():
        blocks += [_extreme(name, one)] if max(one.get("lowest", 0), one.get("highest", 0)) > 0.05 else []
    return blocks


def _partners(audit: Mapping[str, Any], inputs: Mapping[str, Any]) -> list[Block]:
    partners = audit.get("partners")
    if not partners:
        return []
    length = partners["length"]
    letters = f"{length['min']} letters each" if length["min"] == length["max"] else _span(length)
    return [
        f"Each row is a pair of chains, of {partners['sequences']:,} different sequences and {partners['partners']:,} "
        f"different partner sequences (column {inputs['partner']}): {letters}, alphabet "
        f"{inputs['partner_chain']['alphabet']}."
    ]


def _duplicates(duplicates: Mapping[str, Any]) -> list[Block]:
    if not duplicates["rows"]:
        return []
    text = f"{duplicates['rows']:,} rows repeat the sequence of an earlier row"
    if "difference" in duplicates:
        text += (
            f"; the median difference of two such measurements is {duplicates['difference']:.3g}, which limits the "
            "accuracy of any model"
        )
    if "differences" in duplicates:
        values = ", ".join(f"{name} {value:.3g}" for name, value in duplicates["differences"].items())
        text += f"; the median differences of two such measurements are {values}, which limit the accuracy of any model"
    if "disagree" in duplicates:
        text += f"; {100 * duplicates['disagree']:.1f} % of them have another class, which no model can predict"
    return [f"{text}."]


def _span(length: Mapping[str, Any]) -> str:
    return f"{length['min']:,} to {length['max']:,} letters, median {length['median']:,.0f}"


def _extreme(name: str, one: Mapping[str, Any]) -> str:
    which = "lowest" if one["lowest"] >= one["highest"] else "highest"
    return (
        f"{100 * one[which]:.0f} % of the measurements of {name} equal the {which} value, often a detection limit of "
        "the assay; the order among these rows cannot be predicted."
    )


def _target_panels(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    panels = []
    for name, one in list(columns.items())[:4]:
        counts = {part: one[part] for part in ("train", "validation", "test")}
        panels.append({"edges": one["edges"], "counts": counts, "label": name})
    return panels


def _other_panels(audit: Mapping[str, Any]) -> list[dict[str, Any]]:
    panels, length = [], audit["length"]
    if length["min"] < length["max"]:
        panel = {"edges": length["edges"], "counts": {"rows": length["counts"]}, "label": "sequence length"}
        panels.append({**panel, "title": "sequence lengths"})
    mutations = audit["mutations"]
    if mutations and len(mutations) > 1:
        most = max(map(int, mutations))
        counts = [mutations.get(str(k), 0) for k in range(most + 1)]
        panel = {"edges": np.arange(most + 2), "counts": {"rows": counts}, "label": "mutations", "is_integer": True}
        panels.append({**panel, "title": "mutations per variant"})
    return panels


def _classes(classes: Mapping[str, Any]) -> list[Block]:
    parts = ("train", "validation", "test")
    rows = [[name, *(counts[part] for part in parts)] for name, counts in classes.items()]
    return [Table(["class", *parts], rows[:MAX_CLASSES], caption="Rows or residues of each class or label.")]


def _with_width(one: Mapping[str, float | None]) -> str | None:
    """Return the coverage of intervals and their width; None for infinite ones, which cover everything."""
    inside, width = one["coverage"], one["width"]
    return None if inside is None or width is None else f"{100 * inside:.1f} % ({show(width)})"


def _coverage(run: FinishedRun, conformal: Mapping[str, Mapping[str, Any]]) -> list[Block]:
    """Return coverage and width of the prediction intervals, one row per model and column."""
    is_one = len(run.names) == 1
    rows = [
        [label_of(model), *([] if is_one else [column]), *map(_with_width, levels.values())]
        for model, own in conformal.items()
        for column, levels in own.items()
    ]
    caption = (
        "Coverage of the test rows by the conformal prediction intervals at each nominal coverage, and their median "
        "width (–: none is finite). They are calibrated on the validation rows, which also selected the models, so "
        "that the coverage of new rows can be slightly lower."
    )
    nominal = [f"{100 * float(level):.0f} %" for level in next(iter(conformal[run.shown].values()))]
    header = ["model", *([] if is_one else ["target"]), *nominal]
    return [Table(header, rows, caption=caption)]


def _calibration(run: FinishedRun) -> list[Block]:
    conformal = run.metrics.get("conformal")
    blocks = _coverage(run, conformal) if conformal and conformal[run.shown] else []
    if run.task_type in ("binary", "multiclass", "multilabel"):
        tables = {model: _reliability(run, model) for model in run.models}
        of = f"Class {run.classes[1]}" if run.task_type == "binary" else "All classes"
        caption = (
            f"Observed rate against predicted probability. {of}, with the 95 % interval of {label_of(run.shown)}; "
            "below the dashed line probabilities are too high."
        )
        blocks.append(picture(reliability_diagram(tables, band=run.shown), caption))
    return blocks


def _reliability(run: FinishedRun, model: str) -> list[dict[str, float]]:
    p = run.probabilities(model)
    if run.task_type == "binary":
        return reliability(run.measured_classes() == 1, p[:, 1])
    if run.task_type == "multiclass":
        return reliability(np.eye(len(run.classes))[run.measured_classes()] == 1, p)
    y = np.stack([_measured(run, name) for name in run.names], axis=1)
    return reliability(y[np.isfinite(y)] == 1, p[np.isfinite(y)])


def _errors(run: FinishedRun) -> list[Block]:
    if run.task_type == "multilabel":
        return []
    if run.task_type == "regression":
        return _residuals(run)
    p, y = run.probabilities(run.shown), run.measured_classes()
    of_true = p[np.arange(len(y)), y]
    blocks: list[Block] = []
    if "mutations" in run.rows and run.rows["mutations"].nunique() > 1:
        figure = boxes(
            run.rows["mutations"].to_numpy(), of_true, label="probability of the true class", axis="mutations"
        )
        blocks.append(
            picture(figure, f"Probability of the true class ({label_of(run.shown)}), by number of mutations.")
        )
    wrong = np.flatnonzero(p.argmax(1) != y)
    worst = wrong[np.argsort(of_true[wrong], kind="stable")[:MAX_WORST_ROWS]]
    rows = [
        [*_named(run, row), run.classes[y[row]], run.classes[int(p[row].argmax())], float(of_true[row])]
        for row in worst
    ]
    if rows:
        header = ["row", "sequence", "measured", "predicted", "probability of the measured class"]
        caption = f"Test rows with the largest errors ({label_of(run.shown)}); some may be mislabelled."
        blocks.append(Table(header, rows, caption=caption))
    return blocks


def _residuals(run: FinishedRun) -> list[Block]:
    name, _ = _drawn_column(run)
    if name is None:
        return []
    measured, predicted = _measured(run, name), run.column(run.shown, name)
    known = np.flatnonzero(np.isfinite(measured))
    residual = (measured - predicted)[known]
    caption = (
        f"Residuals of the predictions of {name} ({label_of(run.shown)}), with their running mean and central 80 %."
    )
    blocks: list[Block] = [picture(residual_plot(predicted[known], residual), caption)]
    if "mutations" in run.rows and run.rows["mutations"].nunique() > 1:
        numbers = run.rows["mutations"].to_numpy()[known]
        figure = boxes(numbers, residual, label="measured − predicted", axis="mutations")
        blocks.append(
            picture(figure, "Residuals by number of mutations: quartiles, and whiskers of 1.5 interquartile ranges.")
        )
    worst = known[np.argsort(-np.abs(residual), kind="stable")[:MAX_WORST_ROWS]]
    other = run.models[0]
    rows = [
        [*_named(run, row), float(measured[row]), float(predicted[row]), float(run.column(other, name)[row])]
        for row in worst
    ]
    header = ["row", "sequence", "measured", label_of(run.shown), label_of(other)]
    caption = "Test rows with the largest residuals. If all models agree, suspect the measurement."
    return [*blocks, Table(header, rows, caption=caption)]


def _named(run: FinishedRun, row: int) -> list[Any]:
    """Return the number of a test row and its variant, or the start of its sequence."""
    text = str(run.rows["sequence"].iloc[row])
    if "mutant" in run.rows:
        mutant = run.rows["mutant"].iloc[row]
        text = "wild type" if pd.isna(mutant) or not mutant else str(mutant)
    return [int(run.rows["row"].iloc[row]), text if len(text) <= 44 else text[:43] + "…"]


def _groups(run: FinishedRun) -> list[Block]:
    groups = run.metrics.get("groups")
    if not groups or run.main in run.undefined:
        return []
    size = {name: max(own["rows"] for own in of.values()) for name, of in groups.items()}
    ordered = sorted(groups, key=lambda name: -size[name])[:MAX_GROUPS]
    models = [model for model in run.models if model in groups[ordered[0]]]
    values = {model: [groups[name].get(model, {}).get(run.main, np.nan) for name in ordered] for model in models}
    names = [f"{name} ({size[name]:,})" for name in ordered]
    defined = [own for own in groups.values() if any(run.main in metrics for metrics in own.values())]
    first = sum(run.shown in _best_in_group(own, run.main) for own in defined)
    more = f"; the {MAX_GROUPS} largest of {len(groups):,} groups" if len(groups) > MAX_GROUPS else ""
    caption = (
        f"{run.title} within each group of test rows (number of rows in parentheses{more}). The model "
        f"{label_of(run.shown)} is best in {first:,} of {len(defined):,} that define it."
    )
    figure = dot_plot(names, values, label=run.title)
    cells = zip(*values.values(), strict=True)
    rows = [
        [name, *(value if np.isfinite(value) else None for value in own)]
        for name, own in zip(names, cells, strict=True)
    ]
    return [picture(figure, caption), Table(["group", *map(label_of, models)], rows)]


def _best_in_group(metrics: Mapping[str, Mapping[str, float]], main: str) -> list[str]:
    """Return the models with the highest value in a group that defines the metric."""
    highest = max(own[main] for own in metrics.values() if main in own)
    return [model for model, own in metrics.items() if own.get(main) == highest]


def _learning(run: FinishedRun) -> list[Block]:
    curve = run.metrics.get("learning_curve")
    # a single size is no curve
    if not curve or len(curve) < 2 or run.main in run.undefined:
        return []
    models = [model for model in run.models if model in curve[0]]
    values = {model: [point[model] for point in curve] for model in models}
    std = {model: [point.get("std", {}).get(model, 0.0) for point in curve] for model in models}
    figure = learning_curve([point["rows"] for point in curve], values, std, label=run.title)
    caption = "Learning curve on the same test rows. If it still rises at its end, more measurements may help."
    rows = [
        [point["rows"], *(f"{point[m]:.3f} ± {point['std'][m]:.3f}" if "std" in point else point[m] for m in models)]
        for point in curve
    ]
    spread = "±: standard deviation over random subsets." if any("std" in point for point in curve) else ""
    return [picture(figure, caption), Table(["training rows", *map(label_of, models)], rows, caption=spread)]
