"""Sliding windows over images: where they lie, the view of them all, and unfold and fold."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..autograd import Variable, record
from ..backend import Array, array_module

__all__ = ["fold", "unfold"]

Ints = tuple[int, ...]
Padding = Sequence[tuple[int, int]]


class Grid(NamedTuple):
    """Where windows lie, per spatial dimension.

    size: the image's elements, outs: the windows, padding: how far they reach out (before, after) the image.
    """

    size: Ints
    outs: Ints
    kernel: Ints
    stride: Ints
    padding: Padding
    dilation: Ints

    @property
    def padded_size(self) -> Ints:
        """The image's elements with the padding."""
        return tuple(n + before + after for n, (before, after) in zip(self.size, self.padding, strict=True))

    @property
    def reach(self) -> Ints:
        """From a window's first element to its last."""
        return tuple(d * (k - 1) for d, k in zip(self.dilation, self.kernel, strict=True))


def per_dim(value: int | Sequence[int], n: int) -> Ints:
    """One int for every dimension, or a sequence of that many ints (or of one)."""
    if isinstance(value, int):
        return (value,) * n
    return tuple(value) * n if len(value) == 1 else tuple(value)


def positions(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """How many windows fit into one padded dimension."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def padded(x: Array, padding: Padding, value: float = 0) -> Array:
    """Images with `value` around them (cut where the padding is negative), in row-major order.

    padding: (before, after) for each of the last dimensions.
    """
    xp = array_module(x)
    if not any(map(any, padding)):
        return x if x.flags.c_contiguous else xp.ascontiguousarray(x)
    ends = [(0, 0)] * (x.ndim - len(padding)) + list(padding)
    shape = tuple(n + before + after for n, (before, after) in zip(x.shape, ends, strict=True))
    result = xp.full(shape, value, x.dtype) if value else xp.zeros(shape, x.dtype)
    inner(result, padding)[...] = inner(x, [(-before, -after) for before, after in padding])
    return result


def inner(x: Array, padding: Padding) -> Array:
    """Padded images without their padding; where that is negative nothing is missing."""
    sizes = x.shape[x.ndim - len(padding) :]
    return x[(..., *[slice(max(start, 0), n - max(stop, 0)) for (start, stop), n in zip(padding, sizes, strict=True)])]


def windows(x: Array, grid: Grid) -> Array:
    """All windows of padded images (..., *size) as a view (..., *kernel, *outs)."""
    steps = x.strides[-len(grid.size) :]
    return array_module(x).lib.stride_tricks.as_strided(
        x,
        (*x.shape[: -len(steps)], *grid.kernel, *grid.outs),
        (
            *x.strides[: -len(steps)],
            *[d * step for d, step in zip(grid.dilation, steps, strict=True)],
            *[s * step for s, step in zip(grid.stride, steps, strict=True)],
        ),
    )


@functools.lru_cache
def starts(grid: Grid) -> tuple[Array, Array]:
    """Places in a padded image, counted row by row: of the first window's elements, of the first window in each row."""
    pitch = [math.prod(grid.padded_size[i + 1 :]) for i in range(len(grid.size))]

    def sums(counts: Ints, steps: Ints) -> Array:
        along = [np.arange(count) * step * p for count, step, p in zip(counts, steps, pitch, strict=True)]
        return functools.reduce(np.add.outer, along).reshape(-1)

    return sums(grid.kernel, grid.dilation), sums((*grid.outs[:-1], 1), grid.stride)


def offsets(kernel: Ints) -> itertools.product[Ints]:
    """The places within a window, row by row."""
    return itertools.product(*map(range, kernel))


def add_windows(view: Array, values: Array, kernel: Ints, lead: int) -> None:
    """Add values to the windows that `view` shows, `lead` dimensions before the kernel's: where they overlap, all."""
    before = (slice(None),) * lead
    for place in offsets(kernel):
        target = view[(*before, *place)]
        target += values[(*before, *place)]


def unfold(
    input: Any,
    kernel_size: int | Sequence[int],
    dilation: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    stride: int | Sequence[int] = 1,
) -> Any:
    """The windows of images (N, C, H, W) as columns (N, C * kernel elements, windows); unbatched without N."""
    x = input.array if isinstance(input, Variable) else input
    grid = _sliding(x.shape[-2:], kernel_size, dilation, padding, stride)
    if min(grid.outs) < 1:
        raise RuntimeError(
            f"Given input with spatial size {grid.size}, kernel_size={grid.kernel}, dilation={grid.dilation}, "
            f"padding={tuple(p for p, _ in grid.padding)}, calculated shape of the array of sliding blocks as "
            f"{grid.outs}, but its components must be at least one."
        )
    return _unfolded(input, grid)


def fold(
    input: Any,
    output_size: int | Sequence[int],
    kernel_size: int | Sequence[int],
    dilation: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    stride: int | Sequence[int] = 1,
) -> Any:
    """The transpose of unfold: columns (N, C * kernel elements, windows) added up to images (N, C, *output_size)."""
    x = input.array if isinstance(input, Variable) else input
    grid = _sliding(per_dim(output_size, 2), kernel_size, dilation, padding, stride)
    rows, count = x.shape[-2:]
    if rows % math.prod(grid.kernel):
        raise RuntimeError(
            "Expected size of input's dimension 1 to be divisible by the product of kernel_size, but got "
            f"input.size(1)={rows} and kernel_size={grid.kernel}."
        )
    if count != math.prod(grid.outs):
        raise RuntimeError(
            f"Given output_size={grid.size}, kernel_size={grid.kernel}, dilation={grid.dilation}, "
            f"padding={tuple(p for p, _ in grid.padding)}, stride={grid.stride}, expected size of input's dimension 2 "
            f"to match the calculated number of sliding blocks {' * '.join(map(str, grid.outs))} = "
            f"{math.prod(grid.outs)}, but got input.size(2)={count}."
        )
    return _folded(input, grid)


def _sliding(size: Ints, kernel: Any, dilation: Any, padding: Any, stride: Any) -> Grid:
    kernel, dilation, padding, stride = (per_dim(v, 2) for v in (kernel, dilation, padding, stride))
    outs = tuple(map(positions, size, kernel, stride, padding, dilation))
    return Grid(tuple(size), outs, kernel, stride, tuple((p, p) for p in padding), dilation)


def _unfolded(input: Any, grid: Grid) -> Any:
    if isinstance(input, Variable):
        return record("Im2ColBackward0", _unfolded(input.array, grid), (input, lambda g: _folded(g, grid)))
    columns = windows(padded(input, grid.padding), grid)
    channels = input.shape[-3] * math.prod(grid.kernel)
    return columns.reshape((*input.shape[:-3], channels, math.prod(grid.outs)))


def _folded(input: Any, grid: Grid) -> Any:
    if isinstance(input, Variable):
        return record("Col2ImBackward0", _folded(input.array, grid), (input, lambda g: _unfolded(g, grid)))
    lead = (*input.shape[:-2], input.shape[-2] // math.prod(grid.kernel))
    xp = array_module(input)
    images = xp.zeros((*lead, *grid.padded_size), input.dtype)
    add_windows(windows(images, grid), input.reshape((*lead, *grid.kernel, *grid.outs)), grid.kernel, len(lead))
    return xp.ascontiguousarray(inner(images, grid.padding))
