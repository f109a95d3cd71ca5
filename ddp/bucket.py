"""Buckets: consecutive pieces of the flat gradient memory that are reduced one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np

from ..core.autograd import wrap
from ..core.flat import Run, flatten
from ..core.tensor import Tensor
from .comm.protocol import Communicator

MIB = 2**20
SIZES = [2**k for k in range(16, 25)]  # bytes of the buckets that `measured_size` tries: 64 KiB to 16 MiB
REPETITIONS = 7
ENOUGH = 0.8  # of the best bandwidth


class Bucket(Run):
    """Parameters whose gradients are reduced together."""

    __slots__ = ("index", "name", "names", "waiting")

    name: str
    """What is waited for, as an error tells it."""

    def __init__(self, index: int, tensors: Sequence[Tensor], names: Sequence[str]) -> None:
        super().__init__(tensors)
        self.names = names
        self.waiting = 0  # gradients that are not final yet in the running backward pass
        self.place(index)

    def place(self, index: int) -> None:
        """From now on it is reduced in this place."""
        self.index = index
        self.name = f"reduction of gradient bucket {index} ({', '.join(self.names)})"

    def take(self, given: Any) -> None:
        """Let the gradients be what a communication hook gave; TypeError unless that is a tensor of their size."""
        value = given[0] if isinstance(given, (list, tuple)) and len(given) == 1 else given
        if not isinstance(value, Tensor) or value.array.size != self.gradients.size:
            found = f"one of {value.array.size}" if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(
                f"{self.name}: expected the communication hook to return a tensor of {self.gradients.size} elements, "
                f"or a future of it, found {found}"
            )
        if value.array is not self.gradients:
            self.gradients[...] = value.array.reshape(-1)


class GradBucket:
    """What a communication hook is given, with PyTorch's names: a bucket whose gradients are to be averaged.

    communicator: the wrapper's own. sent: to be called with the number of bytes that the hook sends to other ranks.
    """

    def __init__(self, bucket: Bucket, count: int, communicator: Communicator, sent: Callable[[float], None]) -> None:
        self._bucket, self._count = bucket, count
        self._buffer = wrap(bucket.gradients)
        self.communicator, self.sent = communicator, sent

    def index(self) -> int:
        """Its number: buckets are reduced in this order."""
        return self._bucket.index

    def is_last(self) -> bool:
        """Whether it is the last one of the backward pass."""
        return self._bucket.index == self._count - 1

    def buffer(self) -> Tensor:
        """The gradients as one vector, scaled so that their mean over the ranks is the mean over all samples."""
        return self._buffer

    def set_buffer(self, buffer: Tensor) -> None:
        """Let the gradients be these; ValueError for another size."""
        if buffer.array.size != self._bucket.gradients.size:
            raise ValueError(f"set_buffer: expected {self._bucket.gradients.size} elements, found {buffer.array.size}")
        self._bucket.gradients[...] = buffer.array.reshape(-1)

    def gradients(self) -> list[Tensor]:
        """The gradients one by one, as views of the buffer."""
        return [wrap(tensor.home.gradient) for tensor in self._bucket.tensors]

    def parameters(self) -> list[Tensor]:
        """The parameters that they belong to."""
        return list(self._bucket.tensors)


def make_buckets(named: Sequence[tuple[str, Tensor]], first_bytes: float, other_bytes: float) -> list[Bucket]:
    """Cut parameters into buckets, last parameter first: the order in which backward finishes their gradients.

    A bucket ends where the next parameter would take it over its size, or lies elsewhere in memory.
    """
    names = {tensor: name for name, tensor in named}
    groups: list[list[Tensor]] = []
    for run in reversed(flatten(names)):
        size = 0.0
        open_group = False
        for tensor in reversed(run.tensors):
            limit = first_bytes if len(groups) <= 1 else other_bytes
            if not open_group or size + tensor.array.nbytes > limit:
                groups.append([])
                size, open_group = 0.0, True
            groups[-1].append(tensor)
            size += tensor.array.nbytes
    return [Bucket(i, group[::-1], [names[t] for t in reversed(group)]) for i, group in enumerate(groups)]


def measured_size(communicator: Communicator) -> float:
    """Bytes from which on larger buckets are hardly faster: with these the reduction starts as early as is free.

    The smallest of SIZES that reaches ENOUGH of the best bandwidth, the slowest rank's, measured here. Collective.
    """
    if communicator.size == 1:
        return 25 * MIB
    memory = communicator.allocate(SIZES[-1] // 4, np.dtype(np.float32))
    seconds = np.empty(len(SIZES))
    for place, size in enumerate(SIZES):
        taken = []
        for _ in range(REPETITIONS):
            communicator.barrier("measuring of bucket sizes")
            started = time.perf_counter()
            communicator.weighted_sum_start(memory[: size // 4], 1, lambda: 1, "measuring of bucket sizes").wait()
            taken.append(time.perf_counter() - started)
        seconds[place] = median(taken)
    communicator.all_reduce(seconds, "max", "measuring of bucket sizes")
    bandwidths = np.array(SIZES) / seconds
    return float(SIZES[int(np.argmax(bandwidths >= ENOUGH * bandwidths.max()))])
