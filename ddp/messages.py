"""Tensors from one rank to another, with PyTorch's names.

src, dst and peer are ranks of the world; group_src, group_dst and group_peer those of the group.
"""

from __future__ import annotations

from collections.abc import Callable

from ..core.tensor import Tensor
from .arguments import check_tensors, in_group, rank_of
from .process_group import Group, ProcessGroup, get_global_rank
from .work import Work, contiguous, finish


def isend(
    tensor: Tensor, dst: int | None = None, group: Group = None, tag: int = 0, group_dst: int | None = None
) -> Work | None:
    """Begin to send tensor to rank dst; leave it alone until the work is done."""
    check_tensors(tensor=tensor)
    here = in_group(group, "isend")
    if here is None:
        return None
    to = rank_of(here, dst, group_dst)
    _check_other(here, to, "destination")
    return finish(here, here.communicator.send_start(contiguous(tensor.array), to, tag), [], [], True)


def irecv(
    tensor: Tensor, src: int | None = None, group: Group = None, tag: int = 0, group_src: int | None = None
) -> Work | None:
    """Begin to replace tensor by what rank src (None: any rank) sends with this tag."""
    check_tensors(tensor=tensor)
    here = in_group(group, "irecv")
    if here is None:
        return None
    source = None if src is None and group_src is None else rank_of(here, src, group_src)
    _check_other(here, source, "source")
    found = contiguous(tensor.array)
    started = here.communicator.receive_start(found, source, tag)
    return finish(here, started, [tensor], [(tensor.array, found)], True)


def _check_other(here: ProcessGroup, rank: int | None, end: str) -> None:
    if rank == here.rank():
        raise ValueError(f"Invalid {end} rank: {end} rank should not be the same as the rank of the current process.")


def send(
    tensor: Tensor, dst: int | None = None, group: Group = None, tag: int = 0, group_dst: int | None = None
) -> None:
    """Send tensor to rank dst."""
    work = isend(tensor, dst, group, tag, group_dst)
    if work is not None:
        work.wait()


def recv(
    tensor: Tensor, src: int | None = None, group: Group = None, tag: int = 0, group_src: int | None = None
) -> int:
    """Replace tensor by what rank src (None: any rank) sends; the rank of the world that did, -1 outside the group."""
    work = irecv(tensor, src, group, tag, group_src)
    if work is None:
        return -1
    work.wait()
    return get_global_rank(work.group, work.source_rank())


class P2POp:
    """One message of `batch_isend_irecv`: op is isend or irecv."""

    def __init__(
        self,
        op: Callable[..., Work | None],
        tensor: Tensor,
        peer: int | None = None,
        group: Group = None,
        tag: int = 0,
        group_peer: int | None = None,
    ) -> None:
        if op not in (isend, irecv):
            raise ValueError(
                "Invalid ``op``. Expected ``op`` to be of type ``torch.distributed.isend`` or "
                "``torch.distributed.irecv``."
            )
        check_tensors(tensor=tensor)
        self.op, self.tensor, self.peer = op, tensor, peer
        self.group, self.tag, self.group_peer = group, tag, group_peer


def batch_isend_irecv(p2p_op_list: list[P2POp]) -> list[Work]:
    """Begin all of these messages; they may be in any order."""
    if not isinstance(p2p_op_list, list) or not all(isinstance(op, P2POp) for op in p2p_op_list):
        raise ValueError("Invalid ``p2p_op_list``. Each op is expected to to be of type ``torch.distributed.P2POp``.")
    begun = [op.op(op.tensor, op.peer, op.group, op.tag, op.group_peer) for op in p2p_op_list]
    return [work for work in begun if work is not None]
