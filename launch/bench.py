"""`mpigrad bench allreduce`, on the ranks: measure, print a table, draw a picture."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

from tqdm import tqdm

from .. import ddp

MIB = 2**20
SIZES = [2**k for k in range(10, 18, 2)] + [2**k for k in range(18, 31)]  # bytes; from 256 KB on every power of two
Curve = dict[int, dict[str, list[float]]]
"""For each size in bytes: seconds of one reduction by each contestant, one number per round."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """What `mpigrad bench allreduce` takes, beside the number of ranks and the MPI."""
    add = parser.add_argument
    add("--max-mb", type=float, default=256, metavar="MB", help="the largest buffer, in MiB (default: 256)")
    add("--rounds", type=int, default=5, metavar="R", help="how often each contestant has its turn (default: 5)")
    add("--plot", type=Path, metavar="FILE", help="draw bandwidth over size into this picture (PNG, SVG or PDF)")
    add("--json", type=Path, metavar="FILE", help="write the seconds of every round into this file")


def main(argv: list[str] | None = None) -> None:
    """Measure on all ranks; the first one prints, draws and writes."""
    parser = argparse.ArgumentParser(prog="mpigrad bench allreduce")
    arguments(parser)
    options = parser.parse_args(argv)
    ddp.init_process_group()
    sizes = [size for size in SIZES if size <= options.max_mb * MIB]
    curve: Curve = {}
    from ..ddp.comm.bandwidth import COPY  # needs MPI
    from ..ddp.comm.bandwidth import curve as measure

    world = ddp.world()
    first = world.rank == 0
    steps = measure(sizes, options.rounds, world.timeout)
    if first:
        steps = tqdm(steps, "sizes", len(sizes), leave=False)
    for size, seconds in steps:
        curve[size] = seconds
    if not first:
        return
    print(
        f"all-reduce of float32 on {world.size} ranks, GB/s (bytes of the buffer / seconds until the slowest rank ends)"
    )
    print(f"median of {options.rounds} rounds and their range\n")
    print(table(curve, COPY))
    if options.json:
        options.json.write_text(json.dumps({"ranks": world.size, "seconds": curve}, indent=1) + "\n")
    if options.plot:
        draw(curve, world.size, options.plot)
        print(f"\ndrawn: {options.plot}")


def bandwidths(size: int, seconds: list[float]) -> tuple[float, float, float]:
    """Median, smallest and largest in GB/s."""
    rates = [size / 1e9 / s for s in seconds]
    return median(rates), min(rates), max(rates)


def table(curve: Curve, copy: str) -> str:
    """A line per size: every contestant's bandwidth, and how the first transport stands to the two yardsticks.

    The machine's copy bandwidth is that of the largest buffer, which no cache holds.
    """
    names = list(next(iter(curve.values())))
    ours, theirs = names[0], next(name for name in names if name.endswith("Allreduce"))
    machine = bandwidths(max(curve), curve[max(curve)][copy])[0]
    rows: list[tuple[int, list[str], str]] = []
    for size, seconds in curve.items():
        rates = {name: bandwidths(size, values) for name, values in seconds.items()}
        cells = [f"{mid:.3g} ({low:.3g} to {high:.3g})" for mid, low, high in rates.values()]
        beside = f"{rates[ours][0] / rates[theirs][0]:12.2f}{rates[ours][0] / machine:9.2f}"
        rows.append((size, cells, beside))
    width = 2 + max(len(text) for text in itertools.chain(names, *(cells for _, cells, _ in rows)))
    lines = [f"{'size':>8}" + "".join(f"{name:>{width}}" for name in names) + f"{ours + ' x MPI':>12}{'of copy':>9}"]
    lines += [f"{spoken(size):>8}" + "".join(f"{cell:>{width}}" for cell in cells) + end for size, cells, end in rows]
    return "\n".join(
        [*lines, f"the machine's copy bandwidth, all ranks at once ({spoken(max(curve))}): {machine:.2f} GB/s"]
    )


def spoken(size: int) -> str:
    """A number of bytes for people."""
    return f"{size // MIB} MiB" if size >= MIB else f"{size // 1024} KiB"


def draw(curve: Curve, ranks: int, path: Path) -> None:
    """Bandwidth over size, a line per contestant, its range as a band. Needs the extra `plot`."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        sys.exit("mpigrad bench: --plot needs matplotlib: pip install 'mpigrad[plot]'")
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes: Any = figure.subplots()
    sizes = list(curve)
    for name in curve[sizes[0]]:
        rates = [bandwidths(size, curve[size][name]) for size in sizes]
        (line,) = axes.loglog(sizes, [r[0] for r in rates], "o-", markersize=3, label=name)
        axes.fill_between(sizes, [r[1] for r in rates], [r[2] for r in rates], color=line.get_color(), alpha=0.15)
    ticks = [size for size in sizes if size.bit_length() % 2]
    axes.set_xticks(ticks, [spoken(size) for size in ticks], rotation=45)
    axes.minorticks_off()
    axes.set_xlabel("size of the buffer")
    axes.set_ylabel("GB/s")
    axes.set_title(f"All-reduce of float32 on {ranks} ranks")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
