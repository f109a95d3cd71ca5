"""Padding as modules: one class for each mode, with a name for each number of spatial dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import functional
from .module import Module

# fmt: off
__all__ = [
    "CircularPad1d", "CircularPad2d", "CircularPad3d", "ConstantPad1d", "ConstantPad2d", "ConstantPad3d",
    "ReflectionPad1d", "ReflectionPad2d", "ReflectionPad3d", "ReplicationPad1d", "ReplicationPad2d",
    "ReplicationPad3d", "ZeroPad1d", "ZeroPad2d", "ZeroPad3d",
]
# fmt: on


class _Pad(Module):
    """padding: one int for all sides, or (before, after) of the last dimension, of the one before it, ..."""

    ndim: int  # spatial dimensions
    mode: str

    def __init__(self, padding: int | Sequence[int]) -> None:
        super().__init__()
        self.padding = (padding,) * (2 * self.ndim) if isinstance(padding, int) else tuple(padding)

    def forward(self, input: Any) -> Any:
        return functional.pad(input, self.padding, self.mode)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class ConstantPad1d(_Pad):
    """`value` around the last dimension."""

    ndim = 1

    def __init__(self, padding: int | Sequence[int], value: float) -> None:
        super().__init__(padding)
        self.value = value

    def forward(self, input: Any) -> Any:
        return functional.pad(input, self.padding, "constant", self.value)

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


class ConstantPad2d(ConstantPad1d):
    """`value` around the last two dimensions."""

    ndim = 2


class ConstantPad3d(ConstantPad1d):
    """`value` around the last three dimensions."""

    ndim = 3


class ZeroPad1d(ConstantPad1d):
    """Zeros around the last dimension."""

    def __init__(self, padding: int | Sequence[int]) -> None:
        super().__init__(padding, 0.0)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class ZeroPad2d(ZeroPad1d):
    """Zeros around the last two dimensions."""

    ndim = 2


class ZeroPad3d(ZeroPad1d):
    """Zeros around the last three dimensions."""

    ndim = 3


class ReflectionPad1d(_Pad):
    """The last dimension mirrored at its ends, which are not repeated."""

    ndim, mode = 1, "reflect"


class ReflectionPad2d(ReflectionPad1d):
    """The last two dimensions mirrored at their ends."""

    ndim = 2


class ReflectionPad3d(ReflectionPad1d):
    """The last three dimensions mirrored at their ends."""

    ndim = 3


class ReplicationPad1d(_Pad):
    """The ends of the last dimension repeated."""

    ndim, mode = 1, "replicate"


class ReplicationPad2d(ReplicationPad1d):
    """The ends of the last two dimensions repeated."""

    ndim = 2


class ReplicationPad3d(ReplicationPad1d):
    """The ends of the last three dimensions repeated."""

    ndim = 3


class CircularPad1d(_Pad):
    """The last dimension continued with its other end."""

    ndim, mode = 1, "circular"

    def forward(self, input: Any) -> Any:
        found = input.array.ndim
        if found - self.ndim not in (1, 2):
            raise ValueError(f"expected {self.ndim + 1}D or {self.ndim + 2}D input (got {found}D input)")
        return super().forward(input)


class CircularPad2d(CircularPad1d):
    """The last two dimensions continued with their other ends."""

    ndim = 2


class CircularPad3d(CircularPad1d):
    """The last three dimensions continued with their other ends."""

    ndim = 3
