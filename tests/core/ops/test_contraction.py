"""Sums of products over named or paired dimensions: the op table, and errors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mpigrad
from mpigrad.core.ops import contraction

normal = np.random.default_rng(0).standard_normal
EQUATIONS = {
    "ij,jk->ik": [(2, 3), (3, 4)],
    "ij,jk": [(2, 3), (3, 4)],
    "ik,jk->ji": [(2, 3), (4, 3)],
    "bhqd,bhkd->bhqk": [(2, 3, 4, 5), (2, 3, 2, 5)],
    "bhqk,bkhd->bqhd": [(2, 3, 4, 5), (2, 5, 3, 2)],
    "i,j->ij": [(3,), (4,)],
    "i,i->": [(3,), (3,)],
    "i,i->i": [(3,), (3,)],
    "ij,ij->i": [(2, 3), (2, 3)],
    "ii->i": [(3, 3)],
    "ii": [(3, 3)],
    "iji->j": [(3, 2, 3)],
    "ba": [(2, 3)],
    "ij->": [(2, 3)],
    "...ij->...ji": [(2, 4, 2, 3)],
    "...ij,jk": [(5, 2, 3), (3, 4)],
    "...ij,...jk->...ik": [(5, 1, 2, 3), (4, 3, 2)],
    "i...,i...->...": [(3, 2), (3, 2)],
    "ij,jk,kl->il": [(2, 3), (3, 4), (4, 5)],
    "abc,cd,be,aef->df": [(2, 3, 4), (4, 5), (3, 2), (2, 2, 3)],
    "bn,anm,bm->ba": [(2, 5), (3, 5, 4), (2, 4)],
    "ij,jk->": [(2, 3), (3, 4)],
    "ij,kl->jl": [(2, 3), (4, 5)],
    "ij,ij->ij ": [(1, 3), (2, 3)],
    "ij,jk->ki": [(2, 0), (0, 4)],
    "ij , jk -> ik": [(0, 3), (3, 4)],
    "aij,j->ai": [(1, 2, 3), (3,)],
    ",i->i": [(), (3,)],
    "->": [()],
}


def chain(m: Any, *matrices: Any) -> Any:
    """torch warns that its chain_matmul will go."""
    return m.chain_matmul(*matrices) if m is mpigrad else m.linalg.multi_dot(matrices)


ROWS: list[tuple[Any, ...]] = [
    *[
        ("einsum", lambda m, *a, eq=eq: m.einsum(eq, *a), tuple(np.asarray(normal(s)) for s in shapes), "name")
        for eq, shapes in EQUATIONS.items()
    ],
    ("einsum", lambda m, a, b: m.einsum(a, [0, 1], b, [1, 2], [0, 2]), (normal((2, 3)), normal((3, 4))), "name"),
    ("einsum", lambda m, a, b: m.einsum(a, [..., 1], b, [1, 2]), (normal((2, 3)), normal((3, 4))), "name"),
    ("einsum", lambda m, a, b: m.einsum("ij,jk", [a, b]), (np.arange(6).reshape(2, 3), np.arange(6).reshape(3, 2))),
    ("einsum", lambda m, a: m.einsum("ij,kj,jl->ikl", a, a, a.T), (normal((2, 3)),), "name"),
    ("multi_dot", lambda m, *a: m.linalg.multi_dot(a), (normal((2, 3)), normal((3, 4)), normal((4, 2))), "name"),
    ("tensordot", lambda m, a, b: m.tensordot(a, b), (normal((2, 3, 4)), normal((3, 4, 5)))),
    ("tensordot", lambda m, a, b: m.tensordot(a, b, 0), (normal(2), normal((3, 4))), "name"),
    ("tensordot", lambda m, a, b: m.tensordot(a, b, dims=2), (normal((3, 4)), normal((3, 4)))),
    ("tensordot", lambda m, a, b: m.tensordot(a, b, ([0, -1], [1, 0])), (normal((2, 3, 4)), normal((4, 2, 5))), "name"),
    *[
        ("inner", lambda m, a, b: m.inner(a, b), (np.asarray(normal(a)), np.asarray(normal(b))), "name")
        for a, b in [((3,), (3,)), ((2, 3), (3,)), ((2, 3), (4, 2, 3)), ((), (2, 3))]
    ],
    *[
        ("kron", lambda m, a, b: m.kron(a, b), (np.asarray(normal(a)), np.asarray(normal(b))), "name", "contiguous")
        for a, b in [((2, 3), (4, 2)), ((2,), (3, 2)), ((2, 2, 2), (3,)), ((), (2,))]
    ],
    ("cross", lambda m, a, b: m.cross(a, b, dim=1), (normal((2, 3)), normal((2, 3)))),
    ("cross", lambda m, a, b: a.cross(b, dim=0), (normal((3, 4)), normal((3, 1)))),
    ("cross", lambda m, a, b: m.cross(a, b, dim=-1), (np.arange(6).reshape(2, 3), np.arange(6).reshape(2, 3) ** 2)),
    ("chain_matmul", chain, (normal((2, 5)), normal((5, 1)), normal((1, 4))), "name"),
]  # fmt: skip


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.einsum("ij,jk->ik", m.ones(2, 3), m.ones(2, 3)),
        lambda m: m.einsum("ij,jk->il", m.ones(2, 3), m.ones(3, 3)),
        lambda m: m.einsum("ij,jk->ii", m.ones(2, 3), m.ones(3, 3)),
        lambda m: m.einsum("ij->ij", m.ones(2, 3), m.ones(3, 3)),
        lambda m: m.einsum("ij,jk->ij", m.ones(2, 3)),
        lambda m: m.einsum("ij", m.ones(2)),
        lambda m: m.einsum("i", m.ones(2, 3)),
        lambda m: m.einsum("ii", m.ones(2, 3)),
        lambda m: m.einsum("i1", m.ones(2, 3)),
        lambda m: m.tensordot(m.ones(2, 3), m.ones(2, 3), 1),
        lambda m: m.tensordot(m.ones(2, 3), m.ones(2, 3), ([0], [0, 1])),
        lambda m: m.inner(m.ones(2, 3), m.ones(2)),
        lambda m: m.cross(m.ones(2, 4), m.ones(2, 4), dim=1),
        lambda m: m.cross(m.ones(2, 3), m.ones(2, 3), dim=0),
        lambda m: m.cross(m.ones(2, 3), m.ones(3), dim=1),
        lambda m: chain(m, m.ones(2, 3), m.ones(2, 3)),
    ],
)
def test_errors(call: Any, same_class: Callable[[Any], None]) -> None:
    """What does not fit is refused as PyTorch refuses it."""
    same_class(call)


def test_the_smallest_products_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """No product of two matrices arises on the way to the product of a chain of matrices and a vector."""
    sizes = []

    def watched(a: Any, b: Any) -> Any:
        product = mpigrad.matmul(a, b)
        sizes.append(product.numel())
        return product

    monkeypatch.setattr(contraction, "matmul", watched)
    mpigrad.einsum("ij,jk,kl,l->i", *[mpigrad.ones(4, 4) for _ in range(3)], mpigrad.ones(4))
    assert sizes == [4, 4, 4]


def test_cross_finds_its_dimension() -> None:
    """Without dim it is the first of size 3, as in PyTorch (which warns)."""
    a, b = mpigrad.eye(3)[:2].T, mpigrad.eye(3)[1:].T
    assert mpigrad.cross(a, b).T.tolist() == [[0, 0, 1], [1, 0, 0]]


def test_cross_of_two_dtypes(same: Any) -> None:
    same(lambda m: m.cross(m.ones(3), m.ones(3).double()))
