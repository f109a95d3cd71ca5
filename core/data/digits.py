"""The handwritten digits that come with the library: 1,797 images of 8 by 8 pixels (see digits.md for their source)."""

from __future__ import annotations

from importlib.resources import files

import numpy as np

from ..creation import from_numpy
from ..generator import Generator
from .dataset import TensorDataset

__all__ = ["digits"]

TEST = 360  # a fifth, drawn once: the file's order repeats 0 to 9, so no regular pick would be fair to all classes


def digits(train: bool = True) -> TensorDataset:
    """Images (n, 64) in 0..1 and classes (n,): 1,437 to train on, 360 others to test on."""
    with (files(__package__) / "digits.npz").open("rb") as file, np.load(file) as archive:
        images, labels = archive["x"].astype(np.float32) / 16, archive["y"].astype(np.int64)
    order = Generator().manual_seed(0).randperm(len(labels))
    chosen = order[TEST:] if train else order[:TEST]
    return TensorDataset(from_numpy(images[chosen]), from_numpy(labels[chosen]))
