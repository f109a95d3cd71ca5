"""Digests of tensors: equal digests mean equal bits.

The algorithm is XXH3 with 128 bits, which digests about as fast as memory can be read. It guards against accidents, not
against forgers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from xxhash import xxh3_128

from ..core.backend import Array, to_host
from ..core.tensor import Tensor

__all__ = ["digest", "digest_arrays", "stretches"]


def digest(state_dict: Mapping[str, Tensor]) -> str:
    """32 hex digits over the names, shapes, dtypes and elements of all tensors in order."""
    state = xxh3_128()
    for name, tensor in state_dict.items():
        state.update(f"{name!r} {tensor.dtype.name} {list(tensor.shape)};".encode())
        for stretch in stretches([tensor.array]):
            state.update(stretch.data)
    return state.hexdigest()


def digest_arrays(arrays: Iterable[Array]) -> bytes:
    """128 bits over the elements of all arrays in order, however they lie in memory."""
    state = xxh3_128()
    for stretch in stretches(arrays):
        state.update(stretch.data)
    return state.digest()


def stretches(arrays: Iterable[Array]) -> Iterator[np.ndarray]:
    """The bytes of arrays; neighbours in flat memory are one piece, since many calls take longer than many bytes."""
    row: list[np.ndarray] = []
    end = 0
    for array in arrays:
        here = np.asarray(to_host(array), order="C")
        start = here.__array_interface__["data"][0]
        if row and not (start == end and here.base is not None and here.base is row[0].base):
            yield _joined(row)
            row = []
        row.append(here)
        end = start + here.nbytes
    if row:
        yield _joined(row)


def _joined(row: Sequence[np.ndarray]) -> np.ndarray:
    first = row[0].reshape(-1).view(np.uint8)
    return np.lib.stride_tricks.as_strided(first, (sum(array.nbytes for array in row),)) if len(row) > 1 else first
