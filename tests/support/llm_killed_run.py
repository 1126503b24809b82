"""`subquad` whose second process is killed in fine-tuning: `torchrun -m support.llm_killed_run STEPS ARGUMENTS`."""

import os
import signal
import sys

from subquad.cli import main
from subquad.llm.training import lora
from subquad.train.settings import LoopSettings

real, calls = lora.fine_tune_step, []


def step(*arguments, **options):
    calls.append(1)
    if len(calls) > int(sys.argv[1]) and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **options)


if __name__ == "__main__":
    LoopSettings.__init__.__kwdefaults__["save_seconds"] = 0.0
    lora.fine_tune_step = step
    sys.exit(main(sys.argv[2:]))
