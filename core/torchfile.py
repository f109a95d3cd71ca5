"""PyTorch's own files (the zip archives of `torch.save`), read without unpickling.

An archive holds a pickle, which is a program, and the storages that it refers to. The program is run here by a machine
of its own that knows containers, numbers, text and how a tensor lies in a storage; it calls nothing, and refuses by
name whatever else the program asks for. What it reads is bounded: storages together by the size of the file, strides
and offsets by the storage, keys of dicts by their kind (comparing nested tuples can take forever).

Format: https://docs.python.org/3/library/pickletools.html, and the archive as documented in
https://docs.pytorch.org/docs/stable/notes/serialization.html.
"""

from __future__ import annotations

import math
import os
import pickle
import pickletools
import struct
import sys
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import IO, Any, NoReturn

import numpy as np

from . import dtypes
from .autograd import wrap
from .backend import Array, array_module, device
from .ops.shape import Size
from .tensor import Parameter, Tensor

STORAGES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
    "ComplexDouble": "complex128",
    "ComplexFloat": "complex64",
}
ONLY = "only tensors, numbers, text and containers are read, and nothing is ever executed"

DTYPES = {d.name: d for d in dtypes._OF_NUMPY.values()}

Place = Callable[[Array, str], Array]  # what map_location makes of a storage that was saved at a location


class NoDevice(RuntimeError):
    """Tensors were saved on a device that is not here."""


class Function:
    """What the program may call, under its name in PyTorch or Python."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self.make = make


class StorageType:
    """The class of a typed storage; of an untyped one without a dtype."""

    def __init__(self, dtype: dtypes.dtype | None) -> None:
        self.dtype = dtype


class Storage:
    """Bytes, and the dtype of a typed storage."""

    def __init__(self, array: Array, dtype: dtypes.dtype | None) -> None:
        self.array, self.dtype = array, dtype


class _Mark:
    """Where a container's items begin on the stack."""


class Reader:
    """Runs the program of one archive."""

    def __init__(self, archive: zipfile.ZipFile, size: int, place: Place) -> None:
        self.archive, self.place = archive, place
        self.budget = size  # bytes that storages may still take: the archive's size, as storages do not overlap
        self.records: dict[str, zipfile.ZipInfo] = {}
        self.storages: dict[str, Storage] = {}
        for info in archive.infolist():
            if info.filename in self.records:
                _refuse(f"the archive has two records {info.filename!r}")
            self.records[info.filename] = info
        programs = [name for name in self.records if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(programs) != 1:
            _refuse(f"expected one record */data.pkl, found {len(programs)}: no file of torch.save")
        self.root = programs[0].removesuffix("data.pkl")
        if self.root + "constants.pkl" in self.records:
            _refuse("a TorchScript archive holds code; save the module's state_dict() instead")
        order = self.record("byteorder", 16).tobytes() if self.root + "byteorder" in self.records else b"little"
        if order not in (b"little", b"big"):
            _refuse(f"expected a byte order little or big, found {order!r}")
        self.swapped = order.decode() != sys.byteorder

    def record(self, name: str, limit: int | None = None) -> np.ndarray:
        """The bytes of a record, in memory of their own."""
        info = self.records.get(self.root + name)
        if info is None:
            _refuse(f"expected a record {self.root + name!r}, found none")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
            _refuse(f"expected the record {name!r} to be stored as it is, found it compressed or encrypted")
        self.budget -= info.file_size
        if self.budget < 0 or (limit is not None and info.file_size > limit):
            _refuse(f"the record {name!r} claims {info.file_size} bytes, more than there can be")
        content = np.empty(info.file_size, np.uint8)
        with self.archive.open(info) as file:
            view, done = content.data, 0
            while done < len(content):
                if not (read := file.readinto(view[done : done + 2**24])):  # type: ignore[attr-defined]
                    _refuse(f"the record {name!r} ends after {done} of {info.file_size} bytes")
                done += read
            file.read(1)  # the end: where the checksum is compared
        return content

    # --- the machine ------------------------------------------------------------------------------------------------

    def run(self) -> Any:
        """What the program builds."""
        stack: list[Any] = []
        memo: dict[int, Any] = {}

        def since_mark() -> list[Any]:
            at = len(stack) - 1
            while at >= 0 and stack[at] is not _Mark:
                at -= 1
            if at < 0:
                _refuse("the program looks for a mark that it never set")
            items = stack[at + 1 :]
            del stack[at:]
            return items

        def pop(count: int) -> list[Any]:
            items = stack[-count:]
            if len(items) < count or _Mark in items:
                _refuse("the program takes more from its stack than there is")
            del stack[-count:]
            return items

        argument: Any
        for opcode, argument, _ in pickletools.genops(self.record("data.pkl").tobytes()):
            name = opcode.name
            if name in VALUES:
                stack.append(argument)
            elif name in CONSTANTS:
                stack.append(CONSTANTS[name]())
            elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
                memo[argument] = _top(stack)
            elif name == "MEMOIZE":
                memo[len(memo)] = _top(stack)
            elif name in ("BINGET", "LONG_BINGET", "GET"):
                stack.append(memo[argument])
            elif name == "MARK":
                stack.append(_Mark)
            elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
                stack.append(tuple(pop(int(name[-1]))))
            elif name == "TUPLE":
                stack.append(tuple(since_mark()))
            elif name in ("APPEND", "APPENDS"):
                items = pop(1) if name == "APPEND" else since_mark()
                _expect(_top(stack), list, "appends to").extend(items)
            elif name in ("SETITEM", "SETITEMS"):
                items = pop(2) if name == "SETITEM" else since_mark()
                if len(items) % 2:
                    _refuse("a dict with a key that has no value")
                target = _expect(_top(stack), (dict, OrderedDict), "sets items of")
                for key, value in zip(items[::2], items[1::2], strict=True):
                    target[_key(key)] = value
            elif name == "ADDITEMS":
                items = since_mark()
                _expect(_top(stack), set, "adds items to").update(map(_key, items))
            elif name == "GLOBAL":
                stack.append(_look_up(*argument.split(" ", 1)))
            elif name == "STACK_GLOBAL":
                module, attribute = pop(2)
                stack.append(_look_up(_expect(module, str, "looks up"), _expect(attribute, str, "looks up")))
            elif name == "REDUCE":
                function, arguments = pop(2)
                make = _expect(function, Function, "calls").make
                stack.append(make(self, *_expect(arguments, tuple, "calls with")))
            elif name == "BINPERSID":
                stack.append(self.storage(*_expect(pop(1)[0], tuple, "looks up")))
            elif name == "BUILD":
                state = _expect(pop(1)[0], dict, "sets the state to")
                target = _expect(_top(stack), OrderedDict, "sets the state of")
                if set(state) - {"_metadata"} or not isinstance(state.get("_metadata", {}), dict):
                    _refuse(f"the program sets attributes of an OrderedDict: {ONLY}")
                target.__dict__.update(state)
            elif name == "STOP":
                (result,) = pop(1)
                if stack:
                    _refuse("the program leaves something on its stack")
                _check_whole(result)
                return result
            elif name not in ("PROTO", "FRAME"):
                _refuse(f"the program has an instruction {name}: {ONLY}")
        return _refuse("the program has no end")

    def storage(self, kind: Any, typed: Any, key: Any, location: Any, count: Any, *_: Any) -> Storage:
        """The storage of this key: read once, so that tensors which shared it share it again."""
        if kind != "storage" or not isinstance(key, str) or not key.isalnum():
            _refuse(f"the program looks up {kind!r} {key!r}, which is no storage")
        dtype = _expect(typed, StorageType, "makes a storage of").dtype
        if key not in self.storages:
            content = self.record(f"data/{key}")
            if self.swapped and dtype is None:
                _refuse("storages without a dtype in another byte order")
            if self.swapped and len(content) % dtype.itemsize == 0:
                content = content.view(f"u{dtype.itemsize}").byteswap().view(np.uint8)
            self.storages[key] = Storage(self.place(content, _expect(location, str, "finds a storage at")), dtype)
        found = self.storages[key]
        if _size(count) * (dtype.itemsize if dtype else 1) > len(found.array):
            _refuse(f"the storage {key!r} should have {count} elements, but has {len(found.array)} bytes")
        return Storage(found.array, dtype)

    def tensor(
        self,
        storage: Any,
        offset: Any,
        size: Any,
        stride: Any,
        requires_grad: Any = False,
        hooks: Any = None,
        dtype: Any = None,
        metadata: Any = None,
    ) -> Tensor:
        """A tensor over a storage: `_rebuild_tensor_v2`, or `_rebuild_tensor_v3` with a dtype."""
        _expect(storage, Storage, "makes a tensor of")
        if hooks or metadata:
            _refuse("a tensor with hooks, or with the bits of a lazy conjugate or negative")
        kind = storage.dtype if dtype is None else _expect(dtype, dtypes.dtype, "takes a dtype from")
        if kind is None:
            _refuse("a tensor without a dtype")
        shape, steps, first = _sizes(size), _sizes(stride), _size(offset)
        if len(shape) != len(steps) or len(shape) > 64:
            _refuse(f"a tensor with {len(shape)} sizes and {len(steps)} strides")
        elements = storage.array[: len(storage.array) // kind.itemsize * kind.itemsize].view(kind.numpy)
        last = first + sum((n - 1) * step for n, step in zip(shape, steps, strict=True))
        if 0 in shape:
            first = 0
        elif last >= len(elements):
            _refuse(f"a tensor that reaches element {last} of a storage with {len(elements)}")
        if math.prod(shape) * kind.itemsize >= 2**63:
            _refuse(f"a tensor of shape {list(shape)}")
        strided = array_module(elements).lib.stride_tricks.as_strided
        tensor = wrap(strided(elements[first:], shape, [step * kind.itemsize for step in steps]))
        return tensor.requires_grad_() if requires_grad is True else tensor

    def parameter(self, data: Any, requires_grad: Any, hooks: Any = None) -> Parameter:
        """`_rebuild_parameter`."""
        if hooks:
            _refuse("a parameter with hooks")
        return Parameter(_expect(data, Tensor, "makes a parameter of"), requires_grad is True)


def _encoded(_: Reader, text: Any, encoding: Any = "utf-8") -> bytes:
    if isinstance(text, bytes):
        return text
    if encoding not in ("latin1", "latin-1"):  # how Python writes bytes in its older pickles
        _refuse(f"text in the encoding {encoding!r}")
    return _expect(text, str, "encodes").encode("latin1")  # type: ignore[no-any-return]


def _mapping(kind: Callable[..., Any]) -> Callable[..., Any]:
    def make(_: Reader, items: Any = ()) -> Any:
        if isinstance(items, list):
            return kind((_key(key), value) for key, value in items)
        return kind(_expect(items, (dict, OrderedDict, tuple), "makes a dict of"))

    return make


def _numbers(kind: Callable[..., Any]) -> Callable[..., Any]:
    return lambda _, *parts: kind(*(_expect(part, (int, float), "makes a number of") for part in parts[:2]))


KNOWN: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _mapping(OrderedDict),
    "collections.Counter": _mapping(Counter),
    "torch._utils._rebuild_tensor": Reader.tensor,
    "torch._utils._rebuild_tensor_v2": lambda self, *a: self.tensor(*a[:6], None, *a[6:]),
    "torch._utils._rebuild_tensor_v3": Reader.tensor,
    "torch._utils._rebuild_parameter": Reader.parameter,
    "torch.Size": lambda _, sizes=(): Size(_sizes(sizes)),
    "torch.device": lambda _, *parts: device(
        *(_expect(p, kind, "names a device") for p, kind in zip(parts, (str, int), strict=False))
    ),
    "_codecs.encode": _encoded,
    "builtins.complex": _numbers(complex),
    "builtins.set": lambda _, items=(): set(map(_key, _expect(items, (list, tuple), "makes a set of"))),
    "builtins.bytes": lambda self, *a: _encoded(self, *a) if a else b"",
    "builtins.bytearray": lambda self, *a: bytearray(_encoded(self, *a) if a else b""),
}
VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": set,
}
# what a damaged file may lead Python's readers and NumPy to
BROKEN: tuple[type[Exception], ...] = (zipfile.BadZipFile, struct.error, EOFError, OSError, ValueError, TypeError)
BROKEN += (LookupError, ArithmeticError, AttributeError, RuntimeError, AssertionError, Warning)


def _refuse(what: str) -> NoReturn:
    raise pickle.UnpicklingError(what)


def _expect(value: Any, kind: Any, does: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        found = type(value).__name__
        _refuse(f"the program {does} {found}, which is refused: {ONLY}")
    return value


def _check_whole(result: Any) -> None:
    """Refuse what was named or read and is in no tensor: storages, their types, functions."""
    left, seen = [result], set()
    while left:
        value = left.pop()
        if isinstance(value, (Storage, StorageType, Function)):
            _refuse(f"the program returns a {type(value).__name__}, which is refused: {ONLY}")
        if isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            left.extend(value.values() if isinstance(value, dict) else value)


def _top(stack: list[Any]) -> Any:
    if not stack or stack[-1] is _Mark:
        _refuse("the program takes more from its stack than there is")
    return stack[-1]


def _key(value: Any) -> Any:
    """A dict's key: plain, or a flat tuple of plain values."""
    plain = (str, int, float, bytes, type(None))
    if not all(isinstance(part, plain) for part in (value if isinstance(value, tuple) else (value,))):
        _refuse(f"a dict with a key of type {type(value).__name__}")
    return value


def _size(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        _refuse(f"expected a size, found {value if isinstance(value, int) else type(value).__name__}")
    return value


def _sizes(values: Any) -> tuple[int, ...]:
    return tuple(_size(n) for n in _expect(values, (tuple, list), "makes sizes of"))


def _look_up(module: str, name: str) -> Any:
    """What a name stands for, without importing anything; any but these is refused."""
    full = f"{module}.{name}".replace("__builtin__.", "builtins.")
    if full in KNOWN:
        return Function(KNOWN[full])
    if full == "torch.storage.UntypedStorage":
        return StorageType(None)
    if module == "torch" and name in DTYPES:
        return DTYPES[name]
    if module == "torch" and (dtype := DTYPES.get(STORAGES.get(name.removesuffix("Storage"), ""))):
        return StorageType(dtype)
    _refuse(f"it asks for {full}, which is refused: {ONLY}; load it in PyTorch and save a state_dict()")


def read(file: IO[bytes], place: Place) -> Any:
    """What `torch.save` wrote. pickle.UnpicklingError says what is refused or broken."""
    size = file.seek(0, os.SEEK_END)
    try:
        with zipfile.ZipFile(file) as archive:
            return Reader(archive, size, place).run()
    except NoDevice:
        raise
    except BROKEN as error:
        raise pickle.UnpicklingError(f"the archive is damaged ({type(error).__name__}: {error})") from None
