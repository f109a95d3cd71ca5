"""What a training step costs on many ranks: a model of the transports and of what backward hides, in pure functions.

Times are seconds, sizes bytes, and numbers of ranks and nodes powers of two. A message or a copy of so many bytes costs
what a `Curve` says: latency and bandwidth, or what was measured. Formulas of the collectives: Thakur, Rabenseifner and
Gropp, "Optimization of collective communication operations in MPICH", 2005; Patarasuk and Yuan, "Bandwidth optimal
all-reduce algorithms for clusters of workstations", 2009. docs/scaling.md writes them down and says what is left out.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

MIB = 2**20
Curve = Callable[[float], float]
"""Seconds for a number of bytes."""


@dataclass(frozen=True)
class Line:
    """Latency and bandwidth."""

    latency: float
    bandwidth: float

    def __call__(self, size: float) -> float:
        return self.latency + size / self.bandwidth


class Measured:
    """Seconds at some sizes, straight lines between them; smaller ones take as long as the smallest."""

    def __init__(self, seconds: Mapping[float, float]) -> None:
        self.sizes = sorted(seconds)
        self.seconds = [seconds[size] for size in self.sizes]

    def __call__(self, size: float) -> float:
        if size <= self.sizes[0]:
            return self.seconds[0]
        if size >= self.sizes[-1]:
            return self.seconds[-1] * size / self.sizes[-1]
        right = bisect(self.sizes, size)
        (low, high), (before, after) = self.sizes[right - 1 : right + 1], self.seconds[right - 1 : right + 1]
        return before + (after - before) * (size - low) / (high - low)


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Nodes that are alike, a rank on each core; or more ranks than cores, which then take turns."""

    cores: int
    copy: Curve
    """One core copies memory while all others of its node do so too: so many bytes are read, as many written."""
    memory: float = math.inf
    """Bytes a second that all cores of a node can read and write together."""
    message: Curve
    """Two ranks of a node send each other so many bytes at once, through the MPI library."""
    wire: Curve
    """The same between two nodes, with the network interface for itself."""
    overhead: Mapping[str, float]
    """By transport: what a reduction costs whatever its size."""
    peer: float = 0.0
    """What shared memory costs for each further rank of a node, whatever the size."""
    hidden: Mapping[str, float]
    """By transport: the share of its time inside a node in which the core is free to compute, from 0 to 1."""
    offload: float = 1.0
    """The same of the time between nodes."""
    block: float = 4 * MIB
    """Bytes of its slice that the hierarchical transport sends at a time ..."""
    short: float = 4096
    """... and up to which it gathers all nodes' slices at once."""
    nap: float = 1e-4
    """How long its thread sleeps before it looks again for what it waits for: half of that is lost each time."""

    def turns(self, here: int) -> float:
        """By how much everything takes longer where more ranks run than there are cores."""
        return max(1.0, here / self.cores)

    def move(self, here: int, size: float) -> float:
        """So many ranks of a node copy so many bytes each."""
        return max(self.turns(here) * self.copy(size), 2 * size * here / self.memory)

    def add(self, here: int, size: float) -> float:
        """The same for adding to what is there: two bytes are read and one is written for one of each in a copy."""
        return 1.5 * self.move(here, size) if size else 0.0

    def exchange(self, here: int, size: float) -> float:
        """So many ranks of a node send each other so many bytes, which the library copies in and out."""
        return max(self.turns(here) * self.message(size), 4 * size * here / self.memory)


class Seconds(NamedTuple):
    """What a reduction takes: what goes on inside the nodes, all additions included, and what between them."""

    inside: float
    across: float


def ring(exchange: Curve, add: Curve, ranks: int, size: float) -> float:
    """Every rank hands slices to its neighbour: reduce-scatter and all-gather in ranks - 1 steps each."""
    part = size / ranks
    return (ranks - 1) * (2 * exchange(part) + add(part)) if ranks > 1 else 0.0


def halving(exchange: Curve, add: Curve, ranks: int, size: float) -> float:
    """Rabenseifner's: reduce-scatter by recursive halving, all-gather by recursive doubling."""
    parts = [size / 2**step for step in range(1, _log2(ranks) + 1)]
    return sum(2 * exchange(part) + add(part) for part in parts)


def doubling(exchange: Curve, add: Curve, ranks: int, size: float) -> float:
    """In each step every rank sends all it has: the fewest steps."""
    return _log2(ranks) * (exchange(size) + add(size))


def shm(cluster: Cluster, ranks: int, size: float) -> Seconds:
    """Each rank adds up its slice of all ranks' arrays, multiplies it once, and copies it into the others.

    That reads and writes (3 + 1/ranks) size bytes, where a copy has two for each.
    """
    if ranks == 1:
        return Seconds(0.0, 0.0)
    start = cluster.turns(ranks) * (cluster.overhead["shm"] + cluster.peer * (ranks - 2))
    return Seconds(start + (3 + 1 / ranks) / 2 * cluster.move(ranks, size), 0.0)


def mpi(cluster: Cluster, ranks: int, size: float, per_node: int) -> Seconds:
    """A pass over the array that weighs it, then the library's all-reduce by the fastest of the three algorithms.

    Neighbours in rank share a node: halving and doubling do their first steps inside it, and a ring crosses to one
    other node from each.
    """
    if ranks == 1:
        return Seconds(0.0, 0.0)
    here, nodes = _places(ranks, per_node)
    inside, add = (lambda n: cluster.exchange(here, n)), (lambda n: cluster.add(here, n))
    shared = lambda n: cluster.wire(n * here)  # all ranks of a node send at once
    ways = []
    for way, rest in ((halving, size / here), (doubling, size)):
        own = way(inside, add, here, size) + way(_free, add, nodes, rest)
        ways.append((own, way(shared, _free, nodes, rest)))
    slowest: Curve = lambda n: max(inside(n), cluster.wire(n) if nodes > 1 else 0.0)
    own = ring(inside, add, ranks, size)
    ways.append((own, ring(slowest, add, ranks, size) - own))
    best = min(ways, key=sum)
    weighing = cluster.turns(here) * cluster.overhead["mpi"] + cluster.move(here, size)
    return Seconds(weighing + best[0], best[1])


def hierarchical(cluster: Cluster, ranks: int, size: float, per_node: int) -> Seconds:
    """Shared memory inside the nodes; each rank's slice goes between nodes by all-to-all and all-gather, in blocks."""
    if ranks == 1:
        return Seconds(0.0, 0.0)
    here, nodes = _places(ranks, per_node)
    inside = cluster.turns(here) * (cluster.overhead["hierarchical"] + cluster.peer * max(0, here - 2))
    if here > 1:
        inside += (3 + 1 / here) / 2 * cluster.move(here, size)
    across, left = 0.0, size / here
    if nodes > 1 and left <= cluster.short:
        inside += cluster.add(here, (nodes - 1) * left)
        across += sum(cluster.wire(left * here * 2**step) for step in range(_log2(nodes))) + cluster.nap / 2
    elif nodes > 1:
        while left > 0:
            part = min(left, cluster.block) / nodes
            inside += (nodes - 1) * cluster.add(here, part)
            across += 2 * (nodes - 1) * cluster.wire(part * here) + cluster.nap
            left -= cluster.block
    return Seconds(inside, across)


def all_reduce(cluster: Cluster, transport: str, ranks: int, size: float, per_node: int | None = None) -> Seconds:
    """What reducing an array of `size` bytes takes, on nodes of `per_node` ranks (None: all on one node)."""
    per_node = per_node or ranks
    if transport == "shm":
        return shm(cluster, ranks, size) if ranks <= per_node else Seconds(math.inf, 0.0)
    return {"mpi": mpi, "hierarchical": hierarchical}[transport](cluster, ranks, size, per_node)


@dataclass(frozen=True)
class Step:
    """A training step of one rank that reduces nothing, on a node whose cores are all busy."""

    forward: float
    backward: float
    optimizer: float
    gradients: Sequence[tuple[float, float]]
    """For each parameter, the last one first: bytes, and when in backward its gradient is final."""

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.forward + self.backward + self.optimizer


def buckets(gradients: Sequence[tuple[float, float]], first: float, other: float) -> list[tuple[float, float]]:
    """Bytes and readiness of each bucket in the order of reduction; cut as ddp/bucket.py does, for these caps."""
    groups: list[list[tuple[float, float]]] = []
    for gradient in gradients:
        limit = first if len(groups) <= 1 else other
        if not groups or sum(size for size, _ in groups[-1]) + gradient[0] > limit:
            groups.append([])
        groups[-1].append(gradient)
    found = [(sum(size for size, _ in group), max(ready for _, ready in group)) for group in groups]
    return sorted(found, key=lambda bucket: bucket[1])


def step_seconds(
    cluster: Cluster, transport: str, ranks: int, step: Step, cap: float, per_node: int | None = None
) -> float:
    """A step on so many ranks with buckets of `cap` bytes (the first one of 1 MiB at most).

    A bucket's reduction begins when it is ready and the one before is done. The part of it that needs the core holds
    backward up; the rest goes on beside it. What is not done when backward ends is waited for: the last bucket's
    reduction always, because it is ready only then.
    """
    slower = cluster.turns(min(ranks, per_node or ranks))
    held = done = 0.0
    counts = (8.0 * (5 + len(step.gradients)), 0.0)  # the exchange of weights goes ahead of the buckets
    for size, ready in [counts, *buckets(step.gradients, min(cap, MIB), cap)] if ranks > 1 else []:
        inside, across = all_reduce(cluster, transport, ranks, size, per_node)
        done = max(done, slower * ready + held) + inside + across
        held += inside * (1 - cluster.hidden[transport]) + across * (1 - cluster.offload)
    return slower * (step.forward + step.optimizer) + max(slower * step.backward + held, done)


def efficiency(
    cluster: Cluster, transport: str, ranks: int, step: Step, cap: float, per_node: int | None = None
) -> float:
    """A step without any reduction over the step with them: 1 is perfect weak scaling."""
    alone = cluster.turns(min(ranks, per_node or ranks)) * step.seconds
    return alone / step_seconds(cluster, transport, ranks, step, cap, per_node)


def _free(size: float) -> float:
    return 0.0


def _places(ranks: int, per_node: int) -> tuple[int, int]:
    """Ranks on a node, nodes."""
    here = min(ranks, per_node)
    return here, ranks // here


def _log2(number: int) -> int:
    if number < 1 or number & (number - 1):
        raise ValueError(f"expected a number of ranks and of nodes that is a power of two, found {number}")
    return number.bit_length() - 1
