import numpy as np
import pytest

from subquad.bio.data.dataset import PAD, Dataset, Inputs, Target
from subquad.bio.models.baselines import Baseline, fit_baseline
from subquad.bio.models.vienna import fold, pair_probabilities, rna_of

pytest.importorskip("RNA", reason="ViennaRNA is not installed")

HAIRPIN, LOOSE = "GGGGGAAAACCCCC", "AAAAAAA"


def dataset():
    codes = np.full((3, len(HAIRPIN)), PAD, dtype=np.int8)
    for row, text in enumerate([HAIRPIN, LOOSE, HAIRPIN]):
        codes[row, : len(text)] = ["ACGU".index(letter) for letter in text]
    pairs = [np.array([[k, 13 - k] for k in range(5)]), np.zeros((0, 2), dtype=np.int64)]
    return Dataset(
        inputs=Inputs(codes=codes, letters=4, covariates=np.zeros((3, 0)), is_aligned=False),
        target=Target(task_type="pairs", y=[*pairs, pairs[0]]),
        split={"train": np.array([0]), "validation": np.array([0, 1]), "test": np.array([2])},
    )


def test_a_hairpin_folds_on_itself():
    pairs, none, empty = fold([HAIRPIN, LOOSE, ""])
    assert pairs.tolist() == [[0, 13], [1, 12], [2, 11], [3, 10], [4, 9]]
    assert none.shape == empty.shape == (0, 2)


def test_probabilities_are_symmetric_and_sure_of_a_hairpin():
    P, loose, empty = pair_probabilities([HAIRPIN, LOOSE, ""])
    assert P.shape == (14, 14)
    np.testing.assert_array_equal(P, P.T)
    assert P[2, 11] > 0.8
    assert P.sum(1).max() <= 1 + 1e-6
    assert loose.max() < 0.01
    assert empty.shape == (0, 0)


def test_a_letter_that_stands_for_several_is_no_partner():
    x = Inputs(codes=np.array([[2, -2, 3, PAD]], np.int8), letters=4, covariates=np.zeros((1, 0)), is_aligned=False)
    assert rna_of(x) == ["GNU"]
    assert fold(["NNNNNAAAANNNNN"])[0].shape == (0, 2)


def test_the_folds_are_the_baselines_of_base_pairs(tmp_path):
    own = dataset()
    baselines = {name: fit_baseline(name, own) for name in ("vienna", "vienna_bpp")}
    assert list(baselines) == ["vienna", "vienna_bpp"]
    assert baselines["vienna"].selected == {"validation": 1.0}
    for name, baseline in baselines.items():
        baseline.save(tmp_path / f"{name}.safetensors")
        again = Baseline.load(tmp_path / f"{name}.safetensors")
        assert again == baseline
        inputs, _ = own.part("test")
        (matrix,) = again.predict(inputs)
        assert matrix[0, 13] == pytest.approx(1, abs=0.2)
        assert matrix[0, 13] == matrix[13, 0]
