"""Hearing of optimizers' steps, whichever optimizer makes them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Set
from typing import Any

from ..core.autograd import RemovableHandle
from ..core.optim.optimizer import Optimizer
from ..core.tensor import Tensor


def hear(register: Callable[[Callable[..., Any]], RemovableHandle], method: Callable[[Optimizer], None]) -> Any:
    """Let method(optimizer) hear of all steps, before or after them, for as long as its object lives.

    register: `register_optimizer_step_pre_hook` or `register_optimizer_step_post_hook`. Returns the handle to end it.
    """
    known = weakref.WeakMethod(method)

    def hook(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        found = known()
        if found is not None:
            found(optimizer)

    handle = register(hook)
    weakref.finalize(method.__self__, handle.remove).atexit = False  # type: ignore[attr-defined]
    return handle


def steps_any_of(optimizer: Optimizer, parameters: Set[Tensor]) -> bool:
    """Whether an optimizer updates any of these parameters."""
    return any(not parameters.isdisjoint(group["params"]) for group in optimizer.param_groups)
