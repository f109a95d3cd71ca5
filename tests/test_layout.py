"""The rules of the house: who may import whom, and what an import loads."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BELOW = {"core": set(), "ddp": {"core"}, "launch": {"core", "ddp"}}  # folder: the folders that it may import
ENVIRONMENT = ("environ", "getenv")
SOURCES = [path for folder in BELOW for path in sorted((ROOT / folder).rglob("*.py"))]


def imported(path: Path) -> list[str]:
    """The modules that a file imports, as paths from the top of the package: `core.tensor`, or their own names."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).parent.parts[: len(path.relative_to(ROOT).parts) - node.level]
            base = [*package, node.module] if node.level else [node.module]
            found += [".".join(filter(None, [*base, alias.name])) for alias in node.names]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_down(path: Path) -> None:
    here = path.relative_to(ROOT).parts[0]
    for name in imported(path):
        top = name.split(".")[0]
        assert top != "mpigrad", f"inside the folders imports are relative, found {name}"
        assert top not in BELOW or top == here or top in BELOW[here], f"{here} must not import {name}"
        assert top != "cupy" or path.name == "backend.py"
        assert top != "mpi4py" or here == "launch" or path.parent.name == "comm"
        assert top != "torch"


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if p.parts[-2] != "launch"], ids=lambda p: str(p.relative_to(ROOT))
)
def test_only_launch_reads_the_environment(path: Path) -> None:
    uses = [
        n
        for n in ast.walk(ast.parse(path.read_text()))
        if isinstance(n, ast.Attribute) and n.attr in ("environ", "getenv")
    ]
    if path.relative_to(ROOT) == Path("ddp/process_group.py"):  # the launcher's promise of how many ranks there are
        assert len(uses) <= 2
    else:
        assert not uses


@pytest.mark.parametrize("name", BELOW)
def test_bare_names_are_refused(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert f"this folder is the package mpigrad.{name}: import mpigrad" in done.stderr


def test_import_loads_no_mpi_no_gpu_no_oracle() -> None:
    code = (
        "import sys, mpigrad; print([m for m in ('mpi4py', 'cupy', 'torch', 'tyro', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_pytorchs_module_names() -> None:
    import mpigrad.distributed as dist
    import mpigrad.distributed.comm.simulated
    import mpigrad.distributed.testing as testing
    import mpigrad.nn.functional as F

    import mpigrad

    assert F is mpigrad.core.nn.functional
    assert dist.DistributedDataParallel is mpigrad.ddp.DistributedDataParallel
    assert testing is mpigrad.ddp.testing  # modules below them are not loaded twice
    assert mpigrad.distributed.comm.simulated is testing.simulated
