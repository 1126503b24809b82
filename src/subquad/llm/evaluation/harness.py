"""lm-eval's interface around a model in memory: inputs sorted by length, one forward pass per distinct input.

Answers of one token share their input, so a question with four letters as answers takes one pass instead of four.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from subquad.llm.models.attention import Mode, attention_mode

__all__ = ["HarnessModel"]

Encoded = tuple[tuple[str, str], list[int], list[int]]


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
        if add_special_tokens is None and not (begin and string.startswith(begin)):
            return self.tokenizer.encode(string)
        return self.tokenizer.encode(string, add_special_tokens=bool(add_special_tokens))

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool, int]]:
        """Return, per context and continuation, log-likelihood, whether it is the greedy one, and the tokens read."""
        encoded = [((context, tail), *self._encode_pair(context, tail)) for context, tail in pairs]
        lengths = [min(len(context) + len(tail) - 1, self.max_length) for _, context, tail in encoded]
        answers = self._loglikelihood_tokens(encoded)
        return [(*answer, length) for answer, length in zip(answers, lengths, strict=True)]

    def _loglikelihood_tokens(self, requests: list[Encoded], **kwargs: Any) -> list[tuple[float, bool]]:
        asked: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, (_, context, continuation) in enumerate(requests):
            # a context that is too long is truncated at its start
            asked[tuple((context + continuation)[-self.max_length - 1 : -1])].append(index)
        answers: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        for batch in _batches(sorted(asked, key=len, reverse=True), self.batch_tokens):
            wanted = [[requests[index][2] for index in asked[tokens]] for tokens in batch]
            for tokens, given in zip(batch, self._score(batch, wanted), strict=True):
                for index, answer in zip(asked[tokens], given, strict=True):
                    answers[index] = answer
        return answers

    @torch.no_grad()
    def _score(
        self, batch: Sequence[tuple[int, ...]], wanted: Sequence[Sequence[list[int]]]
    ) -> Iterator[list[tuple[float, bool]]]:
        """Yield, per input, the log-likelihood of each continuation and whether greedy decoding would produce it."""
        device, longest = next(self.model.parameters()).device, len(batch[0])
        # padding on the right, which no position attends to
        ids = torch.tensor([[*tokens, *[0] * (longest - len(tokens))] for tokens in batch], device=device)
        first = min(
            len(tokens) - max(map(len, continuations)) for tokens, continuations in zip(batch, wanted, strict=True)
        )
        kept = torch.arange(max(first, 0), longest, device=device)
        with attention_mode(self.model, self.mode):
            logits = self.model(input_ids=ids, use_cache=False, logits_to_keep=kept).logits
        for row, (tokens, continuations) in enumerate(zip(batch, wanted, strict=True)):
            end = len(tokens) - int(kept[0])
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


def _batches(inputs: Sequence[tuple[int, ...]], batch_tokens: int) -> Iterator[Sequence[tuple[int, ...]]]:
    start = 0
    while start < len(inputs):
        count = max(1, batch_tokens // len(inputs[start]))
        yield inputs[start : start + count]
        start += count
