"""The training loop: it learns, stops at the best weights, and a killed run ends as if it had not been killed."""

import json
import math
import signal
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from subquad.errors import SubquadError
from subquad.runs.folder import WORK
from subquad.runs.history import read_history
from subquad.runs.storage import read_tensors_and_metadata
from subquad.runs.termination import Terminated, end_on_sigterm
from subquad.train.distributed import weights_of_batches
from subquad.train.loop import train
from subquad.train.optim import schedule
from subquad.train.settings import LoopSettings

ROWS, WIDTH = 61, 7


def problem(seed=3):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(ROWS, WIDTH, generator=generator)
    y = x @ torch.randn(WIDTH, 1, generator=generator) + 0.1 * torch.randn(ROWS, 1, generator=generator)
    return x, y


def network(seed=5):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(WIDTH, 11), nn.BatchNorm1d(11), nn.Dropout(0.2), nn.Linear(11, 1))


def run(
    model,
    *,
    steps=53,
    directory=None,
    stop_at=None,
    terminate_at=None,
    number=signal.SIGTERM,
    validate=None,
    **settings,
):
    x, y = problem()

    def batches(epoch):
        order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(epoch))
        return order.split(13)

    calls = 0

    def step(module, rows, backward):
        nonlocal calls
        calls += 1
        if calls == stop_at:
            raise KeyboardInterrupt
        if calls == terminate_at:
            signal.raise_signal(number)
        loss = nn.functional.mse_loss(module(x[rows]), y[rows])
        backward(loss)
        return {"loss": loss}

    return train(
        model,
        batches=batches,
        step=step,
        optimizer=torch.optim.AdamW(model.parameters(), lr=0.03),
        schedule=schedule("one_cycle"),
        validate=validate or (lambda module: {"loss": nn.functional.mse_loss(module(x), y).item()}),
        settings=LoopSettings(steps=steps, save_seconds=0, **{"evaluate_every": 5, **settings}),
        directory=directory,
        quiet=True,
    )


def history(folder):
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in read_history(folder)]


def test_the_loss_falls_and_the_model_holds_the_best_weights():
    model, (x, y) = network(), problem()
    outcome = run(model)
    with torch.no_grad():
        after = nn.functional.mse_loss(model.eval()(x), y).item()
    assert after == pytest.approx(outcome.best["loss"], abs=1e-6)
    assert after < 0.3 * y.var().item()
    assert outcome.steps == 53


@pytest.mark.parametrize(("stop_at", "ema_decay"), [(2, None), (17, None), (40, None), (17, 0.8)])
def test_a_stopped_run_resumes_and_ends_with_the_same_weights_and_history(tmp_path, stop_at, ema_decay):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    whole.mkdir(), stopped.mkdir()
    model = network()
    run(model, directory=whole, ema_decay=ema_decay)
    with pytest.raises(KeyboardInterrupt):
        run(network(), directory=stopped, stop_at=stop_at, ema_decay=ema_decay)
    again = network()
    run(again, directory=stopped, ema_decay=ema_decay)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert history(whole) == history(stopped)


def test_the_average_of_the_weights_is_validated_and_kept():
    x, y = problem()
    model = nn.Linear(WIDTH, 1)
    seen, expected, count = [], None, 0

    def step(module, rows, backward):
        nonlocal expected, count
        # the weights after the step before
        if count:
            seen.append(module.weight.detach().clone())
        count += 1
        loss = nn.functional.mse_loss(module(x[rows]), y[rows])
        backward(loss)
        return {"loss": loss}

    started = model.weight.detach().clone()
    outcome = train(
        model,
        batches=lambda epoch: torch.arange(ROWS).split(13),
        step=step,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        validate=lambda module: {"loss": nn.functional.mse_loss(module(x), y).item()},
        settings=LoopSettings(steps=3, evaluate_every=1, ema_decay=0.9),
        quiet=True,
    )
    assert outcome.steps == 3
    # the two averages by hand, of which the better one was kept
    expected = started.lerp(seen[0], 1 - 2 / 11).lerp(seen[1], 1 - 3 / 12)
    if outcome.best_step == 2:
        torch.testing.assert_close(model.weight, expected)
    else:
        assert (model.weight - expected).abs().max() < (seen[1] - started).abs().max()


@pytest.mark.long
def test_a_killed_process_resumes_from_its_last_checkpoint(tmp_path):
    script = textwrap.dedent(
        f"""
        import os, signal, sys
        sys.path.insert(0, {str(__file__.rsplit("/", 1)[0])!r})
        import subquad.train.loop as loop
        import test_loop
        save, count = loop._Trainer._save, 0
        def save_and_die(trainer):
            global count
            save(trainer)
            count += 1
            if count == 20:
                os.kill(os.getpid(), signal.SIGKILL)
        loop._Trainer._save = save_and_die
        from pathlib import Path
        test_loop.run(test_loop.network(), directory=Path({str(tmp_path)!r}))
        """
    )
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert killed.returncode == -9, killed.stderr
    again, model = network(), network()
    outcome = run(again, directory=tmp_path)
    run(model)
    assert outcome.steps == 53
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_a_run_that_was_killed_before_its_first_checkpoint_has_no_entry_twice(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir(), killed.mkdir()
    run(network(), directory=whole)
    earlier = json.dumps({"part": "transfer", "step": 1, "seconds": 0.1})
    own = (whole / "history.jsonl").read_text().splitlines()[0]
    (killed / "history.jsonl").write_text(f"{earlier}\n{own}\n{own[:7]}")
    run(network(), directory=killed)
    assert history(killed) == [{"part": "transfer", "step": 1}, *history(whole)]


@pytest.mark.parametrize("lost", [5, 200])
def test_a_history_that_a_power_loss_cut_has_whole_entries_afterwards(tmp_path, lost):
    with pytest.raises(KeyboardInterrupt):
        run(network(), directory=tmp_path, stop_at=40)
    content = (tmp_path / "history.jsonl").read_bytes()
    (tmp_path / "history.jsonl").write_bytes(content[:-lost])
    again, model = network(), network()
    run(again, directory=tmp_path)
    run(model)
    assert torch.equal(model[0].weight, again[0].weight)
    steps = [entry["step"] for entry in history(tmp_path) if "loss" in entry]
    assert steps == sorted(set(steps))
    assert steps[-1] == 53


def test_what_a_power_loss_left_of_a_stage_without_a_checkpoint_is_removed(tmp_path):
    earlier = json.dumps({"part": "transfer", "step": 1, "seconds": 0.1})
    (tmp_path / "history.jsonl").write_bytes(earlier.encode() + b"\n" + bytes(300) + b"\n[]\n")
    run(network(), directory=tmp_path)
    assert history(tmp_path)[0] == {"part": "transfer", "step": 1}
    assert all(entry["part"] == "fit" for entry in history(tmp_path)[1:])


@pytest.mark.long
@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_saves_a_checkpoint_at_the_end_of_its_step(tmp_path, number, error):
    whole, ended = tmp_path / "whole", tmp_path / "ended"
    whole.mkdir(), ended.mkdir()
    # the history has an entry for every third step, and the signal comes between two of them
    options = {"steps": 601, "evaluate_every": 200}
    model, again = network(), network()
    run(model, directory=whole, **options)
    previous = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT)}
    try:
        end_on_sigterm()
        # a shell that starts the tests in the background lets them ignore it
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with pytest.raises(error):
            run(network(), directory=ended, terminate_at=299, number=number, **options)
    finally:
        for name, handler in previous.items():
            signal.signal(name, handler)
    _, header = read_tensors_and_metadata(ended / WORK / "checkpoint-fit.safetensors")
    assert json.loads(header["state"])["steps"] == 299
    run(again, directory=ended, **options)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert history(whole) == history(ended)


@pytest.mark.parametrize("ignored", [False, True])
def test_where_sigterm_does_not_end_the_process_a_training_is_whole_or_has_ended(tmp_path, ignored):
    previous = signal.signal(signal.SIGTERM, signal.SIG_IGN if ignored else lambda *_: None)
    try:
        if ignored:
            assert run(network(), directory=tmp_path, terminate_at=17).steps == 53
        else:
            with pytest.raises(Terminated):
                run(network(), directory=tmp_path, terminate_at=17)
    finally:
        signal.signal(signal.SIGTERM, previous)


def test_a_metric_that_was_not_defined_at_first_gives_way_to_the_first_number():
    values = iter([float("nan"), float("nan"), 3.0, 2.0, float("nan"), 2.5, *[4.0] * 5])
    result = run(network(), validate=lambda module: {"loss": next(values)})
    assert result.best_step == 20
    assert result.best == {"loss": 2.0}


def test_a_metric_that_is_not_defined_is_null_in_the_history_and_read_as_nan(tmp_path):
    values = iter([float("nan"), float("inf"), *[2.0] * 9])
    run(network(), validate=lambda module: {"loss": next(values)}, directory=tmp_path)

    def refuse(text):
        raise ValueError(text)

    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    written = [json.loads(line, parse_constant=refuse) for line in lines]
    found = [entry["validation_loss"] for entry in written if "validation_loss" in entry]
    assert found == [None, None, *[2.0] * 9]
    read = [entry["validation_loss"] for entry in read_history(tmp_path) if "validation_loss" in entry]
    assert [math.isnan(value) for value in read] == [True, True, *[False] * 9]


def test_a_stage_that_had_ended_returns_at_once_with_its_weights(tmp_path):
    model, again = network(), network(seed=7)
    first = run(model, directory=tmp_path)
    second = run(again, directory=tmp_path, stop_at=1)
    assert first == second
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_accumulated_batches_equal_one_large_batch():
    x, y = problem()
    weights = []
    for accumulation, batches in ((1, [torch.arange(60)]), (3, list(torch.arange(60).split(20)))):
        torch.manual_seed(2)
        model = nn.Linear(WIDTH, 1)

        def step(module, rows, backward):
            loss = nn.functional.mse_loss(module(x[rows]), y[rows])
            backward(loss)
            return {"loss": loss}

        train(
            model,
            batches=lambda epoch, batches=batches: batches,
            step=step,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.05),
            settings=LoopSettings(steps=7, accumulation=accumulation, clip=None),
            quiet=True,
        )
        weights.append(model.weight.detach())
    assert torch.allclose(*weights, atol=1e-6)


def test_accumulated_batches_of_different_sizes_equal_one_large_batch():
    x, y = problem()
    found = []
    for sizes in ([60], [7, 20, 33, 0], [20, 20, 20]):
        torch.manual_seed(2)
        model = nn.Linear(WIDTH, 1)

        def step(module, rows, backward):
            # a batch may have no example that counts
            loss = nn.functional.mse_loss(module(x[rows]), y[rows], reduction="sum") / max(len(rows), 1)
            backward(loss)
            return {"loss": loss}

        train(
            model,
            batches=lambda epoch, sizes=sizes: list(torch.arange(60).split(sizes)),
            step=step,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.05),
            settings=LoopSettings(steps=7, accumulation=len(sizes), clip=None),
            counts=len,
            quiet=True,
        )
        found.append(model.weight.detach())
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[2], found[0], rtol=1e-5, atol=1e-6)


def test_batches_of_equal_sizes_are_averaged_exactly():
    assert weights_of_batches([3, 3, 3]) == [1.0, 1.0, 1.0]
    assert weights_of_batches([7]) == weights_of_batches([0]) == [1.0]
    assert weights_of_batches([1, 3, 0, 4]) == [0.5, 1.5, 0.0, 2.0]
    assert weights_of_batches([0, 0]) == [1.0, 1.0]


def test_patience_ends_a_run_that_gets_no_better():
    x, y = problem()
    model = network()
    figures = iter([1.0, 0.5, 0.7, 0.6, 0.4, 0.45, 0.41, 0.42, 0.1])

    def step(module, rows, backward):
        loss = nn.functional.mse_loss(module(x[rows]), y[rows])
        backward(loss)
        return {"loss": loss}

    outcome = train(
        model,
        batches=lambda epoch: [torch.arange(ROWS)],
        step=step,
        optimizer=torch.optim.AdamW(model.parameters(), lr=0.01),
        settings=LoopSettings(steps=90, evaluate_every=2, patience=3),
        validate=lambda module: {"score": next(figures)},
        monitor="score",
        quiet=True,
    )
    assert (outcome.stopped_early, outcome.steps, outcome.best_step) == (True, 16, 10)
    assert outcome.best == {"score": 0.4}


def test_frozen_parameters_stay_and_are_not_in_the_checkpoint(tmp_path):
    model = network()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    run(model, directory=tmp_path)
    assert torch.equal(model[0].weight, before)
    from safetensors.torch import load_file

    names = load_file(tmp_path / WORK / "checkpoint-fit.safetensors").keys()
    assert "model.3.weight" in names
    assert "model.0.weight" not in names


def test_bfloat16_keeps_the_weights_in_float32_and_learns():
    model = network()
    outcome = run(model, precision="bfloat16")
    assert model[0].weight.dtype == torch.float32
    assert outcome.best["loss"] < 0.3 * problem()[1].var().item()


@pytest.mark.parametrize("is_deferred", [False, True])
def test_a_loss_that_is_not_finite_ends_the_run_and_nothing_of_it_is_saved(tmp_path, monkeypatch, is_deferred):
    if is_deferred:
        # as on a GPU, whose losses are read when they are logged, every 10 steps, or saved
        monkeypatch.setattr(Accelerator, "device", SimpleNamespace(type="other", index=None))
        monkeypatch.setattr(nn.Module, "to", lambda self, device: self)
    model, taken = nn.Linear(WIDTH, 1), []

    def step(module, rows, backward):
        taken.append(len(taken) + 1)
        loss = module(torch.ones(1, WIDTH)).square().sum() * (float("nan") if len(taken) == 7 else 1.0)
        backward(loss)
        return {"loss": loss}

    with pytest.raises(SubquadError, match=r"fit: the loss is not finite after step 7; use a smaller learning rate"):
        train(
            model,
            batches=lambda epoch: [0],
            step=step,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.01),
            validate=lambda module: {"loss": float(module(torch.ones(1, WIDTH)).square())},
            settings=LoopSettings(steps=2000, save_seconds=0, evaluate_every=3),
            directory=tmp_path,
            quiet=True,
        )
    tensors, header = read_tensors_and_metadata(tmp_path / WORK / "checkpoint-fit.safetensors")
    assert json.loads(header["state"])["steps"] == 6
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert [entry["step"] for entry in read_history(tmp_path)] == [3, 6]


def test_weights_that_are_not_finite_end_the_run_even_if_the_loss_is(tmp_path):
    model = nn.Linear(WIDTH, 1)

    def step(module, rows, backward):
        # 0, with a gradient that is 0 times infinity
        loss = (module(torch.ones(1, WIDTH)) * 0).sqrt().sum()
        backward(loss)
        return {"loss": loss}

    with pytest.raises(SubquadError, match=r"fit: weight is not finite after step 1; use a smaller"):
        train(
            model,
            batches=lambda epoch: [0],
            step=step,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            settings=LoopSettings(steps=1),
            directory=tmp_path,
            quiet=True,
        )
    assert not list(tmp_path.rglob("checkpoint-*"))


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    run(network(), directory=tmp_path)
    other = nn.Sequential(nn.Linear(WIDTH, 17), nn.BatchNorm1d(17), nn.Dropout(0.2), nn.Linear(17, 1))
    with pytest.raises(SubquadError, match="is the checkpoint of another model"):
        run(other, directory=tmp_path)


def validated_steps(steps, every):
    model, validated = nn.Linear(WIDTH, 1), []
    x, y = problem()

    def step(module, rows, backward):
        loss = nn.functional.mse_loss(module(x), y)
        backward(loss)
        validated.append(None)
        return {"loss": loss}

    found = []
    train(
        model,
        batches=lambda epoch: [0],
        step=step,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01),
        settings=LoopSettings(steps=steps, evaluate_every=every),
        validate=lambda module: found.append(len(validated)) or {"loss": 1.0},
        quiet=True,
    )
    return found


def test_the_end_is_validated_once_even_shortly_after_a_regular_validation():
    assert validated_steps(11, 5) == [5, 11]
    assert validated_steps(13, 5) == [5, 10, 13]
    assert validated_steps(10, 5) == [5, 10]
    assert validated_steps(3, 1) == [1, 2, 3]
    assert validated_steps(3, None) == [3]
