"""Perplexity relative to the teacher by training tokens: the paper's recipe and ours on the same tokens.

Run: SUBQUAD_DATA=DATA python benchmarks/llm_quality.py --out DIR [--tokens 49152 98304] [--seeds 0] [--threads 2]

SmolLM2-135M-Instruct is trained on WikiText-2 (train) and GPTeacher's role-play in equal parts, with as many tokens in
stage 2 as in stage 1, and measured on WikiText-2's test text and on the last tenth of the role-play, which is never
trained on. Both have the attention of arXiv:2410.10254. `paper` has its learning rates (1e-2, then 1e-4), rank, layers
and loss; `ours` has the defaults, or `--settings`. An interrupted benchmark is resumed. Ends in one line of JSON.
"""

import argparse
import json
import os
import platform
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, stdev

import torch
from llm_length import PAPER

from subquad import llm
from subquad.llm.data.packing import prepare_text
from subquad.llm.models.checkpoints import open_checkpoint, open_tokenizer
from subquad.llm.models.convert import convert
from subquad.llm.models.location import locate
from subquad.llm.settings import AttentionSettings, LinearizeSettings
from subquad.llm.training.metrics import perplexity
from subquad.runs.storage import read_json, write_json

LENGTH, MEASURED = 1024, 8


def texts(data: Path, out: Path) -> tuple[list[Path], dict[str, Path]]:
    """Return the training files and the evaluation files."""
    rows = json.loads((data / "instruct/gpteacher/roleplay.json").read_text())
    cut = len(rows) * 9 // 10
    for name, part in (("roleplay_train.json", rows[:cut]), ("roleplay_test.json", rows[cut:])):
        write_json(out / name, part)
    wiki = data / "text/wikitext2"
    training = [wiki / "train_5k.txt", out / "roleplay_train.json"]
    return training, {"wikitext": wiki / "test.txt", "roleplay": out / "roleplay_test.json"}


def measure(model: torch.nn.Module, held_out: dict[str, torch.Tensor], mode: str) -> dict[str, float]:
    return {name: perplexity(model, ids, mode=mode) for name, ids in held_out.items()}


def run(settings: LinearizeSettings, out: Path, *, training: list[Path], held_out: dict, seed: int) -> dict:
    """Return the perplexities of one run, which is repeated only if it is not finished."""
    kept = out / "measured.json"
    if not kept.is_file():
        if not (out / "metrics.json").is_file():
            llm.linearize("smollm2", training, settings, out=out, seed=seed)
        model, _ = llm.load(out)
        found = {mode: measure(model, held_out, mode) for mode in ("hybrid", "window")}
        write_json(kept, found)
        # the weights are not needed any more
        (out / "model.safetensors").unlink()
    return read_json(kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=int, nargs="+", default=[49_152, 98_304], help="of both stages together")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--settings", default="{}", help="JSON of settings of `ours`")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    training, measured = texts(Path(os.environ["SUBQUAD_DATA"]) / "llm", options.out)
    model, tokenizer = open_checkpoint(locate("smollm2")), open_tokenizer(locate("smollm2"))
    held_out = {
        name: prepare_text(tokenizer, training, [file], sequence_length=LENGTH, quiet=True).holdout.ids[:MEASURED]
        for name, file in measured.items()
    }
    attention = AttentionSettings(**PAPER)
    convert(model, attention, check=False)
    teacher, window = (measure(model, held_out, mode) for mode in ("softmax", "window"))
    del model
    # perplexity is measured below, so that the run itself measures little
    common = {
        "attention": attention,
        "sequence_length": LENGTH,
        "text_weights": (1.0, 1.0),
        "evaluation_tokens": LENGTH,
    }
    recipes = {
        "paper": LinearizeSettings(
            **common,
            transfer_learning_rate=1e-2,
            lora_learning_rate=1e-4,
            lora_rank=8,
            lora_alpha=16.0,
            feature_map_learning_rate=0.0,
            lora_targets=("q_proj", "k_proj", "v_proj", "o_proj"),
        ),
        "ours": LinearizeSettings(**common, **json.loads(options.settings)),
    }
    rows = []
    for tokens in options.tokens:
        for name, recipe in recipes.items():
            settings = replace(recipe, transfer_tokens=tokens // 2, lora_tokens=tokens // 2)
            runs = []
            for seed in options.seeds:
                out = options.out / f"{name}-{tokens}-{seed}"
                runs.append(run(settings, out, training=training, held_out=held_out, seed=seed))
            row = {"recipe": name, "tokens": tokens, "seeds": len(runs)}
            for text in held_out:
                ratios = [made["hybrid"][text] / teacher[text] for made in runs]
                row[text] = fmean(ratios)
                row[f"{text}_spread"] = stdev(ratios) if len(ratios) > 1 else None
                row[f"{text}_without_linear"] = fmean(made["window"][text] / teacher[text] for made in runs)
            print(json.dumps(row), flush=True)
            rows.append(row)
    result = {
        "benchmark": "llm_quality",
        "cpu": platform.processor() or platform.machine(),
        "threads": options.threads,
        "torch": torch.__version__,
        "teacher": teacher,
        "window": {name: window[name] / teacher[name] for name in window},
        "ours": asdict(recipes["ours"]),
        "rows": rows,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
