"""The words of pages and model cards, from the files of a finished run."""

import math
import re
from pathlib import Path

import pytest

from subquad.llm.plots.evaluation_page import STYLES, evaluation_page
from subquad.llm.plots.evaluation_tables import LABELS, columns
from subquad.llm.plots.linearize_figures import GREEN, GREY, bars
from subquad.llm.plots.linearize_page import card, linearize_page
from subquad.reporting import page as page_module
from subquad.reporting.vector_figure import DARK, SOFT
from subquad.runs.storage import read_json

GOLDEN = Path(__file__).parents[1] / "golden" / "llm_model"
ROLES = ["teacher", "window", "fine_tuned_without_linear", "fine_tuned"]


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
    history = [{"part": part, "step": 1, "loss": 2.0} for part in ("transfer", "lora")]
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
    page = linearize_page(metrics, notes, [{"part": "lora", "step": 1, "loss": 2.0}])
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
    page = linearize_page(*with_control(losses), [{"part": "lora", "step": 1, "loss": 2.0}])
    lead = re.search(r"<header>.*?<p>(.*?)</p>", page, flags=re.DOTALL)[1]
    assert verdict in lead
    assert ("is better" in lead) == ("is better" in verdict)


def test_the_table_and_the_bars_of_a_run_have_intervals():
    metrics, notes = files_of_a_run(has_moments=True)
    page = linearize_page(metrics, notes, [{"part": "lora", "step": 1, "loss": 2.0}])
    low, high = metrics["intervals"]["test"]["teacher"]["perplexity"]
    assert f"{metrics['test']['teacher']['perplexity']:.1f} [{low:.1f}, {high:.1f}]" in page
    figure = bars({"teacher": 2.0, "window": 3.0}, {"teacher": "a", "window": "b"}, {"teacher": (1.0, 4.0)})
    assert [list(line.get_xdata()) for line in figure.axes[0].lines] == [[1.0, 4.0]]


def lead_of(page):
    return re.search(r"<header>.*?<p>(.*?)</p>", page, flags=re.DOTALL)[1]


def test_an_evaluation_begins_with_its_result_and_intervals():
    found = evaluation(has_moments=True)
    assert lead_of(evaluation_page(found)) == (
        "student closes 50 % [40 %, 60 %] of the gap between window and teacher in loss on words.txt. "
        "Brackets: 95 % intervals."
    )
    text = found["models"][0]["perplexity"]["words.txt"]
    text["gap_closed"] = {"value": None, "low": None, "high": None, "reason": "there is no gap"}
    for low, high, verdict in (
        (-0.1, 0.2, "student is not told apart from teacher in loss on words.txt (+0.100 [-0.100, +0.200] nats"),
        (0.05, 0.2, "student is above teacher in loss on words.txt (+0.100 [+0.050, +0.200] nats per token)"),
        (None, None, "student differs from teacher in loss on words.txt by an amount without interval (+0.100 nats"),
    ):
        text["differences"]["teacher"] = {"value": 0.1, "low": low, "high": high}
        assert verdict in lead_of(evaluation_page(found))
    found["models"][0]["perplexity"] = {}
    assert "student was measured for speed and memory only" in lead_of(evaluation_page(found))


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
