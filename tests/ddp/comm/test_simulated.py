"""Simulated worlds: ranks as threads of one process."""

import pickle
import threading

import numpy as np
import pytest

import mpigrad
from mpigrad import ddp
from mpigrad.ddp.comm import simulated
from mpigrad.ddp.comm.simulated import RankFailed

pytestmark = pytest.mark.mpi_skip


@pytest.mark.parametrize("size", [1, 2, 5])
def test_results_in_rank_order(size: int) -> None:
    def main(factor: int, offset: int) -> int:
        ddp.init_process_group()
        simulated.sleep(size - ddp.get_rank())
        return factor * ddp.get_rank() + offset

    assert simulated.run(size, main, 10, 3) == [10 * rank + 3 for rank in range(size)]


@pytest.mark.parametrize("failing", range(3))
def test_the_first_exception_is_raised_and_releases_the_others(failing: int) -> None:
    released = []

    def main() -> None:
        rank = simulated.current.communicator.rank
        try:
            ddp.init_process_group()
            ddp.barrier()
            if rank == failing:
                raise KeyError(f"rank {failing} is broken")
            ddp.world().duplicate("more").barrier()
        except RankFailed:
            released.append(rank)
            raise

    with pytest.raises(KeyError, match=f"rank {failing} is broken"):
        simulated.run(3, main)
    assert sorted(released) == [rank for rank in range(3) if rank != failing]
    assert simulated.run(3, lambda: "again") == ["again"] * 3


def test_a_rank_that_catches_the_failure_of_another_ends_normally() -> None:
    told = []

    def main() -> None:
        ddp.init_process_group()
        if ddp.get_rank():
            raise OSError("no space")
        try:
            ddp.barrier()
        except RankFailed as error:
            told.append(str(error))

    with pytest.raises(OSError, match="no space") as caught:
        simulated.run(2, main)
    assert caught.value.__notes__ == ["(on rank 1 of a simulated world of 2)"]
    assert told == [
        "rank 0 stopped: it waits for barrier (number 1 on communicator 'world'), but rank 1 failed with OSError: "
        "no space"
    ]


def test_a_rank_that_leaves_the_group_on_its_way_out() -> None:
    """Its `finally` does not meet the others in another collective."""

    def main() -> None:
        ddp.init_process_group()
        try:
            if ddp.get_rank() == 1:
                raise OSError("no space")
            ddp.all_reduce(mpigrad.ones(2))
        finally:
            ddp.destroy_process_group()

    with pytest.raises(OSError, match="no space"):
        simulated.run(3, main)


def test_abort() -> None:
    def main() -> None:
        ddp.init_process_group()
        if ddp.get_rank() == 1:
            ddp.world().abort(7)
        ddp.barrier()

    with pytest.raises(RankFailed, match="rank 1 ended the job with exit status 7"):
        simulated.run(3, main)


def test_deadline() -> None:
    def main() -> None:
        ddp.init_process_group()
        if ddp.get_rank() != 1:
            ddp.barrier()

    with pytest.raises(ddp.CollectiveTimeout, match=r"of 3 waited 0\.1 s for barrier .*, rank\(s\) 1 did not"):
        simulated.run(3, main, timeout=0.1)


@pytest.mark.parametrize("other", [np.ones(4), np.ones((3, 1)), np.ones(3, np.float32)])
def test_arrays_must_be_alike(other: np.ndarray) -> None:
    """NumPy would broadcast and cast; MPI would corrupt memory or stop. The simulation says what is wrong."""

    def main() -> None:
        ddp.init_process_group()
        ddp.world().all_reduce(other.copy() if ddp.get_rank() == 1 else np.ones(3))

    with pytest.raises(ValueError, match=r"expected arrays of one dtype and shape, found float64 \[3\], float"):
        simulated.run(3, main)


def test_objects_travel_as_under_mpi() -> None:
    """What cannot be pickled is found in the simulation, and what arrives is nobody else's."""

    def main() -> None:
        ddp.init_process_group()
        mine = [ddp.get_rank()]
        everyones = ddp.world().all_gather_object(mine)
        assert everyones == [[0], [1], [2]] and everyones[ddp.get_rank()] is not mine
        ddp.world().all_gather_object(lambda: None)

    with pytest.raises((AttributeError, pickle.PicklingError), match="pickle"):
        simulated.run(3, main)


def test_worlds_are_apart() -> None:
    """A simulated world inside a process group, and inside a simulated world, has ranks of its own."""

    def inner() -> tuple[int, int]:
        assert not ddp.is_initialized() and (ddp.get_rank(), ddp.get_world_size()) == (0, 1)
        ddp.init_process_group()
        tensor = np.ones(1)
        ddp.world().all_reduce(tensor)
        return ddp.get_rank(), int(tensor[0])

    def outer() -> tuple[int, list[tuple[int, int]]]:
        ddp.init_process_group()
        return ddp.get_rank(), simulated.run(2, inner)

    ddp.init_process_group("single")
    try:
        assert simulated.run(3, outer) == [(rank, [(0, 2), (1, 2)]) for rank in range(3)]
        assert ddp.get_world_size() == 1
    finally:
        ddp.destroy_process_group()


def test_threads_end() -> None:
    before = threading.active_count()
    simulated.run(4, lambda: ddp.init_process_group())
    assert threading.active_count() == before
