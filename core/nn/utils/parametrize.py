"""Parameters that are computed from others: `module.weight` becomes a function of what is learned.

A parametrised module has a class of its own, derived from the one it had, whose property computes the tensor whenever
it is read. What is learned lies in `module.parametrizations.<name>`, as `original` or `original0`, `original1`, ...
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from ...autograd import no_grad
from ...tensor import Tensor
from ..container import ModuleDict, ModuleList
from ..module import Module, Parameter

__all__ = ["ParametrizationList", "is_parametrized", "register_parametrization", "remove_parametrizations"]

M = TypeVar("M", bound=Module)


def _register(module: Module, name: str, tensor: Tensor) -> None:
    if isinstance(tensor, Parameter):
        module.register_parameter(name, tensor)
    else:
        module.register_buffer(name, tensor)


def _check_alike(found: Any, wanted: Tensor) -> None:
    if not isinstance(found, Tensor):
        raise ValueError(f"A parametrization must return a tensor. Got {type(found).__name__}.")
    for what in ("dtype", "shape"):
        if getattr(found, what) != getattr(wanted, what):
            raise ValueError(
                f"Registering a parametrization may not change the {what} of the tensor, unless `unsafe` flag is "
                f"enabled.\nunparametrized {what}: {getattr(wanted, what)}\n"
                f"parametrized {what}: {getattr(found, what)}"
            )


class ParametrizationList(ModuleList):
    """The functions from the learned tensors to the parameter, the first of which takes all of these."""

    def __init__(self, modules: Sequence[Module], original: Tensor, unsafe: bool = False) -> None:
        if not modules:
            raise ValueError("ParametrizationList requires one or more modules.")
        super().__init__(modules)
        self.unsafe = unsafe
        with no_grad():
            learned: Any = original
            for module in reversed(list(self)):
                if hasattr(module, "right_inverse"):
                    learned = module.right_inverse(learned)
        self.is_tensor = isinstance(learned, Tensor)
        self.ntensors = 1 if self.is_tensor else len(learned)
        if self.is_tensor:
            if learned is not original:
                original.data = learned.data
            _register(self, "original", original)
        else:
            for i, part in enumerate(learned):
                kind = Parameter(part, original.requires_grad) if isinstance(original, Parameter) else part
                _register(self, f"original{i}", kind)
        if not unsafe:
            _check_alike(self(), original if not self.is_tensor else learned)

    def _originals(self) -> list[Any]:
        names = ["original"] if self.is_tensor else [f"original{i}" for i in range(self.ntensors)]
        return [getattr(self, name) for name in names]

    def right_inverse(self, value: Any) -> None:
        """Set the learned tensors so that the parameter becomes value. RuntimeError where that is not defined."""
        with no_grad():
            for module in reversed(list(self)):
                if not hasattr(module, "right_inverse"):
                    raise RuntimeError(f"parametrization {type(module).__name__} does not implement right_inverse.")
                value = module.right_inverse(value)
            for tensor, new in zip(self._originals(), [value] if self.is_tensor else value, strict=True):
                tensor.data.copy_(new)

    def forward(self) -> Any:
        first, *rest = self
        value = first(*self._originals())
        for module in rest:
            value = module(value)
        return value


def is_parametrized(module: Module, tensor_name: str | None = None) -> bool:
    """Whether a tensor of the module, or any, is parametrised."""
    found = module.__dict__.get("parametrizations")
    if not isinstance(found, ModuleDict):
        return False
    return len(found) > 0 if tensor_name is None else tensor_name in found


def register_parametrization(module: M, tensor_name: str, parametrization: Module, *, unsafe: bool = False) -> M:
    """Make module.<tensor_name> what parametrization computes from the tensor, or from what it has been computed yet.

    A method right_inverse of the parametrization makes its inputs from the tensor. unsafe: dtype and shape may change.
    """
    parametrization.train(module.training)
    if is_parametrized(module, tensor_name):
        functions: Any = module.parametrizations[tensor_name]  # type: ignore[attr-defined]
        if not unsafe:
            before = getattr(module, tensor_name)
            _check_alike(parametrization(before), before)
        functions.append(parametrization)
        functions.unsafe |= unsafe
        return module
    if module._registered.get(tensor_name) not in ("parameter", "buffer"):
        raise ValueError(
            f"Module '{module}' does not have a parameter, a buffer, or a parametrized element with name "
            f"'{tensor_name}'"
        )
    functions = ParametrizationList([parametrization], getattr(module, tensor_name), unsafe)
    delattr(module, tensor_name)
    if not is_parametrized(module):
        base = type(module)
        module.__class__ = type(f"Parametrized{base.__name__}", (base,), {"__module__": base.__module__})
        module.parametrizations = ModuleDict()
    computed = property(
        lambda self: self.parametrizations[tensor_name](),
        lambda self, value: self.parametrizations[tensor_name].right_inverse(value),
    )
    setattr(type(module), tensor_name, computed)
    module.parametrizations[tensor_name] = functions  # type: ignore[attr-defined]
    return module


def remove_parametrizations(module: M, tensor_name: str, leave_parametrized: bool = True) -> M:
    """Make the tensor a plain one again: as it was computed, or (leave_parametrized=False) its original."""
    if not is_parametrized(module, tensor_name):
        raise ValueError(f"Module {module} does not have a parametrization on {tensor_name}")
    functions: Any = module.parametrizations[tensor_name]  # type: ignore[attr-defined]
    value = getattr(module, tensor_name)
    if functions.is_tensor:
        tensor = functions.original
        if leave_parametrized:
            tensor.data = value.detach()
    elif leave_parametrized:
        tensor = Parameter(value.detach()) if value.requires_grad else value
    else:
        raise ValueError(
            "Cannot leave unparametrized (`leave_parametrized=False`) a tensor that is parametrized in terms of a "
            "sequence of tensors."
        )
    delattr(type(module), tensor_name)
    del module.parametrizations[tensor_name]  # type: ignore[attr-defined]
    _register(module, tensor_name, tensor)
    if not is_parametrized(module):
        del module.parametrizations  # type: ignore[attr-defined]
        module.__class__ = type(module).__bases__[0]
    return module
