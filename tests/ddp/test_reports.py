"""What the wrapper tells of its latest passes: unused parameters, gradients that are not finite, overlap."""

import itertools
import threading
from typing import Any

import numpy as np
import pytest
from whole_batch import FEATURES, TINY, classifier, cross_entropy, labelled

import mpigrad
from mpigrad import Tensor, ddp, nn, optim
from mpigrad.ddp import DistributedDataParallel
from mpigrad.ddp.comm import Communicator, SingleCommunicator


class Optional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.never = (nn.Linear(FEATURES, 1, bias=False).double() for _ in range(3))

    def forward(self, x: Tensor, use_b: bool) -> Tensor:
        return self.a(x) + self.b(x) if use_b else self.a(x)


@pytest.mark.parametrize("shards", [None, 4])
def test_unused_parameters_are_named(world: Any, shards: int | None) -> None:
    def main() -> None:
        wrapped = DistributedDataParallel(Optional(), shards=shards)
        assert wrapped.unused_parameters() == {}
        x, _ = labelled(4)
        (here,) = list(ddp.ShardedSampler(range(4), 4, shuffle=False, shards=shards))
        other = {"use_b": True} if ddp.get_rank() == 0 else {"use_b": False}
        wrapped(x[here], **other).mean().backward()
        expected = {"b.weight": world.size - 1, "never.weight": world.size}
        assert wrapped.unused_parameters() == {k: n for k, n in expected.items() if n}
        assert wrapped.module.never.weight.grad is None and wrapped.module.b.weight.grad is not None

    world(main)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_who_brought_what_is_not_finite(world: Any, value: float) -> None:
    """All ranks hear of it in the same pass, and so skip the same step; the next pass is clean."""
    bad = world.size - 1

    def main() -> Any:
        rank, (x, labels) = ddp.get_rank(), labelled(2)
        wrapped = DistributedDataParallel(classifier(), **TINY, check_finite=True)
        optimizer = optim.SGD(wrapped.parameters(), lr=0.1)
        found = []
        for step in range(3):
            optimizer.zero_grad()
            loss = cross_entropy(wrapped(x), labels)
            handle = None
            if step == 1 and rank == bad:
                spoil = lambda g: g * mpigrad.tensor([[value], *[[1.0]] * 7], dtype=mpigrad.float64)
                handle = wrapped.module[0].weight.register_hook(spoil)
            loss.backward()
            if handle is not None:
                handle.remove()
            found.append([(f.rank, f.parameter) for f in wrapped.nonfinite()])
            if not wrapped.nonfinite():
                optimizer.step()
        assert all(np.isfinite(p.detach().numpy()).all() for p in wrapped.parameters())
        return found, ddp.digest(wrapped.state_dict())

    results = world(main)
    assert all(found == [[], [(bad, "0.weight")], []] for found, _ in results)
    assert len({digest for _, digest in results}) == 1


def test_reports_that_were_not_asked_for(world: Any) -> None:
    def main() -> None:
        with pytest.raises(RuntimeError, match=r"nonfinite: expected DistributedDataParallel.*check_finite=True"):
            DistributedDataParallel(classifier()).nonfinite()
        with pytest.raises(RuntimeError, match="overlap: expected a model without shards"):
            DistributedDataParallel(classifier(), shards=4).overlap()

    world(main)


def test_overlap_is_measured(world: Any) -> None:
    def main() -> None:
        wrapped = DistributedDataParallel(classifier(), **TINY)
        assert wrapped.overlap() == ddp.Overlap(0.0, 0.0) and wrapped.overlap().hidden == 0
        seen = []
        for _ in range(3):
            wrapped(labelled(2)[0]).sum().backward()
            seen.append(wrapped.overlap())
        for before, after in itertools.pairwise(seen):
            assert after.communication > before.communication > 0 and after.exposed > before.exposed > 0
        assert all(0 <= found.hidden <= 1 for found in seen)

    world(main)


@pytest.mark.mpi_skip
def test_a_thread_that_communicates_hides_its_time() -> None:
    """While one rank's thread sleeps in a reduction, backward goes on."""

    class Slow(SingleCommunicator):
        start, weighted_sum_start = Communicator.start, Communicator.weighted_sum_start

        def _all_reduce(self, array: Any, op: str) -> None:
            threading.Event().wait(0.02)

        def duplicate(self, name: str) -> "Slow":
            return self

    wrapped = DistributedDataParallel(classifier(), communicator=Slow(), **TINY)
    wrapped.module[0].weight.register_post_accumulate_grad_hook(lambda p: threading.Event().wait(0.1))
    wrapped(labelled(2)[0]).sum().backward()
    assert wrapped.overlap().communication > 0.1  # 4 buckets and the message
    assert wrapped.overlap().hidden > 0.1
