"""Switching the recording of gradients on and off."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Generator
from typing import Any, Self, TypeVar, overload

from .tape import thread

__all__ = [
    "enable_grad",
    "inference_mode",
    "is_grad_enabled",
    "is_inference_mode_enabled",
    "no_grad",
    "set_grad_enabled",
]

F = TypeVar("F", bound=Callable[..., Any])


def is_grad_enabled() -> bool:
    """Whether ops record their gradients in this thread (PyTorch: is_grad_enabled)."""
    return thread.recording


class _Recording(contextlib.ContextDecorator):
    """Recording is `mode` within the block or the decorated function."""

    mode: bool

    def __enter__(self) -> None:
        self.before = thread.recording
        thread.recording = self.mode

    def __exit__(self, *_: object) -> None:
        thread.recording = self.before

    def __call__(self, function: F) -> F:
        if inspect.isgeneratorfunction(function):
            return self._around_steps(function)  # type: ignore[return-value]
        return super().__call__(function)

    def _around_steps(self, function: Callable[..., Generator[Any, Any, Any]]) -> Callable[..., Any]:
        """The generator function with the block around each of its steps, not around what happens between them."""

        @functools.wraps(function)
        def steps(*args: Any, **names: Any) -> Generator[Any, Any, Any]:
            steps = function(*args, **names)
            step = functools.partial(next, steps)
            try:
                while True:
                    with self._recreate_cm():
                        value = step()
                    try:
                        step = functools.partial(steps.send, (yield value))
                    except Exception as error:  # noqa: BLE001  (the generator's own to handle)
                        step = functools.partial(steps.throw, error)
            except StopIteration as end:
                return end.value
            finally:
                steps.close()

        return steps


class no_grad(_Recording):
    """Within the block (or the decorated function) nothing is recorded."""

    mode = False

    @overload
    def __new__(cls, function: None = None) -> Self: ...
    @overload
    def __new__(cls, function: F) -> F: ...  # type: ignore[misc]
    def __new__(cls, function: Any = None) -> Any:
        """Also a decorator without parentheses."""
        return super().__new__(cls) if function is None else cls()(function)

    def _recreate_cm(self) -> Self:
        return type(self)()  # a decorated function may recurse: every call remembers its own state


class enable_grad(no_grad):
    """Within the block recording is on, also inside no_grad."""

    mode = True


class inference_mode(_Recording):
    """As no_grad; inference_mode(False) changes nothing."""

    def __new__(cls, mode: Any = True) -> Any:
        """Also a decorator without parentheses."""
        return super().__new__(cls) if isinstance(mode, bool) else cls()(mode)

    def __init__(self, mode: bool = True) -> None:
        self.inference = mode

    def __enter__(self) -> None:
        self.mode = not self.inference and thread.recording
        self.outer, thread.inference = thread.inference, self.inference
        super().__enter__()

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        thread.inference = self.outer

    def _recreate_cm(self) -> Self:
        return type(self)(self.inference)


def is_inference_mode_enabled() -> bool:
    """Whether `inference_mode` is on in this thread."""
    return thread.inference


class set_grad_enabled(_Recording):
    """Switch recording on or off: at once, and until the end of the block when used as a context manager."""

    def __init__(self, mode: bool) -> None:
        self.mode, self.before = mode, thread.recording
        thread.recording = mode

    def __enter__(self) -> None:
        thread.recording = self.mode

    def __call__(self, function: F) -> F:
        thread.recording = self.before  # a decorator switches when the function is called
        return super().__call__(function)

    def _recreate_cm(self) -> Self:
        return type(self)(self.mode)
