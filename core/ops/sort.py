"""Order: sorting, what stands at a rank (median, quantile, ...), and where values belong in a sorted sequence."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import return_types
from ..autograd import RESULT, Variable, record, wrap
from ..backend import Array, accumulate, array_module
from .along import grid, picked
from .elementwise import where
from .extremes import check_not_empty, chosen, shared
from .reduce import INT64
from .shape import movedim, normalize_dim, reshape

# fmt: off
__all__ = [
    "argsort", "bucketize", "kthvalue", "median", "mode", "msort", "nanmedian", "nanquantile", "quantile",
    "searchsorted", "sort", "topk",
]
# fmt: on


def _order(x: Array, axis: int, descending: bool = False) -> Array:
    """The indices that sort x along axis, equal elements in their order; NaN counts as the largest."""
    if not x.ndim:
        return np.zeros_like(x, INT64)
    if not descending:
        return np.argsort(x, axis, kind="stable")
    # equal elements keep their order when what is sorted is reversed before and after
    return np.flip(x.shape[axis] - 1 - np.argsort(np.flip(x, axis), axis, kind="stable"), axis)


def sort(input: Any, dim: int | bool = -1, descending: bool = False, stable: bool | None = None) -> Any:
    """The pair (values, indices) sorted along dim; equal elements keep their order, NaN counts as the largest."""
    x = input.array
    axis = normalize_dim(dim, x.ndim)
    where = _order(x, axis, descending)
    name = "SortBackward0" if stable is None else "SortBackward1"
    return return_types.sort(_picked(name, input, where, axis), wrap(where))


def _picked(name: str, input: Any, where: Array, axis: int) -> Any:
    """The elements at `where` along axis; of a scalar itself."""
    return picked(name, input, where, axis) if input.array.ndim else chosen(name, input, where, axis, False)[0]


def argsort(input: Any, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    """The indices that sort along dim."""
    return wrap(_order(input.array, normalize_dim(dim, input.array.ndim), descending))


def msort(input: Any) -> Any:
    """The elements sorted along the first dimension."""
    return sort(input, 0)[0]


def topk(input: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    """The pair (values, indices) of the k largest (or smallest) elements along dim, in order; of equal ones any."""
    x = input.array
    axis = normalize_dim(dim, x.ndim)
    size = x.shape[axis] if x.ndim else 1
    if not 0 <= k <= size:
        raise RuntimeError("selected index k out of range")
    if not x.ndim or 4 * k >= size or k == 0:
        where = _order(x, axis, largest)
        where = where[(slice(None),) * axis + (slice(k),)] if x.ndim else where
    else:  # sort only those that are among the k
        ranks = np.argpartition(x, size - k if largest else k - 1, axis)
        among = ranks[(slice(None),) * axis + (slice(size - k, None) if largest else slice(k),)]
        among = np.sort(among, axis)
        where = np.take_along_axis(among, _order(np.take_along_axis(x, among, axis), axis, largest), axis)
    return return_types.topk(_picked("TopkBackward0", input, where, axis), wrap(where))


def kthvalue(input: Any, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    """The pair (value, index) of the k-th smallest element along dim, k counted from 1."""
    x = input.array
    axis = normalize_dim(dim, x.ndim)
    check_not_empty("kthvalue", x.shape or (1,), (axis,), dim)
    if not 1 <= k <= (x.shape[axis] if x.ndim else 1):
        raise RuntimeError("kthvalue(): selected number k out of range for dimension " + str(axis))
    where = _at_rank(_order(x, axis), axis, np.array(k - 1))
    return return_types.kthvalue(*chosen("KthvalueBackward0", input, where, axis, keepdim))


def _at_rank(order: Array, axis: int, rank: Array) -> Array:
    """The indices at a rank, or at one rank for each row; the dimension is kept."""
    if not order.ndim:
        return order
    rank = array_module(order).broadcast_to(rank, order.shape[:axis] + (1,) + order.shape[axis + 1 :])
    return np.take_along_axis(order, rank, axis)


def median(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The element in the middle, the lower one of two: of all, or as the pair (values, indices) along dim.

    NaN where there is one.
    """
    return _median("median", input, dim, keepdim)


def nanmedian(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """As `median`, of what is not NaN."""
    return _median("nanmedian", input, dim, keepdim)


def _median(op: str, input: Any, dim: int | None, keepdim: bool) -> Any:
    name = f"{op.capitalize()}Backward{int(dim is not None)}"
    if dim is None:
        if not input.array.size:
            return wrap(array_module(input.array).full((), np.nan, input.array.dtype))
        flat = input.array.reshape(-1)
        value = np.take(flat, _middle(op, flat, 0)[0])
        return record(name, value, (input, shared, input, RESULT))
    axis = normalize_dim(dim, input.array.ndim)
    check_not_empty(op, input.array.shape or (1,), (axis,), dim)
    return getattr(return_types, op)(*chosen(name, input, _middle(op, input.array, axis), axis, keepdim))


def _middle(op: str, x: Array, axis: int) -> Array:
    """Where the median is."""
    if not x.ndim:
        return np.zeros_like(x, INT64)
    size = x.shape[axis]
    count = size - np.isnan(x).sum(axis, keepdims=True)  # NaN are last in order
    rank = np.where(count < size, count, (size - 1) // 2) if op == "median" else np.maximum(count - 1, 0) // 2
    return _at_rank(_order(x, axis), axis, rank)


def mode(input: Any, dim: int = -1, keepdim: bool = False) -> Any:
    """The pair (value, index) of the most frequent element along dim, the smallest of several; index: its last."""
    x = input.array
    axis = normalize_dim(dim, x.ndim)
    check_not_empty("mode", x.shape or (1,), (axis,), dim)
    order = _order(x, axis)
    if x.ndim:
        ordered = np.take_along_axis(x, order, axis)
        place = array_module(x).arange(x.shape[axis]).reshape((-1,) + (1,) * (x.ndim - axis - 1))
        starts = np.ones_like(ordered, dtype=bool)
        rest = (slice(None),) * axis + (slice(1, None),)
        starts[rest] = ordered[rest] != ordered[(slice(None),) * axis + (slice(-1),)]
        first = accumulate(np.maximum, np.where(starts, place, 0), axis)  # where each run of equal elements starts
        best = np.argmax(place - first, axis, keepdims=True)  # the end of the first run of the greatest length
        order = np.take_along_axis(order, best, axis)
    return return_types.mode(*chosen("ModeBackward0", input, order, axis, keepdim))


def quantile(
    input: Any, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Any:
    """The values below which the fractions q (a number or a vector) of the elements lie, along dim or of all.

    interpolation between two elements: linear, lower, higher, midpoint or nearest. NaN where there is one. The
    dimension of a vector q comes first in the result.
    """
    return _quantile("quantile", input, q, dim, keepdim, interpolation)


def nanquantile(
    input: Any, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Any:
    """As `quantile`, of what is not NaN."""
    return _quantile("nanquantile", input, q, dim, keepdim, interpolation)


def _quantile(op: str, input: Any, q: Any, dim: int | None, keepdim: bool, interpolation: str) -> Any:
    x = input.array
    if x.size == 0:
        raise RuntimeError(f"{op}() input tensor must be non-empty")
    if x.dtype not in (np.float32, np.float64):
        raise RuntimeError(f"{op}() input tensor must be either float or double dtype")
    if interpolation not in ("linear", "lower", "higher", "midpoint", "nearest"):
        raise RuntimeError(
            f"{op}() interpolation must be one of linear, lower, higher, midpoint or nearest, but got {interpolation}"
        )
    xp = array_module(x)
    fractions = q.array if isinstance(q, Variable) else xp.asarray(q, dtype=x.dtype)
    if fractions.ndim > 1:
        raise RuntimeError(f"{op}() q must be a scalar or 1D tensor")
    if fractions.dtype != x.dtype:
        raise RuntimeError(f"{op}() q tensor must be same dtype as the input tensor")
    if not ((fractions >= 0) & (fractions <= 1)).all():
        raise RuntimeError(f"{op}() q values must be in the range [0, 1]")
    axis = 0 if dim is None else normalize_dim(dim, x.ndim)
    rows = reshape(input, -1) if dim is None or not x.ndim else movedim(input, axis, -1)
    size = rows.array.shape[-1]
    count = size - np.isnan(rows.array).sum(-1, keepdims=True)  # NaN are last in order
    rank = fractions.reshape(-1) * (np.maximum(count, 1) - 1).astype(x.dtype)
    if op == "quantile":
        rank = np.where(count < size, x.dtype.type(size - 1), rank)
    if interpolation in ("lower", "higher", "nearest"):
        rank = {"lower": np.floor, "higher": np.ceil, "nearest": np.rint}[interpolation](rank)
    last = rows.array.ndim - 1
    order = _order(rows.array, last)
    below = np.floor(rank)
    lower, upper = (
        picked("GatherBackward0", rows, np.take_along_axis(order, end.astype(INT64), last), last, distinct=False)
        for end in (below, np.ceil(rank))
    )
    weight = 0.5 * (rank > below) if interpolation == "midpoint" else rank - below
    # two formulas, so that either end is exact
    weight = weight.astype(x.dtype)
    value = where(wrap(weight < 0.5), lower + (upper - lower) * weight, upper - (upper - lower) * (1 - weight))
    value = movedim(value, -1, 0)
    if keepdim:
        shape = tuple(1 if dim is None or i == axis else n for i, n in enumerate(x.shape))
        value = reshape(value, (fractions.size, *shape))
    return value if fractions.ndim else reshape(value, value.array.shape[1:])


def searchsorted(
    sorted_sequence: Any,
    input: Any,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Any = None,
) -> Any:
    """Where each value of input belongs in the last dimension of sorted_sequence, before (or after) equal elements.

    Leading dimensions agree, or the sequence has one dimension. sorter: the order that sorts the sequence.
    """
    if side not in (None, "left", "right"):
        raise RuntimeError(f"mpigrad.searchsorted(): side can only be 'left' or 'right' but got {side}")
    if side == "left" and right:
        raise RuntimeError(
            "mpigrad.searchsorted(): side and right can't be set to opposites, got side of left while right was True"
        )
    sequence = sorted_sequence.array
    if sorter is not None:
        sequence = np.take_along_axis(sequence, sorter.array, -1)
    values = input.array if isinstance(input, Variable) else array_module(sequence).asarray(input)
    after = right or side == "right"
    if sequence.ndim == 1:
        found = np.searchsorted(sequence, values, "right" if after else "left")
    else:
        if sequence.shape[:-1] != values.shape[:-1]:
            raise RuntimeError(
                "mpigrad.searchsorted(): boundaries tensor should be 1 dimension or the first N-1 dimensions of "
                f"boundaries tensor and input value tensor must match, but we got boundaries tensor "
                f"{list(sequence.shape)} and input value tensor {list(values.shape)}"
            )
        found = _search_rows(sequence, values, after)
    return wrap(np.asarray(found).astype(np.int32 if out_int32 else INT64, copy=False))


def _search_rows(sequence: Array, values: Array, after: bool) -> Array:
    """The same row by row: how many elements of the sequence stand before each value when both are sorted as one."""
    xp, n = array_module(sequence), sequence.shape[-1]
    joined = xp.concatenate([sequence, values] if after else [values, sequence], -1)
    order = np.argsort(joined, -1, kind="stable")
    of_sequence = order < n if after else order >= values.shape[-1]
    before = xp.empty_like(order)
    before[grid(order, order.ndim - 1)] = of_sequence.cumsum(-1)
    return before[..., n:] if after else before[..., : values.shape[-1]]


def bucketize(input: Any, boundaries: Any, *, out_int32: bool = False, right: bool = False) -> Any:
    """The index of the bucket that each value falls into: `searchsorted` with its arguments exchanged."""
    if boundaries.array.ndim != 1:
        raise RuntimeError(f"boundaries tensor must be 1 dimension, but got dim({boundaries.array.ndim})")
    return searchsorted(boundaries, input, out_int32=out_int32, right=right)
