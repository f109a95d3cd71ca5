"""Arithmetic, rounding, exponential and trigonometric functions."""

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
UNARY += ["negative", "absolute", "floor", "ceil", "trunc", "fix", "round", "frac", "exp2", "atan", "arctan", "sinh"]
UNARY += ["cosh", "asinh", "arcsinh", "deg2rad", "rad2deg", "sgn", "nan_to_num", "positive"]
UNARY_POSITIVE = ["log", "sqrt", "log1p", "rsqrt", "reciprocal", "log2", "log10"]
BETWEEN = ["asin", "arcsin", "acos", "arccos", "atanh", "arctanh"]  # -1 and 1
BINARY = ["add", "sub", "rsub", "mul", "div", "pow", "floor_divide", "remainder", "maximum", "minimum", "xlogy"]
BINARY += ["subtract", "multiply", "divide", "true_divide", "fmod", "float_power", "fmax", "fmin", "atan2", "arctan2"]
BINARY += ["hypot", "copysign", "heaviside", "nextafter", "ldexp"]
NUMBERLESS = {"maximum", "minimum", "fmax", "fmin", "atan2", "arctan2", "hypot", "heaviside", "nextafter", "ldexp"}

OPERATORS = ["add", "sub", "mul", "truediv", "pow", "floordiv", "mod", "eq", "ne", "lt", "le", "gt", "ge"]
NOTES = {
    "floor_divide": ["constant"],  # torch has no derivative for these
    "heaviside": ["constant"],
    "nextafter": ["constant"],
    "number floordiv tensor": ["constant"],
    "number truediv tensor": ["name"],  # torch multiplies by the reciprocal
    "number mod tensor": ["constant"],
    "number pow tensor": ["name"],  # Pow2
}


def made(a: Any, b: Any) -> tuple[np.ndarray, np.ndarray]:
    return positive(a), positive(b)


ROWS: list[tuple[Any, ...]] = [
    *[(op, method(op), (np.asarray(normal(s)),)) for op in ("neg", "abs", "exp", "relu", "round") for s in SHAPES],
    *[(op, method(op), (normal((2, 3)),)) for op in UNARY],
    *[(op, method(op), (positive((2, 3)),)) for op in UNARY_POSITIVE],
    *[(op, method(op), (whole(-0.9, -0.2, 0.5),)) for op in BETWEEN],
    *[(op, method(op), (whole(1.1, 3, 50),)) for op in ("acosh", "arccosh")],
    *[(op, method(op), made(*pair)) for op in ("add", "mul", "div", "pow", "maximum", "atan2") for pair in PAIRS],
    *[(op, method(op), made((2, 1), (1, 3))) for op in BINARY],
    *[
        (op, method(op), (positive(s), n))
        for op in BINARY
        if op not in NUMBERLESS
        for s in ((), (3,))
        for n in (2, 1.5)
    ],
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
    ("lerp of numbers", lambda m, a, b: [a.lerp(b, 0.7), m.lerp(a, b, -2)], (normal(3), normal(3)), "name"),
    *[
        ("div rounded", lambda m, a, b, r=r: m.div(a, b, rounding_mode=r), (normal((2, 3)), b), "kink")
        for r in ("trunc", "floor") for b in (normal(3), 0.3)
    ],
    ("div rounded", lambda m, a, b: [m.div(a, b, rounding_mode=r) for r in ("trunc", "floor")],
     (np.array([7, -7, 6, -6]), np.array([[2], [-2]]))),
    ("add", lambda m, a, b: [m.add(a, b, alpha=2), a.sub(b, alpha=0.5)], (normal(3), normal(1))),
    ("rsub", lambda m, a, b: [m.rsub(a, b, alpha=-1), m.rsub(a, 2)], (normal(3), normal(1))),
    ("addcmul", lambda m, a, b, c: m.addcmul(a, b, c, value=0.5), (normal(3), normal((2, 1)), positive(()))),
    ("addcmul", lambda m, a, b, c: a.addcmul(b, c), (normal((2, 3)), normal((2, 1)), np.float32([2]))),
    ("addcdiv", lambda m, a, b, c: m.addcdiv(a, b, c, value=2), (normal(3), normal((2, 1)), positive((2, 3)))),
    ("copysign, number", method("copysign"), (normal(3), -0.0)),
    ("hypot", method("hypot"), (whole(3, -5), whole(4, -12))),
    ("atan2 at 0", method("atan2"), (whole(0, -0.0, 1), whole(0, -1, 0)), "kink"),
    ("fmax, NaN and ties", method("fmax"), (whole(1, np.nan, 2, 3), whole(np.nan, 1, 2, 4)), "kink"),
    ("fmin, NaN and ties", method("fmin"), (whole(1, np.nan, 2, 3), whole(np.nan, 1, 2, 4)), "kink"),
    ("fmod of negative", method("fmod"), (whole(-5.5, 5.5, -5.5), whole(2, -2, -2))),
    ("ldexp", method("ldexp"), (normal(3), np.array([1, 0, 3]))),
    ("heaviside", method("heaviside"), (whole(-1, 0, 2, np.nan), whole(5, 5, 5, 5)), "constant"),
    ("nan_to_num", lambda m, a: [a.nan_to_num(), a.nan_to_num(1, 2, -3)], (whole(np.nan, np.inf, -np.inf, 1),), "kink"),
    *[(f"{op} of NaN", method(op), (whole(np.nan, -0.0, np.inf, -np.inf),), "kink") for op in ("sign", "relu", "abs")],
    ("reversed shifts", lambda m, a: [1 << a, 64 >> a, a << 2, a >> 1], (np.array([1, 2, 5]),)),
    ("xlogy", method("xlogy"), (whole(0, 0, 2, np.nan, 0), whole(0, -1, 3, 1, np.nan)), "kink"),
    ("int + float", method("add"), (np.array([1, 2]), normal(2))),
    ("float32 * float64", method("mul"), (np.float32([1, 2]), normal(2))),
    ("0-d float64 * float32", method("mul"), (np.asarray(2.5), np.float32([1, 2]))),
    ("bool * float", method("mul"), (np.array([True, False]), normal(2))),
]  # fmt: skip
ROWS = [(*row, *NOTES.get(row[0], [])) for row in ROWS]


VALUES = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 2.5, -2.5, 5.0]
PAIRED = [
    "floor_divide",
    "remainder",
    "fmod",
    "pow",
    "maximum",
    "fmin",
    "atan2",
    "hypot",
    "copysign",
    "heaviside",
    "div",
]


@pytest.mark.parametrize("op", PAIRED)
def test_special_values(op: str, torch: Any) -> None:
    a, b = (np.array(v) for v in zip(*itertools.product(VALUES, VALUES), strict=True))
    got, want = (getattr(m, op)(m.tensor(a), m.tensor(b)).numpy() for m in (mpigrad, torch))
    np.testing.assert_allclose(got, want, rtol=1e-12)
    if op in ("copysign", "atan2", "div", "floor_divide"):
        np.testing.assert_array_equal(np.signbit(got[got == got]), np.signbit(want[want == want]))


IN_PLACE = ["add", "sub", "mul", "div", "pow", "remainder", "fmod", "floor_divide", "copysign", "atan2", "hypot"]
IN_PLACE += ["addcmul", "addcdiv", "lerp", "clamp", "clip", "ldexp", "xlogy", "eq", "lt", "ge", "logical_xor"]


@pytest.mark.parametrize("op", IN_PLACE)
def test_in_place(op: str, same: Any) -> None:
    def call(m: Any) -> Any:
        a, b = m.tensor([1.5, -2.0, 0.25], requires_grad=True), m.tensor([2.0, 3.0, 4.0], requires_grad=True)
        x = a * 1
        y = (
            getattr(x, f"{op}_")(b, b, **{})
            if op in ("addcmul", "addcdiv", "lerp", "clamp", "clip")
            else getattr(x, f"{op}_")(b)
        )
        if not op.startswith(("eq", "lt", "ge", "logical", "floor_divide")):
            y.sum().backward()
        return [x is y, x.detach(), *[v.grad for v in (a, b) if v.grad is not None]]

    if op not in ("atan2", "hypot", "pow", "xlogy", "ldexp"):
        same(call)
    else:
        call(mpigrad)


def grad(call: Any) -> Any:
    """The gradients of a function of two tensors, with an infinite and a NaN gradient among those that flow back."""

    def gradients(m: Any) -> Any:
        a, b = (m.tensor(v, requires_grad=True) for v in ([1.0, 2, 3, -1], [2.0, 1, 3, -2]))
        call(m, a, b).backward(m.tensor([float("inf"), float("nan"), 1, float("-inf")]))
        return [v.grad for v in (a, b)]

    return gradients


EXPRESSIONS: list[Any] = [
    lambda m: 3.0 / m.arange(1.0, 60.0),  # the reciprocal is rounded, too
    lambda m: (2 / m.ones(2, requires_grad=True)).grad_fn.name(),
    lambda m: [2 ** m.tensor(-1), m.tensor([2, 1, -1]) ** m.tensor(-3), m.tensor(2) ** m.tensor([-1])],
    lambda m: m.tensor([2, 1]) ** -1,
    lambda m: m.maximum(m.ones(2), 1),
    lambda m: m.atan2(1, m.ones(2)),
    lambda m: m.nextafter(m.ones(2), 1),
    lambda m: m.heaviside(m.ones(2), m.ones(2).double()),
    lambda m: ~m.ones(2),
    lambda m: 2 @ m.ones(2),
    lambda m: m.ones(2).float_power_(2),
    lambda m: [m.ones(2).double().float_power_(2), m.full((2, 2), 3.0).renorm_(2, 0, 0.5), m.ones(2).polygamma_(1)],
    lambda m: m.arange(4.0).as_strided_((2, 2), (1, 1)),
    grad(lambda m, a, b: (a - b).relu()),
    grad(lambda m, a, b: m.maximum(a, b)),
    grad(lambda m, a, b: m.fmin(a, b)),
    grad(lambda m, a, b: m.where(a > b, a, b)),
    grad(lambda m, a, b: (a * b).clamp(-1, 2)),
    lambda m: m.tensor([True]) - m.tensor([True]),
    lambda m: m.tensor([True]) - 1,
    lambda m: 1 - m.tensor([True]),
    lambda m: -m.tensor([True]),
    lambda m: +m.tensor([True]),
    lambda m: m.tensor([True]) ** 2,
    lambda m: m.tensor([1]) // 0,
    lambda m: m.tensor([1]) % 0,
    lambda m: m.fmod(m.tensor([1]), m.tensor([0])),
    lambda m: m.tensor([2]) ** -1,
    lambda m: m.tensor([2]) / 0,
    lambda m: m.tensor([1], dtype=m.uint8) - 2,
    lambda m: m.tensor([1], dtype=m.int8) + 300,
    lambda m: m.div(m.ones(1), 2, rounding_mode="up"),
    lambda m: m.tensor([1.5, -0.5]).round(),
    lambda m: m.tensor([True, False]).clamp(1),
    lambda m: m.tensor([1]).add_(1.5),
    lambda m: m.tensor([1]).exp_(),
    lambda m: m.tensor([1, 2]).sqrt(),
    lambda m: m.add(m.tensor([1]), m.tensor([1]), alpha=1.5),
    lambda m: m.add(m.tensor([True]), m.tensor([1]), alpha=2),
    lambda m: m.tensor([1.0]).lerp(m.tensor([2.0], dtype=m.float64), 0.5).shape,
    lambda m: m.tensor([1.0]) + m.ones(2, 3).T.T,
    lambda m: m.ones(2) + m.ones(3),
    lambda m: m.ones(2).addcmul(m.ones(3), m.ones(2)),
    lambda m: m.float_power(2, m.tensor([3])),
    lambda m: m.float_power(m.tensor([3], dtype=m.int8), 2),
    lambda m: m.tensor([255], dtype=m.uint8) == -1,
    lambda m: m.tensor([0.1], dtype=m.bfloat16) * 0.1 == m.tensor([0.01], dtype=m.bfloat16),
    lambda m: m.tensor([3], dtype=m.bfloat16) + m.tensor([3], dtype=m.float16),
    lambda m: 2.0 ** m.tensor([1, 2]),
    lambda m: m.exp(m.tensor([1.0, 2.0], dtype=m.bfloat16)),
]
CLASSES: list[Any] = [
    lambda m: m.ones(2) + "a",
    lambda m: m.add(m.ones(2), "a"),
    lambda m: m.ones(2) + None,
    lambda m: m.ones(2) < "a",
    lambda m: m.maximum(m.ones(2), 2.0),
    lambda m: m.exp(2.0),
    lambda m: m.exp([2.0]),
    lambda m: m.ones(2).clamp(),
    lambda m: m.ones(2).clamp("a"),
    lambda m: m.addcdiv(m.tensor([1]), m.tensor([1]), m.tensor([1])),
    lambda m: m.addcdiv(m.ones(1), m.tensor([1]), m.tensor([1])),
    lambda m: m.addcmul(*[m.tensor([True])] * 3),
    *[
        lambda m, op=op: getattr(m, op)(2, m.ones(2))
        for op in ("eq", "lt", "fmod", "copysign", "clamp_min", "clamp_max")
    ],
    lambda m: m.lerp(m.tensor([1]), m.tensor([2]), 0.5),
    lambda m: m.tensor([1]).round(decimals=1),
    lambda m: m.frac(m.tensor([1])),
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_as_in_torch(expression: Any, same: Any) -> None:
    same(expression)


@pytest.mark.parametrize("expression", CLASSES)
def test_error_of_the_same_class(expression: Any, same_class: Any) -> None:
    same_class(expression)
