import numpy as np
import pandas as pd
import pytest

from subquad.bio import fit, predict
from subquad.bio.data.table import inputs_of, read_like, read_table
from subquad.bio.data.wild_type import with_stops
from subquad.bio.settings import FitSettings
from subquad.errors import SubquadError

WILD = "MKTAYIAKQRQISFVKSHFSRQ"


def variants(random: np.random.Generator, count: int) -> list[str]:
    rows = []
    for _ in range(count):
        place = random.integers(len(WILD))
        rows.append(WILD[:place] + random.choice(list("ADEGKLRSTV")) + WILD[place + 1 :])
    return rows


def test_a_prefix_of_the_wild_type_is_read_as_a_stop():
    full = variants(np.random.default_rng(0), 60)
    written, remarks = with_stops([*full, WILD[:7], WILD[:-1]])
    assert written[:-2] == full
    assert written[-2:] == [WILD[:7] + "*" + WILD[8:], WILD[:-1] + "*"]
    assert "2 sequences" in remarks[0]


def test_a_prefix_with_a_stop_is_read_like_one_without():
    full = variants(np.random.default_rng(0), 60)
    early = [WILD[:7], WILD[:-2]]
    assert with_stops([*full, *(f"{own}*" for own in early)]) == with_stops([*full, *early])
    # where the stop of the whole protein is written too, it stays the last letter
    ended = [f"{own}*" for own in [*full, WILD[:7]]]
    assert with_stops(ended)[0] == [*ended[:-1], f"{WILD[:7]}*{WILD[8:]}*"]


@pytest.mark.parametrize(
    "strange",
    [
        ["AAAA"],
        [WILD[:3] + "W*"],
        [WILD + "A", WILD[:5]],
        ["", WILD[:5]],
        [WILD[:5]] * 30,
    ],
)
def test_other_lengths_are_not_changed(strange):
    sequences = [*variants(np.random.default_rng(0), 60), *strange]
    assert with_stops(sequences) == (sequences, [])


@pytest.mark.parametrize("given", [WILD, None])
def test_truncated_proteins_are_read_alike_whatever_rows_stand_beside_them(tmp_path, given):
    random = np.random.default_rng(1)
    sequences = variants(random, 60) + [WILD[:k] for k in range(3, 19, 2)]
    pd.DataFrame({"sequence": sequences, "score": random.normal(size=68)}).to_csv(tmp_path / "t.csv", index=False)
    schema = read_table(tmp_path / "t.csv", FitSettings(wild_type=given)).schema
    # most of these rows are short, and the full one is a variant: they do not say what the wild type is
    new = [WILD[:4], WILD[:9] + "*", WILD[:9], WILD[:3] + "W" + WILD[4:]]
    written = [WILD[:4] + "*" + WILD[5:], *[WILD[:9] + "*" + WILD[10:]] * 2, new[3]]
    together = inputs_of(schema, new).codes
    np.testing.assert_array_equal(together, inputs_of(schema, written).codes)
    np.testing.assert_array_equal(together, np.concatenate([inputs_of(schema, [text]).codes for text in new]))
    pd.DataFrame({"sequence": new}).to_csv(tmp_path / "new.csv", index=False)
    read = read_like(tmp_path / "new.csv", schema)
    np.testing.assert_array_equal(read.inputs.codes, together)
    assert any("3 sequences are truncated wild types" in remark for remark in read.remarks)
    # another prefix is an error of its row only
    with pytest.raises(SubquadError, match=r"row 2: 4 letters, but the model was trained on sequences of 22$"):
        inputs_of(schema, [WILD[:4], "AAAA", WILD])


@pytest.mark.long
def test_a_table_with_truncated_proteins_is_aligned_and_its_model_reads_them_again(tmp_path):
    random = np.random.default_rng(1)
    sequences = variants(random, 120) + [WILD[:k] for k in range(1, len(WILD), 2)]
    table = pd.DataFrame({"sequence": sequences, "score": random.normal(size=len(sequences))})
    table.to_csv(tmp_path / "t.csv", index=False)
    read = read_table(tmp_path / "t.csv", FitSettings())
    assert read.schema.alphabet == "protein_stop"
    assert read.inputs.is_aligned
    assert any("truncated" in remark for remark in read.remarks)
    fit(
        tmp_path / "t.csv",
        FitSettings(epochs=1.0, ensemble_size=1, boosting_iterations=5),
        out=tmp_path / "m",
        quiet=True,
    )
    pd.DataFrame({"sequence": [WILD, WILD[:9]]}).to_csv(tmp_path / "new.csv", index=False)
    found = predict(tmp_path / "m", tmp_path / "new.csv", out=tmp_path / "p.csv", quiet=True)
    assert np.isfinite(found["prediction"]).all()
    pd.DataFrame({"sequence": [WILD, "AAAA"]}).to_csv(tmp_path / "bad.csv", index=False)
    with pytest.raises(SubquadError, match="row 2"):
        predict(tmp_path / "m", tmp_path / "bad.csv", out=tmp_path / "p2.csv", quiet=True)
