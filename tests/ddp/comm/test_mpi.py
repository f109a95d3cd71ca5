"""What only real MPI has: counts, handles, several communicators in the library."""

import gc

import numpy as np
import pytest

from mpigrad import ddp
from mpigrad.ddp.process_group import promised_size

if (promised_size() or 1) == 1:
    pytest.skip("needs mpirun", allow_module_level=True)

from mpi4py import MPI

from mpigrad.ddp.comm import mpi
from mpigrad.ddp.comm.mpi import MPICommunicator

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
    comm = MPICommunicator(WORLD, timeout=30)
    for size in (6, 7, 8, 50):
        array = np.arange(size) + comm.rank
        comm.all_reduce(array)
        assert array.tolist() == [comm.size * i + sum(range(comm.size)) for i in range(size)]
        comm.broadcast(root := np.arange(size) * comm.rank, comm.size - 1)
        assert root.tolist() == [i * (comm.size - 1) for i in range(size)]
    comm.close()


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
