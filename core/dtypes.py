"""PyTorch's dtypes over NumPy's, and PyTorch's promotion rules, which differ from NumPy's.

A Python number never widens a tensor within its kind, a zero-dimensional tensor never widens one with dimensions, and
integers that meet floating point take the floating dtype (NumPy would make float64 of int64 and float32).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .backend import Array

# fmt: off
__all__ = [
    "bool_",
    "dtype",
    "float16",
    "float32",
    "float64",
    "get_default_dtype",
    "int8",
    "int16",
    "int32",
    "int64",
    "set_default_dtype",
    "uint8",
]
# fmt: on

KINDS = {"b": 0, "u": 1, "i": 1, "f": 2}  # numpy's dtype.kind to PyTorch's category


class dtype:
    """The element type of a tensor, e.g. `mpigrad.float32`; `.numpy` is NumPy's name for it."""

    __slots__ = ("is_floating_point", "itemsize", "name", "numpy")

    def __init__(self, name: str) -> None:
        self.name = name
        self.numpy = np.dtype(name)
        self.itemsize = self.numpy.itemsize
        self.is_floating_point = self.numpy.kind == "f"

    def __repr__(self) -> str:
        return f"mpigrad.{self.name}"

    def __reduce__(self) -> Any:
        return of, (self.name,)


float64, float32, float16 = dtype("float64"), dtype("float32"), dtype("float16")
int64, int32, int16, int8 = dtype("int64"), dtype("int32"), dtype("int16"), dtype("int8")
uint8, bool_ = dtype("uint8"), dtype("bool")

_OF_NUMPY = {d.numpy: d for d in (float64, float32, float16, int64, int32, int16, int8, uint8, bool_)}
_default = float32


def of(array_dtype: Any) -> dtype:
    """PyTorch's dtype for NumPy's; TypeError for one that PyTorch has not."""
    try:
        return _OF_NUMPY[np.dtype(array_dtype)]
    except (KeyError, TypeError):
        names = ", ".join(d.name for d in _OF_NUMPY.values())
        raise TypeError(
            f"can't convert np.ndarray of type numpy.{array_dtype}. The only supported types are: {names}."
        ) from None


def get_default_dtype() -> dtype:
    """The dtype of new floating-point tensors."""
    return _default


def set_default_dtype(d: dtype) -> None:
    """Make d the dtype of new floating-point tensors; TypeError unless it is a floating one."""
    global _default
    if not d.is_floating_point:
        raise TypeError(f"only floating-point types are supported as the default type, found {d}")
    _default = d


def of_number(value: complex) -> np.dtype[Any]:
    """The dtype of a tensor made from one Python number."""
    return (bool_ if isinstance(value, bool) else int64 if isinstance(value, int) else _default).numpy


def promote(a: np.dtype[Any], b: np.dtype[Any]) -> np.dtype[Any]:
    """Two dtypes of equal rank: NumPy's table, but integers take the floating dtype they meet as it is."""
    if a.kind == "f" and b.kind != "f":
        return a
    if b.kind == "f" and a.kind != "f":
        return b
    return np.promote_types(a, b)


def result_type(a: Array | complex, b: Array | complex) -> np.dtype[Any]:
    """The dtype in which PyTorch computes `a op b`; a and b are arrays or Python numbers.

    Source: https://docs.pytorch.org/docs/stable/tensor_attributes.html (type promotion).
    """
    # priority: arrays with dimensions, then zero-dimensional arrays, then numbers; a lower one counts only when its
    # category is higher
    ranks = [2 if getattr(v, "ndim", -1) > 0 else 1 if hasattr(v, "ndim") else 0 for v in (a, b)]
    types = [v.dtype if hasattr(v, "dtype") else of_number(v) for v in (a, b)]
    if ranks[0] == ranks[1]:
        return promote(*types)
    high, low = (0, 1) if ranks[0] > ranks[1] else (1, 0)
    return types[high] if KINDS[types[low].kind] <= KINDS[types[high].kind] else types[low]


def floating(array: Array) -> Array:
    """The array itself when it is floating point, else a copy in the default dtype (for exp, mean, division, ...)."""
    return array if array.dtype.kind == "f" else array.astype(_default.numpy)
