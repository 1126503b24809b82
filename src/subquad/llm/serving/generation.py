"""Text generation from one prompt; constant time and memory per token."""

from collections.abc import Callable, Iterator

from transformers import PreTrainedTokenizerBase
from transformers.cache_utils import Cache
from transformers.modeling_utils import PreTrainedModel

from subquad.errors import SubquadError
from subquad.llm.models.decoding import beyond_training
from subquad.llm.serving.engine import Engine, Job
from subquad.llm.serving.sampling import TokenSampler
from subquad.llm.serving.settings import GenerateSettings
from subquad.llm.serving.tokenization import encode, encode_after
from subquad.progress import say


def stream_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    settings: GenerateSettings = GenerateSettings(),
    *,
    seed: int = 0,
    before: tuple[list[int], Cache] | None = None,
    on_read: Callable[[list[int], Cache], None] | None = None,
) -> Iterator[str]:
    """Yield the continuation of a prompt as it is generated, in the current mode of the attention layers.

    Args:
        model: A language model, linearized or not.
        tokenizer: Its tokenizer.
        prompt: Text to continue.
        settings: Number of tokens and sampling parameters.
        seed: Seed of the sampled tokens.
        before: Tokens of a text that the prompt follows, and the cache after them.
        on_read: Called with all tokens and their cache after the prompt.

    Raises:
        SubquadError: The prompt has no tokens, the text would be longer than the model's context, or the logits are not
            finite.
    """
    new, tokens = settings.max_new_tokens, encode_after(tokenizer, prompt) if before else encode(tokenizer, prompt)
    if not tokens:
        raise SubquadError("the prompt is empty; there is no text to continue")
    engine = Engine(model, tokenizer, max_batch_size=1, prefix_states=2 if on_read else 0)
    if before is not None:
        tokens = [*before[0], *tokens]
        engine.kept[tuple(before[0])] = before[1]
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest and len(tokens) + new > longest:
        raise SubquadError(
            f"the text has {len(tokens):,} tokens; with {new:,} new ones it exceeds the model's {longest:,}"
        )
    if warning := beyond_training(model, len(tokens) + new):
        say(f"warning: {warning}")
    job = Job(prompt=tokens, max_tokens=new, sampler=token_sampler(settings, seed))
    for delta in engine.stream(job):
        if on_read is not None:
            on_read(tokens, engine.kept[tuple(tokens)])
            on_read = None
        yield delta


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


def token_sampler(settings: GenerateSettings, seed: str | int) -> TokenSampler:
    """Return a sampler with the parameters of the settings."""
    names = ("temperature", "top_p", "top_k", "min_p")
    return TokenSampler(**{name: getattr(settings, name) for name in names}, seed=seed)
