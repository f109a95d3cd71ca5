"""Views of a part of the elements: the op table, memory, and errors."""

from typing import Any

import numpy as np
import pytest

import mpigrad

normal = np.random.default_rng(0).standard_normal
A = normal((4, 3, 5))


def method(name: str, *arguments: Any) -> Any:
    return lambda m, a: getattr(a, name)(*arguments)


ROWS: list[tuple[Any, ...]] = [
    *[("narrow", method("narrow", *s), (A,)) for s in ((0, 1, 2), (-1, -2, 1), (1, 3, 0), (2, 0, 5))],
    ("narrow", lambda m, a: m.narrow(a, 0, m.tensor(1), 2), (A,)),
    *[("select", method("select", *s), (A,)) for s in ((0, 1), (1, -1), (-1, 4))],
    ("select", lambda m, a: m.select(a, 0, 2), (normal(3),)),
    *[("diagonal", method("diagonal", *s), (A,)) for s in ((), (1,), (-2,), (0, 1, 2), (1, -1, 0), (7,))],
    ("diagonal", lambda m, a: m.diagonal(a, offset=-1, dim1=0, dim2=1), (normal((3, 3)),)),
    *[("unfold", method("unfold", *s), (A,)) for s in ((0, 2, 1), (-1, 3, 2), (1, 3, 5), (2, 2, 3), (0, 0, 1))],
    ("unfold", method("unfold", 0, 3, 1), (normal(7),)),
    *[
        ("as_strided", method("as_strided", *s), (normal((4, 3)),), "contiguous")
        for s in (((2, 2), (1, 2)), ((5, 3), (1, 1), 2), ((), (), 3), ((0, 2), (1, 1)))
    ],
    ("as_strided", lambda m, a: m.as_strided((a * 2).t(), (2, 2), (4, 1)), (normal((4, 3)),), "contiguous"),
    ("fill_diagonal_", lambda m, a: (a * 1).fill_diagonal_(2.5), (normal((4, 3)),), "name", "contiguous"),
]  # fmt: skip


def grid(m: Any) -> Any:
    return m.arange(12.0).reshape(4, 3)


SAME: list[Any] = [
    lambda m: grid(m).narrow(0, 3, 2),
    lambda m: grid(m).narrow(0, -5, 1),
    lambda m: grid(m).narrow(0, 1, -1),
    lambda m: grid(m).select(0, 4),
    lambda m: grid(m).diagonal(0, 1, 1),
    lambda m: m.zeros(3).diagonal(),
    lambda m: grid(m).unfold(0, 5, 1),
    lambda m: grid(m).unfold(0, 2, 0),
    lambda m: grid(m).unfold(0, -1, 1),
    lambda m: [m.tensor(1.0).unfold(0, 1, 1), m.tensor(1.0).unfold(0, 0, 1)],
    lambda m: grid(m).as_strided((20, 2), (1, 20)),
    lambda m: grid(m).as_strided((2,), (1, 2)),
    lambda m: grid(m).as_strided((2,), (-1,)),
    lambda m: [(a := grid(m))[1:].as_strided((2, 2), (3, 1)).fill_(9.0), a, a.t().as_strided((2,), (4,), 1)],
    lambda m: [(d := (a := grid(m)).diagonal()).fill_(9.0), a, d.stride()],
    lambda m: [(a := grid(m)).narrow(1, 1, 2).select(0, -1).mul_(2.0), a],
    lambda m: [(d := (a := grid(m)).unfold(0, 2, 2)).add_(1.0), a, d.stride()],
]  # fmt: skip


@pytest.mark.parametrize("expression", SAME)
def test_as_torch(expression: Any, same: Any) -> None:
    same(expression)


@pytest.mark.parametrize("m", [pytest.param("mpigrad"), pytest.param("torch")])
def test_writing_through_a_part_is_recorded(m: str) -> None:
    library = mpigrad if m == "mpigrad" else pytest.importorskip("torch")
    leaf = library.arange(9.0).reshape(3, 3).requires_grad_()
    whole = leaf * 1.0
    whole.diagonal().mul_(2.0)
    whole.narrow(0, 1, 2).select(1, 0).zero_()
    (whole * whole).sum().backward()
    assert leaf.grad.tolist() == [[0, 2, 4], [0, 32, 10], [0, 14, 64]]
