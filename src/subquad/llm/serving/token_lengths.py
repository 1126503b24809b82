"""How much text a token can stand for: a text that is longer than so many tokens can be need not be tokenized."""

import json
from collections.abc import Mapping
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerBase

__all__ = ["characters_per_token"]

COMPOSED = 4
"""Most characters that Unicode's form C makes one character of: no canonical decomposition has more."""
LOSSLESS_SPLITS = ("ByteLevel", "Digits", "Metaspace", "Punctuation", "Split")
"""Steps before the model that drop no character, unless their behavior is `Removed`."""

Part = Mapping[str, Any]


def characters_per_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return an upper bound of the characters of a text per token; None if the tokenizer may drop or merge any number.

    There is a bound if every character reaches the model and has tokens there: byte-level BPE with all bytes, or BPE
    with a token for each byte, without steps that strip or collapse text.
    """
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    parts = json.loads(backend.to_str())
    factor, added = _shrinkage(parts["normalizer"]), parts["added_tokens"]
    # tokens that take the spaces beside them, any number
    is_greedy = any(token["lstrip"] or token["rstrip"] for token in added)
    if factor is None or is_greedy or parts["truncation"] or not _is_lossless(parts):
        return None
    contents = [token["content"] for token in added]
    if backend.normalizer is not None:
        # they are found in this form
        contents += [backend.normalizer.normalize_str(content) for content in contents]
    return factor * max(map(len, [*parts["model"]["vocab"], *contents]))


def _is_lossless(parts: Part) -> bool:
    """Return whether every character has a token of its own, or one for each of its bytes."""
    model, steps = parts["model"], _steps(parts["pre_tokenizer"], "pretokenizers")
    if model["type"] != "BPE" or model["continuing_subword_prefix"] or model["end_of_word_suffix"]:
        return False
    if any(step["type"] not in LOSSLESS_SPLITS or step.get("behavior") == "Removed" for step in steps):
        return False
    is_bytewise = any(step["type"] == "ByteLevel" for step in [*steps, *_steps(parts["normalizer"], "normalizers")])
    if is_bytewise:
        return set(ByteLevel.alphabet()) <= model["vocab"].keys()
    return bool(model.get("byte_fallback")) and {f"<0x{byte:02X}>" for byte in range(256)} <= model["vocab"].keys()


def _shrinkage(normalizer: Part | None) -> int | None:
    """Return by which factor normalization can shorten a text, in characters; None if by any."""
    factor = 1
    for step in _steps(normalizer, "normalizers"):
        if step["type"] == "NFC":
            factor *= COMPOSED
        elif step["type"] == "Replace":
            old = step["pattern"].get("String")
            if old is None or len(old) > len(step["content"]):
                return None
        elif step["type"] not in ("ByteLevel", "Lowercase", "NFD", "NFKD", "Prepend"):
            return None
    return factor


def _steps(part: Part | None, name: str) -> list[Part]:
    """Return the steps of a normalizer or pre-tokenizer one by one."""
    if part is None:
        return []
    if part["type"] == "Sequence":
        return [step for each in part[name] for step in _steps(each, name)]
    return [part]
