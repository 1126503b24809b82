"""A record of what must not get worse: quality, floors of the tests, throughput, and seconds until an answer.

    python benchmarks/record.py --out FILE.json
    python benchmarks/record.py --compare benchmarks/results/record.json

Measures the `subquad` that is importable (PYTHONPATH decides) on shipped data, by its command line: the quick demo, and
with `--demo FOLDER` the whole one, which is run if there is no such folder; commands of README and the tutorials;
training throughput from the difference of two fits, so that loading and reports cancel; and processor time until
`--help` and until a refusal, the median of three. It takes about a quarter of a CPU-hour. Floors of quality are read
from `tests/`. `--compare` prints a table, and exits with 1 if a figure is worse than recorded by more than its
tolerance or a floor is lower. Times count on the same processor only. The last line is JSON.
"""

import argparse
import ast
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from pydoc_data.topics import topics
from statistics import median

import numpy as np
import pandas as pd
import uproot

from subquad import bio

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "benchmarks" / "results" / "record.json"
"""Its floors name the tests."""
BIO_FIT = "bio fit variants.csv --models ridge boosting lyra --boosting-iterations 50 --ensemble-size 1 --batch-size 64"
LLM_FIT = "llm linearize smollm2 --text text.txt --sequence-length 1024 --transfer-tokens 1024 --evaluation-tokens 1024"
COMMANDS = (
    "bio predict example:tdp43-model variants.csv --out predictions.csv",
    "bio scan example:tdp43-model --direction minimize --out scan",
    "bio epistasis example:tdp43 --out epistasis",
    "bio design example:tdp43-model --direction minimize --max-mutations 3 --number 24 --out designs",
    f"{BIO_FIT} --epochs 4 --out variants",
    "hep predict example:tagger example:jets --out scores.root",
    "hep fit example:jets --epochs 3 --out tagger",
    "hep evaluate tagger --out evaluation",
    f"{LLM_FIT} --lora-tokens 2048 --out student",
    "llm generate student --prompt The --max-new-tokens 20",
    "llm evaluate student --text held_out.txt --sequence-length 1024 --evaluation-tokens 1024 --out measured",
)
LONGER = {
    "bio fit: sequences per CPU-second": (f"{BIO_FIT} --epochs 16 --out longer_variants", 12 * 2400),
    "hep fit: jets per CPU-second": ("hep fit example:jets --epochs 15 --out longer_tagger", 12 * 1050),
    "llm linearize: tokens per CPU-second": (f"{LLM_FIT} --lora-tokens 6144 --out longer_student", 4096),
}
"""The same fits with a larger budget, and by how much it is larger."""
ANSWERS = (
    *("--help", "bio fit --help", "llm linearize --help", "hep fit --help"),
    *("bio fit nofile.csv --out x", "hep fit nofile.root --out x", "bio fit example:tdp43 --out x --epochs -1"),
    "llm linearize nosuchmodel --text nofile.txt --out x",
)
FIGURES = {
    "bio scan: rows": "scan.csv",
    "bio epistasis: rows": "pairs.csv",
    "bio design: rows": "designs.csv",
    "bio fit: Spearman": "metrics.json test ensemble spearman",
    "hep fit: top-1": "metrics.json test net accuracy",
    "hep fit: AUC": "metrics.json test net auc_ovo",
    "hep evaluate: AUC": "metrics.json test * auc_ovo",
    "llm linearize: perplexity": "metrics.json test fine_tuned perplexity",
    "llm evaluate: perplexity": "evaluation.json models * perplexity * models fine_tuned value",
}
"""File of a command's output, and the keys to a figure; * stands for the first item."""
RULES = (
    ("exit status|rows", 0, 0, 0),
    ("hep predict: top-1", 1, 0, 0.005),
    ("top-1", 1, 0, 0.03),
    ("hep.*AUC", 1, 0, 0.02),
    ("Spearman", 1, 0, 0.01),
    ("perplexity", -1, 0.02, 0),
    ("per CPU-second", 1, 0.25, 0),
    ("answer.*CPU-seconds", -1, 0.25, 0.2),
    ("CPU-seconds", -1, 0.25, 2),
)
"""Pattern of a name; 1 if higher is better, -1 if lower, 0 if it must be equal; relative and absolute tolerance."""


def run(command, folder):
    """Run a command in a folder; return the processor time of its processes and its exit status."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    words = [sys.executable, "-m", "subquad", *command.split()]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{seconds:8.2f} CPU-seconds, exit status {done.returncode}: {command}", file=sys.stderr, flush=True)
    if done.returncode not in (0, 2):
        print(done.stderr[-2000:], file=sys.stderr)
    return round(seconds, 2), done.returncode


def write_inputs(folder):
    """Write a table of 3,000 variants and two texts."""
    table = pd.read_csv(bio.resolve_table("example:tdp43")).sample(3000, random_state=0)
    table["split"] = ["train"] * 2400 + ["validation"] * 300 + ["test"] * 300
    table.to_csv(folder / "variants.csv", index=False)
    text = "\n\n".join(topics[name] for name in sorted(topics))
    (folder / "text.txt").write_text(text[:-45_000], encoding="utf-8")
    (folder / "held_out.txt").write_text(text[-45_000:], encoding="utf-8")


def figures_of(name, output):
    """Return the figures in a command's output; those that cannot be read are left out."""
    figures = {}
    try:
        if name == "hep predict":
            scores = uproot.open(output)["Events"].arrays(library="np")
            names = [branch.removeprefix("score_") for branch in scores if branch.startswith("score_")]
            best, true = (np.stack([scores[part + name] for name in names]).argmax(0) for part in ("score_", "label_"))
            figures = {f"{name}: rows": len(true), f"{name}: top-1": float((best == true).mean())}
        if name == "bio predict":
            table = pd.read_csv(output)
            correlation = table["prediction"].corr(table["toxicity"], method="spearman")
            figures = {f"{name}: rows": len(table), f"{name}: Spearman": correlation}
        for figure in (figure for figure in FIGURES if figure.startswith(f"{name}:")):
            file, *keys = FIGURES[figure].split()
            is_table, path = file.endswith(".csv"), output / file
            value = len(pd.read_csv(path)) if is_table else json.loads(path.read_text(encoding="utf-8"))
            for key in keys:
                value = next(iter(value.values() if isinstance(value, dict) else value)) if key == "*" else value[key]
            figures[figure] = value
    except (OSError, LookupError, ValueError) as error:
        print(f"{name}: {error!r}", file=sys.stderr)
    return figures


def demo(label, flags, folder):
    """Run a demo if there is no such folder, and return its figures; its processor time is kept beside the folder."""
    note = folder.with_name(f"{folder.name}.json")
    if not folder.exists():
        note.write_text(json.dumps({f"{label}: CPU-seconds": run(f"demo {flags}--out {folder}", folder.parent)[0]}))
    figures = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else {}
    for name in ("bio fit", "llm linearize", "hep fit"):
        figures |= {f"{label} {key}": value for key, value in figures_of(name, folder / name.split()[0]).items()}
    return figures


def measure(folder, whole_demo):
    """Return all figures by name."""
    figures = demo("demo", "", whole_demo.resolve()) if whole_demo else {}
    figures |= demo("quick demo", "--quick ", folder / "quick")
    write_inputs(folder)
    for command in COMMANDS:
        *words, output = command.split()
        name = " ".join(words[:2])
        figures[f"{name}: CPU-seconds"], figures[f"{name}: exit status"] = run(command, folder)
        figures |= figures_of(name, folder / output)
    for name, (command, more) in LONGER.items():
        seconds = run(command, folder)[0] - figures[f"{name.split(':')[0]}: CPU-seconds"]
        figures[name] = round(more / seconds, 1)
    for command in ANSWERS:
        answers = [run(command, folder) for _ in range(3)]
        figures[f"answer to {command}: CPU-seconds"] = median(seconds for seconds, _ in answers)
        figures[f"answer to {command}: exit status"] = answers[0][1]
    return figures


def floors(tests):
    """Return the numbers that assertions want exceeded (not reached, in tests of llm), the strictest first, by test."""
    bounds = {test: set() for test in tests}
    for path in (ROOT / "tests").rglob("test_*.py"):
        text = path.read_text(encoding="utf-8")
        for name, value in re.findall(r"^([A-Z_]+) = ([\d.]+)$", text, re.MULTILINE):
            text = re.sub(rf"\b{name}\b(?! =)", value, text)
        functions = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
        # a test may have moved to another file
        for test in (test for test in tests if test.split("::")[1] in functions):
            sign = "<" if "/llm/" in test else ">"
            comparisons = [node for node in ast.walk(functions[test.split("::")[1]]) if isinstance(node, ast.Compare)]
            for part in re.findall(f"{sign} ([^<>;]+)", "; ".join(map(ast.unparse, comparisons))):
                bounds[test].update(float(term.replace(" ", "")) for term in re.findall(r"(?:- )?\d+\.\d+", part))
    return {test: sorted(values, reverse="/llm/" not in test) for test, values in bounds.items()}


def compare(before, now):
    """Print a table of both records; return the names of what has become worse."""
    worse, is_same_machine = [], before["machine"] == now["machine"]
    for name, value in before["figures"].items():
        # without --demo the whole demo is not measured
        new, is_worse = now["figures"].get(name), not name.startswith("demo")
        _, direction, relative, absolute = next(rule for rule in RULES if re.search(rule[0], name))
        if new is not None:
            loss = direction * (value - new) if direction else abs(value - new)
            is_worse = loss > relative * abs(value) + absolute and (is_same_machine or "CPU-second" not in name)
        worse += [name] if is_worse else []
        print(
            f"{value:>12.5g} {'-' if new is None else format(new, '.5g'):>12} {'worse' if is_worse else '':5}  {name}"
        )
    for test, bounds in before["floors"].items():
        new, sign = now["floors"][test], -1 if "/llm/" in test else 1
        if len(new) < len(bounds) or any(sign * b < sign * a for a, b in zip(bounds, new, strict=False)):
            worse.append(test)
            print(f"{bounds} {new} worse  {test}")
    return worse


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for flag in ("--out", "--compare", "--demo"):
        parser.add_argument(flag, type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), arguments.demo)
    processor = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))[1]
    git = ["git", "-C", str(Path(bio.__file__).parent), "rev-parse", "--short", "HEAD"]
    record = {
        "benchmark": "record",
        "commit": subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip(),
        "machine": [processor, os.cpu_count(), f"torch {version('torch')}"],
        "figures": figures,
        "floors": floors(json.loads(RECORD.read_text(encoding="utf-8"))["floors"]),
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    worse = compare(json.loads(arguments.compare.read_text(encoding="utf-8")), record) if arguments.compare else []
    print(json.dumps(record | {"worse": worse}))
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
