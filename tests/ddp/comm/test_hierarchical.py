"""Sums inside machines and between them, on machines that are made up: needs mpirun. Real ones: test_two_nodes.py."""

import os
from collections.abc import Iterator

import numpy as np
import pytest
from whole_batch import assert_trains_alike

from mpigrad.ddp.process_group import promised_size

RANKS = promised_size() or 1
if RANKS == 1:
    pytest.skip("needs mpirun", allow_module_level=True)

from mpi4py import MPI  # noqa: E402

from mpigrad.ddp.comm import hierarchical, shm  # noqa: E402
from mpigrad.ddp.comm.hierarchical import HierarchicalCommunicator  # noqa: E402
from mpigrad.ddp.comm.mpi import MPICommunicator  # noqa: E402

pytestmark = pytest.mark.mpi

MACHINES = {
    "one": [0] * RANKS,
    "pairs": [rank // 2 for rank in range(RANKS)],
    "in turns": [rank % 2 for rank in range(RANKS)],
    "backwards": [RANKS - rank // 2 for rank in range(RANKS)],
    "first alone": [0] + [1] * (RANKS - 1),
    "all alone": list(range(RANKS)),
}


@pytest.fixture(params=MACHINES)
def machines(request: pytest.FixtureRequest) -> list[int]:
    """On which machine each rank is."""
    found: list[int] = MACHINES[request.param]
    return found


@pytest.fixture
def comm(machines: list[int]) -> Iterator[HierarchicalCommunicator]:
    if not shm.POSSIBLE:
        pytest.skip("no shared memory between processes on this kind of machine")
    node = machines[MPI.COMM_WORLD.rank]
    communicator = HierarchicalCommunicator(MPI.COMM_WORLD, name="machines", timeout=20, node=node)
    yield communicator
    communicator.close()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_sums_in_a_fixed_order(
    comm: HierarchicalCommunicator, machines: list[int], dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit: in rank order on each machine, then in the order of the machines' first ranks."""
    monkeypatch.setattr(hierarchical, "SHORT", 5)
    monkeypatch.setattr(hierarchical._Inside, "block", 64)
    wide = np.float32 if dtype == np.float16 else dtype
    for size in (0, 1, 3, 13, 1001):
        array = comm.allocate(size, np.dtype(dtype))
        for weights in ([1] * RANKS, range(1, RANKS + 1)):
            parts = [np.random.default_rng(r).standard_normal(size).astype(dtype) for r in range(RANKS)]
            array[:] = parts[comm.rank]
            total = float(sum(weights))
            comm.weighted_sum_start(array, weights[comm.rank], lambda t=total: t, "sum").wait()
            expected = None
            for node in dict.fromkeys(machines):
                ranks = [r for r in range(RANKS) if machines[r] == node]
                factors = [wide(weights[r] / total) for r in ranks]
                scaled = [parts[r].astype(wide) for r in ranks]
                if len(set(factors)) > 1:
                    scaled = [f * p for f, p in zip(factors, scaled, strict=True)]
                here = scaled[0]
                for part in scaled[1:]:
                    here = here + part
                if len(set(factors)) == 1:
                    here = here * factors[0]
                expected = here if expected is None else expected + here
            np.testing.assert_array_equal(array, expected.astype(dtype), strict=True)


def test_duplicates_and_parts_are_on_the_same_machines(comm: HierarchicalCommunicator) -> None:
    for other in (comm.duplicate("other"), comm.split(range(RANKS), "all")):
        assert isinstance(other, HierarchicalCommunicator) and other._node == comm._node
        array = other.allocate(3, np.dtype(np.float32))
        array[:] = comm.rank
        other.weighted_sum_start(array, 1, lambda: RANKS, "mean").wait()
        np.testing.assert_allclose(array, (RANKS - 1) / 2)


def test_communicators_are_given_back() -> None:
    """To MPI: dropping one frees all of which it is made."""
    world = HierarchicalCommunicator(MPI.COMM_WORLD, name="w", timeout=20, node=MPI.COMM_WORLD.rank % 2)
    other = world.duplicate("other")
    handles = other._handles()
    other.allocate(3, np.dtype(np.float32))
    del other
    world.barrier()
    world.duplicate("another")
    assert len(handles) >= 2 and all(handle == MPI.COMM_NULL for handle in handles)
    world.close()


def test_one_machine_without_shared_memory(comm: HierarchicalCommunicator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then none of them uses it."""
    if comm.rank == 0:
        monkeypatch.setattr(shm, "DESCRIPTOR", "/nonexistent/{process}/{descriptor}")
    array = comm.allocate(3, np.dtype(np.float32))
    array[:] = comm.rank
    comm.weighted_sum_start(array, 1, lambda: RANKS, "sum").wait()
    np.testing.assert_allclose(array, (RANKS - 1) / 2)


def test_same_training_as_over_messages(comm: HierarchicalCommunicator) -> None:
    messages = MPICommunicator(MPI.COMM_WORLD, name="messages", timeout=20)
    assert_trains_alike(comm, messages)
    messages.close()


def test_nothing_is_left_in_the_file_system(comm: HierarchicalCommunicator) -> None:
    comm.allocate(5, np.dtype(np.float32))
    comm.barrier()
    assert not [name for name in os.listdir("/dev/shm") if "mpigrad" in name]
