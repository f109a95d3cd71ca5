"""Elementwise ops, as a table: PyTorch's name, the value over arrays, the vector-Jacobian product towards each input.

In a vjp g is the gradient, y the op's result, x (or a, b, c) the inputs; what a vjp does not name is not kept. Given
arrays instead of Tensors every op here simply computes, so that a vjp can call its siblings.

Here are arithmetic, rounding, exponential and trigonometric functions; compare.py and special.py have the others.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

from ..autograd import Variable, record
from ..backend import Array, kernels
from ..dtypes import DOUBLE, FLOATING, finfo, of
from .erf import erf as erf_of
from .pointwise import (
    Op,
    binary,
    cannot_broadcast,
    cast,
    compute,
    is_number,
    not_a_tensor,
    number_of,
    promoted,
    refuse,
    together,
    unary,
    where,
    zeros,
)

# fmt: off
__all__ = [
    "abs", "absolute", "acos", "acosh", "add", "addcdiv", "addcmul", "arccos", "arccosh", "arcsin", "arcsinh", "arctan",
    "arctan2", "arctanh", "asin", "asinh", "atan", "atan2", "atanh", "ceil", "clamp", "clamp_max", "clamp_min", "clip",
    "copysign", "cos", "cosh", "deg2rad", "div", "divide", "erf", "exp", "exp2", "expm1", "fix", "float_power", "floor",
    "floor_divide", "fmax", "fmin", "fmod", "frac", "heaviside", "hypot", "ldexp", "lerp", "log", "log1p", "log2",
    "log10", "maximum", "minimum", "mul", "multiply", "nan_to_num", "neg", "negative", "nextafter", "positive", "pow",
    "rad2deg", "reciprocal", "relu", "remainder", "round", "rsqrt", "rsub", "sgn", "sigmoid", "sign", "sin", "sinh",
    "sqrt", "square", "sub", "subtract", "tan", "tanh", "true_divide", "trunc", "where", "xlogy",
]
# fmt: on

# --- arithmetic -----------------------------------------------------------------------------------------------------


def _check_negation(input: Any) -> None:
    if input.array.dtype.kind == "b":
        raise RuntimeError(
            "Negation, the `-` operator, on a bool tensor is not supported. If you are trying to invert a mask, use "
            "the `~` or `logical_not()` operator instead."
        )


def _check_subtraction(input: Any, other: Any) -> None:
    bools = [isinstance(v, bool) or (isinstance(v, Variable) and v.array.dtype.kind == "b") for v in (input, other)]
    if all(bools):
        raise RuntimeError(
            "Subtraction, the `-` operator, with two bool tensors is not supported. Use the `^` or `logical_xor()` "
            "operator instead."
        )
    if any(bools):
        raise RuntimeError(
            "Subtraction, the `-` operator, with a bool tensor is not supported. If you are trying to invert a mask, "
            "use the `~` or `logical_not()` operator instead."
        )


def _check_one_dtype(input: Any, other: Any) -> None:
    if input.array.dtype != other.array.dtype:
        raise RuntimeError("heaviside is not yet implemented for tensors with different dtypes.")


def _power(a: Any, b: Any) -> Array:
    """a ** b; integers to negative powers would not be integers: 0 for all but 1 and -1."""
    if a.dtype.kind in "iu" and (negative := np.less(b, 0)).any():
        return np.where(negative, np.where(np.abs(a) == 1, a ** np.abs(b), 0), a ** np.maximum(b, 0))
    return a**b


def _check_exponent(a: Any, b: Any) -> None:
    if is_number(b) and b < 0 and isinstance(b, int) and a.array.dtype.kind in "iu":
        raise RuntimeError("Integers to negative integer powers are not allowed.")


def _pow_slope(a: Any, b: Any) -> Any:
    """b * a**(b-1), and 0 where b is 0, whatever a is."""
    return a * 0 if is_number(b) else where(b == 0, 0.0, b * a ** (b - 1))


def _divisor(b: Any) -> Any:
    """b, checked: floating point divides by zero, integers do not."""
    if not is_number(b) and b.dtype.kind in "iu" and not b.all():
        raise RuntimeError("ZeroDivisionError")
    return b


def _truncated_quotient(a: Any, b: Any) -> Array:
    """a / b rounded towards zero; exact for integers."""
    if a.dtype.kind == "f":
        return np.trunc(a / b)
    return np.floor_divide(a, _divisor(b)) + ((np.remainder(a, b) != 0) & ((a < 0) != (b < 0)))


plus = binary("Add", operator.add, lambda g: g, lambda g: g)
minus = binary("Sub", operator.sub, lambda g: g, lambda g: -g, check=_check_subtraction)
reversed_minus = binary("Rsub", lambda a, b: b - a, lambda g: -g, lambda g: g, check=_check_subtraction, digits="011")
mul = multiply = binary("Mul", operator.mul, lambda g, b: g * b, lambda g, a: g * a)
quotient = binary("Div", np.true_divide, lambda g, b: g / b, lambda g, a, b: -g * ((a / b) / b), to_float=True)
floor_quotient = binary("Div", lambda a, b: np.floor_divide(a, _divisor(b)), zeros, zeros, refuses="b", digits="222")
trunc_quotient = binary("Div", _truncated_quotient, zeros, zeros, refuses="b", digits="222")
floor_divide = binary("FloorDivide", lambda a, b: np.floor_divide(a, _divisor(b)), refuses="b")
remainder = binary(
    "Remainder",
    lambda a, b: np.remainder(a, _divisor(b)),
    lambda g: g,
    lambda g, a, b: -g * floor_divide(a, b),
    refuses="b",
    digits="100",
)
fmod = binary(
    "Fmod",
    lambda a, b: np.fmod(a, _divisor(b)),
    lambda g: g,
    lambda g, a, b: -g * trunc(a / b),
    refuses="b",
    numbers="b",
    digits="100",
)
log: Op = unary("Log", np.log, lambda g, x: g / x, to_float=True)
pow = binary(
    "Pow",
    _power,
    lambda g, a, b: g * (b * a ** (b - 1)) if is_number(b) and b != 0 else g * _pow_slope(a, b),
    lambda g, y, a, b: g * where((a == 0) & (b >= 0), 0.0, y * log(a)),
    refuses="b",
    check=_check_exponent,
    digits="102",
)
reciprocal = unary("Reciprocal", lambda x: 1 / x, lambda g, y: -g * (y * y), to_float=True)
maximum = binary("Maximum", np.maximum, lambda g, a, b: _share(g, a, b), lambda g, a, b: _share(g, b, a), numbers="")
minimum = binary("Minimum", np.minimum, lambda g, a, b: _share(g, b, a), lambda g, a, b: _share(g, a, b), numbers="")
fmax = binary(
    "Fmax",
    np.fmax,
    lambda g, a, b: where((a >= b) | (b != b), g, 0.0),
    lambda g, a, b: where((a >= b) | (b != b), 0.0, g),
    numbers="",
)
fmin = binary(
    "Fmin",
    np.fmin,
    lambda g, a, b: where((a <= b) | (b != b), g, 0.0),
    lambda g, a, b: where((a <= b) | (b != b), 0.0, g),
    numbers="",
)
neg = negative = unary("Neg", operator.neg, lambda g: -g, check=_check_negation)
abs = absolute = unary("Abs", np.absolute, lambda g, x: g * sign(x), refuses="b")
sign: Op = unary("Sign", lambda x: _sign(x), zeros)
sgn = unary("Sgn", lambda x: _sign(x), zeros)
copysign = binary(
    "Copysign",
    np.copysign,
    lambda g, y, a: g * where(a == 0, 0.0, y / where(a == 0, 1.0, a)),
    zeros,
    to_float=True,
    numbers="b",
    digits="010",
)
hypot = binary("Hypot", np.hypot, lambda g, y, a: g * (a / y), lambda g, y, b: g * (b / y), refuses="biu", numbers="")
heaviside = binary(
    "Heaviside", lambda a, b: np.where(a == 0, b, (a > 0).astype(a.dtype)), check=_check_one_dtype, numbers=""
)
ldexp = binary(
    "Ldexp",
    lambda a, b: a * np.exp2(b),
    lambda g, b: g * exp2(b),
    lambda g, y: g * (y * math.log(2)),
    to_float=True,
    numbers="",
)


def _sign(x: Array) -> Array:
    """-1, 0 or 1; of NaN 0."""
    if x.dtype.kind in "iub":
        return x.copy() if x.dtype.kind == "b" else np.sign(x)
    return np.where(x == x, np.sign(x), 0.0)


def _share(g: Any, winner: Any, loser: Any) -> Any:
    """g where winner > loser, half of it on a tie, all of it beside NaN: what flows to winner through maximum."""
    return (where(winner < loser, 0.0, g) + where(winner <= loser, 0.0, g)) * 0.5


def add(input: Any, other: Any, *, alpha: complex = 1) -> Any:
    """input + alpha * other."""
    return plus(input, other) if alpha == 1 else plus(input, _scaled(input, other, alpha))


def sub(input: Any, other: Any, *, alpha: complex = 1) -> Any:
    """input - alpha * other."""
    return minus(input, other) if alpha == 1 else minus(input, _scaled(input, other, alpha))


def rsub(input: Any, other: Any, *, alpha: complex = 1) -> Any:
    """other - alpha * input."""
    return reversed_minus(input, other) if alpha == 1 else reversed_minus(_scaled(other, input, alpha), other)


def _scaled(input: Any, other: Any, alpha: Any) -> Any:
    """alpha * other."""
    kind = together(input, other)[0].array.dtype.kind
    if isinstance(alpha, bool) and kind != "b":
        raise RuntimeError("Boolean alpha only supported for Boolean results.")
    if isinstance(alpha, float) and kind not in FLOATING:
        raise RuntimeError("For integral input tensors, argument alpha must not be a floating point number.")
    return other * alpha if kind != "b" else other * bool(alpha)


def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Any:
    """input / other; rounding_mode "trunc" (towards zero) or "floor" keeps integers integers."""
    if rounding_mode is None:
        return quotient(input, other)
    if rounding_mode == "floor":
        return floor_quotient(input, other)
    if rounding_mode == "trunc":
        return trunc_quotient(input, other)
    raise RuntimeError(f"div expected rounding_mode to be one of None, 'trunc', or 'floor' but found '{rounding_mode}'")


subtract, divide, true_divide = sub, div, div


def square(input: Any) -> Any:
    """input ** 2."""
    return pow(input, 2)


def nextafter(input: Any, other: Any) -> Any:
    """The next number of the dtype after input, towards other."""
    for place, value in enumerate((input, other), 1):
        if not isinstance(value, Variable):
            raise not_a_tensor(nextafter, place, value)
    a, b = promoted(input, other)
    refuse(nextafter, "biu", a.array.dtype)
    try:
        return record("NextafterBackward0", np.nextafter(a.array, b.array))
    except ValueError:
        raise RuntimeError(cannot_broadcast(a.array.shape, b.array.shape)) from None


def float_power(input: Any, exponent: Any) -> Any:
    """input ** exponent in float64."""
    a, b = (cast(v, DOUBLE) if isinstance(v, Variable) else float(v) for v in (input, exponent))
    return pow(a, b)


def positive(input: Any) -> Any:
    """input itself; RuntimeError for bools."""
    if input.array.dtype.kind == "b":
        raise RuntimeError("The `+` operator, on a bool tensor is not supported.")
    return input


def addcmul(input: Any, tensor1: Any, tensor2: Any, *, value: complex = 1) -> Any:
    """input + value * tensor1 * tensor2."""
    operands = together(input, tensor1, tensor2)
    refuse(addcmul, "b", operands[0].array.dtype)
    return compute(
        "AddcmulBackward0",
        lambda a, b, c: a + _factor(value, a) * b * c,
        operands,
        (lambda g: g, lambda g, c: g * (c * value), lambda g, b: g * (b * value)),
    )


def addcdiv(input: Any, tensor1: Any, tensor2: Any, *, value: complex = 1) -> Any:
    """input + value * tensor1 / tensor2; RuntimeError for integers."""
    operands = together(input, tensor1, tensor2)
    if not any(v.array.dtype.kind in FLOATING for v in (tensor1, tensor2)):
        raise RuntimeError(
            "Integer division with addcdiv is not supported: use div(..., rounding_mode='trunc') or floating dtypes."
        )
    return compute(
        "AddcdivBackward0",
        lambda a, b, c: a + value * (b / c),
        operands,
        (lambda g: g, lambda g, c: g * (value / c), lambda g, b, c: -g * (value * (b / c) / c)),
    )


def _factor(value: Any, a: Array) -> Any:
    """A number beside integers, as one of them."""
    return value if a.dtype.kind == "f" else int(value)


def lerp(input: Any, end: Any, weight: Any) -> Any:
    """input + weight * (end - input), computed from the nearer end; RuntimeError unless all have one dtype."""
    dtype = input.array.dtype
    for name, value in (("end", end), ("weight", weight)):
        if isinstance(value, Variable) and value.array.dtype != dtype:
            wanted, found = (of(d).title.lower() for d in (dtype, value.array.dtype))
            raise RuntimeError(f"expected dtype {wanted} for `{name}` but got dtype {found}")
    refuse(lerp, "biu", dtype)
    weight = number_of(weight)
    return compute(
        f"LerpBackward{int(isinstance(weight, Variable))}",
        _interpolated,
        (input, end, weight),
        (lambda g, c: g * (1 - c), lambda g, c: g * c, lambda g, a, b: g * (b - a)),
    )


def _interpolated(a: Array, b: Array, weight: Any) -> Array:
    if is_number(weight):
        return a + weight * (b - a) if -0.5 < weight < 0.5 else b - (b - a) * (1 - weight)
    return np.where(np.abs(weight) < 0.5, a + weight * (b - a), b - (b - a) * (1 - weight))


def clamp(input: Any, min: Any = None, max: Any = None) -> Any:
    """input, but at least min and at most max (numbers or tensors; max where they cross). NaN stays."""
    bounds = [v for v in (min, max) if v is not None]
    if not bounds:
        raise RuntimeError("mpigrad.clamp: At least one of 'min' or 'max' must not be None")
    input = together(input, *bounds)[0]
    dtype = input.array.dtype
    refuse(clamp, "b", dtype)
    low, high = (cast(v, dtype) if isinstance(v, Variable) else number_of(v) for v in (min, max))
    return compute(
        f"ClampBackward{int(not any(isinstance(v, Variable) for v in bounds))}",
        _clamped,
        (input, low, high),
        (
            lambda g, a, b, c: where(_inside(a, b, c), g, 0.0),
            lambda g, a, b, c: where((a < b) if c is None else (a < b) & (b < c), g, 0.0),
            lambda g, a, b, c: where((a > c) if b is None else (a > c) | (c < b), g, 0.0),
        ),
    )


clip = clamp


def _clamped(x: Array, low: Any, high: Any) -> Array:
    value = x if low is None else np.maximum(x, low)
    return value if high is None else np.minimum(value, high)


def _inside(x: Any, low: Any, high: Any) -> Any:
    if low is None or high is None:
        return x <= high if low is None else x >= low
    return (x >= low) & (x <= high)


def clamp_min(input: Any, min: Any) -> Any:
    """input, but at least min."""
    if not isinstance(input, Variable):
        raise not_a_tensor(clamp_min, 1, input)
    return maximum(input, min) if _both_bool(input, min) else clamp(input, min)


def clamp_max(input: Any, max: Any) -> Any:
    """input, but at most max."""
    if not isinstance(input, Variable):
        raise not_a_tensor(clamp_max, 1, input)
    return minimum(input, max) if _both_bool(input, max) else clamp(input, None, max)


def _both_bool(*tensors: Any) -> bool:
    return all(isinstance(t, Variable) and t.array.dtype.kind == "b" for t in tensors)


def nan_to_num(input: Any, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None) -> Any:
    """NaN replaced by `nan`, the infinities by the dtype's largest and smallest numbers, or by posinf and neginf."""
    if input.array.dtype.kind not in FLOATING:
        return record("NanToNumBackward0", input.array.copy())
    limits = finfo(input.dtype)
    high, low = limits.max if posinf is None else posinf, limits.min if neginf is None else neginf
    return compute(
        "NanToNumBackward0",
        lambda x: np.nan_to_num(x, nan=nan, posinf=high, neginf=low),
        (input,),
        (lambda g, x: where((x - x) == 0, g, 0.0),),
    )


# --- exponential and trigonometric functions ------------------------------------------------------------------------

exp: Op = unary("Exp", np.exp, lambda g, y: g * y, to_float=True)
exp2: Op = unary("Exp2", np.exp2, lambda g, y: g * (y * math.log(2)), to_float=True)
expm1 = unary("Expm1", np.expm1, lambda g, y: g * (y + 1), to_float=True)
log1p = unary("Log1P", np.log1p, lambda g, x: g / (x + 1), to_float=True)
log2 = unary("Log2", np.log2, lambda g, x: g / (x * math.log(2)), to_float=True)
log10 = unary("Log10", np.log10, lambda g, x: g / (x * math.log(10)), to_float=True)
sqrt = unary("Sqrt", np.sqrt, lambda g, y: g / (2 * y), to_float=True)
rsqrt: Op = unary("Rsqrt", lambda x: 1 / np.sqrt(x), lambda g, y: g * (y * y * y) * -0.5, to_float=True)
sin: Op = unary("Sin", np.sin, lambda g, x: g * cos(x), to_float=True)
cos: Op = unary("Cos", np.cos, lambda g, x: -g * sin(x), to_float=True)
tan = unary("Tan", np.tan, lambda g, y: g * (1 + y * y), to_float=True)
asin = arcsin = unary("Asin", np.arcsin, lambda g, x: g * rsqrt(1 - x * x), to_float=True)
acos = arccos = unary("Acos", np.arccos, lambda g, x: -g * rsqrt(1 - x * x), to_float=True)
atan = arctan = unary("Atan", np.arctan, lambda g, x: g / (x * x + 1), to_float=True)
atan2 = arctan2 = binary(
    "Atan2",
    np.arctan2,
    lambda g, a, b: g * (b * _inverse_square(a, b)),
    lambda g, a, b: -g * (a * _inverse_square(a, b)),
    to_float=True,
    numbers="",
)
sinh: Op = unary("Sinh", np.sinh, lambda g, x: g * cosh(x), to_float=True)
cosh: Op = unary("Cosh", np.cosh, lambda g, x: g * sinh(x), to_float=True)
tanh = unary("Tanh", np.tanh, lambda g, y: g * (1 - y * y), to_float=True)
asinh = arcsinh = unary("Asinh", np.arcsinh, lambda g, x: g * rsqrt(x * x + 1), to_float=True)
acosh = arccosh = unary("Acosh", np.arccosh, lambda g, x: g * rsqrt(x * x - 1), to_float=True)
atanh = arctanh = unary("Atanh", np.arctanh, lambda g, x: g / (1 - x * x), to_float=True)
erf = unary("Erf", erf_of, lambda g, x: g * exp(-x * x) * (2 / math.sqrt(math.pi)), to_float=True)
xlogy: Op = binary(
    "Xlogy",
    lambda a, b: np.where((a == 0) & ~np.isnan(b), 0.0, a * _log(b)),
    lambda g, a, b: where((a == 0) & (b <= 0), 0.0, xlogy(g, b)),
    lambda g, a, b: g * a / b,
    to_float=True,
    digits="021",
)
sigmoid = unary("Sigmoid", lambda x: 1 / (1 + np.exp(-x)), lambda g, y: g * (y * (1 - y)), to_float=True)
relu = unary("Relu", lambda x: _relu(x), lambda g, y: _only_above(g, y), refuses="b")
deg2rad = unary("Deg2Rad", lambda x: x * (math.pi / 180), lambda g: g * (math.pi / 180), to_float=True)
rad2deg = unary("Rad2Deg", lambda x: x * (180 / math.pi), lambda g: g * (180 / math.pi), to_float=True)


def _relu(x: Array) -> Array:
    return np.maximum(x, 0) if kernels(x) is None else _only_above(x, x)


def _only_above(x: Any, y: Any) -> Any:
    """x where y > 0 or NaN, else 0."""
    fast = None if isinstance(x, Variable) or x.shape != y.shape else kernels(x, y)
    if fast is None:
        return where(y <= 0, 0.0, x)
    out = np.empty_like(x)
    fast.only_above(*(array.reshape(-1) for array in (x, y, out)))
    return out


def _log(b: Any) -> Any:
    """log(b), of a number as a number, which widens nothing."""
    return float(np.log(b)) if is_number(b) else log(b)


def _inverse_square(a: Any, b: Any) -> Any:
    """1 / (a**2 + b**2), and 0 for 0."""
    square = a * a + b * b
    return where(square == 0, 0.0, 1 / square)


# --- rounding -------------------------------------------------------------------------------------------------------

floor = unary("Floor", np.floor, zeros, refuses="b")
ceil = unary("Ceil", np.ceil, zeros, refuses="b")
trunc: Op = unary("Trunc", np.trunc, zeros, refuses="b")
fix = trunc
frac = unary("Frac", lambda x: x - np.trunc(x), lambda g: g, refuses="biu")


def round(input: Any, *, decimals: int = 0) -> Any:
    """To the nearest number with so many decimals (negative: to tens, hundreds); halves go to the even one."""
    refuse(round, "biu" if decimals else "b", input.array.dtype)
    return compute(f"RoundBackward{int(decimals != 0)}", lambda x: np.round(x, decimals), (input,), (zeros,))
