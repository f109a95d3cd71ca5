"""Comparison, logic and bits: elementwise ops without gradients."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from ..autograd import Variable, record
from ..backend import Array
from ..dtypes import FLOATING, of
from .pointwise import binary, cannot_broadcast, not_a_tensor, unary

# fmt: off
__all__ = [
    "allclose", "bitwise_and", "bitwise_left_shift", "bitwise_not", "bitwise_or", "bitwise_right_shift", "bitwise_xor",
    "eq", "equal", "ge", "greater", "greater_equal", "gt", "isclose", "isfinite", "isinf", "isnan", "isneginf",
    "isposinf", "isreal", "le", "less", "less_equal", "logical_and", "logical_not", "logical_or", "logical_xor", "lt",
    "ne", "not_equal", "signbit",
]
# fmt: on

eq = binary("Eq", operator.eq, numbers="b")
ne = not_equal = binary("Ne", operator.ne, numbers="b")
lt = less = binary("Lt", operator.lt, numbers="b")
le = less_equal = binary("Le", operator.le, numbers="b")
gt = greater = binary("Gt", operator.gt, numbers="b")
ge = greater_equal = binary("Ge", operator.ge, numbers="b")

logical_and = binary("LogicalAnd", np.logical_and, numbers="")
logical_or = binary("LogicalOr", np.logical_or, numbers="")
logical_xor = binary("LogicalXor", np.logical_xor, numbers="")
logical_not = unary("LogicalNot", np.logical_not)

bitwise_and = binary("BitwiseAnd", operator.and_, refuses=FLOATING)
bitwise_or = binary("BitwiseOr", operator.or_, refuses=FLOATING)
bitwise_xor = binary("BitwiseXor", operator.xor, refuses=FLOATING)
bitwise_not = unary("BitwiseNot", operator.invert, refuses=FLOATING)
bitwise_left_shift = binary("BitwiseLeftShift", operator.lshift, refuses=FLOATING + "b")
bitwise_right_shift = binary("BitwiseRightShift", operator.rshift, refuses=FLOATING + "b")

isnan = unary("Isnan", np.isnan)
isfinite = unary("Isfinite", np.isfinite)
isinf = unary("Isinf", np.isinf)
isposinf = unary("Isposinf", lambda x: np.isinf(x) & (x > 0))
isneginf = unary("Isneginf", lambda x: np.isinf(x) & (x < 0))
isreal = unary("Isreal", lambda x: np.ones_like(x, dtype=bool))
signbit = unary("Signbit", lambda x: np.signbit(x) if x.dtype.kind == "f" else x < 0)


def isclose(input: Any, other: Any, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False) -> Any:
    """Whether |input - other| <= atol + rtol * |other|; equal infinities are close, NaN only with equal_nan."""
    for place, value in enumerate((input, other), 1):
        if not isinstance(value, Variable):
            raise not_a_tensor(isclose, place, value)
    a, b = input.array, other.array
    if a.dtype != b.dtype:
        raise RuntimeError(f"{of(a.dtype).title} did not match {of(b.dtype).title}")
    for name, value in (("rtol", rtol), ("atol", atol)):
        if value < 0:
            raise RuntimeError(f"{name} must be greater than or equal to zero, but got {value:g}")
    try:
        return record("isclose", _close(a, b, rtol, atol, equal_nan))
    except ValueError:
        raise RuntimeError(cannot_broadcast(a.shape, b.shape)) from None


def _close(a: Array, b: Array, rtol: float, atol: float, equal_nan: bool) -> Array:
    if a.dtype.kind not in FLOATING:
        a, b = a.astype(np.float64), b.astype(np.float64)
    near = np.abs(a - b) <= atol + rtol * np.abs(b)
    same = (a == b) | (np.isfinite(a) & np.isfinite(b) & near)
    return same | (np.isnan(a) & np.isnan(b)) if equal_nan else same


def allclose(input: Any, other: Any, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False) -> bool:
    """Whether all elements are close, see `isclose`."""
    return bool(isclose(input, other, rtol, atol, equal_nan).array.all())


def equal(input: Any, other: Any) -> bool:
    """Whether both have one shape and equal elements."""
    return input.array.shape == other.array.shape and bool(eq(input, other).array.all())
