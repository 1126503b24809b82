"""The words of pages and model cards, from the files of a finished run."""

import re
from pathlib import Path

import pytest

from subquad.llm.plots.evaluation_page import evaluation_page
from subquad.llm.plots.evaluation_tables import columns
from subquad.llm.plots.linearize_page import card, linearize_page
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
