"""Module: parameters, buffers and sub-modules are its plain attributes, in the order they were assigned."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self, TypeVar

from .. import dtypes
from ..autograd import no_grad
from ..tensor import Parameter, Tensor, zero_gradients

__all__ = ["Module", "Parameter"]

T = TypeVar("T")


class _IncompatibleKeys(namedtuple("IncompatibleKeys", ["missing_keys", "unexpected_keys"])):
    __slots__ = ()

    def __repr__(self) -> str:
        return super().__repr__() if any(self) else "<All keys matched successfully>"


class Module:
    """Base class of all networks: define `forward`, call the module.

    Attributes that are Parameters or Modules are found by type; a tensor becomes a buffer by `register_buffer`.
    """

    training: bool
    _buffer_names: dict[str, bool]  # name: is it part of the state dict

    def __init__(self) -> None:
        self.training = True
        self._buffer_names = {}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes."""
        raise NotImplementedError(f'Module [{type(self).__name__}] is missing the required "forward" function')

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    # --- what it holds ----------------------------------------------------------------------------------------------

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Make `tensor` an attribute that moves and is saved with the module but is not learned."""
        if not hasattr(self, "_buffer_names"):
            raise AttributeError("cannot assign buffer before Module.__init__() call")
        if hasattr(self, name) and name not in self._buffer_names:
            raise KeyError(f"attribute '{name}' already exists")
        self._buffer_names[name] = persistent
        setattr(self, name, tensor)

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Same as assigning it to the attribute `name`."""
        setattr(self, name, param)

    def add_module(self, name: str, module: Module | None) -> None:
        """Same as assigning it to the attribute `name`; names such as "0" are allowed here."""
        setattr(self, name, module)

    def _own_modules(self) -> Iterator[tuple[str, Module]]:
        return ((k, v) for k, v in vars(self).items() if isinstance(v, Module))

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The direct sub-modules, each once."""
        seen = set()
        for name, module in self._own_modules():
            if module not in seen:
                seen.add(module)
                yield name, module

    def children(self) -> Iterator[Module]:
        """The direct sub-modules, each once, without their names."""
        return (module for _, module in self.named_children())

    def named_modules(self, memo: set[Module] | None = None, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module and everything below it, each once, outside first."""
        memo = set() if memo is None else memo
        if self not in memo:
            memo.add(self)
            yield prefix, self
            for name, child in self.named_children():
                yield from child.named_modules(memo, f"{prefix}.{name}" if prefix else name)

    def modules(self) -> Iterator[Module]:
        """This module and everything below it, without their names."""
        return (module for _, module in self.named_modules())

    def _collect(self, pick: Callable[[Module], Iterator[tuple[str, T]]], recurse: bool) -> Iterator[tuple[str, T]]:
        """What `pick` finds in each module, under its full name, each object once."""
        seen = set()
        for prefix, module in self.named_modules() if recurse else (("", self),):
            for name, value in pick(module):
                if value not in seen:
                    seen.add(value)
                    yield (f"{prefix}.{name}" if prefix else name), value

    def _own_parameters(self) -> Iterator[tuple[str, Parameter]]:
        return ((k, v) for k, v in vars(self).items() if isinstance(v, Parameter))

    def _own_buffers(self) -> Iterator[tuple[str, Tensor]]:
        return ((k, getattr(self, k)) for k in self._buffer_names if getattr(self, k) is not None)

    def named_parameters(self, recurse: bool = True) -> Iterator[tuple[str, Parameter]]:
        """Every parameter once, with its name such as "0.weight"."""
        return self._collect(Module._own_parameters, recurse)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """Every parameter once."""
        return (parameter for _, parameter in self.named_parameters(recurse))

    def named_buffers(self, recurse: bool = True) -> Iterator[tuple[str, Tensor]]:
        """Every buffer once, with its name."""
        return self._collect(Module._own_buffers, recurse)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """Every buffer once."""
        return (buffer for _, buffer in self.named_buffers(recurse))

    # --- state ------------------------------------------------------------------------------------------------------

    def state_dict(self, *, prefix: str = "") -> OrderedDict[str, Tensor]:
        """All parameters and persistent buffers by name, detached, sharing their memory."""
        found: OrderedDict[str, Tensor] = OrderedDict()
        for name, value in self._own_parameters():
            found[prefix + name] = value.detach()
        for name, buffer in self._own_buffers():
            if self._buffer_names[name]:
                found[prefix + name] = buffer.detach()
        for name, child in self._own_modules():
            found.update(child.state_dict(prefix=f"{prefix}{name}."))
        return found

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True) -> _IncompatibleKeys:
        """Copy the values in. RuntimeError lists all missing, unexpected, misshapen entries; nothing changes then."""
        own = self.state_dict()
        missing = [k for k in own if k not in state_dict]
        unexpected = [k for k in state_dict if k not in own]
        complaints = []
        if strict and missing:
            complaints.append("Missing key(s) in state_dict: " + ", ".join(f'"{k}"' for k in missing) + ". ")
        if strict and unexpected:
            complaints.append("Unexpected key(s) in state_dict: " + ", ".join(f'"{k}"' for k in unexpected) + ". ")
        complaints += [
            f"size mismatch for {k}: copying a param with shape {state_dict[k].shape} from checkpoint, "
            f"the shape in current model is {own[k].shape}."
            for k in own
            if k in state_dict and state_dict[k].shape != own[k].shape
        ]
        if complaints:
            lines = "\n\t".join(complaints)
            raise RuntimeError(f"Error(s) in loading state_dict for {type(self).__name__}:\n\t{lines}")
        with no_grad():
            for key, value in own.items():
                if key in state_dict:
                    value.copy_(state_dict[key])
        return _IncompatibleKeys(missing, unexpected)

    # --- changes of the whole ---------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Self:
        """Set training mode (dropout active) here and below."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Set evaluation mode here and below."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Freeze (False) or unfreeze all parameters."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters, or set them to 0."""
        zero_gradients(self.parameters(), set_to_none)

    def apply(self, fn: Callable[[Module], None]) -> Self:
        """Call fn on every sub-module and then on this one."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    def to(self, *args: Any, dtype: dtypes.dtype | None = None, device: Any = None) -> Self:
        """Move everything to a device, floating-point values to a dtype; in place, parameters stay the same objects."""
        for arg in args:
            if isinstance(arg, dtypes.dtype):
                dtype = arg
            else:
                device = arg
        if dtype is not None and not dtype.is_floating_point:
            raise TypeError(
                f"nn.Module.to only accepts floating point or complex dtypes, but got desired dtype={dtype}"
            )
        with no_grad():
            for tensor in (*self.parameters(), *self.buffers()):
                for part in (tensor, tensor._grad):
                    if part is not None:
                        moved = part.to(device=device, dtype=dtype if part.dtype.is_floating_point else None)
                        if moved is not part:
                            part.data = moved
        return self

    def cpu(self) -> Self:
        """To the host."""
        return self.to(device="cpu")

    def cuda(self, device: int = 0) -> Self:
        """To a GPU."""
        return self.to(device=f"cuda:{device}")

    def float(self) -> Self:
        """Floating-point values in float32."""
        return self.to(dtypes.float32)

    def double(self) -> Self:
        """Floating-point values in float64."""
        return self.to(dtypes.float64)

    # --- printing ---------------------------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """What stands between the parentheses for this module itself."""
        return ""

    def __repr__(self) -> str:
        children = [f"({name}): {_indented(repr(child))}" for name, child in self._own_modules()]
        extra = self.extra_repr()
        if not children:
            return (
                f"{type(self).__name__}({_indented(extra)})"
                if "\n" not in extra
                else f"{type(self).__name__}(\n  {extra}\n)"
            )
        lines = ([extra] if extra else []) + children
        return f"{type(self).__name__}(\n  " + "\n  ".join(lines) + "\n)"


def _indented(text: str) -> str:
    """Every line but the first moved in by two spaces."""
    return text.replace("\n", "\n  ")
