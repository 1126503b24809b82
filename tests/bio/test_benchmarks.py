"""Each benchmark of the field passes its own checks and runs to its JSON line; what it measures is not looked at."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RUNS = {
    "bio_speed": ("step", "forward", "kernel"),
    "bio_esm": ("ratio_to_float32", "ratio_to_faster", "parameters"),
    "bio_growth": ("exponents", "peak_mib"),
}


@pytest.mark.long
@pytest.mark.parametrize("name", RUNS)
def test_a_benchmark_ends_in_one_line_of_json(name):
    if name == "bio_esm":
        pytest.importorskip("transformers")
    # a benchmark as one would start it: without the checks of shapes that tests add
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--quick"]
    command += ["--length", "64"] if name == "bio_esm" else []
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["benchmark"] == name
    assert result.keys() >= set(RUNS[name])
