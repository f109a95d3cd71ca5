"""What every transport offers: numbered, named collectives with a deadline, run in the order they were started.

A transport implements the blocking `_all_reduce`, `_broadcast`, `_all_gather_object` and `_barrier`. They are called on
the communicator's own thread, so a reduction proceeds while the program computes, and a program that waits gives up at
a deadline with a sentence that says for what it waited.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

import numpy as np

from ...core.backend import Array, quiet_floating_point

DEFAULT_TIMEOUT = 300.0  # seconds that a collective may take
OPS = ("sum", "max", "min")


class CollectiveTimeout(RuntimeError):
    """A collective was not finished by its deadline: some rank has not started it."""


class Work:
    """A collective that was started. `wait` returns when it is done, raises what it raised, or gives up in time."""

    __slots__ = ("communicator", "error", "finished", "name", "number", "started", "task")

    def __init__(self, communicator: Communicator, number: int, name: str, task: Callable[[], Any]) -> None:
        self.communicator, self.number, self.name = communicator, number, name
        self.task: Callable[[], Any] | None = task
        self.started = time.monotonic()
        self.error: BaseException | None = None
        self.finished = threading.Lock()  # held until done: cheaper than an Event, and waiting on it has a deadline
        self.finished.acquire()

    def run(self) -> None:
        """Execute the collective on the calling thread."""
        assert self.task is not None, "a work runs once"
        try:
            if self.communicator.broken is not None:
                raise self.communicator.broken
            self.task()
        except BaseException as error:  # noqa: BLE001  (raised again in the thread that waits)
            self.error = self.communicator.broken = error
        finally:
            self.task = None  # what it holds (arrays, a whole graph) must not live as long as the work
            self.finished.release()

    def is_completed(self) -> bool:
        """Whether `wait` would return at once."""
        return self.task is None

    def wait(self, timeout: float | None = None) -> None:
        """Return when done. CollectiveTimeout names the collective when the deadline (in seconds) passes first."""
        limit = self.communicator.timeout if timeout is None else timeout
        if not self.finished.acquire(timeout=limit):
            raise CollectiveTimeout(self.lateness())
        self.finished.release()
        if self.error is not None:
            raise self.error

    def lateness(self, missing: Sequence[int] = ()) -> str:
        """What to tell the user when the deadline has passed; missing: the ranks that have not come, if known."""
        c = self.communicator
        who = f"rank(s) {', '.join(map(str, missing))} did not" if missing else "at least one did not"
        return (
            f"rank {c.rank} of {c.size} waited {time.monotonic() - self.started:.1f} s for {self.name} (number "
            f"{self.number} on communicator '{c.name}'): expected every rank to take part, {who}. Look for a rank that "
            "failed, took another branch or ran out of batches; raise init_process_group(timeout=...) if it is slow."
        )


class Communicator:
    """A group of ranks that act together. Every rank starts the same collectives in the same order."""

    rank: int
    size: int
    local_rank: int

    def __init__(self, rank: int, size: int, local_rank: int, *, name: str, timeout: float) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self.name, self.timeout = name, timeout
        self.broken: BaseException | None = None
        self._count = 0
        self._queue: SimpleQueue[Work | None] | None = None
        self._closed = False

    # --- what a transport implements: blocking, on the communicator's thread ------------------------------------------

    def _all_reduce(self, array: Array, op: str) -> None:
        """Replace array by the sum ("sum"), maximum ("max") or minimum ("min") over the ranks, elementwise."""
        raise NotImplementedError

    def _broadcast(self, array: Array, root: int) -> None:
        """Replace array by root's."""
        raise NotImplementedError

    def _all_gather_object(self, value: Any) -> list[Any]:
        """Every rank's value, in rank order."""
        raise NotImplementedError

    def _barrier(self) -> None:
        """Return when all ranks have called."""
        raise NotImplementedError

    def duplicate(self, name: str) -> Communicator:
        """The same ranks with a sequence of collectives of their own. Collective itself."""
        raise NotImplementedError

    def abort(self, code: int) -> None:
        """End every rank of the job at once."""
        raise NotImplementedError

    # --- what everybody calls -----------------------------------------------------------------------------------------

    def start(self, task: Callable[[], Any], name: str) -> Work:
        """Run task on the communicator's thread, after everything that was started before."""
        work = self._number(task, name)
        if self._queue is None:
            self._queue = SimpleQueue()
            threading.Thread(target=_serve, args=(self._queue,), name=f"mpigrad {self.name}", daemon=True).start()
            # the thread knows the queue only: a communicator that nobody uses any more takes its thread along
            weakref.finalize(self, self._queue.put, None).atexit = False
        self._queue.put(work)
        return work

    def _number(self, task: Callable[[], Any], name: str) -> Work:
        if self._closed:
            raise RuntimeError(f"{name}: communicator '{self.name}' is closed; make another one")
        self._count += 1
        return Work(self, self._count, name, task)

    def all_reduce_start(self, array: Array, op: str = "sum", name: str = "all_reduce") -> Work:
        """Begin to replace array by its reduction over the ranks; leave it alone until the work is done."""
        if op not in OPS:
            raise ValueError(f"{name}: expected op {', '.join(map(repr, OPS))}, found {op!r}")
        return self.start(lambda: self._all_reduce(array, op), name)

    def allocate(self, size: int, dtype: np.dtype[Any]) -> Array:
        """A one-dimensional host array of zeros for `weighted_sum_start`, where the transport likes it. Collective."""
        return np.zeros(size, dtype)

    def weighted_sum_start(self, array: Array, weight: float, total: Callable[[], float], name: str) -> Work:
        """Begin to replace array by the sum over the ranks of weight * array, divided by total().

        total is asked when everything that was started before is done, so it may be the result of a reduction itself.
        """

        def task() -> None:
            whole = total()
            factor = weight / whole if whole else 0.0
            if factor != 1:
                np.multiply(array, array.dtype.type(factor), out=array)
            self._all_reduce(array, "sum")

        return self.start(task, name)

    def all_reduce(self, array: Array, op: str = "sum", name: str = "all_reduce") -> None:
        """Replace array by its reduction over the ranks."""
        self.all_reduce_start(array, op, name).wait()

    def broadcast(self, array: Array, root: int = 0, name: str = "broadcast") -> None:
        """Replace array by root's."""
        if not 0 <= root < self.size:
            raise ValueError(f"{name}: expected a root from 0 to {self.size - 1}, found {root}")
        self.start(lambda: self._broadcast(array, root), name).wait()

    def all_gather_object(self, value: Any, name: str = "all_gather_object") -> list[Any]:
        """Every rank's Python object, in rank order."""
        found: list[Any] = []
        self.start(lambda: found.extend(self._all_gather_object(value)), name).wait()
        return found

    def barrier(self, name: str = "barrier") -> None:
        """Return when all ranks have arrived."""
        self.start(self._barrier, name).wait()

    def close(self) -> None:
        """Stop the thread once all started collectives are done; nothing can be started from here on."""
        self._closed = True
        if self._queue is not None:
            self._queue.put(None)


def _serve(queue: SimpleQueue[Work | None]) -> None:
    quiet_floating_point()
    while (work := queue.get()) is not None:
        work.run()
        del work  # while the thread sleeps it keeps nothing alive
