"""Who is measured: a linearized model, and controls that tell what its linear branch does; one is open at a time."""

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from subquad.errors import SubquadError
from subquad.llm.models.adapter import ADAPTER_TYPE
from subquad.llm.models.attention import Mode
from subquad.llm.models.convert import convert, locate, model_fingerprint, open_checkpoint, open_folder
from subquad.llm.settings import AttentionSettings, attention_of
from subquad.ops.linattn_state import ring_slots
from subquad.runs.storage import fingerprint, read_json
from subquad.train.distributed import processes

__all__ = ["Contender", "Nets", "Subject", "subjects_of"]


@dataclass(frozen=True)
class Contender:
    """One model in one mode of its attention."""

    role: str
    """Of `controls.ROLES`."""
    path: Path
    """The folder or file of its weights."""
    mode: Mode
    """What its attention layers compute."""
    attention: AttentionSettings | None
    """The attention to put in, where the weights are a softmax model's."""
    key: str
    """Tells its figures from all others'."""


@dataclass(frozen=True)
class Subject:
    """A linearized model with its controls."""

    folder: Path
    """Where it is."""
    contenders: Sequence[Contender]
    """In the order of `controls.ROLES`; `window_tuned` only where there is one."""
    attention: AttentionSettings
    """Its attention."""
    longest: int | None
    """Tokens that the model was made for."""
    about: Mapping[str, Any]
    """What the page says of it."""

    @property
    def shown(self) -> int:
        """The longest text that the window shows all of; beyond, the linear branch is used."""
        return ring_slots(self.attention.window, self.attention.window_shape)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the model's tokenizer."""
        return AutoTokenizer.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)


class Nets:
    """Opens models when a figure needs one, and keeps the last."""

    def __init__(self) -> None:
        self._key: tuple[Path, AttentionSettings | None] | None = None
        self._model: PreTrainedModel | None = None

    def open(self, contender: Contender) -> PreTrainedModel:
        """Return the contender's model; its mode is for the caller to set."""
        key = (contender.path, contender.attention)
        if self._model is None or self._key != key:
            # the last one goes first, so that two never lie in memory
            self._model, self._key = None, None
            gc.collect()
            if contender.attention is None:
                model, _ = open_folder(contender.path)
            else:
                model, _ = open_checkpoint(contender.path)
                convert(model, contender.attention)
            self._model, self._key = model.to(processes().device).requires_grad_(False).eval(), key
        return self._model


def subjects_of(
    folders: Sequence[Path], *, teacher: str | Path | None = None, window_tuned: Sequence[Path] = ()
) -> list[Subject]:
    """Return the linearized models of `folders`, each with its controls.

    Args:
        folders: Folders that `linearize` or `save_pretrained` wrote.
        teacher: What they were made from; without it, what their folders say.
        window_tuned: A folder tuned with the window alone: one for all, or one each.

    Raises:
        SubquadError: a folder is no finished model, its teacher is not found or is another model, or a window-tuned
            one has another window.
    """
    if len(set(folders)) != len(folders):
        raise SubquadError("a folder is given twice")
    if len(window_tuned) not in (0, 1, len(folders)):
        raise SubquadError(
            f"--window-tuned: {len(window_tuned)} folders for {len(folders)} models; give one for all, or one each"
        )
    tuned: list[Path | None] = (
        [*window_tuned]
        if len(window_tuned) == len(folders)
        else [window_tuned[0] if window_tuned else None] * len(folders)
    )
    return [_subject(Path(folder), teacher, other) for folder, other in zip(folders, tuned, strict=True)]


def _subject(folder: Path, teacher: str | Path | None, window_tuned: Path | None) -> Subject:
    config = _config(folder)
    attention = attention_of(config["hybrid_attention"], str(folder))
    name, path = _teacher(folder, config, teacher)
    kept = "".join(f"-{layer}" for layer in attention.softmax_layers)
    origin = f"{model_fingerprint(path)}-w{attention.window}-{attention.window_shape}{kept}"
    own = _weights(folder)
    contenders = [
        Contender("softmax", path, "softmax", attention, f"softmax-{model_fingerprint(path)}"),
        Contender("window_only", path, "window", attention, f"window-{origin}"),
        Contender("tuned_without_linear", folder, "window", None, f"window-{own}"),
        Contender("tuned", folder, "hybrid", None, f"hybrid-{own}"),
    ]
    about: dict[str, Any] = {
        "folder": str(folder),
        "teacher": name,
        "window": attention.window,
        "window_shape": attention.window_shape,
        "tokens": _tokens(folder),
    }
    if window_tuned is not None:
        other = Path(window_tuned)
        _check_window(other, folder, attention)
        contenders.insert(2, Contender("window_tuned", other, "window", None, f"window-{_weights(other)}"))
        about["window_tuned"], about["window_tuned_tokens"] = str(other), _tokens(other)
    return Subject(
        folder=folder,
        contenders=contenders,
        attention=attention,
        longest=config.get("max_position_embeddings"),
        about=about,
    )


def _config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise SubquadError(f"{folder}: no such model folder; give the one that --out of `subquad llm linearize` wrote")
    config = read_json(folder / "config.json")
    if config.get("model_type") == ADAPTER_TYPE:
        raise SubquadError(
            f"{folder}: an adapter; make a model of it first with: subquad llm merge {folder} --out linear"
        )
    if not isinstance(config.get("hybrid_attention"), dict):
        raise SubquadError(
            f"{folder}: no linearized model that is finished; give the folder that --out of `subquad llm linearize` "
            "wrote"
        )
    return config


def _teacher(folder: Path, config: Mapping[str, Any], given: str | Path | None) -> tuple[str, Path]:
    """Return the name and the place of the softmax model that a folder was made from."""
    settings = config.get("subquad", {}).get("settings", {})
    name = str(given) if given is not None else settings.get("model")
    if name is None:
        raise SubquadError(f"{folder}: does not say what it was made from; name that model with --teacher")
    try:
        path = locate(name)
    except SubquadError as error:
        remedy = "" if given is not None else f"\n{folder} was made from {name}; say where it is now with --teacher"
        raise SubquadError(f"{error}{remedy}") from error
    wanted = settings.get("model_fingerprint")
    if given is None and wanted not in (None, model_fingerprint(path)):
        raise SubquadError(
            f"{path}: has changed since {folder} was made from it; say where that model is with --teacher"
        )
    if path.is_dir():
        _check_same_model(path, read_json(path / "config.json"), folder, config)
    return name, path


def _check_same_model(path: Path, teacher: Mapping[str, Any], folder: Path, config: Mapping[str, Any]) -> None:
    for key in ("hidden_size", "num_hidden_layers", "vocab_size"):
        if key in teacher and teacher[key] != config.get(key):
            raise SubquadError(
                f"{path}: {key} is {teacher[key]}, and {config.get(key)} in {folder}; this is not its teacher"
            )


def _check_window(other: Path, folder: Path, attention: AttentionSettings) -> None:
    given = attention_of(_config(other)["hybrid_attention"], str(other))
    if (given.window, given.window_shape) != (attention.window, attention.window_shape):
        raise SubquadError(
            f"--window-tuned {other}: its window is {given.window} {given.window_shape}, and that of {folder} is "
            f"{attention.window} {attention.window_shape}; a control has the same window"
        )


def _weights(folder: Path) -> str:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise SubquadError(f"{folder}: no model.safetensors in it; the weights are missing, or the run is unfinished")
    return fingerprint(folder / "config.json", *files)


def _tokens(folder: Path) -> dict[str, int] | None:
    path = folder / "metrics.json"
    return read_json(path).get("tokens") if path.is_file() else None
