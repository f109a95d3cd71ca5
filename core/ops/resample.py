"""Images at other resolutions, and other ways to rearrange their elements.

All interpolation here is linear in the image and works dimension by dimension: a new line of the image is a weighted
sum of a few old ones. `read_lines` is that op.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..autograd import Variable, record
from ..backend import Array, add_at, array_module
from .windows import Ints

# fmt: off
__all__ = [
    "channel_shuffle", "pixel_shuffle", "pixel_unshuffle",
]
# fmt: on


class Lines(NamedTuple):
    """How the lines along one dimension are made: line i is the sum over t of weight[t, i] * line index[t, i] before.

    index (T, lines): of dtype int; weight: the same shape, None for 1. size: how many lines there are before.
    """

    dim: int
    size: int
    index: Array
    weight: Array | None = None


def read_lines(name: str, x: Any, lines: Sequence[Lines]) -> Any:
    """The lines read along one dimension after the other; x is a Tensor or (in a vjp) an array."""
    if isinstance(x, Variable):
        y = read_lines(name, x.array, lines)
        return record(name, y.copy() if y is x.array else y, (x, lambda g: _spread_lines(name, g, lines)))
    xp, dtype = array_module(x), x.dtype
    for dim, _, index, weight in lines:
        if weight is None:
            x = xp.take(x, xp.asarray(index[0]), dim)
            continue
        rows = xp.asarray(weight, np.promote_types(dtype, np.float32)).reshape(*weight.shape, *[1] * (x.ndim - 1 - dim))
        y = xp.take(x, xp.asarray(index[0]), dim) * rows[0]
        for t in range(1, len(index)):
            y += xp.take(x, xp.asarray(index[t]), dim) * rows[t]
        x = y
    return x.astype(dtype, copy=False)


def _spread_lines(name: str, g: Any, lines: Sequence[Lines]) -> Any:
    """The transpose of read_lines: a matrix product per dimension."""
    if isinstance(g, Variable):
        return record(name, _spread_lines(name, g.array, lines), (g, lambda h: read_lines(name, h, lines)))
    xp = array_module(g)
    for dim, size, index, weight in reversed(lines):
        matrix = np.zeros((size, index.shape[1]), g.dtype)
        add_at(matrix, (index, np.arange(index.shape[1])), 1 if weight is None else weight)
        before, after = g.shape[:dim], g.shape[dim + 1 :]
        flat = xp.asarray(matrix) @ g.reshape(math.prod(before), index.shape[1], math.prod(after))
        g = flat.reshape(*before, size, *after)
    return g


def pixel_shuffle(input: Any, upscale_factor: int) -> Any:
    """Images (..., C * r**2, H, W) as (..., C, H * r, W * r), r the factor. Source: Shi et al., 2016."""
    shape, r = input.shape, upscale_factor
    _check_pixels("pixel_shuffle", shape, "upscale_factor", r)
    if shape[-3] % r**2:
        raise RuntimeError(
            "pixel_shuffle expects its input's 'channel' dimension to be divisible by the square of upscale_factor, "
            f"but input.size(-3)={shape[-3]} is not divisible by {r**2}"
        )
    channels, height, width = shape[-3] // r**2, shape[-2], shape[-1]
    parts = (channels, r, r, height, width)
    result = (channels, height * r, width * r)
    return _moved("PixelShuffle", input, parts, (0, 3, 1, 4, 2), result, lambda g: pixel_unshuffle(g, r))


def pixel_unshuffle(input: Any, downscale_factor: int) -> Any:
    """Images (..., C, H * r, W * r) as (..., C * r**2, H, W), r the factor: pixel_shuffle undone."""
    shape, r = input.shape, downscale_factor
    _check_pixels("pixel_unshuffle", shape, "downscale_factor", r)
    for name, dim in (("height", -2), ("width", -1)):
        if shape[dim] % r:
            raise RuntimeError(
                f"pixel_unshuffle expects {name} to be divisible by downscale_factor, but input.size({dim})="
                f"{shape[dim]} is not divisible by {r}"
            )
    channels, height, width = shape[-3], shape[-2] // r, shape[-1] // r
    parts = (channels, height, r, width, r)
    result = (channels * r**2, height, width)
    return _moved("PixelUnshuffle", input, parts, (0, 2, 4, 1, 3), result, lambda g: pixel_shuffle(g, r))


def channel_shuffle(input: Any, groups: int) -> Any:
    """Images (N, C, ...) with channel (group, i) moved to (i, group)."""
    shape = input.shape
    if len(shape) <= 2:
        raise RuntimeError(f"channel_shuffle expects input with > 2 dims, but got input with sizes {list(shape)}")
    if groups < 1:
        raise RuntimeError(f"Number of groups to divide channels in must be positive. Value of groups:{groups}")
    if shape[1] % groups:
        raise RuntimeError(
            f"Number of channels must be divisible by groups. Got {shape[1]} channels and {groups} groups."
        )
    parts = (groups, shape[1] // groups, math.prod(shape[2:]))
    back: Callable[[Any], Any] = lambda g: channel_shuffle(g, shape[1] // groups)
    return _moved("ChannelShuffle", input, parts, (1, 0, 2), tuple(shape[1:]), back)


def _check_pixels(op: str, shape: Ints, name: str, factor: int) -> None:
    if len(shape) < 3:
        raise RuntimeError(
            f"{op} expects input to have at least 3 dimensions, but got input with {len(shape)} dimension(s)"
        )
    if factor < 1:
        raise RuntimeError(f"{op} expects a positive {name}, but got {factor}")


def _moved(name: str, x: Any, parts: Ints, order: Ints, result: Ints, back: Callable[[Any], Any]) -> Any:
    """The last dimensions divided into parts, these in another order, then joined to the shape `result`."""
    if isinstance(x, Variable):
        return record(f"{name}Backward0", _moved(name, x.array, parts, order, result, back), (x, back))
    lead = x.shape[: x.ndim - len(result)]
    n = len(lead)
    y = x.reshape(*lead, *parts).transpose(*range(n), *[n + i for i in order])
    return array_module(x).ascontiguousarray(y).reshape(*lead, *result)
