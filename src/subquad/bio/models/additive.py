"""What a net makes of features: an additive path from a linear model, what is added to it, a monotone curve over all.

Axes: B sequences, F features, O outputs.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from torch import Tensor, nn

from subquad.bio.data.dataset import Dataset
from subquad.bio.features.sequences import Features
from subquad.bio.metrics.scores import MAIN_METRIC, score
from subquad.bio.models.initialization import LinearStart
from subquad.bio.models.losses import make_loss
from subquad.bio.models.target_scaling import TargetScaler, to_predictions
from subquad.bio.settings import FitSettings
from subquad.train.loop import LoopSettings, train
from subquad.train.optim import parameter_groups, schedule

__all__ = ["AdditiveBranch", "binned_features", "branch_parameter_groups", "initialize_branch", "train_branch"]

MANY_FEATURES = 50
STEPS = 8
ADDITIVE_RATE = 0.1
"""Factor on the rate of the additive path: it starts at a fitted model."""
PRODUCTS_A_LETTER = 80_000
"""Multiplications that training may take for each letter of the budget: four paths cost about what Lyra costs."""
LEAST_EPOCHS, MOST_EPOCHS = 2, 150
BATCH = 128
"""Rows of a step, where the settings do not say."""
COMPOUND = ("word 2", "word 3", "pairs", "type")
"""Blocks of features that are made of several letters."""
FEW_DROPOUT = 0.1
"""Of the features that an MLP sees, where they have been chosen already."""
ROWS_A_FEATURE = 5
"""Where there are so many rows a feature, the MLP sees words of several letters too."""


class _Additive(nn.Module):
    """A linear map that starts at a fitted one; weight decay pulls it back there."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(inputs))
        self.register_buffer("start", torch.zeros(outputs, inputs))
        self.register_buffer("start_bias", torch.zeros(outputs))
        self.change = nn.Parameter(torch.zeros(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, f: Float[Tensor, "B F"]) -> Float[Tensor, "B O"]:
        return nn.functional.linear(f * self.scale, self.start + self.change, self.start_bias + self.bias)

    def at_start(self, f: Float[Tensor, "B F"]) -> Float[Tensor, "B O"]:
        return nn.functional.linear(f * self.scale, self.start, self.start_bias)


class _Interactions(nn.Module):
    """A small MLP on the features, seen from their mean, so that the commonest sequence is near zero; starts at 0.

    Features that are not 0 or 1 also come as steps: how far a value has gone through each eighth of the training rows'
    values. With these an MLP bends where trees split (piecewise linear encoding of arXiv:2203.05556).
    """

    def __init__(self, inputs: int, outputs: int, *, hidden: int, stepped: int) -> None:
        super().__init__()
        self.register_buffer("stepped", torch.zeros(stepped, dtype=torch.int64))
        self.register_buffer("edges", torch.arange(STEPS + 1.0).repeat(stepped, 1))
        self.register_buffer("center", torch.zeros(inputs))
        self.register_buffer("spread", torch.ones(inputs))
        # many features say the same thing more than once: a third of them is left out at each step
        self.layers = nn.Sequential(
            nn.Dropout(0.3 if inputs > MANY_FEATURES else 0.0),
            nn.Linear(inputs + STEPS * stepped, hidden),
            nn.GELU(),
            nn.Dropout(0.5 if inputs > MANY_FEATURES else 0.2),
            nn.Linear(hidden, hidden),
            nn.GELU(),
        )
        self.last = nn.Linear(hidden, outputs)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, f: Float[Tensor, "B F"]) -> Float[Tensor, "B O"]:
        x = (f - self.center) * self.spread
        if len(self.stepped):
            low, high = self.edges[:, :-1], self.edges[:, 1:]
            # of large values that hardly differ, float32 may see no width at all between two edges
            width = (high - low).clamp(min=torch.finfo(f.dtype).tiny)
            steps = ((f[:, self.stepped, None] - low) / width).clamp(0, 1)
            x = torch.cat([x, steps.flatten(1) - 0.5], dim=1)
        return self.last(self.layers(x))


class _Curve(nn.Module):
    r"""$g(z) = e^a (z + \frac{\rho}{K} \sum_k \tanh(c_k) \tanh(s_k (z - m_k)) / s_k) + b$; its slope is positive."""

    def __init__(self, outputs: int, bends: int = 8, most: float = 0.98) -> None:
        super().__init__()
        self.most = most
        self.height = nn.Parameter(torch.zeros(outputs, bends))
        self.log_steepness = nn.Parameter(torch.zeros(outputs, bends))
        self.place = nn.Parameter(torch.linspace(-3, 3, bends).repeat(outputs, 1))
        self.log_slope = nn.Parameter(torch.zeros(outputs))
        self.shift = nn.Parameter(torch.zeros(outputs))

    def forward(self, z: Float[Tensor, "B O"]) -> Float[Tensor, "B O"]:
        steepness = self.log_steepness.exp()
        bends = self.height.tanh() * torch.tanh(steepness * (z[:, :, None] - self.place)) / steepness
        return self.log_slope.exp() * (z + self.most * bends.mean(2)) + self.shift


class AdditiveBranch(nn.Module):
    """Features, and what an MLP or a sequence net adds to them, to outputs; starts exactly at a linear model.

    Args:
        inputs: F.
        outputs: O.
        hidden: width of the MLP; 0: there is none.
        is_curved: it ends in the curve.
        stepped: how many features the MLP also sees as steps.
    """

    def __init__(self, inputs: int, outputs: int, *, hidden: int, is_curved: bool, stepped: int = 0) -> None:
        super().__init__()
        self.additive = _Additive(inputs, outputs)
        self.mlp = _Interactions(inputs, outputs, hidden=hidden, stepped=stepped) if hidden else None
        self.curve = _Curve(outputs) if is_curved else None

    def start_at(self, weight: Float[Tensor, "O F"], bias: Float[Tensor, " O"], scale: Float[Tensor, " F"]) -> None:
        """Put a linear model, on features times `scale`, into the additive path."""
        self.additive.start.copy_(weight)
        self.additive.start_bias.copy_(bias)
        self.additive.scale.copy_(scale)

    def center_at(self, center: Float[Tensor, " F"], spread: Float[Tensor, " F"]) -> None:
        """Tell the MLP the mean of the features and the inverse of their spread."""
        self.mlp.center.copy_(center)
        self.mlp.spread.copy_(spread)

    def step_at(self, stepped: Int[Tensor, " S"], values: Float[Tensor, "n S"]) -> None:
        """Tell the MLP which features come as steps, and their values in the training rows, which place the steps."""
        edges = torch.quantile(values, torch.linspace(0, 1, STEPS + 1, dtype=values.dtype), dim=0).T
        # steps that many equal values have made empty keep a little width
        least = 1e-6 * (edges[:, -1:] - edges[:, :1]).clamp(min=1e-9)
        self.mlp.stepped.copy_(stepped)
        self.mlp.edges.copy_(edges + least * torch.arange(STEPS + 1))

    def at_start(self, f: Float[Tensor, "B F"]) -> Float[Tensor, "B O"]:
        """Return what the linear model says that it starts at."""
        return self.additive.at_start(f)

    def forward(self, f: Float[Tensor, "B F"], more: Tensor | float = 0.0) -> Float[Tensor, "B O"]:
        """Return the outputs; `more` is what the sequence net says, before the curve."""
        z = self.additive(f) + more
        if self.mlp is not None:
            z = z + self.mlp(f)
        return z if self.curve is None else self.curve(z)


def binned_features(features: Features) -> np.ndarray:
    """Return the features that the MLP also sees as steps: frequencies of letters, lengths, charges, covariates."""
    return np.flatnonzero(~features.is_unit & ~np.isin(features.blocks, COMPOUND))


def initialize_branch(
    path: AdditiveBranch, dataset: Dataset, start: LinearStart, train: sparse.csr_matrix, *, sees_few: bool = False
) -> None:
    """Put a path at a linear model, and tell it how the features of the training rows lie.

    Args:
        path: to be put there.
        dataset: what to learn.
        start: the linear model.
        train: features of the training rows.
        sees_few: the MLP sees the features of the model of few alone.
    """
    linear = start.linear
    path.start_at(*(torch.from_numpy(np.asarray(x)).float() for x in (linear.weight, linear.bias, linear.scale)))
    if path.mlp is None:
        return
    stepped = binned_features(start.features)
    if len(stepped):
        path.step_at(torch.from_numpy(stepped), torch.from_numpy(train[:, stepped].toarray().astype(np.float64)))
    mean = np.asarray(train.mean(0)).ravel()
    square = np.asarray(train.multiply(train).mean(0)).ravel()
    deviation = np.sqrt(np.maximum(square - mean**2, 0.0))
    # one-hot features of rare letters must not blow up: at least what a letter of one row in a hundred has
    spread = 1 / np.maximum(deviation, 0.1 if dataset.inputs.is_aligned else 1e-3)
    spread[deviation == 0] = 0.0
    if len(dataset.split["train"]) <= ROWS_A_FEATURE * len(spread):
        # words of several letters are left to the linear path: the MLP makes them itself of single letters
        spread[np.isin(start.features.blocks, COMPOUND)] = 0.0
    if sees_few and (spread[start.is_sparse] > 0).any():
        spread[~start.is_sparse] = 0.0
        path.mlp.layers[0].p = FEW_DROPOUT
    path.center_at(torch.from_numpy(mean).float(), torch.from_numpy(spread).float())


def train_branch(
    path: AdditiveBranch,
    dataset: Dataset,
    settings: FitSettings,
    matrices: Mapping[str, sparse.csr_matrix],
    *,
    scale: TargetScaler,
    name: str,
    seed: int,
    directory: Path | None,
    quiet: bool,
) -> dict[str, Any]:
    """Train the path of the MLP, in place; return what was decided on validation.

    Features are made once and not at each step, so that many more passes over the rows fit into the time.

    Args:
        path: at its start.
        dataset: what to learn.
        settings: batch, rate and decay.
        matrices: features of the `train` and the `validation` rows.
        scale: of the measurements that are learned.
        name: of the part, in the history.
        seed: of the order of the rows.
        directory: where checkpoints go.
        quiet: no progress bar.
    """
    rows, main = dataset.split["train"], MAIN_METRIC[dataset.target.task_type]
    X, V = matrices["train"], matrices["validation"]
    loss, (_, truth) = make_loss(dataset, scale), dataset.part("validation")
    batch = min(settings.batch_size or BATCH, len(rows))
    products = 6 * len(rows) * X.shape[1] * path.mlp.last.in_features
    epochs = float(np.clip(PRODUCTS_A_LETTER * settings.tokens / products, LEAST_EPOCHS, MOST_EPOCHS))
    if settings.epochs is not None:
        epochs = min(epochs, settings.epochs)
    steps = max(1, round(epochs * (len(rows) // batch)))

    def batches(epoch: int) -> Sequence[np.ndarray]:
        order = np.random.default_rng((seed, epoch)).permutation(len(rows))
        return [order[begin : begin + batch] for begin in range(0, len(order) - batch + 1, batch)]

    def step(model: nn.Module, own: np.ndarray, backward: Callable[[Tensor], None]) -> Mapping[str, Tensor]:
        value = loss(model(_dense(X[own], model)), rows[own])
        backward(value)
        return {"loss": value}

    def figures(model: nn.Module) -> dict[str, float]:
        z = [model(_dense(V[begin : begin + 4096], model)).cpu() for begin in range(0, V.shape[0], 4096)]
        return score(truth, to_predictions(torch.cat(z).double().numpy(), truth.task_type, scale))

    with torch.no_grad():
        start = figures(path.eval())[main]
    before = {key: tensor.clone() for key, tensor in path.state_dict().items()}
    groups = branch_parameter_groups(path, rate=settings.learning_rate, decay=settings.weight_decay)
    outcome = train(
        path.train(),
        batches=batches,
        step=step,
        optimizer=torch.optim.AdamW(groups, fused=True),
        settings=LoopSettings(steps=steps, evaluate_every=max(1, steps // 12)),
        schedule=schedule("one_cycle"),
        validate=figures,
        monitor=main,
        maximize=True,
        directory=directory,
        name=name,
        seed=seed,
        quiet=quiet,
    )
    path.cpu()
    is_better = outcome.best[main] > start
    if not is_better:
        path.load_state_dict(before)
    return {
        "steps": steps,
        "best_step": outcome.best_step if is_better else 0,
        "validation": max(outcome.best[main], start),
        "seconds": outcome.seconds,
    }


def branch_parameter_groups(path: AdditiveBranch, *, rate: float, decay: float) -> list[dict[str, Any]]:
    """Return the optimizer's groups: the additive path slow and drawn to its start, the curve without decay."""
    groups = parameter_groups(path.additive, learning_rate=rate * ADDITIVE_RATE, weight_decay=decay)
    if path.mlp is not None:
        groups += parameter_groups(path.mlp, learning_rate=rate, weight_decay=decay)
    if path.curve is not None:
        groups.append({"params": list(path.curve.parameters()), "lr": rate, "weight_decay": 0.0})
    return groups


def _dense(X: sparse.csr_matrix, model: nn.Module) -> Tensor:
    return torch.from_numpy(X.toarray()).float().to(next(model.parameters()).device)
