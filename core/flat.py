"""Flat memory: the parameters of a model side by side in one array per dtype and device, their gradients in another.

Whoever needs whole buffers (an optimizer, the gradient reduction, a digest) calls `flatten`; the first call lays the
parameters out, later ones find them where they are. Parameters stay what they were, only their memory moves: each
array becomes a view, and `Tensor.home` says of which part.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import Any

from .autograd import wrap
from .backend import Array, array_module
from .tensor import Tensor


class Home:
    """One tensor's place: elements start to stop of the flat arrays `values` and `gradients`."""

    __slots__ = ("gradient", "gradients", "lent", "start", "stop", "values")

    def __init__(self, values: Array, gradients: Array, start: int, tensor: Tensor) -> None:
        self.values, self.gradients = values, gradients
        self.start, self.stop = start, start + tensor.numel()
        self.gradient = gradients[self.start : self.stop].reshape(tensor.array.shape)
        place = values[self.start : self.stop].reshape(tensor.array.shape)
        place[...] = tensor.array
        tensor.array, tensor.home = place, self
        self.lent: Any = None  # a weak reference to the tensor over `gradient`
        gather_gradient(tensor)

    def lend(self, grad: Tensor | None = None) -> Tensor:
        """The tensor over `gradient`: grad made so, or a new one."""
        grad = wrap(self.gradient) if grad is None else grad
        grad.array, self.lent = self.gradient, weakref.ref(grad)
        return grad

    def reclaim(self) -> Array:
        """The memory for a new gradient. A tensor that somebody still holds over it takes its elements along."""
        held = self.lent and self.lent()
        if held is not None and held.array is self.gradient:
            held.array = self.gradient.copy()
        return self.gradient


def move_gradients(tensors: Iterable[Tensor], gradients: Array) -> None:
    """Let the gradients of tensors that share flat memory lie in another array of its size from now on."""
    for tensor in tensors:
        Home(tensor.home.values, gradients, tensor.home.start, tensor)


class Run:
    """Tensors that are neighbours in flat memory, with their values and gradients as two one-dimensional arrays."""

    __slots__ = ("gradients", "home", "start", "stop", "tensors", "values")

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = tuple(tensors)
        self.home: Home = tensors[0].home
        self.start, self.stop = self.home.start, tensors[-1].home.stop
        self.values = self.home.values[self.start : self.stop]
        self.gradients = self.home.gradients[self.start : self.stop]

    def holds(self) -> bool:
        """Whether every tensor still lives in this run's memory (assigning `.data` or `.to()` moves one out)."""
        values, gradients = self.home.values, self.home.gradients
        for tensor in self.tensors:
            home = tensor.home
            if home is None or home.values is not values or home.gradients is not gradients:
                return False
        return True


def flatten(tensors: Iterable[Tensor]) -> list[Run]:
    """Give a home to each tensor that has none, and return all of them as maximal runs of neighbours."""
    everything = list(dict.fromkeys(tensors))
    homeless: dict[Any, list[Tensor]] = {}
    for tensor in everything:
        if tensor.home is None:
            homeless.setdefault((tensor.array.dtype, str(tensor.device)), []).append(tensor)
    for group in homeless.values():
        xp, dtype = array_module(group[0].array), group[0].array.dtype
        size = sum(t.numel() for t in group)
        values, gradients = xp.empty(size, dtype), xp.zeros(size, dtype)
        start = 0
        for tensor in group:
            start = Home(values, gradients, start, tensor).stop
    return runs(everything)


def runs(tensors: Iterable[Tensor]) -> list[Run]:
    """Tensors that have homes, as maximal runs of neighbours in memory order."""
    by_memory: dict[tuple[int, int], list[Tensor]] = {}
    for tensor in tensors:
        by_memory.setdefault((id(tensor.home.values), id(tensor.home.gradients)), []).append(tensor)
    found = []
    for group in by_memory.values():
        group.sort(key=lambda t: t.home.start)
        row = [group[0]]
        for tensor in group[1:]:
            if tensor.home.start != row[-1].home.stop:
                found.append(Run(row))
                row = []
            row.append(tensor)
        found.append(Run(row))
    return found


def gather_gradient(tensor: Tensor) -> None:
    """Make sure that the tensor's gradient, if it has one, lies in its home (one that was assigned may not)."""
    grad, home = tensor._grad, tensor.home
    if grad is not None and grad.array is not home.gradient:
        home.reclaim()[...] = grad.array
        home.lend(grad)


def with_gradients(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Those of the tensors that have a gradient; from now on it lies in their home."""
    found = []
    for tensor in tensors:
        grad = tensor._grad
        if grad is not None:
            found.append(tensor)
            if tensor.home is None:
                flatten(tensors)
            if grad.array is not tensor.home.gradient:
                gather_gradient(tensor)
    return found
