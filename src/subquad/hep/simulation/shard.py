"""One file of simulated jets of one class, which depends on its own seed only; and the worker that writes such files.

`python -m subquad.hep.simulation.shard` reads jobs from standard input, one JSON object per line, and answers on
standard output with one JSON object per line: `{"jets": n}` while it works, `{"done": path}` after each file, and
`{"refused": [errno, path]}` for a file that the system does not take.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import numpy as np

from subquad.hep.settings import CLASSES
from subquad.hep.simulation.detector import detect
from subquad.hep.simulation.generator import MAX_SEED, Generator
from subquad.hep.simulation.jets import find_jets
from subquad.hep.simulation.processes import PROCESSES
from subquad.hep.simulation.writer import columns, joined, write_jets

_MAX_EVENTS, _MIN_EVENTS = 64, 8


def make_jets(
    name: str, jets: int, seed: int, *, shard: int = 0, advance: Callable[[int], None] = lambda jets: None
) -> dict[str, np.ndarray]:
    """Return the columns of `jets` jets of one class; the same arguments give the same jets."""
    process = PROCESSES[name]
    for_pythia, for_detector = np.random.SeedSequence([seed, CLASSES.index(name), shard]).spawn(2)
    generator = Generator(process, seed=int(for_pythia.generate_state(1)[0]) % MAX_SEED)
    random = np.random.default_rng(for_detector)
    # small batches for few jets, so that few are discarded
    events = max(_MIN_EVENTS, min(_MAX_EVENTS, jets // 4))
    tables, found = [], 0
    while found < jets:
        batch = generator.batch(events)
        candidates = detect(batch, random)
        table = columns(candidates, find_jets(batch, candidates, process), process)
        tables.append(table)
        new = min(len(table["npart"]), jets - found)
        found += new
        advance(new)
    return joined(tables, jets=jets)


def serve(jobs: TextIO, answers: TextIO) -> None:
    """Write files until standard input ends."""

    def answer(**what: int | str | list[int | str]) -> None:
        answers.write(json.dumps(what) + "\n")
        answers.flush()

    for line in jobs:
        job = json.loads(line)
        path = Path(job["path"])
        table = make_jets(
            job["name"], job["jets"], job["seed"], shard=job["shard"], advance=lambda jets: answer(jets=jets)
        )
        try:
            write_jets(path, table)
        except OSError as error:
            if error.errno is None:
                raise
            answer(refused=[error.errno, str(path)])
        else:
            answer(done=str(path))


if __name__ == "__main__":
    # Pythia and FastJet print banners on standard output, which is reserved for the answers
    private = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    serve(sys.stdin, private)
