"""Where a fitted model errs: its data, split, calibration, residuals and groups, as sections of the report."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from subquad.bio.data.dataset import ROW_TASK_TYPES
from subquad.bio.metrics.conformal import reliability
from subquad.bio.plots import examples
from subquad.bio.plots import figures as plots
from subquad.bio.plots.run_files import WORDS, Finished
from subquad.reporting.page import Picture, Section, Table, picture

__all__ = ["main_pictures", "sections"]

Block = str | Table | Picture
WORST = 15
MOST_GROUPS = 25
LEAKS = {
    "exact": "test rows whose sequence is in training or validation too",
    "near_duplicates": "other test rows that are near-duplicates of training or validation rows: {definition}",
    "removed": "of both, left out of the test",
    "marked": "rows that the table itself calls duplicates of the test",
    "validation_exact": "validation rows whose sequence is in training too",
    "replicated": "sequences that have several rows",
    "conflicts": "of these, with different measurements",
    "unused": "measured rows in no part of the split",
}
"""What is counted in a split, in words."""


def sections(run: Finished) -> list[Section]:
    """Return the sections between the figures and the choices; those without content are empty."""
    is_rows = run.task_type in ROW_TASK_TYPES
    return [
        Section("Data", _data(run)),
        Section("Split and leakage", _split(run)),
        Section("Sequences one by one", [] if is_rows else examples.blocks(run)),
        Section("Calibration", _calibration(run) if is_rows else []),
        Section("Where it errs", _errors(run) if is_rows else []),
        Section("Groups", _groups(run)),
        Section("Learning curve", _learning(run)),
    ]


def main_pictures(run: Finished) -> list[Block]:
    """Return the pictures under the first table: predictions against measurements."""
    match run.task_type:
        case "regression":
            return [_measured_predicted(run)]
        case "binary" if run.main in run.unmeasured:
            # there is one class only to be drawn
            return []
        case "binary":
            figure = plots.two_classes(run.measured_classes() == 1, run.probabilities("net")[:, 1], run.classes)
            return [picture(figure, "What the net says of the test rows of each class; the further apart, the better.")]
        case "multiclass":
            chosen = run.probabilities("net").argmax(1)
            figure = plots.confusion(run.measured_classes(), chosen, run.classes)
            return [picture(figure, "Measured and predicted classes of the test rows, in %; the diagonal is right.")]
        case "multilabel":
            return []
        case _:
            return examples.main_pictures(run)


def _measured_predicted(run: Finished) -> Picture:
    name = run.names[0]
    other = run.best_single if run.best_single != "net" else "ridge"
    measured = _measured(run, name)
    known = np.isfinite(measured)
    panels = [
        (WORDS.get(model, model), measured[known], run.column(model, name)[known])
        for model in ("net", other)
        if model in run.models
    ]
    said = "Predictions against measurements, test rows; on the dashed line they agree."
    if len(run.names) > 1:
        said += f" Shown is the first of {len(run.names)} columns."
    return picture(plots.densities(panels, target=name), said)


def _measured(run: Finished, name: str) -> np.ndarray:
    return run.column("measured", name)


def _data(run: Finished) -> list[Block]:
    audit = run.metrics.get("audit")
    if not audit:
        return []
    length, table = audit["length"], run.facts["inputs"]
    letters = f"{length['min']} letters each" if length["min"] == length["max"] else _span(length)
    said = (
        f"{audit['rows']:,} rows, {audit['measured']:,} with a measurement. Sequences: {letters}, {table['alphabet']}"
    )
    if audit["varying"] is not None and audit["varying"] < length["max"]:
        said += f"; {audit['varying']} positions vary"
    said += f"; {audit['ambiguous']:,} letters stand for several" if audit["ambiguous"] else ""
    said += f". Further numbers of each row: {', '.join(audit['covariates'])}." if audit["covariates"] else "."
    again = audit["duplicates"]
    blocks: list[Block] = [said]
    if again["rows"]:
        more = f"{again['rows']:,} rows repeat a sequence that stood before"
        if "spread" in again:
            more += f"; two measurements of one sequence differ by {again['spread']:.3g} (median), and no model can "
            "do better"
        if "disagree" in again:
            more += f"; {100 * again['disagree']:.1f} % of them have another class, and no model can tell them apart"
        blocks.append(more + ".")
    panels = [*_target_panels(audit), *_other_panels(audit)]
    for start in range(0, len(panels), 3):
        caption = "What is in the table: targets by part of the split, lengths, and mutations of the variants."
        blocks.append(picture(plots.steps(panels[start : start + 3]), caption if start == 0 else "More of the same."))
    blocks += _classes(audit)
    for name, one in (audit["target"] or {}).items():
        blocks += [_extreme(name, one)] if max(one.get("lowest", 0), one.get("highest", 0)) > 0.05 else []
    return blocks


def _span(length: Mapping[str, Any]) -> str:
    return f"{length['min']:,} to {length['max']:,} letters, median {length['median']:,.0f}"


def _extreme(name: str, one: Mapping[str, Any]) -> str:
    which = "lowest" if one["lowest"] >= one["highest"] else "highest"
    return (
        f"{100 * one[which]:.0f} % of the measurements of {name} equal the very {which} one. That is often the limit "
        "of an assay; among such rows there is no order to predict."
    )


def _target_panels(audit: Mapping[str, Any]) -> list[dict[str, Any]]:
    panels = []
    for name, one in list((audit["target"] or {}).items())[:4]:
        if "edges" in one:
            counts = {part: one[part] for part in ("train", "validation", "test")}
            panels.append({"edges": one["edges"], "counts": counts, "label": name})
    return panels


def _other_panels(audit: Mapping[str, Any]) -> list[dict[str, Any]]:
    panels, length = [], audit["length"]
    if length["min"] < length["max"]:
        panels.append({"edges": length["edges"], "counts": {"rows": length["counts"]}, "label": "letters"})
    mutations = audit["mutations"]
    if mutations and len(mutations) > 1:
        most = max(map(int, mutations))
        counts = [mutations.get(str(k), 0) for k in range(most + 1)]
        label = "mutations of a variant"
        panels.append({"edges": np.arange(most + 2), "counts": {"rows": counts}, "label": label, "is_whole": True})
    return panels


def _classes(audit: Mapping[str, Any]) -> list[Block]:
    classes = (audit["target"] or {}).get("classes")
    if not classes:
        return []
    parts = ("train", "validation", "test")
    rows = [[name, *(counts[part] for part in parts)] for name, counts in classes.items()]
    return [Table(["class", *parts], rows[:60], caption="Rows (or residues) of each class, or with each label.")]


def _split(run: Finished) -> list[Block]:
    split, audit = run.facts["split"], run.metrics.get("audit") or {}
    rows = run.metrics["rows"]
    blocks: list[Block] = [
        f"How: {split['how']}. {rows['train']:,} rows were learned from, {rows['validation']:,} decided every "
        f"choice, and {rows['test']:,} were kept for the test."
    ]
    leaks = run.metrics.get("leakage") or {}
    # runs of older versions do not say it
    definition = leaks.get("definition", "")
    told = [[words.format(definition=definition), leaks[key]] for key, words in LEAKS.items() if leaks.get(key)]
    if told:
        blocks.append(Table(["what the training could give away", "rows"], told))
    elif leaks:
        blocks.append("No test sequence is in training or validation too, and no sequence has several rows.")
    blocks += _near(run, leaks)
    near = audit.get("nearest")
    if near:
        is_whole = near["measure"] == "substitutions"
        label = "substitutions to the nearest training row" if is_whole else "share of words that no training row has"
        panel = {"edges": near["edges"], "counts": {"rows": near["counts"]}, "label": label, "is_whole": is_whole}
        said = f"How far {near['rows']:,} test rows are from the nearest training row: median {near['median']:.3g}. "
        said += "The nearer they are, the easier the test; figures hold for new sequences that are as near."
        blocks.append(picture(plots.steps([panel]), said))
    groups = audit.get("groups")
    if groups:
        largest = ", ".join(f"{name} ({count:,})" for name, count in groups["largest"])
        blocks.append(f"{groups['count']:,} groups; the largest are {largest}.")
    return blocks


def _mean_of(columns: Mapping[str, Mapping[str, Any]], level: str, name: str) -> float | None:
    values = [own[level][name] for own in columns.values()]
    return None if None in values else float(np.mean(values))


def _near(run: Finished, leaks: Mapping[str, Any]) -> list[Block]:
    said = []
    if leaks.get("near_duplicates") and leaks.get("kept_because"):
        reason = f"Near-duplicates are counted and stay in the test set: {leaks['kept_because']}."
        said.append(f"{reason} --leak-distance 1 removes them.")
    if leaks.get("not_compared"):
        every = leaks["not_compared"] + leaks["compared"]
        said.append(f"Near-duplicates were searched in a random sample of {leaks['compared']:,} of {every:,} rows.")
    return [" ".join(said)] if said else []


def _calibration(run: Finished) -> list[Block]:
    blocks: list[Block] = []
    conformal = run.metrics.get("conformal")
    if conformal and conformal["net"]:
        levels = list(next(iter(conformal["net"].values())))
        measured = [_mean_of(conformal["net"], level, "coverage") for level in levels]
        said = (
            "Intervals of the net's predictions, from errors on the validation rows: on the dashed line they keep "
            "their word."
        )
        numbers = [float(level) for level in levels]
        blocks.append(picture(plots.coverage(numbers, measured, run.metrics["rows"]["test"]), said))
        rows = []
        for model in conformal:
            for level in levels:
                share, width = (_mean_of(conformal[model], level, name) for name in ("coverage", "width"))
                rows.append([WORDS[model], f"{100 * float(level):.0f} %", f"{100 * share:.1f} %", width])
        several = "; means over the columns" if len(run.names) > 1 else ""
        said = (
            f"The stack and the rivals have intervals of their own: the narrower of two that hold is better{several}."
        )
        blocks.append(Table(["model", "promised", "inside, test rows", "median width"], rows, caption=said))
    if run.task_type in ("binary", "multiclass", "multilabel"):
        tables = {model: _reliability(run, model) for model in run.models}
        said = (
            "Where a class is called so likely, it should be so as often. Below the dashed line a model is too sure. "
        )
        said += (
            "All classes together; the band is the 95 % interval of the net."
            if run.task_type != "binary"
            else (f"Of {run.classes[1]}; the band is the 95 % interval of the net.")
        )
        blocks.append(picture(plots.reliability(tables, WORDS), said))
    return blocks


def _reliability(run: Finished, model: str) -> list[dict[str, float]]:
    p = run.probabilities(model)
    if run.task_type == "binary":
        return reliability(run.measured_classes() == 1, p[:, 1])
    if run.task_type == "multiclass":
        return reliability(np.eye(len(run.classes))[run.measured_classes()] == 1, p)
    y = np.stack([_measured(run, name) for name in run.names], axis=1)
    return reliability(y[np.isfinite(y)] == 1, p[np.isfinite(y)])


def _errors(run: Finished) -> list[Block]:
    if run.task_type == "multilabel":
        return []
    if run.task_type == "regression":
        return _residuals(run)
    p, y = run.probabilities("net"), run.measured_classes()
    sure = p[np.arange(len(y)), y]
    blocks: list[Block] = []
    if "mutations" in run.rows and run.rows["mutations"].nunique() > 1:
        figure = plots.by_number(
            run.rows["mutations"].to_numpy(), sure, label="probability of the true class", axis="mutations"
        )
        blocks.append(
            picture(figure, "The probability that the net gives to the measured class, by number of mutations.")
        )
    worst = [row for row in np.argsort(sure, kind="stable")[:WORST] if sure[row] < 0.5]
    rows = [
        [*_named(run, row), run.classes[y[row]], run.classes[int(p[row].argmax())], float(sure[row])] for row in worst
    ]
    header = ["row", "sequence", "measured", "predicted", "probability of the measured"]
    if rows:
        caption = "The test rows that the net is most wrong about: look at them first, for some may be mislabelled."
        blocks.append(Table(header, rows, caption=caption))
    return blocks


def _residuals(run: Finished) -> list[Block]:
    name = run.names[0]
    measured, predicted = _measured(run, name), run.column("net", name)
    known = np.flatnonzero(np.isfinite(measured))
    residual = (measured - predicted)[known]
    said = f"What the net's predictions of {name} miss. A mean away from nought: too high or too low there; a widening "
    said += "band: some predictions are surer than others."
    blocks: list[Block] = [picture(plots.residuals(predicted[known], residual), said)]
    if "mutations" in run.rows and run.rows["mutations"].nunique() > 1:
        numbers = run.rows["mutations"].to_numpy()[known]
        figure = plots.by_number(numbers, residual, label="measured less predicted", axis="mutations")
        blocks.append(
            picture(figure, "The same by number of mutations: boxes hold the middle half, whiskers most of the rest.")
        )
    worst = known[np.argsort(-np.abs(residual), kind="stable")[:WORST]]
    other = "ridge" if "ridge" in run.models else run.models[-1]
    rows = [
        [*_named(run, row), float(measured[row]), float(predicted[row]), float(run.column(other, name)[row])]
        for row in worst
    ]
    header = ["row", "sequence", "measured", "net", WORDS.get(other, other)]
    caption = "The test rows that the net misses most. Where all models miss alike, suspect the measurement."
    return [*blocks, Table(header, rows, caption=caption)]


def _named(run: Finished, row: int) -> list[Any]:
    """Return number and name of a test row: its mutations where they are known, else the start of its sequence."""
    text = str(run.rows["sequence"].iloc[row])
    if "mutant" in run.rows:
        mutant = run.rows["mutant"].iloc[row]
        text = "wild type" if pd.isna(mutant) or not mutant else str(mutant)
    return [int(run.rows["row"].iloc[row]), text if len(text) <= 44 else text[:43] + "…"]


def _groups(run: Finished) -> list[Block]:
    groups = run.metrics.get("groups")
    if not groups or run.main in run.unmeasured:
        return []

    def value(of: Mapping[str, Any], model: str) -> float | None:
        own = of.get(model)
        return own.get(run.main) if isinstance(own, Mapping) else own

    def size(of: Mapping[str, Any]) -> int:
        return max((own["rows"] for own in of.values() if isinstance(own, Mapping) and "rows" in own), default=0)

    ordered = sorted(groups, key=lambda name: -size(groups[name]))[:MOST_GROUPS]
    models = [model for model in run.models if model in groups[ordered[0]]]
    known = {name: {model: value(groups[name], model) for model in models} for name in groups}
    values = {
        model: [np.nan if known[name][model] is None else known[name][model] for name in ordered] for model in models
    }
    names = [f"{name} ({size(groups[name]):,})" for name in ordered]
    wins = sum(_first(own) == "net" for own in known.values())
    said = f"{run.title} within each group of test rows (rows in brackets"
    said += f"; the {MOST_GROUPS} largest of {len(groups):,}). " if len(groups) > MOST_GROUPS else "). "
    said += f"The net is first in {wins:,} of {len(groups):,}. Small groups jump."
    figure = plots.groups(names, values, label=run.title, words=WORDS)
    rows = [[name, *(own[k] for own in values.values())] for k, name in enumerate(names)]
    return [picture(figure, said), Table(["group", *(WORDS.get(model, model) for model in models)], rows)]


def _first(figures: Mapping[str, float | None]) -> str:
    return max(figures, key=lambda model: -np.inf if figures[model] is None else figures[model])


def _learning(run: Finished) -> list[Block]:
    curve = run.metrics.get("learning_curve")
    if not curve or run.main in run.unmeasured:
        return []
    models = [model for model in run.models if model in curve[0]]
    x = [point["rows"] for point in curve]
    values = {model: [point[model] for point in curve] for model in models}
    spread = {model: [point.get("spread", {}).get(model, 0.0) for point in curve] for model in models}
    figure = plots.lines(x, values, spread, axis="training rows", label=run.title, words=WORDS)
    said = (
        "How the figure of the same test rows grows with the rows learned from. Still rising at the end: measure more."
    )
    if any("spread" in point for point in curve):
        said += " Means over drawings of the rows; bands and ± are their standard deviation."
    rows = [
        [
            point["rows"],
            *(f"{point[m]:.3f} ± {point['spread'][m]:.3f}" if "spread" in point else point[m] for m in models),
        ]
        for point in curve
    ]
    return [picture(figure, said), Table(["training rows", *(WORDS.get(model, model) for model in models)], rows)]
