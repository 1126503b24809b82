"""Log-probabilities of tokens and of the most likely alternatives, under the model's own distribution.

They are those of the logits as they are: temperature, penalties and filters change which token is drawn, not these.

Axes: B sequences, T positions, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

__all__ = ["TokenLogprob", "chat_logprobs", "completion_logprobs", "token_logprobs"]


@dataclass(frozen=True)
class TokenLogprob:
    """A token, its log-probability, and the most likely tokens in its place."""

    token: int
    """The token."""
    logprob: float
    """Its log-probability."""
    top: tuple[tuple[int, float], ...]
    """The most likely tokens and their log-probabilities, the most likely first."""


def token_logprobs(logits: Float[Tensor, "T V"], tokens: Sequence[int], count: int) -> list[TokenLogprob]:
    """Return the log-probability of each token under the logits of its place, with the `count` most likely ones."""
    logp = logits.log_softmax(-1)
    own = logp.gather(1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0].tolist()
    values, places = (x.tolist() for x in logp.topk(min(count, logp.shape[1]), dim=-1))
    tops = [tuple(zip(p, v, strict=True)) for p, v in zip(places, values, strict=True)]
    return [TokenLogprob(*each) for each in zip(tokens, own, tops, strict=True)]


def completion_logprobs(
    tokenizer: PreTrainedTokenizerBase, found: Sequence[TokenLogprob | None], tokens: Sequence[int], *, offset: int = 0
) -> dict[str, Any]:
    """Return the `logprobs` of /v1/completions.

    Args:
        tokenizer: The model's tokenizer.
        found: Log-probabilities; None for a first token, which nothing predicts.
        tokens: The tokens.
        offset: Place of the first token in the text, in characters.
    """
    texts, offsets = [_text(tokenizer, token) for token in tokens], []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    tops = []
    for one in found:
        # two tokens can have one text; the more likely one comes first and stays
        named = [] if one is None else [*one.top, (one.token, one.logprob)]
        tops.append(None if one is None else {_text(tokenizer, token): value for token, value in reversed(named)})
    return {
        "tokens": texts,
        "token_logprobs": [None if one is None else one.logprob for one in found],
        "top_logprobs": tops,
        "text_offset": offsets,
    }


def chat_logprobs(tokenizer: PreTrainedTokenizerBase, found: Sequence[TokenLogprob]) -> dict[str, Any]:
    """Return the `logprobs` of /v1/chat/completions."""

    def entry(token: int, logprob: float) -> dict[str, Any]:
        text = _text(tokenizer, token)
        # a part of a character has no bytes of its own that the text could show
        return {"token": text, "logprob": logprob, "bytes": None if "\ufffd" in text else list(text.encode())}

    content = [{**entry(one.token, one.logprob), "top_logprobs": [entry(*each) for each in one.top]} for one in found]
    return {"content": content, "refusal": None}


def _text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    text = tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text
