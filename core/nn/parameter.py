"""What a module registers of its own: parameters and buffers."""

from __future__ import annotations

from ..tensor import Parameter, Tensor

__all__ = ["Buffer", "Parameter"]


class Buffer(Tensor):
    """A tensor that a module registers as a buffer when it is assigned to an attribute."""

    def __new__(cls, data: Tensor, *, persistent: bool = True) -> Buffer:
        """Over the same memory as data. persistent: whether the buffer is part of the state dict."""
        buffer = Tensor.__new__(cls)
        buffer.array, buffer.version = data.array, data.version
        buffer.persistent = persistent  # type: ignore[attr-defined]
        return buffer  # type: ignore[return-value]

    persistent: bool
