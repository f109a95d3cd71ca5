"""Ops that only move elements: the views (which share memory with their input), joining and padding out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..autograd import Variable, record, record_view
from ..backend import Array, array_module
from .elementwise import cast, promoted, sum_to

# fmt: off
__all__ = [
    "Size", "cat", "clone", "flatten", "permute", "reshape", "squeeze", "stack", "t", "transpose", "unsqueeze",
]
# fmt: on


class Size(tuple[int, ...]):
    """The shape of a tensor: a tuple of ints that prints as PyTorch's."""

    __slots__ = ()

    def numel(self) -> int:
        """The product of all dimensions."""
        return math.prod(self)

    def __repr__(self) -> str:
        return f"mpigrad.Size({list(self)})"


def normalize_dim(dim: int, ndim: int) -> int:
    """A dimension as 0 <= dim < ndim; IndexError if it is out of range."""
    n = max(ndim, 1)  # a scalar counts as one-dimensional here
    if not -n <= dim < n:
        raise IndexError(f"Dimension out of range (expected to be in range of [{-n}, {n - 1}], but got {dim})")
    return dim % n


def sizes(shape: tuple[Any, ...]) -> tuple[int, ...]:
    """Accept `f(2, 3)` and `f((2, 3))` alike."""
    if len(shape) == 1 and not isinstance(shape[0], int) and hasattr(shape[0], "__iter__"):
        return tuple(shape[0])
    return shape


def _inferred(shape: tuple[int, ...], count: int) -> tuple[int, ...]:
    """The shape with -1 filled in; RuntimeError if it does not hold `count` elements."""
    known = math.prod(shape)
    if known == count and count >= 0 and -1 not in shape:
        return shape
    if shape.count(-1) > 1:
        raise RuntimeError("only one dimension can be inferred")
    if -1 not in shape or known == 0 or count % known:
        raise RuntimeError(f"shape '{list(shape)}' is invalid for input of size {count}")
    return tuple([count // -known if n == -1 else n for n in shape])


def _shares(result: Array, source: Array) -> bool:
    return bool(array_module(source).may_share_memory(result, source))


def reshape(input: Any, *shape: Any) -> Any:
    """The same elements in another shape (one dimension may be -1): a view where the memory allows it, else a copy."""
    if not isinstance(input, Variable):
        return input.reshape(sizes(shape))
    return _reshaped(input, sizes(shape), strict=False)


def view(input: Any, *shape: Any) -> Any:
    """As reshape, but never a copy: RuntimeError where one would be needed."""
    return _reshaped(input, sizes(shape), strict=True)


def _reshaped(input: Any, shape: tuple[int, ...], *, strict: bool) -> Any:
    x = input.array
    before = x.shape
    after = _inferred(shape, x.size)
    vjp = lambda g: g.reshape(before)
    straight = x.flags.c_contiguous
    if straight or _shares(value := x.reshape(after), x):
        name = "ViewBackward0" if straight or strict else "ReshapeAliasBackward0"
        return record_view(name, lambda a: a.reshape(after), input, vjp)
    if strict:
        raise RuntimeError(
            "view size is not compatible with input tensor's size and stride (at least one dimension spans across "
            "two contiguous subspaces). Use .reshape(...) instead."
        )
    return record("UnsafeViewBackward0", value, (input, vjp))


def flatten(input: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    """Join the dimensions from start_dim to end_dim into one."""
    shape = input.array.shape
    first, last = normalize_dim(start_dim, len(shape)), normalize_dim(end_dim, len(shape))
    if first > last:
        raise RuntimeError("flatten() has invalid args: start_dim cannot come after end_dim")
    if shape and first == last:
        return input
    return reshape(input, (*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :]))


def permute(input: Any, *dims: Any) -> Any:
    """The dimensions in another order: a view."""
    if not isinstance(input, Variable):
        return input.transpose(sizes(dims))
    ndim = input.array.ndim
    order = tuple(normalize_dim(d, ndim) for d in sizes(dims))
    if sorted(order) != list(range(ndim)):
        raise RuntimeError(
            f"permute(sparse_coo): expected each of the {ndim} dimensions once, found dims={list(order)}"
        )
    return _permuted("PermuteBackward0", input, order)


def _permuted(name: str, input: Any, order: tuple[int, ...]) -> Any:
    back = tuple(sorted(range(len(order)), key=order.__getitem__))
    return record_view(name, lambda a: permute(a, order), input, lambda g: permute(g, back))


def transpose(input: Any, dim0: int, dim1: int) -> Any:
    """Two dimensions exchanged: a view."""
    order = list(range(input.array.ndim))
    a, b = normalize_dim(dim0, len(order)), normalize_dim(dim1, len(order))
    if order:
        order[a], order[b] = order[b], order[a]
    return _permuted("TransposeBackward0", input, tuple(order))


def t(input: Any) -> Any:
    """A matrix transposed; a vector or scalar as it is. RuntimeError beyond two dimensions."""
    if input.array.ndim > 2:
        raise RuntimeError(f"t() expects a tensor with <= 2 dimensions, but self is {input.array.ndim}D")
    return _permuted("TBackward0", input, tuple(reversed(range(input.array.ndim))))


def squeeze(input: Any, dim: int | Sequence[int] | None = None) -> Any:
    """Without the dimensions of size 1, or without those of `dim` that have size 1: a view."""
    shape = input.array.shape
    dims, digit = (range(len(shape)), 0) if dim is None else ((dim,), 1) if isinstance(dim, int) else (dim, 2)
    drop = [normalize_dim(d, len(shape)) for d in dims]
    kept = tuple(n for i, n in enumerate(shape) if i not in drop or n != 1)
    return _resized(f"SqueezeBackward{digit}", input, kept)


def unsqueeze(input: Any, dim: int) -> Any:
    """With a new dimension of size 1 at dim: a view."""
    shape = input.array.shape
    at = normalize_dim(dim, len(shape) + 1)
    return _resized("UnsqueezeBackward0", input, (*shape[:at], 1, *shape[at:]))


def _resized(name: str, input: Any, shape: tuple[int, ...]) -> Any:
    before = input.array.shape
    return record_view(name, lambda a: a.reshape(shape), input, lambda g: g.reshape(before))


def expand(input: Any, *shape: Any) -> Any:
    """Broadcast to a larger shape without copying (-1 keeps a dimension): a read-only view."""
    if not isinstance(input, Variable):
        return np.broadcast_to(input, sizes(shape))
    before, target = input.array.shape, sizes(shape)
    skip = len(target) - len(before)
    full = tuple(before[i - skip] if n == -1 and i >= skip else n for i, n in enumerate(target))
    try:
        return record_view("ExpandBackward0", lambda a: expand(a, full), input, lambda g: sum_to(g, before))
    except ValueError:
        raise RuntimeError(cannot_expand(before, full)) from None


def cannot_expand(before: tuple[int, ...], target: tuple[int, ...]) -> str:
    """What is wrong about broadcasting the shape `before` to `target`."""
    skip = len(target) - len(before)
    where = [i for i, n in enumerate(before, skip) if i >= 0 and n not in (1, target[i])]
    if skip < 0 or not where:
        return f"a tensor of shape {list(before)} cannot be expanded to {list(target)}"
    return (
        f"The expanded size of the tensor ({target[where[-1]]}) must match the existing size "
        f"({before[where[-1] - skip]}) at non-singleton dimension {where[-1]}.  Target sizes: {list(target)}.  "
        f"Tensor sizes: {list(before)}"
    )


def contiguous(input: Any) -> Any:
    """The tensor itself when its memory is in row-major order, else a copy."""
    if input.array.flags.c_contiguous:
        return input
    return clone(input)


def clone(input: Any) -> Any:
    """A copy that stays on the tape."""
    return record("CloneBackward0", input.array.copy(), (input, lambda g: g))


def cat(tensors: Sequence[Any], dim: int = 0) -> Any:
    """Tensors joined along an existing dimension; all other dimensions must agree. Shape [0] goes with every shape."""
    if not tensors:
        raise ValueError("mpigrad.cat(): expected a non-empty list of Tensors")
    parts = _common_dtype(tensors)
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
    if not tensors:
        raise RuntimeError("stack expects a non-empty TensorList")
    parts = _common_dtype(tensors)
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


def _common_dtype(tensors: Sequence[Any]) -> list[Any]:
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
