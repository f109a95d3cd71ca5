"""Elements in other places: the op table and errors."""

from typing import Any

import numpy as np
import pytest

normal = np.random.default_rng(0).standard_normal
A, V = normal((2, 3, 4)), normal(3)
SCALAR = np.asarray(normal(()))


def op(name: str, *arguments: Any, **options: Any) -> Any:
    return lambda m, a: getattr(m, name)(a, *arguments, **options)


def method(name: str, *arguments: Any) -> Any:
    return lambda m, a: getattr(a, name)(*arguments)


ROWS: list[tuple[Any, ...]] = [
    *[("repeat", method("repeat", *s), (normal((2, 3)),)) for s in ((2, 1), (3, 1, 2), ((1, 2),), (0, 1), (1, 1))],
    ("repeat", method("repeat", 2, 2), (SCALAR,)),
    *[("tile", op("tile", s), (normal((2, 3)),)) for s in ((2,), (2, 1, 3), ())],
    ("tile", method("tile", 2, 2), (V,)),
    *[("repeat_interleave", op("repeat_interleave", *s), (A,), "name") for s in ((2,), (3, 1), (2, -1), (0, 0))],
    ("repeat_interleave", lambda m, a, n: a.repeat_interleave(n, 1), (A, np.array([2, 0, 3]))),
    ("repeat_interleave", lambda m, a, n: m.repeat_interleave(a, n, dim=0), (A, np.array([2]))),
    ("repeat_interleave", lambda m, a, n: m.repeat_interleave(a, n), (V, np.array([2, 0, 3])), "name"),
    ("repeat_interleave", lambda m, a: m.repeat_interleave(a, output_size=3), (np.array([1, 0, 2]),)),
    *[("flip", method("flip", *s), (A,)) for s in ((0,), (0, -1), ((1,),), ((),))],
    ("flip", op("flip", (0,)), (SCALAR,)),
    ("fliplr", op("fliplr"), (A,)),
    ("flipud", op("flipud"), (V,)),
    *[("roll", op("roll", *s), (A,)) for s in ((1, 0), (-2, -1), ((1, 2), (0, 2)), (5,), ((1,), 1))],
    ("roll", op("roll", 1), (SCALAR,)),
    *[("rot90", op("rot90", *s), (A,)) for s in ((), (2,), (3, (0, 2)), (-1, (2, 1)), (4,))],
    *[(name, op(name, *s), (A,)) for name in ("tril", "triu") for s in ((), (1,), (-1,), (9,))],
    *[("diag", op("diag", k), (V,)) for k in (0, 1, -2)],
    *[("diag", op("diag", k), (normal((3, 4)),), "name") for k in (0, 2, -1)],
    *[("diag_embed", op("diag_embed", *s), (normal((2, 3)),)) for s in ((), (1,), (-2, 0, 2), (0, 1, 0))],
    *[("diagflat", op("diagflat", *s), (a,), "name") for s in ((), (-1,)) for a in (normal((2, 2)), V, SCALAR)],
]  # fmt: skip


def grid(m: Any) -> Any:
    return m.arange(6.0).reshape(2, 3)


SAME: list[Any] = [
    lambda m: grid(m).repeat(2),
    lambda m: grid(m).repeat(2, -1),
    lambda m: grid(m).repeat_interleave(m.tensor([1, 2, 3]), 0),
    lambda m: grid(m).repeat_interleave(m.tensor([1, -2]), 0),
    lambda m: grid(m).repeat_interleave(-1),
    lambda m: grid(m).flip(0, 0),
    lambda m: grid(m).flip(2),
    lambda m: grid(m)[0].fliplr(),
    lambda m: m.tensor(1.0).flipud(),
    lambda m: grid(m).roll((1, 2)),
    lambda m: grid(m).roll(1, (0, 1)),
    lambda m: grid(m).roll(()),
    lambda m: grid(m).rot90(1, (0, 0)),
    lambda m: grid(m).rot90(1, (0, 1, 2)),
    lambda m: grid(m)[0].rot90(),
    lambda m: grid(m).rot90(1, (0, 3)),
    lambda m: grid(m)[0].tril(),
    lambda m: m.diag(m.tensor(1.0)),
    lambda m: m.diag_embed(grid(m), 0, 1, 1),
    lambda m: m.diag_embed(m.tensor(1.0)),
    lambda m: [grid(m).tril_(), grid(m).triu_(1), reversed(grid(m)), reversed(m.tensor(1.0))],
    lambda m: [3.0 in grid(m), 9 in grid(m), m.tensor(2.0) in grid(m)],
    lambda m: "a" in grid(m),
    lambda m: [(a := grid(m)).fill_diagonal_(9.0), m.zeros(3, 3, 3).fill_diagonal_(1.0), a.t().fill_diagonal_(1.0), a],
    lambda m: [m.zeros(7, 3).fill_diagonal_(5.0), m.zeros(7, 3).fill_diagonal_(5.0, wrap=True)],
    lambda m: [m.zeros(4, 3).fill_diagonal_(5.0, wrap=True), m.zeros(5, 3).fill_diagonal_(5.0, wrap=True)],
    lambda m: m.zeros(3).fill_diagonal_(5.0),
    lambda m: m.zeros(3, 3, 2).fill_diagonal_(5.0),
]  # fmt: skip


@pytest.mark.parametrize("expression", SAME)
def test_as_torch(expression: Any, same: Any) -> None:
    same(expression)
