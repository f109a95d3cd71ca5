"""DLPack: tensors from and to other libraries, over the same memory (see dmlc.github.io/dlpack).

NumPy and CuPy make and read the capsules. They know no bfloat16, so its elements pass them as 16-bit integers, and the
type that the capsule states is changed in its place.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from .autograd import Variable, wrap
from .backend import array_module, cupy, device_of
from .dtypes import bfloat16

__all__ = ["from_dlpack"]

CPU, CUDA = 1, 2  # DLPack's numbers of device types,
UINT, BFLOAT = 1, 4  # and of kinds of elements
# a capsule's name, and at which byte of its struct the kind of elements stands (then its bits, as another byte)
LAYOUTS = {b"dltensor": 20, b"dltensor_versioned": 52}

_valid, _pointer = ctypes.pythonapi.PyCapsule_IsValid, ctypes.pythonapi.PyCapsule_GetPointer
_valid.argtypes, _pointer.argtypes = [ctypes.py_object, ctypes.c_char_p], [ctypes.py_object, ctypes.c_char_p]
_pointer.restype = ctypes.c_void_p


def _kind(capsule: Any) -> tuple[bytes, Any] | None:
    """A capsule's name, and (kind, bits) of its elements to read and change; None for what is no unused capsule."""
    for name, place in LAYOUTS.items():
        if _valid(capsule, name):
            return name, (ctypes.c_uint8 * 2).from_address(_pointer(capsule, name) + place)
    return None


class _Producer:
    """A capsule as something that gives it."""

    def __init__(self, capsule: Any, where: tuple[int, int]) -> None:
        self.capsule, self.where = capsule, where

    def __dlpack__(self, **_: Any) -> Any:
        return self.capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.where


class _Writable:
    """A capsule of the first version says nothing of writing: as in PyTorch it is allowed, NumPy forbids it."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array  # which keeps the memory
        interface = array.__array_interface__
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}


def from_dlpack(ext_tensor: Any, *, device: Any = None, copy: bool | None = None) -> Any:
    """A tensor over the memory of another library's array, which has `__dlpack__`, or of a capsule.

    device: where it is wanted, if it is not there. copy: True for memory of its own, False to refuse a copy
    (BufferError). RuntimeError for what is no array and for a capsule that was used before.
    """
    where, capsule = (CPU, 0), ext_tensor
    if hasattr(ext_tensor, "__dlpack__"):
        kind, index = ext_tensor.__dlpack_device__()
        where = int(kind), int(index)
        if where[0] == CUDA:
            capsule = ext_tensor
        else:
            try:
                capsule = ext_tensor.__dlpack__(max_version=(1, 0))
            except TypeError:  # an older library
                capsule = ext_tensor.__dlpack__()
    if where[0] == CUDA:
        tensor = wrap(cupy().from_dlpack(capsule))
    else:
        found = _kind(capsule)
        if found is None:
            raise RuntimeError(
                "from_dlpack received an invalid capsule. Note that DLTensor capsules can be consumed only once, so "
                "you might have already constructed a tensor from it once."
            )
        name, kind_and_bits = found
        brain = tuple(kind_and_bits) == (BFLOAT, 16)
        if brain:
            kind_and_bits[0] = UINT
        array = np.from_dlpack(_Producer(capsule, where))
        if name == b"dltensor" and not array.flags.writeable:
            array = np.asarray(_Writable(array))
        tensor = wrap(array.view(bfloat16.numpy) if brain else array)
    moved = tensor.to(device=device)
    if copy is False and moved is not tensor:
        raise BufferError(f"a tensor on {tensor.device} is not shared with {device}, and copy=False forbids a copy")
    return moved.clone() if copy and moved is tensor else moved


def to_dlpack(tensor: Any, **options: Any) -> Any:
    """A capsule over the tensor's memory. BufferError when it requires gradients."""
    if tensor.needs:
        raise BufferError("Can't export tensors that require gradient, use tensor.detach()")
    array = tensor.array
    if array.dtype != bfloat16.numpy:
        return array.__dlpack__(**options)
    capsule = array.view(np.uint16).__dlpack__(**options)
    found = _kind(capsule)
    assert found is not None
    found[1][0] = BFLOAT
    return capsule


class Exchange(Variable):
    """What the protocols of other libraries ask of a tensor; `Tensor` inherits it."""

    __slots__ = ()

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A capsule over the same memory. BufferError when it requires gradients."""
        options = {"max_version": max_version, "dl_device": dl_device, "copy": copy, "stream": stream}
        if array_module(self.array) is np and stream is not None:
            raise AssertionError("stream should be None on cpu.")
        return to_dlpack(self, **{name: value for name, value in options.items() if value is not None})

    def __dlpack_device__(self) -> tuple[int, int]:
        """DLPack's number of the device type, and the device's."""
        here = device_of(self.array)
        return (CPU, 0) if here.type == "cpu" else (CUDA, here.index or 0)

    @property
    def __cuda_array_interface__(self) -> Any:
        """How other libraries find the elements on a GPU; AttributeError on the CPU."""
        if array_module(self.array) is np:
            raise AttributeError(
                "Can't get __cuda_array_interface__ on a tensor on the CPU. If CUDA data is required use tensor.cuda() "
                "to copy tensor to device memory."
            )
        if self.needs:
            raise RuntimeError(
                "Can't get __cuda_array_interface__ on Variable that requires grad. If gradients aren't required, use "
                "var.detach() to get Variable that doesn't require grad."
            )
        return self.array.__cuda_array_interface__
