"""Joining and leaving the world that a script runs in, and groups of its ranks, with PyTorch's names.

Alone, under mpirun or in a simulated world the same calls work: a single process is a world of one rank.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing import process
from types import TracebackType
from typing import Any

from .comm import simulated
from .comm.protocol import DEFAULT_TIMEOUT, Communicator, RanksDiffer
from .comm.single import SingleCommunicator

GRACE = 0.5  # seconds between a rank's last words and the end of the job: the launcher has to pass them on
DEFERENCE = 3.0  # seconds that the others leave to rank 0 when it can speak for all


class ProcessGroup:
    """Ranks that act together: the world's, or some of them (`new_group`)."""

    def __init__(self, communicator: Communicator, ranks: Sequence[int], backend: str) -> None:
        self.communicator, self.ranks, self.backend = communicator, list(ranks), backend
        self.parts: list[ProcessGroup] = []  # the groups that were made of this world and have this rank
        self.made = 0  # how many were made of this world, with or without this rank

    def rank(self) -> int:
        """This process's number in the group."""
        return self.communicator.rank

    def size(self) -> int:
        """How many ranks the group has."""
        return self.communicator.size

    def name(self) -> str:
        """The backend that was asked for."""
        return self.backend


class _World(threading.local):
    """The group of this thread's world: simulated ranks are threads, so each has its own."""

    group: ProcessGroup | None = None


_simulated_world = _World()
_process_world: ProcessGroup | None = None  # seen by all threads that are not simulated ranks


class _DefaultGroup(type):
    @property
    def WORLD(cls) -> ProcessGroup | None:
        """The group of all ranks; None before init_process_group."""
        return _joined()


class group(metaclass=_DefaultGroup):
    """PyTorch's place of the default group: `group.WORLD`."""


class GroupMember(metaclass=_DefaultGroup):
    """The default group, and what `new_group` gives to ranks that are not in the group."""

    NON_GROUP_MEMBER = -100


Group = ProcessGroup | int | None  # None: the world; GroupMember.NON_GROUP_MEMBER: a group without this rank


def init_process_group(
    backend: str | None = None,
    init_method: str | None = None,
    timeout: float | timedelta | None = None,
    world_size: int = -1,
    rank: int = -1,
    store: Any = None,
    group_name: str = "",
    pg_options: Any = None,
    device_id: Any = None,
    *,
    transport: str | None = None,
) -> None:
    """Join the world: under mpirun all ranks of the job, in a simulated world its ranks, else this process alone.

    backend: "mpi", "single", or None to find out; PyTorch's "nccl" and "gloo" find out, too. timeout: seconds (or a
    timedelta) that any collective may take. The ranks are the launcher's: world_size and rank, where they are given,
    must agree with it, and init_method ("env://"), store, group_name, pg_options and device_id have nothing to add.
    transport: how ranks under mpirun reach each other: "shm" (shared memory on one machine), "mpi" (messages of the MPI
    library), "hierarchical" (shared memory on each machine, messages between them), or None for the fastest that is
    possible. ValueError when called twice; RuntimeError when the loaded MPI library is not the launcher's, for another
    world_size or rank, and for a transport that these ranks cannot have.
    """
    global _process_world
    if is_initialized():
        raise ValueError("trying to initialize the default process group twice!")
    if getattr(process.current_process(), "_inheriting", False):
        raise RuntimeError(
            "init_process_group was called while a DataLoader's worker processes import the program's main module: "
            'put what the program does under `if __name__ == "__main__":`'
        )
    if backend not in (None, "mpi", "single", *_PYTORCHS):
        raise ValueError(f"expected backend 'mpi', 'single' or None (find out), found {backend!r}")
    if transport not in (None, "shm", "mpi", "hierarchical"):
        raise ValueError(f"expected transport 'shm', 'mpi', 'hierarchical' or None (the fastest), found {transport!r}")
    limit = _seconds(timeout, DEFAULT_TIMEOUT)
    communicator: Communicator
    if simulated.current.communicator is not None:
        communicator = simulated.current.communicator.duplicate("world")
        if timeout is not None:
            communicator.timeout = limit
    elif backend == "single":
        communicator = SingleCommunicator(timeout=limit)
    else:
        communicator = _mpi_world(None if backend in _PYTORCHS else backend, limit, transport)
    size = communicator.size
    for name, asked, found in (("world_size", world_size, size), ("rank", rank, communicator.rank)):
        if asked not in (-1, found):
            communicator.close()
            raise RuntimeError(
                f"init_process_group: expected {name} {found}, which is the launcher's, found {asked}: start the ranks "
                f"with mpigrad run -n {asked if name == 'world_size' else size}, or leave {name} out"
            )
    communicator.careful = True
    joined = ProcessGroup(communicator, range(communicator.size), backend or "mpi")
    if simulated.current.communicator is not None:
        _simulated_world.group = joined
    else:
        _process_world = joined


def _seconds(timeout: float | timedelta | None, default: float) -> float:
    if timeout is None:
        return default
    return timeout.total_seconds() if isinstance(timeout, timedelta) else float(timeout)


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
    rank, size = mpi.place()
    if size > 1:
        _abort_on_uncaught_exceptions(rank, size, mpi.abort)
    world = mpi.world(limit, promised, transport)
    if world.size == 1:
        return SingleCommunicator(timeout=limit)
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


def _abort_on_uncaught_exceptions(rank: int, size: int, abort: Callable[[int], object]) -> None:
    """An exception that ends one rank ends the job: the others would wait for it for ever."""
    previous = sys.excepthook
    if getattr(previous, "ends_the_job", False):  # since an earlier init_process_group
        return

    def hook(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> Any:
        ending = f"rank {rank} of {size} failed and ends the job: "
        ending += "".join(traceback.format_exception_only(kind, value)).strip()
        if isinstance(value, RanksDiffer):  # on all ranks: rank 0 tells it, and then ends the others
            ending = f"all {size} ranks failed for this reason, and the job ends"
            time.sleep(DEFERENCE * (rank > 0))
        previous(kind, value, trace)
        print(ending, file=sys.stderr, flush=True)
        sys.stdout.flush()
        time.sleep(GRACE)
        abort(1)

    hook.ends_the_job = True  # type: ignore[attr-defined]
    sys.excepthook = hook


def destroy_process_group(group: Group = None) -> None:
    """Leave the world; init_process_group may be called again. With a group: have done with that group.

    A rank that leaves because of an exception (in a `finally`) does not wait for the others, which may not come.
    """
    global _process_world
    whole, found = default_group(), member(group)
    if found is not whole:
        if found is not None:
            if found not in whole.parts:
                raise ValueError("Invalid process group specified")
            whole.parts.remove(found)
            found.communicator.close()
        return
    if simulated.current.communicator is not None:
        _simulated_world.group = None
    else:
        _process_world = None
    try:
        if whole.communicator.broken is None and sys.exception() is None:
            whole.communicator.barrier("destroy_process_group")
    finally:
        for part in (*whole.parts, whole):
            part.communicator.close()


def _joined() -> ProcessGroup | None:
    return _process_world if simulated.current.communicator is None else _simulated_world.group


def is_initialized() -> bool:
    """Whether this process (or simulated rank) has joined a world."""
    return _joined() is not None


def is_available() -> bool:
    """True: a process alone is a world, too."""
    return True


def is_mpi_available() -> bool:
    """Whether mpi4py is installed."""
    return importlib.util.find_spec("mpi4py") is not None


def is_gloo_available() -> bool:
    """True: init_process_group takes "gloo" for "find out"."""
    return True


def is_nccl_available() -> bool:
    """False."""
    return False


def default_group() -> ProcessGroup:
    """The group of all ranks. ValueError before init_process_group."""
    whole = _joined()
    if whole is None:
        raise ValueError("Default process group has not been initialized, please make sure to call init_process_group.")
    return whole


def world(group: ProcessGroup | None = None) -> Communicator:
    """The communicator of all ranks, or of a group's. ValueError for all before init_process_group."""
    return (default_group() if group is None else group).communicator


def member(group: Group = None) -> ProcessGroup | None:
    """The group (None: the world's); None when this rank is not in it. ValueError before init_process_group."""
    whole = default_group()
    if isinstance(group, ProcessGroup):
        return group
    if group is None or group == GroupMember.NON_GROUP_MEMBER:
        return whole if group is None else None
    raise TypeError(f"expected a group that new_group gave, or None for all ranks, found {group!r}")


def new_group(
    ranks: Sequence[int] | None = None,
    timeout: float | timedelta | None = None,
    backend: str | None = None,
    pg_options: Any = None,
    use_local_synchronization: bool = False,
    group_desc: str | None = None,
    device_id: Any = None,
    sort_ranks: bool = True,
) -> ProcessGroup | int:
    """The group of these ranks (None: all of the world); GroupMember.NON_GROUP_MEMBER on a rank not among them.

    Every rank of the world calls it, with the same ranks; use_local_synchronization is refused. The group's ranks are
    numbered in increasing order, or as they are given with sort_ranks=False. timeout: the world's when left out. The
    backend, pg_options, group_desc and device_id have nothing to add. ValueError for ranks twice or outside the world.
    """
    whole = default_group()
    size = whole.size()
    chosen = list(range(size)) if ranks is None else [int(rank) for rank in ranks]
    if use_local_synchronization:
        raise ValueError("new_group: expected a call on every rank of the world, found use_local_synchronization=True")
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"ranks list must not contain duplicate entries, got {chosen}")
    for rank in chosen:
        if not 0 <= rank < size:
            raise ValueError(f"Rank {rank} is out of range. Valid ranks are 0 to {size - 1} (world_size={size})")
    if not chosen:
        raise ValueError("new_group: expected at least one rank, found none")
    if sort_ranks:
        chosen.sort()
    whole.made += 1
    communicator = whole.communicator.split(chosen, f"group {whole.made}")
    if communicator is None:
        return GroupMember.NON_GROUP_MEMBER
    communicator.timeout, communicator.careful = _seconds(timeout, whole.communicator.timeout), True
    part = ProcessGroup(communicator, chosen, backend or whole.backend)
    whole.parts.append(part)
    return part


def get_process_group_ranks(group: ProcessGroup | None) -> list[int]:
    """The group's ranks as the world numbers them."""
    return list((group or default_group()).ranks)


def get_group_rank(group: ProcessGroup, global_rank: int) -> int:
    """The group's number of a rank of the world. ValueError when it is not in the group."""
    if global_rank not in group.ranks:
        raise ValueError(f"Global rank {global_rank} is not part of group {group}")
    return group.ranks.index(global_rank)


def get_global_rank(group: ProcessGroup, group_rank: int) -> int:
    """The world's number of a rank of the group. ValueError when the group has no such rank."""
    if not 0 <= group_rank < group.size():
        raise ValueError(f"Group rank {group_rank} is not part of group {group}")
    return group.ranks[group_rank]


def get_rank(group: Group = None) -> int:
    """This process's number, 0 to size - 1; 0 when no world was joined, -1 when it is not in the group."""
    if not is_initialized():
        return 0
    found = member(group)
    return -1 if found is None else found.rank()


def get_world_size(group: Group = None) -> int:
    """How many ranks there are; 1 when no world was joined, -1 when this one is not in the group."""
    if not is_initialized():
        return 1
    found = member(group)
    return -1 if found is None else found.size()


def get_local_rank() -> int:
    """This process's number among those of its machine: the number of its GPU."""
    return world().local_rank if is_initialized() else 0


def get_backend(group: Group = None) -> str:
    """The backend that was asked for, "mpi" where none was. ValueError when this rank is not in the group."""
    found = member(group)
    if found is None:
        raise ValueError("Invalid process group specified")
    return found.backend
