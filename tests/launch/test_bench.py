"""`mpigrad bench allreduce` as a user meets it, on sizes that take no time."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from mpigrad.launch import bench
from mpigrad.launch.mpirun import Installation

if TYPE_CHECKING:
    from conftest import Jobs


def test_every_contestant_at_every_size(mpi: Installation, jobs: Jobs) -> None:
    pytest.importorskip("matplotlib")
    small = ["--max-mb", 0.005, "--rounds", 2]
    done = jobs.run("bench", "allreduce", *small, "--plot", "a.png", "--json", "a.json", "--mpi", mpi.mpirun)
    assert done.code == 0, done.err
    measured = json.loads((jobs.folder / "a.json").read_text())
    assert measured["ranks"] == 2
    assert list(measured["seconds"]) == ["1024", "4096"]
    for seconds in measured["seconds"].values():
        *ours, theirs, copy = seconds
        assert ours == ["shm", "mpi", "hierarchical"]
        assert theirs.endswith("Allreduce")
        assert copy == "copy"
        assert all(len(rounds) == 2 and min(rounds) > 0 for rounds in seconds.values())
    assert (jobs.folder / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "4 KiB" in done.out
    assert "drawn: a.png" in done.out


def test_the_table_tells_bandwidth_and_how_it_compares() -> None:
    gigabyte = 10**9
    curve = {gigabyte: {"shm": [0.1, 0.2, 0.25], "X Allreduce": [0.5] * 3, "copy": [0.1] * 3}}
    *_, line, machine = bench.table(curve, "copy").splitlines()
    assert " ".join(line.split()) == "953 MiB 5 (4 to 10) 2 (2 to 2) 10 (10 to 10) 2.50 0.50"
    assert machine.endswith("10.00 GB/s")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-n", "1"], "mpigrad bench: -n is the number of ranks that reduce together, at least 2, not 1"),
        (["--rounds", "0"], "mpigrad bench: expected at least one round"),
        (["--plot", "nowhere/a.png"], "mpigrad bench: --plot nowhere/a.png: there is no folder"),
        (["--mpi", "/nowhere"], "mpigrad run: no MPI at /nowhere"),
    ],
)
def test_mistakes_are_told_before_anything_is_measured(jobs: Jobs, arguments: list[str], sentence: str) -> None:
    done = jobs.run("bench", "allreduce", *arguments)
    assert done.code == 2
    assert done.err.startswith(sentence)
    assert not done.out
