"""Two nodes for real: namespaces of this machine with an address, a host name and a /dev/shm each, and a slow link."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mpigrad.launch.mpirun import Installation

pytestmark = pytest.mark.mpi_skip
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("ranks", [1, 2])
def test_training_across_a_slow_link(ranks: int, mpi: Installation, jobs: Any) -> None:
    """Every rank of both nodes ends with the same parameters, whether reductions overlap backward or follow it."""
    sizes = {"--ranks": ranks, "--rounds": 2, "--width": 96, "--batch": 16, "--rate": "100mbit", "--mpi": mpi.mpirun}
    options = [str(word) for pair in sizes.items() for word in pair]
    command = [sys.executable, str(ROOT / "scripts" / "bench" / "two_nodes.py"), "--json", *options]
    done = subprocess.run(command, env=jobs.env, capture_output=True, text=True, timeout=120)
    if "not possible here" in done.stderr:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["transport"] == ("HierarchicalCommunicator" if ranks == 2 else "MPICommunicator")
    assert len(found["digests"]["during"]) == 2 * ranks
    assert len({*found["digests"]["during"], *found["digests"]["after"]}) == 1
    assert len(set(found["digests"]["without"])) == 2 * ranks  # without reductions the ranks go apart
