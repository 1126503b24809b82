"""What a user can delete: uploads and results of all tabs, one by one."""

import os

import pytest

gr = pytest.importorskip("gradio")

from subquad.app.deletion import _delete, _kept, build_deletion
from subquad.app.page import build_page
from subquad.app.sequences import build_sequences
from subquad.app.sessions import new_token
from subquad.errors import SubquadError
from subquad.runs.storage import write_json


def taken(workspace, session, name):
    folder = workspace.received / new_token()
    folder.mkdir()
    (folder / name).write_bytes(b"x" * 2000)
    return session.take(folder / name)


def job_of(session, state, *words, title="Fit of mine"):
    folder = session.new_job_folder()
    record = {"kind": "bio fit", "title": title, "words": [*words], "output": "out", "created": 0.0, "about": {}}
    write_json(folder / "job.json", {**record, "server": os.getpid()})
    if state != "waiting":
        write_json(folder / "status.json", {"state": state})
    (folder / "out").mkdir()
    return session.job(folder.name)


def test_uploads_and_results_are_listed_with_what_they_are(workspace, session):
    assert _kept(session) == []
    upload, job = taken(workspace, session, "mine.csv"), job_of(session, "finished")
    assert [value for _, value in _kept(session)] == [str(upload), job.name]
    assert _kept(session)[0][0] == "upload mine.csv (2 kB)"
    assert _kept(session)[1][0].startswith("Fit of mine, ")
    assert _kept(session)[1][0].endswith("(finished)")
    taken(workspace, session, "jets.root")
    assert _kept(session)[0] == ("all 2 uploads", "uploads")


def test_what_is_chosen_is_deleted_and_nothing_else(context, workspace, session):
    table, jets = (taken(workspace, session, name) for name in ("mine.csv", "jets.root"))
    first, second = (job_of(session, "finished") for _ in range(2))
    assert _delete(context, session, [str(table), first.name]) == "1 upload and 1 result deleted."
    assert (table.exists(), jets.exists()) == (False, True)
    assert (first.folder.exists(), second.folder.exists()) == (False, True)
    assert _delete(context, session, ["uploads"]) == "1 upload deleted."
    assert not session.files("")
    assert second.folder.exists()
    assert not list(workspace.received.iterdir())


def test_files_of_others_are_not_deleted(context, workspace, session):
    other = workspace.session(new_token())
    upload, job = taken(workspace, other, "theirs.csv"), job_of(other, "finished")
    for values in ([str(upload)], [job.name], ["../jobs"], [str(session.folder)], []):
        with pytest.raises(SubquadError, match="nothing is chosen; choose uploads or results from the list"):
            _delete(context, session, values)
    assert upload.is_file()
    assert job.folder.is_dir()


def test_an_upload_that_a_job_reads_is_deleted_with_the_job_only(context, workspace, session):
    upload = taken(workspace, session, "mine.csv")
    job = job_of(session, "waiting", str(upload))
    with pytest.raises(SubquadError, match=r"mine\.csv: read by a job that waits or runs; stop the job first"):
        _delete(context, session, ["uploads"])
    assert upload.is_file()
    assert _delete(context, session, ["uploads", job.name]) == "1 upload and 1 result deleted."
    assert not upload.exists()
    assert not job.folder.exists()


def test_a_result_that_a_job_reads_is_deleted_with_the_job_only(context, session):
    fitted = job_of(session, "finished", title="Fit of mine")
    other = job_of(session, "finished", title="Fit of another")
    # a job reads its own output too
    scan = job_of(session, "waiting", "bio", "scan", str(fitted.out), "--out", "/elsewhere", title="Scan")
    text = "Fit of mine: read by a job that waits or runs; stop the job first"
    with pytest.raises(SubquadError, match=text):
        _delete(context, session, [fitted.name, other.name])
    assert fitted.folder.is_dir()
    assert other.folder.is_dir()
    write_json(scan.folder / "status.json", {"state": "stopped"})
    text = "Fit of mine: needed by a job that was stopped and can be resumed; choose that job too"
    with pytest.raises(SubquadError, match=text):
        _delete(context, session, [fitted.name])
    assert _delete(context, session, [fitted.name, scan.name]) == "2 results deleted."
    assert [job.name for job in session.jobs] == [other.name]


@pytest.mark.parametrize(("state", "can_resume"), [("stopped", False), ("failed", True), ("finished", True)])
def test_a_result_that_no_job_needs_any_more_is_deleted(context, session, state, can_resume):
    fitted = job_of(session, "finished")
    scan = job_of(session, state, "bio", "scan", str(fitted.out))
    write_json(scan.folder / "job.json", {**scan.record, "can_resume": can_resume})
    assert _delete(context, session, [fitted.name]) == "1 result deleted."


def test_the_page_has_one_visible_control_that_says_what_it_deletes(context):
    page = build_page(context)
    buttons = [block for block in page.blocks.values() if isinstance(block, gr.Button) and "Delete" in str(block.value)]
    assert [button.value for button in buttons] == ["Delete the chosen uploads and results"]
    above, parent = [], buttons[0].parent
    while parent is not None:
        above.append(parent)
        parent = parent.parent
    assert not [block for block in above if isinstance(block, gr.Accordion)]
    labels = [getattr(block, "label", None) for block in page.blocks.values()]
    assert labels.count("Uploads and results of all tabs") == 1


def test_lists_are_filled_again_after_a_deletion(context, workspace, session, monkeypatch):
    for module in ("deletion", "sequences", "runs"):
        monkeypatch.setattr(f"subquad.app.{module}.session_of", lambda *_: session)
    with gr.Blocks() as page:
        tab = build_sequences(context)
        build_deletion(context, [tab])
    functions = {getattr(own.fn, "__name__", ""): own.fn for own in page.fns.values() if own.fn is not None}
    upload, job = taken(workspace, session, "mine.csv"), job_of(session, "finished")
    listed, view = functions["on_delete"]([str(upload), job.name], None)
    assert (listed["choices"], listed["value"]) == ([], [])
    assert "1 upload and 1 result deleted." in view
    assert "Nothing is chosen" in functions["on_delete"]([], None)[1]
    (tables, _), _, (runs, _), *_ = tab.deleted
    assert tables(str(upload), None)["value"] == "example:tdp43"
    assert runs(job.name, None)["value"] is None
    assert runs("/models/mine", None)["value"] == "/models/mine"
    # all of them follow the button, in every tab
    following = [own.fn for own in build_page(context).fns.values() if own.trigger_after is not None]
    assert {getattr(own, "__name__", None) for own in following} >= {"on_deleted", "refreshed", "on_load", "on_look"}
