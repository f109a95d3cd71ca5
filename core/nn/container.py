"""Modules that hold modules or parameters, as lists and dicts do."""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, groupby
from typing import Any, Self

from ..tensor import Tensor
from .module import Module, Parameter, _block, _indented
from .registry import _typename

__all__ = ["ModuleDict", "ModuleList", "ParameterDict", "ParameterList", "Sequential"]


class _Numbered(Module):
    """Modules in an order; what stands at place 3 is called "3" unless it was given a name."""

    def _name_at(self, index: int) -> str:
        names = list(self._modules)
        index = operator.index(index)
        if not -len(names) <= index < len(names):
            raise IndexError(f"index {index} is out of range")
        return names[index]

    def _become(self, modules: Iterable[Module]) -> None:
        """Hold these modules, numbered anew."""
        modules = list(modules)
        self._modules.clear()
        for i, module in enumerate(modules):
            self._modules[str(i)] = module

    def __iter__(self) -> Iterator[Module]:
        here = self.__dict__
        return iter([here[name] for name, kind in self._registered.items() if kind == "module"])

    def __len__(self) -> int:
        return len(self._modules)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self._part(list(self._modules.items())[index])
        return self._modules[self._name_at(index)]

    def _part(self, named: list[tuple[str, Module]]) -> Any:
        return type(self)([module for _, module in named])  # type: ignore[call-arg]

    def __setitem__(self, index: int, module: Module) -> None:
        setattr(self, self._name_at(index), module)

    def __delitem__(self, index: int | slice) -> None:
        names = list(self._modules)
        for name in names[index] if isinstance(index, slice) else (self._name_at(index),):
            delattr(self, name)
        self._become(self)

    def append(self, module: Module) -> Self:
        """Add a module at the end."""
        self.add_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Self:
        """Add modules at the end."""
        if not isinstance(modules, Iterable):
            raise TypeError(
                f"{type(self).__name__}.extend should be called with an iterable, but got {type(modules).__name__}"
            )
        for module in list(modules):
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> Any:
        """Put a module before the one at index."""
        modules = list(self)
        modules.insert(index, module)
        self._become(modules)

    def pop(self, key: int | slice) -> Any:
        """Take out the module at an index, or a slice."""
        taken = self[key]
        del self[key]
        return taken


class Sequential(_Numbered):
    """Each module's output is the next one's input. Takes modules, or one OrderedDict of named modules."""

    def __init__(self, *modules: Any) -> None:
        super().__init__()
        named = modules[0] if len(modules) == 1 and isinstance(modules[0], OrderedDict) else None
        for name, module in named.items() if named is not None else enumerate(modules):
            self.add_module(str(name), module)

    def forward(self, input: Any) -> Any:
        for module in self:
            input = module(input)
        return input

    def _part(self, named: list[tuple[str, Module]]) -> Sequential:
        return type(self)(OrderedDict(named))

    def insert(self, index: int, module: Module) -> Self:
        """Put a module before the one at index."""
        if not isinstance(module, Module):
            raise AssertionError(f"module should be of type: {Module}")
        if not -len(self) <= index <= len(self):
            raise IndexError(f"Index out of range: {index}")
        super().insert(index, module)
        return self

    def __add__(self, other: Sequential) -> Sequential:
        return Sequential(*self).__iadd__(other)

    def __iadd__(self, other: Sequential) -> Self:
        if not isinstance(other, Sequential):
            raise ValueError(f"add operator supports only objects of Sequential class, but {type(other)} is given.")
        return self.extend(other)

    def __mul__(self, other: int) -> Sequential:
        return Sequential(*self).__imul__(other)

    __rmul__ = __mul__

    def __imul__(self, other: int) -> Self:
        if not isinstance(other, int):
            raise TypeError(f"unsupported operand type(s) for *: {type(self)} and {type(other)}")
        if other <= 0:
            raise ValueError(f"Non-positive multiplication factor {other} for {type(self)}")
        return self.extend(list(self) * (other - 1))


class ModuleList(_Numbered):
    """A list of modules; it computes nothing itself."""

    def __init__(self, modules: Iterable[Module] | None = None) -> None:
        super().__init__()
        if modules is not None:
            self.extend(modules)

    def __iadd__(self, modules: Iterable[Module]) -> Self:
        return self.extend(modules)

    def __add__(self, other: Iterable[Module]) -> ModuleList:
        return ModuleList(chain(self, other))

    def __repr__(self) -> str:
        """Neighbours that print alike are printed once."""
        children = []
        for text, places in groupby(range(len(self)), [repr(module) for module in self].__getitem__):
            first, *rest = places
            label = f"({first}): {text}" if not rest else f"({first}-{rest[-1]}): {len(rest) + 1} x {text}"
            children.append(_indented(label))
        return _block(self._get_name(), [], children)


def _pairs(name: str, values: Any) -> Iterable[tuple[str, Any]]:
    """The entries to update a dict with; TypeError or ValueError for what is neither a mapping nor pairs."""
    if not isinstance(values, Iterable):
        raise TypeError(
            f"{name}.update should be called with an iterable of key/value pairs, but got {type(values).__name__}"
        )
    if isinstance(values, (Mapping, _Named)):
        return values.items()
    pairs = list(values)
    for i, pair in enumerate(pairs):
        if not isinstance(pair, Iterable):
            raise TypeError(f"{name} update sequence element #{i} should be Iterable; is{type(pair).__name__}")
        if len(pair) != 2:  # type: ignore[arg-type]
            raise ValueError(f"{name} update sequence element #{i} has length {len(pair)}; 2 is required")  # type: ignore[arg-type]
    return pairs


class _Named(Module):
    """Values by name, in insertion order; a subclass says how one is set."""

    def _names(self) -> Iterable[str]:
        raise NotImplementedError

    def __getitem__(self, key: str) -> Any:
        if key not in self:
            raise KeyError(key)
        return getattr(self, key)

    def __setitem__(self, key: str, value: Any) -> None:
        raise NotImplementedError

    def __delitem__(self, key: str) -> None:
        self[key]
        delattr(self, key)

    def __len__(self) -> int:
        return len(list(self._names()))

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._names()))

    def __reversed__(self) -> Iterator[str]:
        return reversed(list(self._names()))

    def __contains__(self, key: object) -> bool:
        return key in list(self._names())

    def clear(self) -> None:
        """Remove everything."""
        for key in self:
            del self[key]

    def pop(self, key: str) -> Any:
        """Remove a value, and return it."""
        taken = self[key]
        del self[key]
        return taken

    def keys(self) -> Iterable[str]:
        """The names."""
        return dict.fromkeys(self).keys()

    def values(self) -> Iterable[Any]:
        """The values."""
        return {key: self[key] for key in self}.values()

    def items(self) -> Iterable[tuple[str, Any]]:
        """The pairs of both."""
        return {key: self[key] for key in self}.items()

    def update(self, values: Any) -> None:
        """Set each of a mapping's entries, or of a sequence of pairs."""
        for key, value in _pairs(type(self).__name__, values):
            self[key] = value


class ModuleDict(_Named):
    """Modules by name; it computes nothing itself."""

    def __init__(self, modules: Any = None) -> None:
        super().__init__()
        if modules is not None:
            self.update(modules)

    def _names(self) -> Iterable[str]:
        return self._modules

    def __setitem__(self, key: str, module: Module) -> None:
        self.add_module(key, module)


def _described(values: Iterable[tuple[Any, Any]], name: Callable[[Tensor], str]) -> str:
    """A line per value; name: what to call a tensor's elements."""
    lines = []
    for key, value in values:
        text = f"Object of type: {type(value).__name__}"
        if isinstance(value, Tensor):
            size = "x".join(map(str, value.shape)) + (f" ({value.device})" if value.device.type != "cpu" else "")
            kind = "Parameter" if isinstance(value, Parameter) else "Tensor"
            text = f"{kind} containing: [{name(value)} of size {size}]"
        lines.append(f"  ({key}): {text}")
    return "\n".join(lines)


def _learnable(value: Any) -> Any:
    """A tensor as a parameter, anything else as it is."""
    return Parameter(value) if isinstance(value, Tensor) and not isinstance(value, Parameter) else value


class ParameterList(Module):
    """A list of parameters; a tensor becomes one, other values are kept beside them."""

    def __init__(self, values: Iterable[Any] | None = None) -> None:
        super().__init__()
        self._size = 0
        if values is not None:
            self.extend(values)

    def _name_at(self, index: int) -> str:
        index = operator.index(index)
        if not -self._size <= index < self._size:
            raise IndexError(f"index {index} is out of range")
        return str(index % self._size)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return type(self)(list(self)[index])
        return getattr(self, self._name_at(index))

    def __setitem__(self, index: int, value: Any) -> None:
        setattr(self, self._name_at(index), _learnable(value))

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Any]:
        return iter([self[i] for i in range(self._size)])

    def append(self, value: Any) -> Self:
        """Add a value at the end."""
        self._size += 1
        self[-1] = value
        return self

    def extend(self, values: Iterable[Any]) -> Self:
        """Add values at the end."""
        if not isinstance(values, Iterable) or isinstance(values, Tensor):
            raise TypeError(f"ParameterList.extend should be called with an iterable, but got {type(values).__name__}")
        for value in list(values):
            self.append(value)
        return self

    __iadd__ = extend

    def extra_repr(self) -> str:
        return _described(enumerate(self), lambda t: str(t.dtype))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("ParameterList should not be called.")


class ParameterDict(_Named):
    """Parameters by name; a tensor becomes one, other values are kept beside them."""

    def __init__(self, parameters: Any = None) -> None:
        super().__init__()
        self._keys: dict[str, None] = {}
        if parameters is not None:
            self.update(parameters)

    def _names(self) -> Iterable[str]:
        return self._keys

    def __setitem__(self, key: str, value: Any) -> None:
        if not isinstance(key, str):
            raise TypeError(
                f"Index given to ParameterDict cannot be used as a key as it is not a string (type is "
                f"'{type(key).__name__}')"
            )
        setattr(self, key, _learnable(value))
        self._keys[key] = None

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        del self._keys[key]

    def update(self, values: Any) -> None:
        """Set each of a mapping's entries (a plain dict's in the order of their names), or of a sequence of pairs."""
        plain = isinstance(values, Mapping) and not isinstance(values, OrderedDict)
        super().update(OrderedDict(sorted(values.items())) if plain else values)

    def copy(self) -> ParameterDict:
        """A new dict of the same parameters."""
        return ParameterDict(OrderedDict(self.items()))

    def setdefault(self, key: str, default: Any = None) -> Any:
        """The value of a name, after setting it to default where there was none."""
        if key not in self:
            self[key] = default
        return self[key]

    def popitem(self) -> tuple[str, Any]:
        """Remove the newest pair, and return it."""
        key = list(self._keys)[-1]
        return key, self.pop(key)

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a name, or default."""
        return self[key] if key in self else default  # noqa: SIM401  (get is defined here)

    def fromkeys(self, keys: Iterable[str], default: Any = None) -> ParameterDict:
        """A new dict with one value under all these names."""
        return ParameterDict((key, default) for key in keys)

    def __or__(self, other: Any) -> ParameterDict:
        return self.copy().__ior__(other)

    def __ior__(self, other: Any) -> Self:
        self.update(other)
        return self

    def extra_repr(self) -> str:
        return _described(self.items(), _typename)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("ParameterDict should not be called.")
