r"""Patterns of a card's `file_magic`: regular expressions that are searched for in the path of a file.

Python's `re` tries all ways to combine what repetitions and alternatives match, so that a search for `(.|.)*!` takes
time that is exponential in the length of the path. Cards come from other people. Their patterns are accepted if the
number of these ways has a bound, as that of `HToBB`, `(HToBB|HToCC)_\d+` and `.*/train_.*` has.
"""

import re
from dataclasses import dataclass

from subquad.errors import SubquadError, shortened

__all__ = ["check_path_pattern"]

_MAX_WAYS = 2_000_000
"""Largest number of ways to try a pattern at one place of a path; all places together take seconds."""
_UNLIMITED = 100
"""Number of ways to match an unlimited repetition of one character in a path of usual length."""
_LONGEST = 20_000
"""Largest number of characters of a pattern."""
_TOKEN = re.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|(?P<comment>\(\?#[^)]*\))|(?P<verbose>\(\?[aiLmsu]*x)"
    r"|(?P<open>\(\??)|(?P<close>\))|(?P<alternative>\|)"
    r"|(?P<repetition>(?P<sign>[*+?])|\{(?!\})(?P<least>[0-9]*)(?P<comma>,?)(?P<most>[0-9]*)\})[+?]?|.",
    re.DOTALL,
)


def check_path_pattern(pattern: str) -> None:
    """Check that a pattern is a regular expression whose search in a path takes seconds at most.

    Raises:
        SubquadError: It is not; the error gives the pattern, the reason, and what to write.
    """
    if len(pattern) > _LONGEST:
        raise SubquadError(f"{shortened(pattern)!r} has {len(pattern):,} characters; at most {_LONGEST:,} are allowed")
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        advice = "write a part of the file name, without the asterisks of a shell's patterns"
        raise SubquadError(f"{pattern!r} is not a regular expression ({error}); {advice}") from None
    tokens = list(_TOKEN.finditer(pattern))
    if any(token["verbose"] for token in tokens):
        raise SubquadError(f"{pattern!r} has the flag x, which is not supported; write it without spaces and comments")
    if _ways(tokens) > _MAX_WAYS:
        raise SubquadError(
            f"{pattern!r} could take very long to search for, as its repetitions and alternatives match in more than "
            f"{_MAX_WAYS:,} ways; repeat single characters only, such as [a-z]* instead of ([a-z]|_)*, at most three "
            "times in a pattern, and leave out .* at its start and end, which changes nothing"
        )


@dataclass
class _Group:
    """Numbers of ways of the parts of a group so far."""

    finished: int = 0
    """All alternatives before the current one."""
    before: int = 1
    """The current alternative without its last part."""
    last: int = 1
    """The last part of the current alternative, which a repetition would apply to."""

    @property
    def alternative(self) -> int:
        return min(self.before * self.last, _MAX_WAYS + 1)

    @property
    def total(self) -> int:
        return min(self.finished + self.alternative, _MAX_WAYS + 1)

    def append(self, ways: int) -> None:
        self.before, self.last = self.alternative, ways


def _ways(tokens: list[re.Match[str]]) -> int:
    """Return a bound of the number of ways to try a pattern at one place of a path."""
    groups = [_Group()]
    for token in tokens:
        match token.lastgroup:
            case "open":
                groups.append(_Group())
            case "close":
                ways = groups.pop().total
                groups[-1].append(ways)
            case "alternative":
                groups[-1] = _Group(finished=groups[-1].total)
            case "repetition":
                groups[-1].last = _repeated(groups[-1].last, token)
            case None:
                groups[-1].append(1)
    return groups[-1].total


def _repeated(ways: int, token: re.Match[str]) -> int:
    """Return the number of ways to match a repetition of a part."""
    if token["sign"]:
        least, most = int(token["sign"] == "+"), 1 if token["sign"] == "?" else None
    else:
        least = int(token["least"] or 0)
        most = least if not token["comma"] else int(token["most"]) if token["most"] else None
    if ways == 1:
        return _UNLIMITED if most is None else min(most - least + 1, _UNLIMITED)
    if most is None:
        return _MAX_WAYS + 1
    # more repetitions of two ways are over the limit
    counts = range(min(least, 30), min(most, 30) + 1)
    return min(sum(ways**count for count in counts), _MAX_WAYS + 1)
