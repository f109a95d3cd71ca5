"""Distances as modules."""

from __future__ import annotations

from . import functional
from .settings import FunctionModule

__all__ = ["CosineSimilarity", "PairwiseDistance"]


class CosineSimilarity(FunctionModule):
    """The cosine of the angle between vectors along dim."""

    function = functional.cosine_similarity
    dim: int = 1
    eps: float = 1e-8


class PairwiseDistance(FunctionModule):
    """The p-norm of x1 - x2 + eps along the last dimension."""

    function = functional.pairwise_distance
    p: float = 2.0
    eps: float = 1e-6
    keepdim: bool = False
