"""Rows of figures from a model in memory: losses by position, a hidden number, speed and memory.

Axes: N sequences, T positions, C edges of the bins.
"""

import re
import statistics
import time
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedTokenizerBase
from transformers.cache_utils import Cache
from transformers.modeling_utils import PreTrainedModel

from subquad.errors import SubquadError
from subquad.llm.evaluation.perplexity import token_losses
from subquad.llm.evaluation.store import Row
from subquad.llm.models.attention import Mode, using

__all__ = ["bins", "cache_bytes", "loss_rows", "passkey_prompt", "passkey_row", "speed_row"]

HEAD = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. "
    "I will quiz you about the important information there.\n"
)
FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
QUESTION = "\nWhat is the pass key? The pass key is"

FINE_FROM = 64
DECODED = 16


def bins(length: int) -> list[int]:
    """Return the edges of bins over the positions 1 to `length` - 1: doubling, from 64 on in half steps."""
    edges, edge = [], 1
    while edge < length:
        edges += [edge, edge * 3 // 2] if edge >= FINE_FROM else [edge]
        edge *= 2
    return [*(edge for edge in edges if edge < length), length]


def loss_rows(model: nn.Module, sequences: Int[Tensor, "N T"], edges: Sequence[int], *, mode: Mode) -> list[Row]:
    """Return, for each sequence, the sum of the losses of its tokens in each bin of positions."""
    rows = []
    for sequence in sequences:
        # the loss of position p stands at p - 1
        losses = token_losses(model, sequence, mode=mode).double().cpu()
        sums = [float(losses[low - 1 : high - 1].sum()) for low, high in pairwise(edges)]
        rows.append({"losses": sums})
    return rows


def passkey_prompt(tokenizer: PreTrainedTokenizerBase, *, tokens: int, depth: float, key: int) -> Int[Tensor, " T"]:
    """Return a text of at most `tokens` tokens that hides a number among sentences of no meaning.

    The probe of arXiv:2305.16300, Appendix B.

    Args:
        tokenizer: The model's.
        tokens: Length of the text; it falls short of it by less than one repetition of the filler or two.
        depth: 0 hides the number at the start, 1 at the end.
        key: The number.

    Raises:
        SubquadError: the text without any filler is longer.
    """

    def encode(repetitions: int) -> list[int]:
        before = round(depth * repetitions)
        hidden = f"The pass key is {key}. Remember it. {key} is the pass key. "
        return tokenizer.encode(f"{HEAD}{FILLER * before}{hidden}{FILLER * (repetitions - before)}{QUESTION}")

    shortest = len(encode(0))
    each = max(1, len(encode(2)) - len(encode(1)))
    repetitions = (tokens - shortest) // each
    if repetitions < 1:
        raise SubquadError(f"--passkey {tokens}: the question alone takes {shortest + each} tokens; give longer texts")
    ids = encode(repetitions)
    while len(ids) > tokens and repetitions > 1:
        repetitions -= 1
        ids = encode(repetitions)
    return torch.tensor(ids)


def passkey_row(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, tokens: int, depth: float, key: int, mode: Mode
) -> Row:
    """Return whether the model, taking the likeliest token each time, gives the hidden number back."""
    ids = passkey_prompt(tokenizer, tokens=tokens, depth=depth, key=key)[None].to(next(model.parameters()).device)
    ends = model.generation_config.eos_token_id
    config = GenerationConfig(
        # the number may be cut into single digits
        max_new_tokens=len(tokenizer.encode(f" {key}", add_special_tokens=False)) + 2,
        do_sample=False,
        eos_token_id=ends,
        pad_token_id=ends[0] if isinstance(ends, list) else ends,
    )
    with using(model, mode), torch.no_grad():
        made = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
    answer = str(tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True))
    found = re.search(r"\d+", answer)
    is_right = found is not None and found[0] == str(key)
    return {
        "tokens": tokens, "read": ids.shape[1], "depth": depth, "key": key, "answer": answer, "right": float(is_right),
    }  # fmt: skip


@torch.no_grad()
def speed_row(model: PreTrainedModel, *, tokens: int, mode: Mode) -> Row:
    """Return tokens read in a second, tokens written in a second after them, and the bytes that are kept meanwhile."""
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(tokens)
    ids = torch.randint(0, model.config.vocab_size, (1, tokens), generator=generator).to(device)
    with using(model, mode):
        # a short text first, which sets up memory and kernels
        model(input_ids=ids[:, : min(tokens, 16)], use_cache=True, logits_to_keep=1)
        began = _now(device)
        given = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        reading = _now(device) - began
        cache = _cache(given)
        size, steps = cache_bytes(cache), []
        for _ in range(DECODED):
            began = _now(device)
            given = model(input_ids=ids[:, -1:], use_cache=True, **{_cache_name(given): cache})
            steps.append(_now(device) - began)
            cache = _cache(given)
    return {
        "tokens": tokens,
        "read_per_second": tokens / reading,
        "written_per_second": 1 / statistics.median(steps),
        "bytes": size,
    }


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _cache_name(output: object) -> str:
    # transformers 5 renamed it
    return "cache" if getattr(output, "cache", None) is not None else "past_key_values"


def _cache(output: object) -> Cache:
    return getattr(output, _cache_name(output))


def cache_bytes(cache: Cache) -> int:
    """Return the bytes that a cache keeps: keys and values, or the state of hybrid attention."""
    tensors: list[Tensor] = []
    for layer in cache.layers:
        state = getattr(layer, "state", None)
        tensors += state if state is not None else [getattr(layer, name) for name in ("keys", "values")]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
