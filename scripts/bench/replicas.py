#!/usr/bin/env python3
"""What it costs to prove that replicas are equal: milliseconds per check, per step, and the share at the default.

    mpigrad run -n 2 scripts/bench/replicas.py [--steps 60]

The models of step.py. After each training step the ranks meet and then compare everything, so both are timed in turn
and a check finds the caches as a step leaves them; the figures are medians, the slowest rank's.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import mpigrad.distributed as dist
import numpy as np

import mpigrad

sys.path.insert(0, str(Path(__file__).parent))
from models import MODELS
from step import machine

WARM_UP = 10
EVERY = 100  # steps, the default of DistributedDataParallel(check_every=...)


def measure(name: str, steps: int) -> tuple[float, float, int]:
    """Seconds of a step, seconds of a check, and the bytes that it digests."""
    mpigrad.manual_seed(0)
    task = MODELS[name][1](mpigrad)
    model = dist.DistributedDataParallel(task.model, check_every=0)
    optimizer = task.optimizer(model.parameters())
    stepping, checking = [], []
    for number in range(WARM_UP + steps):
        started = time.perf_counter()
        optimizer.zero_grad()
        mpigrad.nn.functional.cross_entropy(model(task.inputs), task.labels).backward()
        optimizer.step()
        stepped = time.perf_counter()
        dist.barrier()
        met = time.perf_counter()
        dist.check_replicas(model, optimizer)
        if number >= WARM_UP:
            stepping.append(stepped - started)
            checking.append(time.perf_counter() - met)
    seconds = np.array([statistics.median(stepping), statistics.median(checking)])
    dist.world().all_reduce(seconds, "max")
    tensors = [*model.parameters(), *(t for state in optimizer.state.values() for t in state.values() if t is not None)]
    return float(seconds[0]), float(seconds[1]), sum(tensor.array.nbytes for tensor in tensors)


def main() -> None:
    """Measure model by model; rank 0 prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help="timed steps of each model (default 60)")
    options = parser.parse_args()
    dist.init_process_group()
    first = dist.get_rank() == 0
    if first:
        print(f"{dist.get_world_size()} rank(s), each on {machine()}")
        print(f"{'':26}{'MB':>8}{'check, ms':>12}{'step, ms':>12}{f'% at every {EVERY}':>16}")
    for name in MODELS:
        step, check, size = measure(name, options.steps)
        if first:
            share = 100 * check / (EVERY * step)
            print(f"{name:26}{size / 1e6:8.1f}{check * 1e3:12.3f}{step * 1e3:12.2f}{share:16.3f}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
