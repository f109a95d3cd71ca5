"""The process group: PyTorch's functions, in every world; finding MPI; and the end of a job in which one rank fails."""

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mpigrad
from mpigrad import distributed as dist
from mpigrad import nn

# --- PyTorch's functions ----------------------------------------------------------------------------------------------


def test_names(world: Any) -> None:
    def main() -> None:
        rank, size = dist.get_rank(), dist.get_world_size()
        assert dist.is_initialized() and size == world.size and 0 <= dist.get_local_rank() < size
        tensor = mpigrad.full((2, 3), rank + 1.0)
        version = tensor.version[0]
        assert dist.all_reduce(tensor) is None
        assert tensor.tolist() == [[size * (size + 1) / 2] * 3] * 2 and tensor.version[0] > version
        for op, expected in ((dist.ReduceOp.MAX, size - 1), (dist.ReduceOp.MIN, 0)):
            dist.all_reduce(number := mpigrad.tensor(rank), op)
            assert number.item() == expected
        work = dist.all_reduce(tensor, async_op=True)
        assert work is not None
        work.wait()
        for root in range(size):
            dist.broadcast(tensor := mpigrad.tensor([float(rank)]), src=root)
            assert tensor.tolist() == [root]
        everyone: list[Any] = [None] * size
        dist.all_gather_object(everyone, {"rank": rank})
        assert everyone == [{"rank": r} for r in range(size)]
        dist.barrier()

    world(main)


def test_in_and_out(world: Any) -> None:
    """Joining twice is an error, leaving and joining again is not; a world of one is what there is before."""

    def main() -> int:
        with pytest.raises(ValueError, match="trying to initialize the default process group twice!"):
            dist.init_process_group()
        for timeout in (7, timedelta(minutes=1)):
            dist.destroy_process_group()
            assert (dist.is_initialized(), dist.get_rank(), dist.get_world_size()) == (False, 0, 1)
            with pytest.raises(ValueError, match="make sure to call init_process_group"):
                dist.barrier()
            with pytest.raises(RuntimeError, match=f"expected world_size {world.size}, .* found 99: start the ranks"):
                dist.init_process_group(world_size=99)
            assert not dist.is_initialized()
            dist.init_process_group(timeout=timeout)
            assert dist.world().timeout == (7 if timeout == 7 else 60)
        return dist.get_rank()

    assert world(main) == list(range(world.size))


def test_groups(world: Any) -> None:
    def main() -> None:
        rank, size = dist.get_rank(), dist.get_world_size()
        assert dist.group.WORLD is dist.GroupMember.WORLD and dist.get_process_group_ranks(None) == list(range(size))
        assert (dist.group.WORLD.rank(), dist.group.WORLD.size()) == (rank, size)
        ranks = list(range(size - 1, -1, -2))  # from the last one down
        for options, numbered in (({}, sorted(ranks)), ({"sort_ranks": False}, ranks)):
            part = dist.new_group(ranks, timeout=timedelta(seconds=9), **options)
            if rank not in ranks:
                assert part == dist.GroupMember.NON_GROUP_MEMBER
                assert (dist.get_rank(part), dist.get_world_size(part)) == (-1, -1)
                with pytest.raises(ValueError, match="Invalid process group specified"):
                    dist.get_backend(part)
                dist.destroy_process_group(part)
                continue
            assert isinstance(part, dist.ProcessGroup) and part.communicator.timeout == 9
            assert dist.get_process_group_ranks(part) == numbered
            mine = numbered.index(rank)
            assert dist.get_rank(part) == part.rank() == dist.get_group_rank(part, rank) == mine
            assert dist.get_world_size(part) == part.size() == len(ranks)
            assert dist.get_global_rank(part, mine) == rank
            dist.all_gather_object(found := [None] * len(ranks), rank, part)
            assert found == numbered
            with pytest.raises(ValueError, match="Global rank 99 is not part of group"):
                dist.get_group_rank(part, 99)
            with pytest.raises(ValueError, match="Group rank 99 is not part of group"):
                dist.get_global_rank(part, 99)
            dist.destroy_process_group(part)
            with pytest.raises(ValueError, match="Invalid process group specified"):
                dist.destroy_process_group(part)
            with pytest.raises(RuntimeError, match="is closed"):
                dist.barrier(part)
        everyone = dist.new_group()
        assert isinstance(everyone, dist.ProcessGroup) and dist.get_world_size(everyone) == size
        for bad, message in (
            ([0, 0], r"ranks list must not contain duplicate entries, got \[0, 0\]"),
            ([0, 99], rf"Rank 99 is out of range. Valid ranks are 0 to {size - 1} \(world_size={size}\)"),
            ([], "expected at least one rank"),
        ):
            with pytest.raises(ValueError, match=message):
                dist.new_group(bad)
        with pytest.raises(ValueError, match="use_local_synchronization"):
            dist.new_group([0], use_local_synchronization=True)
        dist.destroy_process_group(dist.group.WORLD)
        assert dist.group.WORLD is None
        dist.init_process_group("gloo")
        assert dist.get_backend() == dist.group.WORLD.name() == "gloo"

    world(main)


def test_what_there_is() -> None:
    assert dist.is_available() and dist.is_gloo_available() and not dist.is_nccl_available()
    assert dist.is_mpi_available() is (importlib.util.find_spec("mpi4py") is not None)


@pytest.mark.parametrize(
    "use",
    [
        dist.world,
        dist.barrier,
        dist.destroy_process_group,
        lambda: dist.all_reduce(mpigrad.ones(1)),
        lambda: dist.broadcast(mpigrad.ones(1)),
        lambda: dist.all_gather_object([], 1),
        lambda: dist.DistributedDataParallel(nn.Linear(1, 1)),
    ],
)
def test_use_before_init(use: Any) -> None:
    with pytest.raises(ValueError, match="Default process group has not been initialized, please make sure to call"):
        use()


def test_unknown_backend() -> None:
    with pytest.raises(ValueError, match="expected backend 'mpi', 'single' or None \\(find out\\), found 'mip'"):
        dist.init_process_group("mip")
    assert not dist.is_initialized()


def test_a_broken_group_can_be_left(world: Any) -> None:
    def main() -> None:
        def fail() -> None:
            raise OSError("cut")

        with pytest.raises(OSError, match="cut"):
            dist.world().start(fail, "failure").wait()
        dist.destroy_process_group()
        dist.init_process_group()
        dist.all_reduce(tensor := mpigrad.ones(3))
        assert np.array_equal(tensor.numpy(), [world.size] * 3)

    world(main)


# --- finding MPI ------------------------------------------------------------------------------------------------------

MPI_VARIABLES = ("OMPI_", "PMIX_", "PMI_", "PRTE_", "MPI_", "MPI4PY_", "HYDRA_", "MPIGRAD_")
SAY_WORLD = """
import sys, mpigrad.distributed as dist
backend = sys.argv[1] if len(sys.argv) > 1 else None
dist.init_process_group(backend)
print(f"rank {dist.get_rank()} of {dist.get_world_size()}, {type(dist.world()).__name__}")
"""
NO_LIBRARY = {"MPI4PY_LIBMPI": "/nonexistent/libmpi.so"}


def python(script: str, *arguments: str, **variables: str) -> tuple[int, str]:
    """The exit status and what was printed, without a trace of the launcher under which the tests may run."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(MPI_VARIABLES)} | variables
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], env=env, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.mpi_skip
@pytest.mark.parametrize("arguments, variables", [((), NO_LIBRARY), (("single",), NO_LIBRARY), (("single",), {})])
def test_alone(arguments: tuple[str, ...], variables: dict[str, str]) -> None:
    assert python(SAY_WORLD, *arguments, **variables) == (0, "rank 0 of 1, SingleCommunicator\n")


@pytest.mark.mpi_skip
def test_a_main_module_that_worker_processes_import(tmp_path: Path) -> None:
    """A worker process has its rank's environment, in which MPI would try to start a second time."""
    script = tmp_path / "unguarded.py"
    script.write_text(f"{SAY_WORLD}\nimport mpigrad.data\nlist(mpigrad.data.DataLoader(range(4), num_workers=1))\n")
    done = subprocess.run([sys.executable, script, "single"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "init_process_group was called while a DataLoader's worker processes import the program's" in done.stderr


@pytest.mark.mpi_skip
def test_mpi_is_not_imported_before_it_is_needed() -> None:
    check = "import sys, mpigrad.ddp, mpigrad.ddp.comm.simulated; sys.exit('mpi4py' in sys.modules)"
    assert python(check) == (0, "")


@pytest.mark.mpi_skip
@pytest.mark.parametrize(
    "arguments, variables, message",
    [
        (("mpi",), NO_LIBRARY, "backend 'mpi' was asked for, but no MPI library can be loaded"),
        ((), {**NO_LIBRARY, "PMI_SIZE": "2"}, "the launcher started 2 ranks, but no MPI library can be loaded"),
    ],
)
def test_no_mpi_library(arguments: tuple[str, ...], variables: dict[str, str], message: str) -> None:
    status, text = python(SAY_WORLD, *arguments, **variables)
    assert status == 1 and f"RuntimeError: {message}" in text and "pip install 'mpigrad[mpich]'" in text


@pytest.mark.mpi_skip
def test_the_launcher_is_of_another_mpi() -> None:
    """Each rank would train alone, all of them writing the same files."""
    loadable, version = python("from mpi4py import MPI; print(MPI.Get_library_version())")
    if loadable != 0 or "MPICH" not in version:
        pytest.skip("needs an environment whose MPI is MPICH")
    status, text = python(SAY_WORLD, OMPI_COMM_WORLD_SIZE="2", PYTHONWARNINGS="ignore")
    assert status == 1
    assert "the launcher started 2 ranks, but the MPI library that was loaded (MPICH" in text
    assert "finds 1: they are not of the same MPI. Start with `mpigrad run -n 2`, or set MPI4PY_LIBMPI" in text


# --- one rank fails ---------------------------------------------------------------------------------------------------

MPIEXEC = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
FAILING = """
import os, sys, time
import numpy as np
import mpigrad.distributed as dist
from mpi4py import MPI
folder, kind = sys.argv[1:]
rank = MPI.COMM_WORLD.rank
open(f"{folder}/pid{rank}", "w").write(str(os.getpid()))
open(f"{folder}/maps{rank}", "w").write(open("/proc/self/maps").read())
if kind == "absent" and rank == 1:
    open(f"{folder}/failed", "w").write(str(time.time()))
    time.sleep(60)
dist.init_process_group(timeout=1 if kind in ("missing", "absent") else 60)
dist.barrier()
if dist.get_rank() == 1:
    open(f"{folder}/failed", "w").write(str(time.time()))
    if kind == "missing":
        time.sleep(60)
    if kind == "raising":
        raise ValueError("the data of rank 1 are damaged")
if kind == "differing":
    dist.agree(seed=dist.get_rank() % 2)
dist.world().all_reduce(np.ones(1000), name="sum of losses")
"""


def runs(process: str) -> bool:
    try:
        return "State:\tZ" not in (Path("/proc") / process / "status").read_text()  # a zombie has ended
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.mpi_skip
@pytest.mark.skipif(MPIEXEC is None, reason="needs mpiexec beside Python or on PATH")
@pytest.mark.parametrize(
    "kind, message",
    [
        ("raising", "rank 1 of 3 failed and ends the job: ValueError: the data of rank 1 are damaged"),
        ("missing", "s for sum of losses (number"),
        ("absent", "s for all ranks to join the world: expected init_process_group on every rank"),
        ("differing", "\n  seed   ranks 0, 2: 0 / rank 1: 1\n"),
    ],
)
def test_the_failure_of_one_rank_ends_the_job(tmp_path: Path, kind: str, message: str) -> None:
    """Within 5 seconds, with an exit status, without orphans or shared memory left over; under plain mpiexec."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(MPI_VARIABLES)}
    env |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "MPIR_CVAR_ENABLE_HEAVY_YIELD": "1"}
    env |= {"PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe", "OMP_NUM_THREADS": "1"}
    command = [str(MPIEXEC), "-n", "3", sys.executable, "-c", FAILING, str(tmp_path), kind]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as job:
        try:
            text, _ = job.communicate(timeout=60)
        finally:
            job.kill()
    assert job.returncode != 0 and message in text, text
    assert kind != "differing" or text.count("RanksDiffer:") == 1, text  # one rank speaks for all
    deadline = float((tmp_path / "failed").read_text()) + 5
    assert time.time() < deadline
    for rank in range(3):
        while runs((tmp_path / f"pid{rank}").read_text()):
            assert time.time() < deadline, f"rank {rank} outlives the job"
            time.sleep(0.01)
        mapped = (tmp_path / f"maps{rank}").read_text().split()
        assert not [path for path in mapped if path.startswith("/dev/shm/") and Path(path).exists()]
