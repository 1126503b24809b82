"""A small sample of simulated jets that comes with subquad, for Pythons that have no Pythia; and how it was made.

Run as `python -m subquad.hep.data.sample OUT.root` (needs Pythia) it makes the sample again, in about half a minute.
"""

import argparse
import hashlib
import tempfile
from pathlib import Path

import numpy as np

from subquad.errors import SubquadError, require
from subquad.hep.commands.simulate import simulate
from subquad.hep.simulation.settings import SimulateSettings
from subquad.hep.simulation.writer import joined, read_columns, shuffled, write_jets

__all__ = ["JETS_PER_CLASS", "make_sample", "sample_path"]

JETS_PER_CLASS = 150
_SEED = 2026
_PATH = Path(__file__).parent / "examples" / "jets_small.root"
_SHA256 = "f1bf4516ae6270b5e02149e772a2b83f8b086019d9e8e3e2c0e69b26a1034aac"


def sample_path() -> Path:
    """Return the path of the sample: 1,500 jets, 150 of each of the ten classes of JetClass, mixed, in one ROOT file.

    Raises:
        SubquadError: the file is missing or damaged.
    """
    if not _PATH.is_file():
        raise SubquadError(f"{_PATH}: is missing; install subquad again")
    found = hashlib.sha256(_PATH.read_bytes()).hexdigest()
    if found != _SHA256:
        raise SubquadError(
            f"{_PATH}: is damaged (its SHA-256 begins {found[:12]}, not {_SHA256[:12]}); install subquad again"
        )
    return _PATH


def make_sample(path: Path, *, jets_per_class: int = JETS_PER_CLASS, seed: int = _SEED, quiet: bool = False) -> None:
    """Simulate jets of all classes, mix them, and write them as one small file."""
    uproot = require("uproot", extra="hep")
    with tempfile.TemporaryDirectory() as folder:
        files = simulate(folder, SimulateSettings(jets_per_class=jets_per_class), seed=seed, quiet=quiet)
        table = joined(read_columns(file) for file in files)
    order = np.random.default_rng(seed).permutation(len(table["npart"]))
    write_jets(path, shuffled(table, order), compression=uproot.LZMA(9))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make the sample of jets that comes with subquad.")
    parser.add_argument("out", type=Path)
    make_sample(parser.parse_args().out)
