"""`mpigrad.linalg`: norms of vectors and matrices, products, and matrix functions; all take batches of matrices."""

from __future__ import annotations

import math
from typing import Any

from .dtypes import dtype as Dtype
from .ops import contraction, slices
from .ops.contraction import multi_dot
from .ops.decomposition import (
    LinAlgError,
    cholesky,
    det,
    eigh,
    eigvalsh,
    inv,
    lstsq,
    matrix_power,
    matrix_rank,
    pinv,
    qr,
    slogdet,
    solve,
    svd,
    svdvals,
)
from .ops.elementwise import mul
from .ops.extremes import amax, amin
from .ops.linalg import matmul
from .ops.pointwise import cast
from .ops.reduce import Dim, sum
from .ops.shape import movedim, normalize_dim, unsqueeze
from .ops.vectornorm import vector_norm

# fmt: off
__all__ = [
    "LinAlgError", "cholesky", "cross", "det", "diagonal", "eigh", "eigvalsh", "inv", "lstsq", "matmul", "matrix_norm",
    "matrix_power", "matrix_rank", "multi_dot", "norm", "pinv", "qr", "slogdet", "solve", "svd", "svdvals", "vecdot",
    "vector_norm",
]
# fmt: on


def norm(A: Any, ord: Any = None, dim: Dim = None, keepdim: bool = False, *, dtype: Dtype | None = None) -> Any:
    """The norm of a vector (of one dimension, or without `ord` of all elements) or of a matrix (two dimensions)."""
    dims = (dim,) if isinstance(dim, int) else None if dim is None else tuple(dim)
    if ord is None:
        return vector_norm(A, 2, dims, keepdim, dtype=dtype)
    count = A.array.ndim if dims is None else len(dims)
    if count not in (1, 2):
        raise RuntimeError(
            f"linalg.norm: If dim is not specified but ord is, the input must be 1D or 2D. Got {A.array.ndim}D."
            if dims is None
            else f"linalg.norm: If dim is specified, it must be of length 1 or 2. Got {list(dims)}"
        )
    if count == 1:
        return vector_norm(A, ord, dims, keepdim, dtype=dtype)
    return matrix_norm(A, ord, dims or (-2, -1), keepdim, dtype=dtype)


def matrix_norm(
    A: Any, ord: Any = "fro", dim: Any = (-2, -1), keepdim: bool = False, *, dtype: Dtype | None = None
) -> Any:
    """The norm of matrices: "fro", "nuc", +-inf (sums of rows), +-1 (sums of columns), +-2 (singular values)."""
    source = cast(A, dtype.numpy) if dtype else A
    ndim = source.array.ndim
    if ndim < 2:
        raise RuntimeError("linalg.matrix_norm: The input tensor A must have at least 2 dimensions.")
    if isinstance(dim, int) or len(dim) != 2:
        raise RuntimeError("linalg.matrix_norm: dim must be a 2-tuple. Got " + str(dim))
    row, column = (normalize_dim(d, ndim) for d in dim)
    if row == column:
        raise RuntimeError(f"linalg.matrix_norm: dims must be different. Got ({dim[0]}, {dim[1]})")
    if ord == "fro":
        return vector_norm(source, 2, (row, column), keepdim)
    if ord in ("nuc", 2, -2):
        values = svdvals(movedim(source, (row, column), (-2, -1)))
        found = sum(values, -1) if ord == "nuc" else (_largest if ord > 0 else amin)(values, -1)
        for axis in sorted((row, column)) if keepdim else ():
            found = unsqueeze(found, axis)
        return found
    if ord not in (1, -1, math.inf, -math.inf):
        raise RuntimeError(f"linalg.matrix_norm: Order {ord} not supported.")
    over, rest = (row, column) if math.fabs(ord) == 1 else (column, row)
    sums = vector_norm(source, 1, over, keepdim)
    return (_largest if ord > 0 else amin)(sums, rest - (rest > over and not keepdim), keepdim)


def _largest(input: Any, dim: int, keepdim: bool = False) -> Any:
    """The maximum along dim of numbers that are not negative; 0 of none."""
    return (amax if input.array.shape[dim] else sum)(input, dim, keepdim)


def cross(input: Any, other: Any, *, dim: int = -1) -> Any:
    """The vector product along dim, of size 3."""
    return contraction.cross(input, other, dim)


def vecdot(x: Any, y: Any, *, dim: int = -1) -> Any:
    """The sums of products along dim, with broadcasting over the others."""
    return sum(mul(x, y), dim)


def diagonal(A: Any, *, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    """The diagonals of matrices: a view."""
    return slices.diagonal(A, offset, dim1, dim2)
