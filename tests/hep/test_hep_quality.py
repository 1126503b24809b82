"""A floor on the quality of taggers on the jets that ship with subquad; weights in another order must fail it.

1,050 training jets of ten classes: chance is 0.10.
"""

import numpy as np
import pytest
import torch
import uproot

from subquad.hep import FitSettings, TrainedTagger, fit, predict, read
from subquad.hep.data.chunks import chunk_of
from subquad.hep.models.networks import predict_logits

pytestmark = pytest.mark.slow

FLOOR = 0.5
"""Top-1 accuracy of the test jets; `standard` reaches 0.63 in 12 epochs, gradient boosting 0.66."""


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    out = tmp_path_factory.mktemp("quality") / "run"
    return out, fit("example:jets", FitSettings(preset="standard", epochs=12), out=out, quiet=True)


def test_network_and_baseline_exceed_the_floor_on_test_jets(fitted):
    _, metrics = fitted
    assert metrics["jets"] == {"train": 1050, "validation": 150, "test": 300}
    for model in ("pcn", "boosting"):
        assert metrics["test"][model]["accuracy"] > FLOOR
        assert metrics["test"][model]["auc_ovo"] > 0.85
        low, high = metrics["intervals"]["test"][model]["accuracy"]
        assert low < metrics["test"][model]["accuracy"] < high


def test_predictions_from_the_saved_folder_exceed_the_floor(fitted, tmp_path):
    out, _ = fitted
    with uproot.open(predict(out, "example:jets", out=tmp_path / "scores.root", quiet=True)) as file:
        table = file["Events"].arrays(library="np")
    classes = read("example:jets").classes
    scores = np.stack([table[f"score_{name}"] for name in classes])
    labels = np.stack([table[f"label_{name}"] for name in classes])
    assert (scores.argmax(0) == labels.argmax(0)).mean() > FLOOR


def test_shuffled_weights_fall_below_the_floor(fitted):
    tagger = TrainedTagger.load(fitted[0])
    jets = read("example:jets")
    dataset = tagger.dataset(chunk_of(jets, tagger.layout))
    names = np.array(tagger.classes)

    def accuracy():
        return (names[predict_logits(tagger.net, dataset).argmax(1).numpy()] == jets.class_names).mean()

    assert accuracy() > FLOOR
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in tagger.net.parameters():
            order = torch.randperm(parameter.numel(), generator=generator)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    assert accuracy() < FLOOR / 2
