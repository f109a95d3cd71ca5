"""What all elementwise ops share: promotion over all pairs of dtypes, casts and choice."""

import itertools
from typing import Any

import numpy as np
import pytest

import mpigrad

normal = np.random.default_rng(0).standard_normal
PAIRS = [((), ()), ((3,), ()), ((), (2, 3)), ((2, 3), (3,))]


def choose(m: Any, *inputs: Any) -> Any:
    return m.where(*inputs)


ROWS: list[tuple[Any, ...]] = [
    *[
        ("where", choose, (np.array([True, False, True]), np.asarray(normal(a)), np.asarray(normal(b))))
        for a, b in PAIRS
    ],
    ("where", choose, (np.array([[True], [False]]), normal(3), 2.0)),
    ("where", choose, (np.array([[True], [False]]), -1, normal(3))),
    ("where", choose, (np.array(True), np.asarray(normal(())), np.asarray(normal(())))),
    ("where", lambda m, c, a, b: a.where(c, b), (np.array([True, False]), normal(2), normal(2))),
]

DTYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]

UNARY = ["neg", "abs", "exp", "exp2", "expm1", "log", "log1p", "log2", "log10", "sqrt", "rsqrt", "sin", "cos", "tan"]
UNARY += ["asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "sigmoid", "relu", "erf", "square"]
UNARY += ["deg2rad", "rad2deg", "floor", "ceil", "trunc", "round", "frac", "sign", "sgn", "reciprocal", "positive"]
UNARY += ["nan_to_num", "erfc", "erfinv", "lgamma", "digamma", "i0", "logit", "sinc"]
UNARY += ["isnan", "isinf", "isfinite", "isposinf", "isneginf", "isreal", "signbit", "logical_not", "bitwise_not"]

BINARY = ["add", "sub", "rsub", "mul", "div", "pow", "float_power", "floor_divide", "remainder", "fmod", "maximum"]
BINARY += ["minimum", "fmax", "fmin", "copysign", "hypot", "heaviside", "nextafter", "ldexp", "atan2", "xlogy"]
BINARY += ["logaddexp", "logaddexp2", "eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_xor"]
BINARY += ["bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_left_shift", "bitwise_right_shift"]
ONE_DTYPE = {"heaviside", "nextafter"}  # torch takes no two dtypes in these


def operands(m: Any, dtype: str) -> list[Any]:
    """A vector and a scalar of a dtype."""
    made = getattr(m, dtype)
    return [m.tensor([3, 0, 2, 1], dtype=made), m.tensor(2, dtype=made)]


@pytest.mark.parametrize("op", UNARY)
def test_unary_dtypes(op: str, torch: Any) -> None:
    for dtype, which in itertools.product(DTYPES, (0, 1)):
        call = lambda m, dtype=dtype, which=which: getattr(m, op)(operands(m, dtype)[which])
        agree(torch, call, f"{op} of {dtype}, {which}")


@pytest.mark.filterwarnings("ignore:An output with one or more elements was resized")  # of ldexp, in torch
@pytest.mark.parametrize("op", BINARY)
def test_binary_dtypes(op: str, torch: Any) -> None:
    operand = itertools.product(DTYPES, (0, 1))
    for (left, i), (right, j) in itertools.product(operand, repeat=2):
        if op in ONE_DTYPE and left != right:
            continue
        if op == "ldexp" and right == "bool":  # torch refuses this alone
            continue
        call = lambda m, left=left, i=i, right=right, j=j: getattr(m, op)(operands(m, left)[i], operands(m, right)[j])
        agree(torch, call, f"{op} of {left}, {i}, and {right}, {j}")
    for dtype, number, i in itertools.product(DTYPES, (2, 1.5, True, -1, 300), (0, 1)):
        if op == "pow" and number in (-1, 300, True):  # torch has rules of their own for these
            continue
        call = lambda m, dtype=dtype, i=i, number=number: getattr(m, op)(operands(m, dtype)[i], number)
        agree(torch, call, f"{op} of {dtype}, {i}, and {number}")


def agree(torch: Any, call: Any, what: str) -> None:
    """Equal dtype and values, or an error of the class of torch's."""
    try:
        want = call(torch)
    except (RuntimeError, TypeError) as error:
        with pytest.raises(type(error)):
            call(mpigrad)
            pytest.fail(f"{what}: torch raises {error}")
        return
    got = call(mpigrad)
    assert str(got.dtype)[8:] == str(want.dtype)[6:], what
    rtol = {"bfloat16": 1e-2, "float16": 2e-3, "float32": 2e-6}.get(str(want.dtype)[6:], 1e-12)
    a, b = (v.double().numpy() for v in (got, want))
    np.testing.assert_allclose(a, b, rtol=rtol, strict=True, err_msg=what)
