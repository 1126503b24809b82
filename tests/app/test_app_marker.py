"""Workspaces are recognised, and nothing is deleted from folders of someone else."""

import json
import os
import time
from pathlib import Path

import pytest

from subquad import __version__
from subquad.app.marker import MARKER, check_workspace
from subquad.app.sessions import Workspace, new_token
from subquad.cli import main
from subquad.errors import SubquadError

SESSION, ENTRY, ARRIVED = "0123456789abcdef" * 2, "0123456789abcdef", "0123456789abcdef" * 4


def fill(root: Path, *names: str) -> dict[str, str]:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("mine")
    before = time.time() - 40 * 86_400
    for path in root.rglob("*"):
        os.utime(path, (before, before))
    return contents(root)


def contents(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "names",
    [
        ("notes.txt",),
        ("received/a.csv", "archives/c.zip", "sessions/old/b.txt"),
        ("received/a.csv",),
        ("received/folder/a.csv",),
        ("archives/c.zip",),
        ("sessions/old/b.txt",),
        (f"sessions/{SESSION}/b.txt",),
        (f"sessions/{SESSION}/jobs/mine/b.txt",),
        (f"sessions/{SESSION}/uploads/b.txt",),
        (f"received/{ARRIVED}/a.csv", "notes.txt"),
        ("received",),
        (".lock", "notes.txt"),
    ],
)
def test_a_folder_of_someone_else_is_refused_and_stays_as_it_is(tmp_path, names, capsys):
    pytest.importorskip("gradio")
    root = tmp_path / "mine"
    before = fill(root, *names)
    assert main(["app", "--workspace", str(root), "--port", "0"]) == 2
    text = f"subquad: {root}: not empty, and not a workspace of `subquad app`; choose another --workspace\n"
    assert capsys.readouterr().err.endswith(text)
    assert contents(root) == before
    with pytest.raises(SubquadError, match="not a workspace"):
        Workspace.open(root, 1)
    assert contents(root) == before


def test_links_to_folders_of_someone_else_are_refused(tmp_path):
    root, other = tmp_path / "mine", tmp_path / "other"
    before = fill(other, f"{ARRIVED}/a.csv")
    root.mkdir()
    (root / "received").symlink_to(other)
    with pytest.raises(SubquadError, match="not a workspace"):
        Workspace.open(root, 1)
    (root / "received").unlink()
    (root / "received").mkdir()
    (root / "received" / ARRIVED).symlink_to(other / ARRIVED)
    with pytest.raises(SubquadError, match="not a workspace"):
        Workspace.open(root, 1)
    assert contents(other) == before


@pytest.mark.parametrize("is_there", [False, True])
def test_a_new_workspace_is_marked_and_recognised(tmp_path, is_there):
    root = tmp_path / "work"
    if is_there:
        root.mkdir()
    Workspace.open(root, 1)
    stamp = {"format": 1, "kind": "app", "version": __version__}
    assert json.loads((root / MARKER).read_text()) == {"subquad": stamp}
    check_workspace(root)
    Workspace.open(root, 1).session(new_token()).touch()
    check_workspace(root)


def test_a_workspace_of_an_earlier_version_is_recognised_by_what_is_in_it(tmp_path):
    own = f"sessions/{SESSION}"
    root = tmp_path / "work"
    before = fill(
        root, f"{own}/used", f"{own}/uploads/{ENTRY}/t.csv", f"{own}/jobs/{ENTRY}/job.json", f"{own}/pasted/a/b.csv",
        f"received/{ARRIVED}/t.csv", "received/tmpabcd_123", "archives/tmpabcd_123.zip", ".lock",
        ".workspace.json.subquad-abc/.lock",
    )  # fmt: skip
    workspace = Workspace.open(root, 1)
    assert (root / MARKER).is_file()
    assert before.items() - {(".workspace.json.subquad-abc/.lock", "mine")} <= contents(root).items()
    assert [session.folder.name for session in workspace.sessions] == [SESSION]


def test_folders_that_were_put_among_the_sessions_are_not_deleted(tmp_path):
    workspace = Workspace.open(tmp_path / "work", 1)
    fill(workspace.root / "sessions", "old/b.txt", f"{SESSION}/used")
    assert workspace.remove_old(1.0) == 1
    assert contents(workspace.root / "sessions") == {"old/b.txt": "mine"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"version": 2, "projects": {}}', "its workspace.json is not that of a workspace of `subquad app`; choose an"),
        ('{"subquad": {"kind": "bio", "format": 1}}', "its workspace.json is not that of a workspace"),
        ('{"subquad": {"kind": "app", "format": "1"}}', "its workspace.json is not that of a workspace"),
        ("[]", "its workspace.json is not that of a workspace"),
        ('{"subquad": {"kind": "app", "format": 2}}', r"format 2, which is newer than this subquad .* \(up to 1\); up"),
        ("{", "workspace.json: not JSON"),
    ],
)
def test_files_of_the_same_name_that_mark_no_workspace_are_refused(tmp_path, content, message):
    (tmp_path / MARKER).write_text(content)
    (tmp_path / "received").mkdir()
    (tmp_path / "received" / "a.csv").write_text("mine")
    with pytest.raises(SubquadError, match=message):
        Workspace.open(tmp_path, 1)
    assert contents(tmp_path) == {MARKER: content, "received/a.csv": "mine"}
