"""Picking elements out and writing them in by tensors of indices and by masks.

All of it is reading or writing at one NumPy index: gather and scatter at a grid with `index` in the place of one axis,
index_select and its kin at `index` along a dimension, the masked ops at the mask.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..autograd import RESULT, Variable, record, wrap
from ..backend import Array, array_module, to_host
from ..dtypes import FLOATING, number_for, of
from .along import grid
from .elementwise import div, floor_divide
from .index import FULL, Key, picked, replaced
from .index import put as placed
from .pointwise import cannot_broadcast, cast, sum_to, where
from .shape import expand, normalize_dim, reshape

# fmt: off
__all__ = [
    "argwhere", "gather", "index_add", "index_copy", "index_fill", "index_select", "masked_fill", "masked_scatter",
    "masked_select", "nonzero", "put", "scatter", "scatter_add", "scatter_reduce", "take", "take_along_dim",
]
# fmt: on


# --- a grid with an index in the place of one axis --------------------------------------------------------------------


def gather(input: Any, dim: int, index: Any, *, sparse_grad: bool = False) -> Any:
    """What lies at `index` along dim, in the shape of index: out[i][j] = input[index[i][j]][j] for dim 0.

    index may be smaller than input apart from dim. sparse_grad is taken and changes nothing.
    """
    key = _grid("gather", input, dim, index)
    value = picked("GatherBackward0", input if input.array.ndim else input.reshape(1), key, index)
    return value if value.array.shape == index.array.shape else value.reshape(index.array.shape)


def _grid(name: str, input: Any, dim: int, index: Any, src: Any = None) -> Key:
    """The NumPy index of gather's elements; errors for a wrong dtype, shape or element of index."""
    x, at = input.array, index.array
    axis = normalize_dim(dim, x.ndim)
    shape, wanted = x.shape or (1,), at.shape or (1,)
    xp = array_module(x)
    if not at.size:  # of any dtype: an empty list makes a tensor of floats
        return tuple(xp.zeros(at.shape, np.int64) for _ in shape)
    if at.dtype not in (np.int64, np.int32):
        raise RuntimeError(f"{name}(): Expected dtype int32/int64 for index")
    if len(wanted) != len(shape):
        whose = "input" if name == "gather" else "self"
        raise RuntimeError(f"Index tensor must have the same number of dimensions as {whose} tensor")
    beyond = [i for i, (n, m) in enumerate(zip(wanted, shape, strict=True)) if n > m and i != axis]
    if name == "gather" and beyond:
        raise RuntimeError(
            f"Size does not match at dimension {beyond[0]} expected index {list(wanted)} to be no larger than self "
            f"{list(shape)} apart from dimension {axis}"
        )
    if src is not None and src.array.ndim != at.ndim:
        raise RuntimeError("Index tensor must have the same number of dimensions as src tensor")
    if beyond or (src is not None and any(n > m for n, m in zip(wanted, src.array.shape or (1,), strict=True))):
        raise RuntimeError(
            f"Expected index {list(wanted)} to be no larger than self {list(shape)} apart from dimension {axis}"
            + (f" and to be no larger size than src {list(src.array.shape)}" if src is not None else "")
        )
    wrong = at[(at < 0) | (at >= shape[axis])]
    if wrong.size:
        raise RuntimeError(f"index {wrong[0]} is out of bounds for dimension {axis} with size {shape[axis]}")
    return grid(at.reshape(wanted), axis)


def scatter(input: Any, dim: int, index: Any, src: Any = None, *, value: Any = None, reduce: str | None = None) -> Any:
    """A copy with src (a tensor or a number) written where gather reads: out[index[i][j]][j] = src[i][j] for dim 0.

    Of several values for one place any may win. reduce: "add" or "multiply" instead of writing.
    """
    values = value if src is None else src
    if reduce not in (None, "add", "multiply"):
        raise RuntimeError("reduce argument must be either add or multiply.")
    if reduce is None:
        name = "ScatterBackward0" if isinstance(values, Variable) else "ScatterBackward1"
        return _scattered(name, input, dim, index, values)
    if not isinstance(values, Variable):
        values = wrap(array_module(input.array).full(index.array.shape, values, input.array.dtype))
    return scatter_reduce(input, dim, index, values, "sum" if reduce == "add" else "prod")


def scatter_add(input: Any, dim: int, index: Any, src: Any) -> Any:
    """A copy with src added where gather reads; what meets at one place adds up."""
    if not isinstance(src, Variable):
        raise TypeError(f"scatter_add(): argument 'src' (position 3) must be Tensor, not {type(src).__name__}")
    return _scattered("ScatterAddBackward0", input, dim, index, src, add=True)


def _scattered(name: str, input: Any, dim: int, index: Any, src: Any, *, add: bool = False) -> Any:
    target, key, part = _scatter_operands(input, dim, index, src)
    value = replaced(name, target, key, part, index, add=add)
    return value if input.array.ndim else value.reshape(())


def _scatter_operands(input: Any, dim: int, index: Any, src: Any) -> tuple[Any, Key, Any]:
    """The input with one dimension at least, the NumPy index to write at, and the part of src that is written."""
    if not isinstance(src, Variable):
        return input if input.array.ndim else input.reshape(1), _grid("scatter", input, dim, index), src
    key = _grid("scatter", input, dim, index, src)
    if src.array.dtype != input.array.dtype:
        raise RuntimeError("scatter(): Expected self.dtype to be equal to src.dtype")
    shape = index.array.shape or (1,)
    part: Any = src if src.array.ndim else reshape(src, 1)
    if part.array.shape != shape:
        part = part[tuple(map(slice, shape))] if index.array.size else part.reshape(-1)[:0].reshape(shape)
    return input if input.array.ndim else input.reshape(1), key, part


def scatter_reduce(input: Any, dim: int, index: Any, src: Any, reduce: str, *, include_self: bool = True) -> Any:
    """A copy in which each place holds the reduction of what was there and of what src sends there.

    reduce: "sum", "prod", "mean", "amax" or "amin" (equal extremes share the gradient). include_self=False leaves out
    what was there, where src sends something.
    """
    if reduce not in ("sum", "prod", "mean", "amax", "amin"):
        raise RuntimeError(f"reduce argument must be either sum, prod, mean, amax or amin, got {reduce}")
    target, key, part = _scatter_operands(input, dim, index, src)
    dtype = target.array.dtype
    if not include_self:
        if dtype.kind in FLOATING:
            low, high = -np.inf, np.inf
        else:
            low, high = (False, True) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        neutral = {"sum": 0, "mean": 0, "prod": 1, "amax": low, "amin": high}[reduce]
        target = replaced("ScatterBackward1", target, key, neutral, index)
    name = "ScatterReduceBackward0"
    if reduce == "prod":
        value = _multiplied(target, part, key)
    elif reduce in ("amax", "amin"):
        value = _extreme(target, part, key, np.maximum if reduce == "amax" else np.minimum)
    else:
        value = replaced(name, target, key, part, index, add=True)
        if reduce == "mean":
            ones = array_module(part.array).ones(part.array.shape, dtype)
            count = placed(ones, target.array.shape, key) + dtype.type(1 if include_self else 0)
            count = wrap(np.maximum(count, dtype.type(1)))
            value = div(value, count) if dtype.kind in FLOATING else floor_divide(value, count)
    return value if input.array.ndim else value.reshape(())


def _multiplied(x: Any, s: Any, key: Key) -> Any:
    """x with the elements of s multiplied in at key, for arrays and Tensors; exact where factors are zero too."""
    if not isinstance(x, Variable):
        value = x.copy()
        array_module(x).multiply.at(value, key, s)
        return value

    def others(x: Any, s: Any) -> tuple[Any, Any, Any, Array]:
        raw_x, raw_s = (v.array if isinstance(v, Variable) else v for v in (x, s))
        zeros = (raw_x == 0) + placed((raw_s == 0).astype(np.int64), raw_x.shape, key)
        x1, s1 = where(raw_x == 0, 1.0, x), where(raw_s == 0, 1.0, s)
        return _multiplied(x1, s1, key), x1, s1, zeros

    def towards_x(g: Any, x: Any, s: Any) -> Any:
        rest, x1, _, zeros = others(x, s)
        return g * (rest / x1) * (zeros == (x1 != x))

    def towards_s(g: Any, x: Any, s: Any) -> Any:
        rest, _, s1, zeros = others(x, s)
        return (g * rest)[key] / s1 * (zeros[key] == (s1 != s))

    value = _multiplied(x.array, s.array, key)
    return record("ScatterReduceBackward0", value, (x, towards_x, x, s), (s, towards_s, x, s))


def _extreme(x: Any, s: Any, key: Key, ufunc: np.ufunc) -> Any:
    """x where each place has become the largest (or smallest) of itself and of the elements of s sent there."""
    value = x.array.copy()
    getattr(array_module(value), ufunc.__name__).at(value, key, s.array)

    def shares(g: Any, x: Any, s: Any, y: Any) -> tuple[Any, Any, Any]:
        raw_x, raw_s, raw_y = (v.array if isinstance(v, Variable) else v for v in (x, s, y))
        hit_x, hit_s = raw_x == raw_y, raw_s == raw_y[key]
        return g / (hit_x + placed(hit_s.astype(raw_x.dtype), raw_x.shape, key)), hit_x, hit_s

    def towards_x(g: Any, *saved: Any) -> Any:
        share, hit, _ = shares(g, *saved)
        return share * hit

    def towards_s(g: Any, *saved: Any) -> Any:
        share, _, hit = shares(g, *saved)
        return share[key] * hit

    return record("ScatterReduceBackward0", value, (x, towards_x, x, s, RESULT), (s, towards_s, x, s, RESULT))


def take_along_dim(input: Any, indices: Any, dim: int | None = None) -> Any:
    """As gather, with input and indices broadcast against each other apart from dim; without dim of all elements."""
    if indices.array.dtype != np.int64:
        raise RuntimeError(f"mpigrad.take_along_dim(): dtype of indices should be Long but got {indices.dtype}")
    if dim is None:
        return gather(input.reshape(-1), 0, indices.reshape(-1))
    before, wanted = input.array.shape, indices.array.shape
    if len(before) != len(wanted):
        raise RuntimeError(
            "mpigrad.take_along_dim(): input and indices should have the same number of dimensions, but got "
            f"{len(before)} dimensions for input, and {len(wanted)} dimensions for indices"
        )
    axis = normalize_dim(dim, len(before))
    common = _broadcast(before[:axis] + (1,) + before[axis + 1 :], wanted[:axis] + (1,) + wanted[axis + 1 :])
    source, index = (
        expand(tensor, (*common[:axis], tensor.array.shape[axis], *common[axis + 1 :])) for tensor in (input, indices)
    )
    at = index.array
    return gather(source, axis, wrap(np.where(at < 0, at + source.array.shape[axis], at)) if (at < 0).any() else index)


def _broadcast(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        raise RuntimeError(cannot_broadcast(*shapes)) from None


# --- an index along one dimension -------------------------------------------------------------------------------------


def index_select(input: Any, dim: int, index: Any) -> Any:
    """The positions `index` (a vector or a number) of a dimension, in this order."""
    axis, at = _vector("index_select", input, dim, index, IndexError)
    if not input.array.ndim:
        if at.size != 1:
            raise RuntimeError(f"index_select(): Index to scalar can have only 1 value, got {at.size} value(s)")
        return picked("IndexSelectBackward0", input.reshape(1), (at,), index).reshape(())
    return picked("IndexSelectBackward0", input, (*(FULL,) * axis, at), index)


def _vector(name: str, input: Any, dim: int, index: Any, error: type[Exception] = RuntimeError) -> tuple[int, Array]:
    """The dimension, and the index as a vector, checked. error: for positions that are not there."""
    axis, at = normalize_dim(dim, input.array.ndim), index.array
    if at.ndim > 1:
        raise IndexError(f"{name}(): Index is supposed to be a vector")
    if at.dtype not in (np.int64, np.int32):
        raise RuntimeError(f"{name}(): Expected dtype int32 or int64 for index")
    size = input.array.shape[axis] if input.array.ndim else 1
    wrong = at[(at < 0) | (at >= size)]
    if wrong.size and name == "index_select":
        raise error("index out of range in self")
    if wrong.size:
        place = f"{name}(): " if error is IndexError else ""
        raise error(f"{place}index {wrong.flat[0]} is out of bounds for dimension {axis} with size {size}")
    return axis, at.reshape(-1)


def index_add(input: Any, dim: int, index: Any, source: Any, *, alpha: float = 1) -> Any:
    """A copy with alpha * source added at the positions `index` of a dimension, also repeatedly."""
    axis, at = _vector("index_add_", input, dim, index)
    if source.array.dtype != input.array.dtype:
        raise RuntimeError(
            f"index_add_(): self ({of(input.array.dtype).name}) and source ({of(source.array.dtype).name}) must have "
            "the same scalar type"
        )
    shape, found = input.array.shape, source.array.shape
    count = found[axis] if found else 1
    if at.size != count:
        raise RuntimeError(
            f"index_add_(): Number of indices ({at.size}) should be equal to source.size(dim): ({count}), for dim: "
            f"{axis}"
        )
    if shape[:axis] + shape[axis + 1 :] != found[:axis] + found[axis + 1 :]:
        raise RuntimeError(
            "source tensor shape must match self tensor shape, excluding the specified dimension. Got self.shape = "
            f"{list(shape)} source.shape = {list(found)}"
        )
    return _along("IndexAddBackward0", input, axis, at, index, source if alpha == 1 else source * alpha, add=True)


def index_copy(input: Any, dim: int, index: Any, source: Any) -> Any:
    """A copy with source written at the positions `index` of a dimension."""
    axis, at = _vector("index_copy_", input, dim, index, IndexError)
    if source.array.dtype != input.array.dtype:
        raise RuntimeError(
            "index_copy_(): self and source expected to have the same dtype, but got (self) "
            f"{of(input.array.dtype).name} and (source) {of(source.array.dtype).name}"
        )
    shape, found = input.array.shape, source.array.shape
    if shape and found and len(shape) != len(found):
        raise IndexError(
            "index_copy_(): When source and destination are not scalars, their dimensionality must match. Source "
            f"dimensionality ({len(found)}), destination dimensionality ({len(shape)})"
        )
    if shape[:axis] + shape[axis + 1 :] != found[:axis] + found[axis + 1 :]:
        raise RuntimeError(
            "index_copy_(): Source/destination tensor must have same slice shapes. Destination slice shape: "
            f"{' '.join(map(str, shape[:axis] + shape[axis + 1 :]))} at dimension {axis} and source slice shape: "
            f"{' '.join(map(str, found[:axis] + found[axis + 1 :]))} at dimension 0."
        )
    if at.size != (found[axis] if found else 1):
        raise IndexError(
            f"index_copy_(): Number of indices ({at.size}) should be equal to source.size(dim) "
            f"({found[axis] if found else 1})"
        )
    return _along("IndexCopyBackward0", input, axis, at, index, source)


def index_fill(input: Any, dim: int, index: Any, value: Any) -> Any:
    """A copy with value (a number or a tensor of no dimension) at the positions `index` of a dimension."""
    if index.array.dtype != np.int64:
        raise IndexError("index_fill_(): Expected dtype int64 for index.")
    axis, size = normalize_dim(dim, input.array.ndim), input.array.shape[dim] if input.array.ndim else 1
    at = index.array.reshape(-1)
    wrong = at[(at < -size) | (at >= size)]
    if wrong.size:
        raise IndexError(f"index {wrong[0]} is out of bounds for dimension {axis} with size {size}")
    new, digit = _number_or_scalar("index_fill_", input, value)
    return _along(f"IndexFillBackward{digit}", input, axis, at, index, new)


def _number_or_scalar(name: str, input: Any, value: Any) -> tuple[Any, int]:
    """A number as it is, a tensor of no dimension in the input's dtype, and the digit in the node's name."""
    if not isinstance(value, Variable):
        return number_for(input.array.dtype, value), 0
    if value.array.ndim:
        raise RuntimeError(
            f"{name} only supports a 0-dimensional value tensor, but got tensor with {value.array.ndim} dimension(s)."
        )
    return cast(value, input.array.dtype), 1 if value.needs else 0


def _along(name: str, input: Any, axis: int, at: Array, index: Any, values: Any, *, add: bool = False) -> Any:
    if not input.array.ndim:
        flat = reshape(values, -1) if isinstance(values, Variable) else values
        return replaced(name, input.reshape(1), (at,), flat, index, add=add).reshape(())
    return replaced(name, input, (*(FULL,) * axis, at), values, index, add=add)


# --- masks ------------------------------------------------------------------------------------------------------------


def masked_fill(input: Any, mask: Any, value: Any) -> Any:
    """A copy with value (a number or a tensor of no dimension) where mask holds; both are broadcast."""
    if mask.array.dtype != np.bool_:
        raise RuntimeError(f"masked_fill_ only supports boolean masks, but got mask with dtype {mask.dtype}")
    new, digit = _number_or_scalar("masked_fill_", input, value)
    x, shape = input.array, input.array.shape
    _broadcast(mask.array.shape, shape)
    filling = new.array if digit or isinstance(new, Variable) else x.dtype.type(new)
    terms: list[Any] = [(input, lambda g, mask: sum_to(where(mask, 0.0, g), shape), mask)]
    if digit:
        terms.append((new, lambda g, mask: where(mask, g, 0.0).sum(), mask))
    return record(f"MaskedFillBackward{digit}", np.where(mask.array, filling, x), *terms)


def masked_select(input: Any, mask: Any) -> Any:
    """The elements where mask holds, in one dimension; both are broadcast."""
    if mask.array.dtype != np.bool_:
        raise RuntimeError("masked_select: expected BoolTensor for mask")
    source, kept = _masked(input, mask)
    return picked("MaskedSelectBackward0", source, (kept,), mask)


def _masked(input: Any, mask: Any) -> tuple[Any, Array]:
    """The input and the mask's array, broadcast to one shape of at least one dimension."""
    shape = _broadcast(mask.array.shape, input.array.shape, () if mask.array.ndim else (1,))
    source = input if input.array.shape == shape else expand(input, shape)
    return source, np.broadcast_to(mask.array, shape)


def masked_scatter(input: Any, mask: Any, source: Any) -> Any:
    """A copy with the elements of source, in their order, where mask holds; input and mask are broadcast."""
    if mask.array.dtype.kind != "b":
        raise RuntimeError(
            f"masked_scatter_ only supports boolean masks, but got mask with dtype {of(mask.array.dtype).title}"
        )
    if source.array.dtype != input.array.dtype:
        raise RuntimeError(
            f"masked_scatter: expected self and source to have same dtypes but got {of(input.array.dtype).name} and "
            f"{of(source.array.dtype).name}"
        )
    target, kept = _masked(input, mask)
    count = int(np.count_nonzero(kept))
    if source.array.size < count:
        raise RuntimeError("Number of elements of source < number of ones in mask")
    return replaced("MaskedScatterBackward0", target, (kept,), source.reshape(-1)[:count], mask)


# --- numbers of elements ----------------------------------------------------------------------------------------------


def take(input: Any, index: Any) -> Any:
    """The elements of these numbers, counted in row-major order, in the shape of index."""
    x, shape, count = input.array, input.array.shape, input.array.size
    at = _numbers("take", input, index)
    vjp = lambda g, at, _: placed(g, (count,), (at,)).reshape(shape)
    return record("TakeBackward0", x.reshape(-1)[at], (input, vjp, at, index))


def _numbers(name: str, input: Any, index: Any) -> Array:
    at, count = index.array, input.array.size
    if at.dtype != np.int64:
        raise RuntimeError(f"{name}(): Expected a long tensor for index, but got {of(at.dtype).title}")
    if at.size and not count:
        raise IndexError(f"{name}(): tried to {name} from an empty tensor")
    wrong = at[(at < -count) | (at >= count)]
    if wrong.size:
        raise IndexError(f"out of range: tried to access index {wrong.flat[0]} on a tensor of {count} elements.")
    return at


def put(input: Any, index: Any, source: Any, accumulate: bool = False) -> Any:
    """A copy with source at the elements of these numbers, counted in row-major order; added there if accumulate."""
    at = _numbers("put_", input, index).reshape(-1)
    if source.array.size != at.size:
        raise IndexError(
            "put_(): Expected source and index to have the same number of elements, but got source.numel() = "
            f"{source.array.size}, index.numel() = {at.size}"
        )
    value = replaced("PutBackward0", input.reshape(-1), (at,), source.reshape(-1), index, add=accumulate)
    return value.reshape(input.array.shape)


def nonzero(input: Any, *, as_tuple: bool = False) -> Any:
    """Where elements are not zero: a matrix with a row of indices for each, or a tuple with a vector per dimension."""
    x = input.array
    if as_tuple:
        return tuple(map(wrap, (x if x.ndim else x.reshape(1)).nonzero()))
    if not x.ndim:
        return wrap(array_module(x).zeros((int(bool(to_host(x))), 0), np.int64))
    return wrap(np.stack(x.nonzero(), 1))


def argwhere(input: Any) -> Any:
    """Where elements are not zero: a matrix with a row of indices for each."""
    return nonzero(input)
