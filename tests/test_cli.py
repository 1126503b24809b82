"""The command line: quick to start, helpful, and clear about mistakes."""

import errno
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from subquad import __main__
from subquad.cli import app, main
from subquad.runs.termination import Terminated

README = Path(__file__).parent.parent / "README.md"


def command_names():
    """Return every command as one types it, from the apps that hold them."""
    for name in app:
        children = [child for child in app[name] if not child.startswith("-")] if not name.startswith("-") else []
        yield from (f"{name} {child}" for child in children)
    yield from ("demo", "app")


COMMANDS = list(command_names())


def shown(capsys, *arguments):
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


def test_help_is_there_without_anything_heavy():
    code = "import sys, subquad.cli; subquad.cli.main(['--help']); print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("[]")
    for field in ("bio", "llm", "hep", "demo", "app"):
        assert f" {field} " in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_backticks_and_angle_brackets_and_no_markdown(capsys, command):
    text = shown(capsys, *command.split(), "--help")
    assert "**" not in text
    for name in re.findall(r"score_\S*", text):
        assert name.startswith("score_<class>")


def test_help_of_a_command_lists_its_flags_in_groups(capsys):
    text = shown(capsys, "hep", "fit", "--help")
    places = [text.index(f" {group} ──") for group in ("Arguments", "Input", "Model", "Training", "Output")]
    assert places == sorted(places)
    assert "More training" not in text
    assert text.endswith("More flags: --help-all\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_all_shows_all_flags_and_help_at_most_15(capsys, command):
    short, whole = (shown(capsys, *command.split(), flag) for flag in ("--help", "--help-all"))
    flags, every = (
        set(re.findall(r"^│ [* ] +(--[a-z.-]+)|^│ (--[a-z.-]+)", text, re.MULTILINE)) for text in (short, whole)
    )
    assert flags <= every
    assert len(flags) <= 15
    assert ("More flags" in short) == (flags < every)
    assert "More flags" not in whole


@pytest.mark.parametrize("command", [command for command in COMMANDS if not command.startswith("llm")])
def test_help_of_other_fields_names_no_recipes_of_language_models(capsys, command):
    assert "70b" not in shown(capsys, *command.split(), "--help-all")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(capsys, command):
    text = shown(capsys, *command.split(), "--help")
    assert "For example:" in text
    assert re.search(rf"subquad {command} ", text)


def test_the_command_line_has_the_commands_of_the_three_fields():
    assert {"bio fit", "bio predict", "llm linearize", "llm generate", "hep fit", "hep predict"} < set(COMMANDS)


def readme_commands():
    blocks = re.findall(r"```sh\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("#")[0].strip() for line in lines if line.startswith("subquad ")]


@pytest.mark.parametrize("line", readme_commands())
def test_every_command_of_the_readme_is_understood(line):
    command, bound, _ = app.parse_args(shlex.split(line)[1:], exit_on_error=False, print_error=False)
    assert command.__module__.startswith("subquad.")
    assert bound.arguments


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["bio", "fot"], 'Unknown command "fot"; did you mean "fit"?'),
        (["foo"], 'Unknown command "foo"; see `subquad --help`'),
        (["bio", "fit"], "TABLE is missing; see `subquad bio fit --help`"),
        (["bio", "fit", "a.csv", "--out"], "--out needs a value; see `subquad bio fit --help`"),
        (["bio", "fit", "a.csv", "--ouy", "x"], "; did you mean --out instead of --ouy?"),
        (["bio", "fit", "a.csv", "--out", "x", "--sed", "3"], "--sed: no such option; did you mean --seed?"),
        (["bio", "fit", "a.csv", "--out", "x", "--zzz"], "--zzz: no such option; see `subquad bio fit --help`"),
        (["bio", "fit", "a.csv", "b.csv", "--out", "x"], "unexpected 'b.csv'; see `subquad bio fit --help`"),
        (["llm", "linearize", "m", "--text", "a", "--out", "x", "--window", "3"], "did you mean --attention.window?"),
        (["llm", "linearize", "m", "--text", "a", "--rank", "8", "--out", "x"], "did you mean --lora-rank?"),
        (["bio", "fit", "a.csv", "--out", "x", "--config", "no.yaml"], "no.yaml: no such file"),
        (["bio", "fit", "a.csv", "--out", "x", "--config", "/"], "/: is a folder; give a file"),
        # recipes are for language models
        (["bio", "fit", "a.csv", "--out", "x", "--config", "8b"], "8b: no such file"),
        (["llm", "plan", "llama-3.1-8b", "--config", "8B"], "no file or recipe '8B'; did you mean '8b'?"),
        (["bio", "fit", "a.csv", "--out", "x", "--seed", "many"], "--seed must be an integer, got 'many'"),
        (
            ["bio", "fit", "example:tdp43", "--out", "x", "--seed", "-1"],
            "--seed must be at least 0 and below 4294967296",
        ),
    ],
)
def test_a_wrong_call_is_answered_by_one_sentence_with_status_2(capsys, monkeypatch, arguments, text):
    # cyclopts checks ranges by pydantic where it was imported, which the command line does not do
    monkeypatch.delitem(sys.modules, "pydantic", raising=False)
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert text in message
    assert message.count("\n") == 1
    assert not re.search(r"[?.!,;][?.!,;]", message)


def test_settings_come_from_a_file_and_flags_win_once(tmp_path, capsys):
    settings, command = tmp_path / "settings.yaml", ["hep", "fit", "a.root"]
    settings.write_text(f"out: {tmp_path / 'run'}\nseed: many\n")
    assert main([*command, "--config", str(settings)]) == 2
    assert f"{settings}: seed must be an integer, got 'many'" in capsys.readouterr().err
    assert main([*command, "--config", str(settings), "--seed", "3"]) == 2
    assert "'a.root': no such file" in capsys.readouterr().err
    # the next call does not inherit the file
    assert main([*command, "--out", str(tmp_path / "run")]) == 2
    assert "'a.root': no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("seed: 1\nepochs: [2", r"cannot be read as settings \(yaml: .*line 2"),
        ("day: 2001-99-99", "cannot be read as settings"),
        ("epochs", "must have lines `flag: value`"),
        ("3: 4", "must have lines `flag: value`"),
        ("epohs: 3", r"epohs: no such option; did you mean --epochs\?"),
    ],
)
def test_settings_that_cannot_be_read_are_one_sentence_with_the_file(tmp_path, capsys, content, message):
    settings = tmp_path / "settings.yaml"
    settings.write_text(content)
    assert main(["hep", "fit", "example:jets", "--out", "x", "--config", str(settings)]) == 2
    assert re.fullmatch(rf"subquad: {settings}: {message}.*\n", capsys.readouterr().err)


@pytest.mark.parametrize("value", ["1.5", "1.5e0", "-0.5", ".5"])
def test_fractions_for_integers_are_refused_rather_than_rounded(value, tmp_path, capsys):
    command = ["hep", "fit", "example:jets", "--out", str(tmp_path / "run")]
    assert main([*command, "--epochs", value]) == 2
    assert f"--epochs must be an integer, got '{value}'" in capsys.readouterr().err
    settings = tmp_path / "settings.yaml"
    settings.write_text(f"epochs: {value}\n")
    assert main([*command, "--config", str(settings)]) == 2
    assert "epochs must be an integer" in capsys.readouterr().err
    # integers may be written as decimals
    assert main([*command, "--epochs", "2.0", "--learning-rate", "x"]) == 2
    assert "--learning-rate must be a number, got 'x'" in capsys.readouterr().err


def test_a_missing_package_is_reported_with_the_extra_that_installs_it(capsys, monkeypatch):
    # None makes `import pandas` fail as if it were not installed
    monkeypatch.setitem(sys.modules, "pandas", None)
    for name in [name for name in sys.modules if name.startswith("subquad.bio.commands.fit")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "subquad.bio.data.table", raising=False)
    assert main(["bio", "fit", "example:tdp43", "--out", "run"]) == 2
    assert "pandas is not installed; install it with: pip install 'subquad[bio]'" in capsys.readouterr().err


def test_paths_are_checked_before_torch_is_imported(tmp_path, monkeypatch, capsys):
    # whatever the other tests of this process have imported
    monkeypatch.setitem(sys.modules, "subquad.llm.commands.linearize", None)
    command = ["llm", "linearize", "smollm2", "--out", str(tmp_path), "--text", str(tmp_path / "config.json")]
    (tmp_path / "config.json").write_text('{"subquad": {}}')
    assert main([*command, "--eval-text", "other.txt"]) == 2
    assert "other.txt: no such file" in capsys.readouterr().err
    (tmp_path / "metrics.json").write_text("{}")
    assert main(command) == 2
    assert f"{tmp_path}: has a finished run" in capsys.readouterr().err


@pytest.mark.parametrize(
    "case",
    [
        (KeyboardInterrupt(), 130, "interrupted; run the same command again, without --force, to go on"),
        (Terminated(), 143, "terminated; run the same command again, without --force, to go on"),
        (OSError(errno.EDQUOT, "full", "/disk/a"), 2, "/disk/a: the disk is full; free some space and run the same "),
        (RuntimeError("I/O error: No space left on device (os error 28)"), 2, "the disk is full; free some space"),
        (PermissionError(13, "Permission denied", "/proc/x"), 2, "/proc/x: Permission denied"),
        (MemoryError(), 2, "this needs more memory than there is"),
        (ValueError("a\nb"), 1, "ValueError: a b (this is a fault in subquad; --traceback shows where)"),
        (SystemExit(3), 3, ""),
    ],
)
def test_whatever_a_command_raises_is_one_line(case, tmp_path, capsys, monkeypatch):
    error, status, message = case

    def fails(*args, **options):
        raise error

    monkeypatch.setattr("subquad.hep.commands.simulate.simulate", fails)
    command = ["hep", "simulate", "--out", str(tmp_path / "jets")]
    assert main(command) == status
    shown_error = capsys.readouterr().err
    assert shown_error.startswith(f"subquad: {message}" if message else "")
    assert "Traceback" not in shown_error
    assert main([*command, "--traceback"]) == status
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_an_interruption_while_the_command_line_is_imported_is_no_traceback(capsys, monkeypatch):
    class Interrupted:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "subquad.cli":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "subquad.cli")
    monkeypatch.setattr(sys, "meta_path", [Interrupted, *sys.meta_path])
    assert __main__.main() == 130
    assert capsys.readouterr().err == "subquad: interrupted\n"
