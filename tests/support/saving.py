"""`subquad` that writes a checkpoint after each step: `python -m support.saving ARGUMENTS`."""

import sys

from subquad.cli import main
from subquad.train.settings import LoopSettings

if __name__ == "__main__":
    LoopSettings.__init__.__kwdefaults__["save_seconds"] = 0.0
    sys.exit(main(sys.argv[1:]))
