import gzip
import hashlib
import io
import os
from pathlib import Path

import openpyxl
import pandas as pd
import pytest
from openpyxl.chart import BarChart

from subquad.bio import resolve_table
from subquad.bio.data import examples
from subquad.bio.data.files import read_frame
from subquad.bio.data.numbers import is_missing, read_numbers
from subquad.bio.settings import FitSettings
from subquad.errors import SubquadError

DATA = Path(os.environ.get("SUBQUAD_DATA", "no data")) / "bio"
SEQUENCES = ["ACDEF", "ACDEG", "ACDKL", "MNPQR", "STVWY"]
ROWS = [f"{sequence},{k}.5" for k, sequence in enumerate(SEQUENCES)]


def write(path: Path, header: str, rows: list[str]) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def said(call, *arguments, **options) -> str:
    with pytest.raises(SubquadError) as error:
        call(*arguments, **options)
    return str(error.value)


def test_all_kinds_of_files_give_the_same_table(tmp_path):
    plain = read_frame(write(tmp_path / "a.csv", "sequence,score", ROWS))
    assert plain["score"].tolist() == ["0.5", "1.5", "2.5", "3.5", "4.5"]
    write(tmp_path / "a.tsv", "sequence\tscore", [row.replace(",", "\t") for row in ROWS])
    text = (tmp_path / "a.csv").read_bytes()
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text))
    (tmp_path / "bom.csv").write_bytes(b"\xef\xbb\xbf" + text.replace(b",", b";").replace(b"\n", b"\r\n"))
    (tmp_path / "utf16.txt").write_bytes(text.replace(b",", b"\t").decode().encode("utf-16"))
    numbers = plain.assign(score=plain["score"].astype(float))
    numbers.to_parquet(tmp_path / "a.parquet")
    numbers.to_excel(tmp_path / "a.xlsx", index=False)
    (tmp_path / "a.fasta").write_text(
        "".join(f">s{k} score={k}.5\n{sequence[:3]}\n{sequence[3:]}\n" for k, sequence in enumerate(SEQUENCES))
    )
    for name in ("a.tsv", "a.csv.gz", "bom.csv", "utf16.txt", "a.parquet", "a.xlsx", "a.fasta"):
        assert read_frame(tmp_path / name)[["sequence", "score"]].to_numpy().tolist() == plain.to_numpy().tolist(), name


def test_files_that_are_not_tables_are_one_sentence_about_the_file(tmp_path):
    assert said(read_frame, tmp_path / "no.csv") == f"{tmp_path}/no.csv: no such file"
    bare = write(tmp_path / "b.csv", "sequence,score", [])
    assert said(read_frame, bare) == f"{bare}: no rows under the header"
    frame = pd.DataFrame({"sequence": ["ACGT", "ACGA"] * 50, "score": [1.0, 2.0] * 50})
    frame.to_parquet(tmp_path / "whole.parquet", compression="gzip")
    parquet = (tmp_path / "whole.parquet").read_bytes()
    for name, data in {
        "e.csv": b"",
        "cut.csv.gz": gzip.compress(b"sequence,score\nACDEF,1\n")[:-5],
        "binary.csv": bytes(range(256)) * 3,
        "open.csv": b'sequence,score\nACDEF,1\n"ACDEG,2\nACDEH,3\n',
        "long.csv": b"sequence,score\nACDEF,1\nACDEG,2,3\n",
        "twice.csv": b"sequence,score,score\nACDEF,1,2\n",
        "d.xlsx": b"PK\x03\x04",
        "d.parquet": b"PAR1 and nothing more",
        "page.parquet": parquet[:40] + bytes(20) + parquet[60:],
    }.items():
        (tmp_path / name).write_bytes(data)
        message = said(read_frame, tmp_path / name)
        assert message.startswith(f"{tmp_path}/{name}: "), message
        assert "\n" not in message


def test_row_names_trailing_separators_and_empty_ends_do_no_harm(tmp_path):
    named = read_frame(write(tmp_path / "r.tsv", "sequence\tscore", ["1\tACDEF\t2", "2\tACDEG\t3"]))
    assert list(named.columns) == ["", "sequence", "score"]
    assert named["score"].tolist() == ["2", "3"]
    assert named.attrs["remarks"] == ["the first column has no name; its values are taken as names of the rows"]
    trailing = read_frame(write(tmp_path / "t.csv", "sequence,score,", ["ACDEF,2,", ",,", ",,"]))
    assert trailing.to_dict("list") == {"sequence": ["ACDEF"], "score": ["2"]}


def test_a_sheet_is_chosen_and_all_digits_of_numbers_are_kept(tmp_path):
    book = openpyxl.Workbook()
    book.active.append(["sequence", "score"])
    book.active.append(["ACDEF", 0.1234567890123456])
    other = book.create_sheet("second")
    other.append(["sequence", "count"])
    other.append(["ACDEG", 12345678901234567])
    other.append(["ACDEK", None])
    book.save(tmp_path / "b.xlsx")
    first = read_frame(tmp_path / "b.xlsx")
    assert first["score"].tolist() == ["0.1234567890123456"]
    assert first.attrs["remarks"] == ["reading sheet 'Sheet'; b.xlsx#NAME selects another: 'second'"]
    assert read_frame(f"{tmp_path}/b.xlsx#second")["count"].tolist()[1] == ""
    message = said(read_frame, f"{tmp_path}/b.xlsx#secnd")
    assert message == f"{tmp_path}/b.xlsx: no sheet 'secnd'; did you mean 'second'? There are: second, Sheet"
    frame = pd.DataFrame({"sequence": ["ACDEF"], "score": [0.1234567890123456], "values": [[1.5, None]]})
    frame.to_parquet(tmp_path / "b.parquet")
    assert read_frame(tmp_path / "b.parquet").iloc[0].tolist() == ["ACDEF", "0.1234567890123456", "[1.5, null]"]


def test_empty_rows_and_comments_before_the_header_are_skipped(tmp_path):
    book = openpyxl.Workbook()
    for row in ([], [None, None], ["sequence", "score"], ["ACDEF", 1]):
        book.active.append(row)
    book.save(tmp_path / "e.xlsx")
    assert read_frame(tmp_path / "e.xlsx").to_dict("list") == {"sequence": ["ACDEF"], "score": ["1"]}
    book.active.delete_rows(1, 9)
    book.save(tmp_path / "e.xlsx")
    assert "cannot be read as a table" in said(read_frame, tmp_path / "e.xlsx")
    path = write(tmp_path / "c.csv", "", ["# Accession: urn, 1, 2", "# Licence: CC0", "", "sequence,score", *ROWS])
    frame = read_frame(path)
    assert frame["score"].tolist() == ["0.5", "1.5", "2.5", "3.5", "4.5"]
    assert frame.attrs["remarks"] == ["2 comment lines before the header are skipped"]
    # names that begin with # are names
    path = write(tmp_path / "n.csv", "#sequence,score", ROWS)
    assert list(read_frame(path).columns) == ["#sequence", "score"]
    assert read_frame(path).attrs["remarks"] == []
    path = write(tmp_path / "n.csv", "# measured twice", ["#sequence,score", *ROWS])
    assert list(read_frame(path).columns) == ["#sequence", "score"]


@pytest.mark.parametrize(
    ("comment", "header"),
    [
        ("# exported 2024", "sequence"),
        ("# library A, replicate 2", "sequence,note"),
        ("# a,b", "mutant,DMS_score"),
        ("# a, b", "SEQUENCE,NOTE"),
    ],
)
def test_a_comment_above_a_header_is_no_header(tmp_path, comment, header):
    row = "A3G,1" if "," in header else "ACDEF"
    (tmp_path / "t.csv").write_text(f"{comment}\n{header}\n{row}\n")
    assert list(read_frame(tmp_path / "t.csv").columns) == header.split(",")


def test_windows_1252_is_read_and_remarked_on(tmp_path):
    text = "\n".join(["sequence;größe", *ROWS]).replace(",", ";")
    (tmp_path / "w.csv").write_bytes(text.encode("cp1252"))
    frame = read_frame(tmp_path / "w.csv")
    assert list(frame.columns) == ["sequence", "größe"]
    assert frame.attrs["remarks"] == ["not UTF-8: read as Windows-1252"]


def test_headers_of_fasta_become_columns(tmp_path):
    path = tmp_path / "a.fa"
    path.write_text(">p1|1 SET=train human\nACD\nEFG\n\n>p2|0 SET=test mouse\nACD\n")
    frame = read_frame(path)
    assert frame.to_dict("list") == {
        "id": ["p1|1", "p2|0"],
        "sequence": ["ACDEFG", "ACD"],
        "id_2": ["1", "0"],
        "word_2": ["human", "mouse"],
        "SET": ["train", "test"],
    }


def test_lines_of_labels_under_a_sequence_become_targets(tmp_path):
    path = tmp_path / "a.fa"
    path.write_text(">p1\nACDEF\n01100\n>p2\nACD\n0-1\n")
    assert read_frame(path)["target"].tolist() == ["01100", "0-1"]
    path.write_text(">p1\nACGUACG\n((...)) (-1.20)\n>p2\nACGUA\n.....\n")
    assert read_frame(path)["target"].tolist() == ["((...))", "....."]
    # wrapped sequences of one length are no labels
    path.write_text(">p1\nACDEF\nACDEF\n>p2\nACDEF\nGHIKL\n")
    assert read_frame(path)["sequence"].tolist() == ["ACDEFACDEF", "ACDEFGHIKL"]
    path.write_text(">p1\nACDEF\n01100\n11111\n>p2\nACDEF\n00000\n11111\n")
    assert list(read_frame(path).columns) == ["id", "sequence", "target_1", "target_2"]


def test_missing_values_are_nan_and_infinite_ones_are_errors():
    column = pd.Series(["1.5", "high", "", "2.5", "n.d.", "NaN", "inf", "None"], name="score")
    assert is_missing(column).tolist() == [False, False, True, False, False, True, False, True]
    assert said(read_numbers, "t.csv", column, "measurements").splitlines() == [
        "t.csv: not all measurements in column 'score' are finite numbers (3 wrong)",
        "  row 2: 'high'",
        "  row 5: 'n.d.'",
        "  row 7: 'inf'",
    ]


def test_decimal_commas_are_read_where_they_cannot_be_thousands():
    numbers, remarks = read_numbers("t.csv", pd.Series(["0,5", "12,25", "-3", ""], name="y"), "measurements")
    assert numbers[:3].tolist() == [0.5, 12.25, -3.0]
    assert remarks == ["commas in column 'y' are read as decimal points (0,5)"]
    for values in (["1,234", "5,678"], ["1,5", "2.5"]):
        assert "are finite numbers" in said(read_numbers, "t.csv", pd.Series(values, name="y"), "measurements")


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="needs SUBQUAD_DATA")
@pytest.mark.parametrize(
    ("name", "rows", "columns"),
    [
        ("azimuth_FC_plus_RES_withPredictions.csv.gz", 5310, 9),
        ("disoflag_DP93.txt.gz", 188, 9),
        ("ecnet_RRM.fasta.gz", 1, 2),
        ("ecnet_RRM_double.tsv.gz", 36522, 2),
        ("metl_tem-1.tsv.gz", 12374, 3),
        ("proteingym_SYUA_HUMAN_Newberry_2020.csv.gz", 2497, 38),
        ("adapt_published_predictions/classify__test.tsv.gz", 51980, 8),
    ],
)
def test_files_as_they_are_published_are_read_whole(name, rows, columns):
    assert read_frame(DATA / "raw" / name).shape == (rows, columns)


def test_a_header_with_a_quoted_line_break_is_one_name(tmp_path):
    stream = io.StringIO()
    pd.DataFrame({"sequence": ["ACDEF"], "score,\nmean": ["1"]}).to_csv(stream, index=False)
    (tmp_path / "q.csv").write_text(stream.getvalue())
    assert list(read_frame(tmp_path / "q.csv").columns) == ["sequence", "score,\nmean"]


def test_an_example_table_is_complete_and_a_changed_file_is_an_error(monkeypatch):
    path = resolve_table("example:tdp43")
    frame = read_frame(path)
    assert len(frame) == 57_996
    assert list(frame.columns) == ["sequence", "toxicity", "split"]
    assert frame["split"].value_counts().to_dict() == {"train": 52_249, "validation": 2_916, "test": 2_831}
    # no time of writing in it, so that it can be made again byte for byte
    assert path.read_bytes()[4:8] == b"\0\0\0\0"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == examples.EXAMPLES["tdp43"][1]
    monkeypatch.setitem(examples.EXAMPLES, "tdp43", ("tdp43.csv.gz", "0" * 64))
    assert said(resolve_table, "example:tdp43").endswith("; install subquad again")
    assert said(resolve_table, "example:tdp44").startswith("no example 'tdp44'; did you mean 'tdp43'?")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_fraction": 1.5}, "--test-fraction must be above 0 and below 1, got 1.5"),
        ({"batch_size": 0}, "--batch-size must be at least 1, got 0"),
        ({"epochs": 0}, "--epochs must be above 0, got 0"),
        ({"epochs": float("nan")}, "--epochs must be a number, got nan"),
        ({"learning_rate": 0.0}, "--learning-rate must be above 0, got 0.0"),
    ],
)
def test_invalid_settings_are_an_error(options, message):
    assert said(FitSettings, **options) == message


def test_a_sheet_with_a_chart_only_is_passed_over(tmp_path):
    book = openpyxl.Workbook()
    book.create_chartsheet("Figure", 0).add_chart(BarChart())
    for row in (["sequence", "score"], ["ACDE", 1.5]):
        book["Sheet"].append(row)
    book.save(tmp_path / "table.xlsx")
    assert read_frame(tmp_path / "table.xlsx").to_numpy().tolist() == [["ACDE", "1.5"]]
    assert "no sheet 'Figure'" in said(read_frame, f"{tmp_path}/table.xlsx#Figure")
