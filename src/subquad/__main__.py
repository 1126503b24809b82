"""The command line as a module: `python -m subquad`, and `torchrun -m subquad` for several processes."""

import sys

from subquad.cli import main

sys.exit(main())
