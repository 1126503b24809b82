"""Figures as SVG inside a page."""

import html
import json
import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from subquad.reporting.page import Section, page, picture
from subquad.reporting.style import literal
from subquad.reporting.vector_figure import MAX_MARKS, CellFigure, vector_figure


def drawn(figure_class=Figure, **axes_options):
    figure = figure_class(figsize=(3, 2))
    return figure, figure.subplots(subplot_kw=axes_options)


def readings_of(svg):
    found = re.search(r'data-readings="([^"]*)"', svg)
    return json.loads(html.unescape(found[1])) if found else None


def test_coordinates_under_the_pointer_have_the_scale_and_the_label_of_each_axis():
    figure, axes = drawn(xscale="log", xlabel=r"$p_T$ / GeV", ylabel="jets", xlim=(1, 1000), ylim=(0, 3))
    axes.plot([1, 10, 100], [1, 2, 3])
    svg = vector_figure(figure, label="A curve")
    (name, own), *others = readings_of(svg).items()
    assert not others
    assert own == {"x": [1.0, 1000.0, "log", "p_T / GeV"], "y": [0.0, 3.0, "linear", "jets"]}
    assert re.search(rf'<g id="f\w+-{name}">', svg)


def test_the_name_of_a_column_with_dollars_is_drawn_and_read_off_as_it_is():
    figure, axes = drawn(xlabel=literal(r"measured $\frac$"), ylabel=literal(r"{a}^b \phi"), xlim=(0, 2), ylim=(0, 2))
    axes.plot([0, 1, 2])
    (own,) = readings_of(vector_figure(figure, label="A curve")).values()
    assert (own["x"][3], own["y"][3]) == (r"measured $\frac$", r"{a}^b \phi")


@pytest.mark.parametrize("ticks", [("a", "b"), ()])
def test_axes_with_names_or_without_ticks_have_no_coordinates(ticks):
    figure, axes = drawn()
    axes.bar(range(2), [1, 2])
    axes.set_xticks(range(len(ticks)), ticks)
    assert readings_of(vector_figure(figure, label="Bars")) is None


def test_cells_of_an_image_have_their_texts():
    figure, axes = drawn(CellFigure)
    axes.imshow(np.eye(2))
    figure.cell_texts[axes] = [["A1", "B1"], ['A2 "<&>"', "B2"]]
    (own,) = readings_of(vector_figure(figure, label="Cells")).values()
    assert own == {"cells": [["A1", "B1"], ['A2 "<&>"', "B2"]]}


def test_text_and_frames_follow_the_page_and_curves_have_a_lighter_colour_on_a_dark_one():
    figure, axes = drawn()
    axes.plot([1, 2], color="#1f6f54")
    axes.plot([2, 1], color="#3f90da")
    axes.text(0, 1, "on a cell", color="#111111")
    svg = vector_figure(figure, label="Two curves")
    assert "#000000" not in svg
    assert "currentColor" in svg
    assert "var(--c1f6f54,#1f6f54)" in svg
    assert {"#3f90da", "#111111"} <= set(re.findall(r"#\w{6}", svg))


def test_ids_differ_between_figures_and_equal_figures_are_equal():
    first, again, other = (drawn()[0] for _ in range(3))
    other.axes[0].plot([1, 2])
    svgs = [vector_figure(figure, label="A figure") for figure in (first, again, other)]
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in svgs]
    assert svgs[0] == svgs[1]
    assert not ids[0] & ids[2]
    for svg, own in zip(svgs, ids, strict=True):
        assert set(re.findall(r'(?:url\(|href=")#([^")]+)', svg)) <= own


def test_a_page_knows_the_size_of_a_figure_and_lets_it_scroll_on_a_narrow_screen():
    figure, _ = drawn()
    block = picture(figure, "A figure")
    width, again = re.search(r'style="--width: (\d+)px; width: (\d+)px"', block.svg).groups()
    # three inches, less the margins
    assert 300 < int(width) == int(again) < 600
    html_page = page("Title", lead="Lead", sections=[Section("One", [block])])
    assert '<figure>\n<div class="wide" tabindex="0"><svg' in html_page
    assert "min-width: calc(var(--width) - 22rem)" in html_page


def test_many_marks_are_an_image_and_few_are_not():
    sizes = []
    for count in (MAX_MARKS, 50 * MAX_MARKS):
        figure, axes = drawn()
        axes.scatter(np.arange(count), np.arange(count))
        svg = vector_figure(figure, label="Points")
        assert ("data:image/png" in svg) == (count > MAX_MARKS)
        sizes.append(len(svg))
    assert sizes[1] < 200_000
    assert "Points" in svg[: svg.index(">")]
