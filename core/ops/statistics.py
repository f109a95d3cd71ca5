"""Which values there are, how often, and how they vary together."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..autograd import wrap
from ..backend import Array, array_module
from ..dtypes import of
from .elementwise import clamp, div, mul, sqrt, sub
from .linalg import matmul
from .reduce import INT64, mean, sum
from .shape import normalize_dim, reshape, squeeze
from .slices import diagonal

# fmt: off
__all__ = [
    "bincount", "corrcoef", "cov", "histc", "unique", "unique_consecutive",
]
# fmt: on


def _several(value: Array, inverse: Array, counts: Array, wanted: tuple[bool, bool]) -> Any:
    """The values, with what else was asked for."""
    extra = [wrap(a) for a, want in zip((inverse, counts), wanted, strict=True) if want]
    return (wrap(value), *extra) if extra else wrap(value)


def unique(
    input: Any,
    sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    """The different elements in order (or along dim the different slices); each NaN is one of its own.

    return_inverse: also where each element is among them. return_counts: also how often each occurs.
    """
    x = input.array
    axis = None if dim is None else normalize_dim(dim, x.ndim)
    value, inverse, counts = np.unique(x, return_inverse=True, return_counts=True, axis=axis, equal_nan=False)
    return _several(value, inverse.reshape(x.shape if dim is None else -1), counts, (return_inverse, return_counts))


def unique_consecutive(
    input: Any, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None
) -> Any:
    """The first element of each run of equal ones (or along dim the first slice); options as for `unique`."""
    x = input.array
    rows = x.reshape(-1) if dim is None else np.moveaxis(x, normalize_dim(dim, x.ndim), 0)
    xp, size = array_module(x), len(rows)
    starts = xp.ones(size, bool)
    starts[1:] = (rows[1:] != rows[:-1]).any(tuple(range(1, rows.ndim)))
    first = np.flatnonzero(starts)
    counts = np.diff(first, append=xp.asarray([size]))
    inverse = starts.cumsum() - 1
    value = rows[first] if dim is None else np.moveaxis(rows[first], 0, dim)
    return _several(
        value, inverse.reshape(x.shape) if dim is None else inverse, counts, (return_inverse, return_counts)
    )


def bincount(input: Any, weights: Any = None, minlength: int = 0) -> Any:
    """How often each of the numbers 0, 1, ... occurs in a vector, or the sum of the weights beside it."""
    x = input.array
    if x.dtype.kind not in "iu":
        raise NotImplementedError(f'"bincount_cpu" not implemented for {of(x.dtype)}')
    if x.ndim != 1 or (x.size and x.min() < 0):
        raise RuntimeError("bincount only supports 1-d non-negative integral inputs.")
    if minlength < 0:
        raise RuntimeError("minlength should be >= 0")
    if weights is None:
        return wrap(np.bincount(x, minlength=minlength).astype(INT64, copy=False))
    if weights.array.shape != x.shape:
        raise RuntimeError("weights should be 1-d and have the same length as input")
    sums = np.bincount(x, weights.array, minlength)
    return wrap(sums.astype(np.float32) if weights.array.dtype == np.float32 else sums)


def histc(input: Any, bins: int = 100, min: float = 0, max: float = 0) -> Any:
    """How many elements fall into each of `bins` equal parts of [min, max]; by default of the elements' range.

    What lies outside is not counted.
    """
    x = input.array
    if x.dtype.kind in "iub":
        raise NotImplementedError(f'"histogram_cpu" not implemented for {of(x.dtype)}')
    if bins <= 0:
        raise RuntimeError("mpigrad.histogramdd(): bins must be > 0")
    if min == max and x.size:
        min, max = float(x.min()), float(x.max())
    if min == max:
        min, max = min - 1, max + 1
    if not np.isfinite(min) or not np.isfinite(max):
        raise RuntimeError(f"histc: range of [{min}, {max}] is not finite")
    if min > max:
        raise RuntimeError("mpigrad.histc: max must be larger than min")
    counts, _ = np.histogram(x, bins, (min, max))
    return wrap(counts.astype(x.dtype))


def cov(input: Any, *, correction: int = 1, fweights: Any = None, aweights: Any = None) -> Any:
    """The covariance matrix of variables (rows) over observations (columns); of a vector its variance.

    fweights: how often each observation occurs; aweights: how much it counts. Source: as numpy.cov.
    """
    if input.array.ndim > 2:
        raise RuntimeError(
            f"cov(): expected input to have two or fewer dimensions but got an input with {input.array.ndim} dimensions"
        )
    rows = reshape(input, (1, -1)) if input.array.ndim < 2 else input
    for name, weights, integral in (("fweights", fweights, True), ("aweights", aweights, False)):
        if weights is not None:
            _check_weights(name, weights, rows.array.shape[1], integral)
    if rows.array.dtype.kind in "iub":
        rows = rows.to(of(np.dtype(np.float32)))
    weights = fweights if aweights is None else aweights if fweights is None else mul(fweights, aweights)
    if weights is None:
        count = rows.array.shape[1]
        centred = sub(rows, mean(rows, 1, True))
        scaled, left = centred, float(count - correction if count > correction else 0)
    else:
        total = sum(weights)
        centred = sub(rows, div(sum(mul(rows, weights), 1, True), total))
        scaled = mul(centred, weights)
        used = 1 if aweights is None else div(sum(mul(weights, aweights)), total)
        left = clamp(total - used * correction, 0)
    return squeeze(div(matmul(scaled, centred.T), left))


def _check_weights(name: str, weights: Any, count: int, integral: bool) -> None:
    """RuntimeError unless there is one weight for each observation, none of them negative."""
    array = weights.array
    if array.ndim > 1:
        raise RuntimeError(
            f"cov(): expected {name} to have one or fewer dimensions but got {name} with {array.ndim} dimensions"
        )
    if (array.dtype.kind in "iu") != integral:
        kind = "integral" if integral else "floating point"
        raise RuntimeError(
            f"cov(): expected {name} to have {kind} dtype but got {name} with {weights.dtype.name} dtype"
        )
    if array.size != count:
        raise RuntimeError(
            f"cov(): expected {name} to have the same numel as there are observations in the input but got "
            f"{array.size} != {count}"
        )
    if (array < 0).any():
        raise RuntimeError(f"cov(): {name} cannot be negative")


def corrcoef(input: Any) -> Any:
    """The correlation matrix of variables (rows) over observations (columns), clipped to [-1, 1]."""
    if input.array.ndim > 2:
        raise RuntimeError(
            "corrcoef(): expected input to have two or fewer dimensions but got an input with "
            f"{input.array.ndim} dimensions"
        )
    covariance = cov(input)
    if not covariance.array.ndim:
        return div(covariance, covariance)
    deviation = sqrt(diagonal(covariance))
    return clamp(div(div(covariance, reshape(deviation, (-1, 1))), deviation), -1, 1)
