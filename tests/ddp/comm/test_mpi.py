"""What only real MPI has: counts, handles, several communicators in the library."""

import gc
import itertools

import numpy as np
import pytest

from mpigrad import ddp
from mpigrad.ddp.process_group import promised_size

if (promised_size() or 1) == 1:
    pytest.skip("needs mpirun", allow_module_level=True)

from mpi4py import MPI

from mpigrad.ddp.comm import mpi, shm
from mpigrad.ddp.comm.hierarchical import HierarchicalCommunicator
from mpigrad.ddp.comm.mpi import MPICommunicator
from mpigrad.ddp.comm.shm import SharedMemoryCommunicator

pytestmark = pytest.mark.mpi
WORLD = MPI.COMM_WORLD


def test_ranks() -> None:
    comm = mpi.world(30, WORLD.size)
    assert (comm.rank, comm.size) == (WORLD.rank, WORLD.size)
    node = WORLD.Split_type(MPI.COMM_TYPE_SHARED)
    assert comm.local_rank == node.rank
    node.Free()
    comm.close()


def test_long_arrays_go_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mpi, "LARGEST_COUNT", 7)
    monkeypatch.setattr(mpi, "BLOCK", 2)
    comm = MPICommunicator(WORLD, timeout=30)
    n, right, left = comm.size, (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    for size, dtype in itertools.product((6, 7, 8, 50), ("int8", "int64", "bool")):
        values = np.arange(size).astype(dtype)
        array = values + np.array(comm.rank, dtype)
        comm.all_reduce(array, "max")
        assert array.tolist() == np.max([values + np.array(r, dtype) for r in range(n)], 0).tolist()
        comm.broadcast(root := values * np.array(comm.rank + 1, dtype), n - 1)
        assert root.tolist() == (values * np.array(n, dtype)).tolist()
        rows = np.stack([values + np.array(r, dtype) for r in range(n)])
        comm.all_gather(rows[comm.rank], out := np.zeros_like(rows))
        assert out.tolist() == rows.tolist()
        comm.all_to_all(rows, out)
        assert out.tolist() == [rows[comm.rank].tolist()] * n
        slices, cuts = np.zeros_like(values), comm.cuts(size)
        cut = cuts[comm.rank]
        slices[cut] = values[cut]
        comm.all_gather_slices_start(slices, cuts).wait()
        assert slices.tolist() == values.tolist()
        mean = np.full(size, comm.rank, "float32")
        comm.weighted_sum_start(mean, 1, lambda: n, "mean", lambda own: own.__iadd__(1)).wait()
        assert mean.tolist() == [(n - 1) / 2 + 1] * size
        work = comm.send_start(rows[comm.rank], right)
        assert comm.receive(into := np.zeros(size, dtype), None if size % 2 else left) == left
        assert into.tolist() == rows[left].tolist()
        work.wait()
    with pytest.raises(ValueError, match=r"expected 24 bytes for int64 \[3\], found (a longer message|400)"):
        work = comm.send_start(np.arange(50), right)
        comm.receive(np.zeros(3, int), left)
    comm.close()


@pytest.mark.parametrize("transport", [None, "mpi", "shm", "hierarchical"])
def test_choosing_a_transport(transport: str | None) -> None:
    """What was asked for is what duplicates and parts get, too."""
    alike = WORLD.Split_type(MPI.COMM_TYPE_SHARED).size
    if not shm.POSSIBLE or WORLD.allreduce(alike, MPI.MIN) < WORLD.size:
        pytest.skip("needs all ranks on one x86-64 machine")
    expected = {
        None: SharedMemoryCommunicator, "mpi": MPICommunicator, "shm": SharedMemoryCommunicator,
        "hierarchical": HierarchicalCommunicator,
    }[transport]  # fmt: skip
    ddp.init_process_group(timeout=30, transport=transport)
    world = ddp.world()
    for comm in (world, world.duplicate("other"), world.split(range(world.size), "all")):
        assert type(comm) is expected
        array = comm.allocate(5, np.dtype(np.float64))
        array[:] = comm.rank
        comm.weighted_sum_start(array, 1, lambda: 1, "sum").wait()
        assert array.tolist() == [sum(range(comm.size))] * 5
    one = world.split([0], "one")
    assert one is None if world.rank else type(one) is MPICommunicator
    ddp.destroy_process_group()


@pytest.mark.parametrize("drop", ["close", "forget", "forget on one rank"])
def test_communicators_are_given_back(drop: str) -> None:
    """An MPI library has some thousand of them; a job that makes and drops one per model may go on for ever."""
    world = MPICommunicator(WORLD, timeout=30)
    comm = world.duplicate("dropped")
    handle = comm._comm
    comm.barrier()
    if drop == "close":
        comm.close()
    if drop == "forget" or WORLD.rank == 0:
        del comm
        gc.collect()
    world.barrier()
    world.duplicate("another")
    assert (handle == MPI.COMM_NULL) == (drop != "forget on one rank")
    world.close()


def test_several_threads_call_mpi_at_once() -> None:
    comms = [MPICommunicator(WORLD, name=str(i), timeout=30) for i in range(4)]
    arrays = [np.full(10_000 * (i + 1), float(WORLD.rank)) for i in range(4)]
    works = [c.all_reduce_start(a) for _ in range(5) for c, a in zip(comms, arrays, strict=True)]
    for work in reversed(works):
        work.wait()
    expected = sum(range(WORLD.size)) * WORLD.size**4
    assert all((a == expected).all() for a in arrays)
    for comm in comms:
        comm.close()


def test_a_world_smaller_than_promised() -> None:
    with pytest.raises(RuntimeError, match=f"the launcher started 77 ranks.*finds {WORLD.size}"):
        mpi.world(30, 77)


def test_library_version_is_short() -> None:
    version = mpi.library_version()
    assert "MPI" in version and "\n" not in version and "\0" not in version and len(version) < 60


def test_a_process_group_may_be_made_again() -> None:
    for _ in range(3):
        ddp.init_process_group("mpi", timeout=30)
        assert ddp.get_world_size() == WORLD.size
        ddp.destroy_process_group()
