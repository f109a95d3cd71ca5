#!/usr/bin/env python3
"""A training step on two nodes with a slow link between them: gradients reduced during backward, and after it.

    sudo python scripts/bench/two_nodes.py [--ranks 2] [--rate 200mbit] [--delay 1ms] [--rounds 11] [--mpi PREFIX]

The nodes are network namespaces of this machine, see nodes.py. In every round each contestant trains for one step, in
turns: with the reduction of each bucket as soon as its gradients are there; with the same reductions, none of which
begins before backward has ended; and without any. The first two must end with the same parameters, to the last bit.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from mpigrad import ddp, manual_seed, nn
from mpigrad.ddp.comm import Communicator, SingleCommunicator, Work
from mpigrad.launch.mpirun import find_mpi

LIMIT = 300  # seconds that a job may take


class HeldBack(Work):
    """A sum that begins, with all that were held back before and after it, when one of them is waited for."""

    __slots__ = ("begin_all", "begun")

    def __init__(self, communicator: Communicator, name: str, begin_all: Callable[[], None]) -> None:
        super().__init__(communicator, 0, name, lambda: None)
        self.begin_all = begin_all
        self.begun: Work | None = None

    def wait(self, timeout: float | None = None) -> None:
        """Begin, if need be, and wait."""
        if self.begun is None:
            self.begin_all()
        assert self.begun is not None
        self.begun.wait(timeout)


def held_back(communicator: Communicator) -> Communicator:
    """A duplicate whose duplicates begin no sum before one is waited for."""
    outer = communicator.duplicate("held back")
    duplicate = outer.duplicate

    def make(name: str) -> Communicator:
        inner = duplicate(name)
        start, held = inner.weighted_sum_start, []

        def begin_all() -> None:
            for work, arguments in held:
                work.begun = start(*arguments)
            held.clear()

        def hold(*arguments: Any) -> Work:
            held.append((HeldBack(inner, arguments[3], begin_all), arguments))
            return held[-1][0]

        inner.weighted_sum_start = hold  # type: ignore[method-assign]
        return inner

    outer.duplicate = make  # type: ignore[method-assign]
    return outer


def worker(width: int, batch: int, rounds: int) -> None:
    """Train, on every rank; rank 0 prints what was found as one line of JSON."""
    import mpigrad as m

    ddp.init_process_group(timeout=LIMIT)
    world = ddp.world()
    contestants = {"during": world, "after": held_back(world), "without": SingleCommunicator()}
    steps: dict[str, Callable[[], None]] = {}
    models = {}
    for name, communicator in contestants.items():
        manual_seed(0)
        layers = [layer for _ in range(4) for layer in (nn.Linear(width, width), nn.ReLU())]
        models[name] = model = ddp.DistributedDataParallel(
            nn.Sequential(*layers), bucket_cap_mb=1, first_bucket_mb=1, communicator=communicator
        )
        optimizer = m.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        manual_seed(1 + world.rank)
        inputs = m.rand(batch, width)

        def step(model: Any = model, optimizer: Any = optimizer, inputs: Any = inputs) -> None:
            optimizer.zero_grad()
            model(inputs).square().mean().backward()
            optimizer.step()

        step()
        steps[name] = step
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            world.barrier()
            started = time.perf_counter()
            step()
            world.barrier()
            seconds[name].append(time.perf_counter() - started)
    digests = {name: world.all_gather_object(ddp.digest(model.module.state_dict())) for name, model in models.items()}
    if world.rank == 0:
        parameters = sum(p.numel() for p in models["during"].parameters())
        found = {"transport": type(world).__name__, "parameters": parameters, "seconds": seconds, "digests": digests}
        print(json.dumps(found))


def main() -> None:
    """Read the command line; measure; print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--ranks", type=int, default=2, help="ranks on each node (default 2)")
    add("--rate", default="200mbit", help="of the link, in each direction (default 200mbit)")
    add("--delay", default="1ms", help="of the link (default 1ms)")
    add("--rounds", type=int, default=11, help="steps of each contestant (default 11)")
    add("--width", type=int, default=512, help="of the model's four layers (default 512)")
    add("--batch", type=int, default=2048, help="samples on each rank (default 2048)")
    add("--mpi", metavar="PREFIX", help="the MPI to use, as for mpigrad run")
    add("--json", action="store_true", help="print all that was found as one line of JSON instead")
    add("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.width, options.batch, options.rounds)
        return
    from nodes import Nodes, NotPossible

    sizes = ["--width", str(options.width), "--batch", str(options.batch), "--rounds", str(options.rounds)]
    try:
        with Nodes() as nodes:
            link = nodes.slow_down(options.rate, options.delay)
            command, env = nodes.command(find_mpi(options.mpi), options.ranks, [__file__, "--worker", *sizes])
            done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, timeout=LIMIT)
    except NotPossible as error:
        sys.exit(f"two_nodes.py: not possible here: {error}")
    if done.returncode:
        sys.exit(f"two_nodes.py: the job failed with exit code {done.returncode}")
    found = json.loads(done.stdout.splitlines()[-1])
    during, after = (found["digests"][name] for name in ("during", "after"))
    if len({*during, *after}) > 1:
        sys.exit(f"two_nodes.py: expected the same parameters on all ranks, found digests {during} and {after}")
    if options.json:
        print(json.dumps({"link": link, **found}))
        return
    middle = {name: statistics.median(values) for name, values in found["seconds"].items()}
    print(
        f"two nodes of {options.ranks} ranks on {len(os.sched_getaffinity(0))} cores, link {link}, "
        f"{found['transport']}, {found['parameters'] / 1e6:.2f} million parameters, batch {options.batch} a rank"
    )
    for name, text in (("during", "during backward"), ("after", "after backward"), ("without", "no reduction")):
        values = found["seconds"][name]
        print(f"{text:>16}: {middle[name]:.3f} s a step ({min(values):.3f} to {max(values):.3f})")
    hidden = (middle["after"] - middle["during"]) / (middle["after"] - middle["without"])
    print(f"hidden by the overlap: {hidden:.0%} of what the reduction costs; the same parameters, to the last bit")


if __name__ == "__main__":
    main()
