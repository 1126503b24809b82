"""Commands under `torchrun` or `accelerate launch`, which start the same command in several processes."""

import os

from subquad.errors import SubquadError

__all__ = ["SEVERAL_PROCESSES", "check_one_process", "started_processes"]

SEVERAL_PROCESSES = ("bio fit", "hep fit", "llm linearize")
"""Commands whose processes divide the work; several processes of any other would all do the same and write the same."""
INSTEAD = {
    "bio bench": "; --jobs 2 runs two tasks at a time",
    "bio cross-validate": "; to fit several folds at a time, start `subquad bio fit` with --fold 0, --fold 1 … itself",
    "hep simulate": "; --workers 2 simulates with two processes",
}
"""What else uses several cores."""


LAUNCHED = ("LOCAL_RANK", "TORCHELASTIC_RUN_ID")
"""Variables of `torchrun`, with which `accelerate launch` starts processes too. Others set `WORLD_SIZE` without
them, as Kubernetes' PyTorchJob does for the one process in each of its pods."""


def started_processes() -> int:
    """Return the number of processes that a launcher started for this command, by `WORLD_SIZE`; 1 without one."""
    count = os.environ.get("WORLD_SIZE", "")
    if not count.isdecimal() or not any(os.environ.get(name) for name in LAUNCHED):
        return 1
    return max(int(count), 1)


def check_one_process(command: str) -> None:
    """Check that a command which runs in one process was not started in several.

    Args:
        command: Its name, such as `bio predict`.

    Raises:
        SubquadError: It was.
    """
    count = started_processes()
    if count == 1 or command in SEVERAL_PROCESSES:
        return
    *names, last = SEVERAL_PROCESSES
    raise SubquadError(
        f"{command} runs in one process, and {count} were started (WORLD_SIZE={count}); start it without torchrun or "
        f"accelerate launch, as `subquad {command}`{INSTEAD.get(command, '')}. Several processes share the work of "
        f"{', '.join(names)} and {last} only"
    )
