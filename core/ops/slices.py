"""Views of a part of the elements, and the transposes of such views."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..autograd import Variable, record, record_view
from ..backend import Array, array_module, sum_rows
from .shape import normalize_dim

__all__ = ["as_strided", "diagonal", "narrow", "select"]


def embed(values: Any, shape: tuple[int, ...], read: Callable[[Any], Any]) -> Any:
    """Zeros of `shape` with values where `read` reads, each element once: the transpose of such a view."""
    g = values.array if isinstance(values, Variable) else values
    target = array_module(g).zeros(shape, g.dtype)
    read(target)[...] = g
    return record("EmbedBackward0", target, (values, read)) if isinstance(values, Variable) else target


def narrow(input: Any, dim: int, start: Any, length: int) -> Any:
    """`length` elements of a dimension from `start` on: a view."""
    if not input.array.ndim:
        raise RuntimeError("narrow() cannot be applied to a 0-dim tensor.")
    if isinstance(start, Variable) and (start.array.ndim or start.array.dtype.kind not in "iu"):
        raise RuntimeError("start must be an 0-dim integral Tensor.")
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
    read = on_diagonal(offset, a, b)
    return record_view("DiagonalBackward0", read, input, lambda g: embed(g, shape, read))


def on_diagonal(offset: int, a: int, b: int) -> Callable[[Any], Any]:
    """What reads the diagonal of the dimensions a and b, of arrays and of Tensors."""

    def read(v: Any) -> Any:
        if isinstance(v, Variable):
            return diagonal(v, offset, a, b)
        value = v.diagonal(offset, a, b)
        if isinstance(value, np.ndarray) and v.flags.writeable:
            value.flags.writeable = True  # NumPy's diagonal is a view of the memory, but says it were read-only
        return value

    return read


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
    unfolded = lambda g: unfold(g, axis, size, step) if isinstance(g, Variable) else _windows(g, axis, size, step)
    return record("FoldBackward0", target, (windows, unfolded))


def as_strided(input: Any, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None) -> Any:
    """A view of the memory behind input with these sizes and steps (in elements) from storage_offset on.

    The memory is that of the tensor which input is a view of; RuntimeError for what lies outside.
    """
    base = input
    while base.source is not None:
        base = base.source[0]
    memory, item = base.array, base.array.itemsize
    shape, steps = tuple(size), tuple(stride)
    if len(shape) != len(steps):
        raise RuntimeError("mismatch in length of strides and shape")
    if any(n < 0 for n in steps):
        raise RuntimeError(f"as_strided: Negative strides are not supported at the moment, got strides: {list(steps)}")
    start = storage_offset
    if start is None:
        start = (_address(input.array) - _address(memory)) // item
    extent = sum(abs(n) * (m - 1) for n, m in zip((s // item for s in memory.strides), memory.shape, strict=True)) + 1
    last = start + sum((n - 1) * step for n, step in zip(shape, steps, strict=True)) if 0 not in shape else -1
    if last >= (extent if memory.size else 0):
        raise RuntimeError(
            f"setStorage: sizes {list(shape)}, strides {list(steps)}, storage offset {start}, and itemsize {item} "
            f"requiring a storage size of {(last + 1) * item} are out of bounds for storage of size {extent * item}"
        )
    strided = array_module(memory).lib.stride_tricks.as_strided
    before, layout = memory.shape, memory.strides

    def read(v: Any) -> Any:
        if not isinstance(v, Variable) and v.strides == tuple(n // item * v.itemsize for n in layout):
            flat = strided(v, (extent,), (v.itemsize,))[start:]
            return strided(flat, shape, [step * v.itemsize for step in steps])
        return v.reshape(-1)[numbers()]

    def numbers() -> Array:
        """Which element of the base, counted in row-major order, each element of the view is."""
        xp = array_module(memory)
        order = xp.full(extent, -1)
        strided(order, before, [n // item * order.itemsize for n in layout])[...] = xp.arange(memory.size).reshape(
            before
        )
        return strided(order[start:], shape, [step * order.itemsize for step in steps])

    def vjp(g: Any) -> Any:
        return _summed(g, numbers(), before)

    return record_view("AsStridedBackward0", read, base, vjp)


def _address(array: Array) -> int:
    return int(array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr)


def _summed(values: Any, numbers: Array, shape: tuple[int, ...]) -> Any:
    """Zeros of `shape` with values added to the elements of these numbers."""
    g = values.array if isinstance(values, Variable) else np.asarray(values)
    sums = sum_rows(numbers.reshape(-1), g.reshape(-1), math.prod(shape)).reshape(shape)
    return record("AddAtBackward0", sums, (values, lambda g: g.reshape(-1)[numbers])) if values is not g else sums


def fill_diagonal_(input: Any, fill_value: float, wrap: bool = False) -> Any:
    """The main diagonal (of all dimensions) filled in place; wrap: below the end of a tall matrix again and again."""
    shape = input.array.shape
    if len(shape) < 2:
        raise RuntimeError("dimensions must larger than 1")
    if len(shape) > 2 and len(set(shape)) > 1:
        raise RuntimeError("all dimensions of input must be of equal length")
    steps = input.stride()
    ends = [min(shape)]
    if wrap and len(shape) == 2 and shape[0] > shape[1]:
        ends = [min(shape[1], shape[0] - top) for top in range(0, shape[0], shape[1] + 1)]
    for block, length in enumerate(ends):
        top = input.narrow(0, block * (shape[1] + 1), length) if block else input
        top.as_strided((length,), (sum(steps),)).fill_(fill_value)
    return input
