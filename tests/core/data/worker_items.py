"""Datasets and functions that the worker processes of test_workers.py import."""

import importlib
import os
import random
import signal
import sys
import time
from collections import namedtuple
from collections.abc import Iterator
from typing import Any

import numpy as np

import mpigrad

Point = namedtuple("Point", ["x", "y"])


class Base:
    """Ten items; the library is known by its name, so that it can be pickled."""

    def __init__(self, library: str = "mpigrad", **options: Any) -> None:
        self.library, self.options, self.length = library, options, 10

    @property
    def info(self) -> Any:
        return importlib.import_module(f"{self.library}.utils.data").get_worker_info()

    def __len__(self) -> int:
        return self.length


class Draws(Base):
    """Random numbers of all kinds, and who drew them."""

    def __getitem__(self, index: int) -> Any:
        m, info = importlib.import_module(self.library), self.info
        return {
            "index": index,
            "draws": [m.rand(2), m.randperm(4), random.random(), np.random.rand()],
            "who": Point(info.id, info.num_workers),
            "seeds": (info.seed, m.initial_seed()),
            "same": info.dataset is self,
            "name": str(index),
        }


class Kinds(Base):
    """Large and small arrays, tensors and parameters."""

    kept = mpigrad.arange(20000).reshape(2, 10000).T

    def __getitem__(self, index: int) -> Any:
        dtype, large = self.options.get("dtype"), 9000
        return {
            "view": self.kept[:, 1],
            "small": mpigrad.ones(3, dtype=dtype) * index,
            "large": mpigrad.ones(large, dtype=dtype) * index,
            "scalar": mpigrad.tensor(index),
            "empty": mpigrad.zeros(0, 3),
            "array": np.full((large, 2), index, order="F"),
            "parameter": mpigrad.nn.Parameter(mpigrad.ones(large)),
            "point": Point("text", None),
        }


class Trouble(Base):
    """At the item `at`: whatever `what` says."""

    def __getitem__(self, index: int) -> Any:
        return getattr(self, self.options["what"])() if index == self.options.get("at", 4) else index

    def value_error(self) -> None:
        raise ValueError("broken item")

    def key_error(self) -> None:
        raise KeyError("no such\nkey")

    def odd_error(self) -> None:
        raise UnicodeDecodeError("utf-8", b"x", 0, 1, "bad")

    def local_error(self) -> None:
        class Local(Exception):
            pass

        raise Local("gone")

    def stop(self) -> None:
        raise StopIteration("early")

    def history(self) -> Any:
        return mpigrad.ones(2, requires_grad=True) * 2

    def function(self) -> Any:
        return lambda: None

    def kill(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def exit(self) -> None:
        sys.exit(7)

    def sleep(self) -> None:
        time.sleep(60)


class Pids(Base):
    """The process that fetches each item."""

    def __getitem__(self, index: int) -> int:
        return os.getpid()


class Slow(Base):
    """The first worker takes longer."""

    def __getitem__(self, index: int) -> int:
        if self.info.id == 0:
            time.sleep(0.15)
        return index


class Inside(Base):
    """What runs in a worker: its threads after some linear algebra, their number, modules that should not be there."""

    def __getitem__(self, index: int) -> Any:
        _ = np.ones((300, 300)) @ np.ones((300, 300))
        found = [m for m in ("mpi4py", "mpi4py.MPI", "torch", "cupy", "matplotlib") if m in sys.modules]
        return len(os.listdir("/proc/self/task")), os.environ["OMP_NUM_THREADS"], ",".join(found)


class Lengths(Base):
    """What a worker_init_fn made of it."""

    def __getitem__(self, index: int) -> int:
        return self.length


class Stream(mpigrad.data.IterableDataset):  # type: ignore[type-arg]
    """Numbers, sharded between workers or not."""

    library = "mpigrad"

    def __init__(self, length: int, shard: bool) -> None:
        self.length, self.shard = length, shard

    def __iter__(self) -> Iterator[int]:
        info = importlib.import_module(f"{self.library}.utils.data").get_worker_info()
        first, step = (info.id, info.num_workers) if info and self.shard else (0, 1)
        return iter(range(first, self.length, step))


class Gone:
    """Cannot be made again in a worker."""

    def __len__(self) -> int:
        return 1

    def __setstate__(self, state: Any) -> None:
        raise RuntimeError("no such device here")

    def __getstate__(self) -> Any:
        return {"x": 1}


def as_is(batch: Any) -> Any:
    """Collates nothing."""
    return batch


def mark(number: int) -> None:
    """A worker_init_fn that changes its worker's dataset."""
    mpigrad.data.get_worker_info().dataset.length = 1000 + number  # type: ignore[union-attr]


def fail(number: int) -> None:
    """A worker_init_fn that fails in one worker."""
    if number == 1:
        raise OSError("no such device")
