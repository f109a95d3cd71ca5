"""Activation checkpointing: what a part of the forward pass saved is computed again when the backward pass needs it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from ..generator import default_generator
from .grad_mode import enable_grad
from .tape import Dropped, Node, thread, watching

__all__ = ["checkpoint", "checkpoint_sequential"]

Edges = tuple[Any, ...]


def checkpoint(
    function: Callable[..., Any],
    *args: Any,
    use_reentrant: bool | None = None,
    preserve_rng_state: bool = True,
    **kwargs: Any,
) -> Any:
    """function(*args, **kwargs), saving nothing for the backward pass, which runs the function once more.

    preserve_rng_state: draw the same random numbers (dropout) then. use_reentrant: accepted; gradients flow the same
    way. RuntimeError in the backward pass if the function records other ops the second time.
    """
    if not thread.recording:
        return function(*args, **kwargs)
    state = default_generator.state_bytes() if preserve_rng_state else None
    nodes: list[Node] = []
    with watching(nodes.append):
        result = function(*args, **kwargs)
    names = [node.name() for node in nodes]
    again: list[Edges] = []

    def run_again() -> None:
        copies: list[Node] = []
        with enable_grad(), watching(copies.append), _random_state(state):
            function(*args, **kwargs)
        if [node.name() for node in copies] != names:
            raise RuntimeError(
                "a checkpointed function must record the same ops when it runs again for the backward pass: expected "
                f"{names}, found {[node.name() for node in copies]}"
            )
        again[:] = [node.edges for node in copies]

    def dropped(place: int, edge: int, last: int) -> Dropped:
        def recall() -> tuple[Any, Any]:
            if not again or not again[place]:
                run_again()
            _, _, saved, versions = again[place][edge]
            if edge == last and not (thread.running and thread.running.keep):
                again[place] = ()
            return saved, versions

        return Dropped(recall)

    for place, node in enumerate(nodes):
        last = max((n for n, edge in enumerate(node.edges) if edge[2]), default=0)
        node.edges = tuple(
            [
                (parent, vjp, (dropped(place, n, last),), (0,)) if saved else (parent, vjp, (), ())
                for n, (parent, vjp, saved, _) in enumerate(node.edges)
            ]
        )
    return result


@contextlib.contextmanager
def _random_state(state: Any) -> Any:
    """The default generator in this state within the block, as it was after it."""
    if state is None:
        yield
        return
    before = default_generator.state_bytes()
    default_generator.set_state(state)
    try:
        yield
    finally:
        default_generator.set_state(before)


def checkpoint_sequential(
    functions: Any, segments: int, input: Any, use_reentrant: bool | None = None, preserve_rng_state: bool = True
) -> Any:
    """The functions one after the other, checkpointed in `segments` parts; the last part saves what it needs."""
    steps = list(functions)
    size = len(steps) // segments

    def run(first: int, last: int) -> Callable[[Any], Any]:
        def part(value: Any) -> Any:
            for step in steps[first:last]:
                value = step(value)
            return value

        return part

    for first in range(0, size * (segments - 1), size):
        input = checkpoint(run(first, first + size), input, preserve_rng_state=preserve_rng_state)
    return run(size * (segments - 1), len(steps))(input)
