"""ShardedSampler: every global batch, whatever the number of ranks."""

from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import mpigrad
from mpigrad import data
from mpigrad.ddp import DistributedSampler, ShardedSampler

# torch 2.13: list(DistributedSampler(range(n), 1, 0, seed=s)) after set_epoch(e), by (n, s, e)
PYTORCHS = {
    (10, 0, 0): [4, 1, 7, 5, 3, 9, 0, 8, 6, 2],
    (10, 5, 2): [5, 0, 3, 4, 1, 7, 9, 6, 8, 2],
    (7, 123, 0): [2, 0, 4, 5, 3, 1, 6],
}


def batches(length: int, global_batch: int, world: int, **options: Any) -> list[list[list[int]]]:
    """By rank, then by step: the indices."""
    return [
        list(ShardedSampler(range(length), global_batch, rank=r, world_size=world, **options)) for r in range(world)
    ]


@given(
    length=st.integers(1, 200),
    global_batch=st.integers(1, 64),
    world=st.integers(1, 9),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=200, deadline=None)
def test_the_ranks_together_see_each_global_batch(
    length: int, global_batch: int, world: int, shuffle: bool, drop_last: bool, seed: int
) -> None:
    assume(world <= global_batch and not (drop_last and length < global_batch))
    options = {"shuffle": shuffle, "drop_last": drop_last, "seed": seed}
    found = batches(length, global_batch, world, **options)
    sampler = ShardedSampler(range(length), global_batch, rank=0, world_size=1, **options)
    order = sampler.order(0)
    whole = [order[i : i + global_batch] for i in range(0, length, global_batch)]
    if drop_last:
        whole = [batch for batch in whole if len(batch) == global_batch]
    assert [[*chain(*slices)] for slices in zip(*found, strict=True)] == whole  # in order: the same for every world
    assert len(sampler) == len(whole)
    assert sorted(order) == list(range(length))
    for slices in zip(*found, strict=True):
        lengths = [len(s) for s in slices]
        assert max(lengths) - min(lengths) <= 1


@given(length=st.integers(1, 99), extra=st.integers(0, 40), shards=st.integers(1, 12), world=st.integers(1, 12))
def test_shards_stay_whole(length: int, extra: int, shards: int, world: int) -> None:
    assume(world <= shards)
    alone = batches(length, shards + extra, shards)  # a rank for each shard
    found = batches(length, shards + extra, world, shards=shards)
    for rank in range(world):
        mine = alone[shards * rank // world : shards * (rank + 1) // world]
        assert found[rank] == [[*chain(*parts)] for parts in zip(*mine, strict=True)]


def test_epochs() -> None:
    sampler = ShardedSampler(range(50), 10, rank=1, world_size=2, seed=3)
    first, second = list(sampler), list(sampler)
    assert first != second and sorted(chain(*first)) != sorted(chain(*second))
    sampler.set_epoch(1)
    assert list(sampler) == second and sampler.epoch == 2
    again = ShardedSampler(range(50), 10, rank=1, world_size=2, seed=3)
    assert [list(again), list(again)] == [first, second]
    assert list(ShardedSampler(range(50), 10, rank=1, world_size=2, seed=4)) == second  # the order of seed + epoch
    in_order = ShardedSampler(range(5), 2, rank=0, world_size=1, shuffle=False)
    assert list(in_order) == list(in_order) == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("length, seed, epoch", PYTORCHS)
def test_the_order_is_pytorchs(length: int, seed: int, epoch: int) -> None:
    assert ShardedSampler(range(length), 1, seed=seed).order(epoch) == PYTORCHS[length, seed, epoch]


@pytest.mark.mpi_skip
@pytest.mark.parametrize("length, seed, epoch", [*PYTORCHS, (1797, 2**31, 7)])
def test_the_order_is_that_of_the_installed_pytorch(length: int, seed: int, epoch: int) -> None:
    torch_data = pytest.importorskip("torch.utils.data", reason="the oracle extra (torch) is not installed")
    theirs = torch_data.DistributedSampler(range(length), 1, 0, seed=seed)
    theirs.set_epoch(epoch)
    assert ShardedSampler(range(length), 1, seed=seed).order(epoch) == list(theirs)


@pytest.mark.parametrize(
    "length, options, message",
    [
        (0, {}, "expected a dataset with at least one sample, found an empty one"),
        (9, {"global_batch": 2}, r"at least one sample per rank \(3\), found 2"),
        (9, {"global_batch": 0, "world_size": 1, "rank": 0}, "found 0"),
        (9, {"global_batch": 10, "drop_last": True}, "one whole global batch of 10 samples with drop_last, found 9"),
        (9, {"rank": 3}, "expected a rank from 0 to 2 in a world of 3, found 3"),
        (9, {"rank": -1}, "found -1"),
        (9, {"shards": 2}, r"shards: expected at least one for each of 3 rank\(s\), found 2"),
        (9, {"shards": 8}, r"at least one sample per shard \(8\), found 4; .* or ask for fewer shards"),
    ],
)
def test_errors(length: int, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShardedSampler(range(length), **{"global_batch": 4, "rank": 0, "world_size": 3, **options})


def test_loader(world: Any) -> None:
    """Batches with data, the last one too short for all ranks: somebody gets an empty one."""
    size, length = world.size, 4 * world.size + (1 if world.size > 1 else 0)
    dataset = data.TensorDataset(
        mpigrad.from_numpy(np.arange(3.0 * length).reshape(length, 3)), mpigrad.from_numpy(np.arange(length))
    )

    def main() -> list[list[int]]:
        loader = data.DataLoader(dataset, batch_sampler=ShardedSampler(dataset, 2 * size))
        assert len(loader) == (3 if size > 1 else 2)
        seen = []
        for images, labels in loader:
            assert images.shape == (len(labels), 3) and labels.dtype is mpigrad.int64
            assert images.tolist() == [[3.0 * i, 3.0 * i + 1, 3.0 * i + 2] for i in labels.tolist()]
            seen.append(labels.tolist())
        return seen

    ranks = world(main)
    assert sorted(i for batches in ranks for batch in batches for i in batch) == list(range(length))
    if size > 1:
        assert sorted(len(batches[-1]) for batches in ranks) == [0] * (size - 1) + [1]


@pytest.mark.mpi_skip
@given(
    length=st.integers(0, 300),
    replicas=st.integers(1, 12),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
    seed=st.integers(0, 2**63),
    epochs=st.lists(st.integers(0, 1000), max_size=3),
)
@settings(max_examples=200, deadline=None)
def test_distributed_sampler_is_pytorchs(
    length: int, replicas: int, shuffle: bool, drop_last: bool, seed: int, epochs: list[int]
) -> None:
    torch_data = pytest.importorskip("torch.utils.data", reason="the oracle extra (torch) is not installed")
    dealt = []
    for rank in range(replicas):
        arguments = (range(length), replicas, rank, shuffle, seed, drop_last)
        ours, theirs = DistributedSampler(*arguments), torch_data.DistributedSampler(*arguments)
        assert (len(ours), ours.num_samples, ours.total_size) == (len(theirs), theirs.num_samples, theirs.total_size)
        for epoch in (None, *epochs):
            if epoch is not None:
                ours.set_epoch(epoch)
                theirs.set_epoch(epoch)
            assert list(ours) == list(theirs)
        dealt += list(ours)
    missing = set(range(length)) - set(dealt)  # nothing, or the tail that is dropped
    assert len(missing) == (length % replicas if drop_last else 0)


def test_distributed_sampler_without_pytorch() -> None:
    dealt = [list(DistributedSampler(range(7), 3, rank, seed=123)) for rank in range(3)]
    assert dealt == [[2, 5, 6], [0, 3, 2], [4, 1, 0]]
    with pytest.raises(ValueError, match="Invalid rank 3, rank should be in the interval"):
        DistributedSampler(range(7), 3, 3)
