"""Dropout."""

from __future__ import annotations

from typing import Any

from . import functional
from .module import Module

__all__ = ["Dropout"]


class Dropout(Module):
    """In training each element is 0 with probability p, and scaled by 1 / (1 - p) otherwise."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        functional.check_probability(p)
        self.p = p

    def forward(self, input: Any) -> Any:
        return functional.dropout(input, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace=False"
