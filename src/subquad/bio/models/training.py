"""Training of one network: budget, MLP branches, Lyra, and blending weights. 5 million tokens take about a minute.

Axes: B rows of a batch, F features, O outputs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from subquad.bio.data.dataset import Dataset, Inputs, Target
from subquad.bio.metrics.scores import MAIN_METRIC, score
from subquad.bio.models.additive import COMPOUND, AdditiveBranch, binned_features
from subquad.bio.models.batches import Priors, epoch_batches, net_inputs, predict_net, raw_outputs
from subquad.bio.models.initialization import LinearStart, validation_subset
from subquad.bio.models.linear import SparseMatrix
from subquad.bio.models.losses import make_loss
from subquad.bio.models.lyra import BioNet
from subquad.bio.models.stacking import best_blending
from subquad.bio.models.target_scaling import TargetScaler, to_predictions
from subquad.bio.settings import FitSettings
from subquad.errors import SubquadError
from subquad.train.loop import LoopSettings, train
from subquad.train.optim import parameter_groups, schedule

__all__ = [
    "TrainOptions",
    "batch_size_for",
    "ensemble_size_for",
    "epochs_for",
    "initialize_branch",
    "train_branch",
    "train_net",
]

MIN_EPOCHS, MAX_EPOCHS, MAX_ENSEMBLE = 0.3, 40.0, 5
VALIDATION_TIME = 0.15
"""Maximum fraction of the training time that validation takes."""
VALIDATIONS = 12
BLENDINGS = [(mlp / 4, lyra / 4) for mlp in range(5) for lyra in range(5 - mlp)]
"""Blending weights of the MLPs and of Lyra that are tried; the rest is the linear model."""
MIN_STEPS, TOKENS_PER_STEP, MAX_BATCH = 2000, 1500, 128
"""Wanted number of steps, tokens below which a step is no faster, and maximum number of sequences of a step."""
PAIRS_PER_TOKEN = 16
"""Pairs of positions that cost as much as one token."""

LINEAR_RATE = 0.1
"""Factor on the learning rate of the linear model, which starts at a fitted one."""
PRODUCTS_PER_TOKEN = 80_000
"""Multiplications of MLP training for each token of the budget: four branches cost about as much as Lyra."""
MIN_BRANCH_EPOCHS, MAX_BRANCH_EPOCHS = 2, 150
BRANCH_BATCH = 128
SPARSE_DROPOUT = 0.1
"""Input dropout of an MLP on the features of the sparse model, which have been selected already."""
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


def epochs_for(dataset: Dataset, settings: FitSettings) -> float:
    """Return the number of passes over the training rows: `epochs` if set, otherwise as many as `tokens` allows."""
    if settings.epochs is not None:
        return settings.epochs
    return float(min(max(settings.tokens / _tokens(dataset), MIN_EPOCHS), MAX_EPOCHS))


def ensemble_size_for(dataset: Dataset, settings: FitSettings) -> int:
    """Return the number of networks: `ensemble_size` if set, otherwise as many as `tokens` allows, at most five."""
    if settings.ensemble_size is not None:
        return settings.ensemble_size
    if settings.preset == "paper":
        return 1
    tokens = _tokens(dataset) * epochs_for(dataset, settings)
    return int(min(max(settings.tokens / tokens, 1), MAX_ENSEMBLE))


def batch_size_for(dataset: Dataset, settings: FitSettings) -> int:
    """Return the sequences per step: `batch_size` if set, otherwise few enough for many steps of sufficient size.

    With the same number of tokens, many small steps learn more than few large ones.
    """
    if settings.batch_size is not None:
        return settings.batch_size
    rows = len(dataset.split["train"])
    least = TOKENS_PER_STEP * rows / _tokens(dataset)
    return int(np.clip(epochs_for(dataset, settings) * rows / MIN_STEPS, max(least, 1), MAX_BATCH))


def _tokens(dataset: Dataset) -> float:
    """Return the number of tokens of the training rows, including the cost of pairs of positions."""
    lengths = dataset.inputs.lengths[dataset.split["train"]].astype(np.float64)
    if dataset.target.task_type == "pairs":
        lengths += lengths**2 / PAIRS_PER_TOKEN
    return float(max(lengths.sum(), len(lengths)))


def initialize_branch(
    branch: AdditiveBranch, dataset: Dataset, start: LinearStart, train: SparseMatrix, *, uses_sparse: bool = False
) -> None:
    """Set the linear model at which a branch starts, and standardise the features of its MLP on the training rows.

    Args:
        branch: The branch.
        dataset: Training data.
        start: The linear model.
        train: Features of the training rows.
        uses_sparse: Restrict the MLP to the features of the sparse model.
    """
    linear = start.linear
    branch.start_at(*(torch.from_numpy(np.asarray(x)).float() for x in (linear.weight, linear.bias, linear.scale)))
    if branch.mlp is None:
        return
    binned = binned_features(start.features)
    if len(binned):
        values = torch.from_numpy(train[:, binned].toarray().astype(np.float64))
        branch.mlp.set_bins(torch.from_numpy(binned), values)
    mean = np.asarray(train.mean(0)).ravel()
    square = np.asarray(train.multiply(train).mean(0)).ravel()
    deviation = np.sqrt(np.maximum(square - mean**2, 0.0))
    # bound the scale of rare letters by that of a letter in one row of a hundred
    spread = 1 / np.maximum(deviation, 0.1 if dataset.inputs.is_aligned else 1e-3)
    spread[deviation == 0] = 0.0
    if len(dataset.split["train"]) <= ROWS_PER_FEATURE * len(spread):
        # features of several letters are left to the linear model: the MLP forms them from single letters
        spread[np.isin(start.features.blocks, COMPOUND)] = 0.0
    if uses_sparse and (spread[start.is_sparse] > 0).any():
        spread[~start.is_sparse] = 0.0
        branch.mlp.input_dropout.p = SPARSE_DROPOUT
    branch.mlp.standardize(torch.from_numpy(mean).float(), torch.from_numpy(spread).float())


def train_branch(
    branch: AdditiveBranch,
    dataset: Dataset,
    settings: FitSettings,
    matrix: SparseMatrix,
    options: TrainOptions,
) -> dict[str, Any]:
    """Train a branch with an MLP in place, and return what the validation rows selected.

    The features are computed once and not at each step, so that many more passes over the rows are affordable.

    Args:
        branch: The branch, initialized.
        dataset: Training data.
        settings: Batch size, learning rate and weight decay.
        matrix: Features of all rows.
        options: Name, seed and checkpoints.
    """
    assert branch.mlp is not None
    rows, task_type = dataset.split["train"], dataset.target.task_type
    X, V = matrix[rows], matrix[dataset.split["validation"]]
    loss, (_, truth) = make_loss(dataset, options.scaler), dataset.part("validation")
    batch_size = min(settings.batch_size or BRANCH_BATCH, len(rows))
    products = 6 * len(rows) * X.shape[1] * branch.mlp.last.in_features
    epochs = float(np.clip(PRODUCTS_PER_TOKEN * settings.tokens / products, MIN_BRANCH_EPOCHS, MAX_BRANCH_EPOCHS))
    if settings.epochs is not None:
        epochs = min(epochs, settings.epochs)
    steps = max(1, round(epochs * (len(rows) // batch_size)))

    def batches(epoch: int) -> Sequence[np.ndarray]:
        order = np.random.default_rng((options.seed, epoch)).permutation(len(rows))
        return [order[begin : begin + batch_size] for begin in range(0, len(order) - batch_size + 1, batch_size)]

    def step(model: nn.Module, own: np.ndarray, backward: Callable[[Tensor], None]) -> Mapping[str, Tensor]:
        value = loss(model(_dense(X[own], model)), rows[own])
        backward(value)
        return {"loss": value}

    def metrics(model: nn.Module) -> dict[str, float]:
        z = [model(_dense(V[begin : begin + 4096], model)).cpu() for begin in range(0, V.shape[0], 4096)]
        return _finite_score(truth, to_predictions(torch.cat(z).double().numpy(), task_type, options.scaler))

    with torch.no_grad():
        start = metrics(branch.eval())[MAIN_METRIC[task_type]]
    return _train_best(
        branch.train(),
        _branch_groups(branch, settings),
        options,
        batches=batches,
        step=step,
        loop=LoopSettings(steps=steps, evaluate_every=max(1, steps // VALIDATIONS)),
        validate=metrics,
        monitor=MAIN_METRIC[task_type],
        # strictly better than the linear model
        least=np.nextafter(start, np.inf),
    )


def train_net(
    net: BioNet,
    dataset: Dataset,
    settings: FitSettings,
    options: TrainOptions,
    *,
    matrix: SparseMatrix | None,
    priors: Priors,
) -> dict[str, Any]:
    """Train Lyra and its branch in place, select the blending weights, and return what the validation rows selected.

    Args:
        net: The network; its MLP branches must have been trained.
        dataset: Training data.
        settings: Budget and optimizer.
        options: Name, seed and checkpoints.
        matrix: Features of all rows; None for a network without additive branches.
        priors: Starting logits of all rows.
    """
    subset = validation_subset(dataset, options.seed)
    inputs, truth = dataset.inputs.take(subset), dataset.target.take(subset)
    held_out = None if matrix is None else matrix[subset]
    if net.mlp_branches is not None and net.lyra_branch is None:
        # without sequences there is no Lyra to train
        return {"seconds": 0.0, **_blend(net, inputs, truth, held_out, options)}
    rows, task_type = dataset.split["train"], truth.task_type
    epochs, batch_size = epochs_for(dataset, settings), batch_size_for(dataset, settings)
    batches = epoch_batches(dataset.inputs, rows, task_type=task_type, batch_size=batch_size, seed=options.seed)
    steps = max(1, round(epochs * len(batches(0))))
    subset_priors = None if priors is None else [priors[row] for row in subset]
    loss = make_loss(dataset, options.scaler)

    def step(model: nn.Module, own: np.ndarray, backward: Callable[[Tensor], None]) -> Mapping[str, Tensor]:
        device = next(model.parameters()).device
        f = None if matrix is None else matrix[own]
        value = loss(model(*net_inputs(dataset.inputs, own, f, priors, task_type=task_type, device=device)), own)
        backward(value)
        return {"loss": value}

    def metrics(model: nn.Module) -> dict[str, float]:
        found = predict_net(model, inputs, task_type, held_out, scaler=options.scaler, priors=subset_priors)
        return _finite_score(truth, found)

    has_start = net.lyra_branch is not None or net.spec.has_prior
    selected = _train_best(
        net,
        _net_groups(net, settings),
        options,
        batches=batches,
        step=step,
        loop=LoopSettings(steps=steps, evaluate_every=max(1, steps // _validations(dataset, inputs, epochs))),
        validate=metrics,
        monitor=MAIN_METRIC[task_type],
        least=metrics(net)[MAIN_METRIC[task_type]] if has_start else -np.inf,
    )
    selected["batch_size"] = batch_size
    return selected if net.mlp_branches is None else selected | _blend(net, inputs, truth, held_out, options)


def _finite_score(truth: Target, predictions: Any) -> dict[str, float]:
    """Return the metrics of predictions.

    Raises:
        SubquadError: A prediction is not finite.
    """
    # residues are padded with NaN
    if not truth.is_residue and not all(np.isfinite(own).all() for own in predictions):
        raise SubquadError("training diverged: predictions are no longer finite; lower --learning-rate")
    return score(truth, predictions)


def _train_best(
    module: nn.Module,
    groups: list[dict[str, Any]],
    options: TrainOptions,
    *,
    batches: Callable[[int], Sequence[np.ndarray]],
    step: Callable[..., Mapping[str, Tensor]],
    loop: LoopSettings,
    validate: Callable[[nn.Module], dict[str, float]],
    monitor: str,
    least: float,
) -> dict[str, Any]:
    """Train a module, and restore its start if no validation reaches at least this value."""
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    result = train(
        module,
        batches=batches,
        step=step,
        optimizer=torch.optim.AdamW(groups, fused=True),
        settings=loop,
        schedule=schedule("one_cycle"),
        validate=validate,
        monitor=monitor,
        maximize=True,
        directory=options.directory,
        name=options.name,
        seed=options.seed,
        quiet=options.quiet,
    )
    module.cpu()
    value = result.best[monitor]
    if value < least:
        module.load_state_dict(before)
    return {
        "steps": loop.steps,
        "best_step": result.best_step if value >= least else 0,
        "validation": max(value, float(least)),
        "seconds": result.seconds,
    }


def _validations(dataset: Dataset, validation: Inputs, epochs: float) -> int:
    """Return the number of validations, which must not take much of the time of the training."""
    trained = epochs * dataset.inputs.lengths[dataset.split["train"]].sum()
    # a forward pass takes a third of the time of a step
    return int(np.clip(VALIDATION_TIME * 3 * trained / max(validation.lengths.sum(), 1), 3, VALIDATIONS))


def _blend(
    net: BioNet, inputs: Inputs, truth: Target, matrix: SparseMatrix | None, options: TrainOptions
) -> dict[str, Any]:
    """Select the blending weights of the MLPs and of Lyra; return them and the validation metric."""
    ends = []
    for corner in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)):
        net.blending.copy_(torch.tensor(corner))
        ends.append(np.stack(raw_outputs(net, inputs, truth.task_type, matrix)))
    start, mlp, lyra = ends

    def blended(weights: Any) -> np.ndarray:
        z = start + weights[0] * (mlp - start) + weights[1] * (lyra - start)
        return to_predictions(z, truth.task_type, options.scaler)

    candidates = BLENDINGS if net.lyra_branch is not None else [own for own in BLENDINGS if not own[1]]
    weights = best_blending(truth, [blended(own) for own in candidates], candidates, seed=options.seed)
    net.blending.copy_(torch.from_numpy(weights))
    value = score(truth, blended(weights))[MAIN_METRIC[truth.task_type]]
    return {"blending": [round(float(own), 4) for own in weights], "validation": value}


def _branch_groups(branch: AdditiveBranch, settings: FitSettings) -> list[dict[str, Any]]:
    """Return the optimizer's groups: a low rate and decay to its start for the linear model, no decay for the curve."""
    rate, decay = settings.learning_rate, settings.weight_decay
    groups = parameter_groups(branch.linear, learning_rate=rate * LINEAR_RATE, weight_decay=decay)
    if branch.mlp is not None:
        groups += parameter_groups(branch.mlp, learning_rate=rate, weight_decay=decay)
    if branch.curve is not None:
        groups.append({"params": list(branch.curve.parameters()), "lr": rate, "weight_decay": 0.0})
    return groups


def _net_groups(net: BioNet, settings: FitSettings) -> list[dict[str, Any]]:
    rate, decay, groups = settings.learning_rate, settings.weight_decay, []
    for module in net.children():
        if isinstance(module, AdditiveBranch):
            groups += _branch_groups(module, settings)
        elif module is not net.mlp_branches:
            # the MLP branches have been trained already
            groups += parameter_groups(module, learning_rate=rate, weight_decay=decay)
    if net.prior_weight is not None:
        groups.append({"params": [net.prior_weight], "lr": rate, "weight_decay": 0.0})
    return groups


def _dense(X: SparseMatrix, model: nn.Module) -> Tensor:
    return torch.from_numpy(X.toarray()).float().to(next(model.parameters()).device)
