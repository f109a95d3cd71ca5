"""Optimizers, with PyTorch's names, over flat memory."""

from .adam import *
from .adaptive import *
from .optimizer import *
from .sgd import *
