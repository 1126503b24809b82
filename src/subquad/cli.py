"""The command line: names of the commands only; a field is imported when one of its commands is called."""

import errno
import os
import re
import sys
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import fields
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, get_args

from attrs import evolve
from cyclopts import (
    App,
    ArgumentCollection,
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    Parameter,
    UnknownOptionError,
    UnusedCliTokensError,
)
from cyclopts.config import Dict, Yaml
from cyclopts.help import DefaultFormatter, HelpEntry, HelpPanel

from subquad import __version__
from subquad.errors import SubquadError, flag_name, missing_extra, raise_errors
from subquad.runs.launchers import check_one_process, started_processes
from subquad.runs.markup import defined_twice, parse_yaml
from subquad.runs.storage import DISK_FULL
from subquad.runs.termination import TERMINATED, Terminated, end_on_sigterm

__all__ = ["app", "main"]

FIELDS = ("bio", "llm", "hep")
RESUMED = {
    "bio bench", "bio cross-validate", "bio embed", "bio fit", "bio rounds", "hep fit", "hep simulate",
    "llm evaluate", "llm linearize",
}  # fmt: skip
"""Commands of the fields that resume where they were interrupted, as docs/reliability.md lists them."""


_output: ContextVar[tuple[Any, bool]] = ContextVar("_output", default=(None, False))
"""Output of the command of this process, and whether it is replaced."""


class HelpFormatter(DefaultFormatter):
    """Formats help texts as paragraphs, and leaves out defaults that say nothing: off, and no values."""

    def __call__(self, console: Any, options: Any, panel: HelpPanel) -> None:
        """Print one group of flags."""
        super().__call__(console, options, panel.copy(entries=[_formatted(entry) for entry in panel.entries]))


def _formatted(entry: HelpEntry) -> HelpEntry:
    from rich.text import Text

    text = getattr(entry.description, "primary_renderable", None)
    if isinstance(text, Text):
        # docstrings are broken into lines for the source, not for the terminal
        entry.description.primary_renderable = Text(re.sub(r"\s*\n\s*", " ", text.plain))
    default = entry.default
    if default in ("False", "()", "[]"):
        default = None
    elif default is not None and re.fullmatch(r"\(.*\)", default):
        default = " ".join(re.findall(r"[^\s,'()]+", default))
    return evolve(entry, default=default)


app = App(
    name="subquad",
    version=__version__,
    help="""Sub-quadratic operators for biological sequences, language models and jets.

    For example:

        subquad bio fit example:tdp43 --out run
        subquad llm linearize smollm2 --text corpus.txt --out linear
        subquad hep fit example:jets --out tagger

    Every command accepts --config FILE.yaml, whose keys are the names of its flags.
    """,
    # Markdown would drop backticks and names in angle brackets such as score_<class>
    help_format="plaintext",
    help_formatter=HelpFormatter(),
    # a flag has one spelling: --quiet, without --no-quiet beside it
    default_parameter=Parameter(negative=()),
    result_action="return_value",
    # `main` prints how to resume
    suppress_keyboard_interrupt=False,
)
app.meta.suppress_keyboard_interrupt = False
app.command("subquad.bio.cli:app", name="bio", help="Sequences with measurements: proteins, DNA and RNA (Lyra).")
app.command("subquad.llm.cli:app", name="llm", help="Linear attention in pretrained language models (LoLCATs).")
app.command("subquad.hep.cli:app", name="hep", help="Jet tagging on ROOT files (PCN).")
app.command(
    "subquad.demo:demo",
    name="demo",
    help="""Run the main job of the three fields and write one HTML page about it.

    Fits the deep mutational scan of TDP-43, linearizes SmolLM2-135M-Instruct and trains a jet tagger, each beside its
    baselines. An interrupted demo resumes where it stopped.

    For example:

        subquad demo --out demo
        subquad demo --quick --out demo
    """,
)
app.command(
    "subquad.app.cli:app_command",
    name="app",
    help="""Open the web page: sequences, language models and jets in the browser, on this computer.

    For example:

        subquad app
        subquad app --workspace work --port 8080
    """,
)


@app.meta.default
def _launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[
        Path | None,
        Parameter(
            help="YAML file whose keys are the names of the command's flags; arguments without a flag, such as MODEL, "
            "are given on the command line. llm linearize and llm plan also take the name of a recipe, such as 135m."
        ),
    ] = None,
) -> None:
    if started_processes() > 1 and (command := _command_to_run(tokens)):
        check_one_process(command)
    settings = None if config is None else _settings_file(config, tokens[:2])
    # read now, since the file may be gone when the command ends
    content = {} if settings is None else settings.config
    app.config = (_check_integers,) if settings is None else (settings, _check_integers)
    try:
        app(tokens, exit_on_error=False, print_error=False)
    except (KeyboardInterrupt, Terminated, OSError):
        # what to do next depends on it
        _output.set(_output_of(tokens))
        raise
    except (CycloptsError, SubquadError) as error:
        if settings is None:
            raise
        unknown, wrong = _problems(tokens, content, settings.source)
        # an error of a single value says everything itself
        if unknown or len(wrong) > 1:
            what = "that cannot be used" if wrong else "that the command does not have"
            raise_errors(f"{config}: settings {what} (--config)", [*unknown, *wrong])
        raise error
    finally:
        # what this process parses later must not inherit the file
        app.config = (_check_integers,)


def _command_to_run(tokens: Sequence[str]) -> str:
    """Return the name of the command, such as `bio fit`; empty if help is asked for or there is no such command."""
    command, _, _ = app.parse_commands(tokens)
    is_run = len(command) > 1 or not {*command} <= {*FIELDS}
    return " ".join(command) if is_run and not any(word in ("--help", "-h", "--version") for word in tokens) else ""


def _output_of(tokens: Sequence[str]) -> tuple[Any, bool]:
    """Return the output of a command, and whether it is replaced, by its flags or its file of settings."""
    try:
        _, bound, _ = app.parse_args(tokens, exit_on_error=False, print_error=False)
    except (CycloptsError, SubquadError):
        return None, False
    given, options = bound.arguments, bound.arguments.get("options")
    out, force = (given.get(name) or getattr(options, name, None) for name in ("out", "force"))
    return out, bool(force)


def _check_integers(_app: App, _commands: Sequence[str], arguments: ArgumentCollection) -> None:
    """Check that what must be integers has no fractions, which cyclopts would round."""
    for argument in arguments:
        if "int" not in (types := _type_names(argument.hint)) or "float" in types:
            continue
        for token in argument.tokens:
            with suppress(ValueError):
                if float(token.value).is_integer():
                    continue
            if "." in token.value:
                raise CoercionError(argument=argument, token=token, target_type=int)


def _type_names(hint: Any) -> set[str]:
    """Return the names of all types in a hint such as `tuple[int, ...] | None`."""
    return {getattr(hint, "__name__", "")}.union(*map(_type_names, get_args(hint)))


def _problems(tokens: Sequence[str], content: Mapping[str, Any], source: str) -> tuple[list[str], list[str]]:
    """Return lines about the settings of a file that the command does not have, and about wrong values.

    The arguments are parsed again and again, each time without the settings that were refused before.
    """
    unknown: list[str] = []
    wrong: list[str] = []
    while True:
        app.config = (Dict(dict(content), source=source, use_commands_as_keys=False), _check_integers)
        try:
            app.parse_args(tokens, exit_on_error=False, print_error=False)
            return unknown, wrong
        except UnknownOptionError as error:
            arguments = [name for argument in error.argument_collection for name in argument.names]
            refused = dict(_unknown_settings(content, arguments)) if error.token.source == source else {}
            unknown += [f"{name}: {reason}" for name, reason in refused.items()]
        except CoercionError as error:
            keyword = error.token.keyword if error.token is not None and error.token.source == source else None
            refused = [".".join(re.findall(r"\[(.*?)\]", keyword))] if keyword else []
            wrong += [str(error).replace(f" from {source}", "").replace(str(keyword), name) for name in refused]
        except SubquadError as error:
            flags = re.findall(r"--[\w.-]*\w", str(error))
            refused = [name for name in _setting_names(content) if flag_name(name) in flags]
            # without a flag in it, nothing tells which setting to remove
            wrong += [str(error)] if refused or not flags else []
        except CycloptsError:
            # of the command line, or of a setting that was removed
            refused = []
        content, before = _without(content, refused), content
        if content == before:
            return unknown, wrong


def _without(content: Mapping[str, Any], names: Container[str], prefix: str = "") -> dict[str, Any]:
    """Return settings without those of these names, and without what holds no others."""
    left = {}
    for key, value in content.items():
        own = _without(value, names, f"{prefix}{key}.") if isinstance(value, dict) else value
        if f"{prefix}{key}" not in names and (own != {} or value == {}):
            left[key] = own
    return left


def _unknown_settings(content: Mapping[str, Any], arguments: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield each setting of a file that is none of the command's flags, which all arguments include, and why."""
    known = list(arguments)
    for name in _setting_names(content):
        near = [flag.removeprefix("--") for flag in get_close_matches(flag_name(name), known, n=1)]
        if flag_name(name) in known:
            continue
        if name.upper() in known:
            yield name, f"{name.upper()} is given on the command line"
        else:
            yield name, f"no such setting{f'; did you mean {near[0]}?' if near else ''}"


def _setting_names(content: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the names of all settings, also of those inside others, as in `attention.window`."""
    for name, value in content.items():
        if isinstance(value, dict) and value:
            yield from _setting_names(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _settings_file(path: Path, command: Sequence[str]) -> Yaml | Dict:
    is_plan = tuple(command) == ("llm", "plan")
    if path.is_dir():
        raise SubquadError(f"{path}: a folder; give the file with the settings (--config)")
    if not path.is_file():
        recipes = (
            Path(__file__).parent / "llm" / "recipes" if is_plan or tuple(command) == ("llm", "linearize") else None
        )
        shipped = {} if recipes is None else {file.stem: file for file in recipes.glob("*.yaml")}
        if str(path) not in shipped:
            known = f"; the recipes of this command are: {', '.join(sorted(shipped))}" if shipped else ""
            near = get_close_matches(str(path).lower(), shipped, n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise SubquadError(f"{path}: no such file (--config){meant}{known}")
        path = shipped[str(path)]
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        content, twice = parse_yaml(text), defined_twice(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise SubquadError(f"{path}{place}: not YAML ({error.problem or error.context})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SubquadError(f"{path}: not a YAML file ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise SubquadError(f"{path}: must hold lines `flag: value`, such as `epochs: 3` (--config)")
    raise_errors(f"{path}: settings that cannot be used (--config)", twice)
    for key in content:
        if not isinstance(key, str):
            raise SubquadError(f"{path}: {key!r} is not the name of a flag; write lines such as `epochs: 3` (--config)")
    if is_plan:
        return Dict(_of_plan(content), source=str(path), use_commands_as_keys=False)
    return Yaml(path, must_exist=True, search_parents=False, use_commands_as_keys=False)


def _of_plan(content: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what `linearize` has and `plan` has not, so that both read the same file."""
    from subquad.llm.planning.settings import PlanSettings
    from subquad.llm.settings import LinearizeSettings
    from subquad.runs.options import RunOptions

    known, own = (
        {field.name.strip("_") for settings in group for field in fields(settings)}
        for group in ((LinearizeSettings, RunOptions), (PlanSettings,))
    )
    skipped = {*known, "text", "eval_text"} - own
    return {name: value for name, value in content.items() if str(name).replace("-", "_") not in skipped}


def _message(error: Exception) -> str:
    """Return the message of an error; cyclopts' own says neither what is missing nor where all arguments are listed."""
    message = str(error)
    if not isinstance(error, CycloptsError):
        return message
    described = f"`{' '.join(['subquad', *(error.command_chain or ())])} --help` describes all arguments"
    if isinstance(error, UnusedCliTokensError):
        return f"unexpected {' '.join(map(repr, error.unused_tokens or ()))}: does it lack its flag? {described}"
    if isinstance(error, UnknownOptionError):
        if error.token.source != "cli":
            return message
        flag = (error.token.keyword or error.token.value).partition("=")[0]
        names = [name for argument in error.argument_collection for name in argument.names]
        # such as --attention.window for --window, and --lora-rank for --rank; cyclopts' own are hardly similar
        word = flag.removeprefix("--")
        meant = [name for end in (f".{word}", f"-{word}") for name in names if name.endswith(end)]
        meant = meant or get_close_matches(flag, names, n=1, cutoff=0.75)
        return f"Unknown option: {flag}. {f'Did you mean {meant[0]}? ' if meant else ''}{described}"
    if not isinstance(error, MissingArgumentError) or error.argument is None or "Did you mean" in message:
        return message
    if error.keyword is not None or error.argument.tokens:
        return message
    return f"{error.argument.name} is missing; {described}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Words of the command line; None takes those of the process.

    Returns:
        The exit status: 0 on success, 2 after an error that the user can correct, 130 after an interruption and 143
        after SIGTERM.
    """
    words = sys.argv[1:] if arguments is None else arguments
    commands = {" ".join(pair) for pair in pairwise(words)}
    is_resumed = words[:1] == ["demo"] or not RESUMED.isdisjoint(commands)
    end_on_sigterm()

    def again() -> str:
        if not is_resumed:
            return "run the same command again"
        # which would clear what is to be resumed; embed keeps its shards
        forced = " without --force" if _output.get()[1] and "bio embed" not in commands else ""
        return f"run the same command{forced} to resume"

    # threads that spin while they wait make a training step ten times slower beside one other busy process
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app.meta(arguments, exit_on_error=False, print_error=False)
    except (SubquadError, CycloptsError) as error:
        print(f"subquad: {_message(error)}".rstrip(), file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        field = next((word for word in words if word in FIELDS), None)
        if field is None or error.name is None or error.name.startswith("subquad"):
            raise
        print(f"subquad: {missing_extra(error.name, field)}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno in DISK_FULL:
            place = error.filename or (f"--out {_output.get()[0]}" if _output.get()[0] else "")
            where = f" ({place})" if place else ""
            message = f"the disk is full{where}; free some space and {again()}"
        elif error.errno == errno.EFBIG:
            message = f"a file became larger than this process may write (ulimit -f); raise the limit and {again()}"
        elif error.filename and error.strerror:
            message = f"{error.filename}: {error.strerror}"
        else:
            raise
        print(f"subquad: {message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"subquad: interrupted{f'; {again()}' if is_resumed else ''}", file=sys.stderr)
        return 130
    except Terminated:
        print(f"subquad: terminated{f'; {again()}' if is_resumed else ''}", file=sys.stderr)
        return TERMINATED
    return 0
