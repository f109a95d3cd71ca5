"""The worlds in which tests run.

In one process: a world of one rank, and simulated worlds of 2 to 4. Under mpirun the same tests run in the real world:
`mpiexec -n 3 python -m pytest --with-mpi tests/ddp`. Marks of pytest-mpi: `mpi` needs mpirun, `mpi_skip` needs to be
alone. On several ranks only rank 0 reports; a rank on which a test fails says so and ends the job, because the others
would wait for it in the next collective.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings

from mpigrad import ddp
from mpigrad.ddp.comm import simulated
from mpigrad.ddp.process_group import promised_size

# where nobody waits to look into a rare find, the same examples are tried every time
settings.register_profile("CI", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("CI")

RANKS = promised_size() or 1
TIMEOUT = 30.0  # seconds that a collective may take here

if RANKS > 1:
    from mpi4py import MPI


class World:
    """A world to run in: `world(f)` calls f on every rank, in a process group; what each returned, in rank order."""

    def __init__(self, size: int, kind: str) -> None:
        self.size, self.kind = size, kind

    def __call__(self, function: Callable[[], Any]) -> list[Any]:
        if self.kind == "simulated":
            return simulated.run(self.size, self._on_this_rank, function, timeout=TIMEOUT)

        def gather() -> list[Any]:
            result = function()
            return ddp.world().all_gather_object(result)

        results: list[Any] = self._on_this_rank(gather)
        return results

    def _on_this_rank(self, function: Callable[[], Any]) -> Any:
        ddp.init_process_group("single" if self.kind == "single" else None, timeout=TIMEOUT)
        try:
            return function()
        finally:
            ddp.destroy_process_group()


ONE_PROCESS = [World(1, "single"), *(World(n, "simulated") for n in (2, 3, 4))]
WORLDS = ONE_PROCESS if RANKS == 1 else [World(RANKS, "mpi")]


@pytest.fixture(
    params=[pytest.param(w, id=f"{w.kind}{w.size}", marks=[pytest.mark.mpi] * (w.kind == "mpi")) for w in WORLDS]
)
def world(request: pytest.FixtureRequest) -> World:
    """Each world there is, in turn."""
    found: World = request.param
    return found


def pytest_make_parametrize_id(val: object) -> str | None:
    """An expression in a table goes by the line that it stands in."""
    return f"line {val.__code__.co_firstlineno}" if getattr(val, "__name__", "") == "<lambda>" else None


@pytest.hookimpl(tryfirst=True)
def pytest_configure() -> None:
    if RANKS > 1 and MPI.COMM_WORLD.rank > 0:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (the terminal reporter of this rank writes there)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _end_job_after_failure(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    _end_job_after_failure(report)


def _end_job_after_failure(report: pytest.TestReport | pytest.CollectReport) -> None:
    if RANKS > 1 and report.failed:
        print(f"\nrank {MPI.COMM_WORLD.rank} of {RANKS}: {report.nodeid}\n{report.longreprtext}", file=sys.stderr)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        time.sleep(0.5)  # the launcher has to pass it on
        MPI.COMM_WORLD.Abort(1)
