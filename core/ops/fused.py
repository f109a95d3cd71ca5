"""Recording ops that are fused by hand: their gradients are computed together, second derivatives by composition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..autograd import Variable, grad, record, running_backward
from ..backend import Array


class _Together:
    """The gradients of one op towards all its inputs: computed when the first is asked for, handed out one by one."""

    __slots__ = ("asked", "composition", "count", "found", "vjp")

    def __init__(self, vjp: Callable[..., Any], composition: Callable[..., Any], count: int) -> None:
        self.vjp, self.composition, self.count = vjp, composition, count
        self.forget()

    def forget(self) -> None:
        self.asked: Any = None
        self.found: dict[int, Any] = {}

    def towards(self, index: int) -> Callable[..., Any]:
        def vjp(g: Any, *saved: Any) -> Any:
            if g is not self.asked:
                self.asked = g
                self.found = self._composed(g, saved) if isinstance(g, Variable) else dict(self.vjp(g, *saved))
                if running_backward().route is not None:  # nobody may ask for some of them
                    running_backward().callbacks.append(self.forget)
            value = self.found.pop(index)
            if not self.found:
                self.forget()
            return value

        return vjp

    def _composed(self, g: Variable, saved: Sequence[Any]) -> dict[int, Any]:
        """The gradients as Tensors: those of the composition at the same inputs."""
        # an input may be given twice, or be computed from another one: each gets a node of its own
        inputs = [record("AliasBackward0", v.array, (v, lambda g: g)) if needs(v) else v for v in saved[: self.count]]
        learned = {i: v for i, v in enumerate(inputs) if needs(v)}
        value = self.composition(*inputs)
        found = grad(value, tuple(learned.values()), g, create_graph=True, allow_unused=True)  # type: ignore[arg-type]
        return dict(zip(learned, found, strict=True))


def needs(input: Any) -> bool:
    """Whether gradients flow to it; not to None or a number."""
    return isinstance(input, Variable) and input.needs


def record_fused(
    name: str,
    array: Array,
    inputs: Sequence[Any],
    vjp: Callable[..., Any],
    composition: Callable[..., Any],
    *saved: Any,
) -> Any:
    """As `record`, for an op whose gradients share most of their work. An input may be None.

    vjp(g, *inputs, *saved), on arrays: pairs (index of an input, its gradient), at least for all that need one.
    composition(*inputs), on Tensors: the same op made of simple ones, which is differentiated under create_graph.
    """
    wanted = [i for i, v in enumerate(inputs) if needs(v)]
    joint = _Together(lambda g, *kept: [(i, v) for i, v in vjp(g, *kept) if i in wanted], composition, len(inputs))
    return record(name, array, *[(inputs[i], joint.towards(i), *inputs, *saved) for i in wanted])
