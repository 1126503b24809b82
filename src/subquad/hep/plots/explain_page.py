"""The page about what a tagger looks at: sentences, tables and pictures from `explain.json`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from subquad.hep.explanation.displays import Display
from subquad.hep.plots.explain_figures import displays_figure, exponents_figure, features_figure, table_figure
from subquad.ops.kinematics import VARIABLES
from subquad.reporting.page import Section, Table, page, picture

__all__ = ["figures_of", "page_of", "sentence"]

COLUMNS = 20
"""Most features in the table by class."""


def _grid(shares: Mapping[str, Mapping[str, float | None]], rows: Sequence[str], columns: Sequence[str]) -> np.ndarray:
    return np.array([[np.nan if (v := shares[row][name]) is None else v for name in columns] for row in rows])


def _leading(found: Mapping[str, Any]) -> list[str]:
    return sorted(found["features"], key=lambda name: -found["features"][name]["gradient"])[:COLUMNS]


def measure_of(found: Mapping[str, Any]) -> str:
    """Return which loss is shown: of the area, where all classes are there."""
    return "accuracy" if found["auc"] is None else "auc"


def figures_of(found: Mapping[str, Any], displays: Sequence[Display]) -> dict[str, Figure]:
    """Return the pictures by the names of their files."""
    figures = {}
    graphs = {"Grad-CAM": found["graphs"], "gradient of the variable": found["variables"]}
    there = {title: shares for title, shares in graphs.items() if shares is not None}
    if there:
        rows = list(next(iter(there.values())))
        figures["graphs"] = table_figure(
            {title: _grid(shares, rows, VARIABLES) for title, shares in there.items()}, rows, VARIABLES
        )
    if found["exponents"] is not None:
        figures["exponents"] = exponents_figure(np.array(found["exponents"]), VARIABLES)
    figures["features"] = features_figure(found["features"], measure_of(found))
    columns, rows = _leading(found), found["classes"]
    figures["features_by_class"] = table_figure(
        {"": _grid(found["by_class"], rows, columns)}, rows, columns, is_wide=True
    )
    for label in rows:
        of_class = [display for display in displays if display.label == label]
        if of_class:
            figures[f"jets_{label}"] = displays_figure(of_class)
    return figures


def sentence(found: Mapping[str, Any]) -> str:
    """Return in two sentences what counts most."""
    groups, measure = found["groups"], measure_of(found)
    first = max(groups, key=lambda name: groups[name]["permutation"][measure])
    lost = groups[first]["permutation"]
    word = "AUC" if measure == "auc" else "top-1 accuracy"
    begin = (
        f"Most rests on {first}: shuffled together they cost {100 * lost[measure]:.1f} ± "
        f"{100 * lost[f'{measure}_deviation']:.1f} points of {word} (of {100 * found[measure]:.1f})."
    )
    shares = found["graphs"] or found["variables"]
    if shares is None or None in shares["all"].values():
        return begin
    order = sorted(VARIABLES, key=lambda name: -shares["all"][name])
    what = "Of its four graphs it looks most at" if found["graphs"] else "Of the variables of pairs it looks most at"
    leading = [f"{name} ({100 * shares['all'][name]:.1f} %)" for name in order[:2]]
    return f"{begin} {what} {' and '.join(leading)}."


def _groups(found: Mapping[str, Any]) -> Table:
    def lost(entry: Mapping[str, float | None], key: str) -> str:
        value, deviation = entry[key], entry[f"{key}_deviation"]
        return "–" if value is None or deviation is None else f"{100 * value:.2f} ± {100 * deviation:.2f}"

    rows = [
        [name, f"{100 * entry['gradient']:.1f} %", *(lost(entry["permutation"], key) for key in ("accuracy", "auc"))]
        for name, entry in found["groups"].items()
    ]
    return Table(
        ["group", "share of the gradients", "top-1 accuracy lost [%]", "AUC lost [%]"],
        rows,
        caption="Lost when all of a group are shuffled together, with the standard deviation over the shuffles.",
    )


def _of_graphs(found: Mapping[str, Any], figures: Mapping[str, Figure]) -> list[Section]:
    blocks: list[Any] = []
    if "graphs" in figures:
        told = "Shares in per cent, by class and over all jets, as means over the jets. "
        if found["graphs"]:
            told += "Grad-CAM: the activations after each graph's last filter, weighted by the gradient of the logit. "
        told += (
            "Gradient of the variable: what the logit would change by, to first order, if the variable of every edge "
            "were its mean over the jet's edges."
        )
        blocks.append(picture(figures["graphs"], told))
    if found["graphs"]:
        blocks.append(
            "The paper of E-PCN (arXiv:2512.07420) finds 40.7 % for ΔR and 35.7 % for kT on JetClass, by Grad-CAM."
        )
    if "exponents" in figures:
        blocks.append(
            picture(
                figures["exponents"],
                "The learnt powers: an edge weighs ΔR^a kT^b z^c (m²)^d; near 0 it does not depend on the variable.",
            )
        )
    return [Section("The graphs", blocks)] if blocks else []


def page_of(found: Mapping[str, Any], figures: Mapping[str, Figure]) -> str:
    """Return the page."""
    jets = [
        picture(
            figures[f"jets_{label}"],
            f"Jets of {label}: the best scored, then those most surely taken for another class (titles in red). Areas "
            "of the marks go with pT, yellow behind a mark with the particle's importance; edges are as wide as they "
            "weigh, and the redder the more the logit of the class that the jet is taken for depends on them.",
        )
        for label in found["classes"]
        if f"jets_{label}" in figures
    ]
    of = "each jet's own class" if found["class"] is None else f"{found['class']}, of its own jets"
    explained = f"Explained is the logit of {of}: {found['explained']:,} of {found['jets']:,} jets"
    sections = [
        Section("In short", [sentence(found), _groups(found)]),
        *_of_graphs(found, figures),
        Section(
            "The features",
            [
                picture(
                    figures["features"],
                    "Left: what the logit would change by, to first order, if a number were its mean over the sample, "
                    "as a share of all. Right: what is lost when the number is shuffled among all particles, or jets; "
                    "bars show the standard deviation over the shuffles. Gradients may mislead where the net is bent "
                    "or two features say the same; shuffling shows little for each of two such.",
                ),
                picture(
                    figures["features_by_class"],
                    "The left side by class: shares of the gradients in per cent, each row adding up to 100 with the "
                    "features that are not shown.",
                ),
            ],
        ),
        *([Section("Single jets", jets)] if jets else []),
        Section(
            "How this was made",
            [
                f"Tagger: {found['run']} ({found['net']}). Files: {', '.join(found['files'][:5])}"
                f"{' …' * (len(found['files']) > 5)}.",
                f"{explained}; the first jets of each file. Shuffles: "
                f"{found['subquad']['settings']['repeats']} of each number, seed {found['seed']}. The graph and its "
                "edges stay as they are when a feature is shuffled.",
            ],
        ),
    ]
    return page("What the tagger looks at", lead=f"{_words(found)} {explained}.", sections=sections)


def _words(found: Mapping[str, Any]) -> str:
    return f"{found['run']} names the right class of these jets in {100 * found['accuracy']:.1f} %."
