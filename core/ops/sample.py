"""Images read at arbitrary places, and the places of an affine map."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..autograd import wrap
from ..backend import Array, array_module
from ..dtypes import HALVES, SINGLE, of
from .along import picked
from .elementwise import clamp
from .interpolate import CUBIC
from .pointwise import cast, where

__all__ = ["affine_grid", "grid_sample"]

MODES, PADDING_MODES = ("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection")


def affine_grid(theta: Any, size: Sequence[int], align_corners: bool | None = None) -> Any:
    """The places that grid_sample needs to map images of shape `size`, (N, C, H, W) or (N, C, D, H, W), by theta.

    theta: one matrix (2, 3) or (3, 4) per image, N of them. ValueError for shapes that do not go together.
    """
    n, outs = len(size) - 2, tuple(size)[2:]
    if theta.array.dtype.kind in "iub":
        raise ValueError(f"Expected theta to have floating point type, but got {of(theta.array.dtype)}")
    if n not in (2, 3):
        raise NotImplementedError(
            "affine_grid only supports 4D and 5D sizes, for 2D and 3D affine transforms, respectively. "
            f"Got size {tuple(size)}."
        )
    if theta.array.ndim != 3 or theta.array.shape[1:] != (n, n + 1):
        raise ValueError(
            f"Expected a batch of {n}D affine matrices of shape Nx{n}x{n + 1} for size {tuple(size)}. "
            f"Got {theta.shape}."
        )
    if min(size) < 1:
        raise ValueError(f"Expected non-zero, positive output size. Got {tuple(size)}")
    if theta.array.shape[0] != size[0]:
        raise RuntimeError(f"Expected {size[0]} matrices, one for each image, but got {theta.array.shape[0]}")
    steps = [np.linspace(-1, 1, m) if m > 1 else np.zeros(1) for m in outs]
    if not align_corners:
        steps = [step * ((m - 1) / m) for step, m in zip(steps, outs, strict=True)]
    places = np.meshgrid(*steps, indexing="ij")[::-1]  # the last dimension's coordinate comes first
    base = np.stack([p.ravel() for p in places] + [np.ones(math.prod(outs))], -1)
    points = wrap(array_module(theta.array).asarray(base, theta.array.dtype)) @ theta.mT
    return points.reshape((size[0], *outs, n))


def grid_sample(
    input: Any,
    grid: Any,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Any:
    """Images (N, C, H, W) or (N, C, D, H, W) read at the places grid (N, ..., 2 or 3), with (x, y) in -1 to 1.

    mode: "bilinear" (trilinear of volumes), "nearest" or "bicubic". padding_mode says what lies outside: "zeros",
    "border" (the nearest element) or "reflection". align_corners: -1 and 1 are the centres of the corner elements,
    else their outer edges.
    """
    x, places = input.array, grid.array
    for name, value, known in (("mode", mode, MODES), ("padding_mode", padding_mode, PADDING_MODES)):
        if value not in known:
            *most, last = [f"'{v}'" for v in known]
            comma = "," if name == "padding_mode" else ""
            raise ValueError(
                f"nn.functional.grid_sample(): expected {name} to be {', '.join(most)}{comma} or {last}, but got: "
                f"'{value}'"
            )
    _check(x, places, mode)
    if x.dtype in HALVES:  # rounded once
        return cast(grid_sample(cast(input, SINGLE), cast(grid, SINGLE), mode, padding_mode, align_corners), x.dtype)
    n, lead, outs = x.ndim - 2, x.shape[:2], places.shape[1:-1]
    xp, size, count = array_module(x), x.shape[2:], math.prod(outs)
    flat = input.reshape((*lead, math.prod(size)))
    # for each dimension the neighbours that count, as (index, whether it lies inside, weight), weights on the tape
    neighbours = []
    for dim, m in enumerate(size):
        place = grid[..., n - 1 - dim].reshape((lead[0], 1, count))
        place = (place + 1) * ((m - 1) / 2) if align_corners else ((place + 1) * m - 1) * 0.5
        if mode != "bicubic":
            place = _inside(place, m, padding_mode, align_corners)
        first = np.rint(place.array) if mode == "nearest" else np.floor(place.array)
        taps = []
        for step in range(-1, 3) if mode == "bicubic" else range(2 if mode == "bilinear" else 1):
            at = first + step
            if mode == "bicubic":
                at = _inside(wrap(at), m, padding_mode, align_corners).array
            kept = (at >= 0) & (at < m)
            weight = _weight(place - wrap(first), step, mode)
            taps.append((xp.where(kept, at, 0).astype(np.int64), kept, weight))
        neighbours.append(taps)
    total: Any = None
    for corner in itertools.product(*neighbours):
        index, kept, weight = corner[0]
        for (i, inside, w), m in zip(corner[1:], size[1:], strict=True):
            index, kept, weight = index * m + i, kept & inside, weight * w
        index = np.broadcast_to(index, (*lead, count))
        part = picked("GatherBackward0", flat, index, 2, distinct=False) * where(wrap(kept), weight, 0.0)
        total = part if total is None else total + part
    return total.reshape((*lead, *outs))


def _weight(after: Any, step: int, mode: str) -> Any:
    """The weight of the line `step` lines on, for a place `after` the first one."""
    if mode == "nearest":
        return after * 0 + 1
    if mode == "bilinear":
        return after if step else 1 - after
    distance = after + 1 if step == -1 else after if step == 0 else step - after
    if step in (0, 1):
        return ((CUBIC + 2) * distance - (CUBIC + 3)) * distance * distance + 1
    return CUBIC * (((distance - 5) * distance + 8) * distance - 4)


def _inside(place: Any, size: int, padding_mode: str, align_corners: bool | None) -> Any:
    """Places moved into the image, as the padding mode says; as they are for zeros."""
    if padding_mode == "zeros":
        return place
    if padding_mode == "reflection":
        low, span = (0.0, size - 1.0) if align_corners else (-0.5, float(size))
        if not span:
            return place * 0
        distance = (place - low).abs()
        flips = np.floor(distance.array / span)
        back = wrap((flips % 2 == 1).astype(place.array.dtype))
        distance = distance - wrap(flips * span)  # since the last end, counted from the other one after an odd flip
        place = distance * (1 - 2 * back) + (back * span + low)
    return clamp(place, 0, size - 1)


def _check(x: Array, places: Array, mode: str) -> None:
    n = x.ndim - 2
    both = f"but got input with sizes {list(x.shape)} and grid with sizes {list(places.shape)}"
    if x.dtype != places.dtype:
        raise RuntimeError(f"expected scalar type {of(x.dtype)} but found {of(places.dtype)}")
    if x.shape[:1] != places.shape[:1]:
        raise RuntimeError(f"grid_sampler(): expected grid and input to have same batch size, {both}")
    if places.shape[-1] != n:
        raise RuntimeError(
            f"grid_sampler(): expected grid to have size {n} in last dimension, but got grid with sizes "
            f"{list(places.shape)}"
        )
    if n not in (2, 3) or places.ndim != x.ndim:
        raise RuntimeError(f"grid_sampler(): expected {x.ndim}D input and grid with same number of dimensions, {both}")
    for dim, m in enumerate(x.shape[2:], 2):
        if not m:
            raise RuntimeError(
                "grid_sampler(): expected input to have non-empty spatial dimensions, but input has sizes "
                f"{list(x.shape)} with dimension {dim} being empty"
            )
    if mode == "bicubic" and n != 2:
        raise RuntimeError("grid_sampler(): bicubic interpolation only supports 4D input")
    if x.dtype.kind in "iub":
        raise NotImplementedError(f'"grid_sample" not implemented for {of(x.dtype)} tensors')
