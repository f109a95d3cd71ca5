"""Buffers that the ranks change are combined, others are left alone."""

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from whole_batch import CLASSES, FEATURES, classifier, cross_entropy, labelled, slices

import mpigrad
from mpigrad import Tensor, ddp, nn
from mpigrad.ddp import DistributedDataParallel


def test_statistics_of_batch_norm_are_combined(world: Any) -> None:
    """Each rank's batch moves them, weighted by its samples; they are the same everywhere after backward."""
    counts = [2 + 3 * rank for rank in range(world.size)]
    x, labels = labelled(sum(counts))

    def main() -> Any:
        here = slices(counts)[ddp.get_rank()]
        wrapped = DistributedDataParallel(classifier(0, nn.BatchNorm1d(8)))
        for step in range(2):
            with wrapped.no_sync() if step == 0 else nullcontext():
                cross_entropy(wrapped(x[here]), labels[here]).backward()
        own = classifier(0, nn.BatchNorm1d(8))
        for _ in range(2):
            own(x[here])
        return {k: b.numpy().copy() for k, b in wrapped.named_buffers()}, [b.numpy() for b in own.buffers()]

    results = world(main)
    for place, name in enumerate(("1.running_mean", "1.running_var", "1.num_batches_tracked")):
        expected = np.average([own[place] for _, own in results], axis=0, weights=counts)
        for combined, _ in results:
            assert combined[name].dtype == results[0][0][name].dtype
            np.testing.assert_allclose(combined[name], expected, rtol=1e-12)
            np.testing.assert_array_equal(combined[name], results[0][0][name])
    assert results[0][0]["1.num_batches_tracked"] == 2


class Caching(nn.Module):
    """A layer with a buffer that nobody changes, and one that grows with the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(FEATURES, CLASSES).double()
        self.register_buffer("fixed", mpigrad.tensor([0.1, float("nan"), float("inf")]))
        self.register_buffer("cache", mpigrad.zeros(0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.cache = mpigrad.arange(len(x))
        return self.layer(x)


@pytest.mark.parametrize("broadcast", [True, False])
def test_buffers_that_are_left_alone(world: Any, broadcast: bool) -> None:
    def main() -> None:
        rank = ddp.get_rank()
        wrapped = DistributedDataParallel(Caching(), broadcast_buffers=broadcast)
        fixed = wrapped.module.fixed
        for _ in range(2):
            wrapped(labelled(rank + 1)[0]).sum().backward()
        assert wrapped.module.fixed is fixed
        np.testing.assert_array_equal(fixed.numpy(), np.float32([0.1, np.nan, np.inf]))
        assert wrapped.module.cache.tolist() == list(range(rank + 1))
        norm = DistributedDataParallel(nn.BatchNorm1d(FEATURES), broadcast_buffers=broadcast)
        norm(labelled(4, seed=rank)[0].float()).sum().backward()
        means = ddp.world().all_gather_object(norm.module.running_mean.tolist())
        assert (len({tuple(m) for m in means}) == 1) == (broadcast or world.size == 1)

    world(main)
