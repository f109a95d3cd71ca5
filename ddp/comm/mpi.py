"""MPI through mpi4py: one thread per communicator does blocking calls on a duplicate of its own.

Blocking calls in a thread make progress while Python computes, which non-blocking ones hardly do. The only file that
imports mpi4py; it is imported when a process group is made, so that the library works where no MPI can be loaded.
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
from mpi4py import MPI

from ...core.backend import Array, array_module, to_host
from ...core.dtypes import widened
from .protocol import DEFAULT_TIMEOUT, Communicator

OPS = {"sum": MPI.SUM, "max": MPI.MAX, "min": MPI.MIN}
# counts are ints in most MPI libraries: longer arrays go in pieces
LARGEST_COUNT = 2**30


class MPICommunicator(Communicator):
    """The ranks of an MPI communicator; host arrays are reduced in place, GPU arrays through a copy on the host."""

    def __init__(self, comm: MPI.Intracomm, *, name: str = "world", timeout: float = DEFAULT_TIMEOUT) -> None:
        if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
            raise RuntimeError(
                "expected an MPI library with MPI_THREAD_MULTIPLE, found less; "
                f"use another build than {library_version()}"
            )
        self._comm = comm.Dup()
        node = comm.Split_type(MPI.COMM_TYPE_SHARED)
        super().__init__(comm.rank, comm.size, node.rank, name=name, timeout=timeout)
        node.Free()
        self._duplicates: list[tuple[weakref.ref[MPICommunicator], MPI.Intracomm]] = []

    def _all_reduce(self, array: Array, op: str) -> None:
        host = _contiguous(widened(array))  # MPI cannot add halves up
        flat = host.reshape(-1)
        for start in range(0, flat.size, LARGEST_COUNT):
            self._comm.Allreduce(MPI.IN_PLACE, flat[start : start + LARGEST_COUNT], OPS[op])
        if host is not array:
            array[...] = array_module(array).asarray(host)

    def _broadcast(self, array: Array, root: int) -> None:
        host = _contiguous(array)
        flat = host.reshape(-1).view(np.uint8)  # bytes: MPI knows no bfloat16
        for start in range(0, flat.size, LARGEST_COUNT):
            self._comm.Bcast(flat[start : start + LARGEST_COUNT], root)
        if host is not array:
            array[...] = array_module(array).asarray(host)

    def _all_gather_object(self, value: Any) -> list[Any]:
        return self._comm.allgather(value)

    def _barrier(self) -> None:
        self._comm.Barrier()

    def duplicate(self, name: str) -> MPICommunicator:
        made: list[MPICommunicator] = []

        def make() -> None:
            self._free_dropped()
            made.append(type(self)(self._comm, name=name, timeout=self.timeout))
            self._duplicates.append((weakref.ref(made[0]), made[0]._comm))

        self.start(make, f"duplicate '{name}'").wait()
        return made[0]

    def _free_dropped(self) -> None:
        """Give the duplicates that nobody on any rank has any more back to MPI: some libraries have only 2,000.

        Freeing is collective, and each rank's garbage collector works at a time of its own.
        """
        dropped = np.array([alive() is None or comm == MPI.COMM_NULL for alive, comm in self._duplicates], np.int32)
        self._comm.Allreduce(MPI.IN_PLACE, dropped, MPI.MIN)
        for (_, comm), gone in zip(self._duplicates, dropped, strict=True):
            if gone and comm != MPI.COMM_NULL:
                comm.Free()
        self._duplicates = [pair for pair, gone in zip(self._duplicates, dropped, strict=True) if not gone]

    def close(self) -> None:
        if not self._closed:
            self.start(self._comm.Free, "close")
        super().close()

    def abort(self, code: int) -> None:
        MPI.COMM_WORLD.Abort(code)


def _contiguous(array: Array) -> Any:
    """The array itself when MPI can work on its memory, else a copy on the host."""
    host = to_host(array)
    return host if host.flags.c_contiguous else host.copy()


def library_version() -> str:
    """The loaded MPI library in a few words."""
    return " ".join(MPI.Get_library_version().replace("\0", "").split("\n")[0].split(",")[0].split())


def connect(comm: MPI.Intracomm, *, name: str, timeout: float) -> MPICommunicator:
    """The fastest communicator for these ranks: through shared memory when all are on this machine. Collective."""
    from . import shm  # (its class is a special case of this file's)

    machine = comm.Split_type(MPI.COMM_TYPE_SHARED)
    together = shm.POSSIBLE and 1 < comm.size == machine.size
    machine.Free()
    kind = shm.SharedMemoryCommunicator if together else MPICommunicator
    return kind(comm, name=name, timeout=timeout)


def world(timeout: float, promised: int | None = None) -> MPICommunicator:
    """All ranks of this job. RuntimeError when they are not as many as promised."""
    if promised is not None and promised != MPI.COMM_WORLD.size:
        raise RuntimeError(
            f"the launcher started {promised} ranks, but the MPI library that was loaded ({library_version()}) finds "
            f"{MPI.COMM_WORLD.size}: they are not of the same MPI. Start with `mpigrad run -n {promised}`, or set "
            "MPI4PY_LIBMPI to the launcher's libmpi"
        )
    return connect(MPI.COMM_WORLD, name="world", timeout=timeout)
