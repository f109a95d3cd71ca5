"""Objects from process to process: pickled over a socket, their arrays in shared memory.

The memory is a file without a name (memfd) whose descriptor travels with the message: nobody copies, and when the last
process that maps it ends, however it ends, the memory is gone.
"""

from __future__ import annotations

import ctypes
import io
import mmap
import os
import pickle
import socket
import struct
from typing import Any

import numpy as np

from ..tensor import Tensor

_HEADER = struct.Struct("<QQQ")  # bytes of the pickle, number of arrays in shared memory, bytes of that memory
_SMALL = 4096  # bytes up to which an array travels in the pickle
_ALIGNED = 64

_libc = ctypes.CDLL(None, use_errno=True)
_map, _unmap = _libc.mmap, _libc.munmap
_map.restype = ctypes.c_void_p
_map.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_unmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_POPULATE = getattr(mmap, "MAP_POPULATE", 0)


class Memory:
    """A mapped file, for as long as an array over it lives. Python's mmap would keep a descriptor open meanwhile."""

    def __init__(self, descriptor: int, size: int, private: bool) -> None:
        flags = mmap.MAP_PRIVATE if private else mmap.MAP_SHARED | _POPULATE
        address = _map(None, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, descriptor, 0)
        if address == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), f"cannot map {size} bytes of shared memory")
        self.address, self.size = address, size
        self.__array_interface__ = {"data": (address, False), "shape": (size,), "typestr": "|u1", "version": 3}

    def __del__(self, unmap: Any = _unmap) -> None:
        if hasattr(self, "address"):
            unmap(self.address, self.size)


class _Pickler(pickle.Pickler):
    """Knows how a Tensor travels, which is not pickled otherwise."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return NotImplemented
        if value.node is not None:
            raise RuntimeError(
                "Cowardly refusing to serialize non-leaf tensor which requires_grad, since autograd does not support "
                "crossing process boundaries. If you just want to transfer the data, call detach() on the tensor."
            )
        if not isinstance(value.array, np.ndarray):
            raise RuntimeError(f"expected tensors on the CPU to go to and from worker processes, found {value.device}")
        array, dtype = np.asarray(value.array, order="C"), value.array.dtype
        # NumPy has no buffers of the dtypes that are not its own: their bits travel
        return _tensor, (type(value), array.view(f"u{dtype.itemsize}"), dtype, value.needs)


def _tensor(cls: type[Tensor], bits: np.ndarray, dtype: np.dtype[Any], needs: bool) -> Tensor:
    tensor = Tensor.__new__(cls)
    tensor.array, tensor.needs = bits.view(dtype), needs
    return tensor


class Message:
    """A pickled object, ready to be sent, also to several processes."""

    def __init__(self, value: Any) -> None:
        arrays: list[memoryview] = []

        def keep(buffer: pickle.PickleBuffer) -> bool:
            raw = buffer.raw()
            if raw.nbytes > _SMALL:
                arrays.append(raw)
            return raw.nbytes <= _SMALL  # then in the pickle

        stream = io.BytesIO()
        _Pickler(stream, 5, buffer_callback=keep).dump(value)
        self.pickle = stream.getvalue()
        self.sizes = [a.nbytes for a in arrays]
        self.total, self.descriptor = 0, -1
        if arrays:
            self.descriptor = os.memfd_create("mpigrad", os.MFD_CLOEXEC)
            for raw in arrays:
                self._write(raw)
            os.ftruncate(self.descriptor, self.total)

    def _write(self, raw: memoryview) -> None:
        done = 0
        while done < raw.nbytes:
            done += os.pwrite(self.descriptor, raw[done:], self.total + done)
        self.total += -(-raw.nbytes // _ALIGNED) * _ALIGNED

    def __del__(self) -> None:
        if getattr(self, "descriptor", -1) >= 0:
            os.close(self.descriptor)


class Channel:
    """One end of a socket over which objects travel. private: arrays that arrive are seen by this process alone."""

    def __init__(self, end: socket.socket, *, private: bool) -> None:
        self.socket, self.private = end, private

    def send(self, message: Message) -> None:
        """OSError when the other end is closed."""
        header = _HEADER.pack(len(message.pickle), len(message.sizes), message.total)
        socket.send_fds(self.socket, [header], [message.descriptor] if message.sizes else [])
        self.socket.sendall(struct.pack(f"<{len(message.sizes)}Q", *message.sizes) + message.pickle)

    def receive(self) -> Any:
        """The next object. EOFError when the other end is closed."""
        header, descriptors, _, _ = socket.recv_fds(self.socket, _HEADER.size, 1, socket.MSG_CMSG_CLOEXEC)
        try:
            length, count, total = _HEADER.unpack(header + self._bytes(_HEADER.size - len(header)))
            sizes = struct.unpack(f"<{count}Q", self._bytes(8 * count))
            content = self._bytes(length)
            if not count:
                return pickle.loads(content)
            if not descriptors:
                raise OSError("the shared memory of a message did not arrive: too many open files in this process?")
            memory = np.asarray(Memory(descriptors[0], total, self.private))
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        arrays, start = [], 0
        for size in sizes:
            arrays.append(memory[start : start + size])
            start += -(-size // _ALIGNED) * _ALIGNED
        return pickle.loads(content, buffers=arrays)

    def _bytes(self, count: int) -> bytearray:
        content = bytearray(count)
        view = memoryview(content)
        while view:
            read = self.socket.recv_into(view)
            if read == 0:
                raise EOFError
            view = view[read:]
        return content

    def close(self) -> None:
        """The other end then reads the end."""
        self.socket.close()
