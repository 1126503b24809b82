"""lm-eval's interface around a model in memory: inputs sorted by length, one forward pass per distinct input.

Answers of one token share their input, so a question with four letters as answers takes one pass instead of four.
What all inputs begin with, such as the examples of a few-shot task, is read once.
"""

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import starmap
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.cache_utils import Cache
from transformers.modeling_utils import PreTrainedModel

from subquad.llm.data.readers import tokenizer_errors
from subquad.llm.models.attention import Mode, attention_mode
from subquad.llm.models.decoding import cache_argument, forward, new_cache
from subquad.llm.training.metrics import check_finite

__all__ = ["HarnessModel"]

Encoded = tuple[tuple[str, str], list[int], list[int]]

SHORTEST_PREFIX = 64
"""Tokens that all inputs have to begin with so that they are read once."""
SHOWN = 60
"""Characters of a text that an error quotes."""


class HarnessModel(TemplateLM):
    """Log-likelihoods of continuations for lm-eval, in one mode of the attention layers."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        mode: Mode = "hybrid",
        batch_tokens: int = 4096,
    ):
        """Wrap a model.

        Args:
            model: The model.
            tokenizer: Its tokenizer.
            mode: What the attention layers compute.
            batch_tokens: Maximum number of tokens of a batch, with padding.
        """
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.mode: Mode = mode
        self.batch_tokens = batch_tokens
        self.max_length = int(getattr(model.config, "max_position_embeddings", None) or 2048)

    @property
    def eot_token_id(self) -> int:
        """End-of-text token."""
        token: Any = self.tokenizer.eos_token_id
        return token

    @property
    def prefix_token_id(self) -> int:
        """Token that replaces an empty context."""
        token: Any = self.tokenizer.bos_token_id
        return self.eot_token_id if token is None else token

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Return the tokens of a text, by default with the tokenizer's own special tokens."""
        begin: Any = self.tokenizer.bos_token
        with tokenizer_errors(self.tokenizer):
            if add_special_tokens is None and not (begin and string.startswith(begin)):
                return self.tokenizer.encode(string)
            return self.tokenizer.encode(string, add_special_tokens=bool(add_special_tokens))

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool, int]]:
        """Return, per context and continuation, log-likelihood, whether it is the greedy one, and the tokens read.

        Raises:
            SubquadError: The logits of a text are not finite.
        """
        encoded = [((context, tail), *self._encode_pair(context, tail)) for context, tail in pairs]
        lengths = [min(len(context) + len(tail) - 1, self.max_length) for _, context, tail in encoded]
        answers = self._loglikelihood_tokens(encoded)
        return [(*answer, length) for answer, length in zip(answers, lengths, strict=True)]

    def _loglikelihood_tokens(self, requests: list[Encoded], **kwargs: Any) -> list[tuple[float, bool]]:
        asked: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, (_, context, continuation) in enumerate(requests):
            # a context that is too long is truncated at its start
            asked[tuple((context + continuation)[-self.max_length - 1 : -1])].append(index)
        wanted = {tokens: [requests[index][2] for index in indices] for tokens, indices in asked.items()}
        answers: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        prefix = _shared_prefix(wanted)
        state = self._state_after(prefix) if prefix else None
        for batch in _batches(sorted(asked, key=len, reverse=True), self.batch_tokens):
            scored = self._score(batch, [wanted[tokens] for tokens in batch], len(prefix), state)
            for tokens, given in zip(batch, scored, strict=True):
                for index, answer in zip(asked[tokens], given, strict=True):
                    text = "".join(requests[index][0]) or str(self.tokenizer.decode([*tokens]))
                    check_finite(answer[0], self.model, self.mode, f"the text that ends with {text[-SHOWN:]!r}")
                    answers[index] = answer
        return answers

    def _state_after(self, tokens: Sequence[int]) -> Cache:
        """Return the state after these tokens."""
        ids, state = torch.tensor([tokens], device=self.model.device), new_cache(self.model)
        with attention_mode(self.model, self.mode):
            forward(self.model, ids, torch.arange(len(tokens), device=self.model.device)[None], state)
        return state

    @torch.no_grad()
    def _score(
        self,
        batch: Sequence[tuple[int, ...]],
        wanted: Sequence[Sequence[list[int]]],
        begin: int,
        state: Cache | None,
    ) -> Iterator[list[tuple[float, bool]]]:
        """Yield, per input, the log-likelihood of each continuation and whether greedy decoding would produce it.

        The first `begin` tokens of each input are in `state`.
        """
        device, longest = self.model.device, len(batch[0])
        # padding on the right, which no position attends to
        ids = torch.tensor([[*tokens[begin:], *[0] * (longest - len(tokens))] for tokens in batch], device=device)
        first = min(starmap(_first_scored, zip(batch, wanted, strict=True)))
        inputs: dict[str, Any] = {"input_ids": ids, "logits_to_keep": longest - first, "use_cache": False}
        if state is not None:
            rows = copy.deepcopy(state)
            rows.batch_repeat_interleave(len(batch))
            positions = torch.arange(begin, longest, device=device).expand(len(batch), -1)
            inputs |= {cache_argument(type(self.model)): rows, "position_ids": positions, "use_cache": True}
        with attention_mode(self.model, self.mode):
            logits = self.model(**inputs).logits
        for row, (tokens, continuations) in enumerate(zip(batch, wanted, strict=True)):
            end = len(tokens) - first
            yield [_answer(logits[row, end - len(tail) : end], tail) for tail in continuations]

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Not implemented: no task here needs it."""
        raise NotImplementedError("perplexity is measured over packed sequences (subquad.llm.training.metrics)")

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """Not implemented: no task here needs it."""
        raise NotImplementedError("only multiple-choice tasks are measured")


def _answer(logits: Tensor, continuation: list[int]) -> tuple[float, bool]:
    log_probabilities = logits.float().log_softmax(-1)
    tokens = torch.tensor(continuation, device=logits.device)
    total = log_probabilities.gather(1, tokens[:, None]).sum()
    return float(total), bool((log_probabilities.argmax(-1) == tokens).all())


def _first_scored(tokens: Sequence[int], continuations: Sequence[Sequence[int]]) -> int:
    """Return the position of an input whose logits are the first ones needed."""
    return max(len(tokens) - max(map(len, continuations)), 0)


def _shared_prefix(wanted: Mapping[tuple[int, ...], Sequence[Sequence[int]]]) -> Sequence[int]:
    """Return the tokens that all inputs begin with, without those after which logits are needed; empty if few."""
    if len(wanted) < 2:
        return ()
    # the least and the greatest input have in common what all have
    low, high = min(wanted), max(wanted)
    end = min(starmap(_first_scored, wanted.items()))
    shared = next((place for place in range(end) if low[place] != high[place]), end)
    return low[:shared] if shared >= SHORTEST_PREFIX else ()


def _batches(inputs: Sequence[tuple[int, ...]], batch_tokens: int) -> Iterator[Sequence[tuple[int, ...]]]:
    start = 0
    while start < len(inputs):
        count = max(1, batch_tokens // len(inputs[start]))
        yield inputs[start : start + count]
        start += count
