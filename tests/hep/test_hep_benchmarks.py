"""The benchmarks of jets end in a line of JSON and resume; the values that they measure are not checked."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from subquad.hep import FitSettings, fit

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# always the jets that ship with the package
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "SUBQUAD_DATA"} | {"OMP_NUM_THREADS": "1"}

# each benchmark is a process of its own
pytestmark = pytest.mark.long


def command_of(name, *arguments):
    return [sys.executable, str(BENCHMARKS / f"{name}.py"), *map(str, arguments)]


def run(name, *arguments, **environment):
    environment = {**ENVIRONMENT, **environment}
    return subprocess.run(command_of(name, *arguments), capture_output=True, text=True, env=environment, check=False)


def result_of(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_growth_ends_in_one_line_of_json():
    result = result_of(run("hep_growth", "--most", 128, "--repeats", 1))
    assert result["exponents"].keys() >= {"sparse_ms", "dense_ms", "all_pairs_ms", "graph_ms", "net_ms"}
    assert [row["P"] for row in result["particles"]] == [16, 32, 64, 128]


def test_the_filter_is_measured_beside_pytorch_geometrics():
    pytest.importorskip("torch_geometric.nn", reason="needs PyTorch Geometric: pip install torch_geometric")
    result = result_of(run("hep_chebconv", "--quick", "--count", 64, "--repeats", 1))
    assert {row["particles"] for row in result["rows"]} == {"128", "real"}


def test_baselines_have_the_same_budget_and_a_second_run_reuses_the_results(tmp_path):
    arguments = ["--out", tmp_path, "--baselines", "boosting", "--epochs", 1, "--most-jets", 230]
    models = result_of(run("hep_baselines", *arguments))["models"]
    assert models.keys() == {"standard", "boosting"}
    assert models["standard"]["epochs"]["mean"] == 1
    written = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert {file.name for file in written} == {"standard_0.json", "boosting_0.json"}
    assert result_of(run("hep_baselines", *arguments))["models"] == models
    assert {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == written


@pytest.mark.parametrize("inputs", ["particles", "particles+jet"])
def test_baselines_take_the_inputs_of_our_networks(tmp_path, inputs):
    pytest.importorskip("weaver.nn.model", reason="needs weaver-core: pip install --no-deps weaver-core")
    arguments = ["--out", tmp_path, "--epochs", 1, "--most-jets", 230, "--inputs", inputs, "--batch-size", 30]
    names = ["auto", "auto-no-neighbours"], ["boosting-tuned", "particlenet", "particlenet-lite", "part"]
    arguments += ["--preset-arrange", "random", "--presets", *names[0], "--baselines", *names[1]]
    models = result_of(run("hep_baselines", *arguments))["models"]
    assert models.keys() == {*names[0], *names[1]}
    assert all(0 < found["top-1"]["mean"] < 1 for found in models.values())


def test_a_killed_training_of_a_baseline_resumes_with_the_same_result(tmp_path):
    pytest.importorskip("weaver.nn.model", reason="needs weaver-core: pip install --no-deps weaver-core")
    arguments = ["--epochs", 2, "--most-jets", 230, "--inputs", "particles", "--presets", "--baselines", "part"]
    arguments += ["--baseline-batch-size", 2]
    whole = run("hep_baselines", "--out", tmp_path / "whole", *arguments)
    assert " 50 %:" in whole.stdout
    out = tmp_path / "killed"
    with subprocess.Popen(command_of("hep_baselines", "--out", out, *arguments), env=ENVIRONMENT) as process:
        while process.poll() is None and not (out / "part_0.safetensors").is_file():
            time.sleep(0.05)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    resumed = run("hep_baselines", "--out", out, *arguments)
    assert " 50 %:" not in resumed.stdout
    columns = [result_of(done)["models"]["part"] for done in (whole, resumed)]
    assert all(columns[0][name] == columns[1][name] for name in ("top-1", "AUC", "AP", "epochs"))
    assert [file.name for file in out.iterdir()] == ["part_0.json"]


def test_samples_are_cross_validated_beside_boosting(tmp_path):
    (tmp_path / "hep" / "real").mkdir(parents=True)
    random = np.random.default_rng(0)
    eta, phi = random.normal(0, 0.2, (2, 120, 6))
    pt = random.exponential(100, (120, 6)) + 1
    vectors = np.stack([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), pt * np.cosh(eta)], 1)
    arrays = {"vectors": vectors, "mask": np.ones((120, 1, 6)), "labels": np.arange(120) % 2}
    np.savez(tmp_path / "hep" / "real" / "quark_gluon.npz", **arrays)
    arguments = ["--out", tmp_path / "folds", "--epochs", "1", "--presets", "standard", "--samples", "quark_gluon"]
    done = run("hep_folds", *arguments, SUBQUAD_DATA=str(tmp_path))
    models = result_of(done)["samples"]["quark_gluon"]
    assert models.keys() == {"standard", "boosting"}
    assert models["boosting"]["accuracy_above_boosting"]["mean"] == 0
    assert result_of(run("hep_folds", *arguments, SUBQUAD_DATA=str(tmp_path)))["samples"]["quark_gluon"] == models


def test_scoring_is_timed_on_one_core_and_on_all(jets, tmp_path):
    fit(jets, FitSettings(preset="standard", epochs=1, no_boosting=True), out=tmp_path / "tagger", quiet=True)
    result = result_of(run("hep_score", tmp_path / "tagger", *jets, "--repeats", 1))
    assert result["jets"] == 141
    assert all(rate > 0 for rate in result["jets_per_second"].values())
