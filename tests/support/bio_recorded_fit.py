"""One process of a `bio fit` without dropout that records its rows and files: `torchrun -m support.bio_recorded_fit`.

Its arguments are the folder of the record, the output folder, and those of `subquad`.
"""

import json
import os
import sys
from pathlib import Path

from torch import nn

from subquad.bio.models import training
from subquad.cli import main

CHANGES = {"os.rename": 1, "os.remove": 0, "os.rmdir": 0}
"""Events of the interpreter that change files, and the argument that names the one that is there afterwards or not."""
real_inputs, real_dropout, rows, written = training.net_inputs, nn.Dropout.__init__, [], []


def net_inputs(inputs, own, *arguments, **options):
    rows.append(own.tolist())
    return real_inputs(inputs, own, *arguments, **options)


def no_dropout(module, p=0.0, inplace=False):
    real_dropout(module, 0.0, inplace)


def record(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
        written.append(("open", arguments[0]))
    elif event in CHANGES:
        written.append((event, str(arguments[CHANGES[event]])))


if __name__ == "__main__":
    folder, out = map(Path, sys.argv[1:3])
    training.net_inputs, nn.Dropout.__init__ = net_inputs, no_dropout
    sys.addaudithook(record)
    status = main(sys.argv[3:])
    changed = [(event, os.path.relpath(path, out)) for event, path in written if Path(path).is_relative_to(out)]
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps([rows, changed]))
    sys.exit(status)
