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


@pytest.fixture
def context(workspace):
    """What the tabs share, with room for one job at a time; skipped without the extra `app`."""
    pytest.importorskip("gradio")
    from subquad.app.jobs import JobRunner
    from subquad.app.panels import Context

    runner = JobRunner(1)
    yield Context(workspace=workspace, runner=runner, is_private=False)
    runner.close()
