"""What each saved run answers to its input, through the loader and the prediction of its field."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from subquad import bio, hep, llm
from subquad.errors import SubquadError


def bio_model(folder: Path) -> dict[str, list]:
    """Predictions and intervals of all models."""
    pd = pytest.importorskip("pandas")
    answers = {}
    with tempfile.TemporaryDirectory() as work:
        for model in bio.BioModel.load(folder).models:
            out = Path(work) / f"{model}.csv"
            bio.predict(folder, folder / "input.csv", out=out, model=model, quiet=True)
            answers[model] = pd.read_csv(out)[["prediction", "prediction_low", "prediction_high"]].to_numpy().tolist()
    return answers


def bio_estimator(folder: Path) -> dict[str, list]:
    """Probabilities of the classes."""
    pd = pytest.importorskip("pandas")
    sequences = pd.read_csv(folder / "input.csv")["sequence"].tolist()
    return {"probabilities": bio.LyraClassifier.load(folder).predict_proba(sequences).tolist()}


def llm_model(folder: Path) -> dict[str, list | str]:
    """Logits of the last token, the tokens of a greedy continuation, and the text after a state that was saved."""
    pytest.importorskip("transformers")
    model, tokenizer = llm.load(folder)
    ids = tokens_of(folder, tokenizer)
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, -1]
        continuation = model.generate(ids, max_new_tokens=11, do_sample=False)
    after = llm.generate(folder, "the bird", llm.GenerateSettings(max_new_tokens=7), state=folder / "state.safetensors")
    return {"logits": logits.tolist(), "continuation": continuation[0].tolist(), "after": after}


def tokens_of(folder: Path, tokenizer: Any) -> torch.Tensor:
    """The tokens of the input; as for commands, an error if there are none."""
    ids = tokenizer((folder / "input.txt").read_text(), return_tensors="pt")["input_ids"]
    if not ids.numel():
        raise SubquadError(f"{folder}: its tokenizer makes no tokens of the text")
    return ids


def llm_adapter(folder: Path) -> dict[str, list]:
    """Logits of the last token."""
    pytest.importorskip("transformers")
    model, tokenizer = llm.load(folder, base=folder / "base")
    with torch.no_grad():
        logits = model(input_ids=tokens_of(folder, tokenizer)).logits[0, -1]
    return {"logits": logits.tolist()}


def bio_embedded(folder: Path) -> dict[str, list]:
    """Predictions from sequences and embeddings."""
    pd = pytest.importorskip("pandas")
    with tempfile.TemporaryDirectory() as work:
        out = Path(work) / "scores.csv"
        bio.predict(folder, folder / "input.csv", embeddings=folder / "input.safetensors", out=out, quiet=True)
        return {"prediction": pd.read_csv(out)["prediction"].tolist()}


def hep_tagger(folder: Path) -> dict[str, list]:
    """Scores of the jets."""
    uproot = pytest.importorskip("uproot")
    with tempfile.TemporaryDirectory() as work:
        scored = hep.predict(folder, folder / "input.root", out=Path(work) / "scores.root", quiet=True)
        with uproot.open(scored) as file:
            tree = file["Events"]
            return {name: tree[name].array().tolist() for name in sorted(tree.keys()) if name.startswith("score_")}


ANSWERS = {
    **{"bio_model": bio_model, "bio_estimator": bio_estimator, "bio_embedded": bio_embedded},
    **{"llm_model": llm_model, "llm_adapter": llm_adapter},
    **{"hep_tagger": hep_tagger, "hep_auto": hep_tagger, "hep_card": hep_tagger},
}
