"""What the ranks of a simulated communicator share: collectives under way, exchanges, and letters."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...core.backend import Array
from .protocol import Work
from .schedule import Rank


@dataclass(eq=False)  # two that say the same are two
class Letter:
    """A message that was sent."""

    source: int
    to: int
    tag: int
    array: Array


@dataclass(eq=False)
class Wish:
    """A receive that was started. source: None for any."""

    source: int | None
    to: int
    tag: int
    letter: Letter | None = None

    def fits(self, letter: Letter) -> bool:
        """Whether the letter is one for this wish."""
        return (self.to, self.tag) == (letter.to, letter.tag) and self.source in (None, letter.source)


class Meeting:
    """What the ranks bring to one exchange, and what is made of it."""

    def __init__(self, size: int) -> None:
        self.brought: list[tuple[str, str, Any] | None] = [None] * size  # kind and name of the collective, and a value
        self.over = False
        self.result: Any = None
        self.error: Exception | None = None

    def missing(self) -> list[int]:
        """The ranks that have not come yet."""
        return [rank for rank, brought in enumerate(self.brought) if brought is None]

    def conclude(self, combine: Callable[[list[Any]], Any]) -> None:
        """All have come."""
        kinds, names, values = zip(*(brought for brought in self.brought if brought is not None), strict=True)
        try:
            if len(set(kinds)) > 1:
                found = ", ".join(f"{k} ({n}) on rank {r}" for r, (k, n) in enumerate(zip(kinds, names, strict=True)))
                raise RuntimeError(f"expected all ranks to be in the same collective, found {found}")
            self.result = combine(list(values))
        except Exception as error:  # noqa: BLE001  (raised on every rank)
            self.error = error
        self.over = True


class Shared:
    """What the ranks of one communicator have in common."""

    def __init__(self, members: list[Rank]) -> None:
        self.members = members
        self.started: list[deque[Work]] = [deque() for _ in members]  # collectives that some rank has not started yet
        self.counts = [0] * len(members)  # how many each rank has started
        self.meeting = Meeting(len(members))
        self.letters: list[Letter] = []  # sent, and not yet wanted by anybody
        self.wishes: list[Wish] = []  # receives for which nothing was sent yet

    def start(self, rank: int, work: Work) -> None:
        """A rank has started its next collective. It is due for all when the last rank has."""
        self.started[rank].append(work)
        self.counts[rank] += 1
        self.members[rank].unfinished += 1
        if all(self.started):
            for member, works in zip(self.members, self.started, strict=True):
                member.due.append(works.popleft())

    def meet(self, rank: int, brought: tuple[str, str, Any], combine: Callable[[list[Any]], Any]) -> Meeting:
        """A rank comes to the next exchange; the last to come combines what all have brought."""
        meeting = self.meeting
        meeting.brought[rank] = brought
        if not meeting.missing():
            self.meeting = Meeting(len(self.members))
            meeting.conclude(combine)
        return meeting

    def send(self, letter: Letter) -> None:
        """Give the letter to the first receive that fits, also of those to come."""
        wish = next((w for w in self.wishes if w.fits(letter)), None)
        if wish is None:
            self.letters.append(letter)
        else:
            self.wishes.remove(wish)
            wish.letter = letter

    def want(self, wish: Wish) -> None:
        """Fulfil the wish with the first letter that fits, also of those to come."""
        wish.letter = next((letter for letter in self.letters if wish.fits(letter)), None)
        if wish.letter is None:
            self.wishes.append(wish)
        else:
            self.letters.remove(wish.letter)
