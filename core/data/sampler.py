"""Samplers: in which order a dataset's items are drawn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized

from ..generator import Generator, default_generator

__all__ = ["BatchSampler", "RandomSampler", "Sampler", "SequentialSampler"]


class Sampler:
    """Base class: iterates over indices."""

    def __iter__(self) -> Iterator[int]:
        raise NotImplementedError("Subclasses of Sampler should implement __iter__.")


class SequentialSampler(Sampler):
    """0, 1, 2, ... to the end of the data."""

    def __init__(self, data_source: Sized) -> None:
        self.data_source = data_source

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.data_source)))

    def __len__(self) -> int:
        return len(self.data_source)


class RandomSampler(Sampler):
    """Every index once, in an order drawn anew for each pass: PyTorch's order for the same seed."""

    def __init__(self, data_source: Sized, *, generator: Generator | None = None) -> None:
        self.data_source, self.generator = data_source, generator

    def __iter__(self) -> Iterator[int]:
        generator, count = self.generator, len(self.data_source)
        if generator is None:
            seed = default_generator.random_int64()
            yield from Generator().manual_seed(seed).randperm(count).tolist()
        else:
            yield from generator.randperm(count).tolist()
            generator.randperm(count)  # PyTorch draws one order more at the end of a pass: keep its stream position

    def __len__(self) -> int:
        return len(self.data_source)


class BatchSampler:
    """Groups of batch_size indices from a sampler; the last one may be shorter unless drop_last."""

    def __init__(self, sampler: Iterable[int], batch_size: int, drop_last: bool) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size <= 0:
            raise ValueError(f"batch_size should be a positive integer value, but got batch_size={batch_size}")
        self.sampler, self.batch_size, self.drop_last = sampler, batch_size, drop_last

    def __iter__(self) -> Iterator[list[int]]:
        batch: list[int] = []
        for index in self.sampler:
            batch.append(index)
            if len(batch) == self.batch_size:
                yield batch
                batch = []
        if batch and not self.drop_last:
            yield batch

    def __len__(self) -> int:
        count = len(self.sampler)  # type: ignore[arg-type]
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)
