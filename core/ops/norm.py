"""Normalisation: elements centred and scaled by the mean and the variance of a group of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..autograd import wrap
from ..backend import Array, array_module, kernels
from ..dtypes import finfo, float32, float64, of
from .fused import record_fused
from .join import cat
from .shape import Size

# fmt: off
__all__ = [
    "batch_norm", "group_norm", "instance_norm", "layer_norm", "local_response_norm", "rms_norm",
]
# fmt: on

Shape = tuple[int, ...]


def _mean(x: Array, axes: Shape, scale: Array | None = None) -> Array:
    """The mean of x (times scale) over axes, which stay as 1. Of short rows it is a product with a vector: faster."""
    count = math.prod(x.shape[i] for i in axes)
    if axes == (1,) and x.ndim == 2 and 0 < count <= 4096:
        if scale is None:
            return (x @ array_module(x).full(count, 1 / count, x.dtype))[:, None]
        return x @ (scale.T / x.dtype.type(count))
    return (x if scale is None else x * scale).sum(axes, keepdims=True) / x.dtype.type(count)


def _mean_of_squares(x: Array, axes: Shape) -> Array:
    if axes == (1,) and x.ndim == 2 and 0 < x.shape[1] <= 4096:
        return np.matmul(x[:, None], x[:, :, None])[:, 0] / x.dtype.type(x.shape[1])
    return _mean(x * x, axes)


def _sum_over(x: Array, shape: Shape) -> Array:
    """x summed to `shape`, which has 1 along what is summed."""
    if x.ndim == 2 and shape == (1, x.shape[1]):
        return array_module(x).ones((1, len(x)), x.dtype) @ x
    axes = tuple(i for i, n in enumerate(shape) if n == 1 and x.shape[i] != 1)
    return x.sum(axes, keepdims=True) if axes else x.copy()  # the caller goes on working in x


def _vectors(scale: Array | None, shift: Array | None, rows: Array) -> tuple[Array, Array]:
    """The factor and the summand for the elements of a row, for kernels."""
    factor, summand = np.ones_like(rows[0]), np.zeros_like(rows[0])
    if scale is not None:
        factor[:] = scale[0]
    if shift is not None:
        summand[:] = shift[0]
    return factor, summand


def _normalized(
    name: str,
    input: Any,
    weight: Any,
    bias: Any,
    grid: Shape,
    axes: Shape,
    affine: Shape,
    eps: float,
    *,
    centred: bool = True,
    given: tuple[Array, Array] | None = None,
    seen: Callable[[Array, Array], None] | None = None,
) -> Any:
    """(x - mean) / sqrt(variance + eps) * weight + bias, the mean and the variance over `axes` of x as `grid`.

    affine: the shape of weight and bias in the grid. given: the mean and the variance to use instead; seen is told
    those of x.
    """
    x, dtype = input.array, input.array.dtype
    for parameter in (weight, bias):
        if parameter is not None and parameter.array.dtype != dtype:
            raise RuntimeError(f"expected scalar type {of(dtype)} but found {of(parameter.array.dtype)}")
    compact = dtype.itemsize < 4  # computed in float32
    rows = (x.astype(np.float32) if compact else x).reshape(grid)
    scale = None if weight is None else weight.array.reshape(affine).astype(rows.dtype, copy=False)
    shift = None if bias is None else bias.array.reshape(affine)
    in_rows = given is None and seen is None and rows.ndim == 2 and axes == (1,)
    if in_rows and (fast := kernels(rows)):
        value, unit, spread = np.empty_like(rows), np.empty_like(rows), np.empty((len(rows), 1), rows.dtype)
        fast.normalize(rows, *_vectors(scale, shift, rows), eps, centred, value, unit, spread)
    else:
        if given is None:
            mean = _mean(rows, axes) if centred else rows.dtype.type(0)
            unit = rows - mean
            variance = _mean_of_squares(unit, axes)
            if seen is not None:
                seen(mean, variance)
        else:
            unit, variance = rows - given[0], given[1]
        spread = 1 / np.sqrt(variance + variance.dtype.type(eps))
        unit *= spread
        value = unit.copy() if scale is None else unit * scale
        if shift is not None:
            value += shift
    value = value.reshape(x.shape)

    def vjp(g: Array, x: Array, weight: Array, bias: Array, unit: Array, spread: Array) -> Any:
        g = g.reshape(grid).astype(unit.dtype, copy=False)
        if in_rows and (fast := kernels(g, unit)):
            towards, *parts = np.empty_like(g), np.zeros_like(g[0]), np.zeros_like(g[0])
            fast.normalize_vjp(g, unit, spread, _vectors(scale, None, g)[0], centred, towards, *parts)
            for i, parameter in enumerate((weight, bias)):
                if parameter is not None:
                    yield i + 1, parts[i].reshape(parameter.shape).astype(dtype, copy=False)
            yield 0, towards.reshape(x.shape).astype(dtype, copy=False)
            return
        if bias is not None:
            yield 2, _sum_over(g, affine).reshape(bias.shape).astype(dtype, copy=False)
        work = g * unit
        if weight is not None:
            yield 1, _sum_over(work, affine).reshape(weight.shape).astype(dtype, copy=False)
        if given is None:
            np.multiply(unit, _mean(work, axes, scale), out=work)
            if centred:
                work += _mean(g, axes, scale)
            np.subtract(g if scale is None else g * scale, work, out=work)
        else:
            np.multiply(g, 1 if scale is None else scale, out=work)
        yield 0, np.multiply(work, spread, out=work).reshape(x.shape).astype(dtype, copy=False)

    def composition(x: Any, weight: Any, bias: Any) -> Any:
        rows = x.reshape(grid)
        if given is None:
            rows = rows - rows.mean(axes, True) if centred else rows
            rows = rows * ((rows * rows).mean(axes, True) + eps) ** -0.5
        else:
            rows = (rows - given[0]) * spread
        rows = rows if weight is None else rows * weight.reshape(affine)
        return (rows if bias is None else rows + bias.reshape(affine)).reshape(x.shape)

    return record_fused(name, value.astype(dtype, copy=False), (input, weight, bias), vjp, composition, unit, spread)


def layer_norm(input: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """Each sample's last dimensions, of normalized_shape, at mean 0 and variance 1, times weight plus bias.

    Source: Ba et al., 2016, https://arxiv.org/abs/1607.06450.
    """
    grid, affine = _rows(input, normalized_shape, weight, bias)
    return _normalized("NativeLayerNormBackward0", input, weight, bias, grid, (1,), affine, eps)


def rms_norm(input: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Any:
    """Each sample's last dimensions divided by the root of their mean square, times weight.

    eps: by default that of the dtype, float32's for halves.

    Source: Zhang and Sennrich, 2019, https://arxiv.org/abs/1910.07467.
    """
    grid, affine = _rows(input, normalized_shape, weight)
    if eps is None:  # of the dtype that PyTorch computes in
        eps = finfo(float64 if input.array.dtype == np.float64 else float32).eps
    return _normalized("FusedRmsNormBackward0", input, weight, None, grid, (1,), affine, eps, centred=False)


def _rows(input: Any, normalized_shape: Any, *parameters: Any) -> tuple[Shape, Shape]:
    """The shape of input as a matrix of rows to normalise, and of a row; RuntimeError if the shapes do not fit."""
    shape, found = tuple(normalized_shape), input.array.shape
    if not shape:
        raise RuntimeError(
            "Expected normalized_shape to be at least 1-dimensional, i.e., containing at least one element, but got "
            "normalized_shape = []"
        )
    for name, parameter in zip(("weight", "bias"), parameters, strict=False):
        if parameter is not None and parameter.array.shape != shape:
            raise RuntimeError(
                f"Expected {name} to be of same shape as normalized_shape, but got {name} of shape "
                f"{list(parameter.array.shape)} and normalized_shape = {list(shape)}"
            )
    if found[-len(shape) :] != shape:
        raise RuntimeError(
            f"Given normalized_shape={list(shape)}, expected input with shape [*, {', '.join(map(str, shape))}], but "
            f"got input of size{list(found)}"
        )
    size = math.prod(shape)
    return (math.prod(found[: len(found) - len(shape)]), size), (1, size)


def group_norm(input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """Each sample's channels in num_groups groups, each group at mean 0 and variance 1; weight and bias by channel.

    input (N, C, ...). Source: Wu and He, 2018, https://arxiv.org/abs/1803.08494.
    """
    shape = input.array.shape
    if len(shape) < 2:
        raise RuntimeError("Expected at least 2 dimensions for input tensor but received " + str(len(shape)))
    batch, channels, *rest = shape
    if channels % num_groups:
        raise RuntimeError(
            "Expected number of channels in input to be divisible by num_groups, but got input of shape "
            f"{list(shape)} and num_groups={num_groups}"
        )
    _check_several((batch * channels // num_groups, num_groups, *rest))
    return _grouped("NativeGroupNormBackward0", input, num_groups, weight, bias, eps)


def _grouped(name: str, input: Any, groups: int, weight: Any, bias: Any, eps: float, **options: Any) -> Any:
    batch, channels, *rest = input.array.shape
    grid = (batch, groups, channels // groups, math.prod(rest))
    return _normalized(name, input, weight, bias, grid, (2, 3), (1, *grid[1:3], 1), eps, **options)


def _check_several(shape: Shape) -> None:
    """A single element has no variance; shape (N, C, ...)."""
    if shape[0] * math.prod(shape[2:]) == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {Size(shape)}")


def batch_norm(
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """Each channel at mean 0 and variance 1 over the batch, or by running_mean and running_var where not training.

    input (N, C, ...), everything else (C,). Training moves the running statistics, if there are any, by `momentum`
    towards the batch's (the variance divided by n - 1). Source: Ioffe and Szegedy, 2015,
    https://arxiv.org/abs/1502.03167.
    """
    if input.array.ndim < 2:
        raise RuntimeError(f"batch_norm expects an input (N, C, ...), but got one of shape {list(input.array.shape)}")
    batch, channels, *rest = input.array.shape
    size = batch * math.prod(rest)
    if training:
        _check_several(input.array.shape)
    if training and eps <= 0:
        raise ValueError(f"batch_norm eps must be positive during training, but got {eps}")
    if eps < 0:
        raise ValueError(f"batch_norm eps must be non-negative, but got {eps}")
    for name, value in (("running_mean", running_mean), ("running_var", running_var)):
        if value is None and not training:
            raise RuntimeError(f"{name} must be defined in evaluation mode")
    for name, value in zip(
        ("running_mean", "running_var", "weight", "bias"), (running_mean, running_var, weight, bias), strict=True
    ):
        if value is not None and value.array.shape != (channels,):
            raise RuntimeError(f"{name} should contain {channels} elements not {value.array.size}")
    grid = (batch, channels, math.prod(rest))
    options: Any = {"seen": _tracker(running_mean, running_var, momentum, size) if size else None}
    if not training:
        options = {"given": tuple(v.array.reshape(1, channels, 1) for v in (running_mean, running_var))}
    return _normalized("NativeBatchNormBackward0", input, weight, bias, grid, (0, 2), (1, channels, 1), eps, **options)


def _tracker(running_mean: Any, running_var: Any, momentum: float, size: int) -> Any:
    """What moves running statistics towards those of `size` elements per channel; samples in groups are averaged."""

    def seen(mean: Array, variance: Array) -> None:
        for running, value in ((running_mean, mean), (running_var, variance * (size / max(size - 1, 1)))):
            if running is not None:
                now = value.reshape(-1, running.array.size).mean(0)
                running.array *= running.array.dtype.type(1 - momentum)
                running.array += running.array.dtype.type(momentum) * now.astype(running.array.dtype, copy=False)
                running.version[0] += 1

    return seen


def instance_norm(
    input: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """Each channel of each sample at mean 0 and variance 1; input (N, C, ...), everything else (C,).

    With use_input_stats=False by the running statistics instead, as in batch_norm.
    Source: Ulyanov et al., 2016, https://arxiv.org/abs/1607.08022.
    """
    shape = input.array.shape
    size = math.prod(shape[2:])
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    if size == 1:
        raise ValueError(f"Expected more than 1 spatial element when training, got input size {Size(shape)}")
    seen = _tracker(running_mean, running_var, momentum, size)
    return _grouped("NativeBatchNormBackward0", input, shape[1], weight, bias, eps, seen=seen)


def local_response_norm(input: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Any:
    """Each element divided by (k + alpha * the mean square of `size` neighbouring channels) ** beta; input (N, C, ...).

    Source: Krizhevsky et al., 2012.
    """
    shape = input.array.shape
    if len(shape) < 3:
        raise ValueError(f"Expected 3D or higher dimensionality input (got {len(shape)} dimensions)")
    if input.array.size == 0:
        return input
    xp, dtype = array_module(input.array), input.array.dtype
    before, after = (wrap(xp.zeros((shape[0], n, *shape[2:]), dtype)) for n in (size // 2, (size - 1) // 2))
    padded = cat([before, input * input, after], 1)
    total = padded[:, : shape[1]]
    for first in range(1, size):
        total = total + padded[:, first : first + shape[1]]
    return input / (total * (alpha / size) + k) ** beta
