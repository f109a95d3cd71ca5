"""DataLoader: torch's order for the same seed, batches, collation and errors."""

from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from mpigrad.data import DataLoader, Dataset, TensorDataset

import mpigrad
from mpigrad.core.data.loader import at_most

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
    {"batch_size": 20, "drop_last": True},
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
        next(iter(loader), None)
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
    lambda m: [np.array(["a"]), np.array(["b"])],
    lambda m: [b"a", b"b"],
    lambda m: [OrderedDict(x=1), OrderedDict(x=2)],
    lambda m: [defaultdict(int, x=1), defaultdict(int, x=2)],
    lambda m: [range(2), range(2)],
    lambda m: [[], []],
    lambda m: [(np.float32(1), True), (np.float32(2), False)],
    lambda m: [1, 2.5],
    lambda m: [m.ones(0), m.zeros(0)],
    lambda m: [m.ones(2), 1],
    lambda m: [],
]
CONVERTED: list[Expression] = [
    lambda m: np.arange(3),
    lambda m: np.float32(3),
    lambda m: np.array(["a"]),
    lambda m: [np.arange(2), 1, "a", (np.ones(1), 2.5)],
    lambda m: {"x": np.zeros(2), "y": Point(np.ones(1), None)},
    lambda m: m.ones(2),
    lambda m: range(3),
    lambda m: None,
]


@pytest.mark.parametrize("item", CONVERTED)
def test_conversion_as_in_torch(item: Expression, same: Callable[[Expression], None], data: Any) -> None:
    same(lambda m: data(m).default_convert(item(m)))


@pytest.mark.parametrize("batch", COLLATED)
def test_collation_as_in_torch(batch: Expression, same: Callable[[Expression], None], data: Any) -> None:
    same(lambda m: data(m).default_collate(batch(m)))


ERRORS: list[Expression] = [
    lambda d: d.DataLoader([], shuffle=True),
    lambda d: d.DataLoader([1], sampler=[0], shuffle=True),
    lambda d: d.DataLoader([1], batch_sampler=[[0]], batch_size=2),
    lambda d: d.DataLoader([1], batch_sampler=[[0]], drop_last=True),
    lambda d: d.DataLoader([1], batch_size=0),
    lambda d: d.DataLoader([1], batch_size=1.5),
    lambda d: d.DataLoader([1], batch_size=None, drop_last=True),
    lambda d: d.DataLoader([1], num_workers=-1),
    lambda d: d.DataLoader([1], timeout=-1),
    lambda d: d.DataLoader([1], prefetch_factor=2),
    lambda d: d.DataLoader([1], num_workers=1, prefetch_factor=-1),
    lambda d: d.DataLoader([1], persistent_workers=True),
    lambda d: d.DataLoader([1], multiprocessing_context="spawn"),
    lambda d: d.DataLoader([1], num_workers=1, multiprocessing_context="thread"),
    lambda d: d.DataLoader([1], num_workers=1, multiprocessing_context=3),
    lambda d: d.DataLoader(d.ChainDataset([]), shuffle=True),
    lambda d: d.DataLoader(d.ChainDataset([]), sampler=[1]),
    lambda d: d.DataLoader(d.ChainDataset([]), batch_sampler=[[1]]),
    lambda d: setattr(d.DataLoader([1]), "batch_size", 3),
    lambda d: setattr(d.DataLoader([1]), "dataset", [2]),
    lambda d: d.default_collate([[1], [1, 2]]),
    lambda d: d.IterableDataset(),
]


@pytest.mark.parametrize("expression", ERRORS)
def test_error_of_the_same_class(expression: Expression, same_class: Callable[[Expression], None], data: Any) -> None:
    same_class(lambda m: expression(data(m)))


def test_empty_dataset() -> None:
    assert list(DataLoader([])) == []
    assert len(DataLoader([], batch_size=3)) == 0
    with pytest.raises(ValueError, match="num_samples should be a positive integer value, but got num_samples=0"):
        DataLoader([], shuffle=True)


def test_collate_fn_sees_the_items() -> None:
    loader = DataLoader([5, 6, 7], batch_size=2, collate_fn=lambda batch: batch)
    assert list(loader) == [[5, 6], [7]]


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


class Count:
    """A stream of numbers, of a stated length, for both libraries."""

    def __init__(self, base: Any, length: int, stated: int | None = None) -> None:
        class Stream(base):  # type: ignore[misc]
            def __iter__(self) -> Any:
                return iter(range(length))

            if stated is not None:

                def __len__(self) -> int:
                    return stated

        self.stream = Stream()


@pytest.mark.parametrize(
    "options", [{}, {"batch_size": 3}, {"batch_size": 4, "drop_last": True}, {"batch_size": None}], ids=str
)
def test_streams_as_in_torch(options: dict[str, Any], same: Callable[[Expression], None], data: Any) -> None:
    def passes(m: Any) -> Any:
        m.manual_seed(2)
        loader = data(m).DataLoader(Count(data(m).IterableDataset, 7, 7).stream, **options)
        return len(loader), list(loader), list(loader), m.rand(1)

    same(passes)


def test_a_stream_longer_than_it_says(data: Any) -> None:
    loader = DataLoader(Count(mpigrad.data.IterableDataset, 3, 2).stream)
    assert len([*iter(loader)]) == 3  # nobody asked for the length
    assert len(loader) == 2
    with pytest.warns(UserWarning, match="was reported to be 2 .* but 3 samples have been fetched"):
        assert len([*iter(loader)]) == 3


def test_pin_memory_without_a_gpu() -> None:
    with pytest.warns(UserWarning, match="'pin_memory' argument is set as true but no accelerator is found"):
        assert [b.tolist() for b in DataLoader([1, 2], pin_memory=True)] == [[1], [2]]


def test_items_by_getitems() -> None:
    """A dataset may fetch many items at once."""

    class Many(Dataset):
        def __getitems__(self, indices: list[int]) -> list[int]:
            return [100 + i for i in indices]

        def __len__(self) -> int:
            return 3

    assert [b.tolist() for b in DataLoader(Many(), 2)] == [[100, 101], [102]]


def test_module_names() -> None:
    import mpigrad.utils.data

    assert mpigrad.utils.data.DataLoader is DataLoader


def test_limited_passes() -> None:
    """In this thread, and within the block: passes end early, and it is known whether they did."""
    loader = DataLoader(TensorDataset(mpigrad.arange(6)), 2)
    with at_most(5) as outer:
        with at_most(2) as limit:
            assert not limit.reached and [x.tolist() for (x,) in loader] == [[0, 1], [2, 3]]
            assert limit.reached and len(list(loader)) == 2
        assert len(list(loader)) == 3 and not outer.reached
    assert len(list(loader)) == 3
