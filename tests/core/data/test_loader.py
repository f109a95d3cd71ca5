"""DataLoader: torch's order for the same seed, batches, collation and errors."""

from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from mpigrad.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    TensorDataset,
    default_collate,
)

import mpigrad

Expression = Callable[[Any], Any]


@pytest.fixture
def data(torch: Any) -> Callable[[Any], Any]:
    """The module with datasets and loaders of a library."""
    import torch.utils.data as theirs

    return lambda m: mpigrad.data if m is mpigrad else theirs


ORDERS: list[dict[str, Any]] = [
    {},
    {"batch_size": 4},
    {"batch_size": 4, "shuffle": True},
    {"batch_size": 4, "shuffle": True, "drop_last": True},
    {"batch_size": 5, "shuffle": True},
    {"batch_size": 3, "drop_last": True},
    {"batch_size": None, "shuffle": True},
    {"sampler": [3, 1, 1, 0], "batch_size": 3},
    {"batch_sampler": [[1, 2], [0], [9, 8, 7]]},
]


@pytest.mark.parametrize("options", ORDERS, ids=str)
@pytest.mark.parametrize("own", [True, False])
def test_order_as_in_torch(options: dict[str, Any], own: bool, torch: Any, data: Any) -> None:
    """Three passes, one of them broken off, and where they leave the random stream."""
    results = []
    for m in (mpigrad, torch):
        m.manual_seed(5)
        generator = m.Generator().manual_seed(9) if own else None
        loader = data(m).DataLoader(range(10), generator=generator, **options)
        next(iter(loader))
        found: list[Any] = [[np.asarray(b).tolist() for b in loader] for _ in range(2)]
        results.append([*found, len(loader), m.rand(1).item(), m.rand(1, generator=generator).item()])
    assert results[0] == results[1]


Point = namedtuple("Point", ["x", "y"])
COLLATED: list[Expression] = [
    lambda m: [m.ones(2), m.zeros(2)],
    lambda m: [np.ones(2), np.zeros(2)],
    lambda m: [1, 2],
    lambda m: [1.5, 2.5],
    lambda m: [True, False],
    lambda m: [np.float32(1), np.float32(2)],
    lambda m: [np.float64(1), np.float64(2)],
    lambda m: [np.int16(1), np.int16(2)],
    lambda m: ["a", "b"],
    lambda m: [(m.ones(2), 1), (m.zeros(2), 2)],
    lambda m: [[1, 2.0], [3, 4.0]],
    lambda m: [{"x": 1, "y": [m.ones(1), "a"]}, {"x": 2, "y": [m.zeros(1), "b"]}],
    lambda m: [Point(1, 2.0), Point(3, 4.0)],
    lambda m: [(1, 2), (3,)],
    lambda m: [m.ones(2), m.ones(3)],
    lambda m: [object()],
    lambda m: [None, None],
]


@pytest.mark.parametrize("batch", COLLATED, ids=lambda b: f"line {b.__code__.co_firstlineno}")
def test_collation_as_in_torch(batch: Expression, same: Callable[[Expression], None], data: Any) -> None:
    same(lambda m: data(m).default_collate(batch(m)))


ERRORS: list[Expression] = [
    lambda d: d.DataLoader([], shuffle=True),
    lambda d: d.DataLoader([1], sampler=[0], shuffle=True),
    lambda d: d.DataLoader([1], batch_sampler=[[0]], batch_size=2),
    lambda d: d.DataLoader([1], batch_sampler=[[0]], drop_last=True),
    lambda d: d.DataLoader([1], batch_size=0),
    lambda d: d.DataLoader([1], batch_size=1.5),
    lambda d: d.Dataset()[0],
    lambda d: d.BatchSampler([1], True, False),
]


@pytest.mark.parametrize("expression", ERRORS, ids=lambda e: f"line {e.__code__.co_firstlineno}")
def test_error_of_the_same_class(expression: Expression, same_class: Callable[[Expression], None], data: Any) -> None:
    same_class(lambda m: expression(data(m)))


def test_empty_dataset() -> None:
    assert list(DataLoader([])) == []
    assert len(DataLoader([], batch_size=3)) == 0
    with pytest.raises(ValueError, match="num_samples should be a positive integer value, but got num_samples=0"):
        DataLoader([], shuffle=True)


class TestTensorDataset:
    def test_rows(self) -> None:
        dataset = TensorDataset(mpigrad.arange(6).reshape(3, 2), mpigrad.arange(3))
        assert len(dataset) == 3
        assert [t.tolist() for t in dataset[1]] == [[2, 3], 1]
        assert [t.tolist() for t in dataset.gather([2, 0])] == [[[4, 5], [0, 1]], [2, 0]]

    def test_batches_in_one_copy_are_the_collated_ones(self) -> None:
        dataset = TensorDataset(mpigrad.rand(10, 3), mpigrad.arange(10))
        gathered = list(DataLoader(dataset, batch_size=4))
        collated = list(DataLoader(dataset, batch_size=4, collate_fn=default_collate))
        assert [[t.tolist() for t in b] for b in gathered] == [[t.tolist() for t in b] for b in collated]
        assert all(type(b) is list for b in gathered + collated)

    @pytest.mark.parametrize("lengths", [(), (2, 3)])
    def test_lengths(self, lengths: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="Size mismatch between tensors: expected tensors of one length, found"):
            TensorDataset(*[mpigrad.zeros(n) for n in lengths])


def test_collate_fn_sees_the_items() -> None:
    loader = DataLoader([5, 6, 7], batch_size=2, collate_fn=lambda batch: batch)
    assert list(loader) == [[5, 6], [7]]


def test_samplers() -> None:
    assert list(SequentialSampler("abc")) == [0, 1, 2]
    assert sorted(RandomSampler("abcd")) == [0, 1, 2, 3]
    assert len(BatchSampler(SequentialSampler("abcde"), 2, True)) == 2
    assert len(BatchSampler(SequentialSampler("abcde"), 2, False)) == 3
    for base in (Sampler().__iter__, Dataset().__len__):
        with pytest.raises(NotImplementedError):
            base()


def test_an_empty_batch_has_the_shape_of_others() -> None:
    """A rank may have no sample of a short last batch."""

    class Squares(Dataset):
        def __getitem__(self, index: int) -> Any:
            return {"x": mpigrad.ones(3) * index, "y": index * index, "name": str(index)}

        def __len__(self) -> int:
            return 5

    whole, empty = DataLoader(Squares(), batch_sampler=[[1, 2], []])
    assert whole["x"].shape == (2, 3) and whole["y"].tolist() == [1, 4] and whole["name"] == ["1", "2"]
    assert empty["x"].shape == (0, 3) and empty["y"].shape == (0,) and empty["name"] == []
    assert [
        t.shape for t in DataLoader(TensorDataset(mpigrad.ones(4, 2)), batch_sampler=[[]]).__iter__().__next__()
    ] == [(0, 2)]
