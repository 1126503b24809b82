"""Lengths of texts of which a student sees each token exactly. Without torch, so that errors come at once."""

from subquad.errors import SubquadError
from subquad.llm.settings import AttentionSettings
from subquad.ops.attention_sizes import seen_whole


def seen_in_window(attention: AttentionSettings) -> int:
    """Return the length of the longest text that lies within the window and its sinks as a whole."""
    return seen_whole(attention.window, attention.window_shape, attention.sinks or 0)


def seen_exactly(attention: AttentionSettings) -> int:
    """Return the length of the longest text of which a student sees each token exactly, as softmax attention does."""
    # feature maps describe the cached tokens as well, moments do not
    cached = 0 if attention.has_features else attention.cache or 0
    return seen_whole(attention.window, attention.window_shape, (attention.sinks or 0) + cached)


def check_length(attention: AttentionSettings, length: int) -> None:
    """Check that training sequences are long enough for a student to learn from them.

    Args:
        attention: The student's attention.
        length: Tokens of a sequence.

    Raises:
        SubquadError: The student sees each of their tokens exactly.
    """
    exact = seen_exactly(attention)
    if length <= exact:
        raise SubquadError(
            f"sequences of {length:,} tokens: the student sees up to {exact:,} exactly, and has nothing to learn; "
            "give a longer --sequence-length or a smaller --attention.cache"
        )
