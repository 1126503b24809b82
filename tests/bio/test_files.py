import gzip
import hashlib
import io
import os
from pathlib import Path
from zipfile import ZipFile

import openpyxl
import pandas as pd
import pytest
from openpyxl.chart import BarChart

from subquad.bio import resolve_table
from subquad.bio.data import examples, files
from subquad.bio.data.files import read_frame
from subquad.bio.data.numbers import is_missing, read_numbers
from subquad.bio.data.quotation_marks import check_line_breaks
from subquad.bio.data.table import read_table
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


def test_files_that_are_not_tables_are_an_error(tmp_path):
    assert said(read_frame, tmp_path / "no.csv") == f"{tmp_path}/no.csv: no such file"
    advice = "is a pipe or device; write its content to a file, and give that"
    assert said(read_frame, "/dev/null") == f"/dev/null: {advice}"
    assert said(read_frame, tmp_path) == f"{tmp_path}: this is a folder; give the table in it"
    empty = write(tmp_path / "e.csv", "", [])
    assert said(read_frame, empty) == f"{empty}: the file is empty; it needs a header line and one row per sequence"
    bare = write(tmp_path / "b.csv", "sequence,score", [])
    assert said(read_frame, bare) == f"{bare}: no rows under the header"
    cut = tmp_path / "c.csv.gz"
    cut.write_bytes(gzip.compress(b"sequence,score\nACDEF,1\n")[:-5])
    assert said(read_frame, cut).startswith(f"{cut}: damaged or truncated (")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "LARGEST_UNPACKED", 2**20)
        bomb = tmp_path / "bomb.csv.gz"
        bomb.write_bytes(gzip.compress(b"0" * (2**20 + 1)))
        assert "expands to more than" in said(read_frame, bomb)
    for name, data, message in [
        ("d.csv", b"sequence\xff", "not a text file in UTF-8; export the table as CSV"),
        ("r.csv", b"\x8f\x00\x03ab\xff", "this is a binary file, not a table; export the table as CSV"),
        ("d.xls", b"\xd0\xcf\x11\xe0", "this is an Excel file of the format before 2007; save it as .xlsx or CSV"),
        ("d.xlsx", b"PK\x03\x04", "not a readable Excel file (File is not a zip file)"),
    ]:
        (tmp_path / name).write_bytes(data)
        assert said(read_frame, tmp_path / name) == f"{tmp_path}/{name}: {message}"
    (tmp_path / "d.parquet").write_bytes(b"PAR1 and nothing more")
    assert "not a readable Parquet file (" in said(read_frame, tmp_path / "d.parquet")


def test_what_is_no_table_is_named(tmp_path):
    for name, inner, what in (
        ("d.xlsx", "word/document.xml", "a Word document"),
        ("o.xlsx", "content.xml", "an OpenDocument file"),
        ("z.xlsx", "t.csv", "a zip archive"),
    ):
        with ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(inner, "a,b")
        assert said(read_frame, tmp_path / name) == (
            f"{tmp_path}/{name}: this is {what}, not an Excel file; save the table as .xlsx or CSV"
        )
    assert said(read_frame, "https://example.org/t.csv") == (
        "https://example.org/t.csv: addresses of the internet are not read; download the file and give its path"
    )


def test_names_of_columns_are_quoted_as_far_as_they_can_be_read(tmp_path):
    path = write(tmp_path / "t.csv", f"sequence,{'x' * 130_000},{'x' * 130_000}", ["ACDEF,1,2"])
    assert said(read_frame, path) == f"{path}: duplicate column names: '{'x' * 99}…'; rename or remove them"
    path = write(tmp_path / "t.csv", ",".join(name for k in range(30) for name in 2 * [f"c{k}"]), ["1," * 59 + "1"])
    names = ", ".join(f"'c{k}'" for k in range(10))
    assert said(read_frame, path) == f"{path}: duplicate column names: {names} and 20 more; rename or remove them"


def test_duplicate_columns_and_rows_that_are_too_long_are_an_error(tmp_path):
    path = write(tmp_path / "t.csv", "sequence,score,score", ["ACDEF,1,2"])
    assert said(read_frame, path) == f"{path}: duplicate column names: 'score'; rename or remove them"
    path = write(tmp_path / "t.csv", "sequence,score,set", ["ACDEF,1,train", "ACDEF,1", "ACDEF,1,train,7"])
    assert said(read_frame, path).splitlines() == [
        f"{path}: the header has 3 columns; rows with more values: 1; correct them",
        "  row 3: 'ACDEF, 1, train, 7' …",
    ]
    path = write(tmp_path / "t.csv", "sequence,score,set", ["ACDEF,1,train", "ACDEF,1,train,7,8"])
    assert said(read_frame, path).splitlines() == [
        f"{path}: the header has 3 columns; rows with more values: 1; correct them",
        "  row 2: 'ACDEF, 1, train, 7, 8' …",
    ]


def test_decimal_commas_that_divide_a_number_are_not_taken_for_names_of_rows(tmp_path):
    path = write(tmp_path / "t.csv", "sequence,score", ["ACDEF,0,0424", "ACDEG,-1,5"])
    assert said(read_frame, path) == (
        f"{path}: rows have 3 values, the header has 2, and row 1 ends with 0,0424: if this is one number with a "
        "decimal comma, separate the columns by semicolons, or write decimal points; if it is two, name all columns"
    )


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


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "sheet 'notes' is empty; it needs a header and one row per sequence"),
        ([["sequence", "score"]], "no rows under the header"),
        ([["a", "a"], [1, 2]], "duplicate column names: 'a'; rename or remove them"),
    ],
)
def test_an_error_in_the_first_sheet_names_the_others(tmp_path, rows, message):
    book = openpyxl.Workbook()
    book.active.title = "notes"
    for row in rows:
        book.active.append(row)
    book.create_sheet("data").append(["sequence", "score"])
    path = tmp_path / "b.xlsx"
    book.save(path)
    assert said(read_frame, path) == f"{path}: {message}\nreading sheet 'notes'; b.xlsx#NAME selects another: 'data'"


def test_windows_1252_is_read_and_remarked_on(tmp_path):
    text = "\n".join(["sequence;größe", *ROWS]).replace(",", ";")
    (tmp_path / "w.csv").write_bytes(text.encode("cp1252"))
    frame = read_frame(tmp_path / "w.csv")
    assert list(frame.columns) == ["sequence", "größe"]
    assert frame.attrs["remarks"] == [
        "not UTF-8: read as Windows-1252, as in 'größe'; if that is wrong, save the file as UTF-8"
    ]
    binary, foreign = "this is a binary file, not a table", "not a text file in UTF-8"
    for data, what in (
        (bytes(range(256)) * 3, binary),
        (b"sequence,score\nACDEF,1\n\x01\xff", binary),
        (b"\xfc\xdf\xe4" * 5 + b"abc", foreign),
    ):
        (tmp_path / "b.csv").write_bytes(data)
        assert said(read_frame, tmp_path / "b.csv").endswith(f"{what}; export the table as CSV")


def test_empty_rows_and_comments_before_the_header_are_skipped(tmp_path):
    book = openpyxl.Workbook()
    for row in ([], [None, None], ["sequence", "score"], ["ACDEF", 1]):
        book.active.append(row)
    book.save(tmp_path / "e.xlsx")
    assert read_frame(tmp_path / "e.xlsx").to_dict("list") == {"sequence": ["ACDEF"], "score": ["1"]}
    book.active.delete_rows(1, 9)
    book.save(tmp_path / "e.xlsx")
    assert "sheet 'Sheet' is empty; it needs a header and one row per sequence" in said(read_frame, tmp_path / "e.xlsx")
    path = write(tmp_path / "c.csv", "", ["# Accession: urn, 1, 2", "# Licence: CC0", "", "sequence,score", *ROWS])
    frame = read_frame(path)
    assert frame["score"].tolist() == ["0.5", "1.5", "2.5", "3.5", "4.5"]
    assert frame.attrs["remarks"] == ["2 comment lines before the header are skipped ('# Accession: urn, 1, 2')"]
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


def test_blank_lines_are_not_counted_and_errors_with_rows_say_so(tmp_path):
    path = write(tmp_path / "t.csv", "sequence,score", ["ACDEF,1", "", "  ", "ACDEG,2", ",", "", "ACDEF,3,4", "", ""])
    assert said(read_frame, path).splitlines() == [
        f"{path}: the header has 2 columns; rows with more values: 1; correct them",
        "  row 4: 'ACDEF, 3, 4' …",
        "rows are counted from the header, without 3 blank lines (the first is below row 1)",
    ]
    frame = read_frame(write(tmp_path / "t.csv", "sequence,score", ["", *ROWS]))
    assert frame.attrs["note"].endswith("without 1 blank lines (the first is below the header)")
    assert read_frame(write(tmp_path / "t.csv", "sequence,score", [*ROWS, "", ""])).attrs["note"] == ""


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
    path.write_text(">p1\n>p2\nACD\n")
    assert said(read_frame, path).endswith("records without a sequence; correct or remove them\n  record 1: >p1")


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


def test_a_damaged_sheet_or_column_is_refused_whatever_its_library_says(tmp_path):
    frame = pd.DataFrame({"sequence": ["ACGT", "ACGA"] * 50, "score": [1.0, 2.0] * 50})
    frame.to_excel(tmp_path / "whole.xlsx", index=False)
    with ZipFile(tmp_path / "whole.xlsx") as whole, ZipFile(tmp_path / "sheet.xlsx", "w") as cut:
        for name in whole.namelist():
            content = whole.read(name)
            # a sheet is read row by row, after the book was opened
            cut.writestr(name, content[: len(content) // 2] if "worksheets/" in name else content)
    assert "sheet.xlsx: not a readable Excel file (" in said(read_frame, tmp_path / "sheet.xlsx")
    frame.to_parquet(tmp_path / "whole.parquet", compression="gzip")
    data = (tmp_path / "whole.parquet").read_bytes()
    (tmp_path / "page.parquet").write_bytes(data[:40] + bytes(20) + data[60:])
    assert "page.parquet: not a readable Parquet file (" in said(read_frame, tmp_path / "page.parquet")


def test_missing_values_are_nan_and_infinite_ones_are_errors():
    column = pd.Series(["1.5", "high", "", "2.5", "n.d.", "NaN", "inf", "None"], name="score")
    assert is_missing(column).tolist() == [False, False, True, False, False, True, False, True]
    assert said(read_numbers, "t.csv", column, "measurements").splitlines() == [
        "t.csv: not all measurements in column 'score' are finite numbers (3 wrong); correct or empty them",
        "  row 2: 'high'",
        "  row 5: 'n.d.'",
        "  row 7: 'inf'",
    ]


def test_a_typographic_minus_is_read_and_a_bound_gets_advice():
    numbers, _ = read_numbers("t.csv", pd.Series(["−3.5", " −1e-3", "2"], name="y"), "measurements")
    assert numbers.tolist() == [-3.5, -0.001, 2]
    assert read_numbers("t.csv", pd.Series(["−0,5", "2,25"], name="y"), "measurements")[0].tolist() == [-0.5, 2.25]
    limits = pd.Series(["<0.1", "> 10", "≤ −2", "<LOD"], name="y")
    assert said(read_numbers, "t.csv", limits, "measurements").splitlines() == [
        "t.csv: not all measurements in column 'y' are finite numbers (4 wrong); correct or empty them",
        "  row 1: '<0.1' is a bound: write 0.1, or leave the cell empty",
        "  row 2: '> 10' is a bound: write 10, or leave the cell empty",
        "  row 3: '≤ −2' is a bound: write -2, or leave the cell empty",
        "  row 4: '<LOD'",
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
        ({"test_fraction": 1.5}, "--test-fraction must be between 0 and 1, got 1.5"),
        ({"batch_size": 0}, "--batch-size must be at least 1, got 0"),
        ({"epochs": 0}, "--epochs must be above 0, got 0"),
        ({"epochs": float("nan")}, "--epochs must be a finite number, got nan"),
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


def changed_sheet(source: Path, out: Path, old: str, new: str) -> Path:
    """Write a copy of an Excel file with another text in its sheets."""
    with ZipFile(source) as whole, ZipFile(out, "w") as changed:
        for name in whole.namelist():
            content = whole.read(name)
            if "worksheets/" in name:
                assert old.encode() in content
                content = content.replace(old.encode(), new.encode())
            changed.writestr(name, content)
    return out


def test_a_sheet_is_read_whole_although_it_gives_a_size_of_an_earlier_state(tmp_path):
    frame = pd.DataFrame({"sequence": SEQUENCES, "score": range(5), "split": "train"})
    frame.to_excel(tmp_path / "t.xlsx", index=False)
    stale = changed_sheet(tmp_path / "t.xlsx", tmp_path / "s.xlsx", 'ref="A1:C6"', 'ref="A1:B3"')
    assert read_frame(stale).to_numpy().tolist() == frame.astype(str).to_numpy().tolist()
    # a damaged row number of billions does not become as many rows
    far = changed_sheet(tmp_path / "t.xlsx", tmp_path / "f.xlsx", '<row r="6"', '<row r="3000000000"')
    assert read_frame(far)["sequence"].tolist() == SEQUENCES[:4]


def test_a_damaged_directory_of_an_excel_file_is_refused(tmp_path):
    pd.DataFrame({"sequence": SEQUENCES}).to_excel(tmp_path / "t.xlsx", index=False)
    data = (tmp_path / "t.xlsx").read_bytes()
    entry = data.index(b"PK\x01\x02")
    # the signature of an entry, and the version that is needed to unpack it
    for place, value, reason in ((entry, b"XK", "Bad magic number for central directory"), (entry + 6, b"c\0", "9.9")):
        (tmp_path / "d.xlsx").write_bytes(data[:place] + value + data[place + 2 :])
        message = said(read_frame, tmp_path / "d.xlsx")
        assert message.startswith(f"{tmp_path}/d.xlsx: not a readable Excel file (")
        assert reason in message


STRAY = "quotation marks that are not closed in their line; remove each, or close it at the end of its cell:"


@pytest.mark.parametrize(
    ("changed", "lines"),
    [
        ({7: '"ACDEF,1.2'}, ["""line 10: '"ACDEF,1.2' is not closed"""]),
        ({7: 'ACDEF,"1.2'}, ["""line 10: '"1.2' is not closed"""]),
        ({60: '"ACDEF,1.2'}, ["""line 63: '"ACDEF,1.2' is not closed"""]),
        # the second one ends the cell of the first
        ({5: '"ACDEF,1.2', 20: '"ACDEF,1.3'}, ["""line 8: '"ACDEF,1.2' is closed in line 23"""]),
        ({5: 'ACDEF,"1.2', 20: 'ACDEF,"1.3'}, ["""line 8: '"1.2' is closed in line 23"""]),
        ({5: '"ACDEF,1.2', 20: 'ACDEF,1.3"'}, ["""line 8: '"ACDEF,1.2' is closed in line 23"""]),
        # a closed cell before, with a separator, and one that is not closed
        (
            {1: '"ACDEF","1"', 5: '"ACDEF,1.2', 6: '"ACDEF",1.3', 33: '"ACDEF,1.4'},
            ["""line 8: '"ACDEF,1.2' is closed in line 9""", """line 36: '"ACDEF,1.4' is not closed"""],
        ),
    ],
)
def test_stray_quotation_marks_are_refused_with_their_lines(tmp_path, changed, lines):
    rows = [changed.get(k, f"ACDEF,{k}.5") for k in range(1, 61)]
    path = write(tmp_path / "t.csv", "# a comment", ["", "sequence,score", *rows])
    assert said(read_frame, path).splitlines() == [f"{path}: {STRAY}", *(f"  {line}" for line in lines)]


def test_a_quotation_mark_that_joins_rows_in_an_unused_column_is_refused(tmp_path):
    rows = [f"v{k},ACDEF,{k}.5" for k in range(1, 31)]
    rows[4], rows[19] = f'"{rows[4]}', rows[19].replace("v20", 'v20"')
    path = write(tmp_path / "t.csv", "name,sequence,score", rows)
    assert said(read_frame, path).endswith("""line 6: '"v5,ACDEF,5.5' is closed in line 21""")


def test_cells_of_text_may_have_line_breaks_but_not_sequences(tmp_path):
    rows = [f"{sequence},{k}.5,x" for k, sequence in enumerate(SEQUENCES * 3)]
    path = write(tmp_path / "t.csv", "sequence,score,note", [*rows, 'ACDEF,1.5,"one, two\nthree, four, 5"'])
    assert read_frame(path)["note"].iloc[-1] == "one, two\nthree, four, 5"
    assert len(read_table(path, FitSettings()).sequences) == 16
    path = write(tmp_path / "t.csv", "sequence,score,note", [*rows, '"ACD\nEF",1.5,x'])
    assert said(read_table, path, FitSettings()).splitlines() == [
        f"{path}: 1 sequence with line breaks in column 'sequence'; write each sequence in one line, and remove stray "
        "quotation marks",
        "  row 16, in lines 17 to 18",
    ]
    frame = pd.DataFrame({"sequence": [*SEQUENCES * 3, "ACD\nEF"], "score": range(16)})
    frame.to_excel(tmp_path / "t.xlsx", index=False)
    assert read_table(tmp_path / "t.xlsx", FitSettings()).sequences[-1] == "ACDEF"


@pytest.mark.parametrize(
    ("header", "row", "note"),
    [
        # lines with as many values as the table, but of other kinds
        ("sequence,note", 'ACDEFGHIKLMNP,"measured at\n37, 42"', "measured at\n37, 42"),
        ("sequence,score,note", 'ACDEFGHIKLMNP,1.5,"buffer:\n50, 150, 5"', "buffer:\n50, 150, 5"),
        # text after a mark of another cell
        ("sequence,score,note", '"ACDEFGHIKLMNP" x,1.5,"a\nb"', "a\nb"),
        ("sequence\tscore\tnote", "ACDEFGHIKLMNP\t1.5\t5\" and 3'", "5\" and 3'"),
    ],
)
def test_cells_with_line_breaks_and_other_marks_are_read(tmp_path, header, row, note):
    separator = "\t" if "\t" in header else ","
    width = header.count(separator)
    rows = [separator.join(["ACDEFGHIKLMNP", "1.5", "x"][: width + 1]) for _ in range(30)]
    path = write(tmp_path / ("t.tsv" if separator == "\t" else "t.csv"), header, [*rows, row])
    assert read_frame(path)["note"].iloc[-1] == note


def test_rows_of_empty_values_count_where_lines_are_named(tmp_path):
    path = write(tmp_path / "t.tsv", "sequence\tscore", ["ACDEF\t1", "\t", '"ACD\nEF"\t2'])
    frame = read_frame(path)
    with pytest.raises(SubquadError, match=r"row 3, in lines 4 to 5"):
        check_line_breaks(path, frame, "sequence")


def test_a_large_cell_is_refused_only_if_a_quotation_mark_is_not_closed(tmp_path):
    rows = [f"{'ACDEF' * 3},{k}" for k in range(12_000)]
    end = "is not closed"
    path = write(tmp_path / "t.csv", "sequence,target", ["ACDEF,1", 'ACDEF,"2', *rows])
    assert said(read_frame, path) == f"""{path}: {STRAY}\n  line 3: '"2' {end}"""
    path = write(tmp_path / "t.csv", 'sequence,"target', ["ACDEF,1", *rows])
    assert said(read_frame, path) == f"""{path}: {STRAY}\n  line 1: '"target' {end}"""
    path = write(tmp_path / "t.csv", f"sequence,{'target' * 30_000}", ["ACDEF,1"])
    assert said(read_frame, path).startswith(f"{path}: the header has a cell of more than 131,072 characters; if a")
    # found by fuzzing: a file of one character
    path.write_text('"')
    assert said(read_frame, path) == f"""{path}: {STRAY}\n  line 1: '"' {end}"""
    # without any mistake a cell may be as long, also in several lines
    lines = "\n".join(f"ATOM {k}, CA, {k}.5" for k in range(9_000))
    path = write(tmp_path / "t.csv", "sequence,target,pdb", ["ACDEF,1,", f'ACDEF,2,"{lines}"'])
    assert read_frame(path)["pdb"][1] == lines
    path = write(tmp_path / "t.csv", "sequence,target", [f"{'ACDEF' * 30_000},1", '"ACDEF",2'])
    assert len(read_frame(path)["sequence"][0]) == 150_000
