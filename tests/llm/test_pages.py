"""The words of pages and model cards, from the files of a finished run."""

import math
import re
from pathlib import Path

import pytest

from subquad.llm.plots.evaluation_page import STYLES, evaluation_page
from subquad.llm.plots.evaluation_result import NO_CONTROL
from subquad.llm.plots.evaluation_tables import LABELS, columns, gap_rows, perplexity_text
from subquad.llm.plots.linearize_figures import GREEN, GREY, curves, perplexity_dots
from subquad.llm.plots.linearize_page import card, linearize_page
from subquad.llm.plots.perplexity_changes import perplexity_change
from subquad.llm.training.metrics import compare_losses
from subquad.reporting import page as page_module
from subquad.reporting.vector_figure import DARK, SOFT
from subquad.runs.storage import read_json

GOLDEN = Path(__file__).parents[1] / "golden" / "llm_model"
ROLES = ["teacher", "window", "fine_tuned_without_linear", "fine_tuned"]
CODE = "<code>subquad llm linearize --controls</code>"


def history_of(**steps):
    """Return the history of stages with this many steps."""
    return [
        {"part": part, "step": step, "loss": 2.0 + 1 / step}
        for part, count in steps.items()
        for step in range(1, count + 1)
    ]


def files_of_a_run(*, has_moments):
    metrics, notes = (read_json(GOLDEN / name) for name in ("metrics.json", "evaluations.json"))
    notes["about"] |= {"has_moments": has_moments, "feature_map_learning_rate": 1e-3}
    return metrics, notes


def evaluation(*, has_moments, roles=ROLES):
    about = {
        "folder": "student", "teacher": "teacher", "window": 3, "window_shape": "terrace", "has_moments": has_moments,
        "tokens": None, "trained_length": 31, "roles": roles, "visible": 6, "longest": 211,
    }  # fmt: skip
    models = {role: {"value": 2.0, "low": 1.0, "high": 3.0} for role in roles}
    differences = {role: {"value": 0.1, "low": None, "high": None} for role in roles[:-1]}
    compared = {"models": models, "differences": differences, "gap_closed": {"value": 0.5, "low": 0.4, "high": 0.6}}
    text = {**compared, "tokens": 310, "positions": [{"from": 17, "to": 31, **compared}]}
    return {
        "models": [{"about": about, "perplexity": {"words.txt": text}, "tasks": {}, "passkey": {}, "speed": {}}],
        "not_measured": [],
        "machine": "two cores",
        "subquad": {"version": "0", "settings": {"dtype": "float32", "limit": None, "resamples": 100}},
    }


@pytest.mark.parametrize("has_moments", [False, True])
def test_the_pages_of_a_run_say_whether_it_has_a_linear_branch_or_moments(has_moments):
    metrics, notes = files_of_a_run(has_moments=has_moments)
    history = history_of(transfer=90, lora=60)
    for text in (linearize_page(metrics, notes, history), card(metrics, notes["about"])):
        assert ("without moments" in text) == has_moments
        assert ("linear branch" in text) == (not has_moments)
    page = linearize_page(metrics, notes, history)
    assert ("continues to train the parameters of the moments" in page) == has_moments
    assert ("feature maps" in page) == (not has_moments)


@pytest.mark.parametrize("has_moments", [False, True])
def test_the_page_of_an_evaluation_says_whether_a_model_has_a_linear_branch_or_moments(has_moments):
    found = evaluation(has_moments=has_moments)
    page = re.sub(r"\s+", " ", evaluation_page(found))
    for words in (
        "Contribution of linear attention",
        "linear branch",
        "student without linear",
        "(linear plus window)",
    ):
        assert (words in page) == (not has_moments)
    for words in ("Contribution of moments", "without its moments", "student without moments", "(moments plus window)"):
        assert (words in page) == has_moments
    # an evaluation from before this entry existed
    about = {"roles": ROLES}
    assert columns(about)[2] == "student without linear"


def test_the_pages_of_a_model_without_a_linear_branch_say_so():
    metrics, notes = files_of_a_run(has_moments=False)
    notes["about"]["has_linear"] = False
    for name in ("transferred", "fine_tuned_without_linear"):
        del metrics["test"][name]
    del metrics["tokens"]["transfer"], notes["errors"]
    page = linearize_page(metrics, notes, history_of(lora=60))
    for text in (page, card(metrics, notes["about"])):
        assert "with a window" in text
        assert "linear attention" not in text
        assert "attention transfer" not in text.replace("there is no attention transfer", "")
    found = evaluation(has_moments=False, roles=["teacher", "window", "fine_tuned"])
    found["models"][0]["about"]["has_linear"] = False
    page = evaluation_page(found)
    assert "Student and controls" in page
    assert "differs from its teacher on longer ones only" in re.sub(r"\s+", " ", page)
    assert "linear branch" not in page


def lead_of(page):
    return re.search(r"<header>.*?<p>(.*?)</p>", page, flags=re.DOTALL)[1]


def with_control(losses):
    """Return the files of a run whose best control without a linear branch has these losses."""
    metrics, notes = files_of_a_run(has_moments=True)
    controls = {"teacher_fine_tuned": notes["losses"]["teacher"], "window_fine_tuned": losses}
    notes["losses"] |= controls
    for name, own in controls.items():
        metrics["test"][name] = {"perplexity": math.exp(sum(own) / len(own))}
    return metrics, notes


@pytest.mark.parametrize(
    ("shifts", "verdict"),
    [
        ((0.9, 1.0, 1.1), "on this text the student is better (−63.2 % ["),
        ((-0.9, -1.0, -1.1), "on this text the student is worse (+171.8 % ["),
        # a mean that is lower by a tenth, on three sequences of which one says otherwise
        ((0.5, 0.1, -0.3), "the two are not told apart on this text (student against control: −9.5 % [−66.5, +144.4])"),
    ],
)
def test_the_student_is_better_than_a_control_only_if_a_paired_interval_says_so(shifts, verdict):
    _, notes = files_of_a_run(has_moments=True)
    losses = [loss + shift for loss, shift in zip(notes["losses"]["fine_tuned"], shifts, strict=True)]
    lead = lead_of(linearize_page(*with_control(losses), history_of(lora=60)))
    assert verdict in lead
    assert ("is better" in lead) == ("is better" in verdict)


def test_the_table_and_the_dots_of_a_run_have_intervals():
    metrics, notes = files_of_a_run(has_moments=True)
    page = linearize_page(metrics, notes, history_of(lora=60))
    low, high = metrics["intervals"]["test"]["teacher"]["perplexity"]
    assert f"{metrics['test']['teacher']['perplexity']:.1f} [{low:.1f}, {high:.1f}]" in page
    values = {"teacher": 2.0, "window": 1011.0}
    axes = perplexity_dots(values, {"teacher": "a", "window": "b"}, {"teacher": (1.0, 4.0)}).axes[0]
    assert [list(line.get_xdata()) for line in axes.lines] == [[1011.0], [1.0, 4.0], [2.0]]
    # the length of a bar has no meaning on a logarithmic axis
    assert (axes.get_xscale(), len(axes.patches)) == ("log", 0)
    assert [text.get_text() for text in axes.texts] == ["1,011", "b", "2.00", "a"]
    assert "1,000" in [axes.xaxis.get_major_formatter()(value) for value in (1000, 2000)]


def test_an_evaluation_begins_with_its_result_and_intervals():
    found = evaluation(has_moments=True)
    assert lead_of(evaluation_page(found)) == (
        "student closes 50 % [40 %, 60 %] of the gap between window and teacher in loss on words.txt. "
        f"Brackets: 95 % intervals. {NO_CONTROL.replace('`subquad llm linearize --controls`', CODE)}"
    )
    text = found["models"][0]["perplexity"]["words.txt"]
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


def test_the_page_of_an_evaluation_names_runs_without_their_path():
    found = evaluation(has_moments=True)
    found["models"][0]["about"] |= {"folder": "/srv/jobs/linear-7/out", "teacher": "/srv/uploads/llama"}
    page = evaluation_page(found)
    assert "<h1>Evaluation of linear-7</h1>" in page
    assert "linear-7, trained on" in page
    assert "llama, the softmax model" in page
    assert "/srv" not in page


def luminance(colour):
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_lines_are_told_apart_without_colour_and_seen_on_light_and_dark_pages():
    assert set(STYLES) == set(LABELS)
    assert len(set(STYLES.values())) == len(STYLES)
    # the marker alone says which line it is
    assert len({marker for _, _, marker in STYLES.values()}) == len(STYLES)
    css = (Path(page_module.__file__).parent / "page.css").read_text()
    (light, dark), (soft, soft_in_the_dark) = (re.findall(rf"--{name}: (#\w+)", css) for name in ("paper", "soft"))
    for colour in {*(colour for colour, _, _ in STYLES.values()), GREY, GREEN}:
        shown = (soft, soft_in_the_dark) if colour == SOFT else (colour, DARK.get(colour, colour))
        assert contrast(shown[0], light) >= 3, colour
        assert contrast(shown[1], dark) >= 3, colour


@pytest.mark.parametrize(
    ("steps", "trained"),
    [
        ({"transfer": 1, "lora": 1}, "1 step of attention transfer and 1 step of fine-tuning"),
        ({"transfer": 90, "lora": 9}, "90 steps of attention transfer and 9 steps of fine-tuning"),
        # block by block, each block of layers with its own steps
        ({"transfer-0": 2, "transfer-1": 2, "lora": 10}, "2 steps of attention transfer and 10 steps of fine-tuning"),
    ],
)
def test_a_run_of_few_steps_begins_with_them_and_gives_no_verdict(steps, trained):
    _, notes = files_of_a_run(has_moments=True)
    metrics, notes = with_control([loss + 1 for loss in notes["losses"]["fine_tuned"]])
    lead = lead_of(linearize_page(metrics, notes, history_of(**steps)))
    assert lead.startswith(f"Trained on {trained}, too few to judge the student by: a stage needs at least 10.")
    assert "The fine-tuned model has perplexity" in lead
    assert "better" not in lead
    assert "Without its moments" not in lead


@pytest.mark.parametrize("steps", [{"transfer": 10, "lora": 10}, {}])
def test_a_run_of_enough_or_unknown_steps_is_judged(steps):
    metrics, notes = files_of_a_run(has_moments=True)
    lead = lead_of(linearize_page(metrics, notes, history_of(**steps)))
    assert lead.startswith("The fine-tuned model has perplexity")
    assert "No control was fine-tuned with the same budget." in lead


def test_a_single_step_is_a_sentence_and_no_plot():
    metrics, notes = files_of_a_run(has_moments=True)
    # perplexities and layers
    page = linearize_page(metrics, notes, history_of(transfer=1, lora=1))
    assert page.count("<figure") == 2
    assert "Attention transfer took a single step, with a training loss of 3.000; one point makes no curve." in page
    assert "Fine-tuning took a single step" in page
    page = linearize_page(metrics, notes, history_of(transfer=1, lora=60))
    assert page.count("<figure") == 3
    assert "Training loss of fine-tuning; each value" in page
    assert "Fine-tuning took a single step" not in page
    page = linearize_page(metrics, notes, history_of(**{"transfer-0": 1, "transfer-1": 1, "lora": 60}))
    assert "took a single step in each block of layers" in page
    # a model of one layer
    notes["errors"] = {name: own[:1] for name, own in notes["errors"].items()}
    page = linearize_page(metrics, notes, history_of(transfer=60, lora=60))
    assert page.count("<figure") == 2
    assert "The model has one layer, which makes no curve: student, untrained" in page


def test_captions_of_training_curves_name_what_is_drawn():
    metrics, notes = files_of_a_run(has_moments=True)
    page = linearize_page(metrics, notes, history_of(transfer=20, lora=20))
    assert "Dark line" not in page
    assert "Dots: loss on the validation" not in page
    history = history_of(transfer=60, lora=60)
    history.append({"part": "lora", "step": 60, "validation_loss": 2.5})
    page = linearize_page(metrics, notes, history)
    assert "Dark line: running mean over a fifth of the values. Dots: loss on the validation sequences." in page
    stages = curves(notes["about"], history, ["transfer", "lora"]).axes
    assert [len(axes.lines) for axes in stages] == [2, 3]


def test_a_run_that_is_measured_on_one_sequence_mentions_no_intervals():
    metrics, notes = files_of_a_run(has_moments=True)
    del metrics["intervals"]
    notes["losses"] = {name: own[:1] for name, own in notes["losses"].items()}
    page = linearize_page(metrics, notes, history_of(lora=60))
    assert "There is one sequence, which gives no intervals." in page
    assert "against the saved model" not in page
    assert "Lines through the dots" not in page


def test_numbers_of_one_are_singular():
    metrics, notes = files_of_a_run(has_moments=True)
    notes["about"] |= {"window": 1, "sinks": 1, "cache": 1, "state_as_tokens": 1, "state_numbers": 1}
    metrics["trainable_parameters"]["lora"] = 1
    text = card(metrics, notes["about"])
    for words in (
        "a window of 1 token (",
        "to the first token of the text",
        "to 1 earlier token that",
        "(1 parameter)",
    ):
        assert words in text
    assert "a state of 1 number, the size of a key-value cache of 1 token;" in text
    found = evaluation(has_moments=True)
    found["models"][0]["about"] |= {"visible": 1, "window": 1}
    found["subquad"]["settings"] |= {"resamples": 1}
    page = re.sub(r"\s+", " ", evaluation_page(found))
    for words in ("a text of up to 1 token the", "window has 1 token, terrace", "(1 resample, the same"):
        assert words in page


@pytest.mark.parametrize(
    ("value", "text"),
    [(9.876, "9.88"), (99.99, "99.99"), (99.996, "100.0"), (999.96, "1,000"), (1011.2, "1,011"),
     (123456.7, "123,457"), (1.234e7, "1.23e+07")],
)  # fmt: skip
def test_perplexities_are_written_in_one_way(value, text):
    assert perplexity_text(value) == text


def test_large_perplexities_are_written_alike_in_the_whole_report():
    metrics, notes = files_of_a_run(has_moments=True)
    for one in metrics["test"].values():
        one["perplexity"] = 1011.4
    page = linearize_page(metrics, notes, history_of(transfer=60, lora=60))
    assert "has perplexity 1,011; teacher 1,011; window only, untrained 1,011." in lead_of(page)
    assert "1.01e+03" not in page


@pytest.mark.parametrize(
    ("shifts", "text"),
    [
        ((4e-4, 5e-4, 6e-4), "Without its moments it is higher: +0.05 % [+0.03, +0.07]."),
        ((-1e-4, 2e-4, -1e-4), "Without its moments it is not told apart from it: +0.00 % [−0.04, +0.04]."),
    ],
)
def test_a_small_change_has_the_digits_that_it_needs(shifts, text):
    metrics, notes = files_of_a_run(has_moments=True)
    losses = notes["losses"]
    losses["fine_tuned_without_linear"] = [a + b for a, b in zip(losses["fine_tuned"], shifts, strict=True)]
    assert text in lead_of(linearize_page(metrics, notes, history_of(transfer=60, lora=60)))


def test_an_evaluation_without_controls_says_so_and_one_with_controls_does_not():
    found = evaluation(has_moments=True)
    page = evaluation_page(found)
    assert page.count("No control was fine-tuned with the same budget, so a part of what the student gains") == 2
    roles = ["teacher", "teacher_fine_tuned", "window", "window_fine_tuned", "fine_tuned_without_linear", "fine_tuned"]
    assert "No control" not in evaluation_page(evaluation(has_moments=True, roles=roles))
    with_controls = evaluation(has_moments=True, roles=roles)
    with_controls["models"][0]["about"]["folder"] = "controlled"
    found["models"] += with_controls["models"]
    assert "student: No control was fine-tuned" in lead_of(evaluation_page(found))


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


@pytest.mark.parametrize(
    ("gaps", "wins"),
    [
        ((0.5, 0.6, 0.7), "fine_tuned"),
        # each sequence is better, but three sequences that differ so much have a wide interval
        ((0.5, 0.1, 0.02), None),
        ((0.5,), None),
    ],
)
def test_metrics_name_a_winner_by_the_intervals_of_the_page(gaps, wins):
    losses = {"teacher": [1.0] * len(gaps), "window": [3.0 + gap for gap in gaps], "fine_tuned": [3.0] * len(gaps)}
    assert compare_losses(losses)["wins"] == wins
    change = perplexity_change(losses["fine_tuned"], losses["window"])
    assert (change is not None and change.is_clear) == (wins is not None)
