"""How many jets a second a fitted tagger scores: one thread, and a batch on each core; both must give the same.

    subquad hep fit 'jets/*.root' --out tagger
    python benchmarks/hep_score.py tagger 'more/*.root' [--repeats 5]

The jets are read before, and the net has scored some, before the clock starts. The median of the repeats counts. Wants
quiet cores. The last line is JSON.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path
from statistics import median

import torch

from subquad.hep import read
from subquad.hep.models.tagger import inputs_of, logits, using_threads
from subquad.hep.models.trained import open_tagger


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tagger", type=Path)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    tagger = open_tagger(given.tagger)
    inputs = inputs_of(read(given.files), tagger.settings, tagger.scale)
    seconds: dict[int, list[float]] = {}
    answers = []
    for threads in (1, os.cpu_count() or 1):
        with using_threads(threads):
            logits(tagger.net, inputs.part(torch.arange(min(500, len(inputs)))), tagger.settings)
            for _ in range(given.repeats):
                began = time.perf_counter()
                answers.append(logits(tagger.net, inputs, tagger.settings))
                seconds.setdefault(threads, []).append(time.perf_counter() - began)
    apart = max((answer - answers[0]).abs().max().item() for answer in answers)
    if apart > 1e-5:
        raise SystemExit(f"the scores depend on the threads: logits differ by {apart:.2g}")
    rates = {f"{threads} threads": len(inputs) / median(found) for threads, found in seconds.items()}
    machine = {"cpu": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__}
    found = {"jets": len(inputs), "jets_per_second": rates, "largest_difference": apart}
    print(json.dumps({"benchmark": "hep_score", **machine, "preset": tagger.config["preset"], **found}))


if __name__ == "__main__":
    main()
