"""Ops of the user's own: a pair of static methods, forward and backward."""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from ..backend import array_module
from .grad_mode import no_grad
from .tape import Node, Variable, modified, rewrite_history, thread, wrap

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
        for place, item in enumerate(tensors):
            if item is not None and not isinstance(item, Variable):
                kind = type(item).__name__
                raise TypeError(f"save_for_backward can only save variables, but argument {place} is of type {kind}")
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
                raise modified(item, version, item.node)
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
    def apply(cls, *args: Any, **names: Any) -> Any:
        """Compute and record."""
        ctx = FunctionCtx()
        own = cls.setup_context is not Function.setup_context  # forward takes no ctx
        if names:
            bound = inspect.signature(cls.forward).bind(*args, **names) if own else None
            bound = bound or inspect.signature(cls.forward).bind(ctx, *args, **names)
            bound.apply_defaults()
            args = bound.args if own else bound.args[1:]
        needs = tuple(isinstance(a, Variable) and a.needs for a in args)
        ctx.needs_input_grad = needs
        with no_grad():
            result = cls.forward(*args) if own else cls.forward(ctx, *args)
            if own:
                cls.setup_context(ctx, args, result)
        several = isinstance(result, tuple)
        outputs = list(result) if several else [result]
        for dirty in ctx._dirty if thread.recording else ():
            if dirty.needs and dirty.node is None:
                raise RuntimeError("a leaf Variable that requires grad has been used in an in-place operation.")
            if not any(dirty is output for output in outputs):
                raise RuntimeError(
                    "Some elements marked as dirty during the forward method were not returned as output. The inputs "
                    "that are modified inplace must all be outputs of the Function."
                )
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
        call = _Call(cls, ctx, args, {place: outputs[place].array for place in learned}, len(outputs))
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

    def __init__(
        self, function: Any, ctx: FunctionCtx, inputs: tuple[Any, ...], learned: dict[int, Any], outputs: int
    ) -> None:
        self.function, self.outputs = function, outputs
        self.inputs = [(v.array.shape, v.array.dtype) if isinstance(v, Variable) else None for v in inputs]
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
        count = len(self.inputs)
        if len(found) > count and all(value is None for value in found[count:]):
            found = found[:count]
        if len(found) != count:
            raise RuntimeError(
                f"function {name} returned an incorrect number of gradients (expected {count}, got {len(found)})"
            )
        values: list[Any] = []
        for place, (value, kind) in enumerate(zip(found, self.inputs, strict=True)):
            if value is not None and not isinstance(value, Variable):
                raise TypeError(f"function {name} returned a {type(value).__name__} as gradient {place}, not a Tensor")
            if value is not None and kind is not None:
                value = _fitted(value, *kind, f"Function {name} returned an invalid gradient at index {place}")
            values.append(value if lift or value is None else value.array)
        return values


def _fitted(value: Any, shape: tuple[int, ...], dtype: Any, complaint: str) -> Any:
    """A gradient in the shape and dtype of its input, to which broadcast dimensions are summed."""
    found = value.array.shape
    if found != shape:
        extra = len(found) - len(shape)
        if extra < 0 or any(n not in (1, m) for n, m in zip(shape, found[extra:], strict=True)):
            raise RuntimeError(f"{complaint} - got {list(found)} but expected shape compatible with {list(shape)}")
        axes = [i for i, m in enumerate(found) if i < extra or shape[i - extra] != m]
        value = value.sum(axes).reshape(shape)
    return value if value.array.dtype == dtype else value.astype(dtype)


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
