"""Joining tensors into one, and cutting one into several (which are views of it)."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..autograd import Node, Variable, record, wrap
from ..backend import array_module, to_host
from ..dtypes import get_default_dtype
from .pointwise import cast, promoted
from .shape import atleast_1d, atleast_2d, atleast_3d, expand, normalize_dim
from .slices import view_at

# fmt: off
__all__ = [
    "block_diag", "cartesian_prod", "cat", "chunk", "column_stack", "combinations", "concat", "concatenate", "dsplit",
    "dstack", "hsplit", "hstack", "meshgrid", "row_stack", "split", "split_with_sizes", "stack", "tensor_split",
    "unbind", "vsplit", "vstack",
]
# fmt: on


def cat(tensors: Sequence[Any], dim: int = 0) -> Any:
    """Tensors joined along an existing dimension; all other dimensions must agree. Shape [0] goes with every shape."""
    if len(tensors) == 0:
        raise ValueError("mpigrad.cat(): expected a non-empty list of Tensors")
    parts = _common_dtype("cat", tensors)
    parts = [p for p in parts if p.array.shape != (0,)] or parts[:1]
    first = parts[0].array.shape
    axis = normalize_dim(dim, len(first))
    for i, part in enumerate(parts):
        shape = part.array.shape
        if not shape:
            raise RuntimeError(f"zero-dimensional tensor (at position {i}) cannot be concatenated")
        if len(shape) != len(first):
            raise RuntimeError(f"Tensors must have same number of dimensions: got {len(first)} and {len(shape)}")
        for expected, found in zip(first[:axis] + first[axis + 1 :], shape[:axis] + shape[axis + 1 :], strict=True):
            if found != expected:
                raise RuntimeError(
                    f"Sizes of tensors must match except in dimension {axis}. Expected size {expected} but got size "
                    f"{found} for tensor number {i} in the list."
                )
    ends = np.cumsum([p.array.shape[axis] for p in parts]).tolist()
    pieces = [
        (slice(None),) * axis + (slice(end - p.array.shape[axis], end),) for p, end in zip(parts, ends, strict=True)
    ]
    value = array_module(parts[0].array).concatenate([p.array for p in parts], axis)
    return record("CatBackward0", value, *[(p, lambda g, at=at: g[at]) for p, at in zip(parts, pieces, strict=True)])


def stack(tensors: Sequence[Any], dim: int = 0) -> Any:
    """Tensors of one shape joined along a new dimension."""
    if len(tensors) == 0:
        raise RuntimeError("stack expects a non-empty TensorList")
    parts = _common_dtype("stack", tensors)
    for i, part in enumerate(parts):
        if part.array.shape != parts[0].array.shape:
            raise RuntimeError(
                f"stack expects each tensor to be equal size, but got {list(parts[0].array.shape)} at entry 0 "
                f"and {list(part.array.shape)} at entry {i}"
            )
    axis = normalize_dim(dim, parts[0].array.ndim + 1)
    value = array_module(parts[0].array).stack([p.array for p in parts], axis)
    before = (slice(None),) * axis
    return record("StackBackward0", value, *[(p, lambda g, i=i: g[(*before, i)]) for i, p in enumerate(parts)])


concat = concatenate = cat


def hstack(tensors: Sequence[Any]) -> Any:
    """Tensors joined side by side: along dimension 1, vectors along dimension 0."""
    parts = _at_least("hstack", tensors, atleast_1d)
    return cat(parts, 0 if parts[0].array.ndim == 1 else 1)


def vstack(tensors: Sequence[Any]) -> Any:
    """Tensors joined on top of each other, vectors as rows."""
    return cat(_at_least("vstack", tensors, atleast_2d), 0)


row_stack = vstack


def dstack(tensors: Sequence[Any]) -> Any:
    """Tensors joined along the third dimension."""
    return cat(_at_least("dstack", tensors, atleast_3d), 2)


def column_stack(tensors: Sequence[Any]) -> Any:
    """As hstack, vectors as columns."""
    columns = lambda v: v if v.array.ndim > 1 else v.reshape(-1, 1)
    return cat(_at_least("column_stack", tensors, columns), 1)


def _at_least(name: str, tensors: Sequence[Any], deepen: Callable[[Any], Any]) -> list[Any]:
    if len(tensors) == 0:
        raise RuntimeError(f"{name} expects a non-empty TensorList")
    return [deepen(tensor) for tensor in tensors]


def block_diag(*tensors: Any) -> Any:
    """A matrix with these matrices along its diagonal and 0 elsewhere; vectors and scalars count as rows."""
    for i, tensor in enumerate(tensors):
        if tensor.array.ndim > 2:
            raise RuntimeError(
                "mpigrad.block_diag: Input tensors must have 2 or fewer dimensions. "
                f"Input {i} has {tensor.array.ndim} dimensions"
            )
    if not tensors:
        return wrap(np.zeros((1, 0), get_default_dtype().numpy))
    parts = _common_dtype("block_diag", [atleast_2d(tensor) for tensor in tensors])
    ends = np.cumsum([part.array.shape for part in parts], 0).tolist()
    blocks = [
        tuple(slice(end - n, end) for end, n in zip(corner, part.array.shape, strict=True))
        for corner, part in zip(ends, parts, strict=True)
    ]
    value = array_module(parts[0].array).zeros(ends[-1], parts[0].array.dtype)
    for part, block in zip(parts, blocks, strict=True):
        value[block] = part.array
    terms = [(part, lambda g, block=block: g[block]) for part, block in zip(parts, blocks, strict=True)]
    return record("BlockDiagBackward0", value, *terms)


def meshgrid(*tensors: Any, indexing: str = "ij") -> tuple[Any, ...]:
    """The coordinates of a grid from those along each of its axes (vectors or scalars): views of one shape.

    indexing: "ij", or "xy", which exchanges the first two dimensions.
    """
    axes = list(tensors[0] if len(tensors) == 1 and not isinstance(tensors[0], Variable) else tensors)
    if not axes:
        raise RuntimeError("meshgrid expects a non-empty TensorList")
    for axis in axes:
        if axis.array.ndim > 1:
            raise RuntimeError(
                f"mpigrad.meshgrid: Expected 0D or 1D tensor in the tensor list but got: {list(axis.shape)}"
            )
        if axis.array.dtype != axes[0].array.dtype:
            raise RuntimeError("meshgrid expects all tensors to have the same dtype")
    if indexing not in ("ij", "xy"):
        raise RuntimeError(f'mpigrad.meshgrid: indexing must be one of "xy" or "ij", but received: {indexing}')
    order = list(range(len(axes)))
    if indexing == "xy" and len(axes) > 1:
        order[:2] = 1, 0
    shape = [axes[i].array.size for i in order]
    place = [order.index(i) for i in range(len(axes))]
    return tuple(
        expand(axis.reshape(tuple(-1 if i == place[k] else 1 for i in range(len(axes)))), shape)
        for k, axis in enumerate(axes)
    )


def cartesian_prod(*tensors: Any) -> Any:
    """All combinations of one element of each vector, as rows, the last vector varying fastest."""
    for tensor in tensors:
        _check_vector(tensor)
    if len(tensors) == 1:
        return tensors[0].view(-1)
    return stack([grid.flatten() for grid in meshgrid(*tensors)], 1)


def combinations(input: Any, r: int = 2, with_replacement: bool = False) -> Any:
    """All selections of r elements of a vector in their order, as rows; with_replacement: also of the same element."""
    _check_vector(input)
    if r < 0:
        raise RuntimeError(f"Expect a non-negative number, but got {r}")
    xp = array_module(input.array)
    if r == 0:
        return wrap(xp.zeros(0, input.array.dtype))
    choose = itertools.combinations_with_replacement if with_replacement else itertools.combinations
    rows = np.array(list(choose(range(input.array.size), r)), np.int64).reshape(-1, r)
    return stack([input[xp.asarray(column)] for column in rows.T], 1)


def _check_vector(input: Any) -> None:
    if input.array.ndim != 1:
        raise RuntimeError(f"Expect a 1D vector, but got shape {list(input.array.shape)}")


def _common_dtype(op: str, tensors: Sequence[Any]) -> list[Any]:
    if isinstance(tensors, Variable):
        raise TypeError(f"{op}(): argument 'tensors' (position 1) must be tuple of Tensors, not Tensor")
    parts = list(tensors)
    for i, part in enumerate(parts):
        if not isinstance(part, Variable):
            raise TypeError(f"expected Tensor as element {i} in argument 0, but got {type(part).__name__}")
    if len({p.array.dtype for p in parts}) > 1:
        widest = parts[0]
        for part in parts[1:]:
            widest, _ = promoted(widest, part)
        parts = [cast(p, widest.array.dtype) for p in parts]
    return parts


# --- cutting ----------------------------------------------------------------------------------------------------------


class _Gradients(dict[int, Any]):
    """The gradients of several views of one tensor on their way to it, by number. Adding collects them."""

    def __add__(self, other: _Gradients) -> _Gradients:
        for i, g in other.items():
            self[i] = self[i] + g if i in self else g
        return self


def _pieces(name: str, input: Any, axis: int, keys: list[Any], join: Any) -> tuple[Any, ...]:
    """The views of all `keys` of one dimension, which together name each element once. join: cat or stack.

    Their gradients meet in one node before they become a gradient of the input: with a node each, n views would cost
    n gradients of the whole input's size.
    """
    before = (slice(None),) * axis
    views = [view_at(name, input, (*before, key, ...)) for key in keys]
    if views and views[0].node is not None:
        shapes = [view.array.shape for view in views]
        joint = Node(name, ((input.node or input, lambda found: _joined(found, shapes, axis, join), (), ()),))
        for i, view in enumerate(views):
            view.node.edges = ((joint, lambda g, i=i: _Gradients({i: g}), (), ()),)
    return tuple(views)


def _joined(found: _Gradients, shapes: list[tuple[int, ...]], axis: int, join: Any) -> Any:
    """The gradient of what was cut, 0 for the pieces that none arrived at."""
    tensors = [g if isinstance(g, Variable) else wrap(g) for g in found.values()]
    like = tensors[0].array
    parts = dict(zip(found, tensors, strict=True))
    missing = {i: wrap(array_module(like).zeros(shapes[i], like.dtype)) for i in range(len(shapes)) if i not in parts}
    whole = join([parts[i] if i in parts else missing[i] for i in range(len(shapes))], axis)
    return whole if isinstance(next(iter(found.values())), Variable) else whole.array


def unbind(input: Any, dim: int = 0) -> tuple[Any, ...]:
    """All positions of a dimension, which goes: a tuple of views."""
    if not input.array.ndim:
        raise IndexError(f"Dimension specified as {dim} but tensor has no dimensions")
    axis = normalize_dim(dim, input.array.ndim)
    return _pieces("UnbindBackward0", input, axis, list(range(input.array.shape[axis])), stack)


def split(tensor: Any, split_size_or_sections: int | Sequence[int], dim: int = 0) -> tuple[Any, ...]:
    """Cut a dimension into pieces of this size (the last may be smaller), or of these sizes: a tuple of views."""
    if not isinstance(split_size_or_sections, int):
        return split_with_sizes(tensor, split_size_or_sections, dim)
    size = split_size_or_sections
    if not tensor.array.ndim:
        raise RuntimeError("split expects at least a 1-dimensional tensor")
    axis = normalize_dim(dim, tensor.array.ndim)
    length = tensor.array.shape[axis]
    if size < 0:
        raise RuntimeError(f"split expects split_size be non-negative, but got split_size={size}")
    if size == 0 and length:
        raise RuntimeError(f"split_size can only be 0 if dimension size is 0, but got dimension size of {length}")
    keys = [slice(i, min(i + size, length)) for i in range(0, max(length, 1), max(size, 1))]
    return _pieces("SplitBackward0", tensor, axis, keys, cat)


def split_with_sizes(input: Any, split_sizes: Sequence[int], dim: int = 0) -> tuple[Any, ...]:
    """Cut a dimension into pieces of these sizes, which must add up to its length: a tuple of views."""
    try:
        widths = [operator.index(n) for n in split_sizes]
    except TypeError:
        raise TypeError(
            f"split_with_sizes(): argument 'split_sizes' (position 2) must be tuple of ints, not "
            f"{type(split_sizes).__name__}"
        ) from None
    axis = normalize_dim(dim, input.array.ndim)
    length = input.array.shape[axis]
    if min(widths, default=0) < 0:
        raise RuntimeError(
            f"split_with_sizes expects split_sizes have only non-negative entries, but got split_sizes={widths}"
        )
    if sum(widths) != length:
        raise RuntimeError(
            f"split_with_sizes expects split_sizes to sum exactly to {length} (input tensor's size at dimension "
            f"{axis}), but got split_sizes={widths}"
        )
    ends = itertools.accumulate(widths)
    keys = [slice(end - n, end) for end, n in zip(ends, widths, strict=True)]
    return _pieces("SplitWithSizesBackward0", input, axis, keys, cat)


def chunk(input: Any, chunks: int, dim: int = 0) -> tuple[Any, ...]:
    """Cut a dimension into at most this many pieces of one size (the last may be smaller): a tuple of views."""
    if not input.array.ndim:
        raise RuntimeError("chunk expects at least a 1-dimensional tensor")
    if chunks <= 0:
        raise RuntimeError(f"chunk expects `chunks` to be greater than 0, got: {chunks}")
    length = input.array.shape[normalize_dim(dim, input.array.ndim)]
    if length == 0:
        return split_with_sizes(input, [0] * chunks, dim)
    return split(input, -(-length // chunks), dim)


def tensor_split(input: Any, indices_or_sections: Any, dim: int = 0) -> tuple[Any, ...]:
    """Cut a dimension into this many pieces as equal as possible, or at these indices: a tuple of views."""
    if not input.array.ndim:
        raise RuntimeError("tensor_split expected at least a 1-dimensional tensor, but got a tensor with 0 dims")
    axis = normalize_dim(dim, input.array.ndim)
    length = input.array.shape[axis]
    given = (
        to_host(indices_or_sections.array).tolist()
        if isinstance(indices_or_sections, Variable)
        else indices_or_sections
    )
    if isinstance(given, int):
        if given <= 0:
            raise RuntimeError(f"number of sections must be larger than 0, got {given}")
        least, more = divmod(length, given)
        cuts = [i * least + min(i, more) for i in range(1, given)]
    else:
        cuts = [operator.index(n) for n in given]
    slices = [slice(start, end) for start, end in zip([0, *cuts], [*cuts, length], strict=True)]
    return tuple(view_at("SliceBackward0", input, (slice(None),) * axis + (piece,)) for piece in slices)


def hsplit(input: Any, indices_or_sections: int | Sequence[int]) -> tuple[Any, ...]:
    """Cut along dimension 1 (of a vector 0) into equal pieces, or at these indices: a tuple of views."""
    return _equal_split("hsplit", input, indices_or_sections, 0 if input.array.ndim == 1 else 1, 1)


def vsplit(input: Any, indices_or_sections: int | Sequence[int]) -> tuple[Any, ...]:
    """Cut along dimension 0 into equal pieces, or at these indices: a tuple of views."""
    return _equal_split("vsplit", input, indices_or_sections, 0, 2)


def dsplit(input: Any, indices_or_sections: int | Sequence[int]) -> tuple[Any, ...]:
    """Cut along dimension 2 into equal pieces, or at these indices: a tuple of views."""
    return _equal_split("dsplit", input, indices_or_sections, 2, 3)


def _equal_split(name: str, input: Any, where: int | Sequence[int], axis: int, least: int) -> tuple[Any, ...]:
    ndim = input.array.ndim
    if ndim < least:
        raise RuntimeError(
            f"mpigrad.{name} requires a tensor with at least {least} dimension, but got a tensor with {ndim} "
            "dimensions!"
        )
    length = input.array.shape[axis]
    if isinstance(where, int) and (where <= 0 or length % where):
        raise RuntimeError(
            f"mpigrad.{name} attempted to split along dimension {axis}, but the size of the dimension {length} is not "
            f"divisible by the split_size {where}!"
        )
    return tensor_split(input, where, axis)
