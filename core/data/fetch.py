"""Fetching: from indices to a batch. The same here and in worker processes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..tensor import Tensor
from .collate import default_collate
from .dataset import fetch_items, gatherer


class Fetcher:
    """How to make batches of a dataset: its items at indices, or a stream's next ones, collated."""

    def __init__(
        self, dataset: Any, streams: bool, batched: bool, collate: Callable[[Any], Any], drop_last: bool
    ) -> None:
        self.dataset, self.streams, self.batched = dataset, streams, batched
        self.collate, self.drop_last = collate, drop_last
        self.stream: Iterator[Any] | None = None
        self.gather: Any = None

    def start(self) -> None:
        """Begin a pass."""
        if self.streams:
            self.stream = iter(self.dataset)
        elif self.batched and self.collate is default_collate:
            self.gather = gatherer(self.dataset)

    def fetch(self, indices: Any) -> Any:
        """The batch of these indices, or the item of this index. StopIteration at the end of a stream."""
        if self.streams:
            return self._next(indices)
        if not self.batched:
            return self.collate(self.dataset[indices])
        if self.gather is not None:
            return self.gather(indices)
        if not indices and self.collate is default_collate:  # a rank's share of a short last batch
            return _rows(default_collate([self.dataset[0]]), 0)
        return self.collate(fetch_items(self.dataset, indices))

    def _next(self, indices: Any) -> Any:
        if self.stream is None:
            raise StopIteration
        if not self.batched:
            return self.collate(next(self.stream))
        items = list(itertools.islice(self.stream, len(indices)))
        if len(items) < len(indices):
            self.stream = None
            if not items or self.drop_last:
                raise StopIteration
        return self.collate(items)


def _rows(batch: Any, count: int) -> Any:
    """The first samples of a collated batch."""
    if isinstance(batch, Mapping):
        return {key: _rows(value, count) for key, value in batch.items()}
    if isinstance(batch, list) and batch and isinstance(batch[0], (Tensor, list, Mapping)):
        return [_rows(value, count) for value in batch]
    return batch[:count]
