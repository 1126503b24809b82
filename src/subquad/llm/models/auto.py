"""Makes the type name `subquad` known to transformers, so that `AutoModelForCausalLM` opens linearized models.

An adapter, which it cannot open, is refused with the way to open it.

The config of a linearized model is the base model's own with `base_model_type` and the settings of the hybrid attention
beside it. The module is imported together with transformers' auto classes (`subquad.llm`), so it imports little itself.
"""

from typing import Any

from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from subquad.errors import SubquadError
from subquad.llm.settings import ADAPTER_TYPE, MODEL_TYPE


class LinearizedConfig(PreTrainedConfig):
    """The class that transformers finds under the type name; it returns the config of the base model in the folder."""

    model_type = MODEL_TYPE

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Return the config of the linearized model."""
        from subquad.llm.models.convert import linearized_classes

        base = CONFIG_MAPPING[config_dict["base_model_type"]]
        _, config_class = linearized_classes(MODEL_FOR_CAUSAL_LM_MAPPING[base])
        # files with code are not copied when the model is saved again
        own = {key: value for key, value in config_dict.items() if key != "auto_map"}
        return config_class.from_dict(own, **kwargs)


class AdapterError(SubquadError, ValueError):
    """An adapter was opened as a model; a `ValueError` too, after which `AutoTokenizer` opens the tokenizer anyway."""


class AdapterConfig(PreTrainedConfig):
    """The class that transformers finds under the type name of an adapter, which is no model by itself."""

    model_type = ADAPTER_TYPE

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Refuse the adapter.

        Raises:
            AdapterError: Always.
        """
        raise AdapterError("this folder holds an adapter: open it with subquad.llm.load, or merge it first")


AutoConfig.register(MODEL_TYPE, LinearizedConfig)
AutoConfig.register(ADAPTER_TYPE, AdapterConfig)
