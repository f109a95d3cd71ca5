"""How an elementwise op is made of its value and its vector-Jacobian products: `unary`, `binary`, `compute`.

Here is what all such ops share: promotion to one dtype, halves, broadcasting and its undoing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..autograd import RESULT, Node, Variable, edge, record, thread, wrap
from ..backend import Array, array_module, is_array, kernels
from ..dtypes import DOUBLE, FLOATING, HALVES, SINGLE, common, floating, get_default_dtype, in_single, of

__all__ = ["where"]

UNCHANGED = (0,)  # the version of a number
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


def _edge_with(names: tuple[str, ...]) -> Callable[..., Any]:
    """`edge` towards a single or double of an op of a and b that keeps these of y, a and b: (input, vjp, y, a, b).

    The usual ones, of no operand and of the other one, are spelled out: they are most of what recording costs.
    """
    if not names:
        return lambda source, vjp, y, a, b: (source.node or source, vjp, (), ())
    if names == ("a",):
        return lambda source, vjp, y, a, b: (source.node or source, vjp, (a,), (a.version[0],))
    if names == ("b",):
        return lambda source, vjp, y, a, b: (source.node or source, vjp, (b,), (getattr(b, "version", UNCHANGED)[0],))
    places = ["yab".index(name) for name in names]
    return lambda source, vjp, y, a, b: edge(source, vjp, [(RESULT, a, b)[i] for i in places], y)


def _snake(name: str) -> str:
    """The function's name from the node's: LogicalAnd to logical_and, Log1P to log1p."""
    return re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower()


def unary(
    name: str,
    function: Callable[[Array], Array],
    vjp: Vjp | None = None,
    *,
    to_float: bool = False,
    refuses: str = "",
    check: Callable[[Any], None] | None = None,
) -> Op:
    """An op of one input. to_float: integers are computed in the default floating dtype.

    refuses: NumPy's kinds of dtypes for which there is no op. check: called with what is not float32 or float64.
    """
    node_name = name + "Backward0"
    keeps_x, keeps_y, keeps_both = (_kept(vjp) == kept for kept in (("x",), ("y",), ("x", "y")))

    def op(input: Any) -> Any:
        try:
            x = input.array
        except AttributeError:
            return function(_array(input, op))
        dtype = x.dtype
        if dtype is not SINGLE and dtype is not DOUBLE:
            if check is not None:
                check(input)
            refuse(op, refuses, dtype)
            source = wrap(floating(x)) if to_float and dtype.kind not in FLOATING else input
            return compute(node_name, function, (source,), (vjp,))
        try:
            result = wrap(function(x))
        except TypeError:
            raise not_implemented(op, dtype) from None
        if input.needs and vjp is not None and thread.recording:
            saved = (input,) if keeps_x else (RESULT,) if keeps_y else (input, RESULT) if keeps_both else ()
            found = edge(input, vjp, saved, result) if saved else (input.node or input, vjp, (), ())
            result.needs, result.node = True, Node(node_name, (found,))
        return result

    op.__name__ = op.__qualname__ = _snake(name)
    return op


def binary(
    name: str,
    function: Callable[[Any, Any], Array],
    da: Vjp | None = None,
    db: Vjp | None = None,
    *,
    to_float: bool = False,
    refuses: str = "",
    check: Callable[[Any, Any], None] | None = None,
    numbers: str = "ab",
    digits: str = "000",
) -> Op:
    """An op of two inputs a and b, Tensors; either may be a Python number if `numbers` names it. da, db: their vjps.

    Broadcasting is undone here, once for all; different dtypes are promoted as PyTorch does. digits: what PyTorch
    puts behind the node's name for two tensors, beside a number, and behind a number.
    """
    node_names = [f"{name}Backward{digit}" for digit in digits]
    a_edge, b_edge = _edge_with(_kept(da)), _edge_with(_kept(db))
    beside = "b" in numbers

    def op(input: Any, other: Any) -> Any:
        kind = other.__class__
        number = beside and (kind is float or kind is int)
        try:
            x = input.array
            y = other if number else other.array
        except AttributeError:
            return mixed(input, other)
        dtype = x.dtype
        if (dtype is not SINGLE and dtype is not DOUBLE) or not (number or y.dtype is dtype):
            return mixed(input, other)
        try:
            value = function(x, y)
        except ValueError:
            raise RuntimeError(cannot_broadcast(x.shape, y.shape)) from None
        except TypeError:
            raise not_implemented(op, dtype) from None
        result = wrap(value)
        if da is not None and thread.recording:
            edges: tuple[Any, ...] = ()
            shape = value.shape
            if input.needs:
                vjp: Any = da if x.shape == shape else _reduced(da, x.shape)
                edges = (a_edge(input, vjp, result, input, other),)
            if not number and other.needs:
                vjp = db if y.shape == shape else _reduced(db, y.shape)
                edges += (b_edge(other, vjp, result, input, other),)
            if edges:
                result.needs, result.node = True, Node(node_names[number], edges)
        return result

    def mixed(input: Any, other: Any) -> Any:
        """Whatever is not two tensors of one dtype, float32 or float64, or such a tensor and a number."""
        first, second = isinstance(input, Variable), isinstance(other, Variable)
        if not first and not second:
            if is_number(input) and is_number(other):
                raise not_a_tensor(op, 1, input)
            return function(input, other)  # arrays, in a vjp
        if not first and "a" not in numbers and not is_array(input):
            raise not_a_tensor(op, 1, input)
        if not second and "b" not in numbers and not is_array(other):
            raise not_a_tensor(op, 2, other)
        input, other = number_of(input), number_of(other)
        if check is not None:
            check(input, other)
        if first and is_number(other) and other.__class__ is not bool and input.array.dtype in HALVES:
            refuse(op, refuses, input.array.dtype)
            return compute(node_names[1], function, (input, other), (da, None))  # the number is not rounded to a half
        a, b = promoted(input, other, to_float)
        refuse(op, refuses, a.array.dtype)
        return compute(node_names[1 if is_number(other) else 2 if is_number(input) else 0], function, (a, b), (da, db))

    op.__name__ = op.__qualname__ = _snake(name)
    return op


def compute(name: str, function: Callable[..., Array], operands: Sequence[Any], vjps: Sequence[Vjp | None]) -> Any:
    """The op for operands of any dtype: Tensors of one dtype, beside numbers or None; a vjp for each Tensor."""
    try:
        value = in_single(function, *[v.array if isinstance(v, Variable) else v for v in operands])
    except ValueError:
        raise RuntimeError(cannot_broadcast(*[v.array.shape for v in operands if isinstance(v, Variable)])) from None
    except OverflowError:
        raise RuntimeError(f"value cannot be converted to type {operands[0].dtype.name} without overflow") from None
    places = {"y": RESULT, "x": operands[0], **dict(zip("abc", operands, strict=False))}
    terms = []
    for source, vjp in zip(operands, vjps, strict=True):
        if isinstance(source, Variable) and source.needs and vjp is not None:
            reduced = vjp if source.array.shape == value.shape else _reduced(vjp, source.array.shape)
            terms.append((source, reduced, *[places[n] for n in _kept(vjp)]))
    return record(name, value, *terms)


def _reduced(vjp: Any, shape: tuple[int, ...]) -> Vjp:
    return lambda g, *saved: sum_to(vjp(g, *saved), shape)


def _array(value: Any, op: Op) -> Any:
    """The operand of an op inside a vjp; TypeError for what is no array."""
    if not is_array(value) and not isinstance(value, np.generic):
        raise not_a_tensor(op, 1, value)
    return value


def not_a_tensor(op: Op, place: int, value: Any) -> TypeError:
    """The error of an operand, the first or second, that is not a tensor."""
    where, kind = f"'{('input', 'other')[place - 1]}' (position {place})", type(value).__name__
    return TypeError(f"{op.__name__}(): argument {where} must be Tensor, not {kind}")


def number_of(value: Any) -> Any:
    """NumPy's scalar objects as Python's numbers, which do not widen what they are combined with."""
    return value.item() if isinstance(value, np.generic) else value


def refuse(op: Op, kinds: str, dtype: np.dtype[Any]) -> None:
    """NotImplementedError for a dtype of these kinds."""
    if dtype.kind in kinds:
        raise not_implemented(op, dtype)


def not_implemented(op: Op, dtype: np.dtype[Any]) -> NotImplementedError:
    """The error of an op that has no meaning for a dtype."""
    return NotImplementedError(f"\"{op.__name__}_cpu\" not implemented for '{of(dtype).title}'")


def promoted(a: Any, b: Any, to_float: bool = False) -> tuple[Any, Any]:
    """Both operands as tensors of the dtype that PyTorch computes in; to_float: of a floating one."""
    left, right = together(a, b, to_float=to_float)
    return left, right


def together(*operands: Any, to_float: bool = False) -> tuple[Any, ...]:
    """Operands (tensors, arrays, numbers) as tensors of the dtype that PyTorch computes in; TypeError for others."""
    for value in operands:
        if not isinstance(value, (Variable, float, int, np.generic)) and not is_array(value):
            raise TypeError(f"expected a Tensor or a number beside a Tensor, found {type(value).__name__}: {value!r}")
    raw = [v.array if isinstance(v, Variable) else number_of(v) for v in operands]
    dtype = common(*raw)
    if to_float and dtype.kind not in FLOATING:
        dtype = get_default_dtype().numpy
    found = [v for v in raw if is_array(v)]
    xp = array_module(found[0]) if found else np
    return tuple(
        cast(v, dtype) if isinstance(v, Variable) else wrap(xp.asarray(r).astype(dtype))
        for v, r in zip(operands, raw, strict=True)
    )


def cast(input: Any, dtype: np.dtype[Any]) -> Any:
    """The tensor in another (NumPy) dtype; itself when it has that dtype."""
    before = input.array.dtype
    if before == dtype:
        return input
    value = input.array.astype(dtype)
    if dtype.kind not in FLOATING:
        return record("ToCopyBackward0", value)
    return record(
        "ToCopyBackward0", value, (input, lambda g: cast(g, before) if isinstance(g, Variable) else g.astype(before))
    )


def cannot_broadcast(*shapes: tuple[int, ...]) -> str:
    """What is wrong about broadcasting these shapes against each other."""
    n = max(map(len, shapes))
    padded = [(1,) * (n - len(shape)) + tuple(shape) for shape in shapes]
    columns = [[m for m in column if m != 1] for column in zip(*padded, strict=True)]
    where = next(i for i in reversed(range(n)) if len(set(columns[i])) > 1)
    a, b, *_ = dict.fromkeys(columns[where])
    return f"The size of tensor a ({a}) must match the size of tensor b ({b}) at non-singleton dimension {where}"


def is_number(value: object) -> bool:
    """Whether value is a Python number (or bool)."""
    return isinstance(value, (float, int))


def where(condition: Any, input: Any = None, other: Any = None) -> Any:
    """input where condition holds, else other, elementwise with broadcasting; of condition alone where it holds."""
    if input is None:
        return condition.nonzero(as_tuple=True)
    if not any(isinstance(v, Variable) for v in (condition, input, other)):
        if is_number(other) and other == 0:
            return only(input, condition)
        if is_number(input) and input == 0:
            return only(other, ~condition)
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
        value = value.astype(common(x, y))
    return record("WhereBackward0", value, *_branch(a, chosen), *_branch(b, ~chosen))


def only(x: Array, kept: Array, out: Array | None = None) -> Array:
    """The array x where `kept` holds, 0 elsewhere, whatever it is there.

    np.where takes up to eight times as long where `kept` changes often, as the processor guesses its branches wrong.
    Bits times 0 or 1 have no branches, and what is not kept is 0 even if it was NaN.
    """
    if not (is_array(x) and x.dtype.kind == "f" and kept.dtype.kind == "b" and x.ndim and x.shape == kept.shape):
        value = np.where(kept, x, 0)
        if out is not None:
            out[...] = value
        return value if out is None else out
    value = np.empty_like(x) if out is None else out
    if kept.flags.c_contiguous and (fast := kernels(x, value)):
        fast.only(*(array.reshape(-1) for array in (x, kept, value)))
    else:
        bits = np.dtype(f"i{x.itemsize}")
        np.multiply(x.view(bits), kept, out=value.view(bits))
    return value


def _branch(source: Any, kept: Array) -> list[tuple[Any, ...]]:
    """The term of one branch of `where`, if it is a tensor. What is not kept gets 0, whatever the gradient there."""
    if not isinstance(source, Variable):
        return []
    shape = source.array.shape
    return [(source, lambda g, kept: sum_to(where(kept, g, 0.0), shape), kept)]


def zeros(g: Any) -> Any:
    """The gradient of what is constant in steps."""
    return wrap(zeros(g.array)) if isinstance(g, Variable) else np.zeros_like(g)
