"""DataLoader: batches of a dataset, in the order that a sampler gives, fetched here or by worker processes."""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.context import BaseContext
from typing import Any, Generic, TypeVar

from ..autograd import wrap
from ..backend import cuda_device_count, pinned
from ..generator import Generator, default_generator
from ..tensor import Tensor
from .collate import default_collate, default_convert, map_items
from .dataset import IterableDataset
from .fetch import Fetcher
from .sampler import BatchSampler, RandomSampler, SequentialSampler
from .workers import Workers, WorkersPass

__all__ = ["DataLoader"]

T = TypeVar("T", covariant=True)
START_METHODS = ("spawn", "forkserver")  # both mean: a fresh interpreter, never a copy of this process
FIXED = ("batch_size", "batch_sampler", "sampler", "drop_last", "dataset", "persistent_workers")


class DataLoader(Generic[T]):
    """Iterates over batches of a dataset.

    shuffle draws a new order for every pass (PyTorch's, for the same seed); sampler or batch_sampler give their own.
    batch_size None yields single items. ValueError for options that exclude each other and for an empty dataset to
    shuffle.

    num_workers processes fetch up to prefetch_factor batches each ahead of their use; 0 fetches here. They are fresh
    interpreters, which MPI and CUDA allow where copies of this process are not safe: what they need (dataset,
    collate_fn, worker_init_fn) must be picklable, and a script needs its `if __name__ == "__main__":`. Tensors come
    back in shared memory. An error in a worker is raised here, with the worker's traceback; RuntimeError for a worker
    that died, and when a batch takes longer than timeout seconds. persistent_workers live for all passes.
    in_order=False yields batches as they are ready. pin_memory: into page-locked memory, where there is a GPU.
    """

    _initialized = False

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Iterable[Any] | None = None,
        batch_sampler: Iterable[list[Any]] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,
        generator: Generator | None = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
    ) -> None:
        if num_workers < 0:
            raise ValueError("num_workers option should be non-negative; use num_workers=0 to disable multiprocessing.")
        if timeout < 0:
            raise ValueError("timeout option should be non-negative")
        if num_workers == 0 and prefetch_factor is not None:
            raise ValueError(
                "prefetch_factor option could only be specified in multiprocessing."
                "let num_workers > 0 to enable multiprocessing, otherwise set prefetch_factor to None."
            )
        if prefetch_factor is not None and prefetch_factor < 0:
            raise ValueError("prefetch_factor option should be non-negative")
        if persistent_workers and num_workers == 0:
            raise ValueError("persistent_workers option needs num_workers > 0")
        self.streams = isinstance(dataset, IterableDataset)
        if self.streams:
            for name, value in (("shuffle", shuffle or None), ("sampler", sampler), ("batch_sampler", batch_sampler)):
                if value is not None:
                    raise ValueError(
                        f"DataLoader with IterableDataset: expected unspecified {name} option, but got {name}={value}"
                    )
        if sampler is not None and shuffle:
            raise ValueError("sampler option is mutually exclusive with shuffle")
        if batch_sampler is not None:
            if batch_size != 1 or shuffle or sampler is not None or drop_last:
                raise ValueError(
                    "batch_sampler option is mutually exclusive with batch_size, shuffle, sampler, and drop_last"
                )
            batch_size = None
        elif batch_size is None and drop_last:
            raise ValueError("batch_size=None option disables auto-batching and is mutually exclusive with drop_last")
        self.dataset, self.batch_size, self.drop_last, self.generator = dataset, batch_size, drop_last, generator
        self.num_workers, self.timeout, self.worker_init_fn = num_workers, timeout, worker_init_fn
        self.prefetch_factor = 2 if num_workers and prefetch_factor is None else prefetch_factor
        self.persistent_workers, self.in_order = persistent_workers, in_order
        self.pin_memory, self.pin_memory_device = pin_memory, pin_memory_device
        self.multiprocessing_context = multiprocessing_context
        if sampler is None:
            if self.streams:
                sampler = Forever()
            else:
                sampler = RandomSampler(dataset, generator=generator) if shuffle else SequentialSampler(dataset)
        if batch_sampler is None and batch_size is not None:
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        self.sampler, self.batch_sampler = sampler, batch_sampler
        self.collate_fn = collate_fn or (default_convert if batch_sampler is None else default_collate)
        self._expected: int | None = None  # the length that a stream of known length was said to have
        self._workers: Workers | None = None  # that are there for all passes
        self._initialized = True
        if num_workers > (cores := len(os.sched_getaffinity(0))):
            warnings.warn(
                f"This DataLoader will create {num_workers} worker processes in total. Our suggested max number of "
                f"worker in current system is {cores}, which is smaller than what this DataLoader is going to create: "
                "it may get slow.",
                stacklevel=2,
            )

    def __setattr__(self, name: str, value: Any) -> None:
        if self._initialized and name in FIXED:
            raise ValueError(f"{name} attribute should not be set after {type(self).__name__} is initialized")
        if name == "multiprocessing_context" and value is not None:
            self._check_context(value)
        super().__setattr__(name, value)

    def _check_context(self, context: Any) -> None:
        if self.num_workers == 0:
            raise ValueError(
                "multiprocessing_context can only be used with multi-process loading (num_workers > 0), but got "
                "num_workers=0"
            )
        if not isinstance(context, (str, BaseContext)):
            raise TypeError(
                "multiprocessing_context option should be a valid context object or a string specifying the start "
                f"method, but got multiprocessing_context={context}"
            )
        method = context if isinstance(context, str) else context.get_start_method()
        if method not in START_METHODS:
            raise ValueError(
                f"multiprocessing_context option should specify a valid start method in {list(START_METHODS)}, but got "
                f"multiprocessing_context={method!r} (a process that uses MPI or CUDA must not be forked)"
            )

    def __iter__(self) -> Iterator[T]:
        if self.pin_memory and not cuda_device_count():
            warnings.warn(
                "'pin_memory' argument is set as true but no accelerator is found, then device pinned memory won't be "
                "used.",
                stacklevel=2,
            )
        return _Pass(self)

    def __len__(self) -> int:
        if not self.streams:
            return len(self.sampler if self.batch_sampler is None else self.batch_sampler)  # type: ignore[arg-type]
        length = self._expected = len(self.dataset)
        if self.batch_size is None:
            return length
        return length // self.batch_size if self.drop_last else -(-length // self.batch_size)


class Limit:
    """How many batches a pass may give. reached: whether one had to end, or ended, there."""

    def __init__(self, batches: int) -> None:
        self.batches, self.reached = batches, False


class _Thread(threading.local):
    limit: Limit | None = None


_thread = _Thread()


@contextlib.contextmanager
def at_most(batches: int) -> Iterator[Limit]:
    """Within the block every pass over a loader that goes on in this thread ends after so many batches."""
    before, _thread.limit = _thread.limit, Limit(batches)
    try:
        yield _thread.limit
    finally:
        _thread.limit = before


class Forever:
    """The sampler of a stream: its items have no indices."""

    def __iter__(self) -> Iterator[None]:
        while True:
            yield None


class _Pass(Iterator[Any]):
    """One pass over the data."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader, self.count = loader, 0
        self.indices = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
        places = iter(self.indices)
        workers = loader._workers
        fetcher = Fetcher(
            loader.dataset, loader.streams, loader.batch_sampler is not None, loader.collate_fn, loader.drop_last
        )
        if workers is None or workers.closed:
            # PyTorch draws the seed of its worker processes here, with or without workers: keep its stream's position
            seed = (loader.generator or default_generator).random_int64()
        if loader.num_workers == 0:
            fetcher.start()
            self.batches: Iterator[Any] = map(fetcher.fetch, places)
            return
        if workers is None or workers.closed:
            workers = Workers(fetcher, loader.num_workers, seed, loader.worker_init_fn)
            if loader.persistent_workers:
                loader._workers = workers
        assert loader.prefetch_factor is not None
        self.batches = WorkersPass(
            workers, places, loader.prefetch_factor, loader.timeout, loader.in_order, loader.persistent_workers
        )

    def __iter__(self) -> _Pass:
        return self

    def __next__(self) -> Any:
        limit = _thread.limit
        if limit is not None and self.count >= limit.batches:
            limit.reached = True
            raise StopIteration
        batch = next(self.batches)
        self.count += 1
        expected = self.loader._expected
        if expected is not None and self.count > expected:
            warnings.warn(
                f"Length of IterableDataset {self.loader.dataset} was reported to be {expected} (when accessing "
                f"len(dataloader)), but {self.count} samples have been fetched."
                + " Each worker has its own copy of the stream: see get_worker_info."
                * (self.loader.num_workers > 0),
                stacklevel=2,
            )
        return _pin(batch) if self.loader.pin_memory and cuda_device_count() else batch

    def __len__(self) -> int:
        return len(self.indices)  # type: ignore[arg-type]


def _pin(data: Any) -> Any:
    """The tensors in page-locked memory, from which a GPU copies faster and by itself."""
    return wrap(pinned(data.array)) if isinstance(data, Tensor) else map_items(_pin, data)
