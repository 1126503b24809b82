"""Linearized models in transformers: `AutoModelForCausalLM` opens their folders, `save_pretrained` writes them.

A folder's config is the base model's own under the type name `subquad`, with `base_model_type` and the settings of the
attention beside it. Classes are made from the base model's when one is opened; there is none for each architecture.
"""

from functools import cache
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from subquad.errors import SubquadError, unknown
from subquad.llm.settings import AttentionSettings, attention_of
from subquad.runs.storage import plain

__all__ = ["MODEL_TYPE", "adopt"]

MODEL_TYPE = "subquad"


class _FolderConfig(PreTrainedConfig):
    """What transformers finds under the type name; gives the config of the base model that a folder names."""

    model_type = MODEL_TYPE

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Return the config that the folder describes.

        Raises:
            SubquadError: transformers knows no such base model.
        """
        base = config_dict.get("base_model_type")
        if base not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            raise unknown("base_model_type", str(base), MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
        _, config_class = _classes(MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[base]])
        # what `linearize` says of its run is no part of the model
        own = {key: value for key, value in config_dict.items() if key != "subquad"}
        return config_class.from_dict(own, **kwargs)


@cache
def _classes(base: type[PreTrainedModel]) -> tuple[type[PreTrainedModel], type[PreTrainedConfig]]:
    """Return the class of linearized models of a family, and that of their configs; transformers knows both."""
    config_class = type(
        f"Subquad{base.config_class.__name__}",
        (base.config_class,),
        {"model_type": MODEL_TYPE, "__module__": __name__, "__doc__": f"Of `Subquad{base.__name__}`."},
    )

    def __init__(self: PreTrainedModel, config: PreTrainedConfig, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        base.__init__(self, config, *args, **kwargs)
        from subquad.llm.models.convert import replace_attention

        if not isinstance(getattr(config, "hybrid_attention", None), dict):
            raise SubquadError(f"Subquad{base.__name__}: no hybrid_attention in its config")
        replace_attention(self, attention_of(config.hybrid_attention, f"Subquad{base.__name__}"), check=False)

    model_class = type(
        f"Subquad{base.__name__}",
        (base,),
        {
            "__init__": __init__,
            "__module__": __name__,
            "__doc__": f"`{base.__name__}` with hybrid attention.",
            "config_class": config_class,
            # the state cannot go back some tokens, as drafts of assisted decoding need it
            "_is_stateful": True,
            # feature maps are few, and are learned and used in float32
            "_keep_in_fp32_modules_strict": [*(base._keep_in_fp32_modules_strict or ()), "hybrid"],
        },
    )
    AutoModelForCausalLM.register(config_class, model_class)
    return model_class, config_class


def adopt(model: PreTrainedModel, settings: AttentionSettings) -> None:
    """Let a model whose attention was replaced be of the class that its folder is opened as, so that it can be saved.

    Under the base's name, transformers without subquad would open the folder as a softmax model and say nothing.
    """
    config, base = model.config, type(model).config_class.model_type
    model.__class__, config.__class__ = _classes(type(model))
    config.base_model_type, config.hybrid_attention = base, plain(settings)
    config.architectures = [type(model).__name__]


AutoConfig.register(MODEL_TYPE, _FolderConfig)
