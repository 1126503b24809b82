"""The net's training: what a step is, how many there are, what is kept. Costs about a minute for 5 million letters."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from subquad.bio.data.dataset import Dataset, Inputs, Target
from subquad.bio.metrics.scores import MAIN_METRIC, score
from subquad.bio.models.additive import branch_parameter_groups
from subquad.bio.models.losses import make_loss
from subquad.bio.models.lyra import BioNet
from subquad.bio.models.stacking import best_blending
from subquad.bio.models.target_scaling import TargetScaler, to_predictions
from subquad.bio.settings import FitSettings
from subquad.train.loop import LoopSettings, train
from subquad.train.optim import parameter_groups, schedule

__all__ = ["Priors", "batch_size_for", "ensemble_size_for", "epochs_for", "outputs", "train_net"]

LEAST_EPOCHS, MOST_EPOCHS, MOST_MEMBERS = 0.3, 40.0, 5
LOOKING = 0.15
"""Part of the time of training that validation may take."""
MOST_JUDGES = 5000
"""Validation rows that one net's choices are made on."""
SHARES = [(mlp / 4, lyra / 4) for mlp in range(5) for lyra in range(5 - mlp)]
"""Of the MLPs' and of Lyra's path that are tried; the rest is ridge."""
STEPS, LETTERS_A_STEP, MOST_A_STEP = 2000, 1500, 128
"""Wanted at least; below so many letters a step is no faster; most sequences of one."""
PAIRS_A_LETTER = 16
"""Pairs of positions that cost as much as a letter."""
PADDED_LETTERS, PADDED_PAIRS = 40_000, 600_000
"""Most letters, or pairs of letters, of one batch with its padding: long sequences come in smaller batches."""

Priors = Sequence[np.ndarray] | None
"""Where the net starts, a row: `(L, L)` logits of pairs, or `(L, O)` of residues on the scale of learning."""


def epochs_for(dataset: Dataset, settings: FitSettings) -> float:
    """Return the passes over the training rows: what `epochs` says, else what `letters` allows."""
    if settings.epochs is not None:
        return settings.epochs
    return float(min(max(settings.tokens / _letters(dataset), LEAST_EPOCHS), MOST_EPOCHS))


def ensemble_size_for(dataset: Dataset, settings: FitSettings) -> int:
    """Return the number of nets: what `members` says, else as many as `letters` allows, at most five."""
    if settings.ensemble_size is not None:
        return settings.ensemble_size
    if settings.preset == "paper":
        return 1
    letters = _letters(dataset) * epochs_for(dataset, settings)
    return int(min(max(settings.tokens / letters, 1), MOST_MEMBERS))


def batch_size_for(dataset: Dataset, settings: FitSettings) -> int:
    """Return the sequences of a step: what `batch` says, else few enough for many steps, with letters enough for each.

    Many small steps learn more from so many letters than few large ones do.
    """
    if settings.batch_size is not None:
        return settings.batch_size
    rows = len(dataset.split["train"])
    least = LETTERS_A_STEP * rows / _letters(dataset)
    return int(np.clip(epochs_for(dataset, settings) * rows / STEPS, max(least, 1), MOST_A_STEP))


def _letters(dataset: Dataset) -> float:
    """Return the letters of the training rows, with what else costs as much."""
    lengths = dataset.inputs.lengths[dataset.split["train"]].astype(np.float64)
    if dataset.target.task_type == "pairs":
        lengths += lengths**2 / PAIRS_A_LETTER
    return float(max(lengths.sum(), len(lengths)))


def train_net(
    net: BioNet,
    dataset: Dataset,
    settings: FitSettings,
    *,
    scale: TargetScaler,
    priors: Priors,
    name: str,
    seed: int,
    directory: Path | None,
    quiet: bool,
) -> tuple[float, dict[str, Any]]:
    """Train one net in place, all but the paths of the MLPs; return the seconds, and what validation rows decided."""
    judges = _some(dataset.split["validation"], MOST_JUDGES, seed)
    inputs, truth = dataset.inputs.take(judges), dataset.target.take(judges)
    if net.mlp_paths is not None and net.lyra_path is None:
        # without sequences there is nothing else
        return 0.0, _blend(net, inputs, truth, scale=scale, seed=seed)
    epochs, batch = epochs_for(dataset, settings), batch_size_for(dataset, settings)
    plan = _plan(dataset.inputs, dataset.split["train"], task_type=dataset.target.task_type, batch=batch, seed=seed)
    steps = max(1, round(epochs * len(plan(0))))
    own_priors = None if priors is None else [priors[row] for row in judges]

    def figures(model: nn.Module) -> dict[str, float]:
        return score(truth, outputs(model, inputs, task_type=truth.task_type, scale=scale, priors=own_priors))

    main = MAIN_METRIC[truth.task_type]
    has_start = net.lyra_path is not None or net.spec.has_prior
    start = figures(net)[main] if has_start else -np.inf
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    outcome = train(
        net,
        batches=plan,
        step=_step(dataset, scale, priors),
        optimizer=torch.optim.AdamW(_groups(net, settings), fused=True),
        settings=LoopSettings(steps=steps, evaluate_every=max(1, steps // _looks(dataset, inputs, epochs))),
        schedule=schedule("one_cycle"),
        validate=figures,
        monitor=main,
        maximize=True,
        directory=directory,
        name=name,
        seed=seed,
        quiet=quiet,
    )
    net.cpu()
    is_better = outcome.best[main] >= start
    if not is_better:
        net.load_state_dict(before)
    chosen = {"steps": steps, "batch": batch, "best_step": outcome.best_step if is_better else 0}
    chosen["validation"] = max(outcome.best[main], start)
    if net.mlp_paths is not None:
        chosen |= _blend(net, inputs, truth, scale=scale, seed=seed)
    return outcome.seconds, chosen


def _some(rows: np.ndarray, most: int, seed: int) -> np.ndarray:
    return rows if len(rows) <= most else np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def _looks(dataset: Dataset, validation: Inputs, epochs: float) -> int:
    """Return how often the validation rows are looked at: they must not take much of the time of the training."""
    learned = epochs * dataset.inputs.lengths[dataset.split["train"]].sum()
    # a forward pass takes a third of a step's time
    return int(np.clip(LOOKING * 3 * learned / max(validation.lengths.sum(), 1), 3, 12))


def _blend(net: BioNet, inputs: Inputs, truth: Target, *, scale: TargetScaler, seed: int) -> dict[str, Any]:
    """Choose how much of the MLPs' and of Lyra's path there is beside ridge; return that and what it gives."""
    ends = []
    for blend in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)):
        net.blend.copy_(torch.tensor(blend))
        ends.append(np.stack(_raw(net, inputs, task_type=truth.task_type, priors=None)))
    main, start = MAIN_METRIC[truth.task_type], ends[0]
    shares = SHARES if net.lyra_path is not None else [own for own in SHARES if not own[1]]

    def mixed(own: Sequence[float]) -> np.ndarray:
        return to_predictions(start + own[0] * (ends[1] - start) + own[1] * (ends[2] - start), truth.task_type, scale)

    chosen = best_blending(truth, [mixed(own) for own in shares], shares, seed=seed)
    net.blend.copy_(torch.from_numpy(chosen))
    return {"blend": [round(float(own), 4) for own in chosen], "validation": score(truth, mixed(chosen))[main]}


@torch.no_grad()
def _forward(net: nn.Module, inputs: Inputs, rows: np.ndarray, priors: Priors, *, length: int, task_type: str) -> Tensor:
    """Return the net's outputs for some rows, cut to a length."""
    device = next(net.parameters()).device
    return net(*_arguments(inputs, rows, priors, length=length, task_type=task_type, device=device)).float().cpu()


def outputs(net: nn.Module, inputs: Inputs, *, task_type: str, scale: TargetScaler, priors: Priors = None) -> Any:
    """Return a net's predictions, in the target's units or as probabilities; see `Target.outputs` for their shapes."""
    found = [to_predictions(z, task_type, scale) for z in _raw(net, inputs, task_type=task_type, priors=priors)]
    if task_type == "pairs":
        return found
    if not task_type.startswith("residue"):
        return np.stack(found)
    wide = np.zeros((len(found), inputs.codes.shape[1], found[0].shape[1]))
    for row, values in enumerate(found):
        wide[row, : len(values)] = values
    return wide


def _raw(net: nn.Module, inputs: Inputs, *, task_type: str, priors: Priors) -> list[np.ndarray]:
    """Return a net's outputs of each row, on the scale of learning and without padding."""
    was_training = net.training
    net.eval()
    lengths = np.maximum(inputs.lengths, 1)
    # neighbours in length share a batch, so that little is padded; the order is put back at the end
    order = np.argsort(-lengths, kind="stable")
    found: list[Any] = [None] * len(order)
    for rows in _cut(order, lengths, task_type=task_type, batch=512):
        z = _forward(net, inputs, rows, priors, length=int(lengths[rows].max()), task_type=task_type).double().numpy()
        for k, row in enumerate(rows):
            if task_type == "pairs":
                found[row] = z[k, : lengths[row], : lengths[row]]
            else:
                found[row] = z[k, : lengths[row]] if task_type.startswith("residue") else z[k]
    net.train(was_training)
    return found


def _arguments(
    inputs: Inputs, rows: np.ndarray, priors: Priors, *, length: int, task_type: str, device: torch.device
) -> tuple[Tensor | None, ...]:
    codes = torch.from_numpy(inputs.codes[rows, :length]).to(device)
    partner = None if inputs.partner is None else torch.from_numpy(inputs.partner[rows, :length]).to(device)
    covariates = torch.from_numpy(inputs.covariates[rows]).float().to(device)
    prior = None
    if priors is not None:
        wide = length if task_type == "pairs" else priors[rows[0]].shape[1]
        padded = np.zeros((len(rows), length, wide), dtype=np.float32)
        for k, row in enumerate(rows):
            own = priors[row]
            padded[k, : own.shape[0], : own.shape[1]] = own
        prior = torch.from_numpy(padded).to(device)
    return codes, partner, covariates, prior


def _cut(order: np.ndarray, lengths: np.ndarray, *, task_type: str, batch: int) -> list[np.ndarray]:
    """Return rows, already in an order of like lengths, in batches that are not too large with their padding."""
    parts, begin, longest = [], 0, 0
    for end, row in enumerate(order):
        longer = max(longest, int(lengths[row]))
        count = end - begin + 1
        is_full = count * longer > PADDED_LETTERS or (task_type == "pairs" and count * longer**2 > PADDED_PAIRS)
        if count > 1 and (count > batch or is_full):
            parts.append(order[begin:end])
            begin, longer = end, int(lengths[row])
        longest = longer
    return [*parts, order[begin:]]


def _plan(
    inputs: Inputs, rows: np.ndarray, *, task_type: str, batch: int, seed: int
) -> Callable[[int], Sequence[np.ndarray]]:
    lengths = np.maximum(inputs.lengths, 1)
    batch = min(batch, len(rows))
    is_even = bool((lengths[rows] == lengths[rows[0]]).all())

    def batches(epoch: int) -> list[np.ndarray]:
        random = np.random.default_rng((seed, epoch))
        order = rows[random.permutation(len(rows))]
        if not is_even:
            # within a pool of 32 batches the rows are sorted by length, so that little is padded
            pools = np.array_split(order, max(1, len(order) // (32 * batch)))
            order = np.concatenate([pool[np.argsort(lengths[pool], kind="stable")] for pool in pools])
        cut = _cut(order, lengths, task_type=task_type, batch=batch)
        # a rest of a few rows would be a noisy step; they come in another epoch
        whole = [part for part in cut if 2 * len(part) > min(map(len, cut[:-1] or cut))]
        return [whole[i] for i in random.permutation(len(whole))]

    return batches


def _step(dataset: Dataset, scale: TargetScaler, priors: Priors) -> Callable[..., Mapping[str, Tensor]]:
    task_type, inputs = dataset.target.task_type, dataset.inputs
    lengths, loss = np.maximum(inputs.lengths, 1), make_loss(dataset, scale)

    def step(model: nn.Module, rows: np.ndarray, backward: Callable[[Tensor], None]) -> Mapping[str, Tensor]:
        device = next(model.parameters()).device
        length = int(lengths[rows].max())
        value = loss(model(*_arguments(inputs, rows, priors, length=length, task_type=task_type, device=device)), rows)
        backward(value)
        return {"loss": value}

    return step


def _groups(net: BioNet, settings: FitSettings) -> list[dict]:
    rate, decay, groups = settings.learning_rate, settings.weight_decay, []
    for module in net.children():
        if module is net.lyra_path:
            groups += branch_parameter_groups(module, rate=rate, decay=decay)
        elif module is not net.mlp_paths:
            # those have been trained by themselves
            groups += parameter_groups(module, learning_rate=rate, weight_decay=decay)
    if net.trust is not None:
        groups.append({"params": [net.trust], "lr": rate, "weight_decay": 0.0})
    return groups
