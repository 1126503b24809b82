"""A workspace and a session, as a browser gets them."""

import pytest

from subquad.app.sessions import Workspace, new_token


@pytest.fixture
def workspace(tmp_path):
    return Workspace.open(tmp_path / "work", 1_000_000)


@pytest.fixture
def session(workspace):
    session = workspace.session(new_token())
    session.touch()
    return session
