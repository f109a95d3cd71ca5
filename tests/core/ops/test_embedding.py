"""Looking up rows: the op table, renormalised weights and errors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

normal = np.random.default_rng(0).standard_normal
INDEX = np.array([[1, 4, 0], [4, 4, 2]])
WEIGHT = normal((5, 3))


def functional(name: str, *arguments: Any, **options: Any) -> Any:
    return lambda m, w, index, *more: getattr(m.nn.functional, name)(index, w, *arguments, *more, **options)


def bags(**options: Any) -> Any:
    """embedding_bag with offsets, if any, and with weights for each index, if any, as the last inputs."""

    def call(m: Any, w: Any, index: Any, offsets: Any = None, factors: Any = None) -> Any:
        return m.nn.functional.embedding_bag(index, w, offsets, per_sample_weights=factors, **options)

    return call


FLAT, OFFSETS = np.array([1, 4, 0, 4, 4, 2]), np.array([0, 0, 2, 5])
BAGS: list[tuple[Any, ...]] = [
    *[
        ({"mode": mode, **options}, arrays)
        for mode in ("sum", "mean", "max")
        for options in ({}, {"padding_idx": 4})
        for arrays in ((WEIGHT, INDEX), (WEIGHT, FLAT, OFFSETS), (WEIGHT, FLAT.astype("i4"), OFFSETS.astype("i4")))
    ],
    ({"mode": "mean", "include_last_offset": True}, (WEIGHT, FLAT, np.array([0, 2, 6]))),
    ({"mode": "sum", "include_last_offset": True}, (WEIGHT, FLAT, np.array([0, 2, 2, 6]))),
    ({"mode": "sum"}, (WEIGHT, INDEX, None, normal((2, 3)))),
    ({"mode": "sum"}, (WEIGHT, FLAT, OFFSETS, normal(6))),
    ({"mode": "sum", "padding_idx": -1}, (WEIGHT, FLAT, OFFSETS, normal(6))),
    ({"mode": "sum", "scale_grad_by_freq": True}, (WEIGHT, FLAT, OFFSETS), "kink"),
]  # fmt: skip

# rows without a gradient, or with a scaled one, have not the slope of the op: "kink"
ROWS: list[tuple[Any, ...]] = [
    *[
        ("embedding", functional("embedding", **options), (WEIGHT, index), *["kink"] * len(options), *notes)
        for index, *notes in ((INDEX,), (INDEX.astype(np.int32),), (np.array(3),), (np.zeros((2, 0), np.int64), "once"))
        for options in ({}, {"padding_idx": 4}, {"padding_idx": -3})
    ],
    ("embedding", functional("embedding", scale_grad_by_freq=True), (WEIGHT, INDEX), "once", "kink"),
    *[("embedding_bag", bags(**options), arrays, "once", "name", *notes) for options, arrays, *notes in BAGS],
]


def renormalised(m: Any, **options: Any) -> Any:
    w = m.tensor([[3.0, 4.0], [0.3, 0.4], [6.0, 8.0]])
    return [m.nn.functional.embedding(m.tensor([0, 1, 0]), w, max_norm=2.5, **options), w]


def trained(m: Any) -> Any:
    w = m.ones(3, 2).requires_grad_()
    m.nn.functional.embedding(m.tensor([0, 1, 0]), w, 1, scale_grad_by_freq=True).sum().backward()
    return w.grad


SAME: list[Callable[[Any], Any]] = [
    lambda m: m.nn.functional.embedding(m.tensor([0, 3]), m.ones(3, 2)),
    lambda m: m.nn.functional.embedding(m.tensor([0, -1]), m.ones(3, 2)),
    lambda m: m.nn.functional.embedding(m.tensor([0, 1]), m.ones(3)),
    lambda m: m.nn.functional.embedding(m.tensor([0, 1]), m.ones(3, 2), padding_idx=3),
    lambda m: m.nn.functional.embedding_bag(m.ones(2, 2).long(), m.ones(3, 2), mode="median"),
    lambda m: m.nn.functional.embedding_bag(m.ones(2).long(), m.ones(3, 2), m.tensor([0, 3])),
    lambda m: m.nn.functional.embedding_bag(m.ones(2, 2, 2).long(), m.ones(3, 2)),
    lambda m: m.nn.functional.embedding_bag(m.ones(2, 2).long(), m.ones(3, 2), per_sample_weights=m.ones(2, 2)),
    lambda m: m.nn.functional.embedding_bag(m.zeros(0).long(), m.ones(3, 2), m.tensor([0, 0])),
    renormalised,
    lambda m: renormalised(m, norm_type=1.0),
    trained,
]
SAME_CLASS: list[Callable[[Any], Any]] = [
    lambda m: m.nn.functional.embedding_bag(m.ones(2).long(), m.ones(3, 2), m.tensor([1])),
    lambda m: m.nn.functional.embedding(m.tensor([0.0]), m.ones(3, 2)),
    lambda m: m.nn.functional.embedding_bag(m.tensor([0]), m.ones(3, 2)),
    lambda m: m.nn.functional.embedding_bag(m.ones(2, 2).long(), m.ones(3, 2), m.tensor([0])),
    lambda m: m.nn.functional.embedding_bag(m.tensor([[0]]), m.ones(3, 2), per_sample_weights=m.ones(3), mode="sum"),
]


@pytest.mark.parametrize("expression", SAME)
def test_as_in_torch(expression: Callable[[Any], Any], same: Callable[..., None]) -> None:
    same(expression)


@pytest.mark.parametrize("expression", SAME_CLASS)
def test_error_of_the_same_class(expression: Callable[[Any], Any], same_class: Callable[..., None]) -> None:
    same_class(expression)


def test_sparse_gradients_are_refused() -> None:
    from mpigrad import nn, ones, tensor

    with pytest.raises(NotImplementedError, match="gradients are dense here"):
        nn.functional.embedding(tensor([0]), ones(2, 2), sparse=True)
