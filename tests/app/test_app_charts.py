"""Charts and tables: every text is escaped, and values can be read without a mouse: in tables, and by arrow keys."""

import math
import xml.etree.ElementTree as ET
from types import SimpleNamespace

import pytest

from subquad.app.charts import HeatMap, Line, heat_map, line_chart
from subquad.app.markup import blocks, links, notice, table
from subquad.reporting.page import Table, Verbatim
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


@pytest.mark.parametrize("places", [(512, 1024), (900, 1024, 1100), (17, 18), (20, 1000)])
def test_labels_of_vertical_lines_overlap_neither_curves_nor_each_other(places):
    line = Line(name="a", x=[16, 2048], y=[1, 2])
    marks = [(place, f"a long label {k}") for k, place in enumerate(places)]
    root = parsed(line_chart([line], x="x", y="y", title="t", is_log_x=True, marks=marks))
    top = min(float(point.split(",")[1]) for point in root.find(".//polyline").attrib["points"].split())
    boxes = []
    for text in root.iter("text"):
        if text.text.startswith("a long label"):
            assert float(text.attrib["y"]) <= top
            width = (-1 if text.attrib["text-anchor"] == "end" else 1) * 6 * len(text.text)
            boxes.append((float(text.attrib["y"]), *sorted((float(text.attrib["x"]), float(text.attrib["x"]) + width))))
    assert len(boxes) == len(places)
    assert all(low >= 0 and high <= 460 for _, low, high in boxes)
    for k, (y, low, high) in enumerate(boxes):
        assert not [other for other in boxes[:k] if abs(other[0] - y) < 12 and low < other[2] and other[1] < high]


def test_a_single_point_is_drawn_and_its_axes_have_no_other_ticks():
    lines = [Line(name="one", x=[0.47], y=[0.75], number=0)]
    root = parsed(line_chart(lines, x="seconds", y="Spearman", title="t"))
    assert [circle.attrib["class"] for circle in root.iter("circle")] == ["sq-point"]
    assert [text.text for text in root.iter("text")] == ["0.75", "0.47", "seconds", "Spearman"]
    several = parsed(line_chart([Line(name="b", x=[0, 1], y=[1, 2])], x="x", y="y", title="t"))
    assert {circle.attrib["class"] for circle in several.iter("circle")} == {"sq-dot"}


def test_the_values_of_a_chart_are_in_a_table_below_it():
    lines = [
        Line(name="training", x=range(100), y=[k / 7 for k in range(100)]),
        Line(name="validation", x=[0.5, 2], y=[3.25, 4.0]),
    ]
    root = parsed(line_chart(lines, x="step", y="loss", title="Loss"))
    details = root.find(".//details")
    assert details.find("summary").text == "Values of this chart"
    assert [cell.text for cell in details.iter("th")] == ["line", "step", "loss"]
    rows = [[cell.text for cell in row] for row in details.findall(".//tbody/tr")]
    assert rows[0] == ["training", "0", "0.000"]
    assert rows[11] == ["training", "99", "14.1"]
    assert rows[12:] == [["validation", "0.500", "3.250"], ["validation", "2", "4.000"]]
    root = parsed(line_chart(lines, x="step", y="loss", title="Loss", values=Table(["a"], [["own"]])))
    assert [cell.text for cell in root.iter("td")] == ["own"]


def test_lines_are_told_apart_without_their_colours_and_members_are_thinner():
    lines = [Line(name=f"model {k}", x=[0, 1], y=[k, k + 1], number=k) for k in range(30)]
    members = [Line(name=f"model 3 {k}", x=[0, 1], y=[k, k + 2], number=3, is_thin=True) for k in (1, 2)]
    root = parsed(line_chart([*lines, *members], x="x", y="y", title="t"))
    drawn = [line.attrib for line in root.iter("polyline")]
    dashes = [line["stroke-dasharray"] for line in drawn]
    assert len({*dashes[:8]}) == 8
    assert len({(line["stroke"], line["stroke-dasharray"]) for line in drawn[:30]}) == 30
    assert dashes[30:] == [dashes[3]] * 2
    assert {float(line["stroke-width"]) for line in drawn[30:]} < {float(drawn[3]["stroke-width"]), 1.1}
    # the key of a line looks as the line
    keys = [line.attrib["stroke-dasharray"] for line in root.findall(".//span[@class='sq-keys']//line")]
    assert keys == dashes


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
    root = parsed(heat_map(cells, title="Map", label="Difference", limit=1.0, caption="How to read it"))
    tips = [rect.attrib["data-tip"] for rect in root.iter("rect")]
    assert tips == ["A7: wild type", "A8: <text>", "C7: <text>", "C8: <text>", "D7: <text>", "D8: wild type"]
    region = root.find(".//div[@role='application']")
    assert region.attrib["tabindex"] == "0"
    assert region.attrib["data-columns"] == "2"
    assert len(list(root.iter("circle"))) == 3


def test_rows_of_a_heat_map_are_below_each_other_and_the_arrow_keys_know_its_columns():
    cells = HeatMap(
        letters="AC", positions=range(1, 8), wild_type="AAAACCC", values={}, texts={}, rows=[range(4), range(4, 7)]
    )
    root = parsed(heat_map(cells, title="Map", label="Difference", limit=1.0))
    rects = [(float(rect.attrib["x"]), float(rect.attrib["y"])) for rect in root.iter("rect")]
    # seven cells of A and then seven of C: the cell below is seven cells further
    assert root.find(".//div[@role='application']").attrib["data-columns"] == "7"
    assert [x for x, _ in rects[:7]] == [x for x, _ in rects[7:]]
    assert [x for x, _ in rects[4:7]] == [x for x, _ in rects[:3]]
    (upper,), (lower,) = {y for _, y in rects[:4]}, {y for _, y in rects[4:7]}
    assert {y for _, y in rects[7:11]} == {upper + rects[7][1] - rects[0][1]}
    assert lower > rects[7][1]
    _, _, width, height = map(float, root.find(".//svg").attrib["viewBox"].split())
    assert all(0 <= x <= width - 15 and 0 <= y <= height - 15 for x, y in rects)
    assert [text.text for text in root.iter("text") if text.text.isdigit()] == ["1", "5"]


def test_a_heat_map_says_what_it_shows_and_hatches_what_is_not_supported():
    keys = [(7, "C"), (7, "D"), (8, "A")]
    cells = HeatMap(
        letters="ACD", positions=(7, 8), wild_type="AD", values=dict.fromkeys(keys, 0.5), texts={}, hatched={(7, "C")}
    )
    label = "Difference of <y> to the wild type"
    root = parsed(heat_map(cells, title="Single mutants", label=label, limit=0.248))
    assert root.find(".//h3").text == "Single mutants"
    legend = [span.text for span in root.findall(".//p[@class='sq-legend']/span")]
    assert legend == [f"{label}:", "≤ −0.248", None, "≥ +0.248"]
    (hatch,) = root.iter("path")
    assert hatch.attrib["d"].count("M") > 2


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
    assert parsed(blocks([Verbatim(bad)])).find(".//pre").text == bad


def test_columns_of_text_are_aligned_left_and_numbers_and_intervals_right():
    header = ["name", "mutants", "interval", "rejection", "sequence", "remark", "nothing"]
    long = ("ACDEFGHIKL…ACDEFGHIKLACDEF", "a sentence of more than 24 letters")
    root = parsed(table(Table(header, [["D1", "M34K:A36D", "0.5 to 0.7", "> 1,087", *long, None]])))
    kinds = [cell.attrib.get("class") for cell in root.iter("td")]
    assert kinds == ["sq-left", "sq-left", None, None, "sq-sequence", "sq-text", None]
    assert [cell.attrib.get("class") for cell in root.iter("th")] == kinds
    # numbers with a word for one that is missing
    root = parsed(table(Table(["a"], [[1.5], ["none"]])))
    assert [cell.attrib.get("class") for cell in root.iter("td")] == [None, None]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("the model has one member", "The model has one member"),
        ("table.csv: no rows", "table.csv: no rows"),
        ("error_rate is missing", "error_rate is missing"),
        ("4 of 4 designs", "4 of 4 designs"),
    ],
)
def test_a_notice_begins_with_a_capital_unless_with_a_name(text, shown):
    assert f"</strong> {shown}</div>" in notice(text, "warning")


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
