"""Elementwise ops, as a table: PyTorch's name, the value over arrays, the vector-Jacobian product towards each input.

In a vjp g is the gradient, y the op's result, x (or a and b) the inputs; what a vjp does not name is not kept. Given
arrays instead of Tensors every op here simply computes, so that a vjp can call its siblings.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from ..autograd import RESULT, Node, Variable, edge, record, thread, wrap
from ..backend import Array, array_module, is_array
from ..dtypes import floating, get_default_dtype, of, result_type
from .erf import erf as erf_of

# fmt: off
__all__ = [
    "abs", "add", "bitwise_and", "bitwise_not", "bitwise_or", "bitwise_xor", "ceil", "clamp", "clamp_max", "clamp_min",
    "clip",
    "cos", "div", "eq", "erf", "exp", "expm1", "floor", "floor_divide", "ge", "gt", "isfinite", "isinf", "isnan",
    "le", "lerp", "log", "log1p", "logical_and", "logical_not", "logical_or", "lt", "maximum", "minimum", "mul", "ne",
    "neg", "pow", "reciprocal", "relu", "remainder", "round", "rsqrt", "rsub", "sigmoid", "sign", "sin", "sqrt",
    "square", "sub", "tan", "tanh", "trunc", "where", "xlogy",
]
# fmt: on

Vjp = Callable[..., Any]
Op = Callable[..., Any]


def sum_to(g: Any, shape: tuple[int, ...]) -> Any:
    """Undo broadcasting: sum g (array or Tensor) over the dimensions that `shape` lacks or has as 1."""
    if g.shape == shape:
        return g
    extra = len(g.shape) - len(shape)
    axes = tuple(range(extra)) + tuple(i + extra for i, n in enumerate(shape) if n == 1 and g.shape[i + extra] != 1)
    return (g.sum(axes) if axes else g).reshape(shape)


def _kept(vjp: Vjp | None) -> tuple[str, ...]:
    """The operands that a vjp takes after g."""
    return vjp.__code__.co_varnames[1 : vjp.__code__.co_argcount] if vjp else ()


def unary(name: str, function: Callable[[Array], Array], vjp: Vjp | None = None, *, to_float: bool = False) -> Op:
    """An op of one input. to_float: integers are computed in the default floating dtype."""
    node_name = name + "Backward0"
    keeps_x, keeps_y = "x" in _kept(vjp), "y" in _kept(vjp)

    def op(input: Any) -> Any:
        if not isinstance(input, Variable):
            return function(input)
        x = input.array
        try:
            result = wrap(function(floating(x) if to_float else x))
        except TypeError:
            raise NotImplementedError(f'"{op.__name__}" not implemented for {of(x.dtype)} tensors') from None
        if input.needs and vjp is not None and thread.recording:
            saved = (input,) if keeps_x else (RESULT,) if keeps_y else ()
            result.needs, result.node = True, Node(node_name, (edge(input, vjp, saved, result),))
        return result

    op.__name__ = op.__qualname__ = name.lower()
    return op


def binary(
    name: str,
    function: Callable[[Any, Any], Array],
    da: Vjp | None = None,
    db: Vjp | None = None,
    *,
    to_float: bool = False,
    digits: str = "00",
) -> Op:
    """An op of two inputs, each a Tensor or a Python number; da and db are the vjps towards them.

    Broadcasting is undone here, once for all; different dtypes are promoted as PyTorch does. digits: what PyTorch
    puts behind the node's name beside a tensor and beside a number.
    """
    node_names = [f"{name}Backward{digit}" for digit in digits]
    a_keeps, b_keeps = (tuple("yab".index(n) for n in _kept(vjp)) for vjp in (da, db))

    def op(input: Any, other: Any) -> Any:
        kind = other.__class__
        try:
            x = input.array
            number = kind is float or kind is int
            y = other if number else other.array
        except AttributeError:
            return mixed(input, other)
        dtype = x.dtype
        if (number or to_float) and dtype.kind != "f":
            return mixed(input, other)
        if not number and dtype is not y.dtype and dtype != y.dtype:
            return mixed(input, other)
        try:
            result = wrap(function(x, y))
        except ValueError:
            raise RuntimeError(cannot_broadcast(x.shape, y.shape)) from None
        except TypeError:
            raise NotImplementedError(f'"{op.__name__}" not implemented for {of(dtype)} tensors') from None
        if da is not None and thread.recording:
            edges: tuple[Any, ...] = ()
            shape = result.array.shape
            operands = (RESULT, input, other)
            if input.needs:
                vjp: Any = da if x.shape == shape else _reduced(da, x.shape)
                edges = (edge(input, vjp, [operands[i] for i in a_keeps] if a_keeps else (), result),)
            if not number and other.needs:
                vjp = db if y.shape == shape else _reduced(db, y.shape)
                edges += (edge(other, vjp, [operands[i] for i in b_keeps] if b_keeps else (), result),)
            if edges:
                result.needs, result.node = True, Node(node_names[number], edges)
        return result

    def mixed(input: Any, other: Any) -> Any:
        """Whatever is not two tensors of one dtype, or a floating-point tensor and a number."""
        if not isinstance(input, Variable) and not isinstance(other, Variable):
            return function(input, other)  # arrays, in a vjp
        a, b = promoted(input, other, to_float)
        return op(a, b)

    op.__name__ = op.__qualname__ = name.lower()
    return op


def _reduced(vjp: Any, shape: tuple[int, ...]) -> Vjp:
    return lambda g, *saved: sum_to(vjp(g, *saved), shape)


def promoted(a: Any, b: Any, to_float: bool = False) -> tuple[Any, Any]:
    """Both operands as tensors of the dtype that PyTorch computes in. TypeError for what is no tensor and no number."""
    for value in (a, b):
        if not isinstance(value, (Variable, float, int, np.generic)) and not is_array(value):
            raise TypeError(f"expected a Tensor or a number beside a Tensor, found {type(value).__name__}: {value!r}")
    raw = [v.array if isinstance(v, Variable) else v.item() if isinstance(v, np.generic) else v for v in (a, b)]
    dtype = result_type(*raw)
    if to_float and dtype.kind != "f":
        dtype = get_default_dtype().numpy
    xp = array_module(next(v for v in raw if is_array(v)))
    left, right = (
        cast(v, dtype) if isinstance(v, Variable) else wrap(xp.asarray(r, dtype=dtype))
        for v, r in zip((a, b), raw, strict=True)
    )
    return left, right


def cast(input: Any, dtype: np.dtype[Any]) -> Any:
    """The tensor in another (NumPy) dtype; itself when it has that dtype."""
    before = input.array.dtype
    if before == dtype:
        return input
    vjp = (lambda g: cast(g, before) if isinstance(g, Variable) else g.astype(before)) if dtype.kind == "f" else None
    return record("ToCopyBackward0", input.array.astype(dtype), *([(input, vjp)] if vjp else []))


def cannot_broadcast(*shapes: tuple[int, ...]) -> str:
    """What is wrong about broadcasting these shapes against each other."""
    n = max(map(len, shapes))
    padded = [(1,) * (n - len(shape)) + tuple(shape) for shape in shapes]
    columns = [[m for m in column if m != 1] for column in zip(*padded, strict=True)]
    where = next(i for i in reversed(range(n)) if len(set(columns[i])) > 1)
    a, b, *_ = dict.fromkeys(columns[where])
    return f"The size of tensor a ({a}) must match the size of tensor b ({b}) at non-singleton dimension {where}"


def _power(a: Any, b: Any) -> Array:
    """a ** b; integers to negative powers would not be integers."""
    if a.dtype.kind != "f":
        if a.dtype.kind == "b":
            raise TypeError
        if np.less(b, 0).any():
            raise RuntimeError("Integers to negative integer powers are not allowed.")
    return a**b


def _no_bool(x: Array) -> Array:
    """x, checked: bools are no numbers."""
    if x.dtype.kind == "b":
        raise NotImplementedError("not implemented for 'Bool'")
    return x


def _times_log(a: Any, b: Any) -> Array:
    """a * log(b); 0 where a is, but NaN where b is."""
    return np.where((a == 0) & ~np.isnan(b), 0.0, a * _log(b))


def _log(b: Any) -> Any:
    """log(b), of a number as a number, which widens nothing."""
    return float(np.log(b)) if is_number(b) else log(b)


def _divisor(b: Any) -> Any:
    """b, checked: floating point divides by zero, integers do not, and bools are no numbers."""
    if not is_number(b) and b.dtype.kind != "f":
        if b.dtype.kind == "b":
            raise TypeError
        if not b.all():
            raise RuntimeError("ZeroDivisionError")
    return b


# arithmetic
add = binary("Add", operator.add, lambda g: g, lambda g: g)
sub = binary("Sub", operator.sub, lambda g: g, lambda g: -g)
rsub = binary("Rsub", lambda a, b: b - a, lambda g: -g, lambda g: g, digits="01")
mul = binary("Mul", operator.mul, lambda g, b: g * b, lambda g, a: g * a)
div = binary("Div", np.true_divide, lambda g, b: g / b, lambda g, a, b: -g * ((a / b) / b), to_float=True)
log = unary("Log", np.log, lambda g, x: g / x, to_float=True)
pow = binary(
    "Pow",
    _power,
    lambda g, a, b: g * (b * a ** (b - 1)) if is_number(b) and b != 0 else g * _pow_slope(a, b),
    lambda g, y, a, b: g * where((a == 0) & (b >= 0), 0.0, y * log(a)),
    digits="10",
)
floor_divide = binary("FloorDivide", lambda a, b: np.floor_divide(a, _divisor(b)))
remainder = binary(
    "Remainder",
    lambda a, b: np.remainder(a, _divisor(b)),
    lambda g: g,
    lambda g, a, b: -g * floor_divide(a, b),
    digits="10",
)
maximum = binary("Maximum", np.maximum, lambda g, a, b: _share(g, a, b), lambda g, a, b: _share(g, b, a))
minimum = binary("Minimum", np.minimum, lambda g, a, b: _share(g, b, a), lambda g, a, b: _share(g, a, b))
neg = unary("Neg", operator.neg, lambda g: -g)
sign = unary("Sign", lambda x: np.sign(x) if x.dtype.kind != "b" else x.copy(), lambda g: g * 0)
abs = unary("Abs", np.absolute, lambda g, x: g * sign(x))

# exponential, trigonometric and logistic functions
exp = unary("Exp", np.exp, lambda g, y: g * y, to_float=True)
sqrt = unary("Sqrt", np.sqrt, lambda g, y: g / (2 * y), to_float=True)
expm1 = unary("Expm1", np.expm1, lambda g, y: g * (y + 1), to_float=True)
log1p = unary("Log1P", np.log1p, lambda g, x: g / (x + 1), to_float=True)
rsqrt = unary("Rsqrt", lambda x: 1 / np.sqrt(x), lambda g, y: g * (y * y * y) * -0.5, to_float=True)
reciprocal = unary("Reciprocal", lambda x: 1 / x, lambda g, y: -g * (y * y), to_float=True)
erf = unary("Erf", erf_of, lambda g, x: g * exp(-x * x) * (2 / math.sqrt(math.pi)), to_float=True)
cos: Op
sin: Op = unary("Sin", np.sin, lambda g, x: g * cos(x), to_float=True)
cos = unary("Cos", np.cos, lambda g, x: -g * sin(x), to_float=True)
tan = unary("Tan", np.tan, lambda g, y: g * (1 + y * y), to_float=True)
tanh = unary("Tanh", np.tanh, lambda g, y: g * (1 - y * y), to_float=True)
sigmoid = unary("Sigmoid", lambda x: 1 / (1 + np.exp(-x)), lambda g, y: g * (y * (1 - y)), to_float=True)
relu = unary("Relu", lambda x: np.maximum(x, 0), lambda g, y: g * ~(y <= 0))  # so written, NaN passes

# rounding
floor = unary("Floor", lambda x: np.floor(_no_bool(x)), lambda g: g * 0)
ceil = unary("Ceil", lambda x: np.ceil(_no_bool(x)), lambda g: g * 0)
trunc = unary("Trunc", lambda x: np.trunc(_no_bool(x)), lambda g: g * 0)

xlogy = binary(
    "Xlogy",
    lambda a, b: _times_log(a, b),
    lambda g, a, b: where((a == 0) & (b <= 0), 0.0, g * _log(b)),
    lambda g, a, b: g * a / b,
    to_float=True,
    digits="02",
)

# comparison and logic: no gradients
eq = binary("Eq", operator.eq)
ne = binary("Ne", operator.ne)
lt = binary("Lt", operator.lt)
le = binary("Le", operator.le)
gt = binary("Gt", operator.gt)
ge = binary("Ge", operator.ge)
logical_and = binary("LogicalAnd", np.logical_and)
logical_or = binary("LogicalOr", np.logical_or)
logical_not = unary("LogicalNot", np.logical_not)
bitwise_and = binary("BitwiseAnd", operator.and_)
bitwise_or = binary("BitwiseOr", operator.or_)
bitwise_xor = binary("BitwiseXor", operator.xor)
bitwise_not = unary("BitwiseNot", operator.invert)
isnan = unary("Isnan", np.isnan)
isfinite = unary("Isfinite", np.isfinite)
isinf = unary("Isinf", np.isinf)


def square(input: Any) -> Any:
    """input ** 2."""
    return pow(input, 2)


def round(input: Any, *, decimals: int = 0) -> Any:
    """To the nearest number with so many decimals (negative: to tens, hundreds); halves go to the even one."""
    x = _no_bool(input.array)
    if decimals and x.dtype.kind in "iu":
        raise NotImplementedError(f"round with decimals is not implemented for {of(x.dtype)} tensors")
    return record(f"RoundBackward{int(decimals != 0)}", np.round(x, decimals), (input, lambda g: g * 0))


def clamp(input: Any, min: Any = None, max: Any = None) -> Any:
    """input, but at least min and at most max (numbers or tensors; max where they cross). NaN stays."""
    bounds = [v for v in (min, max) if v is not None]
    if not bounds:
        raise RuntimeError("mpigrad.clamp: At least one of 'min' or 'max' must not be None")
    tensors = [v for v in bounds if isinstance(v, Variable)]
    for bound in bounds:  # to the dtype of all three
        input, _ = promoted(input, bound)
    min, max = (cast(v, input.array.dtype) if isinstance(v, Variable) else v for v in (min, max))
    x, low, high = (v.array if isinstance(v, Variable) else v for v in (input, min, max))
    _no_bool(x)
    try:
        value = x if low is None else np.maximum(x, low)
        value = value if high is None else np.minimum(value, high)
    except ValueError:
        raise RuntimeError(cannot_broadcast(*[np.shape(v) for v in (x, low, high) if v is not None])) from None

    def vjp(which: int, shape: tuple[int, ...]) -> Vjp:
        return lambda g, *saved: sum_to(where(_binding(*saved)[which], g, 0.0), shape)

    operands = (input, min, max)
    terms = [(v, vjp(i, v.array.shape), *operands) for i, v in enumerate(operands) if isinstance(v, Variable)]
    return record("ClampBackward0" if tensors else "ClampBackward1", value, *terms)


def _binding(x: Any, low: Any, high: Any) -> tuple[Any, Any, Any]:
    """Where clamp gives x itself, its lower and its upper bound."""
    if low is None:
        return x <= high, None, x > high
    if high is None:
        return x >= low, x < low, None
    return (x >= low) & (x <= high), (x < low) & (low < high), (x > high) | (high < low)


clip = clamp


def clamp_min(input: Any, min: Any) -> Any:
    """input, but at least min."""
    return clamp(input, min)


def clamp_max(input: Any, max: Any) -> Any:
    """input, but at most max."""
    return clamp(input, None, max)


def lerp(input: Any, end: Any, weight: Any) -> Any:
    """input + weight * (end - input)."""
    return input + weight * (end - input)


def where(condition: Any, input: Any, other: Any) -> Any:
    """input where condition holds, else other, elementwise with broadcasting."""
    if not any(isinstance(v, Variable) for v in (condition, input, other)):
        return np.where(condition, input, other)
    a, b = promoted(input, other) if isinstance(input, Variable) or isinstance(other, Variable) else (input, other)
    chosen, x, y = (v.array if isinstance(v, Variable) else v for v in (condition, a, b))
    if chosen.dtype.kind != "b":
        raise RuntimeError(f"where expected condition to be a boolean tensor, but got a tensor with {of(chosen.dtype)}")
    try:
        value = np.where(chosen, x, y)
    except ValueError:
        raise RuntimeError(cannot_broadcast(*map(np.shape, (chosen, x, y)))) from None
    if is_number(x) and is_number(y):
        value = value.astype(result_type(x, y))
    return record("WhereBackward0", value, *_branch(a, chosen), *_branch(b, ~chosen))


def _branch(source: Any, kept: Array) -> list[tuple[Any, ...]]:
    """The term of one branch of `where`, if it is a tensor. What is not kept gets 0, whatever the gradient there."""
    if not isinstance(source, Variable):
        return []
    shape = source.array.shape
    return [(source, lambda g, kept: sum_to(where(kept, g, 0.0), shape), kept)]


def is_number(value: object) -> bool:
    """Whether value is a Python number (or bool)."""
    return isinstance(value, (float, int))


def _pow_slope(a: Any, b: Any) -> Any:
    """b * a**(b-1), and 0 where b is 0, whatever a is."""
    return a * 0 if is_number(b) else where(b == 0, 0.0, b * a ** (b - 1))


def _share(g: Any, winner: Any, loser: Any) -> Any:
    """g where winner > loser, half of it on a tie, all of it beside NaN: what flows to winner through maximum."""
    return (g * ~(winner < loser) + g * ~(winner <= loser)) * 0.5
