"""How fast the ranks reduce arrays: each transport beside the MPI library's own Allreduce and a copy in memory.

A reduction is timed from a barrier to the moment when the slowest rank has its result. Bandwidth is the bytes of the
buffer over that time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from statistics import median

import numpy as np
from mpi4py import MPI

from .hierarchical import HierarchicalCommunicator
from .mpi import MPICommunicator, library_version
from .shm import SharedMemoryCommunicator

COPY = "copy"
VOLUME, MOST, FEWEST = 2**27, 200, 3  # bytes that one round moves, repetitions that it takes at most and at least

Contestant = Callable[[int], Callable[[], object]]
"""For a number of float32 elements: a function that reduces (or copies) so many."""


def contestants(most: int, timeout: float) -> dict[str, Contestant]:
    """By name, everything that can be compared on these ranks, for up to so many elements. Collective."""
    found: dict[str, Contestant] = {}
    for kind in (SharedMemoryCommunicator, MPICommunicator, HierarchicalCommunicator):
        name = str(kind.transport)
        found[name] = _transport(name, kind, most, timeout)
    own, source, target = (np.zeros(most, np.float32) + 0 for _ in range(3))  # + 0: in memory of its own from now on
    library = library_version().replace("Version: ", "")
    found[f"{library} Allreduce"] = lambda n: lambda: MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, own[:n])
    found[COPY] = lambda n: lambda: np.copyto(target[:n], source[:n])
    return found


def _transport(name: str, kind: type[MPICommunicator], most: int, timeout: float) -> Contestant:
    communicator = kind(MPI.COMM_WORLD, name=name, timeout=timeout)
    buffer = communicator.allocate(most, np.dtype(np.float32))
    buffer.fill(0)
    total = lambda: float(communicator.size)

    def contestant(n: int) -> Callable[[], object]:
        part = buffer[:n]
        return lambda: communicator.weighted_sum_start(part, 1, total, f"reduction of {n} elements").wait()

    return contestant


def curve(sizes: Iterable[int], rounds: int, timeout: float) -> Iterator[tuple[int, dict[str, list[float]]]]:
    """For each size in bytes the seconds of one reduction by every contestant, a median per round. Collective.

    The contestants take turns, round by round.
    """
    sizes = list(sizes)
    everybody = contestants(max(sizes) // 4, timeout)
    for size in sizes:
        calls = {name: make(size // 4) for name, make in everybody.items()}
        repetitions = min(MOST, max(FEWEST, VOLUME // size))
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(rounds):
            for name, call in calls.items():
                call()  # the first one finds cold caches
                seconds[name].append(median(_once(call) for _ in range(repetitions)))
        yield size, seconds


def _once(call: Callable[[], object]) -> float:
    MPI.COMM_WORLD.Barrier()
    started = time.perf_counter()
    call()
    slowest: float = MPI.COMM_WORLD.allreduce(time.perf_counter() - started, MPI.MAX)
    return slowest
