"""An interrupted benchmark on a cluster that it did not start: its tasks are cancelled, and no file is left."""

from types import SimpleNamespace

import pytest

from subquad.bio.benchmark import runners
from subquad.bio.benchmark.settings import BenchSettings


def test_an_interrupted_benchmark_cancels_its_tasks_and_what_a_killed_one_left_is_removed(tmp_path, monkeypatch):
    def wait(references, num_returns):
        assert len([*tmp_path.glob(".shared-*")]) == 1
        raise KeyboardInterrupt

    cancelled = []
    ray = SimpleNamespace(
        is_initialized=lambda: True,
        remote=lambda **_: lambda function: SimpleNamespace(remote=lambda job, *_: job["id"]),
        cluster_resources=lambda: {"CPU": 1},
        wait=wait,
        cancel=cancelled.append,
    )
    monkeypatch.setattr(runners, "require", lambda *_, **__: ray)
    (tmp_path / "table.csv").touch()
    (tmp_path / ".shared-killed").touch()
    jobs = [{"id": name, "table": str(tmp_path / "table.csv")} for name in "abc"]
    with pytest.raises(KeyboardInterrupt):
        next(runners.run_on_ray(jobs, BenchSettings(ray=True), tmp_path))
    assert cancelled == ["a", "b"]
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]
