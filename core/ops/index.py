"""Reading and writing by index, as PyTorch reads an index.

An index falls into two parts, applied one after the other: ints, slices and None, which make a view; then arrays of
integers and masks, which pick from that view. NumPy takes an int beside arrays for one more array, PyTorch does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from ..autograd import Node, Variable, edge, record, thread
from ..backend import Array, array_module, is_array, sum_rows
from ..dtypes import number_for, of
from .inplace import check_in_place, remember
from .pointwise import cast, sum_to, where
from .shape import cannot_expand
from .slices import view_at

__all__ = ["index_put"]

FULL = slice(None)
INDICES = frozenset(map(np.dtype, (np.int64, np.int32, np.uint8, np.bool_)))  # what tensors of indices may hold
Key = tuple[Any, ...]


def getitem(input: Any, index: Any) -> Any:
    """input[index]; a view for ints, slices and None. IndexError with the size and the index when out of range."""
    try:
        if index.__class__ is int:  # the ellipsis makes NumPy answer with a view where it would give a number
            return view_at("SelectBackward0", input, (index, ...))
        if index.__class__ is slice and index.step is None and input.array.ndim:
            return view_at("SliceBackward0", input, index)
        first, rest, name, tensors = _parsed(input.array, index)
        view = input if rest and name == "AliasBackward0" else view_at(name, input, first)
        return view if not rest else picked("IndexBackward0", view, rest, *tensors)
    except IndexError as error:
        raise _complaint(input.array.shape, index, error) from None


def picked(name: str, input: Any, key: Key, *tensors: Any) -> Any:
    """input[key] for a key of full slices, masks and integer arrays. tensors: where these come from, to be watched."""
    x = input.array
    shape = x.shape
    rows = key[0] if len(key) == 1 and key[0].dtype.kind != "b" else None
    value = x[key] if rows is None else x.take(rows, 0)
    return record(name, value, (input, lambda g, key, *_: put(g, shape, key), key, *tensors))


def _parsed(x: Array, index: Any) -> tuple[Key, Key, str, list[Any]]:
    """The index in its two parts, the name of the node that makes the view, and the tensors in the second part."""
    parts = index if isinstance(index, tuple) or _stands_for_tuple(index) else (index,)
    first: list[Any] = []
    rest: list[Any] = []
    tensors: list[Any] = []
    name, ints, pick, gap = "AliasBackward0", 0, False, -1
    for part in parts:
        kind = part.__class__
        if kind is not int and kind is not slice and part is not None and part is not Ellipsis:
            part = _meaning(part)
            kind = part.__class__
        if kind is int:
            first.append(part)
            name = "SelectBackward0"
            ints += 1
        elif kind is slice:
            if part.step is not None and part.step <= 0:
                raise ValueError("step must be greater than zero" if part.step else "slice step cannot be zero")
            first.append(part)
            rest.append(FULL)
            name = "SliceBackward0" if part != FULL or parts is not index else name
        elif part is None:
            first.append(None)
            rest.append(FULL)
            name = "UnsqueezeBackward0"
        elif part is Ellipsis:
            if gap < 0:
                gap = len(rest)
                first.append(Ellipsis)
        else:
            pick = True
            if kind is bool:  # one more dimension, of which all or nothing is picked
                first.append(None)
                rest.append(np.array([part]))
                name = "UnsqueezeBackward0"
            else:
                array = part.array if isinstance(part, Variable) else part
                mask = array.dtype.kind == "b"
                tensors += [part] if isinstance(part, Variable) else []
                first += [FULL] * (array.ndim if mask else 1)
                rest.append(array)
    if pick:
        if gap >= 0:  # spelled out: NumPy takes an ellipsis for a gap between arrays, even one of no dimensions
            rest[gap:gap] = [FULL] * (x.ndim - ints + first.count(None) - sum(map(_dimensions, rest)))
        while not is_array(rest[-1]):
            rest.pop()
        if not isinstance(x, np.ndarray):
            rest = [array_module(x).asarray(part) if is_array(part) else part for part in rest]
    if gap < 0 and (ints or not first):
        first.append(Ellipsis)
    return tuple(first), tuple(rest) if pick else (), name, tensors


def _stands_for_tuple(index: Any) -> bool:
    """Whether a list means a tuple: PyTorch reads lists that hold anything but numbers so, as NumPy once did."""
    return (
        isinstance(index, list)
        and len(index) < 32
        and any(part is None or part is Ellipsis or isinstance(part, (Sequence, slice, Variable)) for part in index)
    )


def _meaning(part: Any) -> Any:
    """What a part of an index means: None, Ellipsis, a slice, int, bool, or an array or tensor of integers or bools."""
    if isinstance(part, Variable):
        array = part.array
    elif part is None or part is Ellipsis or part.__class__ is int or isinstance(part, slice):
        return part
    elif isinstance(part, (bool, np.bool_)):
        return bool(part)
    elif isinstance(part, np.integer):
        return int(part)
    elif is_array(part):
        array = part
    elif isinstance(part, Sequence) and not isinstance(part, str):
        part = array = np.asarray(part)
        if not array.size:
            part = array = array.astype(np.int64)
    else:
        raise IndexError(
            "only integers, slices (`:`), ellipsis (`...`), None and long or byte Variables are valid indices (got "
            f"{type(part).__name__})"
        )
    if array.dtype not in INDICES:
        raise IndexError("tensors used as indices must be long, int, byte or bool tensors")
    if array.dtype == np.uint8:  # PyTorch's masks from before it had bool
        part = array = array.astype(bool)
    if not array.ndim:
        return array.item()
    return part


def _complaint(shape: tuple[int, ...], index: Any, error: IndexError) -> IndexError:
    """The error in PyTorch's words."""
    parts = index if isinstance(index, tuple) or _stands_for_tuple(index) else (index,)
    try:
        arrays = [p.array if isinstance(p, Variable) else p for p in map(_meaning, parts)]
    except IndexError:
        return error
    takes = [_dimensions(p) for p in arrays]
    if not shape and any(takes):
        if any(isinstance(part, slice) for part in arrays):
            return IndexError("slice() cannot be applied to a 0-dim tensor.")
        return IndexError("invalid index of a 0-dim tensor. Use `tensor.item()` to convert a 0-dim tensor to a number")
    if sum(takes) > len(shape):
        return IndexError(f"too many indices for tensor of dimension {len(shape)}")
    gap = len(shape) - sum(takes)
    ends = accumulate(gap if p is Ellipsis else n for p, n in zip(arrays, takes, strict=True))
    starts = [0, *ends][:-1]
    for place, (part, at) in enumerate(zip(arrays, starts, strict=True)):
        if part.__class__ is int and not -shape[at] <= part < shape[at]:
            return IndexError(f"index {part} is out of bounds for dimension {place} with size {shape[at]}")
    selected = [at for part, at in zip(arrays, starts, strict=True) if part.__class__ is int]
    viewed = [n for at, n in enumerate(shape) if at not in selected]
    picks = 0
    for part, at in zip(arrays, starts, strict=True):
        if not is_array(part):
            picks += part.__class__ is bool
        elif part.dtype.kind == "b":
            for k, length in enumerate(part.shape):
                if length != shape[at + k]:
                    return IndexError(
                        f"The shape of the mask {list(part.shape)} at index {k} does not match the shape of the "
                        f"indexed tensor {viewed} at index {at + k}"
                    )
            picks += part.ndim
        else:
            wrong = part[(part < -shape[at]) | (part >= shape[at])]
            if wrong.size and not shape[at]:
                return IndexError("index is out of bounds for dimension with size 0")
            if wrong.size:
                return IndexError(f"index {wrong[0]} is out of bounds for dimension {picks} with size {shape[at]}")
            picks += 1
    shapes: list[list[int]] = []
    for part in arrays:
        if part.__class__ is bool:
            shapes.append([int(part)])
        elif is_array(part):
            shapes += [[int(part.sum())]] * part.ndim if part.dtype.kind == "b" else [list(part.shape)]
    return IndexError(
        "shape mismatch: indexing tensors could not be broadcast together with shapes " + ", ".join(map(str, shapes))
    )


def _dimensions(part: Any) -> int:
    """How many dimensions a part of an index takes."""
    if part is None or part is Ellipsis or part.__class__ is bool:
        return 0
    return part.ndim if is_array(part) and part.dtype.kind == "b" else 1


def put(values: Any, shape: tuple[int, ...], key: Key) -> Any:
    """Zeros of `shape` with values added at key (full slices, masks, integer arrays): the transpose of picking."""
    g = values.array if isinstance(values, Variable) else values
    g = np.asarray(g) if isinstance(g, np.generic) else g
    arrays = [part for part in key if is_array(part)]
    if len(arrays) == 1 and arrays[0].dtype.kind == "b":  # a mask names nothing twice
        target = array_module(g).zeros(shape, g.dtype)
        target[key] = g
    else:
        target = _summed(g, shape, key)
    return record("PutBackward0", target, (values, lambda g: g[key])) if isinstance(values, Variable) else target


def _summed(g: Array, shape: tuple[int, ...], key: Key) -> Array:
    """As put: the indexed dimensions, brought to the front and numbered as one, so that rows are what is summed."""
    full, places = _by_dimension(key, len(shape))
    arrays = array_module(g).broadcast_arrays(*[full[i] for i in places])
    ndim, together = arrays[0].ndim, all(b == a + 1 for a, b in pairwise(places))
    if together and places[0]:
        g = np.moveaxis(g, range(places[0], places[0] + ndim), range(ndim))
    rest = [n for i, n in enumerate(shape) if i not in places]
    rows: Any = 0
    count = 1
    for i, index in zip(places, arrays, strict=True):
        rows = rows * shape[i] + np.where(index < 0, index + shape[i], index).astype(np.int64)
        count *= shape[i]
    width = g.shape[ndim:]
    sums = sum_rows(rows.reshape(-1), g.reshape(rows.size, *width), count)
    sums = sums.reshape([shape[i] for i in places] + rest)
    return np.moveaxis(sums, range(len(places)), places) if places != list(range(len(places))) else sums


def _by_dimension(key: Key, ndim: int) -> tuple[list[Any], list[int]]:
    """The key with one part per dimension (masks as the indices of what they keep), and where arrays are in it."""
    full: list[Any] = []
    for part in key:
        full += part.nonzero() if is_array(part) and part.dtype.kind == "b" else [part]
    full += [FULL] * (ndim - len(full))
    return full, [i for i, part in enumerate(full) if is_array(part)]


def setitem(input: Any, index: Any, value: Any) -> None:
    """input[index] = value, in place."""
    try:
        first, rest, _, _ = _parsed(input.array, index)
        place = input.array[first]
    except IndexError as error:
        raise _complaint(input.array.shape, index, error) from None
    check_in_place(input, value, part=not rest and place.shape != input.array.shape)
    if isinstance(value, Variable):
        if rest and not (value.array.size == 1 and len(rest) == 1 and getattr(rest[0], "dtype", None) == np.bool_):
            _check_dtypes(input.array.dtype, value.array.dtype)  # of all but one value for what a mask shows
        value = cast(value, input.array.dtype)
    elif not isinstance(value, (int, float, np.generic, list, tuple)) and not is_array(value):
        kind = of(input.array.dtype).title
        raise TypeError(f"can't assign a {type(value).__name__} to a mpigrad.{kind}Tensor")
    new = value.array if isinstance(value, Variable) else value
    if isinstance(value, (int, float)) and input.array.dtype.kind == "u":
        new = number_for(input.array.dtype, value)
    try:
        place[rest or ...] = new
        input.version[0] += 1
        if thread.recording and (input.needs or (isinstance(value, Variable) and value.needs)):
            kept = array_module(input.array).ones(input.array.shape, bool)
            kept[first][rest or ...] = False
            edges: list[Any] = [edge(input, lambda g, kept: where(kept, g, 0.0), (kept,), input)] if input.needs else []
            if isinstance(value, Variable) and value.needs:
                towards = lambda g, shape: _shrunk(g[first][rest or ...], shape)
                edges.append(edge(value, towards, (new.shape,), input))
            remember(input, Node("IndexPutBackward0" if rest else "CopySlices", tuple(edges)))
    except IndexError as error:
        raise _complaint(input.array.shape, index, error) from None
    except ValueError:
        found, target = np.shape(new), place[rest or ...].shape
        raise RuntimeError(
            f"shape mismatch: value tensor of shape {list(found)} cannot be broadcast to indexing result of shape "
            f"{list(target)}"
            if rest
            else cannot_expand(found, target)
        ) from None


def _check_dtypes(destination: np.dtype[Any], source: np.dtype[Any]) -> None:
    if source != destination:
        raise RuntimeError(
            f"Index put requires the source and destination dtypes match, got {of(destination).title} for the "
            f"destination and {of(source).title} for the source."
        )


def _shrunk(g: Any, shape: tuple[int, ...]) -> Any:
    """Undo broadcasting to g's shape from `shape`, which may have more dimensions, of size 1."""
    extra = max(len(shape) - len(g.shape), 0)
    return sum_to(g, shape[extra:]).reshape(shape)


def index_put(input: Any, indices: Sequence[Any], values: Any, accumulate: bool = False) -> Any:
    """A copy with values at input[indices] (a tuple of index tensors); added there, also repeatedly, if accumulate."""
    if isinstance(indices, Variable):
        raise TypeError("index_put(): argument 'indices' (position 1) must be tuple of Tensors, not Tensor")
    _check_dtypes(input.array.dtype, values.array.dtype)
    try:
        _, key, _, tensors = _parsed(input.array, tuple(indices))
        return replaced("IndexPutBackward0", input, key, values, *tensors, add=accumulate)
    except IndexError as error:
        raise _complaint(input.array.shape, tuple(indices), error) from None


def replaced(name: str, input: Any, key: Key, values: Any, *tensors: Any, add: bool = False) -> Any:
    """A copy of input with values (a tensor or a number) written at key, or added there. tensors: to be watched."""
    x = input.array
    new = values.array if isinstance(values, Variable) else values
    try:
        if add:
            value = x + put(np.broadcast_to(new, x[key].shape), x.shape, key)
        else:
            value = x.copy()
            value[key] = new
    except ValueError:
        raise RuntimeError(
            f"shape mismatch: value tensor of shape {list(np.shape(new))} cannot be broadcast to indexing result of "
            f"shape {list(x[key].shape)}"
        ) from None
    terms: list[Any] = [(input, lambda g, key, *_: g if add else cleared(g, key), key, *tensors)]
    if isinstance(values, Variable):
        shape = new.shape
        terms.append((values, lambda g, key, *_: _shrunk(g[key], shape), key, *tensors))
    return record(name, value, *terms)


def cleared(g: Any, key: Key) -> Any:
    """g with 0 at key."""
    if isinstance(g, Variable):
        return record("ClearBackward0", cleared(g.array, key), (g, lambda g: cleared(g, key)))
    g = g.copy()
    g[key] = 0
    return g
