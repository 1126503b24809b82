"""One process of a `hep fit` that records its training jets: `torchrun -m support.hep_recorded_fit OUT ARGUMENTS`."""

import json
import sys
from pathlib import Path

from subquad.cli import main
from subquad.hep.models import training
from subquad.train.distributed import processes

real, recorded = training.collate, []


def collate(dataset, indices, *others):
    recorded.append(dataset.rows[indices].tolist())
    return real(dataset, indices, *others)


if __name__ == "__main__":
    training.collate = collate
    status = main(sys.argv[2:])
    Path(sys.argv[1], f"{processes().process_index}.json").write_text(json.dumps(recorded))
    sys.exit(status)
