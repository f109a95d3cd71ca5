"""What every transport offers: numbered, named collectives with a deadline, run in the order they were started.

A transport implements the blocking `_all_reduce`, `_broadcast` and so on. They are called on the communicator's own
thread, so a reduction proceeds while the program computes, and a program that waits gives up at a deadline with a
sentence that says for what it waited. Messages from one rank to another (`send`, `receive`) are no collectives: they
stand in no queue, so that no rank's send waits for another's receive behind it.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

import numpy as np

from ...core.backend import Array, array_module, quiet_floating_point
from ...core.dtypes import FLOATING, HALVES, SINGLE

DEFAULT_TIMEOUT = 300.0  # seconds that a collective may take
BITWISE: dict[str, Any] = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}  # integers and bool only
OPS: dict[str, Any] = {"sum": np.add, "max": np.maximum, "min": np.minimum, "prod": np.multiply} | BITWISE
LARGEST_TAG = 32767  # every MPI library has room for so many
EAGER = 100  # looks at a message under way before the waiting rank sleeps between looks


class CollectiveTimeout(RuntimeError):
    """A collective was not finished by its deadline: some rank has not started it."""


class RanksDiffer(RuntimeError):
    """What must be equal on all ranks is not. Raised on every rank, with one text that tells of all of them."""


class Work:
    """A collective that was started. `wait` returns when it is done, raises what it raised, or gives up in time."""

    __slots__ = ("communicator", "error", "finished", "name", "number", "seconds", "started", "task")

    def __init__(self, communicator: Communicator, number: int, name: str, task: Callable[[], Any]) -> None:
        self.communicator, self.number, self.name = communicator, number, name
        self.task: Callable[[], Any] | None = task
        self.started = communicator.clock()
        self.seconds = 0.0
        """How long the collective itself has taken, without what stood before it."""
        self.error: BaseException | None = None
        self.finished = threading.Lock()  # held until done: cheaper than an Event, and waiting on it has a deadline
        self.finished.acquire()

    def run(self) -> None:
        """Execute the collective on the calling thread."""
        assert self.task is not None, "a work runs once"
        began = time.perf_counter()
        try:
            if self.communicator.broken is not None:
                raise self.communicator.broken
            self.task()
        except BaseException as error:  # noqa: BLE001  (raised again in the thread that waits)
            self.error = self.communicator.broken = error
        finally:
            self.seconds = time.perf_counter() - began
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
            f"rank {c.rank} of {c.size} waited {c.clock() - self.started:.1f} s for {self.name} (number "
            f"{self.number} on communicator '{c.name}'): expected every rank to take part, {who}. Look for a rank that "
            "failed, took another branch or ran out of batches; raise init_process_group(timeout=...) if it is slow."
        )


class Message(Work):
    """A send or a receive that was started; task looks whether it is done, and finds the other rank when it is."""

    __slots__ = ("peer",)

    def __init__(self, communicator: Communicator, name: str, task: Callable[[], int | None]) -> None:
        super().__init__(communicator, 0, name, task)
        self.peer: int | None = None
        """The rank that sent, or that was sent to, once the message is done."""

    def is_completed(self) -> bool:
        """Whether `wait` would return at once. Large messages move on only when somebody asks or waits."""
        with _looking:
            if self.task is not None:
                try:
                    self.peer = self.task()
                except BaseException as error:  # noqa: BLE001  (raised again by wait)
                    self.error = error
                if self.peer is not None or self.error is not None:
                    self.task = None
                    self.finished.release()
        return self.task is None

    def wait(self, timeout: float | None = None) -> None:
        """As Work.wait. What was received is in the array from then on; what was sent may be overwritten."""
        limit = self.communicator.timeout if timeout is None else timeout
        deadline, looks = time.monotonic() + limit, 0
        while not self.is_completed():
            if self.communicator.broken is not None:
                raise self.communicator.broken
            if time.monotonic() > deadline:
                raise CollectiveTimeout(self.lateness())
            looks += 1
            if looks < EAGER:
                os.sched_yield()
            else:
                time.sleep(1e-4)
        if self.error is not None:
            raise self.error

    def lateness(self, missing: Sequence[int] = ()) -> str:
        """What to tell the user when the deadline has passed."""
        c = self.communicator
        return (
            f"rank {c.rank} of {c.size} waited {c.clock() - self.started:.1f} s for {self.name} on communicator "
            f"'{c.name}': expected the other rank to take part, it did not. Look for a rank that failed, took another "
            "branch or uses another tag; raise init_process_group(timeout=...) if it is slow."
        )


_looking = threading.Lock()  # two threads may look at one message


class Communicator:
    """A group of ranks that act together. Every rank starts the same collectives in the same order."""

    rank: int
    size: int
    local_rank: int
    kind_of_work: type[Work] = Work

    def __init__(self, rank: int, size: int, local_rank: int, *, name: str, timeout: float) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self.name, self.timeout = name, timeout
        self.broken: BaseException | None = None
        self.slices = size  # so many ranks, the first ones, have a slice each of an array, see `cuts`
        self._cuts: dict[int, list[slice]] = {}
        self.careful = False
        """Whether ranks compare what they are about to do before each collective: for communicators that users call."""
        self._count = 0
        self._queue: SimpleQueue[Work | None] | None = None
        self._messages: deque[Message] = deque()  # under way: their arrays must live, even if nobody has the Work
        self._closed = False

    # --- what a transport implements: blocking, on the communicator's thread ------------------------------------------

    def _all_reduce(self, array: Array, op: str) -> None:
        """Replace array, which is none of halves, by its reduction over the ranks; op is a key of OPS."""
        raise NotImplementedError

    def _broadcast(self, array: Array, root: int) -> None:
        """Replace array by root's."""
        raise NotImplementedError

    def _sum_into_slices(self, array: Array) -> None:
        """Replace this rank's slice of array, which is none of halves, by the sum over the ranks; the rest is lost."""
        self._all_reduce(array, "sum")

    def _gather_slices(self, array: Array, cuts: Sequence[slice]) -> None:
        """Replace the other ranks' slices of array by theirs."""
        for rank, cut in enumerate(cuts):
            if cut.start < cut.stop:
                self._broadcast(array[cut], rank)

    def _all_gather(self, array: Array, out: Array) -> None:
        """Fill out[rank] with every rank's array. The array may be this rank's part of out."""
        raise NotImplementedError

    def _all_to_all(self, array: Array, out: Array) -> None:
        """Fill out[rank] with array[my rank] of every rank."""
        raise NotImplementedError

    def _send(self, array: Array, to: int, tag: int) -> Callable[[], int | None]:
        """Begin to send; the result tells whether it is done by returning `to`. Called on the caller's thread."""
        raise NotImplementedError

    def _receive(self, array: Array, source: int | None, tag: int) -> Callable[[], int | None]:
        """Begin to receive; the result tells whether it is done by returning the rank that has sent."""
        raise NotImplementedError

    def _split(self, ranks: list[int], name: str) -> Communicator | None:
        """The communicator of these ranks, None on the others. Called on the caller's thread of every rank."""
        raise NotImplementedError

    def _all_gather_object(self, value: Any) -> list[Any]:
        """Every rank's value, in rank order."""
        raise NotImplementedError

    def _barrier(self) -> None:
        """Return when all ranks have called."""
        raise NotImplementedError

    def _compare(self, kind: str) -> None:
        """RanksDiffer on every rank unless all are about to do this. For transports that would mix up what differs."""

    def duplicate(self, name: str) -> Communicator:
        """The same ranks with a sequence of collectives of their own. Collective itself."""
        raise NotImplementedError

    def abort(self, code: int) -> None:
        """End every rank of the job at once."""
        raise NotImplementedError

    def clock(self) -> float:
        """Seconds, by which waits are measured."""
        return time.monotonic()

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
        return self.kind_of_work(self, self._count, name, task)

    def _checked(self, task: Callable[[], Any], kind: str, array: Array | None = None) -> Callable[[], Any]:
        """The task, before which careful communicators compare what it is."""
        if not self.careful:
            return task
        what = kind if array is None else f"{kind} of {array.size} {array.dtype}"

        def checked() -> None:
            self._compare(what)
            task()

        return checked

    def all_reduce_start(self, array: Array, op: str = "sum", name: str = "all_reduce") -> Work:
        """Begin to replace array by its reduction over the ranks; leave it alone until the work is done."""
        _check_op(name, op, array)
        return self.start(self._checked(lambda: self._all_reduce_any(array, op), f"all_reduce {op}", array), name)

    def _all_reduce_any(self, array: Array, op: str, factor: float = 1) -> None:
        """The same with halves, which are multiplied and added up in float32 and rounded once."""
        wide = _widened(array, factor)
        self._all_reduce(wide, op)
        if wide is not array:
            array[...] = wide

    def cuts(self, size: int) -> list[slice]:
        """Which slice of an array of this size each rank has between the halves of a reduction, if any."""
        if size not in self._cuts:
            self._cuts[size] = even_cuts(0, size, self.slices) + [slice(size, size)] * (self.size - self.slices)
        return self._cuts[size]

    def allocate(self, size: int, dtype: np.dtype[Any]) -> Array:
        """A one-dimensional host array of zeros for `weighted_sum_start`, where the transport likes it. Collective."""
        return np.zeros(size, dtype)

    def weighted_sum_start(
        self,
        array: Array,
        weight: float,
        total: Callable[[], float],
        name: str,
        between: Callable[[Array], None] | None = None,
    ) -> Work:
        """Begin to replace array by the sum over the ranks of weight * array, divided by total().

        total is asked when everything that was started before is done, so it may be the result of a reduction itself.
        between: called with this rank's slice (`cuts`) of the result before every rank gets all slices, for which array
        is one-dimensional; what it leaves there is what they get. It runs on whichever thread, and may be slow: every
        rank's runs at the same time. As many bytes are sent with it as without.
        """

        def task() -> None:
            whole = total()
            factor = weight / whole if whole else 0.0
            if between is None:
                self._all_reduce_any(array, "sum", factor)
                return
            cut = self.cuts(array.size)[self.rank]
            own, wide = array[cut], _widened(array, factor)
            self._sum_into_slices(wide)
            if wide is not array:
                own[...] = wide[cut]
            between(own)
            self._gather_slices(array, self.cuts(array.size))

        return self.start(task, name)

    def all_gather_slices_start(self, array: Array, cuts: Sequence[slice], name: str = "all_gather_slices") -> Work:
        """Begin to replace the other ranks' slices, which cuts lists by rank, of a one-dimensional array by theirs."""
        return self.start(lambda: self._gather_slices(array, cuts), name)

    def all_gather_start(self, array: Array, out: Array, name: str = "all_gather") -> Work:
        """Begin to fill out[r] with rank r's array; out.shape == (size, *array.shape), array may be out[rank]."""
        _check_out(name, out, (self.size, *array.shape), array.dtype)
        return self.start(self._checked(lambda: self._all_gather(array, out), "all_gather", array), name)

    def all_to_all_start(self, array: Array, out: Array, name: str = "all_to_all") -> Work:
        """Begin to fill out[r] with what rank r has in array[my rank]; both have size as their first dimension."""
        if array.ndim == 0 or array.shape[0] != self.size:
            raise ValueError(f"{name}: expected one row for each of {self.size} ranks, found shape {list(array.shape)}")
        _check_out(name, out, array.shape, array.dtype)
        return self.start(self._checked(lambda: self._all_to_all(array, out), "all_to_all", array), name)

    def reduce_scatter_start(self, array: Array, out: Array, op: str = "sum", name: str = "reduce_scatter") -> Work:
        """Begin to fill out with the reduction over the ranks, in their order, of their array[my rank]."""
        _check_op(name, op, array)
        if array.ndim == 0 or array.shape[0] != self.size:
            raise ValueError(f"{name}: expected one row for each of {self.size} ranks, found shape {list(array.shape)}")
        _check_out(name, out, array.shape[1:], array.dtype)

        def task() -> None:
            parts = array_module(array).empty_like(array)
            self._all_to_all(array, parts)
            if array.dtype in HALVES:
                parts = parts.astype(SINGLE)
            total = parts[:1]
            for rank in range(1, self.size):
                OPS[op](total, parts[rank : rank + 1], out=total)
            out[...] = total[0]

        return self.start(self._checked(task, f"reduce_scatter {op}", array), name)

    def all_reduce(self, array: Array, op: str = "sum", name: str = "all_reduce") -> None:
        """Replace array by its reduction over the ranks."""
        self.all_reduce_start(array, op, name).wait()

    def broadcast_start(self, array: Array, root: int = 0, name: str = "broadcast") -> Work:
        """Begin to replace array by root's."""
        if not 0 <= root < self.size:
            raise ValueError(f"{name}: expected a root from 0 to {self.size - 1}, found {root}")
        return self.start(
            self._checked(lambda: self._broadcast(array, root), f"broadcast from rank {root}", array), name
        )

    def broadcast(self, array: Array, root: int = 0, name: str = "broadcast") -> None:
        """Replace array by root's."""
        self.broadcast_start(array, root, name).wait()

    def all_gather(self, array: Array, out: Array, name: str = "all_gather") -> None:
        """Fill out[r] with rank r's array; out.shape == (size, *array.shape)."""
        self.all_gather_start(array, out, name).wait()

    def all_to_all(self, array: Array, out: Array, name: str = "all_to_all") -> None:
        """Fill out[r] with what rank r has in array[my rank]."""
        self.all_to_all_start(array, out, name).wait()

    def reduce_scatter(self, array: Array, out: Array, op: str = "sum", name: str = "reduce_scatter") -> None:
        """Fill out with the reduction over the ranks, in their order, of their array[my rank]."""
        self.reduce_scatter_start(array, out, op, name).wait()

    def send_start(self, array: Array, to: int, tag: int = 0, name: str = "send") -> Message:
        """Begin to send array to one rank; leave it alone until the work is done."""
        self._check_message(name, to, tag)
        return self._message(self._send(array, to, tag), f"{name} to rank {to} (tag {tag})")

    def receive_start(self, array: Array, source: int | None = None, tag: int = 0, name: str = "receive") -> Message:
        """Begin to fill array with what rank source (None: any rank) sends with this tag; work.peer tells who did."""
        self._check_message(name, source, tag)
        who = "any rank" if source is None else f"rank {source}"
        return self._message(self._receive(array, source, tag), f"{name} from {who} (tag {tag})")

    def send(self, array: Array, to: int, tag: int = 0, name: str = "send") -> None:
        """Send array to one rank."""
        self.send_start(array, to, tag, name).wait()

    def receive(self, array: Array, source: int | None = None, tag: int = 0, name: str = "receive") -> int:
        """Fill array with what rank source (None: any rank) sends with this tag; the rank that did."""
        work = self.receive_start(array, source, tag, name)
        work.wait()
        assert work.peer is not None
        return work.peer

    def _check_message(self, name: str, other: int | None, tag: int) -> None:
        if self._closed:
            raise RuntimeError(f"{name}: communicator '{self.name}' is closed; make another one")
        if self.broken is not None:
            raise self.broken
        if self.size == 1 or other == self.rank or not (other is None or 0 <= other < self.size):
            raise ValueError(
                f"{name}: expected another rank than this one ({self.rank}) of {self.size}, found "
                f"{'any' if other is None else other}"
            )
        if not 0 <= tag <= LARGEST_TAG:
            raise ValueError(f"{name}: expected a tag from 0 to {LARGEST_TAG}, found {tag}")

    def _message(self, look: Callable[[], int | None], name: str) -> Message:
        while self._messages and self._messages[0].is_completed():
            self._messages.popleft()
        self._messages.append(message := Message(self, name, look))
        return message

    def split(self, ranks: Sequence[int], name: str = "split") -> Communicator | None:
        """The communicator of these ranks of mine, in this order; None on the others. Every rank of mine calls it.

        ValueError when the ranks are not different ranks of mine, or when other ranks ask for others.
        """
        mine = [int(rank) for rank in ranks]
        found = self.all_gather_object(mine, f"split '{name}'")
        if any(other != mine for other in found):
            asked = ", ".join(f"{other} on rank {rank}" for rank, other in enumerate(found))
            raise ValueError(f"split '{name}': expected the same list of ranks everywhere, found {asked}")
        if not mine or len(set(mine)) < len(mine) or not all(0 <= rank < self.size for rank in mine):
            raise ValueError(f"split '{name}': expected different ranks from 0 to {self.size - 1}, found {mine}")
        return self._split(mine, name)

    def all_gather_object(self, value: Any, name: str = "all_gather_object") -> list[Any]:
        """Every rank's Python object, in rank order."""
        found: list[Any] = []
        task = lambda: found.extend(self._all_gather_object(value))
        self.start(self._checked(task, "exchange of objects"), name).wait()
        return found

    def barrier_start(self, name: str = "barrier") -> Work:
        """Begin to wait for all ranks to arrive."""
        return self.start(self._checked(self._barrier, "barrier"), name)

    def barrier(self, name: str = "barrier") -> None:
        """Return when all ranks have arrived."""
        self.barrier_start(name).wait()

    def close(self) -> None:
        """Stop the thread once all started collectives are done; nothing can be started from here on."""
        self._closed = True
        if self._queue is not None:
            self._queue.put(None)


def even_cuts(start: int, stop: int, parts: int) -> list[slice]:
    """The elements from start to stop as so many slices that are equally long, but for one element."""
    edges = [start + (stop - start) * part // parts for part in range(parts + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def _widened(array: Array, factor: float) -> Array:
    """The array times a number, in place; of halves a copy in float32."""
    wide = array.astype(SINGLE) if array.dtype in HALVES else array
    if factor != 1:
        np.multiply(wide, wide.dtype.type(factor), out=wide)
    return wide


def _check_op(name: str, op: str, array: Array) -> None:
    if op not in OPS:
        raise ValueError(f"{name}: expected op {', '.join(map(repr, OPS))}, found {op!r}")
    if op in BITWISE and array.dtype.kind in FLOATING + "c":
        raise ValueError(f"{name}: expected integers or bool for op {op!r}, found {array.dtype}")
    if op in ("max", "min") and array.dtype.kind == "c":
        raise ValueError(f"{name}: expected real numbers for op {op!r}, found {array.dtype}, which have no order")


def _check_out(name: str, out: Array, shape: tuple[int, ...], dtype: Any) -> None:
    if out.shape != shape or out.dtype != dtype:
        raise ValueError(
            f"{name}: expected an output of shape {list(shape)} and {dtype}, found {list(out.shape)} and {out.dtype}"
        )


def _serve(queue: SimpleQueue[Work | None]) -> None:
    quiet_floating_point()
    while (work := queue.get()) is not None:
        work.run()
        del work  # while the thread sleeps it keeps nothing alive
