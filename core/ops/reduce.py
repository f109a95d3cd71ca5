"""Reductions over all elements or over some dimensions (`dim`: an int or a tuple; `keepdim` leaves them as 1)."""

from __future__ import annotations

import math
from collections import namedtuple
from typing import Any

import numpy as np

from ..autograd import RESULT, Variable, record
from ..backend import array_module
from ..dtypes import dtype as Dtype
from ..dtypes import floating
from .elementwise import cast, exp
from .index import put
from .shape import expand, normalize_dim

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
    value = np.add.reduce(x, axes, wide, None, keepdim)
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
    value = x.sum(axes, keepdims=keepdim) / x.dtype.type(count)
    name = "MeanBackward0" if dim is None else "MeanBackward1"
    return record(name, value, (source, lambda g: _spread(g / count if count else g * math.nan, shape, axes)))


def prod(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The product; its gradient is exact where one factor is zero (others' product), not where several are."""
    x = input.array
    axes, shape = axes_of(dim, x.ndim), x.shape
    value = x.prod(axes, keepdims=keepdim)

    def vjp(g: Any, x: Any, y: Any) -> Any:
        zero = x == 0
        if not bool((zero.array if isinstance(zero, Variable) else zero).any()):
            return _spread(g * y, shape, axes) / x
        others = _others_product(x.array if isinstance(x, Variable) else x, axes)
        return _spread(g, shape, axes) * others

    return record("ProdBackward0" if dim is None else "ProdBackward1", value, (input, vjp, input, RESULT))


def _others_product(x: Any, axes: tuple[int, ...]) -> Any:
    """For each element the product of all others along axes."""
    zeros = (x == 0).sum(axes, keepdims=True)
    rest = np.where(x == 0, x.dtype.type(1), x).prod(axes, keepdims=True)
    return np.where(zeros == 0, rest / x, np.where((zeros == 1) & (x == 0), rest, x.dtype.type(0)))


def var(input: Any, dim: Dim = None, keepdim: bool = False, *, correction: int = 1) -> Any:
    """The variance; correction 1 divides by n - 1."""
    x = input.array
    axes, shape = axes_of(dim, x.ndim), x.shape
    scale = max(math.prod(shape[i] for i in axes) - correction, 0)
    value = ((x - x.mean(axes, keepdims=True)) ** 2).sum(axes, keepdims=keepdim) / x.dtype.type(scale)

    def vjp(g: Any, x: Any) -> Any:
        centred = x - x.sum(axes).reshape(_kept(shape, axes)) / (scale + correction)
        return _spread(g, shape, axes) * centred * (2 / scale)

    return record("VarBackward0", value, (input, vjp, input))


def std(input: Any, dim: Dim = None, keepdim: bool = False, *, correction: int = 1) -> Any:
    """The standard deviation; correction 1 divides by n - 1."""
    return var(input, dim, keepdim, correction=correction).sqrt()


def logsumexp(input: Any, dim: Dim, keepdim: bool = False) -> Any:
    """log(sum(exp(x))), computed without overflow."""
    x = floating(input.array)
    axes, shape = axes_of(dim, x.ndim), x.shape
    top = x.max(axes, keepdims=True)
    top = np.where(np.isfinite(top), top, x.dtype.type(0))
    value = np.log(np.exp(x - top).sum(axes, keepdims=True)) + top
    vjp = lambda g, x, y: _spread(g, shape, axes) * exp(x - y.reshape(_kept(shape, axes)))
    return record("LogsumexpBackward0", value if keepdim else value.squeeze(axes), (input, vjp, input, RESULT))


def amax(input: Any, dim: Dim = None, keepdim: bool = False) -> Any:
    """The largest elements; equal ones share the gradient evenly."""
    return _extreme("Amax", input, dim, keepdim, "max")


def amin(input: Any, dim: Dim = None, keepdim: bool = False) -> Any:
    """The smallest elements; equal ones share the gradient evenly."""
    return _extreme("Amin", input, dim, keepdim, "min")


def _extreme(name: str, input: Any, dim: Dim, keepdim: bool, method: str) -> Any:
    x = input.array
    axes, shape = axes_of(dim, x.ndim), x.shape
    if math.prod(shape[i] for i in axes) == 0 and x.ndim:
        raise RuntimeError(
            f"{method}(): Expected reduction dim to be specified for input.numel() == 0. Specify the reduction dim "
            "with the 'dim' argument."
        )
    value = getattr(x, method)(axes, keepdims=keepdim)

    def vjp(g: Any, x: Any, y: Any) -> Any:
        hit = (x == y.reshape(_kept(shape, axes))) * 1
        return _spread(g, shape, axes) * hit / hit.sum(axes).reshape(_kept(shape, axes))

    return record(f"{name}Backward0", value, (input, vjp, input, RESULT))


class _Extremes(namedtuple("Extremes", ["values", "indices"])):
    """What max and min return along a dimension; prints as PyTorch's."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"mpigrad.return_types.{type(self).__name__}(\nvalues={self.values!r},\nindices={self.indices!r})"


_Max = type("max", (_Extremes,), {"__slots__": ()})
_Min = type("min", (_Extremes,), {"__slots__": ()})


def max(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The largest element of all; with dim the pair (values, indices) along it."""
    if dim is None:
        return _extreme("Max", input, None, False, "max")
    return _Max(*_along("MaxBackward0", input, dim, keepdim, "argmax"))


def min(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The smallest element of all; with dim the pair (values, indices) along it."""
    if dim is None:
        return _extreme("Min", input, None, False, "min")
    return _Min(*_along("MinBackward0", input, dim, keepdim, "argmin"))


def _along(name: str, input: Any, dim: int, keepdim: bool, method: str) -> tuple[Any, Any]:
    x = input.array
    axis = normalize_dim(dim, x.ndim)
    rows = x.reshape(1) if x.ndim == 0 else x
    where = np.expand_dims(getattr(rows, method)(axis), axis)
    value = np.take_along_axis(rows, where, axis)
    if not keepdim or x.ndim == 0:
        value, flat = value.squeeze(axis), where.squeeze(axis)
    else:
        flat = where
    xp = array_module(x)
    grid = list(xp.meshgrid(*[xp.arange(n) for n in where.shape], indexing="ij", sparse=True))
    grid[axis] = where
    shape = rows.shape
    vjp = lambda g: put(g.reshape(where.shape), shape, tuple(grid)).reshape(x.shape)
    return record(name, value, (input, vjp)), record(name, flat)


def argmax(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The index of the largest element: of all elements flattened, or along dim."""
    return _arg(input, dim, keepdim, "argmax")


def argmin(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The index of the smallest element: of all elements flattened, or along dim."""
    return _arg(input, dim, keepdim, "argmin")


def _arg(input: Any, dim: int | None, keepdim: bool, method: str) -> Any:
    x = input.array
    if dim is not None and x.ndim:
        return record(method, getattr(x, method)(normalize_dim(dim, x.ndim), keepdims=keepdim))
    if x.size == 0:
        raise IndexError(f"{method}(): Expected reduction dim to be specified for input.numel() == 0.")
    value = getattr(x, method)()
    return record(method, np.reshape(value, (1,) * x.ndim) if keepdim else value)


def any(input: Any, dim: Dim = None, keepdim: bool = False) -> Any:
    """Whether some element is not zero."""
    return record("any", input.array.any(axes_of(dim, input.array.ndim), keepdims=keepdim))


def all(input: Any, dim: Dim = None, keepdim: bool = False) -> Any:
    """Whether no element is zero."""
    return record("all", input.array.all(axes_of(dim, input.array.ndim), keepdims=keepdim))


def softmax(input: Any, dim: int | None = None, dtype: Dtype | None = None) -> Any:
    """exp(x) / sum(exp(x)) along dim."""
    source, axis = _softmax_input(input, dim, dtype, "softmax")
    value = source.array - source.array.max(axis, keepdims=True)
    np.exp(value, out=value)
    value /= value.sum(axis, keepdims=True)

    def vjp(g: Any, y: Any) -> Any:
        weighted = g * y
        return weighted - y * expand(_sum_keep(weighted, axis), y.shape)

    return record("SoftmaxBackward0", value, (source, vjp, RESULT))


def log_softmax(input: Any, dim: int | None = None, dtype: Dtype | None = None) -> Any:
    """log(softmax(x)) along dim, computed without forming the softmax."""
    source, axis = _softmax_input(input, dim, dtype, "log_softmax")
    value = source.array - source.array.max(axis, keepdims=True)
    value -= np.log(np.exp(value).sum(axis, keepdims=True))
    vjp = lambda g, y: g - exp(y) * expand(_sum_keep(g, axis), y.shape)
    return record("LogSoftmaxBackward0", value, (source, vjp, RESULT))


def _softmax_input(input: Any, dim: int | None, dtype: Dtype | None, name: str) -> tuple[Any, int]:
    source = cast(input, dtype.numpy) if dtype else input
    if source.array.dtype.kind != "f":
        raise RuntimeError(f'"{name}_lastdim_kernel_impl" not implemented for {source.dtype}: expected floating point')
    if dim is None:  # PyTorch's implicit choice, kept for its users
        dim = 0 if source.array.ndim in (0, 1, 3) else 1
    if source.array.ndim == 0:
        source = source.reshape(1)
    return source, normalize_dim(dim, source.array.ndim)


def _sum_keep(x: Any, axis: int) -> Any:
    shape = x.shape
    return x.sum(axis).reshape(_kept(shape, (axis,)))
