"""Inverses, determinants and factorisations: the op table, what the factors are, and errors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mpigrad

normal = np.random.default_rng(0).standard_normal
SQUARE, BATCH, TALL, WIDE = normal((3, 3)), normal((2, 3, 3)), normal((2, 4, 3)), normal((3, 5))
SYSTEMS = [(SQUARE, (3, 2)), (BATCH, (2, 3, 2)), (SQUARE, (3,)), (BATCH, (2, 3)), (BATCH, (3, 2))]


def linalg(op: str, *args: Any, **options: Any) -> Any:
    return lambda m, *inputs: getattr(m.linalg, op)(*inputs, *args, **options)


def positive(op: str, *args: Any, **options: Any) -> Any:
    """Of a symmetric, positive definite matrix."""
    return lambda m, a: getattr(m.linalg, op)(a @ a.mT + m.eye(a.shape[-1], dtype=a.dtype), *args, **options)


def whatever_the_signs(op: str, number: int) -> Any:
    """Factors have signs that PyTorch and NumPy choose differently: their squares have not."""
    return lambda m, a: getattr(m.linalg, op)(a, *((False,) if op == "svd" else ()))[number] ** 2


ROWS: list[tuple[Any, ...]] = [
    *[(op, linalg(op), (a,)) for op in ("inv", "det", "slogdet") for a in (SQUARE, BATCH)],
    *[(op, lambda m, a, op=op: getattr(m, op)(a), (BATCH,)) for op in ("inverse", "det", "slogdet")],
    *[("matrix_power", lambda m, a, n=n: m.matrix_power(a, n), (SQUARE,), "name") for n in (2, 3, 6, -1, -3)],
    ("matrix_power", lambda m, a: m.matrix_power(a, 0), (normal((2, 3, 3)),), "constant"),
    ("logdet", lambda m, a: m.logdet(a @ a.mT + m.eye(3, dtype=a.dtype)), (BATCH,), "name"),
    ("pinverse", lambda m, a: m.pinverse(a), (WIDE,)),
    *[("solve", linalg("solve"), (a, normal(b)), "name") for a, b in SYSTEMS],
    ("solve", linalg("solve", left=False), (SQUARE, normal((2, 3))), "name"),
    *[("cholesky", positive("cholesky", **o), (a,), "name") for o in ({}, {"upper": True}) for a in (SQUARE, BATCH)],
    *[("eigvalsh", positive("eigvalsh"), (a,)) for a in (SQUARE, BATCH)],
    ("eigh", lambda m, a: m.linalg.eigh(a @ a.mT)[1] ** 2, (BATCH,)),
    *[("svdvals", linalg("svdvals"), (a,)) for a in (SQUARE, TALL, WIDE)],
    *[("svd", whatever_the_signs("svd", i), (a,), "name") for i in range(3) for a in (SQUARE, TALL, WIDE)],
    *[("qr", whatever_the_signs("qr", i), (a,), "name") for i in range(2) for a in (SQUARE, TALL, WIDE)],
    *[("pinv", linalg("pinv"), (a,)) for a in (TALL, WIDE)],
    *[("matrix_rank", linalg("matrix_rank"), (a,)) for a in (np.ones((2, 3, 3)), WIDE)],
    ("lstsq", lambda m, a, b: m.linalg.lstsq(a, b).solution, (TALL, normal((2, 4, 2))), "name"),
]  # fmt: skip


def test_full_factors() -> None:
    """U and Vh are square and orthogonal, and still give A."""
    for shape in ((4, 2), (2, 4)):
        a = mpigrad.from_numpy(normal(shape))
        u, s, vh = mpigrad.linalg.svd(a)
        np.testing.assert_allclose((u[:, :2] * s) @ vh[:2], a)
        np.testing.assert_allclose(u @ u.T, np.eye(shape[0]), atol=1e-12)
        np.testing.assert_allclose(vh @ vh.T, np.eye(shape[1]), atol=1e-12)
        q, r = mpigrad.linalg.qr(a, "complete")
        np.testing.assert_allclose(q @ r, a)
        assert q.shape == (shape[0], shape[0])


def test_least_squares(same: Callable[[Any], None]) -> None:
    """Residuals and rank beside the solution."""
    a, b = normal((4, 2)).round(1), normal((4, 3)).round(1)
    result = mpigrad.linalg.lstsq(mpigrad.from_numpy(a), mpigrad.from_numpy(b))
    x, residuals, rank, _ = np.linalg.lstsq(a, b)
    np.testing.assert_allclose(result.solution, x)
    np.testing.assert_allclose(result.residuals, residuals)
    assert result.rank.item() == rank


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.linalg.inv(m.ones(2, 3)),
        lambda m: m.linalg.inv(m.ones(2)),
        lambda m: m.matrix_power(m.ones(2, 3), 2),
        lambda m: m.linalg.det(m.ones(2, 2, dtype=m.int64)),
        lambda m: m.linalg.solve(m.eye(2), m.ones(3, 1)),
        lambda m: m.linalg.qr(m.eye(2), "full"),
        lambda m: m.linalg.eigh(m.eye(2), "X"),
    ],
)
def test_errors(call: Any, same_class: Callable[[Any], None]) -> None:
    """What has no sense is refused as PyTorch refuses it."""
    same_class(call)


def test_singular(torch: Any) -> None:
    """A class of error of its own, which is a RuntimeError."""
    for call in (lambda m: m.linalg.inv(m.ones(2, 2)), lambda m: m.linalg.cholesky(-m.eye(2))):
        for m in (mpigrad, torch):
            with pytest.raises(m.linalg.LinAlgError):
                call(m)
    assert issubclass(mpigrad.linalg.LinAlgError, RuntimeError)
