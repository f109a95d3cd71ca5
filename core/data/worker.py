"""A worker process of a DataLoader, and the nursery from which workers are forked.

The nursery is a fresh interpreter that has imported what workers need and nothing else: no MPI and no CUDA runs in it,
and it has one thread, so it can be forked safely and fast where the program itself cannot. It ends with the program.
"""

from __future__ import annotations

import os
import pickle
import queue
import random
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import process, spawn
from typing import Any

import numpy as np

from ..generator import manual_seed
from .channel import Channel, Message
from .fetch import Fetcher

__all__ = ["get_worker_info"]

REQUEST = struct.Struct("<cqd")  # b"s": start one; b"w": wait for this one, until it is killed after so many seconds
REPLY = struct.Struct("<q")
GRACE = 2.0  # seconds that a worker whose program has gone may still take for its batch


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What a worker process knows of itself."""

    id: int
    num_workers: int
    seed: int
    dataset: Any


_info: WorkerInfo | None = None


def get_worker_info() -> WorkerInfo | None:
    """In a worker its id, the number of workers, its seed and its copy of the dataset; None elsewhere."""
    return _info


@dataclass
class Failure:
    """An exception on its way to the program: its class and its text with the traceback."""

    kind: type[BaseException]
    text: str

    @classmethod
    def current(cls) -> Failure:
        """Of the exception that is being handled. A class that cannot travel becomes RuntimeError."""
        kind = sys.exc_info()[0] or RuntimeError
        text = traceback.format_exc()
        try:
            pickle.dumps(kind)
        except Exception:  # noqa: BLE001  (whatever hinders it)
            return cls(RuntimeError, text)
        return cls(kind, text)

    def exception(self, where: str) -> BaseException:
        """The exception to raise in the program."""
        text = f"Caught {self.kind.__name__} {where}.\nOriginal {self.text}"
        try:
            return self.kind(_Verbatim(text) if self.kind is KeyError else text)
        except Exception:  # noqa: BLE001  (its class wants other arguments)
            return RuntimeError(text)


class _Verbatim(str):
    """A KeyError prints the repr of its argument: then with its line breaks."""

    __repr__ = str.__str__


class End:
    """Sent instead of a batch when this worker's stream has ended."""


# --- in the nursery ---------------------------------------------------------------------------------------------------


def nursery(descriptor: int) -> None:
    """Import the program's main module, then start and bury workers as asked, until the program ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the program decides when its workers end
    control = socket.socket(fileno=descriptor)
    channel = Channel(control, private=True)
    try:
        process.current_process()._inheriting = True  # type: ignore[attr-defined]
        spawn.prepare(channel.receive())
    except BaseException:  # noqa: BLE001  (the program reports it, whatever it is)
        channel.send(Message(traceback.format_exc()))
        return
    del process.current_process()._inheriting  # type: ignore[attr-defined]
    channel.send(Message(None))
    while True:
        request, descriptors, _, _ = socket.recv_fds(control, REQUEST.size, 1, socket.MSG_CMSG_CLOEXEC)
        if len(request) < REQUEST.size:
            return
        kind, number, seconds = REQUEST.unpack(request)
        if kind == b"w":
            control.sendall(REPLY.pack(_wait(number, seconds)))
            continue
        pid = os.fork()
        if pid == 0:
            control.close()
            os._exit(_run(Channel(socket.socket(fileno=descriptors[0]), private=True)))
        os.close(descriptors[0])
        control.sendall(REPLY.pack(pid))


def _wait(pid: int, seconds: float) -> int:
    """The exit code of a worker, negative for a signal; it is killed when it has not ended in time."""
    limit, pause = time.monotonic() + seconds, 0.001
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        if time.monotonic() > limit:
            os.kill(pid, signal.SIGKILL)
            break
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# --- in a worker ------------------------------------------------------------------------------------------------------


def _run(channel: Channel) -> int:
    """Work until the program has enough; the exit code."""
    try:
        work(channel)
        return 0
    except OSError:
        return 0  # the program has closed the channel
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except BaseException:  # noqa: BLE001  (a process ends here: say why)
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def work(channel: Channel) -> None:
    """Receive the task, then indices; send batches."""
    global _info
    number, count, base_seed, sys.path[:] = channel.receive()
    failure: Failure | None = None
    try:
        fetcher: Fetcher
        init: Callable[[int], None] | None
        fetcher, init = channel.receive()
        seed = base_seed + number
        random.seed(seed)
        manual_seed(seed)
        np.random.seed(
            np.random.SeedSequence([number, base_seed % 2**32, base_seed >> 32, 0]).generate_state(4).tolist()
        )
        _info = WorkerInfo(number, count, seed, fetcher.dataset)
        if init is not None:
            init(number)
    except Exception:  # noqa: BLE001  (raised in the program)
        failure = Failure.current()
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(channel, tasks), daemon=True).start()
    current, ended = -1, False
    while (task := tasks.get()) is not None:
        epoch, place, indices = task
        if failure is not None:
            channel.send(Message((epoch, place, failure)))
            continue
        try:
            if epoch != current:
                current, ended = epoch, False
                fetcher.start()
            if ended:
                continue
            message = Message((epoch, place, fetcher.fetch(indices)))
        except Exception as error:  # noqa: BLE001  (raised in the program)
            ended = fetcher.streams and isinstance(error, StopIteration)
            message = Message((epoch, place, End() if ended else Failure.current()))
        channel.send(message)


def _read(channel: Channel, tasks: queue.SimpleQueue[Any]) -> None:
    """Take what arrives at once, so that the program never waits for a busy worker, and notice its end."""
    while True:
        try:
            tasks.put(channel.receive())
        except (EOFError, OSError):
            while not tasks.empty():
                tasks.get_nowait()
            tasks.put(None)
            time.sleep(GRACE)
            os._exit(0)
