"""Communication between the processes that `torchrun` or `accelerate launch` started; a single process needs none."""

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, reduce
from torch import Tensor, distributed, nn

from subquad.runs.folder import Run, open_run
from subquad.runs.lock import started_processes

Value = TypeVar("Value")
_waits = count()
"""Numbers of the times at which processes waited for everyone, the same in all of them."""


def processes() -> PartialState:
    """Return accelerate's state: number of processes, rank of this one, and its device."""
    # accelerate sets up communication between CPU processes only when told that there is no accelerator, and would then
    # take WORLD_SIZE alone for a launcher
    return PartialState(cpu=started_processes() > 1 and not torch.accelerator.is_available())


def broadcast_object(value: Value) -> Value:
    """Return the value of the first process, however long it takes to find it; all processes must call this."""
    wait_for_everyone()
    return broadcast_object_list([value])[0]


def wait_for_everyone() -> None:
    """Return when all processes have called this, however long one of them reads or writes files.

    A waiting process handles signals, so that SIGTERM of `torchrun` ends it when another one has failed.
    """
    group = processes()
    if group.num_processes == 1:
        return
    # through the store, by which processes find one another: a barrier of the backend ends after some minutes, and
    # Python handles no signal during it
    store, name = distributed.distributed_c10d._get_default_store(), f"subquad/{next(_waits)}"
    store.add(name, 1)
    wait_for(lambda: store.add(name, 0) == group.num_processes)
    # the process that holds the store must not end before the others have read it
    group.wait_for_everyone()


def wait_for(is_done: Callable[[], bool]) -> None:
    """Return when the first process has done something."""
    while not is_done():
        time.sleep(0.02)


def all_reduce_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace the gradients of each process by their mean over all processes.

    This is done after the backward pass rather than by a wrapper during it, so that a step may call `backward` several
    times. All gradients of one data type are sent in one message, which needs a second copy of them in memory.
    """
    for dtype in dict.fromkeys(parameter.dtype for parameter in parameters):
        alike = [parameter for parameter in parameters if parameter.dtype == dtype]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in alike]
        mean = cast(Tensor, reduce(torch.cat([gradient.flatten() for gradient in gradients]), "mean"))
        for parameter, part in zip(alike, mean.split([p.numel() for p in alike]), strict=True):
            parameter.grad = part.view_as(parameter)


def sum_over_processes(values: Tensor) -> Tensor:
    """Return the sum of a tensor of each process, on the device of the given one; all processes must call this."""
    return cast(Tensor, reduce(values.to(process_device()), "sum")).to(values.device)


def weights_of_batches(counts: Sequence[int]) -> list[float]:
    """Return the weights of the batches of a step, with these `counts` of examples, for a mean loss over all examples.

    All processes must call this, each with as many batches. The mean of all weights is 1; equal counts give exactly 1.
    """
    number = len(counts) * processes().num_processes
    if number == 1:
        return [1.0]
    total = int(sum_over_processes(torch.tensor(sum(counts))))
    return [count * number / total if total else 1.0 for count in counts]


def open_shared_run(out: Path | str, *, kind: str, settings: Mapping[str, Any], force: bool = False) -> Run:
    """Create or resume a run as `open_run` does: the first process writes, the others find what it wrote.

    All processes must call this. None goes on before all have opened the folder, which removes temporary files.
    """
    group = processes()
    with group.main_process_first():
        run = open_run(out, kind=kind, settings=settings, force=force and group.is_main_process)
    wait_for_everyone()
    return run


def process_device() -> torch.device:
    """Return the device of this process."""
    return torch.device(processes().device or "cpu")


def device_name(device: torch.device | None = None) -> str:
    """Return the name of a GPU, or the number of CPU threads, for reports; by default of this process's device."""
    device, threads = device or process_device(), torch.get_num_threads()
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{threads} CPU thread{'s' * (threads > 1)}"
