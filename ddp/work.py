"""Calls under way: what the functions of `mpigrad.distributed` return with async_op=True, with PyTorch's names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import numpy as np

from ..core.backend import Array
from ..core.tensor import Tensor
from .comm import protocol
from .process_group import ProcessGroup


class Work:
    """A call under way. The result is in the tensors once `wait` has returned or `is_completed` was True."""

    def __init__(self, started: protocol.Work, tensors: list[Tensor], group: ProcessGroup) -> None:
        self.started, self.tensors, self.group = started, tensors, group
        self.next: list[Callable[[], Any]] = []  # what is left to do after the communication, for the first who waits

    def wait(self, timeout: float | timedelta | None = None) -> bool:
        """Return True when done. CollectiveTimeout after timeout (in seconds), which is the group's when left out."""
        self.started.wait(timeout.total_seconds() if isinstance(timeout, timedelta) else timeout)
        while self.next:
            self.next.pop(0)()
        return True

    def is_completed(self) -> bool:
        """Whether `wait` would return (or raise) at once."""
        return self.started.is_completed() and (self.started.error is not None or self.wait())

    def is_success(self) -> bool:
        """Whether it is done and nothing went wrong."""
        return self.is_completed() and self.started.error is None

    def exception(self) -> BaseException | None:
        """What went wrong."""
        return self.started.error

    def result(self) -> list[Tensor]:
        """The tensors that receive the result."""
        return self.tensors

    def source_rank(self) -> int:
        """The group's number of the rank that a received message came from."""
        assert isinstance(self.started, protocol.Message) and self.started.peer is not None
        return self.started.peer

    def get_future(self) -> Future:
        """The tensors to come."""
        return Future(self, self.result)


class Future:
    """A value to come: that of `find`, once the work is done."""

    def __init__(self, work: Work, find: Callable[[], Any]) -> None:
        self.work = work
        self.found: list[Any] = []
        work.next.append(lambda: self.found.append(find()))

    def done(self) -> bool:
        """Whether `wait` would return at once."""
        return self.work.is_completed()

    def wait(self) -> Any:
        """The value, once it is there."""
        self.work.wait()
        return self.found[0]

    value = wait

    def then(self, callback: Callable[[Future], Any]) -> Future:
        """The future of callback(this one), which the first who waits for the work or one of its futures calls."""
        return Future(self.work, lambda: callback(self))


def contiguous(array: Array) -> Array:
    """The array itself where it can travel, else a copy: `finish` writes it back."""
    return array if array.flags.c_contiguous else array.copy()


def finish(
    group: ProcessGroup,
    started: protocol.Work,
    tensors: Sequence[Tensor],
    copies: Sequence[tuple[Array, Array]],
    async_op: bool,
    divisor: int = 1,
) -> Work | None:
    """Wait, unless async_op; then divide what has arrived and put it into place: copies are (place, arrived)."""
    for tensor in tensors:
        tensor.version[0] += 1

    def write() -> None:
        for place, arrived in copies:
            if divisor != 1:
                np.divide(arrived, divisor, out=arrived)
            if place is not arrived:
                place[...] = arrived

    work = Work(started, list(tensors), group)
    work.next.append(write)
    if async_op:
        return work
    work.wait()
    return None
