"""The descriptions of columns in Parquet files, which are looked at before the columns are read."""

import io
import subprocess
import sys

import numpy as np
import pytest

from subquad.errors import SubquadError
from subquad.runs.unpacking import parquet_batches, parquet_bytes

pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

READ_ALL = """
import io
import pyarrow
import pyarrow.parquet as parquet
from subquad.runs.unpacking import parquet_bytes

table, file = pyarrow.table({"name": ["a", "b"] * 5, "value": [[0.5, 1.5]] * 10}), io.BytesIO()
parquet.write_table(table, file)
data, damaged = file.getvalue(), 0
assert len(parquet_bytes(parquet.ParquetFile(file), file)) == 1
# the end of the file describes its columns
for place in range(len(data) - 1000, len(data)):
    for value in (38, 255):
        changed = data[:place] + bytes([data[place] ^ value]) + data[place + 1 :]
        try:
            parquet_bytes(parquet.ParquetFile(source := io.BytesIO(changed)), source)
        except (OSError, ValueError, pyarrow.ArrowException):
            damaged += 1
print(damaged)
"""


class Counted(io.BytesIO):
    """A file that counts the bytes which are read from it."""

    count = 0

    def read(self, size=-1, /):
        found = super().read(size)
        self.count += len(found)
        return found


def test_only_the_first_pages_of_the_columns_that_are_read_are_looked_at():
    values = np.random.default_rng(7).random((2, 1_000_000))
    source = Counted()
    options = {"use_dictionary": False, "data_page_size": 2**16, "compression": "none", "row_group_size": 250_000}
    parquet.write_table(pyarrow.table(dict(zip("ab", values, strict=True))), source, **options)
    file, source.count = parquet.ParquetFile(source), 0
    assert len(parquet_bytes(file, source, ["a"])) == 4
    assert source.count < 8 * 2**17
    # the file stays open
    assert file.read_row_group(3, ["b"])["b"][0].as_py() == values[1, 750_000]


def with_a_short_column(table):
    """Return a Parquet file of 20 rows, of whose second half pyarrow reads nothing, and does not say so."""
    source = io.BytesIO()
    parquet.write_table(table, source, compression="none", use_dictionary=False, row_group_size=10)
    data = bytearray(source.getvalue())
    # the kind of a page, after the head of its header
    data[parquet.ParquetFile(source).metadata.row_group(1).column(0).data_page_offset + 1] ^= 1
    return bytes(data)


def test_a_column_that_ends_early_is_an_error():
    file = parquet.ParquetFile(io.BytesIO(with_a_short_column(pyarrow.table({"a": np.arange(20)}))))
    assert sum(batch.num_rows for batch in file.iter_batches(4)) == 10
    with pytest.raises(ValueError, match="a column ends after 10 of 20 rows"):
        list(parquet_batches(file, 4))
    with pytest.raises(ValueError, match="a column ends after 0 of 10 rows"):
        list(parquet_batches(file, 4, group=1))
    assert [batch.num_rows for batch in parquet_batches(file, 4, group=0, columns=["a"])] == [4, 4, 2]


def test_tables_texts_and_jets_with_a_column_that_ends_early_are_refused(tmp_path):
    from subquad.bio.data.files import read_frame
    from subquad.hep.data.formats import inspect_file, iterate_columns
    from subquad.llm.data.readers import open_documents

    path = tmp_path / "rows.parquet"
    path.write_bytes(with_a_short_column(pyarrow.table({"text": ["some words"] * 20})))
    with pytest.raises(SubquadError, match=r"rows\.parquet.*a column ends after 10 of 20 rows"):
        read_frame(path)
    with pytest.raises(SubquadError, match=r"rows\.parquet: damaged after row 10 \(a column ends after 0 of 10 rows"):
        list(open_documents(path).documents)
    path.write_bytes(with_a_short_column(pyarrow.table({"jet_pt": np.arange(20.0)})))
    with pytest.raises(SubquadError, match=r"rows\.parquet.*a column ends after 10 of 20 entries"):
        list(iterate_columns(inspect_file(path, None), ["jet_pt"], 4))


@pytest.mark.slow
def test_damage_of_any_byte_that_describes_a_column_is_an_error_and_not_the_end_of_the_process():
    done = subprocess.run([sys.executable, "-c", READ_ALL], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100
