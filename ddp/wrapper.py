"""Wrapper: a module around a module, which keeps the wrapped one's names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self

from ..core.nn.module import Module
from ..core.tensor import Tensor


class Wrapper(Module):
    """Names, state dicts and modes are those of `.module`: what is saved with a wrapper loads without one."""

    module: Module

    def __init__(self, module: Module) -> None:
        super().__init__()
        self.module = module

    def named_modules(
        self, memo: set[Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """The wrapped module and everything below it, under its own names."""
        return self.module.named_modules(memo, prefix, remove_duplicate)

    def state_dict(self, *, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """The wrapped module's."""
        return self.module.state_dict(destination=destination, prefix=prefix, keep_vars=keep_vars)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Into the wrapped module; load the same on every rank."""
        result = self.module.load_state_dict(state_dict, strict, assign)
        self._loaded()
        return result

    def _loaded(self) -> None:
        """Called when other values have come into the module."""

    def train(self, mode: bool = True) -> Self:
        """Set training mode on the wrapped module."""
        super().train(mode)
        self.training = mode
        return self


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors(item)
    elif isinstance(value, Mapping):  # last, since it takes longest to find out
        for item in value.values():
            yield from tensors(item)


def batch_size(inputs: Any) -> int:
    """The first dimension of the first tensor; 1 without tensors, or for a scalar."""
    first = next(tensors(inputs), None)
    return first.array.shape[0] if first is not None and first.array.ndim else 1
