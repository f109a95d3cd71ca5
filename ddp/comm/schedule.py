"""Turns and time of a simulated world: its ranks are threads, of which one runs at a time.

A rank keeps its turn until it waits for others. Who comes next is the schedule's choice and nothing else's, so a run
can be repeated exactly. Time is virtual: it stands still while ranks compute. When all of them wait and none can go on
it jumps to the first moment at which one can, because it wakes up or because its deadline has passed. So a standstill
is found at once, however long the deadline is.
"""

from __future__ import annotations

import random
import sys
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from .protocol import Work

NOT_THE_PROGRAM = (str(Path(__file__).parents[2]), str(Path(threading.__file__).parent))  # this package, and Python
PATIENCE = 30.0  # real seconds that a rank may keep its turn at least, whatever the deadline


class RankFailed(RuntimeError):
    """Another rank of the simulated world raised; this one stopped waiting."""


class Killed(BaseException):
    """Ends a rank that is to be dead. No Exception: nobody handles it."""


class Rank:
    """One rank as the schedule sees it: whether it has its turn, and if not, for what it waits."""

    def __init__(self, schedule: Schedule, number: int) -> None:
        self.schedule, self.number = schedule, number
        self.due: deque[Work] = deque()
        """Collectives that all their ranks have started; this rank does its part in them when it waits next."""
        self.unfinished = 0  # collectives that it has started
        self.names: list[str] = []  # of all of these
        self.faults: list[Any] = []  # which have not struck yet, see faults.py
        self.died = ""  # before which collective
        self.ended = ""  # how
        self.thread = 0
        self._turn = threading.Lock()
        self._turn.acquire()
        self.waiting = True  # for its turn, which it does not get unless:
        self.ready: Callable[[], bool] = lambda: True
        self.what: Callable[[], str] = lambda: "begins"
        self.deadline, self.inside = 0.0, False

    def wait(self, seconds: float, ready: Callable[[], bool], what: Callable[[], str], inside: bool = False) -> bool:
        """Give up the turn until ready(), or for so many virtual seconds; whether it is ready.

        inside: within a collective, which has to be finished before this rank does its part in the next one. RankFailed
        as soon as a rank of the world has failed.
        """
        self.check()
        schedule = self.schedule
        deadline = schedule.now + seconds
        while True:
            while self.due and not inside:
                self.due.popleft().run()
            if ready():
                return True
            if schedule.now >= deadline:
                if seconds <= 0:
                    schedule.standstill = schedule.whereabouts()
                return False
            if schedule.failure:
                raise RankFailed(f"rank {self.number} stopped: it {what()}, but {schedule.failure}")
            self.waiting, self.ready, self.what, self.deadline, self.inside = True, ready, what, deadline, inside
            schedule.hand_on(self)

    def sleep(self, seconds: float, what: str = "sleeps") -> None:
        """Let so many virtual seconds pass."""
        until = self.schedule.now + seconds
        self.wait(seconds, lambda: False, lambda: f"{what} until {until:g} s")

    def able(self) -> bool:
        """Whether this rank, which waits, would go on if it had its turn."""
        schedule = self.schedule
        return (
            (bool(self.due) and not self.inside)
            or self.ready()
            or schedule.now >= self.deadline
            or bool(schedule.failure)
        )

    def begin(self) -> None:
        """The first act of the rank's thread."""
        self.thread = threading.get_ident()
        self.take_turn()

    def take_turn(self) -> None:
        """Return when it is this rank's turn."""
        self._turn.acquire()

    def give_turn(self) -> None:
        """Let this rank go on. It no longer waits from here on."""
        self.waiting = False
        self._turn.release()

    def finish(self, what: str = "has returned") -> None:
        """Do this rank's part in what it has started, as far as the others ever come, before its program ends."""
        self.wait(float("inf"), lambda: not self.unfinished or bool(self.schedule.failure), lambda: what)

    def leave(self, how: str) -> None:
        """The last act of the rank's thread."""
        self.ended = how
        self.schedule.hand_on(None)

    def check(self) -> None:
        """RuntimeError on a thread that is not the rank's own: the schedule knows nothing of it. The dead stop here."""
        if threading.get_ident() != self.thread:
            raise RuntimeError(
                f"expected the thread of simulated rank {self.number}, found '{threading.current_thread().name}': a "
                "simulated rank communicates on its own thread only"
            )
        if self.died:
            raise Killed

    def whereabouts(self) -> str:
        """What this rank does, in words, and at which line of the program."""
        if self.ended:
            return f"rank {self.number} {self.ended}"
        what = self.what() if self.waiting else "runs"
        return f"rank {self.number} {what}{_line(sys._current_frames().get(self.thread))}"


class Schedule:
    """Who has the turn, and what time it is. seed: None for turns round the ranks, or a number for a mixed order."""

    def __init__(self, size: int, seed: int | None) -> None:
        self.now = 0.0
        """Virtual seconds since the beginning."""
        self.failure = ""
        """Which rank failed, and how: all others stop."""
        self.standstill = ""
        """Where all ranks were when a deadline passed the last time."""
        self.turns = 0
        self.over = threading.Event()
        self.ranks = [Rank(self, number) for number in range(size)]
        self._latest = size - 1  # the rank that had the turn last
        self._random = None if seed is None else random.Random(seed)

    def hand_on(self, rank: Rank | None) -> None:
        """Give the turn to whoever is next; return when it is this rank's turn again (None: at once)."""
        chosen = self._next()
        if chosen is None:
            self.over.set()
            return
        if chosen is rank:
            rank.waiting = False
            return
        self.turns += 1
        chosen.give_turn()
        if rank is not None:
            rank.take_turn()

    def _next(self) -> Rank | None:
        """The rank whose turn it is; None when none is left."""
        after = self._latest + 1
        waiting = [rank for rank in self.ranks[after:] + self.ranks[:after] if rank.waiting]
        if not waiting:
            return None
        while not (able := [rank for rank in waiting if rank.able()]):
            self.now = min(rank.deadline for rank in waiting)
            self.standstill = self.whereabouts()
        chosen = self._random.choice(able) if self._random else able[0]
        self._latest = chosen.number
        return chosen

    def whereabouts(self) -> str:
        """What every rank does, a line for each."""
        return "".join(f"\n  {rank.whereabouts()}" for rank in self.ranks)

    def fail(self, failure: str) -> None:
        """Let all ranks stop where they wait, now or later."""
        self.failure = self.failure or failure

    def wait_for_all(self, patience: float) -> None:
        """Return when all ranks have ended. RuntimeError when one lets others wait for so many real seconds."""
        turns, limit = -1, max(patience, PATIENCE)
        try:
            while not self.over.wait(limit):
                if turns == self.turns and any(rank.waiting for rank in self.ranks):
                    raise RuntimeError(
                        f"a simulated rank has kept its turn for more than {limit:g} s: expected it to wait for other "
                        "ranks by collectives, messages or simulated.sleep only, as one rank runs at a time, or to "
                        f"compute for a shorter time (raise timeout). Where the ranks are:{self.whereabouts()}"
                    )
                turns = self.turns
        except BaseException as error:
            self.fail("the world was given up")
            if isinstance(error, RuntimeError):
                self.hand_on(None)  # lets all others end
            raise


def _line(frame: FrameType | None) -> str:
    """The innermost line of the program."""
    while frame is not None and frame.f_code.co_filename.startswith(NOT_THE_PROGRAM):
        frame = frame.f_back
    if frame is None:
        return ""
    return f", at {Path(frame.f_code.co_filename).name}:{frame.f_lineno} in {frame.f_code.co_name}"
