"""A digest of tensors: equal digests mean equal names, shapes, dtypes and bits."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from ..core.backend import to_host
from ..core.tensor import Tensor


def digest(state_dict: Mapping[str, Tensor]) -> str:
    """32 hex digits (BLAKE2b, 128 bits) over all tensors in order."""
    state = hashlib.blake2b(digest_size=16)
    for name, tensor in state_dict.items():
        state.update(f"{name!r} {tensor.dtype.name} {list(tensor.shape)};".encode())
        state.update(np.ascontiguousarray(to_host(tensor.array)).reshape(-1).view(np.uint8).data)
    return state.hexdigest()
