import gzip

import numpy as np
import pandas as pd
import pytest

from subquad.bio.data.fasta import read_sequence
from subquad.bio.data.inputs import InputOptions, read_inputs
from subquad.bio.data.variants import canonical, check_unread, looks_like_variants, parse_variants
from subquad.bio.data.wild_type import from_both, from_sequences, from_variants
from subquad.errors import SubquadError

WILD = "MKAEFGHIKLW"


def said(call, *arguments, **options) -> str:
    with pytest.raises(SubquadError) as error:
        call(*arguments, **options)
    return str(error.value)


def parse(*words):
    variants = parse_variants(pd.Series(words, name="mutant"))[0]
    check_unread("t.csv", variants, "mutant")
    return variants


def both(sequences, words, **options):
    options = {"column": "mutant", "is_named": False, "alphabet": "protein", "ambiguity": "any"} | options
    options = {"wild_type": None, "offset": None} | options
    return from_both("t.csv", sequences, parse(*words), **options)


def made(*words, wild=WILD, **options):
    return from_variants("t.csv", parse(*words), wild, **options)


def test_variants_of_the_protein_of_an_rna_keep_their_threonines():
    frame = pd.DataFrame({"mutant": ["T2A", "T2S", "E4T"]})
    rna = "AUGACUGGUGAAUUUGGUCAUAUUAAACUUUGG"
    options = InputOptions(
        sequence=None, mutant="mutant", partner=None, alphabet="auto", ambiguity="any", wild_type=rna, offset=None,
        is_mutant_named=True,
    )  # fmt: skip
    made = read_inputs("t.csv", frame, options)
    assert made.sequences.wild_type == "MTGEFGHIKLW"
    assert made.sequences.sequences == ["MAGEFGHIKLW", "MSGEFGHIKLW", "MTGTFGHIKLW"]


@pytest.mark.parametrize(
    "written",
    [
        "A3G:K9R",
        "A3G,K9R",
        "A3G; K9R",
        "k9r a3g",
        "p.[Ala3Gly;Lys9Arg]",
        "p.Ala3Gly;p.Lys9Arg",
        "p.(Ala3Gly);p.(Lys9Arg)",
        "Ala3Gly/Lys9Arg",
        "p.[Lys9Arg;Ala3Gly]",
        "A3G:E4=:K9R",
        "NP_000537.3:p.[Ala3Gly;Lys9Arg]",
        "NP_000537.3(TP53):p.Ala3Gly;p.Lys9Arg",
        "p.Ala3Gly:p.Lys9Arg",
        "A3G:p.Lys9Arg",
    ],
)
def test_all_ways_to_write_a_variant_are_one(written):
    construct = made(written, "M1M")
    assert construct.sequences[0] == "MKGEFGHIRLW"
    assert construct.mutants == ["A3G:K9R", ""]


@pytest.mark.parametrize("word", ["_wt", "WT", "wt", "wild-type", "p.=", "p.(=)", "=", "_sy", "c.=", "NP_1.3:p.=", ""])
def test_names_of_the_wild_type_are_recognised(word):
    assert made(word, "A3G").sequences == [WILD, "MKGEFGHIKLW"]


def test_empty_variants_are_the_wild_type_and_are_counted():
    assert parse_variants(pd.Series(["A3G", "", ""], name="m"))[1] == [
        "empty cells in column 'm' are read as the wild type: 2 (row 2, 3)"
    ]


def test_a_stop_and_bases_are_substitutions():
    assert made("p.Trp11Ter", "W11*").sequences == ["MKAEFGHIKL*"] * 2
    assert made("c.2C>T", "n.[1A>T;2C>G]", "3G>A", "A1C", wild="ACGT").sequences == ["ATGT", "TGGT", "ACAT", "CCGT"]


def test_variants_that_change_the_length_are_an_error():
    words = ["A3G", "p.Ala3del", "p.Lys2_Ala3insGln", "p.Arg78fs", "p.Ala3_Glu4dup", "c.1_2delinsTTT", "A3", "A3_del"]
    lines = said(parse, *words).splitlines()
    assert lines[1:] == [f"  row {k}: {word!r}" for k, word in enumerate(words[1:], start=2)]


def test_a_position_that_no_sequence_has_is_an_error():
    words = ["A3G", "T36600146250156228771U", "p.Lys99999999999999999999Ala"]
    lines = said(parse, *words).splitlines()
    assert lines[1:] == [f"  row {row}: {words[row - 1]!r}" for row in (2, 3)]


def test_the_offset_is_inferred_and_remarked_on():
    words = [f"{letter}{place + 23}{'V' if letter != 'V' else 'A'}" for place, letter in enumerate(WILD, 1)]
    construct = made(*words)
    assert construct.offset == 23
    assert construct.remarks == ["positions of the variants: offset 23 fits all 11 rows"]
    assert construct.mutants[2] == "A3V"
    # positions that are counted from 0
    assert made("M0I,K1G", "A2G").offset == -1
    assert made("M0I,K1G", "A2G").sequences == ["IGAEFGHIKLW", "MKGEFGHIKLW"]


def test_two_offsets_that_fit_are_both_remarked_on():
    construct = made("K2R")
    assert construct.offset == 0
    assert construct.remarks[0].endswith("offset 0 fits all 1 rows, and so does -7")
    assert made("K2R", offset=-7).sequences == ["MKAEFGHIRLW"]


def test_a_wrong_letter_that_fits_at_several_offsets_is_counted_from_1_and_refused():
    message = said(made, "K3R")
    assert "row 1: expected K at 3, found A" in message


def test_a_wrong_wild_type_letter_is_reported_with_row_and_offset():
    message = said(made, "M24I", "K25G", "A26G", "E27G", "G28A", "Y50A", "L33I:L33V")
    assert message.splitlines() == [
        "t.csv: 3 of 7 rows do not fit the wild type at offset 23",
        "  row 5: expected G at 28, found F",
        "  row 6: 50 is outside the wild type, which has the positions 24 to 34",
        "  row 7: two variants at 33 (L33I:L33V)",
    ]


def test_no_offset_that_fits_is_an_error():
    title = "t.csv: no offset aligns the variants with the wild type of 5 letters"
    message = said(made, "M1I", "K2A", "M11G", "K12G", "M21G", "K22W", "W7A", wild="MKAEF")
    assert message == f"{title} (at most 2 of 7 rows fit)"
    # single letters fit, but no row
    assert said(made, "M1I:W2A", "K7A:W9G", wild="MKAEF").startswith(title)


def test_dna_is_translated_where_the_variants_are_of_its_protein():
    construct = made("M1I", "K2R", "E3D", wild="ATGAAAGAA")
    assert construct.wild_type == "MKE"
    assert construct.sequences == ["IKE", "MRE", "MKD"]
    assert construct.remarks[0] == "the wild type is DNA and the variants are of its protein: translated to 3 residues"


def test_variants_and_sequences_agree_and_give_the_wild_type():
    words = ["M24I", "K25G:A26G", "_wt", "W34F"]
    sequences = ["IKAEFGHIKLW", "MGGEFGHIKLW", WILD, "MKAEFGHIKLF"]
    construct = both(sequences, words)
    assert (construct.wild_type, construct.offset) == (WILD, 23)
    assert construct.mutants == ["M1I", "K2G:A3G", "", "W11F"]
    assert construct.remarks == [
        "positions of the variants: offset 23 fits all 3 rows, and the sequences agree; "
        "undoing them gives a wild type of 11 letters"
    ]
    given = both(sequences, words, wild_type=WILD, offset=23)
    assert given.mutants == construct.mutants


def test_variants_that_disagree_with_their_sequences_are_reported_by_row():
    words = ["M1I", "K2G", "A3G", "E4G", "F5G", "_wt", "W11F", "L10A"]
    sequences = [
        *("IKAEFGHIKLW", "MRAEFGHIKLW", "MKGEFGHIKLY", "MKAGFGHIKLW", "MKAEGGHIKLW", "MKAEFGHIKLV", "MKAEFGHIKLF"),
        "MKAEFGHIKAW",
    ]
    message = said(both, sequences, words)
    assert message.splitlines() == [
        "t.csv: variants and sequences disagree in 3 of 8 rows (offset 0)",
        "  row 2: K2G puts G at 2, but the sequence has R",
        "  row 3: the sequence has Y at 11, the wild type W, and 'A3G' does not include this",
        "  row 6: the sequence has V at 11, the wild type W, and '_wt' does not include this",
    ]


def test_an_inferred_variant_column_that_does_not_fit_is_ignored_and_a_named_one_is_an_error():
    sequences, words = ["ACDEFGH", "KLMNPQR", "STVWYAC"], ["A3G", "K3R", "S1T"]
    aside = both(sequences, words)
    assert aside.mutants is None
    assert aside.remarks == ["column 'mutant' does not fit the sequences and is ignored"]
    assert "disagree in 3 of 3 rows" in said(both, sequences, words, is_named=True)
    lengths = said(both, [*sequences[:2], "ACD"], words, is_named=True)
    assert "row 3: 3 letters" in lengths


def test_a_scan_of_one_sequence_gives_variants_and_unrelated_sequences_do_not():
    random = np.random.default_rng(0)
    wild = "".join(random.choice(list("ACDEFGHIKLMNPQRSTVWY"), 61))
    scan = [wild[:k] + "A" + wild[k + 1 :] for k in range(61)]
    construct = from_sequences(scan)
    assert construct.wild_type == wild
    assert construct.mutants[0] == f"{wild[0]}1A"
    assert construct.remarks[0].startswith("wild type: inferred from the most common letters; half of the rows")
    others = ["".join(random.choice(list("ACDEFGHIKLMNPQRSTVWY"), 61)) for _ in range(61)]
    assert from_sequences(others).mutants is None
    assert from_sequences([*scan, wild[:-1]]).mutants is None
    assert from_sequences(scan, wild_type=scan[0]).mutants[0] == ""
    assert from_sequences(["ACG", "ACT", "TCG"] * 7).mutants is None


def test_a_sequence_is_letters_or_a_file_with_one_record(tmp_path):
    def read(text):
        return read_sequence(text, "--wild-type")

    assert read(" mka ef ") == "MKAEF"
    assert read("MKAEF" * 1001) == "MKAEF" * 1001
    assert read("acg|acgu") == "ACG|ACGU"
    path = tmp_path / "wt.fasta"
    path.write_text(">wt\nMKA\nef\n")
    assert read(str(path)) == "MKAEF"
    path.write_text(">wt\nMKA\n>other\nMKC\n")
    assert "--wild-type takes one sequence" in said(read, str(path))
    for name in ("no.fasta", "A1" * 400, ""):
        assert "no such file; --wild-type takes letters" in said(read, name)


def test_a_damaged_gzipped_wild_type_is_refused(tmp_path):
    path, data = tmp_path / "wt.txt.gz", gzip.compress(b"MKAEFGHIKLW" * 50)
    # of another kind, truncated, and with another code of compression
    for content in (b"MKAEF", data[:-12], data[:10] + b"\xff" + data[11:]):
        path.write_bytes(content)
        message = said(read_sequence, str(path), "--wild-type")
        assert message.startswith(f"{path}: cannot be read as a sequence (")


def test_a_wild_type_is_read_from_a_plain_text_file(tmp_path):
    path = tmp_path / "wt.txt"
    path.write_text("MKAYIAKQRQ\nisfvk\n")
    assert read_sequence(str(path), "--wild-type") == "MKAYIAKQRQISFVK"
    path.write_text("id,sequence\n1,MKA\n")
    message = said(read_sequence, str(path), "--wild-type")
    assert "--wild-type takes one sequence" in message


def test_columns_of_variants_are_recognised():
    assert looks_like_variants(pd.Series(["A24G:K30R", "_wt", "M1L"]))
    assert looks_like_variants(pd.Series(["p.Ala24Gly", "p.=", "p.Trp3Ter"]))
    assert looks_like_variants(pd.Series(["ENSP00000269305.4:p.Ala24Gly", "ENSP00000269305.4:p.="]))
    for values in (["ACDEF", "ACDEG"], ["1.5", "2"], ["train", "test"], ["", "WT"], ["CD5", "NF1", "NF2"], []):
        assert not looks_like_variants(pd.Series(values, dtype=str))


def test_canonical_variants_are_sorted_and_leave_out_what_is_equal():
    row, place = np.array([2, 2, 0, 2]), np.array([11, 1, 3, 4])
    old, new = np.frombuffer(b"AKWC", dtype=np.uint8), np.frombuffer(b"GRWS", dtype=np.uint8)
    assert canonical(row, place, old, new, rows=4) == ["", "", "K2R:C5S:A12G", ""]
