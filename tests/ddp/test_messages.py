"""Tensors from one rank to another, in every world of more than one."""

from typing import Any

import pytest

import mpigrad
from mpigrad import distributed as dist


def test_round_the_ring(world: Any) -> None:
    def main() -> None:
        rank, size = dist.get_rank(), dist.get_world_size()
        if size == 1:
            return
        after, before = (rank + 1) % size, (rank - 1) % size
        mine, found = mpigrad.full((2, 3), float(rank)), mpigrad.zeros(3, 2).T
        sent, received = dist.isend(mine, after, tag=7), dist.irecv(found, group_src=before, tag=7)
        assert sent is not None and received is not None and sent.wait() and received.wait()
        assert (found == before).all() and received.source_rank() == before and received.is_completed()

        if rank == 0:
            assert dist.send(mine, 1) is None
            assert dist.recv(found, size - 1) == size - 1
        else:
            assert dist.recv(found) == rank - 1  # from whoever sends
            found += 1
            dist.send(found, group_dst=after)
        assert (found == (size - 1 if rank == 0 else rank)).all()

        ends = [dist.P2POp(dist.irecv, found, before), dist.P2POp(dist.isend, mine, group_peer=after)]
        for work in dist.batch_isend_irecv(ends):
            work.wait()
        assert (found == before).all()

    world(main)


def test_groups(world: Any) -> None:
    """Ranks are the world's, or the group's by another name."""

    def main() -> None:
        rank, size = dist.get_rank(), dist.get_world_size()
        if size < 3:
            return
        ends = dist.new_group([0, size - 1])
        tensor = mpigrad.tensor([rank])
        if rank == 0:
            dist.send(tensor, size - 1, ends)
            dist.send(tensor, group=ends, group_dst=1)
        elif rank == size - 1:
            assert dist.recv(tensor, group=ends, group_src=0) == 0 and tensor.item() == 0
            assert dist.recv(tensor.add_(1), group=ends) == 0 and tensor.item() == 0
        elif world.kind == "mpi":
            with pytest.warns(UserWarning, match=f"Running irecv on global rank {rank} which does not belong"):
                assert dist.recv(tensor, 0, ends) == -1

    world(main)


def test_errors(world: Any) -> None:
    def main() -> None:
        rank, tensor = dist.get_rank(), mpigrad.zeros(1)
        for call, end in ((dist.send, "destination"), (dist.recv, "source")):
            with pytest.raises(ValueError, match=f"Invalid {end} rank: {end} rank should not be the same as the rank"):
                call(tensor, rank)
            with pytest.raises(ValueError, match="Global rank 9 is not part of group"):
                call(tensor, 9)
            with pytest.raises(TypeError, match=r"Expected parameter `tensor` of type torch\.Tensor"):
                call(1.0, 0)
        with pytest.raises(ValueError, match="Must specify global_rank or group_rank"):
            dist.send(tensor)
        with pytest.raises(ValueError, match=r"Expected ``op`` to be of type ``torch\.distributed\.isend``"):
            dist.P2POp(dist.broadcast, tensor, 0)
        with pytest.raises(ValueError, match="Invalid ``p2p_op_list``"):
            dist.batch_isend_irecv([tensor])

    world(main)
