"""Text generation from one prompt: the loop behind `generate` and `chat`; constant time and memory per token."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase
from transformers.cache_utils import Cache
from transformers.modeling_utils import PreTrainedModel

from subquad.errors import SubquadError
from subquad.llm.models.decoding import beyond_training, eos_tokens, forward, new_cache
from subquad.llm.models.loading import load, place
from subquad.llm.serving.prefix_states import cache_of
from subquad.llm.serving.sampling import NOT_FINITE, TokenSampler, parameters_of, sample
from subquad.llm.serving.settings import GenerateSettings
from subquad.llm.serving.state_files import TextState
from subquad.llm.serving.tokenization import Detokenizer, encode, encode_after
from subquad.llm.settings import PlacementSettings
from subquad.progress import say

__all__ = ["check_vocabulary", "generate_text", "generate_tokens", "load_for_generation", "stream_text"]

PREFILL_CHUNK_SIZE = 512
"""Tokens of a prompt in one forward pass; bounds the memory, and the time until a stop is noticed."""


def load_for_generation(
    directory: Path | str, settings: PlacementSettings
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Open a linearized model.

    Args:
        directory: Folder of a linearized model or an adapter.
        settings: Device and type.

    Raises:
        SubquadError: The folder is missing or unfinished, or holds a checkpoint that was not linearized, or there is no
            such device.
    """
    model, tokenizer = load(directory)
    return place(model, settings), tokenizer


def check_vocabulary(model: PreTrainedModel, tokens: Sequence[int]) -> None:
    """Check that a model has an embedding for each token.

    Raises:
        SubquadError: One is beyond the model's vocabulary.
    """
    if max(tokens) >= model.config.vocab_size:
        raise SubquadError(
            f"the tokenizer gives token {max(tokens):,}, and the model's tokens are 0 to "
            f"{model.config.vocab_size - 1:,}; the folder's tokenizer does not belong to its model"
        )


def stream_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    settings: GenerateSettings = GenerateSettings(),
    *,
    seed: int = 0,
    after: TextState | None = None,
    on_read: Callable[[list[int], Cache], None] | None = None,
) -> Iterator[str]:
    """Yield the continuation of a prompt as it is generated, in the current mode of the attention layers.

    Args:
        model: A language model, linearized or not.
        tokenizer: Its tokenizer.
        prompt: Text to continue.
        settings: Number of tokens and sampling parameters.
        seed: Seed of the sampled tokens.
        after: A text before the prompt that was read already.
        on_read: Called once with all tokens up to the end of the prompt, and with the cache after them.

    Raises:
        SubquadError: The prompt has no tokens, the text would be longer than the model's context, or the logits are not
            finite.
    """
    # special tokens, such as one at the start of a text, stand in the text that was read already
    tokens = encode(tokenizer, prompt) if after is None else encode_after(tokenizer, prompt)
    if not tokens:
        raise SubquadError("the prompt (--prompt or standard input) is empty; there is no text to continue")
    check_vocabulary(model, tokens)
    text = tokens if after is None else [*after.tokens, *tokens]
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest and len(text) >= longest:
        raise SubquadError(
            f"the prompt has {len(text):,} tokens, and the model supports at most {longest:,}; shorten it"
        )
    if longest and len(text) + settings.max_new_tokens > longest:
        raise SubquadError(
            f"--max-new-tokens {settings.max_new_tokens}: together with the prompt ({len(text):,} tokens) this exceeds "
            f"the model's maximum of {longest:,} tokens; shorten one of them"
        )
    if warning := beyond_training(model, len(text) + settings.max_new_tokens):
        say(f"warning: {warning}")
    sampler = TokenSampler(parameters_of(settings), seed)
    cache = new_cache(model) if after is None else cache_of(model, after.states, len(after.tokens))
    detokenizer, eos = Detokenizer(tokenizer, text), eos_tokens(model, tokenizer)
    for token in generate_tokens(model, tokens, cache, sampler, max_new_tokens=settings.max_new_tokens):
        if on_read is not None:
            on_read(text, cache)
            on_read = None
        if token in eos:
            break
        yield detokenizer.add(token)
    yield detokenizer.finish()


def generate_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    settings: GenerateSettings = GenerateSettings(),
    *,
    seed: int = 0,
) -> str:
    """Return the continuation of a prompt as a whole; see `stream_text`."""
    return "".join(stream_text(model, tokenizer, prompt, settings, seed=seed))


def generate_tokens(
    model: PreTrainedModel,
    prompt: Sequence[int],
    cache: Cache,
    sampler: TokenSampler,
    *,
    max_new_tokens: int,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Iterator[int]:
    """Yield tokens after a prompt; the last one that was yielded has not been through the model yet.

    Args:
        model: The model.
        prompt: New tokens, at least one.
        cache: Cache of all tokens before the prompt; updated in place.
        sampler: Chooses the tokens.
        max_new_tokens: Maximum number of tokens.
        is_stopped: Checked between two chunks of the prompt; if true, nothing is yielded.

    Raises:
        SubquadError: The logits are not finite.
    """
    logits = torch.empty(0)
    for start in range(0, len(prompt), PREFILL_CHUNK_SIZE):
        if is_stopped():
            return
        logits = _extend(model, prompt[start : start + PREFILL_CHUNK_SIZE], cache)
    for count in range(1, max_new_tokens + 1):
        (token,) = sample(logits, [sampler])
        if token is None:
            raise SubquadError(f"token {cache.get_seq_length() + 1:,}: {NOT_FINITE}")
        yield token
        if count < max_new_tokens:
            logits = _extend(model, [token], cache)


def _extend(model: PreTrainedModel, tokens: Sequence[int], cache: Cache) -> torch.Tensor:
    device, start = next(model.parameters()).device, cache.get_seq_length()
    ids = torch.tensor(tokens, device=device)[None]
    return forward(model, ids, torch.arange(start, start + len(tokens), device=device)[None], cache)
