import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from subquad.bio.data.dataset import PAD, InputSchema, PartnerAlignment
from subquad.bio.data.table import read_like, read_table
from subquad.bio.settings import FitSettings
from subquad.errors import SubquadError

DATA = Path(os.environ.get("SUBQUAD_DATA", "no data")) / "bio"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="needs SUBQUAD_DATA")


def proteins(rows=13, length=17, seed=0):
    random = np.random.default_rng(seed)
    return ["".join(random.choice(list("ACDEFGHIKLMNPQRSTVWY"), length)) for _ in range(rows)]


def write(path, **columns):
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def said(call, *arguments, **options) -> str:
    with pytest.raises(SubquadError) as error:
        call(*arguments, **options)
    return str(error.value)


def test_cells_that_say_that_a_sequence_is_missing_are_an_error(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("sequence,score\n" + "MKTAYIA,1.5\n" * 9 + "NA,1.5\nNone,0.5\n")
    assert said(read_table, path, FitSettings(target=("score",))).splitlines() == [
        f"{path}: 2 rows have no sequence in column 'sequence'; complete or remove them",
        "  row 10: 'NA'",
        "  row 11: 'None'",
    ]
    # a peptide among peptides
    path.write_text("sequence,score\n" + "MK,1.5\n" * 9 + "NA,0.5\n")
    assert read_table(path, FitSettings(target=("score",), alphabet="protein")).sequences[-1] == "NA"


def again(path, table, **options):
    """Read with what a saved model would hold."""
    schema = InputSchema.from_dict(json.loads(json.dumps(table.schema.as_dict())))
    return read_like(path, schema, **options)


def assert_same_inputs(first, second):
    np.testing.assert_array_equal(first.inputs.codes, second.inputs.codes)
    np.testing.assert_array_equal(first.inputs.covariates, second.inputs.covariates)
    assert first.sequences == second.sequences
    assert first.mutants == second.mutants
    assert first.inputs.is_aligned == second.inputs.is_aligned
    if first.inputs.partner is not None:
        np.testing.assert_array_equal(first.inputs.partner, second.inputs.partner)


def test_columns_are_inferred_from_names_and_values_and_remarked_on(tmp_path):
    values = [f"{k / 7:.3f}" for k in range(13)]
    path = write(
        tmp_path / "t.csv", name=[f"v{k}" for k in range(13)], variant=proteins(), measured=values, set="train"
    )
    table = read_table(path, FitSettings())
    assert table.remarks == [
        "sequences: column 'variant' (inferred; --sequence overrides)",
        "target: column 'measured' (inferred; --target overrides)",
        "alphabet: protein (ACDEFGHIKLMNPQRSTVWY) (inferred; --alphabet overrides)",
        "task type: regression (inferred; --task-type overrides)",
    ]
    assert table.inputs.codes.shape == (13, 17)
    assert table.inputs.is_aligned

    assert table.target.names == ("measured",)
    assert_same_inputs(table, again(path, table))


def test_ambiguous_columns_ask_for_a_flag_and_all_wrong_names_are_reported_together(tmp_path):
    path = write(tmp_path / "t.csv", a=proteins(), b=proteins(seed=1), p=list(range(13)), q=list(range(13)))
    assert "several columns look like sequences (a, b)" in said(read_table, path, FitSettings())
    assert "several columns may be the target (p, q)" in said(read_table, path, FitSettings(sequence="a"))
    message = said(read_table, path, FitSettings(sequence="c", target=("r",), weight="w", covariates=("x*",)))
    assert [line.split(";")[0].split(" (there")[0] for line in message.splitlines()] == [
        f"{path}: --weight: no column 'w'",
        f"{path}: --target: no column 'r'",
        f"{path}: --covariates: no column 'x*'",
        f"{path}: --sequence: no column 'c'",
    ]
    assert "column 'a' has two roles" in said(read_table, path, FitSettings(sequence="a", target=("a",)))


def test_an_index_column_is_no_target(tmp_path):
    frame = pd.DataFrame({"sequence": proteins(), "amount": np.arange(13) / 3})
    frame.to_csv(tmp_path / "t.csv")
    assert read_table(tmp_path / "t.csv", FitSettings()).target.names == ("amount",)


def test_all_errors_of_a_table_are_reported_together(tmp_path):
    sequences, values = proteins(), [str(k / 3) for k in range(13)]
    sequences[1], values[4] = "ACD1", "inf"
    path = write(tmp_path / "t.csv", sequence=sequences, y=values, w=["-1", *["2"] * 12], e=[*["3"] * 12, "high"])
    settings = FitSettings(weight="w", covariates=("e",), target=("y",))
    assert said(read_table, path, settings).splitlines() == [
        f"{path}: 1 of 13 rows cannot be read; correct or remove them",
        "  row 2: '1' at position 4 is not in the protein alphabet (ACDEFGHIKLMNPQRSTVWY)",
        f"{path}: not all measurements in column 'y' are finite numbers (1 wrong)",
        "  row 5: 'inf'",
        f"{path}: not all covariates in column 'e' are finite numbers (1 wrong)",
        "  row 13: 'high'",
        f"{path}: 1 weights in column 'w' are not above 0",
        "  row 1: '-1'",
    ]


def test_unreadable_variants_do_not_hide_variants_that_do_not_fit_the_wild_type(tmp_path):
    wild = proteins(1, 29)[0]
    words = [f"{letter}{place}{'A' if letter != 'A' else 'C'}" for place, letter in enumerate(wild, start=1)]
    words[4], words[7] = "p.Ala5del", f"{'A' if wild[7] != 'A' else 'C'}8W"
    path = write(tmp_path / "t.csv", mutant=words, score=["high", *range(1, 29)])
    lines = said(read_table, path, FitSettings(wild_type=wild)).splitlines()
    assert [line for line in lines if line.startswith("  ")] == [
        "  row 5: 'p.Ala5del'",
        f"  row 8: expected {words[7][0]} at 8, found {wild[7]}",
        "  row 1: 'high'",
    ]


def test_variants_that_disagree_with_their_sequences_do_not_hide_invalid_letters(tmp_path):
    wild = proteins(1, 23)[0]
    sequences = [f"{wild[:k]}{'W' if wild[k] != 'W' else 'Y'}{wild[k + 1 :]}" for k in range(23)]
    words = [f"{wild[k]}{k + 1}{sequences[k][k]}" for k in range(23)]
    sequences[2] = f"{sequences[2][:9]}1{sequences[2][10:]}"
    words[5], words[11] = words[6], "A12_del"
    path = write(tmp_path / "t.csv", sequence=sequences, mutant=words, score=list(range(23)))
    lines = said(read_table, path, FitSettings(mutant="mutant")).splitlines()
    # row 3 is said for its letter and row 12 for its variant, and not again because they disagree
    assert [line[:24] for line in lines if line.startswith("  ")] == [
        "  row 12: 'A12_del'",
        "  row 6: " + f"{words[6]} puts {words[6][-1]} at 7"[:15],
        "  row 3: '1' at position",
    ]


def test_an_empty_sequence_is_reported_once(tmp_path):
    sequences = [f"{sequence[:10]} {sequence[10:]}" for sequence in proteins()]
    sequences[4] = f"1{sequences[4][1:]}"
    path = write(tmp_path / "t.csv", sequence=sequences, y=["01" * 8 + "0"] * 13)
    assert len(said(read_table, path, FitSettings(task_type="residue_binary")).splitlines()) == 2


def test_rows_without_a_measurement_are_marked_and_kept(tmp_path):
    path = write(tmp_path / "t.csv", sequence=proteins(), y=["", "NaN", *[str(k) for k in range(11)]])
    table = read_table(path, FitSettings())
    assert table.has_target.tolist() == [False, False, *[True] * 11]
    assert len(table.inputs) == len(table.target) == 13
    assert "2 of 13 rows have no measurement and are not used" in table.remarks


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["1.5"] * 13, "column 'y' has one value"),
        (["1"] * 13, "column 'y' has one value"),
        (["toxic"] * 13, "column 'y' has one value"),
        (["0" * 17] * 13, "column 'y' has one value"),
        (["1", "2", *[""] * 11], "2 rows with a measurement; at least 10"),
    ],
)
def test_a_constant_target_is_an_error(tmp_path, values, message):
    path = write(tmp_path / "t.csv", sequence=proteins(), y=values)
    task_type = "residue_binary" if len(values[0]) == 17 else "auto"
    assert message in said(read_table, path, FitSettings(target=("y",), task_type=task_type))


def test_a_table_needs_ten_measured_rows(tmp_path):
    path = write(tmp_path / "t.csv", sequence=proteins(10), y=list(range(10)))
    assert len(read_table(path, FitSettings()).inputs) == 10
    path = write(tmp_path / "t.csv", sequence=proteins(9), y=list(range(9)))
    assert said(read_table, path, FitSettings()).endswith("at least 10 are needed")


def test_mixed_alphabets_are_an_error_unless_the_alphabet_is_set(tmp_path):
    sequences = proteins()
    sequences[3] = "ACGTTGCAACGTGTACA"
    path = write(tmp_path / "t.csv", sequence=sequences, y=list(range(13)))
    assert said(read_table, path, FitSettings()).endswith("\n  row 4: 'ACGTTGCAACGTGTACA'")
    assert read_table(path, FitSettings(alphabet="protein")).schema.alphabet == "protein"


def test_semicolons_decimal_commas_and_a_byte_order_mark_are_read(tmp_path):
    rows = "".join(f"{sequence};{k},25\r\n" for k, sequence in enumerate(proteins()))
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbfsequence;y\r\n" + rows.encode())
    table = read_table(tmp_path / "t.csv", FitSettings())
    assert table.target.y[:3, 0].tolist() == [0.25, 1.25, 2.25]
    assert "commas in column 'y' are read as decimal points (0,25)" in table.remarks


def test_blocks_of_letters_lower_case_and_varying_lengths_are_read(tmp_path):
    sequences = [sequence.lower() for sequence in proteins()]
    sequences[2] = f"{sequences[2][:10]} {sequences[2][10:13]}"
    table = read_table(write(tmp_path / "t.csv", sequence=sequences, y=list(range(13))), FitSettings())
    assert table.inputs.lengths.tolist() == [17, 17, 13, *[17] * 10]
    assert not table.inputs.is_aligned
    assert table.inputs.codes[2, 13] == PAD
    assert table.remarks[3] == "spaces inside 1 sequences of column 'sequence' are removed"


def test_a_few_sequences_of_another_length_are_an_error_unless_lengths_may_vary(tmp_path):
    sequences = proteins(41, 16)
    sequences[16] = sequences[16][:5] + sequences[16][6:]
    path = write(tmp_path / "t.csv", sequence=sequences, y=list(range(41)))
    assert "1 of 41 sequences has 15 letters, the others 16 (row 17)" in said(read_table, path, FitSettings())
    table = read_table(path, FitSettings(lengths="vary"))
    assert not table.inputs.is_aligned
    assert (
        "1 of 41 sequences has 15 letters, the others 16 (row 17): sequences are not aligned, so positions are not "
        "used as features"
    ) in table.remarks
    several = [*sequences, *proteins(61, 16, seed=1), "ACDEF", "ACDEFG", "ACD"]
    path = write(tmp_path / "t.csv", sequence=several, y=list(range(105)))
    first = "4 of 105 sequences have 3 to 15 letters, the others 16 (rows 17, 103, 104, 105)"
    assert first in said(read_table, path, FitSettings())


def test_libraries_of_several_lengths_and_values_of_residues_need_no_flag(tmp_path):
    mixed = [*proteins(37, 16), *proteins(4, 13)]
    table = read_table(write(tmp_path / "t.csv", sequence=mixed, y=list(range(41))), FitSettings())
    assert not any("positions are not" in remark for remark in table.remarks)
    peptides = [sequence[: 8 + k % 5] for k, sequence in enumerate(proteins(40, 12))]
    table = read_table(write(tmp_path / "t.csv", sequence=peptides, y=list(range(40))), FitSettings())
    assert not table.inputs.is_aligned
    # one value per residue belongs to its letter in any case
    sequences = proteins(41, 16)
    sequences[16] = sequences[16][:15]
    labels = ["01" * 8] * 16 + ["01" * 7 + "1"] + ["01" * 8] * 24
    table = read_table(write(tmp_path / "t.csv", sequence=sequences, y=labels), FitSettings())
    assert table.target.is_residue


def test_a_model_of_proteins_refuses_dna_to_predict(tmp_path):
    table = read_table(write(tmp_path / "t.csv", sequence=proteins(), y=list(range(13))), FitSettings())
    own = proteins(2)
    path = write(tmp_path / "dna.csv", sequence=[own[0], "ACGTACGTTTGACGTAC", own[1], "acguuacgguacguacn"])
    assert said(again, path, table).splitlines()[1:] == [
        "  row 2: 'ACGTACGTTTGACGTAC'",
        "  row 4: 'ACGUUACGGUACGUACN'",
    ]
    # few different letters are those of peptides
    path = write(tmp_path / "few.csv", sequence=[own[0], "GAGAGACCAAGAGAGAG"])
    assert len(again(path, table).sequences) == 2


def test_missing_covariates_are_replaced_by_the_training_median(tmp_path):
    scores = ["", *[str(k) for k in range(12)]]
    path = write(tmp_path / "t.csv", sequence=proteins(), y=list(range(13)), ESM1=scores, ESM2=list(range(13)), b="x")
    table = read_table(path, FitSettings(covariates=("ESM*",)))
    assert table.inputs.covariates.shape == (13, 2)
    assert table.inputs.covariates[0].tolist() == [5.5, 0]
    assert "covariates: ESM1, ESM2" in table.remarks
    assert "column 'ESM1': 1 missing values replaced by the median, 5.5" in table.remarks
    other = write(tmp_path / "o.csv", sequence=proteins(3), ESM1=["", "9", "9"], ESM2=["1", "2", "3"])
    assert again(other, table).inputs.covariates.tolist() == [[5.5, 1], [9, 2], [9, 3]]
    lacking = write(tmp_path / "l.csv", sequence=proteins(3), ESM1=["1", "9", "9"])
    assert "no column 'ESM2'" in said(again, lacking, table)


def test_standard_errors_and_weights_have_mean_one_over_rows_with_a_target(tmp_path):
    errors = ["0.5", *["1"] * 11, "not known"]
    path = write(tmp_path / "t.csv", sequence=proteins(), y=[*range(12), ""], se=["0.5", *["1"] * 11, ""], bad=errors)
    table = read_table(path, FitSettings(error="se", target=("y",)))
    assert table.weight[:12].mean() == pytest.approx(1)
    assert table.weight[0] / table.weight[1] == pytest.approx(4)
    table = read_table(path, FitSettings(weight="se", target=("y",)))
    assert table.weight[0] / table.weight[1] == pytest.approx(0.5)
    assert "row 13: 'not known'" in said(read_table, path, FitSettings(weight="bad", target=("y",)))


def test_weights_are_confirmed(tmp_path):
    numbers = [str(k + 1) for k in range(13)]
    columns = {"sequence": proteins(), "fitness": numbers, "fitness_se": numbers, "note": proteins(seed=3)}
    path = write(tmp_path / "t.csv", **columns, reads=numbers)
    used = read_table(path, FitSettings(sequence="sequence", target=("fitness",), error="fitness_se")).remarks
    assert "weights: 1/SE² of 'fitness_se'" in used
    assert "weights: column 'reads'" in read_table(path, FitSettings(sequence="sequence", weight="reads")).remarks


def test_percent_signs_and_commas_between_thousands_are_no_numbers(tmp_path):
    for values, row in (
        ([f"{k + 1}.7%" for k in range(13)], "'1.7%'"),
        ([f"{k + 5},730.0" for k in range(13)], "'5,730.0'"),
        ([f"{k + 5},730" for k in range(13)], "'5,730'"),
    ):
        path = write(tmp_path / "t.csv", sequence=proteins(), yield_=values)
        for settings in (FitSettings(), FitSettings(target=("yield_",))):
            assert f"  row 1: {row}" in said(read_table, path, settings)


def test_a_tiny_standard_error_weighs_at_most_ten_times_the_median(tmp_path):
    errors = [0.02, 0.1, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.3, 0.4, 0.4]
    path = write(tmp_path / "t.csv", sequence=proteins(), y=list(range(13)), se=errors)
    table = read_table(path, FitSettings(error="se", target=("y",)))
    assert table.weight[0] / table.weight[2] == pytest.approx(10)
    assert table.weight[1] / table.weight[2] == pytest.approx(4)
    assert any(remark.startswith("standard errors: 1 weight limited to 10 times") for remark in table.remarks)
    # weights that the user gives are taken as they are
    table = read_table(path, FitSettings(weight="se", target=("y",)))
    assert table.weight[12] / table.weight[0] == pytest.approx(20)


def test_zero_negative_and_missing_standard_errors_are_an_error_that_names_the_rows(tmp_path):
    errors = ["0.1"] * 13
    errors[2], errors[4], errors[7] = "0", "-0.2", ""
    path = write(tmp_path / "t.csv", sequence=proteins(), y=list(range(13)), se=errors)
    assert said(read_table, path, FitSettings(error="se", target=("y",))).splitlines() == [
        f"{path}: 3 standard errors in column 'se' are not above 0",
        "  row 3: '0'",
        "  row 5: '-0.2'",
        "  row 8: ''",
    ]


def test_variants_are_read_with_their_wild_type_and_again(tmp_path):
    wild = proteins(1, 29)[0]
    words = [f"{wild[k]}{k + 5}A:{wild[k + 3]}{k + 8}W" for k in range(23)]
    path = write(tmp_path / "t.csv", mutant=words, score=list(range(23)))
    assert "whose wild type is unknown" in said(read_table, path, FitSettings())
    table = read_table(path, FitSettings(wild_type=wild))
    assert table.schema.offset == 4
    assert "positions of the variants: offset 4 fits all 23 rows" in table.remarks
    assert table.sequences[0][0] == "A"
    assert table.sequences[0][3] == "W"
    assert table.wild_type == wild
    assert_same_inputs(table, again(path, table))
    full = write(tmp_path / "full.csv", sequence=table.sequences)
    assert_same_inputs(table, again(full, table))
    assert said(again, write(tmp_path / "bad.csv", mutant=["C5A", f"{wild[1]}6A"]), table).splitlines() == [
        f"{tmp_path}/bad.csv: 1 of 2 rows do not fit the wild type at offset 4",
        f"  row 1: expected C at 5, found {wild[0]}",
    ]


def test_variants_to_predict_are_found_under_another_name(tmp_path):
    wild = proteins(1, 29)[0]
    words = [f"{letter}{place + 5}{'W' if letter != 'W' else 'A'}" for place, letter in enumerate(wild)]
    table = read_table(write(tmp_path / "t.csv", Variant=words, score=list(range(29))), FitSettings(wild_type=wild))
    renamed = write(tmp_path / "renamed.csv", mutation=words)
    assert_same_inputs(table, again(renamed, table))
    assert_same_inputs(table, again(renamed, table, sequence="mutation"))
    assert again(renamed, table).remarks == ["variants: column 'mutation' (inferred; --mutant overrides)"]
    two = write(tmp_path / "two.csv", first=words, second=words[::-1])
    assert_same_inputs(table, again(two, table, sequence="first"))


def test_a_stop_in_the_variants_widens_the_alphabet(tmp_path):
    words = [f"p.{'Met' if k == 0 else 'Ala'}{k + 1}{'Ter' if k == 3 else 'Trp'}" for k in range(13)]
    path = write(tmp_path / "t.csv", hgvs_pro=words, score=list(range(13)))
    table = read_table(path, FitSettings(wild_type="M" + "A" * 16))
    assert table.schema.alphabet == "protein_stop"
    assert table.sequences[3] == "MAA*" + "A" * 13


def test_sequences_of_another_length_are_an_error_for_a_model_of_aligned_sequences(tmp_path):
    table = read_table(write(tmp_path / "t.csv", sequence=proteins(), y=list(range(13))), FitSettings())
    other = write(tmp_path / "o.csv", protein=["ACDEF", *proteins(12)])
    message = said(again, other, table)
    assert message.endswith("row 1: 5 letters, but the model was trained on sequences of 17")
    assert again(write(tmp_path / "o.csv", other=proteins(), z="1"), table, sequence="other").inputs.codes.shape == (
        13,
        17,
    )


def test_a_column_of_numbers_is_not_read_as_sequences(tmp_path):
    words = [f"A{k}G" for k in range(1, 14)]
    columns = {"mutant": words, "text": proteins(), "y": [k / 8 for k in range(13)]}
    path = write(tmp_path / "t.csv", **columns)
    end = "column 'y' has numbers, not sequences or variants"
    for flag in ("sequence", "mutant"):
        assert end in said(read_table, path, FitSettings(target=("z",), **{flag: "y"}))
    table = read_table(path, FitSettings(sequence="text", target=("y",)))
    assert end in said(again, path, table, sequence="y")


def test_one_table_serves_all_splits(tmp_path):
    weights = np.arange(1, 14)
    table = read_table(
        write(tmp_path / "t.csv", sequence=proteins(), y=list(range(13)), w=weights), FitSettings(weight="w")
    )
    for fold in range(2):
        split = {"train": np.arange(fold, 8), "validation": np.arange(8, 10), "test": np.arange(10, 13)}
        dataset = table.with_split(split, units=np.arange(13))
        assert dataset.inputs is table.inputs
        assert dataset.weight[split["train"]].mean() == pytest.approx(1)
        assert dataset.part("test")[1].y[:, 0].tolist() == [10, 11, 12]


def pairs(rows=37, *, offsets=(11,), seed=0, is_reverse=False):
    random = np.random.default_rng(seed)
    contexts, guides = [], []
    for row in range(rows):
        context = random.choice(list("ACGT"), 47)
        start = offsets[row % len(offsets)]
        guide = context[start : start + 19].copy()
        guide[7] = "A"
        contexts.append("".join(context))
        text = "".join(guide)
        guides.append(text[::-1].translate(str.maketrans("ACGT", "TGCA")) if is_reverse else text)
    return contexts, guides


def test_guides_are_aligned_with_their_contexts(tmp_path):
    contexts, guides = pairs()
    path = write(tmp_path / "t.csv", guide=guides, context=contexts, target=np.arange(37) / 7)
    table = read_table(path, FitSettings())
    assert table.remarks[0] == "contexts: column 'context', guides: column 'guide' (inferred)"
    assert table.schema.alignment == PartnerAlignment(offset=11, most_common=11, is_reversed=False)
    partner, codes = table.inputs.partner, table.inputs.codes
    assert (partner[:, :11] == PAD).all()
    assert (partner[:, 30:] == PAD).all()
    assert ((partner == codes)[:, 11:30].sum(1) >= 18).all()
    assert table.sequences[0] == f"{guides[0]}|{contexts[0]}"
    assert table.mutants is None
    assert_same_inputs(table, again(path, table))
    # a single pair with as many mismatches as matches still goes to the known place
    one = write(tmp_path / "one.csv", guide=["A" * 19], context=[contexts[0]])
    assert (again(one, table).inputs.partner[0, 11:30] == 0).all()


def test_reverse_complement_guides_and_varying_positions_are_found(tmp_path):
    contexts, guides = pairs(is_reverse=True)
    path = write(tmp_path / "t.csv", spacer=guides, window=contexts, score=np.arange(37) / 7)
    table = read_table(path, FitSettings(sequence="window", partner="spacer"))
    assert table.schema.alignment.is_reversed
    assert ((table.inputs.partner == table.inputs.codes)[:, 11:30].sum(1) >= 18).all()
    contexts, guides = pairs(offsets=(3, 11, 17))
    path = write(tmp_path / "t.csv", spacer=guides, window=contexts, score=np.arange(37) / 7)
    table = read_table(path, FitSettings(sequence="window", partner="spacer"))
    assert table.schema.alignment.offset is None
    assert (table.inputs.partner != PAD).argmax(1).tolist() == [(3, 11, 17)[k % 3] for k in range(37)]
    assert_same_inputs(table, again(path, table))


def test_guides_longer_than_their_contexts_are_an_error(tmp_path):
    contexts, guides = pairs()
    path = write(tmp_path / "t.csv", a=contexts, b=guides, score=np.arange(37) / 7)
    assert said(read_table, path, FitSettings(sequence="b", partner="a")) == (
        f"{path}: the sequences lie on their partner sequences; swap both columns"
    )
    guides[2] = contexts[2] + "A"
    path = write(tmp_path / "one.csv", a=contexts, b=guides, score=np.arange(37) / 7)
    message = said(read_table, path, FitSettings(sequence="a", partner="b"))
    assert message.splitlines()[1] == "  row 3: a guide of 48 letters, a context of 47"


@pytest.mark.data
@needs_data
def test_a_proteingym_assay_is_read_with_scores_of_other_models():
    table = read_table(DATA / "raw" / "proteingym_SYUA_HUMAN_Newberry_2020.csv.gz", FitSettings(covariates=("ESM*",)))
    assert table.target.names == ("DMS_score",)
    assert table.inputs.codes.shape == (2497, 140)
    assert table.inputs.covariates.shape[1] > 2
    assert table.mutants[:2] == ["M1Y", "M1A"]
    assert table.wild_type.startswith("MDVYMKGLSKAKEGVVAAAEKTKQGVAEAAGKTKEGV")
    assert any("offset 0 fits all 2,497 rows" in remark for remark in table.remarks)


@pytest.mark.data
@needs_data
def test_tables_of_metl_and_ecnet_are_read_with_their_wild_types():
    raw = DATA / "raw"
    table = read_table(raw / "ecnet_RRM_double.tsv.gz", FitSettings(wild_type=str(raw / "ecnet_RRM.fasta.gz")))
    assert table.mutants[0] == "G1V:N2S"
    assert table.sequences[0].startswith("VSIFIKNLHP")
    tasks = {task["id"]: task for task in json.loads((DATA / "tasks.json").read_text())}
    wild = tasks["dms/metl_tem-1"]["wild_type"]
    table = read_table(raw / "metl_tem-1.tsv.gz", FitSettings(wild_type=wild))
    assert table.schema.offset == -1
    assert table.mutants[0] == "M1I:S2G"
    # the same rows with full sequences
    full = read_table(DATA / "dms" / "metl_tem-1.csv.gz", FitSettings())
    assert full.wild_type == wild
    assert sorted(full.mutants) == sorted(table.mutants)


@pytest.mark.data
@needs_data
def test_tables_of_guides_and_of_disorder_are_read():
    azimuth = DATA / "raw" / "azimuth_FC_plus_RES_withPredictions.csv.gz"
    assert "score_drug_gene_rank" in said(read_table, azimuth, FitSettings())
    settings = FitSettings(target=("score_drug_gene_rank",), group="Target gene", covariates=("Percent Peptide",))
    table = read_table(azimuth, settings)
    assert table.inputs.codes.shape == (5310, 30)
    assert len(set(table.groups)) == 17
    table = read_table(DATA / "raw" / "disoflag_DP93.txt.gz", FitSettings(target=("target_1",)))
    assert table.target.task_type == "residue_binary"
    table = read_table(
        DATA / "raw" / "adapt_published_predictions" / "classify__test.tsv.gz", FitSettings(target=("true_activity",))
    )
    assert table.target.task_type == "binary"
    assert table.schema.alignment.offset == 10


@pytest.mark.data
@pytest.mark.slow
@needs_data
def test_a_table_of_a_hundred_thousand_rows_is_read():
    table = read_table(DATA / "dms" / "nn4dms_ube4b.csv.gz", FitSettings())
    assert table.inputs.codes.shape == (98_297, 102)
    assert table.wild_type.startswith("IEKFKLLAEKVEEIVAKNARAEIDYSDAPD")


def test_a_table_without_a_header_is_refused(tmp_path):
    rows = "\n".join(f"{sequence},{k / 7:.3f}" for k, sequence in enumerate(proteins()))
    (tmp_path / "table.csv").write_text(rows)
    assert "table.csv: no header" in said(read_table, tmp_path / "table.csv", FitSettings())


@pytest.mark.parametrize("flags", [{}, {"sequence": "sequence"}])
def test_a_header_with_one_name_less_than_the_rows_have_values_is_refused(tmp_path, flags):
    rows = "".join(f"{sequence},{k / 7:.3f},{k % 3}.5\n" for k, sequence in enumerate(proteins()))
    (tmp_path / "table.csv").write_text(f"sequence,score\n{rows}")
    assert "one value more than the header" in said(read_table, tmp_path / "table.csv", FitSettings(**flags))


def test_row_names_may_be_the_sequences(tmp_path):
    rows = "".join(f"{sequence}\t{k / 7:.3f}\t{k % 3}.5\n" for k, sequence in enumerate(proteins()))
    (tmp_path / "table.tsv").write_text(f"score\tdepth\n{rows}")
    assert read_table(tmp_path / "table.tsv", FitSettings()).target.y[3, 0] == pytest.approx(3 / 7, abs=1e-3)


def test_a_wild_type_of_another_length_than_all_sequences_is_refused(tmp_path):
    path = write(tmp_path / "table.csv", sequence=proteins(), value=np.arange(13.0))
    message = said(read_table, path, FitSettings(wild_type="MKVL"))
    assert message == f"{path}: no sequence has as many letters as the wild type, 4"


@pytest.mark.parametrize(
    ("partners", "remark"),
    [
        (lambda texts: texts, "each partner sequence is the sequence of its row"),
        (lambda texts: texts[:1] * len(texts), "all partner sequences are the same"),
    ],
)
def test_partner_sequences_that_tell_nothing_are_remarked_on(tmp_path, partners, remark):
    texts = list(proteins())
    path = write(tmp_path / "table.csv", heavy=texts, light=partners(texts), value=np.arange(13.0))
    remarks = read_table(path, FitSettings(sequence="heavy", partner="light")).remarks
    assert any(remark in one for one in remarks)
