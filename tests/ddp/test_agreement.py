"""Ranks that differ in what must be equal are told so, all of them, in one text; equal ranks go on."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpigrad.data import TensorDataset

import mpigrad
from mpigrad import ddp, nn, optim
from mpigrad.ddp.agreement import by_rank, compare

OTHERS = {2: "rank 0", 3: "ranks 0, 2", 4: "ranks 0, 2, 3"}


@dataclasses.dataclass
class Config:
    lr: float = 0.1
    name: str = "run"
    folder: Path = Path("out")


def model(width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width), nn.Linear(width, 1))


def data(length: int = 20, last: float = 0.0) -> TensorDataset:
    values = np.zeros((length, 2), np.float32)
    values[-1, -1] = last
    return TensorDataset(mpigrad.from_numpy(values))


def sampler(**options: Any) -> ddp.ShardedSampler:
    return ddp.ShardedSampler(range(20), **{"global_batch": 8, "shards": 4, **options})


# by name: what is the same everywhere, what rank 1 has instead, and what is told of both
CASES: dict[str, tuple[Callable[[], Any], Callable[[], Any], str]] = {
    "number": (lambda: 0.1, lambda: 0.2, "it   {others}: 0.1 / rank 1: 0.2"),
    "number of another type": (lambda: 1, lambda: 1.0, "it   {others}: 1 / rank 1: 1.0"),
    "nested": (
        lambda: {"a": [1, "x"], "b": None},
        lambda: {"a": [1, "y"], "b": None},
        "it.a[1]   {others}: 'x' / rank 1: 'y'",
    ),
    "longer": (lambda: (1, 2), lambda: (1, 2, 3), "it   {others}: 2 items / rank 1: 3 items"),
    "config": (Config, lambda: Config(lr=0.2), "it.lr   {others}: 0.1 / rank 1: 0.2"),
    "shape": (
        model,
        lambda: model(4),
        "it.1.running_mean   {others}: buffer float32 [3] / rank 1: buffer float32 [4]",
    ),
    "kind of module": (lambda: nn.ReLU(), lambda: nn.GELU(), "it   {others}: ReLU / rank 1: GELU"),
    "lr": (
        lambda: optim.SGD(model().parameters(), lr=0.1),
        lambda: optim.SGD(model().parameters(), lr=0.2),
        "it.param_groups[0].lr   {others}: 0.1 / rank 1: 0.2",
    ),
    "optimizer": (
        lambda: optim.SGD(model().parameters(), lr=0.1),
        lambda: optim.Adam(model().parameters(), lr=0.1),
        "it   {others}: SGD / rank 1: Adam",
    ),
    "parameter groups": (
        lambda: optim.SGD([{"params": [p]} for p in model().parameters()], lr=0.1),
        lambda: optim.SGD(model().parameters(), lr=0.1),
        "it.param_groups[1].lr   {others}: 0.1 / rank 1: nothing",
    ),
    "length": (data, lambda: data(19), "it.length   {others}: 20 / rank 1: 19"),
    "one number of a sample": (data, lambda: data(last=1.0), "it.fingerprint   {others}: "),
    "global batch": (sampler, lambda: sampler(global_batch=9), "it.global_batch   {others}: 8 / rank 1: 9"),
    "shards": (sampler, lambda: sampler(shards=5), "it.cut.shards   {others}: 4 / rank 1: 5"),
    "seed": (sampler, lambda: sampler(seed=3), "it.seed   {others}: 0 / rank 1: 3"),
    "one bit of an array": (lambda: np.zeros(9), lambda: np.zeros(9) * -1, "it   {others}: float64 [9] "),
    "a long text": (lambda: "x" * 999 + "a", lambda: "x" * 999 + "b", "... (1002 characters, digest"),
    "order": (lambda: {"a": 1, "b": 1}, lambda: {"b": 1, "a": 1}, "in order   {others}: it.a / rank 1: it.b"),
}


@pytest.mark.parametrize("name", CASES)
def test_differences(world: Any, name: str) -> None:
    usual, other, line = CASES[name]

    def main() -> str:
        ddp.agree(it=usual())
        if ddp.get_world_size() == 1:
            return ""
        with pytest.raises(ddp.RanksDiffer) as caught:
            ddp.agree(same=1, it=other() if ddp.get_rank() == 1 else usual())
        return str(caught.value)

    texts = world(main)
    assert len(set(texts)) == 1
    if world.size > 1:
        first, *found, last = texts[0].splitlines()
        assert first == "expected the same on every rank, found differences:"
        assert any(line.format(others=OTHERS[world.size]) in each for each in found), texts[0]
        assert not any("same" in each for each in found)
        assert last == "start every rank from the same files and arguments"


def test_each_rank_of_its_own_and_too_many_to_tell(world: Any) -> None:
    def main() -> str:
        rank = ddp.get_rank()
        with pytest.raises(ddp.RanksDiffer) as caught:
            ddp.agree(it=[rank * number for number in range(31)])
        return str(caught.value)

    if world.size == 1:
        pytest.skip("one rank differs from nobody")
    lines = world(main)[0].splitlines()
    assert lines[1] == "  it[1]   " + " / ".join(f"rank {rank}: {rank}" for rank in range(world.size))
    assert lines[-2] == "  and 10 more"
    assert len(lines) == 23


def test_a_rank_may_differ_where_it_has_to(world: Any) -> None:
    """Its number, its place in the sampler, its random numbers."""

    def main() -> None:
        drawn = mpigrad.Generator().manual_seed(ddp.get_rank()).randint(0, 9, (2,))
        assert drawn.shape == (2,)
        ddp.agree(sampler=sampler(), other=ddp.DistributedSampler(range(9)), stream=mpigrad.Generator())

    world(main)


def test_what_the_library_knows_by_itself(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions and texts count without being named. (The ranks of a simulated world share theirs.)"""
    from mpigrad.ddp import agreement

    real = agreement.surroundings()
    assert {"python", "numpy", "mpi4py", "mpigrad", "script"} <= real.keys()
    monkeypatch.setattr(agreement, "surroundings", lambda: real | ({"numpy": "1.0"} if ddp.get_rank() == 1 else {}))

    def main() -> None:
        with pytest.raises(ddp.RanksDiffer, match=rf"\n  numpy   rank.*: {real['numpy']} / rank 1: 1\.0\n"):
            ddp.agree()

    if world.size > 1:
        world(main)


def test_only_a_digest_travels_where_ranks_agree(world: Any) -> None:
    def main() -> tuple[list[str], list[str]]:
        comm = ddp.world().duplicate("test")
        started: list[str] = []
        start = comm.start
        comm.start = lambda task, name: (started.append(name), start(task, name))[1]  # type: ignore[method-assign]
        compare(comm, {"a": "1"}, "", "")
        equal = list(started)
        if comm.size > 1:
            with pytest.raises(ddp.RanksDiffer):
                compare(comm, {"a": str(comm.rank == 1)}, "", "")
        return equal, started[1:]

    for equal, different in world(main):
        assert equal == ["agreement of the ranks"]
        assert different in ([], ["agreement of the ranks", "differing facts"])


def test_by_rank() -> None:
    assert by_rank(["a"]) == "rank 0: a"
    assert by_rank(list("aabbbcab")) == "ranks 0, 1, 6: a / ranks 2-4, 7: b / rank 5: c"
