"""Ops of the user's own: a pair of static methods, forward and backward."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from ..backend import array_module
from .grad_mode import no_grad
from .tape import Node, Variable, rewrite_history, thread, wrap

__all__ = ["Function", "once_differentiable"]


class FunctionCtx:
    """What a Function's forward leaves for its backward; attributes of the user's own are welcome."""

    needs_input_grad: tuple[bool, ...] = ()

    def __init__(self) -> None:
        self._saved: tuple[Any, ...] = ()
        self._versions: tuple[int, ...] = ()
        self._outputs: dict[int, int] = {}  # place among the saved tensors: place among the outputs
        self._constant: tuple[Any, ...] = ()
        self._dirty: tuple[Any, ...] = ()
        self._materialize = True
        self._count = 1  # of outputs
        self._node: Callable[[], Node | None] = lambda: None

    def save_for_backward(self, *tensors: Any) -> None:
        """Keep tensors (or None) for backward, checked there to be unchanged."""
        self._saved = tensors

    def mark_non_differentiable(self, *tensors: Any) -> None:
        """No gradient flows to these outputs."""
        self._constant = tensors

    def mark_dirty(self, *tensors: Any) -> None:
        """These inputs were changed in place and are returned."""
        self._dirty = tensors

    def set_materialize_grads(self, value: bool) -> None:
        """Whether backward gets zeros (True) or None for an output that no gradient arrived at."""
        self._materialize = value

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        """What `save_for_backward` kept; RuntimeError where it was changed in place since."""
        found = []
        for place, (item, version) in enumerate(zip(self._saved, self._versions, strict=True)):
            if item is not None and item.version[0] != version:
                raise RuntimeError(
                    "one of the variables needed for gradient computation has been modified by an inplace operation: "
                    f"[{item.array.dtype} {list(item.array.shape)}] is at version {item.version[0]}; expected version "
                    f"{version} instead."
                )
            if place in self._outputs:  # saved without its history, which refers to this context
                version_cell, item = item.version, wrap(item.array)
                item.version = version_cell
                node = self._node()
                assert node is not None  # the node runs its backward
                item.node, item.needs = _output_node(node, self._outputs[place], self._count), True
            found.append(item)
        return tuple(found)

    def _seal(self, outputs: Sequence[Any], node: Node) -> None:
        """Note the versions, and let go of the outputs among what was saved: they refer to the node."""
        self._node, self._count = weakref.ref(node), len(outputs)
        places = {id(output): place for place, output in enumerate(outputs)}
        kept = []
        for place, item in enumerate(self._saved):
            if id(item) in places:
                self._outputs[place] = places[id(item)]
                cell, item = item.version, wrap(item.array)
                item.version = cell
            kept.append(item)
        self._saved = tuple(kept)
        self._versions = tuple(0 if item is None else item.version[0] for item in kept)


class Several:
    """The gradients of all outputs of one Function; None where none has arrived."""

    __slots__ = ("values",)

    def __init__(self, values: dict[int, Any]) -> None:
        self.values = values

    def __add__(self, other: Several) -> Several:
        sums = dict(self.values)
        for place, value in other.values.items():
            sums[place] = sums[place] + value if place in sums else value
        return Several(sums)


def _output_node(node: Node, place: int, count: int) -> Node:
    """The node of one of `count` outputs: beside others it hands its gradient on to the node of all."""
    return node if count == 1 else Node(node.name(), ((node, lambda g: Several({place: g}), (), ()),))


class Function:
    """Base class of custom ops: define static methods `forward(ctx, *args)` and `backward(ctx, *gradients)`.

    forward may also do without ctx when there is a `setup_context(ctx, inputs, output)`. Call it with `apply`.
    """

    @staticmethod
    def forward(*args: Any, **kwargs: Any) -> Any:
        """The op's value."""
        raise NotImplementedError("You must implement the forward function for custom autograd.Function.")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Save in ctx what backward needs, when forward takes no ctx."""
        raise NotImplementedError("setup_context is not implemented.")

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        """The gradient of each of forward's inputs (None for what is no tensor), given those of its outputs."""
        raise NotImplementedError("You must implement either the backward or vjp method for your custom Function.")

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """Compute and record."""
        ctx = FunctionCtx()
        needs = tuple(isinstance(a, Variable) and a.needs for a in args)
        ctx.needs_input_grad = needs
        with no_grad():
            if cls.setup_context is Function.setup_context:
                result = cls.forward(ctx, *args)
            else:
                result = cls.forward(*args)
                cls.setup_context(ctx, args, result)
        several = isinstance(result, tuple)
        outputs = list(result) if several else [result]
        for place, output in enumerate(outputs):
            if any(output is dirty for dirty in ctx._dirty):
                output.version[0] += 1
            elif any(output is a for a in args) and isinstance(output, Variable):
                outputs[place] = wrap(output.array)
                outputs[place].version = output.version
        if thread.recording and any(needs):
            cls._record(ctx, args, outputs)
        return tuple(outputs) if several else outputs[0]

    @classmethod
    def _record(cls, ctx: FunctionCtx, args: tuple[Any, ...], outputs: list[Any]) -> None:
        learned = [
            place
            for place, output in enumerate(outputs)
            if isinstance(output, Variable)
            and output.array.dtype.kind in "fV"
            and not any(output is constant for constant in ctx._constant)
        ]
        call = _Call(cls, ctx, len(args), {place: outputs[place].array for place in learned}, len(outputs))
        edges = []
        for place, a in enumerate(args):
            if ctx.needs_input_grad[place]:
                # what is saved stands in the edge, where the engine frees it; without it the graph can be walked again
                edges.append((a.node or a, functools.partial(call, place), (ctx,) if ctx._saved else (), (0,)))
                call.last = place
        node = Node(f"{cls.__name__}Backward", tuple(edges))
        ctx._seal(outputs, node)
        for place in learned:
            output = outputs[place]
            own = _output_node(node, place, len(outputs))
            if any(output is dirty for dirty in ctx._dirty):
                rewrite_history(output, own)
            else:
                output.node, output.needs = own, True


class _Call:
    """The vjp towards each input of one call of a Function; all of them come from one run of its backward."""

    def __init__(self, function: Any, ctx: FunctionCtx, inputs: int, learned: dict[int, Any], outputs: int) -> None:
        self.function, self.inputs, self.outputs = function, inputs, outputs
        self.ctx = None if ctx._saved else ctx
        self.zeros = {n: functools.partial(array_module(a).zeros, a.shape, a.dtype) for n, a in learned.items()}
        self.last = 0
        self.run: tuple[Any, Sequence[Any]] | None = None  # the gradient that came in, and what backward made of it

    def __call__(self, place: int, g: Any, ctx: FunctionCtx | None = None) -> Any:
        if self.run is None or self.run[0] is not g:
            self.run = (g, self._backward(g, ctx or self.ctx))
        value = self.run[1][place]
        if place == self.last:
            self.run = None
        return value

    def _backward(self, g: Any, ctx: Any) -> Sequence[Any]:
        given = g.values if isinstance(g, Several) else dict.fromkeys(self.zeros, g)
        lift = any(isinstance(value, Variable) for value in given.values())
        gradients: list[Any] = []
        for place in range(self.outputs):
            value = given.get(place)
            if value is None and ctx._materialize and place in self.zeros:
                value = self.zeros[place]()
            gradients.append(value if value is None or isinstance(value, Variable) else wrap(value))
        found = self.function.backward(ctx, *gradients)
        found = tuple(found) if isinstance(found, (tuple, list)) else (found,)
        name = f"{self.function.__name__}Backward"
        if len(found) > self.inputs and all(value is None for value in found[self.inputs :]):
            found = found[: self.inputs]
        if len(found) != self.inputs:
            raise RuntimeError(
                f"function {name} returned an incorrect number of gradients (expected {self.inputs}, got {len(found)})"
            )
        for place, value in enumerate(found):
            if value is not None and not isinstance(value, Variable):
                raise TypeError(f"function {name} returned a {type(value).__name__} as gradient {place}, not a Tensor")
        return [value if lift or value is None else value.array for value in found]


def once_differentiable(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates a Function's backward that is not itself differentiable."""

    @functools.wraps(backward)
    def wrapper(ctx: Any, *gradients: Any) -> Any:
        with no_grad():
            found = backward(ctx, *gradients)
        if not (thread.recording and any(isinstance(g, Variable) and g.needs for g in gradients)):
            return found
        several = isinstance(found, tuple)
        marked = [
            _refusing(value, wrapper.__name__) if isinstance(value, Variable) else value
            for value in (found if several else (found,))
        ]
        return tuple(marked) if several else marked[0]

    return wrapper


def _refusing(value: Any, name: str) -> Any:
    """The same elements with a history that cannot be walked."""

    def refuse(g: Any) -> Any:
        raise RuntimeError("trying to differentiate twice a function that was marked with @once_differentiable")

    result = wrap(value.array)
    result.node, result.needs = Node("Error", ((wrap(value.array), refuse, (), ()),)), True
    return result
