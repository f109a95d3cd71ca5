"""Elementwise ops: the op table, all pairs of dtypes, and values that need care."""

import itertools
import operator
from typing import Any

import numpy as np
import pytest

import mpigrad

normal = np.random.default_rng(0).standard_normal
SHAPES = [(), (3,), (2, 3), (0,), (2, 0, 3)]
PAIRS = [((), ()), ((3,), ()), ((), (2, 3)), ((2, 3), (3,)), ((2, 1), (1, 3)), ((4, 1, 3), (2, 1)), ((0,), (1,))]


def positive(shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(np.abs(normal(shape)) + 0.3)


def whole(*values: Any) -> np.ndarray:
    return np.array(values, np.float64)


def method(name: str) -> Any:
    return lambda m, *inputs: getattr(m, name)(*inputs)


UNARY = ["neg", "abs", "exp", "sin", "cos", "tanh", "sigmoid", "relu", "sign", "expm1", "erf", "tan", "square"]
UNARY += ["floor", "ceil", "trunc", "round"]
UNARY_POSITIVE = ["log", "sqrt", "log1p", "rsqrt", "reciprocal"]
LOGICAL = ["logical_not", "isnan", "isfinite", "isinf"]
BINARY = ["add", "sub", "rsub", "mul", "div", "pow", "floor_divide", "remainder", "maximum", "minimum", "xlogy"]
COMPARISONS = ["eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or"]
BITWISE = ["bitwise_and", "bitwise_or", "bitwise_xor"]
NUMBERLESS = {"maximum", "minimum", "logical_and", "logical_or"}  # torch takes no number in these

OPERATORS = ["add", "sub", "mul", "truediv", "pow", "floordiv", "mod", "eq", "ne", "lt", "le", "gt", "ge"]
NOTES = {
    "floor_divide": ["constant"],  # torch has no derivative for it
    "number floordiv tensor": ["constant"],
    "number truediv tensor": ["name"],  # torch multiplies by the reciprocal
    "number mod tensor": ["constant"],
    "number pow tensor": ["name"],  # Pow2
}


def made(a: Any, b: Any) -> tuple[np.ndarray, np.ndarray]:
    return positive(a), positive(b)


ROWS: list[tuple[Any, ...]] = [
    *[(op, method(op), (np.asarray(normal(s)),)) for op in UNARY for s in SHAPES],
    *[(op, method(op), (positive(s),)) for op in UNARY_POSITIVE for s in SHAPES],
    *[(op, method(op), (whole(0, -1.5, np.nan, np.inf),)) for op in LOGICAL],
    *[(op, method(op), made(*pair)) for op in BINARY + COMPARISONS for pair in PAIRS],
    *[
        (op, method(op), (positive(s), n))
        for op in BINARY + COMPARISONS
        if op not in NUMBERLESS
        for s in ((), (3,))
        for n in (2, 1.5)
    ],
    *[(op, method(op), (np.array([1, 2, 3]), np.array([[3], [5]]))) for op in BITWISE],
    *[(op, method(op), (np.array([True, False]), np.array([True, True]))) for op in BITWISE],
    ("bitwise_not", method("bitwise_not"), (np.array([1, -2]),)),
    ("bitwise_not", method("bitwise_not"), (np.array([True, False]),)),
    *[
        (f"number {op} tensor", lambda m, a, n, op=op: getattr(operator, op)(n, a), (positive(s), n))
        for op in OPERATORS
        for s in ((), (3,))
        for n in (2, 1.5)
    ],
    ("mul by itself", lambda m, a: a * a, (normal(3),)),
    ("pow by itself", lambda m, a: a**a, (positive((3,)),)),
    ("pow 0", lambda m, a: a**0, (whole(0, 1, -2),)),
    ("pow 0.0", lambda m, a: a**0.0, (whole(0, 1, -2),)),
    ("pow 1", lambda m, a: a**1, (whole(0, 1, -2),)),
    ("pow 2", lambda m, a: a**2, (whole(0, 1, -2),)),
    ("pow -1", lambda m, a: a**-1, (whole(3, 1, -2),)),
    ("pow 0.5", lambda m, a: a**0.5, (whole(3, 1, 0.2),)),
    ("pow of zero", method("pow"), (whole(0, 0, 0, 2), whole(0, 1, 2, 3)), "kink"),
    ("0 ** tensor", lambda m, a: 0**a, (whole(0, 1, 2),), "kink", "name"),
    ("pow of negative", method("pow"), (whole(-2, -3), np.array([2, 3]))),
    ("remainder of negative", method("remainder"), (whole(-5.5, 5.5, -5.5), whole(2, -2, -2))),
    ("relu at 0", method("relu"), (whole(-1, 0, 1),), "kink"),
    ("abs at 0", method("abs"), (whole(-1, 0, 1),), "kink"),
    ("sqrt at 0", method("sqrt"), (whole(0, 4),), "kink"),
    ("maximum, ties", method("maximum"), (whole(1, 2, 3), whole(1, 3, 2)), "kink"),
    ("minimum, ties", method("minimum"), (whole(1, 2, 3), whole(1, 3, 2)), "kink"),
    *[(op, method("where"), (np.array([True, False, True]), *made(*p))) for op in ("where",) for p in PAIRS[:4]],
    ("where", method("where"), (np.array([[True], [False]]), positive((3,)), 2.0)),
    ("where", method("where"), (np.array([[True], [False]]), -1, positive((3,)))),
    ("where", method("where"), (np.array(True), positive(()), positive(()))),
    ("where, method", lambda m, c, a, b: a.where(c, b), (np.array([True, False]), normal(2), normal(2))),
    *[
        ("clamp", lambda m, a, low, high: a.clamp(low, high), (whole(-3, -1, 0, np.nan, 1, 3), *bounds), "kink")
        for bounds in ((-1, 1), (None, 0.5), (-1, None), (1, -1), (whole(-1), whole(*range(6)) - 2))
        + ((whole(*range(6)), whole(*range(5, -1, -1))), (None, whole(0, 1, -1, 2, 3, -1)))
    ],
    ("clamp", lambda m, a: a.clamp(1, 2.5), (np.array([1, 2, 3]),)),
    ("clip", lambda m, a: [a.clip(0.1), m.clip(a, max=0.5)], (normal(4),), "name"),
    ("clamp_min", lambda m, a: [a.clamp_min(0.1), m.clamp_min(a, a * 2)], (normal(4),), "name"),
    ("clamp_max", lambda m, a: [a.clamp_max(0.1), m.clamp_max(a, a * 2)], (normal(4),), "name"),
    ("round", lambda m, a: [a.round(decimals=1), m.round(a, decimals=-1)], (whole(2.35, -1.25, 15, 26),), "kink"),
    *[("lerp", method("lerp"), (normal((2, 3)), normal(3), w), "name") for w in (0.3, 1.0, normal((2, 1)))],
    ("xlogy", method("xlogy"), (whole(0, 0, 2, np.nan, 0), whole(0, -1, 3, 1, np.nan)), "kink"),
    ("int + float", method("add"), (np.array([1, 2]), normal(2))),
    ("float32 * float64", method("mul"), (np.float32([1, 2]), normal(2))),
    ("0-d float64 * float32", method("mul"), (np.asarray(2.5), np.float32([1, 2]))),
    ("bool * float", method("mul"), (np.array([True, False]), normal(2))),
]  # fmt: skip
ROWS = [(*row, *NOTES.get(row[0], [])) for row in ROWS]


FLOATING = ["float64", "float32", "float16"]
DTYPES = [*FLOATING, "int64", "int32", "int16", "int8", "uint8", "bool"]


def operands(m: Any, dtype: str) -> list[Any]:
    """A vector and a scalar of a dtype."""
    made = getattr(m, dtype)
    return [m.tensor([3, 0, 2, 1], dtype=made), m.tensor(2, dtype=made)]


COMPUTED_BOOLS = {"abs", "relu", "sub", "rsub", "square"}  # torch refuses bools here


@pytest.mark.parametrize("op", [*UNARY, *UNARY_POSITIVE, *LOGICAL, "bitwise_not"])
def test_unary_dtypes(op: str, torch: Any) -> None:
    for dtype, which in itertools.product(DTYPES, (0, 1)):
        call = lambda m, dtype=dtype, which=which: getattr(m, op)(operands(m, dtype)[which])
        agree(torch, op, call, f"{op} of {dtype}, {which}")


@pytest.mark.parametrize("op", BINARY + COMPARISONS + BITWISE)
def test_binary_dtypes(op: str, torch: Any) -> None:
    operand = itertools.product(DTYPES, (0, 1))
    for (left, i), (right, j) in itertools.product(operand, repeat=2):
        call = lambda m, left=left, i=i, right=right, j=j: getattr(m, op)(operands(m, left)[i], operands(m, right)[j])
        agree(torch, op, call, f"{op} of {left}, {i}, and {right}, {j}")
    for dtype, number, i in itertools.product(DTYPES, (2, 1.5, True), (0, 1)):
        if op not in NUMBERLESS and (op, number) != ("pow", True):
            call = lambda m, dtype=dtype, i=i, number=number: getattr(m, op)(operands(m, dtype)[i], number)
            agree(torch, op, call, f"{op} of {dtype}, {i}, and {number}")


def agree(torch: Any, op: str, call: Any, what: str) -> None:
    """Equal dtype and values, or a RuntimeError where torch raises one."""
    try:
        want = call(torch)
    except RuntimeError:
        if op in COMPUTED_BOOLS and ("bool" in what or "True" in what):
            return
        with pytest.raises(RuntimeError):
            call(mpigrad)
            pytest.fail(f"{what}: torch raises an error")
        return
    rtol = {"float16": 2e-3, "float32": 1e-6}.get(str(want.dtype)[6:], 1e-12)
    np.testing.assert_allclose(call(mpigrad).numpy(), want.numpy(), rtol=rtol, strict=True, err_msg=what)
