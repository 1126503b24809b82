"""Configs of models whose costs are estimated, read without torch, so that errors come at once."""

from pathlib import Path
from typing import Any

from subquad.errors import reading, unknown
from subquad.llm.models.location import SMOLLM2, download, is_hub_name
from subquad.llm.settings import ADAPTER_TYPE, MODEL_TYPE
from subquad.runs.storage import read_json


def _architecture(
    model_type: str, vocabulary: int, width: int, inner: int, *, layers: int, heads: int, kv_heads: int, length: int,
    is_tied: bool = False,
) -> dict[str, Any]:  # fmt: skip
    return {
        "model_type": model_type,
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": length,
        "tie_word_embeddings": is_tied,
        # Mistral's config has a default window
        **({"sliding_window": None} if model_type == "mistral" else {}),
    }


# From the config.json of meta-llama/Llama-3.1-8B, -70B and -405B, meta-llama/Meta-Llama-3-8B,
# mistralai/Mistral-7B-Instruct-v0.2 (v0.1 has the same weights, and a sliding window), Qwen/Qwen2.5-0.5B and -1.5B, and
# HuggingFaceTB/SmolLM2-135M on the Hugging Face Hub; those of Llama also stand in Table 3 of arXiv:2407.21783
KNOWN = {
    "llama-3.1-8b": _architecture("llama", 128256, 4096, 14336, layers=32, heads=32, kv_heads=8, length=131072),
    "llama-3.1-70b": _architecture("llama", 128256, 8192, 28672, layers=80, heads=64, kv_heads=8, length=131072),
    "llama-3.1-405b": _architecture("llama", 128256, 16384, 53248, layers=126, heads=128, kv_heads=8, length=131072),
    "llama-3-8b": _architecture("llama", 128256, 4096, 14336, layers=32, heads=32, kv_heads=8, length=8192),
    "mistral-7b": _architecture("mistral", 32000, 4096, 14336, layers=32, heads=32, kv_heads=8, length=32768),
    "qwen2.5-0.5b": _architecture(
        "qwen2", 151936, 896, 4864, layers=24, heads=14, kv_heads=2, length=32768, is_tied=True
    ),
    "qwen2.5-1.5b": _architecture(
        "qwen2", 151936, 1536, 8960, layers=28, heads=12, kv_heads=2, length=32768, is_tied=True
    ),
    "smollm2-135m": _architecture("llama", 49152, 576, 1536, layers=30, heads=9, kv_heads=3, length=8192, is_tied=True),
}


def read_architecture(config: str | Path) -> dict[str, Any]:
    """Return the config of a model.

    Args:
        config: A `config.json`, the folder of a model, a name in `KNOWN`, `smollm2`, or the name of a model on the
            Hugging Face Hub, whose config is downloaded to Hugging Face's cache.

    Raises:
        SubquadError: There is no such file, it cannot be downloaded, or it is not the config of a softmax model.
    """
    name, path = "smollm2-135m" if str(config) == SMOLLM2 else str(config), Path(config)
    if not path.exists():
        if name in KNOWN:
            return KNOWN[name]
        if not is_hub_name(name):
            raise unknown("config.json, folder or known model", name, [*KNOWN, SMOLLM2])
        path = download(name, has_weights=False)
    path = path / "config.json" if path.is_dir() else path
    with reading(path, "a config"):
        found = read_json(path)
        if found["model_type"] in (MODEL_TYPE, ADAPTER_TYPE):
            raise ValueError("its model is linearized already")
        return found
