"""Which cores this process may use, and which of them belong to a rank."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

Core = tuple[int, ...]
"""The hardware threads (CPU numbers) of one physical core."""


def usable_cores() -> list[Core]:
    """The physical cores that this process may run on, neighbours side by side.

    A core is listed with those of its hardware threads that the scheduler grants (cpusets, taskset, Slurm).
    Cores of one package come together, so that a contiguous share of the list stays near its memory.
    """
    cores: dict[tuple[int, str], list[int]] = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
        try:
            package = int((topology / "physical_package_id").read_text())
            siblings = (topology / "thread_siblings_list").read_text().strip()
        except OSError:  # containers may hide the topology: every CPU is then a core of its own
            package, siblings = 0, str(cpu)
        cores.setdefault((package, siblings), []).append(cpu)
    return [tuple(cpus) for (_, _), cpus in sorted(cores.items(), key=lambda core: (core[0][0], core[1]))]


def share(cores: Sequence[Core], rank: int, ranks: int) -> set[int]:
    """The CPUs of `rank` when `ranks` ranks divide the cores: contiguous shares that differ by one core at most.

    With more ranks than cores nobody is bound: everybody gets all CPUs.
    """
    if ranks > len(cores):
        rank, ranks = 0, 1
    mine = cores[rank * len(cores) // ranks : (rank + 1) * len(cores) // ranks]
    return {cpu for core in mine for cpu in core}


def bind(cpus: set[int]) -> None:
    """Bind this process to `cpus`, with the threads that already run (a BLAS starts its own at import)."""
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):  # a thread that has just ended; a sandbox that does not let itself be bound
            os.sched_setaffinity(int(task), cpus)
