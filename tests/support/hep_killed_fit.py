"""`subquad` that is killed while it reads jets: `python -m support.hep_killed_fit ARGUMENTS`."""

import os
import sys

from subquad.cli import main
from subquad.hep.data import file_chunks, store

real, calls = store._Writer._add, []


def add(writer, chunk):
    calls.append(1)
    if len(calls) > 4:
        os._exit(9)
    real(writer, chunk)


if __name__ == "__main__":
    file_chunks.ENTRIES_PER_CHUNK = 20
    store._Writer._add = add
    sys.exit(main(sys.argv[1:]))
