"""RULER's needles by lm-eval, with softmax attention and with what takes its place in constant memory.

    pip install wonderwords
    python benchmarks/llm_ruler.py --out ruler [--length 4096] [--limit 10] [--student linear] [--arms teacher …]

`niah_single_1` hides one number in a sentence that is repeated; `niah_multikey_2` hides it among sentences of the same
form with other words and numbers (arXiv:2404.06654). lm-eval makes the prompts and judges the answers, of at most 128
tokens: the share of items whose number is in the answer. These are the two that need no texts from elsewhere.

Arms, all with the weights of the checkpoint: `teacher`, its own softmax attention; `window and cache`, and
`sliding window`, both of the default's memory, without a linear branch. `student` is a folder that `subquad llm
linearize` wrote, with all of its parts. First it is checked that within the window all arms give the logits of softmax
attention.

One JSON file per arm and task is written into --out: the same command resumes, and arms can run in parallel. The last
line is JSON, with Wilson's 95 % intervals.
"""

import argparse
import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from bio_speed import machine
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from subquad import llm
from subquad.llm.models.attention import attention_mode
from subquad.llm.models.checkpoints import open_checkpoint, open_tokenizer
from subquad.llm.models.convert import convert
from subquad.llm.models.location import locate
from subquad.llm.settings import AttentionSettings
from subquad.llm.training.controls import as_control, controls_of
from subquad.reporting.statistics import wilson
from subquad.runs.storage import read_json, write_json

ARMS = ("teacher", "sliding window", "window and cache")
CONTROLS = {"sliding window": "wide_window_fine_tuned", "window and cache": "cache_fine_tuned"}
"""The controls whose attention an arm has, without their fine-tuning."""
TASKS = ("niah_single_1", "niah_multikey_2")


def answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: str, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Return the items of a task with their answers."""
    with tempfile.TemporaryDirectory() as folder:
        # the task opens the tokenizer by name, to count the tokens of its prompts
        tokenizer.save_pretrained(folder)
        found = simple_evaluate(
            model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1),
            tasks=[task],
            limit=options.limit,
            metadata={"max_seq_lengths": [options.length], "tokenizer": folder},
            bootstrap_iters=0,
        )
    return [
        {
            "tokens": len(tokenizer.encode(item["doc"]["input"])),
            "expected": item["doc"]["outputs"],
            "answer": item["resps"][0][0],
            "right": item[str(options.length)],
        }
        for item in found["samples"][task]
    ]


@torch.no_grad()
def check(model: PreTrainedModel) -> float:
    """Return the largest difference of the logits of a short text from those of softmax attention."""
    ids = torch.arange(100, 160)[None]
    with attention_mode(model, "softmax"):
        expected = model(input_ids=ids).logits
    difference = float((model(input_ids=ids).logits - expected).abs().max())
    if difference > 1e-2:
        raise SystemExit(f"logits differ by {difference}")
    return difference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--student", type=Path, help="folder of a linearized model; one arm more")
    parser.add_argument("--arms", nargs="*", default=ARMS, choices=ARMS)
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    parser.add_argument("--length", type=int, default=4096, help="tokens of a prompt and its answer")
    parser.add_argument("--limit", type=int, default=10, help="items of each task")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    attention = AttentionSettings()
    checkpoint, tokenizer = open_checkpoint(locate(options.model)), open_tokenizer(locate(options.model))
    converted = convert(checkpoint, attention).eval()
    controls = {control.name: control for control in controls_of(converted, attention)}
    results: dict[str, dict[str, Any]] = {}
    for arm in [*options.arms, *(["student"] if options.student else [])]:
        # arms that run in parallel need not all know of the student
        names = ("length", "limit", "student" if arm == "student" else "model")
        settings = {name: str(getattr(options, name)) for name in names}
        with ExitStack() as stack:
            model = converted
            if arm == "student":
                model, tokenizer = llm.load(options.student)
            elif arm == "teacher":
                stack.enter_context(attention_mode(model, "softmax"))
            else:
                stack.enter_context(as_control(model, controls[CONTROLS[arm]]))
            difference = check(model)
            for task in options.tasks:
                file = options.out / f"{arm.replace(' ', '-')}-{task}.json"
                if not file.is_file():
                    items = answers(model, tokenizer, task, options)
                    write_json(file, {"settings": settings, "difference": difference, "items": items})
                found = read_json(file)
                if found["settings"] != settings:
                    raise SystemExit(f"{file}: was written with {found['settings']}; choose another --out")
                right = [item["right"] for item in found["items"]]
                low, high = wilson(round(sum(right)), len(right))
                results.setdefault(arm, {})[task] = {
                    **{"items": len(right), "right": sum(right) / len(right), "low": float(low), "high": float(high)},
                    "tokens": max(item["tokens"] for item in found["items"]),
                }
                print(f"{arm}, {task}: {sum(right):g} of {len(right)}", flush=True)
    print(
        json.dumps(
            {"benchmark": "llm_ruler", "length": options.length, "machine": machine(options.threads), "arms": results}
        )
    )


if __name__ == "__main__":
    main()
