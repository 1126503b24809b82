"""Training of a tagger, for `subquad hep fit` and for the estimator: batches of jets of similar length, prefetched."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from subquad.errors import SubquadError
from subquad.hep.data.batches import Batch, Prefetch, WaitingTime, collate
from subquad.hep.data.store import JetDataset
from subquad.hep.models.decorrelation import Decorrelation
from subquad.hep.models.networks import (
    Network,
    build_network,
    logits_and_targets,
    outputs_of,
    predict_outputs,
    using_threads,
)
from subquad.hep.models.presets import Preset, training_defaults
from subquad.hep.models.targets import Targets
from subquad.hep.models.temperature import divide_logits, fit_temperature, output_layer
from subquad.hep.settings import FitSettings, NetSettings
from subquad.train.bucketing import bucketed_batches
from subquad.train.distributed import processes
from subquad.train.loop import Backward, train
from subquad.train.muon import MuonAdamW, muon_groups
from subquad.train.optim import parameter_groups, schedule
from subquad.train.settings import LoopSettings, TrainingResult

NEW_LAYER = 10
"""Learning rate of layers with initial weights, in multiples of that of layers which fine-tuning takes from a run."""


@dataclass(frozen=True, kw_only=True)
class FittedNetwork:
    """A fitted network and the record of its training."""

    net: Network
    """With the weights of the best epoch by the validation jets, and calibrated logits."""
    result: TrainingResult
    epochs: float
    """Number of passes over the training jets, fewer than asked for after early stopping."""
    waiting: float
    """Seconds in which training waited for batches."""
    temperature: float
    """Number by which the logits, the weights of the last layer, were divided after the training."""


def fit_network(
    parts: Mapping[str, JetDataset],
    settings: FitSettings,
    *,
    net_settings: NetSettings,
    classes: int,
    directory: Path | None,
    seed: int,
    quiet: bool,
    event_weights: np.ndarray | None = None,
    decorrelation: Decorrelation | None = None,
    targets: Targets = Targets(),
    start: Callable[[Network], Sequence[nn.Parameter]] = lambda net: (),
) -> FittedNetwork:
    """Fit a network, and its temperature on the validation jets.

    Args:
        parts: `train` and `validation`, standardized.
        settings: Training hyperparameters.
        net_settings: Architecture.
        classes: Number of classes.
        directory: Folder for checkpoints and the history; None keeps nothing.
        seed: Seed of the initial weights, the order of the jets and dropout.
        quiet: Print no progress.
        event_weights: Weights of the validation jets in the likelihood of the temperature; None counts all the same.
        decorrelation: Penalty for correlations of the background's scores with `decorrelated` of the parts; its loss
            then selects the best epoch, in place of the accuracy.
        targets: Regression targets; `targets` of the parts are standardized by them.
        start: Loads weights into the network, and returns the parameters that it leaves with initial weights; these
            learn `NEW_LAYER` times as fast.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        net = build_network(net_settings, parts["train"].layout, classes, targets=len(targets))
    new = start(net)
    waiting = WaitingTime()
    with using_threads(settings.threads), ThreadPoolExecutor(1) as pool:
        options = {"new": new, "decorrelation": decorrelation, "targets": targets}
        plan = _Plan(net=net, parts=parts, settings=settings, seed=seed, **options)
        result, epochs = _train(plan, pool=pool, waiting=waiting, directory=directory, quiet=quiet)
        validation = parts["validation"]
        logits = logits_and_targets(net, predict_outputs(net, validation, is_shared=True))[0]
        if not torch.isfinite(logits).all():
            raise SubquadError(
                "the training diverged: the outputs of the network for the validation jets are not finite; use a "
                f"--learning-rate below {training_defaults(settings).learning_rate:g}, or check the units of the inputs"
            )
        temperature = fit_temperature(logits, validation.labels, event_weights)
    divide_logits(net.head, temperature, targets=len(targets))
    return FittedNetwork(
        net=net,
        result=result,
        epochs=epochs,
        waiting=waiting.seconds,
        temperature=temperature,
    )


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What is trained, and how."""

    net: Network
    parts: Mapping[str, JetDataset]
    settings: FitSettings
    new: Sequence[nn.Parameter]
    """Parameters that fine-tuning does not take from its run."""
    decorrelation: Decorrelation | None
    targets: Targets
    seed: int

    def regression(self, predicted: Tensor, jets: Batch | JetDataset) -> Tensor:
        """Return the weighted loss of the regression targets, summed over the jets; 0 without targets."""
        if jets.targets is None:
            return predicted.new_zeros(())
        return self.settings.target_weight * self.targets.loss(predicted, jets.targets, jets.weights)

    def penalty(self, logits: Tensor, jets: Batch | JetDataset) -> Tensor | None:
        """Return the weighted penalty for correlations of background jets; None without one."""
        if self.decorrelation is None or jets.decorrelated is None:
            return None
        found = self.decorrelation.penalty(logits, jets.decorrelated, jets.labels, jets.weights)
        return self.decorrelation.weight * found

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Return accuracy and loss of the validation jets, and the parts of the loss beside the cross-entropy."""
        jets = self.parts["validation"]
        outputs = predict_outputs(model, jets, is_shared=True)  # pyright: ignore[reportArgumentType]
        logits, predicted = logits_and_targets(self.net, outputs)
        weights = jets.weights / jets.weights.sum().clamp(min=1e-12)
        loss = (cross_entropy(logits, jets.labels, reduction="none") * weights).sum().item()
        accuracy = ((logits.argmax(-1) == jets.labels) * weights).sum().item()
        penalty = self.penalty(logits, jets)
        parts = {} if penalty is None else {"penalty": penalty.item()}
        if self.targets:
            parts["regression"] = self.regression(predicted, replace(jets, weights=weights)).item()
        return {"accuracy": accuracy, "loss": loss + sum(parts.values()), **parts}


def optimizer_of(net: Network, preset: Preset, *, new: Sequence[nn.Parameter] = ()) -> torch.optim.Optimizer:
    """Return the optimizer of a network.

    Args:
        net: The network.
        preset: Optimizer, learning rate and weight decay.
        new: Parameters that learn `NEW_LAYER` times as fast.
    """
    groups: list[Any] = []
    for group in parameter_groups(net, learning_rate=preset.learning_rate, weight_decay=preset.weight_decay):
        for is_new, rate in ((False, group["lr"]), (True, NEW_LAYER * group["lr"])):
            own = [parameter for parameter in group["params"] if any(parameter is one for one in new) == is_new]
            groups += [{**group, "params": own, "lr": rate}] if own else []
    if preset.optimizer == "muon":
        return MuonAdamW(muon_groups(groups, output_layer(net.head).weight))
    # one pass over the weights in place of a dozen
    return torch.optim.AdamW(groups, fused=True)


def monitor_of(settings: FitSettings, targets: Targets) -> str:
    """Return the metric of the validation jets that selects the best epoch.

    It is the accuracy, or the loss of a fit with more than one aim, as the most accurate epoch may be the least
    decorrelated one.
    """
    return "accuracy" if settings.decorrelate is None and not targets else "loss"


def _train(
    plan: _Plan, *, pool: ThreadPoolExecutor, waiting: WaitingTime, directory: Path | None, quiet: bool
) -> tuple[TrainingResult, float]:
    """Train the network, and return the result and the number of epochs."""
    net, settings, seed = plan.net, plan.settings, plan.seed
    training = plan.parts["train"]
    indices, world, preset = torch.arange(len(training)), processes().num_processes, training_defaults(settings)

    def batches(epoch: int) -> Sequence[Batch]:
        plan = bucketed_batches(indices, training.lengths, preset.batch_size, seed=seed, epoch=epoch, together=world)
        return Prefetch(plan, lambda rows: collate(training, rows), pool, waiting)

    def step(model: torch.nn.Module, item: Batch, backward: Backward) -> dict[str, Tensor | float]:
        batch = item.to(next(model.parameters()).device)
        logits, predicted = logits_and_targets(net, outputs_of(model, batch))
        loss = (cross_entropy(logits, batch.labels, reduction="none") * batch.weights).mean()
        penalty = plan.penalty(logits, batch)
        total = loss if penalty is None else loss + penalty
        regression = plan.regression(predicted, batch) / len(batch.labels)
        total = total + regression
        backward(total)
        is_right = (logits.detach().argmax(-1) == batch.labels).float()
        metrics: dict[str, Tensor | float] = {"loss": total, "accuracy": (is_right * batch.weights).mean()}
        metrics |= {} if penalty is None else {"penalty": penalty}
        return {**metrics, "regression": regression} if plan.targets else metrics

    steps_per_epoch = max(1, len(batches(0)) // world)
    name, warmup = preset.schedule
    result = train(
        net,
        batches=batches,
        step=step,
        optimizer=optimizer_of(net, preset, new=plan.new),
        settings=LoopSettings(
            steps=steps_per_epoch * settings.epochs,
            evaluate_every=steps_per_epoch,
            precision=settings.precision,
            ema_decay=preset.ema_decay,
            patience=settings.patience,
        ),
        schedule=schedule(name, warmup=warmup, steps=steps_per_epoch * settings.epochs),
        validate=plan.validate,
        monitor=monitor_of(settings, plan.targets),
        maximize=monitor_of(settings, plan.targets) == "accuracy",
        directory=directory,
        name="fit",
        seed=seed,
        quiet=quiet,
    )
    return result, result.steps / steps_per_epoch
