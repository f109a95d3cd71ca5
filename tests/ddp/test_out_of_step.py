"""Ranks that do not do the same are told so."""

from collections.abc import Callable
from typing import Any

import pytest
from whole_batch import TINY, classifier, cross_entropy, data, labelled, loss, mlp

import mpigrad
from mpigrad import ddp, optim
from mpigrad.ddp import DistributedDataParallel
from mpigrad.ddp.comm import simulated


@pytest.mark.parametrize("passes", [lambda r, n: r + 1, lambda r, n: 2 if r == n - 1 else 1], ids=["all", "one"])
def test_different_numbers_of_passes(world: Any, passes: Callable[[int, int], int]) -> None:
    """On every rank, also on one that has the average number."""
    if world.size == 1:
        pytest.skip("one rank differs from nobody")

    def main() -> None:
        model, count = DistributedDataParallel(mlp(), **TINY), passes(ddp.get_rank(), world.size)
        with model.no_sync():
            for _ in range(count - 1):
                loss(model, *data(2)).backward()
        message = f"rank {ddp.get_rank()} accumulated {count} backward passes, the average over all ranks is"
        with pytest.raises(RuntimeError, match=message):
            loss(model, *data(2)).backward()

    world(main)


@pytest.mark.mpi_skip
def test_memory_that_moved_on_one_rank() -> None:
    def main() -> None:
        ddp.init_process_group()
        model = DistributedDataParallel(mlp(), **TINY)
        if ddp.get_rank() == 1:
            model.module[2].weight.data = mpigrad.ones(4, 7)
        with pytest.raises(RuntimeError, match="the ranks' parameters lie in memory in different orders"):
            loss(model, *data(2)).backward()

    simulated.run(3, main, timeout=10)


@pytest.mark.mpi_skip
def test_a_rank_that_skips_its_backward_pass() -> None:
    def main() -> None:
        ddp.init_process_group()
        model: Any = DistributedDataParallel(mlp())
        if ddp.get_rank() != 1:
            loss(model, *data(2)).backward()

    with pytest.raises(ddp.CollectiveTimeout, match=r"for exchange of sample counts \(number .*'gradients'"):
        simulated.run(3, main)


def test_a_step_on_gradients_of_one_rank(world: Any) -> None:
    def main() -> None:
        x, labels = labelled(2, seed=ddp.get_rank())
        wrapped, other = DistributedDataParallel(classifier()), DistributedDataParallel(classifier(5))
        optimizer, others = (optim.SGD(m.parameters(), lr=0.1) for m in (wrapped, other))
        for m in (wrapped, other):
            cross_entropy(m(x), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        for count in (1, 2):
            with wrapped.no_sync():
                cross_entropy(wrapped(x), labels).backward()
            match = rf"SGD.step: expected gradients that all ranks share, found those of {count} backward pass"
            with pytest.raises(RuntimeError, match=match):
                optimizer.step()
        others.step()  # has nothing to do with it
        optimizer.zero_grad()
        optimizer.step()  # nothing to step on
        cross_entropy(wrapped(x), labels).backward()
        optimizer.step()
        digests = ddp.world().all_gather_object(ddp.digest(wrapped.state_dict()))
        assert len(set(digests)) == 1

    world(main)
