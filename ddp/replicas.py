"""Replicas: proof that all ranks hold the same parameters, buffers and optimizer state, to the bit.

Each rank digests its own to 128 bits (XXH3, about as fast as memory can be read), and all compare the digests. Where
these differ, digests of one half of the tensors, of one half of a half, and so on lead to the first tensor that is not
the same everywhere, and then in the same way to its first element.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from ..core.autograd import RemovableHandle
from ..core.backend import Array, to_host
from ..core.nn.module import Module
from ..core.optim.optimizer import Optimizer, register_optimizer_step_post_hook
from ..core.tensor import Tensor
from .agreement import by_rank, compare, gather_digests, name_ranks
from .comm.protocol import Communicator, RanksDiffer
from .digest import digest_arrays
from .process_group import world
from .steps import hear, steps_any_of

__all__ = ["Replicas", "check_replicas"]

NAME = "comparison of the replicas"  # as it is told when a rank does not take part
ODD = "look for code that changes the model there only, or for faulty memory"
APART = "look for code that changes the model on some ranks only"
REMEDY = "start again from the latest checkpoint"


def check_replicas(model: Module, optimizer: Optimizer | None = None) -> None:
    """Raise RanksDiffer on every rank, naming the first difference, unless model and optimizer state are equal on all.

    Compared are all parameters, the optimizer's state for them (not where it is sharded by rank: an optimizer that has
    `state_is_sharded = True`), and buffers; of a DistributedDataParallel not those that some rank has changed since its
    latest reduction, which combines them, and none with broadcast_buffers=False. NaNs are equal whatever their bits.
    Collective, and quick: call it before every checkpoint, so that no broken one is written.
    """
    replicas = getattr(model, "replicas", None)
    if not isinstance(replicas, Replicas):
        replicas = Replicas(model, world(), 0, model.buffers)
    replicas.check(optimizer)


class Replicas:
    """A module that every rank has, compared after every `every`-th step of each of its optimizers (0: when asked).

    The first step is compared as well, and the first one since something was loaded on some rank: `loaded` says so
    here, the next reduction of gradients tells it to the others, and they call `hear_of_loads`. in_step: the buffers
    that are equal on all ranks for all that this rank knows.
    """

    def __init__(
        self, module: Module, communicator: Communicator, every: int, in_step: Callable[[], Iterable[Tensor]]
    ) -> None:
        self.module, self.communicator, self.every, self.in_step = module, communicator, every, in_step
        self.loaded = False
        self._parameters = frozenset(module.parameters())
        self._counts: WeakKeyDictionary[Optimizer, _Count] = WeakKeyDictionary()
        self._handles: list[RemovableHandle] = []
        if every and communicator.size > 1:
            self._handles.append(hear(register_optimizer_step_post_hook, self._after_step))
            for part in module.modules():
                self._handles.append(hear(part.register_load_state_dict_post_hook, self._has_loaded))

    def stop(self) -> None:
        """Compare no longer after steps."""
        for handle in self._handles:
            handle.remove()

    def hear_of_loads(self, ranks: float) -> None:
        """So many ranks have loaded something."""
        self.loaded = False
        if ranks:
            for count in self._counts.values():
                count.due = 0

    def _has_loaded(self, _: Module | Optimizer) -> None:
        self.loaded = True

    def _after_step(self, optimizer: Optimizer) -> None:
        if not steps_any_of(optimizer, self._parameters):
            return
        if optimizer not in self._counts:
            self._counts[optimizer] = _Count()
            hear(optimizer.register_load_state_dict_post_hook, self._has_loaded)
        count = self._counts[optimizer]
        count.steps += 1
        if count.steps >= count.due:
            count.due = count.steps + self.every
            self.check(optimizer, f" after step {count.steps} of {type(optimizer).__name__}")

    def check(self, optimizer: Optimizer | None = None, when: str = "") -> None:
        """RanksDiffer unless all ranks hold the same. Collective."""
        comm = self.communicator
        if comm.size == 1:
            return
        held, apart = self._held(optimizer)
        if self._are_equal(held.values()):
            return
        apart = set(itertools.chain(*comm.all_gather_object(apart, NAME)))
        held = {name: _with_one_nan(array) for name, array in held.items() if name not in apart}
        kinds = {name: f"{array.dtype} {list(array.shape)}" for name, array in held.items()}
        compare(comm, kinds, f"the ranks' replicas differ{when}: expected the same tensors on every rank", REMEDY)
        if not self._are_equal(held.values()):
            self._tell_difference(held, when)

    def _held(self, optimizer: Optimizer | None) -> tuple[dict[str, Array], set[str]]:
        """What is to be equal, by name and in the same order on all ranks; and the names of buffers that may not be."""
        parameters = dict(self.module.named_parameters())
        held = {f"parameter {name}": parameter.array for name, parameter in parameters.items()}
        in_step, apart = frozenset(self.in_step()), set()
        for name, buffer in self.module.named_buffers():
            if buffer in in_step:
                held[f"buffer {name}"] = buffer.array
            else:
                apart.add(f"buffer {name}")
        if optimizer is not None and not getattr(optimizer, "state_is_sharded", False):
            states = {name: optimizer.state[p] for name, p in parameters.items() if p in optimizer.state}
            for key in sorted({key for state in states.values() for key in state}):
                for name, state in states.items():  # one kind after the other: so they lie in flat memory
                    for place, array in _arrays(state.get(key)):
                        held[f"{key}{place} of {name} in {type(optimizer).__name__}"] = array
        return held, apart

    def _are_equal(self, arrays: Iterable[Array]) -> bool:
        return len(set(gather_digests(self.communicator, digest_arrays(arrays), NAME))) == 1

    def _tell_difference(self, held: dict[str, Array], when: str) -> None:
        names, arrays = list(held), list(held.values())
        place = self._first_different(len(arrays), lambda start, stop: arrays[start:stop])
        flat = arrays[place].reshape(-1)
        element = self._first_different(flat.size, lambda start, stop: [flat[start:stop]])
        index = ", ".join(str(int(i)) for i in np.unravel_index(element, arrays[place].shape))
        bits = flat[element : element + 1].view(np.uint8)[::-1].tobytes().hex()
        values = self.communicator.all_gather_object(f"{flat[element]} (bits {bits})", NAME)
        digests = gather_digests(self.communicator, digest_arrays([flat]), NAME)
        usual, count = Counter(digests).most_common(1)[0]
        reason = APART
        if 2 * count > len(digests):
            odd = [rank for rank, found in enumerate(digests) if found != usual]
            reason = f"the odd one{'s' * (len(odd) > 1)}: {name_ranks(odd)}; {ODD}"
        where = f"first in {names[place]}, element [{index}]:\n  {by_rank(values)}"
        raise RanksDiffer(f"the ranks' replicas differ{when}, {where}\n{reason}\n{REMEDY}")

    def _first_different(self, count: int, part: Callable[[int, int], Collection[Array]]) -> int:
        """The first of so many things in which the ranks differ, by halving; part: those from start to stop."""
        start, stop = 0, count
        while stop - start > 1:
            middle = (start + stop) // 2
            if self._are_equal(part(start, middle)):
                start = middle
            else:
                stop = middle
        return start


@dataclass
class _Count:
    """An optimizer's steps so far, and after which the replicas are compared next."""

    steps: int = 0
    due: int = 0


def _arrays(value: Any, place: str = "") -> Iterator[tuple[str, Array]]:
    """The tensors in a value, by place; numbers in an optimizer's state may be a rank's own, as its loss is."""
    if isinstance(value, Tensor):
        yield place, value.array
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _arrays(item, f"{place}[{index}]")


def _with_one_nan(array: Array) -> np.ndarray:
    """On the host, and with the same bits for every NaN: which of two a sum keeps depends on the order of its terms."""
    found = np.asarray(to_host(array), order="C")
    nans = found != found
    return np.where(nans, found.dtype.type(np.nan), found) if nans.any() else found
