"""Expressions of data cards: equal to numpy's, and nothing but arithmetic."""

import math

import awkward as ak
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subquad.errors import SubquadError
from subquad.hep.data.expressions import parse

LENGTHS = (3, 1, 0, 2)
A = np.array([1.5, -2.0, 0.25, 3.0, 0.5, 7.0])
B = np.array([2.0, 0.5, -1.0, 4.0, 3.0, 1.0])
JET = np.array([10.0, 20.0, 30.0, 5.0])
COLUMNS = {"a": ak.unflatten(A, LENGTHS), "b": ak.unflatten(B, LENGTHS), "jet": ak.Array(JET)}
OF_PARTICLE = np.repeat(JET, LENGTHS)


def value(text, columns=COLUMNS):
    return parse(text, "card.yaml: new_variables: x")(columns)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("np.log(np.abs(a) / jet)", np.log(np.abs(A) / OF_PARTICLE)),
        ("np.hypot(a, b)", np.hypot(A, B)),
        ("np.arctanh(np.tanh(a))", np.arctanh(np.tanh(A))),
        ("(np.abs(a)==2)+(a>1)*0.5", (np.abs(A) == 2) + (A > 1) * 0.5),
        ("(a > 0) & ~(b < 1) | (a == 3)", (A > 0) & ~(B < 1) | (A == 3)),
        ("-a ** 2 // 3 % 2 + +b", -(A**2) // 3 % 2 + B),
        ("a / jet[:, np.newaxis]", A / OF_PARTICLE),
        ("np.clip(a, -1, 1)", A.clip(-1, 1)),
        ("_clip(a, 0, 2)", A.clip(0, 2)),
        ("ak.where(a > 1, a, -1)", np.where(A > 1, A, -1)),
        ("np.where(a > 1, b, 0)", np.where(A > 1, B, 0)),
        ("ak.values_astype(a > 1, 'int32')", (A > 1).astype(int)),
        ("ak.nan_to_num(np.sqrt(a))", np.nan_to_num(np.sqrt(A.clip(0)))),
        ("a * math.pi", A * math.pi),
        ("_p4_from_pxpypze(a, b, a, 9).pt", np.hypot(A, B)),
        ("_p4_from_ptetaphim(b, a, a, 0).energy", np.abs(B) * np.cosh(A)),
    ],
)
def test_an_expression_over_particles_equals_numpy(text, expected):
    found = value(text)
    assert ak.num(found).to_list() == list(LENGTHS)
    np.testing.assert_allclose(ak.to_numpy(ak.flatten(found)), expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ak.num(a)", [3, 1, 0, 2]),
        ("ak.sum(a, axis=1)", [-0.25, 3.0, 0.0, 7.5]),
        ("np.sum(a, axis=1)", [-0.25, 3.0, 0.0, 7.5]),
        ("ak.fill_none(ak.max(b, axis=1), 0)", [2.0, 4.0, 0.0, 3.0]),
        ("1 - jet", [-9.0, -19.0, -29.0, -4.0]),
        ("abs(jet - 12) < 9", [True, True, False, True]),
        ("np.stack([jet, jet > 7], axis=1).argmax(1)", [0, 0, 0, 0]),
        ("np.argmax(np.stack([jet - 15, 15 - jet], axis=1), axis=1)", [1, 0, 0, 1]),
        ("ak.fill_none(ak.firsts(a), 0)", [1.5, 3.0, 0.0, 0.5]),
    ],
)
def test_an_expression_over_jets_equals_what_is_written(text, expected):
    assert ak.to_list(value(text)) == expected


def test_padding_helpers_pad_and_repeat():
    assert ak.to_list(value("_pad(a, 2)"))[1:] == [[3.0, 0.0], [0.0, 0.0], [0.5, 7.0]]
    assert ak.to_list(value("_repeat_pad(a, 3)"))[1:] == [[3.0] * 3, [0.0] * 3, [0.5, 7.0, 0.5]]
    assert ak.to_list(value("_concat([a, b], axis=1)"))[1] == [3.0, 4.0]
    assert ak.to_list(value("ak.pad_none(a, 2, clip=True)"))[1:] == [[3.0, None], [None, None], [0.5, 7.0]]


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_columns_are_stacked_along_an_axis_as_by_numpy(axis):
    columns = {"a": ak.Array(np.arange(6.0).reshape(2, 3)), "b": ak.Array(np.arange(6.0).reshape(2, 3) ** 2)}
    expected = np.stack([ak.to_numpy(columns["a"]), ak.to_numpy(columns["b"])], axis=axis)
    assert ak.to_list(value(f"np.stack([a, b], axis={axis})", columns)) == expected.tolist()


@pytest.mark.parametrize(
    "text",
    [
        *("_pad(a, 1000000000)", "_repeat_pad(a, 1000000000)", "ak.pad_none(a, 1000000000, axis=0)"),
        *("_stack([a, a], axis=1000000000)", "'float32' * 1000000000", "9223372036854775807 * 9", "9 ** 9 ** 9 ** 9"),
        *(
            "ak.broadcast_arrays(a, jet) * 1000000000",
            "None",
            "[1] * 10",
            "'float32'",
            "np.float32",
            "a[:, a:a]",
            "'bool' < a",
            "a.px",
        ),
        *("-~9223372036854775807 % a", "ak.sum(a)"),
    ],
)
def test_what_is_no_number_or_column_or_would_take_all_memory_is_refused_with_its_place(text):
    with pytest.raises(SubquadError, match=r"^card\.yaml: new_variables: x: .* cannot be computed \("):
        value(text)


@given(st.floats(-50, 50), st.floats(0.1, 9))
def test_numbers_are_numbers(x, y):
    assert value(f"({x!r}) * {y!r} - 2 / {y!r}", {}) == pytest.approx(x * y - 2 / y)


@pytest.mark.parametrize("kind", ["uint8", "int8", "uint16", "int32", "uint32", "uint64", "int64"])
def test_integers_do_not_wrap_around(kind):
    hits = {"a": ak.values_astype(ak.Array([[3, 1], [100]]), kind), "b": np.array([5, 0], kind)}
    assert parse("a - 101", "card")(hits).tolist() == [[-98, -100], [-1]]
    assert parse("-b * 100", "card")(hits).tolist() == [-500, 0]
    assert parse("ak.firsts(a) - b", "card")(hits).tolist() == [-2, 100]
    assert parse("a // 2 - 2 < 0", "card")(hits).tolist() == [[True, True], [False]]


def test_names_of_columns_are_found():
    found = parse("np.log(part_pt/jet_pt) + ak.num(part_px)", "card: x")
    assert found.names == {"part_pt", "jet_pt", "part_px"}


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')", "a.__class__", "().__class__.__bases__[0]", "(lambda: 1)()",
        "[x for x in a]", "{x: 1 for x in a}", "(x for x in a)", "'words'", "b'bytes'", "f'{a}'", "a if b else a",
        "(a := 3)", "np.log(*a)", "np.log(**a)", "a @ b", "np", "a.tolist()", "np.log.at(a)",
        "a and b", "not a", "0 < a < 1", "a.foo + 1", "np.add(a, 1, b)", "abs(a, b)", "np.max(a, 0, b)",
        "np.log(a, out=b)", "np.nan_to_num(a, copy=False)", "np.nan_to_num(a, False)", "np.ones_like(1, shape=9)",
        "__builtins__", "a.px.__class__", "await a", "np.load('x')", "np.fromfile('x')", "ak.from_parquet('x')",
        "np.core", "open('x')", "eval('1')", "getattr(a, b)", "a; b", "import os", "a = 1", "1" + "0" * 30, "a[", "",
        None, "1 +",
    ],
)  # fmt: skip
def test_what_is_no_arithmetic_is_refused_with_the_place(text):
    with pytest.raises(SubquadError, match=r"card\.yaml: new_variables: x: "):
        parse(text, "card.yaml: new_variables: x")


def test_what_cannot_be_computed_is_reported_with_its_place():
    columns = {"a": ak.Array([[1.0, 2.0]]), "b": ak.Array([[1.0]] * 3)}
    with pytest.raises(SubquadError, match=r"card\.yaml: new_variables: x: 'a \+ b' cannot be computed"):
        value("a + b", columns)


def test_an_unknown_function_is_answered_with_the_nearest():
    with pytest.raises(SubquadError, match=r"no function of np 'lg'; did you mean 'log'\?"):
        value("np.lg(a)")


def test_a_number_computed_from_numbers_is_a_number():
    assert isinstance(value("np.zeros_like(np.inf)", {}), np.floating)
