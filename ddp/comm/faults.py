"""Faults that a simulated world can be told to have: `simulated.run(4, train, faults=[Dead(rank=2, at="bucket 1")])`.

A fault strikes one rank, once, when it is about to start a collective. A fault that finds no such collective is an
error of `run`, which lists what the rank has started: so no test can pass because nothing happened.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...core.data.loader import at_most
from ...core.dtypes import FLOATING
from .schedule import Killed, Rank

__all__ = ["Corrupts", "Dead", "Fault", "Late", "Raises", "Short", "scripted", "strike"]


@dataclass(frozen=True)
class Fault:
    """What all faults have."""

    rank: int
    """The rank that is struck."""
    at: int | str
    """Before which collective: a part of its name, or its index among all that the rank starts, from 0."""
    skip: int = field(default=0, kw_only=True)
    """How many collectives of that name to let pass."""

    def meets(self, rank: Rank, name: str) -> bool:
        """Whether the collective that the rank is about to start is the one."""
        if isinstance(self.at, int):
            return self.at == len(rank.names)
        return self.at in name and sum(self.at in earlier for earlier in rank.names) == self.skip

    def strike(self, rank: Rank, name: str) -> None:
        """Called as the rank is about to start the collective."""


@dataclass(frozen=True)
class Late(Fault):
    """The rank comes so many virtual seconds late."""

    seconds: float

    def strike(self, rank: Rank, name: str) -> None:
        rank.sleep(self.seconds, f"is late for {name}: sleeps")


@dataclass(frozen=True)
class Dead(Fault):
    """The rank ends without a word, as after `kill -9`, when all is done that it had started. Its result is None."""

    def strike(self, rank: Rank, name: str) -> None:
        rank.finish(f"dies before {name}")
        rank.died = name
        raise Killed


@dataclass(frozen=True)
class Raises(Fault):
    """The rank raises the error."""

    error: BaseException

    def strike(self, rank: Rank, name: str) -> None:
        raise self.error


@dataclass(frozen=True)
class Corrupts(Fault):
    """A bit of what the rank receives is flipped, so its replica differs from the others' from then on.

    element: counted through the array; None for the one of the largest absolute value. bit: from the lowest; None for
    one that changes a floating-point number by a quarter to a half, and an integer by one.
    """

    element: int | None = None
    bit: int | None = None

    def spoil(self, array: np.ndarray) -> None:
        """Called with what the rank has received."""
        if not array.size:
            raise ValueError(f"{self}: expected a collective that moves numbers, found an empty array")
        wide = array.astype(np.float64 if array.dtype.kind in FLOATING else np.int64)
        element = int(np.abs(wide).argmax()) if self.element is None else self.element
        place = np.unravel_index(element, array.shape)
        one = array[place].reshape(1)
        bits = one.view(f"u{one.itemsize}")
        bit = _highest_of_mantissa(one.dtype) if self.bit is None else self.bit
        bits ^= bits.dtype.type(1 << bit)
        array[place] = one[0]


def _highest_of_mantissa(dtype: np.dtype) -> int:
    return {"float64": 51, "float32": 22, "float16": 9, "bfloat16": 6}.get(dtype.name, 0)


@dataclass(frozen=True)
class Short:
    """The data of a rank end early: every pass over any of its loaders gives so many batches at most."""

    rank: int
    batches: int


@contextlib.contextmanager
def scripted(rank: Rank, faults: Sequence[Fault | Short]) -> Iterator[None]:
    """Within the block the rank has those of the faults that are its. RuntimeError if one finds nothing to strike."""
    mine = [fault for fault in faults if fault.rank == rank.number]
    rank.faults = [fault for fault in mine if isinstance(fault, Fault)]
    with contextlib.ExitStack() as stack:
        short = [(fault, stack.enter_context(at_most(fault.batches))) for fault in mine if isinstance(fault, Short)]
        yield
    started = ", ".join(f"{index} {name}" for index, name in enumerate(rank.names)) or "none"
    idle = [f"{fault}: found no such collective; rank {rank.number} started: {started}" for fault in rank.faults]
    idle += [f"{fault}: no pass over a DataLoader came so far" for fault, limit in short if not limit.reached]
    if idle:
        raise RuntimeError("\n".join(idle))


def strike(rank: Rank, name: str) -> list[Corrupts]:
    """Let those faults strike that wait for this collective of the rank; returns those that wait for its result."""
    now = [fault for fault in rank.faults if fault.meets(rank, name)]
    rank.names.append(name)
    for fault in now:
        rank.faults.remove(fault)
    for fault in now:
        fault.strike(rank, name)
    return [fault for fault in now if isinstance(fault, Corrupts)]
