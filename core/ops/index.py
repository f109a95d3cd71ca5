"""Reading and writing by index: everything that NumPy's indexing takes, with Tensors as indices too."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..autograd import Node, Variable, edge, record, record_view, thread
from ..backend import Array, add_at, array_module, is_array
from ..dtypes import FLOATING
from .inplace import check_in_place, remember
from .pointwise import cast, sum_to, where
from .shape import cannot_expand

# fmt: off
__all__ = [

]
# fmt: on


def _raw(index: Any) -> Any:
    """The index with arrays in the place of Tensors and lists, and ints in the place of scalars."""
    if isinstance(index, tuple):
        return tuple(_raw(i) for i in index)
    if isinstance(index, Variable):
        data = index.array
        if data.dtype.kind in FLOATING:
            raise IndexError("tensors used as indices must be long, int, byte or bool tensors")
        if data.dtype == np.uint8:  # PyTorch's masks from before it had bool
            return data.astype(bool)
        return data if data.ndim or data.dtype.kind == "b" else int(data)
    return np.asarray(index, dtype=None if index else np.int64) if isinstance(index, list) else index


def _is_basic(index: Any) -> bool:
    """Whether NumPy answers with a view: ints, slices, None and Ellipsis only."""
    parts = index if isinstance(index, tuple) else (index,)
    basic = (slice, int, np.integer, type(None), type(Ellipsis))
    return all(isinstance(part, basic) and not isinstance(part, bool) for part in parts)


def _is_int(part: Any) -> bool:
    return isinstance(part, (int, np.integer)) and not isinstance(part, bool)


def _place(x: Array, raw: Any) -> tuple[Array, Any]:
    """A view of x and an index into it that together mean x[raw] as PyTorch reads it.

    Beside arrays NumPy takes an int for one more array, which may move dimensions; PyTorch selects by the ints first.
    """
    if not isinstance(raw, tuple) or not any(map(_is_int, raw)) or not any(map(is_array, raw)):
        return x, raw
    first: list[Any] = []
    rest: list[Any] = []
    for part in raw:
        if is_array(part):
            first += [slice(None)] * (part.ndim if part.dtype.kind == "b" else 1)
            rest.append(part)
        else:
            first.append(part)
            rest += [] if _is_int(part) else [part if part is Ellipsis else slice(None)]
    return x[tuple(first)], tuple(rest)


def getitem(input: Any, index: Any) -> Any:
    """input[index]; a view for ints and slices. IndexError with the size and the index when out of range."""
    x, raw = input.array, _raw(index)
    shape = x.shape
    if not _is_basic(raw):
        return record("IndexBackward0", _read(x, raw), (input, lambda g, raw: put(g, shape, raw), raw))
    simple = _is_int(raw) or (isinstance(raw, tuple) and any(map(_is_int, raw)))
    name = "SelectBackward0" if simple else "UnsqueezeBackward0" if raw is None else "SliceBackward0"
    if simple:  # a full integer index gives NumPy a scalar: with the ellipsis it stays a view of the memory
        raw = raw if isinstance(raw, tuple) else (raw,)
        raw = raw if Ellipsis in raw else (*raw, ...)
    return record_view(name, lambda a: _read(a, raw), input, lambda g: put(g, shape, raw, basic=True))


def _read(x: Any, raw: Any) -> Any:
    if isinstance(x, Variable):
        return getitem(x, raw)
    try:
        place, rest = _place(x, raw)
        return place[rest]
    except IndexError as error:
        raise IndexError(_explain(x, raw, error)) from None


def _explain(x: Array, raw: Any, error: IndexError) -> str:
    if x.ndim == 0:
        return "invalid index of a 0-dim tensor. Use `tensor.item()` to convert a 0-dim tensor to a number"
    parts = raw if isinstance(raw, tuple) else (raw,)
    if len([p for p in parts if p is not None and p is not Ellipsis]) > x.ndim:
        return f"too many indices for tensor of dimension {x.ndim}"
    if _is_int(raw):
        return f"index {raw} is out of bounds for dimension 0 with size {x.shape[0]}"
    text = str(error).replace("numpy.newaxis (`None`)", "None")
    return text.replace("axis", "dimension").replace("array", "tensor")


def put(values: Any, shape: tuple[int, ...], index: Any, basic: bool = False) -> Any:
    """Zeros of `shape` with values added at index: the transpose of reading, for arrays and Tensors."""
    g = values.array if isinstance(values, Variable) else values
    g = np.asarray(g) if isinstance(g, np.generic) else g
    target = array_module(g).zeros(shape, g.dtype)
    if basic:
        target[index] = g
    else:
        place, rest = _place(target, index)
        add_at(place, rest, g)
    if not isinstance(values, Variable):
        return target
    return record("PutBackward0", target, (values, lambda g: _read(g, index)))


def setitem(input: Any, index: Any, value: Any) -> None:
    """input[index] = value, in place."""
    check_in_place(input, value)
    raw = _raw(index)
    if isinstance(value, Variable):
        value = cast(value, input.array.dtype)
    new = value.array if isinstance(value, Variable) else value
    try:
        place, rest = _place(input.array, raw)
        place[rest] = new
        input.version[0] += 1
        if thread.recording and (input.needs or (isinstance(value, Variable) and value.needs)):
            kept = array_module(input.array).ones(input.array.shape, bool)
            place, rest = _place(kept, raw)
            place[rest] = False
            edges: list[Any] = [edge(input, lambda g, kept: where(kept, g, 0.0), (kept,), input)] if input.needs else []
            if isinstance(value, Variable) and value.needs:
                shape = new.shape
                extra = len(shape) - _read(kept, raw).ndim  # leading dimensions of size 1, if any
                core = shape[max(extra, 0) :]
                edges.append(edge(value, lambda g, raw: sum_to(_read(g, raw), core).reshape(shape), (raw,), input))
            remember(input, Node("CopySlices" if _is_basic(raw) else "IndexPutBackward0", tuple(edges)))
    except IndexError as error:
        raise IndexError(_explain(input.array, raw, error)) from None
    except ValueError:
        found, target = np.shape(new), _read(input.array, raw).shape
        raise RuntimeError(
            cannot_expand(found, target)
            if _is_basic(raw)
            else f"shape mismatch: value tensor of shape {list(found)} cannot be broadcast to indexing result of shape "
            f"{list(target)}"
        ) from None
