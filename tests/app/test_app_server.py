"""The server: who may open the page, which files it takes and gives away, and that its workspace has one server."""

import asyncio
import gzip
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from starlette.testclient import TestClient

from subquad.app import server
from subquad.app.preview import preview
from subquad.app.server import AppSettings, make_app, read_users, serve
from subquad.errors import SubquadError
from subquad.runs.lock import lock_folder

JOB = "20260101-000000-000000000"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    root = tmp_path_factory.mktemp("work").resolve()
    folder = root / "jobs" / JOB
    (folder / "out").mkdir(parents=True)
    (folder / "out" / "report.html").write_text("<p>The report</p>")
    record = {"words": ["bio", "fit", "x"], "title": "Old", "out": "out", "created": 0}
    (folder / "job.json").write_text(json.dumps(record))
    (folder / "status").write_text("0")
    (folder / "log.txt").write_text("done")
    (root / "secret.txt").write_text("secret")
    return root


@pytest.fixture(scope="module")
def client(workspace):
    application, jobs = make_app(AppSettings(max_upload=1), workspace, None)
    with TestClient(application, base_url="http://127.0.0.1") as client:
        yield client
    jobs.close()


def test_the_page_opens_with_results_of_an_earlier_server(client):
    page = client.get("/").text
    assert "Old, 1 Jan" in page or "Old, 31 Dec" in page
    assert "(finished)" in page


@pytest.mark.long
def test_only_files_of_jobs_are_served(client, workspace):
    job = workspace / "jobs" / JOB
    reply = client.get(f"/gradio_api/file={job}/out/report.html")
    assert reply.text == "<p>The report</p>"
    assert reply.headers["content-disposition"].startswith("inline")
    paths = ("/etc/passwd", f"{workspace}/secret.txt", f"{job}/../../secret.txt", f"{job}/%2e%2e/%2e%2e/secret.txt")
    for path in paths:
        assert client.get(f"/gradio_api/file={path}").status_code == 403, path


def test_an_event_that_names_a_file_of_the_server_gets_nothing(client, workspace):
    config = client.get("/config").json()
    number = next(entry["id"] for entry in config["dependencies"] if entry["targets"][0][1] == "upload")
    before = {*(workspace / "uploads").rglob("*")}
    for path in ("/etc/passwd", f"{workspace}/secret.txt"):
        files = [{"path": path, "orig_name": "a.csv", "meta": {"_type": "gradio.FileData"}}]
        event = {"data": [files], "fn_index": number, "session_hash": "a", "trigger_id": None, "event_data": None}
        assert client.post("/gradio_api/queue/join", json=event).status_code == 200
        answers = client.get("/gradio_api/queue/data", params={"session_hash": "a"}).text
        assert "Cannot move" in answers
        assert '"success":true' not in answers
    assert {*(workspace / "uploads").rglob("*")} == before


@pytest.mark.parametrize(
    "name", ["../../../escaped.csv", "/tmp/escaped.csv", "..\\..\\escaped.csv", "a/../../escaped.csv"]
)
def test_an_upload_stays_in_the_workspace(client, workspace, name):
    before = {path for path in workspace.parent.rglob("*") if workspace / "uploads" not in path.parents}
    (path,) = client.post("/gradio_api/upload", files={"files": (name, b"a\n1\n")}).json()
    assert path.startswith(f"{workspace}/uploads/")
    assert ".." not in path.split("/")
    after = {path for path in workspace.parent.rglob("*") if workspace / "uploads" not in path.parents}
    assert after == before


def test_an_upload_is_no_page_and_has_a_limit(client):
    reply = client.post("/gradio_api/upload", files={"files": ("page.html", b"<script>1</script>")})
    (path,) = reply.json()
    assert client.get(f"/gradio_api/file={path}").headers["content-disposition"].startswith("attachment")
    reply = client.post("/gradio_api/upload", files={"files": ("large.csv", b"x" * (2**20 + 1))})
    assert reply.status_code == 413


def test_a_foreign_name_of_this_computer_is_refused(client):
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400


@pytest.mark.parametrize(
    "headers", [{"origin": "http://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}]
)
def test_another_site_cannot_write(client, headers):
    assert client.post("/gradio_api/upload", files={"files": ("a.csv", b"a")}, headers=headers).status_code == 403
    same = {"origin": "http://127.0.0.1", "sec-fetch-site": "same-origin"}
    assert client.post("/gradio_api/upload", files={"files": ("a.csv", b"a")}, headers=same).status_code == 200


def test_uploads_that_no_job_reads_make_space_when_they_are_old(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "UPLOADS", 3)
    for name in ("old", "read", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.csv").write_bytes(b"x" * 90)
    for name in ("old", "read"):
        os.utime(tmp_path / name, (0, 0))
    jobs = SimpleNamespace(list=lambda: [SimpleNamespace(words=["bio", "fit", str(tmp_path / "read" / "a.csv")])])
    space = server.Guard(None, tmp_path, jobs, most=100)
    assert space._make_space()
    assert {path.name for path in tmp_path.iterdir()} == {"read", "new"}
    (tmp_path / "new" / "b.csv").write_bytes(b"x" * 90)
    assert not space._make_space()


def test_a_page_with_damaged_uploads_starts(tmp_path):
    folder = tmp_path / "uploads" / "hash"
    folder.mkdir(parents=True)
    for name in ("a.csv", "a.xlsx", "a.parquet", "a.fasta"):
        (folder / name).write_bytes(b"\0PK\xff")
    application, jobs = make_app(AppSettings(), tmp_path, None)
    with TestClient(application, base_url="http://127.0.0.1") as client:
        assert "a.xlsx" in client.get("/").text
    jobs.close()


@pytest.mark.long
def test_a_table_of_any_size_has_no_preview(tmp_path):
    with gzip.open(tmp_path / "large.csv.gz", "wb") as file:
        file.write(b"sequence,score\n")
        for _ in range(400):
            file.write(b"A,1\n" * 2**20)
    names, text = preview(str(tmp_path / "large.csv.gz"), 0)
    assert (names, "too large" in text) == ([], True)
    assert preview("example:tdp43", 0)[0] == ["sequence", "toxicity", "split"]


def test_a_page_with_passwords_shows_nothing_without_one_and_is_slow_to_say_so(workspace, monkeypatch):
    waited, sleep = [], asyncio.sleep

    async def wait(seconds, *given):
        waited.append(seconds)
        await sleep(seconds, *given)

    monkeypatch.setattr(server, "SECONDS_OF_LOGIN", 0.0123)
    monkeypatch.setattr(server.asyncio, "sleep", wait)
    application, jobs = make_app(AppSettings(), workspace, [("ada", "lovelace")])
    with TestClient(application, base_url="http://192.0.2.1") as client:
        address = f"/gradio_api/file={workspace}/jobs/{JOB}/out/report.html"
        assert client.get("/config").status_code == 401
        assert client.get(address).status_code == 401
        assert client.post("/gradio_api/upload", files={"files": ("a.csv", b"a")}).status_code == 401
        assert client.post("/login", data={"username": "ada", "password": "wrong"}).status_code == 400
        assert client.post("/login", data={"username": "ada", "password": "lovelace"}).status_code == 200
        assert client.get(address).text == "<p>The report</p>"
    assert waited.count(0.0123) == 2
    jobs.close()


def test_other_computers_need_a_password(tmp_path):
    assert AppSettings().host == "127.0.0.1"
    file = tmp_path / "users.txt"
    for host in ("0.0.0.0", "::", "192.0.2.1", "localhost.example"):
        with pytest.raises(SubquadError, match="--password-file"):
            serve(AppSettings(host=host, workspace=tmp_path / "work"))
    file.write_text("no colon\n")
    with pytest.raises(SubquadError, match="NAME:PASSWORD"):
        read_users(AppSettings(host="0.0.0.0", password_file=file))
    file.write_text("ada:love:lace\n\ngrace:hopper\n")
    assert read_users(AppSettings(host="0.0.0.0", password_file=file)) == [("ada", "love:lace"), ("grace", "hopper")]
    assert read_users(AppSettings(host="::1")) is None


@pytest.mark.long
def test_a_second_server_of_a_workspace_is_refused(tmp_path):
    with lock_folder(tmp_path / "work"), pytest.raises(SubquadError, match="another process"):
        serve(AppSettings(port=0, workspace=tmp_path / "work"))


@pytest.mark.long
@pytest.mark.slow
def test_the_page_opens_without_the_packages_of_the_fields(tmp_path):
    code = (
        "import sys, pathlib; from subquad.app.server import AppSettings, make_app; "
        f"make_app(AppSettings(), pathlib.Path({str(tmp_path)!r}), None); "
        "print(*{'torch', 'transformers', 'sklearn', 'awkward'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""
