"""Datasets and how to draw batches from them."""

from .collate import *
from .dataset import *
from .digits import *
from .idx import *
from .loader import *
from .sampler import *
from .worker import get_worker_info as get_worker_info
