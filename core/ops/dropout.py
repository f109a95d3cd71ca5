"""Dropout: masks from the generator's stream, so that PyTorch's seed gives PyTorch's mask."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np

from ..autograd import record
from ..backend import array_module
from ..generator import default_generator
from .inplace import in_place

# fmt: off
__all__ = [
    "alpha_dropout", "dropout", "dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout",
]
# fmt: on

ALPHA = 1.7580993408473766  # -(the value that SELU tends to towards minus infinity)


def check_probability(p: float) -> None:
    """ValueError unless 0 <= p <= 1."""
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")


def _dropped(input: Any, p: float, features: bool = False, alpha: bool = False) -> Any:
    """The input with elements, or all of a sample's channel, dropped with probability p."""
    x = input.array
    xp, dtype = array_module(x), x.dtype
    shape = x.shape
    if features:
        if len(shape) < 2:
            raise RuntimeError("Feature dropout requires at least 2 dimensions in the input")
        shape = (*shape[:2], *[1] * (len(shape) - 2))
    if p == 1:
        return input * 0
    scale = xp.asarray(_mask(shape, (0,) if features else x.strides, 1 - p, dtype))
    if not alpha:
        scale /= dtype.type(1 - p)
        return record("MulBackward0", x * scale, (input, lambda g, scale: g * scale, scale))
    # mean and variance stay 0 and 1 where they are; Klambauer et al., 2017, https://arxiv.org/abs/1706.02515
    a = 1 / math.sqrt((ALPHA * ALPHA * p + 1) * (1 - p))
    shift = (scale - 1) * dtype.type(ALPHA * a) + dtype.type(ALPHA * a * p)
    scale *= dtype.type(a)
    return record("AddBackward0", x * scale + shift, (input, lambda g, scale: g * scale, scale))


def _mask(shape: tuple[int, ...], strides: tuple[int, ...], p: float, dtype: Any) -> np.ndarray:
    """1 with probability p, else 0: drawn in the order in which the elements lie in memory, as PyTorch does."""
    if 0 in strides or all(a >= b for a, b in pairwise(strides)):
        return default_generator.bernoulli(shape, p, dtype)
    order = sorted(range(len(shape)), key=lambda i: -strides[i])
    return default_generator.bernoulli([shape[i] for i in order], p, dtype).transpose(np.argsort(order))


_dropped_in_place = in_place(_dropped)


def _dropout(input: Any, p: float, training: bool, inplace: bool, **kind: bool) -> Any:
    check_probability(p)
    if not training or p == 0 or input.array.size == 0:
        return input
    return (_dropped_in_place if inplace else _dropped)(input, p, **kind)


def dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """In training each element is 0 with probability p, and scaled by 1 / (1 - p) otherwise."""
    return _dropout(input, p, training, inplace)


def dropout1d(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """As dropout, for whole channels of (N, C, L) or (C, L)."""
    if input.array.ndim not in (2, 3):
        raise RuntimeError(
            f"dropout1d: Expected 2D or 3D input, but received a {input.array.ndim}D input. Note that dropout1d exists "
            "to provide channel-wise dropout on inputs with 1 spatial dimension, a channel dimension, and an optional "
            "batch dimension (i.e. 2D or 3D inputs)."
        )
    return _by_channel(input, p, training, inplace, 3)


def dropout2d(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """As dropout, for whole channels of (N, C, H, W)."""
    return _by_channel(input, p, training, inplace, input.array.ndim)


def dropout3d(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """As dropout, for whole channels of (N, C, D, H, W) or (C, D, H, W)."""
    return _by_channel(input, p, training, inplace, 5)


def _by_channel(input: Any, p: float, training: bool, inplace: bool, ndim: int) -> Any:
    if input.array.ndim == ndim:
        return _dropout(input, p, training, inplace, features=True)
    return _dropout(input.unsqueeze(0), p, training, inplace, features=True).squeeze(0)


def alpha_dropout(input: Any, p: float = 0.5, training: bool = False, inplace: bool = False) -> Any:
    """As dropout, but what is dropped becomes SELU's lower bound, and mean 0 and variance 1 are kept."""
    return _dropout(input, p, training, inplace, alpha=True)


def feature_alpha_dropout(input: Any, p: float = 0.5, training: bool = False, inplace: bool = False) -> Any:
    """As alpha_dropout, for whole channels of (N, C, ...)."""
    return _dropout(input, p, training, inplace, features=True, alpha=True)
