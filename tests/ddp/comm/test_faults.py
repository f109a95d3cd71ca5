"""Scripted faults of simulated worlds: what the rank that is struck does, and what the others see."""

import re
from typing import Any

import numpy as np
import pytest

import mpigrad
from mpigrad import ddp, nn, optim
from mpigrad.ddp.comm import simulated
from mpigrad.ddp.comm.faults import Corrupts, Dead, Fault, Late, Raises, Short

pytestmark = [pytest.mark.mpi_skip, pytest.mark.usefixtures("no_thread_is_left")]
SIZE = 3


def told(*faults: Fault | Short, timeout: float = 30.0) -> dict[int, BaseException]:
    """Three reductions on three ranks: what each rank got to hear."""
    heard: dict[int, BaseException] = {}

    def main() -> None:
        ddp.init_process_group(timeout=timeout)
        try:
            for name in ("first", "second", "third"):
                ddp.world().all_reduce(np.ones(2), name=name)
        except Exception as error:
            heard[ddp.get_rank()] = error
            raise

    with pytest.raises(BaseException) as caught:
        simulated.run(SIZE, main, faults=faults)
    assert caught.value in heard.values()
    return heard


def train(steps: int = 3, check_every: int = 0) -> str:
    """A small training; the digest of what it leaves."""
    ddp.init_process_group(timeout=30)
    mpigrad.manual_seed(0)
    model = ddp.DistributedDataParallel(nn.Linear(4, 2), check_every=check_every)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    draw = np.random.default_rng(ddp.get_rank())
    for _ in range(steps):
        optimizer.zero_grad()
        model(mpigrad.from_numpy(draw.standard_normal((5, 4), np.float32))).square().mean().backward()
        optimizer.step()
    ddp.barrier()
    return ddp.digest(model.state_dict())


# --- late -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["second", 2])
def test_late_but_in_time(at: int | str) -> None:
    def main() -> float:
        ddp.init_process_group(timeout=30)
        ddp.world().all_reduce(np.ones(2), name="first")
        assert ddp.world().clock() == 0
        ddp.world().all_reduce(array := np.ones(2), name="second")
        assert array.tolist() == [SIZE] * 2
        return ddp.world().clock()

    assert simulated.run(SIZE, main, faults=[Late(rank=1, at=at, seconds=29)]) == [29.0] * SIZE


def test_too_late() -> None:
    heard = told(Late(rank=1, at="second", seconds=31))
    for rank in (0, 2):
        message = str(heard[rank])
        assert isinstance(heard[rank], ddp.CollectiveTimeout)
        assert message.startswith(f"rank {rank} of 3 waited 30.0 s for second (number 2 on communicator 'world')")
        assert (
            "rank(s) 1 did not" in message and "\n  rank 1 is late for second: sleeps until 31 s, at test_f" in message
        )
    assert isinstance(heard[1], simulated.RankFailed)  # it finds the others gone
    assert re.search("but rank [02] failed with CollectiveTimeout: rank . of 3 waited 30.0 s", str(heard[1]))
    assert "\n" not in str(heard[1])


def test_nobody_may_see_that_a_rank_is_late() -> None:
    assert simulated.run(SIZE, train, faults=[Late(1, "bucket", 5), Late(2, "barrier", 5)]) == simulated.run(
        SIZE, train
    )


# --- dead -------------------------------------------------------------------------------------------------------------


def test_dead() -> None:
    heard = told(Dead(rank=1, at="second"))
    assert sorted(heard) == [0, 2]
    for rank, error in heard.items():
        assert isinstance(error, ddp.CollectiveTimeout)
        assert str(error).startswith(f"rank {rank} of 3 waited 30.0 s for second (number 2 on communicator 'world')")
        assert "rank(s) 1 did not" in str(error) and "\n  rank 1 died before second" in str(error)


@pytest.mark.parametrize(
    "last_words",
    [
        lambda world, begun: world.all_reduce_start(np.ones(1)),
        lambda world, begun: world.send_start(np.ones(1), 0),
        lambda world, begun: world.receive_start(np.ones(1), 0),
        lambda world, begun: begun.wait(),
    ],
    ids=["collective", "send", "receive", "wait"],
)
def test_the_dead_have_no_last_words_and_no_result(last_words: Any) -> None:
    words: list[int] = []

    def main() -> str:
        ddp.init_process_group()
        world = ddp.world()
        begun = world.all_reduce_start(np.ones(1))
        try:
            world.barrier() if world.rank == 1 else None
        except Exception:  # noqa: BLE001
            words.append(world.rank)
        finally:
            if world.rank == 1:
                last_words(world, begun)
                words.append(world.rank)
        return "alive"

    assert simulated.run(SIZE, main, faults=[Dead(1, "barrier")]) == ["alive", None, "alive"]
    assert not words


def test_a_rank_that_dies_in_the_middle_of_a_backward_pass() -> None:
    late = r"(?s)for reduction of gradient bucket 0.*, rank\(s\) 2 did not.* rank 2 died before reduction of gradient"
    with pytest.raises(ddp.CollectiveTimeout, match=late):
        simulated.run(SIZE, train, faults=[Dead(2, "bucket 0")])


# --- raising ----------------------------------------------------------------------------------------------------------


def test_raises() -> None:
    broken = OSError("the disk is full")
    heard = told(Raises(rank=1, at="second", error=broken))
    assert heard[1] is broken
    for rank in (0, 2):
        assert isinstance(heard[rank], simulated.RankFailed)
        assert str(heard[rank]) == (
            f"rank {rank} stopped: it waits for second (number 2 on communicator 'world'), but rank 1 failed with "
            "OSError: the disk is full"
        )


def test_an_error_that_the_rank_handles() -> None:
    def main() -> str:
        ddp.init_process_group()
        try:
            ddp.barrier()
        except OSError:
            ddp.barrier()
            return "again"
        return "at once"

    found = simulated.run(SIZE, main, faults=[Raises(2, "barrier", OSError())])
    assert found == ["at once", "at once", "again"]


# --- corrupting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "int64", "uint8", "bool"])
def test_corrupts_what_one_rank_receives(dtype: str) -> None:
    """In each collective that moves numbers the largest one, by a part of itself."""

    def main() -> list[np.ndarray]:
        ddp.init_process_group()
        world, rank = ddp.world(), ddp.get_rank()
        array = np.array([[0, 1, 0], [0, 0, 0]]).astype(dtype)
        summed, sent = array.copy(), array.copy()
        gathered, scattered = (np.zeros((SIZE, *array.shape), dtype) for _ in range(2))
        world.all_reduce(summed, "max", "sum")
        world.broadcast(sent, 2, "send")
        world.all_gather(array, gathered, "gather")
        world.all_to_all(np.stack([array * (r == rank) for r in range(SIZE)]).astype(dtype), scattered, "scatter")
        return [summed, sent, gathered, scattered]

    expected, struck, third = simulated.run(
        SIZE, main, faults=[Corrupts(1, name) for name in ("sum", "send", "gather", "scatter")]
    )
    for right, wrong, also in zip(expected, struck, third, strict=True):
        if right is not expected[3]:
            np.testing.assert_array_equal(right, also)
        else:
            right = np.roll(right, 1, 0)  # each rank keeps its own part
        (places,) = (np.argwhere(right != wrong),)
        assert len(places) == 1
        value = float(wrong[tuple(places[0])])
        assert value == (1.5 if dtype in ("float64", "float32", "float16", "bfloat16") else 0)


def test_corrupts_the_bit_that_it_is_told_to() -> None:
    def main() -> list[float]:
        ddp.init_process_group()
        ddp.world().all_reduce(array := np.ones((2, 2), np.float32)[:, 1])
        return array.tolist()

    faults = [Corrupts(rank=2, at="all_reduce", element=1, bit=31)]
    assert simulated.run(SIZE, main, faults=faults) == [[3, 3], [3, 3], [3, -3]]


def test_replicas_part() -> None:
    """From a corrupted bucket, or a corrupted broadcast of the parameters, on."""
    for at in ("bucket 0", "broadcast"):
        zero, one, two = simulated.run(SIZE, train, faults=[Corrupts(1, at)])
        assert zero == two != one
        with pytest.raises(ddp.RanksDiffer, match="the odd one: rank 1;"):
            simulated.run(SIZE, train, 3, 1, faults=[Corrupts(1, at)])


def test_a_collective_that_moves_nothing_cannot_be_corrupted() -> None:
    with pytest.raises(ValueError, match=r"Corrupts\(rank=0, at='barrier'.*: expected a collective that moves numbers"):
        simulated.run(SIZE, train, faults=[Corrupts(0, "barrier")])


# --- short data -------------------------------------------------------------------------------------------------------


def epochs(batches: list[int]) -> Any:
    """Two passes over a loader; appends how many batches each has given."""
    ddp.init_process_group()
    rank, size = ddp.get_rank(), ddp.get_world_size()
    data = mpigrad.utils.data.TensorDataset(mpigrad.arange(12.0).reshape(-1, 1))
    loader = mpigrad.utils.data.DataLoader(data, 1, sampler=ddp.DistributedSampler(data, size, rank))
    model = ddp.DistributedDataParallel(nn.Linear(1, 1))
    for _ in range(2):
        count = 0
        for (x,) in loader:
            count += 1
            model(x).sum().backward()
        batches.append(count)


def test_short_data() -> None:
    """The other ranks wait for a rank that has gone on, and are told where it is."""
    batches: list[int] = []
    with pytest.raises(ddp.CollectiveTimeout) as caught:
        simulated.run(SIZE, epochs, batches, faults=[Short(1, 3)])
    message = str(caught.value)
    assert "for exchange of sample counts" in message and "rank(s) 1 did not" in message
    assert "\n  rank 1 has returned" in message and sorted(batches) == [3, 3, 4, 4]


def test_short_data_on_all_ranks_are_no_fault() -> None:
    batches: list[int] = []
    simulated.run(SIZE, epochs, batches, faults=[Short(rank, 2) for rank in range(SIZE)])
    assert batches == [2] * 6


# --- scripts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["bucket 9", 400])
def test_a_fault_that_never_strikes_is_an_error(at: int | str) -> None:
    started = r"rank 1 started: 0 split 'world', 1 split 'gradients', .*, 5 reduction of .*, 10 barrier"
    with pytest.raises(
        RuntimeError, match=rf"Late\(rank=1, at={at!r}, skip=0, seconds=1\): found no such .*; {started}"
    ):
        simulated.run(SIZE, train, faults=[Late(1, at, 1)])
    with pytest.raises(RuntimeError, match=r"Short\(rank=0, batches=1\): no pass over a DataLoader came so far"):
        simulated.run(SIZE, train, faults=[Short(0, 1)])


def test_a_fault_strikes_once() -> None:
    def main() -> float:
        ddp.init_process_group()
        for _ in range(5):
            ddp.barrier()
        return ddp.world().clock()

    faults = [Late(1, "barrier", 3), Late(1, "barrier", 7, skip=4), Late(2, 4, 5)]
    assert simulated.run(SIZE, main, faults=faults) == [15] * SIZE
    with pytest.raises(RuntimeError, match="found no such collective"):
        simulated.run(SIZE, main, faults=[Late(1, "barrier", 3, skip=5)])


def test_a_fault_of_a_rank_that_there_is_not() -> None:
    with pytest.raises(ValueError, match=r"Dead\(rank=3, at=0, skip=0\): expected a rank from 0 to 2"):
        simulated.run(SIZE, train, faults=[Dead(3, 0)])
