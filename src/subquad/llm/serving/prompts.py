"""Prompts of requests as tokens. A thread of its own tokenizes, since the event loop would stand still meanwhile."""

import asyncio
import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NoReturn, TypeVar

from transformers import PreTrainedTokenizerBase

from subquad.errors import SubquadError
from subquad.llm.serving.engine import EngineClosed
from subquad.llm.serving.protocol import ChatRequest, CompletionRequest, RequestError
from subquad.llm.serving.token_lengths import characters_per_token
from subquad.llm.serving.tokenization import chat_text, encode

__all__ = ["Prompt", "PromptReader"]

COMPLETION_TOKENS = 16
"""Default length of an answer of /v1/completions; OpenAI's value."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A prompt of a request that can be answered."""

    tokens: list[int]
    """Tokens, at least one."""
    max_tokens: int
    """Maximum number of tokens of the answer."""
    echo: str | None
    """Text of the prompt, if the reply begins with it."""


class PromptReader:
    """Turns the prompts of requests into tokens, those of several requests in turn."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_context: int,
        vocab_size: int,
        is_closed: Callable[[], bool] = lambda: False,
    ):
        """Start no thread yet.

        Args:
            tokenizer: The model's tokenizer; a copy is used.
            max_context: Maximum number of tokens of prompt and answer together.
            vocab_size: Size of the model's vocabulary.
            is_closed: Whether no more prompts are answered; those that wait get an error then.
        """
        # a copy and one thread, since not all tokenizers can be used in several
        self._tokenizer = copy.deepcopy(tokenizer)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")
        self._max_context, self._vocab_size, self._is_closed = max_context, vocab_size, is_closed
        self._characters_per_token = characters_per_token(tokenizer)

    def close(self) -> None:
        """End the thread after the text that it reads now."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def read(self, body: ChatRequest | CompletionRequest) -> list[Prompt]:
        """Return the prompts of a request.

        Raises:
            RequestError: One of them is empty, too long, or has tokens that the model does not have.
            EngineClosed: No more prompts are answered.
        """
        if isinstance(body, ChatRequest):
            tokens = await self._run(lambda: self._chat(body))
            max_tokens = self._max_tokens(tokens, body, field="messages")
            self._check_vocabulary(tokens, field="messages")
            return [Prompt(tokens=tokens, max_tokens=max_tokens, echo=None)]
        prompts = body.prompts()
        if not prompts:
            _refuse_empty()
        for prompt in prompts:
            self._check_size(prompt)
        # one by one, so that other requests get their turn
        return [await self._completion(prompt, body) for prompt in prompts]

    async def _run(self, work: Callable[[], T]) -> T:
        def guarded() -> T:
            if self._is_closed():
                raise EngineClosed("the engine was stopped")
            return work()

        return await asyncio.get_running_loop().run_in_executor(self._thread, guarded)

    def _chat(self, body: ChatRequest) -> list[int]:
        try:
            text = chat_text(self._tokenizer, [message.plain() for message in body.messages])
        except SubquadError as error:
            raise RequestError(str(error), field="messages") from error
        # not of the messages, of which a template may drop parts
        self._check_length(text, field="messages")
        return encode(self._tokenizer, text, add_special_tokens=False)

    async def _completion(self, prompt: str | list[int], body: CompletionRequest) -> Prompt:
        tokens = await self._run(lambda: encode(self._tokenizer, prompt)) if isinstance(prompt, str) else prompt
        if not tokens:
            _refuse_empty()
        max_tokens = self._max_tokens(tokens, body, field="prompt")
        self._check_vocabulary(tokens, field="prompt")
        echo = None
        if body.echo:
            echo = prompt if isinstance(prompt, str) else await self._run(lambda: self._text(tokens))
        return Prompt(tokens=tokens, max_tokens=max_tokens, echo=echo)

    def _text(self, tokens: list[int]) -> str:
        text = self._tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text

    def _check_size(self, prompt: str | list[int]) -> None:
        """Check what can be checked of a prompt without its tokens."""
        if not prompt:
            _refuse_empty()
        if isinstance(prompt, str):
            self._check_length(prompt, field="prompt")

    def _check_length(self, text: str, *, field: str) -> None:
        longest = self._characters_per_token
        if longest is not None and len(text) > longest * self._max_context:
            raise RequestError(
                f"the prompt ({len(text):,} characters, at most {longest} for each token) exceeds the maximum of "
                f"{self._max_context:,} tokens (--max-context)",
                field=field,
                code="context_length_exceeded",
            )

    def _check_vocabulary(self, tokens: Sequence[int], *, field: str) -> None:
        wrong = next((token for token in tokens if not 0 <= token < self._vocab_size), None)
        if wrong is not None:
            raise RequestError(
                f"{field}: {wrong:,} is not a token; the model's tokens are 0 to {self._vocab_size - 1:,}", field=field
            )

    def _max_tokens(self, prompt: Sequence[int], body: ChatRequest | CompletionRequest, *, field: str) -> int:
        left = self._max_context - len(prompt)
        is_chat = isinstance(body, ChatRequest)
        wanted = body.most_tokens()
        if wanted is None and not is_chat:
            wanted = max(1, min(left, COMPLETION_TOKENS))
        least = 1 if wanted is None else wanted
        if least > left:
            # what to change: the text, unless it leaves room for an answer
            if left > 0:
                field = "max_completion_tokens" if is_chat and body.max_completion_tokens is not None else "max_tokens"
            raise RequestError(
                f"the prompt ({len(prompt):,} tokens) and the answer ({least:,}) exceed the maximum of "
                f"{self._max_context:,} tokens (--max-context)",
                field=field,
                code="context_length_exceeded",
            )
        return left if wanted is None else wanted


def _refuse_empty() -> NoReturn:
    raise RequestError("prompt: it is empty; there is no text to continue", field="prompt")
