"""Hybrid attention inside Hugging Face decoders: the same model where it should be, and the same text step by step."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.llm_models import CONFIGS, prefilled, small_attention, tiny_model

from subquad.errors import SubquadError
from subquad.llm.models.adapter import add_lora
from subquad.llm.models.attention import NORMS, PROJECTIONS, attention_layers, attention_mode
from subquad.llm.models.convert import convert
from subquad.llm.models.decoding import cache_argument, forward, new_cache
from subquad.llm.models.documents import separate_documents
from subquad.llm.settings import AttentionSettings, LinearizeSettings
from subquad.llm.training.lora import fine_tune_step
from subquad.llm.training.transfer import freeze_for_transfer, transfer_step

KINDS = list(CONFIGS)


def converted(
    kind,
    *,
    window=5,
    window_shape="terrace",
    feature_map="hedgehog",
    cache=0,
    softmax_layers=(),
    **changes,
):
    model = tiny_model(kind, **changes).double()
    return convert(
        model,
        AttentionSettings(
            window=window,
            window_shape=window_shape,
            feature_map=feature_map,
            cache=cache,
            softmax_layers=softmax_layers,
        ),
    )


def tokens(*shape, seed=0):
    return torch.randint(2, 151, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_softmax_mode_equals_the_original_model_and_layers_gain_the_hybrid_attention_alone(kind):
    model, ids = tiny_model(kind).double(), tokens(2, 31)
    expected = model(ids).logits
    convert(model, AttentionSettings())
    names = {name for layer in attention_layers(model) for name, _ in layer.named_children()}
    assert names <= {*PROJECTIONS, *NORMS, "hybrid"}
    with attention_mode(model, "softmax"):
        torch.testing.assert_close(model(ids).logits, expected)


SCALED = {
    "linear": {"factor": 3.0},
    "yarn": {"factor": 3.0, "original_max_position_embeddings": 67},
    "llama3": {
        "factor": 3.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 67,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", SCALED)
@torch.no_grad()
def test_scaled_rotary_positions_are_kept(kind):
    rotary = {"rope_type": kind, "rope_theta": 1e4, **SCALED[kind]}
    plain, ids = tiny_model("llama").double(), tokens(2, 31)
    model = tiny_model("llama", rope_parameters=rotary).double()
    expected = model(ids).logits
    assert not torch.allclose(plain(ids).logits, expected)
    convert(model, small_attention(window=31))
    torch.testing.assert_close(model(ids).logits, expected)
    narrow = converted("llama", window=3, rope_parameters=rotary)
    made = narrow.generate(ids, max_new_tokens=7, do_sample=False, pad_token_id=1)
    assert torch.equal(narrow(made[:, :-1], use_cache=False).logits[:, 30:].argmax(-1), made[:, 31:])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", ["terrace", "sliding"])
@torch.no_grad()
def test_a_window_as_long_as_the_text_equals_the_teacher(kind, shape):
    model, ids = converted(kind, window=31, window_shape=shape), tokens(2, 31)
    with attention_mode(model, "softmax"):
        expected = model(ids).logits
    for mode in ("window", "hybrid"):
        with attention_mode(model, mode):
            torch.testing.assert_close(model(ids).logits, expected)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("mode", ["hybrid", "without_linear", "window"])
@given(
    kind=st.sampled_from(KINDS),
    attention=st.fixed_dictionaries(
        {
            "window_shape": st.sampled_from(["terrace", "sliding"]),
            "feature_map": st.sampled_from(["hedgehog", "moments", "none"]),
            # of a window of two, rounding would decide which of the first two tokens is cached
            "window": st.sampled_from([1, 3, 4, 7]),
        }
    ).filter(lambda how: (how["feature_map"], how["window_shape"]) != ("moments", "sliding")),
    cached=st.sampled_from([0, 1, 3, 7]),
    cuts=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    seed=st.integers(0, 2**31),
)
@settings(deadline=None, max_examples=20)
@torch.no_grad()
def test_prefill_and_steps_equal_one_pass(mode, kind, *, attention, cached, cuts, seed):
    model = converted(kind, **attention, cache=cached if attention["window_shape"] == "terrace" else 0, seed=seed)
    ids = tokens(2, sum(cuts) + 5, seed=seed)
    with attention_mode(model, mode):
        expected = model(ids).logits
        cache, logits = None, []
        for part in ids.split([*cuts, 1, 1, 1, 1, 1], dim=1):
            name = cache_argument(type(model))
            given = model(part, use_cache=True, **{name: cache})
            cache = given[name]
            logits.append(given.logits)
    # these models' norms compute in float32 whatever the weights are
    torch.testing.assert_close(torch.cat(logits, dim=1), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_cache_for_the_whole_text_equals_the_teacher_and_a_window_has_none():
    model, ids = converted("qwen3", window=3, cache=40), tokens(2, 31)
    with attention_mode(model, "softmax"):
        expected = model(ids).logits
    with attention_mode(model, "without_linear"):
        torch.testing.assert_close(model(ids).logits, expected)
    with attention_mode(model, "window"):
        plain = converted("qwen3", window=3)
        with attention_mode(plain, "window"):
            torch.testing.assert_close(model(ids).logits, plain(ids).logits)


@pytest.mark.long
@pytest.mark.parametrize(
    "how",
    [{}, {"feature_map": "moments"}, {"feature_map": "moments", "cache": 5}, {"feature_map": "none", "cache": 5}],
    ids=str,
)
@torch.no_grad()
def test_generate_takes_the_token_that_the_full_forward_prefers(how):
    model, ids = converted("llama", **how), tokens(1, 17)
    made = model.generate(ids, max_new_tokens=19, do_sample=False, eos_token_id=None, pad_token_id=1)
    for _ in range(19):
        ids = torch.cat((ids, model(ids).logits[:, -1:].argmax(-1)), dim=1)
    assert made.tolist() == ids.tolist()


@torch.no_grad()
def test_the_state_of_decoding_does_not_grow():
    model = converted("llama")

    def state_size(length):
        cache = prefilled(model, tokens(1, length))
        return [sum(tensor.numel() for tensor in layer.state) for layer in cache.layers]

    assert state_size(3) == state_size(97)


LONG, STEPS = 32_768, 37


@pytest.fixture(scope="module", params=["hedgehog", "moments"])
def long_text(request):
    """Return a model, a text of 32 thousand tokens with some more, and the logits of the last ones in one pass."""
    settings = AttentionSettings(feature_map=request.param)
    model = convert(tiny_model("llama", max_position_embeddings=40_000), settings)
    ids = tokens(1, LONG + STEPS)
    with torch.no_grad():
        return model, ids, model(ids, use_cache=False).logits[0, LONG:]


def decoded(model, ids, damage=None):
    """Return the logits of the last tokens, decoded one by one after a prefill in chunks, and the cache."""
    cache, logits = new_cache(model), []
    for start in range(0, LONG, 4_096):
        forward(model, ids[:, start : start + 4_096], torch.arange(start, start + 4_096)[None], cache)
    for position in range(LONG, LONG + STEPS):
        for layer in cache.layers if damage else ():
            layer.state = damage(layer.state)
        logits.append(forward(model, ids[:, position : position + 1], torch.tensor([[position]]), cache)[0])
    return torch.stack(logits), cache


@pytest.mark.long
def test_decoding_after_32_thousand_tokens_equals_one_pass_with_a_state_of_constant_size(long_text):
    model, ids, expected = long_text
    # the most likely tokens differ, so that the comparison means something
    assert expected.argmax(-1).unique().numel() > 10
    start = new_cache(model)
    forward(model, ids[:, :7], torch.arange(7)[None], start)
    logits, cache = decoded(model, ids)
    assert torch.allclose(logits, expected, atol=1e-4, rtol=1e-4)
    sizes = [[(part.shape, part.dtype) for part in layer.state] for layer in (*start.layers, *cache.layers)]
    assert all(size == sizes[0] for size in sizes)
    assert cache.get_seq_length() == LONG + STEPS


@pytest.mark.long
def test_a_damaged_state_is_noticed_after_32_thousand_tokens(long_text):
    model, ids, expected = long_text
    # two percent per step, of the sum over all tokens before the window
    logits, _ = decoded(model, ids, damage=lambda state: state._replace(total=1.02 * state.total))
    assert not torch.allclose(logits, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.long
@torch.no_grad()
def test_transformers_generates_after_32_thousand_tokens(long_text):
    model, ids, _ = long_text
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = model.generate(
            ids[:, :LONG],
            max_new_tokens=STEPS,
            do_sample=True,
            eos_token_id=None,
            pad_token_id=1,
            prefill_chunk_size=4_096,
            output_logits=True,
            return_dict_in_generate=True,
        )
    assert made.sequences[0, LONG:].unique().numel() > 10
    expected = model(made.sequences[:, :-1], use_cache=False).logits[0, LONG - 1 :]
    assert torch.allclose(torch.cat(made.logits), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_padding_does_not_change_a_sequence(side):
    model, ids = converted("qwen3"), tokens(2, 23)
    alone = model(ids[1:, :13]).logits
    mask = torch.ones(2, 23, dtype=torch.long)
    if side == "right":
        mask[1, 13:] = 0
        given = model(ids, attention_mask=mask).logits[1:, :13]
    else:
        ids[1, 10:] = ids[1, :13].clone()
        mask[1, :10] = 0
        given = model(ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits[1:, 10:]
    torch.testing.assert_close(given, alone)


DOCUMENTS = torch.tensor([[0] * 11 + [1] * 2 + [2] * 10, [0] * 1 + [1] * 22])


@pytest.mark.parametrize(("kind", "kept"), [("llama", ()), ("llama", (1,)), ("phi3", ()), ("gemma3", ())])
@pytest.mark.parametrize("mode", ["hybrid", "window", "softmax"])
@torch.no_grad()
def test_separate_documents_equal_each_document_alone(kind, kept, mode):
    model, ids = converted(kind, window=3, softmax_layers=kept), tokens(2, 23)
    with attention_mode(model, mode):
        with separate_documents(model, DOCUMENTS):
            given = model(ids, use_cache=False).logits
        for row, first, end in ((0, 0, 11), (0, 11, 13), (0, 13, 23), (1, 0, 1), (1, 1, 23)):
            places = torch.arange(first, end)[None]
            alone = model(ids[row : row + 1, first:end], position_ids=places, use_cache=False).logits[0]
            torch.testing.assert_close(given[row, first:end], alone, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(model(ids, use_cache=False).logits[0, 11:], given[0, 11:])


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
@torch.no_grad()
def test_packed_positions_equal_each_sequence_alone(kind):
    model, ids = converted(kind, window=3), tokens(2, 23)
    packed = torch.cat([torch.arange(8), torch.arange(2), torch.arange(13)])[None]
    given = model(ids, position_ids=packed.expand(2, -1), use_cache=False).logits
    with pytest.raises(ValueError, match="packed sequences have no common state for decoding; pass use_cache=False"):
        model(ids, position_ids=packed.expand(2, -1))
    for first, end in ((0, 8), (8, 10), (10, 23)):
        alone = model(ids[:, first:end], use_cache=False).logits
        torch.testing.assert_close(given[:, first:end], alone, rtol=1e-5, atol=1e-5)
    backwards = packed.clone()
    backwards[0, 12:] -= 1
    with pytest.raises(ValueError, match="rise by 1 or start again at 0, but in row 0 1 follows 1"):
        model(ids, position_ids=backwards, use_cache=False)


@torch.no_grad()
def test_transformers_ways_to_attend_work_or_are_refused():
    model, ids = converted("llama", window=3, cache=4), tokens(1, 17)
    expected = model.generate(ids, max_new_tokens=7, do_sample=False, pad_token_id=1)
    given = model.generate(ids, max_new_tokens=7, do_sample=False, pad_token_id=1, cache_implementation="static")
    assert torch.equal(given, expected)
    padded = {"input_ids": tokens(2, 17), "attention_mask": torch.ones(2, 17, dtype=torch.long)}
    padded["attention_mask"][1, :5] = 0
    expected, given = (
        model.generate(**padded, max_new_tokens=7, do_sample=False, pad_token_id=1, **how)
        for how in ({}, {"cache_implementation": "static"})
    )
    assert torch.equal(given, expected)
    with pytest.raises(ValueError, match="SubquadLlamaForCausalLM computes hybrid attention, which sdpa cannot"):
        model.set_attn_implementation("sdpa")
    mask = torch.ones(1, 1, 17, 17, dtype=torch.bool).tril()
    with pytest.raises(ValueError, match="padding masks and packed positions only"):
        attention_layers(model)[0](torch.zeros(1, 17, 30).double(), (torch.ones(1, 17, 10).double(),) * 2, mask)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_a_compiled_model_gives_the_same_output_and_gradient():
    model, ids = converted("llama", window=3, cache=4), tokens(2, 17)
    compiled = torch.compile(model, backend="aot_eager")
    gradients = []
    for net in (model, compiled):
        model.zero_grad()
        net(ids, labels=ids, use_cache=False).loss.backward()
        gradients.append([x.grad.clone() for x in model.parameters() if x.grad is not None])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        torch.testing.assert_close(compiled(ids, use_cache=False).logits, model(ids, use_cache=False).logits)


@pytest.mark.parametrize(("step", "counts"), [(transfer_step, (11, 13)), (fine_tune_step, (10, 12))])
def test_gradients_of_separate_documents_equal_those_of_each_document_alone(step, counts):
    # without rotation, since feature maps depend on positions through it
    model = converted("llama", window=3)
    for layer in attention_layers(model):
        layer._rotate = lambda q, k, *_: (q, k)
    alone = (tokens(1, 11), tokens(1, 13, seed=1))
    if step is transfer_step:
        freeze_for_transfer(model)
    else:
        model = add_lora(model, LinearizeSettings(), seed=0)

    def gradients(ids, factor=1.0, **how):
        step(model, ids, lambda loss: (factor * loss).backward(), **how)
        found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        return found

    given = gradients(torch.cat(alone, 1), documents=torch.tensor([[0] * 11 + [1] * 13]))
    parts = [gradients(ids, count / sum(counts)) for ids, count in zip(alone, counts, strict=True)]
    assert any(float(gradient.abs().max()) > 1e-4 for gradient in given.values())
    for name, gradient in given.items():
        torch.testing.assert_close(gradient, parts[0][name] + parts[1][name], rtol=1e-4, atol=1e-8)


@torch.no_grad()
def test_attention_is_causal():
    model, ids = converted("llama"), tokens(1, 29)
    changed = ids.clone()
    changed[0, 19] = (changed[0, 19] + 1) % 151
    before, after = model(ids).logits, model(changed).logits
    torch.testing.assert_close(before[:, :19], after[:, :19])
    assert not torch.allclose(before[:, 19:], after[:, 19:])


def test_the_projections_keep_their_names():
    model = tiny_model("qwen3")
    names = set(model.state_dict())
    convert(model, AttentionSettings())
    new = set(model.state_dict()) - names
    assert names <= set(model.state_dict())
    assert all(".self_attn.hybrid." in name for name in new)
    assert len(attention_layers(model)) == 2


def test_a_cache_of_softmax_attention_is_rejected():
    model, ids = converted("llama"), tokens(1, 7)
    with attention_mode(model, "softmax"):
        cache = prefilled(model, ids)
    with pytest.raises(ValueError, match="filled by softmax attention"):
        forward(model, ids, torch.arange(7)[None], cache)


def test_several_sequences_in_one_row_have_no_common_state():
    model = converted("llama")
    packed = torch.tensor([[0, 1, 2, 3, 0, 1, 2]])
    layer, positions = attention_layers(model)[0], (torch.ones(1, 7, 10).double(),) * 2
    mask = torch.ones(7, 7, dtype=torch.bool).tril()
    mask[4:, :4] = False
    mask = mask[None, None]
    with pytest.raises(ValueError, match="no common state for decoding; pass use_cache=False"):
        layer(torch.zeros(1, 7, 30).double(), positions, mask, position_ids=packed, cache=new_cache(model))


def test_a_text_without_tokens_is_refused():
    model = converted("llama")
    for run in (model, partial(model.generate, max_new_tokens=3)):
        with pytest.raises(ValueError, match=r"no tokens: the input has the shape \(1, 0\)"):
            run(tokens(1, 7)[:, :0])


def test_a_mask_of_the_users_own_is_refused():
    with pytest.raises(ValueError, match="padding masks and packed positions only"):
        converted("llama")(tokens(1, 7), attention_mask=torch.ones(1, 1, 7, 7, dtype=torch.bool), use_cache=False)


def test_layers_with_a_sliding_window_are_kept():
    model = tiny_model("gemma3")
    sliding = model.model.layers[0].self_attn
    convert(model, AttentionSettings())
    assert model.model.layers[0].self_attn is sliding
    assert [layer.layer_idx for layer in attention_layers(model)] == [1, 2]


@torch.no_grad()
def test_chosen_layers_keep_softmax_attention():
    model, ids = converted("llama", softmax_layers=(1,), num_hidden_layers=3), tokens(2, 23)
    assert [layer.layer_idx for layer in attention_layers(model)] == [0, 2]
    cache = prefilled(model, ids[:, :17])
    given = model(ids[:, 17:], use_cache=True, **{cache_argument(type(model)): cache}).logits
    torch.testing.assert_close(given, model(ids).logits[:, 17:], rtol=1e-4, atol=1e-5)
    assert cache.layers[1].keys.shape[2] == 23


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ((0, 5), "softmax layer 5: LlamaForCausalLM has layers 0 to 1"),
        ((0, 1), "no layer is left to be linearized"),
        ((-1,), "must be at least 0, got -1"),
    ],
)
def test_invalid_softmax_layers_are_rejected(chosen, message):
    with pytest.raises(SubquadError, match=message):
        convert(tiny_model("llama"), AttentionSettings(softmax_layers=chosen))


def test_a_sliding_window_in_all_layers_is_rejected():
    with pytest.raises(SubquadError, match="sliding_window = 7 in all layers"):
        convert(tiny_model("mistral", sliding_window=7), AttentionSettings())


def test_a_sliding_window_of_the_maximum_length_is_ignored():
    model = convert(tiny_model("mistral", sliding_window=211), AttentionSettings())
    assert len(attention_layers(model)) == 2


def test_logit_softcapping_is_rejected():
    from transformers import Gemma2Config, Gemma2ForCausalLM

    sizes = {"vocab_size": 31, "hidden_size": 12, "intermediate_size": 13, "num_hidden_layers": 2, "head_dim": 6}
    model = Gemma2ForCausalLM(Gemma2Config(**sizes, num_attention_heads=2, num_key_value_heads=1))
    with pytest.raises(SubquadError, match=r"attn_logit_softcapping = 50\.0"):
        convert(model, AttentionSettings())


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_generation_with_left_padding_equals_each_text_alone(kind):
    model, texts = converted(kind, softmax_layers=(1,)), [tokens(1, n, seed=n) for n in (5, 19, 12)]
    options = {"max_new_tokens": 11, "do_sample": False, "eos_token_id": None, "pad_token_id": 1}
    alone = [model.generate(ids, **options)[0, ids.shape[1] :].tolist() for ids in texts]
    together = torch.cat([torch.nn.functional.pad(ids, (19 - ids.shape[1], 0), value=1) for ids in texts])
    mask = torch.stack([(torch.arange(19) >= 19 - ids.shape[1]).long() for ids in texts])
    made = model.generate(together, attention_mask=mask, **options)
    assert made[:, 19:].tolist() == alone


@torch.no_grad()
def test_beams_and_samples_equal_those_without_a_cache():
    model, ids = converted("llama"), tokens(2, 17)
    options = {"max_new_tokens": 7, "eos_token_id": None, "pad_token_id": 1}
    for how in ({"num_beams": 3, "do_sample": False}, {"do_sample": True, "num_return_sequences": 2}):
        made = []
        for use_cache in (True, False):
            torch.manual_seed(0)
            made.append(model.generate(ids, **options, **how, use_cache=use_cache).tolist())
        assert made[0] == made[1]


def test_generation_with_an_assistant_is_rejected_since_a_state_cannot_forget_tokens():
    # by transformers, or by the cache
    with pytest.raises((ValueError, TypeError)):
        converted("llama").generate(tokens(1, 7), assistant_model=tiny_model("llama"), max_new_tokens=3)


def test_attention_without_the_projections_is_rejected():
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=10, n_head=2, vocab_size=31))
    with pytest.raises(SubquadError, match="0 of its 2 layers have a self_attn"):
        convert(model, AttentionSettings())


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_family_trains_in_both_stages(kind):
    model = convert(tiny_model(kind), small_attention())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def change(rate, step, net):
        optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=rate)
        losses = []
        for _ in range(6):
            optimizer.zero_grad()
            losses.append(float(step(net, tokens(2, 23), torch.Tensor.backward)["loss"]))
            optimizer.step()
        return losses

    freeze_for_transfer(model)
    first = change(3e-2, transfer_step, model)
    assert first[-1] < first[0]
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if ".hybrid." in name}
    second = change(1e-2, fine_tune_step, add_lora(model, LinearizeSettings(), seed=0))
    assert second[-1] < second[0]


def test_fused_projections_are_split():
    model = tiny_model("phi3")
    fused = model.model.layers[0].self_attn.qkv_proj.weight.clone()
    layer, _ = attention_layers(convert(model, AttentionSettings()))
    parts = [projection.weight for projection in (layer.q_proj, layer.k_proj, layer.v_proj)]
    assert [len(part) for part in parts] == [60, 20, 20]
    assert torch.equal(torch.cat(parts), fused)


def test_attention_that_computes_something_else_is_rejected():
    model = tiny_model("llama")
    original = model.model.layers[1].self_attn
    # as in models with a gate on the output, or layers without rotary positions
    forward = original.forward
    original.forward = lambda **inputs: (forward(**inputs)[0] * 1.01, None)
    with pytest.raises(SubquadError, match="layer 1 computes more than projections"):
        convert(model, AttentionSettings())


def test_weights_that_are_not_finite_are_named():
    model = tiny_model("llama")
    model.model.layers[1].self_attn.v_proj.weight.data[0, 0] = torch.nan
    with pytest.raises(SubquadError, match=r"layer 1 computes more .*differs by nan"):
        convert(model, AttentionSettings())
