"""Buckets: consecutive pieces of the flat gradient memory that are reduced one after the other."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.flat import Run, flatten
from ..core.tensor import Tensor

MIB = 2**20


class Bucket(Run):
    """Parameters whose gradients are reduced together."""

    __slots__ = ("name", "waiting")

    def __init__(self, index: int, tensors: Sequence[Tensor], names: Sequence[str]) -> None:
        super().__init__(tensors)
        self.name = f"reduction of gradient bucket {index} ({', '.join(names)})"
        self.waiting = 0  # gradients that are not final yet in the running backward pass


def make_buckets(named: Sequence[tuple[str, Tensor]], first_bytes: float, other_bytes: float) -> list[Bucket]:
    """Cut parameters into buckets, last parameter first: the order in which backward finishes their gradients.

    A bucket ends where the next parameter would take it over its size, or lies elsewhere in memory.
    """
    names = {tensor: name for name, tensor in named}
    groups: list[list[Tensor]] = []
    for run in reversed(flatten(names)):
        size = 0.0
        open_group = False
        for tensor in reversed(run.tensors):
            limit = first_bytes if len(groups) <= 1 else other_bytes
            if not open_group or size + tensor.array.nbytes > limit:
                groups.append([])
                size, open_group = 0.0, True
            groups[-1].append(tensor)
            size += tensor.array.nbytes
    return [Bucket(i, group[::-1], [names[t] for t in reversed(group)]) for i, group in enumerate(groups)]
