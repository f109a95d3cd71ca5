"""Inverses, determinants, solutions of linear equations and the factorisations of matrices, over batches.

The vector-Jacobian products are those of M. Giles, "Collected matrix derivative results for forward and reverse mode
algorithmic differentiation" (2008), where nothing else is named. They are written with `@`, so they serve arrays and
Tensors; what an op returns besides is a node of its own, since gradients of several results add up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import return_types
from ..autograd import RESULT, Variable, record, wrap
from ..backend import Array, array_module
from ..dtypes import of
from .join import cat
from .linalg import matmul, not_square
from .pointwise import sum_to, where
from .reduce import sum
from .shape import squeeze, unsqueeze

# fmt: off
__all__ = [
    "det", "inverse", "logdet", "matrix_power", "pinverse", "slogdet",
]
# fmt: on


class LinAlgError(RuntimeError):
    """A matrix is singular, or not positive definite, or an iteration did not converge."""


def _mT(x: Any) -> Any:
    return x.swapaxes(-1, -2)


def _matrices(name: str, A: Any, *, square: bool = True) -> Array:
    """The elements, checked to be floating-point matrices."""
    x = A.array if isinstance(A, Variable) else A
    if x.ndim < 2 or (square and x.shape[-1] != x.shape[-2]):
        raise RuntimeError(not_square(f"linalg.{name}", x.shape))
    if x.dtype not in (np.float32, np.float64):
        raise RuntimeError(f"linalg.{name}: Expected a floating point or complex tensor as input. Got {of(x.dtype)}")
    return x


def _computed(name: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """What NumPy's function gives, with PyTorch's class of error."""
    try:
        return function(*args, **options)
    except np.linalg.LinAlgError as error:
        raise LinAlgError(f"linalg.{name}: {error}") from None


def inv(A: Any) -> Any:
    """The inverse of square matrices. LinAlgError for a singular one."""
    value = _computed("inv", np.linalg.inv, _matrices("inv", A))
    if not isinstance(A, Variable):
        return value
    return record("LinalgInvExBackward0", value, (A, lambda g, y: -(_mT(y) @ g @ _mT(y)), RESULT))


def inverse(input: Any) -> Any:
    """PyTorch's older name of `linalg.inv`."""
    return inv(input)


def matrix_power(input: Any, n: int) -> Any:
    """A square matrix (or a batch) to the power of n, by repeated squaring; of its inverse for negative n."""
    shape = input.array.shape
    if len(shape) < 2 or shape[-1] != shape[-2]:
        raise RuntimeError(not_square("linalg.matrix_power", shape))
    if n < 0:
        return matrix_power(inv(input), -n)
    if n == 0:
        unit = array_module(input.array).zeros_like(input.array)
        unit[...] = array_module(input.array).eye(shape[-1], dtype=unit.dtype)
        return wrap(unit)
    power, square = None, input
    while n:
        if n & 1:
            power = square if power is None else matmul(power, square)
        n >>= 1
        if n:
            square = matmul(square, square)
    return power


def det(A: Any) -> Any:
    """The determinant of square matrices."""
    value = np.linalg.det(_matrices("det", A))
    vjp = lambda g, A, y: (g * y).reshape((*y.shape, 1, 1)) * _mT(inv(A))
    return record("LinalgDetBackward0", value, (A, vjp, A, RESULT))


def slogdet(A: Any) -> Any:
    """The pair (sign, logabsdet) of the determinant of square matrices."""
    sign, value = np.linalg.slogdet(_matrices("slogdet", A))
    logarithm = record("LinalgSlogdetBackward0", value, (A, lambda g, A: g.reshape((*g.shape, 1, 1)) * _mT(inv(A)), A))
    return return_types.linalg_slogdet(record("LinalgSlogdetBackward0", sign, (A, lambda g, A: A * 0, A)), logarithm)


def logdet(input: Any) -> Any:
    """The logarithm of the determinant; NaN where that is negative."""
    sign, logarithm = slogdet(input)
    return where(sign < 0, np.nan, logarithm)


def solve(A: Any, B: Any, *, left: bool = True) -> Any:
    """X with A @ X = B (or X @ A = B, not left), for square A; B also a vector, or a batch of them. LinAlgError."""
    if not left:
        return _mT(solve(_mT(A), _mT(B)))
    a = _matrices("solve", A)
    vector = len(B.shape) == 1 or (len(B.shape) == len(A.shape) - 1 and B.shape == A.shape[:-1])
    if vector:
        return solve(A, B.reshape((*B.shape, 1))).reshape(B.shape)
    b = B.array if isinstance(B, Variable) else B
    if b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        raise RuntimeError(
            f"linalg.solve: Incompatible shapes of A and B for the equation AX = B ({list(a.shape)} and "
            f"{list(b.shape)})"
        )
    value = _computed("solve", np.linalg.solve, a, b)
    if not isinstance(A, Variable):
        return value
    of_a, of_b = a.shape, b.shape
    return record(
        "LinalgSolveExBackward0",
        value,
        (A, lambda g, A, x: sum_to(-(solve(_mT(A), g) @ _mT(x)), of_a), A, RESULT),
        (B, lambda g, A: sum_to(solve(_mT(A), g), of_b), A),
    )


def cholesky(A: Any, *, upper: bool = False) -> Any:
    """The lower triangular L with L @ L.mT = A, symmetric and positive definite (upper: its transpose)."""
    value = _computed("cholesky", np.linalg.cholesky, _matrices("cholesky", A))

    def vjp(g: Any, factor: Any) -> Any:
        inner = _triangle(_mT(factor) @ g, np.tril, 0.5)
        back = inv(factor)
        whole = _mT(back) @ inner @ back
        return (whole + _mT(whole)) * 0.5

    factor = record("LinalgCholeskyExBackward0", value, (A, vjp, RESULT))
    return _mT(factor) if upper else factor


def _triangle(x: Any, part: Callable[[Array], Array], diagonal: float) -> Any:
    """One triangle of the matrices, its diagonal multiplied, for arrays and Tensors."""
    array = x.array if isinstance(x, Variable) else x
    n, m = array.shape[-2:]
    xp = array_module(array)
    return x * (part(xp.ones((n, m), array.dtype)) + (diagonal - 1) * xp.eye(n, m, dtype=array.dtype))


def _diagonal_matrix(x: Any) -> Any:
    """Matrices with these diagonals, for arrays and Tensors."""
    array = x.array if isinstance(x, Variable) else x
    return x.reshape((*x.shape, 1)) * array_module(array).eye(x.shape[-1], dtype=array.dtype)


def _factors(name: str, A: Any, arrays: Any, again: Callable[[Any], Any], *vjps: Callable[..., Any]) -> list[Any]:
    """The results of one factorisation, a node each. vjps: (g, *factors), per result.

    again(A) are the factors as Tensors, computed anew where the gradient is recorded too.
    """

    def towards(vjp: Callable[..., Any]) -> Callable[..., Any]:
        return lambda g, A: vjp(g, *(again(A) if isinstance(A, Variable) else arrays))

    return [record(name, array, (A, towards(vjp), A)) for array, vjp in zip(arrays, vjps, strict=True)]


def _row(x: Any) -> Any:
    """A vector beside matrices, to scale their columns."""
    return x.reshape((*x.shape[:-1], 1, x.shape[-1]))


def _gaps(x: Any) -> Any:
    """1 / (x[j] - x[i]), and 0 on the diagonal."""
    array = x.array if isinstance(x, Variable) else x
    unit = array_module(array).eye(x.shape[-1], dtype=array.dtype)
    return (_row(x) - x.reshape((*x.shape, 1)) + unit) ** -1 * (1 - unit)


def eigh(A: Any, UPLO: str = "L") -> Any:
    """The pair (eigenvalues, eigenvectors) of symmetric matrices, in ascending order; one triangle of A is read."""
    if UPLO not in ("L", "U"):
        raise RuntimeError(f"Expected UPLO argument to be 'L' or 'U', but got {UPLO}")
    arrays = _computed("eigh", np.linalg.eigh, _matrices("eigh", A), UPLO)
    return return_types.linalg_eigh(
        *_factors(
            "LinalgEighBackward0",
            A,
            tuple(arrays),
            lambda A: eigh(A, UPLO),
            lambda g, values, v: (v * _row(g)) @ _mT(v),
            lambda g, values, v: v @ ((_mT(v) @ g) * _gaps(values)) @ _mT(v),
        )
    )


def eigvalsh(A: Any, UPLO: str = "L") -> Any:
    """The eigenvalues of symmetric matrices, in ascending order."""
    return eigh(A, UPLO)[0]


def svd(A: Any, full_matrices: bool = True) -> Any:
    """The triple (U, S, Vh) with A = U @ diag(S) @ Vh, singular values in descending order.

    Source of the gradients: J. Townsend, "Differentiating the singular value decomposition" (2016).
    """
    x = _matrices("svd", A, square=False)
    arrays = _computed("svd", np.linalg.svd, x, False)
    k = arrays[1].shape[-1]

    def of_left(g: Any, u: Any, s: Any, vh: Any) -> Any:
        g = g[..., :k]
        inner = _mT(u) @ g
        turned = (inner - _mT(inner)) * _gaps(s * s) * _row(s)
        return (u @ (turned - inner / _row(s)) + g / _row(s)) @ vh

    def of_right(g: Any, u: Any, s: Any, vh: Any) -> Any:
        return _mT(of_left(_mT(g), _mT(vh), s, _mT(u)))

    u, s, vh = _factors(
        "LinalgSvdBackward0",
        A,
        tuple(arrays),
        lambda A: svd(A, False),
        of_left,
        lambda g, u, s, vh: (u * _row(g)) @ vh,
        of_right,
    )
    if full_matrices and x.shape[-1] != x.shape[-2]:
        whole = _computed("svd", np.linalg.svd, x, True)
        # the first factors' signs are those of the whole: only the missing directions are added, without gradients
        if x.shape[-2] > k:
            u = cat([u, wrap(whole[0][..., k:])], -1)
        else:
            vh = cat([vh, wrap(whole[2][..., k:, :])], -2)
    return return_types.linalg_svd(u, s, vh)


def svdvals(A: Any) -> Any:
    """The singular values in descending order."""
    return svd(A, False)[1]


def qr(A: Any, mode: str = "reduced") -> Any:
    """The pair (Q, R) with A = Q @ R, Q orthogonal and R upper triangular. mode: reduced, complete or r (without Q).

    Source of the gradients: S. Walter and L. Lehmann, "Algorithmic differentiation of linear algebra functions" (2010).
    """
    if mode not in ("reduced", "complete", "r"):
        raise RuntimeError(f"qr received unrecognized mode '{mode}' but expected one of 'reduced', 'r', or 'complete'")
    x = _matrices("qr", A, square=False)
    rows, columns = x.shape[-2:]
    if mode != "reduced":
        if mode == "complete" and rows > columns:
            return return_types.linalg_qr(*(wrap(v) for v in _computed("qr", np.linalg.qr, x, "complete")))
        q, r = qr(A)
        return return_types.linalg_qr(wrap(array_module(x).zeros(0, x.dtype)) if mode == "r" else q, r)
    if rows < columns:  # the first columns as ever; the others in the basis that they give
        q, r = qr(A[..., :rows])
        return return_types.linalg_qr(q, cat([r, _mT(q) @ A[..., rows:]], -1))

    def towards(q: Any, r: Any, inner: Any, outer: Any = 0) -> Any:
        upper = _triangle(inner, np.triu, 0.5)
        return _mT(solve(r, _mT(outer + q @ (upper + _mT(upper)))))

    return return_types.linalg_qr(
        *_factors(
            "LinalgQrBackward0",
            A,
            tuple(_computed("qr", np.linalg.qr, x)),
            qr,
            lambda g, q, r: towards(q, r, -(_mT(q) @ g), g),
            lambda g, q, r: towards(q, r, g @ _mT(r)),
        )
    )


def pinv(A: Any, *, atol: Any = None, rtol: Any = None, hermitian: bool = False) -> Any:
    """The pseudoinverse; singular values below max(atol, rtol * the largest) count as 0.

    Source of the gradients: G. Golub and V. Pereyra, "The differentiation of pseudo-inverses" (1973).
    """
    x = _matrices("pinv", A, square=hermitian)
    value = _pinv(x, atol, rtol)

    def vjp(g: Any, A: Any, p: Any) -> Any:
        gT, pT = _mT(g), _mT(p)
        left, right = gT @ p @ pT, pT @ p @ gT
        return left - A @ (p @ left) + right - (right @ p) @ A - pT @ g @ pT

    return record("LinalgPinvBackward0", value, (A, vjp, A, RESULT))


def _pinv(x: Array, atol: Any, rtol: Any) -> Array:
    u, s, vh = _computed("pinv", np.linalg.svd, x, False)
    kept = s > _cutoff(x, s, atol, rtol)
    return _mT(vh) @ (np.where(kept, 1 / np.where(kept, s, 1), 0).astype(x.dtype)[..., None] * _mT(u))


def _cutoff(x: Array, s: Array, atol: Any, rtol: Any) -> Array:
    """What singular values must exceed: PyTorch's default is the rounding of the largest.

    atol, rtol: numbers, or tensors with one for each matrix.
    """
    absolute, relative = (t.array[..., None] if isinstance(t, Variable) else t for t in (atol, rtol))
    if relative is None:
        rounding = float(np.finfo(x.dtype).eps) * max(x.shape[-2:])
        relative = np.where(0.0 if absolute is None else absolute, 0.0, rounding)
    return np.maximum(0.0 if absolute is None else absolute, relative * s.max(-1, keepdims=True, initial=0))


def pinverse(input: Any, rcond: float | None = None) -> Any:
    """PyTorch's older name of `linalg.pinv`."""
    return pinv(input, rtol=rcond)


def matrix_rank(A: Any, *, atol: Any = None, rtol: Any = None, hermitian: bool = False) -> Any:
    """How many singular values exceed max(atol, rtol * the largest)."""
    x = _matrices("matrix_rank", A, square=hermitian)
    s = np.linalg.svd(x, compute_uv=False)
    return wrap((s > _cutoff(x, s, atol, rtol)).sum(-1))


def lstsq(A: Any, B: Any, rcond: float | None = None, *, driver: str | None = None) -> Any:
    """The least-squares solutions of A @ X = B as (solution, residuals, rank, singular_values).

    residuals: the sums of squares over each column of B where A has full rank and more rows than columns, else empty.
    driver: PyTorch's choice of algorithm; here it is always the pseudoinverse.
    """
    if driver not in (None, "gels", "gelsy", "gelsd", "gelss"):
        raise RuntimeError("linalg.lstsq: parameter `driver` should be one of (gels, gelsy, gelsd, gelss)")
    x = _matrices("lstsq", A, square=False)
    vector = len(B.shape) == len(A.shape) - 1
    columns = unsqueeze(B, -1) if vector else B
    solution = pinv(A, rtol=rcond) @ columns
    rank = matrix_rank(A, rtol=rcond)
    empty = wrap(array_module(x).zeros(0, x.dtype))
    residuals = empty
    if x.shape[-2] > x.shape[-1] and (rank.array == x.shape[-1]).all():
        rest = A @ solution - columns
        residuals = sum(rest * rest, -2)
    return return_types.linalg_lstsq(squeeze(solution, -1) if vector else solution, residuals, rank, empty)
