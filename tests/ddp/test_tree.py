"""The canonical tree: the same bits from any number of ranks."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpigrad import ddp
from mpigrad.ddp.comm import simulated
from mpigrad.ddp.tree import Cut, partial_sums, sum_over_shards


def by_formula(parts: list[np.ndarray], lo: int, hi: int) -> np.ndarray:
    mid = (lo + hi) // 2
    return parts[lo] if hi - lo == 1 else by_formula(parts, lo, mid) + by_formula(parts, mid, hi)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 200))
def test_a_cut_gives_everything_once(shards: int, ranks: int, samples: int) -> None:
    if shards < ranks:
        with pytest.raises(ValueError, match=rf"one for each of {ranks} rank\(s\), found {shards}"):
            Cut(shards, ranks)
        return
    cut = Cut(shards, ranks)
    everyone = range(ranks)
    assert [v for rank in everyone for v in cut.of(rank)] == [*range(shards)]
    assert [i for rank in everyone for i in cut.samples_of(rank, samples)] == [*range(samples)]
    for rank in everyone:
        nodes = cut.subtrees(rank)
        assert [v for lo, hi in nodes for v in range(lo, hi)] == [*cut.of(rank)]
        assert len(nodes) <= 2 * shards.bit_length()
        assert len(cut.of(rank)) >= 1


def test_subtrees() -> None:
    assert [Cut(8, 3).subtrees(rank) for rank in range(3)] == [[(0, 2)], [(2, 4), (4, 5)], [(5, 6), (6, 8)]]
    assert Cut(8, 1).subtrees(0) == [(0, 8)]


def sums(cut: Cut, rank: int, parts: list[np.ndarray]) -> list[np.ndarray]:
    spare: list[Any] = []
    found = partial_sums(cut, rank, lambda shard: [parts[shard].copy()], spare)
    assert len(found) + len(spare) == len(cut.of(rank))  # every array of a leaf is a sum or free again
    return [arrays[0] for arrays in found]


@pytest.mark.parametrize("shards", [5, 8, 12])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sum_over_shards(world: Any, shards: int, dtype: Any) -> None:
    rng = np.random.default_rng(shards)
    parts = [(rng.standard_normal(24) * 10.0 ** rng.integers(-4, 4, 24)).astype(dtype) for _ in range(shards)]
    expected = by_formula(parts, 0, shards) / dtype(3)

    def main() -> None:
        cut = Cut(shards, ddp.get_world_size())
        found = sum_over_shards(ddp.world(), cut, sums(cut, ddp.get_rank(), parts), 3)
        np.testing.assert_array_equal(found, expected)

    world(main)


@pytest.mark.mpi_skip
@pytest.mark.parametrize("ranks", [5, 6, 7, 8])
def test_larger_worlds(ranks: int) -> None:
    parts = [*np.random.default_rng(0).standard_normal((11, 2 * ranks)).astype(np.float32)]

    def main() -> None:
        communicator = simulated.current.communicator
        assert communicator is not None
        cut = Cut(11, ranks)
        found = sum_over_shards(communicator, cut, sums(cut, communicator.rank, parts))
        np.testing.assert_array_equal(found, by_formula(parts, 0, 11))

    simulated.run(ranks, main, timeout=30)
