"""PyTorch's functions on tensors, in every world: each result is a formula of rank and size."""

import functools
import operator
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

import mpigrad
from mpigrad import distributed as dist
from mpigrad.ddp.comm import simulated


def counted(start: int, rows: int = 2, dtype: Any = None) -> Any:
    """A tensor of shape (rows, 3) that tells where it is from."""
    return mpigrad.arange(rows * 3, dtype=dtype or mpigrad.float32).reshape(rows, 3) + start


def strided(rows: int = 2, dtype: Any = None) -> Any:
    """A place of shape (rows, 3) that is not contiguous."""
    return mpigrad.zeros(3, rows, dtype=dtype or mpigrad.float32).T


def both_ways(call: Callable[..., Any], out: Any, *rest: Any, **options: Any) -> None:
    """The call at once, and as a handle; the second must find the tensors as they were before the first."""
    tensors = out if isinstance(out, list) else [out]
    before = [tensor.clone() for tensor in tensors]
    assert call(out, *rest, **options) is None
    found = [tensor.clone() for tensor in tensors]
    for tensor, old in zip(tensors, before, strict=True):
        tensor.copy_(old)
    version = [tensor.version[0] for tensor in tensors]
    work = call(out, *rest, async_op=True, **options)
    assert isinstance(work, dist.Work) and work.wait() and work.is_completed() and work.is_success()
    assert work.exception() is None
    for tensor, same, old in zip(tensors, found, version, strict=True):
        assert mpigrad.equal(tensor, same) and tensor.version[0] > old


OPS: dict[str, Callable[[list[int]], float]] = {
    "SUM": sum,
    "AVG": lambda values: sum(values) / len(values),
    "PRODUCT": lambda values: functools.reduce(operator.mul, values),
    "MIN": min,
    "MAX": max,
    "BAND": lambda values: functools.reduce(operator.and_, values),
    "BOR": lambda values: functools.reduce(operator.or_, values),
    "BXOR": lambda values: functools.reduce(operator.xor, values),
}


DTYPES = [mpigrad.float32, mpigrad.bfloat16, mpigrad.float16, mpigrad.int64]
INTEGERS_ONLY, FLOATING_ONLY = ("BAND", "BOR", "BXOR"), ("AVG",)
PAIRS = [(op, t) for op in OPS for t in DTYPES if op not in (INTEGERS_ONLY if t.is_floating_point else FLOATING_ONLY)]


@pytest.mark.parametrize(("op", "dtype"), PAIRS)
def test_reductions(world: Any, op: str, dtype: Any) -> None:
    def main() -> None:
        rank, size = dist.get_rank(), dist.get_world_size()
        how = getattr(dist.ReduceOp, op)
        values = [[r + 3 + i for i in range(6)] for r in range(size)]
        total = mpigrad.tensor([OPS[op](list(v)) for v in zip(*values, strict=True)], dtype=dtype).reshape(2, 3)
        mine = mpigrad.tensor(values[rank], dtype=dtype).reshape(2, 3)

        both_ways(dist.all_reduce, tensor := mine.clone(), how)
        assert mpigrad.equal(tensor, total) and tensor.dtype is dtype
        dist.all_reduce(view := strided(dtype=dtype).copy_(mine), how)
        assert mpigrad.equal(view, total)

        root = size - 1
        for options in ({"dst": root}, {"group_dst": root, "async_op": True}):
            work = dist.reduce(tensor := mine.clone(), op=how, **options)
            assert work is None or work.wait()
            assert mpigrad.equal(tensor, total if rank == root else mine)

        rows = [mine + r for r in range(size)]  # for rank r
        expected = mpigrad.tensor(
            [OPS[op]([value + rank for value in v]) for v in zip(*values, strict=True)], dtype=dtype
        ).reshape(2, 3)
        both_ways(dist.reduce_scatter, out := strided(dtype=dtype), rows, op=how)
        assert mpigrad.equal(out, expected)
        both_ways(dist.reduce_scatter_tensor, out := mpigrad.zeros(2, 3, dtype=dtype), mpigrad.cat(rows), op=how)
        assert mpigrad.equal(out, expected)
        dist.reduce_scatter_single(out.zero_(), mpigrad.stack(rows), how)
        assert mpigrad.equal(out, expected)

    world(main)


def test_halves_are_added_up_in_float32(world: Any) -> None:
    def main() -> None:
        size = dist.get_world_size()
        for op, expected in ((dist.ReduceOp.SUM, 256.0 + size - 1), (dist.ReduceOp.AVG, (256.0 + size - 1) / size)):
            # in bfloat16 256 + 1 is 256; in float16 the sum of two largest numbers is infinite, their mean is not
            tensor = mpigrad.tensor(256.0 if dist.get_rank() == 0 else 1.0, dtype=mpigrad.bfloat16)
            dist.all_reduce(tensor, op)
            assert tensor.item() == mpigrad.tensor(expected, dtype=mpigrad.bfloat16).item()
        dist.all_reduce(large := mpigrad.full((2,), 65504.0, dtype=mpigrad.float16), dist.ReduceOp.AVG)
        assert large.tolist() == [65504.0] * 2
        dist.reduce_scatter_tensor(
            large := large[:1], mpigrad.full((size,), 65504.0, dtype=mpigrad.float16), dist.ReduceOp.AVG
        )
        assert large.tolist() == [65504.0]

    world(main)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gathering(world: Any, dtype: Any) -> None:
    def main() -> None:
        rank, size = dist.get_rank(), dist.get_world_size()
        everyone = [counted(10 * r, dtype=dtype) for r in range(size)]

        both_ways(dist.all_gather, outs := [strided(dtype=dtype) for _ in range(size)], everyone[rank])
        assert all(map(mpigrad.equal, outs, everyone))
        for whole in (mpigrad.zeros(2 * size, 3, dtype=dtype), mpigrad.zeros(size, 2, 3, dtype=dtype)):
            both_ways(dist.all_gather_single, whole, everyone[rank].T.contiguous().T)
            assert mpigrad.equal(whole.reshape(size, 2, 3), mpigrad.stack(everyone))
        for root in range(size):
            outs = [mpigrad.zeros(2, 3, dtype=dtype) for _ in range(size)]
            assert dist.gather(everyone[rank], outs if rank == root else None, root) is None
            work = dist.gather(everyone[rank], outs if rank == root else None, group_dst=root, async_op=True)
            assert work is not None and work.wait()
            assert rank != root or all(map(mpigrad.equal, outs, everyone))

            both_ways(dist.broadcast, tensor := strided(dtype=dtype).copy_(everyone[rank]), root)
            assert mpigrad.equal(tensor, everyone[root])
            parts = [everyone[root] + r for r in range(size)]
            both_ways(dist.scatter, tensor := strided(dtype=dtype), parts if rank == root else None, src=root)
            assert mpigrad.equal(tensor, everyone[root] + rank)

        both_ways(dist.all_to_all, outs := [strided(dtype=dtype) for _ in range(size)], [t + rank for t in everyone])
        assert all(mpigrad.equal(out, everyone[rank] + r) for r, out in enumerate(outs))
        both_ways(dist.all_to_all_single, out := mpigrad.zeros(size, 3, dtype=dtype), counted(rank, size, dtype))
        assert mpigrad.equal(out, mpigrad.stack([counted(r, size, dtype)[rank] for r in range(size)]))

    world(main)


def test_all_to_all_of_uneven_parts(world: Any) -> None:
    """Rank r has r + s rows for rank s, so that one of them has none for itself."""

    def main() -> None:
        rank, size = dist.get_rank(), dist.get_world_size()
        counts = [rank + r for r in range(size)]
        inputs = [counted(100 * rank + r, n) for r, n in enumerate(counts)]
        expected = [counted(100 * r + rank, n) for r, n in enumerate(counts)]
        both_ways(dist.all_to_all, outs := [mpigrad.zeros(n, 3) for n in counts], inputs)
        assert all(map(mpigrad.equal, outs, expected))
        out = mpigrad.zeros(sum(counts), 3)
        both_ways(dist.all_to_all_single, out, mpigrad.cat(inputs), output_split_sizes=counts, input_split_sizes=counts)
        assert mpigrad.equal(out, mpigrad.cat(expected))
        wrong = [mpigrad.zeros(n + (rank == size - 1), 3) for n in counts]
        with pytest.raises(RuntimeError, match=rf"expected {3 * size} elements on rank {size - 1} from rank 0, found"):
            dist.all_to_all(wrong, inputs)
        dist.barrier()  # all ranks have seen it: the group can go on

    world(main)


def test_groups(world: Any) -> None:
    """Every function in the group of the odd ranks and in that of the even ones, and nothing but a warning outside."""

    def main() -> None:
        rank, size = dist.get_rank(), dist.get_world_size()
        groups = [dist.new_group(range(parity, size, 2)) for parity in range(min(size, 2))]
        mine, other = groups[rank % 2], groups[1 - rank % 2] if size > 1 else None
        ranks = list(range(rank % 2, size, 2))
        count, root = len(ranks), ranks[-1]
        dist.all_reduce(tensor := mpigrad.tensor([rank]), group=mine)
        assert tensor.tolist() == [sum(ranks)]
        dist.all_reduce(tensor := mpigrad.tensor([float(rank)]), dist.ReduceOp.AVG, mine)
        assert tensor.tolist() == [sum(ranks) / count]
        dist.all_gather(found := [mpigrad.zeros(1) for _ in ranks], mpigrad.tensor([float(rank)]), mine)
        assert [t.item() for t in found] == ranks
        for options in ({"src": root}, {"group_src": count - 1}):
            dist.broadcast(tensor := mpigrad.tensor([rank]), group=mine, **options)
            assert tensor.tolist() == [root]
            parts = [mpigrad.tensor([r]) for r in ranks] if rank == root else None
            dist.scatter(tensor := mpigrad.tensor([-1]), parts, group=mine, **options)
            assert tensor.tolist() == [rank]
        if other is None:
            return
        assert other == dist.GroupMember.NON_GROUP_MEMBER
        warned = pytest.warns(UserWarning, match=f"on global rank {rank} which does not belong to the given group")
        with pytest.raises(ValueError, match=f"Global rank {1 - rank % 2} is not part of group"):
            dist.broadcast(tensor, 1 - rank % 2, group=mine)
        if world.kind == "simulated":
            return  # the ranks share the warnings of their process
        with warned:
            assert dist.all_reduce(tensor, group=other, async_op=True) is None and tensor.tolist() == [rank]
            assert dist.broadcast(tensor, 0, group=other) is None
            assert dist.all_gather([], tensor, group=other) is None
            assert dist.barrier(other) is None

    world(main)


def test_futures(world: Any) -> None:
    def main() -> None:
        size = dist.get_world_size()
        work = dist.all_reduce(tensor := mpigrad.ones(3), async_op=True)
        assert work is not None
        future = work.get_future()
        mean = future.then(lambda done: done.value()[0] / size)
        assert mean.wait().tolist() == [1.0] * 3 and future.wait()[0] is tensor and work.result() == [tensor]
        assert mean.done() and work.get_future().then(lambda done: len(done.wait())).wait() == 1
        seen: list[int] = []
        work = dist.barrier(async_op=True)
        assert work is not None
        work.get_future().then(lambda _: seen.append(1))
        work.wait()
        assert seen == [1]

    world(main)


def test_barriers(world: Any) -> None:
    """Nobody is through before all have come: each sees what the others have written before."""
    arrived: list[int] = []

    def main() -> None:
        size = dist.get_world_size()
        for number, wait in enumerate((dist.barrier, dist.monitored_barrier), 1):
            arrived.append(number)
            wait()
            assert world.kind == "mpi" or arrived.count(number) == size

    world(main)


def test_a_barrier_has_a_deadline(world: Any) -> None:
    """Where time is virtual, so that the late one comes just after it."""

    def main() -> None:
        size = dist.get_world_size()
        if dist.get_rank() == size - 1:
            simulated.sleep(1)
            dist.monitored_barrier()
        elif dist.get_rank() == 0:
            late = rf"(?s)waited 0\.5 s for monitored_barrier .* rank {size - 1} sleeps until 1 s, at test_col.*\.py"
            with pytest.raises(dist.CollectiveTimeout, match=late):
                dist.monitored_barrier(timeout=timedelta(seconds=0.5))
        else:
            dist.monitored_barrier()

    if world.kind == "simulated":
        world(main)


CONFUSED: dict[str, Callable[[bool, Any], Any]] = {  # what rank 0 calls, and what the others
    "call": lambda first, g: dist.barrier(g) if first else dist.all_reduce(mpigrad.ones(3), group=g),
    "op": lambda first, g: dist.all_reduce(mpigrad.ones(3), dist.ReduceOp.MAX if first else dist.ReduceOp.SUM, g),
    "size": lambda first, g: dist.all_reduce(mpigrad.ones(3 if first else 4), group=g),
    "dtype": lambda first, g: dist.all_reduce(mpigrad.ones(3, dtype=mpigrad.int32 if first else None), group=g),
    "root": lambda first, g: dist.broadcast(mpigrad.ones(3), 0 if first else 1, g),
    "object": lambda first, g: dist.all_gather_object([None] * 4, 1, g) if first else dist.barrier(g),
    "group": lambda first, g: g.communicator.duplicate("mine") if first else dist.barrier(g),
}


@pytest.mark.parametrize("kind", CONFUSED)
def test_ranks_that_call_different_things_hear_so_at_once(world: Any, kind: str) -> None:
    """They would wait for each other until the deadline, or get what the MPI library makes of it."""
    if world.size == 1:
        pytest.skip("one rank does one thing at a time")

    def main() -> None:
        part = dist.new_group()
        with pytest.raises((RuntimeError, ValueError), match=r"same collective|one dtype and shape") as e:
            CONFUSED[kind](dist.get_rank() == 0, part)
        assert not isinstance(e.value, dist.CollectiveTimeout)

    world(main)


def test_errors() -> None:
    """In a world of one: what is wrong on one rank alone is found there."""
    dist.init_process_group("single")
    one, two = mpigrad.zeros(1), mpigrad.zeros(2)
    floats, whole = mpigrad.zeros(2), mpigrad.zeros(2, dtype=mpigrad.int64)
    calls: list[tuple[Callable[[], Any], type[Exception], str]] = [
        (lambda: dist.all_reduce([1]), TypeError, r"parameter `tensor` of type torch.Tensor\n +but got <class 'list'>"),
        (lambda: dist.all_gather((one,), one), TypeError, r"(?s)`tensor_list` of type List.*got <class 'tuple'>"),
        (lambda: dist.all_gather([1], one), TypeError, "with elements of type .<class 'int'>."),
        (lambda: dist.all_reduce(one, "sum"), TypeError, "expected a ReduceOp, found 'sum'"),
        *(
            (lambda op=op: dist.all_reduce(floats, dist.ReduceOp[op]), RuntimeError, f"Cannot use ReduceOp.{op} with")
            for op in ("BAND", "BOR", "BXOR")
        ),
        (lambda: dist.all_reduce(whole, dist.ReduceOp.AVG), RuntimeError, "AVG: expected a floating-point dtype"),
        (lambda: dist.all_gather([floats], whole), ValueError, "Invalid usage of tensors with different dtypes"),
        (lambda: dist.all_gather([one, one], one), RuntimeError, r"invalid tensor list \(expected length 1, got 2\)"),
        (lambda: dist.all_gather([two], one), RuntimeError, r"tensor size at index 0 \(expected \(1,\), got \(2,\)\)"),
        (lambda: dist.reduce_scatter(one, [one, one]), RuntimeError, "expected length 1, got 2"),
        (lambda: dist.reduce_scatter_tensor(one, two), ValueError, "input tensor must be the same size as output size"),
        (lambda: dist.all_gather_into_tensor(one, two), ValueError, "output tensor size must be equal to world_size"),
        (lambda: dist.gather(one), ValueError, "Argument ``gather_list`` must be specified on destination rank"),
        (lambda: dist.scatter(one), ValueError, "Argument ``scatter_list`` must be specified on source rank"),
        (lambda: dist.scatter(one, [two]), RuntimeError, "scatter: invalid tensor size at index 0"),
        (lambda: dist.broadcast(one), ValueError, "Must specify global_rank or group_rank"),
        (lambda: dist.reduce(one), ValueError, "Must specify global_rank or group_rank"),
        (lambda: dist.broadcast(one, 0, group_src=0), ValueError, "Can't specify both group_rank and global_rank"),
        (lambda: dist.broadcast(one, 3), ValueError, "Global rank 3 is not part of group"),
        (lambda: dist.broadcast(one, group_src=3), ValueError, "Group rank 3 is not part of group"),
        (lambda: dist.all_to_all([one, one], [one]), RuntimeError, "expected length 1, got 2"),
        (lambda: dist.all_to_all_single(two, two, [1]), RuntimeError, "Split sizes doesn't match total dim 0 size"),
        (lambda: dist.all_to_all_single(two, two, [1, 1]), RuntimeError, "tensor splits not equal to group size"),
        (lambda: dist.all_reduce(one, group=dist.world()), TypeError, "expected a group that new_group gave, or None"),
    ]
    try:
        for call, error, message in calls:
            with pytest.raises(error, match=message):
                call()
    finally:
        dist.destroy_process_group()
