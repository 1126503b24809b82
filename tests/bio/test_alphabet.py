import numpy as np
import pytest

from subquad.bio.data.alphabet import encode, flatten, infer_alphabet, normalize
from subquad.bio.data.consistency import check_mixed
from subquad.errors import SubquadError

PROTEIN = "ACDEFGHIKLMNPQRSTVWY"


def said(call, *arguments, **options) -> str:
    with pytest.raises(SubquadError) as error:
        call(*arguments, **options)
    return str(error.value)


def test_every_invalid_letter_is_reported_with_its_row_and_position():
    message = said(encode, "t.csv", ["ACD", "A1D", "", "A.D,"], "protein")
    assert message.splitlines() == [
        "t.csv: 3 of 4 rows cannot be read; correct or remove them",
        f"  row 2: '1' at position 2 is not in the protein alphabet ({PROTEIN})",
        "  row 3: the sequence is empty",
        f"  row 4: '.' at position 2 is not in the protein alphabet ({PROTEIN}) (and 1 more in this row)",
    ]
    assert "row 1: 'é' at position 2" in said(encode, "t.csv", ["Aé"], "protein")
    assert said(encode, "t.csv", ["ACD", "AC"], "protein", length=3).endswith(
        "row 2: 2 letters, but the model was trained on sequences of 3"
    )


def test_codes_are_places_in_the_alphabet_padded_with_minus_one():
    codes, remarks = encode("t.csv", ["GAT", "C"], "dna")
    assert codes.tolist() == [[2, 0, 3], [1, -1, -1]]
    assert codes.dtype == np.int8
    assert remarks == []
    assert encode("t.csv", ["GAT", "CCC"], "dna")[0].tolist() == [[2, 0, 3], [1, 1, 1]]


def test_ambiguous_letters_are_encoded_or_reported():
    codes, remarks = encode("t.csv", ["ACX", "BCUO"], "protein")
    assert codes.tolist() == [[0, 1, -2, -1], [-2, 1, 1, 8]]
    assert remarks == [
        "2 of 7 letters are ambiguous (B 1, X 1), and are encoded as equal parts of all letters",
        "U is read as C, the most similar standard amino acid (1 letters)",
        "O is read as K, the most similar standard amino acid (1 letters)",
    ]
    assert encode("t.csv", ["ACNR"], "dna")[0].tolist() == [[0, 1, -2, -2]]
    message = said(encode, "t.csv", ["ACGT", "ANGT"], "dna", ambiguity="refuse")
    assert message.splitlines() == [
        "t.csv: 1 of 2 rows cannot be read; correct or remove them",
        "  row 2: 'N' at position 2 is not in the DNA alphabet (ACGT)",
    ]


@pytest.mark.parametrize(
    ("sequences", "name"),
    [
        (["ACGT", "GGGA"], "dna"),
        (["ACGU", "GGGA"], "rna"),
        (["ACGU", "GGGU", "ACGT"], "rna"),
        (["ACDE", "KLMN"], "protein"),
        (["ACDE", "KL*N"], "protein_stop"),
        (["ACGT" * 20, "ACGN" * 1], "dna"),
        (["ACGT" * 20, "ACGQ" * 1], "dna"),
    ],
)
def test_the_alphabet_is_the_smallest_that_fits(sequences, name):
    assert infer_alphabet(sequences, "auto") == (name, True)
    assert infer_alphabet(sequences, "protein") == ("protein", False)


def test_t_and_u_are_the_same_letter():
    assert normalize(["ACGU", "ACGT"], "dna") == (["ACGT", "ACGT"], ["U is read as T in 1 of 2 sequences (DNA)"])
    assert normalize(["ACGU", "ACGT"], "rna")[0] == ["ACGU", "ACGU"]
    assert normalize(["ACGU"], "protein") == (["ACGU"], [])


def test_mixed_alphabets_name_the_minority():
    dna = ["ACGTACGTACGTA", "GGCATTACGACGA", "TTGACCATGACGA"]
    assert said(check_mixed, "t.csv", [*dna, "MKVLIFEQPW"], "dna").splitlines() == [
        "t.csv: most sequences are DNA or RNA, but 1 of 4 look like proteins; keep one type",
        "  row 4: 'MKVLIFEQPW'",
    ]
    proteins = ["MKVLIFEQPW", "MKVLIFEQPY", "GAGAGAGAGAGAGAG", "AAAA"]
    assert said(check_mixed, "t.csv", [dna[0], *proteins], "protein").splitlines() == [
        "t.csv: most sequences are proteins, but 1 of 5 look like DNA or RNA; keep one type",
        "  row 1: 'ACGTACGTACGTA'",
    ]
    assert "most sequences are DNA or RNA, but 1 of 4" in said(check_mixed, "t.csv", [*dna, proteins[0]], "protein")
    # degenerate oligonucleotides are DNA, and one oddity in hundreds is said and read
    assert check_mixed("t.csv", [*dna, "NNKNNKNNKNNK"], "dna") == []
    assert check_mixed("t.csv", [*proteins * 29, dna[0]], "protein")[0].startswith(
        "1 sequences among proteins look like DNA"
    )


def test_flatten_joins_all_letters():
    flat, lengths = flatten(["AC", "", "Gé"])
    assert flat.tobytes() == b"ACG?"
    assert lengths.tolist() == [2, 0, 2]
