"""One process of a `hep fit` that records its jets and seeds: `torchrun -m support.hep_recorded_fit OUT ARGUMENTS`."""

import json
import sys
from pathlib import Path

import torch

from subquad.cli import main
from subquad.hep.models import training
from subquad.train.distributed import processes

real, recorded = training.collate, []
real_loss, seeds = training.cross_entropy, []


def collate(dataset, indices, **options):
    recorded.append(dataset.rows[indices].tolist())
    return real(dataset, indices, **options)


def cross_entropy(*arguments, **options):
    seeds.append(torch.initial_seed())
    return real_loss(*arguments, **options)


if __name__ == "__main__":
    training.collate = collate
    training.cross_entropy = cross_entropy
    status = main(sys.argv[2:])
    Path(sys.argv[1], f"{processes().process_index}.json").write_text(json.dumps([recorded, seeds]))
    sys.exit(status)
