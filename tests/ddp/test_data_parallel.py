"""The wrapper: starts as rank 0's, looks like the module, takes PyTorch's arguments, refuses ranks that differ."""

import gc
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from whole_batch import FEATURES, TINY, Mixed, assert_same, classifier, data, fill, labelled, mlp, slices, whole

import mpigrad
from mpigrad import ddp, nn
from mpigrad.core.flat import flatten
from mpigrad.ddp import DistributedDataParallel
from mpigrad.ddp.comm import Communicator


def test_start_is_rank_0s(world: Any) -> None:
    def main() -> str:
        model = Mixed()
        fill(model, seed=ddp.get_rank())
        DistributedDataParallel(model)
        return ddp.digest(dict(model.named_parameters()) | dict(model.named_buffers()))

    expected = Mixed()
    fill(expected, 0)
    first = ddp.digest(dict(expected.named_parameters()) | dict(expected.named_buffers()))
    assert world(main) == [first] * world.size


def test_looks_like_the_module(world: Any) -> None:
    def main() -> None:
        plain = Mixed()
        wrapped = DistributedDataParallel(plain)
        assert list(wrapped.state_dict()) == list(plain.state_dict())
        assert list(wrapped.state_dict(prefix="m.")) == [f"m.{key}" for key in plain.state_dict()]
        for view in ("named_parameters", "named_buffers", "named_modules"):
            assert [name for name, _ in getattr(wrapped, view)()] == [name for name, _ in getattr(plain, view)()]
        assert repr(wrapped).startswith("DistributedDataParallel(\n  (module): Mixed(\n    (first): Linear(")
        other = Mixed()
        fill(other, 11)
        assert str(wrapped.load_state_dict(other.state_dict())) == "<All keys matched successfully>"
        assert ddp.digest(wrapped.state_dict()) == ddp.digest(other.state_dict())
        with pytest.raises(RuntimeError, match="Missing key"):
            wrapped.load_state_dict({})
        for mode in (False, True):
            assert wrapped.train(mode) is wrapped
            assert {m.training for m in (wrapped, *plain.modules())} == {mode}
        outer = nn.Sequential(wrapped, nn.ReLU())
        assert list(outer.state_dict()) == [f"0.{key}" for key in plain.state_dict()]

    world(main)


def test_nothing_to_learn(world: Any) -> None:
    def main() -> None:
        for module in (nn.ReLU(), nn.Linear(2, 2).requires_grad_(False)):
            with pytest.raises(RuntimeError, match="DistributedDataParallel is not needed when a module doesn't have"):
                DistributedDataParallel(module)

    world(main)


def different(rank: int, others: str) -> Iterator[tuple[nn.Module, dict[str, Any], str]]:
    """By what rank 1's module differs, its options, and what is told of it."""
    last, double = rank == 1, mpigrad.float64 if rank == 1 else None
    weight = f"module.weight   {others}: trained float32 [2, 3] / rank 1: "
    yield nn.Linear(3, 2 + last), {}, weight + "trained float32 [3, 3]"
    yield nn.Linear(3, 2, dtype=double), {}, weight + "trained float64 [2, 3]"
    yield nn.Linear(3, 2).requires_grad_(not last), {}, weight + "frozen float32 [2, 3]"
    bias = f"module.bias   {others}: trained float32 [2] / rank 1: nothing"
    yield nn.Linear(3, 2, bias=not last), {}, bias
    later = f"module.1.weight   {others}: trained float32 [2, 2] / rank 1: nothing"
    yield nn.Sequential(nn.Linear(2, 2), *[nn.ReLU()] * last, nn.Linear(2, 2)), {}, later
    buckets = f"gradient bucket 0   {others}: 'weight, bias' / rank 1: 'bias'"
    module = nn.Linear(2, 2)
    flatten([module.bias] if last else module.parameters())  # as an earlier optimizer may have done
    yield module, {}, buckets
    yield nn.Linear(2, 2), {"bucket_cap_mb": "auto" if last else None}, f"bucket_cap_mb   {others}: 25 / rank 1: 'auto'"
    yield nn.Linear(2, 2), {"check_finite": last}, f"check_finite   {others}: False / rank 1: True"
    yield nn.Linear(2, 2), {"check_every": 5 + last}, f"check_every   {others}: 5 / rank 1: 6"


@pytest.mark.parametrize("number", range(9))
def test_different_modules(world: Any, number: int) -> None:
    if world.size == 1:
        pytest.skip("one rank differs from nobody")

    def main() -> None:
        others = {2: "rank 0", 3: "ranks 0, 2", 4: "ranks 0, 2, 3"}[world.size]
        module, options, line = list(different(ddp.get_rank(), others))[number]
        with pytest.raises(ddp.RanksDiffer, match="DistributedDataParallel: expected the same module") as caught:
            DistributedDataParallel(module, **options)
        assert f"\n  {line}\n" in str(caught.value)

    world(main)


def test_wrapping_again(world: Any, counts: list[int]) -> None:
    """As a notebook cell that is run twice does. The later wrapper reduces, once; the earlier one refuses."""
    x, y = data(sum(counts))

    def main() -> Any:
        here = slices(counts)[ddp.get_rank()]
        model = mlp()
        earlier, wrapped = DistributedDataParallel(model), DistributedDataParallel(model, **TINY)
        with pytest.raises(RuntimeError, match="this module was wrapped again"):
            earlier(mpigrad.ones(1, FEATURES))
        return whole(wrapped, x[here], y[here])

    for found in world(main):
        assert_same(found, whole(mlp(), x, y))


def test_a_dropped_wrapper_takes_its_thread_along(world: Any) -> None:
    names = lambda: [t.name for t in threading.enumerate()].count("mpigrad gradients")

    def main() -> None:
        for _ in range(3):
            DistributedDataParallel(mlp())
        ddp.barrier()

    before = names()
    world(main)
    for _ in range(1000):
        gc.collect()
        if names() <= before:
            return
    pytest.fail(f"{names() - before} threads are left")


def test_the_communicator_may_be_given(world: Any, counts: list[int]) -> None:
    x, y = data(sum(counts))

    def main() -> Any:
        comm: Communicator = ddp.world().duplicate("mine")
        here = slices(counts)[ddp.get_rank()]
        return whole(DistributedDataParallel(mlp(), communicator=comm), x[here], y[here])

    for found in world(main):
        assert_same(found, whole(mlp(), x, y))


def test_pytorchs_other_arguments(world: Any) -> None:
    def main() -> None:
        group = ddp.new_group()
        wrapped = DistributedDataParallel(
            classifier(),
            device_ids=None,
            process_group=group,
            find_unused_parameters=False,
            gradient_as_bucket_view=True,
            static_graph=True,
        )
        with wrapped.join():
            wrapped(labelled(2)[0]).sum().backward()
        with pytest.raises(ValueError, match="dim: expected 0"):
            DistributedDataParallel(classifier(), dim=1)
        with pytest.raises(ValueError, match="check_finite: expected a model without shards"):
            DistributedDataParallel(classifier(), shards=4, check_finite=True)

    world(main)
