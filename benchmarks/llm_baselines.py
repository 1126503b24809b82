"""Published ways to linearize a model, on the tokens and texts of `llm_length.py`: LoLCATs, and a forget gate.

    SUBQUAD_DATA=DATA python benchmarks/llm_baselines.py --out length [--arms lolcats gate] [--seeds 0 1 2]

- lolcats: attention and recipe of arXiv:2410.10254 (`--config paper`), with batches of one sequence, since the tokens
  are few; its rate of fine-tuning, 1e-4, is for 20 million tokens. lolcats, our rates: with the rates of `llm_length`.
- gate: LoLCATs with the scalar forget gate of Lizard (arXiv:2507.09025): the weight of an earlier token s at a token t
  is multiplied by the product of g_r = sigmoid(w x_r + b) over s < r <= t, for each head, with x the input of the
  layer; w is 0 and the half-life 1,024 tokens before training. Our rates.

`--out` is the folder of `llm_length`, which shares the texts; tokens, sequence lengths and measurements are the same.
First it is checked that attention in blocks equals its definition, and LoLCATs' if the gate forgets nothing. The last
line is JSON.
"""

import json
import math
import os
from pathlib import Path

import torch
from bio_speed import machine
from llm_length import PAPER, file_name, kept, measure, parser_for, summary, write_texts
from torch import nn

from subquad.llm.data.packing import prepare_text
from subquad.llm.models import attention as attention_module
from subquad.llm.models.adapter import add_lora
from subquad.llm.models.checkpoints import open_checkpoint, open_tokenizer
from subquad.llm.models.convert import convert
from subquad.llm.models.location import locate
from subquad.llm.settings import AttentionSettings, LinearizeSettings
from subquad.llm.training.lora import fine_tune
from subquad.llm.training.transfer import transfer
from subquad.nn.attention import HybridAttention
from subquad.ops.linattn import hybrid_quadratic

PUBLISHED = {
    "transfer_learning_rate": 1e-2, "lora_learning_rate": 1e-4, "feature_map_learning_rate": 0.0, "lora_rank": 8,
    "lora_alpha": 16.0, "lora_targets": ("q_proj", "k_proj", "v_proj", "o_proj"),
}  # fmt: skip
ARMS = {"lolcats": PUBLISHED, "lolcats, our rates": {}, "gate": {}}
HALF_LIFE = 1024


class GatedAttention(HybridAttention):
    """Hybrid attention with a forget gate per query head, for whole sequences only."""

    def __init__(self, **options):
        super().__init__(**options)
        self.gate = nn.Linear(self.heads * self.head_width, self.heads)
        nn.init.zeros_(self.gate.weight)
        nn.init.constant_(self.gate.bias, -math.log(2 ** (1 / HALF_LIFE) - 1))
        self.hidden = None

    def forward(self, q, k, v, *, use_linear=True, **options):
        """Return the output; the layer's input is in `hidden`."""
        if not use_linear or options.get("state") is not None or options.get("return_state"):
            return super().forward(q, k, v, use_linear=use_linear, **options)
        w, groups, (rows, heads, length, width) = self.window, self.heads // self.kv_heads, q.shape
        blocks = -(-length // w)
        phi_q, phi_k = self.map_q(q), self.map_k(k)
        log_gate = nn.functional.logsigmoid(self.gate(self.hidden.to(self.gate.weight.dtype))).transpose(1, 2)

        def in_blocks(x):
            x = nn.functional.pad(x, (0, 0, 0, blocks * w - length))
            return x.unflatten(2, (blocks, w))

        k, v = (x.repeat_interleave(groups, 1) for x in (k, v))
        decay = nn.functional.pad(log_gate, (0, blocks * w - length)).cumsum(-1).unflatten(2, (blocks, w))
        q, k, v, phi_q, phi_k = map(in_blocks, (q, k, v, phi_q, phi_k))
        v = nn.functional.pad(v, (0, 1), value=1.0)
        scale = width**-0.5 if self.scale is None else self.scale
        causal = torch.ones(w, w, dtype=torch.bool).tril()
        mask = torch.cat((torch.ones_like(causal), causal), 1)
        total = v.new_zeros(rows, heads, phi_q.shape[-1], v.shape[-1])
        # the sum is relative to this logarithm, so that no factor is above 1
        level = decay.new_zeros(rows, heads)
        outputs = []
        for block in range(blocks):
            if block > 1:
                end = decay[:, :, block - 2, -1]
                weight = (end[..., None] - decay[:, :, block - 2]).exp()[..., None]
                left = (phi_k[:, :, block - 2] * weight).mT @ v[:, :, block - 2]
                total, level = total * (end - level).exp()[..., None, None] + left, end
            near = slice(max(block - 1, 0), block + 1)
            keys, values = (x[:, :, near].flatten(2, 3) for x in (k, v))
            scores = (q[:, :, block] @ keys.mT * scale).masked_fill(~mask[:, -keys.shape[2] :], -torch.inf)
            weights = (scores - scores.amax(-1, keepdim=True)).exp() * self.mix.exp()[:, None, None]
            past = (decay[:, :, block] - level[..., None]).exp()[..., None] * (phi_q[:, :, block] @ total)
            sums = weights @ values + past
            outputs.append(sums[..., :-1] / sums[..., -1:])
        return torch.cat(outputs, 2)[:, :, :length]


def keep_hidden(layer, arguments, keywords):
    """Keep the input of an attention layer for its gate."""
    layer.hybrid.hidden = keywords["hidden_states"] if "hidden_states" in keywords else arguments[0]


def converted(arm):
    """Return SmolLM2 with the attention of an arm, and its tokenizer."""
    model, tokenizer = open_checkpoint(locate("smollm2")), open_tokenizer(locate("smollm2"))
    if arm == "gate":
        attention_module.HybridAttention = GatedAttention
    try:
        convert(model, AttentionSettings(**PAPER), check=False)
    finally:
        attention_module.HybridAttention = HybridAttention
    if arm == "gate":
        for layer in attention_module.attention_layers(model):
            layer.register_forward_pre_hook(keep_hidden, with_kwargs=True)
    return model, tokenizer


@torch.no_grad()
def check():
    """Return the largest difference between attention in blocks and its definition, with a gate that forgets or not."""
    torch.manual_seed(0)
    net = GatedAttention(heads=6, kv_heads=2, head_width=5, window=7)
    nn.init.constant_(net.gate.bias, 1e4)
    net.hidden = torch.randn(1, 61, 30)
    q, k, v = (torch.randn(1, heads, 61, 5) for heads in (6, 2, 2))
    expected = hybrid_quadratic(q, k, v, phi_q=net.map_q(q), phi_k=net.map_k(k), mix=net.mix, window=7)
    error = float((net(q, k, v) - expected).abs().max())
    # and with a gate that forgets, all pairs of tokens at once
    nn.init.normal_(net.gate.weight)
    nn.init.constant_(net.gate.bias, 2.0)
    decay = nn.functional.logsigmoid(net.gate(net.hidden)).mT.cumsum(-1)
    k, v = (x.repeat_interleave(3, 1) for x in (k, v))
    block = torch.arange(61) // 7
    causal = torch.ones(61, 61, dtype=torch.bool).tril()
    near = causal & (block[:, None] - block <= 1)
    scores = (q @ k.mT * 5**-0.5).masked_fill(~near, -torch.inf)
    weights = net.mix.exp()[:, None, None] * (scores - scores.amax(-1, keepdim=True)).exp()
    features = net.map_q(q) @ net.map_k(k[:, ::3]).mT
    weights = weights + (features * (decay[..., None] - decay[..., None, :]).exp()).masked_fill(~causal | near, 0.0)
    expected = weights @ v / weights.sum(-1, keepdim=True)
    error = max(error, float((net(q, k[:, ::3], v[:, ::3]) - expected).abs().max()))
    if error > 1e-4:
        raise SystemExit(f"the blocks differ from the definition by {error}")
    return error


def train(arm, training, options, seed):
    """Return a linearized model and its tokenizer."""
    model, tokenizer = converted(arm)
    settings = LinearizeSettings(
        attention=AttentionSettings(**PAPER),
        sequence_length=options.sequence_length,
        text_weights=(1.0,) * len(training),
        **ARMS[arm],
    )
    data = prepare_text(
        tokenizer, training, [], sequence_length=options.sequence_length, weights=settings.text_weights, quiet=True
    )
    how = {"precision": options.precision, "mixture": data.mixture, "seed": seed}
    transfer(model, data.training.ids, settings, tokens=options.transfer_tokens, **how)
    tuned = add_lora(model, settings, seed=seed)
    fine_tune(tuned, data.training.ids, settings, tokens=options.lora_tokens, **how)
    return tuned.merge_and_unload(), tokenizer


def main():
    parser = parser_for(__doc__, ARMS)
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    options = parser.parse_args()
    if "SUBQUAD_DATA" not in os.environ:
        parser.error("SUBQUAD_DATA must name the folder of the data")
    torch.set_num_threads(options.threads)
    error = check()
    options.out.mkdir(parents=True, exist_ok=True)
    training, texts = write_texts(Path(os.environ["SUBQUAD_DATA"]) / "llm", options.out)
    tokenizer = open_tokenizer(locate("smollm2"))
    held_out = {
        name: prepare_text(tokenizer, training, [file], sequence_length=options.length, quiet=True).holdout.ids
        for name, file in texts.items()
        if name in options.texts
    }
    given = {
        "held_out": {name: ids[: options.sequences] for name, ids in held_out.items()},
        "tokenizer": tokenizer,
        "passkeys": options.passkeys,
        "haystack": texts["speeches"],
    }
    found = {}
    for seed in options.seeds:
        for arm in options.arms:

            def run(arm=arm, seed=seed):
                model, _ = train(arm, training, options, seed)
                return {mode: measure(model, mode=mode, **given) for mode in ("hybrid", "without_linear")}

            own = kept(options.out / file_name(arm, seed), options, run)
            found.setdefault(arm, []).append(own["hybrid"])
            found.setdefault(f"{arm}, without linear", []).append(own["without_linear"])
            print(arm, seed, json.dumps(own), flush=True)
    print(
        json.dumps(
            {
                "benchmark": "llm_baselines",
                **machine(options.threads),
                "largest_difference": error,
                "seeds": options.seeds,
                "tokens": [options.transfer_tokens, options.lora_tokens],
                "sequence_length": options.sequence_length,
                "passkeys": options.passkeys,
                "results": {name: summary(runs) for name, runs in found.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
