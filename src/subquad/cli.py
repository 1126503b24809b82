"""The command line: names only. A field, and all that is heavy, is loaded when one of its commands is called."""

import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter
from cyclopts.config import Yaml

from subquad import __version__
from subquad.errors import SubquadError

__all__ = ["app", "main"]

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

app = App(
    name="subquad",
    version=__version__,
    help="""Sub-quadratic operators for sequences, language models and jets.

    One example per field:

        subquad bio fit assay.csv --out run
        subquad llm linearize smollm2 --text corpus.txt --out linear
        subquad hep fit 'jets/*.root' --out tagger

    Every command takes `--config FILE.yaml`, whose keys are the command's flags.
    """,
    help_format="markdown",
    # a flag has one spelling: --quiet, and no --no-quiet beside it
    default_parameter=Parameter(negative=()),
    result_action="return_value",
)
app.command("subquad.bio.cli:app", name="bio", help="Lyra: sequences with measurements (proteins, DNA, RNA).")
app.command("subquad.llm.cli:app", name="llm", help="LoLCATs: a softmax language model made linear.")
app.command("subquad.hep.cli:app", name="hep", help="PCN: jets in ROOT files, tagged.")
app.command(
    "subquad.demo:demo",
    name="demo",
    help="""Run the main job of all three on real input, and write one page about it.

    A biologist's job: Lyra on the deep mutational scan of TDP-43, beside ridge and boosting. An engineer's:
    SmolLM2-135M-Instruct made linear. A physicist's: jets from Pythia, tagged by PCN. Stopped and started again, it
    goes on.

    For example:

        subquad demo --out demo
    """,
)


@app.meta.default
def _launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[Path | None, Parameter(help="YAML file whose keys are the command's flags.")] = None,
) -> None:
    # always set: a call in the same process must not inherit an earlier one's file
    app.config = () if config is None else (_settings_file(config),)
    app(tokens, exit_on_error=False, print_error=False)


def _settings_file(path: Path) -> Yaml:
    if not path.is_file():
        raise SubquadError(f"{path}: no such file (--config)")
    return Yaml(path, must_exist=True, search_parents=False, use_commands_as_keys=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status: 0, 2 for what the user can mend, 130 when stopped by the user."""
    # threads that spin while they wait make a step ten times slower beside one other busy process
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app.meta(arguments, exit_on_error=False, print_error=False)
    except (SubquadError, CycloptsError) as error:
        print(f"subquad: {error}".rstrip(), file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        where = f" ({error.filename})" if error.filename else ""
        print(f"subquad: the disk is full{where}; make room, and the same command goes on from here", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("subquad: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0
