"""Each command once without any fault, to compare with."""

import time

import pytest
from support.long_commands import COMMANDS, Whole


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """Return the function that returns a command and its output when it was left alone, by name."""
    finished = {}

    def get(name):
        command = COMMANDS[name]
        if command.imports is not None:
            pytest.importorskip(command.imports)
        if name not in finished:
            folder = tmp_path_factory.mktemp("whole")
            words, out = command.write(folder), folder / "second" / command.output
            # the first start imports what the others find imported
            for output in ("first", "second"):
                began = time.monotonic()
                Whole(name, words, out, 0.0).end(folder / output)
            finished[name] = Whole(name, words, out, time.monotonic() - began)
        return finished[name]

    return get
