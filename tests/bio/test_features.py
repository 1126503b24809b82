import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subquad.bio.data.dataset import ANY, PAD, Inputs
from subquad.bio.features.base import standardized
from subquad.bio.features.composition import kmers_of
from subquad.bio.features.residues import ResidueFeatures
from subquad.bio.features.sequences import SequenceFeatures
from subquad.bio.features.substitutions import PROPERTIES, properties
from subquad.bio.settings import ALPHABETS


def coded(text, alphabet):
    return [alphabet.index(letter) if letter in alphabet else ANY for letter in text]


def inputs(texts, alphabet, *, partner=None, covariates=None, is_aligned=True):
    T = max(map(len, texts))
    codes = np.full((len(texts), T), PAD, dtype=np.int8)
    for row, text in enumerate(texts):
        codes[row, : len(text)] = coded(text, alphabet)
    other = None
    if partner is not None:
        other = np.array(
            [[PAD if letter == "." else coded(letter, alphabet)[0] for letter in text] for text in partner]
        )
    covariates = np.zeros((len(texts), 0)) if covariates is None else np.array(covariates, dtype=np.float64)
    return Inputs(codes=codes, letters=len(alphabet), partner=other, covariates=covariates, is_aligned=is_aligned)


def drawn(letters, *, is_aligned, has_partner, seed, rows=13, length=11):
    random = np.random.default_rng(seed)
    codes = random.integers(0, letters, (rows, length)).astype(np.int8)
    codes[random.random(codes.shape) < 0.07] = ANY
    partner = np.where(random.random(codes.shape) < 0.7, codes, random.integers(0, letters, codes.shape))
    partner[:, :3] = PAD
    if not is_aligned:
        for row in range(rows):
            codes[row, random.integers(0, length + 1) :] = PAD
        partner[codes == PAD] = PAD
    covariates = random.normal(100, 7, (rows, 2))
    return Inputs(
        codes=codes,
        letters=letters,
        partner=partner.astype(np.int8) if has_partner else None,
        covariates=covariates,
        is_aligned=is_aligned,
    )


def shown(features, x, row, alphabet, covariates=None):
    values = features.matrix(x).toarray()[row]
    return {name: value for name, value in zip(features.names(alphabet, covariates), values, strict=True) if value}


def test_aligned_letters_and_their_pairs_stand_at_their_places():
    x = inputs(["ACG", "AGG", "ATT"], "ACGT")
    got = shown(SequenceFeatures.for_inputs(x), x, 0, "ACGT")
    # A1 is the same in all rows and says nothing
    assert got == {"C2": 1, "G3": 1, "AC1": 1, "CG2": 1}
    assert "A1" not in SequenceFeatures.for_inputs(x).names()
    protein = inputs(["AK", "AR", "GK"], ALPHABETS["protein"])
    got = shown(SequenceFeatures.for_inputs(protein), protein, 1, ALPHABETS["protein"])
    assert {name: value for name, value in got.items() if name in ("A1", "G1", "K2", "R2")} == {"A1": 1, "R2": 1}


def test_a_substitution_is_described_by_what_changes_and_where():
    reference = "MKAPLSDEWG"
    # the reference is the most common letter of each position
    x = inputs([reference, reference, "MKGPLSDEWG", "MKAPLSDKWG"], ALPHABETS["protein"])
    features = SequenceFeatures.for_inputs(x)
    assert not features.has_several
    got = shown(features, x, 2, ALPHABETS["protein"])
    table = properties(20)
    spread = dict(zip(PROPERTIES, table.std(0), strict=True))
    assert got["substitutions"] == 1
    assert got["Δ hydropathy"] == pytest.approx((-0.4 - 1.8) / spread["hydropathy"])
    assert got["|Δ volume|"] == pytest.approx((88.6 - 60.1) / spread["volume"])
    assert got.get("BLOSUM62", 0) == 0
    assert got["position"] == pytest.approx(0.2)
    assert got["volume at +1"] == pytest.approx((112.7 - table[:, 2].mean()) / spread["volume"])
    # beyond the ends and in the reference itself there is nothing
    assert "volume at -3" not in got
    assert not {"substitutions", "BLOSUM62", "position"} & set(shown(features, x, 0, ALPHABETS["protein"]))
    # a residue that training has not seen at this position is described all the same
    new = shown(features, inputs(["MKWPLSDEWG"], ALPHABETS["protein"]), 0, ALPHABETS["protein"])
    assert new["BLOSUM62"] == -3


def test_several_substitutions_are_averaged_and_summed():
    x = inputs(["MKAPLSDEWG"] * 3 + ["MRAPLSDKWG", "MKAPLSDKWG"], ALPHABETS["protein"])
    features = SequenceFeatures.for_inputs(x)
    both, one = (shown(features, x, row, ALPHABETS["protein"]) for row in (3, 4))
    # K → R is +2 in BLOSUM62, E → K is +1
    assert (both["substitutions"], both["BLOSUM62"], both["sum of BLOSUM62"]) == (2, 1.5, 3)
    assert (both["lowest BLOSUM62"], both["highest BLOSUM62"]) == (1, 2)
    assert (both["first position"], both["last position"]) == pytest.approx((0.1, 0.7))
    assert one["BLOSUM62"] == one["sum of BLOSUM62"] == 1


def test_sequences_without_a_reference_have_composition_and_open_frames_have_codons():
    random = np.random.default_rng(0)
    variants = ["ACGTACGTACGTACG"] * 5 + ["ACGTACGTACGTACT"]
    drawn_texts = ["".join(random.choice(list("ACGT"), 15)) for _ in range(20)]
    assert not SequenceFeatures.for_inputs(inputs(variants, "ACGT")).kmer
    names = SequenceFeatures.for_inputs(inputs(drawn_texts, "ACGT")).names("ACGT")
    assert {"G", "GC", "trinucleotide ACG"} <= set(names)
    frames = ["".join(random.choice(["GCT", "GCC", "AAA", "AAG"], 12)) + "TAA" for _ in range(20)]
    x = inputs(frames, "ACGT")
    features = SequenceFeatures.for_inputs(x)
    assert shown(features, x, 0, "ACGT")["codon GCT"] == pytest.approx(
        sum(frames[0][k : k + 3] == "GCT" for k in range(0, 39, 3)) / 13
    )
    # a stop codon inside, or a letter too many, is no reading frame
    assert not SequenceFeatures.for_inputs(inputs([text[:3] + "TAA" + text[6:] for text in frames], "ACGT")).has_codons
    assert not SequenceFeatures.for_inputs(inputs([text + "A" for text in frames], "ACGT")).has_codons


def test_a_guide_on_its_target_shows_where_and_how_they_differ():
    x = inputs(["ACGT", "ACGA", "TCGT"], "ACGT", partner=[".CGT", ".CAA", ".AGT"])
    features = SequenceFeatures.for_inputs(x)
    got = shown(features, x, 1, "ACGT")
    assert {"partner A3", "mismatch 3", "mismatch G3A", "mismatches"} <= set(got)
    assert got["mismatches"] == 1
    assert "partner A2" in features.names("ACGT")
    assert "mismatches" not in shown(features, x, 0, "ACGT")


def test_composition_is_in_frequencies_and_ends_in_places():
    x = inputs(["KRKR", "AAA"], ALPHABETS["protein"], is_aligned=False)
    got = shown(SequenceFeatures.for_inputs(x), x, 0, ALPHABETS["protein"])
    assert (got["K"], got["R"]) == (0.5, 0.5)
    assert got["dipeptide KR"] == pytest.approx(2 / 3)
    assert got["dipeptide RK"] == pytest.approx(1 / 3)
    assert (got["K1"], got["R-1"], got["K-2"]) == (1, 1, 1)
    assert got["length"] == pytest.approx(0.04)
    assert got["net charge"] == 4
    assert got["mean hydropathy"] == pytest.approx(-4.2)
    dna = inputs(["GCGCA", "TTT"], "ACGT", is_aligned=False)
    got = shown(SequenceFeatures.for_inputs(dna), dna, 0, "ACGT")
    assert got["GC"] == pytest.approx(0.8)
    assert got["trinucleotide GCG"] == pytest.approx(1 / 3)


def test_any_letter_is_equal_parts_of_all_and_padding_is_nothing():
    rows, positions, words, shares = kmers_of([np.array([[0, ANY, PAD]]), np.array([[ANY, ANY, 1]])], 2)
    assert rows.tolist() == [0] * 6
    assert positions.tolist() == [0, 0, 1, 1, 1, 1]
    assert words.tolist() == [0, 1, 0, 1, 2, 3]
    assert shares.tolist() == [0.5, 0.5, 0.25, 0.25, 0.25, 0.25]
    x = inputs(["AN", "CG", "GT", "TA", "AC"], "ACGT")
    got = shown(SequenceFeatures.for_inputs(x), x, 0, "ACGT")
    assert [got[f"{letter}2"] for letter in "ACGT"] == [0.25] * 4


def test_extra_columns_are_standardised_by_the_training_rows():
    x = inputs(["AC", "CA", "AA"], "ACGT", covariates=[[1, 5], [3, 5], [5, 5]])
    features = SequenceFeatures.for_inputs(x)
    assert features.names("ACGT", ["EVE", "ESM"])[-1] == "EVE"
    assert features.matrix(x)[:, [-1]].toarray().ravel() == pytest.approx([-1.2247449, 0, 1.2247449])
    new = inputs(["AC"], "ACGT", covariates=[[7, 6]])
    assert features.matrix(new)[0, features.count - 1] == pytest.approx(2.4494897)


def test_rounding_noise_in_a_column_is_no_variation():
    values = np.array([0.3, 0.1 + 0.2, 0.3, 0.3])
    assert np.ptp(values) > 0
    # 1 in 100 million is a difference, of seconds in years for example
    columns = np.stack([values, values * 1e-30, [0.1, 0.2, 0.3, 0.4], [1e8, 1e8 + 1, 1e8, 1e8], np.zeros(4)], axis=1)
    _, scale = standardized(columns)
    assert [own > 0 for own in scale] == [False, False, True, True, False]
    features = SequenceFeatures.for_inputs(inputs(["ACGT", "CCGT", "ACGA", "AGGT"], "ACGT", covariates=columns))
    assert [name for name in features.names("ACGT") if "covariate" in name] == ["covariate 3", "covariate 4"]
    single = np.array([[0.7, 0.7], [0.7 * (1 + 2e-7), 0.7 * (1 + 1e-5)]], dtype=np.float32)
    assert [own > 0 for own in standardized(single)[1]] == [False, True]


def test_rows_without_sequences_have_their_extra_columns_only():
    x = Inputs(
        codes=np.zeros((5, 0), np.int8), letters=20, covariates=np.arange(10.0).reshape(5, 2) ** 2, is_aligned=False
    )
    features = SequenceFeatures.for_inputs(x)
    assert features.matrix(x).shape == (5, 2)


def test_features_with_other_columns_than_those_of_this_version_are_refused():
    saved = SequenceFeatures.for_inputs(drawn(20, is_aligned=False, has_partner=False, seed=0)).as_dict()
    widths = [width + (width == 6) for width in saved["widths"]]
    assert widths != saved["widths"]
    with pytest.raises(ValueError, match="other columns than those of this version"):
        SequenceFeatures.from_dict({**saved, "widths": widths})


@given(
    letters=st.sampled_from([4, 20, 21]),
    is_aligned=st.booleans(),
    has_partner=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_every_column_has_a_name_and_the_features_survive_json(letters, is_aligned, has_partner, seed):
    x = drawn(letters, is_aligned=is_aligned, has_partner=has_partner, seed=seed)
    features = SequenceFeatures.from_dict(json.loads(json.dumps(SequenceFeatures.for_inputs(x).as_dict())))
    assert features == SequenceFeatures.for_inputs(x)
    matrix = features.matrix(x)
    assert matrix.shape == (13, features.count) == (13, len(features.names())) == (13, len(features.is_unit))
    residues = ResidueFeatures.from_dict(json.loads(json.dumps(ResidueFeatures.for_inputs(x).as_dict())))
    rows, positions = np.nonzero(x.codes != PAD)
    mixed = np.random.default_rng(seed).permutation(len(rows))
    rows, positions = rows[mixed], positions[mixed]
    matrix = residues.matrix(x, rows, positions)
    assert matrix.shape == (len(rows), residues.count) == (len(rows), len(residues.names()))
    assert residues.numbers(x, rows, positions).shape == (len(rows), residues.numbers_count)


def test_the_features_of_a_row_do_not_depend_on_the_others():
    x = drawn(20, is_aligned=False, has_partner=False, seed=3)
    features = SequenceFeatures.for_inputs(x)
    some = np.argsort(x.lengths)[:5]
    np.testing.assert_array_equal(features.matrix(x.take(some)).toarray(), features.matrix(x)[some].toarray())


def test_a_residue_sees_its_neighbours_and_its_place():
    x = inputs(["ACDEF", "GG"], ALPHABETS["protein"], is_aligned=False)
    features = ResidueFeatures.for_inputs(x)
    values = features.matrix(x, np.array([1, 0]), np.array([1, 2])).toarray()
    names = features.names()
    first, second = ({n: v for n, v in zip(names, row, strict=True) if v} for row in values)
    assert [first[name] for name in ("G-1", "G+0", "G of all", "G ±15", "place")] == [1] * 5
    assert {"A-2", "C-1", "D+0", "E+1", "F+2"} <= set(second)
    assert second["A of all"] == pytest.approx(0.2)
    assert second["place"] == 0.5
    assert second["to the start"] == second["to the end"] == pytest.approx(2 / 50)


def test_local_averages_reach_fifteen_residues():
    text = "A" * 15 + "W" * 37
    x = inputs([text], ALPHABETS["protein"], is_aligned=False)
    features = ResidueFeatures.for_inputs(x)
    names = features.names()
    values = features.matrix(x, np.array([0, 0, 0]), np.array([29, 30, 0])).toarray()
    assert values[:, names.index("A ±15")] == pytest.approx([1 / 31, 0, 15 / 16])
    assert values[:, names.index("A ±50")] == pytest.approx([15 / 52, 15 / 52, 15 / 51])


def test_properties_stand_in_the_order_of_the_alphabet():
    table = properties(21)
    assert table.shape == (21, len(PROPERTIES))
    assert table[ALPHABETS["protein"].index("K"), 1] == 1
    assert table[ALPHABETS["protein"].index("I"), 0] == 4.5
    assert not table[20].any()
