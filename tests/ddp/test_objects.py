"""Python objects from rank to rank, in every world."""

from typing import Any

import pytest

from mpigrad import distributed as dist


def test_objects(world: Any) -> None:
    def main() -> None:
        rank, size = dist.get_rank(), dist.get_world_size()
        everyone = [{"rank": r, "losses": [0.5] * r} for r in range(size)]
        found: list[Any] = [None] * size
        dist.all_gather_object(found, everyone[rank])
        assert found == everyone
        for root in range(size):
            found = [None] * size
            dist.gather_object(everyone[rank], found if rank == root else None, dst=root)
            assert found == (everyone if rank == root else [None] * size)
            config: list[Any] = [{"lr": root}, "name"] if rank == root else [None, None]
            dist.broadcast_object_list(config, root)
            assert config == [{"lr": root}, "name"]
            parts = [f"for {r}" for r in range(size)] if rank == root else None
            dist.scatter_object_list(place := [None, "kept"], parts, group_src=root)
            assert place == [f"for {rank}", "kept"]

    world(main)


def test_groups(world: Any) -> None:
    def main() -> None:
        rank, size = dist.get_rank(), dist.get_world_size()
        last = size - 1
        group = dist.new_group([last])
        if rank == last:
            dist.all_gather_object(found := [None], rank, group)
            dist.broadcast_object_list(config := [rank], last, group)
            dist.gather_object("word", words := [None], last, group)
            dist.scatter_object_list(place := [None], ["mine"], group=group, group_src=0)
            assert (found, config, words, place) == ([last], [last], ["word"], ["mine"])
        elif world.kind == "mpi":
            with pytest.warns(UserWarning, match=f"all_gather_object on global rank {rank} which does not belong"):
                dist.all_gather_object(found := [None], rank, group)
            assert found == [None]

    world(main)


def test_messages(world: Any) -> None:
    """Each rank sends to the next one; rank 0 takes its from whoever sends."""

    def main() -> None:
        rank, size = dist.get_rank(), dist.get_world_size()
        if size == 1:
            return
        if rank < size - 1:
            dist.send_object_list([{"from": rank}, "word"], dst=rank + 1)
        if rank:
            found: list[Any] = [None, None]
            assert dist.recv_object_list(found, src=rank - 1 if rank % 2 else None) == rank - 1
            assert found == [{"from": rank - 1}, "word"]
        dist.barrier()
        if rank == 0:
            dist.send_object_list([1, 2], group_dst=1)
        if rank == 1:
            with pytest.raises(ValueError, match="recv_object_list: expected 3 objects, found 2"):
                dist.recv_object_list([None] * 3, group_src=0)

    world(main)


def test_errors() -> None:
    dist.init_process_group("single")
    try:
        with pytest.raises(ValueError, match="all_gather_object: expected a list of 1, found one of 0"):
            dist.all_gather_object([], 1)
        with pytest.raises(ValueError, match="Argument ``gather_list`` must be specified on destination rank"):
            dist.gather_object(1)
        with pytest.raises(ValueError, match="scatter_object_output_list to be a list of size at least 1"):
            dist.scatter_object_list([], [1])
        with pytest.raises(ValueError, match="expected one object for each of 1 ranks, found 2"):
            dist.scatter_object_list([None], [1, 2])
        with pytest.raises(ValueError, match="Global rank 2 is not part of group"):
            dist.broadcast_object_list([1], 2)
    finally:
        dist.destroy_process_group()
