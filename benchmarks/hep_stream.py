"""Memory and waiting of a fit on many GB of ROOT files: peak of the process's own memory, fraction of time waiting.

    SUBQUAD_DATA=DIR python benchmarks/hep_stream.py [--gigabytes 5] [--steps 300] [--batch-size 64] [--boosting]

The files of $SUBQUAD_DATA/hep/sim are copied under other names until they are large enough. Own memory is RssAnon of
/proc/self/status; pages of files do not count, since the system takes them back whenever it needs them. The pages of
the store are dropped before the training starts, so that its jets come from the disk.
"""

import argparse
import json
import os
import platform
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch

from subquad.hep import FitSettings
from subquad.hep.commands import fit as fit_command
from subquad.hep.data.formats import inspect_file
from subquad.hep.models import training as training_module
from subquad.hep.models.training import FittedNetwork
from subquad.train.settings import LoopSettings


class Watch:
    """Looks at the process's own memory twenty times a second, while it is alive."""

    def __init__(self) -> None:
        self.peaks: dict[str, int] = {}
        self.part = "reading"
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            time.sleep(0.05)
            lines = Path("/proc/self/status").read_text().splitlines()
            anonymous = next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
            self.peaks[self.part] = max(self.peaks.get(self.part, 0), anonymous * 1024)


def copies(source: Path, folder: Path, size: float) -> list[Path]:
    files: list[Path] = []
    total = 0
    originals = sorted(source.glob("*.root"))
    while total < size:
        original = originals[len(files) % len(originals)]
        files.append(folder / f"{original.stem}_{len(files):05}.root")
        shutil.copyfile(original, files[-1])
        total += original.stat().st_size
    return files


def drop_pages(folder: Path) -> int:
    """Forget the pages of the files; return how many bytes these have."""
    size = 0
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        size += path.stat().st_size
    return size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=5.0)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--boosting", action="store_true")
    parser.add_argument("--folder", type=Path, default=None, help="where the copies and the run are kept")
    given = parser.parse_args()
    watch, store, train = Watch(), [0], fit_command.fit_network

    def training(*positional: Any, directory: Path, **named: Any) -> FittedNetwork:
        store[0], watch.part = drop_pages(directory / fit_command.JETS), "training"
        fitted = train(*positional, directory=directory, **named)
        watch.part = "measuring"
        return fitted

    fit_command.fit_network = training
    training_module.LoopSettings = lambda **asked: LoopSettings(
        **{**asked, "steps": given.steps, "evaluate_every": None}
    )
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        files = copies(Path(os.environ["SUBQUAD_DATA"]) / "hep" / "sim", Path(name), given.gigabytes * 1e9)
        size, jets = (
            sum(file.stat().st_size for file in files),
            sum(inspect_file(file, "tree").entries for file in files),
        )
        settings = FitSettings(
            epochs=1,
            batch_size=given.batch_size,
            validation_fraction=0.002,
            test_fraction=0.002,
            no_boosting=not given.boosting,
        )
        began = time.perf_counter()
        metrics = fit_command.fit(files, settings, out=Path(name) / "run", quiet=False)
        seconds = metrics["seconds"]
        found = {
            **{"gigabytes": size / 1e9, "files": len(files), "jets": jets, "store_gigabytes": store[0] / 1e9},
            "peak_own_memory_gigabytes": {part: peak / 1e9 for part, peak in watch.peaks.items()},
            "jets_read_per_second": jets / seconds["reading"],
            "fraction_of_training_waiting": seconds["waiting"] / seconds["training"],
            "training_jets_per_second": given.steps * given.batch_size / seconds["training"],
            **{"seconds": seconds | {"total": time.perf_counter() - began}, "steps": given.steps},
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
