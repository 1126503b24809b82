"""The training loop of all fields: precision, accumulation, clipping, early stopping, and exact resumption.

In memory, and in a checkpoint, it keeps the model, the optimizer's state, a copy of the best weights and, if asked for,
their moving average.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast
from torch import Tensor, nn

from subquad.errors import SubquadError
from subquad.progress import Advance, track
from subquad.runs.folder import WORK
from subquad.runs.history import HISTORY, cut_history, remove_part
from subquad.runs.storage import plain, sync
from subquad.runs.termination import Terminated, stop_deferred
from subquad.train.checkpoint import load_checkpoint, save_checkpoint, trained_state
from subquad.train.distributed import all_reduce_gradients, weights_of_batches
from subquad.train.ema import ExponentialMovingAverage
from subquad.train.optim import Schedule, schedule
from subquad.train.settings import LoopSettings, TrainingResult

COUNTERS = (
    *("steps", "best_step", "best", "seconds", "cpu_seconds", "stopped_early", "has_ended", "since_best"),
    *("epoch", "index", "sums", "count"),
)
"""What a checkpoint has besides tensors, and the length of the history."""

Item = TypeVar("Item")
Backward = Callable[[Tensor], None]
Step = Callable[[nn.Module, Item, Backward], Mapping[str, Tensor | float]]
Validate = Callable[[nn.Module], Mapping[str, float]]


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
    counts: Callable[[Item], int] | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> TrainingResult:
    """Train `model` in place and load the weights with the best validation into it (the last ones without `validate`).

    With several processes (`accelerate launch`, `torchrun`) each computes its part of the batches, and all take the
    same steps on the mean of their gradients. Called again with the same arguments after an interruption, training
    resumes from the last checkpoint and ends with the same weights; a training that had ended returns at once.

    Args:
        model: The module; its parameters that require a gradient are trained.
        batches: Function from the epoch to its batches, a sequence of cheap items such as index tensors, the same
            whenever it is called.
        step: Function of the model, one item and `backward`. It calls `backward(loss)` once or several times and
            returns the metrics to log.
        optimizer: Optimizer over the model's parameters; its initial learning rates are the peak rates.
        settings: Length of the training, and how its steps are taken.
        schedule: Factor on the learning rates as a function of progress in [0, 1].
        validate: Function from the model, in eval mode and without gradients, to metrics on held-out data.
        monitor: The metric of `validate` that selects the best weights.
        maximize: Whether a larger value of it is better.
        directory: Folder of the run, for its history and for a checkpoint in its working folder; None writes nothing.
        name: Name of this stage of the run, for the history, the checkpoint and the progress bar.
        counts: Function from an item to the number of examples or tokens that its loss is the mean of, by which the
            batches of a step are weighted; None: all alike.
        seed: Seed of dropout; the batches have their own.
        quiet: Show no progress bar.

    Raises:
        SubquadError: The loss is no longer finite, or the checkpoint does not fit the model.
    """
    # glibc returns large freed blocks to the system, and mapping them again takes a quarter of the next step's time;
    # once a block of nearly 32 MB has been freed, it keeps such blocks
    torch.empty(2**23 - 4096)
    # accelerate keeps the first precision of the process, and each stage of a run may have its own
    AcceleratorState._reset_state(reset_partial_state=False)
    accelerator = Accelerator(
        mixed_precision="bf16" if settings.precision == "bfloat16" else "no",
        gradient_accumulation_steps=settings.accumulation,
        cpu=not torch.accelerator.is_available(),
    )
    trainer = _Trainer(
        accelerator=accelerator,
        model=model.to(accelerator.device),
        optimizer=optimizer,
        peaks=[group["lr"] for group in optimizer.param_groups],
        batches=batches,
        step=step,
        settings=settings,
        schedule=schedule,
        validate=validate,
        monitor=monitor,
        sign=-1.0 if maximize else 1.0,
        checkpoint=None if directory is None else directory / WORK / f"checkpoint-{name}.safetensors",
        name=name,
        counts=counts,
        seed=seed,
    )
    cuda = [torch.cuda.current_device()] if accelerator.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        if settings.ema_decay is not None:
            trainer.ema = ExponentialMovingAverage(trained_state(model), settings.ema_decay)
        trainer.restore()
        # of several processes, none may stop between two steps while the others wait for it
        with (
            stop_deferred(enabled=accelerator.num_processes == 1) as is_stopped,
            track(name, settings.steps, done=trainer.steps, quiet=quiet or trainer.has_ended) as advance,
        ):
            trainer.run(advance, is_stopped)
        if not trainer.has_ended:
            # a handler of the caller's took SIGTERM and returned
            raise Terminated
        model.load_state_dict(trainer.best_weights, strict=False)
    return TrainingResult(**{entry.name: getattr(trainer, entry.name) for entry in fields(TrainingResult)})


@dataclass(kw_only=True)
class _Trainer:
    accelerator: Accelerator
    model: nn.Module
    optimizer: torch.optim.Optimizer
    peaks: list[float]
    batches: Callable[[int], Sequence[Any]]
    step: Step[Any]
    settings: LoopSettings
    schedule: Schedule
    validate: Validate | None
    monitor: str
    sign: float
    checkpoint: Path | None
    name: str
    counts: Callable[[Any], int] | None
    seed: int
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    ema: ExponentialMovingAverage | None = None
    epoch_items: Sequence[Any] = ()
    steps: int = 0
    best_step: int = 0
    best: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    stopped_early: bool = False
    has_ended: bool = False
    since_best: int = 0
    epoch: int = 0
    index: int = 0
    """Batches of this epoch that were taken."""
    sums: dict[str, Any] = field(default_factory=dict)
    """Sums of the metrics of `count` batches, whose means are not logged yet."""
    count: int = 0

    @property
    def is_alone(self) -> bool:
        """Whether this process trains without others."""
        return self.accelerator.num_processes == 1

    def run(self, advance: Advance, is_stopped: Callable[[], bool]) -> None:
        """Take all steps that are left, until SIGTERM, Ctrl-C, or until patience runs out."""
        if self.has_ended:
            return
        settings, shown, clock = self.settings, {}, (time.monotonic(), time.process_time())
        self.epoch_items, last_saved = self._batches_of(self.epoch), clock[0]
        self.model.train()
        while self.steps < settings.steps and not self.stopped_early:
            self._take_step()
            left = settings.steps - self.steps
            if self.steps % max(1, settings.steps // 200) == 0 or left == 0:
                shown = self._log()
            # the last step is validated anyway, so another validation shortly before it is wasted
            every = settings.evaluate_every or math.inf
            if self.validate is not None and (left == 0 or (self.steps % every == 0 and 2 * left >= every)):
                shown = {**shown, **self._evaluate(self.validate)}
            now = time.monotonic(), time.process_time()
            self.seconds, self.cpu_seconds = self.seconds + now[0] - clock[0], self.cpu_seconds + now[1] - clock[1]
            clock = now
            # metrics of single parts, such as the error of each layer, would fill the line
            advance(1, **{key: shown[key] for key in [key for key in shown if "/" not in key][:3]})
            if is_stopped():
                return self._save()
            # of several processes, only one saves its sums of metrics that are not logged yet
            if (self.is_alone or self.count == 0) and now[0] - last_saved > settings.save_seconds:
                self._save()
                last_saved = time.monotonic()
        self.has_ended = True
        if self.validate is None:
            self.best_step, self.best_weights = self.steps, {} if self.ema is None else self.ema.weights
        self._save()

    def _batches_of(self, epoch: int) -> Sequence[Any]:
        items, world = self.batches(epoch), self.accelerator.num_processes
        if len(items) < world:
            raise SubquadError(f"{self.name}: {len(items)} batches are too few for {world} processes; start fewer")
        # equally many for each process, since gradients are averaged at every step
        return items if self.is_alone else items[self.accelerator.process_index : len(items) // world * world : world]

    def _take_step(self) -> None:
        settings, world = self.settings, self.accelerator.num_processes
        factor = self.schedule(self.steps / settings.steps)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        if world > 1:
            # each process has dropout of its own, and has the same again if it is resumed
            number = (self.seed * 1_000_003 + self.steps) * world + self.accelerator.process_index
            torch.manual_seed(number % 2**63)
        items = []
        while len(items) < settings.accumulation:
            if self.index >= len(self.epoch_items):
                self.epoch, self.index = self.epoch + 1, 0
                self.epoch_items = self._batches_of(self.epoch)
            items.append(self.epoch_items[self.index])
            self.index += 1
        weights = [1.0] * len(items) if self.counts is None else weights_of_batches([*map(self.counts, items)])
        for item, weight in zip(items, weights, strict=True):
            self._compute(item, weight)
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        if world > 1:
            all_reduce_gradients(parameters)
        if settings.clip is not None:
            self.accelerator.clip_grad_norm_(parameters, settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps += 1
        if self.is_alone and self.accelerator.device.type == "cpu":
            # a GPU would have to be waited for, and processes for each other
            self._check_finite("the loss", self.sums.get("loss", 0.0))
        if self.ema is not None:
            self.ema.update(trained_state(self.model), self.steps)

    def _compute(self, item: Any, weight: float) -> None:
        """Add the gradients and the metrics of a batch."""
        backward = self.accelerator.backward
        with self.accelerator.autocast():
            metrics = self.step(self.model, item, backward if weight == 1 else lambda loss: backward(loss * weight))
        for key, metric in metrics.items():
            value = metric.detach() if isinstance(metric, Tensor) else metric
            self.sums[key] = self.sums.get(key, 0.0) + (value if weight == 1 else value * weight)
        self.count += 1

    def _check_finite(self, what: str, value: Tensor | float) -> None:
        if not torch.as_tensor(value).isfinite().all():
            message = f"{self.name}: {what} is not finite after step {self.steps:,}; use a smaller learning rate"
            raise SubquadError(message)

    def _mean(self, metrics: dict[str, float]) -> dict[str, float]:
        """Return the means of metrics over the processes."""
        if self.is_alone:
            return metrics
        values = torch.tensor(list(metrics.values()), dtype=torch.float64, device=self.accelerator.device)
        means = cast(Tensor, self.accelerator.reduce(values, "mean"))
        return dict(zip(metrics, means.tolist(), strict=True))

    def _log(self) -> dict[str, float]:
        metrics = self._mean({key: float(value) / self.count for key, value in self.sums.items()})
        self.sums, self.count = {}, 0
        self._check_finite("the loss", metrics.get("loss", 0.0))
        self._record(metrics)
        return metrics

    @torch.no_grad()
    def _evaluate(self, validate: Validate) -> dict[str, float]:
        patience, weights = self.settings.patience, trained_state(self.model)
        with nullcontext() if self.ema is None else self.ema.applied_to(weights):
            if not self.is_alone:
                # running statistics of layers differ between processes; all validate with those of the first
                for buffer in self.model.buffers():
                    broadcast(buffer)
            self.model.eval()
            # rounding may differ, and a process that stopped early on its own would leave the others waiting
            metrics = self._mean({key: float(value) for key, value in validate(self.model).items()})
            self.model.train()
            value = self.sign * metrics[self.monitor]
            best = self.sign * self.best[self.monitor] if self.best else math.nan
            # a metric that was not defined, as a correlation with equal predictions, is worse than any number
            if not self.best or (math.isfinite(value) and (not math.isfinite(best) or value < best)):
                self.best, self.best_step, self.since_best = metrics, self.steps, 0
                self.best_weights = {key: tensor.detach().clone() for key, tensor in weights.items()}
            else:
                self.since_best += 1
        is_impatient = patience is not None and self.since_best >= patience
        self.stopped_early = is_impatient and self.steps < self.settings.steps
        self._record({f"validation_{key}": value for key, value in metrics.items()})
        return {f"validation_{self.monitor}": metrics[self.monitor]}

    def _record(self, metrics: Mapping[str, float]) -> None:
        if self.checkpoint is None or not self.accelerator.is_main_process:
            return
        line = {"part": self.name, "step": self.steps, "seconds": round(self.seconds, 2), **metrics}
        with (self.checkpoint.parents[1] / HISTORY).open("a", encoding="utf-8") as file:
            file.write(json.dumps(plain(line), allow_nan=False) + "\n")

    def _save(self) -> None:
        """Check that losses and weights are finite, and write a checkpoint if the run has a folder."""
        self._check_finite("the loss", self.sums.get("loss", 0.0))
        for name, parameter in self.model.named_parameters():
            # which the losses may not show
            if parameter.requires_grad:
                self._check_finite(name, parameter)
        if self.checkpoint is None or not self.accelerator.is_main_process:
            return
        self.sums = {key: float(value) for key, value in self.sums.items()}
        state, history = {name: getattr(self, name) for name in COUNTERS}, self.checkpoint.parents[1] / HISTORY
        if history.exists():
            # a checkpoint must not survive a power loss that the entries before it do not
            sync(history)
            state["history_bytes"] = history.stat().st_size
        copies = {"best": self.best_weights, "ema": {} if self.ema is None else self.ema.weights}
        save_checkpoint(self.checkpoint, self.model, self.optimizer, copies=copies, state=state)

    def restore(self) -> None:
        """Restore the checkpoint, if there is one, and remove the entries of the history that were written after it."""
        path, is_main = self.checkpoint, self.accelerator.is_main_process
        if path is not None and path.exists():
            state, copies = load_checkpoint(path, self.model, self.optimizer)
            for name in COUNTERS:
                setattr(self, name, state[name])
            self.best_weights = copies["best"]
            if self.ema is not None:
                self.ema.weights = copies["ema"]
            if not self.has_ended and is_main:
                cut_history(path.parents[1], state.get("history_bytes", 0))
            self.accelerator.wait_for_everyone()
        elif path is not None and is_main:
            remove_part(path.parents[1], self.name)
