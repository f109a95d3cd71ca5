"""Optimizers, with PyTorch's names, over flat memory."""

from .optimizer import *
from .sgd import *
