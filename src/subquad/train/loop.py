"""The training loop of all fields: precision, accumulation, clipping, early stopping, and exact resumption.

In memory it keeps the model, the optimizer's state, a copy of the best weights and, if asked for, their moving average;
a checkpoint is one safetensors file with the same content.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast
from torch import Tensor, nn

from subquad.errors import SubquadError
from subquad.progress import Advance, track
from subquad.runs.history import HISTORY, cut_history, remove_part
from subquad.runs.storage import plain, sync
from subquad.runs.termination import Terminated, sigterm_deferred
from subquad.train.checkpoint import Counters, load_checkpoint, load_state, save_checkpoint, trained_state
from subquad.train.distributed import all_reduce_gradients, has_accelerator, weights_of_batches
from subquad.train.ema import ExponentialMovingAverage
from subquad.train.optim import Schedule, schedule
from subquad.train.settings import LoopSettings, TrainingResult

__all__ = ["Backward", "train"]

MIXED_PRECISION = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}
"""Our name of a precision → accelerate's."""

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
    record: Callable[[Mapping[str, Any]], None] = lambda entry: None,
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
        batches: Function from the epoch to its batches, a sequence of cheap items such as index tensors. It must
            return the same sequence each time it is called with the same epoch.
        step: Function of the model, one item and `backward`. It calls `backward(loss)` once or several times and
            returns the metrics to log.
        optimizer: Optimizer over the model's parameters; its initial learning rates are the peak rates.
        settings: Length of the training, and how its steps are taken.
        schedule: Factor on the learning rates as a function of progress in [0, 1].
        validate: Function from the model, in eval mode and without gradients, to metrics on held-out data.
        monitor: The metric of `validate` that selects the best weights.
        maximize: Whether a larger value of it is better.
        directory: Folder of `checkpoint-{name}.safetensors` and `history.jsonl`; None writes nothing.
        name: Name of this stage of the run, for the history, the checkpoint and the progress bar.
        record: Called with each entry of the history.
        counts: Function from an item to the number of examples or tokens that its loss is the mean of. The batches of a
            step, accumulated and of all processes, are then weighted by it, as one batch would be; None: all alike.
        seed: Seed of dropout; the batches have their own.
        quiet: Show no progress bar.

    Returns:
        Steps taken, the best step with its validation metrics, and the time spent.

    Raises:
        SubquadError: The loss is no longer finite, the checkpoint does not fit the model, or an epoch has fewer batches
            than there are processes.
        ValueError: `validate` does not return `monitor`.
    """
    # glibc returns large freed blocks to the system, and mapping them again takes a quarter of the next step's time;
    # once a block of nearly 32 MB has been freed, it keeps such blocks
    torch.empty(2**23 - 4096)
    # accelerate keeps the first precision of the process, and each stage of a run may have its own
    AcceleratorState._reset_state(reset_partial_state=False)
    accelerator = Accelerator(
        mixed_precision=MIXED_PRECISION[settings.precision],
        gradient_accumulation_steps=settings.accumulation,
        cpu=not has_accelerator(),
    )
    trainer = _Trainer(
        accelerator=accelerator,
        model=model.to(accelerator.device),
        optimizer=cast(AcceleratedOptimizer, accelerator.prepare_optimizer(optimizer)),
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
        record=record,
        counts=counts,
        seed=seed,
    )
    cuda = [torch.cuda.current_device()] if accelerator.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        if settings.ema_decay is not None:
            trainer.ema = ExponentialMovingAverage(trained_state(trainer.model), settings.ema_decay)
        trainer.restore()
        state = trainer.state
        if not state.has_ended:
            # of several processes, none may stop between two steps while the others wait for it
            is_alone = accelerator.num_processes == 1
            with (
                track(name, settings.steps, done=state.step, quiet=quiet) as advance,
                sigterm_deferred(enabled=is_alone) as is_terminated,
            ):
                trainer.run(advance, is_terminated)
            if not state.has_ended:
                # a handler of the caller's took SIGTERM and returned
                raise Terminated
        trainer.load_best()
    outcome = {name: getattr(state, name) for name in ("best_step", "best", "seconds", "cpu_seconds", "stopped_early")}
    return TrainingResult(steps=state.step, **outcome)


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
    record: Callable[[Mapping[str, Any]], None]
    counts: Callable[[Any], int] | None
    seed: int
    state: Counters = field(default_factory=Counters)
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    ema: ExponentialMovingAverage | None = None
    epoch_items: Sequence[Any] = ()
    losses: list[tuple[int, Any]] = field(default_factory=list)
    """Steps, and losses of their batches, which are not known to be finite."""

    def run(self, advance: Advance, is_terminated: Callable[[], bool]) -> None:
        settings, state = self.settings, self.state
        self.epoch_items = self._batches_of(state.epoch)
        last_saved = time.monotonic()
        last_tick = time.monotonic(), time.process_time()
        shown: dict[str, float] = {}
        log_every = max(1, settings.steps // 200)
        self.model.train()
        while state.step < settings.steps and not state.stopped_early:
            self._set_rates()
            if self.accelerator.num_processes > 1:
                # each process has dropout of its own, and has the same again if it is resumed
                world, rank = self.accelerator.num_processes, self.accelerator.process_index
                torch.manual_seed(((self.seed * 1_000_003 + state.step) * world + rank) % 2**63)
            items = self._items_of_step()
            weights = [1.0] * len(items) if self.counts is None else weights_of_batches([*map(self.counts, items)])
            for item, weight in zip(items, weights, strict=True):
                for key, value in self._compute(item, weight).items():
                    state.sums[key] = state.sums.get(key, 0.0) + value
                state.count += 1
            if self.accelerator.device.type == "cpu" and self.accelerator.num_processes == 1:
                # a GPU would have to be waited for, and processes for each other
                self._check_losses()
            self._update()
            state.step += 1
            if self.ema is not None:
                self.ema.update(trained_state(self.model), state.step)
            last_tick = state.tick(last_tick)
            is_last = state.step == settings.steps
            if state.step % log_every == 0 or is_last:
                shown = self._log()
            if self.validate is not None and self._is_validated():
                shown = {**shown, **self._evaluate(self.validate)}
                # the time of a validation counts as time of the stage
                last_tick = state.tick(last_tick)
            # metrics of single parts, such as the error of each layer, would fill the line
            advance(1, **{key: shown[key] for key in [key for key in shown if "/" not in key][:3]})
            if is_terminated():
                return self.save()
            # of several processes, only one saves its sums of metrics that are not logged yet
            is_complete = state.count == 0 or self.accelerator.num_processes == 1
            if is_complete and time.monotonic() - last_saved > settings.save_seconds:
                self.save()
                last_saved = time.monotonic()
        state.has_ended = True
        if self.validate is None:
            state.best_step = state.step
            if self.ema is not None:
                self.best_weights = self.ema.weights
        self.save()

    def load_best(self) -> None:
        """Load the best weights into the model."""
        if self.best_weights:
            load_state(self.model, self.best_weights)

    def _is_validated(self) -> bool:
        step, every, last = self.state.step, self.settings.evaluate_every, self.settings.steps
        # the last step is validated anyway, so another validation shortly before it is wasted
        return step == last or (every is not None and step % every == 0 and 2 * (last - step) >= every)

    def _batches_of(self, epoch: int) -> Sequence[Any]:
        items, world = self.batches(epoch), self.accelerator.num_processes
        if len(items) < world:
            raise SubquadError(
                f"{self.name}: an epoch has {len(items)} batches, too few for {world} processes, each of which takes "
                "at least one; use more data, a smaller --batch-size, or fewer processes"
            )
        # equally many for each process, since gradients are averaged at every step
        return items[self.accelerator.process_index : len(items) // world * world : world] if world > 1 else items

    def _set_rates(self) -> None:
        factor = self.schedule(self.state.step / self.settings.steps) * self.state.rate_factor
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor

    def _items_of_step(self) -> list[Any]:
        state, items = self.state, []
        while len(items) < self.settings.accumulation:
            if state.index >= len(self.epoch_items):
                state.epoch, state.index = state.epoch + 1, 0
                self.epoch_items = self._batches_of(state.epoch)
            items.append(self.epoch_items[state.index])
            state.index += 1
        return items

    def _compute(self, item: Any, weight: float) -> Mapping[str, Tensor | float]:
        backward = self.accelerator.backward
        with self.accelerator.autocast():
            given = backward if weight == 1 else lambda loss: backward(loss * weight)
            metrics = self.step(self.model, item, given)
        found = {key: value.detach() if isinstance(value, Tensor) else value for key, value in metrics.items()}
        self.losses.append((self.state.step + 1, found.get("loss", 0.0)))
        return found if weight == 1 else {key: value * weight for key, value in found.items()}

    def _update(self) -> None:
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        if self.accelerator.num_processes > 1:
            all_reduce_gradients(parameters)
        if self.settings.clip is not None:
            self.accelerator.clip_grad_norm_(parameters, self.settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _log(self) -> dict[str, float]:
        state = self.state
        metrics = self._mean({key: float(value) / state.count for key, value in state.sums.items()})
        state.sums, state.count = {}, 0
        self._check_losses()
        self._record(metrics)
        return metrics

    def _check_losses(self) -> None:
        """Raise the error of the first step whose loss is not finite; of several processes, all must call this."""
        bad = next((step for step, loss in self.losses if not math.isfinite(float(loss))), math.inf)
        if self.accelerator.num_processes > 1:
            own = torch.tensor([bad], device=self.accelerator.device)
            bad = float(cast(Tensor, self.accelerator.gather(own)).min())
        self.losses = []
        if bad < math.inf:
            raise self._diverged("the loss is not finite", int(bad))

    def _diverged(self, what: str, step: int) -> SubquadError:
        return SubquadError(
            f"{self.name}: {what} after step {step:,}; use a smaller learning rate, or --precision float32 if another "
            "precision was chosen"
        )

    def _mean(self, metrics: dict[str, float]) -> dict[str, float]:
        """Return the means of metrics over the processes."""
        if self.accelerator.num_processes == 1:
            return metrics
        values = torch.tensor(list(metrics.values()), dtype=torch.float64, device=self.accelerator.device)
        means = cast(Tensor, self.accelerator.reduce(values, "mean"))
        return dict(zip(metrics, means.tolist(), strict=True))

    def _evaluate(self, validate: Validate) -> dict[str, float]:
        if self.ema is None:
            return self._measure(validate)
        with self.ema.applied_to(trained_state(self.model)):
            return self._measure(validate)

    @torch.no_grad()
    def _measure(self, validate: Validate) -> dict[str, float]:
        state, settings = self.state, self.settings
        if self.accelerator.num_processes > 1:
            # running statistics of layers differ between processes; all validate with those of the first
            for buffer in self.model.buffers():
                broadcast(buffer)
        self.model.eval()
        # rounding may differ, and a process that stopped early on its own would leave the others waiting
        metrics = self._mean({key: float(value) for key, value in validate(self.model).items()})
        self.model.train()
        if self.monitor not in metrics:
            raise ValueError(f"validate returned {sorted(metrics)}, and monitor is {self.monitor!r}")
        value = self.sign * metrics[self.monitor]
        best = self.sign * state.best[self.monitor] if state.best else math.nan
        # a metric that was not defined, as a correlation with equal predictions, is worse than any number
        is_better = math.isfinite(value) and (not math.isfinite(best) or value < best)
        if is_better or not state.best:
            state.best, state.best_step, state.since_best, state.since_halved = metrics, state.step, 0, 0
            self.best_weights = {key: tensor.detach().clone() for key, tensor in trained_state(self.model).items()}
        else:
            state.since_best, state.since_halved = state.since_best + 1, state.since_halved + 1
        if settings.plateau and state.since_halved >= settings.plateau:
            state.rate_factor, state.since_halved = state.rate_factor / 2, 0
        is_impatient = settings.patience is not None and state.since_best >= settings.patience
        state.stopped_early = is_impatient and state.step < settings.steps
        self._record({f"validation_{key}": value for key, value in metrics.items()})
        return {f"validation_{self.monitor}": metrics[self.monitor]}

    def _record(self, metrics: Mapping[str, float]) -> None:
        if self.directory is None or not self.accelerator.is_main_process:
            return
        line = {"part": self.name, "step": self.state.step, "seconds": round(self.state.seconds, 2), **metrics}
        with (self.directory / HISTORY).open("a", encoding="utf-8") as file:
            file.write(json.dumps(plain(line), allow_nan=False) + "\n")
        self.record(line)

    @property
    def _checkpoint(self) -> Path | None:
        return None if self.directory is None else self.directory / f"checkpoint-{self.name}.safetensors"

    def save(self) -> None:
        """Write a checkpoint, if the run has a folder.

        Raises:
            SubquadError: A loss is not finite, or a weight, which the losses may not show.
        """
        if self.accelerator.num_processes == 1:
            self._check_losses()
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and not parameter.isfinite().all():
                raise self._diverged(f"{name} holds values that are not finite", self.state.step)
        if self._checkpoint is None or not self.accelerator.is_main_process:
            return
        history = self._checkpoint.with_name(HISTORY)
        if history.exists():
            # a checkpoint must not survive a power loss that the entries before it do not
            sync(history)
            self.state.history_bytes = history.stat().st_size
        self.state.sums = {key: float(value) for key, value in self.state.sums.items()}
        save_checkpoint(
            self._checkpoint,
            accelerator=self.accelerator,
            model=self.model,
            optimizer=self.optimizer,
            weights={"best": self.best_weights, "ema": {} if self.ema is None else self.ema.weights},
            state=asdict(self.state),
        )

    def restore(self) -> None:
        """Restore the checkpoint, if there is one, and remove the entries of the history that were written after it."""
        if self._checkpoint is None:
            return
        if not self._checkpoint.exists():
            if self.accelerator.is_main_process:
                remove_part(self._checkpoint.parent, self.name)
            return
        state, weights = load_checkpoint(
            self._checkpoint, accelerator=self.accelerator, model=self.model, optimizer=self.optimizer
        )
        self.state, self.best_weights = state, weights["best"]
        if self.ema is not None:
            self.ema.weights = weights["ema"]
        if not self.state.has_ended and self.accelerator.is_main_process:
            cut_history(self._checkpoint.parent, self.state.history_bytes)
        self.accelerator.wait_for_everyone()
