"""Running results along a dimension: cumulative sums, products and extremes; and the differences that undo a sum."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import return_types
from ..autograd import RESULT, Variable, record, wrap
from ..backend import Array, accumulate, array_module
from ..dtypes import dtype as Dtype
from ..dtypes import in_single, of
from .along import placed
from .compare import bitwise_xor
from .elementwise import exp, log
from .index import getitem
from .join import cat
from .pointwise import cast, where
from .rearrange import flip
from .reduce import INT64
from .shape import normalize_dim

# fmt: off
__all__ = [
    "cummax", "cummin", "cumprod", "cumsum", "diff", "logcumsumexp",
]
# fmt: on


def cumsum(input: Any, dim: int, *, dtype: Dtype | None = None) -> Any:
    """The sums of the elements up to each place; integers add up in int64."""
    return _running("CumsumBackward0", np.cumsum, input, dim, dtype, lambda axis: lambda g: _sum_from(g, axis))


def _sum_from(x: Any, axis: int) -> Any:
    """The sums of the elements from each place on: the transpose of cumsum, for arrays and Tensors."""
    if not isinstance(x, Variable):
        return np.flip(np.cumsum(np.flip(x, axis), axis), axis) if x.ndim else x
    return record("FlipBackward0", _sum_from(x.array, axis), (x, lambda g: _sum_to(g, axis)))


def _sum_to(x: Any, axis: int) -> Any:
    return cumsum(x, axis) if isinstance(x, Variable) else np.cumsum(x, axis) if x.ndim else x


def cumprod(input: Any, dim: int, *, dtype: Dtype | None = None) -> Any:
    """The products of the elements up to each place; its derivatives are exact where factors are zero too."""

    def towards(axis: int) -> Any:
        def vjp(g: Any, x: Any, y: Any) -> Any:
            factors = x.array if isinstance(x, Variable) else x
            if factors.all():
                return _sum_from(g * y, axis) / x
            return _beside_zeros(g, x, y, axis) if factors is x else _beside_zeros_recorded(g, x, axis)

        return vjp

    return _running("CumprodBackward0", np.cumprod, input, dim, dtype, towards)


def _beside_zeros(g: Array, x: Array, y: Array, axis: int) -> Array:
    """The gradient of cumprod: before the first zero as ever, behind it 0, at it what the product were without it."""
    if not x.ndim:
        return g
    zeros = np.cumsum(x == 0, axis)
    first = (x == 0) & (zeros == 1)
    one = x.dtype.type(1)
    without = np.cumprod(np.where(first, one, x), axis)
    before = _sum_from(g * y, axis) / np.where(x == 0, one, x)
    return np.where(first, _sum_from(g * without, axis), np.where(zeros == 0, before, x.dtype.type(0)))


def _beside_zeros_recorded(g: Any, x: Any, axis: int) -> Any:
    """The same of Tensors, to be differentiated in its turn: row k of a square is the products without element k."""
    if not x.array.ndim:
        return g
    rows, weights = x.transpose(axis, -1).unsqueeze(-2), g.transpose(axis, -1).unsqueeze(-2)
    xp, n = array_module(x.array), x.array.shape[axis]
    without = cumprod(where(wrap(xp.eye(n, dtype=bool)), 1.0, rows), -1)
    later = wrap(xp.tri(n, dtype=bool).T.copy())
    return where(later, weights * without, 0.0).sum(-1).transpose(axis, -1)


def _running(name: str, function: Any, input: Any, dim: int, dtype: Dtype | None, towards: Any) -> Any:
    source = cast(input, dtype.numpy) if dtype else input
    x = source.array
    axis = normalize_dim(dim, x.ndim)
    integral = x.dtype.kind in "iub"
    wide = (INT64 if dtype is None else x.dtype) if integral else None  # NumPy's own choice depends on the platform
    value = in_single(lambda x: function(x, axis, dtype=wide), x) if x.ndim else x.astype(wide or x.dtype)
    terms = (source, RESULT) if name == "CumprodBackward0" else ()
    return record(name, value, (source, towards(axis), *terms))


def cummax(input: Any, dim: int) -> Any:
    """The pair (values, indices) of the largest element up to each place, the last of equal ones."""
    return return_types.cummax(*_extreme("CummaxBackward0", np.maximum, input, dim))


def cummin(input: Any, dim: int) -> Any:
    """The pair (values, indices) of the smallest element up to each place, the last of equal ones."""
    return return_types.cummin(*_extreme("CumminBackward0", np.minimum, input, dim))


def _extreme(name: str, function: Any, input: Any, dim: int) -> tuple[Any, Any]:
    x = input.array
    axis = normalize_dim(dim, x.ndim)
    if not x.ndim:
        return record(name, x.copy(), (input, lambda g: g)), wrap(np.zeros_like(x, INT64))
    value, size = accumulate(function, x, axis), x.shape[axis]
    place = array_module(x).arange(size).reshape((-1,) + (1,) * (x.ndim - axis - 1))
    where = accumulate(np.maximum, np.where((x == value) | np.isnan(x), place, 0), axis)
    vjp = lambda g, where: placed(g, where, axis, size, False)
    return record(name, value, (input, vjp, where)), wrap(where)


def logcumsumexp(input: Any, dim: int) -> Any:
    """log(cumsum(exp(x))), computed without overflow."""
    x = input.array
    axis = normalize_dim(dim, x.ndim)
    if x.dtype.kind in "iub":
        raise NotImplementedError(f'"logcumsumexp_out_cpu" not implemented for {of(x.dtype)}')
    value = _log_sum_to(x, axis)

    def vjp(g: Any, x: Any, y: Any) -> Any:
        # the sum over later places i of g_i exp(x - y_i), by the logarithms of the positive and of the negative g
        parts = []
        for sign in (1, -1):
            held = sign * g > 0
            logs = where(held, log(where(held, sign * g, 1.0)) - y, -np.inf)
            parts.append(exp(_log_sum_from(logs, axis) + x))
        return parts[0] - parts[1]

    return record("LogcumsumexpBackward0", value, (input, vjp, input, RESULT))


def _log_sum_to(x: Array, axis: int) -> Array:
    return in_single(lambda x: accumulate(np.logaddexp, x, axis), x) if x.ndim else x.copy()


def _log_sum_from(x: Any, axis: int) -> Any:
    """logcumsumexp from the end, for arrays and Tensors."""
    if not len(x.shape):
        return x
    turned = flip(x, axis)
    return flip(logcumsumexp(turned, axis) if isinstance(x, Variable) else _log_sum_to(turned, axis), axis)


def diff(input: Any, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> Any:
    """The n-th differences of neighbours along dim, with prepend and append joined to the ends before."""
    if not input.array.ndim:
        raise RuntimeError("diff expects input to be at least one-dimensional")
    if n < 0:
        raise RuntimeError(f"order must be non-negative but got {n}")
    axis = normalize_dim(dim, input.array.ndim)
    parts = [part for part in (prepend, input, append) if part is not None] if n else [input]
    result = cat(parts, axis) if len(parts) > 1 else input
    before = (slice(None),) * axis
    for _ in range(n if n < result.array.shape[axis] else result.array.shape[axis]):
        later, earlier = (getitem(result, (*before, part)) for part in (slice(1, None), slice(-1)))
        result = bitwise_xor(later, earlier) if result.array.dtype.kind == "b" else later - earlier
    return result
