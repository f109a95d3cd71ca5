"""PyTorch's `torch.utils`: what is found under that name there."""

from . import data as data
from . import dlpack as dlpack
from .autograd import checkpoint as checkpoint
