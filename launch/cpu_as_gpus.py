"""torch.cuda where the CPU stands in for GPUs: one device for each rank of this machine, which is done when it returns.

With `--device cpu` scripts find these in torch.cuda. Figures of memory are those of the process.
"""

from __future__ import annotations

import contextlib
import os
import resource
import time
from types import SimpleNamespace
from typing import Any

from .rank import local_place


def is_available() -> bool:
    """Yes: the CPU."""
    return True


def device_count() -> int:
    """As many as ranks on this machine."""
    return local_place(os.environ)[1]


def current_device() -> int:
    """This rank's number on this machine."""
    return local_place(os.environ)[0]


def set_device(device: Any) -> None:
    """All devices are the same."""


def synchronize(device: Any = None) -> None:
    """There is nothing to wait for."""


init = ipc_collect = reset_peak_memory_stats = synchronize


def get_device_name(device: Any = None) -> str:
    """What stands in."""
    return "CPU (in the place of a GPU)"


def get_device_properties(device: Any = None) -> Any:
    """The name, the memory of this machine in bytes, the cores as processors."""
    return SimpleNamespace(
        name=get_device_name(),
        total_memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        multi_processor_count=len(os.sched_getaffinity(0)),
        major=0,
        minor=0,
    )


def get_device_capability(device: Any = None) -> tuple[int, int]:
    """(0, 0): lower than any GPU's, so that scripts choose what needs no particular one."""
    return 0, 0


def is_bf16_supported(including_emulation: bool = True) -> bool:
    """Yes, computed in float32."""
    return including_emulation


def max_memory_allocated(device: Any = None) -> int:
    """The most memory that this process has held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


max_memory_reserved = memory_reserved = max_memory_allocated


class Event:
    """A moment. What was asked for before it is done."""

    def __init__(self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False) -> None:
        self.time = 0.0

    def record(self, stream: Any = None) -> None:
        """Make it now."""
        self.time = time.perf_counter()

    def wait(self, stream: Any = None) -> None:
        """It is over."""

    synchronize = wait

    def query(self) -> bool:
        """Whether it is over."""
        return True

    def elapsed_time(self, end_event: Event) -> float:
        """Milliseconds from this event to another."""
        return 1e3 * (end_event.time - self.time)


class Stream:
    """An order of work; there is one, that of the program."""

    def __init__(self, device: Any = None, priority: int = 0) -> None:
        pass

    def wait_stream(self, stream: Any) -> None:
        """All that came before is done."""

    wait_event = wait_stream

    def synchronize(self) -> None:
        """All is done."""

    def query(self) -> bool:
        """Whether all is done."""
        return True

    def record_event(self, event: Event | None = None) -> Event:
        """An event, now."""
        event = event or Event()
        event.record()
        return event


def current_stream(device: Any = None) -> Stream:
    """The program's order."""
    return Stream()


default_stream = current_stream


@contextlib.contextmanager
def stream(stream: Any) -> Any:
    """Work in another order: in the same one."""
    yield


device = stream  # work on another device: on the same one
