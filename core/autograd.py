"""The tape and the backward pass.

An op records one `Node` with an edge per input that needs a gradient:

    record("MulBackward0", x * y, (a, lambda g, b: g * b, b), (b, lambda g, a: g * a, a))

An edge says which input, the vector-Jacobian product towards it, and the operands that this vjp takes besides g, so an
activation that no vjp names is freed at once. A vjp is written with operators and ops that take arrays and Tensors
alike: given arrays it computes the gradient, given Tensors (`create_graph`) it records the gradient's own graph.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

import numpy as np

from .backend import Array, array_module, is_array

if TYPE_CHECKING:
    from .tensor import Tensor

ndarray = np.ndarray
F = TypeVar("F", bound=Callable[..., Any])


class Variable:
    """What the tape needs of a tensor. `Tensor` adds the methods.

    array: the elements. needs: whether gradients flow to it. node: the op that made it, None for a leaf.
    version: what all views of the same memory share: a count of in-place changes, then weak references to the views.
    home: a parameter's place in flat memory (see flat.py), where its gradient accumulates too.
    """

    # what every op sets lies in slots; the rest is rare and has its default in the class
    __slots__ = ("__dict__", "__weakref__", "array", "needs", "node", "version")

    array: Array
    needs: bool
    node: Node | None
    version: list[Any]
    home: Any = None
    hooks: list[Callable[[Any], None]] | None = None  # called with a leaf when its gradient is final
    gradient_hooks: list[Callable[[Any], Any]] | None = None  # called with a leaf's gradient before it is accumulated
    _grad: Any = None
    _view: tuple[Any, Callable[[Any], Any], Callable[..., Any] | None] | None = None  # see record_view


class Node:
    """One recorded op: its name as PyTorch prints it, and an edge (input, vjp, saved, versions) per input to learn."""

    __slots__ = ("__weakref__", "_name", "edges", "hooks")

    edges: tuple[tuple[Any, Callable[..., Any] | Into, tuple[Any, ...], tuple[int, ...]], ...]

    def __init__(self, name: str, edges: Any) -> None:
        self._name = name
        self.edges = edges
        self.hooks: list[Callable[[Any], Any]] | None = None

    def name(self) -> str:
        """The op's name, e.g. "MulBackward0"."""
        return self._name

    @property
    def next_functions(self) -> tuple[tuple[Any, int], ...]:
        """The nodes that gradients flow to next; a leaf stands for its own accumulation."""
        return tuple((parent, 0) for parent, *_ in self.edges)

    def __repr__(self) -> str:
        return f"<{self._name}>"


class Result:
    """The op's own value among the operands that an edge saved: its array, not the tensor, which refers to the node."""

    __slots__ = ("array", "version")

    def __init__(self, tensor: Variable) -> None:
        self.array, self.version = tensor.array, tensor.version


RESULT = object()  # stands for the result in the terms given to `record`
FREED = object()  # what a freed graph has in the place of its operands


class Into:
    """A vjp that can write its value to memory given as `out`: the leaf's gradient needs no copy then."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function


class RemovableHandle:
    """Undoes a registration: `handle.remove()`."""

    def __init__(self, hooks: list[Any], hook: Any, *, place: int | None = None) -> None:
        self.hooks, self.hook = hooks, hook
        hooks.insert(len(hooks) if place is None else place, hook)

    def remove(self) -> None:
        """Unregister the hook; a second call does nothing."""
        if self.hook in self.hooks:
            self.hooks.remove(self.hook)


class _Thread(threading.local):
    """Per thread, since ranks may be threads: is recording on, and the backward pass that is running."""

    recording = True
    running: _Backward | None = None


thread = _Thread()
_tensor_class: Any = None
_new = object.__new__


def bind_tensor_class(cls: type[Variable]) -> None:
    """Tell the tape which class results have (the class needs the ops for its methods, so it comes later)."""
    global _tensor_class
    _tensor_class = cls


def wrap(array: Array) -> Tensor:
    """A tensor without history over this array."""
    tensor = _new(_tensor_class)
    # NumPy returns a scalar object where a zero-dimensional array is meant
    tensor.array = array if array.__class__ is ndarray or is_array(array) else np.asarray(array)
    tensor.needs, tensor.node, tensor.version = False, None, [0]
    return tensor  # type: ignore[no-any-return]


def record(name: str, array: Array, *terms: tuple[Any, ...]) -> Tensor:
    """The tensor over `array`, with a node on the tape if an input needs a gradient. terms: (input, vjp, *saved)."""
    tensor = wrap(array)
    if thread.recording:
        edges = tuple([edge(source, vjp, saved, tensor) for source, vjp, *saved in terms if source.needs])
        if edges:
            tensor.needs, tensor.node = True, Node(name, edges)
    return tensor


def edge(source: Variable, vjp: Any, saved: Sequence[Any], result: Variable) -> tuple[Any, ...]:
    """What a node keeps for one of its inputs."""
    if not saved:
        return (source.node or source, vjp, (), ())
    kept, versions = [], []
    for item in saved:
        if item is RESULT:
            item = Result(result)
        kept.append(item)
        versions.append(item.version[0] if hasattr(item, "version") else 0)
    return (source.node or source, vjp, tuple(kept), tuple(versions))


def record_view(name: str, read: Callable[[Any], Any], source: Variable, vjp: Callable[..., Any]) -> Tensor:
    """The tensor over `read(source)`, elements in the same memory: in-place changes of either count for both.

    read takes arrays, and gradients of the source whatever their layout; vjp is its transpose.
    """
    tensor = record(name, read(source.array), (source, vjp))
    tensor.version = version = source.version
    tensor._view = (source, read, vjp if thread.recording else None)
    if source.node is not None or not source.needs:  # a leaf that requires gradients is not changed while recording
        version.append(weakref.ref(tensor))
        if len(version) > 16 and not len(version) & (len(version) - 1):
            version[1:] = [view for view in version[1:] if view() is not None]
    return tensor


def rewrite_history(tensor: Variable, node: Node) -> None:
    """`node` is what made the elements that an in-place op gave the tensor: tell the memory's base, and all its views.

    The base's gradient then flows to `node` where the tensor reads it, and to what made the base elsewhere. The views
    read the base anew.
    """
    base, read = tensor, None
    while base._view is not None:
        source, step, _ = base._view
        read = step if read is None else _then(step, read)
        base = source
    if read is None:
        base.node = node
    else:
        kept = array_module(base.array).ones_like(base.array, dtype=bool)  # in the layout of the base, so views read it
        read(kept)[...] = False
        edges = [(base.node or base, lambda g, kept: _only(g, kept), (kept,), (0,))] if base.needs else []
        base.node = Node("CopySlices", (*edges, (node, lambda g: read(g), (), ())))
    base.needs = True
    for reference in base.version[1:]:
        view = reference()
        if view is not None and view._view[2] is not None and (view.node is not None or not view.needs):
            source, _, vjp = view._view
            if source.needs:
                view.node, view.needs = Node("AsStridedBackward0", ((source.node or source, vjp, (), ()),)), True


def _then(first: Callable[[Any], Any], second: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda a: second(first(a))


def _only(g: Any, kept: Array) -> Any:
    """The gradient where `kept` holds, 0 elsewhere, whatever it is there."""
    if isinstance(g, Variable):
        return record("MaskedFillBackward0", _only(g.array, kept), (g, lambda g: _only(g, kept)))
    return array_module(g).where(kept, g, g.dtype.type(0))


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
            raise TypeError(f"expected a function, found the generator {function.__name__}: use the block inside it")
        return super().__call__(function)


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


def running_backward() -> _Backward:
    """The backward pass that is under way in this thread; RuntimeError when there is none."""
    if thread.running is None:
        raise RuntimeError("expected a running backward pass in this thread (call this from a gradient hook)")
    return thread.running


def queue_callback(callback: Callable[[], None]) -> None:
    """Run callback when the backward pass that is under way in this thread has ended."""
    running_backward().callbacks.append(callback)


def backward(
    tensors: Tensor | Sequence[Tensor],
    grad_tensors: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
) -> None:
    """Accumulate into every leaf's `.grad` the gradients of the sum of tensors (weighted by grad_tensors).

    RuntimeError for a non-scalar without gradient, a tensor without history, and a graph that was freed.
    """
    seeds = None if grad_tensors is None else _as_tuple(grad_tensors)
    _Backward(retain_graph, create_graph).run(_as_tuple(tensors), seeds)


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> tuple[Tensor | None, ...]:
    """The gradients of the sum of outputs with respect to inputs; no `.grad` is touched.

    RuntimeError when an input does not require gradients, or is not part of the graph (unless allow_unused).
    """
    wanted = _as_tuple(inputs)
    for tensor in wanted:
        if not tensor.needs:
            raise RuntimeError("One of the differentiated Tensors does not require grad")
    keys = [tensor.node or tensor for tensor in wanted]
    run = _Backward(retain_graph, create_graph, set(keys))
    run.run(_as_tuple(outputs), None if grad_outputs is None else _as_tuple(grad_outputs))
    unused = [i for i, key in enumerate(keys) if key not in run.found]
    if unused and not allow_unused:
        raise RuntimeError(
            f"The differentiated Tensor at index {unused[0]} appears to not have been used in the graph. "
            "Set allow_unused=True if this is the desired behavior."
        )
    return tuple(run.found.get(key) for key in keys)


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return (value,) if isinstance(value, Variable) else tuple(value)


class _Backward:
    """One backward pass: iterative, each node runs once all gradients that flow into it have arrived.

    Gradients are arrays, or Tensors with create_graph. wanted: the nodes and leaves whose gradients `grad` asks for;
    None when all leaves accumulate.
    """

    def __init__(self, retain_graph: bool | None, create_graph: bool, wanted: set[Any] | None = None) -> None:
        self.lift = create_graph
        self.keep = create_graph if retain_graph is None else retain_graph
        self.wanted = wanted
        self.route: set[Any] | None = None  # the nodes and leaves through which gradients flow to what is wanted
        self.found: dict[Any, Tensor] = {}
        self.pending: dict[Any, Any] = {}
        self.owned: set[Any] = set()  # whose pending gradient is memory of ours, so that we may add in place
        self.uses: dict[Any, int] = {}  # how many gradients each node and leaf still waits for
        self.callbacks: list[Callable[[], None]] = []

    def run(self, roots: Sequence[Tensor], seeds: Sequence[Tensor | None] | None) -> None:
        if seeds is not None and len(seeds) != len(roots):
            raise RuntimeError(f"got {len(roots)} tensors and {len(seeds)} gradients")
        keys = [root.node or root for root in roots]
        for index, (root, key) in enumerate(zip(roots, keys, strict=True)):
            seed = self._seed(index, root, seeds[index] if seeds else None)
            self.pending[key] = self.pending[key] + seed if key in self.pending else seed
        self.uses = uses = self._count_uses(keys)
        if self.wanted is not None:
            self.route = self._find_route(self.wanted)
        outer, thread.running = thread.running, self
        recording, thread.recording = thread.recording, self.lift
        try:
            ready = [key for key in uses if uses[key] == 0]
            while ready:
                key = ready.pop()
                gradient = self.pending.pop(key, None)
                if key.__class__ is Node:
                    self._step(key, gradient, uses, ready)
                elif gradient is not None:
                    self._arrive(key, gradient)
            thread.recording = recording
            for callback in self.callbacks:
                callback()
        finally:
            thread.running, thread.recording = outer, recording

    def reaches(self, target: Variable | Node) -> bool:
        """Whether this pass sends gradients to a leaf or through a node."""
        return self.wanted is None and target in self.uses

    def _seed(self, index: int, root: Tensor, seed: Tensor | None) -> Any:
        if not root.needs:
            raise RuntimeError(f"element {index} of tensors does not require grad and does not have a grad_fn")
        if seed is None:
            if root.array.size != 1:
                raise RuntimeError("grad can be implicitly created only for scalar outputs")
            ones = array_module(root.array).ones_like(root.array)
            return wrap(ones) if self.lift else ones
        if not isinstance(seed, Variable):
            raise TypeError(f"gradients can be either Tensors or None, but got {type(seed).__name__}")
        if seed.shape != root.shape:
            raise RuntimeError(
                f"Mismatch in shape: grad_output[{index}] has a shape of {seed.shape} "
                f"and output[{index}] has a shape of {root.shape}."
            )
        return seed if self.lift else seed.array

    def _count_uses(self, roots: list[Any]) -> dict[Any, int]:
        """How many edges lead to each node and leaf below the roots."""
        uses = dict.fromkeys(roots, 0)
        todo = list(uses)
        while todo:
            node = todo.pop()
            if node.__class__ is Node:
                for edge in node.edges:
                    parent = edge[0]
                    if parent in uses:
                        uses[parent] += 1
                    else:
                        uses[parent] = 1
                        todo.append(parent)
        return uses

    def _find_route(self, wanted: set[Any]) -> set[Any]:
        """What is wanted and every node above it."""
        above: dict[Any, list[Any]] = {}
        for node in self.uses:
            if node.__class__ is Node:
                for edge in node.edges:
                    above.setdefault(edge[0], []).append(node)
        route: set[Any] = set()
        todo = list(wanted)
        while todo:
            key = todo.pop()
            if key not in route:
                route.add(key)
                todo += above.get(key, ())
        return route

    def _step(self, node: Node, gradient: Any, uses: dict[Any, int], ready: list[Any]) -> None:
        """Send a node's gradient along its edges; a node that none arrived at only passes the count on."""
        if gradient is not None and (node.hooks is not None or self.wanted is not None):
            gradient = self._hooked(node.hooks, gradient)
            if self.wanted is not None and node in self.wanted:
                self.found[node] = gradient if self.lift else wrap(gradient.copy())
        pending, route = self.pending, self.route
        ran = route is None
        for parent, vjp, saved, versions in node.edges:
            leaf = parent.__class__ is not Node
            if gradient is not None and (route is None or parent in route):
                ran = True
                arguments = self._arguments(node, saved, versions) if saved else ()
                if isinstance(vjp, Into):
                    out = None
                    if leaf and parent.home is not None and parent._grad is None and parent not in pending:
                        out = None if self.lift or route is not None else parent.home.reclaim()
                    value = vjp.function(gradient, *arguments, out=out)
                else:
                    value = vjp(gradient, *arguments)
                if value is not None:
                    if parent not in pending:
                        pending[parent] = value
                    elif parent in self.owned:
                        pending[parent] += value
                    else:
                        pending[parent] = pending[parent] + value
                        if not self.lift:
                            self.owned.add(parent)
            uses[parent] -= 1
            if not uses[parent]:
                ready.append(parent)
        if ran and not self.keep and any(edge[2] for edge in node.edges):
            node.edges = tuple([(parent, vjp, (FREED,), ()) for parent, vjp, _, _ in node.edges])

    def _arguments(self, node: Node, saved: tuple[Any, ...], versions: tuple[int, ...]) -> list[Any]:
        """The operands that a vjp saved, checked to be as they were when it saved them."""
        arguments = []
        for item, version in zip(saved, versions, strict=False):
            if isinstance(item, (Variable, Result)):
                if item.version[0] != version:
                    raise RuntimeError(_modified(node, item, version))
                value = item if self.lift else item.array
                if isinstance(value, Result):
                    value = wrap(item.array)
                    value.node, value.needs = node, True
                arguments.append(value)
            else:
                arguments.append(item)
        if saved[0] is FREED:
            raise RuntimeError(
                "Trying to backward through the graph a second time (or directly access saved tensors after they have "
                "already been freed). Saved intermediate values of the graph are freed when you call .backward() or "
                "autograd.grad(). Specify retain_graph=True if you need to backward through the graph a second time "
                "or if you need to access saved tensors after calling backward."
            )
        return arguments

    def _hooked(self, hooks: list[Any] | None, gradient: Any) -> Any:
        """The gradient after hooks have seen it; each may replace it."""
        for hook in tuple(hooks or ()):
            changed = hook(gradient if self.lift else wrap(gradient))
            if changed is not None:
                gradient = changed if self.lift else changed.array
        return gradient

    def _arrive(self, leaf: Variable, gradient: Any) -> None:
        """The leaf's gradient is final for this pass: accumulate it, then tell the leaf's hooks."""
        if leaf.gradient_hooks:
            gradient = self._hooked(leaf.gradient_hooks, gradient)
        if self.wanted is not None:
            if leaf in self.wanted:
                self.found[leaf] = gradient if self.lift else wrap(gradient.copy())
            return
        if self.lift:
            leaf._grad = gradient if leaf._grad is None else leaf._grad + gradient
        elif leaf._grad is not None:
            leaf._grad.array += gradient
            leaf._grad.version[0] += 1
        elif leaf.home is not None:
            if gradient is not leaf.home.gradient:
                leaf.home.reclaim()[...] = gradient
            leaf._grad = leaf.home.lend()
        else:
            # a copy: the array may be another leaf's gradient too, or a broadcast view
            leaf._grad = wrap(array_module(leaf.array).array(gradient, dtype=leaf.array.dtype))
        for hook in tuple(leaf.hooks or ()):
            hook(leaf)


def _modified(node: Node, item: Variable | Result, expected: int) -> str:
    maker = node if isinstance(item, Result) else item.node
    origin = f", which is output 0 of {maker.name()}," if maker else ""
    return (
        "one of the variables needed for gradient computation has been modified by an inplace operation: "
        f"[{item.array.dtype} {list(item.array.shape)}]{origin} is at version {item.version[0]}; "
        f"expected version {expected} instead."
    )
