"""What the page says of a linearized model that is chosen, from its folder alone: nothing is opened."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from subquad.errors import SubquadError
from subquad.llm.plots.evaluation_tables import LABELS, STUDENT, TEACHER, WINDOW
from subquad.llm.settings import AttentionSettings, attention_of
from subquad.llm.training.controls import trained_controls
from subquad.reporting.run_comparison import model_name
from subquad.runs.examples import EXAMPLE_RUNS, name_of_run
from subquad.runs.folder import CONFIG
from subquad.runs.storage import read_json

__all__ = ["SMOLLM2", "SMOLLM2_NAME", "LinearizedModel", "model_facts"]

SMOLLM2, SMOLLM2_NAME = "smollm2", "SmolLM2-135M-Instruct"


@dataclass(frozen=True, kw_only=True)
class LinearizedModel:
    """A linearized model by its folder."""

    folder: Path
    config: Mapping[str, Any]
    """Content of its `config.json`."""

    @classmethod
    def read(cls, folder: Path) -> "LinearizedModel":
        """Read the config of a model.

        Raises:
            SubquadError: There is no linearized model in the folder.
        """
        config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else None
        if not isinstance(config, dict) or not isinstance(config.get("hybrid_attention"), dict):
            raise SubquadError(f"{folder}: no linearized model; choose a folder that `subquad llm linearize` wrote")
        return cls(folder=folder, config=config)

    @property
    def attention(self) -> AttentionSettings:
        """Its attention."""
        return attention_of(self.config["hybrid_attention"], str(self.folder))

    @property
    def teacher(self) -> str:
        """Name of the softmax model that it was made from."""
        settings = (self.config.get("subquad") or {}).get("settings") or {}
        name = str((self.config.get("base") or {}).get("model") or settings.get("model") or "a softmax model")
        return SMOLLM2_NAME if name == SMOLLM2 else model_name(name)

    @property
    def trained_length(self) -> int | None:
        """Tokens of the sequences that it was trained on; None if they are not recorded."""
        return self.config.get("trained_length")

    @property
    def roles(self) -> list[str]:
        """The models that an evaluation measures, in its order: keys of `LABELS`."""
        attention = self.attention
        found = {TEACHER, WINDOW, STUDENT, *(["cache"] if attention.cache else [])}
        found |= {"fine_tuned_without_linear"} if attention.has_linear else set()
        found |= {*trained_controls(self.folder)}
        return [role for role in LABELS if role in found]

    @property
    def length_text(self) -> str:
        """What its trained length means."""
        if self.trained_length is None:
            return "It is not recorded how long its training texts were; on longer ones it may be much worse."
        return (
            f"It was trained on texts of {self.trained_length:,} tokens. Up to this length its quality was measured; "
            "in longer chats and texts it may be much worse."
        )

    @property
    def length_hint(self) -> str:
        """What its trained length means for the length of texts on which perplexity is measured."""
        if self.trained_length is None:
            return "The trained length of this model is not recorded."
        return (
            f"The chosen model was trained on texts of {self.trained_length:,} tokens; longer ones show how much worse "
            "it is beyond."
        )


def model_facts(folder: Path) -> Markup:
    """Return what a model is, and what its trained length means.

    Raises:
        SubquadError: There is no linearized model in the folder.
    """
    model = LinearizedModel.read(folder)
    linear = "moments" if model.attention.has_moments else "linear attention"
    own = linear if model.attention.has_linear else "a window"
    what = f"{model.teacher} with {own} in place of softmax attention"
    name = name_of_run(folder)
    ships = f"; {name} ships with subquad, so that you can chat before you train a model" * (name in EXAMPLE_RUNS)
    return Markup('<p class="sq-hint">{}{}. {}</p>').format(what, ships, model.length_text)
