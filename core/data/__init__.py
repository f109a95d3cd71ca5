"""Datasets and how to draw batches from them."""

from .dataset import *
from .digits import *
from .idx import *
from .loader import *
from .sampler import *
