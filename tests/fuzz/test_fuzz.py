"""No reader answers a damaged file with anything but a value or an error of the user, in time and memory.

`SUBQUAD_FUZZ_SECONDS` of the processor are spent on each reader: 60 in `make fuzz`. Another `SUBQUAD_FUZZ_SEED` draws
other input.
"""

import os
import sys

import pytest

pytest.importorskip("hypothesis")
from support.fuzz_targets import TARGETS
from support.fuzzing import fuzz

SECONDS = float(os.environ.get("SUBQUAD_FUZZ_SECONDS", "0.4"))
SEED = int(os.environ.get("SUBQUAD_FUZZ_SEED", "0"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(sys.platform != "linux", reason="after an import of torch, processes fork safely on Linux only"),
]


@pytest.mark.long
@pytest.mark.parametrize("name", TARGETS)
def test_a_reader_answers_damaged_input_with_an_error_of_the_user(name, tmp_path):
    report = fuzz(name, tmp_path, seconds=SECONDS, seed=SEED)
    print(f"{name}: {report['tried']:,} inputs, {report['refused']:,} refused")
    lines = [f"{one['error']} at {one['where']} (input: {one['input']})" for one in report["faults"]]
    assert lines == []
    assert report["tried"] > 0
