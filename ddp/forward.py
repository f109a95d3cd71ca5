"""Forward passes, and what each weighs in the mean over all ranks."""

import threading


class Forward:
    """One forward pass, and the samples of its batch, or what the user says that it weighs."""

    __slots__ = ("samples",)

    def __init__(self, samples: float) -> None:
        self.samples = samples


class _UnderWay(threading.local):
    forward: Forward | None = None


under_way = _UnderWay()
"""The forward pass of a wrapped module that goes on in this thread: what modules inside it weigh is told later."""
