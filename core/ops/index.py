"""Reading and writing by index: everything that NumPy's indexing takes, with Tensors as indices too."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..autograd import Variable, record, record_view, thread
from ..backend import Array, add_at, array_module, is_array
from .elementwise import sum_to


def _raw(index: Any) -> Any:
    """The index with arrays in the place of Tensors and lists."""
    if isinstance(index, tuple):
        return tuple(_raw(i) for i in index)
    if isinstance(index, Variable):
        data = index.array
        if data.dtype.kind == "f":
            raise IndexError("tensors used as indices must be long, int, byte or bool tensors")
        return data
    return np.asarray(index, dtype=None if index else np.int64) if isinstance(index, list) else index


def _is_basic(index: Any) -> bool:
    """Whether NumPy answers with a view: ints, slices, None and Ellipsis only."""
    parts = index if isinstance(index, tuple) else (index,)
    basic = (slice, int, np.integer, type(None), type(Ellipsis))
    return all(isinstance(part, basic) and not isinstance(part, bool) for part in parts)


def getitem(input: Any, index: Any) -> Any:
    """input[index]; a view for ints and slices. IndexError with the size and the index when out of range."""
    x, raw = input.array, _raw(index)
    basic = _is_basic(raw)
    value = _read(x, raw)
    shape = x.shape
    vjp = lambda g: put(g, shape, raw, basic)
    if basic:
        simple = isinstance(raw, (int, np.integer)) or (isinstance(raw, tuple) and any(isinstance(i, int) for i in raw))
        name = "SelectBackward0" if simple else "UnsqueezeBackward0" if raw is None else "SliceBackward0"
        # a full integer index gives NumPy a scalar: keep it a view of the memory
        view = value if is_array(value) else x[(*(raw if isinstance(raw, tuple) else (raw,)), ...)]
        return record_view(name, view, input, vjp)
    return record("IndexBackward0", value, (input, vjp))


def _read(x: Array, raw: Any) -> Array:
    try:
        return x[raw]
    except IndexError as error:
        raise IndexError(_explain(x, raw, error)) from None


def _explain(x: Array, raw: Any, error: IndexError) -> str:
    parts = raw if isinstance(raw, tuple) else (raw,)
    if len([p for p in parts if p is not None and p is not Ellipsis]) > x.ndim:
        return f"too many indices for tensor of dimension {x.ndim}"
    if isinstance(raw, (int, np.integer)):
        return f"index {raw} is out of bounds for dimension 0 with size {x.shape[0]}"
    return str(error).replace("axis", "dimension").replace("array", "tensor")


def put(values: Any, shape: tuple[int, ...], index: Any, basic: bool = False) -> Any:
    """Zeros of `shape` with values added at index: the transpose of reading, for arrays and Tensors."""
    g = values.array if isinstance(values, Variable) else values
    g = np.asarray(g) if isinstance(g, np.generic) else g
    target = array_module(g).zeros(shape, g.dtype)
    if basic:
        target[index] = g
    else:
        add_at(target, index, g)
    return record("PutBackward0", target, (values, lambda g: g[index])) if isinstance(values, Variable) else target


def setitem(input: Any, index: Any, value: Any) -> None:
    """input[index] = value, in place."""
    check_in_place(input, value)
    raw = _raw(index)
    new = value.array if isinstance(value, Variable) else value
    shape = np.shape(new)
    try:
        if thread.recording and (input.needs or (isinstance(value, Variable) and value.needs)):
            changed = input.array.copy()
            changed[raw] = new
            keep = array_module(changed).ones(changed.shape, bool)
            keep[raw] = False
            terms: list[Any] = [(input, lambda g: g * keep)]
            if isinstance(value, Variable):
                terms.append((value, lambda g: sum_to(g[raw], shape)))
            take_over(input, record("CopySlices", changed, *terms))
        else:
            input.array[raw] = new
            input.version[0] += 1
    except IndexError as error:
        raise IndexError(_explain(input.array, raw, error)) from None
    except ValueError:
        target = list(_read(input.array, raw).shape)
        raise RuntimeError(
            f"shape mismatch: value tensor of shape {list(shape)} cannot be assigned to {target}"
        ) from None


def check_in_place(input: Any, *others: Any) -> None:
    """RuntimeError where changing `input` in place would leave the tape wrong."""
    if not thread.recording:
        return
    if input.needs and input.node is None:
        raise RuntimeError("a leaf Variable that requires grad is being used in an in-place operation.")
    if input._base is not None and (input.needs or any(isinstance(o, Variable) and o.needs for o in others)):
        raise RuntimeError(
            "a view of another tensor is being changed in place while gradients are recorded: expected a tensor with "
            "memory of its own; use the out-of-place form, or do it under no_grad()"
        )


def take_over(input: Any, result: Any) -> Any:
    """Give `input` the values and the history of `result`: the second half of an in-place op."""
    if result.array.shape != input.array.shape:
        raise RuntimeError(
            f"output with shape {list(input.array.shape)} doesn't match the broadcast shape {list(result.array.shape)}"
        )
    if result.array.dtype.kind == "f" and input.array.dtype.kind != "f":
        raise RuntimeError(f"result type {result.dtype} can't be cast to the desired output type {input.dtype}")
    input.array[...] = result.array
    input.version[0] += 1
    if result.node is not None:
        input.node, input.needs = result.node, True
    return input
