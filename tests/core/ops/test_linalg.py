"""Matrix products: the op table, half precision, speed and errors."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mpigrad

normal = np.random.default_rng(0).standard_normal
PAIRS = [((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 4)), ((2, 3), (3, 4)), ((5, 2, 3), (5, 3, 4)), ((5, 2, 3), (3, 4))]
PAIRS += [((2, 3), (5, 3, 4)), ((5, 2, 3), (3,)), ((3,), (5, 3, 4)), ((5, 1, 2, 3), (4, 3, 2)), ((0, 3), (3, 4))]
PAIRS += [((2, 0), (0, 4)), ((6, 1, 2, 3), (3,)), ((3,), (6, 1, 3, 2)), ((1, 2, 3), (5, 3, 1)), ((0,), (0,))]


def linear(m: Any, *inputs: Any) -> Any:
    return m.nn.functional.linear(*inputs)


SQUARE = normal((3, 3))
PRODUCTS = {
    "mm": ((2, 3), (3, 4)),
    "bmm": ((2, 3, 4), (2, 4, 5)),
    "mv": ((2, 3), (3,)),
    "dot": ((3,), (3,)),
    "vdot": ((3,), (3,)),
    "outer": ((3,), (4,)),
    "ger": ((3,), (4,)),
}
ADDED = {
    "addmm": [((2, 4), (2, 3), (3, 4)), ((4,), (2, 3), (3, 4)), ((2, 1), (2, 0), (0, 4))],
    "addmv": [((2,), (2, 3), (3,)), ((1,), (2, 3), (3,))],
    "addr": [((3, 4), (3,), (4,)), ((4,), (3,), (4,))],
    "addbmm": [((3, 5), (2, 3, 4), (2, 4, 5)), ((5,), (2, 3, 4), (2, 4, 5))],
    "baddbmm": [((2, 3, 5), (2, 3, 4), (2, 4, 5)), ((3, 1), (2, 3, 4), (2, 4, 5))],
}
SCALES: list[Any] = [{}, {"alpha": 2.0, "beta": 0.5}, {"beta": 0}]


def called(op: str, **options: Any) -> Any:
    return lambda m, *inputs: getattr(m, op)(*inputs, **options)


def linalg(op: str, *args: Any, **options: Any) -> Any:
    return lambda m, *inputs: getattr(m.linalg, op)(*inputs, *args, **options)


MATRIX_NORMS: list[Any] = [
    (p, d, k)
    for p in ("fro", "nuc", 2, -2, 1, -1, math.inf, -math.inf)
    for d, k in (((-2, -1), False), ((2, 0), True), ((1, 0), False))
]
ROWS: list[tuple[Any, ...]] = [
    *[(op, called(op), tuple(map(normal, shapes))) for op, shapes in PRODUCTS.items()],
    *[(op, called(op, **o), tuple(map(normal, s))) for op, shapes in ADDED.items() for s in shapes for o in SCALES],
    ("addmm", called("addmm", alpha=2), (np.arange(4), np.arange(6).reshape(2, 3), np.arange(12).reshape(3, 4))),
    *[("linalg.norm", linalg("norm", *o), (normal((3, 4)),), "name") for o in ((), (2,), (1, 0), ("fro",))],
    *[("linalg.norm", linalg("norm", *o), (normal((2, 3, 4)),), "name") for o in ((), (1, (0, 2)), (None, 1, True))],
    *[("linalg.matrix_norm", linalg("matrix_norm", *o), (normal((2, 3, 4)),), "name") for o in MATRIX_NORMS],
    ("linalg.vecdot", linalg("vecdot"), (normal((2, 3)), normal(3))),
    ("linalg.vecdot", linalg("vecdot", dim=0), (normal((2, 3)), normal((2, 3)))),
    ("linalg.cross", linalg("cross"), (normal((2, 3)), normal((1, 3)))),
    ("linalg.diagonal", linalg("diagonal", offset=1), (normal((2, 3, 4)),)),
    ("linalg.matrix_power", linalg("matrix_power", 3), (SQUARE,), "name"),
    *[("linalg.multi_dot", lambda m, *a: m.linalg.multi_dot(a), tuple(map(normal, shapes)), "name")
      for shapes in (((2, 3), (3, 4)), ((3,), (3, 4), (4, 2)), ((3,), (3, 4), (4,)), ((2, 3), (3, 4), (4,)))],
    ("trace", called("trace"), (normal((2, 3)),)),
    ("trace", called("trace"), (np.arange(6, dtype=np.int32).reshape(2, 3),)),
    *[("matmul", lambda m, a, b: a @ b, (normal(a), normal(b)), "name") for a, b in PAIRS],
    *[("matmul", lambda m, a, b: m.matmul(a, b), (normal(a), normal(b))) for a, b in PAIRS[:2] + PAIRS[3:5]],
    ("matmul", lambda m, a, b: a @ b, (np.arange(6).reshape(2, 3), np.arange(3))),
    ("matmul", lambda m, a: a @ a.T, (normal((2, 3)),)),
    ("matmul", lambda m, a: a @ a, (normal((3, 3)),)),
    *[("linear", linear, (normal((*s, 3)), normal((4, 3)), normal(4)), "name") for s in ((), (2,), (5,), (2, 5), (0,))],
    *[("linear", linear, (normal((*s, 3)), normal((4, 3))), "name") for s in ((), (2,), (5,), (2, 5), (0,))],
    *[("linear", linear, (normal((2, 3)), normal((4, 3)), *b)) for b in ((), (normal(4),))],
    ("linear", linear, (normal((100, 3)), normal((4, 3)), normal(4))),
]  # fmt: skip


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.ones(2, 3) @ m.ones(2, 3),
        lambda m: m.ones(3) @ m.ones(2),
        lambda m: m.ones(2, 3) @ m.ones(2),
        lambda m: m.ones(2, 3) @ m.ones(3, 2, dtype=m.float64),
        lambda m: m.ones(()) @ m.ones(3),
        lambda m: m.ones(4, 2, 3) @ m.ones(5, 3, 2),
        lambda m: m.ones(2, 3) @ 2,
        lambda m: m.mm(m.ones(2, 3), m.ones(3)),
        lambda m: m.bmm(m.ones(2, 3, 4), m.ones(3, 4, 2)),
        lambda m: m.bmm(m.ones(3, 4), m.ones(2, 4, 2)),
        lambda m: m.mv(m.ones(2, 3), m.ones(3, 1)),
        lambda m: m.dot(m.ones(2, 3), m.ones(3)),
        lambda m: m.dot(m.ones(2), m.ones(3)),
        lambda m: m.outer(m.ones(2, 3), m.ones(3)),
        lambda m: m.addmm(m.ones(3), m.ones(2, 3), m.ones(3, 2)),
        lambda m: m.addmm(m.ones(2), m.ones(2, 3), m.ones(2, 2)),
        lambda m: m.addbmm(m.ones(2), m.ones(3, 2, 3), m.ones(2, 3, 2)),
        lambda m: m.ones(2, 2, dtype=m.bool) @ m.ones(2, 2, dtype=m.bool),
        lambda m: m.trace(m.ones(3)),
        lambda m: m.linalg.norm(m.ones(2, 2, 2), 1),
        lambda m: m.linalg.norm(m.ones(2, 2, 2), 1, (0, 1, 2)),
        lambda m: m.linalg.matrix_norm(m.ones(2)),
        lambda m: m.linalg.matrix_norm(m.ones(2, 2), 3),
        lambda m: m.linalg.matrix_norm(m.ones(2, 2), 1, (0, 0)),
    ],
)
def test_errors(call: Any, same_class: Callable[[Any], None]) -> None:
    """What does not fit is refused as PyTorch refuses it."""
    same_class(call)


def test_messages(same: Callable[[Any], None]) -> None:
    """The messages that are met most are PyTorch's own."""
    same(lambda m: m.ones(2, 3) @ m.ones(2, 3))
    same(lambda m: m.ones(4, 2, 3) @ m.ones(2, 3))
    same(lambda m: m.ones(2, 3) @ m.ones(3, 2, dtype=m.float64))
    same(lambda m: m.mm(m.ones(2, 3), m.ones(3)))
    same(lambda m: m.dot(m.ones(2, 3), m.ones(3)))
    same(lambda m: m.bmm(m.ones(2, 3, 4), m.ones(3, 4, 2)))


def test_half_precision_adds_up_in_float32() -> None:
    """A long sum of small terms is not lost in 11 bits."""
    a = mpigrad.full((1, 5000), 0.1, dtype=mpigrad.float16)
    assert (a @ mpigrad.ones(5000, 1, dtype=mpigrad.float16)).item() == pytest.approx(500, rel=1e-3)


def test_beta_zero_ignores_what_is_added_to(same: Callable[[Any], None]) -> None:
    """NaN times 0 is not NaN here."""
    same(lambda m: m.addmm(m.full((2, 2), float("nan")), m.ones(2, 3), m.ones(3, 2), beta=0))
    same(lambda m: m.full((2, 2), 1.0).addmm_(m.ones(2, 3), m.ones(3, 2), alpha=2))


@pytest.mark.parametrize("shapes", [((5, 2, 3), (3, 4)), ((2, 3), (5, 3, 4)), ((5, 6, 2, 3), (3,))])
def test_the_gradient_of_a_broadcast_factor_is_one_product(shapes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No gradient per batch element arises, to be summed afterwards."""
    a, b = (mpigrad.ones(*shape, requires_grad=True) for shape in shapes)
    loss = (a @ b).sum()
    monkeypatch.setattr(mpigrad.core.ops.linalg, "sum_to", lambda g, shape: g if g.shape == shape else pytest.fail())
    loss.backward()
