"""ShardedSampler: every rank's part of each global batch."""

from __future__ import annotations

from collections.abc import Iterator, Sized

from ..core.generator import Generator
from .process_group import get_rank, get_world_size
from .tree import Cut


class ShardedSampler:
    """A batch sampler for `DataLoader(dataset, batch_sampler=...)`: each rank's slice of every global batch.

    global_batch is the number of samples of all ranks together, so a step sees the same samples on any number of
    ranks. Nothing is padded, nothing is dropped unless drop_last: the last batch may be short, and a rank's slice of it
    empty. With shuffle, every pass over the sampler has an order of its own, a function of (seed, epoch); the order is
    that of PyTorch's DistributedSampler before it is dealt out.

    shards: cut each global batch into that many parts, as DistributedDataParallel(shards=...) does, and give each rank
    the samples of its parts; the world's size when left out. rank and world_size: the process group's when left out.
    ValueError for an empty dataset, for a global batch smaller than the shards, for fewer shards than ranks, and for a
    rank outside the world.
    """

    def __init__(
        self,
        dataset: Sized,
        global_batch: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        shards: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        self.rank = get_rank() if rank is None else rank
        self.world_size = get_world_size() if world_size is None else world_size
        if not 0 <= self.rank < self.world_size:
            raise ValueError(
                f"ShardedSampler: expected a rank from 0 to {self.world_size - 1} in a world of {self.world_size}, "
                f"found {self.rank}"
            )
        if len(dataset) == 0:
            raise ValueError("ShardedSampler: expected a dataset with at least one sample, found an empty one")
        self.cut = Cut(self.world_size if shards is None else shards, self.world_size)
        if global_batch < self.cut.shards:
            part, remedy = ("rank", "start fewer ranks") if shards is None else ("shard", "ask for fewer shards")
            raise ValueError(
                f"ShardedSampler: expected a global batch of at least one sample per {part} ({self.cut.shards}), found "
                f"{global_batch}; raise the global batch or {remedy}"
            )
        if drop_last and len(dataset) < global_batch:
            raise ValueError(
                f"ShardedSampler: expected at least one whole global batch of {global_batch} samples with drop_last, "
                f"found {len(dataset)} samples"
            )
        self.length, self.global_batch = len(dataset), global_batch
        self.shuffle, self.seed, self.drop_last = shuffle, seed, drop_last
        self.epoch = 0  # of the next pass

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass that of this epoch; without it every pass is the next epoch."""
        self.epoch = epoch

    def order(self, epoch: int) -> list[int]:
        """All indices in the order of an epoch, the same on every rank."""
        if not self.shuffle:
            return list(range(self.length))
        order: list[int] = Generator().manual_seed(self.seed + epoch).randperm(self.length).tolist()
        return order

    def __iter__(self) -> Iterator[list[int]]:
        order = self.order(self.epoch)
        self.epoch += 1
        for number in range(len(self)):
            batch = order[number * self.global_batch : (number + 1) * self.global_batch]
            mine = self.cut.samples_of(self.rank, len(batch))
            yield batch[mine.start : mine.stop]

    def __len__(self) -> int:
        """The number of global batches: the same on every rank."""
        return self.length // self.global_batch if self.drop_last else -(-self.length // self.global_batch)


class DistributedSampler:
    """PyTorch's sampler, index for index: every rank gets equally many samples, some of them twice to make it so.

    shuffle: an order from seed + epoch (`set_epoch`). drop_last drops the tail instead of repeating samples. For a
    sampler that repeats and drops nothing see ShardedSampler. ValueError for a rank outside the world.
    """

    def __init__(
        self,
        dataset: Sized,
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        self.dataset, self.shuffle, self.seed, self.drop_last = dataset, shuffle, seed, drop_last
        self.num_replicas = get_world_size() if num_replicas is None else num_replicas
        self.rank = get_rank() if rank is None else rank
        if not 0 <= self.rank < self.num_replicas:
            raise ValueError(f"Invalid rank {self.rank}, rank should be in the interval [0, {self.num_replicas - 1}]")
        self.epoch = 0
        whole, rest = divmod(len(dataset), self.num_replicas)
        self.num_samples = whole + (rest > 0 and not drop_last)
        self.total_size = self.num_samples * self.num_replicas

    def __iter__(self) -> Iterator[int]:
        count = len(self.dataset)
        if self.shuffle:
            order = Generator().manual_seed(self.seed + self.epoch).randperm(count).tolist()
        else:
            order = list(range(count))
        order = (order * -(-self.total_size // max(count, 1)))[: self.total_size]
        return iter(order[self.rank :: self.num_replicas])

    def __len__(self) -> int:
        return self.num_samples

    def set_epoch(self, epoch: int) -> None:
        """Make the next passes those of this epoch: without it every pass has the same order."""
        self.epoch = epoch
