"""The model of what a step costs on many ranks: its limits, a step by hand, its formulas against simulated traffic."""

import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpigrad import nn
from mpigrad.ddp.bucket import make_buckets

sys.path.append(str(Path(__file__).parents[2] / "scripts" / "bench"))
import cost

TRANSPORTS = ["shm", "mpi", "hierarchical"]
spoken = "over {}".format  # an id "mpi" would be taken for the mark
CLUSTER = cost.Cluster(
    cores=16,
    copy=cost.Line(1e-6, 8e9),
    memory=60e9,
    message=cost.Line(2e-6, 5e9),
    wire=cost.Line(3e-6, 20e9),
    overhead=dict.fromkeys(TRANSPORTS, 2e-5),
    peer=2e-6,
    hidden={"shm": 0.0, "mpi": 0.3, "hierarchical": 0.1},
    nap=1e-5,
)
FREE = cost.Line(0.0, float("inf"))
PERFECT = replace(CLUSTER, copy=FREE, memory=float("inf"), message=FREE, wire=FREE, peer=0.0, nap=0.0)
PERFECT = replace(PERFECT, overhead=dict.fromkeys(TRANSPORTS, 0.0))
STEP = cost.Step(0.01, 0.02, 0.003, [(4000, 0.001), (6e6, 0.012), (3e6, 0.02)])


@pytest.mark.parametrize("transport", TRANSPORTS, ids=spoken)
def test_limits(transport: str) -> None:
    assert cost.efficiency(CLUSTER, transport, 1, STEP, cost.MIB) == 1
    assert cost.efficiency(PERFECT, transport, 16, STEP, cost.MIB) == pytest.approx(1)
    if transport != "shm":
        assert cost.efficiency(PERFECT, transport, 1024, STEP, cost.MIB, 16) == pytest.approx(1)
        assert 0 < cost.efficiency(CLUSTER, transport, 1024, STEP, cost.MIB, 16) < 1


@pytest.mark.parametrize("transport", TRANSPORTS, ids=spoken)
@pytest.mark.parametrize("per_node", [1, 4, 16])
@pytest.mark.parametrize("offload", [0.0, 1.0])
def test_more_ranks_are_not_more_efficient(transport: str, per_node: int, offload: float) -> None:
    cluster = replace(CLUSTER, offload=offload)
    for cap in (0.25, 1, 25):
        ranks = [2**k for k in range(11) if transport != "shm" or 2**k <= per_node]
        found = [cost.efficiency(cluster, transport, n, STEP, cap * cost.MIB, per_node) for n in ranks]
        # four ranks have less to multiply each than two, and nothing else becomes less
        assert all(later <= earlier + 1e-3 for earlier, later in pairwise(found)), found


def test_shared_memory_ends_at_the_node() -> None:
    assert cost.efficiency(CLUSTER, "shm", 32, STEP, cost.MIB, 16) == 0


@pytest.mark.parametrize(
    ("hidden", "second", "seconds"),
    [
        (0.0, 0.2, 1 + 2 + 0.5 + 4 * 0.1),  # the core does all four reductions itself
        (1.0, 0.2, 1 + 0.5 + 2.1),  # only the last bucket's is left when backward ends
        (1.0, 1.95, 1 + 0.5 + 2.15),  # that one has to wait for the one before, ready at 1.95
        (0.5, 0.2, 1 + 0.5 + 2.25),  # ... is held up by half of the three before
    ],
)
def test_a_step_by_hand(hidden: float, second: float, seconds: float) -> None:
    cluster = replace(PERFECT, overhead={"shm": 0.1}, hidden={"shm": hidden})
    step = cost.Step(1.0, 2.0, 0.5, [(cost.MIB, 0.2), (cost.MIB, second), (cost.MIB, 2.0)])
    assert cost.step_seconds(cluster, "shm", 2, step, cost.MIB) == pytest.approx(seconds)


def test_ranks_without_a_core_of_their_own_take_turns() -> None:
    many = replace(CLUSTER, memory=float("inf"))
    assert cost.step_seconds(PERFECT, "shm", 4, STEP, cost.MIB) == pytest.approx(STEP.seconds)
    assert cost.step_seconds(replace(PERFECT, cores=2), "shm", 4, STEP, cost.MIB) == pytest.approx(2 * STEP.seconds)
    for transport in TRANSPORTS:
        own, shared = (cost.all_reduce(c, transport, 4, 8e6).inside for c in (many, replace(many, cores=2)))
        assert shared == pytest.approx(2 * own)


class Traffic:
    """Ranks that hold arrays and send each other pieces of them; what one of them has sent and added."""

    def __init__(self, ranks: int, size: int) -> None:
        self.arrays = [np.random.default_rng(rank).integers(0, 100, size).astype(float) for rank in range(ranks)]
        self.expected = sum(self.arrays)
        self.messages = self.sent = self.added = 0

    def exchange(self, piece: Callable[[int], tuple[int, slice]], add: bool) -> None:
        """Every rank r sends piece(r) = (to whom, which part), all at once."""
        out = [
            (to, part, self.arrays[rank][part].copy()) for rank in range(len(self.arrays)) for to, part in [piece(rank)]
        ]
        for to, part, values in out:
            self.arrays[to][part] = self.arrays[to][part] + values if add else values
        size = out[0][2].size
        self.messages, self.sent, self.added = self.messages + 1, self.sent + size, self.added + size * add

    def holds(self, formula: Callable[..., float]) -> None:
        """The sums are right, and the formula counts what was sent and added."""
        ranks, size = len(self.arrays), self.expected.size
        np.testing.assert_array_equal(self.arrays, [self.expected] * ranks)
        nothing = lambda _: 0.0
        assert formula(lambda _: 1.0, nothing, ranks, size) == self.messages
        assert formula(lambda n: n, nothing, ranks, size) == self.sent
        assert formula(nothing, lambda n: n, ranks, size) == self.added


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_ring_sends_what_the_formula_counts(ranks: int) -> None:
    traffic = Traffic(ranks, 64)
    part = lambda number: slice(number % ranks * 64 // ranks, (number % ranks + 1) * 64 // ranks)
    for gather in (0, 1):
        for step in range(ranks - 1):
            traffic.exchange(lambda r, s=step, g=gather: ((r + 1) % ranks, part(r + g - s)), add=not gather)
    traffic.holds(cost.ring)


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_halving_sends_what_the_formula_counts(ranks: int) -> None:
    traffic = Traffic(ranks, 64)
    start, width, steps = [0] * ranks, 64, []
    mask = 1
    while mask < ranks:
        width //= 2
        keep = [start[r] + (width if r & mask else 0) for r in range(ranks)]
        give = [start[r] + (0 if r & mask else width) for r in range(ranks)]
        traffic.exchange(lambda r, m=mask, g=give, w=width: (r ^ m, slice(g[r], g[r] + w)), add=True)
        steps.append((mask, keep, width))
        start, mask = keep, 2 * mask
    for mask, keep, width in reversed(steps):
        traffic.exchange(lambda r, m=mask, k=keep, w=width: (r ^ m, slice(k[r], k[r] + w)), add=False)
    traffic.holds(cost.halving)


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_doubling_sends_what_the_formula_counts(ranks: int) -> None:
    traffic = Traffic(ranks, 64)
    mask = 1
    while mask < ranks:
        traffic.exchange(lambda r, m=mask: (r ^ m, slice(0, 64)), add=True)
        mask *= 2
    traffic.holds(cost.doubling)


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_shared_memory_moves_what_the_formula_counts(ranks: int) -> None:
    part = 64 // ranks
    read = ranks * part + part + (ranks - 1) * part  # my slice of all arrays; their sum; the other slices, when done
    written = part + part + (ranks - 1) * part
    cluster = replace(PERFECT, copy=lambda size: 2 * size)  # a copy reads and writes
    assert cost.all_reduce(cluster, "shm", ranks, 64).inside == read + written


@pytest.mark.parametrize("transport", ["mpi", "hierarchical"], ids=spoken)
def test_least_possible_traffic_between_nodes(transport: str) -> None:
    cluster = replace(PERFECT, wire=cost.Line(0.0, 1.0), block=1e9)
    for nodes in (2, 8, 64):
        assert cost.all_reduce(cluster, transport, 16 * nodes, 1e6, 16).across == pytest.approx(2e6 * (1 - 1 / nodes))


def test_a_collective_takes_the_fastest_way() -> None:
    latency = replace(PERFECT, message=cost.Line(1.0, float("inf")))
    assert cost.all_reduce(latency, "mpi", 16, 1e6).inside == 4  # doubling
    assert cost.all_reduce(replace(PERFECT, message=cost.Line(0.0, 1.0)), "mpi", 16, 16).inside == 30  # the others


def test_buckets_are_those_of_the_library() -> None:
    model: Any = nn.Sequential(*(nn.Linear(a, b) for a, b in ((300, 500), (500, 20), (20, 900), (900, 30))))
    parameters = list(model.named_parameters())
    gradients = [(p.numel() * 4.0, float(number)) for number, (_, p) in enumerate(reversed(parameters))]
    for first, other in ((1e9, 1e9), (1.0, 1.0), (1e5, 2e5), (50e3, 700e3)):
        expected = [sum(t.numel() * 4 for t in b.tensors) for b in make_buckets(parameters, first, other)]
        assert [size for size, _ in cost.buckets(gradients, first, other)] == expected
    (_, first_ready), (_, last_ready) = cost.buckets([(1, 3.0), (1, 1.0), (1, 2.0)], 2, 2)
    assert (first_ready, last_ready) == (
        2.0,
        3.0,
    )  # a bucket waits for its latest gradient; the first ready comes first


def test_measured_curve() -> None:
    curve = cost.Measured({400: 5.0, 100: 2.0})
    assert [curve(size) for size in (0, 100, 200, 400, 800)] == [2, 2, 3, 5, 10]


def test_odd_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="power of two, found 3"):
        cost.all_reduce(CLUSTER, "mpi", 3, 100)
