"""Commands of `subquad` in processes that start at once, since they are forked from one with all imports."""

import os
import sys
from multiprocessing import get_context
from pathlib import Path

PRELOADED = [
    "torch",
    "subquad.bio.commands.fit",
    "subquad.bio.commands.bench",
    "subquad.bio.commands.cross_validate",
    "subquad.bio.commands.embed",
    "subquad.bio.commands.rounds",
    "subquad.hep.commands.fit",
    "subquad.hep.commands.simulate",
    "subquad.llm.commands.linearize",
    "subquad.llm.commands.evaluate",
    # imported by the first fit of each kind
    "sklearn.ensemble",
    "gpytorch",
    "torch._dynamo",
    "matplotlib.backends.backend_svg",
    "transformers.models.esm.modeling_esm",
    "transformers.models.llama.modeling_llama",
    "support.forked",
]

forks = get_context("forkserver")
forks.set_forkserver_preload(PRELOADED)


class Command:
    """A command that is running; its output is in a file."""

    def __init__(self, arguments, log, *, save_seconds=0.0, prepare=None):
        self.arguments, self.log = [str(word) for word in arguments], Path(log)
        # a process that is no daemon may start others
        self.process = forks.Process(target=_run, args=(self.arguments, str(log), save_seconds, prepare))
        self.process.start()

    def wait(self, seconds=None):
        """Return the exit status, negative after a signal; None if the command is still running then."""
        self.process.join(seconds)
        return self.process.exitcode

    def kill(self):
        """End the command as an operating system does that needs its memory."""
        self.process.kill()
        return self.wait()

    def terminate(self):
        """End the command as a batch system does whose time is up."""
        self.process.terminate()
        return self.wait(60)

    def output(self):
        return self.log.read_text(encoding="utf-8", errors="replace")


def _run(arguments, log, save_seconds, prepare):
    from subquad.cli import main
    from subquad.train.settings import LoopSettings

    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(file, number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    LoopSettings.__init__.__kwdefaults__["save_seconds"] = save_seconds
    if prepare is not None:
        prepare()
    sys.exit(main(arguments))
