"""The models of an evaluation: a linearized model, and the controls that show what linear attention contributes."""

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from subquad.errors import SubquadError, unknown
from subquad.llm.metrics import LABELS, STUDENT, TEACHER
from subquad.llm.models.attention import Mode
from subquad.llm.models.checkpoints import (
    has_tokenizer,
    model_config,
    model_fingerprint,
    open_checkpoint,
    open_tokenizer,
)
from subquad.llm.models.convert import convert
from subquad.llm.models.loading import load, place
from subquad.llm.models.location import (
    check_run,
    checkpoint_kind,
    locate,
    name_of,
    weight_files,
)
from subquad.llm.settings import AttentionSettings, PlacementSettings, attention_of
from subquad.llm.training.controls import MODES, control_folder, trained_controls
from subquad.ops.linattn_cache import CHOICE_VERSION
from subquad.progress import say
from subquad.runs.examples import name_of_run
from subquad.runs.folder import METRICS
from subquad.runs.storage import fingerprint, read_json


@dataclass(frozen=True)
class ModelVariant:
    """Weights together with a mode of the attention layers."""

    role: str
    """A key of `subquad.llm.metrics.LABELS`."""
    path: Path
    """Folder or file of the weights."""
    mode: Mode
    """What the attention layers compute."""
    attention: AttentionSettings | None
    """Hybrid attention to convert the weights to, if they are a softmax model's."""
    key: str
    """Identifies weights and mode in the names of stored measurements."""
    base: Path | None = None
    """The checkpoint of an adapter; None for whole models."""


@dataclass(frozen=True)
class EvaluatedModel:
    """A linearized model with its controls."""

    folder: Path
    """Its folder."""
    variants: Sequence[ModelVariant]
    """In the order of `LABELS`; the fine-tuned controls only if they were trained."""
    attention: AttentionSettings
    """Its attention."""
    longest: int | None
    """Maximum number of tokens of a text."""
    about: dict[str, Any]
    """Facts for the page."""

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the model's tokenizer; an adapter that has none uses that of its checkpoint."""
        teacher = next(variant.path for variant in self.variants if variant.role == TEACHER)
        return open_tokenizer(self.folder if has_tokenizer(self.folder) else teacher)


class ModelLoader:
    """Loads models when a measurement needs them, and keeps the last one in memory."""

    def __init__(self, settings: PlacementSettings = PlacementSettings(), *, quiet: bool = True) -> None:
        """Make a loader.

        Args:
            settings: Where models are placed.
            quiet: Do not print which model is opened.
        """
        self._settings, self._quiet = settings, quiet
        self._key: tuple[Path, AttentionSettings | None] | None = None
        self._model: PreTrainedModel | None = None

    def load(self, variant: ModelVariant) -> PreTrainedModel:
        """Return the model of a variant; the caller sets its mode."""
        key = (variant.path, variant.attention)
        if self._model is None or self._key != key:
            # released first, so that two models are never in memory
            self._model, self._key = None, None
            gc.collect()
            say(f"opening {name_of(variant.path)}", quiet=self._quiet)
            if variant.attention is None:
                model, _ = load(variant.path, base=variant.base)
            else:
                model = convert(open_checkpoint(variant.path), variant.attention)
            self._model, self._key = place(model, self._settings).requires_grad_(False).eval(), key
        return self._model


def models_to_evaluate(
    folders: Sequence[Path], *, teacher: str | Path | None = None, only: Sequence[str] = ()
) -> list[EvaluatedModel]:
    """Return linearized models, each with its controls.

    Args:
        folders: Folders that `linearize`, `merge` or `save_pretrained` wrote, or their names on the Hugging Face Hub.
        teacher: The softmax model that they were made from; None for the one recorded in the folders.
        only: Variants beside teacher and student; empty for all.

    Raises:
        SubquadError: A folder has not all of these variants, or holds no finished model, or its teacher is not found or
            is another model.
    """
    return [_evaluated_model(check_run(folder), teacher, only) for folder in dict.fromkeys(folders)]


def _evaluated_model(folder: Path, teacher: str | Path | None, only: Sequence[str]) -> EvaluatedModel:
    config = read_json(folder / "config.json")
    attention = attention_of(config.get("hybrid_attention"), str(folder))
    name, path = _teacher(folder, config, teacher)
    softmax = "".join(f"-{layer}" for layer in attention.softmax_layers)
    origin = f"{model_fingerprint(path)}-w{attention.window}-{attention.window_shape}-s{attention.sinks}{softmax}"
    own = _weights_fingerprint(folder) + _choice(attention)
    base = path if checkpoint_kind(folder) == "adapter" else None
    variants = [
        ModelVariant("teacher", path, "softmax", attention, f"softmax-{model_fingerprint(path)}"),
        ModelVariant("window", path, "window", attention, f"window-{origin}"),
        ModelVariant("fine_tuned", folder, "hybrid", None, f"hybrid-{own}", base),
    ]
    if attention.has_linear:
        key = f"without-linear-{own}"
        variants.append(ModelVariant("fine_tuned_without_linear", folder, "without_linear", None, key, base))
    about: dict[str, Any] = {
        "folder": name_of_run(folder),
        "teacher": name,
        "window": attention.window,
        "window_shape": attention.window_shape,
        "has_moments": attention.has_moments,
        "has_linear": attention.has_linear,
        "tokens": _training_tokens(folder),
        "trained_length": config.get("trained_length"),
        "controls": trained_controls(folder),
    }
    if attention.cache:
        # which tokens are kept depends on what the choice reads
        read = "inputs" if attention.has_inputs else "keys"
        key = f"cache-{attention.cache}-{read}-{CHOICE_VERSION}-{origin}"
        variants.append(ModelVariant("cache", path, "without_linear", attention, key))
    variants += _controls(folder, path)
    if only:
        known = [variant.role for variant in variants]
        for role in only:
            if role not in known:
                raise unknown(f"variant of {folder}", role, known)
        variants = [variant for variant in variants if variant.role in (TEACHER, STUDENT, *only)]
    variants.sort(key=lambda variant: list(LABELS).index(variant.role))
    about["roles"] = [variant.role for variant in variants]
    return EvaluatedModel(
        folder=folder,
        variants=variants,
        attention=attention,
        longest=getattr(model_config(path), "max_position_embeddings", None),
        about=about,
    )


def trained_texts(folder: Path, texts: Sequence[Path]) -> list[Path]:
    """Return those of the texts on which a model was trained, by their contents; none if the run did not note them."""
    notes = folder / "evaluations.json"
    about = read_json(notes).get("about", {}) if notes.is_file() else {}
    known = about.get("text_fingerprints", ())
    return [path for path in texts if fingerprint(path) in known]


def _teacher(folder: Path, config: Mapping[str, Any], given: str | Path | None) -> tuple[str, Path]:
    """Return the name and the path of the softmax model that a folder was made from."""
    settings, base = config.get("subquad", {}).get("settings", {}), config.get("base", {})
    name = str(given) if given is not None else base.get("model", settings.get("model"))
    if name is None:
        raise SubquadError(f"{folder}: it does not record the model that it was made from; name its teacher")
    path = locate(name if given is not None else _recorded(name, folder))
    recorded = base.get("fingerprint", settings.get("model_fingerprint"))
    if recorded in (None, model_fingerprint(path)):
        return name, path
    if given is None or base:
        raise SubquadError(f"{path}: not the checkpoint, or changed since {folder} was made from it; name its teacher")
    say(f"warning: {path} is not the checkpoint, or not the file, from which {folder} was made")
    return name, path


def _recorded(name: str, folder: Path) -> str:
    """Return a recorded name; a relative path is looked for in the folders above the model too.

    The command may have run in one of these. The fingerprint is compared afterwards.
    """
    if Path(name).is_absolute() or Path(name).exists():
        return name
    found = next((parent / name for parent in folder.resolve().parents if (parent / name).exists()), None)
    return name if found is None else str(found)


def _controls(folder: Path, teacher: Path) -> list[ModelVariant]:
    """Return the controls that `linearize --controls` trained beside a model."""
    found = []
    for name in trained_controls(folder):
        path, mode = folder / control_folder(name), MODES[name]
        own = attention_of(read_json(path / "config.json").get("hybrid_attention"), str(path))
        key = f"{mode}-{_weights_fingerprint(path)}{_choice(own)}"
        found.append(ModelVariant(name, path, mode, None, key, teacher))
    return found


def _choice(attention: AttentionSettings) -> str:
    """Return the version of the rule that chooses cached tokens, if there are any."""
    return f"-{CHOICE_VERSION}" if attention.cache else ""


def _weights_fingerprint(folder: Path) -> str:
    return fingerprint(folder / "config.json", *weight_files(folder))


def _training_tokens(folder: Path) -> dict[str, int] | None:
    path = folder / METRICS
    return read_json(path).get("tokens") if path.is_file() else None
