"""The words of pages and model cards, from the files of a finished run."""

import math
import re
from pathlib import Path

import pytest
from support.llm_pages import evaluation, lead_of

from subquad.errors import SubquadError
from subquad.llm.plots.evaluation_page import STYLES, evaluation_page
from subquad.llm.plots.evaluation_tables import LABELS, perplexity_text
from subquad.llm.plots.linearize_figures import GREEN, GREY, curves, perplexity_dots
from subquad.llm.plots.linearize_page import card, linearize_page
from subquad.llm.plots.perplexity_changes import perplexity_change
from subquad.llm.training.metrics import compare_losses
from subquad.reporting import page as page_module
from subquad.reporting.vector_figure import DARK, SOFT
from subquad.runs.storage import null_as_nan, read_json

GOLDEN = Path(__file__).parents[1] / "golden" / "llm_model"


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
    assert "differs from that of its teacher on longer ones only" in re.sub(r"\s+", " ", page)
    assert "linear branch" not in page


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


def test_a_model_card_names_the_text_on_which_the_model_was_measured():
    metrics, notes = files_of_a_run(has_moments=True)
    notes["about"]["held_out"] = "letters.txt"
    text = card(metrics, notes["about"])
    for found in (text, linearize_page(metrics, notes, history_of(lora=60))):
        assert "the length of the training sequences, on letters.txt. Use" in found
        assert "style of the training text" not in found


def test_pages_and_cards_of_a_few_steps_say_so():
    metrics, notes = files_of_a_run(has_moments=True)
    short = history_of(transfer=2, lora=60)
    warning = "Trained on 2 steps of attention transfer and 60 steps of fine-tuning, too few to judge the student by"
    for text in (card(metrics, notes["about"], short), page := linearize_page(metrics, notes, short)):
        assert warning in text
    assert "The student was trained for 2 steps, too few to judge it by." in page
    long = history_of(transfer=10, lora=10)
    for text in (card(metrics, notes["about"], long), page := linearize_page(metrics, notes, long)):
        assert "too few" not in text
    assert "was trained for" not in page


def test_a_model_card_names_the_licence_of_the_teacher_or_says_that_there_is_none():
    metrics, notes = files_of_a_run(has_moments=True)
    end = f"The licence of the weights is that of {notes['about']['model']}"
    assert f"{end}; its model card or file header names none.\n" in card(
        metrics, {**notes["about"], "teacher_card": {}}
    )
    assert f"{end}: mit.\n" in card(metrics, {**notes["about"], "teacher_card": {"license": "mit"}})


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
        ({"transfer": 90, "lora": 3}, "90 steps of attention transfer and 3 steps of fine-tuning"),
        # block by block, each block of layers with its own steps
        ({"transfer-0": 2, "transfer-1": 2, "lora": 10}, "2 steps of attention transfer and 10 steps of fine-tuning"),
    ],
)
def test_a_run_of_few_steps_begins_with_them_and_gives_no_verdict(steps, trained):
    _, notes = files_of_a_run(has_moments=True)
    metrics, notes = with_control([loss + 1 for loss in notes["losses"]["fine_tuned"]])
    lead = lead_of(linearize_page(metrics, notes, history_of(**steps)))
    assert lead.startswith(f"Trained on {trained}, too few to judge the student by: a stage needs at least 4.")
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


def test_perplexities_have_intervals_from_four_sequences_on():
    losses = {"teacher": [2.0, 2.5, 3.0, 0.1], "fine_tuned": [2.1, 2.4, 3.2, 0.3]}
    found = compare_losses(losses)["intervals"]["test"]
    for name, own in losses.items():
        low, high = found[name]["perplexity"]
        # no perplexity is below 1
        assert 1 <= low < math.exp(sum(own) / 4) < high
    assert "intervals" not in compare_losses({name: own[:3] for name, own in losses.items()})
    metrics, notes = files_of_a_run(has_moments=True)
    del metrics["intervals"]
    page = linearize_page(metrics, notes, history_of(lora=60))
    assert "3 sequences are too few for intervals of the perplexities (fewer than 4)" in page
    assert "against the saved model" in page
    assert "Lines through the dots" not in page


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


def test_models_whose_loss_is_not_finite_are_compared_with_no_other():
    metrics, notes = files_of_a_run(has_moments=True)
    length = len(notes["losses"]["teacher"])
    # as in files; a control and the window alone
    undefined = {"window": [None] * length, "window_fine_tuned": [None] * length}
    losses = {**notes["losses"], "teacher_fine_tuned": notes["losses"]["teacher"], **undefined}
    notes["losses"] = losses
    found = compare_losses(null_as_nan(losses))
    assert found["test"]["window"] == found["test"]["window_fine_tuned"] == {"perplexity": None}
    assert "window" not in found.get("intervals", {}).get("test", {})
    rest = {name: own for name, own in losses.items() if name not in undefined}
    assert found["wins"] == compare_losses(rest)["wins"]
    metrics |= {"intervals": {}, **found}
    page = linearize_page(metrics, notes, history_of(lora=60))
    assert "window only, untrained not finite" in lead_of(page)
    assert "No control without a linear branch has a finite perplexity." in lead_of(page)
    assert "| window only, untrained | not finite |" in card(metrics, notes["about"])
    for name in ("teacher", "fine_tuned"):
        with pytest.raises(SubquadError, match="the loss on held-out text is nan"):
            compare_losses({**rest, name: [math.nan] * length})
