"""The one training loop: precision, accumulation, clipping, early stop, and going on after a kill with the same result.

Beside the model it keeps one copy of the best weights and the optimizer's state; a checkpoint is one safetensors file.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast
from torch import Tensor, nn

from subquad.errors import SubquadError
from subquad.progress import Advance, track
from subquad.runs.folder import HISTORY
from subquad.runs.storage import read_tensors_and_metadata, write_tensors
from subquad.train.checkpoint import learnt, load, pack_optimizer, under, unpack_optimizer
from subquad.train.distributed import all_reduce_gradients, has_accelerator
from subquad.train.ema import Average
from subquad.train.optim import Schedule, schedule

__all__ = ["Backward", "LoopSettings", "Outcome", "train"]

Item = TypeVar("Item")
Backward = Callable[[Tensor], None]
Step = Callable[[nn.Module, Item, Backward], Mapping[str, Tensor | float]]
Validate = Callable[[nn.Module], Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """How long to train and how carefully."""

    steps: int
    """Optimizer steps."""
    accumulation: int = 1
    """Batches whose gradients are averaged in one step."""
    clip: float | None = 1.0
    """Largest norm of the gradient; None leaves it as it is."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Type of the matrix products; weights stay in float32."""
    evaluate_every: int | None = None
    """Steps between two validations; the last step is always validated."""
    patience: int | None = None
    """Stop after so many validations in a row without a new best."""
    plateau: int | None = None
    """Halve the rate after so many validations in a row without a new best."""
    average: float | None = None
    """Decay of a moving average of the weights, which validations measure and the end keeps; None: the last weights."""
    save_seconds: float = 20.0
    """Least time between two checkpoints."""

    def __post_init__(self) -> None:
        for name in ("steps", "accumulation", "evaluate_every", "patience", "plateau"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.average is not None and not 0 < self.average < 1:
            raise ValueError(f"average must be between 0 and 1, got {self.average}")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a training came to."""

    steps: int
    """Steps taken."""
    best_step: int
    """The step whose weights the model now holds."""
    best: dict[str, float]
    """The figures of its validation."""
    seconds: float
    """Time spent, over all starts."""
    stopped_early: bool
    """Patience ran out before the last step."""


@dataclass
class _State:
    step: int = 0
    epoch: int = 0
    index: int = 0
    seconds: float = 0.0
    best_step: int = 0
    best: dict[str, float] = field(default_factory=dict)
    since_best: int = 0
    since_halved: int = 0
    rate_factor: float = 1.0
    history_bytes: int = 0
    stopped_early: bool = False
    has_ended: bool = False


def train(
    model: nn.Module,
    *,
    batches: Callable[[int], Sequence[Item]],
    step: Step[Item],
    optimizer: torch.optim.Optimizer,
    settings: LoopSettings,
    schedule: Schedule = schedule("constant"),
    validate: Validate | None = None,
    monitor: str = "loss",
    maximize: bool = False,
    directory: Path | None = None,
    name: str = "fit",
    seed: int = 0,
    quiet: bool = False,
) -> Outcome:
    """Train `model` in place and leave the best weights by validation in it (the last ones without `validate`).

    Of several processes (`accelerate launch`, `torchrun`) each computes its share of the batches, and all take the same
    steps, on the mean of their gradients.

    Args:
        model: what is trained: its parameters that require a gradient.
        batches: the plan of an epoch, a sequence of cheap items (index tensors); the same each time it is asked.
        step: computes one item, calls `backward(loss)` as often as it likes, returns figures for the history.
        optimizer: over the model's parameters; its rates at the start are the peak rates.
        settings: how long and how carefully.
        schedule: factor on the rates by progress.
        validate: figures of the model on held-out data; called in eval mode without gradients.
        monitor: the figure of `validate` that decides.
        maximize: larger is better.
        directory: where `checkpoint-{name}.safetensors` and `history.jsonl` go; None keeps nothing.
        name: of this part of the run.
        seed: of dropout; batches carry their own.
        quiet: no progress bar.

    Called again after a kill with the same arguments it goes on from the last checkpoint and ends with the same
    weights; a part that had ended returns at once.

    Raises:
        SubquadError: the loss is no longer finite, or the checkpoint does not fit the model.
        ValueError: an epoch without batches, or `validate` does not return `monitor`.
    """
    # glibc returns large freed blocks to the system, and the next step pays for each page anew, a quarter of its time;
    # once a block of nearly 32 MB has been freed, it keeps them
    torch.empty(2**23 - 4096)
    # accelerate remembers the first precision of the process, and each part of a run may have its own
    AcceleratorState._reset_state(reset_partial_state=False)
    accelerator = Accelerator(
        mixed_precision=settings.precision,
        gradient_accumulation_steps=settings.accumulation,
        cpu=not has_accelerator(),
    )
    trainer = _Trainer(
        accelerator=accelerator,
        model=model.to(accelerator.device),
        optimizer=accelerator.prepare_optimizer(optimizer),
        peaks=[group["lr"] for group in optimizer.param_groups],
        batches=batches,
        step=step,
        settings=settings,
        schedule=schedule,
        validate=validate,
        monitor=monitor,
        sign=-1.0 if maximize else 1.0,
        directory=directory,
        name=name,
    )
    cuda = [torch.cuda.current_device()] if accelerator.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        if settings.average is not None:
            trainer.average = Average(learnt(trainer.model), settings.average)
        trainer.restore()
        state = trainer.state
        if not state.has_ended:
            with track(name, settings.steps, done=state.step, quiet=quiet) as advance:
                trainer.run(advance)
        trainer.take_best()
    return Outcome(
        steps=state.step,
        best_step=state.best_step,
        best=state.best,
        seconds=state.seconds,
        stopped_early=state.stopped_early,
    )


@dataclass(kw_only=True)
class _Trainer:
    accelerator: Accelerator
    model: nn.Module
    optimizer: AcceleratedOptimizer
    peaks: list[float]
    batches: Callable[[int], Sequence[Any]]
    step: Step[Any]
    settings: LoopSettings
    schedule: Schedule
    validate: Validate | None
    monitor: str
    sign: float
    directory: Path | None
    name: str
    state: _State = field(default_factory=_State)
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    average: Average | None = None

    def run(self, advance: Advance) -> None:
        settings, state = self.settings, self.state
        plan = self._plan(state.epoch)
        sums: dict[str, Tensor | float] = {}
        count, last_saved, last_tick = 0, time.monotonic(), time.monotonic()
        shown: dict[str, float] = {}
        log_every = max(1, settings.steps // 200)
        self.model.train()
        while state.step < settings.steps and not state.stopped_early:
            self._set_rates()
            for _ in range(settings.accumulation):
                if state.index >= len(plan):
                    state.epoch, state.index = state.epoch + 1, 0
                    plan = self._plan(state.epoch)
                for key, value in self._compute(plan[state.index]).items():
                    sums[key] = sums.get(key, 0.0) + value
                state.index += 1
                count += 1
            self._update()
            state.step += 1
            if self.average is not None:
                self.average.update(learnt(self.model), state.step)
            now = time.monotonic()
            state.seconds, last_tick = state.seconds + now - last_tick, now
            is_last = state.step == settings.steps
            if state.step % log_every == 0 or is_last:
                shown = self._log(sums, count)
                sums, count = {}, 0
            if self.validate and (is_last or (settings.evaluate_every and state.step % settings.evaluate_every == 0)):
                shown = {**shown, **self._evaluate()}
                # the time of a validation counts as the part's own
                now = time.monotonic()
                state.seconds, last_tick = state.seconds + now - last_tick, now
            advance(1, **{key: shown[key] for key in list(shown)[:3]})
            if count == 0 and now - last_saved > settings.save_seconds:
                self.save()
                last_saved = time.monotonic()
        state.has_ended = True
        if self.validate is None:
            state.best_step = state.step
            if self.average is not None:
                self.best_weights = self.average.weights
        self.save()

    def take_best(self) -> None:
        """Put the best weights into the model."""
        if self.best_weights:
            load(self.model, self.best_weights)

    def _plan(self, epoch: int) -> Sequence[Any]:
        items, world = self.batches(epoch), self.accelerator.num_processes
        if len(items) < world:
            raise SubquadError(
                f"{self.name}: {len(items)} batches are too few for {world} processes, which take one each; give more "
                "data, smaller batches, or start fewer processes"
            )
        # as many for each process, since the gradients are averaged at every step
        return items[self.accelerator.process_index : len(items) // world * world : world] if world > 1 else items

    def _set_rates(self) -> None:
        factor = self.schedule(self.state.step / self.settings.steps) * self.state.rate_factor
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor

    def _compute(self, item: Any) -> Mapping[str, Tensor | float]:
        with self.accelerator.autocast():
            figures = self.step(self.model, item, self.accelerator.backward)
        return {key: value.detach() if isinstance(value, Tensor) else value for key, value in figures.items()}

    def _update(self) -> None:
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        if self.accelerator.num_processes > 1:
            all_reduce_gradients(parameters)
        if self.settings.clip is not None:
            self.accelerator.clip_grad_norm_(parameters, self.settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _log(self, sums: Mapping[str, Tensor | float], count: int) -> dict[str, float]:
        figures = self._mean({key: float(value) / count for key, value in sums.items()})
        if not math.isfinite(figures.get("loss", 0.0)):
            raise SubquadError(
                f"{self.name}: the loss is {figures['loss']} after {self.state.step} steps; "
                "try a smaller learning rate, or --precision no where another was chosen"
            )
        self._record(figures)
        return figures

    def _mean(self, figures: dict[str, float]) -> dict[str, float]:
        """Return the figures' means over the processes."""
        if self.accelerator.num_processes == 1:
            return figures
        values = torch.tensor(list(figures.values()), dtype=torch.float64, device=self.accelerator.device)
        return dict(zip(figures, self.accelerator.reduce(values, "mean").tolist(), strict=True))

    def _evaluate(self) -> dict[str, float]:
        if self.average is None:
            return self._measure()
        with self.average.inside(learnt(self.model)):
            return self._measure()

    @torch.no_grad()
    def _measure(self) -> dict[str, float]:
        state, settings = self.state, self.settings
        if self.accelerator.num_processes > 1:
            # what layers count over their batches is each process's own; all decide by the first one's
            for buffer in self.model.buffers():
                broadcast(buffer)
        self.model.eval()
        # roundings may differ, and one process that stops alone would leave the others waiting
        figures = self._mean({key: float(value) for key, value in self.validate(self.model).items()})
        self.model.train()
        if self.monitor not in figures:
            raise ValueError(f"validate returned {sorted(figures)}, and monitor is {self.monitor!r}")
        value = self.sign * figures[self.monitor]
        is_better = not state.best or value < self.sign * state.best[self.monitor]
        if is_better and (math.isfinite(value) or not state.best):
            state.best, state.best_step, state.since_best, state.since_halved = figures, state.step, 0, 0
            self.best_weights = {key: tensor.detach().clone() for key, tensor in learnt(self.model).items()}
        else:
            state.since_best, state.since_halved = state.since_best + 1, state.since_halved + 1
        if settings.plateau and state.since_halved >= settings.plateau:
            state.rate_factor, state.since_halved = state.rate_factor / 2, 0
        is_patient = settings.patience is None or state.since_best < settings.patience
        state.stopped_early = not is_patient and state.step < settings.steps
        self._record({f"validation_{key}": value for key, value in figures.items()})
        return {f"validation_{self.monitor}": figures[self.monitor]}

    def _record(self, figures: Mapping[str, float]) -> None:
        if self.directory is None or not self.accelerator.is_main_process:
            return
        line = {"part": self.name, "step": self.state.step, "seconds": round(self.state.seconds, 2), **figures}
        with (self.directory / HISTORY).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    @property
    def _checkpoint(self) -> Path | None:
        return None if self.directory is None else self.directory / f"checkpoint-{self.name}.safetensors"

    def save(self) -> None:
        """Write the checkpoint, unless nothing is kept."""
        if self._checkpoint is None or not self.accelerator.is_main_process:
            return
        history = self._checkpoint.with_name(HISTORY)
        self.state.history_bytes = history.stat().st_size if history.exists() else 0
        numbers, tensors = pack_optimizer(self.optimizer.state_dict()["state"])
        tensors |= {f"model.{key}": tensor for key, tensor in learnt(self.model).items()}
        tensors |= {f"best.{key}": tensor for key, tensor in self.best_weights.items()}
        if self.average is not None:
            tensors |= {f"average.{key}": tensor for key, tensor in self.average.weights.items()}
        tensors["rng"] = torch.get_rng_state()
        if self.accelerator.device.type == "cuda":
            tensors["rng_cuda"] = torch.cuda.get_rng_state()
        scaler = self.accelerator.scaler.state_dict() if self.accelerator.scaler else {}
        header = {
            "state": json.dumps(asdict(self.state)),
            "optimizer": json.dumps(numbers),
            "scaler": json.dumps(scaler),
        }
        write_tensors(self._checkpoint, tensors, header)

    def restore(self) -> None:
        """Go back to the checkpoint, where there is one; lines of the history written after it are cut off."""
        if self._checkpoint is None or not self._checkpoint.exists():
            return
        tensors, header = read_tensors_and_metadata(self._checkpoint)
        self.state = _State(**json.loads(header["state"]))
        try:
            load(self.model, under("model.", tensors))
        except (KeyError, RuntimeError) as error:
            raise SubquadError(
                f"{self._checkpoint}: was written for another model ({error}); start anew with --force"
            ) from error
        device = self.accelerator.device
        self.best_weights = {key: tensor.to(device) for key, tensor in under("best.", tensors).items()}
        if self.average is not None:
            self.average.weights = {key: x.to(device) for key, x in under("average.", tensors).items()}
        entries = unpack_optimizer(json.loads(header["optimizer"]), under("optimizer.", tensors))
        self.optimizer.load_state_dict({"state": entries, "param_groups": self.optimizer.state_dict()["param_groups"]})
        torch.set_rng_state(tensors["rng"])
        if "rng_cuda" in tensors and device.type == "cuda":
            torch.cuda.set_rng_state(tensors["rng_cuda"])
        if self.accelerator.scaler and json.loads(header["scaler"]):
            self.accelerator.scaler.load_state_dict(json.loads(header["scaler"]))
        history = self._checkpoint.with_name(HISTORY)
        if not self.state.has_ended and history.exists() and self.accelerator.is_main_process:
            with history.open("r+b") as file:
                file.truncate(self.state.history_bytes)
        self.accelerator.wait_for_everyone()
