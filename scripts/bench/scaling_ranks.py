"""What scaling.py measures on this machine; runs on every rank, and rank 0 prints it as one line of JSON.

On two ranks, one a core: what copies and messages cost by size, how much of each transport a computing core does not
notice, and where in a training step gradients become final. On any number of ranks: all-reduces by each transport and
training steps over them, to hold the model's predictions against; the smallest all-reduce tells the overhead. What
feeds the model is the fastest of many: whatever else a machine does only adds to it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from models import MODELS
from mpi4py import MPI

import mpigrad
from mpigrad import ddp
from mpigrad.ddp.comm.hierarchical import HierarchicalCommunicator
from mpigrad.ddp.comm.mpi import MPICommunicator
from mpigrad.ddp.comm.shm import SharedMemoryCommunicator

MIB = 2**20
TIMEOUT = 60.0  # seconds
TINY = 256  # bytes of the smallest message
VOLUME, MOST, FEWEST = 2**27, 100, 25  # bytes that are moved for one figure, repetitions at most and at least
WORLD = MPI.COMM_WORLD


def main() -> None:
    """Measure on all ranks; rank 0 prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", required=True)
    parser.add_argument("--caps", type=float, nargs="+", required=True)
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--steps", type=int, required=True)
    options = parser.parse_args()
    ddp.init_process_group("mpi", timeout=TIMEOUT)
    transports = communicators()
    found: dict[str, Any] = {
        "reduce": {name: reductions(comm, options.sizes[::2]) for name, comm in transports.items()},
        "steps": {name: steps(name, transports, options.caps, options.steps) for name in options.models},
    }
    if WORLD.size == 2:
        found["copy"], found["message"] = copies(transports["shm"], options.sizes), messages([TINY, *options.sizes])
        found["hidden"] = {name: hidden(comm, max(options.sizes)) for name, comm in transports.items()}
        found["peer"] = peer()
    if WORLD.rank == 0:
        print(json.dumps(found))


def communicators() -> dict[str, Any]:
    """By name the transports; all ranks are on one machine, so "hierarchical" does what it does inside a node."""
    return {
        "shm": SharedMemoryCommunicator(WORLD, name="shm", timeout=TIMEOUT),
        "mpi": MPICommunicator(WORLD, name="mpi", timeout=TIMEOUT),
        "hierarchical": HierarchicalCommunicator(WORLD, name="hierarchical", timeout=TIMEOUT),
    }


def until_all_are_done(call: Callable[[], object]) -> float:
    """Seconds from when the first rank begins until the last one ends: on one machine all read the same clock."""
    WORLD.Barrier()
    started = time.perf_counter()
    call()
    ended = time.perf_counter()
    seconds: float = WORLD.allreduce(ended, MPI.MAX) - WORLD.allreduce(started, MPI.MIN)
    return seconds


def timed(call: Callable[[], object], size: int, before: Callable[[], object] = lambda: None) -> list[float]:
    """Seconds of each of many calls that move so many bytes.

    before: what is called first each time, and not timed.
    """
    taken = []
    for _ in range(1 + min(MOST, max(FEWEST, VOLUME // size))):
        before()
        taken.append(until_all_are_done(call))
    return taken[1:]  # the first one finds cold caches


def reductions(comm: MPICommunicator, sizes: list[int]) -> dict[int, list[float]]:
    """By size the seconds of all-reduces, as DistributedDataParallel does them, of what this core has just written."""
    memory = comm.allocate(max(sizes) // 4, np.dtype(np.float32))
    found = {}
    for size in sizes:
        part = memory[: size // 4]
        reduce = lambda part=part: comm.weighted_sum_start(part, 1, lambda: float(comm.size), "bench").wait()
        found[size] = timed(reduce, size, lambda part=part: part.fill(1))  # type: ignore[misc]
    return found


def copies(comm: SharedMemoryCommunicator, sizes: list[int]) -> dict[int, float]:
    """By size the seconds in which each of two ranks copies what the other one has just written."""
    memory = comm.allocate(max(sizes), np.dtype(np.uint8))
    everybodys = comm.everybodys(memory)
    assert everybodys is not None, "shared memory is possible where scaling.py runs"
    target, found = np.ones(max(sizes), np.uint8), {}
    for size in sizes:
        mine, theirs, into = memory[:size], everybodys[1 - WORLD.rank][:size], target[:size]
        copy, fill = (lambda a=into, b=theirs: np.copyto(a, b)), (lambda a=mine: a.fill(1))  # type: ignore[misc]
        found[size] = min(timed(copy, size, fill))
    return found


def messages(sizes: list[int]) -> dict[int, float]:
    """By size the seconds in which two ranks send each other what they have just written."""
    source, target = (np.ones(max(sizes), np.uint8) for _ in range(2))
    other, found = 1 - WORLD.rank, {}
    for size in sizes:
        a, b = source[:size], target[:size]
        exchange = lambda a=a, b=b: WORLD.Sendrecv(a, other, recvbuf=b, source=other)
        found[size] = min(timed(exchange, size, lambda a=a: a.fill(1)))  # type: ignore[misc]
    return found


def hidden(comm: MPICommunicator, size: int) -> float:
    """The share of an all-reduce that a computation of the same length hides, as the OSU benchmarks define it.

    1 - (both at once - computation alone) / all-reduce alone, from 0 to 1.
    """
    memory = comm.allocate(size // 4, np.dtype(np.float32))
    start = lambda: comm.weighted_sum_start(memory, 1, lambda: float(comm.size), "bench")
    a = np.ones((128, 128), np.float32)
    alone = min(timed(lambda: start().wait(), size))
    rounds = max(1, round(alone / min(timed(lambda: [a @ a for _ in range(10)], size)) * 10))
    compute = lambda: [a @ a for _ in range(rounds)]

    def both() -> None:
        work = start()
        compute()
        work.wait()

    together = min(timed(both, size))
    return float(np.clip(1 - (together - min(timed(compute, size))) / alone, 0, 1))


def peer() -> float:
    """What one more rank of a node costs in shared memory: an addition, a copy and two counters, all of them tiny."""
    a, b, counters = np.ones(16, np.float32), np.ones(16, np.float32), memoryview(bytearray(64)).cast("q")
    started = time.perf_counter()
    for _ in range(10_000):
        a += b
        a[0:8] = b[0:8]
        [rank for rank in (0, 1) if counters[rank] < 0]
    return (time.perf_counter() - started) / 10_000


class Training:
    """A model in training on random data."""

    def __init__(self, name: str) -> None:
        mpigrad.manual_seed(0)
        self.task = MODELS[name][1](mpigrad)
        self.model = self.task.model
        self.optimizer = self.task.optimizer(self.model.parameters())

    def step(self) -> None:
        """One step."""
        self.optimizer.zero_grad()
        self.loss().backward()
        self.optimizer.step()

    def loss(self) -> Any:
        """The forward pass."""
        return mpigrad.nn.functional.cross_entropy(self.model(self.task.inputs), self.task.labels)


class Apart(Training):
    """One that reduces nothing, and notes when what happens in each step."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.parameters = list(self.model.parameters())[::-1]
        self.ready: list[list[float]] = []  # by step and parameter, from the beginning of backward
        self.parts: list[tuple[float, float, float]] = []  # by step: forward, backward, optimizer
        for place, parameter in enumerate(self.parameters):
            parameter.register_post_accumulate_grad_hook(lambda _, place=place: self.final(place))

    def final(self, place: int) -> None:
        """A parameter's gradient is final."""
        self.ready[-1][place] = time.perf_counter() - self.began

    def step(self) -> None:
        self.ready.append([0.0] * len(self.parameters))
        started = time.perf_counter()
        self.optimizer.zero_grad()
        loss = self.loss()
        self.began = time.perf_counter()
        loss.backward()
        ended = time.perf_counter()
        self.optimizer.step()
        self.parts.append((self.began - started, ended - self.began, time.perf_counter() - ended))

    def profile(self) -> dict[str, Any]:
        """Of the fastest step, on its slowest rank, for which the others would wait."""
        everybody = WORLD.allgather((self.parts, self.ready))
        steps = range(len(self.parts))
        slowest = [max(everybody, key=lambda rank: sum(rank[0][step])) for step in steps]
        best = min(steps, key=lambda step: sum(slowest[step][0][step]))
        parts, ready = slowest[best]
        forward, backward, optimizer = parts[best]
        sizes = [parameter.numel() * parameter.element_size() for parameter in self.parameters]
        gradients = list(zip(sizes, ready[best], strict=True))
        return {"forward": forward, "backward": backward, "optimizer": optimizer, "gradients": gradients}


def steps(name: str, transports: dict[str, Any], caps: list[float], count: int) -> dict[str, Any]:
    """Training steps without reduction ("apart") and over each transport with each bucket size, in turns: seconds.

    And the profile of those without, of which the other ranks compute the same at the same time.
    """
    apart = Apart(name)
    contestants: dict[str, Training] = {"apart": apart}
    for transport, communicator in transports.items():
        for cap in caps:
            contestants[f"{transport} {cap:g}"] = training = Training(name)
            training.model = ddp.DistributedDataParallel(
                training.model, bucket_cap_mb=cap, first_bucket_mb=min(1, cap), communicator=communicator
            )
    seconds: dict[str, list[float]] = {key: [] for key in contestants}
    for _ in range(2 + count):
        for key, training in contestants.items():
            seconds[key].append(until_all_are_done(training.step))
    return {"seconds": {key: rounds[2:] for key, rounds in seconds.items()}, "profile": apart.profile()}


if __name__ == "__main__":
    main()
