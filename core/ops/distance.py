"""Lengths of vectors and distances between them."""

from __future__ import annotations

from typing import Any

from ..autograd import no_grad
from ..dtypes import FLOATING
from .contraction import einsum
from .pointwise import cannot_broadcast, promoted
from .shape import broadcast_tensors
from .vectornorm import vector_norm

__all__ = ["bilinear", "cosine_similarity", "normalize", "pairwise_distance"]


def normalize(input: Any, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Any:
    """input divided by its p-norm along dim, or by eps where that is larger."""
    return input / vector_norm(input, p, dim, True).clamp_min(eps).expand_as(input)


def pairwise_distance(x1: Any, x2: Any, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Any:
    """The p-norm of x1 - x2 + eps along the last dimension; the shapes are broadcast."""
    return vector_norm(x1 - x2 + eps, p, -1, keepdim)


def cosine_similarity(x1: Any, x2: Any, dim: int = 1, eps: float = 1e-8) -> Any:
    """The cosine of the angle between vectors along dim, their lengths taken as at least eps."""
    a, b = promoted(x1, x2)
    if a.array.dtype.kind not in FLOATING:
        raise RuntimeError(f"expected common dtype to be floating point, yet common dtype is {a.dtype}")
    try:
        a, b = broadcast_tensors(a, b)
    except ValueError:
        raise RuntimeError(cannot_broadcast(a.array.shape, b.array.shape)) from None
    lengths = []
    for v in (a, b):
        length = vector_norm(v, 2, dim, True).clone()
        with no_grad():
            length.clamp_(min=eps)
        lengths.append(length)
    return ((a / lengths[0]) * (b / lengths[1])).sum(dim)


def cdist(x1: Any, x2: Any, p: float = 2.0, compute_mode: Any = None) -> Any:
    """The p-norms between all pairs of rows: (..., P, M) and (..., R, M) give (..., P, R).

    compute_mode is accepted; the differences are always formed, which is exact.
    """
    if x1.array.ndim < 2 or x2.array.ndim < 2:
        which = "X1" if x1.array.ndim < 2 else "X2"
        raise RuntimeError(
            f"cdist only supports at least 2D tensors, {which} got: {min(x1.array.ndim, x2.array.ndim)}D"
        )
    if x1.array.shape[-1] != x2.array.shape[-1]:
        raise RuntimeError(
            f"X1 and X2 must have the same number of columns. X1: {x1.array.shape[-1]} X2: {x2.array.shape[-1]}"
        )
    return vector_norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, -1)


def bilinear(input1: Any, input2: Any, weight: Any, bias: Any = None) -> Any:
    """x1 @ weight[k] @ x2 for each k, over the last dimension; weight (out, in1, in2), bias (out,)."""
    a, b, w = (v.array.shape for v in (input1, input2, weight))
    if a[:-1] != b[:-1]:
        raise RuntimeError(f"bilinear(): input batch dimensions do not match: got {list(a)} and {list(b)}")
    if a[-1] != w[1] or b[-1] != w[2]:
        raise RuntimeError(
            f"bilinear(): input sizes do not match weight size: got {a[-1]}, {b[-1]} but expected {w[1]}, {w[2]}"
        )
    product = einsum("...i,kij,...j->...k", input1, weight, input2)
    return product if bias is None else product + bias
