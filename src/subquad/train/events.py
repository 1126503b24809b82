"""The history of a training as events of TensorBoard, while it runs."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from subquad.errors import require

__all__ = ["event_writer"]


def event_writer(folder: Path) -> Callable[[Mapping[str, Any]], None]:
    """Return a function that writes an entry of the history as events.

    An interrupted training that is resumed writes a second file, and TensorBoard shows the later values.

    Args:
        folder: Folder of the events.

    Raises:
        MissingExtra: TensorBoard is not installed.
    """
    require("tensorboard", extra="tensorboard")
    writer = require("torch.utils.tensorboard", extra="tensorboard").SummaryWriter(str(folder))

    def write(entry: Mapping[str, Any]) -> None:
        for name, value in entry.items():
            if name not in ("part", "step"):
                part = "validation" if name.startswith("validation_") else "training"
                writer.add_scalar(f"{name.removeprefix('validation_')}/{part}", value, entry["step"])
        writer.flush()

    return write
