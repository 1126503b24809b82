"""The loop of a tagger's fit: batches of jets of like length, made while the net learns from the last one."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from subquad.hep.data.prefetch import Ahead, Waiting
from subquad.hep.models.tagger import Batch, Inputs, Net, answer, collate, epoch_plan, logits
from subquad.hep.settings import FitSettings, NetSettings
from subquad.train.distributed import processes
from subquad.train.loop import Backward, LoopSettings, Outcome, train
from subquad.train.optim import parameter_groups, schedule

__all__ = ["fit_net"]


def fit_net(
    net: Net,
    parts: Mapping[str, Inputs],
    settings: FitSettings,
    *,
    net_settings: NetSettings,
    waiting: Waiting,
    directory: Path | None,
    seed: int,
    quiet: bool,
) -> Outcome:
    """Fit the net in place and leave the weights in it that are best on the validation jets.

    Args:
        net: with fresh weights.
        parts: `train` and `validation`.
        settings: of the fit.
        net_settings: what the net sees of a jet.
        waiting: takes the seconds that no batch was ready.
        directory: where checkpoints and the history go; None keeps nothing.
        seed: of the order of the jets, and of dropout.
        quiet: no progress.
    """
    learnt, held = parts["train"], parts["validation"]
    rows, pool = torch.arange(len(learnt)), ThreadPoolExecutor(1)

    def batches(epoch: int) -> Sequence[Batch]:
        world = processes().num_processes
        plan = epoch_plan(rows, learnt.lengths, settings.batch, seed=seed, epoch=epoch, together=world)
        return Ahead(plan, lambda item: collate(learnt, item, net_settings), pool, waiting)

    def step(model: torch.nn.Module, item: Batch, backward: Backward) -> dict[str, Tensor | float]:
        batch = item.to(next(model.parameters()).device)
        answered = answer(model, batch)
        losses = torch.nn.functional.cross_entropy(answered, batch.labels, reduction="none")
        loss = (losses * batch.weights).mean()
        backward(loss)
        return {"loss": loss, "accuracy": (answered.detach().argmax(-1) == batch.labels).float().mean()}

    def validate(model: torch.nn.Module) -> dict[str, float]:
        answered = logits(model, held, net_settings)
        share = held.weights / held.weights.sum().clamp(min=1e-12)
        losses = torch.nn.functional.cross_entropy(answered, held.labels, reduction="none")
        return {
            "accuracy": ((answered.argmax(-1) == held.labels) * share).sum().item(),
            "loss": (losses * share).sum().item(),
        }

    steps_of_epoch = max(1, len(batches(0)) // processes().num_processes)
    groups = parameter_groups(net, learning_rate=settings.rate, weight_decay=settings.weight_decay)
    name, warmup = settings.schedule
    with pool:
        return train(
            net,
            batches=batches,
            step=step,
            optimizer=torch.optim.AdamW(groups),
            settings=LoopSettings(
                steps=steps_of_epoch * settings.epochs,
                evaluate_every=steps_of_epoch,
                precision=settings.precision,
                average=settings.decay,
            ),
            schedule=schedule(name, warmup=warmup),
            validate=validate,
            monitor="accuracy",
            maximize=True,
            directory=directory,
            name="fit",
            seed=seed,
            quiet=quiet,
        )
