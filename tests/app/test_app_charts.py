"""Charts and tables: every text is escaped, and every value can be read without a mouse."""

import math
import xml.etree.ElementTree as ET
from types import SimpleNamespace

import pytest

from subquad.app.charts import HeatMap, Line, heat_map, line_chart
from subquad.app.markup import blocks, links, notice, table
from subquad.reporting.page import Table
from subquad.runs.storage import write_json


def parsed(html):
    return ET.fromstring(f"<div>{html}</div>")


def test_a_chart_draws_its_lines_and_says_the_last_values():
    line = Line(name="<lyra>", x=range(11), y=[k / 7 for k in range(11)])
    root = parsed(line_chart([line], x="step", y="loss", title="Loss", marks=[(5.0, "here")]))
    svg = root.find(".//svg[@role='img']")
    assert "<lyra> 1.429" in svg.attrib["aria-label"]
    points = svg.find("polyline").attrib["points"].split()
    assert len(points) == 11
    assert len({point.split(",")[0] for point in points}) == 11
    assert "<lyra>: loss 1.429 at step 10" in [circle.attrib.get("data-tip") for circle in svg.iter("circle")]
    assert "here" in [text.text for text in svg.iter("text")]


@pytest.mark.parametrize("is_log", [False, True])
@pytest.mark.parametrize("values", [[3.0], [2.0, 2.0], [1e-9, 5.0], [0.11, 0.13], [7.0, 1e6]])
def test_any_finite_values_have_a_chart_with_ticks(values, is_log):
    line = Line(name="a", x=range(len(values)), y=values)
    root = parsed(line_chart([line], x="x", y="y", title="t", is_log_y=is_log))
    ticks = [text.text for text in root.iter("text") if text.attrib.get("text-anchor") == "end"]
    assert 1 <= len(ticks) <= 14
    for polyline in root.iter("polyline"):
        assert all(math.isfinite(float(part)) for part in polyline.attrib["points"].replace(",", " ").split())


def test_nothing_is_drawn_without_finite_values():
    line = Line(name="a", x=[0, 1], y=[math.nan, math.inf])
    assert line_chart([line], x="x", y="y", title="t") == ""


def test_a_heat_map_has_a_text_for_every_cell():
    keys = [(position, letter) for position in (7, 8) for letter in "ACD"]
    texts = {key: f"{key[1]}{key[0]}: <text>" for key in keys}
    values = dict.fromkeys(keys, 0.5) | {(7, "C"): -1.0}
    cells = HeatMap(letters="ACD", positions=(7, 8), wild_type="AD", values=values, texts=texts, marked={(7, "C")})
    root = parsed(heat_map(cells, title="Map", limit=1.0, caption="How to read it"))
    tips = [rect.attrib["data-tip"] for rect in root.iter("rect")]
    assert tips == ["A7: wild type", "A8: <text>", "C7: <text>", "C8: <text>", "D7: <text>", "D8: wild type"]
    region = root.find(".//div[@role='application']")
    assert region.attrib["tabindex"] == "0"
    assert region.attrib["data-columns"] == "2"
    assert len(list(root.iter("circle"))) == 3


def test_tables_and_notices_escape_what_users_wrote():
    bad = "<script>alert(1)</script>"
    html = (
        table(Table([bad, "n"], [[bad, 0.12345]], caption=bad)) + notice(f"{bad}\n{bad}", "error") + links({bad: "/x"})
    )
    assert "<script>" not in html
    root = parsed(html)
    assert root.find(".//td").text == bad
    assert "0.123" in [cell.text for cell in root.iter("td")]
    assert root.find(".//*[@role='alert']") is not None
    assert "<script>" not in blocks([bad, Table([bad], [[bad]])])


def test_a_table_without_rows_is_nothing():
    assert table(Table(["a"], [])) == ""


def test_a_perplexity_that_is_not_finite_is_left_out(tmp_path):
    from subquad.app.language_results import perplexity_result

    values = {"teacher": [20.0, 10.0], "fine_tuned": [30.0, math.inf]}
    positions = [
        {"from": k, "to": 2 * k - 1, "models": {role: {"value": own[place]} for role, own in values.items()}}
        for place, k in enumerate((16, 32))
    ]
    model = {"about": {"roles": list(values)}, "perplexity": {"held.txt": {"positions": positions}}}
    write_json(tmp_path / "evaluation.json", {"models": [model]})
    html = perplexity_result(SimpleNamespace(out=tmp_path, folder=tmp_path, name="a"))
    root = parsed(html)
    assert [len(line.attrib["points"].split()) for line in root.iter("polyline")] == [2, 1]
    assert [cell.text for cell in root.iter("td")][-1] == "–"
