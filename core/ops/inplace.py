"""The second half of an in-place op: a tensor takes over the elements and the history of a result."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from ..autograd import Variable, rewrite_history, thread, wrap
from ..dtypes import KINDS
from .pointwise import cast


def in_place(op: Callable[..., Any]) -> Callable[..., Any]:
    """The form of an op that writes its result into its first input: `add_` from `add`."""

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        check_in_place(self, *args)
        before = wrap(self.array)
        before.needs, before.node = self.needs, self.node
        result = op(before, *args, **kwargs)
        if result.node is not None and any(item is before for edge in result.node.edges for item in edge[2]):
            before.array = self.array.copy()  # a vjp needs the elements from before
        return overwrite(self, result)

    method.__name__ = method.__qualname__ = f"{op.__name__}_"
    method.__wrapped__ = op  # type: ignore[attr-defined]  # whose arguments it takes
    return method


def in_place_view(op: Callable[..., Any]) -> Callable[..., Any]:
    """The form of a view that changes the shape of its input itself: `squeeze_` from `squeeze`.

    A tensor that nobody sees takes over what the input was, and the input becomes a view of it.
    """

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        check_in_place(self)
        before = wrap(self.array)
        before.needs, before.node, before.source, before.version = self.needs, self.node, self.source, self.version
        for i, reference in enumerate(self.version[1:], 1):
            view = reference()
            if view is self:
                self.version[i] = weakref.ref(before)
            elif view is not None and view.source[0] is self:
                view.source = (before, *view.source[1:])
        result = op(before, *args, **kwargs)
        self.array, self.needs, self.node, self.source = result.array, result.needs, result.node, result.source
        self.version[0] += 1
        self.version.append(weakref.ref(self))
        return self

    method.__name__ = method.__qualname__ = f"{op.__name__}_"
    method.__wrapped__ = op  # type: ignore[attr-defined]  # whose arguments it takes
    return method


def check_in_place(input: Any, *others: Any, part: bool = False) -> None:
    """RuntimeError where `input` cannot be changed in place; part: a view of it is what changes."""
    if not getattr(input.array.flags, "writeable", True):
        raise RuntimeError(
            "unsupported operation: more than one element of the written-to tensor refers to a single memory location. "
            "Please clone() the tensor before performing the operation."
        )
    if not thread.recording:
        return
    if input.source is None:
        if input.needs and input.node is None:
            leaf = f"a {'view of a ' * part}leaf Variable that requires grad"
            raise RuntimeError(f"{leaf} is being used in an in-place operation.")
        return
    base = input
    while base.source is not None:
        base = base.source[0]
    if not any(isinstance(v, Variable) and v.needs for v in (input, base, *others)):
        return
    if input.source[2] is None:
        raise RuntimeError(
            "A view was created in no_grad mode and is being modified inplace with grad mode enabled. Given that this "
            "use case is ambiguous and error-prone, it is forbidden. You can clarify your code by moving both the view "
            "and the inplace either both inside the no_grad block (if you don't want the inplace to be tracked) or "
            "both outside (if you want the inplace to be tracked)."
        )
    if base.needs and base.node is None:
        raise RuntimeError("a view of a leaf Variable that requires grad is being used in an in-place operation.")


def overwrite(input: Any, result: Any) -> Any:
    """Give `input` the elements and the history of `result`; RuntimeError when it has not the shape or dtype for it."""
    if result.array.shape != input.array.shape:
        raise RuntimeError(
            f"output with shape {list(input.array.shape)} doesn't match the broadcast shape {list(result.array.shape)}"
        )
    if KINDS[result.array.dtype.kind] > KINDS[input.array.dtype.kind]:
        raise RuntimeError(
            f"result type {result.dtype.title} can't be cast to the desired output type {input.dtype.title}"
        )
    result = cast(result, input.array.dtype)
    input.array[...] = result.array
    input.version[0] += 1
    if result.node is not None:
        remember(input, result.node)
    return input


def remember(input: Any, node: Any) -> None:
    """Record that `node` made the elements which `input` has now."""
    rewrite_history(input, node)
    if input._retained is not None:
        input._retained.remove()
        input._retained = None
        input.retain_grad()
