"""What linearizing a model costs: counts against real models, estimates against what real models do."""

import json
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.llm_models import tiny_config, tiny_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from subquad.cli import main
from subquad.errors import SubquadError
from subquad.llm.models.adapter import add_lora
from subquad.llm.models.attention import attention_layers, attention_mode
from subquad.llm.models.convert import convert, feature_parameters, replace_attention
from subquad.llm.planning.architecture import sizes_of
from subquad.llm.planning.configs import KNOWN
from subquad.llm.planning.cost_estimate import STAGES, estimate_costs, kept_in_lora, kept_in_transfer, memory
from subquad.llm.planning.settings import PlanSettings
from subquad.llm.planning.tables import print_costs
from subquad.llm.settings import AttentionSettings, LinearizeSettings
from subquad.llm.training.lora import fine_tune_step, trainable_parameters
from subquad.llm.training.transfer import freeze_for_transfer, transfer_step

ATTENTIONS = [
    AttentionSettings(feature_map="hedgehog", window=5, window_shape="terrace", cache=0),
    AttentionSettings(feature_map="hedgehog", window=5, window_shape="sliding"),
]
MOMENTS = AttentionSettings(feature_map="moments", window=5, cache=0)
NONE = AttentionSettings(feature_map="none", window=5, cache=64)
CACHES = [*(replace(attention, cache=64) for attention in (ATTENTIONS[0], MOMENTS)), NONE]
# wide enough that what grows with the width outweighs what does not
MIDDLE: dict[str, Any] = {
    "hidden_size": 192,
    "intermediate_size": 523,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 1009,
}
TOKENS = 256


def write_config(folder, kind="llama", **changes):
    folder.mkdir(exist_ok=True)
    tiny_config(kind, **changes).save_pretrained(folder)
    return folder / "config.json"


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("llama-3.1-8b", 8_030_261_248),
        ("llama-3.1-70b", 70_553_706_496),
        ("llama-3.1-405b", 405_853_388_800),
        ("llama-3-8b", 8_030_261_248),
        ("mistral-7b", 7_241_732_096),
        ("qwen2.5-0.5b", 494_032_768),
        ("qwen2.5-1.5b", 1_543_714_304),
        ("smollm2-135m", 134_515_008),
    ],
)
def test_the_known_models_have_the_published_numbers_of_weights(name, parameters):
    assert sizes_of(name).parameters == parameters
    assert name in KNOWN


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("attention", [*ATTENTIONS, NONE])
def test_the_counts_are_those_of_a_converted_model(tmp_path, kind, attention):
    config = write_config(tmp_path, kind)
    sizes = sizes_of(config, attention, lora_rank=3)
    model = tiny_model(kind)
    assert sizes.parameters == sum(parameter.numel() for parameter in model.parameters())
    convert(model, attention, check=False)
    assert sizes.trained_in_transfer == freeze_for_transfer(model)
    assert sizes.trained_in_lora == trainable_parameters(add_lora(model, LinearizeSettings(lora_rank=3), seed=0))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("attention", [*ATTENTIONS, *CACHES])
def test_the_state_has_the_bytes_of_a_real_one(tmp_path, attention, dtype):
    found = estimate_costs(
        write_config(tmp_path), PlanSettings(attention=attention, dtype=dtype, sequence_length=113)
    ).generation
    layers = attention_layers(convert(tiny_model("llama"), attention, check=False))
    kind = {"bfloat16": torch.bfloat16, "float32": torch.float32}[dtype]
    real = sum(tensor.nbytes for layer in layers for tensor in layer.hybrid.empty_state(1, kind))
    assert found["state"] == real
    # two layers, keys and values of two heads of width 10
    a_token = 2 * 2 * 2 * 10 * kind.itemsize
    assert found["cache_bytes"]["4096"] == 4096 * a_token
    assert (found["crossover"] - 1) * a_token <= real < found["crossover"] * a_token


def kept_bytes(model, work):
    """Return the bytes that autograd keeps in `work` beside the weights and buffers."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            # held, so that no other tensor gets its place
            storages[storage.data_ptr()] = storage
        return tensor

    # as in training, products of halves are in halves though what is learnt is not
    is_half = next(model.parameters()).dtype == torch.bfloat16
    half = torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_half)
    with half, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        work()
    return sum(storage.nbytes() for storage in storages.values())


class Peak(TorchDispatchMode):
    """Counts the bytes of all storages that operations make while they live."""

    def __init__(self, model):
        super().__init__()
        self.now, self.most = 0, 0
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        own = (*model.parameters(), *model.buffers(), *gradients)
        self.living = {tensor.untyped_storage()._cdata for tensor in own}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(given):
            if isinstance(tensor, torch.Tensor):
                self._see(tensor.untyped_storage())
        return given

    def _see(self, storage):
        key, size = storage._cdata, storage.nbytes()
        if key in self.living:
            return
        self.living.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key, size):
        self.living.discard(key)
        self.now -= size


def real_model(attention, dtype, layers):
    model = tiny_model("llama", spread=0.05, num_hidden_layers=layers, max_position_embeddings=TOKENS, **MIDDLE)
    model = model.to({"bfloat16": torch.bfloat16, "float32": torch.float32}[dtype])
    replace_attention(model, attention, check=False)
    return model


def in_transfer(model, ids):
    freeze_for_transfer(model)
    return model, lambda: transfer_step(model, ids, torch.Tensor.backward)


def skip_without_transfer(stage, attention):
    if stage is in_transfer and not attention.has_linear:
        pytest.skip("there is no attention transfer")


def in_lora(model, ids):
    tuned = add_lora(model, LinearizeSettings(), seed=0)

    def work():
        with attention_mode(tuned, "hybrid"):
            fine_tune_step(tuned, ids, torch.Tensor.backward)

    return tuned, work


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("attention", [*ATTENTIONS, MOMENTS, *CACHES])
@pytest.mark.parametrize(("stage", "formula"), [(in_transfer, kept_in_transfer), (in_lora, kept_in_lora)])
def test_a_layer_keeps_the_bytes_of_the_formula(tmp_path, stage, formula, attention, dtype):
    skip_without_transfer(stage, attention)
    attention = replace(attention, window=16)
    settings = PlanSettings(attention=attention, dtype=dtype, sequence_length=TOKENS)
    ids = torch.randint(0, 1009, (1, TOKENS), generator=torch.Generator().manual_seed(0))
    one, three = (kept_bytes(*stage(real_model(attention, dtype, layers), ids)) for layers in (1, 3))
    sizes = sizes_of(write_config(tmp_path, max_position_embeddings=TOKENS, **MIDDLE), attention)
    # with halves products keep a copy of the updates too, whatever the number of tokens
    copies = 2 * (sizes.trained_in_lora - sizes.trained_in_transfer) / sizes.layers
    is_copied = stage is in_lora and dtype == "bfloat16"
    assert formula(sizes, settings) * TOKENS + is_copied * copies == pytest.approx((three - one) / 2, rel=0.05)


def keeps_scores():
    """Return whether softmax attention with shared keys keeps all scores here, as PyTorch 2.7 does on CPUs."""
    q, kv = torch.zeros(1, 2, 3, 4, requires_grad=True), torch.zeros(1, 1, 3, 4)
    given = torch.nn.functional.scaled_dot_product_attention(q, kv, kv, is_causal=True, enable_gqa=True)
    return "Flash" not in given.grad_fn.name()


@pytest.mark.skipif(keeps_scores(), reason="softmax attention keeps all scores in memory here")
@pytest.mark.parametrize("attention", [*ATTENTIONS, MOMENTS, *CACHES])
@pytest.mark.parametrize(("stage", "name"), [(in_transfer, "transfer"), (in_lora, "lora")])
def test_the_peak_of_a_step_is_close_to_the_estimate(tmp_path, stage, name, attention):
    skip_without_transfer(stage, attention)
    attention = replace(attention, window=16)
    settings = PlanSettings(attention=attention, dtype="float32", sequence_length=TOKENS)
    ids = torch.randint(0, 1009, (1, TOKENS), generator=torch.Generator().manual_seed(0))
    model, work = stage(real_model(attention, "float32", 3), ids)
    with Peak(model) as peak:
        work()
    sizes = sizes_of(write_config(tmp_path, max_position_embeddings=TOKENS, num_hidden_layers=3, **MIDDLE), attention)
    parts = memory(sizes, settings, name)
    assert parts["activations"] + parts["gradients"] == pytest.approx(peak.most, rel=0.1)


@pytest.mark.long
def test_the_memory_of_stage_1_does_not_grow_with_the_layers():
    attention = AttentionSettings(window=16)
    ids = torch.randint(0, 1009, (1, TOKENS), generator=torch.Generator().manual_seed(0))
    peaks = []
    for layers in (2, 7):
        model, work = in_transfer(real_model(attention, "float32", layers), ids)
        for parameter in feature_parameters(model):
            parameter.grad = torch.zeros_like(parameter)
        with Peak(model) as peak:
            work()
        peaks.append(peak.most)
    assert peaks[1] < 1.02 * peaks[0]


def test_without_a_linear_branch_there_is_one_stage(capsys):
    settings = PlanSettings(attention=AttentionSettings(feature_map="none"))
    found = estimate_costs("llama-3.1-8b", settings)
    assert [*found.memory] == ["lora"]
    assert (found.disk_bytes, found.time["transfer"]["hours"], found.parameters["trained_in_transfer"]) == (0, 0, 0)
    print_costs({"llama-3.1-8b": found}, settings)
    printed = capsys.readouterr().out
    assert "1 of" not in printed


def test_gradients_and_moments_are_those_of_the_trained_weights():
    attention = AttentionSettings(feature_map="hedgehog")
    found = estimate_costs("llama-3.1-8b", PlanSettings(lora_rank=16, attention=attention))
    trained, parts = found.parameters["trained_in_transfer"], found.memory["transfer"]
    assert trained == 32 * (2 * 32 * 128 * 128 + 2 * 32)
    assert (parts["weights"], parts["gathered"]) == (2 * 8_030_261_248, 0)
    assert (parts["trained"], parts["gradients"], parts["optimizer"]) == (4 * trained, 4 * trained, 8 * trained)
    updates, parts = found.parameters["trained_in_lora"], found.memory["lora"]
    assert updates == trained + 32 * 16 * (2 * (4096 + 4096) + 2 * (4096 + 1024) + 3 * (4096 + 14336))
    assert parts["weights"] == 2 * 8_030_261_248
    assert (parts["trained"], parts["gradients"], parts["optimizer"]) == (
        6 * updates - 2 * trained,
        4 * updates,
        8 * updates,
    )
    assert parts["total"] == sum(parts[name] for name in list(parts)[: list(parts).index("total")])


@pytest.mark.parametrize("stage", STAGES)
def test_several_gpus_divide_the_frozen_weights_and_nothing_else(stage):
    sizes = sizes_of("llama-3.1-8b")
    one, four = (memory(sizes, PlanSettings(gpus=gpus), stage) for gpus in (1, 4))
    is_shared = stage != "transfer_in_blocks"
    # two layers and what lies around them, in two bytes a weight
    gathered = 2 * (2 * 218_112_000 + 2 * 128_256 * 4096 + 4096)
    assert four["weights"] == one["weights"] / (4 if is_shared else 1)
    assert four["gathered"] == (gathered if is_shared else 0)
    for name in ("trained", "gradients", "optimizer", "activations"):
        assert four[name] == one[name] > 0


@pytest.fixture(scope="module")
def giant():
    return sizes_of("llama-3.1-405b")


@given(
    gpu_memory=st.floats(5, 2000),
    batch_size=st.integers(1, 17),
    gradient_checkpointing=st.booleans(),
    dtype=st.sampled_from(["bfloat16", "float32"]),
    stage=st.sampled_from(STAGES),
)
def test_the_fewest_gpus_fit_and_one_less_does_not(giant, stage, **options):
    fewest = memory(giant, PlanSettings(**options), stage)["fewest_gpus"]
    if fewest is None:
        assert not any(memory(giant, PlanSettings(gpus=n, **options), stage)["fits"] for n in (1, 2, 1000, 10**6))
        return
    assert memory(giant, PlanSettings(gpus=fewest, **options), stage)["fits"]
    assert fewest == 1 or not memory(giant, PlanSettings(gpus=fewest - 1, **options), stage)["fits"]


def test_a_block_of_the_largest_model_fits_where_the_whole_does_not(giant):
    settings = PlanSettings()
    assert memory(giant, settings, "transfer_in_blocks")["fits"]
    assert not memory(giant, settings, "transfer")["fits"]
    assert memory(giant, settings, "lora")["fewest_gpus"] is None
    assert memory(giant, PlanSettings(gradient_checkpointing=True), "lora")["fewest_gpus"] > 10


def test_a_block_of_all_layers_needs_what_all_layers_need_but_the_embeddings(tmp_path):
    config = write_config(tmp_path)
    stages = estimate_costs(
        config,
        PlanSettings(
            attention=AttentionSettings(window=5, cache=5), block_layers=99, sequence_length=31, dtype="float32"
        ),
    ).memory
    outer = sizes_of(config).outer_parameters
    assert stages["transfer"]["total"] - stages["transfer_in_blocks"]["total"] == 4 * outer > 0


def test_the_disk_of_block_wise_transfer_is_that_of_two_edges():
    found = estimate_costs("llama-3.1-405b")
    assert found.blocks == 14
    assert found.disk_bytes == 2 * 20_000_000 * 16384 * 2
    assert estimate_costs("llama-3.1-8b", PlanSettings(block_layers=32, transfer_tokens=7)).disk_bytes == 2 * 7 * 4096


def test_a_measured_rate_replaces_the_estimate():
    settings = PlanSettings(gpus=3, tokens_per_second_transfer=1000.0, flops=1e15, lora_tokens=7_200_000)
    time = estimate_costs("llama-3.1-8b", settings).time
    first, second = time["transfer"], time["lora"]
    assert first["hours"] == pytest.approx(20_000 / 3600)
    assert first["gpu_hours"] == pytest.approx(3 * 20_000 / 3600)
    assert (first["is_estimate"], second["is_estimate"]) == (False, True)
    # forward and backward through 7.5 B frozen weights, and a little attention
    assert second["tokens_per_second"] == pytest.approx(3 * 1e15 / (4 * 7.5e9), rel=0.1)


def test_gradient_checkpointing_takes_half_as_much_time_again():
    plain, again = (
        estimate_costs("llama-3.1-8b", PlanSettings(gradient_checkpointing=value)).time["lora"]["hours"]
        for value in (False, True)
    )
    assert again / plain == pytest.approx(1.5, rel=0.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": None}, "hidden_size is None"),
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"num_hidden_layers": "two"}, ""),
        ({"intermediate_size": ...}, "'intermediate_size' is missing"),
        ({"model_type": ...}, "'model_type' is missing"),
        ({"model_type": "llamma"}, "llamma"),
        ({"model_type": "subquad"}, "linearized already"),
        ({"num_key_value_heads": 4}, "6 query heads are not a multiple of 4 key heads"),
        ({"hidden_act": "sillu"}, "sillu"),
        ({"num_local_experts": 8}, "a mixture of experts"),
    ],
)
def test_an_unusable_config_is_rejected_with_its_path(tmp_path, changes, message):
    path = write_config(tmp_path)
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))
    with pytest.raises(SubquadError, match=rf"config.json: cannot be read as a config .*{message}") as caught:
        sizes_of(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(("name", "content"), [("model.gguf", b"GGUF"), ("config.json", b"[1]"), ("notes.txt", b"a")])
def test_a_file_that_is_not_a_config_is_rejected(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SubquadError, match=name):
        estimate_costs(tmp_path / name)


def test_an_unknown_name_is_rejected_with_the_most_similar_one(tmp_path):
    with pytest.raises(SubquadError, match=r"^no config.json, .* 'llama-3.1-8'; did you mean 'llama-3.1-8b'\?"):
        estimate_costs("llama-3.1-8")
    with pytest.raises(SubquadError, match=r"config.json: no such file"):
        estimate_costs(tmp_path)


def test_a_sequence_beyond_the_model_is_rejected():
    with pytest.raises(SubquadError, match="llama-3-8b supports at most 8,192 tokens, not 8,193"):
        estimate_costs("llama-3-8b", PlanSettings(sequence_length=8193))


def test_the_command_shows_all_costs(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["llm", "plan", "llama-3.1-8b", "llama-3.1-405b", "--gpus", "2"]) == 0
    shown = capsys.readouterr().out
    for words in ("Memory of each of 2 GPUs in GB", "8.03 B", "406 B", "2,048", "1.31 TB", "1 of 14 blocks"):
        assert words in shown


def test_the_command_takes_a_folder_and_the_flags_of_the_attention(tmp_path, capsys):
    folder = write_config(tmp_path).parent
    flags = ["--attention.feature-map", "hedgehog", "--attention.horizon", "0", "--attention.window", "7"]
    assert main(["llm", "plan", str(folder), "--json", "--sequence-length", "31", *flags]) == 0
    found = json.loads(capsys.readouterr().out)[str(folder)]
    assert list(found) == ["parameters", "memory", "blocks", "disk_bytes", "time", "generation"]
    # maps of queries and keys for six heads, each 10 × 10, and six mixing terms
    assert found["parameters"]["trained_in_transfer"] == 2 * (12 * 10 * 10 + 6)


def test_an_error_ends_the_command_with_status_2(tmp_path, capsys):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert main(["llm", "plan", str(tmp_path / "model.gguf")]) == 2
    assert "model.gguf" in capsys.readouterr().err
