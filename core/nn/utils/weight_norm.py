"""Weight normalisation: a weight as its length times its direction, learned apart.

Source: Salimans and Kingma, 2016, https://arxiv.org/abs/1602.07868.
"""

from __future__ import annotations

from typing import Any, TypeVar

from ...autograd import no_grad
from ..module import Module, Parameter

__all__ = ["remove_weight_norm", "weight_norm"]

M = TypeVar("M", bound=Module)


def length(weight: Any, dim: int) -> Any:
    """The 2-norm over all dimensions but dim, which stay as 1; over all of them for -1."""
    if dim == -1:
        return (weight * weight).sum().sqrt()
    axes = [i for i in range(weight.ndim) if i != dim % weight.ndim]
    return (weight * weight).sum(axes, keepdim=True).sqrt() if axes else weight.abs()


class _Normalized:
    """The forward pre-hook that makes the weight anew from its parts, `<name>_g` and `<name>_v`."""

    def __init__(self, name: str, dim: int) -> None:
        self.name, self.dim = name, dim
        self.handle: Any = None

    def weight(self, module: Module) -> Any:
        lengths, direction = getattr(module, f"{self.name}_g"), getattr(module, f"{self.name}_v")
        return direction * (lengths / length(direction, self.dim))

    def __call__(self, module: Module, args: Any) -> None:
        setattr(module, self.name, self.weight(module))


def weight_norm(module: M, name: str = "weight", dim: int | None = 0) -> M:
    """Replace a parameter by its lengths along dim (`<name>_g`; of the whole for None) and directions (`<name>_v`).

    The weight is made from them before each forward. RuntimeError when it is already.
    """
    applied = module.__dict__.setdefault("_weight_norms", {})
    if name in applied:
        raise RuntimeError(f"Cannot register two weight_norm hooks on the same parameter {name}")
    hook = _Normalized(name, -1 if dim is None else dim)
    weight = getattr(module, name)
    delattr(module, name)
    with no_grad():
        module.register_parameter(f"{name}_g", Parameter(length(weight, hook.dim)))
    module.register_parameter(f"{name}_v", Parameter(weight.data))
    hook(module, ())
    hook.handle = module.register_forward_pre_hook(hook)
    applied[name] = hook
    return module


def remove_weight_norm(module: M, name: str = "weight") -> M:
    """Make the weight one parameter again. ValueError when it was not normalised."""
    hook = module.__dict__.get("_weight_norms", {}).pop(name, None)
    if hook is None:
        raise ValueError(f"weight_norm of '{name}' not found in {module}")
    hook.handle.remove()
    with no_grad():
        weight = hook.weight(module)
    for part in (name, f"{name}_g", f"{name}_v"):
        delattr(module, part)
    setattr(module, name, Parameter(weight))
    return module
