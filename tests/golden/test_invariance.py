"""Answers of saved runs do not depend on threads, order, batch size or, within bounds, on the precision."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from golden.answers import ANSWERS, hep_tagger
from subquad import hep, llm

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
ROUNDING = {"rtol": 1e-4, "atol": 1e-5}
"""Of sums in another order; docs/design.md has this number and those of bfloat16."""
LOGITS_IN_BFLOAT16, PROBABILITIES_IN_BFLOAT16 = 0.03, 0.005
"""Norm of the difference over that of the logits; largest difference of a probability."""


@pytest.fixture
def threads():
    """Return the function that sets the number of threads, which is restored after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def equal(answers, expected):
    assert answers.keys() == expected.keys()
    for name, values in expected.items():
        if isinstance(values, str):
            assert answers[name] == values
        else:
            np.testing.assert_allclose(answers[name], values, **ROUNDING, err_msg=name)


@pytest.mark.parametrize("kind", ANSWERS)
def test_answers_do_not_depend_on_the_number_of_threads(kind, threads):
    if kind.startswith("bio"):
        pytest.importorskip("sklearn", minversion="1.6")
    answers = []
    for count in (1, 4):
        threads(count)
        answers.append(ANSWERS[kind](HERE / kind))
    equal(*answers)


def reverse_rows(folder):
    """Write the rows, or jets, of a run's input in reversed order."""
    if (folder / "input.csv").is_file():
        head, *rows = (folder / "input.csv").read_text().splitlines()
        (folder / "input.csv").write_text("\n".join([head, *rows[::-1]]) + "\n")
        return
    import uproot

    with uproot.open(folder / "input.root") as file:
        arrays = file["tree"].arrays()[::-1]
    # the counters of lists are written with these
    names = [name for name in arrays.fields if not (name[0] == "n" and name[1:] in arrays.fields)]
    with uproot.recreate(folder / "input.root") as file:
        file["tree"] = {name: arrays[name] for name in names}


@pytest.mark.long
@pytest.mark.parametrize("kind", [kind for kind in ANSWERS if not kind.startswith("llm")])
def test_answers_depend_neither_on_the_order_of_rows_nor_on_the_batch_size(kind, tmp_path, monkeypatch):
    expected = ANSWERS[kind](HERE / kind)
    folder = shutil.copytree(HERE / kind, tmp_path / "copy")
    # embeddings in another order than the sequences are refused
    if kind != "bio_embedded":
        expected = {name: values[::-1] for name, values in expected.items()}
        reverse_rows(folder)
        equal(ANSWERS[kind](folder), expected)
    # of 7 rows
    monkeypatch.setattr("subquad.bio.models.batches.PREDICTION_BATCH", 3)
    predict, settings = hep.predict, hep.PredictSettings(batch_size=3)
    monkeypatch.setattr(hep, "predict", lambda *words, **options: predict(*words, settings, **options))
    equal(ANSWERS[kind](folder), expected)


def opened(kind):
    return llm.load(HERE / kind, base=HERE / kind / "base" if kind == "llm_adapter" else None)


@pytest.mark.parametrize("kind", [kind for kind in ANSWERS if kind.startswith("llm")])
def test_logits_do_not_depend_on_the_batch_and_little_on_bfloat16(kind):
    from subquad.llm.models.loading import place
    from subquad.llm.settings import PlacementSettings

    model, tokenizer = opened(kind)
    ids = tokenizer((HERE / kind / "input.txt").read_text(), return_tensors="pt")["input_ids"]
    batch = torch.cat([ids.flip(1), ids.roll(3, 1), ids])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0]
        np.testing.assert_allclose(logits[-1], json.loads((HERE / kind / "expected.json").read_text())["logits"], 1e-3)
        torch.testing.assert_close(model(input_ids=batch).logits[-1], logits, **ROUNDING)
        half = place(model, PlacementSettings(dtype="bfloat16", device="cpu"))(input_ids=ids).logits[0].float()
    error = float((half - logits).norm() / logits.norm())
    assert 0 < error < LOGITS_IN_BFLOAT16


@pytest.mark.parametrize("kind", ["hep_tagger", "hep_auto"])
def test_probabilities_of_jets_change_little_in_bfloat16(kind):
    expected = hep_tagger(HERE / kind)
    with torch.autocast("cpu", torch.bfloat16):
        answers = hep_tagger(HERE / kind)
    error = max(float(np.abs(np.subtract(answers[name], expected[name])).max()) for name in expected)
    assert 0 < error < PROBABILITIES_IN_BFLOAT16
