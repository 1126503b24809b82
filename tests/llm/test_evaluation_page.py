"""The words of the page of an evaluation."""

import re

import pytest
from support.llm_pages import ROLES, evaluation, lead_of

from subquad.llm.plots.evaluation_page import evaluation_page
from subquad.llm.plots.evaluation_result import NO_CONTROL, NOT_MEASURED
from subquad.llm.plots.evaluation_tables import columns, gap_rows

COMMAND = "`subquad llm linearize --controls`"
CODE = f"<code>{COMMAND[1:-1]}</code>"


@pytest.mark.parametrize("has_moments", [False, True])
def test_the_page_of_an_evaluation_says_whether_a_model_has_a_linear_branch_or_moments(has_moments):
    found = evaluation(has_moments=has_moments)
    page = re.sub(r"\s+", " ", evaluation_page(found))
    for words in (
        "Contribution of its linear branch (student − student without linear)",
        "itself without its linear branch",
        "(linear plus window)",
    ):
        assert (words in page) == (not has_moments)
    for words in (
        "Contribution of its moments (student − student without moments)",
        "itself without its moments",
        "(moments plus window)",
    ):
        assert (words in page) == has_moments
    # what it gains is mostly not that of the moments
    assert ">Student and controls<" in page
    # an evaluation from before this entry existed
    about = {"roles": ROLES}
    assert columns(about)[2] == "student without linear"


def test_an_evaluation_begins_with_its_result_and_intervals():
    found = evaluation(has_moments=True)
    text = found["models"][0]["perplexity"]["words.txt"]
    text["differences"]["fine_tuned_without_linear"] = {"value": -0.02, "low": -0.03, "high": -0.01}
    assert lead_of(evaluation_page(found)) == (
        "student closes 50 % [40 %, 60 %] of the gap between the untrained window of 3 tokens and the untrained "
        "teacher in loss on words.txt. Contribution of its moments (student − student without moments): loss on "
        "words.txt −0.020 [−0.030, −0.010] nats per token. Brackets: 95 % intervals. "
        f"{NO_CONTROL.replace(COMMAND, CODE)}"
    )
    text["gap_closed"] = {"value": None, "low": None, "high": None, "reason": "there is no gap"}
    for low, high, verdict in (
        (-0.1, 0.2, "student is not told apart from teacher in loss on words.txt (+0.100 [−0.100, +0.200] nats"),
        (0.05, 0.2, "student is above teacher in loss on words.txt (+0.100 [+0.050, +0.200] nats per token)"),
        (None, None, "student differs from teacher in loss on words.txt by an amount without interval (+0.100 nats"),
    ):
        text["differences"]["teacher"] = {"value": 0.1, "low": low, "high": high}
        assert verdict in lead_of(evaluation_page(found))
    found["models"][0]["perplexity"] = {}
    assert lead_of(evaluation_page(found)) == "student was measured for speed and memory only."


def test_the_lead_names_both_ends_of_the_gap_and_gives_one_sentence_to_each_result():
    roles = ["teacher", "teacher_fine_tuned", "window", "wide_window_fine_tuned", "fine_tuned"]
    found = evaluation(has_moments=True, roles=roles)
    passkey = found["models"][0]["perplexity"]["words.txt"]
    found["models"][0]["passkey"] = {"331": {**passkey, "items": 9, "by_depth": {role: {"0": 1.0} for role in roles}}}
    assert lead_of(evaluation_page(found)) == (
        "student closes 50 % [40 %, 60 %] of the gap between the fine-tuned wide window and the fine-tuned teacher in "
        "loss on words.txt and 50 % [40 %, 60 %] of it in passkey 331. Brackets: 95 % intervals."
    )
    # without an interval nothing stands in brackets
    one = evaluation(has_moments=True)
    one["models"][0]["perplexity"]["words.txt"]["gap_closed"] = {
        "value": None,
        "low": None,
        "high": None,
        "reason": "x",
    }
    lead = lead_of(evaluation_page(one))
    assert "loss on words.txt +0.100 nats per token (no interval)." in lead
    assert "Brackets" not in lead


def test_the_first_section_names_the_models_that_were_measured():
    def compared(**more):
        return re.sub(r"\s+", " ", evaluation_page(evaluation(has_moments=True, **more)))

    page = compared()
    assert (
        "is compared with its teacher, the softmax model it was made from; with the teacher&#39;s weights and "
        "attention to a window alone; with itself without its moments. No control that was fine-tuned"
    ) in page
    page = compared(roles=["teacher", "teacher_fine_tuned", "window", "cache", "cache_fine_tuned", "fine_tuned"])
    assert (
        "with the teacher&#39;s weights and attention to a window alone or to a window and a cache; with fine-tuned "
        "controls (teacher, window and cache). A student has read its training texts, so the fine-tuned controls, which"
    ) in page
    assert "itself without" not in page
    assert "attention to a window" not in compared(roles=["teacher", "fine_tuned"])


def test_each_of_several_students_is_described():
    found = evaluation(has_moments=True)
    other = evaluation(has_moments=False, roles=["teacher", "fine_tuned"])["models"][0]
    other["about"] |= {"folder": "other", "visible": 97}
    found["models"].append(other)
    page = re.sub(r"\s+", " ", evaluation_page(found))
    # its first part ends in the table of contents
    *first, second = page.split(">other: Student and controls<")
    first = first[-1]
    assert "student: Student and controls" in first
    assert "Of a text of up to 6 tokens" in first
    assert "with itself without its moments" in first
    assert "The student, with hybrid attention (linear plus window), is compared with its teacher" in second
    assert "Of a text of up to 97 tokens" in second
    assert "with itself" not in second


def test_the_page_of_an_evaluation_names_runs_without_their_path():
    found = evaluation(has_moments=True)
    found["models"][0]["about"] |= {"folder": "/srv/jobs/linear-7/out", "teacher": "/srv/uploads/llama"}
    page = evaluation_page(found)
    assert "<h1>Evaluation of linear-7</h1>" in page
    assert "linear-7, trained on" in page
    assert "llama, the softmax model" in page
    assert "/srv" not in page


def test_an_evaluation_without_controls_says_so_and_one_with_controls_does_not():
    found = evaluation(has_moments=True)
    page = evaluation_page(found)
    assert page.count("No control that was fine-tuned with the same budget lies beside it, so a part of what the") == 2
    roles = ["teacher", "teacher_fine_tuned", "window", "window_fine_tuned", "fine_tuned_without_linear", "fine_tuned"]
    assert "No control" not in evaluation_page(evaluation(has_moments=True, roles=roles))
    with_controls = evaluation(has_moments=True, roles=roles)
    with_controls["models"][0]["about"]["folder"] = "controlled"
    found["models"] += with_controls["models"]
    assert "student: No control that was fine-tuned" in lead_of(evaluation_page(found))


def by_position(*, visible, trained_length, low=1.0):
    """Return the page of an evaluation with perplexities at two ranges of positions."""
    found = evaluation(has_moments=True)
    model = found["models"][0]
    model["about"] |= {"visible": visible, "trained_length": trained_length}
    models = {role: {"value": 2.0, "low": low, "high": 3.0} for role in ROLES}
    ends = ((1, 16), (17, 32), (33, 64))
    model["perplexity"]["words.txt"]["positions"] = [{"from": a, "to": b, "models": models} for a, b in ends]
    return re.sub(r"\s+", " ", evaluation_page(found))


def test_the_caption_of_a_figure_explains_the_lines_and_bands_that_it_has():
    page = by_position(visible=20, trained_length=31)
    for words in (
        "from 17 on, on logarithmic axes. Vertical dashed line, at 20: left of it",
        "Vertical dotted line, at 31: length of the training sequences",
        "Solid curves: fine-tuned models.",
        "Dashed curves: models that were not fine-tuned.",
        "Dotted curve: the student with its moments switched off.",
        "Shaded bands, each in the colour of its curve: 95 % intervals over sequences.",
    ):
        assert words in page
    page = by_position(visible=6, trained_length=64, low=None)
    for words in ("Vertical dashed line", "Vertical dotted line", "Shaded bands"):
        assert words not in page


def test_an_evaluation_at_one_length_or_position_has_sentences_in_place_of_curves():
    found = evaluation(has_moments=True)
    row = {"tokens": 17, "prefill_per_second": 2.0, "decoded_per_second": 3.0, "bytes": 5}
    found["models"][0]["speed"] = {"teacher": [row], "fine_tuned": [row]}
    page = evaluation_page(found)
    assert "<figure" not in page
    assert "words.txt: sequences are too short for a curve of the perplexity by position." in page
    assert "One context length was measured, which gives no curve." in page
    found["models"][0]["speed"] = {"teacher": [row, {**row, "tokens": 31}], "fine_tuned": [row]}
    assert evaluation_page(found).count("<figure") == 1


def test_a_clear_difference_in_accuracy_does_not_read_as_zero():
    compared = {"items": 9, "differences": {"teacher": {"value": 2e-4, "low": 1e-4, "high": 3e-4}}}
    passkey = {**compared, "gap_closed": {"value": 15.05, "low": -0.2, "high": None}}
    (row,) = gap_rows({"perplexity": {}, "tasks": {}, "passkey": {"1011": passkey}})
    assert row == ["passkey 1,011", "1,505 %", "+0.02 [+0.01, +0.03]"]


def test_a_table_without_any_gap_has_no_column_for_it():
    found = evaluation(has_moments=True)
    text = found["models"][0]["perplexity"]["words.txt"]
    assert ">gap closed<" in evaluation_page(found)
    text["gap_closed"] = {"value": None, "low": None, "high": None, "reason": "too few sequences"}
    page = evaluation_page(found)
    assert "gap closed<" not in page
    assert "(student − window)" not in page
    assert "Gap closed: not known, since too few sequences." in page
    # the differences are shown all the same
    assert "minus teacher" in page


def test_controls_that_were_left_out_are_not_said_to_be_missing():
    found = evaluation(has_moments=True)
    found["models"][0]["about"]["controls"] = ["teacher_fine_tuned"]
    page = evaluation_page(found)
    assert page.count(NOT_MEASURED) == 2
    assert "No control that was fine-tuned" not in page
