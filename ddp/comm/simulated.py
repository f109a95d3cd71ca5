"""A world of N ranks as threads of one process: for tests, for teaching, and for trying a script without MPI.

    losses = run(4, train)        # train() on 4 ranks; what each returned, in rank order

Inside, `init_process_group()` finds the simulated world. The threads share all module-level state of the program, but
for the default random generator: each rank draws from a copy of it as it was in the beginning.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core.backend import Array, quiet_floating_point
from ...core.generator import default_generator, drawing_from
from .protocol import DEFAULT_TIMEOUT, OPS, Communicator


class RankFailed(RuntimeError):
    """Another rank of the simulated world raised; this one stopped waiting for it."""


@dataclass(eq=False)  # two that say the same are two
class _Letter:
    source: int
    to: int
    tag: int
    array: Array


@dataclass(eq=False)
class _Wish:
    source: int | None
    to: int
    tag: int
    letter: _Letter | None = None

    def fits(self, letter: _Letter) -> bool:
        return (self.to, self.tag) == (letter.to, letter.tag) and self.source in (None, letter.source)


class _Shared:
    """What the ranks of one communicator have in common: a place for each rank's contribution, and a barrier."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.places: list[Any] = [None] * size
        self.result: Any = None
        self.barrier = threading.Barrier(size)
        self.children: list[_Shared] = []
        self.post = threading.Lock()
        self.letters: list[_Letter] = []  # sent, and not yet wanted by anybody
        self.wishes: list[_Wish] = []  # receives for which nothing was sent yet

    def send(self, letter: _Letter) -> None:
        """Give the letter to the first receive that fits, also of those to come."""
        with self.post:
            wish = next((w for w in self.wishes if w.fits(letter)), None)
            if wish is None:
                self.letters.append(letter)
            else:
                self.wishes.remove(wish)
                wish.letter = letter

    def want(self, wish: _Wish) -> None:
        """Fulfil the wish with the first letter that fits, also of those to come."""
        with self.post:
            wish.letter = next((letter for letter in self.letters if wish.fits(letter)), None)
            if wish.letter is None:
                self.wishes.append(wish)
            else:
                self.letters.remove(wish.letter)

    def break_all(self) -> None:
        """Let every waiting rank go, here and in the duplicates."""
        self.barrier.abort()
        for child in list(self.children):
            child.break_all()


class SimulatedCommunicator(Communicator):
    """One rank of a simulated world. Sums run in rank order, so results are the same in every run."""

    def __init__(self, shared: _Shared, rank: int, *, name: str = "world", timeout: float = DEFAULT_TIMEOUT) -> None:
        super().__init__(rank, shared.size, rank, name=name, timeout=timeout)
        self._shared = shared

    def _meet(self) -> None:
        try:
            self._shared.barrier.wait()
        except threading.BrokenBarrierError:
            raise RankFailed(f"rank {self.rank} stopped: another simulated rank failed") from None

    def _exchange(self, value: Any, combine: Callable[[list[Any]], Any]) -> Any:
        """Each rank puts its value down, rank 0 combines them, all take the result."""
        shared = self._shared
        shared.places[self.rank] = value
        self._meet()
        if self.rank == 0:
            try:
                shared.result = combine(shared.places)
            except BaseException:
                shared.barrier.abort()
                raise
        self._meet()
        result = shared.result
        self._meet()  # nobody puts a new value down before all have read
        shared.places[self.rank] = None
        if self.rank == 0:
            shared.result = None
        return result

    def _all_reduce(self, array: Array, op: str) -> None:
        def combine(places: list[Any]) -> Any:
            total = _alike(places)[0].copy()
            for other in places[1:]:
                OPS[op](total, other, out=total)
            return total

        array[...] = self._exchange(array, combine)

    def _broadcast(self, array: Array, root: int) -> None:
        array[...] = self._exchange(array, lambda places: _alike(places)[root].copy())

    def _all_gather(self, array: Array, out: Array) -> None:
        out[...] = self._exchange(array, lambda places: np.stack(_alike(places)))

    def _all_to_all(self, array: Array, out: Array) -> None:
        out[...] = self._exchange(array, lambda places: np.stack(_alike(places)))[:, self.rank]

    def _send(self, array: Array, to: int, tag: int) -> Callable[[], int | None]:
        self._shared.send(_Letter(self.rank, to, tag, array.copy()))
        return lambda: to

    def _receive(self, array: Array, source: int | None, tag: int) -> Callable[[], int | None]:
        self._shared.want(wish := _Wish(source, self.rank, tag))

        def look() -> int | None:
            letter = wish.letter
            if letter is None:
                if self._shared.barrier.broken:
                    raise RankFailed(f"rank {self.rank} stopped: another simulated rank failed")
                return None
            if (letter.array.dtype, letter.array.size) != (array.dtype, array.size):
                raise ValueError(
                    f"receive: expected {array.size} of {array.dtype}, found {letter.array.size} of "
                    f"{letter.array.dtype} from rank {letter.source}"
                )
            array[...] = letter.array.reshape(array.shape)
            return letter.source

        return look

    def _all_gather_object(self, value: Any) -> list[Any]:
        return copy.deepcopy(self._exchange(copy.deepcopy(value), list))  # a copy of its own for every rank

    def _barrier(self) -> None:
        self._meet()

    def duplicate(self, name: str) -> SimulatedCommunicator:
        made = self._split(list(range(self.size)), name)
        assert made is not None
        return made

    def _split(self, ranks: list[int], name: str) -> SimulatedCommunicator | None:
        def make(_: list[Any]) -> _Shared:
            self._shared.children.append(_Shared(len(ranks)))
            return self._shared.children[-1]

        made: list[_Shared] = []
        self.start(lambda: made.append(self._exchange(None, make)), f"split '{name}'").wait()
        if self.rank not in ranks:
            return None
        return SimulatedCommunicator(made[0], ranks.index(self.rank), name=name, timeout=self.timeout)

    def abort(self, code: int) -> None:
        self._shared.break_all()


def _alike(places: list[Any]) -> list[Any]:
    """The ranks' arrays; ValueError unless they are of one dtype and shape."""
    kinds = [f"{a.dtype} {list(a.shape)}" for a in places]
    if len(set(kinds)) > 1:
        raise ValueError(f"expected arrays of one dtype and shape, found {', '.join(kinds)} on the ranks")
    return places


class _Thread(threading.local):
    communicator: SimulatedCommunicator | None = None


current = _Thread()


def run(size: int, function: Callable[..., Any], *args: Any, timeout: float = DEFAULT_TIMEOUT) -> list[Any]:
    """Call function(*args) on `size` ranks at once; what each returned, in rank order.

    When a rank raises, the others are released, and the first exception is raised here.
    """
    shared = _Shared(size)
    generators = [default_generator.clone_state() for _ in range(size)]
    results: list[Any] = [None] * size
    errors: list[BaseException] = []

    def rank_main(rank: int) -> None:
        quiet_floating_point()
        communicator = current.communicator = SimulatedCommunicator(shared, rank, timeout=timeout)
        try:
            with drawing_from(generators[rank]):
                results[rank] = function(*args)
        except BaseException as error:  # noqa: BLE001  (raised again below)
            errors.append(error)
            shared.break_all()
        finally:
            communicator.close()

    threads = [threading.Thread(target=rank_main, args=(r,), name=f"rank {r}", daemon=True) for r in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise next((e for e in errors if not isinstance(e, RankFailed)), errors[0])
    return results
