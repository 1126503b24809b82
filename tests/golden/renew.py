"""Write the saved runs of this folder anew: `make golden`, as long as their format was not released.

Each folder holds a small run, `input.*` that the model is given, and `expected.json` with what it answered when it was
saved. `tests/golden/test_golden.py` loads each and compares. After a release the folders of that format stay as they
are, and new ones are written beside them.
"""

import json
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

HERE = Path(__file__).parent
UNUSED = {"report.html", "history.jsonl", "test.csv", "test_scores.safetensors", "bootstrap.json"}
"""Files of a run that are not needed to load it."""

sys.path[:0] = [str(HERE.parent)]

from support import bio_language_models, bio_tables, hep_jets, hep_vertices, llm_models  # noqa: E402

from golden.answers import ANSWERS  # noqa: E402
from subquad import bio, hep, llm  # noqa: E402


def bio_model(folder: Path, work: Path, *, seed: int = 0) -> None:
    """A fit of the command line, with all its models."""
    frame = bio_tables.table(work / "table.csv", length=5)
    # with noise, so that the ensemble has several members
    frame["score"] += np.random.default_rng(1).normal(scale=0.5, size=len(frame))
    frame.to_csv(work / "table.csv", index=False)
    bio.fit(work / "table.csv", bio_tables.settings(), out=folder, seed=seed, quiet=True)
    frame[["sequence"]].head(7).to_csv(folder / "input.csv", index=False)


def bio_estimator(folder: Path, work: Path, *, seed: int = 0) -> None:
    """A scikit-learn estimator."""
    frame = bio_tables.table(work / "table.csv", length=5)
    model = bio.LyraClassifier(epochs=2.0, ensemble_size=1, random_state=seed)
    model.fit(frame["sequence"].tolist(), frame["class"].tolist()).save(folder)
    frame[["sequence"]].head(7).to_csv(folder / "input.csv", index=False)


def llm_model(folder: Path, work: Path, *, seed: int = 0) -> None:
    """A linearized Llama with random weights, and the state of a text that it has read."""
    text = llm_models.write_text(work / "text.txt", seed=seed)
    llm_models.write_checkpoint(work / "checkpoint", llm_models.word_tokenizer(text))
    llm.linearize(work / "checkpoint", text, llm_models.SMALL, out=folder, seed=seed, quiet=True)
    (folder / "input.txt").write_text("the green bird sings over the old river")
    llm.generate(folder, "a house falls. " * 5, save_state=folder / "state.safetensors")


def llm_adapter(folder: Path, work: Path, *, seed: int = 0) -> None:
    """An adapter, beside the checkpoint that it belongs to."""
    text = llm_models.write_text(work / "text.txt", seed=seed)
    llm_models.write_checkpoint(work / "base", llm_models.word_tokenizer(text))
    settings = replace(llm_models.SMALL, attention=llm_models.small_attention(), save="adapter")
    llm.linearize(work / "base", text, settings, out=folder, seed=seed, quiet=True)
    shutil.copytree(work / "base", folder / "base")
    (folder / "input.txt").write_text("the green bird sings over the old river")


def bio_embedded(folder: Path, work: Path, *, seed: int = 0) -> None:
    """A fit to embeddings, and the embeddings of the sequences to predict."""
    frame = bio_tables.table(work / "table.csv", length=5)
    # proteins, as the language model reads
    frame["sequence"] = frame["sequence"].str.translate(str.maketrans("ACGT", "WKLD"))
    frame.to_csv(work / "table.csv", index=False)
    embedding = bio.EmbedSettings(model=str(bio_language_models.esm(work / "esm")), sequence="sequence")
    bio.embed(work / "table.csv", embedding, out=work / "table.safetensors", quiet=True)
    settings = bio_tables.settings(embeddings=str(work / "table.safetensors"), models=("ridge", "lyra"))
    bio.fit(work / "table.csv", settings, out=folder, seed=seed, quiet=True)
    frame[["sequence"]].head(7).to_csv(folder / "input.csv", index=False)
    bio.embed(folder / "input.csv", embedding, out=folder / "input.safetensors", quiet=True)


def _tagger(folder: Path, work: Path, *, seed: int, **options: Any) -> None:
    files = [hep_jets.write(work / f"{name}.root", hep_jets.columns(name, jets=47)) for name in hep_jets.CLASSES]
    settings = hep.FitSettings(epochs=1, width=16, layers=2, no_boosting=True, **options)
    hep.fit(files, settings, out=folder, seed=seed, quiet=True)
    hep_jets.write(folder / "input.root", hep_jets.columns("Hbb", jets=7, seed=1))


def hep_card(folder: Path, work: Path, *, seed: int = 0) -> None:
    """A tagger whose data card has particles and secondary vertices."""
    names = hep_jets.JETCLASS[:3]
    plain = [
        hep_jets.write(work / f"{name}.root", hep_jets.columns(name, jets=47, classes=hep_jets.JETCLASS))
        for name in names
    ]
    (work / "card.yaml").write_text(yaml.safe_dump(hep_vertices.CARD))
    (work / "vertices").mkdir()
    files = hep_vertices.write_vertices(plain, work / "vertices")
    settings = hep.FitSettings(epochs=1, width=16, layers=2, no_boosting=True, card=str(work / "card.yaml"))
    hep.fit(files, settings, out=folder, seed=seed, quiet=True)
    few = hep_jets.write(work / "few.root", hep_jets.columns(names[1], jets=7, seed=1, classes=hep_jets.JETCLASS))
    (written,) = hep_vertices.write_vertices([few], work)
    shutil.copy(written, folder / "input.root")


def hep_tagger(folder: Path, work: Path, *, seed: int = 0) -> None:
    """A tagger of three classes as published, with Chebyshev filters."""
    _tagger(folder, work, seed=seed, preset="paper", chebyshev_order=3)


def hep_auto(folder: Path, work: Path, *, seed: int = 0) -> None:
    """A tagger of three classes with the default network."""
    _tagger(folder, work, seed=seed)


RUNS = {
    **{"bio_model": bio_model, "bio_estimator": bio_estimator, "bio_embedded": bio_embedded},
    **{"llm_model": llm_model, "llm_adapter": llm_adapter},
    **{"hep_tagger": hep_tagger, "hep_auto": hep_auto, "hep_card": hep_card},
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
