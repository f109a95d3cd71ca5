"""PyTorch's dtypes over NumPy's, and PyTorch's promotion rules, which differ from NumPy's.

A Python number never widens a tensor within its kind, a zero-dimensional tensor never widens one with dimensions, and
integers that meet floating point take the floating dtype (NumPy would make float64 of int64 and float32).

The halves, float16 and bfloat16, are computed with in float32 and rounded once, at the end of an op: see `in_single`.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from .backend import Array

# fmt: off
__all__ = [
    "bfloat16", "bool_", "can_cast", "channels_last", "contiguous_format", "dtype", "finfo", "float16", "float32",
    "float64", "get_default_dtype", "iinfo", "int8", "int16", "int32", "int64", "layout", "memory_format",
    "preserve_format", "promote_types", "result_type", "set_default_dtype", "strided", "uint8",
]
# fmt: on

FLOATING = "fV"  # NumPy's kinds of floating point: bfloat16, which is not NumPy's own, is a V
KINDS = {"b": 0, "u": 1, "i": 1, "f": 2, "V": 2}  # NumPy's dtype.kind to PyTorch's category
SINGLE, DOUBLE = np.dtype(np.float32), np.dtype(np.float64)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
HALVES = frozenset([np.dtype(np.float16), BFLOAT16])


class dtype:
    """The element type of a tensor, e.g. `mpigrad.float32`; `.numpy` is NumPy's name for it.

    title: what PyTorch calls it in messages and in the names of the legacy constructors, e.g. FloatTensor.
    """

    __slots__ = ("is_complex", "is_floating_point", "is_signed", "itemsize", "name", "numpy", "title")

    def __init__(self, name: str, title: str) -> None:
        self.name, self.title = name, title
        self.numpy = BFLOAT16 if name == "bfloat16" else np.dtype(name)
        self.itemsize = self.numpy.itemsize
        self.is_floating_point, self.is_complex = self.numpy.kind in FLOATING, False
        self.is_signed = self.numpy.kind not in "ub"

    def __repr__(self) -> str:
        return f"mpigrad.{self.name}"

    def __reduce__(self) -> Any:
        return of, (self.name,)


float64, float32 = dtype("float64", "Double"), dtype("float32", "Float")
float16, bfloat16 = dtype("float16", "Half"), dtype("bfloat16", "BFloat16")
int64, int32, int16, int8 = (
    dtype("int64", "Long"),
    dtype("int32", "Int"),
    dtype("int16", "Short"),
    dtype("int8", "Char"),
)
uint8, bool_ = dtype("uint8", "Byte"), dtype("bool", "Bool")

_OF_NUMPY = {d.numpy: d for d in (float64, float32, float16, bfloat16, int64, int32, int16, int8, uint8, bool_)}
ALL = tuple(_OF_NUMPY.values())
_default = float32


def of(array_dtype: Any) -> dtype:
    """PyTorch's dtype for NumPy's; TypeError for one that PyTorch has not."""
    try:
        return _OF_NUMPY[array_dtype if isinstance(array_dtype, np.dtype) else np.dtype(array_dtype)]
    except (KeyError, TypeError):
        names = ", ".join(d.name for d in ALL)
        raise TypeError(
            f"can't convert np.ndarray of type numpy.{array_dtype}. The only supported types are: {names}."
        ) from None


def get_default_dtype() -> dtype:
    """The dtype of new floating-point tensors."""
    return _default


def set_default_dtype(d: dtype) -> None:
    """Make d the dtype of new floating-point tensors; TypeError unless it is a floating one."""
    global _default
    if not isinstance(d, dtype):
        raise TypeError(f"invalid dtype object: only floating-point types are supported as the default type, found {d}")
    if not d.is_floating_point:
        raise TypeError("only floating-point types are supported as the default type")
    _default = d


class memory_format(enum.Enum):
    """How dimensions lie in memory. Accepted where PyTorch takes it; tensors made here are contiguous."""

    contiguous_format = "contiguous_format"
    preserve_format = "preserve_format"
    channels_last = "channels_last"

    def __repr__(self) -> str:
        return f"mpigrad.{self.value}"


contiguous_format, preserve_format, channels_last = memory_format


class layout(enum.Enum):
    """What a tensor's memory holds: all elements, at steps for each dimension."""

    strided = "strided"

    def __repr__(self) -> str:
        return f"mpigrad.{self.value}"


strided = layout.strided


# --- promotion ------------------------------------------------------------------------------------------------------


def of_number(value: complex) -> np.dtype[Any]:
    """The dtype of a tensor made from one Python number."""
    return (bool_ if isinstance(value, bool) else int64 if isinstance(value, int) else _default).numpy


def promote(a: np.dtype[Any], b: np.dtype[Any]) -> np.dtype[Any]:
    """Two dtypes of equal rank: integers take the floating dtype they meet, float16 and bfloat16 meet in float32."""
    if a == b:
        return a
    if a.kind in FLOATING and b.kind in FLOATING:
        return DOUBLE if DOUBLE in (a, b) else SINGLE
    if a.kind in FLOATING or b.kind in FLOATING:
        return a if a.kind in FLOATING else b
    return np.promote_types(a, b)


def common(*operands: Array | complex) -> np.dtype[Any]:
    """The dtype in which PyTorch computes with these arrays and Python numbers.

    Source: https://docs.pytorch.org/docs/stable/tensor_attributes.html (type promotion).
    """
    # priority: arrays with dimensions, then zero-dimensional arrays, then numbers; a lower one counts only when its
    # category is higher
    found: list[Any] = [None, None, None]
    for value in operands:
        rank = 0 if getattr(value, "ndim", 0) else 1 if hasattr(value, "ndim") else 2
        kind = of_number(value) if rank == 2 else value.dtype  # type: ignore[union-attr]
        found[rank] = kind if found[rank] is None else promote(found[rank], kind)
    first, *lower = [kind for kind in found if kind is not None]
    for kind in lower:
        if KINDS[kind.kind] > KINDS[first.kind]:
            first = kind
    return first  # type: ignore[no-any-return]


def promote_types(type1: dtype, type2: dtype) -> dtype:
    """The smallest dtype of no lower category that holds both."""
    return of(promote(type1.numpy, type2.numpy))


def result_type(tensor1: Any, tensor2: Any) -> dtype:
    """The dtype in which an op computes with two tensors or numbers."""
    return of(common(*(getattr(v, "array", v) for v in (tensor1, tensor2))))


def can_cast(from_: dtype, to: dtype) -> bool:
    """Whether promotion may convert so: never to a lower category (floating point, integers, bool)."""
    return KINDS[from_.numpy.kind] <= KINDS[to.numpy.kind]


# --- computing ------------------------------------------------------------------------------------------------------


def floating(array: Array) -> Array:
    """The array itself when it is floating point, else a copy in the default dtype (for exp, mean, division, ...)."""
    return array if array.dtype.kind in FLOATING else array.astype(_default.numpy)


def widened(array: Any) -> Any:
    """What to compute with in the place of a half: a float32 copy, on the host.

    NumPy has neither fast loops nor products for halves, and would add them up in their own precision; a GPU's kernels
    accumulate in float32 by themselves. Anything but an array of halves is left as it is.
    """
    if isinstance(array, np.ndarray) and array.dtype in HALVES:
        return array.astype(SINGLE)
    return array


def in_single(function: Callable[..., Array], array: Array, *others: Any) -> Array:
    """function(array, *others), where halves are computed with in float32 and the value is rounded to array's dtype."""
    if array.itemsize != 2 or array.dtype not in HALVES:
        return function(array, *others)
    value = function(*map(widened, (array, *others)))
    return value.astype(array.dtype, copy=False) if value.dtype.kind in FLOATING else value


def number_for(dtype: np.dtype[Any], value: Any) -> Any:
    """A Python number that becomes an element of this NumPy dtype: unsigned integers count down from 0 to the largest.

    RuntimeError for one that is out of range.
    """
    if dtype.kind not in "iu" or not math.isfinite(value):
        return value
    limits, whole = np.iinfo(dtype), int(value)
    if not (limits.min or -limits.max) <= whole <= limits.max:
        raise RuntimeError(f"value cannot be converted to type {dtype.name} without overflow")
    return whole % (limits.max + 1) if whole < 0 and not limits.min else value


# --- limits ---------------------------------------------------------------------------------------------------------


class finfo:
    """The limits of a floating dtype (the default one if left out): bits, eps, max, min, tiny, resolution."""

    def __init__(self, type: dtype | None = None) -> None:
        kind = type or _default
        if not kind.is_floating_point:
            raise TypeError("finfo() requires a floating point input type. Use iinfo to handle integers")
        info: Any = ml_dtypes.finfo(kind.numpy)  # type: ignore[no-untyped-call]
        self.bits, self.dtype = kind.itemsize * 8, kind.name
        self.resolution = float(f"1e{-int(info.precision)}")
        self.max, self.min, self.eps = float(info.max), float(info.min), float(info.eps)
        self.tiny = self.smallest_normal = float(info.tiny)

    def __repr__(self) -> str:
        names = ("resolution", "min", "max", "eps", "smallest_normal", "tiny")
        return f"finfo({', '.join(f'{n}={getattr(self, n):g}' for n in names)}, dtype={self.dtype})"


class iinfo:
    """The limits of an integer dtype: bits, max, min."""

    def __init__(self, type: dtype) -> None:
        if type.numpy.kind not in "iu":
            raise TypeError(f"iinfo() requires an integer input type, found {type}. Use finfo to handle floating point")
        info = np.iinfo(type.numpy)
        self.bits, self.dtype, self.max, self.min = info.bits, type.name, int(info.max), int(info.min)

    def __repr__(self) -> str:
        return f"iinfo(min={self.min:g}, max={self.max:g}, dtype={self.dtype})"
