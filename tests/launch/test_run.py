"""`mpigrad run` as a user meets it: real ranks, real signals, and a clock."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mpigrad.launch.mpirun import Installation

if TYPE_CHECKING:
    from conftest import Done, Jobs

SOON = 5.0  # seconds from a failure to the end of the job


def launched(mpi: Installation, *more: object) -> list[object]:
    return ["run", "-n", 2, "--mpi", mpi.mpirun, *more]


def lines(done: Done) -> list[str]:
    return done.err.splitlines()


WAIT = """
    for name in os.environ.get("DEAF_TO", "").split(): signal.signal(getattr(signal, name), signal.SIG_IGN)
    if world.rank == 0: Path(sys.path[0], "reports").write_text(os.environ["MPIGRAD_REPORT_DIR"])
    note(f"rank{world.rank}")
    world.barrier()
    if world.rank == 0: time.sleep(60)
    world.barrier()
"""


def test_arguments_and_surroundings_are_those_of_plain_python(mpi: Installation, jobs: Jobs) -> None:
    jobs.script(
        """
        import json
        print(json.dumps([world.rank, world.allreduce(1), sys.argv[1:], sys.path[0], __name__, __file__]))
        """
    )
    arguments = ["--help", "-n", "3", "--", "--version", "-m", "a b"]
    done = jobs.run(*launched(mpi, "script.py", *arguments))
    assert (done.code, done.err) == (0, "")
    surroundings = [arguments, str(jobs.folder), "__main__", str(jobs.folder / "script.py")]
    assert sorted(map(json.loads, done.out.splitlines())) == [[rank, 2, *surroundings] for rank in (0, 1)]


def test_an_exception_on_one_rank_ends_the_other_too(mpi: Installation, jobs: Jobs) -> None:
    path = jobs.script(
        """
        def inner():
            raise ValueError(f"bad value on rank {world.rank}")
        world.barrier()
        if world.rank == 1:
            print("about to fail")
            fail()
            inner()
        world.barrier()
        """
    )
    done = jobs.run(*launched(mpi, path.name))
    assert done.seconds < SOON
    assert done.code == 1
    assert done.out == "about to fail\n"
    assert lines(done)[:2] == [
        "mpigrad run: rank 1 of 2 failed first; all ranks were stopped.",
        "Traceback (most recent call last):",
    ]
    assert lines(done)[-1] == "ValueError: bad value on rank 1"
    assert [line for line in lines(done) if line.startswith("  File")] == [
        f'  File "{path}", line {number}, in {name}' for number, name in ((15, "<module>"), (10, "inner"))
    ]


def test_a_message_that_all_ranks_exit_with_is_said_once(mpi: Installation, jobs: Jobs) -> None:
    jobs.script('world.barrier(); fail(); sys.exit("config.toml: no such file")')
    done = jobs.run(*launched(mpi, "script.py"))
    assert done.seconds < SOON
    assert done.code == 1
    first, other = ("0", "1") if "rank 0 of 2" in lines(done)[0] else ("1", "0")
    remark = f"(rank {other} failed with the same error)"
    assert lines(done) == [
        f"mpigrad run: rank {first} of 2 failed first; all ranks were stopped {remark}.",
        "config.toml: no such file",
    ]


def test_an_exit_code_is_passed_on(mpi: Installation, jobs: Jobs) -> None:
    jobs.script("world.barrier(); sys.exit(7 * world.rank)")
    assert jobs.run(*launched(mpi, "script.py")).code == 7


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV"])
def test_a_killed_rank_is_named(mpi: Installation, jobs: Jobs, name: str) -> None:
    jobs.script(f"world.barrier()\nif world.rank == 1: fail(); os.kill(os.getpid(), signal.{name})\nworld.barrier()")
    done = jobs.run(*launched(mpi, "script.py"))
    assert done.seconds < SOON
    assert done.code == 128 + signal.Signals[name]
    assert lines(done)[0].startswith(f"mpigrad run: rank 1 of 2 was killed by {name}")
    if name == "SIGSEGV":
        assert lines(done)[-1] == f'  File "{jobs.folder}/script.py", line 9 in <module>'


def test_a_rank_that_leaves_without_a_word_is_no_success(mpi: Installation, jobs: Jobs) -> None:
    jobs.script("world.barrier()\nif world.rank == 1: fail(); os._exit(0)\nworld.barrier()")
    done = jobs.run(*launched(mpi, "script.py"))
    assert done.seconds < SOON
    assert done.code == 1
    assert "ended before the script did; all ranks were stopped." in lines(done)[-1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("deaf_to", ["", "SIGINT SIGTERM"])
def test_ctrl_c(mpi: Installation, jobs: Jobs, number: signal.Signals, deaf_to: str) -> None:
    jobs.script(WAIT)
    job = jobs.start(*launched(mpi, "script.py"), env={"DEAF_TO": deaf_to})
    jobs.wait_for(job, "rank0", "rank1")
    job.send_signal(number)
    done = jobs.end(job, time.time())
    assert done.seconds < SOON
    assert done.code == 128 + number
    assert done.err == f"mpigrad run: stopped by {number.name}; all ranks were stopped.\n"


def test_no_rank_survives_mpigrad(mpi: Installation, jobs: Jobs) -> None:
    jobs.script(WAIT)
    job = jobs.start(*launched(mpi, "script.py"))
    jobs.wait_for(job, "rank0", "rank1")
    job.kill()
    jobs.end(job, time.time())
    assert jobs.gone_within(SOON)
    reports = Path((jobs.folder / "reports").read_text())  # killed like this it could not clean up
    for segments in reports.glob("*.segments"):
        for segment in segments.read_text().split():
            Path(segment).unlink(missing_ok=True)
    shutil.rmtree(reports)


def test_no_rank_survives_mpirun(mpi: Installation, jobs: Jobs) -> None:
    jobs.script(WAIT)
    job = jobs.start(*launched(mpi, "script.py"))
    jobs.wait_for(job, "rank0", "rank1")
    (mpirun,) = (int(pid) for pid in Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split())
    os.kill(mpirun, signal.SIGKILL)
    done = jobs.end(job, time.time())
    assert done.seconds < SOON
    assert done.code == 137
    assert "was killed by SIGKILL" in lines(done)[-1]


def test_timeout(mpi: Installation, jobs: Jobs) -> None:
    jobs.script(WAIT)
    done = jobs.run(*launched(mpi, "--timeout", "1.5", "script.py"))
    assert 1.5 < done.seconds < 1.5 + SOON
    assert done.code == 124
    assert done.err == "mpigrad run: not done after 1.5 s, the --timeout; all ranks were stopped.\n"


def test_labels(mpi: Installation, jobs: Jobs) -> None:
    jobs.script("print('a', world.rank)")
    done = jobs.run(*launched(mpi, "--label", "script.py"), env={"PYTHONUNBUFFERED": "1"})
    assert done.code == 0
    ranks = sorted(line.partition("]")[0][-1:] + line[-2:] for line in done.out.splitlines())
    assert ranks == ["0 0", "1 1"]


def test_lines_come_live_and_whole(mpi: Installation, jobs: Jobs) -> None:
    jobs.script(
        """
        for i in range(200): print(world.rank, "x" * 100, flush=True)
        world.barrier()
        if world.rank == 0:
            print("half a line", end="", flush=True)
            note("printed")
            time.sleep(1.5)
        world.barrier()
        """
    )
    job = jobs.start(*launched(mpi, "script.py"), env={"PYTHONUNBUFFERED": "1"})
    assert job.stdout is not None
    jobs.wait_for(job, "printed")
    printed = time.monotonic()
    out = ""
    while "half a line" not in out:
        assert time.monotonic() - printed < 1
        out += os.read(job.stdout.fileno(), 1 << 16).decode()
    done = jobs.end(job, time.time())
    assert done.code == 0
    out = (out + done.out).replace("half a line", "")
    assert sorted(out.splitlines()) == [f"{rank} {'x' * 100}" for rank in (0, 1) for _ in range(200)]


def test_a_rank_that_has_failed_but_cannot_leave(mpi: Installation, jobs: Jobs) -> None:
    jobs.script(
        """
        from mpigrad.launch.report import Report
        if world.rank == 1:
            fail()
            Report.of(ValueError("stuck"), 1, 2).write(Path(os.environ["MPIGRAD_REPORT_DIR"]))
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(60)
        """
    )
    done = jobs.run(*launched(mpi, "script.py"))
    assert done.seconds < SOON
    assert lines(done)[-1] == "ValueError: stuck"


def test_each_rank_has_its_cores_and_keeps_its_memory(mpi: Installation, jobs: Jobs) -> None:
    jobs.script(
        """
        import json, resource
        import numpy as np
        a = np.ones(1 << 18, np.float32)
        faults = []
        for i in range(60):
            b = a * 2; c = b + a; d = c * b
            faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
        print(json.dumps([world.rank, sorted(os.sched_getaffinity(0)), faults[-1] - faults[-41]]))
        """
    )
    done = jobs.run(*launched(mpi, "script.py"))
    assert done.code == 0
    (_, mine, faults), (_, other, _) = sorted(map(json.loads, done.out.splitlines()))
    if len(os.sched_getaffinity(0)) > len(mine):
        assert not set(mine) & set(other)
    assert faults < 40  # 170 for each of the 40 rounds where the arrays are fresh from the kernel


def test_the_wrong_library_is_named(mpi: Installation, jobs: Jobs) -> None:
    jobs.script("print('never')")
    command = [mpi.mpirun, "-n", "2", sys.executable, "-m", "mpigrad.launch.rank", "script.py"]
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_btl": "^ofi"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=jobs.folder,
        env=jobs.env | root | {"MPIGRAD_WORLD_SIZE": "3", "MPI4PY_LIBMPI": str(mpi.libmpi)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert not done.stdout.count("never")
    assert "expected 3 ranks, found 2: this process has loaded" in done.stderr
    assert f"({mpi.libmpi}), which is not the MPI of the launcher that started it" in done.stderr


def test_dry_run_prints_a_line_for_the_shell(mpi: Installation, jobs: Jobs) -> None:
    jobs.script("print(world.size, sys.argv[1:])")
    dry = jobs.run(*launched(mpi, "--dry-run", "script.py", "it's", "--lr=1"))
    assert (dry.code, dry.err, dry.out.count("\n")) == (0, "", 1)
    assert "MPIGRAD_WORLD_SIZE=2" in dry.out
    done = subprocess.run(
        dry.out, shell=True, cwd=jobs.folder, env=jobs.env, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == """2 ["it's", '--lr=1']\n""" * 2


def test_a_module(jobs: Jobs) -> None:
    jobs.script("print(__name__, sys.argv[1:], sys.path[0])", name="module.py")
    done = jobs.run("run", "-m", "module", "-n", "2")
    assert (done.code, done.out) == (0, f"__main__ ['-n', '2'] {jobs.folder}\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run"], "name a script to run, or -m and a module"),
        (["run", "-n", "0", "script.py"], "-n is the number of ranks, at least 1, not 0"),
        (["run", "nowhere.py"], "there is no script nowhere.py"),
        (["run", "--mpi", "nowhere", "script.py"], "no MPI at nowhere: expected a directory with bin/mpirun"),
    ],
)
def test_mistakes_are_told_in_one_sentence(jobs: Jobs, arguments: list[str], sentence: str) -> None:
    jobs.script("")
    done = jobs.run(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"mpigrad run: {sentence}")
    assert done.err.count("\n") == 1


def test_version_and_help(jobs: Jobs) -> None:
    assert jobs.run("--version").out.startswith("mpigrad 0.")
    assert "run a script on several ranks" in jobs.run("--help").out
    assert "script.py" in jobs.run("run", "--help").out


@pytest.fixture
def no_mpi(jobs: Jobs) -> Jobs:
    """Jobs in an environment in which there is no MPI."""
    import mpi4py

    import mpigrad

    subprocess.run([sys.executable, "-m", "venv", "--without-pip", jobs.folder / "env"], check=True, timeout=60)
    packages = {str(Path(module.__path__[0]).parent) for module in (mpigrad, mpi4py)}
    jobs.env |= {
        "PYTHONPATH": os.pathsep.join(packages),
        "PATH": "/usr/bin:/bin",
        "MPI4PY_LIBMPI": "/nowhere/libmpi.so",
    }
    return jobs


def run_without_mpi(jobs: Jobs, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [jobs.folder / "env" / "bin" / "python", "-m", "mpigrad.launch.cli", *arguments],
        cwd=jobs.folder,
        env=jobs.env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_one_process_needs_no_mpi(no_mpi: Jobs) -> None:
    (no_mpi.folder / "script.py").write_text("import sys; print(sys.argv[1:]); sys.exit(int(sys.argv[1]))")
    done = run_without_mpi(no_mpi, "run", "script.py", "0")
    assert (done.returncode, done.stdout, done.stderr) == (0, "['0']\n", "")
    done = run_without_mpi(no_mpi, "run", "script.py", "3")
    assert (done.returncode, done.stderr) == (3, "mpigrad run: the script failed.\nexit code 3\n")


def test_several_ranks_without_mpi(no_mpi: Jobs) -> None:
    (no_mpi.folder / "script.py").write_text("")
    done = run_without_mpi(no_mpi, "run", "-n", "2", "script.py")
    assert done.returncode == 2
    assert done.stderr.startswith("mpigrad run: no MPI found: looked for mpirun and mpiexec in ")
    assert 'pip install "mpigrad[mpich]"' in done.stderr
