"""Find an MPI installation and build the command that starts the ranks."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from .rank import WORLD_SIZE

Kind = Literal["openmpi", "impi", "mpich", "unknown"]

_KINDS: tuple[tuple[Kind, str], ...] = (
    ("openmpi", r"Open MPI|OpenRTE|PRTE"),
    ("impi", r"Intel\(R\) MPI"),
    ("mpich", r"HYDRA|MPICH|MVAPICH"),
)
_LAUNCHERS = ("mpirun", "mpiexec", "mpiexec.hydra")  # the last one: Intel's mpirun is a script that wants its PATH
_LIBRARIES: dict[Kind, tuple[str, ...]] = {
    "openmpi": ("libmpi.so.40", "libmpi.so"),
    "impi": ("libmpi.so.12", "libmpi.so"),
    "mpich": ("libmpi.so.12", "libmpich.so.12", "libmpi.so"),
    "unknown": ("libmpi.so",),
}


class MPINotFound(LookupError):
    """No usable MPI: the message says where it was looked for and what to do."""


@dataclass(frozen=True)
class Installation:
    """One MPI: its launcher and the library that belongs to it."""

    kind: Kind
    mpirun: Path
    """The launcher that starts the ranks."""
    libmpi: Path | None
    """The library that the ranks must load; None where it was not found and is left to mpi4py."""


def find_mpi(prefix: str | None = None) -> Installation:
    """The MPI to use: the one at `prefix`, else that of this Python environment, else the first on PATH.

    `prefix` is a directory with bin/mpirun in it, or the path of a launcher. Raises MPINotFound.
    """
    if prefix is not None:
        found = _at(Path(prefix).expanduser())
        if found is None:
            raise MPINotFound(
                f"no MPI at {prefix}: expected a directory with bin/mpirun, or the path of a working mpirun"
            )
        return found
    on_path = (Path(path) for name in _LAUNCHERS if (path := shutil.which(name)))
    for place in (Path(sys.prefix), *on_path):
        if found := _at(place):
            return found
    raise MPINotFound(
        f"no MPI found: looked for {' and '.join(_LAUNCHERS[:2])} in {sys.prefix}/bin and on PATH; "
        'install one with `pip install "mpigrad[mpich]"`, load the MPI module of your cluster, or name one with --mpi'
    )


def build_command(
    installation: Installation | None,
    ranks: int,
    script: Sequence[str],
    *,
    python: str,
    env: Mapping[str, str],
    cores: int,
    is_root: bool,
    label: bool = False,
) -> tuple[list[str], dict[str, str]]:
    """The command that starts `script` on so many ranks, and what it adds to the environment `env`.

    A pure function. `script` is a path or `-m` and a module, then arguments. Without an installation the command is
    one plain process. `cores` counts the physical cores to use. What the user has set in `env` stays, except for the
    variables that tie the ranks to their launcher.
    """
    # Ranks bind themselves to their share of the cores (see cores.py): the launchers' own options put all
    # threads of a rank on one core, or refuse shares that do not fit into a package.
    ties = {WORLD_SIZE: str(ranks)}
    settings = {"OMP_NUM_THREADS": str(max(1, cores // ranks))}
    command = [python, "-m", "mpigrad.launch.rank", *script]
    if installation is None:
        assert ranks == 1, "several ranks need a launcher"
        return command, _unset(settings, env) | ties

    options: list[str] = []
    if installation.kind == "openmpi":
        options += ["--oversubscribe", "--bind-to", "none"] + ["--tag-output"] * label
        settings |= {
            "OMPI_MCA_btl": "^ofi",  # one-sided messages over a fabric: looking for one takes a second of every start
            "OMPI_MCA_osc": "^ucx",  # prints errors when a shared-memory window is created
            "OMPI_MCA_btl_base_warn_component_unused": "0",
            "OMPI_MCA_opal_signal": "",  # no C stack on a crash: the rank writes the Python one
        }
        if is_root:
            settings |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    elif installation.kind in ("mpich", "impi"):
        options += ["-prepend-rank"] * label
        if installation.kind == "impi":
            settings["I_MPI_PIN"] = "off"
        elif ranks > cores:
            settings["MPIR_CVAR_ENABLE_HEAVY_YIELD"] = "1"  # waiting ranks would spin on the cores that the others need
    if installation.libmpi is not None:
        ties["MPI4PY_LIBMPI"] = str(installation.libmpi)
    return [str(installation.mpirun), "-n", str(ranks), *options, *command], _unset(settings, env) | ties


def _unset(settings: Mapping[str, str], env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in settings.items() if name not in env}


def _at(place: Path) -> Installation | None:
    """The installation at a prefix or a launcher's path; None if there is none that runs."""
    launchers = [place] if place.is_file() else [place / "bin" / name for name in _LAUNCHERS]
    for launcher in launchers:
        if os.access(launcher, os.X_OK) and launcher.is_file() and (kind := _kind(launcher)):
            library = _library(launcher.absolute(), kind)
            # MPICH's launcher looks for its helpers beside the path it was called by, and hangs if that is a link.
            return Installation(kind, launcher.resolve() if kind == "mpich" else launcher.absolute(), library)
    return None


@cache
def _kind(launcher: Path) -> Kind | None:
    """Which MPI a launcher belongs to, by its own word; None if it does not run."""
    try:
        answer = subprocess.run(
            [launcher, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if answer.returncode != 0:
        return None
    return next((kind for kind, pattern in _KINDS if re.search(pattern, answer.stdout + answer.stderr)), "unknown")


def _library(launcher: Path, kind: Kind) -> Path | None:
    """The MPI library beside a launcher."""
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    for prefix in dict.fromkeys([launcher.parent.parent, launcher.resolve().parent.parent]):
        for folder in ("lib", "lib64", "lib/release", f"lib/{multiarch}"):
            for name in _LIBRARIES[kind]:
                if (library := prefix / folder / name).is_file():
                    return library
    return None
