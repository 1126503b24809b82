"""Tokens per second and memory of both stages, against LoRA fine-tuning of the softmax model with peft.

Run: python benchmarks/llm_train.py [--threads 2] [--lengths 1024] [--repeats 5] [--precision bfloat16]

SmolLM2-135M with the default settings, one sequence per step: `transfer` is a step of stage 1, `lora` one of stage 2,
`distillation` one that includes a pass of the teacher; `softmax` is the step without subquad: the same LoRA updates of
the same layers in the model of transformers, with its sdpa attention and its loss. All alternate; rates are medians,
and ratios are medians of neighbouring pairs. First it is checked that with a window over the whole text stage 2 has the
loss of the softmax model. Peak memory is measured in separate processes that open the checkpoint and take three steps.
Ends in one line of JSON.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from peft import LoraConfig, LoraModel

from subquad.llm.models.adapter import add_lora
from subquad.llm.models.attention import attention_mode
from subquad.llm.models.checkpoints import open_checkpoint, open_tokenizer
from subquad.llm.models.convert import convert
from subquad.llm.models.location import locate
from subquad.llm.settings import AttentionSettings, LinearizeSettings
from subquad.llm.training.lora import fine_tune_step
from subquad.llm.training.transfer import freeze_for_transfer, transfer_step

WAYS = ("transfer", "lora", "distillation", "softmax")
SETTINGS = LinearizeSettings()


def draw(length: int) -> torch.Tensor:
    return torch.randint(0, 40_000, (1, length), generator=torch.Generator().manual_seed(0))


def step_of(way: str, model: str | Path) -> Callable[[torch.Tensor], float]:
    """Return what takes one step without the optimizer and gives its loss."""
    net = open_checkpoint(Path(model) if Path(model).exists() else locate(str(model)))
    if way == "softmax":
        how = LoraConfig(r=SETTINGS.lora_rank, lora_alpha=SETTINGS.lora_alpha, target_modules="all-linear")
        tuned = LoraModel(net, how, "default")

        def step(ids: torch.Tensor) -> float:
            loss = tuned(input_ids=ids, labels=ids, use_cache=False).loss
            loss.backward()
            return loss.item()

        return step
    convert(net, SETTINGS.attention)
    if way == "transfer":
        freeze_for_transfer(net)
        return lambda ids: float(transfer_step(net, ids, torch.Tensor.backward)["loss"])
    ours = add_lora(net, SETTINGS, seed=0)
    settings = replace(SETTINGS, distillation_weight=0.5 if way == "distillation" else 0.0)

    def tune(ids: torch.Tensor) -> float:
        with attention_mode(ours, "hybrid"):
            return float(fine_tune_step(ours, ids, torch.Tensor.backward, settings=settings)["loss"])

    return tune


def check() -> float:
    """Return how far the losses are apart where the window holds the whole text, as a part of the loss."""
    ids, net = draw(100), open_checkpoint(locate("smollm2"))
    with torch.no_grad():
        expected = net(input_ids=ids, labels=ids).loss.item()
    tuned = add_lora(convert(net, AttentionSettings(window=100)), SETTINGS, seed=0)
    found = float(fine_tune_step(tuned, ids, torch.Tensor.backward)["loss"])
    error = abs(found - expected) / expected
    if error > 1e-4:
        raise SystemExit(f"the losses differ: {found} and {expected}")
    return error


def autocast(precision: str) -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16")


def peak_of(way: str, options: argparse.Namespace, model: Path) -> float:
    """Return the MiB that a process needs at most to open the checkpoint and take three steps."""
    command = [
        sys.executable, __file__, "--peak", way, "--model", str(model), "--threads", str(options.threads),
        "--precision", options.precision, "--lengths", str(options.lengths[0]),
    ]  # fmt: skip
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--peak", choices=["imports", *WAYS], help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    # as the training loop has it: glibc keeps large blocks that were freed
    torch.empty(2**23 - 4096)
    if options.peak:
        if options.peak != "imports":
            step = step_of(options.peak, options.model)
            with autocast(options.precision):
                for _ in range(3):
                    step(draw(options.lengths[0]))
        # of Linux: `getrusage` counts the memory of the process that started this one
        print(int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024)
        return
    error, rows = check(), []
    steps = {way: step_of(way, "smollm2") for way in WAYS}
    for length in options.lengths:
        ids, times = draw(length), {way: [] for way in WAYS}
        for round_ in range(options.repeats + 1):
            for way, step in steps.items():
                began = time.perf_counter()
                with autocast(options.precision):
                    step(ids)
                # the first round sets up memory
                if round_:
                    times[way].append(time.perf_counter() - began)
        row = {"length": length, **{f"{way}_tokens_per_second": length / median(times[way]) for way in WAYS}}
        for way in WAYS[:-1]:
            row[f"{way}_over_softmax"] = median(
                other / own for own, other in zip(times[way], times["softmax"], strict=True)
            )
        print("  ".join(f"{key} {value:.4g}" for key, value in row.items()), flush=True)
        rows.append(row)
    del steps
    with tempfile.TemporaryDirectory() as folder:
        # weights from a folder: a GGUF file is unpacked as a whole, which is not what training needs
        net, tokenizer = open_checkpoint(locate("smollm2")), open_tokenizer(locate("smollm2"))
        net.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        del net
        peaks = {way: peak_of(way, options, Path(folder)) for way in ("imports", "transfer", "lora", "softmax")}
    result = {
        "benchmark": "llm_train",
        "cpu": platform.processor() or platform.machine(),
        "threads": options.threads,
        "precision": options.precision,
        "torch": torch.__version__,
        "largest_difference": error,
        "rows": rows,
        "peak_mib": peaks,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
