"""Reductions over all elements or over some dimensions (`dim`: an int or a tuple; `keepdim` leaves them as 1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..autograd import RESULT, Variable, record, wrap
from ..backend import Array, array_module
from ..dtypes import dtype as Dtype
from ..dtypes import floating
from .compare import isnan, logical_not
from .elementwise import div, exp
from .pointwise import cast, where
from .shape import expand, normalize_dim

# fmt: off
__all__ = [
    "all", "any", "count_nonzero", "log_softmax", "logsumexp", "mean", "nanmean", "nansum", "prod", "softmax", "std",
    "std_mean", "sum", "var", "var_mean",
]
# fmt: on

INT64, FLOAT32 = np.dtype(np.int64), np.dtype(np.float32)
Dim = int | tuple[int, ...] | list[int] | None


def axes_of(dim: Dim, ndim: int) -> tuple[int, ...]:
    """The dimensions to reduce as non-negative ints; all of them for None. RuntimeError if one is named twice."""
    if dim is None or (dim.__class__ in (tuple, list) and not dim):
        return tuple(range(ndim))
    if dim.__class__ is int:
        return (normalize_dim(dim, ndim),) if ndim else _none_of(dim)
    axes = tuple([normalize_dim(d, ndim) for d in ((dim,) if isinstance(dim, (int, np.integer)) else dim)])
    if len(set(axes)) < len(axes):
        raise RuntimeError(f"dim {axes[0]} appears multiple times in the list of dims")
    return axes if ndim else ()


def _none_of(dim: int) -> tuple[int, ...]:
    normalize_dim(dim, 0)
    return ()


def kept(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape with the reduced dimensions as 1."""
    return tuple([1 if i in axes else n for i, n in enumerate(shape)])


def spread(g: Any, shape: tuple[int, ...], axes: tuple[int, ...] | None) -> Any:
    """The gradient of a sum: g repeated over the reduced dimensions; axes None: over all of them."""
    return expand(g if axes is None else g.reshape(kept(shape, axes)), shape)


def added(x: Array, axes: tuple[int, ...] | None, keepdim: bool = False) -> Array:
    """The sum; integers and bools add up in int64, half precision in float32."""
    kind, add = x.dtype.kind, array_module(x).add
    if x.itemsize > 2 and kind == "f":
        return add.reduce(x, axes, None, None, keepdim)
    if kind in "iub":
        return add.reduce(x, axes, INT64, None, keepdim)
    return add.reduce(x, axes, FLOAT32, None, keepdim).astype(x.dtype)


def sum(input: Any, dim: Dim = None, keepdim: bool = False, *, dtype: Dtype | None = None) -> Any:
    """The sum; integers and bools add up in int64, half precision in float32."""
    if dtype is not None:
        input = cast(input, dtype.numpy)
    x = input.array
    shape = x.shape
    axes = None if dim is None else axes_of(dim, len(shape))
    value = added(x, axes, keepdim)
    if dtype is not None and not dtype.is_floating_point:
        value = value.astype(dtype.numpy)
    return record("SumBackward0" if dim is None else "SumBackward1", value, (input, lambda g: spread(g, shape, axes)))


def nansum(input: Any, dim: Dim = None, keepdim: bool = False, *, dtype: Dtype | None = None) -> Any:
    """The sum of what is not NaN."""
    source = cast(input, dtype.numpy) if dtype else input
    x = source.array
    axes, shape = axes_of(dim, x.ndim), x.shape
    numbers = ~np.isnan(x)
    value = added(np.where(numbers, x, x.dtype.type(0)), axes, keepdim)
    return record("NansumBackward0", value, (source, lambda g, numbers: spread(g, shape, axes) * numbers, numbers))


def mean(input: Any, dim: Dim = None, keepdim: bool = False, *, dtype: Dtype | None = None) -> Any:
    """The arithmetic mean; RuntimeError for integers, as their mean has no dtype of theirs."""
    source = cast(input, dtype.numpy) if dtype else input
    x = source.array
    if x.dtype.kind in "iub":
        which = "Input dtype" if dtype is None else "Optional dtype"
        raise RuntimeError(
            f"mean(): could not infer output dtype. {which} must be either a floating point or complex dtype. "
            f"Got: {CPP_NAMES.get(x.dtype.name, x.dtype)}"
        )
    shape = x.shape
    axes = None if dim is None else axes_of(dim, len(shape))
    count = x.size if axes is None else math.prod([shape[i] for i in axes])
    if x.dtype.itemsize == 2:  # the sum may be beyond the largest half, which is 65,504
        total = array_module(x).add.reduce(x, axes, FLOAT32, None, keepdim)
        value = (total / np.float32(count)).astype(x.dtype)
        vjp = lambda g: spread(g * (1 / count) if count else g, shape, axes)
    else:
        value = added(x, axes, keepdim) / x.dtype.type(count)
        vjp = lambda g: spread(g / count if count else g, shape, axes)
    return record("MeanBackward0" if dim is None else "MeanBackward1", value, (source, vjp))


CPP_NAMES = {"int64": "Long", "int32": "Int", "int16": "Short", "int8": "Char", "uint8": "Byte", "bool": "Bool"}


def nanmean(input: Any, dim: Dim = None, keepdim: bool = False, *, dtype: Dtype | None = None) -> Any:
    """The mean of what is not NaN; NaN where there is nothing else."""
    count = sum(logical_not(isnan(input)), dim, keepdim)
    return div(nansum(input, dim, keepdim, dtype=dtype), count)


def prod(input: Any, dim: int | None = None, keepdim: bool = False, *, dtype: Dtype | None = None) -> Any:
    """The product, of integers in int64; its derivatives are exact where factors are zero too."""
    source = cast(input, dtype.numpy) if dtype else input
    x = source.array
    axes, shape = axes_of(dim, x.ndim), x.shape
    wide = dtype.numpy if dtype else INT64 if x.dtype.kind in "iub" else FLOAT32 if x.itemsize == 2 else None
    value = x.prod(axes, wide, keepdims=keepdim)
    if x.itemsize == 2 and x.dtype.kind not in "iub":
        value = value.astype(x.dtype)

    def vjp(g: Any, x: Any, y: Any) -> Any:
        factors = x.array if isinstance(x, Variable) else x
        if factors.all():
            return spread(g * y, shape, axes) / x
        return spread(g, shape, axes) * (_others_product if factors is x else _others_recorded)(x, axes)

    return record("ProdBackward0" if dim is None else "ProdBackward1", value, (source, vjp, source, RESULT))


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
    input: Any, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: float | None = None
) -> Any:
    """The variance: squared deviations, summed and divided by n - correction (1; 0 when not unbiased)."""
    value, _, vjp = _variance(input.array, dim, unbiased, keepdim, correction)
    return record("VarBackward0", value, (input, vjp, input))


def std(
    input: Any, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: float | None = None
) -> Any:
    """The standard deviation: the square root of the variance, with gradient 0 where that is 0."""
    value, _, vjp = _variance(input.array, dim, unbiased, keepdim, correction)
    return record("StdBackward0", np.sqrt(value), (input, _of_root(vjp), input, RESULT))


def var_mean(
    input: Any, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: float | None = None
) -> tuple[Any, Any]:
    """The pair (variance, mean)."""
    value, centre, vjp = _variance(input.array, dim, unbiased, keepdim, correction)
    return record("VarMeanBackward0", value, (input, vjp, input)), _centre("VarMeanBackward0", input, centre, dim)


def std_mean(
    input: Any, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: float | None = None
) -> tuple[Any, Any]:
    """The pair (standard deviation, mean)."""
    value, centre, vjp = _variance(input.array, dim, unbiased, keepdim, correction)
    deviation = record("StdMeanBackward0", np.sqrt(value), (input, _of_root(vjp), input, RESULT))
    return deviation, _centre("StdMeanBackward0", input, centre, dim)


def _variance(x: Array, dim: Any, unbiased: bool, keepdim: bool, correction: float | None) -> tuple[Array, Array, Any]:
    """The variance, the mean and the variance's vjp."""
    if x.dtype.kind in "iub":
        raise RuntimeError("std and var only support floating point and complex dtypes")
    if isinstance(dim, bool):  # var(unbiased)
        unbiased, dim = dim, None
    axes, shape = axes_of(dim, x.ndim), x.shape
    count = math.prod([shape[i] for i in axes])
    left = count - (int(unbiased) if correction is None else correction)
    scale = left if left > 0 else 0
    wide = x if x.itemsize > 2 else x.astype(FLOAT32)
    centre = wide.sum(axes, keepdims=True) / wide.dtype.type(count)
    centred = wide - centre
    value = (centred * centred).sum(axes, keepdims=keepdim) / wide.dtype.type(scale)

    def vjp(g: Any, x: Any) -> Any:
        mean = x.sum(axes).reshape(kept(shape, axes)) / count
        return spread(g, shape, axes) * (x - mean) * (2 / scale if scale else math.inf)

    centre = centre if keepdim else centre.reshape(value.shape)
    return value.astype(x.dtype, copy=False), centre.astype(x.dtype, copy=False), vjp


def _of_root(vjp: Any) -> Any:
    """The vjp towards the standard deviation, from that towards the variance."""
    return lambda g, x, y: vjp(where(y == 0, 0.0, g / (2 * y)), x)


def _centre(name: str, input: Any, value: Array, dim: Any) -> Any:
    """The mean that was computed on the way to the variance."""
    shape = input.array.shape
    axes = axes_of(None if isinstance(dim, bool) else dim, len(shape))
    count = math.prod([shape[i] for i in axes])
    return record(name, value, (input, lambda g: spread(g / count, shape, axes)))


def logsumexp(input: Any, dim: Dim, keepdim: bool = False) -> Any:
    """log(sum(exp(x))), computed without overflow."""
    x = input.array
    wide = x.astype(FLOAT32) if x.itemsize == 2 and x.dtype.kind not in "iu" else floating(x)
    axes, shape = axes_of(dim, x.ndim), x.shape
    top = wide.max(axes, keepdims=True) if x.size else array_module(x).zeros(kept(shape, axes), wide.dtype)
    top = np.where(np.isfinite(top), top, wide.dtype.type(0))
    value = np.log(np.exp(wide - top).sum(axes, keepdims=True)) + top
    if x.dtype.kind not in "iub":
        value = value.astype(x.dtype, copy=False)
    vjp = lambda g, x, y: spread(g, shape, axes) * exp(x - y.reshape(kept(shape, axes)))
    return record("LogsumexpBackward0", value if keepdim else value.squeeze(axes), (input, vjp, input, RESULT))


def any(input: Any, dim: Dim = None, keepdim: bool = False) -> Any:
    """Whether some element is not zero."""
    return _truth(input.array.any(axes_of(dim, input.array.ndim), keepdims=keepdim), input)


def all(input: Any, dim: Dim = None, keepdim: bool = False) -> Any:
    """Whether no element is zero."""
    return _truth(input.array.all(axes_of(dim, input.array.ndim), keepdims=keepdim), input)


def _truth(value: Array, input: Any) -> Any:
    """Bools; uint8 for uint8, which was PyTorch's bool once."""
    return wrap(value.astype(np.uint8) if input.array.dtype == np.uint8 else value)


def count_nonzero(input: Any, dim: Dim = None) -> Any:
    """How many elements are not zero."""
    return wrap(np.count_nonzero(input.array, axis=axes_of(dim, input.array.ndim)))


def softmax(input: Any, dim: int | None = None, dtype: Dtype | None = None) -> Any:
    """exp(x) / sum(exp(x)) along dim."""
    source, x, axis = _softmax_input("softmax", input, dim, dtype)
    value = x - _top(x, axis)
    np.exp(value, value)
    value /= array_module(x).add.reduce(value, axis, None, None, True)
    if x is not source.array:
        value = value.reshape(source.array.shape).astype(source.array.dtype, copy=False)

    return record("SoftmaxBackward0", value, (source, softmax_vjp(axis), RESULT))


def softmax_vjp(axis: int) -> Callable[..., Any]:
    """The vjp of a softmax, of its result."""

    def vjp(g: Any, y: Any) -> Any:
        weighted = g * y
        return weighted - y * expand(_sum_keep(weighted, axis), y.shape)

    return vjp


def log_softmax(input: Any, dim: int | None = None, dtype: Dtype | None = None) -> Any:
    """log(softmax(x)) along dim, computed without forming the softmax."""
    source, x, axis = _softmax_input("log_softmax", input, dim, dtype)
    value = x - _top(x, axis)
    value -= np.log(array_module(x).add.reduce(np.exp(value), axis, None, None, True))
    if x is not source.array:
        value = value.reshape(source.array.shape).astype(source.array.dtype, copy=False)
    vjp = lambda g, y: g - exp(y) * expand(_sum_keep(g, axis), y.shape)
    return record("LogSoftmaxBackward0", value, (source, vjp, RESULT))


def _softmax_input(name: str, input: Any, dim: int | None, dtype: Dtype | None) -> tuple[Any, Array, int]:
    """The tensor in the dtype asked for, its elements as they are computed with, and the dimension."""
    source = cast(input, dtype.numpy) if dtype else input
    x = source.array
    if x.dtype.kind in "iub":
        raise NotImplementedError(
            f'"{name}_lastdim_kernel_impl" not implemented for {source.dtype}: expected floating point'
        )
    ndim = x.ndim
    if dim is None:  # PyTorch's implicit choice, kept for its users
        dim = 0 if ndim in (0, 1, 3) else 1
    axis = normalize_dim(dim, ndim)
    return source, (x.astype(FLOAT32) if x.itemsize == 2 else x) if ndim else floating(x).reshape(1), axis


def _top(x: Array, axis: int) -> Array:
    """The largest elements along axis, to be subtracted before exp; of no elements nothing."""
    return x.max(axis, None, True) if x.size else x


def _sum_keep(x: Any, axis: int) -> Any:
    shape = x.shape
    return x.sum(axis).reshape(kept(shape, (axis,)))
