"""Say how a job ended: what its user reads last, and the exit code."""

import re
import signal
from collections.abc import Collection, Sequence
from pathlib import Path

from .rank import HIDDEN
from .report import Report, read
from .supervise import End

# What launchers say of a rank that ended without a report. Open MPI names the rank, Intel MPI both, MPICH the process.
_DEATHS = (
    r"process rank (?P<rank>\d+) with PID (?P<pid>\d+) on node \S+ exited on signal (?P<signal>\d+)",
    r"process rank (?P<rank>\d+) with PID (?P<pid>\d+) on node \S+ exiting improperly",
    r"Process name: \[.*?,(?P<rank>\d+)\] Exit code: (?P<code>\d+)",
    r"RANK (?P<rank>\d+) PID (?P<pid>\d+) RUNNING AT \S+ = KILLED BY SIGNAL: (?P<signal>\d+)",
    r"= PID (?P<pid>\d+) RUNNING AT \S+ = EXIT CODE: \d+ .*\(signal (?P<signal>\d+)\)",
    r"= PID (?P<pid>\d+) RUNNING AT \S+ = EXIT CODE: (?P<code>\d+)",
)


def verdict(end: End, folder: Path, ranks: int, timeout: float | None = None) -> tuple[int, str]:
    """The exit code of a job and what to say about it: nothing where all ranks ran to their end.

    `folder` is the one in which the ranks left their reports, or at least their names.
    """
    all_stopped = "; all ranks were stopped" * (ranks > 1)
    if end.stopped_by:
        return 128 + end.stopped_by, f"stopped by {end.stopped_by.name}{all_stopped}."
    if end.timed_out:
        return 124, f"not done after {timeout:g} s, the --timeout{all_stopped}."
    if failures := read(folder):
        return failures[0].code, _told(failures)

    running = {path: path.stem.split("-") for path in folder.glob("*.running")}  # of ranks that did not leave in order
    unfinished = sorted(int(rank) for rank, _ in running.values())
    stacks = "".join(
        f"\nIn rank {rank}:\n{stack}" for path, (rank, _) in sorted(running.items()) if (stack := _crash(path))
    )
    notices = " ".join(" ".join(end.notices).split())
    for death in _DEATHS:
        if found := list(re.finditer(death, notices)):
            facts = [match.groupdict() for match in found]
            rank_of = {pid: rank for rank, pid in running.values()}
            dead = {int(rank) for fact in facts if (rank := fact.get("rank") or rank_of.get(fact.get("pid") or ""))}
            who = f"{_named(dead)} of {ranks}" if dead else "a rank"
            if number := facts[0].get("signal"):
                return 128 + int(number), f"{who} {_killed_by(int(number), len(dead))}{all_stopped}.{stacks}"
            code = facts[0].get("code")
            how = f"with exit code {code}, without a Python error" if code else "before the script did"
            return int(code or 1), f"{who} ended {how}{all_stopped}.{stacks}"
    if end.status < 0:
        return 128 - end.status, f"{end.program} {_killed_by(-end.status)}{all_stopped}.{stacks}"
    if unfinished:
        return end.status or 1, f"{_named(unfinished)} of {ranks} ended before the script did{all_stopped}.{stacks}"
    if end.status:
        return end.status, "".join(["the job failed, but no rank said why.\n", *end.notices]).rstrip()
    return 0, ""


def _told(reports: Sequence[Report]) -> str:
    """The failures in words: who failed first, what became of the others, then the first one's report."""
    first, *others = reports
    if first.size == 1:
        return f"the script failed.\n{first.text}"
    followers: dict[str, set[int]] = {}
    for other in others:
        followers.setdefault(other.error, set()).add(other.rank)
    remarks = [
        f"{_named(ranks)} failed " + ("with the same error" if error == first.error else f"after it: {error}")
        for error, ranks in followers.items()
    ]
    remark = f" ({'; '.join(remarks[:3])}{'; ...' * (len(remarks) > 3)})" if remarks else ""
    return f"rank {first.rank} of {first.size} failed first; all ranks were stopped{remark}.\n{first.text}"


def _crash(running: Path) -> str:
    """The Python stack that a crashing interpreter wrote, without this package's frames and the list of extensions."""
    lines = running.read_text(errors="replace").splitlines()
    hidden = ("Extension modules:", *(f'  File "{file}"' for file in HIDDEN))
    return "\n".join(line for line in lines if not line.startswith(hidden)).strip()


def _named(ranks: Collection[int]) -> str:
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, sorted(ranks)))}"


def _killed_by(number: int, several: int = 1) -> str:
    hint = ", as the kernel does when memory runs out" if number == signal.SIGKILL and several == 1 else ""
    return f"{'were' if several > 1 else 'was'} killed by {signal.Signals(number).name}{hint}"
