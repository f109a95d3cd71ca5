"""Buffers of a module that sees a batch in parts: what the parts make of a running statistic is combined.

The parts are the shards of a rank (`Parts`), or the batches of the ranks (`Replicated`). A part with some of the
samples moves a buffer from `old` to a value of its own. All parts together move it to
old + sum(samples * (value - old)) / sum(samples), computed in float64; an integer to the nearest. What no part changes
stays as it is, to the bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ..core.autograd import wrap
from ..core.backend import Array, array_module, to_host
from ..core.nn.module import Module
from ..core.tensor import Tensor
from .comm.protocol import Communicator

__all__ = ["Parts", "Replicated", "move", "moves"]

WIDE = np.dtype(np.float64)


def moves(old: Sequence[Array], new: Sequence[Array], size: int) -> Array:
    """By how much each element has moved, one after the other, with zeros up to this size at the end."""
    found = np.zeros(size, WIDE)
    at = 0
    for before, after in zip(old, new, strict=True):
        a, b = to_host(before).reshape(-1), to_host(after).reshape(-1)
        np.subtract(b, a, out=found[at : at + a.size], where=a != b, dtype=WIDE)  # inf - inf has not moved
        at += a.size
    return found


def move(tensors: Sequence[Tensor], old: Sequence[Array], by: Array) -> None:
    """Let the tensors be what they were before, moved by these numbers."""
    at = 0
    for tensor, before in zip(tensors, old, strict=True):
        array, xp = tensor.array, array_module(tensor.array)
        step = xp.asarray(by[at : at + array.size]).reshape(array.shape)
        at += array.size
        value = before + step
        array[...] = xp.where(step == 0, before, xp.rint(value) if array.dtype.kind in "iub" else value)
        tensor.version[0] += 1


Slot = tuple[Module, str]


def slots(module: Module) -> list[Slot]:
    """Where the buffers of a module are: their owners, and their names there."""
    return [(owner, name) for owner in module.modules() for name, b in owner._buffers.items() if b is not None]


class Replicated:
    """A module's buffers on several ranks: each rank moves its own, then `combine_start` makes one of all moves.

    without: do nothing, and let every rank keep its own.
    """

    def __init__(self, module: Module, communicator: Communicator, without: bool = False) -> None:
        self.slots: list[Slot] = [] if without else slots(module)
        self.communicator = communicator
        self.tensors: list[Tensor] = [owner._buffers[name] for owner, name in self.slots]
        self.before: list[Array] = [tensor.array.copy() for tensor in self.tensors]
        self.versions = [tensor.version[0] for tensor in self.tensors]
        self._memory = communicator.allocate(sum(array.size for array in self.before), WIDE)

    def __len__(self) -> int:
        return len(self.slots)

    def remember(self, places: Sequence[int] | None = None) -> None:
        """The buffers (all, or those at these places) are as on all other ranks now."""
        for place in range(len(self.slots)) if places is None else places:
            owner, name = self.slots[place]
            buffer = owner._buffers[name]
            self.tensors[place], self.before[place] = buffer, buffer.array.copy()
            self.versions[place] = buffer.version[0]

    def in_step(self) -> list[Tensor]:
        """The buffers that this rank has not changed since they were as on all other ranks."""
        return [tensor for tensor, changed in zip(self.tensors, self.state(), strict=False) if not changed]

    def state(self) -> list[bool]:
        """For each buffer whether this rank has changed it since, then whether it still has its shape."""
        now = [owner._buffers[name] for owner, name in self.slots]
        changed = [
            buffer is not tensor or buffer.version[0] != version
            for buffer, tensor, version in zip(now, self.tensors, self.versions, strict=True)
        ]
        alike = [
            buffer is not None and buffer.array.shape == before.shape
            for buffer, before in zip(now, self.before, strict=True)
        ]
        return changed + alike

    def combine_start(self, states: Sequence[float], weight: float, total: float) -> Callable[[], None]:
        """Begin to combine what some rank has changed; the result waits, and finishes it.

        states: the sums over the ranks of what `state` gave. Buffers whose shape differs somewhere are left alone.
        """
        count, size = len(self.slots), self.communicator.size
        places = [place for place in range(count) if states[place] and states[count + place] == size]
        if size == 1 or not places:
            return lambda: None
        found = [owner._buffers[name] for owner, name in map(self.slots.__getitem__, places)]
        before = [self.before[place] for place in places]
        elements = sum(array.size for array in before)
        by = self._memory[:elements]
        by[:] = moves(before, [buffer.array for buffer in found], elements)
        work = self.communicator.weighted_sum_start(by, weight, lambda: total, "combination of buffers")

        def finish() -> None:
            work.wait()
            move(found, before, by)
            self.remember(places)

        return finish


class Parts:
    """A module's buffers while the parts of one batch go through it: every part finds them as they were before."""

    def __init__(self, module: Module) -> None:
        self.slots = slots(module)
        self.before: list[Tensor] = [owner._buffers[name] for owner, name in self.slots]
        self.after: dict[int, list[Array]] = {}  # by part, as many as slots
        self.changed: dict[Tensor, int] = {}  # by some part, and the buffer's slot

    @contextlib.contextmanager
    def part(self, number: int) -> Iterator[None]:
        """Within the block the module has copies of the buffers, which its graph may keep."""
        copies = {buffer: wrap(buffer.array.copy()) for buffer in self.before}
        for (owner, name), buffer in zip(self.slots, self.before, strict=True):
            owner._buffers[name] = copies[buffer]
        try:
            yield
        finally:
            after: list[Array] = []
            for slot, (owner, name) in enumerate(self.slots):
                now, buffer = owner._buffers[name], self.before[slot]
                after.append(now.array)
                if now is not copies[buffer] or now.version[0]:  # assigned, or changed in place
                    self.changed.setdefault(buffer, slot)
                owner._buffers[name] = buffer
            self.after[number] = after

    def elements(self) -> int:
        """How many elements the changed buffers have."""
        return sum(buffer.array.size for buffer in self.changed)

    def moved(self, number: int, samples: float, size: int) -> Array:
        """What one part adds to the sum."""
        old = [buffer.array for buffer in self.changed]
        if number not in self.after:
            return np.zeros(size, WIDE)
        return moves(old, [self.after[number][slot] for slot in self.changed.values()], size) * samples

    def move(self, by: Array) -> None:
        """Let the changed buffers be what all parts together make of them."""
        move(list(self.changed), [buffer.array.copy() for buffer in self.changed], by)
