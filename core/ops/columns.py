"""Images as matrices with a column for each window, in blocks that stay in the cache."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..backend import Array, array_module, kernels
from .windows import Grid, add_windows, starts

CACHE = 2**18  # elements of scratch memory that stay near a CPU core
GPU_SCRATCH = 2**26
MIN_COLUMNS = 256  # a matrix product with fewer columns is slow
MANY_ROWS = 32  # a matrix product with as many rows takes longer than copying its columns row by row


class Columns:
    """Padded images (N, C, ...), and the ways between their windows and matrices, some images at a time.

    The windows of b images are a matrix (groups, C/groups * kernel elements, b * run), with a column for each window.
    What is computed from them or flows back to them are values (N, channels, *outs): of b images a matrix (groups,
    channels/groups, b * run).
    """

    def __init__(self, images: Array, channels: int, grid: Grid, groups: int) -> None:
        self.images, self.channels, self.grid, self.groups = images, channels, grid, groups
        self.dtype = wide(images.dtype)
        self.loops = kernels(images) if grid.stride[-1] == 1 else None
        n, steps = len(grid.kernel), images.strides[2:]
        self.run, self.pitch = math.prod(grid.outs), [math.prod(grid.outs[i + 1 :]) for i in range(n)]
        outs, between = grid.outs, [s * step for s, step in zip(grid.stride, steps, strict=True)]
        # With stride 1 all rows of an image can be read as one long row, which is copied fast. The windows that reach
        # over a row's end are computed in vain: that takes longer where short rows are copied by a kernel.
        pitch = [step // images.itemsize for step in steps]
        run = 1 + sum((m - 1) * p for m, p in zip(outs, pitch, strict=True))
        most = self.run if self.loops and channels // groups >= MANY_ROWS else 1.4 * self.run
        self.long = max(grid.stride) == 1 and run <= most
        if self.long:
            self.run, self.pitch, outs, between = run, pitch, (run,), [images.itemsize]
        self.exact = self.run == math.prod(grid.outs)
        within = [d * step for d, step in zip(grid.dilation, steps, strict=True)]
        self.view = array_module(images).lib.stride_tricks.as_strided(
            images,
            (images.shape[1], *grid.kernel, images.shape[0], *outs),
            (images.strides[1], *within, images.strides[0], *between),
        )
        self.before = (slice(None),) * (1 + n)
        if self.loops:  # where an image's windows lie for kernels
            self.planes = images.reshape(*images.shape[:2], math.prod(images.shape[2:]))
            self.places, rows = starts(grid)
            self.rows = rows[:1] if self.long else rows
            self.counts = images.shape[1], len(self.places)
        height = images.shape[1] * math.prod(grid.kernel) + channels
        budget = CACHE if isinstance(images, np.ndarray) else GPU_SCRATCH
        if self.exact and self.loops:
            budget = 0  # one by one images' values need no copies
        self.size = max(1, budget // (height * self.run), -(-MIN_COLUMNS // self.run))

    def blocks(self, values: Array) -> Iterator[tuple[slice, Array, Array]]:
        """Where each block lies in the batch, its matrix of values, and the view (b, channels, *outs) of that.

        They show the memory of `values` if it lies so, then copying between values and the view does nothing. Else they
        are scratch memory, zero where nothing is copied to it.
        """
        xp, made, count, parts = array_module(values), 0, len(self.images), (self.groups, self.channels // self.groups)
        shared = self.size == 1 and self.exact and xp is np and values.dtype == self.dtype
        shared = shared and values.flags.c_contiguous and values.flags.writeable
        for start in range(0, count, self.size):
            at = slice(start, min(start + self.size, count))
            b = at.stop - start
            if shared:
                view = values[at]
                matrix = view.reshape(*parts, -1)
            elif b != made:
                made, matrix = b, xp.zeros((*parts, b * self.run), self.dtype)
                steps = [step * self.dtype.itemsize for step in (self.run, b * self.run, *self.pitch)]
                view = xp.lib.stride_tricks.as_strided(matrix, (b, *values.shape[1:]), steps)
            yield at, matrix, view

    def read(self, at: slice) -> Array:
        """The matrix of a block's windows, to read only."""
        if self.loops and not self.long:
            columns = np.empty((*self.counts, at.stop - at.start, len(self.rows), self.grid.outs[-1]), np.float32)
            self.loops.copy_windows(self.planes[at], self.places, self.rows, columns)
        else:
            columns = self.view[(*self.before, at)].astype(self.dtype, "C", copy=False)
        return columns.reshape(self.groups, -1, (at.stop - at.start) * self.run)

    def add(self, matrix: Array, at: slice) -> None:
        """Add a matrix to a block's windows: where they overlap, all."""
        if self.loops:
            columns = matrix.reshape(*self.counts, at.stop - at.start, len(self.rows), -1)
            self.loops.add_windows(columns, self.places, self.rows, self.planes[at])
        else:
            view = self.view[(*self.before, at)]
            add_windows(view, matrix.reshape(view.shape), self.grid.kernel, 1)


def wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype in which products are added up: half precision in float32."""
    return dtype if dtype.itemsize > 2 or dtype.kind in "iub" else np.dtype(np.float32)
