"""Run the command line as a module: `python -m subquad`, or `torchrun -m subquad` for several processes."""

import sys

from subquad.cli import main

sys.exit(main())
