"""Loops in machine code for float32 in host memory, compiled by numba at first use: NumPy would take many passes.

`backend.kernels` decides whether they are used; each op has its NumPy way beside them. Loops over elements have no
branches and let the compiler fuse products with sums, but reorder nothing, so an element's result does not depend on
its place. Only sums over a row are reordered, in the same way for every row of a length.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from .ops.erf import BEND, LOG_ODDS

Array = Any
F = np.float32
ZERO, HALF, ONE = F(0), F(0.5), F(1)
P0, P1, P2, P3, P4, P5, P6 = map(F, LOG_ODDS)
DENSITY = F(1 / math.sqrt(2 * math.pi))
BEND0, BEND1 = map(F, BEND)
LOG2_E = F(math.log2(math.e))
# ln 2 as a number of few bits, products with which are exact, and the rest (Cody and Waite, 1980)
LN2_HIGH, LN2_LOW = F(0.693359375), F(math.log(2) - 0.693359375)


def compiled(*fastmath: str) -> Callable[[Any], Any]:
    """njit with what else the compiler may do, cached on disk where there is a place for it."""

    def decorate(function: Any) -> Any:
        allowed = {"contract", *fastmath}
        try:
            return njit(cache=True, fastmath=allowed, error_model="numpy")(function)
        except RuntimeError:  # neither this folder nor the user's can be written to
            return njit(fastmath=allowed, error_model="numpy")(function)

    return decorate


@compiled()
def _exp(x: Any) -> Any:
    """exp(x) to 2e-7: 2^n times the Taylor polynomial of the rest, below ln 2 / 2; 0 and inf beyond float32."""
    x = min(max(x, F(-88)), F(89))  # where n + 127 is 0 and 255, the exponents of 0 and inf
    n = np.floor(x * LOG2_E + HALF)
    r = x - n * LN2_HIGH
    r = r - n * LN2_LOW
    p = F(1 / 720) * r + F(1 / 120)
    p = p * r + F(1 / 24)
    p = p * r + F(1 / 6)
    p = p * r + HALF
    p = p * (r * r) + r + ONE
    power = np.int32((np.int32(n) + np.int32(127)) << np.int32(23))
    return p * power.view(np.float32)


@compiled()
def gelu(x: Array, y: Array, slope: Array) -> None:
    """y = gelu(x) and its slope, of vectors: see activation.py and erf.py for the formulas."""
    for i in range(x.size):
        v = x[i]
        square = v * v
        p = P6 * square + P5
        p = p * square + P4
        p = p * square + P3
        p = p * square + P2
        p = p * square + P1
        p = p * square + P0
        gate = ONE / (ONE + _exp(-v * p))
        y[i] = v * gate
        slope[i] = gate + v * DENSITY * _exp(-HALF * square)


@compiled()
def gelu_tanh(x: Array, y: Array, slope: Array) -> None:
    """As gelu, in the approximation by a tanh."""
    for i in range(x.size):
        v = x[i]
        square = v * v
        gate = ONE / (ONE + _exp(-v * (BEND0 + BEND1 * square)))
        y[i] = v * gate
        slope[i] = gate + v * gate * (ONE - gate) * (BEND0 + F(3) * BEND1 * square)


@compiled()
def silu(x: Array, y: Array, slope: Array) -> None:
    """y = silu(x) and its slope, of vectors."""
    for i in range(x.size):
        gate = ONE / (ONE + _exp(-x[i]))
        y[i] = x[i] * gate
        slope[i] = gate * (ONE + x[i] - y[i])


@compiled()
def only(x: Array, kept: Array, out: Array) -> None:
    """out = x where kept, else 0, of vectors."""
    for i in range(x.size):
        out[i] = x[i] if kept[i] else ZERO


@compiled()
def only_above(x: Array, y: Array, out: Array) -> None:
    """out = x where y > 0 or NaN, else 0, of vectors."""
    for i in range(x.size):
        out[i] = ZERO if y[i] <= ZERO else x[i]


@compiled()
def copy_windows(images: Array, places: Array, rows: Array, columns: Array) -> None:
    """The windows of images (b, C, elements) as columns (C, places, b, rows, windows in a row).

    places: where a window's elements lie in an image, rows: where a row of windows begins, which lie side by side.
    """
    for c in range(images.shape[1]):
        for p in range(places.size):
            for i in range(images.shape[0]):
                for r in range(rows.size):
                    source, target = images[i, c, rows[r] + places[p] :], columns[c, p, i, r]
                    for j in range(target.size):
                        target[j] = source[j]


@compiled()
def add_windows(columns: Array, places: Array, rows: Array, images: Array) -> None:
    """Columns added to the windows of images, laid out as for `copy_windows`."""
    for i in range(images.shape[0]):
        for c in range(images.shape[1]):
            for p in range(places.size):
                for r in range(rows.size):
                    source, target = columns[c, p, i, r], images[i, c, rows[r] + places[p] :]
                    for j in range(source.size):
                        target[j] += source[j]


@compiled()
def add_to_places(g: Array, place: Array, places: Array, rows: Array, stride: int, images: Array) -> None:
    """Each of g (planes, rows, windows in a row) added to one place in its window of images (planes, elements).

    place: which of the places, places and rows: as for `copy_windows`, stride: from a window to the next in its row.
    """
    for i in range(g.shape[0]):
        for r in range(rows.size):
            target = images[i, rows[r] :]
            for j in range(g.shape[2]):
                target[j * stride + places[place[i, r, j]]] += g[i, r, j]


@compiled("reassoc")
def normalize(
    x: Array, scale: Array, shift: Array, eps: float, centred: bool, out: Array, unit: Array, spread: Array
) -> None:
    """Rows of x at mean 0 (if centred) and mean square 1: as unit, and times scale plus shift as out."""
    rows, count = x.shape
    for i in range(rows):
        mean = ZERO
        if centred:
            for j in range(count):
                mean += x[i, j]
            mean /= F(count)
        square = ZERO
        for j in range(count):
            square += (x[i, j] - mean) * (x[i, j] - mean)
        factor = ONE / np.sqrt(square / F(count) + F(eps))
        spread[i, 0] = factor
        for j in range(count):
            u = (x[i, j] - mean) * factor
            unit[i, j] = u
            out[i, j] = u * scale[j] + shift[j]


@compiled("reassoc")
def normalize_vjp(
    g: Array, unit: Array, spread: Array, scale: Array, centred: bool, out: Array, to_scale: Array, to_shift: Array
) -> None:
    """What flows from g to x (as out), and is added to what flows to scale and shift."""
    rows, count = g.shape
    for i in range(rows):
        along, level = ZERO, ZERO
        for j in range(count):
            to_shift[j] += g[i, j]
            to_scale[j] += g[i, j] * unit[i, j]
            along += g[i, j] * scale[j] * unit[i, j]
            level += g[i, j] * scale[j]
        along /= F(count)
        level = level / F(count) if centred else ZERO
        factor = spread[i, 0]
        for j in range(count):
            out[i, j] = (g[i, j] * scale[j] - unit[i, j] * along - level) * factor
