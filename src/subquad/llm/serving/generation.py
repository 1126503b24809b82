"""Text generation from one prompt; constant time and memory per token."""

from collections.abc import Iterator

from transformers import PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from subquad.errors import SubquadError
from subquad.llm.models.decoding import beyond_training
from subquad.llm.serving.engine import Engine, Job
from subquad.llm.serving.sampling import TokenSampler
from subquad.llm.serving.settings import GenerateSettings
from subquad.llm.serving.tokenization import encode
from subquad.progress import say

__all__ = ["generate_text", "stream_text", "token_sampler"]


def stream_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    settings: GenerateSettings = GenerateSettings(),
    *,
    seed: int = 0,
) -> Iterator[str]:
    """Yield the continuation of a prompt as it is generated, in the current mode of the attention layers.

    Args:
        model: A language model, linearized or not.
        tokenizer: Its tokenizer.
        prompt: Text to continue.
        settings: Number of tokens and sampling parameters.
        seed: Seed of the sampled tokens.

    Raises:
        SubquadError: The prompt has no tokens, the text would be longer than the model's context, or the logits are not
            finite.
    """
    tokens, new = encode(tokenizer, prompt), settings.max_new_tokens
    if not tokens:
        raise SubquadError("the prompt is empty; there is no text to continue")
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest and len(tokens) + new > longest:
        raise SubquadError(
            f"the prompt has {len(tokens):,} tokens; with {new:,} new ones the text exceeds the model's {longest:,}"
        )
    if warning := beyond_training(model, len(tokens) + new):
        say(f"warning: {warning}")
    job = Job(prompt=tokens, max_tokens=new, sampler=token_sampler(settings, seed))
    yield from Engine(model, tokenizer, max_batch_size=1).stream(job)


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
