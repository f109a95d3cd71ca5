import os
import subprocess
import sys

import pytest

from mpigrad.launch.cores import share, usable_cores

FOUR = [(0, 4), (1, 5), (2, 6), (3, 7)]


def test_usable_cores_cover_what_the_scheduler_grants() -> None:
    cores = usable_cores()
    assert sorted(cpu for core in cores for cpu in core) == sorted(os.sched_getaffinity(0))
    assert len(set(cores)) == len(cores)


def test_only_granted_cpus_are_usable() -> None:
    one = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, [{one}])\nfrom mpigrad.launch.cores import *; print(usable_cores())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == f"[({one},)]"


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_shares_are_disjoint_and_complete(ranks: int) -> None:
    shares = [share(FOUR, rank, ranks) for rank in range(ranks)]
    assert set().union(*shares) == set(range(8))
    assert sum(map(len, shares)) == 8
    assert max(map(len, shares)) - min(map(len, shares)) <= 2  # one core of two threads


def test_a_rank_gets_whole_neighbouring_cores() -> None:
    assert share(FOUR, 1, 2) == {2, 6, 3, 7}


def test_nobody_is_bound_where_ranks_share_cores() -> None:
    assert all(share(FOUR, rank, 5) == set(range(8)) for rank in range(5))
