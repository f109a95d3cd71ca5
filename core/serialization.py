"""State dicts as safetensors files: readable by everybody, nothing in them is ever executed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from .autograd import wrap
from .backend import to_host
from .tensor import Tensor

# fmt: off
__all__ = [
    "load_file", "save_file",
]
# fmt: on


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


def save_file(state_dict: Mapping[str, Tensor], path: str | Path) -> None:
    """Write tensors by name."""
    write_atomically(path, save({k: np.asarray(to_host(v.array), order="C") for k, v in state_dict.items()}))


def load_file(path: str | Path) -> dict[str, Tensor]:
    """Read tensors by name. ValueError when it is no whole safetensors file."""
    try:
        return {k: wrap(v) for k, v in load(Path(path).read_bytes()).items()}
    except SafetensorError as error:
        raise ValueError(f"{path}: expected a whole safetensors file, found a damaged one ({error})") from None
