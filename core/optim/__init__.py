"""Optimizers, with PyTorch's names, over flat memory."""

from .optimizer import Optimizer
from .sgd import SGD

__all__ = ["SGD", "Optimizer"]
