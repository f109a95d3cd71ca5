"""Ranks of one machine add up arrays that lie in memory which all of them see: no thread, no message, no copy in.

`allocate` gives every rank an array of its own in one shared piece of memory. To reduce a part of it, a rank says that
its part is ready; when all have, each rank adds up one slice of all ranks' parts, in rank order, and writes the result
into all of them. What can be done without waiting is done when the next reduction starts, the rest at `wait`: a
processor that computes is never disturbed by one that polls. All other arrays go through MPI.
"""

from __future__ import annotations

import mmap
import os
import platform
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from mpi4py import MPI

from ...core.backend import Array
from ...core.dtypes import HALVES, SINGLE
from .mpi import MPICommunicator
from .protocol import CollectiveTimeout, Work

DESCRIPTOR = "/proc/{process}/fd/{descriptor}"  # how other processes reach a file that has no name
# Counters and data are plain stores, which become visible in order on x86 but not on every processor.
POSSIBLE = platform.machine() == "x86_64" and hasattr(os, "memfd_create")
# How far a rank has come with a reduction. The others see of READY and REDUCED how many reductions have come so far.
STARTED, READY, REDUCED, DONE = range(-1, 3)
LINE = 8  # 64-bit numbers in a cache line: every counter has a line of its own
IN_FLIGHT = 256  # reductions that may be under way at once; the weights of so many are remembered
EAGER = 20  # looks at the counters before a waiting rank offers its processor to others ...
PATIENCE = 2000  # ... and before it sleeps between looks
NAP = 1e-4  # seconds


def shared_memory(comm: MPI.Comm, share: int) -> mmap.mmap | None:
    """Memory of comm.size * share bytes that all ranks of comm see; None if the machine has none to share.

    A file without a name rather than one of MPI's windows: nothing can be left of it in /dev/shm however the ranks end
    (a library that is killed leaves its window's file behind), it needs no one-sided component of the library (Open
    MPI's complains or fails where it finds none for the machine), and there is one way to test instead of one per
    library. Each rank asks for the pages of its own share, so that they lie in the memory of its own socket.
    """
    descriptor, path, identity, problem, shared = -1, "", None, None, None
    size = comm.size * share
    if comm.rank == 0:
        try:
            descriptor = os.memfd_create("mpigrad")
            os.ftruncate(descriptor, size)
            path, identity = DESCRIPTOR.format(process=os.getpid(), descriptor=descriptor), _identity(descriptor)
        except OSError as error:
            problem = error
    path, identity, problem = comm.bcast((path, identity, problem))
    if problem is None:
        try:
            with open(path, "r+b") as file:
                if _identity(file.fileno()) != identity:  # a rank in another container has other processes in /proc
                    raise OSError(f"{path} is another file here")
                # an error now, not a crash when the memory is first written
                os.posix_fallocate(file.fileno(), comm.rank * share, share)
                shared = mmap.mmap(file.fileno(), size)
        except OSError as error:
            problem = error
        problem = next((p for p in comm.allgather(problem) if p is not None), None)
    if descriptor >= 0:
        os.close(descriptor)
    return shared if problem is None else None


def _identity(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


class _Sum(Work):
    """A reduction in shared memory. `advance` goes as far as the other ranks allow."""

    __slots__ = ("after", "between", "parts", "step", "total")

    def __init__(
        self,
        communicator: Any,
        number: int,
        name: str,
        parts: list[Array],
        total: Callable[[], float],
        between: Callable[[Array], None] | None,
        after: Work | None,
    ) -> None:
        super().__init__(communicator, number, name, lambda: None)
        self.parts, self.total, self.between, self.after, self.step = parts, total, between, after, STARTED

    def advance(self) -> bool:
        """Do all that can be done now; whether this rank's array has its result."""
        comm: SharedMemoryCommunicator = self.communicator  # type: ignore[assignment]
        began, step = time.perf_counter(), self.step
        if self.step == STARTED and (self.after is None or self.after.is_completed()):
            comm.tell(READY, self.number)
            self.step = READY
        if self.step == READY and not comm.missing(READY, self.number):
            self._add_up(comm)
            comm.tell(REDUCED, self.number)
            self.step = REDUCED
        if self.step == REDUCED and not comm.missing(REDUCED, self.number):
            self.step = DONE
        if self.step != step:
            self.seconds += time.perf_counter() - began
        return self.step == DONE

    def _add_up(self, comm: SharedMemoryCommunicator) -> None:
        """Add up this rank's slice of all parts, and write the result into all of them, block by block.

        With something to do between the two, all blocks are added up before it is done.
        """
        cut, dtype = comm.cuts(self.parts[0].size)[comm.rank], self.parts[0].dtype
        wide = SINGLE if dtype in HALVES else dtype  # halves are added up in float32 and rounded once
        weights, total = comm.weights(self.number), self.total()
        factors = [wide.type(w / total if total else 0.0) for w in weights]
        alike = len(set(factors)) == 1 < comm.size  # the usual case: add first, multiply once
        mine = self.parts[comm.rank][cut]
        whole = None
        if self.between is not None:
            whole = mine if wide == dtype else np.empty(mine.size, wide)
        for start in range(cut.start, cut.stop, comm.block):
            pieces = [part[start : min(start + comm.block, cut.stop)] for part in self.parts]
            into = pieces[comm.rank]
            if wide != dtype:
                into = np.empty(into.size, wide) if whole is None else whole[start - cut.start :][: into.size]
            if alike:  # one of the first two pieces may be where the result goes
                added = np.add(pieces[0], pieces[1], out=into if comm.rank < 2 else None, dtype=wide)
                for other in pieces[2:]:
                    added += other
                if factors[0] != 1 or added is not into:
                    np.multiply(added, factors[0], out=into)
            else:
                added = pieces[0] * factors[0]
                for other, factor in zip(pieces[1:], factors[1:], strict=True):
                    added += other * factor
                into[...] = added
            if whole is None:
                comm.add_other_nodes(into)
                for piece in pieces:
                    if piece is not into:
                        piece[...] = into
        if self.between is not None:
            comm.do_between(whole, mine, self.between)
            for rank, part in enumerate(self.parts):
                if rank != comm.rank:
                    part[cut] = mine

    def is_completed(self) -> bool:
        """Whether `wait` would return at once."""
        comm: SharedMemoryCommunicator = self.communicator  # type: ignore[assignment]
        comm.advance()
        return self.step == DONE

    def wait(self, timeout: float | None = None) -> None:
        """As Work.wait; meanwhile this and all earlier reductions move on."""
        comm: SharedMemoryCommunicator = self.communicator  # type: ignore[assignment]
        deadline = time.monotonic() + (comm.timeout if timeout is None else timeout)
        looks = 0
        while not self.is_completed():
            if comm.broken is not None:
                raise comm.broken
            looks += 1
            if looks > EAGER:
                if comm.in_thread:
                    time.sleep(NAP)
                else:
                    for other in list(_communicators):  # ranks may wait for those of two in different orders
                        other.advance()
                    os.sched_yield()
                    if looks > PATIENCE:
                        time.sleep(NAP)
                if time.monotonic() > deadline:
                    raise CollectiveTimeout(self.lateness(comm.missing(max(self.step, READY), self.number)))


_communicators: weakref.WeakSet[SharedMemoryCommunicator] = weakref.WeakSet()  # of this process


class SharedMemoryCommunicator(MPICommunicator):
    """All ranks on one machine."""

    transport = "shm"
    in_thread = False
    """Whether a thread waits for these reductions while the program computes: it must not take its processor."""
    block = 2**17
    """Elements that are added up at a time: they stay in the cache until they are written into all arrays."""

    def __init__(self, comm: MPI.Comm, *, name: str, timeout: float) -> None:
        super().__init__(comm, name=name, timeout=timeout)
        self._pending: list[_Sum] = []
        # Both forget what this rank lets go; its memory then goes when the other ranks have let theirs go.
        self._arrays: dict[int, list[Array]] = {}  # everybody's, by the address of mine
        self._known: dict[int, list[Array]] = {}  # the parts that have been looked up, by the identity of mine
        self._counters: memoryview[int] | None = None  # both are made before the first array
        self._weights: memoryview[float] | None = None
        self._sums = 0
        self._advancing = threading.RLock()
        self._latest: Work | None = None  # what MPI does, or has done last
        if not self.in_thread:
            _communicators.add(self)

    def start(self, task: Callable[[], Any], name: str) -> Work:
        for earlier in self._pending[:]:
            earlier.wait()
        self._latest = super().start(task, name)
        return self._latest

    def _map(self, share: int) -> mmap.mmap | None:
        found: list[mmap.mmap | None] = []
        self.start(lambda: found.append(shared_memory(self._comm, share)), "allocation of shared memory").wait()
        return found.pop()  # the task, which is remembered, must not keep it

    def allocate(self, size: int, dtype: np.dtype[Any]) -> Array:
        """A one-dimensional array of zeros that `weighted_sum_start` reduces without copies. Collective."""
        if size and self._counters is None and (numbers := self._map((2 * LINE + IN_FLIGHT) * 8)):
            self._counters = memoryview(numbers).cast("q")
            self._weights = self._counters[2 * self.size * LINE :].cast("B").cast("d")
        stride = -(-size * dtype.itemsize // 64) * 64
        shared = self._map(stride) if size and self._counters else None
        if shared is None:
            return super().allocate(size, dtype)
        arrays = [np.frombuffer(shared, dtype, size, rank * stride) for rank in range(self.size)]
        # A second array of the same memory: it ends, unlike the first, when nobody has it or a view of it any more.
        mine = np.frombuffer(shared, dtype, size, self.rank * stride)
        _keep(self._arrays, _address(mine), arrays, mine)
        return mine

    def weighted_sum_start(
        self,
        array: Array,
        weight: float,
        total: Callable[[], float],
        name: str,
        between: Callable[[Array], None] | None = None,
    ) -> Work:
        parts = self.everybodys(array)
        if parts is None or self._closed or self.broken is not None:
            return super().weighted_sum_start(array, weight, total, name, between)
        assert self._weights is not None
        if len(self._pending) == IN_FLIGHT - 1:
            self._pending[0].wait()
        self._sums += 1
        self._weights[self.rank * IN_FLIGHT + self._sums % IN_FLIGHT] = weight
        after = None if self._latest is None or self._latest.is_completed() else self._latest
        work = _Sum(self, self._sums, name, parts, total, between, after)
        # the counter goes up only: who sees it at a number takes all earlier reductions for ready, too
        if after is None and not (self._pending and self._pending[-1].step == STARTED):
            self.tell(READY, work.number)
            work.step = READY
        self._pending.append(work)
        self.advance()
        return work

    def everybodys(self, array: Array) -> list[Array] | None:
        """This part of an allocated array on all ranks; None for any other array."""
        parts = self._known.get(id(array))
        if parts is not None or not isinstance(array, np.ndarray) or not array.flags.c_contiguous:
            return parts
        address = _address(array)
        for start, arrays in list(self._arrays.items()):
            whole = arrays[self.rank]
            if start <= address and address + array.nbytes <= start + whole.nbytes and array.dtype == whole.dtype:
                first = (address - start) // array.itemsize
                parts = [a[first : first + array.size] for a in arrays]
                _keep(self._known, id(array), parts, array)
                break
        return parts

    def advance(self) -> None:
        """Move the pending reductions on, in order: a later one may need the result of an earlier one for its total."""
        with self._advancing:
            try:
                while self._pending and self._pending[0].advance():
                    self._pending.pop(0)
            except Exception as error:  # noqa: BLE001  (raised by whoever waits for these reductions)
                self.broken = error
                self._pending.clear()

    def add_other_nodes(self, array: np.ndarray) -> None:
        """Add to a block of this rank's slice what other nodes have; here are none."""

    def do_between(self, result: Any, mine: np.ndarray, between: Callable[[Array], None]) -> None:
        """Fill this rank's slice with what `between` makes of the result, and of what other nodes have."""
        if result is not mine:
            mine[...] = result
        between(mine)

    def weights(self, number: int) -> list[float]:
        """Every rank's weight in a reduction."""
        assert self._weights is not None
        return [self._weights[rank * IN_FLIGHT + number % IN_FLIGHT] for rank in range(self.size)]

    def tell(self, step: int, number: int) -> None:
        """Let the others know how far this rank has come."""
        assert self._counters is not None
        self._counters[(step * self.size + self.rank) * LINE] = number

    def missing(self, step: int, number: int) -> list[int]:
        """The ranks that have not come so far."""
        assert self._counters is not None
        counters, first = self._counters, step * self.size
        return [rank for rank in range(self.size) if counters[(first + rank) * LINE] < number]


def _address(array: np.ndarray) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _keep(entries: dict[int, list[Array]], key: int, value: list[Array], array: Array) -> None:
    """entries[key] = value until `array` ends, which is before its address or identity can be another array's."""
    entries[key] = value
    weakref.finalize(array, entries.pop, key, None).atexit = False
