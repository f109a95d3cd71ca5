"""PyTorch's classes named after dtypes: `FloatTensor([1, 2])` makes one, isinstance tells the dtype."""

from __future__ import annotations

from typing import Any

from . import dtypes
from .autograd import wrap
from .tensor import Tensor

# fmt: off
__all__ = [
    "BFloat16Tensor", "BoolTensor", "ByteTensor", "CharTensor", "DoubleTensor", "FloatTensor", "HalfTensor",
    "IntTensor", "LongTensor", "ShortTensor",
]
# fmt: on


class _Legacy(type):
    """The class of these classes: they have no instances of their own, all are Tensors."""

    dtype: dtypes.dtype

    def __call__(cls, *data: Any) -> Any:
        """A tensor of this dtype: from nested lists or an array, or unset elements of a size."""
        if len(data) == 1 and isinstance(data[0], Tensor):
            if data[0].dtype is not cls.dtype:
                raise TypeError(f"expected a tensor of {cls.dtype} (got {data[0].dtype})")
            return wrap(data[0].array)
        return Tensor(*data, dtype=cls.dtype)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, Tensor) and instance.dtype is cls.dtype

    def __repr__(cls) -> str:
        return f"<class 'mpigrad.{cls.__name__}'>"


def _legacy(dtype: dtypes.dtype) -> Any:
    return _Legacy(f"{dtype.title}Tensor", (), {"dtype": dtype, "__doc__": f"Tensors of {dtype}; see `Tensor`."})


DoubleTensor, FloatTensor = _legacy(dtypes.float64), _legacy(dtypes.float32)
HalfTensor, BFloat16Tensor = _legacy(dtypes.float16), _legacy(dtypes.bfloat16)
LongTensor, IntTensor, ShortTensor = _legacy(dtypes.int64), _legacy(dtypes.int32), _legacy(dtypes.int16)
CharTensor, ByteTensor, BoolTensor = _legacy(dtypes.int8), _legacy(dtypes.uint8), _legacy(dtypes.bool_)
