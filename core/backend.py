"""Where an array lives: NumPy on the host, CuPy on a GPU. The only file that imports CuPy.

NumPy's own functions and methods (`np.exp(a)`, `a.sum(0)`, `a @ b`) dispatch to CuPy by the array's type, so ops are
written once. What NumPy's dispatch cannot reach (creation, devices, copies, scatter) are named functions here.
"""

from __future__ import annotations

import ctypes
import sys
import warnings
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np

Array = Any  # numpy.ndarray or cupy.ndarray: they share an interface, not a base class

# NaN and infinity are values in a training run, as in PyTorch, not warnings. NumPy keeps this setting per thread:
# every thread that computes calls `quiet_floating_point` first.


def quiet_floating_point() -> None:
    """Stop NumPy from warning about overflow, division by zero and invalid values in this thread."""
    np.seterr(all="ignore")


quiet_floating_point()


def keep_freed_memory() -> None:
    """Keep freed arrays in the process: glibc gives large ones back, and the next op pays for their pages again.

    A training step of the benchmarks' GPT takes a fifth less time so. Does nothing with another C library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        # the numbers are malloc.h's; before glibc 2.36 a threshold for mmap above 32 MiB is refused
        mmap_threshold, trim_threshold, top_pad = -3, -1, -2
        mallopt(mmap_threshold, 1 << 30) or mallopt(mmap_threshold, 32 << 20)
        mallopt(trim_threshold, (1 << 31) - 1)
        mallopt(top_pad, 64 << 20)


keep_freed_memory()


_everywhere: str | None = None


def use_only(kind: str | None) -> None:
    """From now on every device named means this one ("cpu"), so that GPU scripts run without a GPU; None: no more."""
    global _everywhere
    _everywhere = kind


class device:
    """Where a tensor lives: `device("cpu")`, `device("cuda", 1)`, `device("cuda:1")`."""

    __slots__ = ("index", "type")

    type: str
    index: int | None

    def __init__(self, type: str | int | device, index: int | None = None) -> None:
        if isinstance(type, device):
            self.type, self.index = type.type, type.index
        elif isinstance(type, int):
            self.type, self.index = "cuda", type
        else:
            self.type, _, number = type.partition(":")
            if number and not number.isdecimal():
                raise RuntimeError(f"Invalid device string: '{type}'")
            self.index = int(number) if number else index
        if self.type not in ("cpu", "cuda"):
            raise RuntimeError(f"Expected one of cpu, cuda device type at start of device string: {self.type}")
        if _everywhere is not None:
            self.type, self.index = _everywhere, None

    def __repr__(self) -> str:
        return f"device(type='{self.type}'" + (f", index={self.index})" if self.index is not None else ")")

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, device) and (self.type, self.index) == (other.type, other.index)

    def __hash__(self) -> int:
        return hash((self.type, self.index))


CPU = device("cpu")


@lru_cache(maxsize=1)
def cupy() -> ModuleType:
    """CuPy, imported at the first use of a GPU; RuntimeError when it or a device is missing."""
    try:
        import cupy as module
    except ImportError as error:
        raise RuntimeError(
            "a CUDA device was asked for, but CuPy is not installed: pip install 'mpigrad[cuda13]'"
        ) from error
    if cuda_device_count() == 0:
        raise RuntimeError("a CUDA device was asked for, but the driver reports none (see nvidia-smi)")
    return module  # type: ignore[no-any-return]


def cuda_device_count() -> int:
    """How many CUDA devices this process sees; 0 without CuPy or without a driver."""
    try:
        import cupy as module

        return int(module.cuda.runtime.getDeviceCount())
    except ImportError:
        return 0
    except module.cuda.runtime.CUDARuntimeError:
        return 0


def array_module(array: Array) -> ModuleType:
    """The module whose functions create arrays beside this one: numpy (also for its scalars) or cupy."""
    return np if isinstance(array, (np.ndarray, np.generic)) else cupy()


def module_of(where: device) -> ModuleType:
    """numpy for the CPU, cupy for a CUDA device (made the current one)."""
    if where.type == "cpu":
        return np
    module = cupy()
    module.cuda.Device(where.index or 0).use()
    return module


def device_of(array: Array) -> device:
    """The device that holds this array."""
    return CPU if isinstance(array, np.ndarray) else device("cuda", array.device.id)


def is_array(value: object) -> bool:
    """Whether value is a NumPy or CuPy array. CuPy is not imported to find out: without it no array can be CuPy's."""
    if isinstance(value, np.ndarray):
        return True
    module = sys.modules.get("cupy")
    return module is not None and isinstance(value, module.ndarray)


def special(array: Array) -> ModuleType:
    """The special functions (erf, digamma, ...) for this array, loaded at the first use."""
    if isinstance(array, np.ndarray | np.generic):
        import scipy.special as module
    else:
        import cupyx.scipy.special as module
    return module  # type: ignore[no-any-return]


LARGE = 2**14  # elements from which on a kernel pays
_kernels: list[ModuleType | None] = []


def kernels(first: Array, *others: Array) -> ModuleType | None:
    """kernels.py where the first array is large and all are float32 in host memory and row-major order, else None.

    None too where numba is not installed (`pip install "mpigrad[fast]"`) or does not work, which is found out once.
    """
    if first.size < LARGE or not all(map(_plain, (first, *others))):
        return None
    if not _kernels:
        try:
            from . import kernels as module
        except Exception as error:  # noqa: BLE001  whatever is wrong with it, there is another way
            if not isinstance(error, ModuleNotFoundError):
                warnings.warn(f"numba does not work, so NumPy computes all: {error}", stacklevel=2)
            _kernels.append(None)
        else:
            _kernels.append(module)
    return _kernels[0]


def kernels_for_any_size() -> None:
    """From now on an element's value does not depend on how many others there are: sizes no longer choose the way."""
    global LARGE
    LARGE = 0


def _plain(array: Array) -> bool:
    if not isinstance(array, np.ndarray) or array.dtype != np.float32:
        return False
    return array.flags.c_contiguous and array.flags.writeable  # numba compiles another loop for read-only arrays


def to_host(array: Array) -> np.ndarray:
    """The array itself on the CPU, a copy from a GPU (waits for it)."""
    return array if isinstance(array, np.ndarray) else array.get()


def to_device(array: Array, where: device) -> Array:
    """The array itself when it is there already, else a copy."""
    if device_of(array) == (where if where.type == "cpu" else device("cuda", where.index or 0)):
        return array
    module = module_of(where)
    return to_host(array) if module is np else module.asarray(array)


def pinned(array: np.ndarray) -> np.ndarray:
    """A copy in page-locked host memory, from which a GPU copies without the CPU's help."""
    cupy()
    import cupyx

    copy: np.ndarray = cupyx.empty_like_pinned(array)
    copy[...] = array
    return copy


def add_at(array: Array, index: Any, values: Array) -> None:
    """array[index] += values, where repeated indices add up."""
    if isinstance(array, np.ndarray):
        np.add.at(array, index, values)
    else:
        cupy().add.at(array, index, values)


def sum_rows(index: Array, rows: Array, count: int) -> Array:
    """The sums of the rows (n, ...) that have the same index (n,): `count` of them, zeros for an index that is missing.

    A product with a sparse matrix of ones, which takes a twentieth of the time of add_at. IndexError for an index that
    is not in 0 <= i < count.
    """
    shape, xp = (count, *rows.shape[1:]), array_module(rows)
    if not rows.size or (rows.dtype.kind != "f" and xp is not np):
        result = xp.zeros(shape, rows.dtype)
        add_at(result, index, rows)
        return result
    if xp is np:
        from scipy import sparse
    else:
        from cupyx.scipy import sparse
    if xp is np and (index.min() < 0 or index.max() >= count):  # the sparse product would write anywhere
        raise IndexError(f"expected an index from 0 to {count - 1}, found {index.min()} to {index.max()}")
    wide = rows.dtype if rows.dtype.itemsize >= 4 else np.dtype(int if rows.dtype.kind in "iu" else np.float32)
    ones, ends = xp.ones(len(index), wide), xp.arange(len(index) + 1)
    lookup = sparse.csr_matrix((ones, index, ends), shape=(len(index), count))
    sums = lookup.T @ rows.reshape(len(index), -1).astype(wide, copy=False)
    return sums.reshape(shape).astype(rows.dtype, copy=False)


def accumulate(function: Any, array: Array, axis: int) -> Array:
    """The running result of an associative NumPy function of two along axis: `np.maximum.accumulate` and its like.

    CuPy has it for sums and products only: there partial results of doubling reach are joined, in log2(n) steps
    (Hillis and Steele, Data parallel algorithms, CACM 29(12), 1986).
    """
    if isinstance(array, np.ndarray):
        return function.accumulate(array, axis)
    return accumulate_by_doubling(function, array, axis)


def accumulate_by_doubling(function: Any, array: Array, axis: int) -> Array:
    """`accumulate` as steps over whole arrays."""
    result, reach, before = array.copy(), 1, (slice(None),) * axis
    while reach < array.shape[axis]:
        joined = function(result[(*before, slice(-reach))], result[(*before, slice(reach, None))])
        result[(*before, slice(reach, None))] = joined
        reach *= 2
    return result


def synchronize(array: Array) -> None:
    """Wait until the device has finished this array; nothing to wait for on the CPU."""
    if not isinstance(array, np.ndarray):
        cupy().cuda.get_current_stream().synchronize()
