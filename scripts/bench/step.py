#!/usr/bin/env python3
"""Training steps per second, mpigrad beside PyTorch, on one rank and on two.

    python scripts/bench/step.py [--rounds 7] [--ranks 1 2] [--model NAME] [--shards 8]

Four models unless one is named. Every process computes with one thread. The contestants take turns, round by round,
each in fresh processes; the table gives the median over the rounds and the range. Both run with the same malloc
settings and bound to a core each; PyTorch's DistributedDataParallel reduces over gloo. "apart" is mpigrad with as many
ranks that reduce nothing: what the machine allows, as its cores share caches, memory and clock. "shards" is mpigrad
with --shards parts of each global batch, which any number of ranks computes to the same bits. What the wrapper costs is
measured on one rank, where it has nothing to do: in one process the model alone and the wrapped one take turns, block
by block. Without PyTorch only mpigrad is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from models import MODELS, Task

WARM_UP, BLOCKS = 10, 10
BLOCK_SECONDS = 0.2  # a block is as many steps as fit
# large temporaries stay in the process instead of going back to the kernel after every op
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}


def worker(engine: str, model_name: str, shards: int) -> None:
    """Train on random data and, on rank 0, print the samples per second of all ranks; one code for both engines."""
    T: Any
    if engine == "torch":
        import torch as T
        import torch.distributed as dist
        from torch.nn.parallel import DistributedDataParallel

        T.set_num_threads(1)
        if int(os.environ["WORLD_SIZE"]) > 1:
            dist.init_process_group("gloo")
        rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    else:
        import mpigrad.distributed as dist
        from mpigrad.distributed import DistributedDataParallel

        import mpigrad as T

        dist.init_process_group()
        rank, ranks = dist.get_rank(), dist.get_world_size()

    batch, make = MODELS[model_name]
    T.manual_seed(0)
    task = make(T)
    model = task.model
    if engine == "wrapped":
        other = make(T)
        print(json.dumps(added(training(T, task, model), training(T, other, DistributedDataParallel(other.model)))))
        return
    if engine == "shards":
        model = DistributedDataParallel(model, shards=shards)
    elif ranks > 1 and engine != "apart":
        model = DistributedDataParallel(model)
    step = training(T, task, model)
    steps = T.tensor(max(1.0, BLOCK_SECONDS / warm_up(step)))
    if ranks > 1 and engine != "apart":
        dist.all_reduce(steps)  # the ranks have to run equally many
        steps /= ranks
    count = int(steps.item())
    rates = []
    for _ in range(BLOCKS):
        rates.append(count * batch * ranks / block(step, count))
    if rank == 0:
        print(json.dumps(statistics.median(rates)))


def training(T: Any, task: Task, model: Any) -> Callable[[], None]:
    """What takes one training step."""
    optimizer = task.optimizer(model.parameters())

    def step() -> None:
        optimizer.zero_grad()
        loss = T.nn.functional.cross_entropy(model(task.inputs), task.labels)
        loss.backward()
        optimizer.step()

    return step


def block(step: Callable[[], None], count: int) -> float:
    """The seconds of so many steps."""
    started = time.perf_counter()
    for _ in range(count):
        step()
    return time.perf_counter() - started


def warm_up(step: Callable[[], None]) -> float:
    """The seconds of the last of some steps."""
    block(step, WARM_UP - 1)
    return block(step, 1)


def added(plain: Callable[[], None], wrapped: Callable[[], None]) -> float:
    """By how many percent the wrapped step takes longer: the median over many short blocks in turns."""
    warm_up(plain)
    count = max(1, int(BLOCK_SECONDS / 4 / warm_up(wrapped)))
    return 100 * statistics.median(block(wrapped, count) / block(plain, count) - 1 for _ in range(4 * BLOCKS))


def measure(engine: str, ranks: int, model_name: str, shards: int) -> float:
    """Samples per second of one fresh set of processes; of "wrapped" percent."""
    command = [sys.executable, __file__, "--worker", engine, "--model", model_name, "--shards", str(shards)]
    env = {**os.environ, **MALLOC, "OMP_NUM_THREADS": "1"}
    if engine != "torch" and ranks > 1:
        launcher = [sys.executable, "-m", "mpigrad.launch.cli", "run", "-n", str(ranks), "--timeout", "120"]
        done = subprocess.run([*launcher, *command[1:]], env=env, capture_output=True, text=True, timeout=180)
        output, code, errors = done.stdout, done.returncode, done.stderr
    else:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        cores = sorted(os.sched_getaffinity(0))
        processes = [
            subprocess.Popen(
                command,
                env={**env, "RANK": str(r), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                preexec_fn=lambda r=r: os.sched_setaffinity(0, {cores[r % len(cores)]}),
            )
            for r in range(ranks)
        ]
        outputs = [process.communicate(timeout=180) for process in processes]
        output, errors = outputs[0]
        code = max(process.returncode for process in processes)
    if code:
        sys.exit(f"step.py: {engine} on {ranks} rank(s) failed with exit code {code}:\n{errors}")
    return float(json.loads(output))


def machine() -> str:
    """What these figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())
    parts = [name, f"{len(os.sched_getaffinity(0))} core(s)", f"Python {platform.python_version()}"]
    for package in ("numpy", "numba", "torch"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            parts.append(f"{package} {importlib.metadata.version(package)}")
    return ", ".join(parts)


def main() -> None:
    """Read the command line; measure model by model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="how often each contestant is measured (default 7)")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="numbers of ranks (default 1 2)")
    trained = f"what is trained (default: all of {', '.join(map(repr, MODELS))})"
    parser.add_argument("--model", choices=MODELS, nargs="+", default=list(MODELS), metavar="NAME", help=trained)
    parser.add_argument("--shards", type=int, default=0, help="also measure training in so many shards")
    parser.add_argument("--worker", choices=["mpigrad", "apart", "shards", "torch", "wrapped"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, options.model[0], options.shards)
        return
    print(machine())
    for model in options.model:
        compare(model, options.ranks, options.rounds, options.shards)


def compare(model: str, ranks: list[int], rounds: int, shards: int) -> None:
    """Measure one model in turns and print its table."""
    engines = ["mpigrad", *["shards"] * bool(shards), *["torch"] * bool(importlib.util.find_spec("torch"))]
    contests = [(engine, n) for n in ranks for engine in (*engines, *["apart"] * (n > 1))]
    rates: dict[tuple[str, int], list[float]] = {contest: [] for contest in contests}
    costs: list[float] = []
    print(f"\n{model}, batch {MODELS[model][0]} per rank, one thread per rank, samples/s")
    for number in range(rounds):
        for contest in contests:
            rates[contest].append(measure(*contest, model, shards))
        costs.append(measure("wrapped", 1, model, shards))
        print(f"round {number + 1} of {rounds} done", end="\r", file=sys.stderr, flush=True)
    print(" " * 30, end="\r", file=sys.stderr, flush=True)
    print(f"{'':10}{'ranks':>6}{'median':>10}{'min':>10}{'max':>10}{'x own 1 rank':>14}{'x PyTorch':>11}")
    middle = {contest: statistics.median(values) for contest, values in rates.items()}
    for (engine, n), values in rates.items():
        scaling = middle[engine, n] / middle["mpigrad" if engine == "apart" else engine, ranks[0]]
        beside = f"{middle[engine, n] / middle['torch', n]:11.2f}" if "torch" in engines else ""
        print(
            f"{engine:10}{n:6}{middle[engine, n]:10,.0f}{min(values):10,.0f}{max(values):10,.0f}{scaling:14.2f}{beside}"
        )
    middling, least, most = statistics.median(costs), min(costs), max(costs)
    print(f"DistributedDataParallel on one rank adds {middling:.1f} % to a step ({least:.1f} to {most:.1f})")
    if "torch" not in engines:
        print("PyTorch is not installed, so nothing is compared: pip install 'mpigrad[oracle]'")


if __name__ == "__main__":
    main()
