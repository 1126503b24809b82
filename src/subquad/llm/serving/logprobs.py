"""Log-probabilities of tokens and of the most likely alternatives, under the model's own distribution.

They are those of the logits as they are: temperature, penalties and filters change which token is drawn, not these.

Axes: B sequences, T positions, V vocabulary.
"""

import threading
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

__all__ = ["TokenLogprob", "TokenTexts", "chat_logprobs", "completion_logprobs", "token_logprobs"]


LOWEST = -9999.0
"""In place of -∞, which JSON does not have; clients of OpenAI's interface know it as "very unlikely"."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token, its log-probability, and the most likely tokens in its place."""

    token: int
    """The token."""
    logprob: float
    """Its log-probability."""
    top_tokens: "array[int]"
    """The most likely tokens, the most likely first; in an array, since a prompt can have a million of them."""
    top_logprobs: "array[float]"
    """Their log-probabilities."""

    @property
    def top(self) -> Iterable[tuple[int, float]]:
        """The most likely tokens and their log-probabilities."""
        return zip(self.top_tokens, self.top_logprobs, strict=True)


class TokenTexts:
    """The texts of single tokens, each of which is decoded once; may be used in several threads."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        """Take the model's tokenizer, which nothing else uses."""
        self._tokenizer = tokenizer
        self._texts: dict[int, str] = {}
        self._lock = threading.Lock()

    def __getitem__(self, token: int) -> str:
        """Return the text of a token."""
        text = self._texts.get(token)
        if text is None:
            # not all tokenizers can be used in several threads
            with self._lock:
                text = self._tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False)
            assert isinstance(text, str)
            self._texts[token] = text
        return text


def token_logprobs(logits: Float[Tensor, "T V"], tokens: Sequence[int], count: int) -> list[TokenLogprob]:
    """Return the log-probability of each token under the logits of its place, with the `count` most likely ones."""
    logp = logits.log_softmax(-1).clamp(min=LOWEST)
    own = logp.gather(1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0].tolist()
    values, places = (x.tolist() for x in logp.topk(min(count, logp.shape[1]), dim=-1))
    tops = [(array("i", p), array("f", v)) for p, v in zip(places, values, strict=True)]
    return [TokenLogprob(token, value, *top) for token, value, top in zip(tokens, own, tops, strict=True)]


def completion_logprobs(
    texts: TokenTexts, found: Sequence[TokenLogprob | None], tokens: Sequence[int], *, offset: int = 0
) -> dict[str, Any]:
    """Return the `logprobs` of /v1/completions.

    Args:
        texts: Texts of single tokens.
        found: Log-probabilities; None for a first token, which nothing predicts.
        tokens: The tokens.
        offset: Place of the first token in the text, in characters.
    """
    words, offsets = [texts[token] for token in tokens], []
    for text in words:
        offsets.append(offset)
        offset += len(text)
    tops = []
    for one in found:
        # two tokens can have one text; the more likely one comes first and stays
        named = [] if one is None else [*one.top, (one.token, one.logprob)]
        tops.append(None if one is None else {texts[token]: value for token, value in reversed(named)})
    return {
        "tokens": words,
        "token_logprobs": [None if one is None else one.logprob for one in found],
        "top_logprobs": tops,
        "text_offset": offsets,
    }


def chat_logprobs(texts: TokenTexts, found: Sequence[TokenLogprob]) -> dict[str, Any]:
    """Return the `logprobs` of /v1/chat/completions."""

    def entry(token: int, logprob: float) -> dict[str, Any]:
        text = texts[token]
        # a part of a character has no bytes of its own that the text could show
        return {"token": text, "logprob": logprob, "bytes": None if "\ufffd" in text else list(text.encode())}

    content = [{**entry(one.token, one.logprob), "top_logprobs": [entry(*each) for each in one.top]} for one in found]
    return {"content": content, "refusal": None}
