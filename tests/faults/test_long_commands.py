"""Which commands the tests of faults stop: all that resume."""

from support.long_commands import COMMANDS, parameters

from subquad.cli import RESUMED


def test_the_commands_that_are_stopped_are_those_that_resume():
    assert {name.partition(" --")[0] for name in COMMANDS} == RESUMED


def test_a_command_is_left_out_of_tests_with_strace_for_its_workers_only():
    left_out = {*COMMANDS} - {own.values[0] for own in parameters(with_workers=False)}
    assert left_out == {name for name, own in COMMANDS.items() if own.workers} == {"bio bench", "hep simulate"}
