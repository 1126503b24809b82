"""The command line: names of the commands, and the one handler of errors; a field is imported when it is called."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from traceback import print_exc
from typing import Annotated, Any, get_args

import cyclopts
from attrs import evolve
from cyclopts import App, ArgumentCollection, CoercionError, CycloptsError, Parameter, Token
from cyclopts.config import Dict
from cyclopts.help import DefaultFormatter, HelpEntry, HelpPanel

from subquad import __version__
from subquad.errors import DISK_FULL, SubquadError, missing_extra, reading, unknown
from subquad.runs.options import MORE
from subquad.runs.storage import check_not_inside
from subquad.runs.termination import TERMINATED, Terminated, end_on_sigterm

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
        content = _settings(config, recipes)
        words = [part for token in tokens for part in token.split("=", 1)]
        # what --force overwrites
        check_not_inside(str(dict(pairwise(words)).get("--out", content.get("out", os.devnull))), config)
        values = Dict(content, source=str(config), use_commands_as_keys=False, allow_unknown=is_plan)
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


def _message(error: CycloptsError) -> str:
    """Return a mistake in the words of the command line, or in a file of settings, as one sentence."""
    match error:
        case CoercionError(token=Token() as token) if error.target_type in (int, float):
            name = _name(token) or (error.argument.name if error.argument else "an argument")
            text = f"{name} must be {'an integer' if error.target_type is int else 'a number'}, got {token.value!r}"
        case cyclopts.UnknownOptionError(token=token):
            given = (_name(token) or token.value).rpartition(": ")[2]
            names = [name for argument in error.argument_collection for name in argument.names]
            near = [name for name in names if name.endswith(f".{given.lstrip('-')}")]
            near = near or get_close_matches(f"--{given.lstrip('-')}", names, n=1)
            text = f"{_name(token) or given}: no such option{f'; did you mean {near[0]}?' if near else ''}"
        case cyclopts.UnusedCliTokensError():
            text = f"unexpected {' '.join(map(repr, error.unused_tokens or ()))}"
        case cyclopts.MissingArgumentError(argument=argument) if argument and "Did you mean" not in str(error):
            text = f"{argument.name} {'needs a value' if error.keyword else 'is missing'}"
        case _:
            text = str(error).partition(" Available commands")[0].rstrip(".")
    text = re.sub(r"\. ([A-Z])", lambda match: f"; {match[1].lower()}", text)
    if text.endswith("?"):
        return text
    command = " ".join(["subquad", *(error.command_chain or ())])
    return f"{text}; see `{command} --help`"


def _name(token: Token) -> str:
    """Return the flag that a word was given for, or the file and the key; empty for an argument without a name."""
    key = (token.keyword or "").strip("[]").replace("][", ".")
    return key if token.source in ("", "cli") else f"{token.source}: {key}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, and print whatever it raises as one sentence.

    Args:
        arguments: Words of the command line; None takes those of the process.

    Returns:
        The exit status: 0 on success, 1 after a fault in subquad, 2 after an error that the user can correct, 130 after
        an interruption and 143 after SIGTERM.
    """
    words = [*(sys.argv[1:] if arguments is None else arguments)]
    end_on_sigterm()
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
        return 2, str(SubquadError(_message(error)))
    if isinstance(error, KeyboardInterrupt):
        return 130, f"interrupted; {AGAIN}"
    if isinstance(error, Terminated):
        return TERMINATED, f"terminated; {AGAIN}"
    if isinstance(error, SystemExit):
        return (error.code, "") if isinstance(error.code, int) else (int(bool(error.code)), str(error.code or ""))
    # libraries in Rust, such as safetensors, put the number into the text
    if getattr(error, "errno", None) in DISK_FULL or any(f"(os error {number})" in str(error) for number in DISK_FULL):
        name = getattr(error, "filename", None)
        return 2, f"{f'{name}: ' if name else ''}the disk is full; free some space and {AGAIN}"
    if isinstance(error, OSError) and error.filename and error.strerror:
        return 2, f"{error.filename}: {error.strerror}"
    field = next((word for word in words if word in FIELDS), None)
    if isinstance(error, ModuleNotFoundError) and field and not (error.name or "subquad").startswith("subquad"):
        return 2, str(missing_extra(error.name or "", field))
    if isinstance(error, MemoryError):
        return 2, "this needs more memory than there is; use smaller batches, or less data"
    line = " ".join(str(error).split())[:200]
    return 1, f"{type(error).__name__}: {line} (this is a fault in subquad; --traceback shows where)"
