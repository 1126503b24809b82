"""The HTML page."""

import re
from html import unescape
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure

from subquad.errors import counted
from subquad.reporting.metrics import Metric
from subquad.reporting.page import Link, Section, Table, Verbatim, page, picture, show, signed
from subquad.reporting.statistics import Difference
from subquad.reporting.tables import print_table


def test_the_page_holds_everything_and_escapes_text():
    figure = Figure()
    figure.subplots().plot([1, 2])
    text = page(
        "Run <1>",
        lead="A & B",
        sections=[
            Section("One", ["a <script>", Table(["model", "score"], [["net", 0.5], ["ridge", None]], winner=0)]),
            Section("Two", [picture(figure, "A line"), Link("More", "a/b.html")]),
        ],
    )
    assert "a &lt;script&gt;" in text
    assert text.count("<script>") == 1
    assert "Run &lt;1&gt;" in text
    assert "A &amp; B" in text
    assert text.count('class="winner"') == 1
    assert text.count("<svg") == 1
    assert '<a href="a/b.html">More</a>' in text
    # nothing is loaded: SVG's namespaces are names
    assert set(re.findall(r'[^"\s]*http[^"\s]*', text)) <= {"http://www.w3.org/1999/xlink"}

    opened = []

    class Check(HTMLParser):
        def handle_starttag(self, tag, attrs):
            if tag not in ("meta", "img"):
                opened.append(tag)

        def handle_endtag(self, tag):
            assert opened.pop() == tag

    Check().feed(text)
    assert opened == []


def test_numbers_are_shown_as_people_write_them():
    assert [show(value) for value in (None, "x", True, 12345, 0.12345, 12.345, 1234.5)] == [
        "–", "x", "True", "12,345", "0.123", "12.3", "1,234",
    ]  # fmt: skip
    # of the size of concentrations in mol/l or of counts; rounding errors are zeros
    assert [show(value) for value in (1.5e15, -4e-9, 0.0004, 3e-17)] == ["1.5e+15", "−4e-09", "0.0004", "0.000"]


def test_code_is_marked_and_a_column_with_a_sentence_is_aligned_as_text():
    rows = [("a", 1.5, "short"), ("b", 2.5, "a sentence that is longer than a number with its interval")]
    section = Section("One", ["Run `subquad <x>` & look.", Table(("name", "value", "description"), rows)])
    text = page("Title", lead="Lead", sections=[section])
    assert "<p>Run <code>subquad &lt;x&gt;</code> &amp; look.</p>" in text
    assert re.findall(r"<t[hd](?: scope=\"col\")?( class=\"text\")?>", text) == ["", "", ' class="text"'] * 3


def test_names_are_not_markup_in_the_terminal(capsys):
    print_table(["brightness [a.u.]", "x [/m]"], [[":star:", "[red]"]], title="table [/b]")
    shown = capsys.readouterr().out
    for text in ("brightness [a.u.]", "x [/m]", ":star:", "[red]", "table [/b]"):
        assert text in shown


@pytest.mark.parametrize(
    ("value", "shown"), [(999.4, "999"), (999.6, "1,000"), (-1e-13, "0.000"), (-0.0, "0.000"), (-0.002, "−0.002")]
)
def test_numbers_near_a_limit_are_shown_as_their_neighbours(value, shown):
    assert show(value) == shown


def test_one_thing_has_a_singular():
    assert [counted(count, "token") for count in (0, 1, 2, 1011)] == ["0 tokens", "1 token", "2 tokens", "1,011 tokens"]


def test_thousands_have_commas_up_to_six_digits_everywhere():
    assert [show(value) for value in (1011.4, 123456.0, 999_999.4, 1_234_567.0)] == [
        "1,011", "123,456", "999,999", "1.23e+06",
    ]  # fmt: skip
    assert signed(1011.26, 1) == "+1,011.3"


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        ((3.14, 1.04, 5.24), "+3.1 % [+1.0, +5.2]"),
        # a clear difference has as many digits as it needs, and its limits as many
        ((-0.012, -0.02, -0.004), "−0.012 % [−0.020, −0.004]"),
        # an unclear one has those that its interval needs
        ((0.004, -0.03, 0.02), "+0.00 % [−0.03, +0.02]"),
        ((0.0004, -1.0, 0.2), "+0.0 % [−1.0, +0.2]"),
        ((1234.56, 1011.0, 1500.0), "+1,234.6 % [+1,011.0, +1,500.0]"),
    ],
)
def test_a_difference_that_is_not_zero_does_not_read_as_zero(ends, text):
    assert Metric(title="m", digits=1, unit=" %").difference(Difference(*ends)) == text


def test_the_result_of_a_page_may_name_a_command():
    assert "<p>Use <code>--controls</code> &amp; more.</p>" in page("A", lead="Use `--controls` & more.", sections=[])


def test_a_long_number_with_its_interval_is_aligned_as_a_number():
    text = page(
        "A", lead="B", sections=[Section("C", [Table(("model", "change"), [("a", "+639.7 % [+437.0, +919.0]")])])]
    )
    assert "<td>+639.7 % [+437.0, +919.0]</td>" in text


def test_the_text_of_a_model_is_shown_as_it_is():
    text = "```python\nif a < b:\n    c = `d`\n```"
    html = page("A", lead="B", sections=[Section("C", ["Teacher:", Verbatim(text)])])
    found = re.search(r'<pre class="verbatim"[^>]*>(.*?)</pre>', html, re.DOTALL)
    assert unescape(found[1]) == text
