"""The same bits on any number of ranks: a global batch goes through the module in fixed shards.

Shard v of V has the samples N * v // V to N * (v + 1) // V of a global batch of N. A rank computes its shards one by
one, each in a graph of its own, with random numbers that are a function of (seed, step, shard) and with the buffers
that there were before. Gradients are summed over a shard's samples, then over the shards in the order of tree.py, and
divided once. So neither what is computed nor the order in which it is added up depends on the ranks.

A loss that is a mean over n samples hands each of them 1 / n, and n depends on the number of ranks. So a backward pass
begins with n instead of 1, and the mean's own division makes exactly 1 of it.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from threadpoolctl import threadpool_limits

from ..core.autograd import Backward, Function, Node, begin_hooks, grad, queue_callback, running_backward, wrap
from ..core.backend import Array, array_module, kernels_for_any_size
from ..core.dtypes import HALVES, SINGLE
from ..core.flat import Run, flatten
from ..core.generator import Generator, default_generator, drawing_from
from ..core.nn.module import Module
from ..core.tensor import Tensor
from .buffers import Parts
from .comm.protocol import Communicator
from .replicas import Replicas
from .tree import Cut, partial_sums, sum_over_shards
from .wrapper import tensors

__all__ = ["Shards"]


class Shards:
    """Runs a module forward and backward in shards; what DistributedDataParallel(shards=...) is made of.

    The random numbers of a forward pass depend on the default generator's seed at the beginning, on rank 0, and on
    `step`, which counts the forward passes in training mode: set it to go on where another run ended.

    From here on BLAS computes on one thread in this process, because what it computes depends on their number, and
    kernels of machine code compute arrays of all sizes, because the size of a rank's batch depends on the ranks.
    """

    def __init__(
        self,
        module: Module,
        learned: Sequence[tuple[str, Tensor]],
        replicas: Replicas,
        communicator: Communicator,
        shards: int,
    ) -> None:
        self.module, self.learned, self.replicas, self.communicator = module, learned, replicas, communicator
        self.cut = Cut(shards, communicator.size)
        self.mine = self.cut.of(communicator.rank)
        self.seed = communicator.all_gather_object(default_generator.initial_seed(), "seed of the shards")[0]
        self.step = 0
        self.unused: dict[str, int] = {}  # by name, on how many ranks the latest backward pass did not use it
        self._latest: Callable[[], _Forward | None] = lambda: None
        self.rows: dict[int, slice] = {}  # which rows of this rank's latest batch are a shard's
        self._stream = Generator()
        self._anchor = wrap(np.zeros(()))  # so that a backward pass comes by whose inputs need no gradients
        self._anchor.needs = True
        self._runs: list[Run] = []
        self._buffers: list[Sequence[Array]] = []  # of the runs' sizes: all there are, and those not in use
        self._free: list[Sequence[Array]] = []
        self._pass: _Pass | None = None
        threadpool_limits(1, "blas")
        kernels_for_any_size()

    # --- forward ------------------------------------------------------------------------------------------------------

    def forward(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What the module makes of this rank's part of a global batch. Every rank calls it, with an empty part too."""
        inputs = list(tensors((args, kwargs)))
        samples = self._samples(inputs)
        start = self.cut.start(self.mine.start, samples)
        edges = [self.cut.start(shard, samples) - start for shard in range(self.mine.start, self.mine.stop + 1)]
        self.rows = {shard: slice(*edges[i : i + 2]) for i, shard in enumerate(self.mine)}
        forward = _Forward(self.step, edges[-1])
        self._latest = weakref.ref(forward)  # the graph must not live as long as this
        parts = Parts(self.module)
        for shard, rows in self.rows.items():
            if rows.start < rows.stop or (not edges[-1] and shard == self.mine.start):
                pieces = [_piece(tensor, rows) for tensor in inputs]
                shard_args, shard_kwargs = _refilled((args, kwargs), pieces)
                with parts.part(shard), drawing_from(self._stream.manual_key(self.seed, self.step, shard)):
                    result = self.module(*shard_args, **shard_kwargs)
                forward.shards[shard] = _Shard(rows, pieces, list(tensors(result)))
        self._combine(parts, samples)
        self.step += self.module.training
        return forward.join(self, result, inputs)

    def weigh(self, weight: float) -> None:
        """Let the latest forward pass weigh so much, instead of its samples."""
        forward = self._latest()
        if forward is not None:
            forward.weight = weight

    def _samples(self, inputs: Sequence[Tensor]) -> int:
        """The samples of the global batch. ValueError, on every rank, when the ranks' parts of it are no shards."""
        sizes = {tensor.array.shape[:1] for tensor in inputs}
        size = sizes.pop()[0] if len(sizes) == 1 and () not in sizes else -1
        mine, theirs = np.array([size]), np.empty((self.communicator.size, 1), int)
        self.communicator.all_gather(mine, theirs, "exchange of batch sizes")
        found: list[int] = theirs[:, 0].tolist()
        if -1 in found:
            shapes = ", ".join(str(list(tensor.shape)) for tensor in inputs) or "none"
            where = f"shapes {shapes}" if size == -1 else f"others on rank {found.index(-1)}"
            raise ValueError(
                "shards: expected a call with tensors whose first dimension is the batch, the same for all, found "
                f"{where}"
            )
        samples = sum(found)
        expected = [len(self.cut.samples_of(rank, samples)) for rank in range(self.communicator.size)]
        if found != expected:
            raise ValueError(
                f"shards: expected the ranks to have {expected} of the {samples} samples of a global batch in "
                f"{self.cut.shards} shards, found {found}; use ShardedSampler(..., shards={self.cut.shards})"
            )
        return samples

    def _combine(self, parts: Parts, samples: int) -> None:
        """Give the buffers that the shards have changed what all shards together make of them."""
        size = parts.elements()
        if not size:
            return
        size += -size % self.communicator.size

        def moved(shard: int) -> list[Array]:
            weight = self.cut.start(shard + 1, samples) - self.cut.start(shard, samples)
            return [parts.moved(shard, weight, size)]

        sums = [arrays[0] for arrays in partial_sums(self.cut, self.communicator.rank, moved)]
        parts.move(sum_over_shards(self.communicator, self.cut, sums, samples or 1, "sum of buffers"))

    # --- backward -----------------------------------------------------------------------------------------------------

    def backward(self, forward: _Forward, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Send the outputs' gradients through the shards; returns those of the inputs."""
        running = running_backward()
        if running.lift:
            raise RuntimeError(
                "shards: expected a backward pass without create_graph=True, which only one graph allows"
            )
        if running.wanted is not None:  # autograd.grad leaves .grad alone
            for shard in forward.shards.values():
                self._through(forward, shard, gradients)
        else:
            current = self._begin(running)

            def gradient(shard: int) -> Sequence[Array]:
                for _, parameter in self.learned:
                    parameter._grad = None
                if shard in forward.shards:
                    with drawing_from(self._stream.manual_key(self.seed, forward.step, shard)):
                        self._through(forward, forward.shards[shard], gradients)
                return self._take(current)

            partial = partial_sums(self.cut, self.communicator.rank, gradient, self._free)
            self._reduce(current, partial)
        return forward.input_gradients()

    def _through(self, forward: _Forward, shard: _Shard, gradients: Sequence[Tensor | None]) -> None:
        """One shard's backward pass: into the parameters unless the running pass only asks for the inputs'."""
        running = running_backward()
        if shard.rows.start == shard.rows.stop:
            return
        roots, seeds = [], []
        for output, gradient in zip(shard.outputs, gradients, strict=True):
            if gradient is not None and output.needs:
                roots.append(output)
                mine = shard.part(output, gradient.array)
                seeds.append(wrap(array_module(mine).array(mine, order="C")))  # in memory of one kind, however it lay
        leaves = [piece for piece in shard.pieces if piece.needs]
        if not roots:
            return
        if running.wanted is None:
            for leaf in leaves:
                leaf._grad = None
            Backward(running.keep, False).run(roots, seeds)
        else:
            for leaf, found in zip(leaves, grad(roots, leaves, seeds, running.keep, allow_unused=True), strict=True):
                leaf._grad = found

    def _begin(self, running: Backward) -> _Pass:
        """This module's part in a backward pass, begun when the first output is reached."""
        if self._pass is None or self._pass.running is not running:
            for name, parameter in self.learned:
                if running.reaches(parameter):
                    raise RuntimeError(
                        "shards: expected a loss that uses the parameters through the module's outputs, found one "
                        f"that uses {name} itself; let the module compute that part, or use weight_decay"
                    )
            self._lay_out()
            self._pass = _Pass(running, self.learned, self._runs)
            queue_callback(self._finish)
        return self._pass

    def _lay_out(self) -> None:
        if not self._runs or not all(run.holds() for run in self._runs):
            self._runs = flatten([parameter for _, parameter in self.learned])
            self._buffers.clear()
        self._free = list(self._buffers)

    def _take(self, current: _Pass) -> Sequence[Array]:
        """A copy of the gradients that one shard has left in the parameters."""
        for place, (_, parameter) in enumerate(self.learned):
            if parameter._grad is None:
                parameter.home.gradient[...] = 0
            else:
                current.used[place] = True
        if not self._free:
            ranks = self.communicator.size
            self._free.append([
                array_module(run.gradients).zeros(
                    -(-run.gradients.size // ranks) * ranks,
                    SINGLE if run.gradients.dtype in HALVES else run.gradients.dtype,
                )
                for run in self._runs
            ])  # fmt: skip
            self._buffers += self._free
        taken = self._free.pop()
        for buffer, run in zip(taken, self._runs, strict=True):
            buffer[: run.gradients.size] = run.gradients
        return taken

    def _reduce(self, current: _Pass, partial: Sequence[Sequence[Array]]) -> None:
        """Add the shards of all ranks up, and to what other forward passes have contributed."""
        mine = np.array([_weight(current.running), self.replicas.loaded, *current.used], np.float64)
        everyones = np.empty((self.communicator.size, mine.size))
        self.communicator.all_gather(mine, everyones, "exchange of weights")
        weight, loaded, *used = everyones.sum(0).tolist()
        self.replicas.hear_of_loads(loaded)
        current.used = [bool(count) for count in used]
        size = self.communicator.size
        self.unused = {
            name: size - int(count) for (name, _), count in zip(self.learned, used, strict=True) if count < size
        }
        totals = [
            sum_over_shards(self.communicator, self.cut, [arrays[place] for arrays in partial], weight or 1)
            for place in range(len(self._runs))
        ]
        for place, total in enumerate(totals):
            if current.totals:
                total += current.totals[place]
        current.totals = totals

    def _finish(self) -> None:
        """The backward pass has ended: the gradients are the mean over all samples, added to those from before."""
        current, self._pass = self._pass, None
        assert current is not None
        for run, total, before in zip(self._runs, current.totals, current.before, strict=True):
            sums = total[: run.gradients.size]
            run.gradients[...] = sums if before is None else before + sums
        for (_, parameter), used, earlier in zip(self.learned, current.used, current.grads, strict=True):
            parameter._grad = parameter.home.lend(earlier) if used or earlier is not None else None


class _Shard:
    """What one shard of a forward pass took and gave. rows: which rows of the rank's batch it is."""

    __slots__ = ("outputs", "pieces", "rows")

    def __init__(self, rows: slice, pieces: list[Tensor], outputs: list[Tensor]) -> None:
        self.rows, self.pieces, self.outputs = rows, pieces, outputs
        for output in outputs:
            size, samples = output.array.shape[:1], rows.stop - rows.start
            if size != (0,) and (not size or not samples or size[0] % samples):
                raise ValueError(
                    "shards: expected a module whose outputs have the batch as their first dimension, found one of "
                    f"shape {list(output.shape)} for {samples} samples; compute losses outside it"
                )

    def part(self, output: Tensor, whole: Array) -> Array:
        """The rows of the outputs of all shards that are one of this one's: some for each sample."""
        each = len(output.array) // (self.rows.stop - self.rows.start)
        return whole[self.rows.start * each : self.rows.stop * each]


class _Forward:
    """One forward pass. weight: the samples of this rank's batch, or what the user says it weighs."""

    def __init__(self, step: int, weight: float) -> None:
        self.step, self.weight = step, weight
        self.shards: dict[int, _Shard] = {}

    def join(self, owner: Shards, like: Any, inputs: Sequence[Tensor]) -> Any:
        """The shards' outputs one after the other, in the containers of one of them."""
        joined = JoinShards.apply(owner, self, owner._anchor, *inputs)
        for tensor in joined:
            if tensor.node is not None:
                _live.forwards[tensor.node] = self
        return _refilled(like, joined)

    def input_gradients(self) -> list[Tensor | None]:
        """What the shards' backward passes have left in the pieces of the inputs."""
        found: list[Tensor | None] = []
        for pieces in zip(*(shard.pieces for shard in self.shards.values()), strict=True):
            if any(piece._grad is not None for piece in pieces):
                xp = array_module(pieces[0].array)
                parts = [xp.zeros_like(p.array) if p._grad is None else p._grad.array for p in pieces]
                found.append(wrap(xp.concatenate(parts)))
            else:
                found.append(None)
        return found


class JoinShards(Function):
    """The outputs of all shards as one op, whose backward is that of the shards."""

    @staticmethod
    def forward(ctx: Any, owner: Shards, forward: _Forward, anchor: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.owner, ctx.pass_forward = owner, forward
        ctx.set_materialize_grads(False)
        outputs = list(zip(*(shard.outputs for shard in forward.shards.values()), strict=True))
        joined = tuple([_concatenated(of_all) for of_all in outputs])
        ctx.mark_non_differentiable(
            *[whole for whole, of_all in zip(joined, outputs, strict=True) if not any(o.needs for o in of_all)]
        )
        return joined

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        return (None, None, None, *ctx.owner.backward(ctx.pass_forward, gradients))


class _Pass:
    """A module's part in one backward pass."""

    def __init__(self, running: Backward, learned: Sequence[tuple[str, Tensor]], runs: Sequence[Run]) -> None:
        self.running = running
        self.used = [False] * len(learned)  # by some shard
        self.totals: list[Array] = []  # for each run the sum over the shards of all ranks
        self.grads: list[Tensor | None] = [parameter._grad for _, parameter in learned]
        for _, parameter in learned:
            gradient, home = parameter._grad, parameter.home
            if gradient is None:
                home.reclaim()[...] = 0
            elif gradient.array is not home.gradient:
                home.reclaim()[...] = gradient.array
            home.lent = None
        some = any(gradient is not None for gradient in self.grads)
        self.before = [run.gradients.copy() if some else None for run in runs]


class _Live(threading.local):
    """The forward passes of this thread whose graph is alive, by the nodes of their outputs."""

    def __init__(self) -> None:
        self.forwards: WeakKeyDictionary[Node, _Forward] = WeakKeyDictionary()


_live = _Live()


def _weight(running: Backward) -> float:
    """The weight of the forward passes that a backward pass goes through, on this rank."""
    return sum(forward.weight for forward in {f for node, f in _live.forwards.items() if running.reaches(node)})


def _begin_with_weight(running: Backward) -> None:
    weight = _weight(running) if _live.forwards else 0
    if weight:
        running.multiply(weight)


begin_hooks.append(_begin_with_weight)


def _mapped(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Nested tuples, lists and dicts with function applied to each tensor."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: _mapped(function, item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        items = [_mapped(function, item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def _refilled(value: Any, tensors: Iterable[Tensor]) -> Any:
    """The same containers with other tensors."""
    given = iter(tensors)
    return _mapped(lambda _: next(given), value)


def _piece(tensor: Tensor, rows: slice) -> Tensor:
    """Some rows, the beginning of a graph of its own."""
    array = tensor.array[rows]
    piece = wrap(array_module(array).ascontiguousarray(array))
    if piece.array is array:
        piece.version = tensor.version
    piece.needs = tensor.needs
    return piece


def _concatenated(tensors: Sequence[Tensor]) -> Tensor:
    """The rows of all tensors, in C order however they lie."""
    arrays = [tensor.array for tensor in tensors]
    xp, shape = array_module(arrays[0]), arrays[0].shape[1:]
    if len(arrays) > 1:
        return wrap(xp.concatenate(arrays, out=xp.empty((sum(map(len, arrays)), *shape), arrays[0].dtype)))
    whole = wrap(xp.require(arrays[0], requirements="CW") if xp is np else xp.ascontiguousarray(arrays[0]))
    if whole.array is arrays[0]:
        whole.version = tensors[0].version
    return whole
