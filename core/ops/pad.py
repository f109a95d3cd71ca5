"""Padding: with a number, or with the image's own elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..autograd import Variable, record
from .resample import Lines, read_lines
from .windows import Padding, padded

__all__ = ["pad"]

# which element stands at place i of a dimension of size n, for i before and behind it too
MODES: dict[str, Any] = {
    "reflect": lambda i, n: n - 1 - np.abs(n - 1 - np.abs(i)),
    "replicate": lambda i, n: np.clip(i, 0, n - 1),
    "circular": lambda i, n: i % n,
}
NAMES = {"reflect": "ReflectionPad{}DBackward0", "replicate": "ReplicationPad{}DBackward0", "circular": "CopySlices"}


def pad(input: Any, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    """More elements around the last dimensions: `pad` says how many (before, after) the last, the one before it, ...

    mode: "constant" (with value, 0), "reflect", "replicate" or "circular". Negative numbers cut elements off.
    RuntimeError or NotImplementedError for numbers that do not fit the input's dimensions.
    """
    x = input.array
    if len(pad) % 2:
        raise RuntimeError("Padding length must be divisible by 2")
    if len(pad) > 2 * x.ndim:
        raise RuntimeError(
            "Padding length should be less than or equal to two times the input dimension but got padding length "
            f"{len(pad)} and input of dimension {x.ndim}"
        )
    ends = [(pad[i], pad[i + 1]) for i in range(len(pad) - 2, -1, -2)]
    shape = x.shape[x.ndim - len(ends) :]
    if mode == "constant":
        if any(n + min(before, 0) + min(after, 0) < 0 for n, (before, after) in zip(shape, ends, strict=True)):
            raise RuntimeError("narrow(): length must be non-negative.")
        return _constant(input, ends, value or 0)
    if value:
        raise RuntimeError(f'Padding mode "{mode}" doesn\'t take in value argument')
    if mode not in MODES:
        raise NotImplementedError(f"Unrecognised padding mode {mode}")
    n = len(ends)
    if n not in (1, 2, 3) or x.ndim not in (n + 1, n + 2):
        raise NotImplementedError(
            f"Padding size {len(pad)} is not supported for {x.ndim}D input tensor.\n"
            "Supported combinations for non-constant padding:\n"
            "  - 2D or 3D input: padding size = 2 (pads last dimension)\n"
            "  - 3D or 4D input: padding size = 4 (pads last 2 dimensions)\n"
            "  - 4D or 5D input: padding size = 6 (pads last 3 dimensions)"
        )
    if mode != "circular" and 0 in x.shape[x.ndim - n - 1 :]:
        raise RuntimeError(f"Expected an input where only the batch may be empty, but got: {list(x.shape)}")
    lines = []
    for dim, (size, (before, after)) in enumerate(zip(shape, ends, strict=True), x.ndim - n):
        left, total = size + min(before, 0) + min(after, 0), size + before + after
        if (total < 0 or left < 1 <= total) if mode == "circular" else total < 1:
            raise RuntimeError(f"Padding {before, after} leaves nothing of dimension {dim} of input {list(x.shape)}")
        if mode == "reflect" and max(before, after) >= size:
            raise RuntimeError(
                "Argument #4: Padding size should be less than the corresponding input dimension, but got: padding "
                f"({before}, {after}) at dimension {dim} of input {list(x.shape)}"
            )
        if mode == "circular" and max(before, after) > size:
            raise RuntimeError("Padding value causes wrapping around more than once.")
        if before or after:
            # what is cut off does not come round again
            first, end = (max(-before, 0), size + min(after, 0)) if mode == "circular" else (0, size)
            index = first + MODES[mode](np.arange(-before, size + after) - first, end - first)
            lines.append(Lines(dim, size, index[None]))
    return read_lines(NAMES[mode].format(n), input, lines)


def _constant(x: Any, ends: Padding, value: float = 0) -> Any:
    if isinstance(x, Variable):
        back = [(-before, -after) for before, after in ends]
        y = _constant(x.array, ends, value)
        y = y.copy() if y is x.array else y
        return record("ConstantPadNdBackward0", y, (x, lambda g: _constant(g, back)))
    return padded(x, ends, value)
