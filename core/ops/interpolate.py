"""Images at other resolutions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..backend import Array
from ..dtypes import of
from .pool import adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d
from .resample import Lines, read_lines

__all__ = ["interpolate"]

# the number of spatial dimensions that a mode is for, and PyTorch's name for it
SMOOTH = {"linear": (1, "Linear1D"), "bilinear": (2, "Bilinear2D"), "bicubic": (2, "Bicubic2D")}
SMOOTH |= {"trilinear": (3, "Trilinear3D"), "lanczos": (2, "Lanczos2D")}
NEAREST = {"nearest": "Nearest", "nearest-exact": "NearestExact"}
MODES = "nearest | linear | bilinear | bicubic | trilinear | lanczos | area | nearest-exact"
CUBIC = -0.75  # the slope parameter of the kernel
# for antialias: how far a mode's kernel reaches, and its weight at a distance up to that
KERNELS: dict[str, tuple[int, Callable[[Array], Array]]] = {
    "bilinear": (1, lambda d: 1 - d),
    "bicubic": (2, lambda d: _keys(d, -0.5)),
    "lanczos": (3, lambda d: np.sinc(d) * np.sinc(d / 3)),
}


def interpolate(
    input: Any,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Any:
    """Images (N, C, ...) of 1 to 3 spatial dimensions at another size, or enlarged by scale_factor.

    mode: "nearest", "nearest-exact", "linear", "bilinear", "trilinear", "bicubic" (Keys, 1981), "lanczos" (Duchon,
    1979) or "area". align_corners: the centres of the corner elements stay in place, else the outer edges. With
    recompute_scale_factor the scale is that of the rounded sizes. antialias: where an image shrinks the kernel widens,
    so that every old line counts ("bilinear" and "bicubic"; "lanczos" is always so). ValueError or
    NotImplementedError for what does not go together.
    """
    x = input.array
    n = x.ndim - 2
    if n not in (1, 2, 3) or mode not in (*NEAREST, *SMOOTH, "area"):
        raise NotImplementedError(
            f"Input Error: Only 3D, 4D and 5D input Tensors supported (got {x.ndim}D) for the modes: {MODES} (got "
            f"{mode})"
        )
    if align_corners is not None and mode not in SMOOTH:
        raise ValueError(
            "align_corners option can only be set with the interpolating modes: linear | bilinear | bicubic | trilinear"
        )
    if mode in SMOOTH and SMOOTH[mode][0] != n:
        raise NotImplementedError(f"Got {x.ndim}D input, but {mode} mode needs {SMOOTH[mode][0] + 2}D input")
    if antialias and (mode not in KERNELS or n != 2):
        raise ValueError(
            "Anti-alias option is restricted to bilinear, bicubic, and lanczos modes and requires a 4-D tensor as input"
        )
    if mode == "lanczos" and (align_corners or not antialias):
        wrong = "does not support align_corners=True" if align_corners else "requires antialias=True"
        raise ValueError(f"Lanczos mode {wrong}")
    outs, scales = _sizes(x.shape[2:], size, scale_factor, bool(recompute_scale_factor))
    if mode == "area":
        return (adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d)[n - 1](input, outs)
    if min(outs) < 1 or 0 in x.shape[2:]:
        raise RuntimeError(
            f"Input and output sizes should be greater than 0, but got input {list(x.shape[2:])} and output "
            f"{list(outs)}"
        )
    if 0 in x.shape[1:]:
        raise RuntimeError(f"Non-empty {x.ndim}D data tensor expected but got a tensor with sizes {list(x.shape)}")
    if x.dtype.kind in "iub" and (mode in SMOOTH or x.dtype != np.uint8):
        raise NotImplementedError(f'"interpolate" in mode {mode} not implemented for {of(x.dtype)} tensors')
    lines = []
    for dim, (m, out, scale) in enumerate(zip(x.shape[2:], outs, scales, strict=True), 2):
        if mode in NEAREST:
            lines.append(Lines(dim, m, _nearest(m, out, scale, 0.5 if mode == "nearest-exact" else 0.0)))
        elif antialias:
            step = _step(m, out, scale, bool(align_corners))
            lines.append(Lines(dim, m, *_wide(m, (np.arange(out) + 0.5) * step, max(step, 1.0), *KERNELS[mode])))
        else:
            taps = _cubic if mode == "bicubic" else _linear
            lines.append(Lines(dim, m, *taps(m, _sources(m, out, scale, bool(align_corners)))))
    name = SMOOTH[mode][1] if mode in SMOOTH else f"{NEAREST[mode]}{n}D"
    return read_lines(f"Upsample{name}{'Aa' * antialias}Backward0", input, lines)


def _sizes(
    shape: tuple[int, ...], size: Any, scale_factor: Any, recompute: bool
) -> tuple[tuple[int, ...], tuple[float | None, ...]]:
    """The sizes that are asked for, and for each dimension the factor, if that is what was given."""
    n = len(shape)
    if (size is None) == (scale_factor is None):
        raise ValueError(f"{'either' if size is None else 'only one of'} size or scale_factor should be defined")
    given, name = (size, "output size") if scale_factor is None else (scale_factor, "scale_factor")
    values = tuple(given) if isinstance(given, Sequence) else (given,) * n
    if len(values) != n:
        end, letter = ("of", "o") if name == "output size" else ("of shape", "s")
        raise ValueError(
            f"Input and {name.split()[0]} must have the same number of spatial dimensions, but got input with spatial "
            f"dimensions of {list(shape)} and {name} {end} {values}. Please provide input tensor in (N, C, d1, d2, "
            f"...,dK) format and {name} in ({letter}1, {letter}2, ...,{letter}K) format."
        )
    if scale_factor is None:
        if recompute:
            raise ValueError("recompute_scale_factor is not meaningful with an explicit size.")
        return values, (None,) * n
    outs = tuple(math.floor(m * factor) for m, factor in zip(shape, values, strict=True))
    return outs, (None,) * n if recompute else values


def _nearest(size: int, out: int, scale: float | None, shift: float) -> Array:
    """The line that each new one copies, computed in float32 as PyTorch does: the rounding decides."""
    step = np.float32(1 / scale) if scale else np.float32(size) / np.float32(out)
    places = np.floor((np.arange(out, dtype=np.float32) + np.float32(shift)) * step)
    return np.minimum(places.astype(np.int64), size - 1)[None]


def _sources(size: int, out: int, scale: float | None, align_corners: bool) -> Array:
    """Where the centres of the new lines lie among the old ones."""
    step = _step(size, out, scale, align_corners)
    return np.arange(out) * step if align_corners else (np.arange(out) + 0.5) * step - 0.5


def _step(size: int, out: int, scale: float | None, align_corners: bool) -> float:
    """From a new line to the next, in old lines."""
    if align_corners:
        return (size - 1) / (out - 1) if out > 1 else 0.0
    return 1 / scale if scale else size / out


def _linear(size: int, source: Array) -> tuple[Array, Array]:
    """The two lines around each place, and their weights."""
    source = np.clip(source, 0, size - 1)
    first = np.minimum(source.astype(np.int64), size - 1)
    after = source - first
    return np.stack([first, np.minimum(first + 1, size - 1)]), np.stack([1 - after, after])


def _cubic(size: int, source: Array) -> tuple[Array, Array]:
    """The four lines around each place, and their weights."""
    first = np.floor(source).astype(np.int64)
    distance = np.abs(source - first - np.arange(-1, 3)[:, None])
    return np.clip(first + np.arange(-1, 3)[:, None], 0, size - 1), _keys(distance, CUBIC)


def _keys(distance: Array, slope: float) -> Array:
    """The cubic convolution kernel of Keys, 1981, at distances up to 2."""
    near = ((slope + 2) * distance - (slope + 3)) * distance**2 + 1
    far = slope * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, far)


def _wide(size: int, centre: Array, width: float, reach: int, kernel: Callable[[Array], Array]) -> tuple[Array, Array]:
    """The lines whose own centres lie within width * reach of each place, and their weights, of sum 1."""
    first = np.maximum((centre - width * reach + 0.5).astype(np.int64), 0)
    end = np.minimum((centre + width * reach + 0.5).astype(np.int64), size)
    index = first + np.arange((end - first).max())[:, None]
    distance = np.minimum(np.abs(index - centre + 0.5) / width, reach)
    weight = np.where(index < end, kernel(distance), 0.0)
    return np.minimum(index, size - 1), weight / weight.sum(0)
