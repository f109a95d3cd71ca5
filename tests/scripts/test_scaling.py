"""The prediction of scaling as a user runs it, in its quickest setting."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = str(Path(__file__).parents[2] / "scripts" / "bench" / "scaling.py")
LAUNCHER_VARIABLES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")

pytestmark = pytest.mark.skipif(
    any(name in os.environ for name in LAUNCHER_VARIABLES), reason="starts MPI jobs of its own: run it in one process"
)


def scaling(*options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *map(str, options)], capture_output=True, text=True, timeout=100)


def test_measures_predicts_and_compares(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    saved, picture = tmp_path / "measured.json", tmp_path / "scaling.png"
    quick = ["--ranks", 2, "--steps", 1, "--max-mb", 0.07, "--model", "mlp 784-512-256-10", "--per-node", 8]
    done = scaling(*quick, "--save", saved, "--plot", picture)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for transport in ("shm", "mpi", "hierarchical"):
        (compared,) = (line for line in lines if line.startswith(f"all-reduce, {transport}, 64 KiB"))
        ranks, predicted, fastest, median, error = compared.split()[-5:]
        assert ranks == "2" and float(predicted) > 0 and 0 < float(fastest) <= float(median)
        assert abs(float(predicted) / float(fastest) - 1 - float(error.rstrip("%")) / 100) < 0.1
        assert sum(line.startswith(f"mlp 784-512-256-10, {transport} ") for line in lines) == 2  # bucket sizes
        tables = [line.split() for line in lines if line.startswith(f"{transport}  ")]
        assert len(tables) == 3 and all(len(cells) == 2 + 8 for cells in tables)  # 8 to 1,024 ranks
        for cells in tables:
            assert cells[3:] == ["-"] * 7 if transport == "shm" else "-" not in cells
            assert all(0 < float(value) <= 1 for cell in cells[2:] if cell != "-" for value in cell.split("-"))
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert json.loads(saved.read_text())["ranks"].keys() == {"2"}
    again = scaling("--use", saved, "--per-node", 8)
    assert again.stdout.splitlines() == lines[:-2]  # but for the picture


def test_two_ranks_have_to_be_among_them() -> None:
    done = scaling("--ranks", 4)
    assert done.returncode == 2
    assert "expected 2 among them" in done.stderr
