"""The net's training: what a step is, how many there are, what is kept. Costs about a minute for 5 million letters."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from subquad.bio.baselines import Problem
from subquad.bio.metrics import MAIN
from subquad.bio.net import BioNet
from subquad.bio.settings import FitSettings
from subquad.train.loop import LoopSettings, Outcome, train
from subquad.train.optim import parameter_groups, schedule

__all__ = ["member_scores", "steps_for", "train_member"]

LETTERS = 5_000_000
"""Letters that the training goes over by default, about a minute on two cores."""
ADDITIVE_RATE = 0.1
"""Factor on the rate of the additive path: it starts where it should nearly end."""


def steps_for(problem: Problem, settings: FitSettings) -> int:
    """Return the number of steps: what `epochs` says, else what `LETTERS` allow."""
    rows = len(problem.split["train"])
    letters = int((problem.codes[problem.split["train"]] >= 0).sum())
    epochs = settings.epochs if settings.epochs is not None else min(max(LETTERS / letters, 1.0), 80.0)
    return max(1, round(epochs * rows / min(settings.batch, rows)))


def train_member(
    net: BioNet, problem: Problem, settings: FitSettings, *, member: int, seed: int, directory: Path, quiet: bool
) -> tuple[Outcome, bool]:
    """Train one net in place; return how it went, and whether it did better on validation than where it started."""
    steps = steps_for(problem, settings)
    y = _targets(problem)
    codes = torch.from_numpy(problem.codes)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    start = problem.main("validation", member_scores(net, problem, "validation"))
    outcome = train(
        net,
        batches=_plan(problem, settings.batch, seed),
        step=_step(codes, y, _loss(problem)),
        optimizer=torch.optim.AdamW(_groups(net, settings)),
        settings=LoopSettings(steps=steps, evaluate_every=max(1, steps // 12)),
        schedule=schedule("one_cycle"),
        validate=lambda model: problem.figures("validation", member_scores(model, problem, "validation")),
        monitor=MAIN[problem.task],
        maximize=True,
        directory=directory,
        name="net" if settings.members == 1 else f"net {member + 1}",
        seed=seed,
        quiet=quiet,
    )
    net.cpu()
    is_better = net.additive is None or outcome.best[MAIN[problem.task]] >= start
    if not is_better:
        net.load_state_dict(before)
    return outcome, is_better


@torch.no_grad()
def member_scores(net: nn.Module, problem: Problem, part: str) -> np.ndarray:
    """Return a net's predictions for one part of the rows, in standardised units or as probabilities."""
    return scores(net, problem.codes[problem.split[part]], task=problem.task)


@torch.no_grad()
def scores(net: nn.Module, codes: np.ndarray, *, task: str, batch: int = 512) -> np.ndarray:
    """Return a net's predictions for sequences, in standardised units or as probabilities."""
    was_training = net.training
    net.eval()
    device = next(net.parameters()).device
    lengths = (codes >= 0).sum(1)
    # neighbours in length share a batch, so that little is padded; the order is put back at the end
    order = np.argsort(-lengths, kind="stable")
    parts = []
    for begin in range(0, len(order), batch):
        rows = order[begin : begin + batch]
        parts.append(net(torch.from_numpy(codes[rows, : lengths[rows].max()]).to(device)).float().cpu())
    net.train(was_training)
    outputs = torch.cat(parts)[torch.from_numpy(np.argsort(order))]
    if task == "regression":
        return outputs[:, 0].double().numpy()
    one = outputs.shape[1] == 1
    return (outputs[:, 0].sigmoid() if one else outputs.softmax(1)).double().numpy()


def _plan(problem: Problem, batch: int, seed: int) -> Callable[[int], Sequence[np.ndarray]]:
    rows = problem.split["train"]
    lengths = (problem.codes[rows] >= 0).sum(1)
    batch = min(batch, len(rows))

    def batches(epoch: int) -> list[np.ndarray]:
        random = np.random.default_rng((seed, epoch))
        order = random.permutation(len(rows))
        if not problem.has_positions:
            # within a pool of 32 batches the rows are sorted by length, so that little is padded
            pools = np.array_split(order, max(1, len(order) // (32 * batch)))
            order = np.concatenate([pool[np.argsort(lengths[pool], kind="stable")] for pool in pools])
        whole = [rows[order[i : i + batch]] for i in range(0, len(order) - batch + 1, batch)]
        return [whole[i] for i in random.permutation(len(whole))]

    return batches


def _step(codes: Tensor, y: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Mapping[str, Tensor]]:
    lengths = (codes >= 0).sum(1)

    def step(model: nn.Module, rows: np.ndarray, backward: Callable[[Tensor], None]) -> Mapping[str, Tensor]:
        device = next(model.parameters()).device
        index = torch.from_numpy(rows)
        value = loss(model(codes[index, : int(lengths[index].max())].to(device)), y[index].to(device))
        backward(value)
        return {"loss": value}

    return step


def _targets(problem: Problem) -> Tensor:
    if problem.task == "regression":
        mean, scale = problem.standard
        return torch.from_numpy((problem.y - mean) / scale).float()
    return torch.from_numpy(problem.y).float() if problem.outputs == 1 else torch.from_numpy(problem.y).long()


def _loss(problem: Problem) -> Callable[[Tensor, Tensor], Tensor]:
    if problem.task == "regression":
        return lambda z, y: nn.functional.mse_loss(z[:, 0], y)
    if problem.outputs == 1:
        return lambda z, y: nn.functional.binary_cross_entropy_with_logits(z[:, 0], y)
    return nn.functional.cross_entropy


def _groups(net: BioNet, settings: FitSettings) -> list[dict]:
    groups = parameter_groups(net.lyra, learning_rate=settings.learning_rate, weight_decay=settings.weight_decay)
    rate = settings.learning_rate * ADDITIVE_RATE
    if net.additive is not None:
        groups += parameter_groups(net.additive, learning_rate=rate, weight_decay=settings.weight_decay)
    if net.curve is not None:
        groups.append({"params": list(net.curve.parameters()), "lr": settings.learning_rate, "weight_decay": 0.0})
    return groups
