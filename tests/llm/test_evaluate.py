"""Evaluation of linearized models: results beside their controls, resumed evaluations, and errors."""

import errno
import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.llm_models import SMALL, WORDS, prefilled, small_attention, task_manager, tiny_model, write_text
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import subquad.llm
from subquad.cli import main
from subquad.errors import SubquadError
from subquad.llm.data.packing import prepare_text
from subquad.llm.evaluation.comparisons import NO_GAP, TOO_FEW, TOO_FEW_RATES, compare
from subquad.llm.evaluation.measurements import measurements_of
from subquad.llm.evaluation.model_variants import ModelLoader, models_to_evaluate, trained_texts
from subquad.llm.evaluation.probes import loss_rows, passkey_prompt, passkey_row, position_bins, speed_row
from subquad.llm.evaluation.settings import EvaluateSettings
from subquad.llm.evaluation.store import MeasurementStore
from subquad.llm.models.attention import attention_mode
from subquad.llm.models.checkpoints import open_checkpoint
from subquad.llm.models.convert import convert
from subquad.llm.models.decoding import cache_bytes
from subquad.llm.models.loading import load
from subquad.llm.training.controls import MODES
from subquad.llm.training.metrics import perplexity, sequence_losses, token_losses

QUICK = EvaluateSettings(
    sequence_length=31, evaluation_tokens=31 * 5, speed=(17,), passkey=(331,), passkey_depths=(0, 1), passkey_trials=1,
    batch_tokens=31 * 2, resamples=100,
)  # fmt: skip
NO_PASSKEY = {name: getattr(EvaluateSettings(), name) for name in ("passkey", "passkey_depths", "passkey_trials")}


@pytest.fixture(scope="module")
def byte_tokenizer():
    """Return a tokenizer that knows every byte."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "</s>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    core.train_from_iterator([" ".join(WORDS) * 3], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="module")
def base(tmp_path_factory, byte_tokenizer):
    """Return the folder of a tiny checkpoint."""
    path = tmp_path_factory.mktemp("base")
    tiny_model("llama", vocab_size=len(byte_tokenizer), max_position_embeddings=400).save_pretrained(path)
    byte_tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def linear(tmp_path_factory, base, text):
    """Return the folder of a linearized model."""
    out = tmp_path_factory.mktemp("linear") / "linear"
    subquad.llm.linearize(base, text, SMALL, out=out, quiet=True)
    return out


@pytest.fixture(scope="module")
def with_task(tmp_path_factory):
    """Return what is measured, a task with a short and a long item too."""
    pytest.importorskip("lm_eval", reason="lm-eval is not installed (pip install 'subquad[eval]')")
    items = [
        {"question": "the bird", "choices": [" sings", " falls"], "answer": 0},
        {"question": "the " * 90, "choices": ["a", "old"], "answer": 1},
    ]
    manager = task_manager(tmp_path_factory.mktemp("tasks"), items)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("subquad.llm.evaluation.tasks._task_manager", lambda: manager)
        yield replace(QUICK, tasks=("toy",))


@pytest.fixture(scope="module")
def asked(linear, text):
    """Return what the evaluation is of."""
    return {"runs": linear, "text": [text], "quiet": True}


@pytest.fixture(scope="module")
def evaluated(asked, with_task, tmp_path_factory):
    """Return the folder of a finished evaluation."""
    out = tmp_path_factory.mktemp("evaluated") / "out"
    subquad.llm.evaluate(settings=with_task, out=out, **asked)
    return out


@pytest.mark.long
def test_a_text_that_the_model_learned_is_named(asked, linear, text, tmp_path, capsys):
    other = write_text(tmp_path / "other.txt", words=200)
    how = replace(QUICK, variants=("teacher",))
    given = {**asked, "text": [text, other], "quiet": False}
    subquad.llm.evaluate(settings=how, out=tmp_path / "out", **given)
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert warning.startswith("warning: The student was trained on words.txt, so that its perplexity")
    assert "The student was trained on words.txt, so that" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.long
def test_a_page_that_cannot_be_drawn_costs_no_results(asked, tmp_path, monkeypatch):
    def fails(evaluation):
        raise ZeroDivisionError

    def full(path, text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    given = {**asked, "out": tmp_path / "out"}
    # which the next start writes
    with monkeypatch.context() as patch:
        patch.setattr("subquad.llm.commands.evaluate.write_text", full)
        with pytest.raises(OSError, match="No space left"):
            subquad.llm.evaluate(settings=replace(QUICK, variants=("teacher",)), **given)
    assert not (tmp_path / "out" / "evaluation.json").exists()
    monkeypatch.setattr("subquad.llm.commands.evaluate.evaluation_page", fails)
    with pytest.raises(ZeroDivisionError):
        subquad.llm.evaluate(settings=replace(QUICK, variants=("teacher",)), **given)
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["models"]


@pytest.mark.long
def test_a_text_on_which_a_run_was_only_measured_is_not_called_learned(base, text, tmp_path):
    other, third = (write_text(tmp_path / f"{seed}.txt", seed=seed) for seed in (1, 2))
    out = tmp_path / "linear"
    subquad.llm.linearize(base, [text, other], SMALL, eval_text=third, out=out, quiet=True)
    assert trained_texts(out, [text, third, other]) == [text, other]


def test_perplexity_by_position_averages_to_the_overall_perplexity(evaluated, linear, text):
    (model,) = json.loads((evaluated / "evaluation.json").read_text())["models"]
    result = model["perplexity"]["words.txt"]
    assert list(result["models"]) == ["teacher", "window", "cache", "fine_tuned_without_linear", "fine_tuned"]
    widths = [bin_["to"] - bin_["from"] + 1 for bin_ in result["positions"]]
    assert sum(widths) == 30
    for role, estimate in result["models"].items():
        losses = [np.log(bin_["models"][role]["value"]) for bin_ in result["positions"]]
        assert np.exp(np.average(losses, weights=widths)) == pytest.approx(estimate["value"], rel=1e-6)
        assert estimate["low"] < estimate["value"] < estimate["high"]
    net, tokenizer = subquad.llm.load(linear)
    sequences = torch.tensor(tokenizer(text.read_text())["input_ids"])[: 31 * 5].reshape(5, 31)
    assert result["models"]["fine_tuned"]["value"] == pytest.approx(perplexity(net, sequences), rel=1e-4)
    without = perplexity(net, sequences, mode="without_linear")
    assert result["models"]["fine_tuned_without_linear"]["value"] == pytest.approx(without, rel=1e-4)


def test_inside_the_window_the_linear_branch_changes_nothing(evaluated):
    (model,) = json.loads((evaluated / "evaluation.json").read_text())["models"]
    # two blocks of three tokens, and before them three sinks and five cached tokens, but blocks leave as a whole
    assert model["about"]["visible"] == 12
    for bin_ in model["perplexity"]["words.txt"]["positions"]:
        one, other = (bin_["models"][role]["value"] for role in ("fine_tuned", "fine_tuned_without_linear"))
        # the token at position p is predicted from the p tokens before it
        assert (one == pytest.approx(other, rel=1e-5)) == (bin_["to"] <= 12)


def test_tasks_report_how_many_items_are_longer_than_the_window(evaluated):
    (model,) = json.loads((evaluated / "evaluation.json").read_text())["models"]
    toy = model["tasks"]["toy"]
    assert toy["metrics"]["acc"]["items"] == 2
    # the first item is seen as a whole
    assert toy["beyond_window"]["items"] == 1
    assert set(toy["metrics"]) == {"acc", "acc_norm"}


def test_the_page_shows_all_results_and_that_controls_are_missing(evaluated):
    page = (evaluated / "report.html").read_text()
    for words in (
        "No control was fine-tuned",
        ">toy<",
        ">passkey, 331 tokens<",
        ">memory, MiB<",
        ">perplexity, words.txt ↓<",
    ):
        assert words in page
    # positions, heat maps, speed
    assert page.count("<figure") == 3


@pytest.mark.long
def test_a_stopped_evaluation_is_resumed(evaluated, asked, with_task, tmp_path, monkeypatch):
    from subquad.llm.evaluation import measurements

    calls, real = [], measurements.loss_rows

    def stop_at_the_third(*arguments, **keywords):
        calls.append(arguments[1].shape[0])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **keywords)

    out = tmp_path / "out"
    how = {**asked, "out": out}
    monkeypatch.setattr(measurements, "loss_rows", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        subquad.llm.evaluate(settings=with_task, **how)
    assert not (out / "evaluation.json").exists()
    found = subquad.llm.evaluate(settings=with_task, **how)
    # five sequences for each of five, two at a time; the third call came twice
    assert calls == [2, 2, 1, 1, *[2, 2, 1] * 4]
    whole = json.loads((evaluated / "evaluation.json").read_text())
    assert found["models"][0]["perplexity"] == whole["models"][0]["perplexity"]
    assert found["models"][0]["tasks"] == whole["models"][0]["tasks"]


@pytest.mark.long
def test_a_finished_evaluation_is_extended_without_measuring_again(evaluated, asked, with_task, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(evaluated, out)
    how = {**asked, "out": out}
    with monkeypatch.context() as patch:
        patch.setattr(ModelLoader, "load", lambda *_: pytest.fail("a model was loaded"))
        again = subquad.llm.evaluate(settings=with_task, extend=True, **how)
    assert again == json.loads((evaluated / "evaluation.json").read_text())
    longer = replace(QUICK, evaluation_tokens=31 * 7, **NO_PASSKEY, speed=())
    more = subquad.llm.evaluate(settings=longer, extend=True, **how)["models"][0]
    assert more["perplexity"]["words.txt"]["items"] == 7
    assert more["passkey"] == more["speed"] == {}


@pytest.mark.long
def test_controls_are_trained_saved_and_measured_beside_the_student(base, linear, text, tmp_path):
    student, out = tmp_path / "student", tmp_path / "out"
    attention = small_attention(cache=5)
    settings = replace(SMALL, attention=attention, controls=True, lora_learning_rate=2e-2)
    metrics = subquad.llm.linearize(base, text, settings, out=student, quiet=True)
    quick = EvaluateSettings(sequence_length=31, evaluation_tokens=31 * 3, speed=(), resamples=100)
    (model,) = subquad.llm.evaluate(student, quick, out=out, text=[text], quiet=True)["models"]
    result = model["perplexity"]["words.txt"]
    assert list(result["models"]) == model["about"]["roles"] == [
        "teacher", "teacher_fine_tuned", "window", "cache", *list(MODES)[1:], "fine_tuned_without_linear", "fine_tuned",
    ]  # fmt: skip
    page = (out / "report.html").read_text()
    # of three sequences there is no gap
    assert "gap closed" not in page
    expected, tokenizer = {}, subquad.llm.load(student)[1]
    sequences = torch.tensor(tokenizer(text.read_text())["input_ids"])[: 31 * 3].reshape(3, 31)
    held_out = prepare_text(tokenizer, [text], sequence_length=31).holdout.ids[:3]
    for name, mode in MODES.items():
        folder = student / "controls" / name
        net, _ = subquad.llm.load(folder)
        expected[name] = perplexity(net, sequences, mode=mode)
        assert result["models"][name]["value"] == pytest.approx(expected[name], rel=1e-4)
        # measured before the updates were merged
        assert metrics["test"][name]["perplexity"] == pytest.approx(perplexity(net, held_out, mode=mode), rel=1e-4)
        assert json.loads((folder / "metrics.json").read_text())["tokens"] == {"lora": 31 * (7 + 5)}
    untrained = result["models"]["teacher"]["value"]
    tuned, window, wide, cache = (expected[name] for name in MODES)
    assert len({round(value, 3) for value in (untrained, tuned, window)}) == 3
    # the wide window and the large cache see the whole of such short sequences
    assert wide == pytest.approx(tuned, rel=1e-3)
    assert cache == pytest.approx(tuned, rel=1e-3)
    # six heads with 20 features and values of 10 + 1 numbers, three sinks, five cached tokens and a ring of six, with
    # inputs of maps, and for the choice of the cached ones the mass of 11 tokens, the novelty of 5, and a direction
    numbers = 6 * 20 * 11 + 14 * 2 * 2 * 10 + 6 * 2 * 10 + 2 * (11 + 5 + 10)
    tokens = -(-numbers // (2 * 2 * 10))
    wide, cache = (
        json.loads((student / "controls" / name / "config.json").read_text())["hybrid_attention"]
        for name in list(MODES)[2:]
    )
    assert (wide["window"], wide["window_shape"], wide["sinks"], wide["cache"]) == (tokens - 3, "sliding", 3, 0)
    # so that each control is a model of its own
    assert wide["feature_map"] == cache["feature_map"] == "none"
    # in place of the features, two numbers and a key and value of width 10 for each of two heads
    assert (cache["window"], cache["cache"]) == (attention.window, 5 + 6 * 20 * 11 // (2 * (2 * 10 + 2)))
    # the cache needs no training
    plain = convert(open_checkpoint(base), attention, check=False)
    cached = perplexity(plain, sequences, mode="without_linear")
    assert result["models"]["cache"]["value"] == pytest.approx(cached, rel=1e-4)
    assert cached != pytest.approx(result["models"]["window"]["value"], rel=1e-3)
    assert metrics["test"]["cache"]["perplexity"] == pytest.approx(perplexity(plain, held_out, mode="without_linear"))
    # the student is that of a run without controls
    alone = subquad.llm.linearize(base, text, replace(settings, controls=False), out=tmp_path / "alone", quiet=True)
    assert alone["test"]["fine_tuned"] == metrics["test"]["fine_tuned"]


@pytest.mark.long
def test_several_models_share_a_page_each_with_its_controls(linear, text, tmp_path):
    other, out = tmp_path / "other", tmp_path / "out"
    shutil.copytree(linear, other)
    quick = EvaluateSettings(sequence_length=31, evaluation_tokens=31 * 3, speed=(), resamples=100)
    found = subquad.llm.evaluate([linear, other], quick, out=out, text=[text], quiet=True)["models"]
    assert [model["about"]["folder"] for model in found] == [str(linear), str(other)]
    assert found[0]["perplexity"] == found[1]["perplexity"]
    page = (out / "report.html").read_text()
    assert "linear: Perplexity" in page
    assert "other: Perplexity" in page


@pytest.mark.long
def test_some_variants_are_measured_beside_teacher_and_student(linear, text, tmp_path):
    how = {"sequence_length": 31, "evaluation_tokens": 31 * 5, "speed": ()}
    out = subquad.llm.evaluate(
        linear, EvaluateSettings(variants=("cache",), **how), text=[text], out=tmp_path / "some", quiet=True
    )
    (model,) = out["models"]
    assert model["about"]["roles"] == ["teacher", "cache", "fine_tuned"]
    assert model["perplexity"]["words.txt"]["gap_closed"]["reason"] == "no window was measured"
    lead = (tmp_path / "some" / "report.html").read_text()
    assert "with itself without" not in lead
    with pytest.raises(SubquadError, match=r"no variant of .* 'window_fine_tuned'"):
        subquad.llm.evaluate(
            linear, EvaluateSettings(variants=("window_fine_tuned",), **how), text=[text], out=tmp_path / "no",
            quiet=True,
        )  # fmt: skip


@pytest.mark.long
def test_the_command_prints_results_beside_their_controls(linear, text, tmp_path, capsys):
    flags = ["--sequence-length", "31", "--evaluation-tokens", "93", "--speed", "0", "--quiet", "--resamples", "100"]
    command = ["llm", "evaluate", str(linear), "--text", str(text), "--out", str(tmp_path / "out"), *flags]
    assert main(command) == 0
    assert main([part for part in command if part != "--quiet"] + ["--extend"]) == 0
    shown = capsys.readouterr().out
    for words in ("window only", "report.html"):
        assert words in " ".join(shown.split())


def test_the_gap_closed_is_the_fraction_of_the_teachers_advantage():
    noise = np.random.default_rng(0).normal(size=200)
    losses = {"teacher": 2.0 + noise, "window": 4.0 + noise, "fine_tuned": 2.5 + noise}
    found = compare(losses, is_rate=False, resamples=200)
    assert found["gap_closed"]["value"] == pytest.approx(0.75)
    # differences are paired: noise that all models share cancels
    assert found["differences"]["window"]["low"] == pytest.approx(-1.5)
    assert found["models"]["fine_tuned"]["high"] - found["models"]["fine_tuned"]["low"] > 0.2


def test_the_gap_is_that_of_the_fine_tuned_controls_where_they_were_trained():
    losses = {"teacher": 2.0, "teacher_fine_tuned": 1.5, "window": 4.0, "window_fine_tuned": 3.0, "fine_tuned": 2.0}
    noise = np.random.default_rng(0).normal(size=30)
    values = {role: value + noise for role, value in losses.items()}
    # without the wide window the two ends would not be of one kind
    assert compare(values, is_rate=False, resamples=50)["gap_closed"]["value"] == pytest.approx(1.0)
    values["wide_window_fine_tuned"] = 2.5 + noise
    assert compare(values, is_rate=False, resamples=50)["gap_closed"]["value"] == pytest.approx(0.5)


def test_without_a_significant_gap_no_gap_is_closed():
    draw = np.random.default_rng(1)
    same = {role: draw.normal(size=60) for role in ("teacher", "window", "fine_tuned")}
    missing = {"value": None, "low": None, "high": None}
    assert compare(same, is_rate=False, resamples=200)["gap_closed"] == {**missing, "reason": NO_GAP}
    one = compare({role: values[:1] for role, values in same.items()}, is_rate=False, resamples=200)
    assert one["gap_closed"] == {**missing, "reason": TOO_FEW}
    assert one["models"]["fine_tuned"] == {"value": same["fine_tuned"][0], "low": None, "high": None}
    right = {"teacher": [1.0] * 19, "window": [0.0] * 19, "fine_tuned": [1.0] * 19}
    assert compare(right, is_rate=True, resamples=200)["gap_closed"] == {**missing, "reason": TOO_FEW_RATES}


def test_rates_of_few_items_have_wide_intervals():
    found = compare(
        {"teacher": [1.0] * 4, "window": [1.0, 0.0, 0.0, 0.0], "fine_tuned": [1.0] * 4}, is_rate=True, resamples=200
    )
    # Wilson's interval of 4 of 4
    assert found["models"]["fine_tuned"]["low"] == pytest.approx(0.510, abs=1e-3)
    assert found["models"]["fine_tuned"]["high"] == pytest.approx(1.0)
    assert found["differences"]["teacher"]["low"] < -0.4 < 0.4 < found["differences"]["teacher"]["high"]
    assert 0 < found["differences"]["window"]["low"] < 0.75 < found["differences"]["window"]["high"] <= 1


def paired_difference(both, first, second, neither):
    """Return the difference of two rates from the counts of pairs."""
    right = [1.0] * (both + first) + [0.0] * (second + neither)
    other = [1.0] * both + [0.0] * first + [1.0] * second + [0.0] * neither
    values = {"teacher": other, "window": other, "fine_tuned": right}
    return compare(values, is_rate=True, resamples=1)["differences"]["teacher"]


def test_intervals_of_paired_rates_are_newcombes():
    # an example of Newcombe (1998), Table II, method 10, whose answers have a negative correlation
    difference = paired_difference(36, 12, 2, 0)
    assert difference["value"] == pytest.approx(0.2)
    assert (difference["low"], difference["high"]) == pytest.approx((0.0569, 0.3404), abs=1e-4)
    # of Fagerland, Lydersen and Laake, Statistics in Medicine 33 (2014) 2850: a positive one, which is corrected
    difference = paired_difference(1, 1, 7, 12)
    assert (difference["low"], difference["high"]) == pytest.approx((-0.507, -0.026), abs=5e-4)


def test_intervals_of_paired_rates_contain_the_true_difference_as_often_as_they_say():
    # the answers of two models mostly agree
    chances, draws = (0.45, 0.02, 0.03, 0.5), 400
    tables = np.random.default_rng(0).multinomial(30, chances, size=draws)
    found = 0
    for counts, times in zip(*np.unique(tables, axis=0, return_counts=True), strict=True):
        difference = paired_difference(*counts.tolist())
        found += times * (difference["low"] <= chances[1] - chances[2] <= difference["high"])
    assert found / draws >= 0.95


@pytest.mark.parametrize("length", [2, 3, 31, 64, 97, 1024])
def test_bins_cover_every_position_once(length):
    edges = position_bins(length)
    assert (edges[0], edges[-1]) == (1, length)
    assert edges == sorted(set(edges))


@torch.no_grad()
def test_losses_by_position_are_the_models_own():
    model = convert(tiny_model("llama"), small_attention())
    ids = torch.arange(2 * 23).reshape(2, 23) % 151
    edges = position_bins(23)
    with attention_mode(model, "window"):
        chances = model(ids[:1]).logits.log_softmax(-1)
    expected = [-float(chances[0, position - 1, ids[0, position]]) for position in range(1, 23)]
    assert token_losses(model, ids[0], mode="window").tolist() == pytest.approx(expected, rel=1e-4)
    sums = loss_rows(model, ids, edges, mode="window")[0]["losses"]
    assert sums[3] == pytest.approx(sum(expected[edges[3] - 1 : edges[4] - 1]), rel=1e-4)


def test_losses_of_logits_that_are_not_finite_name_the_model_and_the_sequence(folder, text, run, tmp_path):
    model = convert(tiny_model("llama"), small_attention())
    ids = torch.arange(2 * 23).reshape(2, 23) % 151
    with torch.no_grad():
        # a token of the second sequence
        model.model.embed_tokens.weight[40] = float("nan")
    with pytest.raises(SubquadError, match=r"fine_tuned \(window\): the logits of held-out sequence 2 are not finite"):
        sequence_losses(model, ids, mode="window", title="fine_tuned")
    assert [math.isnan(loss) for loss in sequence_losses(model, ids, mode="window", may_diverge=True)] == [True] * 2
    # as `evaluate` measures
    (measured,) = models_to_evaluate([run])
    settings = EvaluateSettings(sequence_length=23, evaluation_tokens=3 * 23)
    (loss, *_) = measurements_of(measured, settings, text=[text])
    student = load(run)[0]
    with torch.no_grad():
        student.lm_head.weight[7] = float("inf")
    with pytest.raises(SubquadError, match=rf"{run} \(hybrid\): the logits of sequence 3 of words.txt are not finite"):
        loss.measure(student, "hybrid", [2])


class Reader:
    """Gives back the number that stands among the last tokens of a text, as a model with a window would."""

    def __init__(self, tokenizer, seen):
        self.tokenizer, self.seen = tokenizer, seen
        self.generation_config = SimpleNamespace(eos_token_id=1)

    def parameters(self):
        yield torch.zeros(1)

    def modules(self):
        return iter(())

    def generate(self, input_ids, attention_mask, generation_config):
        text = self.tokenizer.decode(input_ids[0, -self.seen :])
        _, found, rest = text.rpartition("Remember it. ")
        answer = f" {rest[:5]}." if found else " 12345."
        made = torch.tensor([self.tokenizer.encode(answer)])[:, : generation_config.max_new_tokens]
        return torch.cat((input_ids, made), 1)


@pytest.mark.parametrize(("depth", "expected"), [(0.0, 0.0), (0.5, 0.0), (1.0, 1.0)])
def test_a_passkey_is_reproduced_if_the_model_can_attend_to_it(byte_tokenizer, depth, expected):
    how = {"tokens": 900, "depth": depth, "key": 67_890, "mode": "hybrid"}
    assert passkey_row(Reader(byte_tokenizer, 200), byte_tokenizer, **how)["right"] == expected
    assert passkey_row(Reader(byte_tokenizer, 900), byte_tokenizer, **how)["right"] == 1.0


@pytest.mark.parametrize("tokens", [400, 901, 1703])
def test_a_passkey_prompt_has_the_requested_length(byte_tokenizer, tokens):
    places = []
    for depth in (0.0, 0.5, 1.0):
        ids = passkey_prompt(byte_tokenizer, tokens=tokens, depth=depth, key=54_321)
        # a repetition of the filler is at most 90 byte_tokenizer
        assert tokens - 90 <= len(ids) <= tokens
        prompt = byte_tokenizer.decode(ids)
        assert prompt.count("54321") == 2
        assert prompt.endswith("The pass key is")
        places.append(prompt.index("54321"))
    assert places == sorted(places)


@pytest.mark.parametrize("depth", [0.0, 0.4, 1.0])
def test_a_passkey_can_be_hidden_in_a_text(byte_tokenizer, depth):
    text = " ".join(f"word{number}" for number in range(500))
    ids = passkey_prompt(byte_tokenizer, tokens=900, depth=depth, key=54_321, text=text)
    # a word has at most eight tokens
    assert 900 - 8 <= len(ids) <= 900
    prompt = byte_tokenizer.decode(ids)
    before, _, after = prompt.partition("The pass key is 54321. Remember it. 54321 is the pass key. ")
    words = [word for word in (before + after).split() if word.startswith("word")]
    assert words == [f"word{number}" for number in range(len(words))]
    assert before.count("word") == round(depth * len(words))
    with pytest.raises(SubquadError, match=r"a prompt of 9,000 tokens with a passkey"):
        passkey_prompt(byte_tokenizer, tokens=9000, depth=depth, key=54_321, text=text)


def test_the_state_has_a_constant_size_and_the_cache_grows():
    model = convert(tiny_model("llama"), small_attention())
    state = [speed_row(model, tokens=tokens, mode="hybrid")["bytes"] for tokens in (7, 53)]
    cache = [speed_row(model, tokens=tokens, mode="softmax")["bytes"] for tokens in (7, 53)]
    assert state[0] == state[1]
    # keys and values of 2 layers with 2 heads of width 10, in float32
    assert cache == [tokens * 2 * 2 * 2 * 10 * 4 for tokens in (7, 53)]
    ids = torch.arange(11)[None]
    assert cache_bytes(prefilled(model, ids)) == state[0]


def test_stored_rows_of_other_conditions_are_measured_again(tmp_path):
    store, calls = MeasurementStore(tmp_path / "out", quiet=True), []

    def measure(start, stop):
        calls.append((start, stop))
        return [{"row": row} for row in range(start, stop)]

    assert len(store.rows("a", {"text": "x"}, 5, measure, step=2)) == 5
    assert store.rows("a", {"text": "x"}, 3, measure, step=2) == [{"row": 0}, {"row": 1}, {"row": 2}]
    assert calls == [(0, 2), (2, 4), (4, 5)]
    store.rows("a", {"text": "y"}, 1, measure, step=2)
    assert calls[3:] == [(0, 1)]


def test_a_loss_that_is_not_finite_is_null_in_the_stored_rows_and_read_as_nan(tmp_path):
    store = MeasurementStore(tmp_path / "out", quiet=True)
    store.rows("a", {}, 2, lambda start, stop: [{"losses": [0.5, float("nan"), float("inf")]}] * (stop - start), step=5)

    def refuse(text):
        raise ValueError(text)

    content = json.loads((tmp_path / "out" / "measurements" / "a.json").read_text(), parse_constant=refuse)
    assert content["rows"] == [{"losses": [0.5, None, None]}] * 2
    rows = store.rows("a", {}, 2, lambda start, stop: [], step=5)
    assert [str(row["losses"]) for row in rows] == ["[0.5, nan, nan]"] * 2


@pytest.mark.long
def test_a_finished_evaluation_is_overwritten_only_with_force(asked, evaluated, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(evaluated, out)
    message = "contains a finished evaluation; extend it, or overwrite it"
    rejected(message, asked["runs"], QUICK, out=out, text=asked["text"])
    quick = replace(QUICK, **NO_PASSKEY, speed=(), evaluation_tokens=31)
    subquad.llm.evaluate(asked["runs"], quick, out=out, text=asked["text"], force=True, quiet=True)
    assert not list((out / "measurements").glob("*task*"))


def rejected(message, *arguments, **keywords):
    with pytest.raises(SubquadError, match=message):
        subquad.llm.evaluate(*arguments, quiet=True, **keywords)


def test_errors_are_raised_before_anything_is_written(linear, base, text, tmp_path):
    out = tmp_path / "out"
    rejected("nothing to measure", linear, out=out)
    twice = [text, tmp_path / "else" / text.name]
    rejected(f"two texts have the same name: {text.name}", linear, out=out, text=twice)
    rejected("none: no such folder", tmp_path / "none", out=out, text=[text])
    rejected("which is not linearized yet", base, out=out, text=[text])
    rejected("none.txt: no such file", linear, out=out, text=[tmp_path / "none.txt"])
    long = EvaluateSettings(sequence_length=500)
    rejected("supports at most 400 tokens, not 500", linear, long, out=out, text=[text])
    rejected("a prompt of 50 tokens with a passkey", linear, EvaluateSettings(passkey=(50,)), out=out)
    rejected("supports at most 400 tokens, not 500", linear, EvaluateSettings(passkey=(500,)), out=out)
    hidden = EvaluateSettings(passkey=(390,), passkey_text=tmp_path / "short.txt")
    rejected("short.txt: no such file", linear, hidden, out=out)
    (tmp_path / "short.txt").write_text("five words are not enough")
    rejected("a prompt of 390 tokens with a passkey", linear, hidden, out=out)
    short = EvaluateSettings(sequence_length=200)
    rejected("short.txt: .* tokens, shorter than one sequence", linear, short, out=out, text=[tmp_path / "short.txt"])
    unknown = EvaluateSettings(variants=("windows",))
    rejected(r"no variant of .* 'windows'; did you mean 'window'", linear, unknown, out=out, text=[text])
    assert not out.exists()


@pytest.mark.long
def test_a_teacher_with_a_relative_path_is_found_from_any_folder(linear, base, text, tmp_path, monkeypatch):
    # linearized in the folder "project", and evaluated from another one
    moved = tmp_path / "project" / "runs" / "moved"
    shutil.copytree(linear, moved)
    shutil.copytree(base, tmp_path / "project" / "tiny")
    config = json.loads((moved / "config.json").read_text())
    config["subquad"]["settings"]["model"] = "tiny"
    (moved / "config.json").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    quick = EvaluateSettings(sequence_length=31, evaluation_tokens=31 * 2, speed=(), resamples=100)
    result = subquad.llm.evaluate(moved, quick, out=tmp_path / "out", text=[text], quiet=True)
    assert result["models"][0]["about"]["teacher"] == "tiny"


@pytest.mark.long
def test_a_missing_teacher_is_rejected(linear, base, text, tmp_path):
    moved, out = tmp_path / "moved", tmp_path / "out"
    shutil.copytree(linear, moved)
    config = json.loads((moved / "config.json").read_text())
    config["subquad"]["settings"]["model"] = str(tmp_path / "gone")
    (moved / "config.json").write_text(json.dumps(config))
    rejected(r"gone: no checkpoint", moved, out=out, text=[text])
    quick = EvaluateSettings(sequence_length=31, evaluation_tokens=31 * 2, speed=(), resamples=100)
    subquad.llm.evaluate(moved, quick, out=out, text=[text], teacher=base, quiet=True)
    bare = tmp_path / "bare"
    net, tokenizer = subquad.llm.load(linear)
    net.save_pretrained(bare)
    tokenizer.save_pretrained(bare)
    rejected("does not record the model that it was made from", bare, out=out / "2", text=[text])


def test_a_folder_with_other_files_is_not_touched(linear, text, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for out in (tmp_path, linear):
        rejected("contains something other than an evaluation", linear, QUICK, out=out, text=[text])
    assert (tmp_path / "notes.txt").read_text() == "mine"
    inside = tmp_path / "out" / "measurements" / "text.txt"
    inside.parent.mkdir(parents=True)
    inside.write_text(Path(text).read_text())
    rejected(r"text.txt lies in the output", linear, QUICK, out=tmp_path / "out", text=[inside], force=True)


def test_the_lengths_of_speed_are_sorted_and_0_alone_is_none():
    assert EvaluateSettings().speed_lengths == EvaluateSettings(speed=(2048, 128, 512)).speed_lengths
    assert EvaluateSettings(speed=(0,)).speed_lengths == ()
