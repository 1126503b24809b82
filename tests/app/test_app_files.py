"""Downloads: files of one's own jobs only, and archives that are deleted however a download ends."""

import zipfile
from types import SimpleNamespace

import pytest

fastapi = pytest.importorskip("fastapi")

from support.asgi import ask

from subquad.app import files
from subquad.app.access import SESSION_COOKIE, Access
from subquad.app.files import MOST_ARCHIVES, add_routes
from subquad.app.sessions import new_token
from subquad.runs.storage import read_json, write_json


@pytest.fixture
def downloads(workspace):
    app = fastapi.FastAPI()
    add_routes(app, workspace, keep_free=1000)
    token = new_token()
    folder = workspace.session(token).new_job_folder()
    record = {"kind": "bio fit", "title": "Fit", "words": [], "output": "out", "created": 0.0, "server": 1, "about": {}}
    write_json(folder / "job.json", record)
    (folder / "out").mkdir()
    (folder / "out" / "report.html").write_text("<p>report</p>")
    return Access(app, password=None, largest=1000), token, folder.name


def test_a_browser_gets_the_files_of_its_own_jobs_only(downloads):
    app, token, job = downloads
    own = f"{SESSION_COOKIE}={token}"
    status, headers, body = ask(app, f"/files/{job}/out/report.html", cookie=own)
    assert (status, body) == (200, b"<p>report</p>")
    assert "sandbox" in dict(headers)["content-security-policy"]
    assert ask(app, f"/files/{job}/out/report.html", cookie=f"{SESSION_COOKIE}={new_token()}")[0] == 404
    assert ask(app, f"/files/{job}/out/report.html")[0] == 404
    for path in (f"/files/{job}/out/none.csv", f"/files/{job}/../../used", "/files/../../x/y", f"/files/{job}/out"):
        assert ask(app, path, cookie=own)[0] == 404, path


def test_a_download_is_named_after_its_job(downloads):
    app, token, job = downloads
    headers = dict(ask(app, f"/files/{job}/out/report.html?download=1", cookie=f"{SESSION_COOKIE}={token}")[1])
    assert headers["content-disposition"] == f'attachment; filename="report-{job[:6]}.html"'


def test_the_output_of_a_job_is_one_archive(downloads, tmp_path, workspace):
    app, token, job = downloads
    status, _, body = ask(app, f"/archives/{job}.zip", cookie=f"{SESSION_COOKIE}={token}")
    assert status == 200
    (tmp_path / "a.zip").write_bytes(body)
    assert zipfile.ZipFile(tmp_path / "a.zip").namelist() == ["bio-fit/report.html"]
    assert not list(workspace.archives.iterdir())
    assert ask(app, f"/archives/{job}.zip")[0] == 404


def test_archives_at_the_same_time_are_limited_and_take_nothing_from_uploads(downloads, workspace, monkeypatch):
    app, token, job = downloads
    for number in range(MOST_ARCHIVES):
        (workspace.archives / f"{number}.zip").write_bytes(b"zip")
    status, _, body = ask(app, f"/archives/{job}.zip", cookie=f"{SESSION_COOKIE}={token}")
    assert (status, body) == (503, b"Too many archives are being downloaded; try again in a minute.")
    assert not list(workspace.received.iterdir())
    workspace.clear_received()
    assert not list(workspace.archives.iterdir())
    monkeypatch.setattr("subquad.app.files._pack", lambda *_: (_ for _ in ()).throw(OSError("disk is full")))
    with pytest.raises(OSError, match="disk is full"):
        ask(app, f"/archives/{job}.zip", cookie=f"{SESSION_COOKIE}={token}")
    assert not list(workspace.archives.iterdir())


def test_an_output_that_is_a_file_is_in_its_archive(downloads, tmp_path, workspace):
    app, token, job = downloads
    folder = workspace.session(token).job(job).folder
    write_json(folder / "job.json", {**read_json(folder / "job.json"), "kind": "hep predict", "output": "scores.root"})
    (folder / "scores.root").write_bytes(b"root")
    (tmp_path / "a.zip").write_bytes(ask(app, f"/archives/{job}.zip", cookie=f"{SESSION_COOKIE}={token}")[2])
    archive = zipfile.ZipFile(tmp_path / "a.zip")
    assert archive.namelist() == ["hep-predict/scores.root"]
    assert archive.read("hep-predict/scores.root") == b"root"


@pytest.mark.parametrize("name", ["%00", "x" * 300, "x/" * 3000, "%ff", "out/report.html/x", "%2e%2e/%2e%2e"])
def test_names_that_no_file_can_have_are_those_of_no_file(downloads, name):
    app, token, job = downloads
    path = name.replace("%00", "\0").replace("%ff", "\ufffd").replace("%2e", ".")
    for start in (f"/files/{job}/", f"/files/{job}/out/"):
        status, _, body = ask(app, f"{start}{path}", cookie=f"{SESSION_COOKIE}={token}")
        assert status == 404
        # the latter in front of the routes
        assert body in (b"There is no such file.", b"This page has no such address.")


def test_a_job_with_a_damaged_record_has_no_downloads(downloads, workspace):
    app, token, job = downloads
    (workspace.session(token).job(job).folder / "job.json").write_text("{}")
    for path in (f"/files/{job}/out/report.html", f"/archives/{job}.zip"):
        assert ask(app, path, cookie=f"{SESSION_COOKIE}={token}")[0] == 404


@pytest.mark.parametrize("span", ["bytes=-x", "lines=0-1", "bytes=9-1", "bytes=999999-", "bytes=0-1", "bytes="])
def test_an_archive_is_deleted_whatever_part_of_it_is_asked_for(downloads, workspace, span):
    app, token, job = downloads
    for _ in range(MOST_ARCHIVES + 1):
        status = ask(app, f"/archives/{job}.zip", cookie=f"{SESSION_COOKIE}={token}", range=span)[0]
        assert status in (206, 400, 416)
        assert not list(workspace.archives.iterdir())


def test_archives_leave_room_on_the_disk(downloads, workspace, monkeypatch):
    app, token, job = downloads
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1010))
    status, _, body = ask(app, f"/archives/{job}.zip", cookie=f"{SESSION_COOKIE}={token}")
    assert status == 507
    assert body.startswith(b"The disk of this page has no room for this: ")
    assert not list(workspace.archives.iterdir())


def test_archives_that_are_packed_at_the_same_time_leave_room_together(downloads, monkeypatch):
    app, token, job = downloads
    own = f"{SESSION_COOKIE}={token}"
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000 + 20))
    packed, states = files._packed, []

    def pack(*given):
        # another one is asked for while this one is packed
        if not states:
            states.append(None)
            states[0] = ask(app, f"/archives/{job}.zip", cookie=own)[0]
        return packed(*given)

    monkeypatch.setattr(files, "_packed", pack)
    assert ask(app, f"/archives/{job}.zip", cookie=own)[0] == 200
    assert states == [507]
    # what was packed counts no more
    assert ask(app, f"/archives/{job}.zip", cookie=own)[0] == 200


def test_a_file_that_is_deleted_meanwhile_is_left_out_of_the_archive(downloads, tmp_path, workspace, monkeypatch):
    app, token, job = downloads
    out = workspace.session(token).job(job).out
    monkeypatch.setattr(files, "_files", lambda _: [out / "gone.csv", out / "report.html"])
    (tmp_path / "a.zip").write_bytes(ask(app, f"/archives/{job}.zip", cookie=f"{SESSION_COOKIE}={token}")[2])
    assert zipfile.ZipFile(tmp_path / "a.zip").namelist() == ["bio-fit/report.html"]
