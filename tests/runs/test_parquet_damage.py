"""The descriptions of columns in Parquet files, which are looked at before the columns are read."""

import io
import subprocess
import sys

import numpy as np
import pytest

from subquad.runs.unpacking import parquet_bytes

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


@pytest.mark.slow
def test_damage_of_any_byte_that_describes_a_column_is_an_error_and_not_the_end_of_the_process():
    done = subprocess.run([sys.executable, "-c", READ_ALL], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100
