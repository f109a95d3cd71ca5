"""A module's hooks: those around forward, and gates through which all its gradients pass together."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..autograd import Node, Variable, thread, wrap

Gradients = tuple[Any, ...]


@dataclass
class ForwardHook:
    """A hook around forward, called with the keywords or without; always: even where forward raises."""

    hook: Callable[..., Any]
    with_kwargs: bool
    always: bool = False

    def before(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The arguments to go on with."""
        changed = self.hook(module, args, kwargs) if self.with_kwargs else self.hook(module, args)
        if changed is None:
            return args, kwargs
        if not self.with_kwargs:
            return (changed if isinstance(changed, tuple) else (changed,)), kwargs
        if not isinstance(changed, tuple) or len(changed) != 2:
            raise RuntimeError(
                f"forward pre-hook must return None or a tuple of (new_args, new_kwargs), but got {changed}."
            )
        return changed

    def after(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Any:
        """What the hook returns."""
        return self.hook(module, args, kwargs, result) if self.with_kwargs else self.hook(module, args, result)


class _Bundle(dict[int, Any]):
    """Gradients by their position; the sum of two is both. `after` holds what the gate made of them."""

    after: Gradients | None = None

    def __add__(self, other: _Bundle) -> _Bundle:
        return _Bundle(self | other)


def _gate(values: Sequence[Any], see: Callable[[Gradients], Gradients]) -> list[Any]:
    """The values, where the gradients of all tensors among them pass through `see` before they flow on.

    The gradients are a tuple as long as the values, None where there is none. Each tensor gets a node of its own, whose
    gradient waits in a shared node until those of all others have arrived.
    """
    places = [i for i, v in enumerate(values) if isinstance(v, Variable) and v.needs]
    gated = list(values)
    if not places or not thread.recording:
        return gated

    def towards(place: int) -> Callable[[_Bundle], Any]:
        def vjp(bundle: _Bundle) -> Any:
            if bundle.after is None:
                lifted = any(isinstance(g, Variable) for g in bundle.values())
                seen = see(tuple(_tensor(bundle.get(i)) for i in range(len(values))))
                bundle.after = tuple(g if lifted or g is None else g.array for g in seen)
            return bundle.after[place]

        return vjp

    shared = Node(
        "BackwardHookFunctionBackward", tuple((values[i].node or values[i], towards(i), (), ()) for i in places)
    )
    for i in places:
        gated[i] = wrap(values[i].array)
        gated[i].version = values[i].version
        pack = lambda g, i=i: _Bundle({i: g})
        gated[i].needs, gated[i].node = True, Node("BackwardHookFunctionBackward", ((shared, pack, (), ()),))
    return gated


def _tensor(gradient: Any) -> Any:
    return gradient if gradient is None or isinstance(gradient, Variable) else wrap(gradient)


class BackwardHooks:
    """One call of a module with hooks on its gradients: `enter` its inputs, `leave` with its output."""

    def __init__(self, module: Any, before: Sequence[Any], after: Sequence[Any]) -> None:
        self.module, self.before, self.after = module, tuple(before), tuple(after)
        self.towards_output: Gradients | None = None
        self.inputs: int = 0
        self.learned = False

    def enter(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The inputs of the module, with a gate behind them."""
        self.inputs = len(args)
        self.learned = any(isinstance(v, Variable) and v.needs for v in args)
        return tuple(_gate(args, self._on_inputs))

    def leave(self, output: Any) -> Any:
        """The output of the module, with a gate before it."""
        if isinstance(output, tuple):
            return tuple(_gate(output, self._on_outputs))
        return _gate([output], self._on_outputs)[0]

    def _on_outputs(self, gradients: Gradients) -> Gradients:
        for hook in self.before:
            changed = hook(self.module, gradients)
            if changed is not None:
                gradients = _as_long(changed, gradients, "Backward pre hook returned an invalid number of grad_output")
        self.towards_output = gradients
        if not self.learned and self.after:
            warnings.warn(
                "Full backward hook is firing when gradients are computed with respect to module outputs since no "
                "inputs require gradients.",
                stacklevel=5,
            )
            self._on_inputs((None,) * self.inputs)
        return gradients

    def _on_inputs(self, gradients: Gradients) -> Gradients:
        if self.towards_output is None:  # they did not come through the module's output
            return gradients
        for hook in self.after:
            changed = hook(self.module, gradients, self.towards_output)
            if changed is not None:
                gradients = _as_long(changed, gradients, "Backward hook returned an invalid number of grad_input")
        self.towards_output = None
        return gradients


def _as_long(changed: Any, gradients: Gradients, complaint: str) -> Gradients:
    replaced = (changed,) if isinstance(changed, Variable) else tuple(changed)
    if len(replaced) != len(gradients):
        raise RuntimeError(f"{complaint}, got {len(replaced)}, but expected {len(gradients)}")
    return replaced
