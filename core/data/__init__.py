"""Datasets and how to draw batches from them."""

from .dataset import Dataset, TensorDataset
from .digits import digits
from .idx import mnist, read_idx
from .loader import DataLoader, default_collate
from .sampler import BatchSampler, RandomSampler, Sampler, SequentialSampler

__all__ = [
    "BatchSampler",
    "DataLoader",
    "Dataset",
    "RandomSampler",
    "Sampler",
    "SequentialSampler",
    "TensorDataset",
    "default_collate",
    "digits",
    "mnist",
    "read_idx",
]
