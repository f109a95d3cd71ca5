"""Copies of elements in other places: repeated, reversed, rolled, on a diagonal, and triangles."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..autograd import Variable, record, wrap
from ..backend import array_module
from .gather import index_select
from .shape import clone, expand, normalize_dim, sizes
from .slices import embed, on_diagonal

# fmt: off
__all__ = [
    "diag", "diag_embed", "diagflat", "flip", "fliplr", "flipud", "repeat_interleave", "roll", "rot90", "tile", "tril",
    "triu",
]
# fmt: on


def repeat(input: Any, *repeats: Any) -> Any:
    """The whole tensor so many times along each dimension; there may be more of them than the tensor has."""
    counts, before = sizes(repeats), input.array.shape
    if len(counts) < len(before):
        raise RuntimeError("Number of dimensions of repeat dims can not be smaller than number of dimensions of tensor")
    shape = (1,) * (len(counts) - len(before)) + before
    if any(n < 0 for n in counts):
        after = [n * m for n, m in zip(counts, shape, strict=True)]
        negative = next(n for n in after if n < 0)
        raise RuntimeError(f"Trying to create tensor with negative dimension {negative}: {after}")
    split = tuple(n for pair in zip(counts, shape, strict=True) for n in pair)
    vjp = lambda g: g.reshape(split).sum(tuple(range(0, len(split), 2))).reshape(before) if split else g
    return record("RepeatBackward0", np.tile(input.array, counts), (input, vjp))


def tile(input: Any, *dims: Any) -> Any:
    """As repeat, but with fewer counts than dimensions the first dimensions stay as they are."""
    counts = tuple(sizes(dims)) if dims else ()
    return repeat(input, (1,) * (input.array.ndim - len(counts)) + counts)


def repeat_interleave(
    input: Any, repeats: Any = None, dim: int | None = None, *, output_size: int | None = None
) -> Any:
    """Each position of a dimension (without dim: each element) repeated: all so often, or each by its own count.

    repeat_interleave(repeats) gives the position i repeats[i] times. output_size is taken and changes nothing.
    """
    if repeats is None:
        xp = array_module(input.array)
        return wrap(xp.repeat(xp.arange(input.array.size), _counts(input, input.array.size)))
    source, axis = (input.reshape(-1), 0) if dim is None else (input, normalize_dim(dim, input.array.ndim))
    source = source if source.array.ndim else source.reshape(1)
    shape = source.array.shape
    if isinstance(repeats, Variable):
        at = array_module(input.array).repeat(np.arange(shape[axis]), _counts(repeats, shape[axis]))
        return index_select(source, axis, wrap(at))
    if repeats < 0:
        raise RuntimeError("Repeats must be non-negative")
    spread = expand(source.unsqueeze(axis + 1), (*shape[: axis + 1], repeats, *shape[axis + 1 :]))
    return spread.reshape((*shape[:axis], shape[axis] * repeats, *shape[axis + 1 :]))


def _counts(repeats: Any, size: int) -> Any:
    counts = repeats.array.reshape(-1)
    if counts.dtype not in (np.int64, np.int32):
        raise RuntimeError("repeats has to be Long or Int tensor")
    if counts.size not in (1, size):
        raise RuntimeError(
            f"repeats must have the same size as input along dim, but got repeats.size(0) = {counts.size} and "
            f"input.size(0) = {size}"
        )
    if (counts < 0).any():
        raise RuntimeError("repeats can not be negative")
    return counts


def flip(input: Any, *dims: Any) -> Any:
    """A copy with these dimensions reversed."""
    ndim, named = len(input.shape), sizes(dims)
    axes = tuple(normalize_dim(d, ndim) for d in named)
    if len(set(axes)) < len(axes):
        raise RuntimeError(f"dim {axes[0]} appears multiple times in the list of dims")
    if not isinstance(input, Variable):
        return np.flip(input, axes if ndim else ())
    return record("FlipBackward0", np.flip(input.array, axes if ndim else ()).copy(), (input, lambda g: flip(g, axes)))


def fliplr(input: Any) -> Any:
    """A copy with dimension 1 reversed."""
    if input.array.ndim < 2:
        raise RuntimeError("Input must be >= 2-d.")
    return flip(input, 1)


def flipud(input: Any) -> Any:
    """A copy with dimension 0 reversed."""
    if input.array.ndim < 1:
        raise RuntimeError("Input must be >= 1-d.")
    return flip(input, 0)


def roll(input: Any, shifts: int | tuple[int, ...], dims: int | tuple[int, ...] | None = None) -> Any:
    """A copy shifted along dims, what leaves at one end entering at the other; without dims as if it were flat."""
    by = (shifts,) if isinstance(shifts, int) else tuple(shifts)
    along = () if dims is None else (dims,) if isinstance(dims, int) else tuple(dims)
    if not by:
        raise RuntimeError("`shifts` required")
    if len(by) != len(along) and (along or len(by) != 1):
        raise RuntimeError(f"shifts and dimensions must align. shifts: {len(by)}, dims:{len(along)}")
    if along and not input.shape:
        raise IndexError(f"Dimension specified as {along[0]} but tensor has no dimensions")
    axes = tuple(normalize_dim(d, len(input.shape)) for d in along) or None
    back = tuple(-n for n in by)
    if not isinstance(input, Variable):
        return np.roll(input, by if axes else by[0], axes)
    value = np.roll(input.array, by if axes else by[0], axes)
    return record("RollBackward0", value, (input, lambda g: roll(g, back, axes)))


def rot90(input: Any, k: int = 1, dims: tuple[int, ...] = (0, 1)) -> Any:
    """A copy turned k times by 90 degrees in the plane of two dimensions, from the first towards the second."""
    ndim = len(input.shape)
    if len(dims) != 2:
        raise RuntimeError(f"expected total rotation dims == 2, but got dims = {len(dims)}")
    if ndim < 2:
        raise RuntimeError(f"expected total dims >= 2, but got total dims = {ndim}")
    a, b = (normalize_dim(d, ndim) for d in dims)
    if a == b:
        raise RuntimeError(f"expected rotation dims to be different, but got dim0 = {dims[0]} and dim1 = {dims[1]}")
    if not isinstance(input, Variable):
        return np.rot90(input, k, (a, b))
    return record("Rot90Backward0", np.rot90(input.array, k, (a, b)).copy(), (input, lambda g: rot90(g, -k, (a, b))))


def tril(input: Any, diagonal: int = 0) -> Any:
    """The matrices with 0 above a diagonal."""
    return _triangle("TrilBackward0", tril, np.tril, input, diagonal)


def triu(input: Any, diagonal: int = 0) -> Any:
    """The matrices with 0 below a diagonal."""
    return _triangle("TriuBackward0", triu, np.triu, input, diagonal)


def _triangle(name: str, op: Any, function: Any, input: Any, k: int) -> Any:
    if len(input.shape) < 2:
        raise RuntimeError(f"{op.__name__}: input tensor must have at least 2 dimensions")
    if not isinstance(input, Variable):
        return function(input, k)
    return record(name, function(input.array, k), (input, lambda g: op(g, k)))


def diag_embed(input: Any, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    """Matrices with the last dimension of input on a diagonal and 0 elsewhere, in the dimensions dim1 and dim2."""
    x = input.array
    a, b = normalize_dim(dim1, x.ndim + 1), normalize_dim(dim2, x.ndim + 1)
    if a == b:
        raise RuntimeError(f"diagonal dimensions cannot be identical {dim1}, {dim2}")
    length = x.shape[normalize_dim(-1, x.ndim)] + abs(offset)
    shape = list(x.shape[:-1])
    for axis in sorted((a, b)):
        shape.insert(axis, length)
    read = on_diagonal(offset, a, b)
    return record("DiagEmbedBackward0", embed(x, tuple(shape), read), (input, read))


def diag(input: Any, diagonal: int = 0) -> Any:
    """A vector on a diagonal of a matrix; of a matrix a copy of a diagonal."""
    if input.array.ndim not in (1, 2):
        raise RuntimeError(f"diag(): Supports 1D or 2D tensors. Got {input.array.ndim}D")
    return diag_embed(input, diagonal) if input.array.ndim == 1 else clone(input.diagonal(diagonal))


def diagflat(input: Any, offset: int = 0) -> Any:
    """All elements on a diagonal of a matrix."""
    return diag_embed(input.reshape(-1), offset)
