"""lm-eval's `--model subquad`: a linearized model for all of lm-eval's tasks, those that generate text among them."""

from pathlib import Path
from typing import Any, get_args

import torch
from lm_eval.models.huggingface import HFLM

from subquad.errors import unknown
from subquad.llm.models.attention import Mode, attention_layers
from subquad.llm.models.loading import load, place
from subquad.llm.settings import PlacementSettings

OPTIONS = (
    "add_bos_token", "backend", "batch_size", "chat_template_args", "enable_thinking", "logits_cache", "max_batch_size",
    "max_length", "mixed_precision_dtype", "prefix_token_id", "softmax_dtype", "think_end_token", "tokenizer",
    "truncation",
)  # fmt: skip
"""Arguments of lm-eval's Hugging Face model that have an effect on a model that is open already."""
MODES = [mode for mode in get_args(Mode) if mode != "transfer"]


class LinearizedLM(HFLM):
    """lm-eval's Hugging Face model around a folder that `subquad llm linearize` wrote."""

    def __init__(
        self,
        pretrained: str | Path,
        *,
        base: str | None = None,
        mode: str = "hybrid",
        device: str | torch.device | None = None,
        dtype: str = "auto",
        **options: Any,
    ) -> None:
        """Open a linearized model.

        Args:
            pretrained: Folder of a linearized model or an adapter, or its name on the Hugging Face Hub.
            base: Checkpoint of an adapter. Default: the one recorded in it.
            mode: What the attention layers compute: `hybrid`, `without_linear`, `window`, or `softmax`.
            device: `cpu`; at any other value an accelerator is used if there is one.
            dtype: `float32` or `bfloat16`; `auto` is float32.
            **options: Further arguments of lm-eval's Hugging Face model: those of `OPTIONS`.

        Raises:
            SubquadError: The folder holds no linearized model, or an argument is unknown.
        """
        # lm-eval would ignore other names, since the model is open already
        for name, known in ((mode, MODES), *((name, OPTIONS) for name in options)):
            if name not in known:
                raise unknown("entry of --model_args", name, [*known])
        # lm-eval asks for cuda unless it is told otherwise, and takes what there is
        is_cpu = device is not None and torch.device(device).type == "cpu"
        placement: Any = {"device": "cpu" if is_cpu else "auto", "dtype": "float32" if dtype == "auto" else dtype}
        model, tokenizer = load(pretrained, base=base)
        for layer in attention_layers(model):
            layer.mode = mode  # pyright: ignore[reportAttributeAccessIssue] (checked above)
        options.setdefault("tokenizer", tokenizer)
        super().__init__(place(model, PlacementSettings(**placement)), **options)  # pyright: ignore[reportCallIssue] (the decorator hides the signature)
