"""A module that is a function of nn.functional with settings: its class lists them, as a dataclass does."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar, dataclass_transform

from ..ops.reduction import mode_of
from .module import Module

BUFFERS = {"pos_weight", "weight"}  # settings that move and are saved with the module


@dataclass_transform()
class FunctionModule(Module):
    """Calls `function` on its inputs with its settings as keywords.

    What a subclass annotates are its settings, which the constructor takes in this order. A tensor or None as `weight`
    or `pos_weight` is a buffer.
    """

    function: ClassVar[Callable[..., Any]]
    _settings: ClassVar[tuple[inspect.Parameter, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        names = [name for name, kind in vars(cls).get("__annotations__", {}).items() if "ClassVar" not in str(kind)]
        if names:
            kind, empty = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty
            cls._settings = tuple(inspect.Parameter(n, kind, default=vars(cls).get(n, empty)) for n in names)
            cls.__signature__ = inspect.Signature(cls._settings)  # type: ignore[attr-defined]
            for name in BUFFERS.intersection(names):  # an attribute of the class would forbid the buffer
                delattr(cls, name)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        given = inspect.Signature(self._settings).bind(*args, **kwargs)
        given.apply_defaults()
        for name, value in given.arguments.items():
            if name in BUFFERS:
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def forward(self, *inputs: Any) -> Any:
        return type(self).function(*inputs, **{s.name: getattr(self, s.name) for s in self._settings})


class Activation(FunctionModule):
    """A function of one tensor, which prints its settings."""

    def extra_repr(self) -> str:
        shown = {s.name: getattr(self, s.name) for s in self._settings}
        return ", ".join(f"{name}={value!r}" for name, value in shown.items() if name != "inplace" or value)


class Loss(FunctionModule):
    """A function of input and target with a reduction, which the two older arguments say too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        average, each = (self.__dict__.get(name) for name in ("size_average", "reduce"))
        if average is not None or each is not None:
            self.__dict__.update(reduction=mode_of(average, each, "mean"), size_average=None, reduce=None)
