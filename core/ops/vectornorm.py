"""Norms of vectors, and of tensors taken for vectors: (sum of |x|**p) ** (1 / p) and its limits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..autograd import RESULT, record
from ..backend import Array
from ..dtypes import dtype as Dtype
from .elementwise import abs, div, mul, sign, sub
from .pointwise import cast, where
from .reduce import CPP_NAMES, FLOAT32, Dim, added, axes_of, kept, spread
from .shape import normalize_dim

# fmt: off
__all__ = [
    "dist", "norm", "renorm",
]
# fmt: on


def vector_norm(x: Any, ord: float = 2, dim: Dim = None, keepdim: bool = False, *, dtype: Dtype | None = None) -> Any:
    """The norm of order `ord` (also 0, inf and -inf) over dim or all elements; its gradient is 0 where it is 0."""
    source = cast(x, dtype.numpy) if dtype else x
    values = source.array
    if values.dtype.kind in "iub":
        raise RuntimeError(
            "linalg.vector_norm: Expected a floating point or complex tensor as input. "
            f"Got {CPP_NAMES[values.dtype.name]}"
        )
    shape = values.shape
    axes = axes_of(dim, len(shape))
    if (ord < 0 or ord == math.inf) and any(shape[i] == 0 for i in axes):
        raise RuntimeError(
            f"linalg.vector_norm cannot compute the {ord} norm on an empty tensor because the operation does not have "
            "an identity"
        )
    wide = values.astype(FLOAT32) if values.itemsize == 2 else values
    value = _norm(wide, ord, axes, keepdim) if shape else _norm(wide.reshape(1), ord, (0,), False)
    value = value.astype(values.dtype, copy=False)

    def vjp(g: Any, x: Any, y: Any) -> Any:
        g, y = spread(g, shape, axes), y.reshape(kept(shape, axes))
        if ord == 0:
            return g * 0
        if ord == 1:
            return g * sign(x)
        if math.isinf(ord):
            hit = abs(x) == y
            return g * sign(x) * hit / hit.sum(axes, dtype=g.dtype).reshape(kept(shape, axes))
        if ord == 2:
            return g * where(y == 0, 0.0, x / y)
        if ord < 1:
            return where(x == 0, 0.0, sign(x) * abs(x) ** (ord - 1)) * g * y ** (1 - ord)
        return sign(x) * abs(x) ** (ord - 1) * where(y == 0, 0.0, g / y ** (ord - 1))

    return record("LinalgVectorNormBackward0", value, (source, vjp, source, RESULT))


def _norm(x: Array, ord: float, axes: tuple[int, ...], keepdim: bool) -> Array:
    if ord == 2:
        if len(axes) == x.ndim and not keepdim:
            flat = x.reshape(-1)
            return np.sqrt(flat.dot(flat))  # needs no memory for the squares
        return np.sqrt(added(x * x, axes, keepdim))
    if ord == 0:
        return (x != 0).sum(axes, dtype=x.dtype, keepdims=keepdim)
    if math.isinf(ord):
        reduced = np.absolute(x).max if ord > 0 else np.absolute(x).min
        return reduced(axes, keepdims=keepdim)
    if ord == 1:
        return added(np.absolute(x), axes, keepdim)
    return added(np.absolute(x) ** ord, axes, keepdim) ** (1 / ord)


def norm(input: Any, p: Any = "fro", dim: Dim = None, keepdim: bool = False, *, dtype: Dtype | None = None) -> Any:
    """The norm of order p of all elements or over dim, taken as a vector; "nuc": of matrices, the nuclear norm."""
    if p == "nuc":
        from ..linalg import matrix_norm

        return matrix_norm(input, "nuc", (-2, -1) if dim is None else dim, keepdim, dtype=dtype)
    return vector_norm(input, 2 if p == "fro" or p is None else p, dim, keepdim, dtype=dtype)


def dist(input: Any, other: Any, p: float = 2) -> Any:
    """The norm of order p of the difference."""
    return vector_norm(sub(input, other), p)


def renorm(input: Any, p: float, dim: int, maxnorm: float) -> Any:
    """Each slice along dim scaled down to the norm `maxnorm` where its norm of order p is larger."""
    if input.array.ndim < 2:
        raise RuntimeError(f"renorm: input needs at least 2 dimensions, got {input.array.ndim} dimensions")
    axis = normalize_dim(dim, input.array.ndim)
    norms = vector_norm(input, p, tuple(i for i in range(input.array.ndim) if i != axis), True)
    return mul(input, where(norms > maxnorm, div(maxnorm, norms + 1e-7), 1.0))
