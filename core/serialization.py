"""Saving and loading: safetensors files, readable by everybody, with nothing in them that is ever executed.

`save_file` writes a state dict by names. `save` writes nested containers too: their tensors by names made of the keys
that lead to them, and the containers as JSON in the file's metadata, so that a flat state dict is the same file either
way. `load` reads both, and the files of `torch.save` (see torchfile.py).
"""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save as serialize

from . import dtypes, torchfile
from .autograd import wrap
from .backend import CPU, Array, device, to_device, to_host
from .ops.shape import Size
from .tensor import Parameter, Tensor

# fmt: off
__all__ = [
    "load", "load_file", "save", "save_file",
]
# fmt: on

KEY = "mpigrad"  # of the containers in a file's metadata
# safetensors' names of the dtypes
NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool", "U8": "uint8"}
NAMES |= {f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)} | {f"U{bits}": f"uint{bits}" for bits in (16, 32, 64)}
NAMES |= {"C64": "complex64"}

MapLocation = Callable[[Any, str], Any] | dict[str, str] | device | str | None


def write_atomically(path: str | Path, content: bytes) -> None:
    """The whole content or nothing: written beside its place, flushed to the disk, then renamed."""
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _file(tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    return serialize({k: np.asarray(to_host(v.array), order="C") for k, v in tensors.items()}, metadata)


class Damaged(ValueError):
    """What is wrong with a file."""


def _arrays(content: bytes) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file."""
    try:
        found = deserialize(content)  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise Damaged(f"expected a whole safetensors file, found a damaged one ({error})") from None
    arrays = {}
    for key, entry in found:
        dtype = torchfile.DTYPES.get(NAMES.get(entry["dtype"], ""))
        if dtype is None:
            raise Damaged(f"expected dtypes that mpigrad has, found {entry['dtype']} in {key!r}")
        arrays[key] = np.frombuffer(entry["data"], dtype.numpy).reshape(entry["shape"])
    return arrays


def save_file(state_dict: Mapping[str, Tensor], path: str | Path) -> None:
    """Write tensors by name."""
    write_atomically(path, _file(state_dict))


def load_file(path: str | Path) -> dict[str, Tensor]:
    """Read tensors by name. ValueError when it is no whole safetensors file."""
    try:
        return {k: wrap(v) for k, v in _arrays(Path(path).read_bytes()).items()}
    except Damaged as error:
        raise Damaged(f"{path}: {error}") from None


def save(obj: Any, f: str | os.PathLike[str] | IO[bytes]) -> None:
    """Write tensors, numbers, text, None, and dicts, lists, tuples of them, to a path (whole or not at all) or a file.

    Tensors over the same elements stay the same. TypeError says where something else was found.
    """
    writer = _Writer()
    structure = writer.encode(obj, ())
    content = _file(writer.tensors, {KEY: json.dumps(structure)})
    if isinstance(f, (str, os.PathLike)):
        write_atomically(os.fspath(f), content)
    else:
        f.write(content)


def load(
    f: str | os.PathLike[str] | IO[bytes],
    map_location: MapLocation = None,
    *,
    weights_only: bool = True,
    mmap: bool | None = None,
) -> Any:
    """What `save`, `save_file` or `torch.save` wrote, from a path or a file. Nothing is ever unpickled or executed.

    map_location: the device for all tensors, a dict from saved to wanted devices, or a function that is called with a
    tensor and its saved device's name and returns a tensor, or None for no change. ValueError or
    pickle.UnpicklingError says what is broken or refused; weights_only=False reads no more than True. mmap is
    accepted: a file is always read.
    """
    name = str(f) if isinstance(f, (str, os.PathLike)) else str(getattr(f, "name", "the file"))
    try:
        if isinstance(f, (str, os.PathLike)):
            with open(f, "rb") as file:
                return _load(file, _placing(map_location))
        return _load(io.BytesIO(f.read()), _placing(map_location))
    except (pickle.UnpicklingError, Damaged, torchfile.NoDevice) as error:
        kind = RuntimeError if isinstance(error, torchfile.NoDevice) else type(error)
        raise kind(f"{name}: {error}") from None


def _load(file: IO[bytes], place: Callable[[Array, str], Array]) -> Any:
    start = file.read(9)
    file.seek(0)
    if start.startswith(b"PK"):
        return torchfile.read(file, place)
    if start[:1] == b"\x80" and start[8:] != b"{":
        raise pickle.UnpicklingError(
            "expected a zip archive, found a pickle (the format of torch.save before 1.6, or no file of it), "
            "which is never executed; load it in PyTorch and save a state_dict() again"
        )
    content = file.read()
    arrays = _arrays(content)
    try:
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        structure = header.get("__metadata__", {}).get(KEY)
        if structure is None:
            return {key: wrap(place(array, "cpu")) for key, array in arrays.items()}
        return _Reader(arrays, place).decode(json.loads(structure))
    except torchfile.NoDevice:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
        raise Damaged(f"expected containers as `save` writes them, found damaged ones ({error})") from None


def _placing(map_location: MapLocation) -> Callable[[Array, str], Array]:
    """What puts an array that was saved at a location where it is wanted."""

    def place(array: Array, location: str) -> Array:
        wanted: Any = map_location
        if isinstance(map_location, dict):
            wanted = map_location.get(location)
        elif callable(map_location):
            wanted = map_location(wrap(array), location)
            if isinstance(wanted, Tensor):
                return wanted.array
        try:
            return to_device(array, device(location if wanted is None else wanted))
        except RuntimeError as error:
            raise torchfile.NoDevice(
                f"tensors that were saved on {location!r} cannot be placed: {error}; pass map_location='cpu'"
            ) from None

    return place


class _Writer:
    """Containers as JSON; the tensors in them by name."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.names: dict[Any, str] = {}  # by place in memory
        self.above: set[int] = set()  # the containers around

    def encode(self, value: Any, path: tuple[str, ...]) -> Any:
        """value as JSON; what is no plain value is a list of one dict with its kind."""
        if value is None or isinstance(value, (bool, str)):
            return value
        if type(value) is int:
            return value
        if type(value) is float:
            return value if abs(value) < float("inf") else {"float": repr(value)}
        if isinstance(value, Tensor):
            return self._tensor(value, path)
        if isinstance(value, bytes):
            return {"bytes": base64.b64encode(value).decode()}
        if isinstance(value, complex):
            return {"complex": [repr(value.real), repr(value.imag)]}
        if isinstance(value, dtypes.dtype):
            return {"dtype": value.name}
        if isinstance(value, device):
            return {"device": str(value)}
        if isinstance(value, np.generic) and value.dtype.kind in "biuf":
            return self.encode(value.item(), path)
        if type(value) not in (dict, OrderedDict, list, tuple, Size):
            where = "".join(f"[{step}]" for step in path)
            raise TypeError(
                f"save writes tensors, numbers, text, None, and dicts, lists and tuples of them, found "
                f"{type(value).__module__}.{type(value).__name__}{' at ' + where if where else ''}"
            )
        if id(value) in self.above:
            raise ValueError("save cannot write a container that contains itself")
        self.above.add(id(value))
        try:
            if isinstance(value, dict):
                items = [[self.encode(k, path), self.encode(v, (*path, str(k)))] for k, v in value.items()]
                found: dict[str, Any] = {type(value).__name__: items}
                if (metadata := getattr(value, "_metadata", None)) is not None:  # a module's versions
                    found["_metadata"] = self.encode(metadata, path)
                return found
            items = [self.encode(item, (*path, str(i))) for i, item in enumerate(value)]
            return items if type(value) is list else {type(value).__name__: items}
        finally:
            self.above.discard(id(value))

    def _tensor(self, tensor: Tensor, path: tuple[str, ...]) -> Any:
        array = tensor.array
        place = (tensor.data_ptr(), array.shape, array.strides, array.dtype, str(tensor.device))
        if array.size == 0 or place not in self.names:
            wanted = name = ".".join(path) or "tensor"
            number = 1
            while name in self.tensors or name == "__metadata__":
                number += 1
                name = f"{wanted}#{number}"
            self.names[place], self.tensors[name] = name, tensor
        found: dict[str, Any] = {"tensor": self.names[place]}
        if tensor.device != CPU:
            found["device"] = str(tensor.device)
        if isinstance(tensor, Parameter):
            found["parameter"] = tensor.needs
        elif tensor.needs:
            found["requires_grad"] = True
        return found


class _Reader:
    """The containers that a _Writer wrote."""

    def __init__(self, arrays: dict[str, np.ndarray], place: Callable[[Array, str], Array]) -> None:
        self.arrays, self.place = arrays, place
        self.placed: dict[str, Array] = {}

    def decode(self, value: Any) -> Any:
        """What _Writer.encode made this of."""
        if isinstance(value, list):
            return [self.decode(item) for item in value]
        if not isinstance(value, dict):
            return value
        if not value:
            raise ValueError("a container without a kind")
        kind, content = next(iter(value.items()))
        if kind == "tensor":
            return self._tensor(content, value)
        if kind in ("dict", "OrderedDict"):
            pairs = ((self.decode(k), self.decode(v)) for k, v in content)
            if kind == "dict":
                return dict(pairs)
            ordered = OrderedDict(pairs)
            if "_metadata" in value:
                ordered._metadata = self.decode(value["_metadata"])  # type: ignore[attr-defined]
            return ordered
        if kind in ("tuple", "Size"):
            items = tuple(self.decode(item) for item in content)
            return items if kind == "tuple" else Size(items)
        if kind == "float":
            return float(content)
        if kind == "bytes":
            return base64.b64decode(content, validate=True)
        if kind == "complex":
            return complex(*map(float, content))
        if kind == "dtype":
            return torchfile.DTYPES[content]
        if kind == "device":
            return device(content)
        raise ValueError(f"an unknown kind {kind!r}")

    def _tensor(self, name: str, entry: dict[str, Any]) -> Tensor:
        if name not in self.placed:
            self.placed[name] = self.place(self.arrays[name], entry.get("device", "cpu"))
        tensor = wrap(self.placed[name])
        if "parameter" in entry:
            return Parameter(tensor, entry["parameter"] is True)
        return tensor.requires_grad_() if entry.get("requires_grad") is True else tensor
