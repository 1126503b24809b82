"""A run of `subquad llm linearize`: what it trains, measures and writes.

Each measurement is saved as soon as it is known, so an interrupted run repeats at most a part of one stage.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from peft import LoraModel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from subquad.errors import counted
from subquad.llm.data.packing import TextDataset
from subquad.llm.metrics import ALWAYS_FINITE, LABELS, compare_losses
from subquad.llm.models.adapter import adapter_config, adapter_tensors, add_lora, load_adapter
from subquad.llm.models.attention import Mode, attention_layers, attention_mode
from subquad.llm.models.checkpoints import embedding_weight, saved_config, saved_tensors
from subquad.llm.models.location import locate
from subquad.llm.models.model_card import teacher_metadata
from subquad.llm.models.standalone import write_code
from subquad.llm.plots.linearize_page import FEW_STEPS, card, linearize_page
from subquad.llm.serving.generation import generate_text
from subquad.llm.serving.settings import GenerateSettings
from subquad.llm.settings import DEFAULT_MINUTES, LinearizeSettings
from subquad.llm.training.blockwise import BlockwiseResult, load_feature_maps, transfer_blockwise
from subquad.llm.training.budget import (
    TokenBudget,
    budget_from_time,
    budget_from_tokens,
    choice_sequences,
    enough_minutes,
    expected_seconds,
)
from subquad.llm.training.controls import as_control, control_folder, controls_of, state_size
from subquad.llm.training.layer_choice import CHOICE_SEQUENCES, choose_layers, restored_divergences
from subquad.llm.training.lora import fine_tune, trainable_parameters
from subquad.llm.training.metrics import sequence_losses, transfer_errors
from subquad.llm.training.sharding import gather, merge_lora
from subquad.llm.training.stages import StageOptions, steps_for, tokens_per_step
from subquad.llm.training.transfer import freeze_for_transfer, transfer
from subquad.progress import say
from subquad.runs.examples import name_of_run
from subquad.runs.folder import METRICS, Run
from subquad.runs.history import read_history
from subquad.runs.storage import null_as_nan, plain, read_json, write_json
from subquad.train.distributed import broadcast_object, device_name, process_device, processes, wait_for_everyone
from subquad.train.settings import TrainingResult

NOTES = "evaluations.json"
MEASURED = ("losses", "errors", "softmax_layers")
TOO_LONG = 1.2
"""Expected time of a run, in times of --minutes, above which it is said."""
PROMPT_TOKENS, SAMPLE_TOKENS = 32, 64
DESCRIBED = ("feature_map_learning_rate", "distillation_weight", "dtype", "random_windows")
"""Settings that the page describes."""


def _attention(model: PreTrainedModel) -> dict[str, Any]:
    """Return what the page says of the attention of a converted model and of its size."""
    layers = attention_layers(model)
    hybrid = layers[0].hybrid
    names = ("window", "window_shape", "sinks", "cache", "has_moments", "has_linear")
    return {
        "layers": len(layers),
        "all_layers": model.config.num_hidden_layers,
        **{name: getattr(hybrid, name) for name in names},
        "state_as_tokens": state_size(model),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


@dataclass
class Linearization:
    """The inputs of a run and what it has measured."""

    run: Run
    settings: LinearizeSettings
    data: TextDataset
    tokenizer: PreTrainedTokenizerBase
    seed: int
    quiet: bool

    def __post_init__(self) -> None:
        path = self.run.directory / NOTES
        self.notes: dict[str, dict[str, Any]] = read_json(path) if path.is_file() else {}
        # not finite if a stage has diverged
        self.notes |= null_as_nan({kind: self.notes[kind] for kind in MEASURED if kind in self.notes})
        self.trainable: dict[str, int] = {}
        self.holdout = self.data.holdout.ids

    def note(self, kind: str, name: str, compute: Callable[[], Any]) -> Any:
        """Return a measurement, which is computed once and saved."""
        notes = self.notes.setdefault(kind, {})
        if name not in notes:
            start = time.monotonic()
            notes[name] = compute()
            if kind != "seconds":
                seconds = self.notes.setdefault("seconds", {})
                seconds["evaluate"] = seconds.get("evaluate", 0.0) + time.monotonic() - start
            if processes().is_main_process:
                write_json(self.run.directory / NOTES, self.notes)
        return notes[name]

    def measure(self, name: str, model: nn.Module, mode: Mode, *, with_layers: bool = False) -> None:
        """Measure the losses on the held-out sequences and, on one of them, the error of each layer."""
        how: dict[str, Any] = {"mode": mode, "title": name, "quiet": self.quiet}
        may_diverge = name not in ALWAYS_FINITE
        self.note("losses", name, lambda: sequence_losses(model, self.holdout, may_diverge=may_diverge, **how))
        if with_layers:
            self.note("errors", name, lambda: transfer_errors(model, self.holdout[:1]))

    def sample(self, name: str, model: PreTrainedModel, mode: Mode) -> None:
        """Continue the start of the held-out text."""
        prompt = self.note("samples", "prompt", self._prompt)
        settings = GenerateSettings(max_new_tokens=SAMPLE_TOKENS)
        with attention_mode(model, mode):
            self.note("samples", name, lambda: generate_text(model, self.tokenizer, prompt, settings, seed=self.seed))

    def _prompt(self) -> str:
        # the token at the start of a text is added again
        text = self.tokenizer.decode(self.holdout[0, :PROMPT_TOKENS], skip_special_tokens=True)
        assert isinstance(text, str)
        return text

    def budget(self, model: PreTrainedModel, *, elapsed: float = 0.0) -> TokenBudget:
        """Determine the token budget; only with the user's tokens may the model be on the meta device."""
        settings, directory = self.settings, self.run.directory
        if settings.lora_tokens is None:
            start, minutes = time.monotonic(), settings.minutes or DEFAULT_MINUTES
            say("timing the first steps, to fit training and measurements into --minutes", quiet=self.quiet)
            budget = budget_from_time(model, self.data, settings, directory=directory, elapsed=elapsed, seed=self.seed)
            seconds = elapsed + self.note("seconds", "timing", lambda: time.monotonic() - start)
            seconds += expected_seconds(budget, settings, others=choice_sequences(model, settings))
            if seconds > TOO_LONG * 60 * minutes and not self.run.is_resumed:
                say(
                    f"--minutes {minutes:g} is too short for this model on this computer: the shortest run takes about "
                    f"{seconds / 60:.1f} minutes",
                    quiet=self.quiet,
                )
        else:
            width, device = embedding_weight(model).shape[1], process_device()
            budget = budget_from_tokens(self.data, settings, directory=directory, width=width, device=device)
        self.holdout = self.data.holdout.ids[: budget.evaluation_sequences]
        return budget

    def describe(self, model: PreTrainedModel, name: str, budget: TokenBudget) -> None:
        """Print the budget, and note what the page says about the run besides its metrics."""
        settings, stages, few = self.settings, [], []
        for stage, tokens in (("attention transfer", budget.transfer_tokens), ("fine-tuning", budget.lora_tokens)):
            if tokens:
                steps, size = steps_for(tokens, settings), tokens_per_step(settings)
                name_of = f"{counted(steps, 'step')} of {stage}"
                stages.append(f"{name_of} ({steps * size:,} tokens)")
                if settings.lora_tokens is None and steps < FEW_STEPS:
                    few.append(name_of)
                passes = steps * size / self.data.training.ids.numel()
                if passes > 1:
                    say(
                        f"the training text has {self.data.training.ids.numel():,} tokens, so that {stage} reads each "
                        f"{passes:.1f} times",
                        quiet=self.quiet,
                    )
        if few and not self.run.is_resumed:
            spent = sum(self.notes["seconds"][name] for name in ("load", "timing"))
            others = choice_sequences(model, settings)
            minutes = enough_minutes(FEW_STEPS, budget, self.data, settings, spent=spent, others=others)
            say(
                f"{' and '.join(few)}: too few to judge the student by; {FEW_STEPS} of each stage are the least, for "
                f"which this computer needs about --minutes {minutes}",
                quiet=self.quiet,
            )
        say(
            f"{' and '.join(stages)} in {budget.precision}; perplexities on {self.holdout.numel():,} held-out tokens",
            quiet=self.quiet,
        )
        self.notes["about"] = {
            **_attention(model),
            **{setting: getattr(settings, setting) for setting in DESCRIBED},
            "model": name,
            "from": None if settings.from_ is None else name_of_run(settings.from_),
            "teacher_card": teacher_metadata(locate(name)),
            "text": ", ".join(self.run.settings["text"]),
            "held_out": self.data.holdout_source,
            "evaluation_tokens": self.holdout.numel(),
            "length": settings.sequence_length,
            "precision": budget.precision,
            "lora_targets": list(settings.lora_targets),
            "sample": f"{PROMPT_TOKENS} tokens, then {SAMPLE_TOKENS} at temperature {GenerateSettings().temperature}",
            "machine": device_name(),
        }

    def evaluate_untrained(self, model: PreTrainedModel) -> None:
        """Measure the teacher, its window alone, and the hybrid model as it is before training, if it starts so."""
        self.measure("teacher", model, "softmax")
        self.sample("teacher", model, "softmax")
        self.measure("window", model, "window")
        attention = self.settings.attention
        if attention.cache and attention.has_linear:
            self.measure("cache", model, "without_linear")
        if self.settings.from_ is None:
            self.measure("untrained", model, "hybrid", with_layers=attention.has_linear)

    def transfer_blocks(self, checkpoint: Path, meta_model: PreTrainedModel) -> BlockwiseResult:
        """Run attention transfer with the checkpoint on disk, before the model is opened as a whole."""
        budget, settings = self.budget(meta_model), self.settings
        return transfer_blockwise(
            checkpoint,
            self.data.training.ids,
            settings,
            block_layers=settings.block_layers or 1,
            tokens=budget.transfer_tokens,
            precision=budget.precision,
            validation=self.data.validation.ids,
            mixture=self.data.mixture,
            directory=self.run.directory,
            seed=self.seed,
            quiet=self.quiet,
        )

    def stage_options(self, budget: TokenBudget, tokens: int) -> StageOptions:
        """Return what both stages are given."""
        data, is_separate = self.data, self.settings.documents == "separate"
        return {
            "tokens": tokens,
            "precision": budget.precision,
            "validation": data.validation.ids,
            "validation_mask": data.validation.loss_mask if self.settings.train_on == "answers" else None,
            "validation_documents": data.validation.documents if is_separate else None,
            "mixture": data.mixture,
            "documents": data.training.documents if is_separate else None,
            "directory": self.run.directory,
            "seed": self.seed,
            "quiet": self.quiet,
        }

    def fine_tune_controls(self, model: PreTrainedModel, budget: TokenBudget) -> None:
        """Train, measure and save the controls, if there are any, one after the other; the model is left as it was."""
        if not self.settings.controls:
            return
        tokens = budget.transfer_tokens + budget.lora_tokens
        for control in controls_of(model, self.settings.attention):
            directory = self.run.directory / control_folder(control.name)
            if (directory / METRICS).is_file() and control.name in self.notes["losses"]:
                continue
            # nothing but the updates is trained
            how: dict[str, Any] = {"feature_map_learning_rate": 0.0, "random_windows": ()}
            if not control.attention.has_linear:
                how |= {"transfer_tokens": None, "block_layers": None}
            settings = replace(self.settings, attention=control.attention, **how)
            tuned = add_lora(model, settings, seed=self.seed)
            with as_control(model, control):
                options = self.stage_options(budget, tokens)
                result = self._fine_tune(tuned, settings, options, mode=control.mode, name=control.name)
                self.measure(control.name, model, control.mode)
                tensors = gather(adapter_tensors(tuned))
            self.note("seconds", control.name, lambda seconds=result.seconds: seconds)
            if processes().is_main_process:
                read = {"lora": result.steps * tokens_per_step(settings)}
                run = replace(self.run, directory=directory, settings={**self.run.settings, **plain(settings)})
                config = adapter_config(self.notes["about"]["model"], settings)
                run.finish(config=config, tensors=tensors, metrics={"tokens": read})
            wait_for_everyone()
            tuned.unload()

    def _fine_tune(
        self, tuned: LoraModel, settings: LinearizeSettings, options: StageOptions, **how: Any
    ) -> TrainingResult:
        loss_mask = self.data.training.loss_mask if settings.train_on == "answers" else None
        return fine_tune(tuned, self.data.training.ids, settings, loss_mask=loss_mask, **how, **options)

    def choose_softmax_layers(self, model: PreTrainedModel) -> tuple[LinearizeSettings, dict[str, Tensor]]:
        """Choose the layers that keep softmax attention; return the settings with them, and all feature maps."""
        sequences = self.data.training.ids[:CHOICE_SEQUENCES]

        def measured() -> dict[str, float]:
            found = restored_divergences(model, sequences, quiet=self.quiet)
            return {str(layer): divergence for layer, divergence in found.items()}

        # processes that round differently must not choose different layers
        divergences = broadcast_object(self.note("softmax_layers", "divergences", measured))
        chosen = choose_layers(
            {int(layer): divergence for layer, divergence in divergences.items()}, self.settings.softmax_layers
        )
        say(f"layers that keep softmax attention: {', '.join(map(str, chosen))}", quiet=self.quiet)
        self.settings = replace(
            self.settings, softmax_layers=0, attention=replace(self.settings.attention, softmax_layers=chosen)
        )
        maps = {name: tensor.clone() for name, tensor in model.state_dict().items() if ".hybrid." in name}
        return self.settings, maps

    def evaluate_restored(self, model: PreTrainedModel) -> None:
        """Measure the model whose chosen layers have softmax attention again, which the page describes."""
        self.notes["about"] |= _attention(model)
        self.notes["softmax_layers"]["chosen"] = list(self.settings.attention.softmax_layers)
        self.measure("restored", model, "hybrid")

    def transfer(
        self, model: PreTrainedModel, budget: TokenBudget, blockwise: BlockwiseResult | None
    ) -> TrainingResult | BlockwiseResult:
        """Train the feature maps, or load those that were trained block by block; evaluate."""
        self.trainable["transfer"] = freeze_for_transfer(model)
        if blockwise is None:
            options = self.stage_options(budget, budget.transfer_tokens)
            result = transfer(model, self.data.training.ids, self.settings, **options)
        else:
            load_feature_maps(model, blockwise.feature_maps)
            result = blockwise
        self.measure("transferred", model, "hybrid", with_layers=True)
        return result

    def fine_tune(
        self, model: PreTrainedModel, budget: TokenBudget
    ) -> tuple[TrainingResult, PreTrainedModel, Mapping[str, Tensor]]:
        """Train and merge LoRA updates; return the outcome, the merged model and the tensors to save."""
        tuned = add_lora(model, self.settings, seed=self.seed)
        if self.settings.from_ is not None:
            load_adapter(tuned, self.settings.from_)
            self.measure("earlier", tuned, "hybrid")
        self.trainable["lora"] = trainable_parameters(tuned)
        result = self._fine_tune(tuned, self.settings, self.stage_options(budget, budget.lora_tokens))
        adapter = adapter_tensors(tuned) if self.settings.save == "adapter" else None
        linear = merge_lora(tuned).requires_grad_(False).eval()
        return result, linear, gather(saved_tensors(linear)) if adapter is None else adapter

    def evaluate_fine_tuned(self, model: PreTrainedModel) -> None:
        """Measure the fine-tuned model, and the same without its linear branch, if it has one."""
        self.measure("fine_tuned", model, "hybrid")
        if self.settings.attention.has_linear:
            self.measure("fine_tuned_without_linear", model, "without_linear")
        self.sample("fine_tuned", model, "hybrid")

    def metrics(self, stages: Mapping[str, TrainingResult | BlockwiseResult]) -> dict[str, Any]:
        """Return the content of `metrics.json`, given the outcomes of `transfer`, unless it was skipped, and `lora`."""
        step_tokens = tokens_per_step(self.settings)
        seconds = {**self.notes["seconds"], **{name: stage.seconds for name, stage in stages.items()}}
        names = [name for name in LABELS if name in self.notes["losses"]]
        metrics = {
            **compare_losses({name: self.notes["losses"][name] for name in names}),
            "tokens": {name: stage.steps * step_tokens for name, stage in stages.items()},
            "seconds": {key: round(value, 3) for key, value in {**seconds, "total": sum(seconds.values())}.items()},
            "trainable_parameters": self.trainable,
        }
        if self.settings.patience is not None:
            metrics["stopped_early"] = {name: stage.stopped_early for name, stage in stages.items()}
        return metrics

    def write(self, model: PreTrainedModel, metrics: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Write the folder of the model or of the adapter."""
        directory, about = self.run.directory, self.notes["about"]
        history = read_history(directory)
        write_json(directory / NOTES, self.notes)
        self.tokenizer.save_pretrained(directory)
        model.generation_config.save_pretrained(directory)
        is_adapter = self.settings.save == "adapter"
        model.config.trained_length = self.settings.sequence_length
        if self.settings.standalone:
            write_code(directory, model)
        self.run.finish(
            config=adapter_config(about["model"], self.settings) if is_adapter else saved_config(model),
            tensors=tensors,
            metrics=metrics,
            card=card(metrics, self.notes, history),
            report=lambda: linearize_page(metrics, self.notes, history),
        )
