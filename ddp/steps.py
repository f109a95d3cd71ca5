"""Hearing of steps and loads."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Set
from typing import Any

from ..core.autograd import RemovableHandle
from ..core.optim.optimizer import Optimizer
from ..core.tensor import Tensor


def hear(register: Callable[[Callable[..., Any]], RemovableHandle], method: Callable[[Any], None]) -> Any:
    """Let method(what it happens to) hear of it, for as long as its object lives; the handle ends that before.

    register: `register_optimizer_step_pre_hook` or `register_optimizer_step_post_hook` for the steps of all optimizers,
    the method of an optimizer, or of a module, that registers a hook of its own, or whatever else takes a hook.
    """
    known = weakref.WeakMethod(method)

    def hook(subject: Any, *_: Any) -> None:
        found = known()
        if found is not None:
            found(subject)

    handle = register(hook)
    weakref.finalize(method.__self__, handle.remove).atexit = False  # type: ignore[attr-defined]
    return handle


def steps_any_of(optimizer: Optimizer, parameters: Set[Tensor]) -> bool:
    """Whether an optimizer updates any of these parameters."""
    return any(not parameters.isdisjoint(group["params"]) for group in optimizer.param_groups)
