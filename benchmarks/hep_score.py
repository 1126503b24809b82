"""Inference speed of a tagger in jets per second, on one thread and on all cores, with equal scores.

    subquad hep fit 'jets/*.root' --out tagger
    python benchmarks/hep_score.py tagger 'more/*.root' [--repeats 5]

Reading the jets and a first forward pass are not timed. Reports the median of the repeats; needs idle cores. The last
line is JSON.
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
from subquad.hep.data.chunks import chunk_of
from subquad.hep.models.networks import predict_logits, using_threads
from subquad.hep.models.trained import TrainedTagger


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tagger", type=Path)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    tagger = TrainedTagger.load(given.tagger)
    dataset = tagger.dataset(chunk_of(read(given.files), tagger.layout))
    seconds: dict[int, list[float]] = {}
    answers = []
    for threads in (1, os.cpu_count() or 1):
        with using_threads(threads):
            predict_logits(tagger.net, dataset.subset(torch.arange(min(500, len(dataset)))))
            for _ in range(given.repeats):
                began = time.perf_counter()
                answers.append(predict_logits(tagger.net, dataset))
                seconds.setdefault(threads, []).append(time.perf_counter() - began)
    apart = max((answer - answers[0]).abs().max().item() for answer in answers)
    if apart > 1e-5:
        raise SystemExit(f"the scores depend on the threads: logits differ by {apart:.2g}")
    rates = {f"{threads} threads": len(dataset) / median(found) for threads, found in seconds.items()}
    machine = {"cpu": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__}
    found = {"jets": len(dataset), "jets_per_second": rates, "largest_difference": apart}
    print(json.dumps({"benchmark": "hep_score", **machine, "preset": tagger.config["preset"], **found}))


if __name__ == "__main__":
    main()
