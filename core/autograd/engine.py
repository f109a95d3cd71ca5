"""The backward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..backend import array_module
from ..dtypes import of
from .anomaly import explain
from .tape import FREED, AfterHook, Dropped, Into, Node, Result, Variable, modified, record, thread, wrap

__all__ = ["Backward", "backward", "begin_hooks", "grad", "queue_callback", "running_backward"]

if TYPE_CHECKING:
    from ..tensor import Tensor


begin_hooks: list[Callable[[Backward], None]] = []
"""Called with every backward pass once its graph is known, before gradients flow."""


def running_backward() -> Backward:
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
    inputs: Tensor | Sequence[Tensor] | None = None,
) -> None:
    """Accumulate into every leaf's `.grad` the gradients of the sum of tensors (weighted by grad_tensors).

    inputs: only into these. RuntimeError for a non-scalar without gradient, a tensor without history, and a graph that
    was freed.
    """
    if inputs is not None:
        wanted = _as_tuple(inputs)
        if not wanted:
            raise RuntimeError("`inputs` argument to `backward()` cannot be empty.")
        found = grad(tensors, wanted, grad_tensors, retain_graph, create_graph, allow_unused=True)
        for tensor, gradient in zip(wanted, found, strict=True):
            if gradient is not None:
                tensor._grad = gradient if tensor._grad is None else tensor._grad + gradient
        return
    seeds = None if grad_tensors is None else _as_tuple(grad_tensors)
    Backward(retain_graph, create_graph).run(_as_tuple(tensors), seeds)


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    only_inputs: bool = True,
    allow_unused: bool | None = None,
    is_grads_batched: bool = False,
    materialize_grads: bool = False,
) -> tuple[Tensor | None, ...]:
    """The gradients of the sum of outputs with respect to inputs; no `.grad` is touched.

    materialize_grads: zeros instead of None for an input that is not used. only_inputs: accepted. RuntimeError when an
    input does not require gradients, or is not part of the graph (unless allow_unused).
    """
    if is_grads_batched:
        raise ValueError("grad: expected is_grads_batched=False; call it once for each gradient instead")
    if materialize_grads and allow_unused is False:
        raise ValueError(
            "Expected allow_unused to be True or not passed when materialize_grads=True, but got: allow_unused=False."
        )
    wanted = _as_tuple(inputs)
    if not wanted:
        raise RuntimeError("`inputs` argument to `grad()` cannot be empty.")
    for tensor in wanted:
        if not tensor.needs:
            raise RuntimeError("One of the differentiated Tensors does not require grad")
    keys = [tensor.node or tensor for tensor in wanted]
    run = Backward(retain_graph, create_graph, set(keys))
    run.run(_as_tuple(outputs), None if grad_outputs is None else _as_tuple(grad_outputs))
    unused = [i for i, key in enumerate(keys) if key not in run.found]
    if unused and not allow_unused and not materialize_grads:
        raise RuntimeError(
            f"The differentiated Tensor at index {unused[0]} appears to not have been used in the graph. "
            "Set allow_unused=True if this is the desired behavior."
        )
    found = [run.found.get(key) for key in keys]
    if materialize_grads:
        found = [
            wrap(array_module(tensor.array).zeros_like(tensor.array)) if gradient is None else gradient
            for tensor, gradient in zip(wanted, found, strict=True)
        ]
    return tuple(found)


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return (value,) if isinstance(value, Variable) else tuple(value)


class Backward:
    """One backward pass: iterative, each node runs once all gradients that flow into it have arrived.

    Gradients are arrays, or Tensors with create_graph. wanted: the nodes and leaves whose gradients `grad` asks for;
    None when all leaves accumulate.
    """

    def __init__(self, retain_graph: bool | None, create_graph: bool, wanted: set[Any] | None = None) -> None:
        self.lift = create_graph
        self.keep = create_graph if retain_graph is None else retain_graph
        self.scale = 1.0  # what `multiply` made of it
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
        for hook in tuple(begin_hooks):
            hook(self)
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
        except Exception as error:
            explain(error, key)
            raise
        finally:
            thread.running, thread.recording = outer, recording

    def reaches(self, target: Variable | Node) -> bool:
        """Whether this pass sends gradients to a leaf or through a node."""
        return self.wanted is None and target in self.uses

    def multiply(self, factor: float) -> None:
        """Let all gradients of this pass be factor (not 0) times as large, until they arrive at leaves."""
        self.scale *= factor
        for key in self.pending:
            self.pending[key] = self.pending[key] * factor

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
        edges = node.edges
        if gradient is not None and (node.hooks is not None or self.wanted is not None):
            gradient = self._hooked(node.hooks, gradient)
            if self.wanted is not None and node in self.wanted:
                self.found[node] = gradient if self.lift else wrap(gradient.copy())
            edges = self._after(node, gradient)
        pending, route = self.pending, self.route
        ran = route is None
        check = thread.check
        for place, (parent, vjp, saved, versions) in enumerate(edges):
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
                if check is not None:
                    check(node, place, value)
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
        if saved[0] is FREED:
            raise RuntimeError(
                "Trying to backward through the graph a second time (or directly access saved tensors after they have "
                "already been freed). Saved intermediate values of the graph are freed when you call .backward() or "
                "autograd.grad(). Specify retain_graph=True if you need to backward through the graph a second time "
                "or if you need to access saved tensors after calling backward."
            )
        while isinstance(saved[0], Dropped):
            saved, versions = saved[0].recall()
        arguments = []
        for item, version in zip(saved, versions, strict=False):
            if isinstance(item, (Variable, Result)):
                if item.version[0] != version:
                    raise modified(item, version, node if isinstance(item, Result) else item.node)
                value = item if self.lift else item.array
                if isinstance(value, Result):
                    value = wrap(item.array)
                    value.node, value.needs = node, True
                arguments.append(value)
            else:
                arguments.append(item)
        return arguments

    def _hooked(self, hooks: list[Any] | None, gradient: Any) -> Any:
        """The gradient after hooks have seen it; each may replace it by one of its shape and dtype."""
        for hook in tuple(hooks or ()):
            given: Any = gradient if self.lift else wrap(gradient)
            changed: Any = None if isinstance(hook, AfterHook) else hook(given)
            if changed is None:
                continue
            name = getattr(hook, "__name__", repr(hook))
            if not isinstance(changed, Variable):
                raise TypeError(f"expected Variable, but hook returned '{type(changed).__name__}'")
            if changed.array.dtype != given.array.dtype:
                was, got = (f"mpigrad.{of(v.array.dtype).title}Tensor" for v in (given, changed))
                raise RuntimeError(f"hook '{name}' has changed the type of value (was {was} got {got})")
            if changed.array.shape != gradient.shape:
                raise RuntimeError(f"hook '{name}' has changed the size of value")
            gradient = changed if self.lift else changed.array
        return gradient

    def _after(self, node: Node, gradient: Any) -> tuple[Any, ...]:
        """The node's edges; where a hook waits for what comes out of them, with that in the place of the vjps."""
        hooks = [hook.function for hook in node.hooks or () if isinstance(hook, AfterHook)]
        if not hooks:
            return node.edges
        lifted: Any = lambda v: v if v is None or isinstance(v, Variable) else wrap(v)
        found: list[Any] = []
        for parent, vjp, saved, versions in node.edges:
            wanted = self.route is None or parent in self.route
            arguments = self._arguments(node, saved, versions) if saved and wanted else ()
            if not wanted:
                found.append(None)
            elif isinstance(vjp, Into):
                found.append(lifted(vjp.function(gradient, *arguments, out=None)))
            else:
                found.append(lifted(vjp(gradient, *arguments)))
        for hook in hooks:
            changed = hook(tuple(found), (lifted(gradient),))
            if changed is not None:
                found = list(changed)
        values = [v if v is None or self.lift else v.array for v in found]
        return tuple([(edge[0], lambda g, v=v: v, (), ()) for edge, v in zip(node.edges, values, strict=False)])

    def _arrive(self, leaf: Variable, gradient: Any) -> None:
        """The leaf's gradient is final for this pass: accumulate it, then tell the leaf's hooks."""
        if self.scale != 1:
            gradient = gradient / self.scale
        if leaf.gradient_hooks:
            gradient = self._hooked(leaf.gradient_hooks, gradient)
        if self.wanted is not None:
            if leaf in self.wanted:
                self.found[leaf] = gradient if self.lift else wrap(gradient.copy())
            return
        if self.lift:  # a copy of its own, as several leaves may get one gradient
            leaf._grad = _copied(gradient) if leaf._grad is None else leaf._grad + gradient
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


def _copied(gradient: Any) -> Any:
    """The same numbers in memory of their own, with a history."""
    return record("CopyBackwards", array_module(gradient.array).array(gradient.array), (gradient, lambda g: g))
