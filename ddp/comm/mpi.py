"""MPI through mpi4py: one thread per communicator does blocking calls on a duplicate of its own.

Blocking calls in a thread make progress while Python computes, which non-blocking ones hardly do. The only file that
imports mpi4py; it is imported when a process group is made, so that the library works where no MPI can be loaded.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from mpi4py import MPI

from ...core.backend import Array, array_module, to_host
from .protocol import DEFAULT_TIMEOUT, EAGER, CollectiveTimeout, Communicator, RanksDiffer
from .segments import segments

OPS = {
    "sum": MPI.SUM, "max": MPI.MAX, "min": MPI.MIN, "prod": MPI.PROD, "and": MPI.BAND, "or": MPI.BOR, "xor": MPI.BXOR,
}  # fmt: skip
OF_BOOL = OPS | {"sum": MPI.BOR, "prod": MPI.BAND}  # on bytes that are 0 or 1, as NumPy adds and multiplies bool
# counts are ints in most MPI libraries: longer arrays go in pieces
LARGEST_COUNT = 2**30
BLOCK = 2**18  # elements of each slice that are summed at a time: they stay in the cache
NAP = 1e-4  # seconds between looks for ranks that are late to join


class MPICommunicator(Communicator):
    """The ranks of an MPI communicator; host arrays are reduced in place, GPU arrays through a copy on the host."""

    transport: str | None = "mpi"
    """How groups of these ranks are to reach each other; None: what is fastest (see `connect`)."""

    def __init__(self, comm: MPI.Comm, *, name: str = "world", timeout: float = DEFAULT_TIMEOUT) -> None:
        if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
            raise RuntimeError(
                "expected an MPI library with MPI_THREAD_MULTIPLE, found less; "
                f"use another build than {library_version()}"
            )
        self._comm = comm.Dup()
        node = comm.Split_type(MPI.COMM_TYPE_SHARED)
        super().__init__(comm.rank, comm.size, node.rank, name=name, timeout=timeout)
        node.Free()
        self._duplicates: list[tuple[Callable[[], MPICommunicator | None], list[MPI.Comm]]] = []

    def _all_reduce(self, array: Array, op: str) -> None:
        host = _contiguous(array)
        flat, op_here = host.reshape(-1), OPS[op]
        if flat.dtype == np.bool_:
            flat, op_here = flat.view(np.uint8), OF_BOOL[op]
        elif flat.itemsize < 4 and op in ("sum", "prod"):  # Open MPI's sums of small integers stop at the largest
            host = host.astype(np.int32)
            flat = host.reshape(-1)
        for start in range(0, flat.size, LARGEST_COUNT):
            self._comm.Allreduce(MPI.IN_PLACE, flat[start : start + LARGEST_COUNT], op_here)
        _put(host, array)

    def _broadcast(self, array: Array, root: int) -> None:
        host = _contiguous(array)
        self._comm.Bcast(_bytes(host), root)
        _put(host, array)

    def _sum_into_slices(self, array: Array) -> None:
        if array.size > LARGEST_COUNT:
            super()._sum_into_slices(array)
            return
        host, cuts = _contiguous(array), self.cuts(array.size)
        for start in range(0, max(map(_length, cuts)), BLOCK):
            blocks = [slice(min(c.start + start, c.stop), min(c.start + start + BLOCK, c.stop)) for c in cuts]
            own = host[blocks[self.rank]]
            pieces = np.empty((self.size, own.size), host.dtype)
            self._exchange(host, blocks, pieces, [slice(r * own.size, (r + 1) * own.size) for r in range(self.size)])
            pieces[self.rank] = own
            own[...] = pieces[0]
            for other in pieces[1:]:
                own += other
        _put(host, array)

    def _gather_slices(self, array: Array, cuts: Sequence[slice]) -> None:
        if array.size > LARGEST_COUNT:
            super()._gather_slices(array, cuts)
            return
        host = _contiguous(array)
        self._exchange(host, [cuts[self.rank]] * self.size, host, cuts)
        _put(host, array)

    def _exchange(self, host: Any, parts: Sequence[slice], into: Any, places: Sequence[slice]) -> None:
        """Send parts[r] of host to each other rank r, and let what it sends lie in places[r] of `into`.

        The libraries' own reduce-scatter and all-gather of unequal slices take up to 25 times as long.
        """
        ends = []
        for array, slices in ((host, parts), (into, places)):
            counts = [0 if rank == self.rank else _length(part) for rank, part in enumerate(slices)]
            flat = array.reshape(-1).view(np.uint8)
            ends.append([flat, (counts, [part.start for part in slices]), element(array.itemsize)])
        self._comm.Alltoallv(*ends)

    def _all_gather(self, array: Array, out: Array) -> None:
        into = _contiguous(out)
        self._comm.Allgather(_bytes(_apart(_contiguous(array), into)), _bytes(into, self.size))
        _put(into, out)

    def _all_to_all(self, array: Array, out: Array) -> None:
        into = _contiguous(out)
        self._comm.Alltoall(_bytes(_apart(_contiguous(array), into), self.size), _bytes(into, self.size))
        _put(into, out)

    def _send(self, array: Array, to: int, tag: int) -> Callable[[], int | None]:
        request = self._comm.Isend(_bytes(_contiguous(array)), to, tag)
        return lambda: to if request.Test() else None

    def _receive(self, array: Array, source: int | None, tag: int) -> Callable[[], int | None]:
        host, status = _contiguous(array), MPI.Status()
        request = self._comm.Irecv(_bytes(host), MPI.ANY_SOURCE if source is None else source, tag)

        def look() -> int | None:
            expected = f"expected {host.nbytes} bytes for {array.dtype} {list(array.shape)}, found"
            try:
                if not request.Test(status):
                    return None
            except MPI.Exception as error:
                if error.Get_error_class() != MPI.ERR_TRUNCATE:
                    raise
                raise ValueError(f"receive: {expected} a longer message") from error
            if (found := status.Get_elements(MPI.BYTE)) != host.nbytes:
                raise ValueError(f"receive: {expected} {found} from rank {status.source}")
            _put(host, array)
            return status.source

        return look

    def _all_gather_object(self, value: Any) -> list[Any]:
        return self._comm.allgather(value)

    def _barrier(self) -> None:
        self._comm.Barrier()

    def _compare(self, kind: str) -> None:
        digest = crc32(kind.encode())
        extremes = np.array([digest, -digest])
        self._comm.Allreduce(MPI.IN_PLACE, extremes, MPI.MAX)
        if extremes[0] != -extremes[1]:
            found = ", ".join(f"{theirs} on rank {rank}" for rank, theirs in enumerate(self._comm.allgather(kind)))
            raise RanksDiffer(f"expected all ranks to be in the same collective, found {found}")

    def duplicate(self, name: str) -> MPICommunicator:
        made = self._make(lambda: self._connect_part(self._comm, name), f"duplicate '{name}'")
        assert made is not None
        return made

    def _split(self, ranks: list[int], name: str) -> MPICommunicator | None:
        def make() -> MPICommunicator | None:
            member = self.rank in ranks
            part = self._comm.Split(0 if member else MPI.UNDEFINED, ranks.index(self.rank) if member else 0)
            if not member:
                return None
            try:
                return self._connect_part(part, name)
            finally:
                part.Free()

        return self._make(make, f"split '{name}'")

    def _connect_part(self, comm: MPI.Comm, name: str) -> MPICommunicator:
        return connect(comm, name=name, timeout=self.timeout, transport=self.transport)

    def _make(self, construct: Callable[[], MPICommunicator | None], name: str) -> MPICommunicator | None:
        """Another communicator of ranks of mine; None where this rank is not among them."""
        made: list[MPICommunicator | None] = []

        def make() -> None:
            self._free_dropped()
            made.append(new := construct())
            self._duplicates.append((weakref.ref(new), new._handles()) if new else (lambda: None, []))

        self.start(self._checked(make, name), name).wait()
        return made[0]

    def _free_dropped(self) -> None:
        """Give the duplicates that nobody on any rank has any more back to MPI: some libraries have only 2,000.

        Freeing is collective, and each rank's garbage collector works at a time of its own.
        """
        dropped = np.array(
            [alive() is None or not handles or handles[0] == MPI.COMM_NULL for alive, handles in self._duplicates],
            np.int32,
        )
        self._comm.Allreduce(MPI.IN_PLACE, dropped, MPI.MIN)
        for (_, handles), gone in zip(self._duplicates, dropped, strict=True):
            if gone:
                _free(handles)
        self._duplicates = [pair for pair, gone in zip(self._duplicates, dropped, strict=True) if not gone]

    def _handles(self) -> list[MPI.Comm]:
        """What to give back to MPI."""
        return [self._comm]

    def close(self) -> None:
        if not self._closed:
            self.start(lambda: _free(self._handles()), "close")
        super().close()

    def abort(self, code: int) -> None:
        abort(code)


def _free(handles: list[MPI.Comm]) -> None:
    for handle in handles:
        if handle != MPI.COMM_NULL:
            handle.Free()


def _contiguous(array: Array) -> Any:
    """The array itself when MPI can work on its memory, else a copy on the host."""
    host = to_host(array)
    return host if host.flags.c_contiguous else host.copy()


def _apart(host: Any, into: Any) -> Any:
    """The array itself, or a copy where MPI is to write into its memory."""
    return host.copy() if np.may_share_memory(host, into) else host


def _put(host: Any, array: Array) -> None:
    """Write what MPI has put into host into the array that it was a copy of."""
    if host is not array:
        array[...] = array_module(array).asarray(host)


def _length(part: slice) -> int:
    length: int = part.stop - part.start
    return length


def _bytes(host: np.ndarray, parts: int = 1) -> list[Any]:
    """What MPI is to move: so many equal parts of bytes, because MPI knows neither bfloat16 nor NumPy's bool."""
    size = host.nbytes // parts
    flat = host.reshape(-1).view(np.uint8)
    return [flat, size, MPI.BYTE] if size <= LARGEST_COUNT else [flat, 1, _long_type(size, LARGEST_COUNT)]


@lru_cache
def element(size: int) -> MPI.Datatype:
    """A type of so many bytes, which MPI can count."""
    return MPI.BYTE.Create_contiguous(size).Commit()


@lru_cache
def _long_type(size: int, largest: int) -> MPI.Datatype:
    """A type of so many bytes, more than MPI can count."""
    piece = MPI.BYTE.Create_contiguous(largest)
    whole = piece.Create_contiguous(size // largest)
    rest = MPI.BYTE.Create_contiguous(size % largest)
    return MPI.Datatype.Create_struct([1, 1], [0, size // largest * largest], [whole, rest]).Commit()


def library_version() -> str:
    """The loaded MPI library in a few words."""
    return " ".join(MPI.Get_library_version().replace("\0", "").split("\n")[0].split(",")[0].split())


def connect(comm: MPI.Comm, *, name: str, timeout: float, transport: str | None = None) -> MPICommunicator:
    """The communicator of these ranks by transport "mpi", "shm" or "hierarchical"; None: the fastest. Collective.

    The fastest is shared memory when all are on this machine, and else shared memory within machines that have several
    and messages between them.
    """
    from . import hierarchical, shm  # (their classes are special cases of this file's)

    machine = comm.Split_type(MPI.COMM_TYPE_SHARED)
    together, several = machine.size == comm.size, comm.allreduce(machine.size, MPI.MAX) > 1
    machine.Free()
    if transport == "shm" and not (together and shm.POSSIBLE):
        raise RuntimeError(
            "transport 'shm' was asked for: expected all ranks on one machine with x86-64 processors, found "
            + ("another processor" if together else "several machines")
        )
    fastest = "shm" if together else "hierarchical" if several else "mpi"
    kind: type[MPICommunicator] = MPICommunicator
    if comm.size > 1 and shm.POSSIBLE:
        kind = {
            "mpi": MPICommunicator,
            "shm": shm.SharedMemoryCommunicator,
            "hierarchical": hierarchical.HierarchicalCommunicator,
        }[transport or fastest]
    made = kind(comm, name=name, timeout=timeout)
    made.transport = transport
    return made


def place() -> tuple[int, int]:
    """This process's number among those of the job, and how many they are."""
    return MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size


def abort(code: int) -> None:
    """End every rank of the job at once."""
    for segment in segments():  # an abort leaves them behind
        Path(segment).unlink(missing_ok=True)
    MPI.COMM_WORLD.Abort(code)


def _await_everybody(timeout: float) -> None:
    """CollectiveTimeout unless all ranks of the job have called this before so many seconds are over."""
    arrival, deadline, looks = MPI.COMM_WORLD.Ibarrier(), time.monotonic() + timeout, 0
    while not arrival.Test():
        if time.monotonic() > deadline:
            rank, size = place()
            raise CollectiveTimeout(
                f"rank {rank} of {size} waited {timeout:.1f} s for all ranks to join the world: expected "
                "init_process_group on every rank, at least one has not called it. Look for a rank that has ended or "
                "does something else first; raise init_process_group(timeout=...) if it is slow."
            )
        looks += 1
        if looks > EAGER:
            time.sleep(NAP)


def world(timeout: float, promised: int | None = None, transport: str | None = None) -> MPICommunicator:
    """All ranks of this job. RuntimeError when they are not as many as promised, CollectiveTimeout if some are late."""
    if promised is not None and promised != MPI.COMM_WORLD.size:
        raise RuntimeError(
            f"the launcher started {promised} ranks, but the MPI library that was loaded ({library_version()}) finds "
            f"{MPI.COMM_WORLD.size}: they are not of the same MPI. Start with `mpigrad run -n {promised}`, or set "
            "MPI4PY_LIBMPI to the launcher's libmpi"
        )
    _await_everybody(timeout)
    return connect(MPI.COMM_WORLD, name="world", timeout=timeout, transport=transport)
