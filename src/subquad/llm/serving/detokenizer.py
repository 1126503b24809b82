"""Tokens as text while they come: no broken characters, and nothing of a stop string, even across tokens."""

from collections.abc import Sequence

import jinja2
from transformers import PreTrainedTokenizerBase

from subquad.errors import SubquadError

__all__ = ["Writer", "chat_text", "tokens_of"]

BROKEN = "\ufffd"
LONGEST_CHARACTER = 16
"""Tokens that may wait for the rest of a character; longer runs are no characters at all."""
CONTEXT = 5
"""Tokens of the prompt that the first new one is decoded behind, since its space may depend on them."""


class Writer:
    """The text of one answer as it grows."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int] = (), stops: Sequence[str] = ()):
        """Begin behind a prompt.

        Args:
            tokenizer: Of the model.
            prompt: The tokens before the answer.
            stops: Texts at which the answer ends; they are no part of it.
        """
        self._tokenizer, self._stops = tokenizer, tuple(stops)
        self._tokens = list(prompt[-CONTEXT:])
        self._known, self._before = len(self._tokens), self._decode(self._tokens)
        self._held = ""
        self.is_stopped = False

    def add(self, token: int) -> str:
        """Return the text that is certain with one token more; sets `is_stopped` at a stop string."""
        self._tokens.append(token)
        return self._release(self._new(is_last=False), is_last=False)

    def end(self) -> str:
        """Return what was held back, since no token follows; sets `is_stopped` at a stop string."""
        return self._release(self._new(is_last=True), is_last=True)

    def _decode(self, tokens: list[int]) -> str:
        text = self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text

    def _new(self, *, is_last: bool) -> str:
        text = self._decode(self._tokens)
        if text.endswith(BROKEN) and not is_last and len(self._tokens) - self._known <= LONGEST_CHARACTER:
            return ""
        new = text[len(self._before) :]
        if not new:
            # a token without text, such as a special one
            del self._tokens[self._known :]
            return ""
        # the tokens of the last piece stay, since how the next is written may depend on them
        self._tokens = self._tokens[self._known :]
        self._known, self._before = len(self._tokens), self._decode(self._tokens)
        return new

    def _release(self, new: str, *, is_last: bool) -> str:
        text = self._held + new
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.is_stopped, self._held = True, ""
            return text[: min(places)]
        kept = 0 if is_last else max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]


def _overlap(text: str, stop: str) -> int:
    """Return how many last characters of the text could be the first of the stop string."""
    longest = min(len(text), len(stop) - 1)
    return next((length for length in range(longest, 0, -1) if stop.startswith(text[-length:])), 0)


def tokens_of(tokenizer: PreTrainedTokenizerBase, text: str, *, is_plain: bool) -> list[int]:
    """Return the tokens of a text, with the model's first token where the text is plain and no chat's."""
    return tokenizer(text, add_special_tokens=is_plain, verbose=False)["input_ids"]  # pyright: ignore[reportReturnType]


def chat_text(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]]) -> str:
    """Return what the model reads of a chat, up to where its answer begins.

    Raises:
        SubquadError: the tokenizer has no chat template, or the template refuses the messages.
    """
    if not tokenizer.chat_template:
        raise SubquadError(
            "the model has no chat template (none in its tokenizer's files): it continues texts, and holds no chats"
        )
    try:
        text = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
    except jinja2.TemplateError as error:
        raise SubquadError(f"the model's chat template refuses the messages: {error}") from error
    assert isinstance(text, str)
    return text
