"""Joining and cutting: the op table, node counts, and errors."""

from typing import Any

import numpy as np
import pytest

import mpigrad

normal = np.random.default_rng(0).standard_normal
A, B = normal((2, 3, 4)), normal((2, 3, 4))
V, W = normal(3), normal(2)


def method(name: str, *arguments: Any) -> Any:
    return lambda m, a: getattr(a, name)(*arguments)


def joined(name: str) -> Any:
    return lambda m, *tensors: getattr(m, name)(tensors)


ROWS: list[tuple[Any, ...]] = [
    *[("cat", lambda m, a, b, d=d: m.cat([a, b], d), (A, B)) for d in (0, 1, -1)],
    ("cat", joined("cat"), (normal((2, 3)), normal((1, 3)), normal((2, 3)))),
    ("cat", lambda m, a, b: m.cat([a, b], dim=-1), (normal((2, 0)), normal((2, 3)))),
    ("cat", joined("cat"), (normal(0), normal((2, 3)))),
    ("cat", joined("cat"), (np.arange(3), normal(2))),
    ("cat", joined("cat"), (np.float32([1, 2]), normal(2))),
    ("concat", joined("concat"), (A, B)),
    ("concatenate", joined("concatenate"), (A, B)),
    *[("stack", lambda m, a, b, d=d: m.stack([a, b], d), (A, B)) for d in (0, 1, -1, 3)],
    ("stack", joined("stack"), (normal(()), normal(()))),
    ("stack", joined("stack"), (np.arange(2), normal(2))),
    *[(name, joined(name), (A, B)) for name in ("hstack", "vstack", "dstack", "column_stack", "row_stack")],
    *[(name, joined(name), (V, V)) for name in ("hstack", "vstack", "dstack", "column_stack", "row_stack")],
    *[(name, joined(name), (normal(()), np.array(2, np.float32))) for name in ("hstack", "vstack", "dstack")],
    ("column_stack", joined("column_stack"), (V, normal((3, 2)))),
    ("vstack", joined("vstack"), (V, normal((2, 3)))),
    ("block_diag", lambda m, *t: m.block_diag(*t), (normal((2, 3)), V, normal(()), np.arange(2))),
    ("block_diag", lambda m, *t: m.block_diag(*t), (normal((2, 0)), normal((0, 1)), normal((1, 1)))),
    *[("meshgrid", lambda m, *t, i=i: m.meshgrid(*t, indexing=i), (V, W, normal(()))) for i in ("ij", "xy")],
    ("meshgrid", lambda m, *t: m.meshgrid(t, indexing="xy"), (V,)),
    ("cartesian_prod", lambda m, *t: m.cartesian_prod(*t), (V, W, V)),
    ("cartesian_prod", lambda m, a: m.cartesian_prod(a), (V,), "name"),
    *[("combinations", lambda m, a, s=s: m.combinations(a, *s), (normal(4),)) for s in ((), (3,), (2, True), (5,))],
    ("combinations", lambda m, a: m.combinations(a, 0), (normal(4),)),
    *[("unbind", method("unbind", *s), (A,)) for s in ((), (1,), (-1,))],
    ("unbind", lambda m, a: m.unbind(a)[1], (A,)),
    ("unbind", lambda m, a: [v * 2 for v in a], (A,)),
    *[("split", method("split", *s), (A,)) for s in ((1,), (2, 1), (3, -1), (9,), ([1, 2], 1), ((0, 4), 2))],
    ("split", lambda m, a: m.split(a, [1, 1, 2], dim=-1)[1], (A,)),
    ("split", method("split", 2), (normal((0, 2)),)),
    ("split_with_sizes", lambda m, a: m.split_with_sizes(a, [1, 2], 1), (A,)),
    *[("chunk", method("chunk", *s), (A,)) for s in ((2,), (2, 1), (3, -1), (9,))],
    ("chunk", lambda m, a: m.chunk(a, 3), (normal((0, 2)),)),
    *[("tensor_split", method("tensor_split", *s), (A,)) for s in ((2,), (3, 2), (5, 1), ([2, 1, -1, 9], 1))],
    ("tensor_split", lambda m, a: [*m.tensor_split(a, m.tensor([1]), 1), *a.tensor_split(m.tensor(2))], (A,)),
    *[("hsplit", method("hsplit", s), (A,)) for s in (3, [1, 2])],
    *[("vsplit", method("vsplit", s), (A,)) for s in (2, [1])],
    *[("dsplit", method("dsplit", s), (A,)) for s in (2, [3, 1])],
    ("hsplit", lambda m, a: m.hsplit(a, 3), (V,)),
]  # fmt: skip


def grid(m: Any) -> Any:
    return m.arange(12.0).reshape(4, 3)


SAME: list[Any] = [
    lambda m: m.hstack([]),
    lambda m: m.column_stack([]),
    lambda m: m.block_diag(m.zeros(1, 1, 1)),
    lambda m: m.block_diag(),
    lambda m: m.meshgrid(m.zeros(2), m.zeros(2).long(), indexing="ij"),
    lambda m: m.meshgrid(indexing="ij"),
    lambda m: m.meshgrid(m.zeros(2), indexing="zz"),
    lambda m: m.cartesian_prod(grid(m)),
    lambda m: m.combinations(grid(m)),
    lambda m: m.combinations(m.zeros(3), -1),
    lambda m: m.tensor(1.0).unbind(),
    lambda m: grid(m).unbind(2),
    lambda m: grid(m).split(0),
    lambda m: grid(m).split(-1),
    lambda m: m.tensor(1.0).split(1),
    lambda m: grid(m).split([1, 2]),
    lambda m: grid(m).split([5, -1]),
    lambda m: grid(m).split(2.0),
    lambda m: grid(m).chunk(0),
    lambda m: m.tensor(1.0).chunk(1),
    lambda m: grid(m).tensor_split(0),
    lambda m: m.tensor(1.0).tensor_split(1),
    lambda m: grid(m).hsplit(2),
    lambda m: m.zeros(3).vsplit(3),
    lambda m: grid(m).dsplit(1),
    lambda m: [(a := grid(m)).split(2)[1].fill_(7.0), a, [v.stride() for v in a.unbind(1)]],
    lambda m: [type(grid(m).split(2)), len(list(grid(m))), 5.0 in grid(m), list(reversed(m.arange(3)))],
]  # fmt: skip


@pytest.mark.parametrize("expression", SAME)
def test_as_torch(expression: Any, same: Any) -> None:
    same(expression)


def test_the_backward_of_many_pieces_makes_one_gradient() -> None:
    a = mpigrad.zeros(50, 3, requires_grad=True)
    pieces = a.unbind()
    joint = {piece.grad_fn.next_functions[0][0] for piece in pieces}
    assert len(joint) == 1
    ((end, _),) = joint.pop().next_functions
    assert end.variable is a


def test_a_hook_on_one_piece_changes_its_part_alone() -> None:
    a = mpigrad.zeros(3, requires_grad=True)
    first, _, last = a.unbind()
    first.register_hook(lambda g: g * 5)
    (first + last).backward()
    assert a.grad.tolist() == [5, 0, 1]
