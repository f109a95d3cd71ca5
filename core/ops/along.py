"""Reading and writing one element per place along a dimension: what sorting, extremes and running extremes share."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..autograd import Variable, record
from ..backend import Array, array_module
from .index import put


def grid(where: Array, axis: int) -> tuple[Array, ...]:
    """The full index that reads `where` along axis and every other dimension straight."""
    xp, ndim = array_module(where), where.ndim
    open_grid = [xp.arange(n).reshape((-1,) + (1,) * (ndim - i - 1)) for i, n in enumerate(where.shape)]
    open_grid[axis] = where
    return tuple(open_grid)


def picked(name: str, input: Any, where: Array, axis: int, *, distinct: bool = True) -> Any:
    """The elements of a Tensor or array at the indices `where` along axis; the other dimensions agree.

    distinct: no index occurs twice, so that gradients need not add up.
    """
    if not isinstance(input, Variable):
        return np.take_along_axis(input, where, axis)
    x = input.array
    size = x.shape[axis]
    value = np.take_along_axis(x, where, axis)
    return record(name, value, (input, lambda g, where: placed(g, where, axis, size, distinct), where))


def placed(values: Any, where: Array, axis: int, size: int, distinct: bool) -> Any:
    """Zeros with `size` places along axis, and values (Tensor or array) added at `where`: the transpose of `picked`."""
    v = values.array if isinstance(values, Variable) else values
    shape = v.shape[:axis] + (size,) + v.shape[axis + 1 :]
    if not distinct:
        return put(values, shape, grid(where, axis))
    target = array_module(v).zeros(shape, v.dtype)
    target[grid(where, axis)] = v
    if not isinstance(values, Variable):
        return target
    return record(
        "ScatterBackward0", target, (values, lambda g, where: picked("GatherBackward0", g, where, axis), where)
    )
