"""Reading and writing at tensors of indices and masks: the op table, errors, and in-place forms."""

from typing import Any

import numpy as np
import pytest

import mpigrad

normal = np.random.default_rng(0).standard_normal
A, S = normal((3, 4)), normal((3, 4))
C = normal((2, 3, 4))
P = np.array([[0, 2, 1, 0], [2, 0, 0, 1], [1, 1, 2, 2]])  # a permutation in each column
I = np.array([[0, 2, 1, 0], [2, 2, 0, 0], [2, 1, 1, 0]])  # noqa: E741
ZEROS = A * (np.abs(A) > 0.6)
MASK = A > 0
SCALAR = np.asarray(normal(()))


def op(name: str, *arguments: Any, **options: Any) -> Any:
    """m.name(first input, *arguments with the other inputs in the place of ..., **options)."""

    def call(m: Any, first: Any, *rest: Any) -> Any:
        left = iter(rest)
        return getattr(m, name)(first, *[next(left) if v is ... else v for v in arguments], **options)

    return call


REDUCED: list[tuple[Any, ...]] = [
    ("scatter_reduce", op("scatter_reduce", 0, ..., ..., how, include_self=keep), (x, I, s), "name")
    for how in ("sum", "mean", "prod", "amax", "amin")
    for keep in (True, False)
    for x, s in ((A, S),)
]
ROWS: list[tuple[Any, ...]] = [
    *[("gather", op("gather", d, ...), (A, i)) for d, i in ((0, I), (-1, I), (0, I[:2, :3]), (0, I[:, :0]))],
    ("gather", op("gather", 1, ...), (C, np.array([[[0, 2], [1, 1]]], np.int32))),
    ("gather", op("gather", 0, ...), (normal(3), np.array(2)), "name"),
    ("gather", op("gather", 0, ...), (SCALAR, np.array([0, 0]))),
    ("gather", op("gather", 0, ...), (A, np.array([], np.int64)), "name"),
    ("scatter", op("scatter", 0, ..., ...), (A, P, S)),
    ("scatter", op("scatter", 1, ..., ...), (np.arange(12).reshape(3, 4), P[:2, :1], np.arange(20).reshape(4, 5))),
    ("scatter", op("scatter", 0, ..., 2.5), (A, I[:2])),
    ("scatter", lambda m, a, i: a.scatter(1, i, value=2), (A, I[:, :2])),
    ("scatter", op("scatter", 0, ..., ...), (SCALAR, np.array(0), SCALAR), "name"),
    ("scatter", op("scatter", 0, ..., 2, reduce="add"), (np.arange(4), np.array([1, 1]))),
    ("scatter", op("scatter", 0, ..., 3, reduce="multiply"), (np.arange(4), np.array([1, 1, 2]))),
    ("scatter_add", op("scatter_add", 0, ..., ...), (A, I, S)),
    ("scatter_add", op("scatter_add", 1, ..., ...), (A, np.zeros((3, 4), np.int64), S)),
    ("scatter_add", op("scatter_add", 0, ..., ...), (np.arange(12).reshape(3, 4), I[:1], np.arange(12).reshape(3, 4))),
    ("scatter_add", op("scatter_add", 0, ..., ...), (np.arange(3), np.array([2, 2, 0]), np.array([5, 6, 7]))),
    ("scatter_add", op("scatter_add", 0, ..., ...), (A, np.zeros((0, 4), np.int64), normal((0, 4)))),
    *REDUCED,
    ("scatter_reduce", op("scatter_reduce", 1, ..., ..., "amax"), (np.ones((3, 4)), I, np.ones((3, 4))), "kink"),
    ("scatter_reduce", op("scatter_reduce", 0, ..., ..., "mean"), (np.arange(3) - 4, np.array([1, 1]), np.arange(2))),
    ("take_along_dim", op("take_along_dim", ..., 0), (A, I)),
    ("take_along_dim", op("take_along_dim", ..., 1), (A, np.array([[1, 3]])), "name"),
    ("take_along_dim", op("take_along_dim", ...), (A, np.array([5, 1])), "contiguous"),
    ("index_select", op("index_select", 0, ...), (C, np.array([1, 1, 0]))),
    ("index_select", op("index_select", -1, ...), (C, np.array([3], np.int32))),
    ("index_select", op("index_select", 1, ...), (C, np.array(2))),
    ("index_select", op("index_select", 0, ...), (SCALAR, np.array([0])), "name"),
    ("index_add", op("index_add", 1, ..., ...), (A, np.array([2, 2, 0]), normal((3, 3)))),
    ("index_add", op("index_add", 0, ..., ..., alpha=-2), (A, np.array([1]), normal((1, 4)))),
    ("index_add", op("index_add", 0, ..., ...), (np.arange(3), np.array([1, 1], np.int32), np.array([4, 5]))),
    ("index_copy", op("index_copy", -1, ..., ...), (A, np.array([2, 0]), normal((3, 2)))),
    ("index_fill", op("index_fill", 1, ..., 2.5), (A, np.array([2, 2, -1]))),
    ("index_fill", op("index_fill", 0, ..., ...), (A, np.array(1), SCALAR)),
    ("masked_fill", op("masked_fill", ..., 1.5), (A, MASK)),
    ("masked_fill", op("masked_fill", ..., ...), (A, MASK, SCALAR)),
    ("masked_fill", op("masked_fill", ..., -np.inf), (A, MASK[:, :1]), "kink"),
    ("masked_fill", op("masked_fill", ..., 0), (normal(4), MASK)),
    ("masked_fill", op("masked_fill", ..., 1.5), (np.arange(4), MASK)),
    ("masked_select", op("masked_select", ...), (A, MASK)),
    ("masked_select", op("masked_select", ...), (normal(4), MASK), "name"),
    ("masked_select", op("masked_select", ...), (A, MASK[0])),
    ("masked_select", op("masked_select", ...), (SCALAR, np.array(True)), "name"),
    ("masked_scatter", op("masked_scatter", ..., ...), (A, MASK, normal(20))),
    ("masked_scatter", op("masked_scatter", ..., ...), (A, MASK[0], normal((4, 3)))),
    ("take", op("take", ...), (A, np.array([[0, -1], [5, 5]]))),
    ("take", op("take", ...), (A, np.array(3))),
    ("put", lambda m, a, i, s: a.put(i, s), (A, np.array([[0, -1], [5, 6]]), normal(4)), "name"),
    ("put", lambda m, a, i, s: a.put(i, s, accumulate=True), (A, np.array([5, 5]), normal(2)), "name"),
    ("nonzero", op("nonzero"), (ZEROS,)),
    ("nonzero", op("nonzero", as_tuple=True), (ZEROS,)),
    ("nonzero", lambda m, a: [a.nonzero(), a.nonzero(as_tuple=True), m.where(a > 0)], (np.array(2),)),
    ("argwhere", op("argwhere"), (ZEROS,)),
    ("argwhere", op("argwhere"), (np.array(0),)),
]  # fmt: skip


def x(m: Any) -> Any:
    return m.arange(6.0).reshape(2, 3)


def at(m: Any, *index: Any) -> Any:
    return m.tensor(list(index))


SAME: list[Any] = [
    lambda m: x(m).gather(0, at(m, [0, 2])),
    lambda m: x(m).gather(0, at(m, [0, -1])),
    lambda m: x(m).gather(0, at(m, [0]).short()),
    lambda m: x(m).gather(0, at(m, 0)),
    lambda m: x(m).gather(1, at(m, [0], [1], [0])),
    lambda m: x(m).gather(2, at(m, [0])),
    lambda m: x(m).scatter(0, at(m, [0, 1]), m.ones(1, 1)),
    lambda m: x(m).scatter(0, at(m, [0, 1]), m.ones(2, 3).double()),
    lambda m: x(m).scatter(0, at(m, [0, 1, 1, 1]), 1.0),
    lambda m: x(m).scatter(0, at(m, [5]), 1.0),
    lambda m: x(m).scatter(0, at(m, [0]), 1.0, reduce="x"),
    lambda m: x(m).scatter_add(0, at(m, [0]), 1.0),
    lambda m: x(m).scatter_reduce(0, at(m, [0]), x(m), "bad"),
    lambda m: x(m).index_select(0, at(m, [0])),
    lambda m: x(m).index_select(0, at(m, -1)),
    lambda m: m.tensor(3.0).index_select(0, at(m, 0, 0)),
    lambda m: x(m).index_add(0, at(m, 0, 1), m.ones(1, 3)),
    lambda m: x(m).index_add(0, at(m, 0, 1), m.ones(2, 4)),
    lambda m: x(m).index_add(0, at(m, 0, 2), m.ones(2, 3)),
    lambda m: x(m).index_copy(0, at(m, 0, 2), m.ones(2, 3)),
    lambda m: x(m).index_copy(0, at(m, 0, 1), m.ones(2, 4)),
    lambda m: x(m).index_copy(0, at(m, 0), m.ones(3)),
    lambda m: x(m).index_fill(0, at(m, 2), 1.0),
    lambda m: x(m).index_fill(0, at(m, 0.0), 1.0),
    lambda m: x(m).index_fill(0, at(m, 0), at(m, 1.0)),
    lambda m: x(m).masked_fill(x(m) > 2, at(m, 1.0)),
    lambda m: x(m).masked_fill(m.ones(4).bool(), 0.0),
    lambda m: x(m).masked_fill_(m.ones(4, 2, 3).bool(), 0.0),
    lambda m: x(m).masked_select(x(m)),
    lambda m: x(m).masked_select(m.ones(4).bool()),
    lambda m: x(m).masked_scatter(x(m) > 2, m.ones(2)),
    lambda m: x(m).take(at(m, 6)),
    lambda m: m.zeros(0).take(at(m, 0)),
    lambda m: x(m).take_along_dim(at(m, 5, 1), 0),
    lambda m: x(m).put(at(m, 0, 6), m.ones(2)),
    lambda m: x(m).put(at(m, 0, 1), m.ones(3)),
    # in place
    lambda m: [x(m).scatter_(0, at(m, [1, 0]), 9.0), x(m).scatter_add_(1, at(m, [1, 1]), m.ones(1, 2))],
    lambda m: [x(m).index_add_(0, at(m, 1, 1), m.ones(2, 3)), x(m).index_copy_(1, at(m, 2), m.ones(2, 1))],
    lambda m: [x(m).index_fill_(1, at(m, 0), 9.0), x(m).masked_fill_(x(m) > 2, 9.0)],
    lambda m: [x(m).masked_scatter_(x(m) > 2, x(m)), x(m).put_(at(m, 0, -1), m.ones(2))],
    lambda m: [x(m).scatter_reduce_(1, at(m, [1, 1]), m.full((1, 2), 7.0), "amax", include_self=False)],
    lambda m: [x(m).index_put_((at(m, 0, 0),), m.tensor(1.0), accumulate=True)],
    lambda m: [(a := x(m)).t().scatter_(0, at(m, [1]), 9.0), a],
]  # fmt: skip


@pytest.mark.parametrize("expression", SAME)
def test_as_torch(expression: Any, same: Any) -> None:
    same(expression)


@pytest.mark.parametrize(
    "expression",
    [
        lambda m: x(m).index_add(0, at(m, 0), m.ones(1, 3).double()),
        lambda m: x(m).index_copy(0, at(m, 0), m.ones(1, 3).double()),
        lambda m: x(m).masked_fill(at(m, 1), 0.0),
        lambda m: x(m).masked_scatter(x(m) > 2, m.ones(4).double()),
        lambda m: x(m).take(at(m, 0).int()),
        lambda m: x(m).take_along_dim(at(m, [0]).int(), 0),
        lambda m: x(m).index_select(0, at(m, 0.0)),
    ],
)
def test_errors(expression: Any, same_class: Any) -> None:
    same_class(expression)


def test_factors_that_are_zero(torch: Any) -> None:
    def run(m: Any) -> Any:
        a = m.tensor([0.0, 2.0, 3.0, 0.0, 5.0], requires_grad=True)
        s = m.tensor([4.0, 0.0, 6.0, 7.0, 0.0, 0.0], requires_grad=True)
        y = a.scatter_reduce(0, m.tensor([0, 1, 2, 3, 3, 1]), s, "prod")
        (y * y + y).sum().backward()
        return y.tolist(), a.grad.tolist(), s.grad.tolist()

    assert run(mpigrad) == run(torch)


def test_an_index_that_changes_is_noticed() -> None:
    a, index = mpigrad.ones(3, requires_grad=True), mpigrad.tensor([0, 1])
    results = [a[index], a.gather(0, index), a.index_select(0, index), a.take(index)]
    index.zero_()
    for result in results:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            result.sum().backward()
