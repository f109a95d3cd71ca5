#!/usr/bin/env python3
"""How training scales to 1,024 ranks: a model of its cost, fed with measurements, and held against others.

    python scripts/bench/scaling.py [--plot scaling.png] [--save measured.json | --use measured.json]

Measured on two ranks here, each on a core of its own: what copies and messages cost by size, what each transport costs
beside, how much of it a core that computes does not notice, and the parts of training steps. From these the model
(cost.py; docs/scaling.md explains it) tells what all-reduces and training steps take on 2 and 4 ranks, which is
measured too, and with the published figures of a cluster how efficient training is there: a step without reductions
over a step with them, the batch per rank being the same.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from cost import MIB, Cluster, Line, Measured, Step, all_reduce, efficiency, step_seconds
from models import MODELS
from step import MALLOC, machine

SIZES = [2**k for k in (12, 14, 16, 18, 20, 22, 24)]  # bytes
CAPS = [0.25, 1, 25]  # MiB
MEASURED_CAPS = CAPS[1:]
RANKS = [2**k for k in range(3, 11)]
TRANSPORTS = ["shm", "mpi", "hierarchical"]
LIMIT = 600  # seconds that a job may take
Found = dict[str, Any]

# A node of two AMD EPYC 7763 and one Slingshot-11 interface, as in the CPU partition of NERSC's Perlmutter.
NODE_CORES = 2 * 64
NODE_MEMORY = 2 * 204.8e9  # bytes/s, AMD's figure for a socket: 8 channels of DDR4-3200
# Measured with the OSU benchmarks over Slingshot-11 (line rate: 25 GB/s) and published by EESSI, 14 November 2025:
# 2.76 us for one byte; 46,470 MB/s for messages of 4 MiB in both directions together.
FABRIC = Line(latency=2.76e-6, bandwidth=46_470e6 / 2)


def main() -> None:
    """Read the command line; measure or read; print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    trained = f"what is trained (default: all of {', '.join(map(repr, MODELS))})"
    add("--model", choices=MODELS, nargs="+", default=list(MODELS), metavar="NAME", help=trained)
    add("--ranks", type=int, nargs="+", default=[2, 4], help="what to measure, 2 among them (default: 2 4)")
    add("--steps", type=int, default=15, help="of each kind that are measured (default: 15)")
    add("--max-mb", type=float, default=16, help="the largest array that is reduced, in MiB (default: 16)")
    add("--per-node", type=int, nargs="+", default=[8, NODE_CORES], help="ranks on a node there (default: 8 128)")
    add("--plot", type=Path, metavar="FILE", help="draw the predicted efficiency into this picture")
    add("--save", type=Path, metavar="FILE", help="write what was measured into this file")
    add("--use", type=Path, metavar="FILE", help="what an earlier run has saved, instead of measuring")
    options = parser.parse_args()
    if options.use:
        try:
            found = json.loads(options.use.read_text())
        except (OSError, ValueError) as error:
            parser.error(f"--use: expected a file that --save has written, found {options.use} ({error})")
    else:
        if 2 not in options.ranks:
            parser.error(
                f"--ranks: expected 2 among them, whose messages tell what the others cost, found {options.ranks}"
            )
        sizes = [size for size in SIZES if size <= options.max_mb * MIB] or SIZES[:1]
        found = {"machine": machine(), "cores": len(os.sched_getaffinity(0)), "ranks": {}}
        for ranks in options.ranks:
            found["ranks"][str(ranks)] = measure(ranks, sizes, options.model, options.steps)
    if options.save:
        options.save.write_text(json.dumps(found) + "\n")
    here, steps = cluster(found, 2), profiles(found)
    print(f"{found['machine']}\n")
    print(parameters(found))
    print(f"\n{held_against(found, steps)}")
    for per_node in options.per_node:
        print(f"\n{predictions(there(here), steps, per_node)}")
    if options.plot:
        draw(there(here), steps, options.per_node, options.plot)
        print(f"\ndrawn: {options.plot}")


def measure(ranks: int, sizes: list[int], models: list[str], steps: int) -> Found:
    """What scaling_ranks.py finds on so many ranks of this machine."""
    worker = str(Path(__file__).with_name("scaling_ranks.py"))
    launcher = [sys.executable, "-m", "mpigrad.launch.cli", "run", "-n", str(ranks), "--timeout", str(LIMIT)]
    what = ["--sizes", *map(str, sizes), "--caps", *map(str, MEASURED_CAPS), "--steps", str(steps), "--models", *models]
    env = {**os.environ, **MALLOC, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launcher, worker, *what], env=env, stdout=subprocess.PIPE, text=True, timeout=LIMIT + 20)
    if done.returncode:
        sys.exit(f"scaling.py: measuring on {ranks} ranks failed with exit code {done.returncode}")
    found: Found = json.loads(done.stdout.splitlines()[-1])
    return found


def curve(seconds: dict[str, float]) -> Measured:
    """From the keys of JSON, which are strings."""
    return Measured({float(size): value for size, value in seconds.items()})


def cluster(found: Found, ranks: int) -> Cluster:
    """This machine with so many ranks, from what two ranks have measured.

    Only the overhead of a reduction, which is the smallest one's less what the model knows of, is that of so many:
    where ranks take turns on the cores, it is mostly waiting for turns, which no other figure tells.
    """
    two, message = found["ranks"]["2"], curve(found["ranks"]["2"]["message"])
    here = Cluster(
        cores=found["cores"],
        copy=curve(two["copy"]),
        message=message,
        wire=message,
        overhead=dict.fromkeys(TRANSPORTS, 0.0),
        peer=two["peer"],
        hidden=two["hidden"],
    )
    overhead = {}
    for name, seconds in found["ranks"][str(ranks)]["reduce"].items():
        smallest = min(seconds, key=float)
        known = sum(all_reduce(here, name, ranks, float(smallest)))
        overhead[name] = max(0.0, min(seconds[smallest]) - known) / here.turns(ranks)
    return replace(here, overhead=overhead)


def there(here: Cluster) -> Cluster:
    """The cluster whose figures are published, with this machine's cores in it."""
    return replace(here, cores=NODE_CORES, memory=NODE_MEMORY, wire=FABRIC)


def profiles(found: Found) -> dict[str, Step]:
    """By model the parts of a training step."""
    return {name: Step(**measured["profile"]) for name, measured in found["ranks"]["2"]["steps"].items()}


def parameters(found: Found) -> str:
    """What the model is fed with."""
    two = found["ranks"]["2"]
    lines = ["measured on 2 ranks   " + "".join(f"{spoken(float(size)):>10}" for size in two["copy"])]
    for name, label in (("copy", "copy, GB/s"), ("message", "messages, GB/s")):
        rates = [float(size) / two[name][size] / 1e9 for size in two["copy"]]
        lines.append(f"{label:22}" + "".join(f"{rate:10.2f}" for rate in rates))
    lines.append(
        f"a message of nothing: {min(two['message'].values()) * 1e6:.1f} us; a further rank: {two['peer'] * 1e6:.1f} us"
    )
    for name, overhead in cluster(found, 2).overhead.items():
        lines.append(f"{name}: overhead {overhead * 1e6:.0f} us, hidden {two['hidden'][name]:.0%}")
    return "\n".join(lines)


def held_against(found: Found, steps: dict[str, Step]) -> str:
    """Predictions for this machine, what was measured, and by how much the prediction is off from the fastest."""
    lines = [f"{'on this machine, ms':44}{'ranks':>6}{'predicted':>11}{'fastest':>11}{'median':>11}{'error':>8}"]

    def row(what: str, ranks: int, predicted: float, measured: list[float]) -> None:
        times = [predicted, min(measured), median(measured)]
        cells = "".join(f"{seconds * 1e3:11.3f}" for seconds in times)
        lines.append(f"{what:44}{ranks:6}{cells}{predicted / min(measured) - 1:+8.0%}")

    for number, measured in found["ranks"].items():
        ranks, here = int(number), cluster(found, int(number))
        for name, by_size in measured["reduce"].items():
            for size, seconds in list(by_size.items())[1:]:  # the smallest one has told the overhead
                predicted = sum(all_reduce(here, name, ranks, float(size)))
                row(f"all-reduce, {name}, {spoken(float(size))}", ranks, predicted, seconds)
        for model, by_contestant in measured["steps"].items():
            for contestant, seconds in by_contestant["seconds"].items():
                transport, _, cap = contestant.partition(" ")
                if transport == "apart":
                    predicted = here.turns(ranks) * steps[model].seconds
                else:
                    predicted = step_seconds(here, transport, ranks, steps[model], float(cap) * MIB)
                row(f"{model}, {contestant}{' MiB' * bool(cap)}", ranks, predicted, seconds)
    return "\n".join(lines)


def predictions(there: Cluster, steps: dict[str, Step], per_node: int) -> str:
    """Efficiency by transport, bucket size and number of ranks; the two numbers are without and with offload."""
    lines = [
        f"predicted efficiency, {per_node} ranks on a node: with nothing and with all of the time between nodes hidden"
    ]
    for model, step in steps.items():
        total = sum(size for size, _ in step.gradients)
        lines.append(f"{model}: step {step.seconds * 1e3:.1f} ms, gradients {total / MIB:.1f} MiB")
        lines.append(f"{'transport':14}{'bucket, MiB':>12}" + "".join(f"{ranks:>11}" for ranks in RANKS))
        for name in TRANSPORTS:
            for cap in CAPS:
                cells = [cell(there, name, ranks, step, cap, per_node) for ranks in RANKS]
                lines.append(f"{name:14}{cap:12g}" + "".join(f"{text:>11}" for text in cells))
    return "\n".join(lines)


def bounds(there: Cluster, name: str, ranks: int, step: Step, cap: float, per_node: int) -> tuple[float, float]:
    """Efficiency when a core is busy with what its node sends, and when the interface does it alone."""
    busy, free = (
        efficiency(replace(there, offload=offload), name, ranks, step, cap * MIB, per_node) for offload in (0.0, 1.0)
    )
    return busy, free


def cell(there: Cluster, name: str, ranks: int, step: Step, cap: float, per_node: int) -> str:
    """Both bounds, one number where they are equal, a dash where the transport does not reach."""
    if name == "shm" and ranks > per_node:
        return "-"
    busy, free = (f"{value:.2f}" for value in bounds(there, name, ranks, step, cap, per_node))
    return free if busy == free else f"{busy}-{free}"


def spoken(size: float) -> str:
    """A number of bytes for people."""
    return f"{size / MIB:g} MiB" if size >= MIB else f"{size / 1024:g} KiB"


def draw(there: Cluster, steps: dict[str, Step], nodes: list[int], path: Path) -> None:
    """A panel for each model and kind of node, a line for each transport and bucket size. Needs the extra `plot`."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        sys.exit("scaling.py: --plot needs matplotlib: pip install 'mpigrad[plot]'")
    figure = Figure(figsize=(5.5 * len(nodes), 3 * len(steps) + 0.5), layout="constrained")
    axes: Any = figure.subplots(len(steps), len(nodes), squeeze=False, sharex=True, sharey=True)
    for row, (model, step) in zip(axes, steps.items(), strict=True):
        for panel, per_node in zip(row, nodes, strict=True):
            for color, name in enumerate(TRANSPORTS):
                ranks = [n for n in RANKS if name != "shm" or n <= per_node]
                for cap, style in zip(CAPS, (":", "--", "-"), strict=True):
                    both = [bounds(there, name, n, step, cap, per_node) for n in ranks]
                    busy, free = zip(*both, strict=True)
                    label, above = f"{name}, {cap:g} MiB", 3 - 0.1 * color  # shm ends early, on top of hierarchical
                    panel.plot(ranks, free, f".{style}", color=f"C{color}", label=label, zorder=above)
                    if cap == CAPS[-1]:
                        panel.fill_between(ranks, busy, free, color=f"C{color}", alpha=0.15)
            panel.set_xscale("log", base=2)
            panel.set_xticks(RANKS, map(str, RANKS))
            panel.grid(alpha=0.3)
            panel.set_title(f"{model}, {per_node} ranks on a node", fontsize=9)
        row[0].set_ylabel("predicted efficiency")
    for panel in axes[-1]:
        panel.set_xlabel("ranks")
        panel.set_ylim(0, 1.02)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
