"""Ranks on several machines: shared memory inside each of them, messages between those that have the same place in it.

Each rank adds up one slice of the arrays of its machine, as in shm.py. Then the ranks that hold this slice on their
machines add these up: each takes one piece of the slice from all, adds in the order of the machines, and hands the
result to all (reduce-scatter and all-gather, which send the least that is possible: Patarasuk and Yuan, "Bandwidth
optimal all-reduce algorithms for clusters of workstations", 2009). So all links between machines are used by all of a
machine's ranks, and the order of every sum is fixed. All of it happens in the communicator's thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from mpi4py import MPI

from ...core.backend import Array
from .mpi import MPICommunicator, element
from .protocol import Communicator, Work, even_cuts
from .shm import EAGER, NAP, SharedMemoryCommunicator

SHORT = 1 << 10  # elements up to which every machine sends all it has: one message less to wait for


class HierarchicalCommunicator(MPICommunicator):
    """Ranks on several machines. Allocated arrays are summed as described above, all others by the MPI library.

    node: the number of this rank's machine, for trying machines that there are not; None: found out.
    """

    transport = "hierarchical"

    def __init__(self, comm: MPI.Comm, *, name: str, timeout: float, node: int | None = None) -> None:
        super().__init__(comm, name=name, timeout=timeout)
        self._node = node
        here = comm.Split_type(MPI.COMM_TYPE_SHARED) if node is None else comm.Split(node)
        self._inside = _Inside(here, comm, name=f"{name}, inside the machine")
        here.Free()
        self._places = comm.allgather(self._inside.place())

    def _connect_part(self, comm: MPI.Comm, name: str) -> MPICommunicator:
        if self._node is None:
            return super()._connect_part(comm, name)
        return HierarchicalCommunicator(comm, name=name, timeout=self.timeout, node=self._node)

    def allocate(self, size: int, dtype: np.dtype[Any]) -> Array:
        """A one-dimensional array of zeros that `weighted_sum_start` reduces as described above. Collective."""
        made: list[Array] = []

        def make() -> None:
            array = self._inside.allocate(size, dtype)
            shared = self._inside.everybodys(array) is not None
            made.append(array if self._comm.allreduce(shared, MPI.LAND) else np.zeros(size, dtype))

        self.start(make, "allocation of shared memory").wait()
        return made.pop()  # the task, which is remembered, must not keep it

    def weighted_sum_start(
        self,
        array: Array,
        weight: float,
        total: Callable[[], float],
        name: str,
        between: Callable[[Array], None] | None = None,
    ) -> Work:
        if self._inside.everybodys(array) is None:
            return super().weighted_sum_start(array, weight, total, name, between)
        return self.start(lambda: self._inside.weighted_sum_start(array, weight, total, name, between).wait(), name)

    def cuts(self, size: int) -> list[slice]:
        """Which piece of its machine's slice each rank adds up: none, where machines differ, for some of the larger."""
        if size not in self._cuts:
            slices = even_cuts(0, size, self._inside.slices)
            pieces = [even_cuts(cut.start, cut.stop, self._inside.machines) for cut in slices]
            none = slice(size, size)
            self._cuts[size] = [none if place is None else pieces[place[0]][place[1]] for place in self._places]
        return self._cuts[size]

    def _handles(self) -> list[MPI.Comm]:
        return [*super()._handles(), *self._inside._handles()]

    def close(self) -> None:
        super().close()
        Communicator.close(self._inside)


class _Inside(SharedMemoryCommunicator):
    """The ranks of one machine, of ranks `comm` of several. Waits without end: the whole has the deadline."""

    in_thread = True
    block = 1 << 20  # elements that go between machines at a time

    def __init__(self, here: MPI.Comm, comm: MPI.Comm, *, name: str) -> None:
        super().__init__(here, name=name, timeout=threading.TIMEOUT_MAX)
        machine = here.bcast(comm.rank)  # its first rank
        self.slices = comm.allreduce(here.size, MPI.MIN)
        self._across = comm.Split(here.rank if here.rank < self.slices else MPI.UNDEFINED, machine)
        self.machines = len(set(comm.allgather(machine)))

    def place(self) -> tuple[int, int] | None:
        """Which slice is this rank's, and which piece of it; None for no slice."""
        return (self.rank, self._across.rank) if self.rank < self.slices else None

    def _handles(self) -> list[MPI.Comm]:
        return [*super()._handles(), *([] if self._across == MPI.COMM_NULL else [self._across])]

    def add_other_nodes(self, array: np.ndarray) -> None:
        across = self._across
        if across == MPI.COMM_NULL or across.size == 1:
            return
        if array.size <= SHORT:
            pieces = np.empty((across.size, array.size), array.dtype)
            _finish(across.Iallgather(array, pieces))
            array[:] = _added(pieces)
            return
        counts, _ = self._pieces(array)
        _finish(across.Iallgatherv(self._own_piece(array), [array, counts]))

    def do_between(self, result: Any, mine: np.ndarray, between: Callable[[Array], None]) -> None:
        if self._across == MPI.COMM_NULL or self.machines == 1:
            super().do_between(result, mine, between)
            return
        counts, cut = self._pieces(mine)
        own = mine[cut]
        own[...] = self._own_piece(result)
        between(own)
        _finish(self._across.Iallgatherv(MPI.IN_PLACE, [mine.view(np.uint8), counts, element(mine.itemsize)]))

    def _pieces(self, array: np.ndarray) -> tuple[list[int], slice]:
        """How long the machines' pieces of a slice are, and which is this machine's."""
        cuts = even_cuts(0, array.size, self.machines)
        return [cut.stop - cut.start for cut in cuts], cuts[self._across.rank]

    def _own_piece(self, array: np.ndarray) -> np.ndarray:
        """This machine's piece of a slice, added up over the machines."""
        counts, cut = self._pieces(array)
        pieces = np.empty((self.machines, cut.stop - cut.start), array.dtype)
        _finish(self._across.Ialltoallv([array, counts], pieces))
        return _added(pieces)


def _finish(request: MPI.Request) -> None:
    """Wait, but leave the processor to the threads that compute: the library's own waiting would keep it busy.

    With more threads than processors a step over Open MPI takes about half the time so.
    """
    looks = 0
    while not request.Test():
        looks += 1
        if looks > EAGER:
            time.sleep(NAP)


def _added(pieces: np.ndarray) -> np.ndarray:
    total: np.ndarray = pieces[0]
    for other in pieces[1:]:
        total += other
    return total
