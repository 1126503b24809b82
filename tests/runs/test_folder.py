"""Run folders: files that are written, folders that are refused, and outputs that are never half-written."""

import errno
import hashlib
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from subquad import __version__
from subquad.errors import SubquadError
from subquad.runs import folder as folder_module
from subquad.runs.checksums import check_if_present
from subquad.runs.examples import shipped_file
from subquad.runs.folder import FORMAT, check_run_folder, check_weights, load_config, load_tensors, open_run
from subquad.runs.reports import check_report_folder, write_report_folder
from subquad.runs.storage import (
    atomic,
    check_output,
    create_output_folder,
    fingerprint,
    is_finite,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)
from subquad.runs.termination import Terminated


def finish(out, *, weights=torch.arange(3.0), report=lambda: "<html></html>", **settings):
    run = open_run(out, kind="bio", settings=settings)
    run.finish(
        config={"model": {"width": 7}},
        tensors={"w": weights},
        metrics={"test": 0.5},
        card="# Card",
        report=report,
    )


def test_a_finished_folder_holds_its_files_and_loads_again(tmp_path):
    finish(tmp_path / "run", seed=3)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "README.md",
        "config.json",
        "metrics.json",
        "model.safetensors",
        "report.html",
    ]
    config = load_config(tmp_path / "run", "bio")
    assert config["model"] == {"width": 7}
    assert (config["subquad"]["format"], config["subquad"]["settings"]) == (FORMAT, {"seed": 3})
    assert torch.equal(load_tensors(tmp_path / "run")["w"], torch.arange(3.0))


def test_a_report_that_cannot_be_drawn_costs_no_results(tmp_path):
    with pytest.raises(ZeroDivisionError):
        finish(tmp_path, report=lambda: 1 / 0)
    assert read_json(tmp_path / "metrics.json") == {"test": 0.5}
    assert torch.equal(load_tensors(tmp_path)["w"], torch.arange(3.0))


def test_a_run_that_is_stopped_before_its_report_is_resumed(tmp_path):
    def stopped():
        raise Terminated

    with pytest.raises(Terminated):
        finish(tmp_path, report=stopped)
    assert not (tmp_path / "metrics.json").exists()
    assert open_run(tmp_path, kind="bio", settings={}).is_resumed


def test_a_finished_run_is_not_overwritten_without_force(tmp_path):
    finish(tmp_path, seed=3)
    (tmp_path / "fold-0").mkdir()
    left = tmp_path / "fold-0" / "checkpoint-net.safetensors"
    left.touch()
    with pytest.raises(SubquadError, match="holds a finished run; choose another folder with --out, or overwrite it"):
        open_run(tmp_path, kind="bio", settings={"seed": 3})
    assert not left.exists()
    assert not open_run(tmp_path, kind="bio", settings={"seed": 4}, force=True).is_resumed
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_an_unfinished_run_of_a_version_without_processes_is_one_of_a_single_process(tmp_path):
    open_run(tmp_path, kind="bio", settings={"seed": 3})
    assert open_run(tmp_path, kind="bio", settings={"seed": 3, "processes": 1}).is_resumed
    with pytest.raises(SubquadError, match=r"other settings \(processes was 1 and is 2\)"):
        open_run(tmp_path, kind="bio", settings={"seed": 3, "processes": 2})


def test_an_unfinished_run_is_resumed_with_the_same_settings_only(tmp_path):
    assert not open_run(tmp_path, kind="bio", settings={"seed": 3, "rate": 0.1}).is_resumed
    assert open_run(tmp_path, kind="bio", settings={"seed": 3, "rate": 0.1}).is_resumed
    with pytest.raises(SubquadError, match=r"other settings \(--seed was 3 and is 4\); use the same"):
        open_run(tmp_path, kind="bio", settings={"seed": 4, "rate": 0.1})
    with pytest.raises(SubquadError, match="an unfinished run of subquad bio"):
        open_run(tmp_path, kind="hep", settings={"seed": 3, "rate": 0.1})


def test_fingerprints_of_input_files_are_not_shown(tmp_path):
    open_run(tmp_path, kind="hep", settings={"data": "8bff31cb", "files": ["a.root"]})
    message = r"\(the input files have other contents; files was \['a.root'\] and is \['b.root'\]\)"
    with pytest.raises(SubquadError, match=message):
        open_run(tmp_path, kind="hep", settings={"data": "ed66ebf5", "files": ["b.root"]})


def test_settings_that_differ_are_named_by_their_flags_also_inside_others(tmp_path):
    begun = {"table": "a.csv", "lora_tokens": 7, "attention": {"window": 64, "cache": 5}}
    open_run(tmp_path, kind="llm", settings=begun)
    message = (
        r"\(--attention\.window was 64 and is 32; --lora-tokens was 7 and is 5; table was 'a.csv' and is 'b.csv'\)"
    )
    with pytest.raises(SubquadError, match=message):
        open_run(
            tmp_path,
            kind="llm",
            settings={"table": "b.csv", "lora_tokens": 5, "attention": {"window": 32, "cache": 5}},
        )


def test_a_folder_that_subquad_did_not_write_is_never_touched(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    for force in (False, True):
        with pytest.raises(SubquadError, match="not empty and not written by subquad"):
            open_run(tmp_path, kind="bio", settings={}, force=force)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(SubquadError, match=r"its config.json was not written by subquad; choose another folder with"):
        open_run(tmp_path, kind="bio", settings={}, force=True)
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    target = tmp_path / "a.json"
    write_json(target, {"old": 1})

    def cut_short():
        with atomic(target) as temporary:
            temporary.write_text("half of i")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        cut_short()
    assert read_json(target) == {"old": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_run_that_was_killed_in_its_first_write_is_begun_again(tmp_path):
    (tmp_path / ".config.json.subquad-x1").mkdir()
    (tmp_path / ".config.json.subquad-x1" / "config.json").write_text("{")
    (tmp_path / ".lock").touch()
    assert not open_run(tmp_path, kind="bio", settings={"seed": 3}).is_resumed
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "config.json"]


def test_that_another_version_began_a_run_is_said(tmp_path, capsys, monkeypatch):
    open_run(tmp_path, kind="bio", settings={})
    open_run(tmp_path, kind="bio", settings={})
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(folder_module, "__version__", "99.0")
    assert open_run(tmp_path, kind="bio", settings={}).is_resumed
    said = f"warning: {tmp_path}: subquad {__version__} began this run, and subquad 99.0 resumes it\n"
    assert capsys.readouterr().err == said


def test_what_a_killed_run_left_of_its_files_is_removed_when_it_is_resumed(tmp_path):
    open_run(tmp_path, kind="bio", settings={"seed": 3})
    left = tmp_path / "fold-0" / ".model.safetensors.subquad-x1"
    left.mkdir(parents=True)
    (tmp_path / ".gitignore").write_text("*.html")
    assert open_run(tmp_path, kind="bio", settings={"seed": 3}).is_resumed
    assert not left.exists()
    assert (tmp_path / ".gitignore").exists()


def test_a_run_that_was_killed_while_it_was_replaced_can_be_replaced_again(tmp_path, monkeypatch):
    finish(tmp_path, seed=3)
    (tmp_path / "fold-0").mkdir()

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("subquad.runs.folder.shutil.rmtree", stop)
        with pytest.raises(KeyboardInterrupt):
            open_run(tmp_path, kind="bio", settings={"seed": 4}, force=True)
    assert not open_run(tmp_path, kind="bio", settings={"seed": 4}, force=True).is_resumed
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("break_it", "text"),
    [
        (lambda run: (run / "metrics.json").unlink(), "this run is not finished"),
        (lambda run: (run / "model.safetensors").unlink(), r"no model.safetensors in it; the weights are missing"),
        (lambda run: (run / "config.json").unlink(), r"no config.json in it; give a folder that `subquad bio` wrote"),
        (lambda run: (run / "config.json").write_text("{"), "not JSON"),
        (lambda run: (run / "config.json").write_text("{}"), "was not written by subquad"),
        (
            lambda run: (run / "config.json").write_text(json.dumps({"subquad": {"kind": "bio", "format": 99}})),
            "format 99 is newer than this subquad",
        ),
        (
            lambda run: (run / "config.json").write_text(json.dumps({"subquad": {"kind": "bio", "format": 0}})),
            r"has no valid format number \(0\); the folder is damaged, or from a version before the first release",
        ),
    ],
)
def test_a_broken_model_folder_is_refused_with_its_reason(tmp_path, break_it, text):
    finish(tmp_path)
    break_it(tmp_path)
    with pytest.raises(SubquadError, match=text):
        load_config(tmp_path, "bio")


def test_a_folder_of_another_field_or_none_is_refused(tmp_path):
    finish(tmp_path)
    with pytest.raises(SubquadError, match="holds a model of `subquad bio`, not of `subquad hep`"):
        load_config(tmp_path, "hep")
    with pytest.raises(SubquadError, match="no such model folder; give a folder that `subquad "):
        load_config(tmp_path / "nowhere", "bio")


def test_damaged_weights_are_refused(tmp_path):
    finish(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(SubquadError, match="not a safetensors file, or cut short"):
        read_tensors(weights)


def test_a_changed_bit_of_weights_is_refused(tmp_path):
    finish(tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    size = int.from_bytes(whole[:8], "little")
    # each byte of the header and of the numbers
    for place in range(8, len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(SubquadError, match=r"model\.safetensors") as error:
            load_tensors(tmp_path)
        assert place < 8 + size or "its checksum does not match its content" in str(error.value)
    path.write_bytes(whole)
    load_tensors(tmp_path)


def test_weights_of_another_run_are_refused(tmp_path):
    finish(tmp_path / "run")
    write_tensors(tmp_path / "run" / "model.safetensors", {"w": torch.ones(3)})
    with pytest.raises(SubquadError, match=r"run: model\.safetensors does not belong to config\.json"):
        load_tensors(tmp_path / "run")


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    finish(tmp_path, weights=torch.tensor([1.0, value]))
    with pytest.raises(SubquadError, match=r"model\.safetensors: w holds values that are not finite"):
        load_tensors(tmp_path)
    # whole language models, which transformers reads
    with pytest.raises(SubquadError, match=r"model\.safetensors: w holds values that are not finite; train it again"):
        check_weights(tmp_path)


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16, torch.complex64])
def test_whether_values_are_finite_is_known_for_each_type(kind):
    values = torch.linspace(-3e4, 3e4, 35).to(kind).view(5, 7)
    assert is_finite(values)
    # a part of a tensor, as of tied weights, whose numbers do not lie side by side
    assert is_finite(values.T[1:4])
    assert is_finite(values[:0])
    for value in (float("nan"), float("inf"), float("-inf")):
        spoilt = values.clone()
        spoilt[3, 4] = value
        assert not is_finite(spoilt)
    assert is_finite(torch.tensor([7, 2**40]))


def test_the_fingerprint_changes_with_any_part(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    assert fingerprint(tmp_path / "a", "x") == fingerprint(tmp_path / "a", b"x")
    assert len({fingerprint(tmp_path / "a"), fingerprint(tmp_path / "a", "x"), fingerprint("x"), fingerprint()}) == 4


def test_an_existing_output_is_refused_without_force(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("mine")
    assert check_output(tmp_path / "new.csv", force=False) == tmp_path / "new.csv"
    assert check_output(tmp_path / "empty", force=False) == tmp_path / "empty"
    for there in ("full", "full/a.txt"):
        with pytest.raises(SubquadError, match="exists already; choose another --out, or overwrite it with --force"):
            check_output(tmp_path / there, force=False)
        assert check_output(tmp_path / there, force=True) == tmp_path / there


def test_a_shipped_file_with_another_content_is_refused(tmp_path):
    path = tmp_path / "data.csv"
    path.write_bytes(b"sequence,score\n")
    assert shipped_file(path, hashlib.sha256(b"sequence,score\n").hexdigest()) == path
    path.write_bytes(b"sequence,score\nM,1\n")
    with pytest.raises(SubquadError, match="this file of the package has changed"):
        shipped_file(path, hashlib.sha256(b"sequence,score\n").hexdigest())
    with pytest.raises(SubquadError, match="this file of the package is missing; install subquad again"):
        shipped_file(tmp_path / "gone.csv", "0" * 64)


def test_an_output_that_cannot_be_written_is_refused_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "table.csv").touch()
    for check in (
        lambda out: check_output(out, force=False),
        lambda out: check_run_folder(out, kind="bio", settings={}),
        lambda out: check_report_folder(out, kind="bio scan", file="scan.json", force=False),
    ):
        with pytest.raises(SubquadError, match=r"table\.csv is a file, not a folder; choose another --out"):
            check(tmp_path / "table.csv" / "new" / "out")
        with monkeypatch.context() as patch:
            # whoever runs the tests may write everywhere
            patch.setattr("os.access", lambda path, mode: False)
            with pytest.raises(SubquadError, match="no permission to write in"):
                check(tmp_path / "out")
            patch.setattr("os.statvfs", lambda folder: SimpleNamespace(f_flag=os.ST_RDONLY))
            with pytest.raises(SubquadError, match=f"out: {tmp_path} is on a read-only file system; choose another"):
                check(tmp_path / "out")
    with pytest.raises(SubquadError, match=r"is a file, not a folder; choose another --save-state"):
        check_output(tmp_path / "table.csv" / "out", force=False, flag="--save-state")


def test_a_folder_that_the_system_does_not_create_is_reported_with_its_flag(tmp_path, monkeypatch):
    def refused(*args, **options):
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))

    def full(*args, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "mkdir", refused)
    message = r"out: cannot create the output folder \(No such file or directory\); choose another --workspace"
    with pytest.raises(SubquadError, match=message):
        create_output_folder(tmp_path / "out", flag="--workspace")
    # a full disk has a message of its own
    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(OSError, match="No space left"):
        create_output_folder(tmp_path / "out")


def test_all_files_are_on_the_disk_before_the_run_is_marked_as_finished(tmp_path, monkeypatch):
    open_run(tmp_path, kind="bio", settings={})
    (tmp_path / "tokenizer.json").write_text("{}")
    synced = []
    monkeypatch.setattr(folder_module, "sync", lambda path: synced.append(path.name))
    write = folder_module.write_json

    def written(path, value):
        assert path.name != "metrics.json" or {"tokenizer.json", "model.safetensors"} < {*synced}
        write(path, value)

    monkeypatch.setattr(folder_module, "write_json", written)
    finish(tmp_path)
    assert "tokenizer.json" in synced


def test_files_of_fitted_baselines_belong_to_their_run(tmp_path):
    open_run(tmp_path, kind="bio", settings={})
    part = tmp_path / "ridge.skops"
    part.write_bytes(b"fitted")
    finish(tmp_path)
    check_if_present(part)
    part.write_bytes(b"Fitted")
    with pytest.raises(SubquadError, match=r"ridge\.skops: does not belong to config\.json"):
        check_if_present(part)


def test_weights_have_the_permissions_of_other_files(tmp_path):
    finish(tmp_path)
    modes = {(tmp_path / name).stat().st_mode for name in ("model.safetensors", "config.json")}
    assert len(modes) == 1


def test_a_report_replaces_what_a_link_points_to_and_the_folder_one_is_in(tmp_path, monkeypatch):
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    monkeypatch.chdir(tmp_path / "target")
    for out in ("../link", ".", "../target"):
        found = check_report_folder(out, kind="scan", file="scan.json", force=False)
        with write_report_folder(found) as folder:
            (folder / "scan.json").write_text(out)
        assert (tmp_path / "target" / "scan.json").read_text() == out
        (tmp_path / "target" / "scan.json").unlink()
        # the folder is another one now
        monkeypatch.chdir(tmp_path / "target")
    assert (tmp_path / "link").is_symlink()


def test_a_report_is_kept_until_the_new_one_is_on_the_disk(tmp_path, monkeypatch):
    out = tmp_path / "scan"
    out.mkdir()
    (out / "scan.json").write_text("earlier")

    def replaced(text):
        with write_report_folder(out) as folder:
            (folder / "scan.json").write_text(text)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full_disk)
        with pytest.raises(OSError, match="No space left"):
            replaced("new")
    assert (out / "scan.json").read_text() == "earlier"
    replace, calls = os.replace, []

    def fails_the_second_time(source, target):
        calls.append(source)
        if len(calls) == 2:
            full_disk()
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", fails_the_second_time)
        with pytest.raises(OSError, match="No space left"):
            replaced("new")
    assert (out / "scan.json").read_text() == "earlier"
    replaced("new")
    assert [path.name for path in tmp_path.rglob("*")] == ["scan", "scan.json"]
    assert (out / "scan.json").read_text() == "new"


def full_disk(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_report_that_could_not_be_replaced_is_refused_before_any_work(tmp_path):
    (tmp_path / "above" / "out").mkdir(parents=True)
    (tmp_path / "above").chmod(0o500)
    with pytest.raises(SubquadError, match="the folder is replaced as a whole"):
        check_report_folder(tmp_path / "above" / "out", kind="scan", file="scan.json", force=False)


def test_a_run_is_cleared_with_links_to_folders(tmp_path):
    open_run(tmp_path / "run", kind="llm", settings={})
    (tmp_path / "other").mkdir()
    (tmp_path / "run" / "link").symlink_to(tmp_path / "other")
    open_run(tmp_path / "run", kind="llm", settings={}, force=True)
    assert not (tmp_path / "run" / "link").exists()
    assert (tmp_path / "other").is_dir()
