"""Views of a part of the elements, and the transposes of such views."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..autograd import Variable, record, record_view
from ..backend import Array, array_module
from .shape import normalize_dim

__all__ = ["diagonal", "narrow", "select"]


def embed(values: Any, shape: tuple[int, ...], read: Callable[[Any], Any]) -> Any:
    """Zeros of `shape` with values where `read` reads, each element once: the transpose of such a view."""
    g = values.array if isinstance(values, Variable) else values
    target = array_module(g).zeros(shape, g.dtype)
    read(target)[...] = g
    return record("EmbedBackward0", target, (values, read)) if isinstance(values, Variable) else target


def narrow(input: Any, dim: int, start: Any, length: int) -> Any:
    """`length` elements of a dimension from `start` on: a view."""
    axis = normalize_dim(dim, input.array.ndim)
    size, first = input.array.shape[axis], int(start)
    if length < 0:
        raise RuntimeError("narrow(): length must be non-negative.")
    if not -size <= first <= size:
        raise IndexError(f"start out of range (expected to be in range of [{-size}, {size}], but got {first})")
    first += size if first < 0 else 0
    if first + length > size:
        raise RuntimeError(f"start ({first}) + length ({length}) exceeds dimension size ({size}).")
    return view_at("SliceBackward0", input, (slice(None),) * axis + (slice(first, first + length),))


def select(input: Any, dim: int, index: Any) -> Any:
    """One position of a dimension, which goes: a view."""
    axis, at = normalize_dim(dim, input.array.ndim), int(index)
    size = input.array.shape[axis]
    if not -size <= at < size:
        raise IndexError(
            f"select(): index {at} out of range for tensor of size {list(input.array.shape)} at dimension {axis}"
        )
    return view_at("SelectBackward0", input, (*(slice(None),) * axis, at, ...))


def view_at(name: str, input: Any, key: Any) -> Any:
    """input[key] for a key of ints (with an ellipsis, so that NumPy makes a view too), slices and None."""
    shape = input.array.shape
    read = lambda a: a[key]
    return record_view(name, read, input, lambda g: embed(g, shape, read))


def diagonal(input: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    """The diagonal of two dimensions as the last one, `offset` above the main diagonal: a view."""
    shape = input.array.shape
    a, b = normalize_dim(dim1, len(shape)), normalize_dim(dim2, len(shape))
    if a == b:
        raise RuntimeError(f"diagonal dimensions cannot be identical {dim1}, {dim2}")
    read = lambda v: diagonal(v, offset, a, b) if isinstance(v, Variable) else _diagonal(v, offset, a, b)
    return record_view("DiagonalBackward0", read, input, lambda g: embed(g, shape, read))


def _diagonal(x: Array, offset: int, a: int, b: int) -> Array:
    value = x.diagonal(offset, a, b)
    if isinstance(value, np.ndarray) and x.flags.writeable:
        value.flags.writeable = True  # NumPy's diagonal is a view of the memory, but says it were read-only
    return value


def unfold(input: Any, dimension: int, size: int, step: int) -> Any:
    """Windows of `size` along a dimension, `step` apart; what lies inside a window is the last dimension: a view."""
    shape = input.array.shape
    axis = normalize_dim(dimension, len(shape))
    length = shape[axis] if shape else 1
    if size < 0:
        raise RuntimeError(f"size is {size} but must be >= 0")
    if size > length:
        raise RuntimeError(f"maximum size for tensor at dimension {axis} is {length} but size is {size}")
    if step <= 0:
        raise RuntimeError(f"step is {step} but must be > 0")
    read = lambda v: unfold(v, axis, size, step) if isinstance(v, Variable) else _windows(v, axis, size, step)
    return record_view("UnfoldBackward0", read, input, lambda g: _folded(g, shape, axis, step))


def _windows(x: Array, axis: int, size: int, step: int) -> Array:
    strided = array_module(x).lib.stride_tricks.as_strided
    if not x.ndim:
        return strided(x, (size,), (x.itemsize,))
    count, stride = (x.shape[axis] - size) // step + 1, x.strides[axis]
    strides = list(x.strides)
    strides[axis] *= step
    return strided(x, (*x.shape[:axis], count, *x.shape[axis + 1 :], size), (*strides, stride))


def _folded(windows: Any, shape: tuple[int, ...], axis: int, step: int) -> Any:
    """The sum of windows where they overlap: the transpose of unfold."""
    g = windows.array if isinstance(windows, Variable) else windows
    target = array_module(g).zeros(shape or (1,), g.dtype)
    size = g.shape[-1]
    if shape:
        stop = g.shape[axis] * step
        for i in range(size):
            target[(slice(None),) * axis + (slice(i, min(i + stop, shape[axis]), step),)] += g[..., i]
    elif size:
        target[...] = g
    target = target.reshape(shape)
    if not isinstance(windows, Variable):
        return target
    return record("FoldBackward0", target, (windows, lambda g: g.unfold(axis, size, step)))
