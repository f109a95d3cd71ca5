"""SampleMean: every sample of every rank once, and the same bits from every world in shards mode."""

from typing import Any

import numpy as np
import pytest

import mpigrad
from mpigrad import ddp, nn
from mpigrad.core import backend
from mpigrad.ddp.tree import Cut

V = 8


@pytest.mark.parametrize("shards", [None, V])
def test_mean_over_samples(world: Any, shards: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "LARGE", backend.LARGE)  # a wrapper with shards changes it
    draw = np.random.default_rng(0)
    batches = [(draw.standard_normal(count) * 1e3).astype(np.float32) for count in (40, 37, 3, 0)]
    rows = [[batch[len(batch) * v // V : len(batch) * (v + 1) // V] for v in range(V)] for batch in batches]
    by_shard = [sum(float(batch[v].sum(dtype=np.float64)) for batch in rows) for v in range(V)]
    a, b, c, d = (by_shard[v] + by_shard[v + 1] for v in range(0, V, 2))
    expected = ((a + b) + (c + d)) / 80

    def main() -> tuple[float, float]:
        model = ddp.DistributedDataParallel(nn.Linear(1, 1), shards=shards)
        mean, hits = ddp.SampleMean(model), ddp.SampleMean(model)
        assert np.isnan(mean.result())
        cut = Cut(shards or ddp.get_world_size(), ddp.get_world_size())
        for batch in batches:
            mine = cut.samples_of(ddp.get_rank(), len(batch))
            x = mpigrad.tensor(batch[mine.start : mine.stop])
            with mpigrad.no_grad():
                model(x.view(-1, 1))
            mean.add(x)
            hits.add(x > 0)
        if shards:
            with pytest.raises(ValueError, match=r"for each of the 0 samples .* just computed, found shape \[2, 1\]"):
                mean.add(mpigrad.ones(2, 1))
            mine = cut.samples_of(ddp.get_rank(), 40)
            model(mpigrad.ones(len(mine), 1))
            tokens = ddp.SampleMean(model)
            tokens.add(mpigrad.tensor(np.arange(120.0)[mine.start * 3 : mine.stop * 3]))  # three for each sample
            assert tokens.result() == 59.5
        return mean.result(), hits.result()

    found = world(main)
    assert len(set(found)) == 1
    assert found[0][1] == np.mean(np.concatenate(batches) > 0)
    assert found[0][0] == (expected if shards else pytest.approx(expected, rel=1e-12))
