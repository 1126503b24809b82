"""Sessions see their own files only, and uploads are limited and deleted."""

import os
import time
from pathlib import Path

import pytest

from subquad.app.jobs import Job
from subquad.app.sessions import Workspace, new_token
from subquad.errors import SubquadError
from subquad.runs.storage import write_json


def received(workspace, name, size=10):
    """Write a file as gradio does: in a folder of its own."""
    folder = workspace.received / new_token()
    folder.mkdir()
    (folder / name).write_bytes(b"x" * size)
    return folder / name


def test_each_browser_has_a_folder_of_its_own_whose_name_does_not_tell_its_token(workspace):
    first, second = new_token(), new_token()
    assert workspace.session(first).folder != workspace.session(second).folder
    assert workspace.session(first).folder == workspace.session(first).folder
    assert first not in str(workspace.session(first).folder)


def test_an_upload_is_copied_into_the_session_under_a_harmless_name(workspace, session):
    path = session.take(received(workspace, "my table; $(rm -rf).csv"))
    assert path.parent.parent == session.uploads
    assert path.name == "my_table_rm_-rf_.csv"
    assert session.files(".csv") == [path]
    session.discard(path)
    assert not session.files(".csv")
    assert not list(workspace.received.iterdir())


def test_users_who_upload_the_same_file_do_not_take_it_from_each_other(workspace, session):
    file, other = received(workspace, "same.csv"), workspace.session(new_token())
    first, second = session.take(file), other.take(file)
    assert first != second
    workspace.clear_received()
    session.discard(first)
    assert second.read_bytes() == b"x" * 10


def test_a_file_can_be_used_again_and_counts_once(workspace, session):
    file = received(workspace, "own.csv", 600_000)
    path = session.take(file)
    later = session.take(received(workspace, "later.csv"))
    os.utime(later.parent, (0, 0))
    for _ in range(20):
        assert session.take(file) == path
    assert session.files(".csv") == [path, later]
    # also when what arrived was cleared
    workspace.clear_received()
    assert session.take(file) == path


@pytest.mark.parametrize("can_link", [True, False])
def test_an_upload_is_linked_or_copied_where_there_are_no_links(workspace, session, monkeypatch, can_link):
    if not can_link:
        monkeypatch.setattr(Path, "hardlink_to", lambda *_: os.link("none", "none"))
    file = received(workspace, "own.csv")
    path = session.take(file)
    assert path.samefile(file) == can_link
    assert path.read_bytes() == file.read_bytes()
    session.discard(path)
    assert not list(workspace.received.iterdir())


@pytest.mark.parametrize("content", [b"", b"xxxx", b"\0" * 10])
def test_an_upload_that_was_cut_is_replaced_when_the_file_comes_again(workspace, session, content):
    file = received(workspace, "own.csv")
    path = session.take(file)
    workspace.clear_received()
    path.write_bytes(content)
    # the same name again, since it tells the content of the file
    file.parent.mkdir()
    file.write_bytes(b"x" * 10)
    assert session.take(file) == path
    assert path.read_bytes() == b"x" * 10
    assert session.files(".csv") == [path]


@pytest.mark.parametrize("can_link", [True, False])
def test_an_upload_is_on_the_disk_before_it_is_used(workspace, session, monkeypatch, can_link):
    if not can_link:
        monkeypatch.setattr(Path, "hardlink_to", lambda *_: os.link("none", "none"))
    found, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: found.append(os.fstat(number).st_ino) or fsync(number))
    path = session.take(received(workspace, "own.csv"))
    assert {own.stat().st_ino for own in (path, path.parent, session.uploads, session.folder)} <= {*found}


def test_a_file_that_is_too_large_is_refused_and_leaves_nothing(workspace, session):
    file = received(workspace, "large.csv", 1_000_001)
    with pytest.raises(SubquadError, match=r"large.csv: 1 MB, and files of up to 1 MB can be uploaded"):
        session.take(file)
    assert not file.exists()
    assert not list(session.folder.rglob("*.csv"))
    assert not list(workspace.received.iterdir())


def test_a_session_cannot_fill_the_disk(workspace, session):
    for number in range(10):
        session.take(received(workspace, f"{number}.csv", 999_000))
    with pytest.raises(SubquadError, match="would take more than 10 MB; delete some of them first"):
        session.take(received(workspace, "last.csv", 999_000))
    session.clear_uploads()
    session.take(received(workspace, "last.csv", 999_000))


def job_of(session, state, *words):
    folder = session.new_job_folder()
    record = {"kind": "bio fit", "title": "", "words": ["bio", "fit", *words], "output": "out", "created": 0.0}
    write_json(folder / "job.json", record)
    write_json(folder / "status.json", {"state": state})
    return folder


@pytest.mark.parametrize("state", ["stopped", "failed"])
def test_the_uploads_of_a_job_that_can_be_resumed_are_kept_for_it(workspace, session, state):
    needed, other = (session.take(received(workspace, name)) for name in ("needed.csv", "other.csv"))
    folder = job_of(session, state, str(needed))
    job_of(session, "finished", str(other))
    session.clear_uploads()
    assert needed.is_file()
    assert not other.exists()
    write_json(folder / "status.json", {"state": "finished"})
    session.clear_uploads()
    assert not needed.exists()


@pytest.mark.parametrize("state", ["stopped", "failed"])
def test_the_uploads_of_a_job_that_cannot_be_resumed_are_deleted(workspace, session, state):
    path = session.take(received(workspace, "own.csv"))
    folder = job_of(session, state, str(path))
    write_json(folder / "job.json", {**Job(folder).record, "can_resume": False})
    session.clear_uploads()
    assert not path.exists()


def test_files_that_are_tried_and_refused_are_deleted_unless_they_were_there_or_are_read(workspace, session):
    arrived = {name: received(workspace, name) for name in ("known.root", "broken.root", "read.root")}
    known = session.take(arrived["known.root"])
    with session.trying([arrived["known.root"]]) as taken:
        assert taken == [known]

    def refused(files):
        with session.trying(files) as taken:
            write_json(job_of(session, "waiting") / "job.json", reading(taken[2]))
            raise SubquadError("damaged")

    with pytest.raises(SubquadError, match="damaged"):
        refused(arrived.values())
    assert {path.name for path in session.files("")} == {"known.root", "read.root"}
    # also if a file cannot be taken itself
    files = [arrived["known.root"], received(workspace, "new.root"), workspace.received / "gone.root"]
    with pytest.raises(SubquadError, match=r"gone\.root: has been here"), session.trying(files):
        pass
    assert {path.name for path in session.files("")} == {"known.root", "read.root"}


def reading(path):
    record = {"kind": "hep fit", "title": "", "words": [], "output": "out", "created": 0.0, "server": os.getpid()}
    return {**record, "reads": [str(path)]}


def test_uploads_are_read_by_jobs_that_wait_or_run(workspace, session):
    path = session.take(received(workspace, "own.csv"))
    folder = job_of(session, "stopped", str(path))
    assert not session.is_read(path)
    (folder / "status.json").unlink()
    write_json(folder / "job.json", {**Job(folder).record, "server": os.getpid()})
    assert session.is_read(path)
    assert not session.is_read(path, besides=[folder.name])


@pytest.mark.parametrize("content", ["{", "[]", "{}", '"text"', ""])
def test_a_damaged_record_hides_its_job_only(workspace, session, content):
    whole, damaged = job_of(session, "finished"), job_of(session, "finished")
    (damaged / "job.json").write_text(content)
    assert [job.name for job in session.jobs] == [whole.name]
    session.clear_uploads()


@pytest.mark.parametrize("content", ["{", "[]", "{}", '"text"', ""])
def test_a_damaged_status_is_that_of_a_job_that_failed(session, content):
    folder = job_of(session, "finished")
    (folder / "status.json").write_text(content)
    assert session.jobs[0].state == "failed"
    assert session.jobs[0].message == "The status of this job is damaged; start it again."


def test_damaged_jobs_do_not_end_the_cleaning(workspace):
    paths = []
    for content in ("{", '{"state": "running"}'):
        session = workspace.session(new_token())
        session.touch()
        folder = job_of(session, "finished")
        (folder / ("job.json" if content == "{" else "status.json")).write_text(content)
        paths.append(session.take(received(workspace, "own.csv")))
        before = time.time() - 40 * 86_400
        os.utime(session.folder / "used", (before, before))
    old = workspace.session(new_token())
    old.touch()
    os.utime(old.folder / "used", (before, before))
    workspace.clear_uploads()
    assert workspace.remove_old(30) >= 2
    assert not old.folder.exists()


def test_a_session_owns_its_files_and_no_others(workspace, session, tmp_path):
    own = session.take(received(workspace, "own.csv"))
    other = workspace.session(new_token()).take(received(workspace, "other.csv"))
    (session.uploads / "link.csv").symlink_to(other)
    assert session.owns(own)
    assert not session.owns(other)
    assert not session.owns(session.uploads / "link.csv")
    assert not session.owns("/etc/hostname")
    session.discard(other)
    assert other.is_file()


@pytest.mark.parametrize("files", [[None], [["a.csv"]], [{"path": "a.csv"}], [3], [], None])
def test_what_is_no_file_is_refused(session, files):
    with pytest.raises(SubquadError, match="no file is given; drop one"), session.trying(files):
        pass


@pytest.mark.parametrize(
    "name", [["0123456789abcdef"], {}, 3, None, "", "..", "0123456789abcdeg", "../../other", "0123456789abcdef"]
)
def test_names_that_are_no_jobs_find_none(session, name):
    assert session.job(name) is None


def test_messages_do_not_show_the_folders_of_the_server(workspace, session):
    path = session.take(received(workspace, "table.csv"))
    job = session.new_job_folder()
    text = session.readable(f"{path}: no rows; {job}/out: not finished; {job}/inputs/t.csv: no rows")
    assert text == "table.csv: no rows; out: not finished; t.csv: no rows"


def test_sessions_that_were_not_used_are_deleted_after_some_days(workspace, session):
    old = workspace.session(new_token())
    old.touch()
    before = time.time() - 40 * 86_400
    os.utime(old.folder / "used", (before, before))
    assert workspace.remove_old(30) == 1
    assert [own.folder for own in workspace.sessions] == [session.folder]


def test_what_arrived_and_was_not_used_is_deleted(workspace):
    received(workspace, "table.csv")
    workspace.clear_received(seconds=3600)
    assert list(workspace.received.iterdir())
    workspace.clear_received()
    assert not list(workspace.received.iterdir())


def test_other_users_of_the_computer_cannot_read_the_workspace(tmp_path):
    Workspace.open(tmp_path / "work", 1)
    assert (tmp_path / "work").stat().st_mode & 0o077 == 0


def test_a_file_that_is_gone_has_to_be_dropped_again(workspace, session):
    file = received(workspace, "own.csv")
    workspace.clear_received()
    with pytest.raises(SubquadError, match=r"own\.csv: has been here for too long; drop the file again"):
        session.take(file)


def test_a_workspace_with_files_of_others_keeps_its_permissions(tmp_path):
    Workspace.open(tmp_path, 10**6)
    (tmp_path / "other.txt").touch()
    tmp_path.chmod(0o755)
    opened = Workspace.open(tmp_path, 10**6)
    assert tmp_path.stat().st_mode & 0o777 == 0o755
    assert (opened.root / "sessions").stat().st_mode & 0o777 == 0o700
