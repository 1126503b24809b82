"""The fuzzing itself: what goes over a limit is a fault, although readers answer it with an error of the user.

And what it damages: every file that a reader of saved runs reads, also inside well-formed JSON and behind checksums.
"""

import json
import resource
import signal
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("hypothesis")
from golden.answers import ANSWERS
from golden.files import READ
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st
from support.fuzz_runs import copy_golden
from support.fuzz_targets import TARGETS
from support.fuzzing import Explorer, Target, edited, json_edits

from subquad.errors import SubquadError
from subquad.runs.damage import damage_as_error
from subquad.runs.folder import load_config, load_tensors, open_run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory and time as on Linux")


@pytest.fixture
def call(tmp_path):
    """Call a reader once with a small limit of memory, and return its explorer; this process gets its limits back."""
    memory, handler = resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGPROF)

    def call(read, *, seconds=10):
        target = Target(read, drawn=st.just("a"))
        explorer = Explorer(target, tmp_path, seconds=seconds, memory=64 * 2**20)
        explorer.try_one("a")
        return explorer

    try:
        yield call
    finally:
        resource.setrlimit(resource.RLIMIT_AS, memory)
        signal.signal(signal.SIGPROF, handler)


def compute_forever():
    while True:
        pass


def read_slowly(_):
    with damage_as_error("table.csv: damaged"):
        compute_forever()


def read_slowly_without_an_error(_):
    try:
        compute_forever()
    except BaseException:  # noqa: BLE001 (as callbacks of libraries do)
        return


def read_all_memory(_):
    with damage_as_error("table.csv: damaged"):
        bytearray(2**30)


def read_all_memory_and_hide_it(_):
    try:
        bytearray(2**30)
    except MemoryError:
        raise SubquadError("table.csv: damaged") from None


@pytest.mark.parametrize("read", [read_slowly, read_slowly_without_an_error])
def test_a_reader_that_is_too_slow_is_a_fault(call, read):
    explorer = call(read, seconds=0.2)
    (fault,) = explorer.faults.values()
    assert fault["error"] == "OutOfTime: more than 0.2 seconds of the processor"
    assert fault["where"].partition(":")[0].endswith("test_fuzzing.py")
    assert explorer.refused == 0


@pytest.mark.parametrize("read", [read_all_memory, read_all_memory_and_hide_it])
def test_a_reader_that_takes_too_much_memory_is_a_fault(call, read):
    explorer = call(read)
    (fault,) = explorer.faults.values()
    assert fault["error"].startswith("MemoryError")
    assert explorer.refused == 0


def test_memory_counts_that_is_used_and_not_what_is_reserved(call):
    # beyond the limit of 64 MiB, below twice as much
    explorer = call(lambda _: np.empty(100 * 2**20, dtype=np.uint8))
    assert explorer.faults == {}
    explorer = call(lambda _: np.ones(100 * 2**20, dtype=np.uint8))
    (fault,) = explorer.faults.values()
    assert fault["error"] == "more than 67,108,864 bytes of memory"


def test_an_error_of_the_user_is_no_fault(call):
    def read(_):
        with damage_as_error("table.csv: damaged"):
            raise TimeoutError("the server does not answer")

    explorer = call(read)
    assert (explorer.tried, explorer.refused, explorer.faults) == (1, 1, {})


def test_another_exception_is_a_fault_at_its_place(call):
    explorer = call(lambda word: {}[word])
    (fault,) = explorer.faults.values()
    assert fault["error"] == "KeyError: 'a'"
    assert fault["where"].partition(":")[0].endswith("test_fuzzing.py")


@pytest.mark.parametrize("kind", ANSWERS)
def test_each_file_that_a_saved_run_is_read_from_is_damaged(kind):
    own = [one for one in TARGETS.values() if getattr(one.write, "func", None) is copy_golden]
    files = {name for one in own if one.write.args == (kind,) for name in one.files}
    assert {*READ[kind]} <= files


def test_a_file_that_the_reader_does_not_read_is_no_target(tmp_path):
    def write(folder):
        (folder / "read.json").write_text("[]")
        (folder / "unread.json").write_text("[]")
        return folder

    def read(folder):
        with damage_as_error("read.json: damaged"):
            json.loads((folder / "read.json").read_text())

    with pytest.raises(AssertionError, match=r"unread\.json may hold anything: the reader does not read it"):
        Explorer(Target(read, write, files=("read.json", "unread.json")), tmp_path)


@settings(max_examples=100, deadline=None, database=None, derandomize=True)
@given(json_edits(), st.booleans())
def test_changes_of_json_keep_it_well_formed(edits, is_lines):
    text = '{"a": [1, {"b": "x", "c": []}], "d": null}\n' * (1 + is_lines)
    changed = edited(text.encode(), edits, is_lines=is_lines).decode()
    for line in changed.splitlines() if is_lines else [changed]:
        json.loads(line)


@pytest.mark.parametrize(
    "is_found",
    [
        lambda value: value == {"a": [1, 2]},
        lambda value: value == {"a": [1, 2], "d_": None},
        lambda value: value == {"a": [1, 1, 2], "d": None},
        lambda value: isinstance(value, dict) and value.get("d") == 10**400,
        lambda value: not isinstance(value, dict),
    ],
    ids=["deleted", "renamed", "repeated", "huge", "of another type"],
)
def test_changes_of_json_are_of_each_kind(is_found):
    text = b'{"a": [1, 2], "d": null}'
    options = settings(max_examples=100_000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    find(json_edits(), lambda own: is_found(json.loads(edited(text, own, is_lines=False))), settings=options)


def write_run(folder):
    run = open_run(folder / "run", kind="hep", settings={})
    run.finish(config={"scale": 3}, tensors={"w": torch.ones(3)}, metrics={})
    return run.directory


@pytest.mark.parametrize(("is_sealed", "refused"), [(True, 1), (False, 0)])
def test_a_saved_run_is_damaged_with_and_without_the_checksums_of_its_files(is_sealed, refused, tmp_path):
    def read(folder):
        load_tensors(folder)
        return load_config(folder, "hep")

    memory, handler = resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGPROF)
    try:
        explorer = Explorer(Target(read, write_run, files=("config.json", "model.safetensors")), tmp_path)
        explorer.try_one((0, lambda data: data.replace(b'"scale": 3', b'"scale": 4'), is_sealed))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, memory)
        signal.signal(signal.SIGPROF, handler)
    assert (explorer.tried, explorer.refused, explorer.faults) == (1, refused, {})
