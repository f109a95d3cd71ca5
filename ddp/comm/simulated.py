"""A world of N ranks as threads of one process: for tests, for teaching, and for trying a script without MPI.

    losses = run(4, train)        # train() on 4 ranks; what each returned, in rank order

Inside, `init_process_group()` finds the simulated world. One rank runs at a time, until it waits for others (see
schedule.py), so a run repeats exactly; time is virtual, so nothing really waits. A rank does its part in a collective
when all ranks have started it and it waits itself, for whatever: no other threads are needed. The ranks share all
module-level state of the program, but for the default random generator: each rank draws from a copy of it as it was in
the beginning.
"""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...core.backend import Array, quiet_floating_point
from ...core.generator import default_generator, drawing_from
from .faults import Corrupts, Fault, Short, scripted, strike
from .meeting import Letter, Shared, Wish
from .protocol import DEFAULT_TIMEOUT, OPS, CollectiveTimeout, Communicator, Message, Work
from .schedule import Killed, Rank, RankFailed, Schedule

__all__ = ["RankFailed", "SimulatedCommunicator", "current", "run", "sleep"]

POLL = 1e-4  # virtual seconds that a look at an unfinished work takes


class SimulatedWork(Work):
    """A collective that was started in a simulated world."""

    __slots__ = ()
    communicator: SimulatedCommunicator

    def run(self) -> None:
        self.communicator.running = self
        super().run()
        self.communicator.member.unfinished -= 1

    def done(self) -> bool:
        """Whether it is; the other ranks do not come any further by asking."""
        return self.task is None

    def is_completed(self) -> bool:
        """Whether `wait` would return at once. If not, the other ranks go on first."""
        if not self.done():
            self.communicator.member.sleep(POLL)
        return self.done()

    def wait(self, timeout: float | None = None) -> None:
        """As Work.wait, in virtual time."""
        comm = self.communicator
        limit = comm.timeout if timeout is None else timeout
        if not comm.member.wait(limit, self.done, self.waits):
            raise CollectiveTimeout(self.lateness(comm.missing(self.number)))
        if self.error is not None:
            raise self.error

    def waits(self) -> str:
        """What a rank does that waits for this."""
        return f"waits for {self.name} (number {self.number} on communicator '{self.communicator.name}')"

    def lateness(self, missing: Sequence[int] = ()) -> str:
        schedule = self.communicator.member.schedule
        return f"{super().lateness(missing)} Where the ranks of the world were:{schedule.standstill}"


class SimulatedMessage(SimulatedWork, Message):
    """A send or a receive that was started in a simulated world."""

    __slots__ = ()

    def done(self) -> bool:
        return Message.is_completed(self)

    def waits(self) -> str:
        return f"waits for {self.name} on communicator '{self.communicator.name}'"


class SimulatedCommunicator(Communicator):
    """One rank of a simulated world. Sums run in rank order, so results are the same in every run."""

    kind_of_work = SimulatedWork

    def __init__(self, shared: Shared, rank: int, *, name: str = "world", timeout: float = DEFAULT_TIMEOUT) -> None:
        super().__init__(rank, len(shared.members), rank, name=name, timeout=timeout)
        self._shared, self.member = shared, shared.members[rank]
        self.running: Work | None = None
        self._spoilers: list[Corrupts] = []  # of the collective that runs

    def clock(self) -> float:
        return self.member.schedule.now

    def missing(self, number: int) -> list[int]:
        """The ranks that have not started this collective."""
        return [rank for rank, count in enumerate(self._shared.counts) if count < number]

    def start(self, task: Callable[[], Any], name: str) -> Work:
        self.member.check()
        spoilers = strike(self.member, name)
        work = self._number(self._spoiled(task, spoilers) if spoilers else task, name)
        self._shared.start(self.rank, work)
        return work

    def _spoiled(self, task: Callable[[], Any], spoilers: list[Corrupts]) -> Callable[[], Any]:
        def spoiled() -> None:
            self._spoilers = spoilers
            task()
            if self._spoilers:
                raise ValueError(f"{self._spoilers[0]}: expected a collective that moves numbers, found {self._name()}")

        return spoiled

    def _spoil(self, array: Array) -> None:
        while self._spoilers:
            self._spoilers.pop().spoil(array)

    def _name(self) -> str:
        return self.running.name if self.running else ""

    def _exchange(self, kind: str, value: Any, combine: Callable[[list[Any]], Any]) -> Any:
        """Each rank brings a value, and takes what is made of all ranks' values."""
        meeting = self._shared.meet(self.rank, (kind, self._name(), value), combine)
        what = lambda: f"is in {self._name()} on communicator '{self.name}'"
        if not self.member.wait(self.timeout, lambda: meeting.over, what, inside=True):
            assert self.running is not None
            raise CollectiveTimeout(self.running.lateness(meeting.missing()))
        if meeting.error is not None:
            raise meeting.error
        return meeting.result

    def _all_reduce_any(self, array: Array, op: str, factor: float = 1) -> None:
        super()._all_reduce_any(array, op, factor)
        self._spoil(array)

    def _all_reduce(self, array: Array, op: str) -> None:
        def combine(arrays: list[Any]) -> Any:
            total = self._alike(arrays)[0].copy()
            for other in arrays[1:]:
                OPS[op](total, other, out=total)
            return total

        array[...] = self._exchange(f"all_reduce {op}", array, combine)

    def _broadcast(self, array: Array, root: int) -> None:
        array[...] = self._exchange(f"broadcast from {root}", array, lambda arrays: self._alike(arrays)[root].copy())
        self._spoil(array)

    def _all_gather(self, array: Array, out: Array) -> None:
        out[...] = self._exchange("all_gather", array, lambda arrays: np.stack(self._alike(arrays)))
        self._spoil(out)

    def _all_to_all(self, array: Array, out: Array) -> None:
        everything = self._exchange("all_to_all", array, lambda arrays: np.stack(self._alike(arrays)))
        out[...] = everything[:, self.rank]
        self._spoil(out)

    def _alike(self, arrays: list[Any]) -> list[Any]:
        """The ranks' arrays; ValueError unless they are of one dtype and shape."""
        kinds = [f"{a.dtype} {list(a.shape)}" for a in arrays]
        if len(set(kinds)) > 1:
            raise ValueError(
                f"{self._name()}: expected arrays of one dtype and shape, found {', '.join(kinds)} on the ranks"
            )
        return arrays

    def _all_gather_object(self, value: Any) -> list[Any]:
        everyones = self._exchange("all_gather_object", pickle.dumps(value), list)  # as MPI sends it
        return [pickle.loads(theirs) for theirs in everyones]

    def _barrier(self) -> None:
        self._exchange("barrier", None, list)

    def _send(self, array: Array, to: int, tag: int) -> Callable[[], int | None]:
        self.member.check()
        self._shared.send(Letter(self.rank, to, tag, array.copy()))
        return lambda: to

    def _receive(self, array: Array, source: int | None, tag: int) -> Callable[[], int | None]:
        self.member.check()
        self._shared.want(wish := Wish(source, self.rank, tag))

        def look() -> int | None:
            letter = wish.letter
            if letter is None:
                return None
            if (letter.array.dtype, letter.array.size) != (array.dtype, array.size):
                raise ValueError(
                    f"receive: expected {array.size} of {array.dtype}, found {letter.array.size} of "
                    f"{letter.array.dtype} from rank {letter.source}"
                )
            array[...] = letter.array.reshape(array.shape)
            return letter.source

        return look

    def _message(self, look: Callable[[], int | None], name: str) -> SimulatedMessage:
        return SimulatedMessage(self, name, look)

    def duplicate(self, name: str) -> SimulatedCommunicator:
        made = self._split(list(range(self.size)), name)
        assert made is not None
        return made

    def _split(self, ranks: list[int], name: str) -> SimulatedCommunicator | None:
        make = lambda _: Shared([self._shared.members[rank] for rank in ranks])
        made: list[Shared] = []
        self.start(lambda: made.append(self._exchange(f"split {ranks}", None, make)), f"split '{name}'").wait()
        if self.rank not in ranks:
            return None
        return SimulatedCommunicator(made[0], ranks.index(self.rank), name=name, timeout=self.timeout)

    def abort(self, code: int) -> None:
        self.member.schedule.fail(f"rank {self.member.number} ended the job with exit status {code}")
        raise RankFailed(self.member.schedule.failure)


class _Thread(threading.local):
    communicator: SimulatedCommunicator | None = None


current = _Thread()


def sleep(seconds: float) -> None:
    """Do nothing for so long: in a simulated world, virtual seconds in which the other ranks go on."""
    if current.communicator is None:
        time.sleep(seconds)
    else:
        current.communicator.member.sleep(seconds)


def run(
    size: int,
    function: Callable[..., Any],
    *args: Any,
    timeout: float = DEFAULT_TIMEOUT,
    schedule: int | None = None,
    faults: Sequence[Fault | Short] = (),
) -> list[Any]:
    """Call function(*args) on `size` ranks; what each returned, in rank order.

    When a rank raises, the others stop where they wait, and the first exception is raised here, with a note that says
    on which rank. When no rank can go on any more, each waiting one gets a CollectiveTimeout that says where all are.
    timeout: virtual seconds that a collective may take. schedule: which rank goes on when several can: None for turns,
    or a number for a mixed order that is the same for the same number. faults: what is to go wrong, see faults.py.
    RuntimeError when a fault finds nothing to strike.
    """
    turns = Schedule(size, schedule)
    for fault in faults:
        if not 0 <= fault.rank < size:
            raise ValueError(f"{fault}: expected a rank from 0 to {size - 1}")
    shared = Shared(turns.ranks)
    generators = [default_generator.clone_state() for _ in range(size)]
    results: list[Any] = [None] * size
    errors: list[tuple[int, BaseException]] = []

    def rank_main(rank: Rank) -> None:
        quiet_floating_point()
        rank.begin()
        number, how = rank.number, "has returned"
        communicator = current.communicator = SimulatedCommunicator(shared, number, timeout=timeout)
        try:
            with drawing_from(generators[number]), scripted(rank, faults):
                results[number] = function(*args)
                rank.finish()
        except Killed:
            how = f"died before {rank.died}"
        except BaseException as error:  # noqa: BLE001  (raised again below)
            how = f"failed with {type(error).__name__}: {str(error).partition(chr(10))[0]}"
            errors.append((number, error))
            turns.fail(f"rank {number} {how}")
        finally:
            communicator.close()
            rank.leave(how)

    threads = [threading.Thread(target=rank_main, args=(r,), name=f"rank {r.number}", daemon=True) for r in turns.ranks]
    for thread in threads:
        thread.start()
    turns.hand_on(None)
    turns.wait_for_all(timeout)
    for thread in threads:
        thread.join()
    if errors:
        number, error = next(((n, e) for n, e in errors if not isinstance(e, RankFailed)), errors[0])
        error.add_note(f"(on rank {number} of a simulated world of {size})")
        raise error
    return results
