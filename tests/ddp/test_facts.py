"""Facts tell apart what differs, and describe the same thing by the same text twice."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from mpigrad.data import Dataset, IterableDataset

import mpigrad
from mpigrad import nn, optim
from mpigrad.ddp.facts import facts_of, surroundings


class Items(Dataset[Any]):
    """Items that a function makes of their numbers."""

    def __init__(self, item: Callable[[int], Any], count: int = 20) -> None:
        self.item, self.count = item, count

    def __getitem__(self, index: Any) -> Any:
        assert 0 <= index < self.count
        return self.item(index)

    def __len__(self) -> int:
        return self.count


class Stream(IterableDataset[int]):
    first = 3

    def __iter__(self) -> Any:
        raise AssertionError("not to be read")


DIFFERENT_ITEMS: list[Callable[[int], Any]] = [
    lambda i: i,
    lambda i: i + 1,
    lambda i: float(i),
    lambda i: str(i),
    lambda i: (i, i),
    lambda i: ((i, i),),
    lambda i: {"a": i},
    lambda i: {"b": i},
    lambda i: np.int64(i),
    lambda i: np.array([i]),
    lambda i: mpigrad.tensor([i, 1]),
    lambda i: mpigrad.tensor([i, 2]),
    lambda i: object(),
    lambda i: np.array([i, None]),
]


def fingerprint(item: Callable[[int], Any], count: int = 20) -> str:
    return facts_of("data", Items(item, count))["data.fingerprint"]


def test_fingerprints_of_datasets() -> None:
    found = [fingerprint(item) for item in DIFFERENT_ITEMS]
    assert len(set(found)) == len(found)
    assert found == [fingerprint(item) for item in DIFFERENT_ITEMS]
    assert fingerprint(lambda i: int(i == 19)) != fingerprint(lambda i: 0)


@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 9])
def test_small_datasets(count: int) -> None:
    facts = facts_of("data", Items(lambda i: i, count))
    assert facts["data.length"] == str(count)
    assert facts["data.fingerprint"].count(",") == max(0, min(count, 8) - 1)


def test_random_transforms_are_equal_everywhere_and_leave_no_trace() -> None:
    draws = lambda: (random.random(), np.random.rand(), mpigrad.rand(1).item())
    transform = lambda i: (i, *draws())
    mpigrad.manual_seed(5)
    before = random.getstate(), np.random.get_state()[1].tolist(), mpigrad.get_rng_state().tolist()  # type: ignore[index]
    first = fingerprint(transform)
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), mpigrad.get_rng_state().tolist())  # type: ignore[index]
    draws()  # as on a rank whose generators stand elsewhere
    assert fingerprint(transform) == first
    assert fingerprint(lambda i: i) != first


def test_a_stream_is_not_read() -> None:
    assert facts_of("data", Stream()) == {"data": "Stream"}


def test_modules_and_optimizers() -> None:
    module = nn.Sequential(nn.Linear(2, 3, bias=False), nn.BatchNorm1d(3))
    module[0].requires_grad_(False)
    optimizer = optim.SGD(
        [{"params": module[1].parameters(), "lr": mpigrad.tensor(0.5)}, {"params": [mpigrad.ones(4)]}]
    )
    assert facts_of("model", module) == {
        "model": "Sequential",
        "model.0.weight": "frozen float32 [3, 2]",
        "model.1.weight": "trained float32 [3]",
        "model.1.bias": "trained float32 [3]",
        "model.1.running_mean": "buffer float32 [3]",
        "model.1.running_var": "buffer float32 [3]",
        "model.1.num_batches_tracked": "buffer int64 []",
    }
    facts = facts_of("it", optimizer)
    assert (facts["it"], facts["it.param_groups[0].lr"], facts["it.param_groups[1].lr"]) == ("SGD", "0.5", "0.001")
    assert (facts["it.param_groups[0].params"], facts["it.param_groups[1].params"]) == ("[3], [3]", "[4]")


def test_functions_sets_and_arrays() -> None:
    assert facts_of("f", nn.functional.relu)["f"].endswith(".relu")
    assert facts_of("f", {"b", "a"}) == facts_of("f", {"a", "b"}) == {"f": "[\"'a'\", \"'b'\"]"}
    array = np.arange(6.0).reshape(2, 3)
    assert facts_of("a", array) == facts_of("a", np.asfortranarray(array)) == facts_of("a", mpigrad.from_numpy(array))
    assert facts_of("a", array) != facts_of("a", array.astype(np.float32))


def test_surroundings() -> None:
    facts = surroundings()
    assert facts["numpy"] == np.__version__
    files, digest = facts["mpigrad"].split(", digest ")
    assert int(files.split()[0]) > 150
    assert len(digest) == 16
