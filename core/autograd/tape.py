"""The tape: what an op records.

An op records one `Node` with an edge per input that needs a gradient:

    record("MulBackward0", x * y, (a, lambda g, b: g * b, b), (b, lambda g, a: g * a, a))

An edge says which input, the vector-Jacobian product towards it, and the operands that this vjp takes besides g, so an
activation that no vjp names is freed at once. A vjp is written with operators and ops that take arrays and Tensors
alike: given arrays it computes the gradient, given Tensors (`create_graph`) it records the gradient's own graph.
"""

from __future__ import annotations

import re
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ..backend import Array, array_module, is_array
from ..dtypes import HALVES, of, widened

__all__ = [
    "FREED",
    "RESULT",
    "AccumulateGrad",
    "AfterHook",
    "Dropped",
    "Into",
    "Node",
    "RemovableHandle",
    "Result",
    "Variable",
    "bind_tensor_class",
    "edge",
    "modified",
    "record",
    "record_view",
    "rewrite_history",
    "thread",
    "watching",
    "wrap",
]

if TYPE_CHECKING:
    from ..tensor import Tensor
    from .engine import Backward

ndarray, generic, asarray = np.ndarray, np.generic, np.asarray  # looked up for every tensor


class Variable:
    """What the tape needs of a tensor. `Tensor` adds the methods.

    array: the elements. needs: whether gradients flow to it. node: the op that made it, None for a leaf.
    version: what all views of the same memory share: a count of in-place changes, then weak references to the views.
    source: of a view what it shows, as (source, read, vjp) of `record_view`; None for a tensor with memory of its own.
    home: a parameter's place in flat memory (see flat.py), where its gradient accumulates too.
    """

    # what every op sets lies in slots; the rest is rare and has its default in the class
    __slots__ = ("__dict__", "__weakref__", "array", "needs", "node", "source", "version")

    array: Array
    needs: bool
    node: Node | None
    source: tuple[Any, Callable[[Any], Any], Callable[..., Any] | None] | None
    version: list[Any]
    home: Any = None
    hooks: list[Callable[[Any], None]] | None = None  # called with a leaf when its gradient is final
    gradient_hooks: list[Callable[[Any], Any]] | None = None  # called with a leaf's gradient before it is accumulated
    _grad: Any = None

    def __new__(cls, data: Any = None, requires_grad: bool = False, volatile: bool = False) -> Self:
        """PyTorch's older way to ask for gradients: a leaf over the memory of `data`, a Tensor. volatile: accepted."""
        if cls is not Variable:
            return _new(cls)
        if not isinstance(data, Variable):
            raise TypeError(f"Variable data has to be a tensor, but got {type(data).__name__}")
        leaf: Any = wrap(data.array)
        leaf.version = data.version
        leaf.requires_grad_(requires_grad)
        return leaf  # type: ignore[no-any-return]


class Node:
    """One recorded op: its name as PyTorch prints it, and an edge (input, vjp, saved, versions) per input to learn."""

    __slots__ = ("__weakref__", "_name", "edges", "hooks", "maker")

    maker: Any  # the line that recorded it, in anomaly mode
    edges: tuple[tuple[Any, Callable[..., Any] | Into, tuple[Any, ...], tuple[int, ...]], ...]

    def __init__(self, name: str, edges: Any) -> None:
        self._name = name
        self.edges = edges
        self.hooks: list[Any] | None = None  # called with the node's gradient; AfterHooks with what comes of it

    def name(self) -> str:
        """The op's name, e.g. "MulBackward0"."""
        return self._name

    @property
    def next_functions(self) -> tuple[tuple[Any, int], ...]:
        """The nodes that gradients flow to next; of a leaf its AccumulateGrad."""
        parents = [edge[0] for edge in self.edges]
        return tuple((v if isinstance(v, Node) else AccumulateGrad(v), 0) for v in parents)

    def register_hook(self, hook: Callable[[tuple[Any, ...], tuple[Any, ...]], Any]) -> RemovableHandle:
        """Call hook with the gradients towards the inputs and (gradient,); a tuple that it returns replaces the former.

        They are those of the inputs that need a gradient; None for one that this pass does not ask for.
        """
        if self.hooks is None:
            self.hooks = []
        return RemovableHandle(self.hooks, AfterHook(hook))

    def register_prehook(self, hook: Callable[[tuple[Any, ...]], Any]) -> RemovableHandle:
        """Call hook with (gradient,) before it flows on; a tuple that it returns replaces it."""

        def unpacking(gradient: Any) -> Any:
            changed = hook((gradient,))
            return None if changed is None else changed[0]

        if self.hooks is None:
            self.hooks = []
        return RemovableHandle(self.hooks, unpacking)

    def __repr__(self) -> str:
        return f"<{self._name} object at {id(self):#x}>"


class AfterHook:
    """Among a node's hooks, which see its gradient: one that sees what the node makes of it."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[[tuple[Any, ...], tuple[Any, ...]], Any]) -> None:
        self.function = function


class AccumulateGrad:
    """Where gradients end: the leaf that they add up in. Two of one leaf are equal."""

    __slots__ = ("variable",)

    next_functions: tuple[tuple[Any, int], ...] = ()

    def __init__(self, variable: Variable) -> None:
        self.variable = variable

    def name(self) -> str:
        """As PyTorch prints it."""
        return "torch::autograd::AccumulateGrad"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AccumulateGrad) and self.variable is other.variable

    def __hash__(self) -> int:
        return hash(self.variable)


class Result:
    """The op's own value among the operands that an edge saved: its array, not the tensor, which refers to the node."""

    __slots__ = ("array", "version")

    def __init__(self, tensor: Variable) -> None:
        self.array, self.version = tensor.array, tensor.version


class watching:
    """Within the block `watcher` is called with every node that this thread records. Outside it costs nothing."""

    lock = threading.Lock()
    blocks = 0
    init = Node.__init__

    def __init__(self, watcher: Callable[[Node], None]) -> None:
        self.watcher = watcher

    def __enter__(self) -> None:
        thread.watchers = (*thread.watchers, self.watcher)
        with watching.lock:
            watching.blocks += 1
            Node.__init__ = watching.announce  # type: ignore[method-assign, assignment]

    def __exit__(self, *_: object) -> None:
        thread.watchers = tuple([watcher for watcher in thread.watchers if watcher is not self.watcher])
        with watching.lock:
            watching.blocks -= 1
            if not watching.blocks:
                Node.__init__ = watching.init  # type: ignore[method-assign]

    @staticmethod
    def announce(node: Node, name: str, edges: Any) -> None:
        watching.init(node, name, edges)
        for watcher in thread.watchers:
            watcher(node)


class Dropped:
    """In the place of what an edge saved: how to compute it again. recall: () -> (saved, versions)."""

    __slots__ = ("recall",)

    def __init__(self, recall: Callable[[], tuple[tuple[Any, ...], tuple[int, ...]]]) -> None:
        self.recall = recall


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
    """Per thread, since ranks may be threads: is recording on, which backward pass runs, who watches nodes."""

    recording = True
    inference = False
    running: Backward | None = None
    watchers: tuple[Callable[[Node], None], ...] = ()
    check: Callable[[Node, int, Any], None] | None = None  # called with what each vjp returns, in anomaly mode


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
    if array.__class__ is not ndarray and (isinstance(array, generic) or not is_array(array)):
        array = asarray(array)
    tensor.array = array
    # one by one, as a tuple of four would be built first
    tensor.needs = False
    tensor.node = tensor.source = None
    tensor.version = [0]
    return tensor  # type: ignore[no-any-return]


def record(name: str, array: Array, *terms: tuple[Any, ...]) -> Tensor:
    """The tensor over `array`, with a node on the tape if an input needs a gradient. terms: (input, vjp, *saved)."""
    tensor = wrap(array)
    if thread.recording:
        edges: tuple[Any, ...] = ()
        for term in terms:
            if term[0].needs:
                edges += (edge(term[0], term[1], term[2:], tensor),)
        if edges:
            tensor.needs, tensor.node = True, Node(name, edges)
    return tensor


def edge(source: Variable, vjp: Any, saved: Sequence[Any], result: Variable) -> tuple[Any, ...]:
    """What a node keeps for one of its inputs. The gradients of halves are computed in float32 and rounded once."""
    if source.array.itemsize == 2 and source.array.dtype in HALVES:
        vjp = _rounding(vjp.function if isinstance(vjp, Into) else vjp, isinstance(vjp, Into), source.array.dtype)
    place = source.node or source
    if not saved:
        return (place, vjp, (), ())
    if len(saved) == 1:
        item = saved[0]
        if item is RESULT:
            return (place, vjp, (Result(result),), (result.version[0],))
        return (place, vjp, (item,), (item.version[0] if isinstance(item, Variable) else 0,))
    kept = tuple([Result(result) if item is RESULT else item for item in saved])
    versions = tuple([item.version[0] if isinstance(item, (Variable, Result)) else 0 for item in kept])
    return (place, vjp, kept, versions)


def modified(item: Variable | Result, expected: int, maker: Node | None) -> RuntimeError:
    """The error of a saved tensor that was changed in place; maker: the node that made it."""
    what = f"{of(item.array.dtype).title}Tensor {list(item.array.shape)}"
    origin = f", which is output 0 of {re.sub(r'Backward[0-9]*$', '', maker.name())}," if maker else ""
    return RuntimeError(
        "one of the variables needed for gradient computation has been modified by an inplace operation: "
        f"[mpigrad.{what}]{origin} is at version {item.version[0]}; expected version {expected} instead. Hint: enable "
        "anomaly detection to find the operation that failed to compute its gradient, with "
        "mpigrad.autograd.set_detect_anomaly(True, check_nan=False)."
    )


def _rounding(function: Callable[..., Any], into: bool, dtype: np.dtype[Any]) -> Callable[..., Any]:
    """The vjp of an input of this dtype, a half."""
    vjp: Callable[..., Any] = (lambda *operands: function(*operands, out=None)) if into else function

    def towards(g: Any, *saved: Any) -> Any:
        if isinstance(g, Variable):
            return vjp(g, *saved)
        value = vjp(*map(widened, (g, *saved)))
        return None if value is None else value.astype(dtype, copy=False)

    return towards


def record_view(
    name: str, read: Callable[[Any], Any], source: Variable, vjp: Callable[..., Any], array: Array | None = None
) -> Tensor:
    """The tensor over `read(source)`, elements in the same memory: in-place changes of either count for both.

    read takes arrays, and gradients of the source whatever their layout; vjp is its transpose. array: what read gives,
    where that is known.
    """
    tensor = _new(_tensor_class)
    tensor.array = read(source.array) if array is None else array
    tensor.version = version = source.version
    recording = thread.recording
    if recording and source.needs:
        tensor.needs, tensor.node = True, Node(name, ((source.node or source, vjp, (), ()),))
    else:
        tensor.needs, tensor.node = False, None
    tensor.source = (source, read, vjp if recording else None)
    if source.node is not None or not source.needs:  # a leaf that requires gradients is not changed while recording
        version.append(weakref.ref(tensor))
        if len(version) > 16 and not len(version) & (len(version) - 1):
            version[1:] = [view for view in version[1:] if view() is not None]
    return tensor  # type: ignore[no-any-return]


def rewrite_history(tensor: Variable, node: Node) -> None:
    """`node` is what made the elements that an in-place op gave the tensor: tell the memory's base, and all its views.

    The base's gradient then flows to `node` where the tensor reads it, and to what made the base elsewhere. The views
    read the base anew.
    """
    base, read = tensor, None
    while base.source is not None:
        source, step, _ = base.source
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
        if view is not None and view.source[2] is not None and (view.node is not None or not view.needs):
            source, _, vjp = view.source
            if source.needs:
                view.node, view.needs = Node("AsStridedBackward0", ((source.node or source, vjp, (), ()),)), True


def _then(first: Callable[[Any], Any], second: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda a: second(first(a))


def _only(g: Any, kept: Array) -> Any:
    """The gradient where `kept` holds, 0 elsewhere, whatever it is there."""
    if isinstance(g, Variable):
        return record("MaskedFillBackward0", _only(g.array, kept), (g, lambda g: _only(g, kept)))
    return array_module(g).where(kept, g, g.dtype.type(0))
