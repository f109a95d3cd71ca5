"""Reductions in memory that the ranks of one machine share: needs mpirun."""

import gc
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from whole_batch import assert_trains_alike

from mpigrad import ddp, nn, optim, rand
from mpigrad.ddp.process_group import promised_size

RANKS = promised_size() or 1
if RANKS == 1:
    pytest.skip("needs mpirun", allow_module_level=True)

from mpi4py import MPI  # noqa: E402

from mpigrad.ddp.comm import shm  # noqa: E402
from mpigrad.ddp.comm.mpi import MPICommunicator  # noqa: E402

pytestmark = pytest.mark.mpi


@pytest.fixture
def comm() -> Iterator[shm.SharedMemoryCommunicator]:
    if not shm.POSSIBLE:
        pytest.skip("no shared memory between processes on this kind of machine")
    communicator = shm.SharedMemoryCommunicator(MPI.COMM_WORLD, name="shared", timeout=20)
    yield communicator
    communicator.close()


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 1000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weighted_sums(comm: shm.SharedMemoryCommunicator, size: int, dtype: type) -> None:
    array = comm.allocate(size, np.dtype(dtype))
    for turn, weights in enumerate(([1] * RANKS, range(RANKS), range(1, RANKS + 1))):
        array[:] = np.arange(size) + 10 * comm.rank + turn
        comm.weighted_sum_start(array, weights[comm.rank], lambda w=weights: sum(w), "sum").wait()
        parts = [w * (np.arange(size) + 10 * r + turn) for r, w in enumerate(weights)]
        np.testing.assert_allclose(array, np.sum(parts, 0) / (sum(weights) or 1), rtol=1e-6)
        everyone = comm.all_gather_object(array)
        assert all(np.array_equal(array, other) for other in everyone)


def test_parts_follow_each_other(comm: shm.SharedMemoryCommunicator) -> None:
    """Many more reductions than may be in flight, each of a part, and each dividing by the one before."""
    array = comm.allocate(3000, np.dtype(np.float64))
    for turn in range(3):
        array[:] = 1 + turn
        works = []
        for i in range(3000):
            total = (lambda i=i: float(array[i - 1])) if i else (lambda: 1.0)
            works.append(comm.weighted_sum_start(array[i : i + 1], 1, total, f"part {i}"))
        works[-1].wait()
        assert all(work.is_completed() for work in works)
        first, second = RANKS * (1 + turn), 1.0
        np.testing.assert_allclose(array, [first if i % 2 == 0 else second for i in range(3000)])


def test_other_arrays_go_through_mpi(comm: shm.SharedMemoryCommunicator) -> None:
    shared, own = comm.allocate(4, np.dtype(np.float32)), np.full(4, comm.rank, np.float32)
    shared[:] = 1
    first = comm.weighted_sum_start(shared, 1, lambda: 1, "shared")
    second = comm.weighted_sum_start(
        own, 1, lambda: float(shared[0]), "own"
    )  # after the first: its total comes from it
    second.wait()
    first.wait()
    np.testing.assert_allclose(own, (RANKS - 1) / 2)


def test_a_sum_is_not_announced_before_the_one_before_it(comm: shm.SharedMemoryCommunicator) -> None:
    """The first waits for what goes through MPI before it, the second no longer has to."""
    array, gate = comm.allocate(4, np.dtype(np.float32)), threading.Event()
    array[:] = 1
    slow = comm.start(gate.wait, "something slow")
    first = comm.weighted_sum_start(array[:2], 1, lambda: 1, "first")
    gate.set()
    slow.wait()
    second = comm.weighted_sum_start(array[2:], 1, lambda: 1, "second")
    first.wait(5)
    second.wait(5)
    assert array.tolist() == [RANKS] * 4


def test_a_late_rank_is_named(comm: shm.SharedMemoryCommunicator) -> None:
    array = comm.allocate(5, np.dtype(np.float32))
    late, control = RANKS - 1, comm.duplicate("control")
    if comm.rank != late:
        work = comm.weighted_sum_start(array, 1, lambda: 1, "reduction of bucket 7")
        with pytest.raises(ddp.CollectiveTimeout, match=f"for reduction of bucket 7 .*rank\\(s\\) {late} did not"):
            work.wait(timeout=0.2)
    control.barrier()
    if comm.rank == late:
        work = comm.weighted_sum_start(array, 1, lambda: 1, "reduction of bucket 7")
    work.wait()


def test_nothing_is_left_in_the_file_system(comm: shm.SharedMemoryCommunicator) -> None:
    comm.allocate(5, np.dtype(np.float32))
    comm.barrier()
    assert not [name for name in os.listdir("/dev/shm") if "mpigrad" in name]


def mapped() -> int:
    """How many pieces of shared memory this process sees."""
    gc.collect()
    return sum("memfd:mpigrad" in line for line in Path("/proc/self/maps").read_text().splitlines())


def test_memory_goes_when_nobody_has_it(comm: shm.SharedMemoryCommunicator) -> None:
    def view_of_a_sum() -> np.ndarray:
        array = comm.allocate(2000, np.dtype(np.float32))
        array[:] = comm.rank
        comm.weighted_sum_start(array[:1000], 1, lambda: 1, "first half").wait()
        comm.weighted_sum_start(array, 1, lambda: 1, "all").wait()
        return array[990:1010].reshape(4, 5)

    kept = view_of_a_sum()
    before = mapped()
    for _ in range(20):
        view_of_a_sum()
    assert mapped() == before
    ranks = RANKS * (RANKS - 1) / 2
    np.testing.assert_array_equal(kept.reshape(-1), [ranks * RANKS] * 10 + [ranks] * 10)
    comm.weighted_sum_start(kept, 1, lambda: RANKS, "part of an array of which only this part is left").wait()
    np.testing.assert_array_equal(kept.reshape(-1), [ranks * RANKS] * 10 + [ranks] * 10)
    assert comm.everybodys(kept) is not None
    del kept
    assert mapped() == before - 1
    assert not comm._arrays and not comm._known


def test_memory_goes_when_parameters_move(comm: shm.SharedMemoryCommunicator) -> None:
    module = nn.Linear(5, 3)
    model = ddp.DistributedDataParallel(module, communicator=comm)
    optimizer, found = optim.SGD(model.parameters(), lr=0.1), []
    for turn in range(6):
        if turn % 2:
            module.double() if turn % 4 == 1 else module.float()
        else:
            module.weight.data = module.weight.data.clone()
        optimizer.zero_grad()
        model(rand(2, 5, dtype=module.weight.dtype)).sum().backward()
        optimizer.step()
        found.append(mapped())
    assert found[2:4] == found[4:]


def test_no_room_for_shared_memory(comm: shm.SharedMemoryCommunicator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shm, "DESCRIPTOR", "/nonexistent/{process}/{descriptor}")
    array = comm.allocate(3, np.dtype(np.float32))
    array[:] = comm.rank
    comm.weighted_sum_start(array, 1, lambda: RANKS, "sum").wait()
    np.testing.assert_allclose(array, (RANKS - 1) / 2)


def test_same_training_over_shared_memory_and_over_messages(comm: shm.SharedMemoryCommunicator) -> None:
    messages = MPICommunicator(MPI.COMM_WORLD, name="messages", timeout=20)
    assert_trains_alike(comm, messages)
    messages.close()
