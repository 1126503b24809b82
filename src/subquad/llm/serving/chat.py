"""A chat whose state is kept between turns: a turn costs its own tokens, not those of all turns before it."""

from collections.abc import Callable, Iterator

from transformers import PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from subquad.errors import SubquadError
from subquad.llm.models.decoding import cache_bytes
from subquad.llm.serving.engine import Engine, Job
from subquad.llm.serving.generation import token_sampler
from subquad.llm.serving.settings import ChatSettings
from subquad.llm.serving.tokenization import chat_text, encode, encode_after


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
        self._tokenizer, self._settings, self._seed = tokenizer, settings, seed
        self._longest = getattr(model.config, "max_position_embeddings", None) or 2**31
        self._engine = Engine(model, tokenizer, max_batch_size=1, prefix_states=1)
        self.reset(settings.system)

    @property
    def length(self) -> int:
        """Tokens of the chat."""
        return len(self._tokens)

    @property
    def memory(self) -> int:
        """Size of the state in bytes: of softmax attention the key-value cache, which grows with the chat."""
        return sum(map(cache_bytes, self._engine.kept.values()))

    def reset(self, system: str | None) -> None:
        """Start again with this system message.

        Raises:
            SubquadError: The chat template rejects the message; the chat is unchanged then.
        """
        messages = [] if system is None else [{"role": "system", "content": system}]
        # raises if the template does not support it
        chat_text(self._tokenizer, [*messages, {"role": "user", "content": "?"}])
        self.system, self.messages, self.turns = system, messages, 0
        self._text = ""
        self._tokens: list[int] = []
        self._engine.kept.clear()

    def answer(self, question: str, is_stopped: Callable[[], bool] = lambda: False) -> Iterator[str]:
        """Yield the answer as it is generated, until it ends or `is_stopped`; the answer so far is kept in the chat.

        It also ends where the chat has as many tokens as the model supports.

        Raises:
            SubquadError: The chat template rejects the turn, or the chat with it is longer than the model supports; the
                chat is unchanged then.
        """
        messages = [*self.messages, {"role": "user", "content": question}]
        text = chat_text(self._tokenizer, messages)
        if self._text and text.startswith(self._text):
            prompt = [*self._tokens, *encode_after(self._tokenizer, text[len(self._text) :])]
        else:
            # the first turn, or a template that rewrites earlier ones
            prompt = encode(self._tokenizer, text, add_special_tokens=False)
        room = self._longest - len(prompt)
        if room <= 0:
            raise SubquadError(
                f"with this turn the chat has {len(prompt):,} tokens, and the model supports {self._longest:,}"
            )
        job = Job(
            prompt=prompt,
            max_tokens=min(self._settings.max_new_tokens, room),
            sampler=token_sampler(self._settings, f"{self._seed} {self.turns}"),
        )
        answer = ""
        for delta in self._engine.stream(job, is_stopped):
            answer += delta
            yield delta
        if job.tokens:
            self.turns += 1
            self.messages = [*messages, {"role": "assistant", "content": answer}]
            # the end of the turn is written by the template
            said = job.tokens[:-1] if job.tokens[-1] in self._engine.eos else job.tokens
            self._text, self._tokens = text + answer, [*prompt, *said]
