"""Run a command that starts ranks, to its end: live output, signals passed on, nothing left running."""

import contextlib
import ctypes
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from .noise import Sieve

PATIENCE = 2.0
"""Seconds a job has to end by itself, after a signal or after a rank has failed; then it is made to end."""
_TICK = 0.05
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


@dataclass(frozen=True)
class End:
    """How a command ended."""

    program: str
    """The name of what was run."""
    status: int
    """Its exit code; negative: the signal that killed it."""
    stopped_by: signal.Signals | None
    """The signal that this process received and passed on."""
    timed_out: bool
    notices: tuple[str, ...]
    """What the MPI had to say, left out of the output."""


def supervise(
    command: Sequence[str], env: Mapping[str, str], mark: str, *, timeout: float | None, failed: Callable[[], bool]
) -> End:
    """Run `command` and wait for it. When it fails, or this function is left early, none of its processes lives on.

    `mark` is the name of a variable whose value in `env` no other job has: it tells the processes of the job, also when
    their parents are gone. `failed` says that a rank has reported its failure, and the rest has PATIENCE to follow.
    """
    notices: list[str] = []
    with (
        _received_signals() as received,
        subprocess.Popen(
            command,
            env=env,
            stdin=_stdin(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C comes to this process alone, which passes it on once
            preexec_fn=lambda: die_with_parent(signal.SIGKILL),
        ) as job,
    ):
        if job.stdin:
            threading.Thread(target=_relay_terminal, args=[job.stdin], daemon=True).start()
        mark = f"{mark}={env[mark]}"
        try:
            timed_out = _follow(job, mark, received, timeout, failed, notices)
        finally:
            if job.poll() is None:
                job.kill()
            if job.wait() != 0 or received:
                _kill_all(mark)
    return End(Path(command[0]).name, job.returncode, received[0] if received else None, timed_out, tuple(notices))


def die_with_parent(how: signal.Signals) -> None:
    """Ask the kernel for the signal `how` when this process's parent dies, in whatever way."""
    _libc.prctl(_PR_SET_PDEATHSIG, how)


def _follow(
    job: subprocess.Popen[bytes],
    mark: str,
    received: list[signal.Signals],
    timeout: float | None,
    failed: Callable[[], bool],
    notices: list[str],
) -> bool:
    """Pass the output on until the job has ended, and end it where that is due. Returns whether it ran out of time."""
    streams = selectors.DefaultSelector()
    for source, sink in ((job.stdout, sys.stdout), (job.stderr, sys.stderr)):
        assert source is not None
        streams.register(source, selectors.EVENT_READ, Sieve(sink.buffer, notices))
    limit = time.monotonic() + timeout if timeout else float("inf")
    plan: list[tuple[float, signal.Signals]] = []  # what is sent to the job, and when
    passed_on = 0
    timed_out = False
    drained_by = float("inf")

    while streams.get_map() or job.poll() is None:
        arrived = streams.select(_TICK)
        for key, _ in arrived:
            if data := os.read(key.fd, 1 << 16):
                key.data.feed(data)
            else:
                key.data.close()
                streams.unregister(key.fileobj)
        if not arrived:
            for key in streams.get_map().values():
                key.data.release()

        now = time.monotonic()
        if job.poll() is not None:  # what it has written is still to be read; a process that outlives it may write on
            if drained_by == float("inf"):
                drained_by = now + 10 * _TICK
                if job.returncode != 0:
                    _kill_all(mark)
            elif now > drained_by:
                break
            continue
        if len(received) > passed_on:
            harsher = [(now + PATIENCE, signal.SIGTERM), (now + PATIENCE + 1, signal.SIGKILL)]
            plan = [(now, received[-1]), *harsher] if passed_on == 0 else [(now, signal.SIGKILL)]
            passed_on = len(received)
        elif not plan and now > limit:
            timed_out = True
            plan = [(now, signal.SIGTERM), (now + PATIENCE, signal.SIGKILL)]
        elif not plan and failed():
            plan = [(now + PATIENCE, signal.SIGTERM), (now + PATIENCE + 1, signal.SIGKILL)]
        while plan and plan[0][0] <= now:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.pid, plan.pop(0)[1])
    for key in streams.get_map().values():
        key.data.close()
    return timed_out


@contextlib.contextmanager
def _received_signals() -> Iterator[list[signal.Signals]]:
    """Collect the signals that ask this process to end, except where it was started to ignore them (nohup, &)."""
    received: list[signal.Signals] = []
    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {
        number: signal.signal(number, lambda number, _: received.append(signal.Signals(number)))
        for number in wanted
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stdin() -> int | None:
    """What the job, and by it rank 0, gets as input: this process's own, but a terminal's only by way of this process.

    The job has no controlling terminal, and Open MPI refuses to read another. A job in the background gets none.
    """
    if not os.isatty(0):
        return None
    return subprocess.PIPE if os.tcgetpgrp(0) == os.getpgrp() else subprocess.DEVNULL


def _relay_terminal(sink: IO[bytes]) -> None:
    with contextlib.suppress(OSError, ValueError), sink:  # the job, or its end of the pipe, is gone
        while line := os.read(0, 4096):
            sink.write(line)
            sink.flush()


def _kill_all(mark: str) -> None:
    """Kill every process with `mark` in its environment; the parent links of a job's processes break when it dies."""
    for _ in range(100):
        marked = [process for process in Path("/proc").glob("[0-9]*") if mark in _environment(process)]
        for process in marked:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process.name), signal.SIGKILL)
        if not marked:
            return
        time.sleep(0.01)


def _environment(process: Path) -> list[str]:
    try:
        return (process / "environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:  # gone, a zombie, or somebody else's
        return []
