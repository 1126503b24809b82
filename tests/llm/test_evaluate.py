"""Evaluation of linearized models: figures beside their controls, kept as they come, and what cannot be measured."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.llm_models import SMALL, WORDS, tiny_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import subquad.llm
from subquad.cli import main
from subquad.errors import SubquadError
from subquad.llm.evaluation.comparisons import NO_LEAD, TOO_FEW, compare
from subquad.llm.evaluation.probes import bins, cache_bytes, loss_rows, passkey_prompt, passkey_row, speed_row
from subquad.llm.evaluation.settings import EvaluateSettings
from subquad.llm.evaluation.store import Figures
from subquad.llm.models.attention import attention_mode
from subquad.llm.models.convert import convert
from subquad.llm.settings import AttentionSettings
from subquad.llm.training.metrics import perplexity, token_losses

QUICK = EvaluateSettings(
    length=31, evaluation_tokens=31 * 5, speed="17", passkey="331", passkey_depths="0,1", passkey_trials=1,
    batch_tokens=31 * 2, resamples=100,
)  # fmt: skip


@pytest.fixture(scope="module")
def letters():
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
def base(tmp_path_factory, letters):
    """Return the folder of a tiny checkpoint."""
    path = tmp_path_factory.mktemp("base")
    tiny_model("llama", vocab_size=len(letters)).save_pretrained(path)
    letters.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def linear(tmp_path_factory, base, text):
    """Return the folder of a linearized model."""
    out = tmp_path_factory.mktemp("linear") / "linear"
    subquad.llm.linearize(base, text, SMALL, out=out, quiet=True)
    return out


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return a folder with a short and a long item of PIQA."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "piqa").mkdir()
    rows = [{"goal": "the bird", "sol1": "sings", "sol2": "falls"}, {"goal": "the " * 90, "sol1": "a", "sol2": "old"}]
    (folder / "piqa" / "valid.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "piqa" / "valid-labels.lst").write_text("0\n1\n")
    return folder


@pytest.fixture(scope="module")
def asked(linear, text, data):
    """Return what the evaluation is of."""
    return {"folders": linear, "text": [text], "data": data, "quiet": True}


@pytest.fixture(scope="module")
def evaluated(asked, tmp_path_factory):
    """Return the folder of a finished evaluation."""
    pytest.importorskip("lm_eval", reason="lm-eval is not installed (pip install 'subquad[eval]')")
    out = tmp_path_factory.mktemp("evaluated") / "out"
    subquad.llm.evaluate(settings=QUICK, out=out, **asked)
    return out


def test_perplexity_by_position_averages_to_the_overall_one(evaluated, linear, text):
    (model,) = json.loads((evaluated / "evaluation.json").read_text())["models"]
    figures = model["perplexity"]["words.txt"]
    assert list(figures["models"]) == ["softmax", "window_only", "tuned_without_linear", "tuned"]
    widths = [bin_["to"] - bin_["from"] + 1 for bin_ in figures["positions"]]
    assert sum(widths) == 30
    for role, estimate in figures["models"].items():
        losses = [np.log(bin_["models"][role]["value"]) for bin_ in figures["positions"]]
        assert np.exp(np.average(losses, weights=widths)) == pytest.approx(estimate["value"], rel=1e-6)
        assert estimate["low"] < estimate["value"] < estimate["high"]
    net, tokenizer = subquad.llm.load(linear)
    sequences = torch.tensor(tokenizer(text.read_text())["input_ids"])[: 31 * 5].reshape(5, 31)
    assert figures["models"]["tuned"]["value"] == pytest.approx(perplexity(net, sequences), rel=1e-4)
    without = perplexity(net, sequences, mode="window")
    assert figures["models"]["tuned_without_linear"]["value"] == pytest.approx(without, rel=1e-4)


def test_inside_the_window_the_linear_branch_changes_nothing(evaluated):
    (model,) = json.loads((evaluated / "evaluation.json").read_text())["models"]
    assert model["about"]["shown"] == 6
    for bin_ in model["perplexity"]["words.txt"]["positions"]:
        one, other = (bin_["models"][role]["value"] for role in ("tuned", "tuned_without_linear"))
        # the token at position p is told by p tokens before it
        assert (one == pytest.approx(other, rel=1e-5)) == (bin_["to"] <= 6)


def test_tasks_say_how_many_items_the_window_does_not_show(evaluated, linear):
    (model,) = json.loads((evaluated / "evaluation.json").read_text())["models"]
    piqa = model["tasks"]["piqa"]
    _, tokenizer = subquad.llm.load(linear)
    assert len(tokenizer.encode("Question: the bird\nAnswer: sings")) > 7
    assert piqa["beyond_window"] == {"items": 2, "share": 1.0, **piqa["metrics"]["acc"]}
    assert set(piqa["metrics"]) == {"acc", "acc_norm"}


def test_the_page_shows_all_figures_and_says_what_was_not_trained(evaluated):
    page = (evaluated / "report.html").read_text()
    for words in (
        "gap closed",
        "not trained",
        "PIQA",
        "passkey 331",
        "KiB",
        "Loss of the two stages",
        "words.txt",
    ):
        assert words in page
    # positions, heat maps, speed, losses, layers
    assert page.count("data:image/png") == 5
    assert "longer than the 211 tokens" in page


def test_a_killed_evaluation_goes_on_where_it_stopped(evaluated, asked, tmp_path, monkeypatch):
    from subquad.llm.evaluation import measurements as plans

    calls, real = [], plans.loss_rows

    def stop_at_the_third(*arguments, **keywords):
        calls.append(arguments[1].shape[0])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **keywords)

    out = tmp_path / "out"
    how = {**asked, "out": out}
    monkeypatch.setattr(plans, "loss_rows", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        subquad.llm.evaluate(settings=QUICK, **how)
    assert not (out / "evaluation.json").exists()
    found = subquad.llm.evaluate(settings=QUICK, **how)
    # five sequences for each of four, two at a time; the third call came twice
    assert calls == [2, 2, 1, 1, *[2, 2, 1] * 3]
    whole = json.loads((evaluated / "evaluation.json").read_text())
    assert found["models"][0]["perplexity"] == whole["models"][0]["perplexity"]
    assert found["models"][0]["tasks"] == whole["models"][0]["tasks"]


def test_a_finished_evaluation_is_extended_and_opens_no_model_for_what_is_known(
    evaluated, asked, tmp_path, monkeypatch
):
    from subquad.llm.evaluation import model_variants as contenders

    out = tmp_path / "out"
    shutil.copytree(evaluated, out)
    how = {**asked, "out": out}
    with monkeypatch.context() as patch:
        patch.setattr(contenders.Nets, "open", lambda *_: pytest.fail("a model was opened"))
        again = subquad.llm.evaluate(settings=QUICK, **how)
    assert again == json.loads((evaluated / "evaluation.json").read_text())
    longer = EvaluateSettings(**{**vars(QUICK), "evaluation_tokens": 31 * 7, "passkey": None, "speed": "0"})
    more = subquad.llm.evaluate(settings=longer, **how)["models"][0]
    assert more["perplexity"]["words.txt"]["items"] == 7
    assert more["passkey"] == more["speed"] == {}


def test_a_window_tuned_model_stands_beside_the_others(linear, text, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(linear, other)
    quick = EvaluateSettings(length=31, evaluation_tokens=31 * 3, speed="0", resamples=100)
    out = tmp_path / "out"
    (model,) = subquad.llm.evaluate(linear, quick, out=out, text=[text], window_tuned=[other], quiet=True)["models"]
    figures = model["perplexity"]["words.txt"]
    # the same weights, with the window alone
    assert figures["models"]["window_tuned"] == figures["models"]["tuned_without_linear"]
    assert figures["differences"]["window_tuned"]["value"] == figures["differences"]["tuned_without_linear"]["value"]
    assert "not trained" not in (out / "report.html").read_text()
    narrow = tmp_path / "narrow"
    convert(tiny_model("llama", vocab_size=300), AttentionSettings(window=5)).save_pretrained(narrow)
    with pytest.raises(SubquadError, match=r"its window is 5 terrace, and that of .* is 3 terrace"):
        subquad.llm.evaluate(linear, quick, out=tmp_path / "2", text=[text], window_tuned=[narrow], quiet=True)


def test_several_models_stand_on_one_page_each_with_its_controls(linear, text, tmp_path):
    other, out = tmp_path / "other", tmp_path / "out"
    shutil.copytree(linear, other)
    quick = EvaluateSettings(length=31, evaluation_tokens=31 * 3, speed="0", resamples=100)
    found = subquad.llm.evaluate([linear, other], quick, out=out, text=[text], quiet=True)["models"]
    assert [model["about"]["folder"] for model in found] == [str(linear), str(other)]
    assert found[0]["perplexity"] == found[1]["perplexity"]
    page = (out / "report.html").read_text()
    assert "linear: Perplexity" in page
    assert "other: Perplexity" in page


def test_the_command_prints_figures_beside_their_controls(linear, text, tmp_path, capsys):
    flags = ["--sequence-length", "31", "--evaluation-tokens", "93", "--speed", "0", "--quiet", "--resamples", "100"]
    command = ["llm", "evaluate", str(linear), "--text", str(text), "--out", str(tmp_path / "out"), *flags]
    assert main(command) == 0
    assert main([part for part in command if part != "--quiet"]) == 0
    shown = capsys.readouterr().out
    for words in ("window only", "not trained", "loss on words.txt", "report.html"):
        assert words in " ".join(shown.split())


def test_the_gap_closed_is_the_share_of_the_teachers_lead():
    noise = np.random.default_rng(0).normal(size=200)
    found = compare({"softmax": 2.0 + noise, "window_only": 4.0 + noise, "tuned": 2.5 + noise}, resamples=200)
    assert found["gap_closed"]["value"] == pytest.approx(0.75)
    # what the items have in common does not blur differences
    assert found["differences"]["window_only"]["low"] == pytest.approx(-1.5)
    assert found["models"]["tuned"]["high"] - found["models"]["tuned"]["low"] > 0.2


def test_no_gap_is_closed_where_there_is_none():
    draw = np.random.default_rng(1)
    same = {role: draw.normal(size=60) for role in ("softmax", "window_only", "tuned")}
    assert compare(same, resamples=200)["gap_closed"] == {"value": None, "why": NO_LEAD}
    one = compare({role: values[:1] for role, values in same.items()}, resamples=200)
    assert one["gap_closed"] == {"value": None, "why": TOO_FEW}
    always = compare({"softmax": [1.0] * 3, "window_only": [0.0] * 3, "tuned": [0.5] * 3}, resamples=200)
    assert always["gap_closed"] == {"value": None, "why": TOO_FEW}
    assert one["models"]["tuned"] == {"value": same["tuned"][0], "low": None, "high": None}


@pytest.mark.parametrize("length", [2, 3, 31, 64, 97, 1024])
def test_bins_cover_every_position_once(length):
    edges = bins(length)
    assert (edges[0], edges[-1]) == (1, length)
    assert edges == sorted(set(edges))


@torch.no_grad()
def test_losses_by_position_are_the_models_own():
    model = convert(tiny_model("llama"), AttentionSettings(window=3))
    ids = torch.arange(2 * 23).reshape(2, 23) % 151
    edges = bins(23)
    with attention_mode(model, "window"):
        chances = model(ids[:1]).logits.log_softmax(-1)
    expected = [-float(chances[0, position - 1, ids[0, position]]) for position in range(1, 23)]
    assert token_losses(model, ids[0], mode="window").tolist() == pytest.approx(expected, rel=1e-4)
    sums = loss_rows(model, ids, edges, mode="window")[0]["losses"]
    assert sums[3] == pytest.approx(sum(expected[edges[3] - 1 : edges[4] - 1]), rel=1e-4)


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
def test_a_hidden_number_is_found_where_a_model_can_see_it(letters, depth, expected):
    how = {"tokens": 900, "depth": depth, "key": 67_890, "mode": "hybrid"}
    assert passkey_row(Reader(letters, 200), letters, **how)["right"] == expected
    assert passkey_row(Reader(letters, 900), letters, **how)["right"] == 1.0


@pytest.mark.parametrize("tokens", [400, 901, 1703])
def test_a_text_with_a_hidden_number_is_as_long_as_asked_for(letters, tokens):
    places = []
    for depth in (0.0, 0.5, 1.0):
        ids = passkey_prompt(letters, tokens=tokens, depth=depth, key=54_321)
        # a repetition of the filler is at most 90 letters
        assert tokens - 90 <= len(ids) <= tokens
        prompt = letters.decode(ids)
        assert prompt.count("54321") == 2
        assert prompt.endswith("The pass key is")
        places.append(prompt.index("54321"))
    assert places == sorted(places)


def test_the_state_stays_as_small_as_it_is_and_the_cache_grows():
    model = convert(tiny_model("llama"), AttentionSettings(window=3))
    state = [speed_row(model, tokens=tokens, mode="hybrid")["bytes"] for tokens in (7, 53)]
    cache = [speed_row(model, tokens=tokens, mode="softmax")["bytes"] for tokens in (7, 53)]
    assert state[0] == state[1]
    # keys and values of 2 layers with 2 heads of width 10, in float32
    assert cache == [tokens * 2 * 2 * 2 * 10 * 4 for tokens in (7, 53)]
    ids = torch.arange(11)[None]
    assert cache_bytes(model(ids, use_cache=True).cache) == state[0]


def test_rows_of_other_questions_are_not_taken_for_answers(tmp_path):
    figures = Figures(tmp_path / "out", quiet=True)
    count = []

    def compute(start, stop):
        count.append((start, stop))
        return [{"row": row} for row in range(start, stop)]

    assert len(figures.rows("a", {"text": "x"}, 5, compute, step=2)) == 5
    assert figures.rows("a", {"text": "x"}, 3, compute, step=2) == [{"row": 0}, {"row": 1}, {"row": 2}]
    assert count == [(0, 2), (2, 4), (4, 5)]
    figures.rows("a", {"text": "y"}, 1, compute, step=2)
    assert count[3:] == [(0, 1)]


def refused(message, *arguments, **keywords):
    with pytest.raises(SubquadError, match=message):
        subquad.llm.evaluate(*arguments, quiet=True, **keywords)


def test_what_cannot_be_measured_is_refused_before_anything_is_written(linear, base, text, tmp_path):
    out = tmp_path / "out"
    refused("nothing to measure: give --text, --data or --passkey", linear, out=out)
    refused("no such model folder", tmp_path / "none", out=out, text=[text])
    refused("no linearized model that is finished", base, out=out, text=[text])
    refused("none.txt: no such file", linear, out=out, text=[tmp_path / "none.txt"])
    refused("a folder is given twice", [linear, linear], out=out, text=[text])
    refused("--tasks needs --data", linear, EvaluateSettings(tasks="piqa"), out=out)
    refused(
        "--sequence-length 300: .* was made for at most 211 tokens", linear, EvaluateSettings(length=300), out=out, text=[text]
    )
    refused("--passkey 50: the question alone takes", linear, EvaluateSettings(passkey="50"), out=out)
    (tmp_path / "empty").mkdir()
    refused("holds no files of any task", linear, out=out, data=tmp_path / "empty")
    refused(
        r"files of tasks are missing.*\n  winogrande: no .*winogrande/dev.jsonl",
        linear, EvaluateSettings(tasks="winogrande"), out=out, data=tmp_path / "empty",
    )  # fmt: skip
    assert not out.exists()


def test_a_teacher_that_is_not_there_or_another_model_is_refused(linear, base, text, letters, tmp_path):
    moved, out = tmp_path / "moved", tmp_path / "out"
    shutil.copytree(linear, moved)
    config = json.loads((moved / "config.json").read_text())
    config["subquad"]["settings"]["model"] = str(tmp_path / "gone")
    (moved / "config.json").write_text(json.dumps(config))
    refused(r"gone: no such file or folder.*(?s:.*)was made from .*gone; say where it is now with --teacher", moved,
            out=out, text=[text])  # fmt: skip
    quick = EvaluateSettings(length=31, evaluation_tokens=31 * 2, speed="0", resamples=100)
    subquad.llm.evaluate(moved, quick, out=out, text=[text], teacher=base, quiet=True)
    wide = tmp_path / "wide"
    tiny_model("llama", vocab_size=len(letters), hidden_size=60).save_pretrained(wide)
    refused("hidden_size is 60, and 30 in .*this is not its teacher", linear, out=out, text=[text], teacher=wide)
    bare = tmp_path / "bare"
    net, tokenizer = subquad.llm.load(linear)
    net.save_pretrained(bare)
    tokenizer.save_pretrained(bare)
    refused("does not say what it was made from; name that model with --teacher", bare, out=out, text=[text])


def test_a_folder_of_other_things_is_left_alone(linear, text, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for out in (tmp_path, linear):
        refused("holds other things than an evaluation", linear, QUICK, out=out, text=[text])
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_settings_that_cannot_work_are_refused():
    for changes, message in (
        ({"tasks": "piqua"}, "no task 'piqua'; did you mean 'piqa'"),
        ({"limit": 0}, "--limit must be at least 1, got 0"),
        ({"passkey": "1k"}, "--passkey 1k: '1k' is no number of tokens; give them as 1024,4096"),
        ({"passkey_depths": "0.5,2"}, "2.0 is not between 0 and 1"),
        ({"passkey_depths": "half"}, "depths are numbers from 0 to 1"),
    ):
        with pytest.raises(SubquadError, match=message):
            EvaluateSettings(**changes)
