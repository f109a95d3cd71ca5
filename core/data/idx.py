"""IDX files, the format of MNIST: a header of dimensions, then the bytes (see yann.lecun.com/exdb/mnist)."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from ..creation import from_numpy
from .dataset import TensorDataset

__all__ = ["mnist", "read_idx"]

TRAIN, TEST = "train", "t10k"


def read_idx(path: str | Path) -> np.ndarray:
    """The array of unsigned bytes in an IDX file, gzipped or not. ValueError says what is wrong with a broken file."""
    path = Path(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            raw = file.read()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: expected a whole gzip file, found a damaged one ({error}); fetch it again") from None
    if len(raw) < 4 or raw[:3] != b"\0\0\x08":
        raise ValueError(
            f"{path}: expected an IDX file of unsigned bytes (00 00 08 ..), found {raw[:4].hex(' ') or 'nothing'}"
        )
    ndim = raw[3]
    header = 4 + 4 * ndim
    if len(raw) < header:
        raise ValueError(
            f"{path}: expected {ndim} dimensions in the header, found the file ends after {len(raw)} bytes"
        )
    shape = struct.unpack(f">{ndim}I", raw[4:header])
    expected = int(np.prod(shape, dtype=np.int64))
    if len(raw) - header != expected:
        raise ValueError(
            f"{path}: expected {expected} bytes of data for shape {list(shape)}, found {len(raw) - header}; "
            "the file is truncated or damaged, fetch it again"
        )
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def _load(directory: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = (read_idx(_find(directory, f"{part}-{kind}-ubyte")) for kind in ("images-idx3", "labels-idx1"))
    if len(images) != len(labels):
        raise ValueError(
            f"{directory}: expected as many {part} labels as images, found {len(labels)} and {len(images)}"
        )
    return images.reshape(len(images), -1).astype(np.float32) / 255, labels.astype(np.int64)


def _find(directory: Path, name: str) -> Path:
    for path in (directory / f"{name}.gz", directory / name):
        if path.exists():
            return path
    found = ", ".join(sorted(p.name for p in directory.iterdir())) or "nothing"
    raise FileNotFoundError(f"{directory}: expected {name}.gz, found {found}")


def mnist(directory: str | Path, train: bool = True) -> TensorDataset:
    """MNIST from its IDX files: images (n, 784) in 0..1 and classes (n,).

    Where only the 10,000 test images (t10k) are at hand, the first 8,000 are for training and the others for testing.
    FileNotFoundError or ValueError say what is missing or broken.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: expected a folder with MNIST's IDX files, found no such folder")
    if any((folder / f"{TRAIN}-images-idx3-ubyte{end}").exists() for end in ("", ".gz")):
        images, labels = _load(folder, TRAIN if train else TEST)
    else:
        images, labels = _load(folder, TEST)
        part = slice(None, 8000) if train else slice(8000, None)
        images, labels = images[part], labels[part]
    return TensorDataset(from_numpy(images), from_numpy(labels))
