"""Views: other shapes of the same memory. What a view shows changes with the memory, and the other way round."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..autograd import Variable, record, record_view, wrap
from ..backend import array_module
from ..dtypes import dtype as Dtype
from .pointwise import cannot_broadcast, sum_to

# fmt: off
__all__ = [
    "Size", "adjoint", "atleast_1d", "atleast_2d", "atleast_3d", "broadcast_shapes", "broadcast_tensors",
    "broadcast_to", "clone", "flatten", "moveaxis", "movedim", "permute", "ravel", "reshape",
    "squeeze", "swapaxes", "swapdims", "t", "transpose", "unflatten", "unsqueeze",
]
# fmt: on


class Size(tuple[int, ...]):
    """The shape of a tensor: a tuple of ints that prints as PyTorch's; what is sliced from it or added is one too."""

    __module__ = "mpigrad"
    __slots__ = ()

    def numel(self) -> int:
        """The product of all dimensions."""
        return math.prod(self)

    def __getitem__(self, index: Any) -> Any:
        item = tuple.__getitem__(self, index)
        return Size(item) if isinstance(index, slice) else item

    def __add__(self, other: Any) -> Any:
        return Size(tuple.__add__(self, other))

    def __radd__(self, other: Any) -> Any:
        return Size(tuple.__add__(other, self))

    def __mul__(self, count: Any) -> Any:
        return Size(tuple.__mul__(self, count))

    __rmul__ = __mul__

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


def reshape(input: Any, *shape: Any) -> Any:
    """The same elements in another shape (one dimension may be -1): a view where the memory allows it, else a copy."""
    if not isinstance(input, Variable):
        return input.reshape(sizes(shape))
    return _reshaped(input, sizes(shape), strict=False)


def view(input: Any, *size: Any) -> Any:
    """As reshape, but never a copy: RuntimeError where one would be needed. view(dtype): the same bytes as numbers of
    another dtype, outside the tape."""
    if isinstance(size[0], Dtype):
        return _reinterpreted(input, size[0])
    return _reshaped(input, sizes(size), strict=True)


def _reshaped(input: Any, shape: tuple[int, ...], *, strict: bool) -> Any:
    x = input.array
    before = x.shape
    try:
        value = x.reshape(shape)
    except (ValueError, TypeError):
        raise _cannot_reshape(shape, x.size) from None
    after = value.shape
    if after != shape and min(shape) < -1:  # NumPy takes any negative number for -1
        raise _cannot_reshape(shape, x.size)
    straight = x.flags.c_contiguous
    if straight or array_module(x).may_share_memory(value, x):
        name = "ViewBackward0" if straight or strict else "ReshapeAliasBackward0"
        return record_view(name, lambda a: a.reshape(after), input, lambda g: g.reshape(before), value)
    if strict:
        raise RuntimeError(
            "view size is not compatible with input tensor's size and stride (at least one dimension spans across "
            "two contiguous subspaces). Use .reshape(...) instead."
        )
    return record("UnsafeViewBackward0", value, (input, lambda g: g.reshape(before)))


def _cannot_reshape(shape: tuple[int, ...], count: int) -> Exception:
    for n in shape:
        operator.index(n)  # TypeError for what is no size
    wrong = [i for i, n in enumerate(shape) if n < -1]
    if shape.count(-1) > 1:
        return RuntimeError("only one dimension can be inferred")
    if wrong:
        return RuntimeError(f"invalid shape dimension {shape[wrong[0]]} at index {wrong[0]} of shape {list(shape)}")
    if count == 0 and -1 in shape:
        return RuntimeError(
            f"cannot reshape tensor of 0 elements into shape {list(shape)} because the unspecified dimension size -1 "
            "can be any value and is ambiguous"
        )
    return RuntimeError(f"shape '{list(shape)}' is invalid for input of size {count}")


def _reinterpreted(input: Any, dtype: Dtype) -> Any:
    x = input.array
    old, new = x.itemsize, dtype.itemsize
    if new > old and (not x.ndim or x.shape[-1] * old % new):
        raise RuntimeError(
            f"self.size(-1) must be divisible by {new // old} to view {input.dtype.name} as {dtype.name} (different "
            f"element sizes), but got {x.shape[-1] if x.ndim else 'a scalar'}"
        )
    try:
        tensor = wrap(x.view(dtype.numpy))
    except ValueError as error:
        raise RuntimeError(f"cannot view {input.dtype.name} as {dtype.name}: {error}") from None
    tensor.version = input.version
    return tensor


def reshape_as(input: Any, other: Any) -> Any:
    """As reshape, to the shape of other."""
    return reshape(input, other.array.shape)


def view_as(input: Any, other: Any) -> Any:
    """A view in the shape of other."""
    return view(input, other.array.shape)


def ravel(input: Any) -> Any:
    """All elements in one dimension; a copy only where the memory is not in row-major order."""
    return contiguous(input).reshape(-1)


def unflatten(input: Any, dim: int, sizes: Sequence[int]) -> Any:
    """One dimension split into several, one of which may be -1: a view."""
    shape = input.array.shape
    axis, found = normalize_dim(dim, len(shape)), tuple(sizes)
    if not found:
        raise RuntimeError("unflatten: sizes must be non-empty")
    known = -math.prod(found)
    if found.count(-1) == 1 and known > 0 and shape[axis] % known == 0:
        found = tuple(shape[axis] // known if n == -1 else n for n in found)
    if math.prod(found) != shape[axis] or min(found) < 0:
        raise RuntimeError(
            f"unflatten: Provided sizes {list(sizes)} don't multiply up to the size of dim {axis} ({shape[axis]}) "
            "in the input tensor"
        )
    return view(input, (*shape[:axis], *found, *shape[axis + 1 :]))


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
    ndim, named = input.array.ndim, sizes(dims)
    if len(named) != ndim:
        raise RuntimeError(
            "permute(sparse_coo): number of dimensions in the tensor input does not match the length of the desired "
            f"ordering of dimensions i.e. input.dim() = {ndim} is not equal to len(dims) = {len(named)}"
        )
    order = tuple(normalize_dim(d, ndim) for d in named)
    if len(set(order)) < ndim:
        raise RuntimeError("permute(): duplicate dims are not allowed.")
    return _permuted("PermuteBackward0", input, order)


def _permuted(name: str, input: Any, order: tuple[int, ...]) -> Any:
    back = tuple(sorted(range(len(order)), key=order.__getitem__))
    return record_view(name, lambda a: permute(a, order), input, lambda g: permute(g, back))


def transpose(input: Any, dim0: int, dim1: int) -> Any:
    """Two dimensions exchanged: a view."""
    ndim = input.array.ndim
    a, b = normalize_dim(dim0, ndim), normalize_dim(dim1, ndim)
    return _swapped("TransposeBackward0", input, a, b)


def _swapped(name: str, input: Any, a: int, b: int) -> Any:
    swap = (lambda v: v.swapaxes(a, b)) if input.array.ndim else lambda v: v[...]  # what arrays and Tensors have
    return record_view(name, swap, input, swap)


swapaxes = swapdims = transpose


def movedim(input: Any, source: int | Sequence[int], destination: int | Sequence[int]) -> Any:
    """The dimensions `source` moved to the places `destination`; the others keep their order: a view."""
    ndim = input.array.ndim
    moved, places = ([normalize_dim(d, ndim) for d in _as_tuple(dims)] for dims in (source, destination))
    if len(moved) != len(places):
        raise RuntimeError(
            f"movedim: Invalid source or destination dims: source ({list(_as_tuple(source))} dims) should contain the "
            f"same number of dims as destination ({list(_as_tuple(destination))} dims)"
        )
    for name, dims, given in (("source", moved, source), ("destination", places, destination)):
        if len(set(dims)) < len(dims):
            raise RuntimeError(f"movedim: repeated dim in `{name}` ({list(_as_tuple(given))})")
    order = [d for d in range(ndim) if d not in moved]
    for place, dim in sorted(zip(places, moved, strict=True)):
        order.insert(place, dim)
    return _permuted("PermuteBackward0", input, tuple(order[:ndim]))


moveaxis = movedim


def _as_tuple(dims: int | Sequence[int]) -> tuple[int, ...]:
    return (dims,) if isinstance(dims, int) else tuple(dims)


def t(input: Any) -> Any:
    """A matrix transposed; a vector or scalar as it is. RuntimeError beyond two dimensions."""
    if input.array.ndim > 2:
        raise RuntimeError(f"t() expects a tensor with <= 2 dimensions, but self is {input.array.ndim}D")
    return _swapped("TBackward0", input, 0, input.array.ndim - 1)


def adjoint(input: Any) -> Any:
    """The last two dimensions exchanged (there are no complex numbers to conjugate): a view."""
    return matrices_transposed(input, "tensor.adjoint()")


def matrices_transposed(input: Any, name: str) -> Any:
    """The last two dimensions exchanged, for `mT` and the like."""
    if input.array.ndim < 2:
        raise RuntimeError(
            f"{name} is only supported on matrices or batches of matrices. Got {input.array.ndim}-D tensor."
        )
    return transpose(input, -2, -1)


def squeeze(input: Any, dim: int | Sequence[int] | None = None) -> Any:
    """Without the dimensions of size 1, or without those of `dim` that have size 1: a view."""
    shape = input.array.shape
    dims, digit = (range(len(shape)), 0) if dim is None else ((dim,), 1) if isinstance(dim, int) else (dim, 2)
    drop = [normalize_dim(d, len(shape)) for d in dims]
    if len(set(drop)) < len(drop):
        raise RuntimeError(f"dim {drop[0]} appears multiple times in the list of dims")
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


def expand(input: Any, *size: Any) -> Any:
    """Broadcast to a larger shape without copying (-1 keeps a dimension): a read-only view."""
    if not isinstance(input, Variable):
        return np.broadcast_to(input, sizes(size))
    before, target = input.array.shape, sizes(size)
    skip = len(target) - len(before)
    if skip > 0 and -1 in target[:skip]:
        raise RuntimeError(
            "The expanded size of the tensor (-1) isn't allowed in a leading, non-existing dimension "
            f"{target.index(-1)}"
        )
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


def expand_as(input: Any, other: Any) -> Any:
    """Broadcast to the shape of other: a view."""
    return expand(input, other.array.shape)


def broadcast_to(input: Any, size: Sequence[int]) -> Any:
    """Broadcast to a larger shape without copying: a read-only view."""
    return expand(input, size)


def broadcast_tensors(*tensors: Any) -> tuple[Any, ...]:
    """All tensors broadcast to their common shape: read-only views."""
    shapes = [tensor.array.shape for tensor in tensors]
    try:
        shape = np.broadcast_shapes(*shapes)
    except ValueError:
        raise RuntimeError(cannot_broadcast(*shapes)) from None
    return tuple(expand(tensor, shape) for tensor in tensors)


def broadcast_shapes(*shapes: int | Sequence[int]) -> Size:
    """The shape that all of these broadcast to; RuntimeError where there is none."""
    found: tuple[int, ...] = ()
    for i, shape in enumerate(map(_as_tuple, shapes)):
        try:
            found = np.broadcast_shapes(found, shape)
        except ValueError:
            pairs = list(zip(reversed(shape), reversed(found), strict=False))
            at = next(k for k, (n, m) in enumerate(pairs) if n != m and 1 not in (n, m))
            raise RuntimeError(
                f"Attempting to broadcast a dimension of length {shape[-1 - at]} at {-1 - at}! Mismatching argument at "
                f"index {i} had {shape}; but expected shape should be broadcastable to {list(found)}"
            ) from None
    return Size(found)


def atleast_1d(*tensors: Any) -> Any:
    """Each tensor with one dimension at least; a tuple of them for several tensors or a sequence."""
    return _each(tensors, lambda v: v if v.array.ndim else v.reshape(1))


def atleast_2d(*tensors: Any) -> Any:
    """Each tensor with two dimensions at least: a vector becomes a row."""
    return _each(tensors, lambda v: v if v.array.ndim > 1 else v.unsqueeze(0) if v.array.ndim else v.reshape(1, 1))


def atleast_3d(*tensors: Any) -> Any:
    """Each tensor with three dimensions at least: a vector of n becomes (1, n, 1), a matrix gets a last dimension."""

    def deep(v: Any) -> Any:
        ndim = v.array.ndim
        if ndim == 0:
            return v.reshape(1, 1, 1)
        return v.unsqueeze(0).unsqueeze(-1) if ndim == 1 else v.unsqueeze(-1) if ndim == 2 else v

    return _each(tensors, deep)


def _each(tensors: tuple[Any, ...], change: Callable[[Any], Any]) -> Any:
    if len(tensors) == 1 and isinstance(tensors[0], Variable):
        return change(tensors[0])
    given = tensors[0] if len(tensors) == 1 else tensors
    return tuple(map(change, given))


def contiguous(input: Any, *, memory_format: Any = None) -> Any:
    """The tensor itself when its memory is in row-major order, else a copy; memory_format: accepted."""
    return input if input.array.flags.c_contiguous else clone(input)


def clone(input: Any, *, memory_format: Any = None) -> Any:
    """A copy that stays on the tape; memory_format: accepted."""
    return record("CloneBackward0", input.array.copy(), (input, lambda g: g))
