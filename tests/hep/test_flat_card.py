"""The first card of the documentation reads flat trees with branches of any names."""

import uproot
import yaml
from support.hep_layouts import FLAT_CARD, write_flat

from subquad.hep import FitSettings, fit, predict


def test_own_branches_and_a_number_as_label_are_fitted_by_the_first_card(tmp_path):
    card = tmp_path / "mine.yaml"
    card.write_text(FLAT_CARD)
    settings = FitSettings(card=str(card), preset="standard", width=7, layers=1, epochs=6, no_boosting=True)
    metrics = fit([write_flat(tmp_path / "train.root", 211)], settings, out=tmp_path / "tagger", quiet=True)
    # the jets of the second class are wider
    assert metrics["test"]["net"]["accuracy"] > 0.7
    new = write_flat(tmp_path / "new.root", 13, seed=1)
    predict(tmp_path / "tagger", [new], out=tmp_path / "scores.root", quiet=True)
    with uproot.open(tmp_path / "scores.root") as file:
        assert {"score_qcd", "score_top", *yaml.safe_load(FLAT_CARD)["observers"]} <= {*file["Events"].keys()}
