"""Norms of vectors: the op table, half precision and errors."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

normal = np.random.default_rng(0).standard_normal
ORDERS = [2, 1, 3, 0, 0.5, 1.5, -1, math.inf, -math.inf]
DIMS: list[Any] = [{}, {"dim": 0}, {"dim": (0, -1), "keepdim": True}]
TIES = np.array([[1.0, -3, 3, 2], [0, 0, 0, 0]])


def called(op: str, *args: Any, **options: Any) -> Any:
    return lambda m, *inputs: getattr(m, op)(*inputs, *args, **options)


ROWS: list[tuple[Any, ...]] = [
    *[("norm", called("norm", p, **o), (normal((2, 3, 4)),)) for p in ORDERS for o in DIMS],
    *[("norm", called("norm", **o), (normal((2, 3)),)) for o in ({}, {"p": None}, {"p": "fro"}, {"dim": -1})],
    *[("norm", called("norm", p, 1), (TIES,), "kink") for p in (1, 3, math.inf)],
    *[("norm", called("norm", p), (np.asarray(normal(())),)) for p in (2, 1, 3, math.inf)],
    *[("norm", called("norm", p, 1), (normal((2, 0)),), "kink") for p in (2, 1, 3)],
    ("norm", lambda m, a: a.norm(dtype=m.float64), (normal((2, 3)),)),
    ("norm", lambda m, a: m.norm(a, "nuc"), (normal((2, 3)),), "name"),
    *[("vector_norm", lambda m, a, p=p: m.linalg.vector_norm(a, p, -1), (normal((2, 3)),)) for p in (2, 3)],
    *[("dist", called("dist", p), (normal((2, 3)), normal(3)), "name") for p in ORDERS[:3]],
    *[("renorm", called("renorm", p, dim, 1.0), (normal((2, 3, 4)),), "name") for p in (1, 2) for dim in (0, -1)],
    ("renorm", called("renorm", 2, 0, 10.0), (normal((2, 3)),), "name"),
]  # fmt: skip


def test_the_gradient_at_zero_depends_on_nothing(same: Callable[[Any], None]) -> None:
    def call(m: Any) -> Any:
        x, weight = m.zeros(3, requires_grad=True), m.ones((), requires_grad=True)
        (g,) = m.autograd.grad(x.norm(), x, weight, create_graph=True)
        return m.autograd.grad(g.sum(), weight)

    same(call)


def test_half_precision_adds_up_in_float32(same: Callable[[Any], None]) -> None:
    """The sum of squares is beyond the largest half here, the norm is not."""
    same(lambda m: m.full((5000,), 16.0).half().norm())
    same(lambda m: m.full((2, 5000), 16.0).half().norm(dim=1))


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.norm(m.ones(2, dtype=m.int64)),
        lambda m: m.norm(m.ones(2, 0), math.inf, 1),
        lambda m: m.norm(m.ones(2, 2), dim=2),
        lambda m: m.renorm(m.ones(2), 2, 0, 1.0),
    ],
)
def test_errors(call: Any, same_class: Callable[[Any], None]) -> None:
    """What has no sense is refused as PyTorch refuses it."""
    same_class(call)


def test_gradient_of_zero(same: Callable[[Any], None]) -> None:
    """The Euclidean norm has a kink at 0, and gradient 0 there."""
    same(lambda m: m.autograd.grad(m.norm(x := m.zeros(3, requires_grad=True)), x))
