"""Pages and model cards of runs and evaluations: their verdicts, and that all are drawn."""

import math
import re
from copy import deepcopy
from pathlib import Path

import pytest
from support.llm_pages import evaluation, lead_of

from subquad.errors import SubquadError
from subquad.llm.metrics import CONTROLS, LABELS, compare_losses
from subquad.llm.plots.evaluation_page import NO_CONTROL, differences_table, evaluation_page, results_table
from subquad.llm.plots.figures import STYLES
from subquad.llm.plots.linearize_page import card, linearize_page
from subquad.reporting import page as page_module
from subquad.reporting.style import DARK, GREEN, GREY, SOFT
from subquad.runs.storage import null_as_nan, read_json

GOLDEN = Path(__file__).parents[1] / "golden" / "llm_model"


def history_of(**steps):
    """Return the history of stages with this many steps."""
    return [
        {"part": part, "step": step, "loss": 2.0 + 1 / step}
        for part, count in steps.items()
        for step in range(1, count + 1)
    ]


def files_of_a_run(**losses):
    """Return the files of a run in which further models have these losses, or those of the student plus these."""
    metrics, notes = (read_json(GOLDEN / name) for name in ("metrics.json", "evaluations.json"))
    own = notes["losses"]["fine_tuned"]
    notes["losses"] |= {name: [a + b for a, b in zip(own, shifts, strict=True)] for name, shifts in losses.items()}
    return {**metrics, **compare_losses(null_as_nan(notes["losses"]))}, notes


LONG = history_of(transfer=60, lora=60)


@pytest.mark.parametrize(
    ("shifts", "verdict"),
    [
        ((0.9, 1.0, 1.1), "clearly better (−63.2 % ["),
        ((-0.9, -1.0, -1.1), "clearly worse (+171.8 % ["),
        # a mean that is lower by a tenth, on three sequences of which one says otherwise
        ((0.5, 0.1, -0.3), "no clear difference (−9.5 % [−66.5, +144.4], 95 % interval)"),
        # clear, but too small to matter
        ((4e-4, 5e-4, 6e-4), "no clear difference (−0.05 % [−0.07, −0.03], 95 % interval)"),
        ((0.0, 0.0, 0.0), "no clear difference (equal, 95 % interval)"),
    ],
)
def test_the_student_is_better_than_a_model_only_if_a_paired_interval_says_so_and_it_matters(shifts, verdict):
    metrics, notes = files_of_a_run(window_fine_tuned=shifts, teacher_fine_tuned=(0, 0, 0))
    lead = lead_of(linearize_page(metrics, notes, LONG))
    assert f"Student against window, fine-tuned: {verdict}" in lead
    assert "No control" not in lead
    metrics, notes = files_of_a_run(fine_tuned_without_linear=shifts)
    lead = lead_of(linearize_page(metrics, notes, LONG))
    assert f"Student against student without its linear branch: {verdict}" in lead
    assert "No control was fine-tuned" in lead


@pytest.mark.parametrize(
    ("gaps", "wins"),
    [
        ((0.5, 0.6, 0.7), "fine_tuned"),
        # each sequence is better, but three sequences that differ so much have a wide interval
        ((0.5, 0.1, 0.02), None),
        ((1e-5, 2e-5, 3e-5), None),
        ((0.5,), None),
    ],
)
def test_metrics_name_a_winner_by_the_verdict_of_the_page(gaps, wins):
    losses = {"teacher": [1.0] * len(gaps), "window": [3.0 + gap for gap in gaps], "fine_tuned": [3.0] * len(gaps)}
    assert compare_losses(losses)["wins"] == wins


def test_perplexities_have_intervals_from_three_sequences_on():
    losses = {"teacher": [2.0, 2.5, 0.1], "fine_tuned": [2.1, 2.4, 0.3]}
    found = compare_losses(losses)["intervals"]["test"]
    for name, values in losses.items():
        low, high = found[name]["perplexity"]
        # no perplexity is below 1
        assert 1 <= low < math.exp(sum(values) / 3) < high
    assert "intervals" not in compare_losses({name: values[:2] for name, values in losses.items()})
    metrics, notes = files_of_a_run()
    assert "student against it" in linearize_page(metrics, notes, LONG)
    notes["losses"] = {name: values[:1] for name, values in notes["losses"].items()}
    del metrics["intervals"]
    page = linearize_page({**metrics, **compare_losses(notes["losses"])}, notes, LONG)
    assert "fewer than 3 sequences, which give no intervals" in page
    assert "student against it" not in page


@pytest.mark.parametrize(
    ("steps", "trained"),
    [
        ({"transfer": 1, "lora": 1}, "1 step of attention transfer and 1 step of fine-tuning"),
        # block by block, each block of layers with its own steps
        ({"transfer-0": 2, "transfer-1": 2, "lora": 10}, "2 steps of attention transfer and 10 steps of fine-tuning"),
    ],
)
def test_a_run_of_few_steps_gives_no_verdict(steps, trained):
    metrics, notes = files_of_a_run(window_fine_tuned=(1, 1, 1))
    history = history_of(**steps)
    for text in (lead_of(linearize_page(metrics, notes, history)), card(metrics, notes, history)):
        assert f"Trained for {trained}, too few to judge the student by" in text
    lead = lead_of(linearize_page(metrics, notes, history))
    assert "Perplexity on held-out text: student" in lead
    assert "better" not in lead


def test_the_page_of_a_model_without_a_linear_branch_names_none():
    metrics, notes = files_of_a_run()
    notes["about"]["has_linear"] = False
    for name in ("transferred", "fine_tuned_without_linear"):
        del metrics["test"][name]
    del metrics["tokens"]["transfer"], notes["errors"]
    for text in (linearize_page(metrics, notes, history_of(lora=60)), card(metrics, notes)):
        assert "linear attention plus" not in text
        assert "attention transfer" not in text
    found = evaluation(roles=["teacher", "window", "fine_tuned"])
    assert "without its linear branch" not in evaluation_page(found)


@pytest.mark.long
def test_pages_are_drawn_of_a_run_as_small_or_as_large_as_it_may_be():
    metrics, notes = files_of_a_run()
    # perplexities, curves and layers
    assert linearize_page(metrics, notes, history_of(transfer=1, lora=1)).count("<figure") == 3
    history = [*LONG, {"part": "lora", "step": 60, "validation_loss": 2.5}]
    assert linearize_page(metrics, notes, history).count("<figure") == 3
    notes["softmax_layers"] = {"divergences": {"-1": 0.5, "0": 0.1, "1": 0.2}, "chosen": [0]}
    assert (
        linearize_page(metrics, notes, history_of(**{"transfer-0": 2, "transfer-1": 2, "lora": 2})).count("<fig") >= 4
    )
    # a model of one layer, and one that was copied without its history
    notes["errors"] = {name: values[:1] for name, values in notes["errors"].items()}
    assert linearize_page(metrics, notes, []).count("<figure") == 3
    for entry in metrics["test"].values():
        entry["perplexity"] = 1.0114e7
    assert "1.01e+07" in linearize_page(metrics, notes, LONG)


def test_models_whose_loss_is_not_finite_are_compared_with_no_other():
    metrics, notes = files_of_a_run()
    length = len(notes["losses"]["teacher"])
    # as in files; a control and the window alone
    undefined = {"window": [None] * length, "window_fine_tuned": [None] * length}
    losses = {**notes["losses"], "teacher_fine_tuned": notes["losses"]["teacher"], **undefined}
    notes["losses"] = losses
    found = compare_losses(null_as_nan(losses))
    assert found["test"]["window"] == found["test"]["window_fine_tuned"] == {"perplexity": None}
    assert "window" not in found["intervals"]["test"]
    rest = {name: values for name, values in losses.items() if name not in undefined}
    assert found["wins"] == compare_losses(rest)["wins"]
    page = linearize_page({**metrics, **found}, notes, LONG)
    assert "window only, untrained –" in lead_of(page)
    assert "against window" not in lead_of(page)
    for name in ("teacher", "fine_tuned"):
        with pytest.raises(SubquadError, match="the loss on held-out text is nan"):
            compare_losses({**rest, name: [math.nan] * length})


def test_a_model_card_names_the_text_and_the_licence_of_the_teacher_or_says_that_there_is_none():
    metrics, notes = files_of_a_run()
    notes["about"]["held_out"] = "letters.txt"
    end = f"The licence of the weights is that of {notes['about']['model']}"
    for teacher, licence in (({}, "; its model card or file header names none"), ({"license": "mit"}, ": mit")):
        notes["about"]["teacher_card"] = teacher
        text = card(metrics, notes)
        assert f"{end}{licence}.\n" in text
        assert "of letters.txt; 95 % intervals" in text


def luminance(colour):
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_lines_are_told_apart_without_colour_and_seen_on_light_and_dark_pages():
    assert {marker for _, _, marker in STYLES.values()} == {*"psvP^DX<o"}
    assert {*CONTROLS} < STYLES.keys() < LABELS.keys()
    css = (Path(page_module.__file__).parent / "page.css").read_text()
    (light, dark), (soft, soft_in_the_dark) = (re.findall(rf"--{name}: (#\w+)", css) for name in ("paper", "soft"))
    for colour in {*(colour for colour, _, _ in STYLES.values()), GREY, GREEN}:
        shown = (soft, soft_in_the_dark) if colour == SOFT else (colour, DARK.get(colour, colour))
        assert contrast(shown[0], light) >= 3, colour
        assert contrast(shown[1], dark) >= 3, colour


def test_an_evaluation_begins_with_its_result_and_verdicts():
    found = evaluation()
    text = found["models"][0]["perplexity"]["words.txt"]
    text["differences"]["fine_tuned_without_linear"] = {"value": -0.02, "low": -0.03, "high": -0.01}
    assert lead_of(evaluation_page(found)) == (
        "student, perplexity, words.txt: 2.000 [1.000, 3.000]. It closes 0.500 [0.400, 0.600] of the gap between "
        "window only, untrained and teacher. Student against teacher: no clear difference (no interval). Student "
        "against student without its linear branch: clearly better (−2.0 % [−3.0, −1.0], 95 % interval). "
        + NO_CONTROL.replace("'", "&#39;")
    )
    text["gap_closed"] = {"value": None, "low": None, "high": None, "reason": "there is no gap"}
    for low, high, verdict in (
        (-0.1, 0.2, "no clear difference (+10.5 % [−9.5, +22.1], 95 % interval)"),
        (0.05, 0.2, "clearly worse (+10.5 % [+5.1, +22.1], 95 % interval)"),
    ):
        text["differences"]["teacher"] = {"value": 0.1, "low": low, "high": high}
        lead = lead_of(evaluation_page(found))
        assert f"Student against teacher: {verdict}" in lead
        assert "gap" not in lead
    found["models"][0]["perplexity"] = {}
    assert lead_of(evaluation_page(found)) == "student was measured for speed and memory only."


def test_the_best_control_and_the_ends_of_the_gap_are_named():
    roles = ["teacher", "teacher_fine_tuned", "window", "wide_window_fine_tuned", "cache_fine_tuned", "fine_tuned"]
    found = evaluation(roles=roles)
    result = found["models"][0]["perplexity"]["words.txt"]
    # of losses the lowest is the best, of accuracies the highest
    result["differences"] |= {
        "wide_window_fine_tuned": {"value": -0.3, "low": -0.4, "high": -0.2},
        "cache_fine_tuned": {"value": -0.1, "low": -0.2, "high": -0.05},
    }
    lead = lead_of(evaluation_page(found))
    assert "the gap between wide window, fine-tuned and teacher, fine-tuned" in lead
    assert "Student against window and larger cache, fine-tuned: clearly better (−9.5 % [" in lead
    assert "wide window, fine-tuned: " not in lead
    assert NO_CONTROL[:12] not in lead
    by_depth = {role: {"0": 1.0} for role in roles}
    found["models"][0] |= {"perplexity": {}, "passkey": {"331": {**result, "by_depth": by_depth}}}
    lead = lead_of(evaluation_page(found))
    assert "Student against wide window, fine-tuned: clearly worse (−0.300 [−0.400, −0.200], 95 % interval)" in lead


def test_the_tables_of_an_evaluation_have_a_row_per_model_and_a_column_per_measurement():
    found = evaluation()
    (model,) = found["models"]
    rates = deepcopy(model["perplexity"]["words.txt"])
    model["tasks"] = {"piqa": {"metric": "acc", "metrics": {"acc": rates}, "beyond_window": {"items": 0}}}
    model["passkey"] = {"331": {**rates, "by_depth": {role: {"0": 1.0} for role in model["about"]["roles"]}}}
    table = results_table(model)
    assert table.header == ["model", "perplexity, words.txt ↓", "PIQA", "passkey, 331 tokens"]
    assert [row[0] for row in table.rows] == ["items", *(LABELS[role] for role in model["about"]["roles"])]
    rates["differences"]["teacher"] = {"value": 2e-4, "low": 1e-4, "high": 3e-4}
    rates["differences"]["window"] = {"value": 0.1, "low": 0.05, "high": 0.15}
    table = differences_table(model)
    assert table.rows[0] == [
        "teacher",
        "+0.0 %\nno interval",
        "+0.0002 [+0.0001, +0.0003]\nno clear difference",
        "+0.0002 [+0.0001, +0.0003]\nno clear difference",
    ]
    assert table.rows[1][2] == "+0.100 [+0.050, +0.150]\nclearly better"
    assert table.rows[-1] == ["gap closed", *["0.500 [0.400, 0.600]"] * 3]
    for compared in (rates, model["perplexity"]["words.txt"], model["passkey"]["331"]):
        compared["gap_closed"] = {"value": None, "low": None, "high": None, "reason": "too few"}
    assert differences_table(model).rows[-1][0] == LABELS["fine_tuned_without_linear"]
    assert evaluation_page(found).count("<figure") == 2


def test_each_of_several_students_is_described_without_its_path():
    found = evaluation()
    found["models"][0]["about"] |= {"folder": "/srv/jobs/linear-7/out", "teacher": "/srv/uploads/llama"}
    other = evaluation(roles=["teacher", "fine_tuned"])["models"][0]
    other["about"] |= {"folder": "other", "visible": 97, "trained_texts": ["words.txt"]}
    found["models"].append(other)
    page = evaluation_page(found)
    assert "<h1>Evaluation of linear-7, other</h1>" in page
    assert "/srv" not in page
    *_, first, second = re.split(r"<h2>(?:linear-7|other): Student and controls", page)
    assert "a text of up to 6 tokens" in first
    assert "a text of up to 97 tokens" in second
    assert ("The student was trained on words.txt" in first, "was trained on words.txt" in second) == (False, True)


def test_curves_by_position_have_lines_where_the_window_and_the_training_end():
    found = evaluation()
    (model,) = found["models"]
    ends = ((1, 16), (17, 32), (33, 64))
    models = model["perplexity"]["words.txt"]["models"]
    model["perplexity"]["words.txt"]["positions"] = [{"from": a, "to": b, "models": models} for a, b in ends]
    model["about"] |= {"visible": 20, "trained_length": 40}
    page = re.sub(r"\s+", " ", evaluation_page(found))
    assert "Vertical lines: dashed, at 20: up to here" in page
    assert "dotted, at 40: length of the training sequences" in page
    model["about"] |= {"visible": 6, "trained_length": 64}
    assert "Vertical lines" not in evaluation_page(found)


def test_speed_is_drawn_and_listed():
    found = evaluation()
    row = {"tokens": 17, "prefill_per_second": 2.0, "decoded_per_second": 3.0, "bytes": 3 * 2**20}
    found["models"][0]["speed"] = {"teacher": [row, {**row, "tokens": 31}], "fine_tuned": [row]}
    page = evaluation_page(found)
    assert page.count("<figure") == 2
    assert ">3.000</td>" in page
