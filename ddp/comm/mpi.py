"""MPI through mpi4py: one thread per communicator does blocking calls on a duplicate of its own.

Blocking calls in a thread make progress while Python computes, which non-blocking ones hardly do. The only file that
imports mpi4py; it is imported when a process group is made, so that the library works where no MPI can be loaded.
"""

from __future__ import annotations

import os
from typing import Any

from mpi4py import MPI

from ...core.backend import Array, array_module, to_host
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

    def _all_reduce(self, array: Array, op: str) -> None:
        host = _contiguous(array)
        flat = host.reshape(-1)
        for start in range(0, flat.size, LARGEST_COUNT):
            self._comm.Allreduce(MPI.IN_PLACE, flat[start : start + LARGEST_COUNT], OPS[op])
        if host is not array:
            array[...] = array_module(array).asarray(host)

    def _broadcast(self, array: Array, root: int) -> None:
        host = _contiguous(array)
        flat = host.reshape(-1)
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
        self.start(
            lambda: made.append(MPICommunicator(self._comm, name=name, timeout=self.timeout)), f"duplicate '{name}'"
        ).wait()
        return made[0]

    def abort(self, code: int) -> None:
        MPI.COMM_WORLD.Abort(code)


def _contiguous(array: Array) -> Any:
    """The array itself when MPI can work on its memory, else a copy on the host."""
    host = to_host(array)
    return host if host.flags.c_contiguous else host.copy()


def library_version() -> str:
    """The loaded MPI library in a few words."""
    return MPI.Get_library_version().split("\n")[0].strip()


def world(timeout: float) -> MPICommunicator:
    """All ranks of this job."""
    promised = promised_size()
    if promised is not None and promised != MPI.COMM_WORLD.size:
        raise RuntimeError(
            f"the launcher started {promised} ranks, but the MPI library that was loaded ({library_version()}) finds "
            f"{MPI.COMM_WORLD.size}: they are not of the same MPI. Start with `mpigrad run -n {promised}`, or set "
            "MPI4PY_LIBMPI to the launcher's libmpi"
        )
    return MPICommunicator(MPI.COMM_WORLD, timeout=timeout)


def promised_size() -> int | None:
    """How many ranks the launcher says it started; None outside a launcher.

    Read from the environment here and not in launch/, because a script under plain mpirun never passes through it, and
    ranks that silently train alone are worse than an exception to a rule.
    """
    for variable in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
        if os.environ.get(variable, "").isdecimal():
            return int(os.environ[variable])
    return None
