"""What runs in every rank: `python -m mpigrad.launch.rank script.py args...` (or `-m module args...`).

Runs the script as plain `python script.py` would, and sees to it that a rank that fails says why and takes the
others with it, instead of leaving them in a collective that can never complete.
"""

import contextlib
import faulthandler
import io
import os
import re
import runpy
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..ddp.comm.segments import segments
from .cores import bind, share, usable_cores
from .report import Report, bring_down
from .supervise import die_with_parent

if TYPE_CHECKING:
    from mpi4py import MPI

WORLD_SIZE = "MPIGRAD_WORLD_SIZE"
"""How many ranks the launcher was asked for."""
REPORT_DIR = "MPIGRAD_REPORT_DIR"
"""Where the ranks leave word for the process that supervises them."""

AS_TORCH = "--as-torch"

_RANK = ("OMPI_COMM_WORLD_RANK", "PMI_RANK")
_SIZE = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
_LOCAL = (("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"), ("MPI_LOCALRANKID", "MPI_LOCALNRANKS"))
HIDDEN = {__file__, runpy.__file__, "<frozen runpy>"}
"""The files whose frames lie between the interpreter and the script."""


def main(argv: Sequence[str]) -> None:
    """Run the script that `argv` names, and end the job if it fails."""
    process = os.getpid()
    rank, size = launched_rank(os.environ), int(os.environ.get(WORLD_SIZE, "0"))
    folder = Path(os.environ[REPORT_DIR]) if REPORT_DIR in os.environ else None
    abort: Callable[[int], object] = sys.exit
    if size:
        die_with_parent(signal.SIGKILL)
        _bind(os.environ)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # whole lines, also with PYTHONUNBUFFERED: those of all ranks mingle
            stream.reconfigure(line_buffering=True, write_through=False)
    try:
        if world := _world(size):
            rank, size = world.Get_rank(), world.Get_size()
            if size > 1:
                abort = world.Abort
        with _registered(folder, rank):
            _run(_in_torchs_place(argv))
    except BaseException as error:
        ended_well = isinstance(error, SystemExit) and not error.code
        if ended_well or os.getpid() != process:  # a forked child's failure is for its parent to judge
            raise
        bring_down(Report.of(error, rank, size or 1, hide=HIDDEN), folder, abort)


def _in_torchs_place(argv: Sequence[str]) -> Sequence[str]:
    """Obey `--as-torch DEVICE` at the front (DEVICE "own" maps none), and return what is left: the script."""
    if argv[0] != AS_TORCH:
        return argv
    from . import as_torch  # only who asks for it waits for it

    as_torch.install(None if argv[1] == "own" else argv[1])
    as_torch.export_ranks()
    return argv[2:]


def _run(argv: Sequence[str]) -> None:
    if argv[0] == "-m":
        sys.argv, sys.path[0] = list(argv[1:]), os.getcwd()
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = list(argv), os.path.dirname(os.path.realpath(argv[0]))
        runpy.run_path(os.path.abspath(argv[0]), run_name="__main__")


def _world(promised: int) -> "MPI.Intracomm | None":
    """COMM_WORLD, if it has the size that the launcher promised; None where there is no MPI and no need of one."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        if promised <= 1:
            return None
        raise SystemExit(
            f"expected {promised} ranks, found no MPI library that mpi4py can load ({str(error).splitlines()[-1]}); "
            "name an MPI that has one with --mpi"
        ) from None
    found = MPI.COMM_WORLD.Get_size()
    if promised and found != promised:
        from ..ddp.comm.mpi import library_version  # only where an MPI library is loaded

        raise SystemExit(
            f"expected {promised} ranks, found {found}: this process has loaded {library_version()}{_library_path()}, "
            "which is not the MPI of the launcher that started it; set --mpi to this one, or MPI4PY_LIBMPI to that"
        )
    return MPI.COMM_WORLD


def _library_path() -> str:
    found = re.search(r"\S*/libmpi(ch)?\.so\S*", Path("/proc/self/maps").read_text())
    return f" ({found[0]})" if found else ""


@contextlib.contextmanager
def _registered(folder: Path | None, rank: int) -> Iterator[None]:
    """Leave a file in `folder` for as long as the script runs; a crash of the interpreter writes its stack into it.

    A second file names the shared memory that MPI has opened: whoever is left has to remove it if the rank cannot.
    """
    if folder is None or not folder.is_dir():
        yield
        return
    process = os.getpid()
    path = folder / f"{rank}-{process}.running"
    path.with_suffix(".segments").write_text("\n".join(segments()))
    faulthandler.enable(os.open(path, os.O_CREAT | os.O_WRONLY))  # stays open: a crash may come after the script's end
    try:
        yield
    finally:
        if os.getpid() == process:
            path.unlink(missing_ok=True)


def _bind(env: Mapping[str, str]) -> None:
    """Bind this rank to its share of the cores of its node, where the launcher says how many share them."""
    place, count = local_place(env)
    if count > 1:
        bind(share(usable_cores(), place, count))


def local_place(env: Mapping[str, str]) -> tuple[int, int]:
    """This rank's number among those of its machine, and how many they are, by the launcher's word."""
    for rank, ranks in _LOCAL:
        if rank in env and ranks in env:
            return int(env[rank]), int(env[ranks])
    return 0, 1


def launched_rank(env: Mapping[str, str]) -> int:
    """The rank by the launcher's word: there is one also where MPI has not started, or is the wrong one."""
    return next((int(env[name]) for name in _RANK if name in env), 0)


def launched_size(env: Mapping[str, str]) -> int:
    """How many ranks there are by the launcher's word."""
    return next((int(env[name]) for name in (WORLD_SIZE, *_SIZE) if name in env), 1)


if __name__ == "__main__":
    main(sys.argv[1:])
