"""Training of one network: budget, batches, and the weights that are best on the validation rows.

5 million tokens take about a minute.

Axes: B rows of a batch, F features, O outputs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from subquad.bio.data.dataset import Dataset, Inputs
from subquad.bio.metrics.scores import MAIN_METRIC, score
from subquad.bio.models.additive import COMPOUND, AdditivePath, binned_features
from subquad.bio.models.batches import Priors, as_predictions, epoch_batches, net_inputs, raw_outputs, shuffled_batches
from subquad.bio.models.initialization import LinearStart, validation_subset
from subquad.bio.models.linear import SparseMatrix
from subquad.bio.models.losses import make_loss
from subquad.bio.models.lyra import BioNet
from subquad.bio.models.target_scaling import TargetScaler
from subquad.bio.settings import FitSettings
from subquad.errors import SubquadError
from subquad.train.distributed import processes
from subquad.train.loop import train
from subquad.train.optim import parameter_groups, schedule
from subquad.train.settings import LoopSettings

__all__ = [
    "TrainOptions",
    "batch_size_for",
    "ensemble_size_for",
    "epochs_for",
    "initialize_path",
    "seconds_for",
    "train_net",
]

MIN_EPOCHS, MAX_EPOCHS, MAX_ENSEMBLE = 5.0, 40.0, 5
MAX_STRETCH = 4.0
"""Maximum factor on the budget of tokens that the minimum number of passes over large tables may cost."""
PAPER_EPOCHS, PAPER_STRETCH = 50.0, 10.0
"""Number of passes of the published network, which has no fitted start, and maximum factor on the budget for them."""
MIXES = (0.0, 0.5, 1.0)
"""Candidates for the weight of the direct head in the prediction of Lyra."""
VALIDATION_TIME = 0.15
"""Maximum fraction of the training time that validation takes."""
VALIDATIONS = 12
MIN_STEPS, FEW_STEPS = 2000, 300
"""Target number of steps, and minimum number that is kept by smaller batches unless `epochs` is set."""
TOKENS_PER_STEP, MAX_BATCH = 1500, 128
"""Tokens below which a step is no faster, and maximum number of sequences of a step."""
SECONDS_PER_TOKEN = 12e-6
"""Rough processor time of training Lyra."""
PAIRS_PER_TOKEN = 16
"""Pairs of positions that cost as much as one token."""

LINEAR_RATE = 0.1
"""Factor on the learning rate of the linear model, which starts at a fitted one."""
MLP_NETWORKS = 4
"""Number of MLPs whose predictions are averaged: their mean is better than one, and they cost seconds."""
CNN_NETWORKS = 2
"""Minimum number of CNNs whose predictions are averaged: their steps take less than half the time of those of Lyra."""
CNN_DECAY = 0.05
"""Maximum weight decay of the CNN."""
PRODUCTS_PER_TOKEN = 80_000
"""Multiplications of MLP training for each token of the budget: four MLPs cost about as much as Lyra."""
MIN_FEATURE_EPOCHS, MAX_FEATURE_EPOCHS, MAX_LINEAR_EPOCHS = 2, 150, 30
"""Bounds on the passes of networks that read features only, and the upper one without an MLP."""
MIN_FEATURE_BATCH, FEATURE_BATCH = 16, 128
"""Minimum and maximum number of rows of their steps."""
ROWS_PER_FEATURE = 5
"""Rows per feature above which the MLP also uses features of several letters."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Name, seed and surroundings of the training of one network."""

    scaler: TargetScaler
    """Transform of the measurements to the training scale."""
    name: str
    """Name of the part in the history."""
    seed: int
    """Seed of the initial weights, dropout and the order of the rows."""
    directory: Path | None = None
    """Folder of the checkpoints; None keeps none."""
    quiet: bool = True
    """Show no progress bar."""


@dataclass(frozen=True)
class _Passes:
    """Passes over the training rows, and the validations between them."""

    epochs: float
    batch_size: int
    batches: Callable[[int], Sequence[np.ndarray]]
    """Function from the number of a pass to its batches."""
    validations: int


def epochs_for(dataset: Dataset, settings: FitSettings) -> float:
    """Return the number of passes over the training rows: `epochs` if set, otherwise as many as `tokens` allows."""
    if settings.epochs is not None:
        return settings.epochs
    affordable = settings.tokens / _tokens(dataset)
    return float(min(max(affordable, min(MIN_EPOCHS, MAX_STRETCH * affordable)), MAX_EPOCHS))


def seconds_for(dataset: Dataset, settings: FitSettings) -> float:
    """Return the rough processor time of the training of one Lyra, in seconds."""
    return SECONDS_PER_TOKEN * _tokens(dataset) * epochs_for(dataset, settings)


def _paper_epochs(dataset: Dataset, settings: FitSettings) -> float:
    """Return the number of passes of the published network."""
    if settings.epochs is not None:
        return settings.epochs
    return float(min(PAPER_STRETCH * settings.tokens / _tokens(dataset), PAPER_EPOCHS))


def ensemble_size_for(dataset: Dataset, settings: FitSettings, kind: str) -> int:
    """Return the number of networks of a model.

    Lyra has `ensemble_size` networks if set; otherwise as many as `tokens` allows, at most five.
    """
    if kind in ("mlp", "mlp-more"):
        return MLP_NETWORKS
    if kind in ("lyra-paper", "lyra-additive"):
        return 1
    if settings.ensemble_size is not None:
        return settings.ensemble_size
    tokens, least = _tokens(dataset) * epochs_for(dataset, settings), CNN_NETWORKS if kind == "cnn" else 1
    return int(min(max(settings.tokens / tokens, least), MAX_ENSEMBLE))


def batch_size_for(dataset: Dataset, settings: FitSettings) -> int:
    """Return the sequences per step: `batch_size` if set, otherwise few enough for many steps of sufficient size.

    With the same number of tokens, many small steps learn more than few large ones.
    """
    if settings.batch_size is not None:
        return settings.batch_size
    rows = len(dataset.split["train"])
    # several processes divide the rows
    passed = epochs_for(dataset, settings) * rows / processes().num_processes
    least = TOKENS_PER_STEP * rows / _tokens(dataset)
    if settings.epochs is None:
        # few steps learn nothing, and so many cost seconds
        least = min(least, passed / FEW_STEPS)
    return int(np.clip(passed / MIN_STEPS, max(least, 1), MAX_BATCH))


def _tokens(dataset: Dataset) -> float:
    """Return the number of tokens of the training rows, including the cost of pairs of positions."""
    lengths = dataset.inputs.lengths[dataset.split["train"]].astype(np.float64)
    if dataset.target.task_type == "pairs":
        lengths += lengths**2 / PAIRS_PER_TOKEN
    return float(max(lengths.sum(), len(lengths)))


def initialize_path(path: AdditivePath, dataset: Dataset, start: LinearStart, train: SparseMatrix) -> None:
    """Set the linear model at which a path starts, and standardise the features of its MLP on the training rows.

    Args:
        path: The additive path.
        dataset: Training data.
        start: The linear model.
        train: Features of the training rows.
    """
    linear = start.linear
    path.start_at(*(torch.from_numpy(np.asarray(x)).float() for x in (linear.weight, linear.bias, linear.scale)))
    if path.mlp is None:
        return
    binned = binned_features(start.features)
    if len(binned):
        values = torch.from_numpy(train[:, binned].toarray().astype(np.float64))
        path.mlp.set_bins(torch.from_numpy(binned), values)
    mean = np.asarray(train.mean(0)).ravel()
    square = np.asarray(train.multiply(train).mean(0)).ravel()
    deviation = np.sqrt(np.maximum(square - mean**2, 0.0))
    # bound the scale of rare letters by that of a letter in one row of a hundred
    spread = 1 / np.maximum(deviation, np.where(start.features.is_unit, 0.1, 1e-3))
    spread[deviation == 0] = 0.0
    if len(dataset.split["train"]) <= ROWS_PER_FEATURE * len(spread):
        # features of several letters are left to the linear model: the MLP forms them from single letters
        spread[np.isin(start.features.blocks, COMPOUND)] = 0.0
    path.mlp.standardize(torch.from_numpy(mean).float(), torch.from_numpy(spread).float())


def train_net(
    net: BioNet,
    dataset: Dataset,
    settings: FitSettings,
    options: TrainOptions,
    *,
    matrix: SparseMatrix | None,
    out_of_fold: np.ndarray | None = None,
    priors: Priors = None,
) -> dict[str, Any]:
    """Train a network in place, and return what the validation rows selected.

    Args:
        net: The network, with an initialized additive path if it has one.
        dataset: Training data.
        settings: Budget and optimizer.
        options: Name, seed and checkpoints.
        matrix: Features of all rows; None for a network without an additive path.
        out_of_fold: `(n, O)` outputs at which training rows start; None starts at the linear model of the path.
        priors: Starting logits of all rows.
    """
    subset = validation_subset(dataset, options.seed)
    inputs, truth = dataset.inputs.take(subset), dataset.target.take(subset)
    held_out = None if matrix is None else matrix[subset]
    task_type, passes = truth.task_type, _passes(net, dataset, inputs, settings, options.seed)
    steps = max(1, round(passes.epochs * (len(passes.batches(0)) // processes().num_processes)))
    subset_priors = None if priors is None else [priors[row] for row in subset]
    loss = make_loss(dataset, options.scaler)
    starts = None if out_of_fold is None else torch.from_numpy(out_of_fold)

    def step(model: nn.Module, own: np.ndarray, backward: Callable[[Tensor], None]) -> Mapping[str, Tensor]:
        device = next(model.parameters()).device
        f = None if matrix is None else matrix[own]
        start = None if starts is None else starts[own].to(device)
        batch = net_inputs(dataset.inputs, own, f, priors, task_type=task_type, device=device)
        value = torch.stack([loss(z, own) for z in model(*batch, start=start, of_heads=True)]).sum()
        backward(value)
        return {"loss": value}

    def validate(model: nn.Module, mixes: Sequence[float] = MIXES) -> dict[str, float]:
        # also sets the weight of the direct head
        heads = raw_outputs(model, inputs, task_type, held_out, priors=subset_priors, of_heads=True)
        outputs = [own[0] for own in heads]
        if len(heads[0]) > 1:
            # by the loss, which knows the scale of the outputs: metrics of ranks do not
            mixed = {mix: [(1 - mix) * own[0] + mix * own[1] for own in heads] for mix in mixes}
            mix = min(mixed, key=lambda mix: float(loss(_padded(mixed[mix]), subset)))
            cast("BioNet", model).mix.fill_(mix)
            outputs = mixed[mix]
        predictions = as_predictions(outputs, inputs, task_type, options.scaler)
        if not all(np.isfinite(own).all() for own in predictions):
            raise SubquadError("training diverged: predictions are no longer finite; lower the learning rate")
        return score(truth, predictions)

    groups = _net_groups(net, settings)
    assert sum(len(group["params"]) for group in groups) == len(list(net.parameters())), "a parameter is not trained"
    has_start, monitor = net.additive is not None or net.spec.has_prior, MAIN_METRIC[task_type]
    # strictly better than the start, of which the direct head is no part
    least = float(np.nextafter(validate(net, (0.0,))[monitor], np.inf)) if has_start else -np.inf
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    result = train(
        net,
        batches=passes.batches,
        step=step,
        optimizer=torch.optim.AdamW(groups, fused=True),
        settings=LoopSettings(steps=steps, evaluate_every=max(1, steps // passes.validations)),
        schedule=schedule("one_cycle"),
        validate=validate,
        monitor=monitor,
        maximize=True,
        directory=options.directory,
        name=options.name,
        seed=options.seed,
        quiet=options.quiet,
    )
    net.cpu()
    value = result.best[monitor]
    if value < least:
        net.load_state_dict(before)
    return {
        "epochs": round(float(passes.epochs * result.steps / steps), 2),
        "batch_size": passes.batch_size,
        "steps": result.steps,
        "best_step": result.best_step if value >= least else 0,
        "stopped_early": result.stopped_early,
        "validation": max(value, least),
        "cpu_seconds": result.cpu_seconds,
    }


def _passes(net: BioNet, dataset: Dataset, validation: Inputs, settings: FitSettings, seed: int) -> _Passes:
    rows, task_type = dataset.split["train"], net.spec.task_type
    world = processes().num_processes
    # each of several processes takes a batch in each step
    most = max(len(rows) // world, 1)
    if not net.spec.reads_letters:
        epochs = _feature_epochs(net, dataset, settings)
        # many small steps on few rows, as for Lyra
        fitting = int(np.clip(epochs * len(rows) / world / MIN_STEPS, MIN_FEATURE_BATCH, FEATURE_BATCH))
        batch_size = min(settings.batch_size or fitting, most)
        return _Passes(epochs, batch_size, shuffled_batches(rows, batch_size=batch_size, seed=seed), VALIDATIONS)
    epochs = (_paper_epochs if net.spec.kind == "lyra-paper" else epochs_for)(dataset, settings)
    batch_size = min(batch_size_for(dataset, settings), most)
    batches = epoch_batches(dataset.inputs, rows, task_type=task_type, batch_size=batch_size, seed=seed)
    return _Passes(epochs, batch_size, batches, _validations(dataset, validation, epochs))


def _feature_epochs(net: BioNet, dataset: Dataset, settings: FitSettings) -> float:
    """Return the number of passes over the training rows of a network that reads features only.

    MLPs take as long as Lyra, also where it makes more passes than `tokens` allows.
    """
    if net.additive is None or net.additive.mlp is None:
        epochs = MAX_LINEAR_EPOCHS
    else:
        products = 6 * len(dataset.split["train"]) * net.spec.features * net.spec.hidden
        tokens = max(settings.tokens, _tokens(dataset) * epochs_for(dataset, settings))
        budget = PRODUCTS_PER_TOKEN * tokens / products
        epochs = float(np.clip(budget, MIN_FEATURE_EPOCHS, MAX_FEATURE_EPOCHS))
    return epochs if settings.epochs is None else min(epochs, settings.epochs)


def _padded(outputs: Sequence[np.ndarray]) -> Tensor:
    """Return the outputs of all rows, those of residues padded with zeros."""
    return nn.utils.rnn.pad_sequence([torch.from_numpy(own).float() for own in outputs], batch_first=True)


def _validations(dataset: Dataset, validation: Inputs, epochs: float) -> int:
    """Return the number of validations, which must not take much of the time of the training."""
    # several processes divide the training, and each validates on all rows
    trained = epochs * dataset.inputs.lengths[dataset.split["train"]].sum() / processes().num_processes
    # a forward pass takes a third of the time of a step
    return int(np.clip(VALIDATION_TIME * 3 * trained / max(validation.lengths.sum(), 1), 3, VALIDATIONS))


def _net_groups(net: BioNet, settings: FitSettings) -> list[dict[str, Any]]:
    """Return the optimizer's groups: a low rate and decay to its start for the linear model, no decay for the curve."""
    rate, decay, groups = settings.learning_rate, settings.weight_decay, []
    if net.cnn is not None:
        decay = min(decay, CNN_DECAY)
    for module in net.children():
        if not isinstance(module, AdditivePath):
            groups += parameter_groups(module, learning_rate=rate, weight_decay=decay)
            continue
        groups += parameter_groups(module.linear, learning_rate=rate * LINEAR_RATE, weight_decay=decay)
        if module.mlp is not None:
            groups += parameter_groups(module.mlp, learning_rate=rate, weight_decay=decay)
        if module.curve is not None:
            groups.append({"params": list(module.curve.parameters()), "lr": rate, "weight_decay": 0.0})
    if net.prior_weight is not None:
        groups.append({"params": [net.prior_weight], "lr": rate, "weight_decay": 0.0})
    return groups
