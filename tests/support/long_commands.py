"""The long commands of the three fields, each on an input of a second or two."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from support.bio_language_models import esm
from support.bio_tables import table
from support.forked import Command
from support.hep_jets import CLASSES, columns, write
from support.llm_models import SMALL, word_tokenizer, write_checkpoint, write_text

PROTEIN = "MKTAYIAKQRQ"
SMALL_FIT = ["--epochs", "2", "--boosting-iterations", "3", "--ensemble-size", "1", "--stack-folds", "1"]


def bio_fit(folder):
    table(folder / "table.csv", rows=149)
    target = ["--sequence", "sequence", "--target", "score"]
    return ["bio", "fit", folder / "table.csv", *target, "--models", "ridge", "boosting", "lyra", *SMALL_FIT]


def bio_cross_validate(folder):
    words = bio_fit(folder)
    return ["bio", "cross-validate", *words[2:], "--folds", "2"]


def bio_bench(folder):
    tasks = []
    for seed, name in enumerate(("one", "two")):
        table(folder / f"{name}.csv", rows=149, seed=seed)
        settings = {"sequence": "sequence", "target": ["score"], "stack_folds": 1, "ensemble_size": 1}
        tasks.append({"id": f"tiny/{name}", "file": f"{name}.csv", "task_type": "regression", "settings": settings})
    (folder / "tasks.json").write_text(json.dumps(tasks))
    budget = ["--tokens", "3000", "--boosting-iterations", "3", "--models", "ridge", "boosting", "lyra"]
    return ["bio", "bench", folder / "tasks.json", *budget]


def bio_embed(folder):
    random = np.random.default_rng(0)
    letters = np.array(list("ACDEFGHIKLMNPQRSTVWY"))
    texts = ["".join(random.choice(letters, random.integers(30, 90))) for _ in range(401)]
    pd.DataFrame({"sequence": texts}).to_csv(folder / "proteins.csv", index=False)
    (folder / "model").mkdir()
    model = esm(folder / "model")
    return ["bio", "embed", folder / "proteins.csv", "--model", model, "--residues", "--batch-tokens", "97"]


def bio_rounds(folder):
    """A round that reads measurements, fits again and proposes."""
    from subquad import bio

    letters = np.random.default_rng(0).choice(list("ADKLSW"), (137, 2))
    places = np.random.default_rng(1).permuted(np.tile(np.arange(len(PROTEIN)), (137, 1)), axis=1)[:, :2]
    texts = [
        "".join({**dict(enumerate(PROTEIN)), **dict(zip(row, new, strict=True))}.values())
        for row, new in zip(places.tolist(), letters.tolist(), strict=True)
    ]
    frame = pd.DataFrame({"protein": texts}).drop_duplicates()
    frame["activity"] = frame["protein"].str.count("W") + 2.0 * (frame["protein"].str[2] == "K")
    frame[:101].to_csv(folder / "assay.csv", index=False)
    frame[101:113].to_csv(folder / "measured.csv", index=False)
    settings = bio.FitSettings(models=("ridge", "gp"), target=("activity",), wild_type=PROTEIN)
    bio.fit(folder / "assay.csv", settings, out=folder / "run", quiet=True)
    search = ["--propose", "5", "--generations", "2", "--population", "20", "--max-mutations", "2"]
    direction = ["--direction", "maximize"]
    return ["bio", "rounds", folder / "run", "--measured", folder / "measured.csv", *direction, *search]


def hep_simulate(folder):
    sizes = ["--jets-per-class", "23", "--jets-per-file", "7", "--workers", "1"]
    return ["hep", "simulate", *sizes, "--classes", "WToQQ", "ZJetsToNuNu"]


def hep_fit(folder):
    files = [write(folder / f"{label}.root", columns(label, jets=47)) for label in CLASSES]
    return ["hep", "fit", *files, "--epochs", "3", "--batch-size", "17"]


def llm_linearize(folder):
    text = write_text(folder / "words.txt", words=2_003)
    model = write_checkpoint(folder / "model", word_tokenizer(text))
    tokens = ["--transfer-tokens", "217", "--lora-tokens", "155", "--evaluation-tokens", "93"]
    sizes = ["--attention.window", "3", "--attention.cache", "5", "--sequence-length", "31", "--precision", "float32"]
    return ["llm", "linearize", model, "--text", text, *tokens, *sizes]


def llm_linearize_blocks(folder):
    """Attention transfer by blocks of layers, whose inputs are kept on disk."""
    return [*llm_linearize(folder), "--block-layers", "1"]


def llm_evaluate(folder):
    from subquad.llm import linearize

    text = write_text(folder / "words.txt", words=2_003)
    model = write_checkpoint(folder / "model", word_tokenizer(text))
    linearize(model, text, SMALL, out=folder / "linear", quiet=True)
    other = write_text(folder / "other.txt", words=2_003, seed=1)
    sizes = ["--sequence-length", "31", "--evaluation-tokens", "155", "--batch-tokens", "62"]
    return ["llm", "evaluate", folder / "linear", "--text", text, other, *sizes, "--speed", "0", "--resamples", "100"]


FINISHED = "has a finished run"


@dataclass(frozen=True, kw_only=True)
class LongCommand:
    """A command that resumes."""

    write: Callable
    """Function that writes the input of the command into a folder and returns its words, without `--out`."""
    output: str = "out"
    """Name of the output."""
    finished: str | None = FINISHED
    """What it answers, with status 2, if it is started once more after its last file; None if it ends as before."""
    imports: str | None = None
    """Optional package that it needs."""
    takes_files: bool = True
    """Whether it goes on in a folder into which its user has put other files."""


COMMANDS = {
    "bio fit": LongCommand(write=bio_fit),
    "bio cross-validate": LongCommand(write=bio_cross_validate),
    "bio bench": LongCommand(write=bio_bench, finished=None),
    "bio embed": LongCommand(write=bio_embed, output="out.safetensors", finished="exists already"),
    "bio rounds": LongCommand(write=bio_rounds, finished="was made from the same measurements"),
    "hep simulate": LongCommand(write=hep_simulate, finished=None, imports="pythia8mc"),
    "hep fit": LongCommand(write=hep_fit),
    "llm linearize": LongCommand(write=llm_linearize),
    "llm linearize --block-layers": LongCommand(write=llm_linearize_blocks),
    "llm evaluate": LongCommand(write=llm_evaluate, finished="finished evaluation", takes_files=False),
}
"""Name → each command that resumes, some in several forms."""

LONGEST = 900.0
"""Seconds that no start of a command takes."""


@dataclass(frozen=True)
class Whole:
    """A command, and its output when it was left alone."""

    name: str
    words: list
    out: Path
    seconds: float

    def start(self, folder, **options):
        """Start the command; its output goes into a folder of its own, and what it prints beside that."""
        folder.mkdir(exist_ok=True)
        return Command(
            [*self.words, "--out", folder / self.out.name], folder.with_name(f"{folder.name}.log"), **options
        )

    @property
    def takes_files(self):
        return COMMANDS[self.name].takes_files

    def is_finished(self, command, status):
        """Return whether a command that was started again ended as it does, or with the answer that it had ended."""
        finished = COMMANDS[self.name].finished
        return status == 0 or (status == 2 and finished is not None and finished in command.output().splitlines()[-1])

    def end(self, folder):
        """Start the command and return what it printed, after it has ended without an error."""
        command = self.start(folder)
        assert command.wait(LONGEST) == 0, command.output()
        return command.output()
