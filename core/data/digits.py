"""The handwritten digits that come with the library: 1,797 images of 8 by 8 pixels (see digits.md for their source)."""

from __future__ import annotations

from importlib.resources import files

import numpy as np

from ..creation import from_numpy
from .dataset import TensorDataset


def digits(train: bool = True) -> TensorDataset:
    """Images (n, 64) in 0..1 and classes (n,): 1,438 to train on; every fifth, 359 in all, to test on."""
    with (files(__package__) / "digits.npz").open("rb") as file, np.load(file) as archive:
        images, labels = archive["x"].astype(np.float32) / 16, archive["y"].astype(np.int64)
    tested = np.arange(len(labels)) % 5 == 4
    chosen = ~tested if train else tested
    return TensorDataset(from_numpy(images[chosen]), from_numpy(labels[chosen]))
