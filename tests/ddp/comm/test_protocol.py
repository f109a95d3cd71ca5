"""What every communicator promises: alone, simulated, through MPI and through shared memory."""

import functools
import gc
import itertools
import re
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mpigrad import ddp
from mpigrad.ddp.comm import Communicator, Work
from mpigrad.ddp.process_group import promised_size

UNDER_MPIRUN = (promised_size() or 1) > 1
OPS: dict[str, Any] = {
    "sum": np.add, "max": np.maximum, "min": np.minimum, "prod": np.multiply,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
}  # fmt: skip
SHAPES = [(), (0,), (1,), (7,), (3, 0, 2), (5, 3), (1001,), (40_003,)]
FLOATING = ["float32", "float64", "float16", "bfloat16"]
DTYPES = [*FLOATING, "bool", "uint8", "int8", "int16", "int32", "int64"]
OnRanks = Callable[[Callable[[Communicator], Any]], list[Any]]
WAYS = ["any array", "allocated"]  # to sum: memory of one's own, or memory that the communicator likes best


def memory(comm: Communicator, way: str, values: Any) -> np.ndarray:
    """A one-dimensional array with these values."""
    array = np.array(values)
    if way == "allocated":
        allocated: np.ndarray = comm.allocate(array.size, array.dtype)
        assert allocated.dtype == array.dtype and not allocated.any()
        allocated[:] = array
        return allocated
    return array


def begin(comm: Communicator, way: str, array: np.ndarray, name: str = "sum") -> Work:
    """Start to sum."""
    if way == "allocated":
        return comm.weighted_sum_start(array, 1, lambda: 1, name)
    return comm.all_reduce_start(array, name=name)


# the process group's, what else there is under mpirun, and machines that are made up
TRANSPORTS = ["default", "mpi", "machines of 2", "2 machines"] if UNDER_MPIRUN else ["default"]


@pytest.fixture(params=TRANSPORTS)
def on_ranks(request: pytest.FixtureRequest, world: Any) -> OnRanks:
    """Calls a function with a communicator on every rank, of each transport."""

    def call(function: Callable[[Communicator], Any]) -> list[Any]:
        def rank_main() -> Any:
            group = ddp.world()
            if request.param == "default":
                return function(group.duplicate("test"))
            from mpi4py import MPI

            from mpigrad.ddp.comm.hierarchical import HierarchicalCommunicator
            from mpigrad.ddp.comm.mpi import MPICommunicator

            if request.param == "mpi":
                return function(MPICommunicator(MPI.COMM_WORLD, name="test", timeout=group.timeout))
            node = group.rank // 2 if request.param == "machines of 2" else group.rank % 2
            return function(HierarchicalCommunicator(MPI.COMM_WORLD, name="test", timeout=group.timeout, node=node))

        results: list[Any] = world(rank_main)
        return results

    return call


def contribution(rank: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Whole numbers, so that sums are exact in any order."""
    return np.asarray(np.random.default_rng(rank).integers(-50, 50, shape)).astype(dtype)


def reduced(op: str, size: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    wide = "float32" if dtype in ("float16", "bfloat16") else dtype  # halves are rounded once
    total = contribution(0, shape, dtype).astype(wide)
    for rank in range(1, size):
        total = np.asarray(OPS[op](total, contribution(rank, shape, dtype).astype(wide)))
    return total.astype(dtype)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_numbers_have_sums_but_no_order(on_ranks: OnRanks, dtype: str) -> None:
    def main(comm: Communicator) -> None:
        array = np.full(3, comm.rank + 1j, dtype)
        for op, message in (("max", "real numbers"), ("min", "real numbers"), ("and", "integers or bool")):
            with pytest.raises(ValueError, match=f"expected {message} for op '{op}', found {dtype}"):
                comm.all_reduce(array, op)
        comm.all_reduce(array)
        np.testing.assert_array_equal(array, np.full(3, sum(range(comm.size)) + comm.size * 1j, dtype), strict=True)

    on_ranks(main)


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_reduce_and_reduce_scatter(on_ranks: OnRanks, dtype: str) -> None:
    def main(comm: Communicator) -> None:
        for op, shape in itertools.product(OPS, SHAPES):
            array = contribution(comm.rank, shape, dtype)
            rows = np.stack([array, *[np.full_like(array, comm.rank)] * (comm.size - 1)])
            scattered = np.empty_like(array)
            if op in ("and", "or", "xor") and dtype in FLOATING:
                with pytest.raises(ValueError, match=f"expected integers or bool for op '{op}', found {dtype}"):
                    comm.all_reduce(array, op)
                with pytest.raises(ValueError, match=f"expected integers or bool for op '{op}', found {dtype}"):
                    comm.reduce_scatter(rows, scattered, op)
                continue
            comm.all_reduce(array, op, f"{op} of {shape}")
            expected = reduced(op, comm.size, shape, dtype)
            np.testing.assert_array_equal(array, expected, strict=True)
            comm.reduce_scatter(rows, scattered, op)
            if comm.rank:  # ranks 0, 1, 2 reduced
                expected = np.full(shape, functools.reduce(OPS[op], np.arange(comm.size).astype(dtype)))
            np.testing.assert_array_equal(scattered, expected, strict=True)

    on_ranks(main)


def test_halves_are_summed_in_single_precision(on_ranks: OnRanks) -> None:
    """2048 + 1 + 1 ... in float16 stays 2048; a sum on the way to a mean does not overflow."""

    def main(comm: Communicator) -> None:
        for way, start in itertools.product(WAYS, (comm.all_reduce_start, None)):
            array = memory(comm, way, np.array([1 if comm.rank else 2048, 60000], "float16"))
            if start is None:
                comm.weighted_sum_start(array, 1, lambda: comm.size, "mean").wait()
                expected = np.array([(2047 + comm.size) / comm.size, 60000])
            else:
                start(array[:1]).wait()
                expected = np.array([2047 + comm.size, 60000])
            assert array.tolist() == expected.astype("float16").tolist()
        rows = np.full((comm.size, 1), 1 if comm.rank else 2048, "float16")
        comm.reduce_scatter(rows, out := np.empty(1, "float16"))
        assert out[0] == np.float16(2047 + comm.size)

    on_ranks(main)


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_gather_and_all_to_all(on_ranks: OnRanks, dtype: str) -> None:
    def main(comm: Communicator) -> None:
        for shape in SHAPES:
            everybodys = np.stack([contribution(r, shape, dtype) for r in range(comm.size)])
            out = np.zeros_like(everybodys)
            comm.all_gather(everybodys[comm.rank, ...], out)
            np.testing.assert_array_equal(out, everybodys, strict=True)
            out = np.zeros_like(everybodys)
            out[comm.rank] = everybodys[comm.rank]
            comm.all_gather(out[comm.rank, ...], out)  # in place
            np.testing.assert_array_equal(out, everybodys, strict=True)
            out = np.zeros_like(everybodys)
            comm.all_to_all(np.roll(everybodys, comm.rank, 0), out)
            for rank in range(comm.size):
                np.testing.assert_array_equal(out[rank], everybodys[(comm.rank - rank) % comm.size], strict=True)
        wide = np.zeros((comm.size, 2, 6), dtype)
        comm.all_gather(np.full((6, 2), comm.rank, dtype).T[:, ::2], wide[:, :, ::2])
        comm.all_to_all(wide[:, :, ::2], wide[:, :, 1::2])
        assert (wide[:, :, ::2] == np.arange(comm.size).astype(dtype)[:, None, None]).all()
        assert (wide[:, :, 1::2] == np.array(comm.rank, dtype)).all()

    on_ranks(main)


@pytest.mark.parametrize("dtype", DTYPES)
def test_messages(on_ranks: OnRanks, dtype: str) -> None:
    """All send to all before any receives; those of one sender and tag arrive in order."""

    def main(comm: Communicator) -> None:
        others = [rank for rank in range(comm.size) if rank != comm.rank]
        for shape in SHAPES:
            sent = [
                comm.send_start(contribution(comm.rank + tag, shape, dtype), r, tag % 2)
                for r in others
                for tag in range(4)
            ]
            found = {(r, tag): np.zeros(shape, dtype) for r in others for tag in (3, 1, 2, 0)}
            works = {(r, tag): comm.receive_start(found[r, tag], r, tag % 2) for r in others for tag in (1, 3, 0, 2)}
            for (rank, tag), work in reversed(works.items()):
                work.wait()
                assert work.is_completed() and work.peer == rank
                np.testing.assert_array_equal(found[rank, tag], contribution(rank + tag, shape, dtype), strict=True)
            for work in sent:
                work.wait()

    on_ranks(main)


def test_messages_pass_collectives(on_ranks: OnRanks) -> None:
    """A send does not wait for the collectives before it, which wait for the receiver; large ones too, and views."""

    def main(comm: Communicator) -> None:
        size = 300_000
        if comm.rank == 0:
            work = comm.all_reduce_start(np.ones(3))
            for rank in range(1, comm.size):
                comm.send(np.full((size, 2), rank)[:, 0], rank, 5)
            seen = [comm.receive(np.empty(0), tag=7) for _ in range(1, comm.size)]
            assert sorted(seen) == list(range(1, comm.size))
        else:
            array = np.zeros(2 * size, int)
            assert comm.receive(array[::2], 0, 5) == 0
            assert (array[::2] == comm.rank).all() and not array[1::2].any()
            comm.send(np.empty(0), 0, 7)
            work = comm.all_reduce_start(np.ones(3))
        work.wait()
        if comm.size > 1:  # nobody keeps the works of these
            for rank in range(comm.size):
                if rank != comm.rank:
                    comm.send_start(np.full(size, comm.rank), rank)
            array = np.empty(size, int)
            for _ in range(comm.size - 1):
                source = comm.receive(array)
                assert (array == source).all()
        comm.barrier()

    on_ranks(main)


def test_wrong_messages(on_ranks: OnRanks) -> None:
    def main(comm: Communicator) -> None:
        for other in {-1, comm.rank, comm.size} | ({None} if comm.size == 1 else set()):
            with pytest.raises(
                ValueError, match=f"receive: expected another rank than this one .{comm.rank}. of {comm.size}"
            ):
                comm.receive(np.ones(1), other)
        if comm.size == 1:
            return
        right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
        with pytest.raises(ValueError, match="expected a tag from 0 to 32767, found -1"):
            comm.send(np.ones(1), right, -1)
        work = comm.receive_start(np.zeros(3, "float32"), left, 1)
        late = (
            rf"rank {comm.rank} of {comm.size} waited 0\.\d s for receive from rank {left} \(tag 1\) on communicator "
        )
        with pytest.raises(ddp.CollectiveTimeout, match=late):
            work.wait(0.1)
        comm.barrier()
        for size in (2, 4):
            sent = comm.send_start(np.ones(size, "float32"), right, 1)
            with pytest.raises(ValueError, match=r"receive: expected (3 of float32|12 bytes for .*\[3\]), found "):
                work.wait()
            assert work.is_completed()
            sent.wait()
            work = comm.receive_start(np.zeros(3, "float32"), left, 1)
        comm.send(np.arange(3, dtype="float32"), right, 1)  # nothing is broken by that
        work.wait()
        comm.barrier()

    on_ranks(main)


def test_split(on_ranks: OnRanks) -> None:
    def main(comm: Communicator) -> None:
        backwards = comm.split(range(comm.size)[::-1], "backwards")
        assert (backwards.rank, backwards.size, backwards.name) == (comm.size - 1 - comm.rank, comm.size, "backwards")
        assert backwards.all_gather_object(comm.rank) == list(range(comm.size))[::-1]
        parts = [list(range(comm.size))[start::2] for start in (0, 1)][: comm.size]
        mine = [comm.split(part, f"part {i}") for i, part in enumerate(parts)]
        assert [part is None for part in mine] == [comm.rank not in part for part in parts]
        part = mine[comm.rank % 2]
        for way in WAYS:
            begin(part, way, array := memory(part, way, [comm.rank] * 10)).wait()
            assert array.tolist() == [sum(parts[comm.rank % 2])] * 10
        alone = part.split([0], "alone")
        if part.rank == 0:
            alone.all_reduce(array := np.ones(2))
            alone.barrier()
            assert array.tolist() == [1, 1] and alone.all_gather_object("a") == ["a"] and alone.size == 1
        for wrong in ([], [0, 0], [comm.size], [-1]):
            with pytest.raises(
                ValueError, match=re.escape(f"expected different ranks from 0 to {comm.size - 1}, found {wrong}")
            ):
                comm.split(wrong)
        if comm.size > 1:
            with pytest.raises(
                ValueError, match=r"expected the same list of ranks everywhere, found \[0\] on rank 0, \[1\]"
            ):
                comm.split([comm.rank])
        comm.barrier()

    on_ranks(main)


VIEWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "every second": lambda a: a[::2],
    "columns": lambda a: a[:, 1:3],
    "transposed": lambda a: a.T,
    "backwards": lambda a: a[::-1],
}


@pytest.mark.parametrize("view", VIEWS)
def test_arrays_that_are_not_contiguous(on_ranks: OnRanks, view: str) -> None:
    take, shape = VIEWS[view], (6, 4)

    def main(comm: Communicator) -> None:
        array = contribution(comm.rank, shape, "float32")
        expected = array.copy()
        take(expected)[...] = take(reduced("sum", comm.size, shape, "float32"))
        comm.all_reduce(take(array))
        np.testing.assert_array_equal(array, expected)  # the elements beside the view are untouched
        comm.broadcast(take(array), comm.size - 1)
        np.testing.assert_array_equal(take(array), take(expected))

    on_ranks(main)


@pytest.mark.parametrize("dtype", DTYPES)
def test_broadcast_from_every_root(on_ranks: OnRanks, dtype: str) -> None:
    def main(comm: Communicator) -> None:
        for root in range(comm.size):
            for shape in SHAPES:
                array = contribution(comm.rank, shape, dtype)
                comm.broadcast(array, root)
                np.testing.assert_array_equal(array, contribution(root, shape, dtype), strict=True)

    on_ranks(main)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("total_first", ["weighted_sum", "all_reduce"])
def test_weighted_sum(on_ranks: OnRanks, way: str, total_first: str) -> None:
    """The total may be the result of the reduction before; parts of an allocated array are reduced one by one."""

    def main(comm: Communicator) -> None:
        for dtype in ("float32", "float64", "float16"):
            weight = 2.0 * comm.rank
            total, array = memory(comm, way, [weight + 1]), memory(comm, way, contribution(comm.rank, (1001,), dtype))
            first = comm.all_reduce_start if total_first == "all_reduce" else lambda t: begin(comm, way, t)
            works = [first(total)]
            for part in (array[:5], array[5:5], array[5:]):
                works.append(comm.weighted_sum_start(part, weight, lambda t=total: float(t[0]), "mean"))
            for work in works:
                work.wait()
            whole = sum(2.0 * r + 1 for r in range(comm.size))
            expected = sum(2.0 * r * contribution(r, (1001,), "float64") for r in range(comm.size)) / whole
            np.testing.assert_allclose(array, expected, rtol=np.finfo(dtype).eps * 8, atol=np.finfo(dtype).eps * 100)

    on_ranks(main)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", FLOATING)
def test_between_the_halves_of_a_sum(on_ranks: OnRanks, way: str, dtype: str) -> None:
    """Each rank may change its slice of the sum before all ranks get all slices, whatever the others make of theirs."""

    def main(comm: Communicator) -> None:
        sizes = [0, 1, 2, 3, 7, 1001, 40_003]
        arrays = [memory(comm, way, contribution(comm.rank, (size,), dtype)) for size in sizes]
        seen: list[tuple[int, Any]] = []

        def add_rank(own: np.ndarray) -> None:
            seen.append((own.size, own.dtype))
            own += own.dtype.type(comm.rank)

        works = []
        for array in arrays:
            works.append(comm.weighted_sum_start(array, 1, lambda: 1, "sum", add_rank))
            works.append(comm.all_reduce_start(np.ones(3)))  # it interleaves
        for work in works:
            work.wait()
        for size, array in zip(sizes, arrays, strict=True):
            cuts = comm.cuts(size)
            assert sorted(i for cut in cuts for i in range(cut.start, cut.stop)) == list(range(size))
            expected = reduced("sum", comm.size, (size,), dtype)
            for rank, cut in enumerate(cuts):
                expected[cut] += expected.dtype.type(rank)
            np.testing.assert_array_equal(array, expected, strict=True)
        own = [comm.cuts(size)[comm.rank] for size in sizes]
        assert seen == [(cut.stop - cut.start, np.dtype(dtype)) for cut in own]

    on_ranks(main)


@pytest.mark.parametrize("way", WAYS)
def test_between_sees_the_weighted_mean(on_ranks: OnRanks, way: str) -> None:
    """In float32 for halves, rounded once; and nothing of it when the total is 0."""

    def main(comm: Communicator) -> None:
        array = memory(comm, way, np.full(9, 1 if comm.rank else 2048, "float16"))
        seen = []
        comm.weighted_sum_start(array, 2, lambda: 1, "sum", lambda own: seen.append(own.copy())).wait()
        assert array.tolist() == [float(np.float16(2 * (2047 + comm.size)))] * 9
        assert np.concatenate(seen).tolist() == array[comm.cuts(9)[comm.rank]].tolist()
        values = memory(comm, way, np.arange(9.0) + comm.rank)
        for weight in (2.0 * comm.rank + 1, 0.0):
            values[:] = np.arange(9.0) + comm.rank
            total = sum(2.0 * rank + 1 for rank in range(comm.size)) if weight else 0.0
            mean = sum((2.0 * r + 1) * (np.arange(9.0) + r) for r in range(comm.size)) / (total or np.inf)
            comm.weighted_sum_start(values, weight, lambda t=total: t, "mean", lambda own: own.__iadd__(1)).wait()
            np.testing.assert_allclose(values, mean + 1)

    on_ranks(main)


@pytest.mark.parametrize("way", WAYS)
def test_hundreds_with_something_between(on_ranks: OnRanks, way: str) -> None:
    """More than may be in flight; every other one has nothing between, and each takes its total from the one before."""

    def main(comm: Communicator) -> None:
        arrays = memory(comm, way, np.ones(600 * 5)).reshape(600, 5)
        works = []
        for i, array in enumerate(arrays):
            total = (lambda i=i: float(arrays[i - 1, 0])) if i else (lambda: 1.0)
            between = None if i % 2 else lambda own: own.__imul__(3)
            works.append(comm.weighted_sum_start(array, 1, total, f"sum {i}", between))
        works[-1].wait()
        expected = 1.0
        for i, array in enumerate(arrays):
            expected = comm.size / expected * (1 if i % 2 else 3)
            np.testing.assert_allclose(array, expected)

    on_ranks(main)


@pytest.mark.parametrize("way", WAYS)
def test_an_error_between(on_ranks: OnRanks, way: str) -> None:
    """Whoever waits gets it, at once, and the slices go to nobody."""

    def main(comm: Communicator) -> None:
        def fail(own: np.ndarray) -> None:
            raise ArithmeticError("no step from here")

        array = memory(comm, way, np.ones(10))
        works = [comm.weighted_sum_start(array, 1, lambda: 1, "sum", fail), begin(comm, way, array)]
        for work in works:
            with pytest.raises(ArithmeticError, match="no step from here"):
                work.wait()

    on_ranks(main)


@pytest.mark.parametrize("dtype", [*DTYPES, "complex128"])
def test_all_gather_slices(on_ranks: OnRanks, dtype: str) -> None:
    def main(comm: Communicator) -> None:
        for size in (0, 1, 2, 7, 1001):
            whole = np.arange(size).astype(dtype)
            cuts = comm.cuts(size)[::-1]
            cut = cuts[comm.rank]
            for part in (np.zeros(size, dtype), np.zeros(2 * size, dtype)[::2]):
                part[cut] = whole[cut]
                comm.all_gather_slices_start(part, cuts).wait()
                np.testing.assert_array_equal(part, whole, strict=True)

    on_ranks(main)


def test_objects_are_gathered_in_rank_order(on_ranks: OnRanks) -> None:
    def main(comm: Communicator) -> Any:
        mine = {"rank": comm.rank, "values": np.arange(comm.rank)} if comm.rank % 2 else f"rank {comm.rank}"
        found = comm.all_gather_object([mine])
        for rank, (value,) in enumerate(found):
            assert (value["rank"] if rank % 2 else value) == (rank if rank % 2 else f"rank {rank}")
        comm.barrier()
        found[0].append(comm.rank)  # what each rank got is its own
        comm.barrier()
        return found[0][1:]

    assert on_ranks(main) == [[rank] for rank in range(len(on_ranks(lambda comm: None)))]


def test_barrier(on_ranks: OnRanks) -> None:
    def main(comm: Communicator) -> tuple[float, float]:
        time.sleep(0.01 * comm.rank)
        arrived = time.monotonic()
        comm.barrier()
        return arrived, time.monotonic()

    times = on_ranks(main)
    assert max(arrived for arrived, _ in times) <= min(left for _, left in times)


@pytest.mark.parametrize("way", WAYS)
def test_work(on_ranks: OnRanks, way: str) -> None:
    """A work is done when all ranks have started it, not before; waiting again does nothing."""

    def main(comm: Communicator) -> None:
        control, last = comm.duplicate("control"), comm.rank == comm.size - 1
        array = memory(comm, way, [1.0] * 1000)
        if last:
            control.barrier()
        work = begin(comm, way, array)
        if not last:
            assert not work.is_completed()
            control.barrier()
        for _ in range(2):
            work.wait()
            assert work.is_completed()
        assert array.tolist() == [comm.size] * 1000

    on_ranks(main)


@pytest.mark.parametrize("way", WAYS)
def test_a_thousand_back_to_back(on_ranks: OnRanks, way: str) -> None:
    def main(comm: Communicator) -> None:
        arrays = memory(comm, way, [comm.rank + i for i in range(1000) for _ in range(3)]).reshape(1000, 3)
        works = [begin(comm, way, array) for array in arrays]
        for work in works:
            work.wait()
        ranks = sum(range(comm.size))
        assert arrays.tolist() == [[ranks + comm.size * i] * 3 for i in range(1000)]

    on_ranks(main)


def test_collectives_run_in_the_order_they_were_started(on_ranks: OnRanks) -> None:
    def main(comm: Communicator) -> None:
        array = np.array([comm.rank + 1.0])
        works = [comm.all_reduce_start(array, op) for op in ("max", "sum", "sum", "min", "sum")]
        works.append(comm.start(lambda: array.__iadd__(1), "plus one"))
        comm.broadcast(array)
        assert all(work.is_completed() for work in works)
        assert array.tolist() == [comm.size**4 + 1]

    on_ranks(main)


@pytest.mark.parametrize("way", WAYS)
def test_communicators_do_not_wait_for_each_other(on_ranks: OnRanks, way: str) -> None:
    """Ranks may start and wait for the collectives of two communicators in different orders."""

    def main(comm: Communicator) -> None:
        pair = [comm.duplicate("a"), comm.duplicate("b")]
        arrays = [memory(c, way, [0.0] * 100) for c in pair]
        for turn in range(20):
            for i in (0, 1):
                arrays[i][:] = i + 1
            order = (0, 1) if (comm.rank + turn) % 2 else (1, 0)
            works = {i: begin(pair[i], way, arrays[i]) for i in order}
            for i in order if turn % 3 else order[::-1]:
                works[i].wait()
            assert [a[0] for a in arrays] == [comm.size, 2 * comm.size]

    on_ranks(main)


def test_an_error_poisons_what_follows(on_ranks: OnRanks) -> None:
    """A collective that failed leaves the ranks out of step: all later ones raise its error, none hangs."""

    def main(comm: Communicator) -> None:
        def fail() -> None:
            raise OSError("the cable is cut")

        array = memory(comm, "allocated", [1.0] * 3)
        works = [comm.start(fail, "failure"), comm.all_reduce_start(array), comm.all_reduce_start(array, "max")]
        errors = []
        calls = [works[2].wait, works[1].wait, works[0].wait, comm.barrier, lambda: comm.broadcast(array)]
        for call in [*calls, lambda: begin(comm, "allocated", array).wait()]:
            with pytest.raises(OSError, match="the cable is cut") as caught:
                call()
            errors.append(caught.value)
        assert len({id(error) for error in errors}) == 1 and all(work.is_completed() for work in works)

    on_ranks(main)


@pytest.mark.parametrize("way", WAYS)
def test_deadline(on_ranks: OnRanks, way: str) -> None:
    """A rank that does not come is reported with the collective's name, number and communicator; it may still come."""

    def main(comm: Communicator) -> str:
        late = comm.duplicate("late ones")
        late.barrier()
        array, message = memory(late, way, [1.0] * 5), ""
        if comm.rank == comm.size - 1:
            comm.barrier()
        work = begin(late, way, array, "sum of ones")
        if comm.rank < comm.size - 1:
            with pytest.raises(ddp.CollectiveTimeout) as caught:
                work.wait(0.2)
            message = str(caught.value)
            comm.barrier()
        work.wait()
        assert array.tolist() == [comm.size] * 5
        return message

    *messages, last = on_ranks(main)
    assert last == ""
    for rank, message in enumerate(messages):
        waited = re.match(rf"rank {rank} of {len(messages) + 1} waited (\d\.\d) s for", message)
        assert waited and 0.2 <= float(waited[1]) < 5
        assert (
            "sum of ones" in message and re.search(r"number \d+ on", message) and "communicator 'late ones'" in message
        )


def test_close(on_ranks: OnRanks) -> None:
    """The thread ends when the communicator is closed, and when nobody has it any more."""

    def main(comm: Communicator) -> None:
        closed, dropped = comm.duplicate("closed"), comm.duplicate("dropped")
        array, mine = np.ones(2), memory(closed, "allocated", [1.0])
        work = closed.all_reduce_start(array)
        dropped.barrier()
        closed.close()
        closed.close()
        work.wait()
        with pytest.raises(RuntimeError, match="communicator 'closed' is closed"):
            closed.barrier()
        with pytest.raises(RuntimeError, match="communicator 'closed' is closed"):
            begin(closed, "allocated", mine)
        del dropped
        gc.collect()
        comm.barrier()
        deadline = time.monotonic() + 10
        while {"mpigrad closed", "mpigrad dropped"} & {t.name for t in threading.enumerate()}:
            assert time.monotonic() < deadline, "the communicator's thread still runs"
            time.sleep(0.001)

    on_ranks(main)


def test_nothing_outlives_its_collective(on_ranks: OnRanks) -> None:
    def main(comm: Communicator) -> None:
        arrays = [np.ones(10), np.ones(10)]
        alive = [weakref.ref(array) for array in arrays]
        works = [comm.all_reduce_start(arrays[0]), comm.start(lambda a=arrays[1]: a.sum(), "sum")]
        for work in works:
            work.wait()
        comm.barrier()
        del arrays, works, work
        deadline = time.monotonic() + 10
        while any(reference() is not None for reference in alive):
            assert time.monotonic() < deadline, "an array is kept alive"
            time.sleep(0.001)

    gc.disable()
    try:
        on_ranks(main)
    finally:
        gc.enable()


def test_wrong_arguments(on_ranks: OnRanks) -> None:
    def main(comm: Communicator) -> None:
        with pytest.raises(
            ValueError, match="expected op 'sum', 'max', 'min', 'prod', 'and', 'or', 'xor', found 'avg'"
        ):
            comm.all_reduce(np.ones(1), "avg")
        rows = np.ones((comm.size, 3))
        with pytest.raises(
            ValueError, match=rf"all_gather: expected an output of shape \[{comm.size}, 3\] and float64"
        ):
            comm.all_gather(np.ones(3), np.ones((comm.size, 2)))
        for function in (comm.all_to_all, comm.reduce_scatter):
            with pytest.raises(ValueError, match=f"expected one row for each of {comm.size} ranks, found shape"):
                function(np.ones((comm.size + 1, 3)), rows)
            with pytest.raises(ValueError, match=r"expected an output of shape .* and float64, found .* and float32"):
                function(rows, rows.astype("float32"))
        for root in (-1, comm.size):
            with pytest.raises(ValueError, match=f"expected a root from 0 to {comm.size - 1}, found {root}"):
                comm.broadcast(np.ones(1), root)
        comm.barrier()

    on_ranks(main)
