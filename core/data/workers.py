"""The worker processes of a DataLoader, seen from the program."""

from __future__ import annotations

import atexit
import itertools
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing import process, spawn
from typing import Any

from .channel import Channel, Message
from .fetch import Fetcher
from .worker import GRACE, REPLY, REQUEST, End, Failure

# One thread for linear algebra in each worker, set before NumPy is loaded; and a main module that imports mpi4py starts
# no MPI: these processes are no ranks.
_NURSERY = """
import os, sys
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1", MPI4PY_RC_INITIALIZE="0")
sys.path[:] = {path!r}
from {package}.worker import nursery
{prelude}
nursery({descriptor})
"""
PRELUDE: list[str] = []  # lines of code that worker processes run before they import the program's main module


class Nursery:
    """The process from which workers are forked; see worker.py."""

    def __init__(self) -> None:
        if getattr(process.current_process(), "_inheriting", False):
            raise RuntimeError(
                "a DataLoader with workers was started while its worker processes import the program's main module: "
                'put what the program does under `if __name__ == "__main__":`'
            )
        self.owner, self.lock = os.getpid(), threading.Lock()
        self.control, theirs = socket.socketpair()
        with theirs:
            code = _NURSERY.format(
                path=sys.path, package=__package__, prelude="\n".join(PRELUDE), descriptor=theirs.fileno()
            )
            flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
            self.process = subprocess.Popen(
                [os.fsdecode(spawn.get_executable()), *flags, "-c", code],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        atexit.register(self.close)
        data = spawn.get_preparation_data("DataLoader worker")
        data["authkey"] = bytes(data["authkey"])
        channel = Channel(self.control, private=True)
        try:
            channel.send(Message(data))
            problem = channel.receive()
        except (EOFError, OSError):
            problem = f"it ended with exit code {self.process.wait()}"
        if problem is not None:
            self.close()
            raise RuntimeError(f"the worker processes of a DataLoader could not be started:\n{problem}")

    def _ask(self, kind: bytes, number: int = 0, seconds: float = 0, descriptors: tuple[int, ...] = ()) -> int:
        with self.lock:
            socket.send_fds(self.control, [REQUEST.pack(kind, number, seconds)], descriptors)
            answer = self.control.recv(REPLY.size, socket.MSG_WAITALL)
        if len(answer) < REPLY.size:
            raise OSError("the process from which workers are forked has ended")
        return int(REPLY.unpack(answer)[0])

    def start(self) -> tuple[int, Channel]:
        """A new worker: its process id and the channel to it."""
        ours, theirs = socket.socketpair()
        with theirs:
            return self._ask(b"s", descriptors=(theirs.fileno(),)), Channel(ours, private=False)

    def wait(self, pid: int, seconds: float) -> int | None:
        """The exit code of a worker, which is killed after so many seconds; None if the nursery is gone."""
        try:
            return self._ask(b"w", pid, seconds)
        except OSError:
            return None

    def close(self) -> None:
        """End it, and with it what workers there are."""
        self.control.close()
        if os.getpid() == self.owner:
            self.process.wait()
            atexit.unregister(self.close)


_nursery: Nursery | None = None
_creating = threading.Lock()


def nursery() -> Nursery:
    """This process's nursery, started at the first use."""
    global _nursery
    with _creating:
        if _nursery is not None and (_nursery.owner != os.getpid() or _nursery.process.poll() is not None):
            _nursery.close()  # another process's, or one that died
            _nursery = None
        if _nursery is None:
            _nursery = Nursery()
        return _nursery


class Workers:
    """count processes with a copy of the fetcher each. They end when this object is closed or forgotten."""

    def __init__(self, fetcher: Fetcher, count: int, seed: int, init: Callable[[int], None] | None) -> None:
        self.owner, self.closed, self.epochs = os.getpid(), False, itertools.count()
        self.pids: list[int] = []
        self.channels: list[Channel] = []
        task = _pickled(fetcher, init)
        self.nursery = nursery()
        for number in range(count):
            pid, channel = self.nursery.start()
            self.pids.append(pid)
            self.channels.append(channel)
            channel.send(Message((number, count, seed, sys.path)))
            channel.send(task)
        self.poll = select.poll()
        self.numbers = {channel.socket.fileno(): number for number, channel in enumerate(self.channels)}
        for descriptor in self.numbers:
            self.poll.register(descriptor, select.POLLIN)

    def send(self, number: int, task: Any) -> None:
        """Indices for a worker to fetch. RuntimeError if it is dead."""
        try:
            self.channels[number].send(Message(task))
        except OSError:
            raise self._dead(number) from None

    def receive(self, timeout: float) -> tuple[int, Any]:
        """What some worker sends next, and its number. RuntimeError for a dead worker, and after timeout seconds."""
        ready = self.poll.poll(timeout * 1000 if timeout else None)
        if not ready:
            raise RuntimeError(f"DataLoader timed out after {timeout} seconds")
        number = self.numbers[ready[0][0]]
        try:
            return number, self.channels[number].receive()
        except (EOFError, ConnectionError):
            raise self._dead(number) from None

    def _dead(self, number: int) -> RuntimeError:
        pid = self.pids.pop(number)
        code = self.nursery.wait(pid, GRACE)
        self.close()
        reason = f" ({signal.Signals(-code).name})" if code is not None and code < 0 else ""
        return RuntimeError(
            f"DataLoader worker {number} (pid(s) {pid}) exited unexpectedly with exit code {code}{reason}"
        )

    def close(self) -> None:
        """End all processes, and wait for that."""
        if self.closed or os.getpid() != self.owner:
            return
        self.closed = True
        for channel in self.channels:
            channel.close()
        for pid in self.pids:
            self.nursery.wait(pid, GRACE)

    __del__ = close


def _pickled(fetcher: Fetcher, init: Callable[[int], None] | None) -> Message:
    """What every worker gets. An error says which part of it cannot be pickled."""
    try:
        return Message((fetcher, init))
    except (pickle.PicklingError, AttributeError, TypeError, RuntimeError):
        for name, part in (("dataset", fetcher.dataset), ("collate_fn", fetcher.collate), ("worker_init_fn", init)):
            try:
                Message(part)
            except (pickle.PicklingError, AttributeError, TypeError, RuntimeError) as error:
                raise pickle.PicklingError(
                    f"DataLoader: expected a {name} that can be pickled for the worker processes, found {part!r} "
                    f"({error}); define it at the top level of a module, or use num_workers=0"
                ) from None
        raise


class WorkersPass(Iterator[Any]):
    """One pass over the data with workers: at most prefetch batches per worker are under way or waiting here."""

    def __init__(
        self, workers: Workers, places: Iterator[Any], prefetch: int, timeout: float, in_order: bool, keep: bool
    ) -> None:
        self.workers, self.places, self.timeout, self.in_order, self.keep = workers, places, timeout, in_order, keep
        count = len(workers.channels)
        self.epoch = next(workers.epochs)
        self.limit = prefetch * count
        self.turns = itertools.cycle(range(count))
        self.active = [True] * count  # whose stream has not ended
        self.load = [0] * count
        self.sent = self.due = 0  # numbers of batches: the next to ask for, the next to yield
        self.waiting: dict[int, int] = {}  # batches that were asked for: which worker fetches them
        self.ready: dict[int, tuple[int, Any]] = {}  # batches that came too early
        for _ in range(self.limit):
            self._ask()

    def _ask(self) -> None:
        """Give the next indices to the next worker."""
        try:
            indices = next(self.places)
        except StopIteration:
            return
        for number in itertools.islice(self.turns, len(self.active)):
            if self.active[number] and (self.in_order or self.load[number] < self.limit // sum(self.active)):
                self.workers.send(number, (self.epoch, self.sent, indices))
                self.waiting[self.sent] = number
                self.load[number] += 1
                self.sent += 1
                return

    def __next__(self) -> Any:
        while True:
            while self.due < self.sent:
                if self.due in self.ready:
                    self.due += 1
                    return self._batch(*self.ready.pop(self.due - 1))
                if (number := self.waiting.get(self.due)) is not None and self.active[number]:
                    break
                self.waiting.pop(self.due, None)
                self.due += 1
            else:
                if not self.keep:
                    self.workers.close()
                raise StopIteration
            number, (epoch, place, value) = self.workers.receive(self.timeout)
            if epoch != self.epoch:  # of a pass that was broken off
                continue
            del self.waiting[place]
            if isinstance(value, End):
                self.active[number] = False
                self._ask()
            elif place == self.due or not self.in_order:
                self.due += place == self.due
                return self._batch(number, value)
            else:
                self.ready[place] = number, value

    def _batch(self, number: int, value: Any) -> Any:
        self.load[number] -= 1
        self._ask()
        if isinstance(value, Failure):
            raise value.exception(f"in DataLoader worker process {number}")
        return value
