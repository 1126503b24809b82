"""Linearize a model from end to end: evaluate, transfer, evaluate, tune, evaluate, write.

Each figure is kept as soon as it is known, so a run that was killed repeats at most a part of one stage.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from subquad.errors import SubquadError
from subquad.llm.budget import EVALUATIONS, Plan, plan_for
from subquad.llm.convert import (
    convert,
    locate,
    model_fingerprint,
    open_checkpoint,
    saved_config,
    saved_tensors,
)
from subquad.llm.data import Text, check, prepare
from subquad.llm.evaluate import perplexity, transfer_errors
from subquad.llm.finetune import add_updates, finetune, learnt_in_tuning
from subquad.llm.generation import continue_text
from subquad.llm.modeling import Mode, attention_layers, using
from subquad.llm.report import card, history, whole_page
from subquad.llm.settings import GenerateSettings, LinearizeSettings
from subquad.llm.transfer import learnt_in_transfer, steps_for, transfer
from subquad.progress import say
from subquad.train.artifact import Run, fingerprint, open_run, plain, read_json, write_json

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
    clock = time.monotonic()
    path, files, evaluation_files = locate(model), _files(text), _files(eval_text)
    check(files, evaluation_files, text_key=settings.text_key, weights=settings.text_weights)
    asked = {
        "model": str(model),
        "model_fingerprint": model_fingerprint(path),
        "text": [file.name for file in files],
        "text_fingerprint": fingerprint(*files, *evaluation_files),
        "eval_text": [file.name for file in evaluation_files],
        "seed": seed,
        **plain(settings),
    }
    # a folder that will not do is refused before the model is opened, a new one made after all else was found good
    is_begun = not force and Path(out).exists() and (not Path(out).is_dir() or any(Path(out).iterdir()))
    run = open_run(out, kind="llm", settings=asked) if is_begun else None
    say(f"opening {path.name}", quiet=quiet)
    net, tokenizer = open_checkpoint(path)
    prepared = _prepare(tokenizer, files, evaluation_files, settings, quiet=quiet)
    _check_length(net, settings)
    convert(net, settings.attention).to(PartialState().device)
    run = run or open_run(out, kind="llm", settings=asked, force=force)
    job = _Job(run=run, settings=settings, text=prepared, tokenizer=tokenizer, seed=seed, quiet=quiet)
    job.note("seconds", "load", lambda: time.monotonic() - clock)
    return job.do(net, name=str(model), spent=time.monotonic() - clock)


def _files(text: str | Path | Sequence[str | Path]) -> list[Path]:
    return [Path(text)] if isinstance(text, str | Path) else [Path(file) for file in text]


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


@dataclass
class _Job:
    run: Run
    settings: LinearizeSettings
    text: Text
    tokenizer: PreTrainedTokenizerBase
    seed: int
    quiet: bool

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
            write_json(self.run.directory / NOTES, self.notes)
        return notes[name]

    def measure(self, name: str, model: nn.Module, held_out: Tensor, mode: Mode) -> None:
        """Keep a perplexity."""
        self.note("perplexity", name, lambda: perplexity(model, held_out, mode=mode, title=name, quiet=self.quiet))

    def do(self, model: PreTrainedModel, *, name: str, spent: float) -> dict[str, Any]:
        """Evaluate, transfer, evaluate, tune, evaluate, write; return the metrics."""
        directory, settings = self.run.directory, self.settings
        plan = plan_for(model, self.text, settings, directory=directory, spent=spent, seed=self.seed)
        held_out = self.text.held_out[: plan.evaluation_sequences]
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
        }  # fmt: skip
        first = transfer(model, self.text.train, settings, tokens=plan.transfer_tokens, **stage)
        self.measure("transferred", model, held_out, "hybrid")
        self.note("errors", "transferred", lambda: transfer_errors(model, held_out[:1]))

        tuned = add_updates(model, settings, seed=self.seed)
        trained["lora"] = learnt_in_tuning(tuned)
        second = finetune(tuned, self.text.train, settings, tokens=plan.lora_tokens, **stage)
        merged: PreTrainedModel = tuned.merge_and_unload()
        merged.requires_grad_(False).eval()
        self.measure("tuned", merged, held_out, "hybrid")
        self.measure("tuned_without_linear", merged, held_out, "window")
        self.sample("tuned", merged, "hybrid")
        seconds = {**self.notes["seconds"], "transfer": first.seconds, "tune": second.seconds}
        metrics = {
            "perplexity": {key: self.notes["perplexity"][key] for key in EVALUATIONS},
            "tokens": {
                "transfer": first.steps * settings.batch * settings.length,
                "lora": second.steps * settings.batch * settings.length,
            },
            "seconds": {key: round(value, 3) for key, value in {**seconds, "total": sum(seconds.values())}.items()},
            "trainable_parameters": trained,
        }
        self.finish(merged, metrics, about)
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

    def finish(self, model: PreTrainedModel, metrics: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        """Write the model folder."""
        directory = self.run.directory
        write_json(directory / NOTES, self.notes)
        self.tokenizer.save_pretrained(directory)
        model.generation_config.save_pretrained(directory)
        self.run.finish(
            config=saved_config(model),
            tensors=saved_tensors(model),
            metrics=metrics,
            card=card(metrics, about),
            report=whole_page(metrics, self.notes, history(directory)),
        )


def _machine(model: nn.Module) -> str:
    device = next(model.parameters()).device
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU threads"
