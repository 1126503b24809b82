"""Where the page may be served, and with which password."""

import socket
import sys
from pathlib import Path

import pytest

from subquad.app.settings import PASSWORD_VARIABLE, AppSettings, cache_folder, read_password
from subquad.cli import main
from subquad.errors import SubquadError
from subquad.runs.listening import is_loopback


@pytest.fixture(autouse=True)
def no_password(monkeypatch):
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1"])
def test_this_computer_needs_no_password(host):
    assert is_loopback(host)
    assert read_password(AppSettings(host=host)) is None


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "::", "example.org", "127.0.0.1.example.org"])
def test_another_host_is_refused_without_a_password(host):
    assert not is_loopback(host)
    with pytest.raises(SubquadError, match=r"protect the page with --password-file FILE or .* SUBQUAD_APP_PASSWORD"):
        read_password(AppSettings(host=host))


def test_the_password_is_the_first_line_of_the_file_or_the_variable(tmp_path, monkeypatch):
    file = tmp_path / "password"
    file.write_text("eleven little ducks\nnot this\n")
    assert read_password(AppSettings(host="0.0.0.0", password_file=file)) == "eleven little ducks"
    monkeypatch.setenv(PASSWORD_VARIABLE, "from the variable")
    assert read_password(AppSettings(host="0.0.0.0")) == "from the variable"
    assert read_password(AppSettings(host="0.0.0.0", password_file=file)) == "eleven little ducks"


def test_a_short_or_missing_password_is_refused(tmp_path):
    file = tmp_path / "password"
    file.write_text("short\n")
    with pytest.raises(SubquadError, match="at least 8 characters"):
        read_password(AppSettings(password_file=file))
    with pytest.raises(SubquadError, match="cannot be read"):
        read_password(AppSettings(password_file=tmp_path / "none"))


def test_the_command_refuses_an_open_host_before_anything_is_loaded(capsys):
    assert main(["app", "--host", "0.0.0.0"]) == 2
    assert "subquad: --host 0.0.0.0 lets other computers use this one" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong", [{"port": 70_000}, {"max_upload": 0}, {"max_jobs": 0}, {"keep_days": -1}, {"keep_free": -1}]
)
def test_settings_that_cannot_work_are_refused(wrong):
    with pytest.raises(SubquadError, match=next(iter(wrong)).replace("_", "-")):
        AppSettings(**wrong)


def test_a_folder_of_runs_must_exist(tmp_path):
    with pytest.raises(SubquadError, match="no such folder"):
        AppSettings(runs=(tmp_path / "none",))
    with pytest.raises(SubquadError, match="did you mean 'example:tagger'"):
        AppSettings(runs=(Path("example:taggers"),))
    assert AppSettings(runs=(Path("example:tagger"), tmp_path)).runs


def test_the_default_workspace_is_in_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "subquad" / "app"


def test_a_port_in_use_is_an_error_before_gradio_is_imported(capsys, monkeypatch, tmp_path):
    # with which its import fails
    monkeypatch.setitem(sys.modules, "gradio", None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["app", "--workspace", str(tmp_path), "--port", port]) == 2
    assert f"cannot listen on port {port} of 127.0.0.1 (Address already in use)" in capsys.readouterr().err
    assert main(["app", "--workspace", str(tmp_path), "--port", "0"]) == 2
    assert "gradio is not installed" in capsys.readouterr().err
