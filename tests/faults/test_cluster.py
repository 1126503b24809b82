"""A benchmark on a Ray cluster of two nodes, of which one is lost."""

import os
import subprocess
import sys
import textwrap
from collections import Counter

import pytest
from support.bio_bench import stand_in, write_tasks

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif("SUBQUAD_KILLS" not in os.environ, reason="`make test-faults` runs it"),
]


def test_tasks_of_a_machine_that_is_lost_run_on_another(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    starts_of = stand_in(tmp_path, monkeypatch)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    names = [f"a/nap{number}" for number in range(4)]
    tasks = write_tasks(tmp_path, dict.fromkeys(names, "nap"))
    code = f"""
        import threading, time
        from pathlib import Path
        from ray.cluster_utils import Cluster
        cluster = Cluster(initialize_head=True, head_node_args={{"num_cpus": 1, "include_dashboard": False}})
        lost = cluster.add_node(num_cpus=2)
        import ray
        ray.init(address=cluster.address, log_to_driver=False)

        def lose():
            # both machines work on a task
            while len(Path({str(tmp_path / "calls.txt")!r}).read_text().splitlines()) < 3:
                time.sleep(0.1)
            cluster.remove_node(lost, allow_graceful=False)

        Path({str(tmp_path / "calls.txt")!r}).touch()
        threading.Thread(target=lose, daemon=True).start()
        from subquad.bio.commands.bench import bench
        from subquad.bio.benchmark.settings import BenchSettings
        found = bench({str(tasks)!r}, BenchSettings(ray=True), out={str(tmp_path / "out")!r}, quiet=True)
        print("failed:", found["failed"], "done:", len(found["tasks"]))
        ray.shutdown()
        cluster.shutdown()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert "failed: [] done: 4" in done.stdout, done.stdout + done.stderr
    # those of the lost machine were started again, and no finished one was
    starts = Counter(line.split()[0] for line in starts_of())
    assert set(starts) == {name.removeprefix("a/") for name in names}
    assert 4 < starts.total() <= 6
