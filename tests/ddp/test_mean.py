"""N ranks compute what one process computes on the whole batch, however it is split among them."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from whole_batch import BYTES, TINY, Mixed, assert_same, data, fill, gradients, loss, mlp, slices, whole

import mpigrad
from mpigrad import Parameter, Tensor, ddp, nn, optim
from mpigrad.ddp import DistributedDataParallel
from mpigrad.ddp.comm import simulated


@pytest.mark.parametrize("cap", [1, 64, 150, 25 * 2**20])
def test_equals_one_process(world: Any, counts: list[int], cap: int) -> None:
    x, y = data(sum(counts))

    def main() -> Any:
        here = slices(counts)[ddp.get_rank()]
        model = DistributedDataParallel(mlp(), bucket_cap_mb=cap * BYTES, first_bucket_mb=cap * BYTES)
        return whole(model, x[here], y[here])

    expected = whole(mlp(), x, y)
    for found in world(main):
        assert_same(found, expected)


class Penalized(nn.Module):
    """Has a parameter that only the loss uses."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.penalty = mlp(3, mpigrad.float64), Parameter(mpigrad.tensor([1.0, -2.0], dtype=mpigrad.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


@pytest.mark.mpi_skip
@settings(max_examples=60, deadline=None)
@given(
    counts=st.integers(1, 4).flatmap(  # by pass, then by rank
        lambda n: st.lists(st.lists(st.integers(0, 5), min_size=n, max_size=n), min_size=1, max_size=3)
    ),
    cap=st.sampled_from([1, 300, 10**6]),
    keep_before=st.booleans(),
)
def test_accumulation_equals_one_process(counts: list[list[int]], cap: int, keep_before: bool) -> None:
    """K passes of which K - 1 under no_sync, batches of any sizes: the mean over all samples when the loss is / K.

    A penalty on a parameter that the module itself does not use is part of the loss.
    """
    passes, ranks, samples = len(counts), len(counts[0]), int(np.sum(counts))
    x, y = data(samples, dtype=np.float64)
    flat = slices([count for row in counts for count in row])

    def main() -> Any:
        ddp.init_process_group()
        inner = Penalized()
        model = DistributedDataParallel(inner, bucket_cap_mb=cap * BYTES, first_bucket_mb=cap * BYTES)
        if keep_before:  # nothing in the gradients, but something there
            for parameter in model.parameters():
                parameter.grad = mpigrad.zeros_like(parameter)
        for number in range(passes):
            here = flat[number * ranks + ddp.get_rank()]
            with model.no_sync() if number < passes - 1 else nullcontext():
                ((loss(model, x[here], y[here]) + (inner.penalty**2).sum()) / passes).backward()
        return gradients(model)

    alone = Penalized()
    (loss(alone, x, y) + (alone.penalty**2).sum()).backward()
    expected = gradients(alone) if samples else None
    results = simulated.run(ranks, main, timeout=30)
    for found in results:
        if expected:
            assert_same(found, expected, rtol=1e-9)
        else:
            assert all(not grad.any() for grad in found.values())
        assert_same(found, results[0], rtol=0)


def test_no_sync_is_local(world: Any) -> None:
    def main() -> Any:
        x, y = data(4, seed=ddp.get_rank())
        model = DistributedDataParallel(mlp())
        with model.no_sync():
            found = whole(model, x, y)
            model.zero_grad()
        x, y = data(2, seed=ddp.get_rank() + 10)
        return found, whole(model, x, y)  # what was dropped does not count as a pass

    x, y = (np.concatenate(parts) for parts in zip(*(data(2, r + 10) for r in range(world.size)), strict=True))
    together = whole(mlp(), x, y)
    for rank, (found, after) in enumerate(world(main)):
        assert_same(found, whole(mlp(), *data(4, seed=rank)), rtol=0)
        assert_same(after, together)


def test_synced_passes_add_up(world: Any, counts: list[int]) -> None:
    """Without zero_grad a second reduction adds to the first; also through one graph that is kept."""
    x, y = data(sum(counts))

    def main() -> Any:
        here = slices(counts)[ddp.get_rank()]
        model = DistributedDataParallel(mlp(), **TINY)
        value = loss(model, x[here], y[here])
        value.backward(retain_graph=True)
        value.backward()
        loss(model, x[here], y[here]).backward()
        return gradients(model)

    expected = {k: None if g is None else 3 * g for k, g in whole(mlp(), x, y).items()}
    for found in world(main):
        assert_same(found, expected)


def test_empty_batches_everywhere_change_nothing(world: Any) -> None:
    def main() -> None:
        model = DistributedDataParallel(mlp())
        before = whole(model, *data(3))
        assert_same(whole(model, *data(0)), before)
        model.zero_grad()
        assert not any(g.any() for g in whole(model, *data(0)).values() if g is not None)

    world(main)


@pytest.mark.parametrize("under_no_sync", [False, True])
def test_an_empty_batch_adds_nothing_whatever_its_loss(world: Any, under_no_sync: bool) -> None:
    """The mean over no sample is NaN, and a penalty on the weights has a gradient without any sample."""
    counts = [3, *[0] * (world.size - 1)]

    def with_penalty(model: nn.Module, x: np.ndarray, y: np.ndarray) -> Tensor:
        value = loss(model, x, y) + sum((p * p).sum() for p in model.parameters())
        return value if len(x) else value * float("nan")

    def main() -> Any:
        x, y = data(3)
        model = DistributedDataParallel(mlp())
        count = counts[ddp.get_rank()]
        with model.no_sync() if under_no_sync else nullcontext():
            with_penalty(model, x[:count], y[:count]).backward()
        if under_no_sync:
            with_penalty(model, x, y).backward()
        return gradients(model)

    model = mlp()
    passes = 2 if under_no_sync else 1
    (with_penalty(model, *data(3)) * passes).backward()
    for found in world(main):
        assert_same(found, gradients(model))


@pytest.mark.parametrize("caps", [{}, TINY])
def test_several_dtypes(world: Any, caps: dict[str, float], counts: list[int]) -> None:
    x, y = data(sum(counts))

    def model() -> nn.Module:
        made = Mixed()
        fill(made, 0)
        return made

    def main() -> Any:
        here = slices(counts)[ddp.get_rank()]
        return whole(DistributedDataParallel(model(), **caps), x[here], y[here])

    expected = whole(model(), x, y)
    for found in world(main):
        assert {k: g.dtype for k, g in found.items() if g is not None} == {
            k: g.dtype for k, g in expected.items() if g is not None
        }
        assert_same(
            {k: g for k, g in found.items() if k != "coarse"}, {k: g for k, g in expected.items() if k != "coarse"}
        )
        assert_same({"coarse": found["coarse"]}, {"coarse": expected["coarse"]}, rtol=1e-2)


@pytest.mark.parametrize("optimizer_first", [True, False])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_replicas_stay_equal(world: Any, optimizer_first: bool, momentum: float) -> None:
    """Twenty steps on uneven batches: the same bits on all ranks, and the numbers of one process."""
    size = world.size

    def train(model: nn.Module, wrap: bool, here: Callable[[int], slice]) -> tuple[str, dict[str, np.ndarray]]:
        optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=momentum) if optimizer_first else None
        trained = DistributedDataParallel(model, bucket_cap_mb=64 * BYTES, first_bucket_mb=BYTES) if wrap else model
        optimizer = optimizer or optim.SGD(trained.parameters(), lr=0.01, momentum=momentum)
        for step in range(20):
            x, y = data(2 * size, seed=step)
            optimizer.zero_grad(set_to_none=bool(step % 3))
            loss(trained, x[here(step)], y[here(step)]).backward()
            optimizer.step()
        state = trained.state_dict()
        return ddp.digest(state), {k: v.numpy().copy() for k, v in state.items()}

    def main() -> Any:
        rank = ddp.get_rank()
        split = lambda step: slices([step % 2] * (size - 1) + [2 * size - (step % 2) * (size - 1)])[rank]
        return train(mlp(rank), True, split)

    results = world(main)
    assert len({digest for digest, _ in results}) == 1
    _, alone = train(mlp(0), False, lambda step: slice(None))
    assert_same(results[0][1], alone, rtol=1e-4)
