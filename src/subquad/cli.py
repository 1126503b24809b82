"""The command line: names of the commands, and the one handler of errors; a field is imported when it is called."""

import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from traceback import print_exc
from typing import Annotated, Any, get_args

from attrs import evolve
from cyclopts import App, ArgumentCollection, CoercionError, CycloptsError, Parameter
from cyclopts.config import Dict
from cyclopts.help import DefaultFormatter, HelpEntry, HelpPanel

from subquad import __version__
from subquad.errors import DISK_FULL, SubquadError, missing_extra, reading, unknown
from subquad.runs.options import MORE

FIELDS = ("bio", "llm", "hep")
EXAMPLE = "\n\nFor example:\n\n    subquad"
COMMANDS = {
    "bio": ("subquad.bio.cli:app", "Sequences with measurements: proteins, DNA and RNA (Lyra)."),
    "llm": ("subquad.llm.cli:app", "Linear attention in pretrained language models (LoLCATs)."),
    "hep": ("subquad.hep.cli:app", "Jet tagging on ROOT files (PCN)."),
    "demo": ("subquad.demo:demo", f"Run the main job of each field, or resume it, and write a page.{EXAMPLE} demo"),
    "app": ("subquad.app.server:serve", f"Open the web page of the three fields.{EXAMPLE} app --workspace work"),
}
HELP_ALL = "--help-all"
TERMINATED = 128 + signal.SIGTERM
"""Exit status after SIGTERM, which batch systems send before they kill a process."""
AGAIN = "run the same command again, without --force, to go on"


class HelpFormatter(DefaultFormatter):
    """Formats help texts as paragraphs; shows the flags that few users need only if `shows_all`."""

    shows_all = False
    is_cut = False

    def __call__(self, console: Any, options: Any, panel: HelpPanel) -> None:
        """Print one group of flags."""
        if str(panel.title).startswith(MORE) and not self.shows_all:
            self.is_cut = self.is_cut or bool(panel.entries)
            return
        super().__call__(console, options, panel.copy(entries=[_formatted(entry) for entry in panel.entries]))


def _formatted(entry: HelpEntry) -> HelpEntry:
    """Join the lines of a docstring, and leave out defaults that say nothing: off, and no values."""
    from rich.text import Text

    text, default = getattr(entry.description, "primary_renderable", None), entry.default or ""
    if isinstance(text, Text):
        entry.description.primary_renderable = Text(re.sub(r"\s*\n\s*", " ", text.plain))
    if re.fullmatch(r"\(.*\)|\[\]", default):
        default = " ".join(re.findall(r"[^\s,'()[\]]+", default))
    return evolve(entry, default=None if default in ("", "False") else default)


def _refuse_fractions(_app: App, _commands: Sequence[str], arguments: ArgumentCollection) -> None:
    """Refuse fractions where integers are needed, which cyclopts would round."""
    for argument in arguments:
        names = _type_names(argument.hint)
        for token in argument.tokens if "int" in names and "float" not in names else ():
            with suppress(ValueError):
                if not float(token.value).is_integer():
                    raise CoercionError(argument=argument, token=token, target_type=int)


def _type_names(hint: Any) -> set[str]:
    """Return the names of all types in a hint such as `tuple[int, ...] | None`."""
    return {getattr(hint, "__name__", "")}.union(*map(_type_names, get_args(hint)))


app = App(
    name="subquad",
    version=__version__,
    help="""Sub-quadratic operators for biological sequences, language models and jets.

    For example:

        subquad bio fit example:tdp43 --out run
        subquad llm linearize smollm2 --text corpus.txt --out linear
        subquad hep fit example:jets --out tagger

    Every command has --help-all, which describes all of its flags; --traceback,
    which shows where an error was raised; and --config FILE.yaml, whose keys are
    the names of its flags.
    """,
    # Markdown would drop backticks and names in angle brackets such as score_<class>
    help_format="plaintext",
    help_formatter=HelpFormatter(),
    config=(_refuse_fractions,),
    # a flag has one spelling: --quiet, without --no-quiet
    default_parameter=Parameter(negative=()),
    result_action="return_value",
    # `main` prints how to resume
    suppress_keyboard_interrupt=False,
)
app.meta.suppress_keyboard_interrupt = False
for name, (home, text) in COMMANDS.items():
    app.command(home, name=name, help=text)


@app.meta.default
def _launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[
        Path | None, Parameter(help="YAML file whose keys are the names of the command's flags.", show=False)
    ] = None,
) -> None:
    if config is not None:
        folder = Path(__file__).parent / "llm" / "recipes"
        recipes = {path.stem: path for path in folder.glob("*.yaml")} if tokens[:1] == ("llm",) else {}
        # plan reads the recipes of linearize, which has more settings
        is_plan = tokens[:2] == ("llm", "plan")
        values = Dict(_settings(config, recipes), source=str(config), use_commands_as_keys=False, allow_unknown=is_plan)
        app.config = (values, _refuse_fractions)
    try:
        app(tokens, exit_on_error=False, print_error=False)
    finally:
        # what this process parses later must not inherit the file
        app.config = (_refuse_fractions,)


def _settings(path: Path, recipes: Mapping[str, Path]) -> dict[str, Any]:
    import yaml

    if recipes and not path.exists() and str(path) not in recipes:
        raise unknown("file or recipe", str(path), recipes)
    with reading(path, "settings"):
        content = yaml.safe_load(recipes.get(str(path), path).read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise SubquadError(f"{path}: must have lines `flag: value`, such as `epochs: 3`")
    return content


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, and print whatever it raises as one sentence.

    Args:
        arguments: Words of the command line; None takes those of the process.

    Returns:
        The exit status: 0 on success, 1 after a fault in subquad, 2 after an error that the user can correct, 130 after
        an interruption and 143 after SIGTERM.
    """
    words = [*(sys.argv[1:] if arguments is None else arguments)]
    # raised, so that temporary files are removed and child processes end; only the main thread has handlers
    with suppress(ValueError):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    # threads that spin while they wait make a training step ten times slower if another process is busy
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    formatter: Any = app.help_formatter
    formatter.shows_all, formatter.is_cut = HELP_ALL in words, False
    try:
        app.meta(
            ["--help" if word == HELP_ALL else word for word in words if word != "--traceback"],
            exit_on_error=False,
            print_error=False,
        )
        if formatter.is_cut:
            print(f"More flags: {HELP_ALL}")
        return 0
    # whatever is raised is reported
    except BaseException as error:  # noqa: BLE001
        if "--traceback" in words:
            print_exc()
        status, message = _status_and_message(error, words)
        if message:
            print(f"subquad: {message}".rstrip(), file=sys.stderr)
        return status


def _status_and_message(error: BaseException, words: Sequence[str]) -> tuple[int, str]:
    if isinstance(error, SubquadError):
        return 2, str(error)
    if isinstance(error, CycloptsError):
        text = str(error).partition(" Available commands")[0]
        return 2, f"{SubquadError(text)} See `{' '.join(['subquad', *(error.command_chain or ())])} --help`"
    if isinstance(error, KeyboardInterrupt):
        return 130, f"interrupted; {AGAIN}"
    if isinstance(error, SystemExit) and error.code == TERMINATED:
        return TERMINATED, f"terminated; {AGAIN}"
    if isinstance(error, SystemExit):
        return (error.code, "") if isinstance(error.code, int) else (int(bool(error.code)), str(error.code or ""))
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return 2, f"{f'{error.filename}: ' if error.filename else ''}the disk is full; free some space and {AGAIN}"
    if isinstance(error, OSError) and error.filename and error.strerror:
        return 2, f"{error.filename}: {error.strerror}"
    field = next((word for word in words if word in FIELDS), None)
    if isinstance(error, ModuleNotFoundError) and field and not (error.name or "subquad").startswith("subquad"):
        return 2, str(missing_extra(error.name or "", field))
    if isinstance(error, MemoryError):
        return 2, "this needs more memory than there is; use smaller batches, or less data"
    line = " ".join(str(error).split())[:200]
    return 1, f"{type(error).__name__}: {line} (this is a fault in subquad; --traceback shows where)"
