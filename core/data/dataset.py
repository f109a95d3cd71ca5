"""Datasets: something with a length and items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..tensor import Tensor

__all__ = ["Dataset", "TensorDataset"]


class Dataset:
    """Base class: a subclass defines `__getitem__` and `__len__`."""

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError("Subclasses of Dataset should implement __getitem__.")

    def __len__(self) -> int:
        raise NotImplementedError("Subclasses of Dataset should implement __len__.")


class TensorDataset(Dataset):
    """Items are the rows of tensors of one length. ValueError when the lengths differ or nothing is given."""

    def __init__(self, *tensors: Tensor) -> None:
        lengths = [len(t) for t in tensors]
        if not tensors or len(set(lengths)) > 1:
            raise ValueError(f"Size mismatch between tensors: expected tensors of one length, found lengths {lengths}")
        self.tensors = tensors

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(t[index] for t in self.tensors)

    def __len__(self) -> int:
        return len(self.tensors[0])

    def gather(self, indices: Sequence[int]) -> list[Tensor]:
        """The rows at indices as one batch: what collating the items one by one would give, in one copy per tensor."""
        rows = np.asarray(indices, np.int64)
        return [t[rows] for t in self.tensors]
