"""Datasets and those made of others, against torch's."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from mpigrad.data import DataLoader, Dataset, StackDataset, Subset, TensorDataset, default_collate

import mpigrad

Expression = Callable[[Any], Any]


@pytest.fixture
def data(torch: Any) -> Callable[[Any], Any]:
    """The module with datasets of a library, and two kinds of datasets made with it."""
    import torch.utils.data as theirs

    def module(m: Any) -> Any:
        d = mpigrad.data if m is mpigrad else theirs

        class Numbers(d.Dataset):  # type: ignore[misc]
            def __init__(self, first: int, count: int) -> None:
                self.numbers = range(first, first + count)

            def __getitem__(self, index: int) -> int:
                return self.numbers[index]

            def __len__(self) -> int:
                return len(self.numbers)

        class Stream(Numbers, d.IterableDataset):  # type: ignore[misc]
            def __iter__(self) -> Iterator[int]:
                return iter(self.numbers)

        d.Numbers, d.Stream = Numbers, Stream
        return d

    return module


EXPRESSIONS: list[Expression] = [
    lambda m, d: [d.StackDataset(d.Numbers(0, 3), d.Numbers(5, 3))[i] for i in (0, 2, -1)],
    lambda m, d: d.StackDataset(a=d.Numbers(0, 3), b=d.Numbers(5, 3))[1],
    lambda m, d: d.StackDataset(a=d.Numbers(0, 3), b=d.Subset(range(9), [8, 7, 6])).__getitems__([2, 0]),
    lambda m, d: d.StackDataset(d.Numbers(0, 3), d.Subset(range(9), [8, 7, 6])).__getitems__([]),
    lambda m, d: len(d.StackDataset(d.Numbers(0, 3))),
    lambda m, d: d.StackDataset(),
    lambda m, d: d.StackDataset(d.Numbers(0, 3), a=d.Numbers(0, 3)),
    lambda m, d: d.StackDataset(d.Numbers(0, 3), d.Numbers(0, 4)),
    lambda m, d: [(d.Numbers(0, 3) + d.Numbers(7, 2) + d.Numbers(1, 1))[i] for i in (0, 2, 3, 4, 5, -1, -6)],
    lambda m, d: (len(x := d.ConcatDataset([d.Numbers(0, 3), d.Numbers(7, 0), [1]])), x.cumulative_sizes, x[3]),
    lambda m, d: (d.Numbers(0, 3) + d.Numbers(7, 2))[-6],
    lambda m, d: (d.Numbers(0, 3) + d.Numbers(7, 2))[5],
    lambda m, d: d.ConcatDataset([]),
    lambda m, d: d.ConcatDataset([d.Stream(0, 3)]),
    lambda m, d: (list(x := d.Stream(0, 3) + d.Stream(5, 1)), len(x), list(x)),
    lambda m, d: list(d.ChainDataset([d.Stream(0, 3), d.Numbers(0, 1)])),
    lambda m, d: list(d.ChainDataset([])),
    lambda m, d: [d.Subset(range(10), [7, 5, 3])[i] for i in (0, -1)],
    lambda m, d: d.Subset(m.arange(10), [7, 5, 3])[[0, 2]],
    lambda m, d: d.Subset(d.Subset(range(10), [7, 5, 3]), [2, 0]).__getitems__([1, 0]),
    lambda m, d: d.TensorDataset(m.arange(6).reshape(3, 2), m.arange(3))[1],
    lambda m, d: d.TensorDataset(m.arange(6).reshape(3, 2))[1:],
    lambda m, d: d.TensorDataset(m.arange(6).reshape(3, 2))[3],
    lambda m, d: d.Dataset()[0],
    lambda m, d: d.Dataset[int],
    lambda m, d: [x.indices for x in d.random_split(range(10), [3, 7])] + [m.rand(1)],
    lambda m, d: [x.indices for x in d.random_split(range(10), [3, 7], m.Generator().manual_seed(1))],
    lambda m, d: [x.indices for x in d.random_split(range(11), [0.3, 0.3, 0.4])],
    lambda m, d: [x.indices for x in d.random_split(range(3), [1, 2])],
    lambda m, d: [x.indices for x in d.random_split(range(1), [1])],
    lambda m, d: d.random_split(range(10), [3, 6]),
    lambda m, d: d.random_split(range(10), [-0.5, 1.5]),
    lambda m, d: d.random_split(range(10), [0.3, 0.3]),
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_as_in_torch(expression: Any, same: Any, same_class: Any, data: Any, torch: Any) -> None:
    def run(m: Any) -> Any:
        m.manual_seed(3)
        return expression(m, data(m))

    try:
        run(torch)
    except Exception:  # noqa: BLE001  (the class of the error is compared)
        same_class(run)
    else:
        same(lambda m: str(run(m)).replace("utils.data.dataset", "core.data.dataset") if m is torch else str(run(m)))


def test_an_empty_part_is_warned_of(torch: Any) -> None:
    with pytest.warns(UserWarning, match="Length of split at index 1 is 0. This might result in an empty dataset."):
        first, second = mpigrad.data.random_split(range(2), [0.9, 0.1])
    assert sorted(first) == [0, 1] and len(second) == 0


class TestTensorDataset:
    def test_rows(self) -> None:
        dataset = TensorDataset(mpigrad.arange(6).reshape(3, 2), mpigrad.arange(3))
        assert len(dataset) == 3
        assert [t.tolist() for t in dataset[1]] == [[2, 3], 1]
        assert [t.tolist() for t in dataset.gather([2, 0])] == [[[4, 5], [0, 1]], [2, 0]]

    @pytest.mark.parametrize("subset", [False, True])
    def test_batches_in_one_copy_are_the_collated_ones(self, subset: bool) -> None:
        dataset: Any = TensorDataset(mpigrad.rand(10, 3), mpigrad.arange(10))
        if subset:
            dataset = Subset(dataset, [9, 8, 3, 1, 2])
        gathered = list(DataLoader(dataset, batch_size=4))
        collated = list(DataLoader(dataset, batch_size=4, collate_fn=lambda b: default_collate(b)))
        assert [[t.tolist() for t in b] for b in gathered] == [[t.tolist() for t in b] for b in collated]
        assert all(type(b) is list for b in gathered + collated)

    def test_a_subclass_with_items_of_its_own(self) -> None:
        class Doubled(TensorDataset):
            def __getitem__(self, index: Any) -> Any:
                return super().__getitem__(index)[0] * 2

        for dataset in (Doubled(mpigrad.arange(3)), Subset(Doubled(mpigrad.arange(4)), [0, 1, 2])):
            assert [b.tolist() for b in DataLoader(dataset, 2)] == [[0, 2], [4]]

    @pytest.mark.parametrize("lengths", [(), (2, 3)])
    def test_lengths(self, lengths: tuple[int, ...]) -> None:
        with pytest.raises(
            AssertionError, match="Size mismatch between tensors: expected tensors of one length, found"
        ):
            TensorDataset(*[mpigrad.zeros(n) for n in lengths])


def test_a_subset_must_be_read_in_one_way() -> None:
    class Half(Subset):
        def __getitem__(self, index: Any) -> Any:
            return super().__getitem__(index) / 2

    with pytest.raises(NotImplementedError, match="Half overrides __getitem__ but not __getitems__"):
        Half([1, 2], [0])


def test_parts_that_give_too_few_items() -> None:
    class Short(Dataset):
        def __getitems__(self, indices: list[int]) -> list[int]:
            return [0]

        def __len__(self) -> int:
            return 3

    with pytest.raises(ValueError, match="output size mismatch"):
        StackDataset(Short(), np.arange(3)).__getitems__([0, 1])
