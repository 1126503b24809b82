"""Write the saved runs of this folder anew: `make golden`, as long as their format was not released.

Each folder holds a small run, `input.*` that the model is given, and `expected.json` with what it answered when it was
saved. `tests/golden/test_golden.py` loads each and compares. After a release the folders of that format stay as they
are, and new ones are written beside them.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
UNUSED = {"report.html", "history.jsonl", "test.csv", "test_scores.safetensors", "bootstrap.json"}
"""Files of a run that are not needed to load it."""

sys.path[:0] = [str(HERE.parent)]

from support import bio_tables, hep_jets, llm_models  # noqa: E402

from golden.answers import ANSWERS  # noqa: E402
from subquad import bio, hep, llm  # noqa: E402


def bio_model(folder: Path, work: Path) -> None:
    """A fit of the command line, with all its models."""
    frame = bio_tables.table(work / "table.csv", length=5)
    # with noise, so that the ensemble has several members
    frame["score"] += np.random.default_rng(1).normal(scale=0.5, size=len(frame))
    frame.to_csv(work / "table.csv", index=False)
    bio.fit(work / "table.csv", bio_tables.settings(), out=folder, quiet=True)
    frame[["sequence"]].head(7).to_csv(folder / "input.csv", index=False)


def bio_estimator(folder: Path, work: Path) -> None:
    """A scikit-learn estimator."""
    frame = bio_tables.table(work / "table.csv", length=5)
    model = bio.LyraClassifier(epochs=2.0, ensemble_size=1, random_state=0)
    model.fit(frame["sequence"].tolist(), frame["class"].tolist()).save(folder)
    frame[["sequence"]].head(7).to_csv(folder / "input.csv", index=False)


def llm_model(folder: Path, work: Path) -> None:
    """A linearized Llama with random weights."""
    text = llm_models.write_text(work / "text.txt")
    llm_models.write_checkpoint(work / "checkpoint", llm_models.word_tokenizer(text))
    llm.linearize(work / "checkpoint", text, llm_models.SMALL, out=folder, quiet=True)
    (folder / "input.txt").write_text("the green bird sings over the old river")


def _tagger(folder: Path, work: Path, **given: Any) -> None:
    files = [hep_jets.write(work / f"{name}.root", hep_jets.columns(name, jets=47)) for name in hep_jets.CLASSES]
    settings = hep.FitSettings(epochs=1, width=16, layers=2, no_boosting=True, **given)
    hep.fit(files, settings, out=folder, quiet=True)
    hep_jets.write(folder / "input.root", hep_jets.columns("Hbb", jets=7, seed=1))


def hep_tagger(folder: Path, work: Path) -> None:
    """A tagger of three classes with Chebyshev filters."""
    _tagger(folder, work, preset="auto-chebyshev", chebyshev_order=3)


def hep_auto(folder: Path, work: Path) -> None:
    """A tagger of three classes with the default network."""
    _tagger(folder, work)


RUNS = {
    **{"bio_model": bio_model, "bio_estimator": bio_estimator, "llm_model": llm_model},
    **{"hep_tagger": hep_tagger, "hep_auto": hep_auto},
}


def main(names: list[str]) -> None:
    """Write the named folders, or all of them."""
    for name in names or RUNS:
        folder = HERE / name
        shutil.rmtree(folder, ignore_errors=True)
        with tempfile.TemporaryDirectory() as work:
            RUNS[name](folder, Path(work))
        for path in folder.iterdir():
            if path.name in UNUSED:
                path.unlink()
        (folder / "expected.json").write_text(json.dumps(ANSWERS[name](folder), indent=1) + "\n")
        size = sum(path.stat().st_size for path in folder.rglob("*"))
        print(f"{name}: {size / 1000:,.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
