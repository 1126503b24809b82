"""The report of an explanation: sentences, tables and figures from `explain.json`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from subquad.errors import counted
from subquad.hep.plots.event_displays import JetDisplay, displays_figure
from subquad.hep.plots.style import latex_name
from subquad.ops.kinematics import VARIABLES
from subquad.reporting.page import Section, Table, page, picture
from subquad.reporting.style import INK, PALETTE, draw_cells, panels

FEATURES_IN_FIGURE, FEATURES_IN_TABLE = 24, 20
"""Features in the bar chart, and in the table by class."""

METRICS = {"accuracy": "top-1 accuracy", "auc": "AUC"}


def _metric(explanation: Mapping[str, Any]) -> str:
    """Return the metric whose decrease is shown: the AUC, if every class has jets."""
    return "accuracy" if explanation["auc"] is None else "auc"


def summary(explanation: Mapping[str, Any]) -> str:
    """Return one or two sentences on the most important inputs."""
    text = _groups_text(explanation)
    fractions = explanation["graphs"] or explanation["variables"]
    if fractions is None or None in fractions["all"].values():
        return text
    order = sorted(VARIABLES, key=lambda name: -fractions["all"][name])
    what = "graphs" if explanation["graphs"] else "pair variables"
    leading = [f"{name} ({100 * fractions['all'][name]:.1f} %)" for name in order[:2]]
    return f"{text} The {what} with the largest attributions are {' and '.join(leading)}."


def _groups_text(explanation: Mapping[str, Any]) -> str:
    """Return which group matters most, if one lowers the metric by more than its deviation."""
    metric = _metric(explanation)
    decreases = {name: entry["permutation"] for name, entry in explanation["groups"].items()}
    # a single permutation has no deviation
    limits = {name: own[f"{metric}_deviation"] or 0.0 for name, own in decreases.items()}
    clear = [name for name, own in decreases.items() if own[metric] > limits[name]]
    first = max(clear or decreases, key=lambda name: decreases[name][metric])
    value, deviation = decreases[first][metric], decreases[first][f"{metric}_deviation"]
    once = " in a single permutation" if deviation is None else ""
    points = f"{_points(value, deviation, digits=1)} points{once} (from {100 * explanation[metric]:.1f})"
    if clear:
        return f"The most important group is {first}: permuting it lowers the {METRICS[metric]} by {points}."
    more = "" if deviation is None else " by more than its deviation"
    return f"No group lowers the {METRICS[metric]}{more}; the largest decrease, that of {first}, is {points}."


def explain_figures(explanation: Mapping[str, Any], displays: Sequence[JetDisplay]) -> dict[str, Figure]:
    """Return the figures by file name."""
    figures = {}
    fractions = {"Grad-CAM": explanation["graphs"], "pair variables": explanation["variables"]}
    known = {title: table for title, table in fractions.items() if table is not None}
    if known:
        rows = list(next(iter(known.values())))
        tables = {title: _grid(table, rows, VARIABLES) for title, table in known.items()}
        figures["graphs"] = _percent_figure(tables, rows, VARIABLES)
    if explanation["exponents"] is not None:
        figures["exponents"] = _exponents_figure(np.array(explanation["exponents"]), VARIABLES)
    features, rows = explanation["features"], explanation["classes"]
    figures["features"] = _features_figure(features, _metric(explanation))
    columns = sorted(features, key=lambda name: -features[name]["attribution"])[:FEATURES_IN_TABLE]
    table = _grid(explanation["by_class"], rows, columns)
    figures["features_by_class"] = _percent_figure({"": table}, rows, columns, is_wide=True)
    for label in rows:
        of_class = [display for display in displays if display.label == label]
        if of_class:
            figures[f"jets_{label}"] = displays_figure(of_class)
    return figures


def _grid(
    fractions: Mapping[str, Mapping[str, float | None]], rows: Sequence[str], columns: Sequence[str]
) -> np.ndarray:
    return np.array([[fractions[row][name] for name in columns] for row in rows], float)


def _percent_figure(
    tables: Mapping[str, np.ndarray], rows: Sequence[str], columns: Sequence[str], *, is_wide: bool = False
) -> Figure:
    """Return fractions in per cent, one panel per table [rows, columns]."""
    height, width = 1.3 + 0.36 * len(rows) + is_wide, (0.42 if is_wide else 0.9) * len(columns) + 0.6
    figure, grid = panels(1.3 + width * len(tables), height, columns=len(tables), sharey=True, squeeze=False)
    for axes, (title, table) in zip(grid.flat, tables.items(), strict=True):
        limits = (0, max(1, np.nanmax(100 * table, initial=0)))
        names = [latex_name(name) for name in rows]
        draw_cells(axes, 100 * table, rows=names, columns=columns, cmap="Blues", limits=limits)
        axes.set_title(title)
    return figure


def _exponents_figure(exponents: np.ndarray, variables: Sequence[str]) -> Figure:
    """Return the trained exponents [graphs, variables] of the edge weights."""
    limit = max(0.1, float(np.abs(exponents).max()))
    figure, axes = panels(5.4, 1.2 + 0.36 * len(exponents))
    rows = [f"graph {g + 1}" for g in range(len(exponents))]
    image = draw_cells(axes, exponents, "{:+.2f}", rows=rows, columns=variables, cmap="RdBu_r", limits=(-limit, limit))
    figure.colorbar(image, ax=axes, label="exponent")
    return figure


def _features_figure(features: Mapping[str, Mapping[str, Any]], metric: str) -> Figure:
    """Return attributions beside permutation importance, the most important features first."""
    order = sorted(features, key=lambda name: -features[name]["permutation"][metric])[:FEATURES_IN_FIGURE]
    places = np.arange(len(order))
    figure, (left, right) = panels(9.6, 1.2 + 0.27 * len(order), columns=2, sharey=True)
    left.barh(places, [100 * features[name]["attribution"] for name in order], color=PALETTE[0], height=0.7)
    decreases = [features[name]["permutation"] for name in order]
    deviations = [entry[f"{metric}_deviation"] for entry in decreases]
    right.barh(
        places,
        [100 * entry[metric] for entry in decreases],
        # a single permutation has none
        xerr=[np.nan if deviation is None else 100 * deviation for deviation in deviations],
        color=PALETTE[1],
        height=0.7,
        error_kw={"elinewidth": 1, "capsize": 2},
    )
    right.axvline(0, color=INK, linewidth=0.8)
    left.set_yticks(places, order)
    left.set_ylim(len(order) - 0.4, -0.6)
    for axes in (left, right):
        axes.tick_params(axis="y", which="both", length=0)
        axes.yaxis.minorticks_off()
    left.set_xlabel("fraction of the\nattributions [%]")
    right.set_xlabel(f"permutation importance\n[points of {METRICS[metric]}]")
    return figure


def explain_page(explanation: Mapping[str, Any], figures: Mapping[str, Figure]) -> str:
    """Return the HTML page."""
    only, jets, count = explanation["class"], explanation["jets"], explanation["explained_jets"]
    target = "each jet's true class" if only is None else only
    scope = f"The explained output is the logit of {target}, for {count:,} of {counted(jets, 'jet')}."
    accuracy = f"The top-1 accuracy of {explanation['run']} on these jets is {100 * explanation['accuracy']:.1f} %."
    displays = _display_section(explanation, figures)
    return page(
        "Explanation of a jet tagger",
        lead=" ".join(filter(None, (accuracy, scope, explanation.get("event_weights"), explanation["note"]))),
        sections=[
            Section("Summary", [summary(explanation), _groups_table(explanation)]),
            *_graph_sections(explanation, figures),
            Section(
                "Features",
                [
                    picture(
                        figures["features"],
                        "Left: attribution, the first-order change of the logit when the feature is replaced by its "
                        "mean over the sample, as a fraction of the sum over features. Right: permutation importance, "
                        "the decrease of the metric when the feature is permuted among all particles (or jets), with "
                        "the standard deviation over the permutations. Attributions can mislead where the network is "
                        "strongly nonlinear; permutation importance is small for each of two correlated features.",
                    ),
                    picture(
                        figures["features_by_class"],
                        "Attributions by class, in per cent; with the features that are not shown, each row sums to "
                        "100.",
                    ),
                ],
            ),
            *displays,
            Section("Method", [_method(explanation)]),
        ],
    )


def _points(value: float, deviation: float | None, *, digits: int) -> str:
    """Return per cent with their deviation, which a single permutation does not have."""
    return f"{100 * value:.{digits}f}" + ("" if deviation is None else f" ± {100 * deviation:.{digits}f}")


def _groups_table(explanation: Mapping[str, Any]) -> Table:
    def decrease(entry: Mapping[str, float | None], metric: str) -> str:
        value = entry[metric]
        return "–" if value is None else _points(value, entry[f"{metric}_deviation"], digits=2)

    rows = [
        [name, f"{100 * entry['attribution']:.1f} %", *(decrease(entry["permutation"], metric) for metric in METRICS)]
        for name, entry in explanation["groups"].items()
    ]
    return Table(
        ["group", "attribution", *(f"decrease of the {name} [points]" for name in METRICS.values())],
        rows,
        caption="Decrease of the metrics when all features of the group are permuted together, with the standard "
        "deviation over the permutations.",
    )


def _graph_sections(explanation: Mapping[str, Any], figures: Mapping[str, Figure]) -> list[Section]:
    blocks: list[Any] = []
    if "graphs" in figures:
        caption = "Mean fractions in per cent, by class and over all jets. "
        if explanation["graphs"]:
            caption += "Grad-CAM: activations after each graph's last filter, weighted by the gradient of the logit. "
        caption += (
            "Pair variables: first-order change of the logit when the variable of every edge is replaced by its mean "
            "over the edges of the jet."
        )
        blocks.append(picture(figures["graphs"], caption))
    if explanation["graphs"]:
        blocks.append(
            "For comparison, the E-PCN paper (arXiv:2512.07420) reports Grad-CAM fractions of 40.7 % for ΔR and 35.7 % "
            "for kT on JetClass."
        )
    if "exponents" in figures:
        blocks.append(
            picture(
                figures["exponents"],
                "Trained exponents of the edge weights ΔR^a kT^b z^c (m²)^d; with an exponent near 0 the weight does "
                "not depend on the variable.",
            )
        )
    return [Section("Graphs", blocks)] if blocks else []


def _display_section(explanation: Mapping[str, Any], figures: Mapping[str, Figure]) -> list[Section]:
    blocks = [
        picture(
            figures[f"jets_{label}"],
            f"Jets of class {label}: those with the highest score, then those misclassified with the highest score "
            "(titles in red). Marker areas are proportional to pT; the yellow halo is the attribution of a particle. "
            "Edge widths show the edge weights; the redder an edge, the larger its attribution to the logit of the "
            "predicted class.",
        )
        for label in explanation["classes"]
        if f"jets_{label}" in figures
    ]
    return [Section("Single jets", blocks)] if blocks else []


def _method(explanation: Mapping[str, Any]) -> str:
    files = explanation["files"]
    return (
        f"Tagger: {explanation['run']} ({explanation['net']}). Sample: the first jets of each of "
        f"{', '.join(files[:5])}{' …' * (len(files) > 5)}. Permutations: "
        f"{explanation['subquad']['settings']['repeats']} per feature, seed {explanation['seed']}; the graph and its "
        "edges stay unchanged."
    )
