"""Texts of data cards for fuzzing: expressions with all functions that a card may call, and patterns of file names."""

import functools
from types import SimpleNamespace

from hypothesis import strategies as st

ANY_NAMES = st.sampled_from(["pt", "eta", "n", "x" * 300, "np", "ak", "_", "__class__", "π"])
ANY_NUMBERS = st.one_of(
    st.integers().map(str), st.floats().map(repr), st.sampled_from(["9" * 400, "1e400", "0x10", "1j"])
)
ANY_LEAVES = st.one_of(ANY_NAMES, ANY_NUMBERS, st.text(max_size=5), st.just("'a'"))
COLUMNS = st.sampled_from(["pt", "eta", "n"])
LEAVES = st.one_of(
    COLUMNS,
    st.sampled_from(["0", "1", "2", "3", "0.5", "200000", "1000000000", "9223372036854775807", "1e308"]),
    st.sampled_from(["None", "True", "'float32'", "'bool'", "np.inf", "math.nan"]),
)
"""Leaves of expressions that pass the check of a card."""
OPERATORS = st.sampled_from(["+", "-", "*", "**", "/", "//", "%", "<", "==", "and", "&", "|", "^", "@", "<<"])
OPTIONS = st.sampled_from(["axis", "shape", "dtype", "clip", "keepdims", "maxlen", "target", "counts", "out", "where"])


@functools.cache
def functions():
    """Return the functions, constants and types that a card may use, and two that it may not."""
    from subquad.hep.data.expression_functions import bare_functions, functions_of

    of_modules = (f"{module}.{name}" for module in ("np", "ak", "math") for name in functions_of(module))
    return [*bare_functions(), *of_modules, "open", "np.load"]


def methods():
    from subquad.hep.data.expressions import METHODS, VECTOR_PARTS

    return [*METHODS, *VECTOR_PARTS, "__class__"]


# what a card may call is imported where inputs are drawn
FUNCTIONS = st.deferred(lambda: st.sampled_from(functions()))
ATTRIBUTES = st.deferred(lambda: st.sampled_from(methods()))


def expressions(leaves):
    """Return the strategy of expressions with these leaves."""

    def longer(inner):
        return st.one_of(
            st.tuples(inner, OPERATORS, inner).map(" ".join),
            st.tuples(inner, inner).map("{0[0]}[{0[1]}]".format),
            st.tuples(inner, inner, inner).map("{0[0]}[:, {0[1]}:{0[2]}]".format),
            st.tuples(FUNCTIONS, st.lists(inner, max_size=3).map(", ".join)).map("{0[0]}({0[1]})".format),
            st.tuples(FUNCTIONS, inner, OPTIONS, inner).map("{0[0]}({0[1]}, {0[2]}={0[3]})".format),
            st.tuples(FUNCTIONS, inner, inner, inner).map("{0[0]}([{0[1]}, {0[2]}], axis={0[3]})".format),
            st.tuples(inner, ATTRIBUTES).map("{0[0]}.{0[1]}".format),
            st.tuples(inner, ATTRIBUTES, inner).map("{0[0]}.{0[1]}({0[2]})".format),
            inner.map("({})".format),
            inner.map("-{}".format),
            inner.map("~{}".format),
        )

    return st.recursive(leaves, longer, max_leaves=12)


EXPRESSIONS = st.one_of(expressions(LEAVES), expressions(ANY_LEAVES))


def read_expression(text):
    import awkward as ak
    import numpy as np

    from subquad.hep.data.card_columns import CardColumns
    from subquad.hep.data.expressions import parse

    columns = {
        "pt": ak.Array([[1.0, 2.0], [], [3.0]]),
        "eta": ak.Array([[0.1, 0.2], [], [0.3]]),
        "n": np.array([2, 0, 1]),
    }
    expression = parse(text, "card.yaml: new_variables, x")
    if expression.names <= columns.keys():
        CardColumns(SimpleNamespace(new_variables={}), columns, 3).evaluate(expression)


PATTERNS = st.recursive(
    st.sampled_from(
        [".", "/", "x", "a", "[^!]", r"\w", r"\S", "[ax]", "", "^", "$", r"\b", "#", " ", "é", "(?i)", "(?x)"]
    ),
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=4).map("".join),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{0,5}", "{1,}", "*?", "++", "{,9}", "{9999}"])).map(
            "".join
        ),
        st.lists(inner, min_size=1, max_size=3).map(lambda own: f"({'|'.join(own)})"),
        inner.map("(?:{})".format),
        inner.map("(?={})".format),
        inner.map("(?x:{})".format),
    ),
    max_leaves=12,
)
PATH = "/x" * 50 + "a" * 99


def search_pattern(pattern):
    """Search for a pattern of a card that passes the check in a path of usual length where it is not found."""
    import re

    from subquad.hep.data.path_patterns import check_path_pattern

    check_path_pattern(pattern + "!")
    re.search(pattern + "!", PATH)
