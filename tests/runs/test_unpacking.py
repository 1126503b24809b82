"""The descriptions of columns in Parquet files, which are looked at before the columns are read."""

import subprocess
import sys

import pytest

pytest.importorskip("pyarrow")

READ_ALL = """
import io
import pyarrow
import pyarrow.parquet as parquet
from subquad.runs.unpacking import parquet_bytes

table, file = pyarrow.table({"name": ["a", "b"] * 5, "value": [[0.5, 1.5]] * 10}), io.BytesIO()
parquet.write_table(table, file)
data, damaged = file.getvalue(), 0
assert len(parquet_bytes(parquet.ParquetFile(file))) == 1
# the end of the file describes its columns
for place in range(len(data) - 1000, len(data)):
    for value in (38, 255):
        changed = data[:place] + bytes([data[place] ^ value]) + data[place + 1 :]
        try:
            parquet_bytes(parquet.ParquetFile(io.BytesIO(changed)))
        except (OSError, ValueError, pyarrow.ArrowException):
            damaged += 1
print(damaged)
"""


def test_damage_of_any_byte_that_describes_a_column_is_an_error_and_not_the_end_of_the_process():
    done = subprocess.run([sys.executable, "-c", READ_ALL], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100
