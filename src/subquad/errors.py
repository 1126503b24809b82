"""What a user can mend: one exception type, and the ways its message is built. Costs nothing to import."""

import difflib
import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from types import ModuleType
from typing import Any, Literal, get_args, get_origin

__all__ = ["MissingExtra", "SubquadError", "collect_errors", "raise_errors", "require", "unknown", "validate_choices"]


class SubquadError(Exception):
    """A user can mend this: the message says what was wrong, where, and what to do. The command line exits with 2."""


class MissingExtra(SubquadError):  # noqa: N818 (it is what is missing)
    """A package of an optional extra is not installed."""


def require(module: str, extra: str) -> ModuleType:
    """Return the imported module, or say which extra of subquad brings it.

    Raises:
        MissingExtra: the module, or one that it needs, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        raise MissingExtra(f"{missing} is not installed; it comes with: pip install 'subquad[{extra}]'") from error


def unknown(kind: str, given: str, known: Iterable[str]) -> SubquadError:
    """Return the error for a name that is not among the known ones; the nearest stand first."""
    names = [str(name) for name in known]
    near = difflib.get_close_matches(given, names, n=3, cutoff=0.5)
    rest = [name for name in names if name not in near]
    shown = [*near, *rest][:12]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    listed = f"there are: {', '.join(shown)}{more}" if names else "there are none"
    if near:
        return SubquadError(f"no {kind} {given!r}; did you mean {near[0]!r}? T{listed[1:]}")
    return SubquadError(f"no {kind} {given!r} ({listed})")


def raise_errors(title: str, mistakes: Sequence[str], *, most: int = 20) -> None:
    """Raise all mistakes of one input at once, or do nothing where there are none.

    Raises:
        SubquadError: there is at least one mistake; the first `most` are listed, the rest counted.
    """
    if not mistakes:
        return
    lines = [f"  {mistake}" for mistake in mistakes[:most]]
    if len(mistakes) > most:
        lines.append(f"  … and {len(mistakes) - most} more")
    raise SubquadError("\n".join([title, *lines]))


def collect_errors(*checks: Callable[[], Any], note: str = "") -> list[Any]:
    """Return what each check returns, or raise all that they have to say as one error.

    Raises:
        SubquadError: one or more of the checks raised it; the messages stand one under the other, and the note below.
    """
    results, messages = [], []
    for check in checks:
        try:
            results.append(check())
        except SubquadError as error:
            messages.append(str(error))
    if messages:
        raise SubquadError("\n".join([*messages, note] if note else messages))
    return results


def _words(kind: Any) -> tuple[str, ...]:
    """Return the words of a Literal, and of one that may be left out."""
    if get_origin(kind) is Literal:
        return get_args(kind)
    found = [words for part in get_args(kind) if (words := _words(part))]
    return found[0] if len(found) == 1 and type(None) in get_args(kind) else ()


def validate_choices(settings: Any, *, prefix: str = "") -> None:
    """Check the fields of a settings class that take one of several words; Python itself takes any.

    Args:
        settings: The settings.
        prefix: Of their flags.

    Raises:
        SubquadError: a word that is none of them.
    """
    for field in fields(settings):
        words, value = _words(field.type), getattr(settings, field.name)
        is_left_out = value is None and get_origin(field.type) is not Literal
        if words and not is_left_out and value not in words:
            raise SubquadError(
                f"--{prefix}{field.name.replace('_', '-')} must be one of {', '.join(words)}, got {value!r}"
            )
