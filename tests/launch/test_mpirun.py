import os
from pathlib import Path

import pytest

from mpigrad.launch import mpirun
from mpigrad.launch.mpirun import Installation, MPINotFound, build_command, find_mpi

MPICH = Installation("mpich", Path("/m/bin/mpirun"), Path("/m/lib/libmpi.so.12"))
OPENMPI = Installation("openmpi", Path("/o/bin/mpirun"), Path("/o/lib/libmpi.so.40"))
INTEL = Installation("impi", Path("/i/bin/mpiexec"), None)
RANK = ["/py", "-m", "mpigrad.launch.rank"]


def build(
    installation: Installation | None,
    ranks: int,
    *,
    env: dict[str, str] | None = None,
    cores: int = 8,
    is_root: bool = False,
    label: bool = False,
) -> tuple[list[str], dict[str, str]]:
    return build_command(
        installation,
        ranks,
        ["train.py", "--lr", "0.1"],
        python="/py",
        env=env or {},
        cores=cores,
        is_root=is_root,
        label=label,
    )


def test_mpich() -> None:
    command, additions = build(MPICH, 4)
    assert command == ["/m/bin/mpirun", "-n", "4", *RANK, "train.py", "--lr", "0.1"]
    assert additions == {
        "OMP_NUM_THREADS": "2",
        "MPIGRAD_WORLD_SIZE": "4",
        "MPI4PY_LIBMPI": "/m/lib/libmpi.so.12",
    }


def test_openmpi() -> None:
    command, additions = build(OPENMPI, 4, label=True, is_root=True)
    assert command == [
        *("/o/bin/mpirun", "-n", "4", "--oversubscribe", "--bind-to", "none", "--tag-output"),
        *(*RANK, "train.py", "--lr", "0.1"),
    ]
    assert additions == {
        "OMP_NUM_THREADS": "2",
        "OMPI_MCA_btl": "^ofi",
        "OMPI_MCA_osc": "^ucx",
        "OMPI_MCA_btl_base_warn_component_unused": "0",
        "OMPI_MCA_opal_signal": "",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "MPIGRAD_WORLD_SIZE": "4",
        "MPI4PY_LIBMPI": "/o/lib/libmpi.so.40",
    }
    assert "OMPI_ALLOW_RUN_AS_ROOT" not in build(OPENMPI, 4)[1]


def test_intel_mpi_and_a_library_left_to_mpi4py() -> None:
    command, additions = build(INTEL, 16, label=True)
    assert command == ["/i/bin/mpiexec", "-n", "16", "-prepend-rank", *RANK, "train.py", "--lr", "0.1"]
    assert additions == {"OMP_NUM_THREADS": "1", "I_MPI_PIN": "off", "MPIGRAD_WORLD_SIZE": "16"}


def test_one_process_without_mpi() -> None:
    command, additions = build(None, 1)
    assert command == [*RANK, "train.py", "--lr", "0.1"]
    assert additions == {"OMP_NUM_THREADS": "8", "MPIGRAD_WORLD_SIZE": "1"}


def test_more_ranks_than_cores() -> None:
    assert "MPIR_CVAR_ENABLE_HEAVY_YIELD" not in build(MPICH, 8)[1]
    additions = build(MPICH, 9)[1]
    assert additions["MPIR_CVAR_ENABLE_HEAVY_YIELD"] == "1"
    assert additions["OMP_NUM_THREADS"] == "1"


def test_the_user_has_the_last_word_except_on_the_tie_to_the_launcher() -> None:
    mine = {
        "OMP_NUM_THREADS": "3",
        "OMPI_MCA_btl": "self,sm",
        "MPI4PY_LIBMPI": "/elsewhere/libmpi.so",
    }
    additions = build(OPENMPI, 2, env=mine)[1]
    assert mine.keys() & additions.keys() == {"MPI4PY_LIBMPI"}
    assert additions["MPI4PY_LIBMPI"] == "/o/lib/libmpi.so.40"


def launcher(path: Path, version: str, status: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{version}'\nexit {status}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("version", "kind", "library"),
    [
        ("mpirun (Open MPI) 5.0.11", "openmpi", "lib/libmpi.so.40"),
        ("mpirun.openmpi (OpenRTE) 4.1.4", "openmpi", "lib64/libmpi.so.40"),
        ("HYDRA build details:", "mpich", "lib/libmpich.so.12"),
        ("Intel(R) MPI Library for Linux* OS, Version 2021.19.0", "impi", "lib/release/libmpi.so.12"),
        ("a launcher of its own", "unknown", "lib/libmpi.so"),
    ],
)
def test_kinds_and_libraries(tmp_path: Path, version: str, kind: str, library: str) -> None:
    mpirun = launcher(tmp_path / "bin" / "mpirun", version)
    (tmp_path / library).parent.mkdir(parents=True)
    (tmp_path / library).touch()
    (tmp_path / "lib" / "libmpi.so.99").parent.mkdir(exist_ok=True)
    (tmp_path / "lib" / "libmpi.so.99").touch()
    for prefix in (tmp_path, mpirun):
        found = find_mpi(str(prefix))
        assert (found.kind, found.mpirun, found.libmpi) == (kind, mpirun, tmp_path / library)


def test_a_link_to_mpich_is_followed(tmp_path: Path) -> None:
    mpirun = launcher(tmp_path / "real" / "bin" / "mpiexec.hydra", "HYDRA build details:")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "mpiexec").symlink_to(mpirun)
    assert find_mpi(str(tmp_path)).mpirun == mpirun


def test_a_launcher_that_does_not_run_is_passed_over(tmp_path: Path) -> None:
    launcher(tmp_path / "bin" / "mpirun", "mpiexec.hydra: not found", status=127)
    mpiexec = launcher(tmp_path / "bin" / "mpiexec", "Intel(R) MPI Library")
    assert find_mpi(str(tmp_path)).mpirun == mpiexec


def test_the_environment_comes_before_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = launcher(tmp_path / "env" / "bin" / "mpirun", "HYDRA mine")
    other = launcher(tmp_path / "other" / "bin" / "mpirun", "mpirun (Open MPI) 5.0")
    monkeypatch.setattr(mpirun.sys, "prefix", str(tmp_path / "env"))
    monkeypatch.setenv("PATH", f"{other.parent}{os.pathsep}{os.environ['PATH']}")
    assert find_mpi().mpirun == mine
    mine.unlink()
    assert find_mpi().mpirun == other
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MPINotFound, match=r'env/bin and on PATH; install one with `pip install "mpigrad\[mpich\]"`'):
        find_mpi()


@pytest.mark.parametrize("prefix", [".", "nowhere", "file"])
def test_a_prefix_without_mpi(tmp_path: Path, prefix: str) -> None:
    (tmp_path / "file").write_text("not a program")
    with pytest.raises(MPINotFound, match="expected a directory with bin/mpirun, or the path of a working mpirun"):
        find_mpi(str(tmp_path / prefix))
