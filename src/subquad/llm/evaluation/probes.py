"""Measurements of a model in memory: loss by position, passkey retrieval, speed and memory of decoding.

Axes: N sequences, T positions.
"""

import re
import statistics
import time
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from subquad.errors import SubquadError
from subquad.llm.data.readers import tokenizer_errors
from subquad.llm.evaluation.store import Row
from subquad.llm.models.attention import Mode, attention_mode
from subquad.llm.models.decoding import cache_bytes, forward, new_cache
from subquad.llm.training.metrics import token_losses

INSTRUCTION = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. "
    "I will quiz you about the important information there.\n"
)
FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
WORD = re.compile(r"\S+\s*")
QUESTION = "\nWhat is the pass key? The pass key is"

HALF_STEPS_FROM = 64
DECODED = 16
"""Tokens of a measurement of decoding speed."""


def position_bins(length: int) -> list[int]:
    """Return the edges of bins over positions 1 to `length` - 1: powers of two, from 64 on in half steps."""
    edges, edge = [], 1
    while edge < length:
        edges += [edge, edge * 3 // 2] if edge >= HALF_STEPS_FROM else [edge]
        edge *= 2
    return [*(edge for edge in edges if edge < length), length]


def loss_rows(model: nn.Module, sequences: Int[Tensor, "N T"], edges: Sequence[int], *, mode: Mode) -> list[Row]:
    """Return, for each sequence, the sum of the losses of its tokens in each bin of positions."""
    rows = []
    for sequence in sequences:
        # the loss of position p is at index p - 1
        losses = token_losses(model, sequence, mode=mode).cpu().double()
        rows.append({"losses": [float(losses[low - 1 : high - 1].sum()) for low, high in pairwise(edges)]})
    return rows


def passkey_prompt(
    tokenizer: PreTrainedTokenizerBase, *, tokens: int, depth: float, key: int, text: str | None = None
) -> Int[Tensor, " T"]:
    """Return a prompt that hides a number in a text (arXiv:2305.16300, Appendix B, with a text of repeated sentences).

    Repeated sentences make it easy: nothing else in the prompt is like the number.

    Args:
        tokenizer: The model's tokenizer.
        tokens: Maximum length; the prompt is shorter by less than a word, or than one repetition.
        depth: Position of the number: 0 is the start of the prompt, 1 its end.
        key: The number.
        text: Text around the number, from its beginning; None for five sentences that are repeated.

    Raises:
        SubquadError: `tokens` is too small, or the text too short.
    """
    # a word has at least one token
    words = WORD.findall(text or FILLER, 0, 100 * tokens)[:tokens]
    parts = words if text is not None else [FILLER] * (1 + tokens // len(words))

    def encode(count: int) -> list[int]:
        before, after = parts[: round(depth * count)], parts[round(depth * count) : count]
        hidden = f"The pass key is {key}. Remember it. {key} is the pass key. "
        with tokenizer_errors(tokenizer):
            return tokenizer.encode(f"{INSTRUCTION}{''.join(before)}{hidden}{''.join(after)}{QUESTION}")

    # as many parts as fit
    count = bisect_right(range(1, len(parts) + 1), tokens, key=lambda count: len(encode(count)))
    ids = encode(count)
    while count and len(ids) > tokens:
        count -= 1
        ids = encode(count)
    if not count or (text is not None and count == len(parts) < tokens):
        raise SubquadError(f"a prompt of {tokens:,} tokens with a passkey: the text gives at best one of {len(ids):,}")
    return torch.tensor(ids)


def passkey_row(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, tokens: int, depth: float, key: int, mode: Mode,
    text: str | None = None,
) -> Row:  # fmt: skip
    """Return whether greedy decoding reproduces the hidden number; see `passkey_prompt`."""
    ids = passkey_prompt(tokenizer, tokens=tokens, depth=depth, key=key, text=text)[None]
    ids = ids.to(next(model.parameters()).device)
    eos = model.generation_config.eos_token_id if model.generation_config else None
    config = GenerationConfig(
        # some tokenizers split the number into digits
        max_new_tokens=len(tokenizer.encode(f" {key}", add_special_tokens=False)) + 2,
        do_sample=False,
        eos_token_id=eos,
        pad_token_id=eos[0] if isinstance(eos, list) else eos,
    )
    with attention_mode(model, mode), torch.no_grad():
        output = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)  # pyright: ignore[reportCallIssue] (its decorated `generate`)
    answer = str(tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))
    found = re.search(r"\d+", answer)
    is_right = found is not None and found[0] == str(key)
    return {
        "tokens": tokens, "read": ids.shape[1], "depth": depth, "key": key, "answer": answer, "right": float(is_right),
    }  # fmt: skip


def speed_row(model: PreTrainedModel, *, tokens: int, mode: Mode) -> Row:
    """Return tokens per second of prefill and of decoding after it, and the size of the cache in bytes."""
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(tokens)
    ids = torch.randint(0, model.config.vocab_size, (1, tokens), generator=generator).to(device)
    positions, cache, seconds = torch.arange(tokens + DECODED, device=device)[None], new_cache(model), []
    with attention_mode(model, mode):
        # a short prompt first, which allocates memory and selects kernels
        forward(model, ids[:, :16], positions[:, : min(tokens, 16)], new_cache(model))
        start = _now(device)
        forward(model, ids, positions[:, :tokens], cache)
        prefill, size = _now(device) - start, cache_bytes(cache)
        for position in range(tokens, tokens + DECODED):
            start = _now(device)
            forward(model, ids[:, -1:], positions[:, position : position + 1], cache)
            seconds.append(_now(device) - start)
    return {
        "tokens": tokens,
        "prefill_per_second": tokens / prefill,
        "decoded_per_second": 1 / statistics.median(seconds),
        "bytes": size,
    }


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
