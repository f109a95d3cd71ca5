"""Convolutions of any dimensionality as matrix products.

A convolution y = x * w is linear in the images and in the weights. Its two vjps are linear likewise, and the vjps of
each of the three are the other two: `_convolve`, `_towards_images` and `_towards_weights` are all that is needed, for
transposed convolutions and for derivatives of any order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..autograd import Into, Variable, record
from ..backend import Array, array_module
from ..dtypes import of
from .columns import Columns, wide
from .shape import squeeze, unsqueeze
from .windows import Grid, Ints, inner, padded, per_dim, positions

# fmt: off
__all__ = [
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
]
# fmt: on


def _matrices(w: Array, groups: int) -> Array:
    """Weights (O, C/groups, *kernel) as matrices (groups, O/groups, C/groups * kernel elements)."""
    w = array_module(w).ascontiguousarray(w, wide(w.dtype))
    return w.reshape(groups, w.shape[0] // groups, -1)


def _convolve(x: Any, w: Any, grid: Grid, groups: int, bias: Any = None) -> Any:
    """The convolution of images (N, C, *size) with weights (O, C/groups, *kernel), plus a bias per channel."""
    if isinstance(x, Variable):
        value = _convolve(x.array, w.array, grid, groups, None if bias is None else bias.array)
        terms: list[Any] = [
            (x, lambda g, w: _towards_images(g, w, grid, groups), w),
            (w, Into(lambda g, x, out: _towards_weights(x, g, grid, groups, out)), x),
        ]
        return record("ConvolutionBackward0", value, *terms, *_bias_term(bias))
    weights, columns = _matrices(w, groups), Columns(padded(x, grid.padding), w.shape[0], grid, groups)
    y = array_module(x).empty((x.shape[0], w.shape[0], *grid.outs), x.dtype)
    shift = None if bias is None else bias.reshape(-1, *[1] * len(grid.size))
    for at, matrix, values in columns.blocks(y):
        np.matmul(weights, columns.read(at), out=matrix)
        y[at] = values
        if bias is not None:
            y[at] += shift
    return y


def _towards_weights(x: Any, g: Any, grid: Grid, groups: int, out: Array | None = None) -> Any:
    """What flows from gradients g (N, O, *outs) to the weights, written to `out` where it is given (arrays only)."""
    if isinstance(g, Variable):
        return record(
            "ConvolutionBackwardBackward0",
            _towards_weights(x.array, g.array, grid, groups),
            (x, lambda h, g: _towards_images(g, h, grid, groups), g),
            (g, lambda h, x: _convolve(x, h, grid, groups), x),
        )
    shape = (g.shape[1], x.shape[1] // groups, *grid.kernel)
    total = array_module(g).zeros((groups, math.prod(shape[1:]), shape[0] // groups), wide(g.dtype))
    columns = Columns(padded(x, grid.padding), g.shape[1], grid, groups)
    for at, matrix, values in columns.blocks(g):
        values[...] = g[at]
        total += columns.read(at) @ matrix.swapaxes(-1, -2)
    out = array_module(g).empty(shape, g.dtype) if out is None else out
    out.reshape(groups, shape[0] // groups, -1)[...] = total.swapaxes(-1, -2)
    return out


def _towards_images(g: Any, w: Any, grid: Grid, groups: int, bias: Any = None) -> Any:
    """What flows from gradients g (N, O, *outs) to the images (N, C, *size); a transposed convolution adds a bias."""
    if isinstance(g, Variable):
        value = _towards_images(g.array, w.array, grid, groups, None if bias is None else bias.array)
        terms: list[Any] = [
            (g, lambda h, w: _convolve(h, w, grid, groups), w),
            (w, Into(lambda h, g, out: _towards_weights(h, g, grid, groups, out)), g),
        ]
        return record("ConvolutionBackward0", value, *terms, *_bias_term(bias))
    channels = w.shape[1] * groups
    as_many = math.prod(grid.size) <= 1.1 * math.prod(grid.outs)
    if max(grid.stride) == 1 and as_many and w.shape[0] <= 8 * channels:
        # a convolution again, of the padded gradients with the weights turned round; it pays for each element of an
        # image, the sum of products below for each window
        before = [r - b for r, (b, _) in zip(grid.reach, grid.padding, strict=True)]
        after = [n + r - m - b for n, r, m, b in zip(grid.size, grid.reach, grid.outs, before, strict=True)]
        ends = tuple(zip(before, after, strict=True))
        turned = Grid(grid.outs, grid.size, grid.kernel, grid.stride, ends, grid.dilation)
        w = w.reshape(groups, -1, *w.shape[1:]).swapaxes(1, 2).reshape(channels, -1, *grid.kernel)
        return _convolve(g, w[(..., *[slice(None, None, -1)] * len(grid.size))], turned, groups, bias)
    weights = _matrices(w, groups).swapaxes(-1, -2)
    images = array_module(g).zeros((g.shape[0], channels, *grid.padded_size), g.dtype)
    columns = Columns(images, w.shape[0], grid, groups)
    for at, matrix, values in columns.blocks(g):
        values[...] = g[at]
        columns.add(weights @ matrix, at)
    images = array_module(g).ascontiguousarray(inner(images, grid.padding))
    if bias is not None:
        images += bias.reshape(-1, *[1] * len(grid.size))
    return images


def _bias_term(bias: Any) -> list[tuple[Any, ...]]:
    return [] if bias is None else [(bias, Into(_channel_sums))]


def _channel_sums(g: Any, out: Array | None = None) -> Any:
    axes = (0, *range(2, len(g.shape)))
    return g.sum(axes) if out is None else g.sum(axes, out=out)


def _convolution(n: int) -> Callable[..., Any]:
    """The op for n spatial dimensions."""

    def conv(
        input: Any,
        weight: Any,
        bias: Any = None,
        stride: int | Sequence[int] = 1,
        padding: int | str | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
    ) -> Any:
        if isinstance(padding, str) and padding not in ("same", "valid"):
            raise RuntimeError(f"Invalid padding string: '{padding}'")
        steps, spread = _numbers("stride", stride, n), _numbers("dilation", dilation, n)
        pad = None if padding == "same" else (0,) * n if padding == "valid" else _numbers("padding", padding, n)
        _check(conv.__name__, input, weight, bias, groups, steps, pad or (0,) * n, spread)
        size, kernel = input.array.shape[-n:], weight.array.shape[2:]
        if pad is None:
            if max(steps) > 1:
                raise RuntimeError("padding='same' is not supported for strided convolutions")
            reach = [d * (k - 1) for d, k in zip(spread, kernel, strict=True)]
            ends = tuple((r // 2, r - r // 2) for r in reach)
            outs = size
        else:
            ends = tuple((p, p) for p in pad)
            outs = tuple(map(positions, size, kernel, steps, pad, spread))
        grid = Grid(size, outs, kernel, steps, ends, spread)
        if min(kernel) < 1 or any(r >= m for r, m in zip(grid.reach, grid.padded_size, strict=True)):
            shapes = [" x ".join(map(str, v)) for v in (grid.padded_size, [r + 1 for r in grid.reach])]
            raise RuntimeError(
                f"Calculated padded input size per channel: ({shapes[0]}). Kernel size: ({shapes[1]}). "
                "Kernel size can't be greater than actual input size"
            )
        return _batched(n, input, lambda x: _convolve(x, weight, grid, groups, bias))

    conv.__name__ = conv.__qualname__ = f"conv{n}d"
    conv.__doc__ = f"""The cross-correlation of images with weights, over {n} spatial dimensions.

    input (N, C, ...) or (C, ...), weight (O, C/groups, ...), bias (O,): the result is (N, O, ...) or (O, ...). padding
    may be "same" or "valid". RuntimeError for shapes that do not fit together.
    """
    return conv


def _transposed(n: int) -> Callable[..., Any]:
    """The transposed op for n spatial dimensions."""

    def conv(
        input: Any,
        weight: Any,
        bias: Any = None,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        output_padding: int | Sequence[int] = 0,
        groups: int = 1,
        dilation: int | Sequence[int] = 1,
    ) -> Any:
        steps, pad, spread = (
            _numbers(name, value, n)
            for name, value in (("stride", stride), ("padding", padding), ("dilation", dilation))
        )
        extra = _numbers("output_padding", output_padding, n)
        _check(conv.__name__, input, weight, bias, groups, steps, pad, spread, transposed=True)
        if min(extra) < 0:
            raise RuntimeError("negative output_padding is not supported")
        if any(e >= s and e >= d for e, s, d in zip(extra, steps, spread, strict=True)):
            raise RuntimeError(
                "output padding must be smaller than either stride or dilation, but got "
                f"output_padding={list(extra)}, stride={list(steps)} and dilation={list(spread)}"
            )
        outs, kernel = input.array.shape[-n:], weight.array.shape[2:]
        size = tuple(
            (m - 1) * s - 2 * p + d * (k - 1) + e + 1
            for m, s, p, d, k, e in zip(outs, steps, pad, spread, kernel, extra, strict=True)
        )
        if min(size) < 1:
            shapes = [" x ".join(map(str, v)) for v in (outs, size)]
            raise RuntimeError(
                f"Given input size per channel: ({shapes[0]}). Calculated output size per channel: ({shapes[1]}). "
                "Output size is too small"
            )
        grid = Grid(size, outs, kernel, steps, tuple((p, p) for p in pad), spread)
        return _batched(n, input, lambda x: _towards_images(x, weight, grid, groups, bias))

    conv.__name__ = conv.__qualname__ = f"conv_transpose{n}d"
    conv.__doc__ = f"""The transpose of conv{n}d: what its vjp computes from the gradient of the result.

    input (N, C, ...) or (C, ...), weight (C, O/groups, ...), bias (O,): the result is (N, O, ...) or (O, ...).
    output_padding adds to the size of the result on one side. RuntimeError for shapes that do not fit together.
    """
    return conv


def _batched(n: int, input: Any, op: Callable[[Any], Any]) -> Any:
    """The op on a batch of one image where the input is a single one."""
    return squeeze(op(unsqueeze(input, 0)), 0) if input.array.ndim == n + 1 else op(input)


def _numbers(name: str, value: Any, n: int) -> Ints:
    numbers = per_dim(value, n)
    if len(numbers) != n:
        raise RuntimeError(
            f"expected {name} to be a single integer value or a list of {n} values to match the convolution "
            f"dimensions, but got {name}={list(numbers)}"
        )
    return numbers


def _check(
    name: str,
    input: Any,
    weight: Any,
    bias: Any,
    groups: int,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    transposed: bool = False,
) -> None:
    """RuntimeError for what does not fit together."""
    n, x, w = len(stride), input.array, weight.array
    if x.ndim not in (n + 1, n + 2):
        raise RuntimeError(
            f"Expected {n + 1}D (unbatched) or {n + 2}D (batched) input to {name}, but got input of size: "
            f"{list(x.shape)}"
        )
    if w.ndim != n + 2:
        raise RuntimeError(f"expected a weight of {n + 2} dimensions for {name}, but got one of size {list(w.shape)}")
    for what, numbers, least in (("padding", padding, 0), ("stride", stride, 1), ("groups", (groups,), 1)):
        if min(numbers) < least:
            raise RuntimeError(f"{'non-positive' if least else 'negative'} {what} is not supported")
    if min(dilation) < 1:
        raise RuntimeError(f"dilation should be greater than zero, but got {list(dilation)}")
    if x.dtype != w.dtype:
        raise RuntimeError(f"Input type ({of(x.dtype)}) and weight type ({of(w.dtype)}) should be the same")
    if bias is not None and bias.array.dtype != x.dtype:
        raise RuntimeError(f"Input type ({of(x.dtype)}) and bias type ({of(bias.array.dtype)}) should be the same")
    given = "transposed=1" if transposed else f"groups={groups}"
    if w.shape[0] < groups:
        raise RuntimeError(
            f"Given groups={groups}, expected weight to be at least {groups} at dimension 0, but got weight of size "
            f"{list(w.shape)} instead"
        )
    if w.shape[0] % groups:
        raise RuntimeError(
            f"Given groups={groups}, expected weight to be divisible by {groups} at dimension 0, but got weight of "
            f"size [{list(w.shape)}] instead"
        )
    shape = x.shape if x.ndim == n + 2 else (1, *x.shape)
    expected, outputs = (w.shape[0], w.shape[1] * groups) if transposed else (w.shape[1] * groups, w.shape[0])
    if shape[1] != expected:
        raise RuntimeError(
            f"Given {given}, weight of size {list(w.shape)}, expected input{list(shape)} to have {expected} channels, "
            f"but got {shape[1]} channels instead"
        )
    if bias is not None and bias.array.shape != (outputs,):
        raise RuntimeError(
            f"Given {'transposed=1, ' if transposed else ''}weight of size {list(w.shape)}, expected bias to be "
            f"1-dimensional with {outputs} elements, but got bias of size {list(bias.array.shape)} instead"
        )


conv1d, conv2d, conv3d = map(_convolution, (1, 2, 3))
conv_transpose1d, conv_transpose2d, conv_transpose3d = map(_transposed, (1, 2, 3))
