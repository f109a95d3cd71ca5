"""Running `mpigrad run` for real, on each MPI there is, with an eye on what it leaves behind."""

import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mpigrad.launch.mpirun import Installation, MPINotFound, find_mpi

LIMIT = 60.0  # seconds that any job here may take
FOREIGN = ("OMPI_", "PMI_", "PMIX_", "PRTE_", "PRRTE_", "HYDRA_", "HYDI_", "MPI_LOCAL", "MPIR_", "MPIGRAD_", "MPI4PY_")
KEPT = ("OMPI_MCA_", "PRTE_MCA_", "MPIR_CVAR_")  # a user's own settings

if os.environ.keys() & {"PMI_SIZE", "OMPI_COMM_WORLD_SIZE"}:
    collect_ignore_glob = ["test_*.py"]  # these tests start jobs of their own


@dataclass
class Done:
    """A job that has ended."""

    code: int
    out: str
    err: str
    seconds: float
    """How long it took; from the failure on, where the script has called fail()."""


class Jobs:
    """Starts jobs in a folder; knows their processes by a mark in the environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[str]] = []
        self.mark = f"mpigrad-test-{uuid.uuid4()}"
        self.env = {
            name: value
            for name, value in os.environ.items()
            if name.startswith(KEPT) or not name.startswith((*FOREIGN, "OMP_", "MALLOC_"))
        } | {"MPIGRAD_TEST": self.mark, "OMP_NUM_THREADS": "1"}

    def script(self, text: str, name: str = "script.py") -> Path:
        """Write a script. In it, `note(what)` tells wait_for, and `fail()` the clock that the failure comes now."""
        path = self.folder / name
        helpers = f"""
            import os, signal, sys, time
            from pathlib import Path
            from mpi4py import MPI
            world = MPI.COMM_WORLD
            def note(what): Path({str(self.folder)!r}, what).touch()
            def fail(): note("failed")
        """
        path.write_text(textwrap.dedent(helpers) + textwrap.dedent(text))
        return path

    def start(self, *arguments: object, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        job = subprocess.Popen(
            [sys.executable, "-m", "mpigrad.launch.cli", *map(str, arguments)],
            cwd=self.folder,
            env=self.env | (env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(job)
        return job

    def end(self, job: subprocess.Popen[str], since: float) -> Done:
        with job:
            out, err = job.communicate(timeout=LIMIT)
        ended = time.time()
        failed = self.folder / "failed"
        return Done(job.returncode, out, err, ended - (failed.stat().st_mtime if failed.exists() else since))

    def run(self, *arguments: object, env: dict[str, str] | None = None) -> Done:
        since = time.time()
        return self.end(self.start(*arguments, env=env), since)

    def wait_for(self, job: subprocess.Popen[str], *names: str) -> None:
        """Wait until the job's scripts have noted all of these."""
        deadline = time.monotonic() + LIMIT
        while not all((self.folder / name).exists() for name in names):
            assert job.poll() is None, f"the job has ended: {job.communicate()}"
            assert time.monotonic() < deadline, f"still no {names}"
            time.sleep(0.02)

    def processes(self) -> list[int]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                marked = self.mark.encode() in (process / "environ").read_bytes()
            except OSError:
                continue
            if marked:
                found.append(int(process.name))
        return found

    def gone_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self.processes():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    """A place to start jobs from. At the end none of their processes may be left."""
    jobs = Jobs(tmp_path)
    yield jobs
    for job in jobs.started:
        if job.poll() is None:  # a test has failed on the way
            job.kill()
            job.communicate()
    left = jobs.processes()
    for process in left:
        os.kill(process, signal.SIGKILL)
    assert not left, f"processes left behind: {left}"


def _openmpi() -> Installation:
    return find_mpi(str(Path(sys.prefix) / "openmpi"))


@pytest.fixture(scope="session", params=[find_mpi, _openmpi], ids=["default", "openmpi"])
def mpi(request: pytest.FixtureRequest) -> Installation:
    """Each MPI that this environment has: the one found by default, and an Open MPI in its folder openmpi/."""
    look: Callable[[], Installation] = request.param
    try:
        return look()
    except MPINotFound as error:
        pytest.skip(str(error))
