"""Functions that make tensors. memory_format: accepted by the `_like` functions; what they make is contiguous."""

from __future__ import annotations

import operator
import sys
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np

from . import backend, dtypes
from .autograd import no_grad, wrap
from .backend import CPU, Array, device, is_array, module_of, to_device, to_host
from .dlpack import from_dlpack
from .dtypes import dtype as Dtype
from .generator import Generator, default_generator
from .ops.pointwise import cannot_broadcast
from .ops.shape import sizes
from .tensor import Tensor

# fmt: off
__all__ = [
    "arange", "as_tensor", "asarray", "bernoulli", "empty", "empty_like", "eye", "from_numpy", "frombuffer",
    "full", "full_like", "get_default_device", "is_complex", "is_floating_point", "is_tensor", "linspace", "logspace",
    "multinomial", "normal", "numel", "ones", "ones_like", "rand", "rand_like", "randint", "randint_like", "randn",
    "randn_like", "randperm", "scalar_tensor", "set_default_device", "tensor", "tril_indices", "triu_indices", "zeros",
    "zeros_like",
]
# fmt: on

Where = device | str | int | None


_default_device: device | None = None


def set_default_device(device: Where) -> None:
    """The device of tensors that are made without one from now on; None: the CPU."""
    global _default_device
    _default_device = None if device is None else backend.device(device)


def get_default_device() -> device:
    """The device of tensors that are made without one."""
    return _device(None)


def _device(where: Where) -> device:
    return _default_device or CPU if where is None else device(where)


def _finish(array: Array, where: Where, requires_grad: bool) -> Tensor:
    where = _default_device if where is None else where
    tensor = wrap(array if where is None else to_device(array, _device(where)))
    return tensor.requires_grad_() if requires_grad else tensor


def tensor(data: Any, *, dtype: Dtype | None = None, device: Where = None, requires_grad: bool = False) -> Tensor:
    """A new tensor with a copy of data: a number, nested lists, an array or a tensor.

    Python floats become the default dtype, ints int64, bools bool. ValueError for ragged lists.
    """
    return _finish(_array(data, dtype, copy=True), device, requires_grad)


def as_tensor(data: Any, dtype: Dtype | None = None, device: Where = None) -> Tensor:
    """As `tensor`, but sharing memory where data is an array or a tensor of the right dtype and device."""
    if isinstance(data, Tensor):
        return data.to(dtype=dtype, device=device)
    return _finish(_array(data, dtype, copy=False), device, False)


def is_tensor(obj: Any) -> bool:
    """Whether obj is a Tensor."""
    return isinstance(obj, Tensor)


def is_floating_point(input: Tensor) -> bool:
    """Whether the elements are floating-point numbers."""
    return input.is_floating_point()


def is_complex(input: Tensor) -> bool:
    """Never: there are no complex dtypes."""
    return input.is_complex()


def numel(input: Tensor) -> int:
    """The number of elements."""
    return input.numel()


def from_numpy(array: np.ndarray) -> Tensor:
    """A tensor that shares the array's memory. TypeError for dtypes PyTorch has not."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"expected np.ndarray (got {type(array).__name__})")
    if array.dtype.byteorder not in _NATIVE:
        raise ValueError(
            "given numpy array has byte order different from the native byte order. Conversion between byte orders is "
            "currently not supported."
        )
    size = dtypes.of(array.dtype).itemsize
    for stride in array.strides:
        if stride < 0:
            raise ValueError(
                "At least one stride in the given numpy array is negative, and tensors with negative strides are not "
                "currently supported. (You can probably work around this by making a copy of your array with "
                "array.copy().)"
            )
        if stride % size:
            raise ValueError(
                "given numpy array strides not a multiple of the element byte size. Copy the numpy array to reallocate "
                "the memory."
            )
    return wrap(array)


_NATIVE = "=|" + ("<" if sys.byteorder == "little" else ">")


def frombuffer(buffer: Any, *, dtype: Dtype, count: int = -1, offset: int = 0, requires_grad: bool = False) -> Tensor:
    """A one-dimensional tensor over the memory of a Python buffer, from a byte offset on; count -1 takes all there is.

    ValueError when the elements do not fit.
    """
    try:
        length = memoryview(buffer).nbytes
    except TypeError:
        raise ValueError("object does not implement Python buffer protocol.") from None
    if length == 0 or count == 0:
        raise ValueError(f"both buffer length ({length}) and count ({count}) must not be 0")
    if not 0 <= offset < length:
        raise ValueError(
            f"offset ({offset} bytes) must be non-negative and no greater than buffer length ({length} bytes) minus 1"
        )
    if count < 0 and (length - offset) % dtype.itemsize:
        raise ValueError(
            f"buffer length ({length - offset} bytes) after offset ({offset} bytes) must be a multiple of element size "
            f"({dtype.itemsize})"
        )
    count = (length - offset) // dtype.itemsize if count < 0 else count
    if count * dtype.itemsize > length - offset:
        raise ValueError(
            f"requested buffer length ({count} * {dtype.itemsize} bytes) after offset ({offset} bytes) must not be "
            f"greater than actual buffer length ({length} bytes)"
        )
    bits = np.frombuffer(buffer, f"u{dtype.itemsize}", count, offset)
    return _finish(bits.view(dtype.numpy), None, requires_grad)


def asarray(
    obj: Any,
    *,
    dtype: Dtype | None = None,
    device: Where = None,
    copy: bool | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """obj as a tensor: over the same memory where it is a tensor, an array, has `__dlpack__` or is a buffer.

    A buffer's elements are of dtype, or of the default one. copy: True for memory of its own, False to refuse a copy
    (ValueError).
    """
    if isinstance(obj, Tensor):
        shared: Tensor | None = obj
    elif is_array(obj):
        shared = wrap(obj)
    elif hasattr(obj, "__dlpack__"):
        shared = from_dlpack(obj)
    elif isinstance(obj, (bytes, bytearray, memoryview)) or hasattr(obj, "__buffer__"):
        shared = frombuffer(obj, dtype=dtype or dtypes.get_default_dtype())
    else:
        shared = None
    if shared is None:
        if copy is False:
            raise ValueError("can't alias arbitrary sequence into a tensor.")
        result = _finish(_array(obj, dtype, copy=False), device, False)
    else:
        result = shared.to(dtype=dtype, device=device, copy=bool(copy))
        if copy is False and result is not shared:
            raise ValueError(
                f"can't alias tensor of {shared.dtype} on {shared.device} into {result.dtype} on {result.device}."
            )
    return result.requires_grad_() if requires_grad and result.node is None else result


def _array(data: Any, dtype: Dtype | None, *, copy: bool) -> Array:
    if isinstance(data, Tensor):
        data = data.array
    if is_array(data) or isinstance(data, np.generic):
        wanted = dtype or dtypes.of(data.dtype)
        array = data if is_array(data) else np.asarray(data)
        return array.astype(wanted.numpy, copy=copy)
    found: set[Any] = set()
    plain = _plain(data, found)
    kinds = [kind if isinstance(kind, np.dtype) else dtypes.of_number(kind()) for kind in found]
    natural = dtypes.of(reduce(dtypes.promote, kinds)) if kinds else dtypes.get_default_dtype()
    kind = (dtype or natural).numpy
    try:
        if kind.kind == "u":  # in which negative numbers count down from the largest
            wide = np.array(plain, natural.numpy)
            for value in (wide.min(), wide.max()) if wide.size else ():
                dtypes.number_for(kind, value)
            return wide.astype(kind)
        return np.array(plain, kind)
    except (OverflowError, ValueError) as error:
        if "sequence" in str(error):
            raise ValueError(_uneven(plain)) from None
        raise RuntimeError(f"value cannot be converted to type {kind.name} without overflow") from None


def _uneven(data: Any) -> str:
    """Where nested lists have another length, or another depth, than the first at their level."""
    level, dim = [data], 0
    while all(isinstance(item, list) for item in level):
        length = len(level[0])
        for item in level:
            if len(item) != length:
                return f"expected sequence of length {length} at dim {dim} (got {len(item)})"
        level, dim = [item for items in level for item in items], dim + 1
    return f"expected numbers or sequences at dim {dim}, found both"


def _plain(data: Any, found: set[Any]) -> Any:
    """Nested lists with Python numbers in the place of tensors; their classes and dtypes are added to `found`."""
    if data.__class__ in (float, int, bool):
        found.add(data.__class__)
        return data
    if isinstance(data, (np.generic, np.ndarray, Tensor)):
        array = to_host(data.array) if isinstance(data, Tensor) else data
        found.add(array.dtype)
        return array.tolist()
    if isinstance(data, Sequence) and not isinstance(data, (str, bytes)):
        return [_plain(v, found) for v in data]
    if isinstance(data, (float, int)):
        found.add(int if isinstance(data, int) else float)
        return data
    if isinstance(data, str):
        raise TypeError("new(): invalid data type 'str'")
    raise RuntimeError(f"Could not infer dtype of {type(data).__name__}")


def _shape(size: tuple[Any, ...]) -> tuple[int, ...]:
    shape = tuple(operator.index(n) for n in sizes(size))
    if any(n < 0 for n in shape):
        raise RuntimeError(f"Trying to create tensor with negative dimension {min(shape)}: {list(shape)}")
    return shape


def zeros(*size: Any, dtype: Dtype | None = None, device: Where = None, requires_grad: bool = False) -> Tensor:
    """All 0."""
    return full(_shape(size), 0, dtype=dtype or dtypes.get_default_dtype(), device=device, requires_grad=requires_grad)


def ones(*size: Any, dtype: Dtype | None = None, device: Where = None, requires_grad: bool = False) -> Tensor:
    """All 1."""
    return full(_shape(size), 1, dtype=dtype or dtypes.get_default_dtype(), device=device, requires_grad=requires_grad)


def empty(*size: Any, dtype: Dtype | None = None, device: Where = None, requires_grad: bool = False) -> Tensor:
    """Elements as the memory happens to be."""
    module = module_of(_device(device))
    return _finish(module.empty(_shape(size), (dtype or dtypes.get_default_dtype()).numpy), device, requires_grad)


def full(
    size: Sequence[int],
    fill_value: complex,
    *,
    dtype: Dtype | None = None,
    device: Where = None,
    requires_grad: bool = False,
) -> Tensor:
    """All fill_value."""
    if isinstance(fill_value, Tensor):
        fill_value = fill_value.item()
    if not isinstance(fill_value, (int, float, np.generic)):
        kind_of = type(fill_value).__name__
        raise TypeError(f"full(): argument 'fill_value' (position 2) must be Number, not {kind_of}")
    kind = dtype.numpy if dtype else dtypes.of_number(fill_value)
    fill_value = dtypes.number_for(kind, fill_value)
    return _finish(module_of(_device(device)).full(_shape((size,)), fill_value, kind), device, requires_grad)


def zeros_like(
    input: Tensor,
    *,
    dtype: Dtype | None = None,
    device: Where = None,
    requires_grad: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """All 0, in input's shape and dtype."""
    return full(input.shape, 0, dtype=dtype or input.dtype, device=device or input.device, requires_grad=requires_grad)


def ones_like(
    input: Tensor,
    *,
    dtype: Dtype | None = None,
    device: Where = None,
    requires_grad: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """All 1, in input's shape and dtype."""
    return full(input.shape, 1, dtype=dtype or input.dtype, device=device or input.device, requires_grad=requires_grad)


def empty_like(
    input: Tensor,
    *,
    dtype: Dtype | None = None,
    device: Where = None,
    requires_grad: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """Unset elements, in input's shape and dtype."""
    return empty(input.shape, dtype=dtype or input.dtype, device=device or input.device, requires_grad=requires_grad)


def full_like(
    input: Tensor,
    fill_value: complex,
    *,
    dtype: Dtype | None = None,
    device: Where = None,
    requires_grad: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """All fill_value, in input's shape and dtype."""
    kind, where = dtype or input.dtype, device or input.device
    return full(input.shape, fill_value, dtype=kind, device=where, requires_grad=requires_grad)


def arange(
    start: float | None = None,
    end: float | None = None,
    step: float = 1,
    *,
    dtype: Dtype | None = None,
    device: Where = None,
    requires_grad: bool = False,
) -> Tensor:
    """start, start + step, ... before end; int64 when all three are ints."""
    first, last = (0, start) if end is None else (start or 0, end)
    if last is None:
        raise TypeError("arange() missing 1 required positional argument: 'end'")
    if not np.isfinite([first, last]).all():
        raise RuntimeError(f"unsupported range: {first} -> {last}")
    if step == 0:
        raise RuntimeError("step must be nonzero")
    if dtype is dtypes.int64:
        first, last, step = int(first), int(last), int(step)
    if step == 0:
        raise ValueError("step must be nonzero")  # as an integer
    if (last - first) / step < 0:
        raise RuntimeError("upper bound and lower bound inconsistent with step sign")
    whole = all(isinstance(v, int) for v in (first, last, step))
    kind = dtype or (dtypes.int64 if whole else dtypes.get_default_dtype())
    count = int(np.ceil((last - first) / step))
    if kind.numpy.kind in "iu":
        first, step, whole = int(first), int(step), True
    steps: Array = np.arange(count, dtype=np.int64 if whole else np.float64)
    values = first + steps * step
    return _finish(values.astype(kind.numpy), device, requires_grad)


def linspace(
    start: float,
    end: float,
    steps: int,
    *,
    dtype: Dtype | None = None,
    device: Where = None,
    requires_grad: bool = False,
) -> Tensor:
    """`steps` evenly spaced values from start to end, both included."""
    kind = dtype or dtypes.get_default_dtype()
    return _finish(_spaced(start, end, steps, kind).astype(kind.numpy), device, requires_grad)


def _spaced(start: float, end: float, steps: int, kind: Dtype) -> Array:
    """Evenly spaced numbers for a tensor of this dtype; the ends are of it themselves."""
    if steps < 0:
        raise RuntimeError("number of steps must be non-negative")
    for name, value in (("start", start), ("end", end)):
        if isinstance(value, Tensor) and value.array.ndim:
            raise RuntimeError(f"expected {name} to be a number or a 0-dimensional tensor, found {value.array.ndim}-D")
    number = int if kind.numpy.kind in "iu" else float
    return np.linspace(number(start), number(end), steps)


def logspace(
    start: float,
    end: float,
    steps: int,
    base: float = 10.0,
    *,
    dtype: Dtype | None = None,
    device: Where = None,
    requires_grad: bool = False,
) -> Tensor:
    """base to the power of `steps` evenly spaced values from start to end, both included."""
    kind = dtype or dtypes.get_default_dtype()
    values = np.power(float(base), _spaced(start, end, steps, kind))
    return _finish(values.astype(kind.numpy), device, requires_grad)


def scalar_tensor(
    s: complex, *, dtype: Dtype | None = None, device: Where = None, requires_grad: bool = False
) -> Tensor:
    """The number as a tensor without dimensions, of the default dtype."""
    return full((), s, dtype=dtype or dtypes.get_default_dtype(), device=device, requires_grad=requires_grad)


def tril_indices(row: int, col: int, offset: int = 0, *, dtype: Dtype | None = None, device: Where = None) -> Tensor:
    """The row and column numbers of a matrix on and below a diagonal, (2, n)."""
    return _finish(np.stack(np.tril_indices(row, offset, col)).astype((dtype or dtypes.int64).numpy), device, False)


def triu_indices(row: int, col: int, offset: int = 0, *, dtype: Dtype | None = None, device: Where = None) -> Tensor:
    """The row and column numbers of a matrix on and above a diagonal, (2, n)."""
    return _finish(np.stack(np.triu_indices(row, offset, col)).astype((dtype or dtypes.int64).numpy), device, False)


def eye(
    n: int, m: int | None = None, *, dtype: Dtype | None = None, device: Where = None, requires_grad: bool = False
) -> Tensor:
    """The n by m matrix with 1 on its diagonal."""
    n, m = operator.index(n), operator.index(n if m is None else m)
    for name, size in (("n", n), ("m", m)):
        if size < 0:
            raise RuntimeError(f"{name} must be greater or equal to 0, got {size}")
    return _finish(np.eye(n, m, dtype=(dtype or dtypes.get_default_dtype()).numpy), device, requires_grad)


# --- random: PyTorch's own stream (see generator.py) ----------------------------------------------------------------


def rand(
    *size: Any,
    generator: Generator | None = None,
    dtype: Dtype | None = None,
    device: Where = None,
    requires_grad: bool = False,
) -> Tensor:
    """Independent draws from U[0, 1)."""
    kind = (dtype or dtypes.get_default_dtype()).numpy
    return _finish((generator or default_generator).rand(_shape(size), kind), device, requires_grad)


def randn(
    *size: Any,
    generator: Generator | None = None,
    dtype: Dtype | None = None,
    device: Where = None,
    requires_grad: bool = False,
) -> Tensor:
    """Independent draws from N(0, 1)."""
    kind = (dtype or dtypes.get_default_dtype()).numpy
    return _finish((generator or default_generator).normal(_shape(size), 0.0, 1.0, kind), device, requires_grad)


def randint(
    low: int | None = None,
    high: Any = None,
    size: Any = None,
    *,
    generator: Generator | None = None,
    dtype: Dtype | None = None,
    device: Where = None,
    requires_grad: bool = False,
) -> Tensor:
    """Independent integers from low (0 if left out: `randint(high, size)`) to high - 1."""
    if size is None:
        low, high, size = None, low, high
    first, last = (0, low) if high is None else (low or 0, high)
    if last is None or size is None:
        raise TypeError("randint() missing 1 required positional argument: 'size'")
    kind = (dtype or dtypes.int64).numpy
    values = (generator or default_generator).randint(first, last, _shape((size,)), kind)
    return _finish(values, device, requires_grad)


def randperm(n: int, *, generator: Generator | None = None, dtype: Dtype | None = None, device: Where = None) -> Tensor:
    """The integers 0 to n - 1 in random order."""
    values = (generator or default_generator).randperm(n)
    return _finish(values.astype((dtype or dtypes.int64).numpy, copy=False), device, False)


def rand_like(
    input: Tensor,
    *,
    generator: Generator | None = None,
    dtype: Dtype | None = None,
    device: Where = None,
    requires_grad: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """Draws from U[0, 1) in input's shape, dtype and device."""
    kind, where = dtype or input.dtype, device or input.device
    return rand(input.shape, generator=generator, dtype=kind, device=where, requires_grad=requires_grad)


def randn_like(
    input: Tensor,
    *,
    generator: Generator | None = None,
    dtype: Dtype | None = None,
    device: Where = None,
    requires_grad: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """Draws from N(0, 1) in input's shape, dtype and device."""
    kind, where = dtype or input.dtype, device or input.device
    return randn(input.shape, generator=generator, dtype=kind, device=where, requires_grad=requires_grad)


def randint_like(
    input: Tensor,
    low: int | None = None,
    high: int | None = None,
    *,
    generator: Generator | None = None,
    dtype: Dtype | None = None,
    device: Where = None,
    requires_grad: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """Integers from low (0 if left out: `randint_like(input, high)`) to high - 1 in input's shape, dtype and device."""
    first, last = (0, low) if high is None else (low or 0, high)
    kind, where = dtype or input.dtype, device or input.device
    shape = input.shape
    return randint(first, last, shape, generator=generator, dtype=kind, device=where, requires_grad=requires_grad)


def normal(mean: Any, std: Any = 1.0, size: Any = None, *, generator: Generator | None = None, **options: Any) -> Any:
    """Independent draws from N(mean, std**2): numbers with a size, or tensors that give the shape.

    options: dtype, device and requires_grad beside a size.
    """
    if size is not None:
        made = empty(size, dtype=options.get("dtype"), device=options.get("device"))
        return made.normal_(mean, std, generator=generator).requires_grad_(options.get("requires_grad", False))
    if isinstance(std, Tensor) and bool((std.array < 0).any()):
        raise RuntimeError("normal expects all elements of std >= 0.0")
    if not isinstance(mean, Tensor) and not isinstance(std, Tensor):
        raise TypeError("normal(): expected a size beside two numbers")
    like = mean if isinstance(mean, Tensor) else std
    shapes = [tuple(v.shape) for v in (mean, std) if isinstance(v, Tensor)]
    try:
        shape = np.broadcast_shapes(*shapes)
    except ValueError:
        raise RuntimeError(cannot_broadcast(*shapes)) from None
    draws = randn(shape, generator=generator, dtype=like.dtype, device=like.device)
    with no_grad():
        return draws * std + mean


def bernoulli(input: Tensor, p: float | None = None, *, generator: Generator | None = None) -> Any:
    """1 with the probability that the element says (or p), else 0."""
    return input.bernoulli(p, generator=generator)


def multinomial(
    input: Tensor, num_samples: int, replacement: bool = False, *, generator: Generator | None = None
) -> Any:
    """Indices drawn in proportion to the weights in a vector, or in each row of a matrix."""
    return input.multinomial(num_samples, replacement, generator=generator)
