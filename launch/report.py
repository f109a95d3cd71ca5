"""What a failed rank leaves behind: one small file, written before the job is brought down.

Knows nothing of launchers and of MPI, so whoever catches a rank's exception can use it.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

GRACE = 0.5
"""Seconds between a rank's report and the end of the job: others that fail for the same reason can report too."""


@dataclass(frozen=True)
class Report:
    """How one rank failed."""

    rank: int
    size: int
    time: float
    """Seconds since the epoch."""
    error: str
    """One line: the exception as the last line of a traceback has it."""
    text: str
    """What to show: the traceback, or the message of a SystemExit."""
    code: int
    """The exit code, 1 to 255."""

    @classmethod
    def of(cls, error: BaseException, rank: int, size: int, hide: Collection[str] = ()) -> "Report":
        """The report of an exception; leading traceback frames in the files of `hide` are left out."""
        if isinstance(error, SystemExit):
            code = error.code if isinstance(error.code, int) else 1
            text = f"exit code {code}" if isinstance(error.code, int) else str(error.code)
            return cls(rank, size, time.time(), f"SystemExit: {text}", text, code % 256 or 1)
        lines = traceback.format_exception(type(error), error, _without(error.__traceback__, hide))
        summary = traceback.format_exception_only(error)[-1].strip()
        code = 130 if isinstance(error, KeyboardInterrupt) else 1
        return cls(rank, size, time.time(), summary, "".join(lines).rstrip(), code)

    def write(self, folder: Path) -> None:
        """Write the report as a whole or not at all, under a name of its own: two ranks may both think they are 0."""
        path = folder / f"{self.rank}-{os.getpid()}.report"
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self)))
        os.replace(partial, path)


def read(folder: Path) -> list[Report]:
    """The reports in a folder, the first failure first."""
    reports = [Report(**json.loads(path.read_text())) for path in folder.glob("*.report")]
    return sorted(reports, key=lambda report: (report.time, report.rank))


def bring_down(report: Report, folder: Path | None, abort: Callable[[int], object]) -> None:
    """Leave the report (in `folder`, or on stderr where there is none) and end the job with `abort(code)`."""
    try:
        try:
            if folder is None:
                raise FileNotFoundError
            report.write(folder)
        except OSError:  # no supervisor, or one on another node: it cannot read files from here
            sys.stderr.write(f"rank {report.rank} of {report.size} failed:\n{report.text}\n")
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        if report.size > 1:
            time.sleep(GRACE)
    finally:
        abort(report.code)


def _without(frames: TracebackType | None, hide: Collection[str]) -> TracebackType | None:
    while frames is not None and frames.tb_frame.f_code.co_filename in hide:
        frames = frames.tb_next
    return frames
