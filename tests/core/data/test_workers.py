"""Worker processes: torch's batches and draws; errors and deaths; and that nothing stays behind."""

import gc
import importlib
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpigrad.data import DataLoader, IterableDataset, TensorDataset

import mpigrad
from mpigrad.core.data import workers

HERE = Path(__file__).parent
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # there may be few cores


@pytest.fixture(autouse=True)
def items(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of datasets, which workers find by its name."""
    monkeypatch.syspath_prepend(str(HERE))
    return importlib.import_module("worker_items")


def left_behind() -> list[str]:
    """The names of shared memory that this library or Python's gave."""
    return [n for n in os.listdir("/dev/shm") if n.startswith(("psm_", "sem.mp", "mpigrad"))]


def descendants(pid: int) -> list[int]:
    """The processes below this one, that are no zombies."""
    found = []
    for task in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = task.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            child = int(task.parent.name)
            found += [child, *descendants(child)]
    return found


def eventually(condition: Callable[[], bool], seconds: float = 8) -> bool:
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No worker, no shared memory, no descriptor after a test."""
    list(DataLoader([1], num_workers=1))  # the process from which workers are forked may stay
    names, processes, files = set(left_behind()), descendants(os.getpid()), os.listdir("/proc/self/fd")
    yield
    gc.collect()  # an exception and the frames that it passed refer to each other
    assert eventually(lambda: len(descendants(os.getpid())) <= len(processes))
    assert eventually(lambda: set(left_behind()) <= names)  # other tests that run beside these take theirs along
    assert len(os.listdir("/proc/self/fd")) == len(files)


def plain(value: Any) -> Any:
    """A batch without its library."""
    if hasattr(value, "tolist"):
        return str(value.dtype).rpartition(".")[2], value.tolist()
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value


OPTIONS: list[dict[str, Any]] = [
    {"num_workers": 2, "batch_size": 3},
    {"num_workers": 3, "batch_size": 2, "shuffle": True, "prefetch_factor": 1},
    {"num_workers": 1, "batch_size": None, "shuffle": True},
    {"num_workers": 2, "batch_size": 4, "drop_last": True, "persistent_workers": True, "shuffle": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("own", [True, False])
def test_batches_and_draws_as_in_torch(options: dict[str, Any], own: bool, items: Any, torch: Any) -> None:
    """Three passes, one of them broken off; what workers draw, and where it leaves the stream here."""
    import torch.utils.data as theirs

    results = []
    for m, d in ((mpigrad, mpigrad.data), (torch, theirs)):
        m.manual_seed(5)
        generator = m.Generator().manual_seed(9) if own else None
        loader = d.DataLoader(items.Draws(m.__name__), generator=generator, **options)
        broken = iter(loader)
        found = [plain(next(broken)), m.rand(1).item()]
        del broken
        found += [plain(list(loader)), plain(list(loader)), len(loader), m.rand(1).item()]
        results.append([*found, m.rand(1, generator=generator).item()])
        del loader
    assert results[0] == results[1]


@pytest.mark.parametrize("shard", [True, False])
@pytest.mark.parametrize(
    "options", [{}, {"batch_size": 3}, {"batch_size": 3, "drop_last": True}, {"batch_size": None}], ids=str
)
@pytest.mark.parametrize("persistent", [True, False])
def test_streams_as_in_torch(shard: bool, options: dict[str, Any], persistent: bool, items: Any, torch: Any) -> None:
    import torch.utils.data as theirs

    class Theirs(theirs.IterableDataset):  # type: ignore[misc]
        library, __iter__ = "torch", items.Stream.__iter__

        def __init__(self, length: int, shard: bool) -> None:
            self.length, self.shard = length, shard

    found = []
    for d, stream in ((mpigrad.data, items.Stream(11, shard)), (theirs, Theirs(11, shard))):
        loader = d.DataLoader(stream, num_workers=3, persistent_workers=persistent, **options)
        found.append([[plain(b) for b in loader] for _ in range(2)])
    assert found[0] == found[1]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "int64", "uint8", "bool_"])
def test_what_travels_keeps_its_kind(dtype: str, items: Any) -> None:
    if not hasattr(mpigrad, dtype):
        pytest.skip("the library has no such dtype")
    kind = getattr(mpigrad, dtype)
    for index, item in enumerate(DataLoader(items.Kinds(dtype=kind), None, num_workers=2)):
        here = mpigrad.data.default_convert(items.Kinds(dtype=kind)[index])
        assert type(item["parameter"]) is mpigrad.nn.Parameter and item["parameter"].requires_grad
        assert list(item) == list(here)
        for name in ("view", "small", "large", "scalar", "empty", "array"):
            assert item[name].dtype is here[name].dtype and item[name].shape == here[name].shape
            assert item[name].tolist() == here[name].tolist()
            item[name] += 1  # it is ours to change
        assert item["point"] == items.Point("text", None) and type(item["point"]) is items.Point


def test_a_dataset_in_memory_is_not_changed_here(items: Any) -> None:
    """Workers see the tensors of a dataset as they are when the pass begins, and share their memory."""
    rows = mpigrad.zeros(100, 100)
    loader = DataLoader(TensorDataset(rows, mpigrad.arange(100)), 10, num_workers=2)
    for value in (1, 2):
        rows.fill_(value)
        assert [b[0].sum().item() for b in loader] == [1000.0 * value] * 10


@pytest.mark.parametrize("in_order", [True, False])
def test_order_of_batches(in_order: bool, items: Any) -> None:
    found = [b.item() for b in DataLoader(items.Slow(), num_workers=2, in_order=in_order)]
    assert sorted(found) == list(range(10)) and (found == list(range(10))) is in_order


def test_persistent_workers_are_the_same_processes(items: Any) -> None:
    for persistent in (True, False):
        loader = DataLoader(items.Pids(), num_workers=2, persistent_workers=persistent)
        first, second = ({b.item() for b in loader} for _ in range(2))
        assert len(first) == len(second) == 2 and (first == second) is persistent and os.getpid() not in first
        next(iter(loader))
        assert ({b.item() for b in loader} == first) is persistent  # also after a pass that was broken off
    assert len({b.item() for b in DataLoader([1, 2, 3], num_workers=2)}) == 3


def test_at_most_so_many_batches_ahead(items: Any) -> None:
    drawn = []

    def places() -> Iterator[int]:
        for i in range(10):
            drawn.append(i)
            yield i

    class Sampler:
        def __iter__(self) -> Iterator[int]:
            return places()

    batches = iter(DataLoader(range(10), None, sampler=Sampler(), num_workers=2, prefetch_factor=2))  # type: ignore[arg-type]
    assert len(drawn) == 4
    for expected in (5, 6):
        next(batches)
        assert len(drawn) == expected
    assert list(DataLoader([1, 2], num_workers=1, prefetch_factor=0)) == []  # as in torch


@pytest.mark.parametrize(
    ("what", "kind", "text"),
    [
        ("value_error", ValueError, "Caught ValueError in DataLoader worker process 1.\nOriginal Traceback (most rec"),
        ("value_error", ValueError, "broken item"),
        ("key_error", KeyError, "\nKeyError: 'no such\\nkey'"),
        ("odd_error", RuntimeError, "Caught UnicodeDecodeError in DataLoader worker process 1"),
        ("local_error", RuntimeError, "Local: gone"),
        ("stop", StopIteration, "Caught StopIteration in DataLoader worker process 1"),
        ("history", RuntimeError, "Cowardly refusing to serialize non-leaf tensor which requires_grad"),
        ("function", AttributeError, "Caught AttributeError in DataLoader worker process 1"),
    ],
)
def test_an_error_in_a_worker(what: str, kind: type[Exception], text: str, items: Any) -> None:
    batches = iter(DataLoader(items.Trouble(what=what, at=5), None, num_workers=2))
    assert [next(batches) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(kind) as caught:
        next(batches)
    assert type(caught.value) is kind and text in str(caught.value)
    assert [next(batches) for _ in range(4)] == [6, 7, 8, 9]  # the pass goes on, as in torch


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("kill", r"worker 0 \(pid\(s\) \d+\) exited unexpectedly with exit code -9 \(SIGKILL\)"),
        ("exit", r"worker 0 \(pid\(s\) \d+\) exited unexpectedly with exit code 7"),
    ],
)
@pytest.mark.parametrize("persistent", [True, False])
def test_a_dead_worker_is_an_error_at_once(what: str, text: str, persistent: bool, items: Any) -> None:
    loader = DataLoader(items.Trouble(what=what), num_workers=2, persistent_workers=persistent)
    started = time.monotonic()
    with pytest.raises(RuntimeError, match=text):
        list(loader)
    assert time.monotonic() - started < 4
    assert next(iter(loader)).item() == 0  # the next pass has new workers
    del loader


def test_a_worker_that_is_killed_while_it_waits(items: Any) -> None:
    loader = DataLoader(items.Pids(), num_workers=2, persistent_workers=True)
    os.kill(next(iter(loader)).item(), signal.SIGKILL)
    time.sleep(0.1)
    with pytest.raises(RuntimeError, match=r"worker 0 .* exited unexpectedly with exit code -9"):
        list(loader)


def test_timeout(items: Any) -> None:
    batches = iter(DataLoader(items.Trouble(what="sleep", at=0), None, num_workers=2, timeout=0.3))
    started = time.monotonic()
    with pytest.raises(RuntimeError, match="DataLoader timed out after"):
        [next(batches) for _ in range(10)]
    assert time.monotonic() - started < 3


def test_worker_init_fn(items: Any) -> None:
    assert [b.item() for b in DataLoader(items.Lengths(), num_workers=2, worker_init_fn=items.mark)][:2] == [1000, 1001]
    batches = iter(DataLoader(items.Lengths(), num_workers=2, worker_init_fn=items.fail))
    assert next(batches).item() == 10
    with pytest.raises(OSError, match=r"Caught OSError in DataLoader worker process 1[\s\S]*no such device"):
        next(batches)


class Local(IterableDataset[int]):
    """In this module, which workers do not find."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"collate_fn": lambda b: b}, "expected a collate_fn that can be pickled"),
        ({"worker_init_fn": lambda i: None}, "expected a worker_init_fn that can be pickled"),
        ({"dataset": [open]}, None),
        ({"dataset": [lambda: None]}, "expected a dataset that can be pickled for the worker processes, found"),
        ({"dataset": [mpigrad.ones(1, requires_grad=True) * 2]}, "Cowardly refusing"),
    ],
)
def test_what_cannot_be_pickled(options: dict[str, Any], text: str | None) -> None:
    loader = DataLoader(**{"dataset": [1], "num_workers": 1, "batch_size": None, **options})
    if text is None:
        assert list(loader) == [open]
        return
    with pytest.raises(pickle.PicklingError, match=text) as caught:
        iter(loader)
    assert str(caught.value).endswith("define it at the top level of a module, or use num_workers=0")


def test_what_cannot_be_unpickled(items: Any) -> None:
    with pytest.raises(RuntimeError, match=r"in DataLoader worker process 0[\s\S]*no such device here"):
        next(iter(DataLoader(items.Gone(), num_workers=1)))


def test_inside_a_worker(items: Any) -> None:
    """One thread for linear algebra besides the one that listens; no MPI, no oracle, no GPU."""
    assert next(iter(DataLoader(items.Inside(), None, num_workers=1))) == [2, "1", ""]


@pytest.mark.parametrize("context", ["spawn", "forkserver", get_context("spawn")])
def test_multiprocessing_context(context: Any) -> None:
    assert [b.item() for b in DataLoader([1, 2], num_workers=1, multiprocessing_context=context)] == [1, 2]
    with pytest.raises(ValueError, match="must not be forked"):
        DataLoader([1], num_workers=1, multiprocessing_context="fork")


def test_more_workers_than_cores() -> None:
    with pytest.warns(UserWarning, match="This DataLoader will create 1000 worker processes in total"):
        DataLoader([1], num_workers=1000)


def test_many_batches_need_no_descriptors(items: Any) -> None:
    """Whoever keeps all batches keeps memory, not open files."""
    before = len(os.listdir("/proc/self/fd"))
    kept = list(DataLoader(TensorDataset(mpigrad.ones(60, 5000)), num_workers=1, persistent_workers=True))
    assert len(kept) == 60 and len(os.listdir("/proc/self/fd")) <= before + 2


def test_the_nursery_is_started_anew_when_it_died(items: Any) -> None:
    loader = DataLoader(items.Pids(), num_workers=1, persistent_workers=True)
    first = next(iter(loader)).item()
    nursery = workers.nursery().process
    nursery.kill()
    nursery.wait()
    assert {b.item() for b in loader} == {first}
    assert len({b.item() for b in DataLoader(items.Pids(), num_workers=2)}) == 2
    os.kill(first, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="exited unexpectedly with exit code None"):
        list(loader)


# --- the end of the program -------------------------------------------------------------------------------------------

SCRIPT = """
import os, signal, sys, time
sys.path.insert(0, {here!r})
import mpigrad, worker_items
from mpigrad.data import DataLoader
{head}
def main():
    loader = DataLoader({dataset}, num_workers=2, persistent_workers={persistent})
    for number, batch in enumerate(loader):
        print(batch, flush=True)
        {body}
{tail}
"""
GUARDED = 'if __name__ == "__main__":\n    main()'


def script(tmp_path: Path, **parts: Any) -> list[str]:
    fields = {"here": str(HERE), "dataset": "worker_items.Pids()", "persistent": True, "head": "", "body": "pass"}
    path = tmp_path / "program.py"
    path.write_text(SCRIPT.format(**{**fields, "tail": GUARDED, **parts}))
    return [sys.executable, str(path)]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("pass", 0),
        ("break", 0),
        ("raise ValueError(3)", 1),
        ("sys.exit(3)", 3),
        ("os._exit(4)", 4),
        ("os.kill(os.getpid(), signal.SIGKILL)", -9),
        ("os.kill(os.getpid(), signal.SIGTERM)", -15),
    ],
)
def test_nothing_outlives_the_program(body: str, code: int, tmp_path: Path) -> None:
    names = set(left_behind())
    dataset = "worker_items.Kinds(), None" if code == 0 else "worker_items.Pids()"
    done = subprocess.run(
        script(tmp_path, body=body, dataset=dataset), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr or code == 1
    if dataset == "worker_items.Pids()":
        pids = {int(line[len("tensor([") : -2]) for line in done.stdout.split("\n") if line}
        assert pids and eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    assert eventually(lambda: set(left_behind()) <= names)  # other tests that run beside these take theirs along


def test_a_busy_worker_ends_with_the_program(tmp_path: Path) -> None:
    """The output is closed when the last process that holds it has ended."""
    arguments = script(tmp_path, dataset="worker_items.Trouble(what='sleep', at=1)", body="os._exit(9)")
    started = time.monotonic()
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 9 and time.monotonic() - started < 15


def test_a_main_module_without_a_guard(tmp_path: Path) -> None:
    done = subprocess.run(script(tmp_path, tail="main()"), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and 'under `if __name__ == "__main__":`' in done.stderr


def test_classes_of_the_main_module(tmp_path: Path) -> None:
    head = "class Here(worker_items.Pids):\n    def __getitem__(self, index):\n        return index * 100"
    arguments = script(tmp_path, head=head, dataset="Here()")
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == [f"tensor([{100 * i}])" for i in range(10)]


def test_a_main_module_that_imports_mpi_starts_none_in_workers(tmp_path: Path) -> None:
    head = "from mpi4py import MPI\nclass Here(worker_items.Pids):\n    def __getitem__(self, index):\n"
    head += "        return MPI.Is_initialized()"
    arguments = script(tmp_path, head=head, dataset="Here()", body="print(MPI.Is_initialized(), flush=True)")
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split()[:2] == ["tensor([False])", "True"]


def test_a_forked_child_of_the_program_leaves_the_workers_alone(items: Any) -> None:
    loader = DataLoader(items.Pids(), num_workers=1, persistent_workers=True)
    first = next(iter(loader)).item()
    if (child := os.fork()) == 0:
        del loader
        os._exit(0)
    os.waitpid(child, 0)
    assert {b.item() for b in loader} == {first}


def test_numpy_arrays_of_a_dataset_are_shared(items: Any) -> None:
    loader = DataLoader(np.arange(30000.0).reshape(30, 1000), None, num_workers=1)
    assert [b.sum().item() for b in loader] == np.arange(30000.0).reshape(30, 1000).sum(1).tolist()
