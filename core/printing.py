"""Writes an array as PyTorch writes a tensor, to the last character."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class PrintOptions:
    """How tensors are written; `set_printoptions` sets it."""

    precision: int = 4
    """Digits after the point."""
    threshold: float = 1000
    """A tensor with more elements than this is shortened to the edges of each axis."""
    edgeitems: int = 3
    """Items written at each end of a shortened axis; with 0 the size is written instead."""
    linewidth: int = 80
    """Characters in a line."""
    sci_mode: bool | None = None
    """Whether floats are written with an exponent; None lets their magnitudes decide."""


_PROFILES = {
    "default": PrintOptions(),
    "short": PrintOptions(precision=2, edgeitems=2),
    "full": PrintOptions(threshold=math.inf),
}
_options = _PROFILES["default"]


def set_printoptions(
    precision: int | None = None,
    threshold: float | None = None,
    edgeitems: int | None = None,
    linewidth: int | None = None,
    profile: str | None = None,
    sci_mode: bool | None = None,
) -> None:
    """Sets how tensors are printed, as `torch.set_printoptions` does.

    `profile` ("default", "short" or "full") sets every option and the other arguments refine it. An option left
    out keeps its value, except `sci_mode`, which goes back to None. Raises ValueError for an unknown profile.
    """
    global _options
    if profile is not None and profile not in _PROFILES:
        raise ValueError(f"`profile` (={profile!r}) must be one of {', '.join(map(repr, _PROFILES))}")
    base = _options if profile is None else _PROFILES[profile]
    named = {"precision": precision, "threshold": threshold, "edgeitems": edgeitems, "linewidth": linewidth}
    given: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    _options = replace(base, **given, sci_mode=sci_mode)


def tensor_text(data: Array, *, prefix: str = "tensor(", suffixes: Sequence[str] = ()) -> str:
    """The text PyTorch prints for a tensor that holds `data`.

    `prefix` opens the text; its length is the indent of the lines that follow. `suffixes` come after the numbers
    in PyTorch's order: device=, dtype=, then grad_fn= or requires_grad=. Where brackets and numbers do not tell the
    shape, size= is added to them after device=.
    """
    notes = list(suffixes)
    shape_is_lost = _options.edgeitems == 0 if data.size else data.ndim != 1
    if shape_is_lost:
        notes.insert(sum(note.startswith("device=") for note in notes), f"size={data.shape}")

    text = prefix + _numbers(data, len(prefix))
    # The last line counts for two more than it has, but one that a wrap begins does not: so PyTorch breaks lines.
    used = len(text) - text.rfind("\n") + 1
    for note in notes:
        fits = used + len(note) + 2 <= _options.linewidth
        text += (", " if fits else ",\n" + " " * len(prefix)) + note
        used = (used + 2 if fits else len(prefix)) + len(note)
    return text + ")"


def _numbers(data: Array, indent: int) -> str:
    """Brackets and numbers, for brackets that open in column `indent`."""
    if data.size == 0:
        return "[]"
    edge = _options.edgeitems if data.size > _options.threshold else data.size
    if edge == 0 and data.ndim > 0:
        return "[...]"

    gaps = [length > 2 * edge for length in data.shape]
    for axis, length in enumerate(data.shape):
        if gaps[axis]:
            data = data.take([*range(edge), *range(length - edge, length)], axis)
    values = data if data.dtype.kind in "biu" else data.astype(np.float64)
    write, width = _cell(values)
    columns = max(1, (_options.linewidth - indent - (data.ndim - 1)) // (width + 2))
    return _nested(values.tolist(), gaps, indent, write, columns)


def _nested(values: Any, gaps: list[bool], indent: int, write: Callable[[Any], str], columns: int) -> str:
    """`values` (a number or nested lists of them) in brackets, with an ellipsis amid each axis that has a gap."""
    if not gaps:
        return write(values)
    inner = gaps[1:]
    parts = [_nested(value, inner, indent + 1, write, columns) for value in values]
    if gaps[0]:
        parts.insert(len(parts) // 2, "..." if inner else " ...")
    if not inner:
        parts = [", ".join(parts[start : start + columns]) for start in range(0, len(parts), columns)]
    newlines = "\n" * max(1, len(inner))
    return "[" + f",{newlines}{' ' * (indent + 1)}".join(parts) + "]"


def _cell(values: Array) -> tuple[Callable[[Any], str], int]:
    """How to write one of `values`, and the width PyTorch reckons a column of them to have."""
    if values.dtype.kind != "f":
        width = max(len(str(value)) for value in values.flat)
        return lambda value: str(value).rjust(width), width

    # Zeros, infinities and nans have no say in the format; without other numbers not even `sci_mode` has.
    telling = values[np.isfinite(values) & (values != 0)]
    if not telling.size:
        return _style(whole=True, scientific=False), 1
    whole = bool((telling == np.ceil(telling)).all())
    scientific = _options.sci_mode
    if scientific is None:
        low, high = float(np.abs(telling).min()), float(np.abs(telling).max())
        scientific = high / low > 1000 or high > 1e8 or (low < 1e-4 and not whole)
    style = _style(whole, scientific)
    width = max(len(style(value)) for value in telling.tolist())
    return lambda value: style(value).rjust(width), width


def _style(whole: bool, scientific: bool) -> Callable[[float], str]:
    """A number's own text, not yet aligned: `1.0000e+00`, `1.` or `1.0000`."""
    precision = _options.precision
    if scientific:
        return lambda value: f"{value:.{precision}e}"
    if whole:
        return lambda value: f"{value:.0f}." if math.isfinite(value) else str(value)
    return lambda value: f"{value:.{precision}f}"
