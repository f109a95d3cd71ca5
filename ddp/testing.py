"""For tests of data-parallel code: worlds without MPI, faults in them, and errors that several ranks raise.

docs/testing.md shows how they are used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from .comm import simulated
from .comm.faults import Corrupts, Dead, Late, Raises, Short
from .comm.simulated import RankFailed
from .process_group import destroy_process_group, init_process_group, promised_size, world

__all__ = [
    "Caught",
    "Corrupts",
    "Dead",
    "Late",
    "Raises",
    "RankFailed",
    "Short",
    "on_ranks",
    "parallel_raises",
    "simulated",
]


def on_ranks(size: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """Call function(*args) in a process group: of the ranks that mpirun has started, else of `size` simulated ones.

    What each rank has returned, in rank order. Collective under mpirun.
    """
    real = (promised_size() or 1) > 1

    def joined() -> Any:
        init_process_group()
        try:
            result = function(*args)
            return world().all_gather_object(result) if real else result
        finally:
            destroy_process_group()

    results: list[Any] = joined() if real else simulated.run(size, joined)
    return results


class Caught:
    """What a block under `parallel_raises` has raised on this rank: None until its end, and on ranks not named."""

    value: BaseException | None = None


@contextmanager
def parallel_raises(
    error: type[BaseException] | tuple[type[BaseException], ...],
    match: str | None = None,
    ranks: Iterable[int] | None = None,
) -> Iterator[Caught]:
    """Assert that a block raises the error on all ranks, or on the named ones and on no other. Collective.

        with parallel_raises(ValueError, match="found shape"):
            model(x)

    match: a regular expression to be found in the message. AssertionError on every rank, with what each has raised,
    when it is otherwise on any. Works in every world; ranks that wait in the block for one that has raised are waited
    for until their deadline.
    """
    here = world()
    kinds = error if isinstance(error, tuple) else (error,)
    named = sorted(range(here.size) if ranks is None else ranks)
    judge = here.duplicate("parallel_raises")  # the block may leave other communicators out of step
    judge.timeout = 2 * here.timeout
    caught = Caught()
    try:
        yield caught
    except BaseException as raised:
        if not isinstance(raised, (Exception, *kinds)):
            raise
        caught.value = raised
    value = caught.value
    fits = isinstance(value, kinds) and (match is None or re.search(match, str(value)) is not None)
    told = "nothing" if value is None else f"{type(value).__name__}: {value}"
    found = judge.all_gather_object((fits, value is None, told), "comparison of what the ranks raised")
    judge.close()
    if all(fit if rank in named else nothing for rank, (fit, nothing, _) in enumerate(found)):
        return
    wanted = " or ".join(kind.__name__ for kind in kinds) + (f" matching {match!r}" if match is not None else "")
    where = "every rank" if ranks is None else f"rank(s) {', '.join(map(str, named)) or 'none'} only"
    lines = "".join(f"\n  rank {rank}: {told}" for rank, (_, _, told) in enumerate(found))
    raise AssertionError(f"expected {wanted} on {where}, found{lines}") from value
