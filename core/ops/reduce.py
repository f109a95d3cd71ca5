"""Reductions over all elements or over some dimensions (`dim`: an int or a tuple; `keepdim` leaves them as 1)."""

from __future__ import annotations

import math
from collections import namedtuple
from typing import Any

import numpy as np

from ..autograd import RESULT, Variable, record
from ..backend import Array, array_module
from ..dtypes import dtype as Dtype
from ..dtypes import floating
from .elementwise import cast, exp, maximum, minimum, where
from .index import put
from .shape import expand, normalize_dim

# fmt: off
__all__ = [
    "all", "amax", "amin", "any", "argmax", "argmin", "log_softmax", "logsumexp", "max", "mean", "min", "prod",
    "softmax", "std", "sum", "var",
]
# fmt: on

INT64 = np.dtype(np.int64)
Dim = int | tuple[int, ...] | list[int] | None


def axes_of(dim: Dim, ndim: int) -> tuple[int, ...]:
    """The dimensions to reduce as non-negative ints; all of them for None. RuntimeError if one is named twice."""
    if dim is None or dim == () or dim == []:
        return tuple(range(ndim))
    axes = tuple(normalize_dim(d, ndim) for d in ((dim,) if isinstance(dim, int) else dim))
    if len(set(axes)) < len(axes):
        raise RuntimeError(f"dim {axes[0]} appears multiple times in the list of dims")
    return axes if ndim else ()


def _kept(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape with the reduced dimensions as 1."""
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


def _spread(g: Any, shape: tuple[int, ...], axes: tuple[int, ...]) -> Any:
    """The gradient of a sum: g repeated over the reduced dimensions."""
    return expand(g.reshape(_kept(shape, axes)), shape)


def sum(input: Any, dim: Dim = None, keepdim: bool = False, *, dtype: Dtype | None = None) -> Any:
    """The sum; integers and bools add up in int64."""
    x = input.array
    axes, shape = axes_of(dim, x.ndim), x.shape
    wide = dtype.numpy if dtype else INT64 if x.dtype.kind in "iub" else x.dtype
    source = cast(input, wide) if dtype and wide.kind == "f" else input
    value = array_module(x).add.reduce(x, axes, wide, None, keepdim)
    return record("SumBackward0" if dim is None else "SumBackward1", value, (source, lambda g: _spread(g, shape, axes)))


def mean(input: Any, dim: Dim = None, keepdim: bool = False, *, dtype: Dtype | None = None) -> Any:
    """The arithmetic mean; RuntimeError for integers, as their mean has no dtype of theirs."""
    source = cast(input, dtype.numpy) if dtype else input
    x = source.array
    if x.dtype.kind != "f":
        raise RuntimeError(
            "mean(): could not infer output dtype. Input dtype must be either a floating point or complex dtype. "
            f"Got: {x.dtype}"
        )
    axes, shape = axes_of(dim, x.ndim), x.shape
    count = math.prod(shape[i] for i in axes)
    if x.dtype == np.float16:  # whose largest number is 65,504
        value = (x.sum(axes, np.float32, keepdims=keepdim) / np.float32(count)).astype(x.dtype)
        vjp = lambda g: _spread(g * (1 / count if count else math.nan), shape, axes)
    else:
        value = x.sum(axes, keepdims=keepdim) / x.dtype.type(count)
        vjp = lambda g: _spread(g / count if count else g * math.nan, shape, axes)
    return record("MeanBackward0" if dim is None else "MeanBackward1", value, (source, vjp))


def prod(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The product; its derivatives are exact where factors are zero too."""
    x = input.array
    axes, shape = axes_of(dim, x.ndim), x.shape
    value = x.prod(axes, keepdims=keepdim)

    def vjp(g: Any, x: Any, y: Any) -> Any:
        factors = x.array if isinstance(x, Variable) else x
        if factors.all():
            return _spread(g * y, shape, axes) / x
        return _spread(g, shape, axes) * (_others_product if factors is x else _others_recorded)(x, axes)

    return record("ProdBackward0" if dim is None else "ProdBackward1", value, (input, vjp, input, RESULT))


def _others_product(x: Array, axes: tuple[int, ...]) -> Array:
    """For each element the product of all others along axes."""
    zeros = (x == 0).sum(axes, keepdims=True)
    rest = np.where(x == 0, x.dtype.type(1), x).prod(axes, keepdims=True)
    return np.where(zeros == 0, rest / x, np.where((zeros == 1) & (x == 0), rest, x.dtype.type(0)))


def _others_recorded(x: Any, axes: tuple[int, ...]) -> Any:
    """The same of a Tensor, to be differentiated in its turn: the rows of a square with 1 on its diagonal."""
    rows = x.transpose(axes[0], -1) if len(axes) == 1 else x.reshape(-1)
    diagonal = array_module(x.array).eye(rows.shape[-1], dtype=bool)
    others = prod(where(diagonal, 1.0, rows.unsqueeze(-2)), -1)
    return others.transpose(axes[0], -1) if len(axes) == 1 else others.reshape(x.shape)


def var(
    input: Any, dim: Dim = None, unbiased: bool = True, keepdim: bool = False, *, correction: int | None = None
) -> Any:
    """The variance: squared deviations, summed and divided by n - correction (1; 0 when not unbiased)."""
    value, vjp = _variance(input.array, dim, unbiased, keepdim, correction)
    return record("VarBackward0", value, (input, vjp, input))


def std(
    input: Any, dim: Dim = None, unbiased: bool = True, keepdim: bool = False, *, correction: int | None = None
) -> Any:
    """The standard deviation: the square root of the variance, with gradient 0 where that is 0."""
    variance, vjp = _variance(input.array, dim, unbiased, keepdim, correction)
    towards = lambda g, x, y: vjp(where(y == 0, 0.0, g / (2 * y)), x)
    return record("StdBackward0", np.sqrt(variance), (input, towards, input, RESULT))


def _variance(x: Array, dim: Dim, unbiased: bool, keepdim: bool, correction: int | None) -> tuple[Array, Any]:
    """The variance and its vjp."""
    if x.dtype.kind != "f":
        raise RuntimeError("std and var only support floating point and complex dtypes")
    if isinstance(dim, bool):  # var(unbiased)
        unbiased, dim = dim, None
    axes, shape = axes_of(dim, x.ndim), x.shape
    count = math.prod(shape[i] for i in axes)
    left = count - (int(unbiased) if correction is None else correction)
    scale = left if left > 0 else 0
    centred = x - x.sum(axes, keepdims=True) / x.dtype.type(count)
    value = (centred * centred).sum(axes, keepdims=keepdim) / x.dtype.type(scale)

    def vjp(g: Any, x: Any) -> Any:
        mean = x.sum(axes).reshape(_kept(shape, axes)) / count
        return _spread(g, shape, axes) * (x - mean) * (2 / scale if scale else math.inf)

    return value, vjp


def logsumexp(input: Any, dim: Dim, keepdim: bool = False) -> Any:
    """log(sum(exp(x))), computed without overflow."""
    x = floating(input.array)
    axes, shape = axes_of(dim, x.ndim), x.shape
    top = _top(x, axes)
    top = np.where(np.isfinite(top), top, x.dtype.type(0))
    value = np.log(np.exp(x - top).sum(axes, keepdims=True)) + top
    vjp = lambda g, x, y: _spread(g, shape, axes) * exp(x - y.reshape(_kept(shape, axes)))
    return record("LogsumexpBackward0", value if keepdim else value.squeeze(axes), (input, vjp, input, RESULT))


def _top(x: Array, axes: tuple[int, ...]) -> Array:
    """The largest elements, to be subtracted before exp; of no elements any number."""
    return x.max(axes, keepdims=True) if x.size else array_module(x).zeros(_kept(x.shape, axes), x.dtype)


def amax(input: Any, dim: Dim = None, keepdim: bool = False) -> Any:
    """The largest elements; equal ones share the gradient evenly."""
    return _extreme("amax", "AmaxBackward0", input, dim, keepdim)


def amin(input: Any, dim: Dim = None, keepdim: bool = False) -> Any:
    """The smallest elements; equal ones share the gradient evenly."""
    return _extreme("amin", "AminBackward0", input, dim, keepdim)


def _extreme(op: str, name: str, input: Any, dim: Dim, keepdim: bool) -> Any:
    x = input.array
    axes, shape = axes_of(dim, x.ndim), x.shape
    _check_not_empty(op, shape, axes, dim)
    value = getattr(x, op[-3:])(axes, keepdims=keepdim)

    def vjp(g: Any, x: Any, y: Any) -> Any:
        hit = x == y.reshape(_kept(shape, axes))
        return _spread(g, shape, axes) * hit / hit.sum(axes, dtype=g.dtype).reshape(_kept(shape, axes))

    return record(name, value, (input, vjp, input, RESULT))


def _check_not_empty(op: str, shape: tuple[int, ...], axes: tuple[int, ...], dim: Dim) -> None:
    """No elements have no largest one."""
    empty = [i for i in axes if shape[i] == 0]
    if empty and (dim is None or dim == () or dim == []):
        text = f"{op}(): Expected reduction dim to be specified for input.numel() == 0."
        if op.startswith("arg"):
            raise IndexError(text)
        raise RuntimeError(f"{text} Specify the reduction dim with the 'dim' argument.")
    if empty:
        raise IndexError(f"{op}(): Expected reduction dim {empty[0]} to have non-zero size.")


class _Extremes(namedtuple("Extremes", ["values", "indices"])):
    """What max and min return along a dimension; prints as PyTorch's."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"mpigrad.return_types.{type(self).__name__}(\nvalues={self.values!r},\nindices={self.indices!r})"


_Max = type("max", (_Extremes,), {"__slots__": ()})
_Min = type("min", (_Extremes,), {"__slots__": ()})


def max(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """The largest element of all; with dim the pair (values, indices) along it; with another tensor `maximum`."""
    if isinstance(dim, Variable):
        return maximum(input, dim)
    if dim is None:
        return _extreme("max", "MaxBackward1", input, None, False)
    return _Max(*_along("max", "MaxBackward0", input, dim, keepdim))


def min(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """The smallest element of all; with dim the pair (values, indices) along it; with another tensor `minimum`."""
    if isinstance(dim, Variable):
        return minimum(input, dim)
    if dim is None:
        return _extreme("min", "MinBackward1", input, None, False)
    return _Min(*_along("min", "MinBackward0", input, dim, keepdim))


def _along(op: str, name: str, input: Any, dim: int, keepdim: bool) -> tuple[Any, Any]:
    x = input.array
    axis = normalize_dim(dim, x.ndim)
    before, rows = x.shape, x.reshape(1) if x.ndim == 0 else x
    _check_not_empty(op, rows.shape, (axis,), dim)
    where = np.expand_dims(getattr(rows, f"arg{op}")(axis), axis)
    value, found = np.take_along_axis(rows, where, axis), where
    if not keepdim or x.ndim == 0:
        value, found = value.squeeze(axis), where.squeeze(axis)
    shape, xp = rows.shape, array_module(x)

    def vjp(g: Any, where: Array) -> Any:
        grid = list(xp.meshgrid(*[xp.arange(n) for n in where.shape], indexing="ij", sparse=True))
        grid[axis] = where
        return put(g.reshape(where.shape), shape, tuple(grid)).reshape(before)

    return record(name, value, (input, vjp, where)), record(name, found)


def argmax(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The index of the largest element: of all elements flattened, or along dim."""
    return _arg(input, dim, keepdim, "argmax")


def argmin(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The index of the smallest element: of all elements flattened, or along dim."""
    return _arg(input, dim, keepdim, "argmin")


def _arg(input: Any, dim: int | None, keepdim: bool, op: str) -> Any:
    x = input.array
    axes = axes_of(dim, x.ndim)
    _check_not_empty(op, x.shape, axes, dim)
    if dim is not None and x.ndim:
        return record(op, getattr(x, op)(axes[0], keepdims=keepdim))
    value = getattr(x, op)()
    return record(op, np.reshape(value, (1,) * x.ndim) if keepdim else value)


def any(input: Any, dim: Dim = None, keepdim: bool = False) -> Any:
    """Whether some element is not zero."""
    return record("any", input.array.any(axes_of(dim, input.array.ndim), keepdims=keepdim))


def all(input: Any, dim: Dim = None, keepdim: bool = False) -> Any:
    """Whether no element is zero."""
    return record("all", input.array.all(axes_of(dim, input.array.ndim), keepdims=keepdim))


def softmax(input: Any, dim: int | None = None, dtype: Dtype | None = None) -> Any:
    """exp(x) / sum(exp(x)) along dim."""
    if input.array.ndim == 0:
        return softmax(input.reshape(1), dim, dtype).reshape(())
    source, axis = _softmax_input(input, dim, dtype, "softmax")
    value = source.array - _top(source.array, (axis,))
    np.exp(value, out=value)
    value /= value.sum(axis, keepdims=True)

    def vjp(g: Any, y: Any) -> Any:
        weighted = g * y
        return weighted - y * expand(_sum_keep(weighted, axis), y.shape)

    return record("SoftmaxBackward0", value, (source, vjp, RESULT))


def log_softmax(input: Any, dim: int | None = None, dtype: Dtype | None = None) -> Any:
    """log(softmax(x)) along dim, computed without forming the softmax."""
    if input.array.ndim == 0:
        return log_softmax(input.reshape(1), dim, dtype).reshape(())
    source, axis = _softmax_input(input, dim, dtype, "log_softmax")
    value = source.array - _top(source.array, (axis,))
    value -= np.log(np.exp(value).sum(axis, keepdims=True))
    vjp = lambda g, y: g - exp(y) * expand(_sum_keep(g, axis), y.shape)
    return record("LogSoftmaxBackward0", value, (source, vjp, RESULT))


def _softmax_input(input: Any, dim: int | None, dtype: Dtype | None, name: str) -> tuple[Any, int]:
    source = cast(input, dtype.numpy) if dtype else input
    if source.array.dtype.kind != "f":
        raise NotImplementedError(
            f'"{name}_lastdim_kernel_impl" not implemented for {source.dtype}: expected floating point'
        )
    if dim is None:  # PyTorch's implicit choice, kept for its users
        dim = 0 if source.array.ndim in (1, 3) else 1
    return source, normalize_dim(dim, source.array.ndim)


def _sum_keep(x: Any, axis: int) -> Any:
    shape = x.shape
    return x.sum(axis).reshape(_kept(shape, (axis,)))
