"""A chat whose state is kept between turns: a turn costs its own tokens, not those of all turns before it."""

from collections.abc import Callable, Iterator

from transformers import PreTrainedTokenizerBase
from transformers.cache_utils import Cache
from transformers.modeling_utils import PreTrainedModel

from subquad.errors import SubquadError
from subquad.llm.models.decoding import cache_bytes, eos_tokens, new_cache
from subquad.llm.serving.generation import check_vocabulary, generate_tokens
from subquad.llm.serving.sampling import TokenSampler, parameters_of
from subquad.llm.serving.settings import ChatSettings
from subquad.llm.serving.tokenization import Detokenizer, chat_text, encode, encode_after

__all__ = ["ChatSession"]


class ChatSession:
    """A chat with a model."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        settings: ChatSettings = ChatSettings(),
        *,
        seed: int = 0,
    ):
        """Start a chat.

        Args:
            model: A linearized model, or one with softmax attention.
            tokenizer: Its tokenizer.
            settings: System message, length of answers and sampling parameters.
            seed: Seed of the sampled tokens.

        Raises:
            SubquadError: The tokenizer has no chat template, or the template rejects the system message.
        """
        self._model, self._tokenizer, self._settings, self._seed = model, tokenizer, settings, seed
        self._eos = eos_tokens(model, tokenizer)
        self._special_tokens = frozenset(tokenizer.all_special_ids) - self._eos
        self.prompt_tokens = 0
        """Tokens processed in the last turn before its answer."""
        self.reset(settings.system)

    @property
    def length(self) -> int:
        """Tokens in the state."""
        return self._cache.get_seq_length()

    @property
    def memory(self) -> int:
        """Size of the state in bytes: of softmax attention the key-value cache, which grows with the chat."""
        return cache_bytes(self._cache) if self.length else 0

    def reset(self, system: str | None) -> None:
        """Start again with this system message.

        Raises:
            SubquadError: The chat template rejects the message; the chat is unchanged then.
        """
        messages = [] if system is None else [{"role": "system", "content": system}]
        # raises if the template does not support it
        chat_text(self._tokenizer, [*messages, {"role": "user", "content": "?"}])
        self.system, self.messages, self.turns = system, messages, 0
        self._clear_state()

    def _clear_state(self) -> None:
        self._cache: Cache = new_cache(self._model)
        self._text: str | None = ""
        """Text that the state has processed together with `_pending`; None if unknown."""
        self._pending: list[int] = []
        """Tokens of the last answer that the model has not processed yet."""

    def answer(self, question: str, is_stopped: Callable[[], bool] = lambda: False) -> Iterator[str]:
        """Yield the answer as it is generated, until it ends or `is_stopped`; the answer so far is kept in the chat.

        It also ends where the chat has as many tokens as the model supports.

        Raises:
            SubquadError: The chat template rejects the turn, or the chat with it is longer than the model supports; the
                chat is unchanged then.
        """
        messages = [*self.messages, {"role": "user", "content": question}]
        text = chat_text(self._tokenizer, messages)
        # some templates rewrite earlier turns; the chat is processed from the start then
        is_continued = bool(self._text) and text.startswith(self._text or "")
        if is_continued:
            prompt = [*self._pending, *encode_after(self._tokenizer, text[len(self._text or "") :])]
        else:
            prompt = encode(self._tokenizer, text, add_special_tokens=False)
        check_vocabulary(self._model, prompt)
        room = self._room(len(prompt) + (self.length if is_continued else 0))
        if not is_continued:
            self._clear_state()
        # unknown until the answer is complete
        self._text, self._pending, self.prompt_tokens = None, [], len(prompt)
        settings = self._settings
        sampler = TokenSampler(parameters_of(settings), self._seed, self.turns)
        detokenizer, answer, is_plain, token = Detokenizer(self._tokenizer, prompt), "", True, None
        for token in generate_tokens(
            *(self._model, prompt, self._cache, sampler),
            max_new_tokens=min(settings.max_new_tokens, room),
            is_stopped=is_stopped,
        ):
            if token in self._eos:
                break
            is_plain = is_plain and token not in self._special_tokens
            answer += (delta := detokenizer.add(token))
            yield delta
            if is_stopped():
                break
        if token is None:
            # stopped before the answer
            return
        self.turns += 1
        self._pending = [] if token in self._eos else [token]
        answer += (delta := detokenizer.finish())
        yield delta
        self.messages = [*messages, {"role": "assistant", "content": answer}]
        # a special token has no text, so the text alone would not reproduce the state
        self._text = text + answer if is_plain else None

    def _room(self, tokens: int) -> int:
        """Return how many tokens may follow so many.

        Raises:
            SubquadError: The model supports no more tokens.
        """
        longest = getattr(self._model.config, "max_position_embeddings", None)
        if longest and tokens >= longest:
            raise SubquadError(
                f"with this turn the chat has {tokens:,} tokens, and the model supports at most {longest:,}; start a "
                "new chat, or give a shorter turn"
            )
        return longest - tokens if longest else self._settings.max_new_tokens
