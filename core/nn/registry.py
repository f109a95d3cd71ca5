"""Registry: parameters, buffers and sub-modules are plain attributes of a module, in the order they were registered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any, Self

from ..tensor import Tensor
from .parameter import Buffer, Parameter

if TYPE_CHECKING:
    from .module import Module

STRENGTH = ("buffer", "module", "parameter")  # the name of an earlier kind can be given to one of a later kind


class _Held(MutableMapping[str, Any]):
    """What a module has registered of one kind, by name: a view, so that writing to it registers."""

    def __init__(self, module: Registry, kind: str) -> None:
        self.module, self.kind = module, kind

    def __getitem__(self, name: str) -> Any:
        if self.module._registered.get(name) != self.kind:
            raise KeyError(name)
        return self.module.__dict__[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.module._registered[name] = self.kind
        self.module.__dict__[name] = value

    def __delitem__(self, name: str) -> None:
        self[name]
        self.module.__delattr__(name)

    def __iter__(self) -> Iterator[str]:
        return iter([name for name, kind in self.module._registered.items() if kind == self.kind])

    def __len__(self) -> int:
        return sum(kind == self.kind for kind in self.module._registered.values())

    def __repr__(self) -> str:
        return repr(OrderedDict(self))


class Registry:
    """What a module is made of: attributes of three kinds, and all that is below it, by name."""

    _registered: dict[str, str]  # the kind of each registered attribute: "parameter", "buffer" or "module"
    _non_persistent_buffers_set: set[str]

    def __init__(self) -> None:
        super().__setattr__("_registered", {})
        super().__setattr__("_non_persistent_buffers_set", set())

    @property
    def _parameters(self) -> _Held:
        return _Held(self, "parameter")

    @property
    def _buffers(self) -> _Held:
        return _Held(self, "buffer")

    @property
    def _modules(self) -> _Held:
        return _Held(self, "module")

    def __setattr__(self, name: str, value: Any) -> None:
        registered: dict[str, str] | None = getattr(self, "_registered", None)
        kind = registered.get(name) if registered else None
        found = "parameter" if isinstance(value, Parameter) else "module" if isinstance(value, Registry) else None
        if found is None and isinstance(value, Buffer):
            found = "buffer"
        if found is None and kind is None:
            super().__setattr__(name, value)
            return
        if registered is None:
            raise AttributeError(f"cannot assign {found}{'s' * (found == 'parameter')} before Module.__init__() call")
        if kind is not None and found is not None and STRENGTH.index(found) < STRENGTH.index(kind):
            found = None
        if found is None and value is not None and (kind != "buffer" or not isinstance(value, Tensor)):
            label = {"parameter": "parameter", "module": "child module", "buffer": "buffer"}[str(kind)]
            wanted = {"parameter": "nn.Parameter", "module": "nn.Module", "buffer": "nn.Buffer, mpigrad.Tensor"}
            raise TypeError(
                f"cannot assign '{_typename(value)}' as {label} '{name}' (mpigrad.{wanted[str(kind)]} or None expected)"
            )
        if found is not None and found != kind:  # it changes its kind
            if kind is not None or name in self.__dict__:
                self.__delattr__(name)
            if found != "module":
                self._check_name(found, name)
        if found == "parameter":
            _check_leaf(name, value)
        if isinstance(value, Buffer):
            self._set_persistent(name, value.persistent)
        registered[name] = found or str(kind)
        self.__dict__[name] = value

    def __delattr__(self, name: str) -> None:
        if name in self._registered:
            del self._registered[name], self.__dict__[name]
            self._non_persistent_buffers_set.discard(name)
        else:
            super().__delattr__(name)

    def __dir__(self) -> list[str]:
        return sorted(name for name in super().__dir__() if not name[0].isdigit())

    def _check_name(self, kind: str, name: Any) -> None:
        """TypeError or KeyError unless an attribute of this kind can have this name."""
        if not hasattr(self, "_registered"):
            raise AttributeError(f"cannot assign {kind} before Module.__init__() call")
        if not isinstance(name, str):
            raise TypeError(f"{kind} name should be a string. Got {_typename(name)}")
        if "." in name:
            raise KeyError(f'{kind} name can\'t contain "."' + (f", got: {name}" if kind == "module" else ""))
        if not name:
            raise KeyError(f'{kind} name can\'t be empty string ""')
        if hasattr(self, name) and self._registered.get(name) != kind:
            raise KeyError(f"attribute '{name}' already exists")

    def _set_persistent(self, name: str, persistent: bool) -> None:
        (self._non_persistent_buffers_set.discard if persistent else self._non_persistent_buffers_set.add)(name)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Make `tensor` an attribute that moves and is saved with the module but is not learned."""
        self._check_name("buffer", name)
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(
                f"cannot assign '{_typename(tensor)}' object to buffer '{name}' (mpigrad.Tensor or None required)"
            )
        self._buffers[name] = tensor
        self._set_persistent(name, persistent)

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Same as assigning it to the attribute `name`; None reserves the name."""
        self._check_name("parameter", name)
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(
                f"cannot assign '{_typename(param)}' object to parameter '{name}' "
                "(mpigrad.nn.Parameter or None required)"
            )
        if param is not None:
            _check_leaf(name, param)
        self._parameters[name] = param

    def add_module(self, name: str, module: Module | None) -> None:
        """Same as assigning it to the attribute `name`; names such as "0" are allowed here."""
        if module is not None and not isinstance(module, Registry):
            raise TypeError(f"{_typename(module)} is not a Module subclass")
        self._check_name("module", name)
        self._modules[name] = module

    register_module = add_module

    def _own(self, kind: str) -> list[tuple[str, Any]]:
        """What is registered of one kind and is not None."""
        here = self.__dict__
        pairs = [(name, here[name]) for name, found in self._registered.items() if found == kind]
        return [pair for pair in pairs if pair[1] is not None]

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The direct sub-modules, each once."""
        seen = set()
        for name, module in self._own("module"):
            if module not in seen:
                seen.add(module)
                yield name, module

    def children(self) -> Iterator[Module]:
        """The direct sub-modules, each once, without their names."""
        return (module for _, module in self.named_children())

    def named_modules(
        self, memo: set[Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """This module and everything below it, outside first; each once, or under all its names."""
        memo = set() if memo is None else memo
        module: Module = self  # type: ignore[assignment]  # nothing else is a Registry
        if module not in memo:
            if remove_duplicate:
                memo.add(module)
            yield prefix, module
            for name, child in self._own("module"):
                yield from child.named_modules(memo, f"{prefix}.{name}" if prefix else name, remove_duplicate)

    def modules(self, remove_duplicate: bool = True) -> Iterator[Module]:
        """This module and everything below it, without their names."""
        return (module for _, module in self.named_modules(remove_duplicate=remove_duplicate))

    def _collect(
        self, kind: str, prefix: str, recurse: bool, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Any]]:
        """What each module holds of one kind, under its full name."""
        seen = set()
        inside = self.named_modules(None, prefix, remove_duplicate) if recurse else ((prefix, self),)
        for place, module in inside:
            for name, value in module._own(kind):
                if value not in seen:
                    if remove_duplicate:
                        seen.add(value)
                    yield (f"{place}.{name}" if place else name), value

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Every parameter with its name such as "0.weight"; each once, or under all its names."""
        return self._collect("parameter", prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """Every parameter once."""
        return (parameter for _, parameter in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Every buffer with its name; each once, or under all its names."""
        return self._collect("buffer", prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """Every buffer once."""
        return (buffer for _, buffer in self.named_buffers(recurse=recurse))

    def get_submodule(self, target: str) -> Module:
        """The module of a name such as "body.0"; AttributeError when there is none."""
        module: Module = self  # type: ignore[assignment]
        for part in target.split(".") if target else ():
            if not hasattr(module, part):
                raise AttributeError(f"{module._get_name()} has no attribute `{part}`")
            module = getattr(module, part)
            if not isinstance(module, Registry):
                raise AttributeError(f"`{part}` is not an nn.Module")
        return module

    def set_submodule(self, target: str, module: Module, strict: bool = False) -> None:
        """Put a module in the place of the one of this name; one that is not there is an error only if strict."""
        if not target:
            raise ValueError("Cannot set the submodule without a target name!")
        if not isinstance(module, Registry):
            raise ValueError(f"`module` is not an nn.Module, found {type(module)}")
        place, _, name = target.rpartition(".")
        parent = self.get_submodule(place)
        if strict or hasattr(parent, name):
            parent.get_submodule(name)  # raises where there is none
        setattr(parent, name, module)

    def _get(self, target: str, kind: str, label: str) -> Any:
        place, _, name = target.rpartition(".")
        module = self.get_submodule(place)
        if not hasattr(module, name):
            raise AttributeError(f"{module._get_name()} has no attribute `{name}`")
        if module._registered.get(name) != kind:
            raise AttributeError(f"`{name}` is not {label}")
        return getattr(module, name)

    def get_parameter(self, target: str) -> Parameter:
        """The parameter of a name such as "body.0.weight"; AttributeError when there is none."""
        return self._get(target, "parameter", "an nn.Parameter")  # type: ignore[no-any-return]

    def get_buffer(self, target: str) -> Tensor:
        """The buffer of a name such as "body.1.running_mean"; AttributeError when there is none."""
        return self._get(target, "buffer", "a buffer")  # type: ignore[no-any-return]

    def _get_name(self) -> str:
        return self.__class__.__name__

    def __copy__(self) -> Self:
        copy = type(self).__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy.__dict__.update(
            _registered=dict(self._registered), _non_persistent_buffers_set=set(self._non_persistent_buffers_set)
        )
        return copy


def _typename(value: Any) -> str:
    """The name of a class as errors print it."""
    kind = type(value)
    if isinstance(value, Tensor):
        names = {
            "int64": "Long",
            "int32": "Int",
            "int16": "Short",
            "int8": "Char",
            "uint8": "Byte",
            "float64": "Double",
        }
        return f"mpigrad.{names.get(value.dtype.name, value.dtype.name.rstrip('0123456789').title())}Tensor"
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _check_leaf(name: str, param: Tensor) -> None:
    if param.node is not None:
        raise ValueError(
            f"Cannot assign non-leaf Tensor to parameter '{name}'. Model parameters must be created explicitly. To "
            f"express '{name}' as a function of another Tensor, compute the value in the forward() method."
        )
