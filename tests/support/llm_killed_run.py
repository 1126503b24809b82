"""`subquad` that is killed in fine-tuning, after STEPS steps: `torchrun -m support.llm_killed_run STEPS ARGUMENTS`."""

import os
import sys

from subquad.cli import main
from subquad.llm.training import lora
from subquad.train.settings import LoopSettings

real, calls = lora.fine_tune_step, []


def step(*arguments, **options):
    calls.append(1)
    if len(calls) > int(sys.argv[1]):
        os._exit(1)
    return real(*arguments, **options)


if __name__ == "__main__":
    LoopSettings.__init__.__kwdefaults__["save_seconds"] = 0.0
    lora.fine_tune_step = step
    sys.exit(main(sys.argv[2:]))
