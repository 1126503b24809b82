"""What a server finds when it starts, and what it leaves when it ends."""

import contextlib
import dataclasses
import os
import time

import pytest

pytest.importorskip("gradio")

from subquad.app import server
from subquad.app.server import make_app
from subquad.app.sessions import Workspace, new_token
from subquad.app.settings import PASSWORD_VARIABLE, AppSettings
from subquad.runs import connections
from subquad.runs.storage import write_json


@pytest.fixture
def settings(tmp_path, monkeypatch):
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED", "GRADIO_RUN_HISTORY", "HF_HUB_DISABLE_TELEMETRY"):
        # the server sets them for the whole process
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)
    return AppSettings(workspace=tmp_path / "work", max_upload=1)


@pytest.fixture
def session(settings):
    session = Workspace.open(settings.workspace, settings.upload_bytes).session(new_token())
    session.touch()
    return session


def upload(session, name):
    folder = session.received / new_token()
    folder.mkdir()
    (folder / name).write_text("sequence,y\n")
    return session.take(folder / name)


def job_of(session, state, *words):
    folder = session.new_job_folder()
    record = {"kind": "bio fit", "title": "", "words": [*words], "output": "out", "created": 0.0}
    write_json(folder / "job.json", record)
    write_json(folder / "status.json", {"state": state})
    return folder


def test_addresses_that_clients_name_are_not_believed(settings, monkeypatch):
    # users of this computer could evade the delay after a wrong password
    served = []
    monkeypatch.setattr(server, "make_app", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(server.signal, "signal", lambda *_: None)
    monkeypatch.setattr(connections.QueueingServer, "run", lambda own, sockets: served.append(own.config))
    server.serve(dataclasses.replace(settings, port=0))
    assert [config.proxy_headers for config in served] == [False]


def test_what_a_killed_server_left_is_deleted_when_the_next_one_starts(settings, session):
    kept, left = upload(session, "kept.csv"), upload(session, "left.csv")
    job_of(session, "failed", str(kept))
    with make_app(settings):
        assert session.files("") == [kept]
        assert not list(session.received.iterdir())
        later = upload(session, "later.csv")
    assert not left.exists()
    assert not later.exists()
    assert kept.is_file()


def test_a_damaged_job_does_not_keep_the_files_of_others(settings, session):
    other = Workspace.open(settings.workspace, settings.upload_bytes).session(new_token())
    other.touch()
    (job_of(session, "stopped") / "job.json").write_text("{")
    job_of(session, "running")
    theirs = upload(other, "theirs.csv")
    before = time.time() - 40 * 86_400
    os.utime(other.folder / "used", (before, before))
    with make_app(settings):
        end = time.monotonic() + 60
        while other.folder.exists():
            assert time.monotonic() < end
            time.sleep(0.05)
    assert not theirs.exists()
    assert session.folder.exists()
