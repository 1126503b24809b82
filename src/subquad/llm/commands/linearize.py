"""Linearize a model from end to end: evaluate, transfer, evaluate, tune, evaluate, write.

Each figure is kept as soon as it is known, so a run that was killed repeats at most a part of one stage.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from subquad.errors import SubquadError
from subquad.llm.commands.generate import continue_text
from subquad.llm.data.packing import Text, check, prepare
from subquad.llm.training.metrics import perplexity, transfer_errors
from subquad.llm.models.adapter import adapter_config, adapter_tensors, add_lora
from subquad.llm.models.attention import Mode, attention_layers, using
from subquad.llm.models.checkpoints import (
    locate,
    model_fingerprint,
    open_checkpoint,
    open_tokenizer,
    saved_config,
    saved_tensors,
)
from subquad.llm.models.convert import convert
from subquad.llm.models.meta_model import open_skeleton
from subquad.llm.plots.linearize_page import card, history, whole_page
from subquad.llm.settings import GenerateSettings, LinearizeSettings
from subquad.llm.training.blockwise import Blockwise, put_maps, transfer_blockwise
from subquad.llm.training.budget import EVALUATIONS, Plan, plan_for, plan_of_tokens
from subquad.llm.training.lora import finetune, learnt_in_tuning
from subquad.llm.training.sharding import check_processes, gather, merge_updates, shard
from subquad.llm.training.transfer import learnt_in_transfer, steps_for, tokens_per_step, transfer
from subquad.progress import say
from subquad.runs.folder import Run, open_run
from subquad.runs.storage import fingerprint, plain, read_json, write_json
from subquad.train.distributed import processes
from subquad.train.loop import TrainingResult

__all__ = ["linearize"]

NOTES = "evaluations.json"
PROMPT_TOKENS, SAMPLE_TOKENS = 32, 64


def linearize(
    model: str | Path,
    text: str | Path | Sequence[str | Path],
    settings: LinearizeSettings = LinearizeSettings(),
    *,
    eval_text: str | Path | Sequence[str | Path] = (),
    out: str | Path,
    seed: int = 0,
    force: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Write a model with linear attention into the folder `out`, and return its metrics.

    Args:
        model: A Hugging Face folder, a `.gguf` file, or the word `smollm2`.
        text: Files to learn from.
        settings: How.
        eval_text: Files to measure perplexity on; without any, the last tenth of the text.
        out: The folder to write; an unfinished run in it goes on.
        seed: Of the order of the sequences and of the low-rank updates.
        force: Replace what is in the folder.
        quiet: Print nothing.

    Raises:
        SubquadError: the model, the text or the folder cannot be used; says why.
    """
    clock, group = time.monotonic(), processes()
    # the first process speaks and writes for all
    quiet = quiet or not group.is_main_process
    if settings.shard:
        check_processes()
    path, files, evaluation_files = locate(model), _files(text), _files(eval_text)
    check(files, evaluation_files, text_key=settings.text_key, weights=settings.text_weights)
    asked = _asked(model, path, files=files, evaluation_files=evaluation_files, settings=settings, seed=seed)
    # a folder that will not do is refused before the model is opened, a new one made after all else was found good
    is_begun = not force and Path(out).exists() and (not Path(out).is_dir() or any(Path(out).iterdir()))
    group.wait_for_everyone()
    run = open_run(out, kind="llm", settings=asked) if is_begun else None
    say(f"opening {path.name}", quiet=quiet)
    is_whole = settings.block is None
    net, tokenizer = (
        open_checkpoint(path, getattr(torch, settings.weights))
        if is_whole
        else (
            open_skeleton(path, settings.attention).model,
            open_tokenizer(path),
        )
    )
    prepared = _prepare(tokenizer, files, evaluation_files, settings, quiet=quiet)
    _check_length(net, settings)
    _check_batch(prepared, settings)
    _check_words(net, prepared, path)
    if is_whole:
        convert(net, settings.attention)
        net = shard(net) if settings.shard else net.to(group.device)
    with group.main_process_first():
        run = run or open_run(out, kind="llm", settings=asked, force=force and group.is_main_process)
    job = _Job(run=run, settings=settings, text=prepared, tokenizer=tokenizer, seed=seed, quiet=quiet)
    job.note("seconds", "load", lambda: time.monotonic() - clock)
    if not is_whole:
        job.transfer_blockwise(path, net)
        net = convert(open_checkpoint(path, getattr(torch, settings.weights))[0], settings.attention).to(
            processes().device
        )
    return job.do(net, name=str(model), spent=time.monotonic() - clock)


def _files(text: str | Path | Sequence[str | Path]) -> list[Path]:
    return [Path(text)] if isinstance(text, str | Path) else [Path(file) for file in text]


def _asked(
    model: str | Path,
    path: Path,
    *,
    files: list[Path],
    evaluation_files: list[Path],
    settings: LinearizeSettings,
    seed: int,
) -> dict[str, Any]:
    return {
        "model": str(model),
        "model_fingerprint": model_fingerprint(path),
        "text": [file.name for file in files],
        "text_fingerprint": fingerprint(*files, *evaluation_files),
        "eval_text": [file.name for file in evaluation_files],
        "seed": seed,
        "processes": processes().num_processes,
        **plain(settings),
    }


def _prepare(
    tokenizer: PreTrainedTokenizerBase,
    files: Sequence[Path],
    evaluation_files: Sequence[Path],
    settings: LinearizeSettings,
    *,
    quiet: bool,
) -> Text:
    prepared = prepare(
        tokenizer,
        files,
        evaluation_files,
        length=settings.length,
        text_key=settings.text_key,
        has_validation=settings.validate_every is not None,
        weights=settings.text_weights,
        learn=settings.learn,
        quiet=quiet,
    )
    for words in prepared.read_as:
        say(words, quiet=quiet)
    return prepared


def _check_length(model: PreTrainedModel, settings: LinearizeSettings) -> None:
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest and settings.length > longest:
        raise SubquadError(f"--length {settings.length}: the model was made for at most {longest} tokens")


def _check_batch(text: Text, settings: LinearizeSettings) -> None:
    count, together = len(text.train), settings.batch * processes().num_processes
    if count < together:
        raise SubquadError(
            f"--batch {settings.batch}: a step takes {together} sequences of {settings.length} tokens, and there are "
            f"{count} to learn from; give more text, or a smaller --batch or --length"
        )


def _check_words(model: PreTrainedModel, text: Text, path: Path) -> None:
    words = model.get_input_embeddings().weight.shape[0]
    highest = max(int(part.ids.max()) for part in (text.training, text.put_aside, text.measured) if part.ids.numel())
    if highest >= words:
        raise SubquadError(
            f"{path}: its tokenizer gives token {highest}, and the model knows {words} tokens, counted from 0; the "
            "tokenizer is another model's"
        )


@dataclass
class _Job:
    run: Run
    settings: LinearizeSettings
    text: Text
    tokenizer: PreTrainedTokenizerBase
    seed: int
    quiet: bool
    blockwise: Blockwise | None = None

    def __post_init__(self) -> None:
        path = self.run.directory / NOTES
        self.notes: dict[str, dict[str, Any]] = read_json(path) if path.is_file() else {}

    def note(self, kind: str, name: str, compute: Callable[[], Any]) -> Any:
        """Return a figure of the run, computed once and kept."""
        notes = self.notes.setdefault(kind, {})
        if name not in notes:
            began = time.monotonic()
            notes[name] = compute()
            if kind != "seconds":
                seconds = self.notes.setdefault("seconds", {})
                seconds["evaluate"] = seconds.get("evaluate", 0.0) + time.monotonic() - began
            if processes().is_main_process:
                write_json(self.run.directory / NOTES, self.notes)
        return notes[name]

    def measure(self, name: str, model: nn.Module, held_out: Tensor, mode: Mode) -> None:
        """Keep a perplexity."""
        self.note("perplexity", name, lambda: perplexity(model, held_out, mode=mode, title=name, quiet=self.quiet))

    def transfer_blockwise(self, path: Path, skeleton: PreTrainedModel) -> None:
        """Do stage 1 with the checkpoint on disk, before the model is opened as a whole."""
        settings, directory = self.settings, self.run.directory
        width = skeleton.get_input_embeddings().weight.shape[1]
        plan = plan_of_tokens(self.text, settings, directory=directory, width=width, device=processes().device)
        self.tell(plan, self.text.held_out[: plan.evaluation_sequences])
        self.blockwise = transfer_blockwise(
            path, self.text.train, settings, block=settings.block or 1, tokens=plan.transfer_tokens,
            precision=plan.precision, validation=self.text.validation, mixture=self.text.mixture,
            directory=directory, seed=self.seed, quiet=self.quiet,
        )  # fmt: skip

    def first_stage(self, model: PreTrainedModel, plan: Plan, stage: Mapping[str, Any]) -> TrainingResult | Blockwise:
        """Train the maps of the model, or put on those that were trained block by block."""
        if self.blockwise is None:
            return transfer(model, self.text.train, self.settings, tokens=plan.transfer_tokens, **stage)
        put_maps(model, self.blockwise.maps)
        return self.blockwise

    def do(self, model: PreTrainedModel, *, name: str, spent: float) -> dict[str, Any]:
        """Evaluate, transfer, evaluate, tune, evaluate, write; return the metrics."""
        directory, settings = self.run.directory, self.settings
        plan = plan_for(model, self.text, settings, directory=directory, spent=spent, seed=self.seed)
        held_out = self.text.held_out[: plan.evaluation_sequences]
        if self.blockwise is None:
            self.tell(plan, held_out)
        about = self.about(model, name, plan, held_out)
        self.measure("softmax", model, held_out, "softmax")
        self.sample("softmax", model, "softmax")
        self.measure("window_only", model, held_out, "window")
        self.measure("swapped", model, held_out, "hybrid")
        self.note("errors", "swapped", lambda: transfer_errors(model, held_out[:1]))

        trained = {"transfer": learnt_in_transfer(model)}
        stage = {
            "precision": plan.precision, "validation": self.text.validation, "directory": directory,
            "mixture": self.text.mixture, "seed": self.seed, "quiet": self.quiet,
            "documents": self.text.documents if settings.documents == "apart" else None,
        }  # fmt: skip
        first = self.first_stage(model, plan, stage)
        self.measure("transferred", model, held_out, "hybrid")
        self.note("errors", "transferred", lambda: transfer_errors(model, held_out[:1]))

        tuned = add_lora(model, settings, seed=self.seed)
        trained["lora"] = learnt_in_tuning(tuned)
        is_learnt = self.text.is_learnt if settings.learn == "answers" else None
        second = finetune(tuned, self.text.train, settings, tokens=plan.lora_tokens, is_learnt=is_learnt, **stage)
        adapter = adapter_tensors(tuned) if settings.save == "adapter" else None
        linear = merge_updates(tuned).requires_grad_(False).eval()
        self.measure("tuned", linear, held_out, "hybrid")
        self.measure("tuned_without_linear", linear, held_out, "window")
        self.sample("tuned", linear, "hybrid")
        seconds = {**self.notes["seconds"], "transfer": first.seconds, "tune": second.seconds}
        metrics = {
            "perplexity": {key: self.notes["perplexity"][key] for key in EVALUATIONS},
            "tokens": {
                "transfer": first.steps * tokens_per_step(settings),
                "lora": second.steps * tokens_per_step(settings),
            },
            "seconds": {key: round(value, 3) for key, value in {**seconds, "total": sum(seconds.values())}.items()},
            "trainable_parameters": trained,
        }
        if settings.patience is not None:
            metrics["stopped_early"] = {"transfer": first.stopped_early, "lora": second.stopped_early}
        # all processes give their shares, the first one writes
        tensors = gather(saved_tensors(linear)) if adapter is None else adapter
        if processes().is_main_process:
            self.finish(linear, metrics, about, tensors)
        processes().wait_for_everyone()
        return metrics

    def sample(self, name: str, model: PreTrainedModel, mode: Mode) -> None:
        """Keep a continuation of the start of the held-out text."""
        prompt = self.note("samples", "prompt", lambda: self.tokenizer.decode(self.text.held_out[0, :PROMPT_TOKENS]))
        how = GenerateSettings(max_new_tokens=SAMPLE_TOKENS)
        with using(model, mode):
            self.note("samples", name, lambda: continue_text(model, self.tokenizer, prompt, how, seed=self.seed))

    def about(self, model: PreTrainedModel, name: str, plan: Plan, held_out: Tensor) -> dict[str, Any]:
        """Return what the report says about the run besides its metrics."""
        layer = attention_layers(model)[0].hybrid
        numbers = sum(tensor.numel() for tensor in layer.empty_state(1) if tensor.is_floating_point())
        about = {
            "model": name,
            "layers": len(attention_layers(model)),
            "all_layers": model.config.num_hidden_layers,
            "tune_mode": self.settings.tune_mode,
            "window": layer.window,
            "window_shape": layer.window_shape,
            "state_numbers": numbers,
            "state_as_tokens": -(-numbers // (2 * layer.kv_heads * layer.head_width)),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "text": ", ".join(self.run.settings["text"]),
            "held_out": self.text.held_out_from,
            "evaluation_tokens": held_out.numel(),
            "length": self.settings.length,
            "precision": plan.precision,
            "transfer_loss": self.settings.transfer_loss,
            "lora_targets": list(self.settings.lora_targets),
            "feature_rate": self.settings.feature_rate,
            "distill": self.settings.distill,
            "weights": self.settings.weights,
            "sample": f"{PROMPT_TOKENS} tokens, then {SAMPLE_TOKENS} at temperature {GenerateSettings().temperature}",
            "machine": _machine(model),
        }
        self.notes["about"] = about
        return about

    def tell(self, plan: Plan, held_out: Tensor) -> None:
        """Say what will happen."""
        steps = {
            "transfer": steps_for(plan.transfer_tokens, self.settings),
            "tuning": steps_for(plan.lora_tokens, self.settings),
        }
        shown = ", ".join(f"{count} steps of {part}" for part, count in steps.items())
        say(
            f"{shown} ({plan.transfer_tokens:,} and {plan.lora_tokens:,} tokens), perplexities on "
            f"{held_out.numel():,} held-out tokens, "
            f"training in {'bfloat16' if plan.precision == 'bf16' else 'float32'}",
            quiet=self.quiet,
        )

    def finish(
        self,
        model: PreTrainedModel,
        metrics: Mapping[str, Any],
        about: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
    ) -> None:
        """Write the folder of the model, or of the adapter."""
        directory, is_adapter = self.run.directory, self.settings.save == "adapter"
        write_json(directory / NOTES, self.notes)
        self.tokenizer.save_pretrained(directory)
        model.generation_config.save_pretrained(directory)
        self.run.finish(
            config=adapter_config(about["model"], self.settings) if is_adapter else saved_config(model),
            tensors=tensors,
            metrics=metrics,
            card=card(metrics, about),
            report=whole_page(metrics, self.notes, history(directory)),
        )
        if self.blockwise is not None:
            self.blockwise.remove()


def _machine(model: nn.Module) -> str:
    device = next(model.parameters()).device
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU threads"
