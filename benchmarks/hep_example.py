"""Make the jets that ship with subquad as `example:jets`: half a minute; needs Pythia.

    python benchmarks/hep_example.py jets_small.root

150 jets of each of JetClass's ten classes, mixed. Made again, the jets are the same; the bytes are not, since a ROOT
file contains its date and a random number. Ends in one line of JSON.
"""

import argparse
import hashlib
import json
import tempfile
from pathlib import Path

import numpy as np
import uproot

from subquad.hep import SimulateSettings, simulate
from subquad.hep.simulation.writer import joined, read_columns, shuffled, write_jets

SEED, JETS_PER_CLASS = 2026, 150


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as folder:
        files = simulate(SimulateSettings(jets_per_class=JETS_PER_CLASS), out=folder, seed=SEED)
        table = joined(read_columns(file) for file in files)
    order = np.random.default_rng(SEED).permutation(len(table["npart"]))
    write_jets(out, shuffled(table, order), compression=uproot.LZMA(9))
    print(json.dumps({"jets": len(order), "sha256": hashlib.sha256(out.read_bytes()).hexdigest()}))


if __name__ == "__main__":
    main()
