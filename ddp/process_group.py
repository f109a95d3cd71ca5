"""The world that a script runs in, with PyTorch's function names.

Alone, under mpirun or in a simulated world the same calls work: a single process is a world of one rank.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from datetime import timedelta
from types import TracebackType
from typing import Any

from ..core.tensor import Tensor
from .comm import simulated
from .comm.protocol import DEFAULT_TIMEOUT, Communicator, Work
from .comm.single import SingleCommunicator

GRACE = 0.5  # seconds between a rank's last words and the end of the job: the launcher has to pass them on


class _Group(threading.local):
    """The communicator of this thread's world: simulated ranks are threads, so each has its own."""

    communicator: Communicator | None = None


_group = _Group()
_process_communicator: Communicator | None = None  # seen by all threads that are not simulated ranks


class ReduceOp:
    """The operations of `all_reduce`."""

    SUM, MAX, MIN = "sum", "max", "min"


def init_process_group(
    backend: str | None = None,
    init_method: str | None = None,
    timeout: float | timedelta | None = None,
    world_size: int = -1,
    rank: int = -1,
    *,
    device_id: Any = None,
    transport: str | None = None,
) -> None:
    """Join the world: under mpirun all ranks of the job, in a simulated world its ranks, else this process alone.

    backend: "mpi", "single", or None to find out; PyTorch's "nccl" and "gloo" find out, too. timeout: seconds (or a
    timedelta) that any collective may take. The ranks are the launcher's: world_size and rank, where they are given,
    must agree with it, and init_method ("env://") and device_id have nothing to add. transport: how ranks under mpirun
    reach each other: "shm" (shared memory on one machine), "mpi" (messages of the MPI library), "hierarchical" (shared
    memory on each machine, messages between them), or None for the fastest that is possible. RuntimeError when called
    twice, when the loaded MPI library is not the launcher's, for another world_size or rank, and for a transport that
    these ranks cannot have.
    """
    global _process_communicator
    if is_initialized():
        raise RuntimeError("trying to initialize the default process group twice!")
    if backend not in (None, "mpi", "single", *_PYTORCHS):
        raise ValueError(f"expected backend 'mpi', 'single' or None (find out), found {backend!r}")
    if transport not in (None, "shm", "mpi", "hierarchical"):
        raise ValueError(f"expected transport 'shm', 'mpi', 'hierarchical' or None (the fastest), found {transport!r}")
    if backend in _PYTORCHS:
        backend = None
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    limit = DEFAULT_TIMEOUT if seconds is None else float(seconds)
    if simulated.current.communicator is not None:
        _group.communicator = simulated.current.communicator.duplicate("world")
        if seconds is not None:
            _group.communicator.timeout = limit
    elif backend == "single":
        _process_communicator = SingleCommunicator(timeout=limit)
    else:
        _process_communicator = _mpi_world(backend, limit, transport)
    for name, asked, found in (("world_size", world_size, get_world_size()), ("rank", rank, get_rank())):
        if asked not in (-1, found):
            raise RuntimeError(
                f"init_process_group: expected {name} {found}, which is the launcher's, found {asked}: start the ranks "
                f"with mpigrad run -n {asked if name == 'world_size' else get_world_size()}, or leave {name} out"
            )


_PYTORCHS = ("gloo", "nccl", "cpu:gloo,cuda:nccl")


def _mpi_world(backend: str | None, limit: float, transport: str | None) -> Communicator:
    promised = promised_size()
    try:
        from .comm import mpi
    except (ImportError, RuntimeError) as error:
        if backend == "mpi" or (promised or 1) > 1:
            wish = "backend 'mpi' was asked for" if backend == "mpi" else f"the launcher started {promised} ranks"
            raise RuntimeError(
                f"{wish}, but no MPI library can be loaded ({' '.join(str(error).split())}): "
                "pip install 'mpigrad[mpich]', or load your cluster's MPI module"
            ) from error
        return SingleCommunicator(timeout=limit)
    world = mpi.world(limit, promised, transport)
    if world.size == 1:
        return SingleCommunicator(timeout=limit)
    _abort_on_uncaught_exceptions(world)
    return world


def promised_size() -> int | None:
    """How many ranks the launcher says it started; None outside a launcher.

    Read from the environment here and not in launch/, because a script under plain mpirun never passes through it, and
    ranks that silently train alone are worse than an exception to a rule.
    """
    for variable in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
        if os.environ.get(variable, "").isdecimal():
            return int(os.environ[variable])
    return None


def _abort_on_uncaught_exceptions(world: Communicator) -> None:
    """An exception that ends one rank ends the job: the others would wait for it for ever."""
    previous = sys.excepthook
    if getattr(previous, "ends_the_job", False):  # since an earlier init_process_group
        return

    def hook(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> Any:
        previous(kind, value, trace)
        lines = "".join(traceback.format_exception_only(kind, value)).strip()
        print(f"rank {world.rank} of {world.size} failed and ends the job: {lines}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        time.sleep(GRACE)
        world.abort(1)

    hook.ends_the_job = True  # type: ignore[attr-defined]
    sys.excepthook = hook


def destroy_process_group() -> None:
    """Leave the world; init_process_group may be called again."""
    global _process_communicator
    communicator = world()
    if simulated.current.communicator is not None:
        _group.communicator = None
    else:
        _process_communicator = None
    try:
        if communicator.broken is None:
            communicator.barrier("destroy_process_group")
    finally:
        communicator.close()


def _joined() -> Communicator | None:
    return _process_communicator if simulated.current.communicator is None else _group.communicator


def is_initialized() -> bool:
    """Whether this process (or simulated rank) has joined a world."""
    return _joined() is not None


def world() -> Communicator:
    """The communicator of all ranks. RuntimeError before init_process_group."""
    communicator = _joined()
    if communicator is None:
        raise RuntimeError(
            "Default process group has not been initialized, please make sure to call init_process_group."
        )
    return communicator


def get_rank() -> int:
    """This process's number, 0 to world size - 1; 0 when no world was joined."""
    return world().rank if is_initialized() else 0


def get_world_size() -> int:
    """How many ranks there are; 1 when no world was joined."""
    return world().size if is_initialized() else 1


def get_local_rank() -> int:
    """This process's number among those of its machine: the number of its GPU."""
    return world().local_rank if is_initialized() else 0


def all_reduce(tensor: Tensor, op: str = ReduceOp.SUM, async_op: bool = False) -> Work | None:
    """Replace tensor by the sum (or maximum, minimum) over all ranks; async_op returns a Work to wait for."""
    tensor.version[0] += 1
    work = world().all_reduce_start(tensor.array, op, f"all_reduce of shape {list(tensor.shape)}")
    if async_op:
        return work
    work.wait()
    return None


def broadcast(tensor: Tensor, src: int = 0) -> None:
    """Replace tensor by rank src's."""
    tensor.version[0] += 1
    world().broadcast(tensor.array, src, f"broadcast of shape {list(tensor.shape)}")


def all_gather_object(object_list: list[Any], obj: Any) -> None:
    """Fill object_list with every rank's Python object, in rank order."""
    object_list[:] = world().all_gather_object(obj)


def barrier() -> None:
    """Return when all ranks have arrived."""
    world().barrier()
