"""Anomaly mode: an error or a NaN in a backward pass names the line of the forward pass that it comes from."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import numpy as np

from .tape import Node, Variable, thread, watching

__all__ = ["detect_anomaly", "is_anomaly_check_nan_enabled", "is_anomaly_enabled", "set_detect_anomaly"]

OURS = str(Path(__file__).parents[1])


class set_detect_anomaly:
    """Switch anomaly mode on or off: at once, and until the end of the block when used as a context manager.

    check_nan: whether a NaN in a gradient is an error. Every op then notes the line that called it, which takes time.
    """

    def __init__(self, mode: bool, check_nan: bool = True) -> None:
        self.before = (thread.check is not None, getattr(thread.check, "check_nan", True))
        _switch(mode, check_nan)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        _switch(*self.before)


class detect_anomaly(set_detect_anomaly):
    """Anomaly mode within the block."""

    def __init__(self, check_nan: bool = True) -> None:
        self.check_nan = check_nan

    def __enter__(self) -> None:
        super().__init__(True, self.check_nan)


def is_anomaly_enabled() -> bool:
    """Whether anomaly mode is on in this thread."""
    return thread.check is not None


def is_anomaly_check_nan_enabled() -> bool:
    """Whether anomaly mode also takes a NaN for an error."""
    return getattr(thread.check, "check_nan", True)


def _switch(mode: bool, check_nan: bool) -> None:
    if isinstance(thread.check, _Checker):
        thread.check.notes.__exit__()
        thread.check = None
    if mode:
        thread.check = _Checker(check_nan)
        thread.check.notes.__enter__()


class _Checker:
    def __init__(self, check_nan: bool) -> None:
        self.check_nan = check_nan
        self.notes = watching(_note_line)

    def __call__(self, node: Node, place: int, value: Any) -> None:
        array = value.array if isinstance(value, Variable) else value
        if self.check_nan and getattr(array, "dtype", None) is not None and np.isnan(array).any():
            raise RuntimeError(f"Function '{node.name()}' returned nan values in its {place}th output.")


def _note_line(node: Node) -> None:
    """Remember the user's line that recorded this node: the innermost one outside this package."""
    frames = [frame for frame in traceback.extract_stack() if not frame.filename.startswith(OURS)]
    node.maker = frames[-1] if frames else None


def explain(error: BaseException, node: Any) -> None:
    """Add to an error in a node's backward the line that recorded the node."""
    frame = getattr(node, "maker", None)
    if frame is not None:
        where = f'File "{frame.filename}", line {frame.lineno}, in {frame.name}'
        error.add_note(f"{node.name()} was recorded here in the forward pass:\n  {where}\n    {frame.line}")
