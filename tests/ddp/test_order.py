"""Gradients are reduced while backward goes on, bucket after bucket, in one order on all ranks."""

from typing import Any

import pytest
from whole_batch import (
    FEATURES,
    TINY,
    Branches,
    assert_same,
    classifier,
    cross_entropy,
    data,
    gradients,
    labelled,
    loss,
    mlp,
    slices,
)

import mpigrad
from mpigrad import Parameter, Tensor, ddp, nn
from mpigrad.ddp import DistributedDataParallel
from mpigrad.ddp.comm import SingleCommunicator, Work


class Recording(SingleCommunicator):
    """Writes down what is started, and how many gradients are final then."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[tuple[str, int]] = []
        self.parameters: list[Parameter] = []

    def weighted_sum_start(self, array: Any, weight: float, total: Any, name: str, between: Any = None) -> Work:
        self.started.append((name, sum(p.grad is not None for p in self.parameters)))
        return super().weighted_sum_start(array, weight, total, name, between)

    def duplicate(self, name: str) -> "Recording":
        return self


@pytest.mark.mpi_skip
def test_reductions_start_in_order_while_backward_goes_on() -> None:
    comm = Recording()
    model = mlp()
    wrapped = DistributedDataParallel(model, communicator=comm, **TINY)
    comm.parameters = list(model.parameters())
    for _ in range(2):
        comm.started.clear()
        model.zero_grad()
        loss(wrapped, *data(3)).backward()
        names = [name for name, _ in comm.started]
        assert names[0] == "exchange of sample counts"
        reductions = [name for name in names if name.startswith("reduction of gradient bucket")]
        assert reductions == names[1:7]
        assert [int(name.split()[4]) for name in reductions] == list(range(6))
        assert {name.split()[5][1:-1] for name in reductions} == {name for name, _ in model.named_parameters()}
        final = [count for _, count in comm.started]
        assert final == sorted(final) and final[0] == 0
        assert final[1] <= 2 < len(comm.parameters)  # the first reduction: only the last layer has gradients


@pytest.mark.mpi_skip
def test_order_does_not_depend_on_the_graph() -> None:
    """Gradients that become final in another order wait for their bucket's turn: MPI matches calls by order.

    That is the order in which the first pass has found them.
    """
    comm = Recording()
    wrapped = DistributedDataParallel(Branches(), communicator=comm, **TINY)
    wrapped(mpigrad.ones(2, FEATURES), "bac").sum().backward()
    orders = []
    for use in ("abc", "cba", "b"):
        comm.started.clear()
        wrapped(mpigrad.ones(2, FEATURES), use).sum().backward()
        orders.append([name for name, _ in comm.started])
    assert orders[0] == orders[1] == orders[2] and len(orders[0]) == 7


class Crossed(nn.Module):
    """Uses its layers in another order than it has them."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.first, self.middle = (nn.Linear(FEATURES, FEATURES).double() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.first(x)))


def test_buckets_follow_what_was_observed(world: Any) -> None:
    """Also where a rank's own order is another one: rank 0's counts, and the sums stay right."""
    x, _ = labelled(world.size)

    def main() -> Any:
        rank = ddp.get_rank()
        wrapped = DistributedDataParallel(Crossed(), **TINY)
        wrapped.load_state_dict({k: mpigrad.full_like(v, 0.25) for k, v in wrapped.state_dict().items()})
        before = [bucket.names for bucket in wrapped.reducer.buckets]
        found = []
        for _ in range(3):
            wrapped.zero_grad()
            wrapped(x[rank : rank + 1]).sum().backward()
            found.append(gradients(wrapped))
        assert_same(found[1], found[0], rtol=1e-9)
        assert_same(found[2], found[0], rtol=1e-9)
        return before, [bucket.names for bucket in wrapped.reducer.buckets], [b.index for b in wrapped.reducer.buckets]

    for before, after, indices in world(main):
        assert [name for (name,) in before][-1] == "last.weight"
        assert sorted(after) == sorted(before) and indices == list(range(6))
        assert {name for (name,) in after[:2]} == {"last.weight", "last.bias"}
        assert {name for (name,) in after[-2:]} == {"first.weight", "first.bias"}


@pytest.mark.mpi_skip
def test_on_the_wire_in_the_observed_order() -> None:
    comm = Recording()
    wrapped = DistributedDataParallel(Crossed(), communicator=comm, **TINY)
    for _ in range(2):
        comm.started.clear()
        wrapped(labelled(2)[0]).sum().backward()
    assert [name.partition("(")[2][:5] for name, _ in comm.started[1:]] == ["last."] * 2 + ["middl"] * 2 + ["first"] * 2


def test_a_measured_bucket_size(world: Any) -> None:
    x, labels = labelled(2 * world.size)

    def main() -> Any:
        here = slices([2] * world.size)[ddp.get_rank()]
        wrapped = DistributedDataParallel(classifier(), bucket_cap_mb="auto")
        cross_entropy(wrapped(x[here]), labels[here]).backward()
        return gradients(wrapped), wrapped.reducer._caps

    alone = classifier()
    cross_entropy(alone(x), labels).backward()
    results = world(main)
    for found, caps in results:
        assert_same(found, gradients(alone), rtol=1e-9)
        assert caps == results[0][1] and 2**16 <= caps[0] == caps[1] <= 25 * 2**20
