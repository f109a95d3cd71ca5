"""What the ranks of a group do with tensors together, with PyTorch's names, arguments and in-place results.

Gradients do not flow through these functions. `group` is None for all ranks, or what `new_group` gave; on a rank
outside it they warn and do nothing. src and dst are ranks of the world, group_src and group_dst of the group. With
async_op=True they return a Work at once: until it is waited for, leave the tensors alone. Half types are added up in
float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from enum import Enum

import numpy as np

from ..core.backend import Array, array_module
from ..core.dtypes import FLOATING, HALVES, SINGLE
from ..core.tensor import Tensor
from .arguments import check_list, check_root_only, check_tensors, in_group, rank_of
from .comm.protocol import BITWISE
from .process_group import Group, ProcessGroup
from .work import Work, contiguous, finish


class ReduceOp(Enum):
    """How the values of the ranks become one."""

    SUM, AVG, PRODUCT, MIN, MAX = "sum", "avg", "prod", "min", "max"
    BAND, BOR, BXOR = "and", "or", "xor"  # integers and bool only


def _label(name: str, tensor: Tensor) -> str:
    return f"{name} of shape {list(tensor.shape)}"


# --- reductions -------------------------------------------------------------------------------------------------------


def all_reduce(tensor: Tensor, op: ReduceOp = ReduceOp.SUM, group: Group = None, async_op: bool = False) -> Work | None:
    """Replace tensor by its reduction over the ranks."""
    check_tensors(tensor=tensor)
    here = in_group(group, "all_reduce")
    return None if here is None else _reduce(here, tensor, op, True, async_op, "all_reduce")


def reduce(
    tensor: Tensor,
    dst: int | None = None,
    op: ReduceOp = ReduceOp.SUM,
    group: Group = None,
    async_op: bool = False,
    group_dst: int | None = None,
) -> Work | None:
    """Replace rank dst's tensor by the reduction over the ranks; the others' stay as they are."""
    check_tensors(tensor=tensor)
    here = in_group(group, "reduce")
    if here is None:
        return None
    return _reduce(here, tensor, op, rank_of(here, dst, group_dst) == here.rank(), async_op, "reduce")


def _reduce(here: ProcessGroup, tensor: Tensor, op: ReduceOp, keep: bool, async_op: bool, name: str) -> Work | None:
    array, (how, divisor) = tensor.array, _way(op, tensor, here)
    total = _wide(array, divisor)
    if total is array:
        total = contiguous(array) if keep else array.copy()
    started = here.communicator.all_reduce_start(total, how, _label(name, tensor))
    outputs, copies = ([tensor], [(array, total)]) if keep else ([], [])
    return finish(here, started, outputs, copies, async_op, divisor)


def _way(op: ReduceOp, tensor: Tensor, here: ProcessGroup) -> tuple[str, int]:
    """The communicator's name of op, and what to divide its result by."""
    dtype = tensor.array.dtype
    if not isinstance(op, ReduceOp):
        raise TypeError(f"expected a ReduceOp, found {op!r}")
    if op.value in BITWISE and dtype.kind in FLOATING:
        raise RuntimeError(f"Cannot use ReduceOp.{op.name} with non-integral dtype")
    if op is not ReduceOp.AVG:
        return op.value, 1
    if dtype.kind not in FLOATING:
        raise RuntimeError(f"ReduceOp.AVG: expected a floating-point dtype, found {dtype}")
    return "sum", here.size()


def _wide(array: Array, divisor: int) -> Array:
    """What is still to be divided is not rounded to a half type before that."""
    return array.astype(SINGLE) if divisor != 1 and array.dtype in HALVES else array


def reduce_scatter(
    output: Tensor,
    input_list: list[Tensor],
    op: ReduceOp = ReduceOp.SUM,
    group: Group = None,
    async_op: bool = False,
) -> Work | None:
    """Replace output by the reduction over the ranks of their input_list[my rank]."""
    check_tensors(output=output, input_list=input_list)
    here = in_group(group, "reduce_scatter")
    if here is None:
        return None
    check_list("reduce_scatter", input_list, here.size(), output.shape)
    whole = array_module(output.array).stack([tensor.array for tensor in input_list])
    return _reduce_scatter(here, output, whole, op, async_op)


def reduce_scatter_single(
    output: Tensor, input: Tensor, op: ReduceOp = ReduceOp.SUM, group: Group = None, async_op: bool = False
) -> Work | None:
    """As reduce_scatter, with the inputs one after the other, or stacked, in one tensor."""
    check_tensors(output=output, input=input)
    here = in_group(group, "reduce_scatter_single")
    if here is None:
        return None
    if input.numel() != output.numel() * here.size():
        raise ValueError("input tensor must be the same size as output size times world size")
    return _reduce_scatter(here, output, input.array.reshape(here.size(), *output.shape), op, async_op)


reduce_scatter_tensor = reduce_scatter_single  # the older name


def _reduce_scatter(here: ProcessGroup, output: Tensor, whole: Array, op: ReduceOp, async_op: bool) -> Work | None:
    how, divisor = _way(op, output, here)
    whole = _wide(contiguous(whole), divisor)
    total = array_module(whole).empty(tuple(output.shape), whole.dtype)
    started = here.communicator.reduce_scatter_start(whole, total, how, _label("reduce_scatter", output))
    return finish(here, started, [output], [(output.array, total)], async_op, divisor)


# --- everything to everybody, or to one, and from one -----------------------------------------------------------------


def all_gather(tensor_list: list[Tensor], tensor: Tensor, group: Group = None, async_op: bool = False) -> Work | None:
    """Replace tensor_list[r] by rank r's tensor."""
    check_tensors(tensor_list=tensor_list, tensor=tensor)
    here = in_group(group, "all_gather")
    if here is None:
        return None
    check_list("all_gather", tensor_list, here.size(), tensor.shape)
    return _gather(here, tensor_list, tensor, async_op, "all_gather")


def gather(
    tensor: Tensor,
    gather_list: list[Tensor] | None = None,
    dst: int | None = None,
    group: Group = None,
    async_op: bool = False,
    group_dst: int | None = None,
) -> Work | None:
    """Replace rank dst's gather_list[r] by rank r's tensor; the other ranks give no list. dst: rank 0 when left out."""
    check_tensors(tensor=tensor, gather_list=gather_list or [])
    here = in_group(group, "gather")
    if here is None:
        return None
    check_root_only("gather_list", gather_list, here, rank_of(here, dst, group_dst, 0), "destination")
    if gather_list:
        check_list("gather", gather_list, here.size(), tensor.shape)
    return _gather(here, gather_list or [], tensor, async_op, "gather")


def _gather(here: ProcessGroup, outputs: list[Tensor], tensor: Tensor, async_op: bool, name: str) -> Work | None:
    array = contiguous(tensor.array)
    found = array_module(array).empty((here.size(), *array.shape), array.dtype)
    started = here.communicator.all_gather_start(array, found, _label(name, tensor))
    copies = [(output.array, found[rank]) for rank, output in enumerate(outputs)]
    return finish(here, started, outputs, copies, async_op)


def all_gather_single(
    output_tensor: Tensor, input_tensor: Tensor, group: Group = None, async_op: bool = False
) -> Work | None:
    """Fill output_tensor with all ranks' input_tensor, one after the other or stacked."""
    check_tensors(output_tensor=output_tensor, input_tensor=input_tensor)
    here = in_group(group, "all_gather_single")
    if here is None:
        return None
    if output_tensor.numel() != input_tensor.numel() * here.size():
        raise ValueError("output tensor size must be equal to world_size times input tensor size")
    array, whole = contiguous(input_tensor.array), contiguous(output_tensor.array)
    started = here.communicator.all_gather_start(
        array, whole.reshape(here.size(), *array.shape), _label("all_gather", input_tensor)
    )
    return finish(here, started, [output_tensor], [(output_tensor.array, whole)], async_op)


all_gather_into_tensor = all_gather_single  # the older name


def broadcast(
    tensor: Tensor,
    src: int | None = None,
    group: Group = None,
    async_op: bool = False,
    group_src: int | None = None,
) -> Work | None:
    """Replace tensor by rank src's."""
    check_tensors(tensor=tensor)
    here = in_group(group, "broadcast")
    if here is None:
        return None
    whole = contiguous(tensor.array)
    started = here.communicator.broadcast_start(whole, rank_of(here, src, group_src), _label("broadcast", tensor))
    return finish(here, started, [tensor], [(tensor.array, whole)], async_op)


def scatter(
    tensor: Tensor,
    scatter_list: list[Tensor] | None = None,
    src: int | None = None,
    group: Group = None,
    async_op: bool = False,
    group_src: int | None = None,
) -> Work | None:
    """Replace tensor by rank src's scatter_list[my rank]; the other ranks give no list. src: rank 0 when left out."""
    check_tensors(tensor=tensor, scatter_list=scatter_list or [])
    here = in_group(group, "scatter")
    if here is None:
        return None
    root = rank_of(here, src, group_src, 0)
    check_root_only("scatter_list", scatter_list, here, root, "source")
    xp = array_module(tensor.array)
    if scatter_list:
        check_list("scatter", scatter_list, here.size(), tensor.shape)
        whole = xp.stack([part.array for part in scatter_list])
    else:
        whole = xp.empty((here.size(), *tensor.shape), tensor.array.dtype)
    started = here.communicator.broadcast_start(whole, root, _label("scatter", tensor))
    return finish(here, started, [tensor], [(tensor.array, whole[here.rank()])], async_op)


def all_to_all(
    output_tensor_list: list[Tensor], input_tensor_list: list[Tensor], group: Group = None, async_op: bool = False
) -> Work | None:
    """Replace output_tensor_list[r] by rank r's input_tensor_list[my rank]; the shapes may differ."""
    check_tensors(output_tensor_list=output_tensor_list, input_tensor_list=input_tensor_list)
    here = in_group(group, "all_to_all")
    if here is None:
        return None
    for tensors in (output_tensor_list, input_tensor_list):
        check_list("all_to_all", tensors, here.size())
    outputs, inputs = ([tensor.array for tensor in some] for some in (output_tensor_list, input_tensor_list))
    return _exchange(here, outputs, inputs, output_tensor_list, async_op)


def all_to_all_single(
    output: Tensor,
    input: Tensor,
    output_split_sizes: Sequence[int] | None = None,
    input_split_sizes: Sequence[int] | None = None,
    group: Group = None,
    async_op: bool = False,
) -> Work | None:
    """Send each rank its rows of input, and put the rows of each rank one after the other into output.

    The split sizes say how many rows are each rank's; equally many when left out.
    """
    check_tensors(output=output, input=input)
    here = in_group(group, "all_to_all_single")
    if here is None:
        return None
    outputs = _rows(output, output_split_sizes, here.size())
    return _exchange(here, outputs, _rows(input, input_split_sizes, here.size()), [output], async_op)


def _rows(tensor: Tensor, sizes: Sequence[int] | None, size: int) -> list[Array]:
    rows = len(tensor)
    if not sizes:
        if rows % size:
            raise RuntimeError("Tensor's dim 0 does not divide equally across group size")
        sizes = [rows // size] * size
    if len(sizes) != size:
        raise RuntimeError("Number of tensor splits not equal to group size")
    if sum(sizes) != rows:
        raise RuntimeError("Split sizes doesn't match total dim 0 size")
    return [tensor.array[end - count : end] for count, end in zip(sizes, np.cumsum(sizes).tolist(), strict=True)]


def _exchange(
    here: ProcessGroup, outputs: list[Array], inputs: list[Array], tensors: list[Tensor], async_op: bool
) -> Work | None:
    """Pieces of any sizes, filled up to the largest of all ranks."""
    mine = [part.size for part in inputs], [part.size for part in outputs]
    sizes = here.communicator.all_gather_object(mine, "sizes of all_to_all")
    for source, (sent, _) in enumerate(sizes):
        for to, (_, awaited) in enumerate(sizes):
            if sent[to] != awaited[source]:  # seen by every rank: all raise it
                raise RuntimeError(
                    f"all_to_all: expected {awaited[source]} elements on rank {to} from rank {source}, found {sent[to]}"
                )
    xp = array_module(inputs[0])
    packed = xp.zeros((here.size(), max(max(sent) for sent, _ in sizes)), inputs[0].dtype)
    found = xp.empty_like(packed)
    for row, part in zip(packed, inputs, strict=True):
        row[: part.size] = part.reshape(-1)
    started = here.communicator.all_to_all_start(packed, found, "all_to_all")
    copies = [(part, row[: part.size].reshape(part.shape)) for row, part in zip(found, outputs, strict=True)]
    return finish(here, started, tensors, copies, async_op)


# --- waiting for each other -------------------------------------------------------------------------------------------


def barrier(
    group: Group = None, async_op: bool = False, device_ids: object = None, timeout: float | timedelta | None = None
) -> Work | None:
    """Return when all ranks of the group have arrived; timeout: seconds, the group's when left out."""
    here = in_group(group, "barrier")
    if here is None:
        return None
    work = Work(here.communicator.barrier_start(), [], here)
    if async_op:
        return work
    work.wait(timeout)
    return None


def monitored_barrier(
    group: Group = None, timeout: float | timedelta | None = None, wait_all_ranks: bool = False
) -> None:
    """A barrier, under PyTorch's name for one with a deadline: here every barrier has one."""
    here = in_group(group, "monitored_barrier")
    if here is not None:
        Work(here.communicator.barrier_start("monitored_barrier"), [], here).wait(timeout)
