"""Scripts and styles of the reports and of the page, on small pages without a server."""

from contextlib import contextmanager

import numpy as np
import pytest
from markupsafe import Markup

from subquad.app.markup import blocks, details, table
from subquad.app.page import look
from subquad.reporting.page import Section, Table, page, picture
from subquad.reporting.vector_figure import CellFigure


@contextmanager
def opened(chromium, html, **options):
    """Yield a page with this content, which must not complain."""
    context, complaints = chromium.new_context(**options), []
    own = context.new_page()
    own.on("pageerror", lambda error: complaints.append(str(error)))
    own.set_content(html)
    yield own
    context.close()
    assert not complaints


def report(*blocks):
    return page("A report", lead="Its result.", sections=[Section("Result", blocks)])


def heat_maps(width=9):
    """Return a figure with two maps of 2 × 3 cells, A1 to B3 and C1 to D3."""
    figure = CellFigure(figsize=(width, 2))
    for axes, rows in zip(figure.subplots(1, 2), ("AB", "CD"), strict=True):
        axes.imshow(np.zeros((2, 3)), aspect="auto")
        figure.cell_texts[axes] = [[f"{row}{column}" for column in "123"] for row in rows]
    return picture(figure, "Two maps")


def test_each_column_of_a_report_is_sorted_as_its_arrow_says(chromium):
    rows = [["b", 2.0], ["C", -10.0], ["a", None], ["d", 7.0]]
    with opened(chromium, report(Table(["name", "score"], rows))) as own:

        def sorted_by(name):
            own.get_by_role("button", name=name).click()
            heads = own.locator("th").evaluate_all("all => all.map(one => one.getAttribute('aria-sort'))")
            names = own.locator("tbody td:first-child").all_text_contents()
            return next(order for order in heads if order), "".join(names)

        assert sorted_by("name") == ("ascending", "abCd")
        assert sorted_by("name") == ("descending", "dCba")
        # what is missing stays last
        assert sorted_by("score") == ("descending", "dbCa")
        assert sorted_by("score") == ("ascending", "Cbda")
        assert sorted_by("name") == ("ascending", "abCd")


@pytest.mark.parametrize(
    ("cells", "descending"),
    [
        (["900 KiB", "12.0 MiB", "1,024 KiB", "1.5 GiB"], "dbca"),
        # limits of rejections, also beside intervals
        (["> 12,000", "3,500  [900, ∞]", "< 20", "≥ 400"], "abdc"),
        (["−3.0", "+0.5 [−0.1, +1.1]", "–", "2,000"], "dbac"),
    ],
)
def test_limits_and_numbers_with_units_are_sorted_by_their_size(chromium, cells, descending):
    rows = [[name, cell] for name, cell in zip("abcd", cells, strict=True)]
    with opened(chromium, report(Table(["name", "value"], rows))) as own:
        button, names = own.get_by_role("button", name="value"), own.locator("tbody td:first-child")
        button.click()
        assert "".join(names.all_text_contents()) == descending
        button.click()
        is_missing = "–" in cells
        ascending = descending[-2::-1] + descending[-1] if is_missing else descending[::-1]
        assert "".join(names.all_text_contents()) == ascending


def test_cells_of_a_heat_map_are_visited_with_the_arrow_keys(chromium):
    with opened(chromium, report(heat_maps())) as own:
        reading = own.get_by_role("status")
        own.keyboard.press("Tab")
        assert own.evaluate("document.activeElement.getAttribute('role')") == "application"
        seen = []
        for key in ("Right", "Right", "Down", "Down", "Right", "Right", "Left", "Up", "Left"):
            own.keyboard.press(f"Arrow{key}")
            seen.append(reading.text_content())
        assert seen == ["A1", "A2", "B2", "B2", "B3", "D1", "B3", "A3", "A2"]
        assert own.locator("rect.here").count() == 1
        cell, text = own.locator("rect.here").bounding_box(), reading.bounding_box()
        assert abs(cell["x"] - text["x"]) < 60
        own.keyboard.press("Tab")
        assert not reading.text_content()


def test_a_figure_of_a_report_can_be_read_on_a_telephone(chromium):
    options = {"viewport": {"width": 390, "height": 700}, "has_touch": True, "is_mobile": True}
    with opened(chromium, report(heat_maps()), **options) as own:
        figure = own.locator("figure svg").bounding_box()
        assert 700 < figure["width"] < 1100
        assert own.evaluate("document.documentElement.scrollWidth") <= 390
        own.touchscreen.tap(figure["x"] + 0.25 * figure["width"], figure["y"] + 0.7 * figure["height"])
        assert own.get_by_role("status").text_content() == "B2"
        own.touchscreen.tap(30, 30)
        assert not own.get_by_role("status").text_content()


def test_a_small_figure_is_not_enlarged_on_a_telephone(chromium):
    with opened(chromium, report(heat_maps(width=2)), viewport={"width": 390, "height": 700}) as own:
        natural = own.locator("figure svg").evaluate("one => parseFloat(one.style.getPropertyValue('--width'))")
        assert own.locator("figure svg").bounding_box()["width"] <= natural + 1 < 350


# what gradio's own styles do
RESET = """<style>:root { --body-background-fill: white; --neutral-500: gray; } * { box-sizing: border-box; }
body, figure { margin: 0; }</style>"""


def page_with(*pieces):
    """Return a page with the styles and scripts of the gradio page, and one view."""
    body = "".join(f"<div>{piece}</div>" for piece in pieces)
    return (
        f'<html lang="en"><head>{RESET}{look()["head"]}</head><body><div class="gradio-container"><div id="sq-view" '
        f'class="sq-view">{body}</div></div></body></html>'
    )


# as gradio changes the content of a view: attributes that the new content lacks are removed
CHANGE = """seconds => {
  const details = document.querySelector("details");
  details.removeAttribute("open");
  details.querySelector("pre").textContent = seconds;
}"""
REPLACE = """seconds => {
  const view = document.getElementById("sq-view");
  view.innerHTML = view.innerHTML.replace(' open=""', "");
}"""


@pytest.mark.parametrize("how", [CHANGE, REPLACE], ids=["changed", "replaced"])
def test_what_was_opened_stays_open_when_its_view_changes(chromium, how):
    with opened(chromium, page_with(details("Messages of the command", Markup("<pre>4</pre>")))) as own:

        def is_open():
            own.evaluate(how, "5")
            return own.evaluate("document.querySelector('details').open")

        assert not is_open()
        own.locator("summary").focus()
        own.keyboard.press("Enter")
        assert [is_open(), is_open()] == [True, True]
        own.locator("summary").click()
        assert [is_open(), is_open()] == [False, False]


def test_tables_and_figures_of_the_page_can_be_read_on_a_narrow_screen(chromium):
    caption = "What the columns of this table mean, in a sentence that is longer than a narrow screen is wide."
    wide = Table([f"a long name {k}" for k in range(20)], [["a cell"] * 20], caption=caption)
    with opened(chromium, page_with(table(wide), blocks([heat_maps()])), viewport={"width": 390, "height": 700}) as own:
        box = own.locator("caption").bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
        assert 700 < own.locator("svg[role=img]").bounding_box()["width"] < 1100
        assert own.evaluate("document.documentElement.scrollWidth") <= 390
        assert "gradient" in own.locator(".sq-wide").first.evaluate("one => getComputedStyle(one).backgroundImage")
