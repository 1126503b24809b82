"""The command line: quick to start, helpful, and clear about mistakes."""

import errno
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from subquad.runs.launchers import INSTEAD, SEVERAL_PROCESSES

from subquad import __main__
from subquad.cli import RESUMED, app, main
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


def test_the_readme_shows_every_command():
    words = [line.split() for line in readme_commands()]
    shown_commands = {" ".join(line[1:3]) for line in words} | {line[1] for line in words}
    assert {command for command in COMMANDS if command != "demo"} <= shown_commands


@pytest.mark.parametrize("line", readme_commands())
def test_every_command_of_the_readme_is_understood(line):
    command, bound, _ = app.parse_args(shlex.split(line)[1:], exit_on_error=False, print_error=False)
    assert command.__module__.startswith("subquad.")
    assert bound.arguments


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["bio", "fot"], 'Unknown command "fot". Did you mean "fit"?'),
        (["bio", "fit"], "TABLE is missing; `subquad bio fit --help` describes all arguments"),
        (["bio", "fit", "a.csv", "--out"], "--out requires an argument"),
        (["bio", "fit", "a.csv", "--ouy", "x"], "Did you mean --out instead of --ouy?"),
        (["bio", "fit", "a.csv", "--out", "x", "--sed", "3"], "Did you mean --seed?"),
        (["bio", "fit", "a.csv", "--out", "x", "--zzz"], "--zzz. `subquad bio fit --help` describes all arguments"),
        (["llm", "linearize", "m", "--text", "a", "--window", "32", "--out", "x"], "Did you mean --attention.window?"),
        (["llm", "linearize", "m", "--text", "a", "--rank", "8", "--out", "x"], "Did you mean --lora-rank?"),
        (
            ["bio", "predict", "m", "t.csv", "--offset", "3", "--out", "x"],
            "Unknown option: --offset. `subquad bio predict",
        ),
        (
            ["llm", "generate", "linear", "once upon", "a"],
            "unexpected 'once upon' 'a': does it lack its flag? `subquad llm generate --help` describes all arguments",
        ),
        (
            ["bio", "fit", "a.csv", "--out", "x", "--config", "no.yaml"],
            "no.yaml: no such file (--config)",
        ),
        (["bio", "fit", "a.csv", "--out", "x", "--config", "/"], "/: a folder; give the file with the settings"),
    ],
)
def test_a_wrong_call_is_answered_on_one_line_with_status_2(capsys, arguments, text):
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert text in message
    assert "Traceback" not in message


def test_settings_come_from_a_file_and_flags_win(tmp_path, capsys):
    settings = tmp_path / "settings.yaml"
    settings.write_text(f"out: {tmp_path / 'run'}\nseed: many\n")
    assert main(["bio", "fit", "a.csv", "--config", str(settings)]) == 2
    assert "seed" in capsys.readouterr().err
    assert main(["bio", "fit", "a.csv", "--config", str(settings), "--seed", "3"]) == 2
    assert "a.csv: no such file" in capsys.readouterr().err


def test_the_next_call_does_not_inherit_the_settings_of_a_file(tmp_path, capsys):
    settings = tmp_path / "settings.yaml"
    settings.write_text("seed: many\n")
    assert main(["bio", "fit", "a.csv", "--out", str(tmp_path / "run"), "--config", str(settings)]) == 2
    capsys.readouterr()
    assert main(["bio", "fit", "a.csv", "--out", str(tmp_path / "run")]) == 2
    assert "a.csv: no such file" in capsys.readouterr().err


def test_a_missing_package_is_reported_with_the_extra_that_installs_it(capsys, monkeypatch):
    # None makes `import pandas` fail as if it were not installed
    monkeypatch.setitem(sys.modules, "pandas", None)
    for name in [name for name in sys.modules if name.startswith("subquad.bio.commands.fit")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "subquad.bio.data.table", raising=False)
    assert main(["bio", "fit", "a.csv", "--out", "run"]) == 2
    assert "pandas is not installed; install it with: pip install 'subquad[bio]'" in capsys.readouterr().err


def test_a_settings_file_that_cannot_be_read_is_reported_with_its_name(tmp_path, capsys):
    settings = tmp_path / "settings.yaml"
    for content, message in (
        ("seed: 1\nepochs: [2", ", line 2, column 11: not YAML (expected ',' or ']', but got '<stream end>')"),
        ("day: 2001-99-99", ": not a YAML file (a value cannot be read: month must be in 1..12)"),
        ("epochs", ": must hold lines `flag: value`"),
        ("epochs: 1\nepochs: 2", ": settings that cannot be used (--config)\n  epochs is defined twice, as '1' (line"),
        ("3: 4", ": 3 is not the name of a flag"),
    ):
        settings.write_text(content)
        assert main(["hep", "fit", "example:jets", "--out", "x", "--config", str(settings)]) == 2
        assert f"{settings}{message}" in capsys.readouterr().err


def test_unknown_settings_of_a_file_are_reported_together_with_similar_names(tmp_path, capsys):
    settings = tmp_path / "settings.yaml"
    settings.write_text("model: tiny\nminuts: 3\nlora_rank: 2\nattention: {windw: 64, cache: 5}\nzzzz: 1\n")
    command = ["llm", "linearize", "tiny", "--text", "a.txt", "--out", "x", "--config", str(settings)]
    assert main(command) == 2
    # later calls in this process do not inherit the file
    app.parse_args(["hep", "fit", "example:jets", "--out", "x"], exit_on_error=False, print_error=False)
    assert capsys.readouterr().err.splitlines() == [
        f"subquad: {settings}: settings that the command does not have (--config)",
        "  model: MODEL is given on the command line",
        "  minuts: no such setting; did you mean minutes?",
        "  attention.windw: no such setting; did you mean attention.window?",
        "  zzzz: no such setting",
    ]
    # an unknown flag beside it is not a setting of the file
    settings.write_text("minutes: 3\n")
    assert main([*command, "--lora-rnk", "3"]) == 2
    assert "Did you mean --lora-rank?" in capsys.readouterr().err


def test_unknown_settings_and_wrong_values_of_a_file_are_reported_together(tmp_path, capsys):
    settings = tmp_path / "settings.yaml"
    settings.write_text(
        "attention: {window: many, cache: -1, windw: 64}\nsteps: {a: 1}\nlora_rank: 0\nlora_tokens: lots\nsave: all\n"
    )
    command = ["llm", "linearize", "tiny", "--text", "a.txt", "--out", "x", "--config", str(settings)]
    assert main(command) == 2
    first, *lines = capsys.readouterr().err.splitlines()
    assert first == f"subquad: {settings}: settings that cannot be used (--config)"
    assert sorted(lines) == [
        "  --attention.cache must be at least 0, got -1",
        "  --lora-rank must be at least 1, got 0",
        '  Invalid value "all" for save. Choose from: "model", "adapter".',
        '  Invalid value for attention.window: unable to convert "many" into int.',
        '  Invalid value for lora_tokens: unable to convert "lots" into int.',
        "  attention.windw: no such setting; did you mean attention.window?",
        "  steps.a: no such setting",
    ]
    # a single wrong value, and one of the command line, have their own messages
    settings.write_text("lora_rank: many\n")
    assert main(command) == 2
    assert f"Invalid value for [lora_rank] from {settings}: unable to convert" in capsys.readouterr().err
    settings.write_text("lora_rank: 2\n")
    assert main([*command, "--lora-alpha", "many"]) == 2
    assert 'Invalid value for --lora-alpha: unable to convert "many"' in capsys.readouterr().err


@pytest.mark.parametrize("value", ["1.5", "1.5e0", "-0.5", ".5"])
def test_fractions_for_integers_are_refused_rather_than_rounded(value, tmp_path, capsys):
    command = ["hep", "fit", "example:jets", "--out", str(tmp_path / "run")]
    assert main([*command, "--epochs", value]) == 2
    assert f'Invalid value for --epochs: unable to convert "{value}" into int.' in capsys.readouterr().err
    settings = tmp_path / "settings.yaml"
    settings.write_text(f"epochs: {value}\n")
    assert main([*command, "--config", str(settings)]) == 2
    assert "into int." in capsys.readouterr().err
    # integers may be written as decimals
    assert main([*command, "--epochs", "2.0", "--learning-rate", "x"]) == 2
    assert "Invalid value for --learning-rate" in capsys.readouterr().err


def test_a_mistyped_recipe_is_reported_with_the_similar_one(capsys):
    assert main(["llm", "plan", "llama-3.1-8b", "--config", "8B"]) == 2
    assert "8B: no such file (--config); did you mean 8b?; the recipes" in capsys.readouterr().err


def test_paths_are_checked_before_torch_is_imported(tmp_path, monkeypatch, capsys):
    # whatever the other tests of this process have imported
    monkeypatch.setitem(sys.modules, "subquad.llm.commands.linearize", None)
    command = ["llm", "linearize", "smollm2", "--out", str(tmp_path), "--text", str(tmp_path / "config.json")]
    assert main([*command, "gone.txt", "--eval-text", "other.txt"]) == 2
    assert capsys.readouterr().err.splitlines()[-2:] == ["gone.txt: no such file", "other.txt: no such file"]
    (tmp_path / "config.json").write_text('{"subquad": {}}')
    (tmp_path / "metrics.json").write_text("{}")
    assert main(command) == 2
    assert f"{tmp_path}: holds a finished run; choose another folder with --out" in capsys.readouterr().err


def test_an_interruption_is_reported_with_the_way_to_resume(tmp_path, capsys, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("subquad.hep.commands.simulate.simulate", interrupted)
    assert main(["hep", "simulate", "--out", str(tmp_path / "jets")]) == 130
    assert "interrupted; run the same command to resume" in capsys.readouterr().err
    # --force would begin anew
    assert main(["hep", "simulate", "--out", str(tmp_path / "jets"), "--force"]) == 130
    assert "interrupted; run the same command without --force to resume" in capsys.readouterr().err
    assert main(["hep", "simulate", "--out", "embed", "--force=true"]) == 130
    assert "interrupted; run the same command without --force to resume" in capsys.readouterr().err
    settings = tmp_path / "settings.yaml"
    settings.write_text("force: true\n")
    assert main(["hep", "simulate", "--out", str(tmp_path / "jets"), "--config", str(settings)]) == 130
    assert "interrupted; run the same command without --force to resume" in capsys.readouterr().err


def test_a_command_that_does_not_resume_says_nothing_about_it(tmp_path, capsys, monkeypatch):
    def stopped(*args, **options):
        raise problems[0]

    monkeypatch.setattr("subquad.llm.commands.merge.merge", stopped)
    problems = []
    for problem, message in (
        (KeyboardInterrupt(), "interrupted"),
        (Terminated(), "terminated"),
        (
            OSError(errno.ENOSPC, "full"),
            f"the disk is full (--out {tmp_path / 'out'}); free some space and run the same command again",
        ),
        (
            OSError(errno.EDQUOT, "full", "/disk/model.safetensors"),
            "the disk is full (/disk/model.safetensors); free some space and run the same command again",
        ),
    ):
        problems[:] = [problem]
        main(["llm", "merge", "example:linear-smollm2", "--out", str(tmp_path / "out")])
        assert capsys.readouterr().err == f"subquad: {message}\n"


def test_the_commands_that_resume_are_those_of_the_documentation():
    page = (README.parent / "docs" / "reliability.md").read_text(encoding="utf-8")
    listed = re.search(r"^Commands that resume: (.*?)\.", page, re.DOTALL | re.MULTILINE)
    assert listed is not None
    assert set(re.findall("`(.*?)`", listed[1])) == RESUMED <= set(COMMANDS)


def test_an_error_of_the_operating_system_is_one_line(tmp_path, capsys, monkeypatch):
    def refused(*args, **options):
        raise PermissionError(13, "Permission denied", "/proc/x")

    monkeypatch.setattr("subquad.hep.commands.simulate.simulate", refused)
    assert main(["hep", "simulate", "--out", str(tmp_path / "jets")]) == 2
    assert capsys.readouterr().err == "subquad: /proc/x: Permission denied\n"


@pytest.mark.parametrize("seed", ["-1", "99999999999999999999"])
def test_a_seed_that_no_generator_takes_is_refused(capsys, seed):
    assert main(["bio", "fit", "example:tdp43", "--out", "run", "--seed", seed]) == 2
    assert f"--seed is {seed}; give a number from 0 to 4,294,967,295" in capsys.readouterr().err


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in SEVERAL_PROCESSES])
def test_a_command_of_one_process_is_refused_by_name_under_torchrun(capsys, tmp_path, monkeypatch, command):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    # before its arguments are read
    assert main([*command.split(), "--config", str(tmp_path / "missing.yaml")]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"subquad: {command} runs in one process, and 2 were started (WORLD_SIZE=2)")
    assert f"start it without torchrun or accelerate launch, as `subquad {command}`" in message
    assert INSTEAD.get(command, "") in message


@pytest.mark.parametrize(
    ("words", "status"), [(["bio", "predict", "--help"], 0), (["--version"], 0), (["hep"], 0), (["bio", "foo"], 2)]
)
def test_help_and_unknown_commands_are_answered_under_torchrun(capsys, monkeypatch, words, status):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert main(words) == status
    assert "WORLD_SIZE" not in capsys.readouterr().err


def test_commands_of_several_processes_run_under_torchrun(capsys, monkeypatch):
    assert set(SEVERAL_PROCESSES) | set(INSTEAD) <= set(COMMANDS)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    for command in SEVERAL_PROCESSES:
        assert main(command.split()) == 2
        assert "is missing" in capsys.readouterr().err


@pytest.mark.parametrize("count", ["", "1", "0", "x"])
def test_other_values_of_world_size_are_one_process(capsys, tmp_path, monkeypatch, count):
    monkeypatch.setenv("WORLD_SIZE", count)
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert main(["bio", "predict", str(tmp_path / "run"), "t.csv", "--out", str(tmp_path / "out.csv")]) == 2
    assert "WORLD_SIZE" not in capsys.readouterr().err


def test_a_pod_of_a_cluster_with_others_is_one_process(capsys, tmp_path, monkeypatch):
    # as Kubernetes' PyTorchJob sets them
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "job-0", "MASTER_PORT": "23456"}.items():
        monkeypatch.setenv(name, value)
    for name in ("LOCAL_RANK", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    assert main(["bio", "predict", str(tmp_path / "run"), "t.csv", "--out", str(tmp_path / "out.csv")]) == 2
    assert "WORLD_SIZE" not in capsys.readouterr().err


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
