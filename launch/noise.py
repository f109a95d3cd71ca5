"""Keep what an MPI says about the end of a job out of its output: the job's own failure is to be read last."""

import re
from typing import BinaryIO

_RULE = re.compile(rb"-{60,}|={60,}")
_BOXED = re.compile(
    rb"MPI_ABORT was invoked on rank|\S+ (has exited due to|noticed that|detected that one or more) process"
    rb"|Primary job +terminated normally, but|=   BAD TERMINATION OF ONE OF YOUR APPLICATION"
)
_ALONE = re.compile(
    rb"Abort\(-?\d+\) on node \d+ \(rank|\[mpiexec@\S+\] (Sending|Press) Ctrl-C|YOUR APPLICATION TERMINATED WITH"
    rb'|\[\S+:\d+\] (\d+ more process\S* \S+ sent help message|Set MCA parameter "orte_base_help_aggregate")'
    rb"|\[warn\] Epoll \S+ on fd \d+ failed"  # Open MPI's event loop, of pipes that are closed already
    rb"|This typically refers to a problem with your application|Please see the FAQ page for debugging suggestions"
)
_LABEL = re.compile(rb"\[[\d,]+\](<\w+>:)? ?")
"""What the launchers put before a line when they are asked for the rank."""
_INVISIBLE = b" \t\r\n\0"  # Open MPI ends its boxes with a NUL


class Sieve:
    """Passes a stream on line by line and keeps the launcher's notices back.

    A notice is a known line, or a box between two rules whose first line is known; blank lines before it go with it.
    Everything else comes out unchanged: at once, or, an unfinished line and a rule on its own, at the next `release`.
    """

    def __init__(self, out: BinaryIO, notices: list[str]) -> None:
        self._out = out
        self._notices = notices
        self._blank = b""  # blank lines, held until it is known what follows
        self._box: list[bytes] = []  # a rule and what follows, while that may be a notice
        self._tail = b""  # an unfinished line
        self._inside_line = False  # the beginning of the line is out already

    def feed(self, data: bytes) -> None:
        """Take in what arrived."""
        *lines, self._tail = (self._tail + data).split(b"\n")
        for line in lines:
            self._take(line + b"\n")
        if len(self._tail) > 4096:
            self.release()
        self._out.flush()

    def release(self) -> None:
        """Let out what could have become a notice and did not go on: a prompt, a progress bar, a user's own rule."""
        if len(self._box) < 2 and (self._box or _text(self._tail)):
            self._inside_line = bool(self._tail)
            self._write(*self._box, self._tail)
            self._box, self._tail = [], b""
            self._out.flush()

    def close(self) -> None:
        """Let out what is left at the end of the stream."""
        if self._box or _text(self._tail) or not self._notices:
            self._write(*self._box, self._tail)
            self._out.flush()

    def _take(self, line: bytes) -> None:
        text = _text(line)
        if self._inside_line:
            self._inside_line = False
            self._write(line)
        elif len(self._box) == 1 and not _BOXED.match(text):
            self._write(self._box.pop())
            self._take(line)
        elif self._box or _RULE.fullmatch(text):
            self._box.append(line)
            if len(self._box) > 1 and _RULE.fullmatch(text):
                self._keep(*self._box)
                self._box = []
        elif not text:
            self._blank += line
        elif _ALONE.match(text):
            self._keep(line)
        else:
            self._write(line)

    def _write(self, *parts: bytes) -> None:
        self._out.write(b"".join([self._blank, *parts]))
        self._blank = b""

    def _keep(self, *parts: bytes) -> None:
        self._notices.append(b"".join(parts).decode(errors="replace"))
        self._blank = b""


def _text(line: bytes) -> bytes:
    return _LABEL.sub(b"", line, count=1).strip(_INVISIBLE)
