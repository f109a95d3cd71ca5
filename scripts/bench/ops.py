#!/usr/bin/env python3
"""What one small op costs, gradient recording included: mpigrad beside PyTorch, and NumPy's bare call.

    python scripts/bench/ops.py [--rounds 15]

Tensors of four elements, so that only overhead is measured. The contestants take turns; medians and ranges over the
rounds, in microseconds per call.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import statistics
import timeit
from collections.abc import Callable
from typing import Any

import numpy as np
from step import machine

CALLS = 20_000
OPS: dict[str, Callable[[Any, Any], Any]] = {
    "a + b": lambda a, b: a + b,
    "a * b": lambda a, b: a * b,
    "a * 2.0": lambda a, b: a * 2.0,
    "a.exp()": lambda a, b: a.exp(),
    "a.relu()": lambda a, b: a.relu(),
    "a.sum()": lambda a, b: a.sum(),
    "a.reshape(2, 2)": lambda a, b: a.reshape(2, 2),
    "a[1]": lambda a, b: a[1],
    "a @ b": lambda a, b: a @ b,
    "a.softmax(0)": lambda a, b: a.softmax(0),
}
NUMPY = {"a.exp()": lambda a, b: np.exp(a), "a.relu()": lambda a, b: np.maximum(a, 0), "a.softmax(0)": None}


def main() -> None:
    """Measure in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="how often each op is measured (default 15)")
    rounds = parser.parse_args().rounds
    engines = ["mpigrad"] + (["torch"] if importlib.util.find_spec("torch") else [])
    operands: dict[str, Any] = {"numpy": [np.ones(4, np.float32) for _ in range(2)]}
    for engine in engines:
        T = importlib.import_module(engine)
        operands[engine] = [T.ones(4, requires_grad=True) for _ in range(2)]
    print(f"{machine()}\nmicroseconds per call, float32, 4 elements, recorded for backward: median (min to max)")
    print(f"{'':18}" + "".join(f"{name:>24}" for name in operands))
    medians: dict[str, list[float]] = {name: [] for name in operands}
    for op, call in OPS.items():
        row = f"{op:18}"
        calls = {name: NUMPY.get(op, call) if name == "numpy" else call for name in operands}
        times: dict[str, list[float]] = {name: [] for name in operands}
        for _ in range(rounds):
            for name, function in calls.items():
                if function is not None:
                    a, b = operands[name]
                    seconds = timeit.timeit(lambda f=function, a=a, b=b: f(a, b), number=CALLS)
                    times[name].append(seconds / CALLS * 1e6)
        for name, values in times.items():
            if values:
                medians[name].append(statistics.median(values))
            row += (
                f"{statistics.median(values):9.2f} ({min(values):.2f} to {max(values):.2f})" if values else f"{'-':>24}"
            )
        print(row)
    print(
        f"{'median of the ops':18}" + "".join(f"{statistics.median(values):9.2f}{'':15}" for values in medians.values())
    )
    if "torch" not in engines:
        print("PyTorch is not installed, so nothing is compared: pip install 'mpigrad[oracle]'")


if __name__ == "__main__":
    main()
