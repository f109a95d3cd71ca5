"""The largest and the smallest elements, and where they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import return_types
from ..autograd import RESULT, Variable, record, wrap
from .along import picked, placed
from .compare import isnan
from .elementwise import maximum, minimum
from .reduce import Dim, axes_of, kept, spread
from .shape import normalize_dim

# fmt: off
__all__ = [
    "amax", "amin", "aminmax", "argmax", "argmin", "max", "min",
]
# fmt: on


def amax(input: Any, dim: Dim = None, keepdim: bool = False) -> Any:
    """The largest elements; equal ones share the gradient evenly."""
    return _extreme("amax", "AmaxBackward0", input, dim, keepdim)


def amin(input: Any, dim: Dim = None, keepdim: bool = False) -> Any:
    """The smallest elements; equal ones share the gradient evenly."""
    return _extreme("amin", "AminBackward0", input, dim, keepdim)


def aminmax(input: Any, *, dim: int | None = None, keepdim: bool = False) -> Any:
    """The smallest and the largest elements as (min, max)."""
    empty = [i for i in axes_of(dim, input.array.ndim) if input.array.shape[i] == 0]
    if empty and dim is None:
        raise RuntimeError(
            "aminmax(): cannot compute aminmax over an empty dimension as the operation has no identity."
        )
    if empty:
        raise IndexError(f"aminmax: Expected reduction dim {empty[0]} to have non-zero size.")
    return return_types.aminmax(*(_extreme(op, "AminmaxBackward0", input, dim, keepdim) for op in ("amin", "amax")))


def _extreme(op: str, name: str, input: Any, dim: Dim, keepdim: bool) -> Any:
    x = input.array
    axes, shape = axes_of(dim, x.ndim), x.shape
    check_not_empty(op, shape, axes, dim)
    value = getattr(x, op[-3:])(axes, keepdims=keepdim)

    if dim is None and op in ("max", "min"):
        return record(name, value, (input, shared, input, RESULT))

    def vjp(g: Any, x: Any, y: Any) -> Any:
        hit = x == y.reshape(kept(shape, axes))
        return spread(g, shape, axes) * hit / hit.sum(axes, dtype=g.dtype).reshape(kept(shape, axes))

    return record(name, value, (input, vjp, input, RESULT))


def shared(g: Any, x: Any, y: Any) -> Any:
    """The gradient of one element y among all x: those equal to it share g evenly, NaN equal to itself."""
    hit = (x == y) | (isnan(x) & isnan(y))
    return g * hit / hit.sum(dtype=g.dtype)


def check_not_empty(op: str, shape: Sequence[int], axes: tuple[int, ...], dim: Dim) -> None:
    """No elements have no largest one."""
    empty = [i for i in axes if shape[i] == 0]
    if empty and (dim is None or dim == () or dim == []):
        text = f"{op}(): Expected reduction dim to be specified for input.numel() == 0."
        if op.startswith("arg"):
            raise IndexError(text)
        raise RuntimeError(f"{text} Specify the reduction dim with the 'dim' argument.")
    if empty:
        raise IndexError(f"{op}(): Expected reduction dim {empty[0]} to have non-zero size.")


def max(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """The largest element of all; with dim the pair (values, indices) along it; with another tensor `maximum`."""
    if isinstance(dim, Variable):
        return maximum(input, dim)
    if dim is None:
        return _extreme("max", "MaxBackward1", input, None, False)
    return return_types.max(*_along("max", "MaxBackward0", input, dim, keepdim))


def min(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """The smallest element of all; with dim the pair (values, indices) along it; with another tensor `minimum`."""
    if isinstance(dim, Variable):
        return minimum(input, dim)
    if dim is None:
        return _extreme("min", "MinBackward1", input, None, False)
    return return_types.min(*_along("min", "MinBackward0", input, dim, keepdim))


def _along(op: str, name: str, input: Any, dim: int, keepdim: bool) -> tuple[Any, Any]:
    x = input.array
    axis = normalize_dim(dim, x.ndim)
    check_not_empty(op, x.shape or (1,), (axis,), dim)
    where = getattr(x, f"arg{op}")(axis, keepdims=True) if x.ndim else np.zeros_like(x, np.int64)
    return chosen(name, input, where, axis, keepdim)


def chosen(name: str, input: Any, where: Any, axis: int, keepdim: bool) -> tuple[Any, Any]:
    """The elements at `where`, one along axis, and `where` as a tensor; without that dimension unless keepdim."""
    if input.array.ndim == 0:
        return record(name, input.array.copy(), (input, lambda g: g)), wrap(where)
    if keepdim:
        return picked(name, input, where, axis), wrap(where)
    x = input.array
    shape, narrow, size = where.shape, where.squeeze(axis), x.shape[axis]
    value = np.take_along_axis(x, where, axis).squeeze(axis)
    vjp = lambda g, where: placed(g.reshape(shape), where, axis, size, True)
    return record(name, value, (input, vjp, where)), wrap(narrow)


def argmax(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The index of the largest element: of all elements flattened, or along dim."""
    return _arg(input, dim, keepdim, "argmax")


def argmin(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The index of the smallest element: of all elements flattened, or along dim."""
    return _arg(input, dim, keepdim, "argmin")


def _arg(input: Any, dim: int | None, keepdim: bool, op: str) -> Any:
    x = input.array
    if x.dtype.kind == "b":
        raise RuntimeError(f"{op}(): does not support bool input")
    axes = axes_of(dim, x.ndim)
    check_not_empty(op, x.shape, axes, dim)
    if dim is not None and x.ndim:
        return wrap(getattr(x, op)(axes[0], keepdims=keepdim))
    value = getattr(x, op)()
    return wrap(np.reshape(value, (1,) * x.ndim) if keepdim else value)
