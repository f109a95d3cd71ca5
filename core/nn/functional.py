"""The same computations as the modules, as functions."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..autograd import record
from ..backend import array_module
from ..generator import default_generator
from ..ops.elementwise import relu as relu
from ..ops.elementwise import sigmoid as sigmoid
from ..ops.elementwise import tanh as tanh
from ..ops.linalg import linear as linear
from ..ops.loss import *
from ..ops.norm import *
from ..ops.reduce import log_softmax as log_softmax
from ..ops.reduce import softmax as softmax


def check_probability(p: float) -> None:
    """ValueError unless 0 <= p <= 1."""
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")


def dropout(input: Any, p: float = 0.5, training: bool = True) -> Any:
    """In training each element is 0 with probability p, and scaled by 1 / (1 - p) otherwise."""
    check_probability(p)
    if not training or p == 0.0:
        return input
    x = input.array
    mask = default_generator.bernoulli(x.shape, 1 - p, np.float32).astype(x.dtype, copy=False)
    if p < 1.0:
        mask /= x.dtype.type(1 - p)
    mask = array_module(x).asarray(mask)
    return record("MulBackward0", x * mask, (input, lambda g, mask: g * mask, mask))
