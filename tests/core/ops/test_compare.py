"""Comparison, logic and bits."""

from typing import Any

import numpy as np
import pytest

normal = np.random.default_rng(0).standard_normal


def method(name: str) -> Any:
    return lambda m, *inputs: getattr(m, name)(*inputs)


COMPARISONS = ["eq", "ne", "not_equal", "lt", "less", "le", "less_equal", "gt", "greater", "ge", "greater_equal"]
LOGICAL = ["logical_and", "logical_or", "logical_xor"]
BITWISE = ["bitwise_and", "bitwise_or", "bitwise_xor"]
TESTS = ["logical_not", "isnan", "isfinite", "isinf", "isposinf", "isneginf", "isreal", "signbit"]
ODD = np.array([0, -0.0, -1.5, np.nan, np.inf, -np.inf])

ROWS: list[tuple[Any, ...]] = [
    *[(op, method(op), (ODD,)) for op in TESTS],
    *[(op, method(op), (np.array([0, -1, 3]),)) for op in TESTS],
    *[(op, method(op), (ODD, b)) for op in COMPARISONS for b in (ODD[::-1].copy(), ODD[:, None].copy(), 0, 1.5)],
    *[(op, method(op), (ODD, b)) for op in LOGICAL for b in (ODD[::-1].copy(), ODD[:, None].copy())],
    *[(op, method(op), (np.array([1, 2, 3]), b)) for op in BITWISE for b in (np.array([[3], [5]]), 6)],
    *[(op, method(op), (np.array([True, False]), np.array([True, True]))) for op in BITWISE],
    ("bitwise_not", method("bitwise_not"), (np.array([1, -2]),)),
    ("bitwise_not", method("bitwise_not"), (np.array([True, False]),)),
    *[
        (op, method(op), (np.array([1, -5, 127], dtype), b))
        for op in ("bitwise_left_shift", "bitwise_right_shift")
        for dtype in (np.int8, np.int64)
        for b in (np.array([[0], [1], [7], [8], [64]], dtype), 2)
    ],
    *[
        ("isclose", lambda m, a, b, o=o: m.isclose(a, b, **o), (ODD, b))
        for b in (ODD * (1 + 1e-6), ODD[:, None].copy(), ODD + 1e-3)
        for o in ({}, {"atol": 0.01}, {"rtol": 0.1, "equal_nan": True})
    ],
    ("allclose", lambda m, a, b: m.tensor([m.allclose(a, b), a.allclose(b, atol=9)]), (normal(3), normal(3))),
    ("equal", lambda m, a, b: m.tensor([m.equal(a, b), a.equal(a)]), (normal(3), normal(3))),
    ("isclose", method("isclose"), (np.array([1, 2]), np.array([1, 3]))),
]

EXPRESSIONS: list[Any] = [
    lambda m: [m.allclose(m.ones(2), m.ones(2) + e) for e in (1e-9, 1e-3)],
    lambda m: [m.equal(m.ones(2), b) for b in (m.ones(2), m.zeros(2), m.ones(1), m.ones(2, dtype=m.float64))],
    lambda m: m.isclose(m.ones(1), m.ones(1, dtype=m.float64)),
    lambda m: m.isclose(m.ones(1), m.ones(1), rtol=-1),
    lambda m: m.ones(2).bool() & True,
    lambda m: [m.tensor([1, 2]) == None, m.tensor([1, 2]) != "a"],  # noqa: E711
    lambda m: m.tensor([3, 5]).logical_and_(m.tensor([0, 1])),
    lambda m: m.tensor([3.0, 5.0]).lt_(4),
    lambda m: ~m.tensor([3, 5], dtype=m.uint8),
]
CLASSES: list[Any] = [
    lambda m: m.ones(2) & m.ones(2),
    lambda m: m.isclose(m.ones(1), 1.0),
    lambda m: m.logical_and(m.ones(2), 1),
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_as_in_torch(expression: Any, same: Any) -> None:
    same(expression)


@pytest.mark.parametrize("expression", CLASSES)
def test_error_of_the_same_class(expression: Any, same_class: Any) -> None:
    same_class(expression)
