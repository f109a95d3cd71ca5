"""A function of the user's that averages the buckets."""

from typing import Any

import pytest
from whole_batch import TINY, assert_same, classifier, cross_entropy, gradients, labelled, slices

from mpigrad import ddp
from mpigrad.ddp import DistributedDataParallel


@pytest.mark.parametrize("kind", ["future", "tensor", "set_buffer"])
def test_a_hook_that_averages(world: Any, kind: str) -> None:
    """As PyTorch's allreduce_hook; with batches of any sizes the mean of what it is given is the exact mean."""
    counts = [rank % 3 for rank in range(1, world.size + 1)]
    x, labels = labelled(sum(counts))
    seen: list[Any] = []

    def hook(state: Any, bucket: Any) -> Any:
        if ddp.get_rank() == 0:
            seen.append((state, bucket.index(), bucket.is_last(), [p.shape for p in bucket.parameters()]))
        assert sum(g.numel() for g in bucket.gradients()) == bucket.buffer().numel()
        if kind == "future":
            work = ddp.all_reduce(bucket.buffer().div_(ddp.get_world_size()), async_op=True)
            return work.get_future().then(lambda future: future.value()[0])
        mean = bucket.buffer().clone()
        ddp.all_reduce(mean, op=ddp.ReduceOp.AVG)
        if kind == "tensor":
            return mean
        bucket.set_buffer(mean)
        return bucket.buffer()

    def main() -> Any:
        here = slices(counts)[ddp.get_rank()]
        wrapped = DistributedDataParallel(classifier(), **TINY)
        wrapped.register_comm_hook("mine", hook)
        with pytest.raises(RuntimeError, match="register_comm_hook can only be called once"):
            wrapped.register_comm_hook(None, hook)
        cross_entropy(wrapped(x[here]), labels[here]).backward()
        return gradients(wrapped)

    alone = classifier()
    cross_entropy(alone(x), labels).backward()
    for found in world(main):
        assert_same(found, gradients(alone), rtol=1e-9)
    if ddp.get_rank() == 0 and seen:
        assert [(state, index, last) for state, index, last, _ in seen] == [("mine", i, i == 3) for i in range(4)]


@pytest.mark.parametrize(
    "give, found",
    [
        (lambda bucket: None, "NoneType"),
        (lambda bucket: bucket.buffer()[:1], "one of 1"),
        (lambda bucket: [bucket.buffer()] * 2, "list"),
    ],
)
def test_hooks_that_give_something_else(world: Any, give: Any, found: str) -> None:
    def main() -> None:
        wrapped = DistributedDataParallel(classifier(), **TINY)
        wrapped.register_comm_hook(None, lambda _, bucket: give(bucket))
        with pytest.raises(TypeError, match=rf"expected the communication hook to return a tensor .*, found {found}"):
            wrapped(labelled(2)[0]).sum().backward()

    world(main)


def test_hooks_that_are_refused(world: Any) -> None:
    def main() -> None:
        with pytest.raises(TypeError, match="Communication hook must be callable"):
            DistributedDataParallel(classifier()).register_comm_hook(None, 3)
        with pytest.raises(RuntimeError, match="register_comm_hook: expected a model without shards"):
            DistributedDataParallel(classifier(), shards=4).register_comm_hook(None, lambda *_: None)

    world(main)
