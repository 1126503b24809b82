"""Texts and chats as tokens, and tokens as text: no incomplete characters, and nothing of a stop string."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from subquad.errors import SubquadError
from subquad.llm.data.chat_templates import render_chat
from subquad.llm.data.readers import tokenizer_errors

INCOMPLETE = "\ufffd"
LONGEST_CHARACTER = 16
"""Tokens that may wait for the rest of a character; longer runs are invalid bytes."""
CONTEXT = 5
"""Tokens of the prompt that are decoded with the first new one, whose leading space may depend on them."""


class Detokenizer:
    """The text of one answer as its tokens arrive."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int] = (), stops: Sequence[str] = ()):
        """Start after a prompt.

        Args:
            tokenizer: The model's tokenizer.
            prompt: Tokens before the answer.
            stops: Stop strings: the answer ends before the first of them.
        """
        self._tokenizer, self._stops = tokenizer, tuple(stops)
        self._tokens = list(prompt[-CONTEXT:])
        # a character whose first bytes end the prompt is new text
        self._decoded, self._prefix = len(self._tokens), self._decode().rstrip(INCOMPLETE)
        self._pending = ""
        self.is_stopped = False

    def add(self, token: int) -> str:
        """Add a token and return the new text that is final; sets `is_stopped` at a stop string."""
        self._tokens.append(token)
        return self._release(self._new_text(is_last=False), is_last=False)

    def finish(self) -> str:
        """Return the pending text, since no token follows; sets `is_stopped` at a stop string."""
        return self._release(self._new_text(is_last=True), is_last=True)

    def _decode(self) -> str:
        text = self._tokenizer.decode(self._tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text

    def _new_text(self, *, is_last: bool) -> str:
        text = self._decode()
        if text.endswith(INCOMPLETE) and not is_last and len(self._tokens) - self._decoded <= LONGEST_CHARACTER:
            return ""
        new = text[len(self._prefix) :]
        if not new:
            # a token without text, such as a special token
            del self._tokens[self._decoded :]
            return ""
        # the tokens of the last addition stay as context, since the text of the next may depend on them
        self._tokens = self._tokens[self._decoded :]
        self._decoded, self._prefix = len(self._tokens), self._decode()
        return new

    def _release(self, new: str, *, is_last: bool) -> str:
        text = self._pending + new
        if starts := [start for stop in self._stops if (start := text.find(stop)) >= 0]:
            self.is_stopped, self._pending = True, ""
            return text[: min(starts)]
        pending = 0 if is_last else max((_overlap(text, stop) for stop in self._stops), default=0)
        self._pending = text[len(text) - pending :]
        return text[: len(text) - pending]


def _overlap(text: str, stop: str) -> int:
    """Return how many of the last characters of the text may be the start of the stop string."""
    longest = min(len(text), len(stop) - 1)
    return next((length for length in range(longest, 0, -1) if stop.startswith(text[-length:])), 0)


def encode(tokenizer: PreTrainedTokenizerBase, text: str, *, add_special_tokens: bool = True) -> list[int]:
    """Return the tokens of a text; chat templates write their special tokens themselves.

    Raises:
        SubquadError: The text contains half of a character.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SubquadError(f"character {error.start} of the text is half a character, or not UTF-8") from error
    with tokenizer_errors(tokenizer):
        # no warning about the length: positions beyond the context are checked by the callers
        return tokenizer(text, add_special_tokens=add_special_tokens, verbose=False)["input_ids"]  # pyright: ignore[reportReturnType]


def encode_after(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the tokens of a text that continues another one, whose last tokens stay as they are.

    Some tokenizers insert a space before what they take for the start of a text, unless it follows a line end.
    """
    line_end = encode(tokenizer, "\n", add_special_tokens=False)
    tokens = encode(tokenizer, f"\n{text}", add_special_tokens=False)
    if tokens[: len(line_end)] == line_end:
        return tokens[len(line_end) :]
    return encode(tokenizer, text, add_special_tokens=False)


def chat_text(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]]) -> str:
    """Return the prompt of a chat, up to where the model's answer starts.

    Args:
        tokenizer: The model's tokenizer.
        messages: Turns with `role` and `content`.

    Raises:
        SubquadError: The tokenizer has no chat template, or the template rejects the messages.
    """
    if not tokenizer.chat_template:
        raise SubquadError("the model cannot chat, since its tokenizer has no chat template; it can continue texts")
    return render_chat(tokenizer, messages, is_prompt=True)
