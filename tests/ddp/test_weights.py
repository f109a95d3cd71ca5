"""The mean over tokens, or whatever else the passes weigh."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from whole_batch import TINY, assert_same, classifier, cross_entropy, gradients, labelled, slices

from mpigrad import Tensor, ddp
from mpigrad.ddp import DistributedDataParallel
from mpigrad.ddp.comm import simulated

IGNORED = -100


def masked(size: int) -> tuple[Tensor, Tensor, list[slice]]:
    """Three samples for each rank, of which other numbers are ignored; on the last of several ranks all are."""
    x, labels = labelled(3 * size)
    for rank in range(size):
        labels[3 * rank : 3 * rank + rank % 3] = IGNORED
    if size > 1:
        labels[-3:] = IGNORED
    return x, labels, slices([3] * size)


def weighted(model: DistributedDataParallel, x: Tensor, labels: Tensor, here: slice) -> dict[str, Any]:
    """The gradients when a rank's batch weighs as many as are not ignored of it."""
    loss = cross_entropy(model(x[here]), labels[here], ignore_index=IGNORED)
    model.weight((labels[here] != IGNORED).sum().item())
    loss.backward()
    return gradients(model)


def test_the_mean_over_what_is_not_ignored(world: Any) -> None:
    x, labels, ranks = masked(world.size)

    def main() -> Any:
        return weighted(DistributedDataParallel(classifier(), **TINY), x, labels, ranks[ddp.get_rank()])

    alone = classifier()
    cross_entropy(alone(x), labels, ignore_index=IGNORED).backward()
    for found in world(main):
        assert_same(found, gradients(alone), rtol=1e-9)


def test_tokens_in_shards_mode(world: Any) -> None:
    """The bits of one rank, and the mean over all tokens."""
    count, shards = 16, 8
    x, labels = labelled(count)
    labels[::3] = IGNORED

    def main() -> Any:
        sampler = ddp.ShardedSampler(range(count), count, shuffle=False, shards=shards)
        (here,) = list(sampler)
        return weighted(DistributedDataParallel(classifier(), shards=shards), x, labels, here)

    alone = classifier()
    cross_entropy(alone(x), labels, ignore_index=IGNORED).backward()
    (expected,) = simulated.run(1, lambda: joined(main))
    assert_same(expected, gradients(alone), rtol=1e-9)
    for found in world(main):
        assert_same(found, expected, rtol=0)


def joined(main: Callable[[], Any]) -> Any:
    ddp.init_process_group()
    return main()


@pytest.mark.mpi_skip
@settings(max_examples=50, deadline=None)
@given(
    weights=st.integers(1, 4).flatmap(
        lambda n: st.lists(st.lists(st.floats(0, 9, width=16), min_size=n, max_size=n), min_size=1, max_size=3)
    )
)
def test_any_weights(weights: list[list[float]]) -> None:
    """The mean gradient by these weights, over ranks and accumulated passes."""
    passes, ranks = len(weights), len(weights[0])
    x, labels = labelled(2 * passes * ranks)

    def at(number: int, rank: int) -> slice:
        return slices([2] * passes * ranks)[number * ranks + rank]

    def main() -> Any:
        ddp.init_process_group()
        wrapped = DistributedDataParallel(classifier(), **TINY)
        for number in range(passes):
            here = at(number, ddp.get_rank())
            with wrapped.no_sync() if number < passes - 1 else nullcontext():
                loss = cross_entropy(wrapped(x[here]), labels[here]) / passes
                wrapped.weight(weights[number][ddp.get_rank()])
                loss.backward()
        return gradients(wrapped)

    alone, whole = classifier(), float(np.sum(weights))
    results = simulated.run(ranks, main, timeout=30)
    if whole:
        loss = sum(
            cross_entropy(alone(x[at(n, r)]), labels[at(n, r)]) * (weights[n][r] / whole)
            for n in range(passes)
            for r in range(ranks)
        )
        loss.backward()
        for found in results:
            assert_same(found, gradients(alone), rtol=1e-9)
    else:
        assert not any(g.any() for found in results for g in found.values())


@pytest.mark.parametrize("weight", [-1, float("nan"), float("inf")])
def test_weights_that_are_none(world: Any, weight: float) -> None:
    def main() -> None:
        with pytest.raises(ValueError, match=r"weight: expected a finite number of at least 0, found (-1|nan|inf)"):
            DistributedDataParallel(classifier()).weight(weight)

    world(main)
