"""Sums over the shards of a global batch in one order, whatever the number of ranks.

The shards are the leaves of a binary tree: the sum over shards lo to hi is the sum over lo to mid plus the sum over mid
to hi, with mid = (lo + hi) // 2. A rank adds up the largest subtrees that lie within its own shards; the ranks exchange
these few partial sums, and each finishes the tree on its slice of the elements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ..core.backend import Array, array_module
from .comm.protocol import Communicator

__all__ = ["Cut", "add_up", "partial_sums", "sum_over_shards"]

Node = tuple[int, int]
"""A subtree: the shards lo to hi, hi excluded."""


@dataclass(frozen=True)
class Cut:
    """How a global batch is cut into shards, and which of them each rank has. ValueError for too few shards."""

    shards: int
    ranks: int

    def __post_init__(self) -> None:
        if self.shards < self.ranks:
            raise ValueError(
                f"shards: expected at least one for each of {self.ranks} rank(s), found {self.shards}; raise the "
                "number of shards, or start fewer ranks"
            )

    def of(self, rank: int) -> range:
        """The shards of a rank: neighbours."""
        return range(self.shards * rank // self.ranks, self.shards * (rank + 1) // self.ranks)

    def start(self, shard: int, samples: int) -> int:
        """Where a shard begins in a global batch of so many samples; it ends where the next one begins."""
        return samples * shard // self.shards

    def samples_of(self, rank: int, samples: int) -> range:
        """Which samples of a global batch are a rank's."""
        mine = self.of(rank)
        return range(self.start(mine.start, samples), self.start(mine.stop, samples))

    def subtrees(self, rank: int) -> list[Node]:
        """The largest subtrees within a rank's shards, in order."""
        return list(_within(self.of(rank), 0, self.shards))


def _within(mine: range, lo: int, hi: int) -> Iterator[Node]:
    if mine.start <= lo and hi <= mine.stop:
        yield lo, hi
    elif lo < mine.stop and mine.start < hi:
        mid = (lo + hi) // 2
        yield from _within(mine, lo, mid)
        yield from _within(mine, mid, hi)


def add_up(
    node: Node, known: Callable[[Node], Sequence[Array] | None], spare: list[Sequence[Array]] | None = None
) -> Sequence[Array]:
    """The sums over a subtree of which some nodes are known: of several arrays at once, which are overwritten.

    spare: where to put arrays that are no longer needed.
    """
    found = known(node)
    if found is None:
        lo, hi = node
        mid = (lo + hi) // 2
        found, others = add_up((lo, mid), known, spare), add_up((mid, hi), known, spare)
        for total, other in zip(found, others, strict=True):
            total += other
        if spare is not None:
            spare.append(others)
    return found


def partial_sums(
    cut: Cut, rank: int, leaf: Callable[[int], Sequence[Array]], spare: list[Sequence[Array]] | None = None
) -> list[Sequence[Array]]:
    """The sums over a rank's subtrees; leaf gives a shard's arrays, and is called in the shards' order."""
    known: Callable[[Node], Sequence[Array] | None] = lambda node: leaf(node[0]) if node[1] - node[0] == 1 else None
    return [add_up(node, known, spare) for node in cut.subtrees(rank)]


def sum_over_shards(
    communicator: Communicator, cut: Cut, partial: Sequence[Array], divisor: float = 1, name: str = "sum over shards"
) -> Array:
    """The sum over all shards, divided once, on every rank; partial: the sums over this rank's subtrees, overwritten.

    The arrays are one-dimensional, of the same size and dtype on all ranks; the size is a multiple of the ranks'
    number.
    """
    ranks, first = communicator.size, partial[0]
    xp = array_module(first)
    nodes = [cut.subtrees(rank) for rank in range(ranks)]
    parts: dict[Node, Sequence[Array]] = {}
    if ranks == 1:
        parts[nodes[0][0]] = [first]
    else:
        works = []
        for place in range(max(map(len, nodes))):
            mine = partial[place] if place < len(partial) else first  # not looked at
            theirs = xp.empty((ranks, first.size // ranks), first.dtype)
            works.append(communicator.all_to_all_start(mine.reshape(theirs.shape), theirs, name))
            parts |= {subtrees[place]: [theirs[r]] for r, subtrees in enumerate(nodes) if place < len(subtrees)}
        for work in works:
            work.wait()
    (mine,) = add_up((0, cut.shards), parts.get)
    if divisor != 1:
        mine /= mine.dtype.type(divisor)
    if ranks == 1:
        return mine
    whole = xp.empty((ranks, mine.size), mine.dtype)
    communicator.all_gather(mine, whole, name)
    return whole.reshape(-1)
