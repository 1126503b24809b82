"""Stage 1 block by block: the maps of the joint form, kills, shards, and what cannot be read layer by layer."""

import json
import shutil
from collections import namedtuple
from dataclasses import replace
from functools import cache, partial

import pytest
import torch
from safetensors.torch import save_file
from support.llm_models import SMALL as DEFAULT
from support.llm_models import small_attention, tiny_config, tiny_model
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

import subquad.llm
from subquad.errors import SubquadError
from subquad.llm.commands import linearization
from subquad.llm.data.packing import prepare_text
from subquad.llm.models.checkpoints import open_checkpoint
from subquad.llm.models.convert import convert
from subquad.llm.settings import HORIZON, LinearizeSettings
from subquad.llm.training import activation_store, blockwise, stages
from subquad.llm.training.blockwise import load_feature_maps, transfer_blockwise
from subquad.llm.training.transfer import transfer
from subquad.runs.folder import WORK
from subquad.runs.storage import read_tensors

pytestmark = pytest.mark.slow

LAYERS, TOKENS = 5, 31 * 11
# feature maps have more to train than moments
SMALL = replace(DEFAULT, attention=small_attention())
HOW = {"tokens": TOKENS, "precision": "float32", "quiet": True}
EXACT = {**HOW, "states_dtype": torch.float32}
FEW = {"tokens": 31 * 7}
"""Fewer steps, where each costs much."""


@pytest.fixture(scope="module", params=["llama", "qwen3", "gemma3", "phi3"])
def checkpoint(request, tmp_path_factory, tokenizer):
    """Return the folder of a checkpoint of five layers."""
    return written(tmp_path_factory.mktemp(request.param), request.param, tokenizer)


@pytest.fixture(scope="module")
def llama(tmp_path_factory, tokenizer):
    """Return the same for one family."""
    return written(tmp_path_factory.mktemp("one"), "llama", tokenizer)


@pytest.fixture(scope="module")
def sequences(tokenizer, text):
    """Return thirteen sequences, more than a run of TOKENS reads at first."""
    return prepare_text(tokenizer, [text], sequence_length=31).training.ids[:13]


def written(path, kind, tokenizer):
    model = tiny_model(kind, vocab_size=len(tokenizer), num_hidden_layers=LAYERS, spread=0.17)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def joint_maps(checkpoint, sequences):
    """Return the feature maps of the joint form of each checkpoint, without clipping."""
    return joint_without_clipping(checkpoint, sequences)


@pytest.fixture(scope="module")
def few_joint_maps(llama, sequences):
    """Return those of one checkpoint after fewer steps."""
    return joint_without_clipping(llama, sequences, **FEW)


@pytest.fixture(scope="module")
def transferred(llama, sequences, tmp_path_factory):
    """Return a function from layers per block to the file of the feature maps of one checkpoint, with clipping."""

    @cache
    def of(block_layers):
        directory = tmp_path_factory.mktemp("transferred")
        how = {"block_layers": block_layers, "directory": directory, **HOW}
        return transfer_blockwise(llama, sequences, SMALL, **how).feature_maps

    return of


def joint_without_clipping(path, sequences, **how):
    with pytest.MonkeyPatch.context() as patch:
        let_nothing_be_clipped(patch)
        return joint(path, sequences, **how)


def let_nothing_be_clipped(patch):
    patch.setattr(stages, "LoopSettings", partial(stages.LoopSettings, clip=None))


@pytest.fixture
def unclipped(monkeypatch):
    """Let nothing be clipped, since clipping uses the norm over the layers that are trained together."""
    let_nothing_be_clipped(monkeypatch)


def joint(path, sequences, settings=SMALL, **how):
    model = convert(open_checkpoint(path), settings.attention)
    transfer(model, sequences, settings, **{**HOW, **how})
    return maps_of(model)


def maps_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if ".hybrid." in name}


@pytest.mark.long
def test_frozen_weights_are_read_in_the_type_of_the_settings(llama, sequences, tmp_path, monkeypatch):
    seen, real = [], blockwise.transfer

    def recorded(block, *arguments, **options):
        seen.extend(tensor.dtype for name, tensor in block.named_parameters() if ".hybrid." not in name)
        return real(block, *arguments, **options)

    monkeypatch.setattr(blockwise, "transfer", recorded)
    settings, how = replace(SMALL, dtype="bfloat16", precision="auto"), {**HOW, "precision": "bfloat16"}
    result = transfer_blockwise(llama, sequences, settings, block_layers=2, directory=tmp_path, **how)
    assert set(seen) == {torch.bfloat16}
    model = convert(open_checkpoint(llama, torch.bfloat16), settings.attention)
    transfer(model, sequences, settings, **how)
    given = read_tensors(result.feature_maps)
    assert all(tensor.dtype == torch.float32 for tensor in given.values())
    assert distance(maps_of(model), given) < 0.1


def distance(a, b):
    """Return the distance of two sets of feature maps, relative to how far training moved the first."""
    assert a.keys() == b.keys()
    moved = sum((tensor - start(name, tensor)).square().sum() for name, tensor in a.items()).sqrt()
    return float(sum((a[name] - b[name]).square().sum() for name in a).sqrt() / moved)


def start(name, tensor):
    match name.rpartition(".")[2]:
        case "mix":
            return torch.zeros_like(tensor)
        case "log_horizon":
            return torch.full_like(tensor, HORIZON).log()
        case "log_spread":
            return torch.full_like(tensor, 2.0).log()
    return torch.eye(tensor.shape[-1]).expand_as(tensor)


def stop(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.usefixtures("unclipped")
@pytest.mark.parametrize("block", [1, 2])
def test_blocks_train_the_feature_maps_of_the_joint_form(checkpoint, joint_maps, sequences, tmp_path, block):
    found = transfer_blockwise(checkpoint, sequences, SMALL, block_layers=block, directory=tmp_path, **EXACT)
    given = read_tensors(found.feature_maps)
    assert distance(joint_maps, given) < 1e-5
    assert found.steps == 11
    assert len(found.blocks) == -(-LAYERS // block)
    files = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"feature_maps.safetensors", "blockwise.json", "history.jsonl"}


@pytest.mark.long
@pytest.mark.usefixtures("unclipped")
@pytest.mark.parametrize("how", [{"attention": DEFAULT.attention}, {"warmup_fraction": 0.3, "batch_size": 2}])
def test_blocks_with_other_settings_train_the_feature_maps_of_the_joint_form(llama, sequences, tmp_path, how):
    settings = replace(SMALL, **how)
    expected = joint(llama, sequences, settings, **FEW)
    found = transfer_blockwise(llama, sequences, settings, block_layers=2, directory=tmp_path, **{**EXACT, **FEW})
    assert distance(expected, read_tensors(found.feature_maps)) < 1e-5


@pytest.mark.usefixtures("unclipped")
@pytest.mark.parametrize("kind", ["gemma", "granite", "olmo2"])
def test_models_with_scaled_embeddings_or_other_norms_are_supported(sequences, tmp_path, kind):
    scales = {"embedding_multiplier": 7.0, "residual_multiplier": 0.3} if kind == "granite" else {}
    config = CONFIG_MAPPING[kind](**{**tiny_config("llama", num_hidden_layers=3).to_diff_dict(), **scales})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path / kind)
    found = transfer_blockwise(tmp_path / kind, sequences, SMALL, block_layers=2, directory=tmp_path / "out", **EXACT)
    convert(model.eval(), SMALL.attention)
    transfer(model, sequences, SMALL, **HOW)
    assert distance(maps_of(model), read_tensors(found.feature_maps)) < 1e-5


@pytest.mark.usefixtures("unclipped")
def test_softmax_layers_are_passed_through(llama, sequences, tmp_path):
    attention = small_attention(softmax_layers=(0, 3))
    settings = LinearizeSettings(attention=attention, sequence_length=31)
    found = transfer_blockwise(llama, sequences, settings, block_layers=1, directory=tmp_path, **EXACT)
    assert distance(joint(llama, sequences, settings), read_tensors(found.feature_maps)) < 1e-5
    assert [block.steps > 0 for block in found.blocks] == [False, True, True, False, True]


def test_one_block_of_all_layers_equals_the_joint_form_with_clipping(llama, sequences, tmp_path):
    settings = LinearizeSettings(attention=small_attention(window=2, sinks=2), sequence_length=31, batch_size=2)
    found = transfer_blockwise(llama, sequences, settings, block_layers=LAYERS, directory=tmp_path, **EXACT)
    expected, given = joint(llama, sequences, settings), read_tensors(found.feature_maps)
    assert all(torch.equal(expected[name], given[name]) for name in expected)


@pytest.mark.usefixtures("unclipped")
def test_states_in_bfloat16_change_the_feature_maps_little(llama, few_joint_maps, sequences, tmp_path):
    found = transfer_blockwise(llama, sequences, SMALL, block_layers=1, directory=tmp_path, **{**HOW, **FEW})
    assert 0 < distance(few_joint_maps, read_tensors(found.feature_maps)) < 0.05


def test_feature_maps_of_other_attention_settings_are_rejected(llama, transferred):
    model = convert(open_checkpoint(llama), SMALL.attention)
    load_feature_maps(model, transferred(2))
    maps = read_tensors(transferred(2))
    assert maps.keys() == maps_of(model).keys()
    assert all(torch.equal(tensor, maps[name]) for name, tensor in maps_of(model).items())
    other = convert(open_checkpoint(llama), small_attention(horizon=0.0))
    with pytest.raises(ValueError, match=r"5 feature maps do not fit.*model.layers.0"):
        load_feature_maps(other, transferred(2))


@pytest.mark.parametrize("base_only", [False, True])
def test_weights_are_found_in_shards_and_without_the_prefix_of_the_body(
    sequences, llama, transferred, tmp_path, base_only
):
    shards = tmp_path / "shards"
    if base_only:
        shutil.copytree(llama, shards)
        tensors = read_tensors(llama / "model.safetensors")
        save_file(
            {name.removeprefix("model."): tensor for name, tensor in tensors.items()}, shards / "model.safetensors"
        )
    else:
        AutoModelForCausalLM.from_pretrained(llama).save_pretrained(shards, max_shard_size="30KB")
        assert len(list(shards.glob("model-*.safetensors"))) > LAYERS
    found = transfer_blockwise(shards, sequences, SMALL, block_layers=2, directory=tmp_path / "out", **HOW)
    expected, given = read_tensors(transferred(2)), read_tensors(found.feature_maps)
    assert all(torch.equal(expected[name], given[name]) for name in expected)


@pytest.mark.long
def test_an_interrupted_transfer_resumes_to_the_same_feature_maps(llama, transferred, sequences, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "LoopSettings", partial(stages.LoopSettings, save_seconds=0.0))
    run = partial(transfer_blockwise, llama, sequences, SMALL, block_layers=2, **HOW)
    expected = read_tensors(transferred(2))
    out, read, calls = tmp_path / "out", activation_store.ActivationStore.read, []

    def killed_at(count):
        def counted(*arguments):
            calls.append(1)
            if len(calls) == count:
                stop()
            return read(*arguments)

        calls.clear()
        return counted

    kills = (
        # while the first edge is written, in the middle of a block, and while the states behind it are written
        (blockwise.Block, "forward", stop, ["blockwise.json", "states-0.bin"]),
        (activation_store.ActivationStore, "read", killed_at(4), ["checkpoint-transfer-0.safetensors", "states-0.bin"]),
        (activation_store.ActivationStore, "read", killed_at(8 + 5), ["feature_maps-0.safetensors", "states-0.bin"]),
        # when a block's maps are written, and when all are put together
        (
            blockwise,
            "asdict",
            stop,
            ["checkpoint-transfer-1.safetensors", "feature_maps-0.safetensors", "states-1.bin"],
        ),
        (
            blockwise._BlockwiseTransfer,
            "merge",
            stop,
            ["feature_maps-0.safetensors", "feature_maps-1.safetensors", "feature_maps-2.safetensors"],
        ),
    )
    for place, name, killer, left in kills:
        calls.clear()
        with monkeypatch.context() as patch:
            patch.setattr(place, name, killer)
            with pytest.raises(KeyboardInterrupt):
                run(directory=out)
        names = {path.name for path in (out / WORK).iterdir()}
        assert set(left) <= names
        assert "feature_maps.safetensors" not in names
    given = read_tensors(run(directory=out).feature_maps)
    assert all(torch.equal(expected[name], given[name]) for name in expected)
    assert not list(out.rglob("*states-*"))
    # a finished one returns at once
    with monkeypatch.context() as patch:
        patch.setattr(blockwise, "_BlockwiseTransfer", stop)
        assert run(directory=out).steps == 11


@pytest.mark.long
def test_states_that_were_cut_are_recomputed(llama, transferred, sequences, tmp_path, monkeypatch):
    run = partial(transfer_blockwise, llama, sequences, SMALL, block_layers=1, **HOW)
    expected = read_tensors(transferred(1))
    with monkeypatch.context() as patch:
        patch.setattr(blockwise, "asdict", stop)
        with pytest.raises(KeyboardInterrupt):
            run(directory=tmp_path / "out")
    (states,) = (tmp_path / "out").rglob("states-*.bin")
    states.write_bytes(states.read_bytes()[:-100])
    given = read_tensors(run(directory=tmp_path / "out").feature_maps)
    assert all(torch.equal(expected[name], given[name]) for name in expected)


@pytest.mark.long
def test_lost_states_are_recomputed(llama, transferred, sequences, tmp_path, monkeypatch):
    run = partial(transfer_blockwise, llama, sequences, SMALL, block_layers=1, **HOW)
    expected = read_tensors(transferred(1))
    with monkeypatch.context() as patch:
        patch.setattr(blockwise._BlockwiseTransfer, "merge", stop)
        with pytest.raises(KeyboardInterrupt):
            run(directory=tmp_path / "out")
    (tmp_path / "out" / WORK / "feature_maps-2.safetensors").unlink()
    given = read_tensors(run(directory=tmp_path / "out").feature_maps)
    assert all(torch.equal(expected[name], given[name]) for name in expected)


@pytest.mark.long
def test_validation_keeps_the_best_weights_of_each_block(llama, sequences, tmp_path):
    settings = LinearizeSettings(attention=small_attention(), sequence_length=31, validate_every=2)
    found = transfer_blockwise(
        llama, sequences, settings, block_layers=LAYERS, directory=tmp_path / "all", validation=sequences[:2], **EXACT
    )
    expected = joint(llama, sequences, settings, validation=sequences[:2])
    assert all(torch.equal(expected[name], tensor) for name, tensor in read_tensors(found.feature_maps).items())
    found = transfer_blockwise(
        llama, sequences, settings, block_layers=2, directory=tmp_path / "two", validation=sequences[:2], **EXACT
    )
    assert all(0 < block.best["loss"] < 1 for block in found.blocks)
    lines = [json.loads(line) for line in (tmp_path / "two" / "history.jsonl").read_text().splitlines()]
    assert [line["part"] for line in lines if line.get("step") == 11 and "loss" in line] == [
        f"transfer-{number}" for number in range(3)
    ]


def test_states_of_unused_sequences_are_not_stored(llama, sequences, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(blockwise.Block, "forward", stop)
        with pytest.raises(KeyboardInterrupt):
            transfer_blockwise(llama, sequences, SMALL, block_layers=2, directory=tmp_path, **HOW)
    assert (tmp_path / WORK / "states-0.bin").stat().st_size == 11 * 31 * 30 * 2


def test_a_full_disk_is_reported_before_anything_is_computed(llama, sequences, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(activation_store.shutil, "disk_usage", lambda _: usage(99_999, 99_000, 999))
    needed = 2 * 2 * TOKENS * 30
    with pytest.raises(SubquadError, match=rf"need {needed:,} bytes, and 999 are free"):
        transfer_blockwise(llama, sequences, SMALL, block_layers=2, directory=tmp_path, **HOW)
    assert not list((tmp_path / WORK).iterdir())


def changed_config(**changes):
    def change(path):
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**config, **changes}))

    return change


def without(name):
    def change(path):
        tensors = read_tensors(path / "model.safetensors")
        save_file({key: tensor for key, tensor in tensors.items() if key != name}, path / "model.safetensors")

    return change


def with_index(path):
    index = {"weight_map": dict.fromkeys(read_tensors(path / "model.safetensors"), "model-00001-of-00007.safetensors")}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed_config(quantization_config={"quant_method": "fp8"}), "its weights are quantized"),
        (
            changed_config(layer_types=["sliding_attention"] * LAYERS, model_type="qwen3"),
            "no layer is left to be linearized",
        ),
        (changed_config(intermediate_size=41), r"cannot be read as a checkpoint .*state_dict"),
        (without("model.layers.0.mlp.up_proj.weight"), "no model.layers.0.mlp.up_proj.weight in its safetensors"),
        (with_index, "model-00001-of-00007.safetensors: no such file"),
        (lambda path: (path / "model.safetensors").write_bytes(b"{}"), "cannot be read as a checkpoint"),
    ],
)
def test_a_checkpoint_that_cannot_be_read_layer_by_layer_is_rejected(llama, sequences, tmp_path, change, message):
    copy = tmp_path / "copy"
    shutil.copytree(llama, copy)
    change(copy)
    with pytest.raises(SubquadError, match=message):
        transfer_blockwise(copy, sequences, SMALL, block_layers=2, directory=tmp_path / "out", **HOW)


def test_a_gguf_file_is_rejected(sequences, tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(SubquadError, match=r"model.gguf: layers are read one by one"):
        transfer_blockwise(tmp_path / "model.gguf", sequences, SMALL, block_layers=2, directory=tmp_path, **HOW)


@pytest.mark.long
def test_a_model_is_linearized_block_by_block(run, folder, text, tmp_path, monkeypatch):
    settings, out = replace(DEFAULT, block_layers=1), tmp_path / "out"
    for place, name in ((blockwise.Block, "forward"), (linearization, "load_feature_maps")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, stop)
            with pytest.raises(KeyboardInterrupt):
                subquad.llm.linearize(folder, text, settings, out=out, quiet=True)
        assert not (out / "metrics.json").exists()
    metrics = subquad.llm.linearize(folder, text, settings, out=out, quiet=True)
    whole = json.loads((run / "metrics.json").read_text())
    for name in ("teacher", "window", "untrained"):
        assert metrics["test"][name] == whole["test"][name]
    # clipping and the rounding of states differ
    for name in ("transferred", "fine_tuned"):
        found, expected = (content["test"][name]["perplexity"] for content in (metrics, whole))
        assert found == pytest.approx(expected, rel=0.05)
        assert found != metrics["test"]["untrained"]["perplexity"]
    assert metrics["tokens"] == whole["tokens"]
    assert metrics["trainable_parameters"] == whole["trainable_parameters"]
    assert {path.name for path in out.iterdir()} == {path.name for path in run.iterdir()}
    parts = {json.loads(line)["part"] for line in (out / "history.jsonl").read_text().splitlines()}
    assert parts == {"transfer-0", "transfer-1", "lora"}
    assert isinstance(subquad.llm.generate(out, "the green bird"), str)


def test_linearize_rejects_a_gguf_file_in_blocks_before_anything_is_written(text, tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(SubquadError, match="layers are read one by one"):
        subquad.llm.linearize(
            tmp_path / "model.gguf", text, replace(SMALL, block_layers=2), out=tmp_path / "out", quiet=True
        )
    assert not (tmp_path / "out").exists()
