"""Means over the samples of all ranks."""

from __future__ import annotations

import math

import numpy as np

from ..core.backend import to_host
from ..core.tensor import Tensor
from .data_parallel import DistributedDataParallel
from .process_group import world
from .tree import Cut, partial_sums, sum_over_shards

__all__ = ["SampleMean"]


class SampleMean:
    """The mean of numbers per sample (losses, hits) over all ranks' samples of any number of batches.

        loss_mean = SampleMean(model)
        for images, labels in batches:
            losses = cross_entropy(model(images), labels, reduction="none")
            loss_mean.add(losses)
        print(loss_mean.result())

    Sums are computed in float64, for each shard of a model with shards by itself and then in the order of its tree, so
    the result does not depend on the number of ranks; without shards it does, by rounding errors.
    """

    def __init__(self, model: DistributedDataParallel) -> None:
        self._communicator = world()
        self._shards = model.shards
        self._cut = self._shards.cut if self._shards else Cut(self._communicator.size, self._communicator.size)
        size = 2 * self._communicator.size  # sum, samples, and zeros, for an exchange in equal parts
        self._sums = {shard: np.zeros(size) for shard in self._cut.of(self._communicator.rank)}

    def add(self, values: Tensor) -> None:
        """Count the numbers or bools of one batch, this rank's latest with shards: as many for each sample."""
        array = to_host(values.array)
        rows = self._shards.rows if self._shards else {self._communicator.rank: slice(0, len(values))}
        samples = max(part.stop for part in rows.values())
        if array.ndim == 0 or len(array) % max(samples, 1) or (len(array) and not samples):
            raise ValueError(
                f"SampleMean: expected as many rows for each of the {samples} samples that the model has just "
                f"computed, found shape {list(array.shape)}"
            )
        each = len(array) // max(samples, 1)
        for shard, part in rows.items():
            mine = array[part.start * each : part.stop * each]
            self._sums[shard][:2] += mine.sum(dtype=np.float64), mine.size

    def result(self) -> float:
        """The mean, on every rank, all of which call it; NaN for no samples."""
        sums = partial_sums(self._cut, self._communicator.rank, lambda shard: [self._sums[shard].copy()])
        whole = sum_over_shards(self._communicator, self._cut, [arrays[0] for arrays in sums], name="mean over samples")
        total, samples, *_ = whole.tolist()
        return total / samples if samples else math.nan
