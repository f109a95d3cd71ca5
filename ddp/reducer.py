"""Reducer: what happens to gradients in a backward pass, so that every rank holds the exact mean at its end.

While backward goes on, each bucket of gradients that is complete is reduced, in index order. What is summed is gradient
times weight, divided by all ranks' weights, so ranks with a short or an empty batch weigh what they hold. The weights
and which parameters and buffers are used travel ahead of the buckets, in one message.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import ref
from zlib import crc32

import numpy as np

from ..core.autograd import Backward, Node, RemovableHandle, begin_hooks
from ..core.backend import Array, array_module
from ..core.flat import move_gradients
from ..core.optim.optimizer import Optimizer, register_optimizer_step_pre_hook
from ..core.tensor import Tensor
from .bucket import Bucket, GradBucket, make_buckets
from .buffers import Replicated
from .comm.protocol import Communicator, Work
from .forward import Forward
from .replicas import Replicas
from .steps import hear, steps_any_of

if TYPE_CHECKING:
    from .in_backward import StepsInBackward

__all__ = ["NonFinite", "Overlap", "Reducer", "Traffic", "reducers_of", "retire_earlier"]

FACTS = 6  # what a rank tells of itself before each reduction, beside what it uses
Named = Sequence[tuple[str, Tensor]]


@dataclass(frozen=True)
class Overlap:
    """Seconds over all synchronised backward passes so far."""

    communication: float
    """Spent on reducing buckets, on whichever thread; not with waiting for ranks that are late."""
    exposed: float
    """For which backward stood still, waiting for late ranks included."""

    @property
    def hidden(self) -> float:
        """The share of the communication that went on while backward computed, from 0 to 1."""
        return max(0.0, 1 - self.exposed / self.communication) if self.communication else 0.0


@dataclass(frozen=True)
class Traffic:
    """Bytes of gradients that this rank has sent to others, over all synchronised backward passes so far."""

    sent: float = 0.0
    """As the communication hook counts them; without one as many as exact."""
    exact: float = 0.0
    """What the exact reduction sends at least: 2 (n - 1) / n of the gradients for n ranks."""


@dataclass(frozen=True)
class NonFinite:
    """A gradient with an infinity or a NaN in it, as it was on one rank before the reduction."""

    rank: int
    parameter: str


class Reducer:
    """Reduces the gradients of the learned parameters at the end of every backward pass that reaches them.

    caps: bytes of the first bucket and of the others. buffers: to be brought in step by the same passes. replicas: told
    by them that some rank has loaded something.
    """

    def __init__(
        self,
        learned: Named,
        frozen: Named,
        buffers: Replicated,
        replicas: Replicas,
        communicator: Communicator,
        caps: tuple[float, float],
        check_finite: bool,
    ) -> None:
        self.learned, self.frozen, self.buffers, self.comm = learned, frozen, buffers, communicator
        self.replicas = replicas
        self.sync = True
        self.check_finite = check_finite
        self.comm_hook: Callable[[GradBucket], Any] | None = None
        self.stepper: StepsInBackward | None = None  # steps an optimizer by what is reduced
        self.unused: dict[str, int] = {}
        self.nonfinite: list[NonFinite] = []
        self.communication = self.exposed = 0.0  # seconds, see Overlap
        self.bytes_sent, self.bytes_exact = 0.0, 0.0
        self._parameters = [parameter for _, parameter in learned]
        self._numbers = {parameter: number for number, parameter in enumerate(self._parameters)}
        self._caps = caps
        self._pass: _Pass | None = None
        self._accumulated = _Accumulated()
        self._forwards: list[tuple[ref[Node], Forward]] = []  # of each output whose graph is alive
        self._latest = Forward(1)
        self.buckets: list[Bucket] = []
        self.lay_out()
        self.share()
        self._message = communicator.allocate(FACTS + len(learned) + 2 * len(buffers), np.dtype(np.float64))
        self._flags = communicator.allocate(communicator.size if check_finite else 0, np.dtype(np.float64))
        self._handles: list[RemovableHandle] = [
            hear(register_optimizer_step_pre_hook, self.before_step),
            hear(lambda hook: RemovableHandle(begin_hooks, hook), self.begin),
        ]
        for parameter in self._parameters:
            self._handles.append(parameter.register_post_accumulate_grad_hook(self._gradient_final))
        self.retired = False

    def retire(self) -> None:
        """Another wrapper takes the parameters over."""
        self.retired = True
        self.replicas.stop()
        for handle in self._handles:
            handle.remove()

    @contextlib.contextmanager
    def without_sync(self) -> Iterator[None]:
        """Within the block nothing is reduced."""
        before, self.sync = self.sync, False
        try:
            yield
        finally:
            self.sync = before

    # --- memory -------------------------------------------------------------------------------------------------------

    def lay_out(self) -> None:
        """Make buckets of where the parameters lie now."""
        self.buckets = make_buckets(self.learned, *self._caps)
        self._observed: list[Bucket] | None = []  # those whose gradients were final, in this order
        self._index()
        self._moved = True

    def _index(self) -> None:
        self._bucket_of = {tensor: bucket for bucket in self.buckets for tensor in bucket.tensors}
        self._layout = crc32("".join(bucket.name for bucket in self.buckets).encode()) % 2**20

    def share(self) -> None:
        """Let the gradients lie where the communicator reduces them best, once all ranks have laid out theirs alike."""
        for gradients in {id(b.home.gradients): b.home.gradients for b in self.buckets}.values():
            if isinstance(gradients, np.ndarray):
                shared = self.comm.allocate(gradients.size, gradients.dtype)
                move_gradients([p for _, p in self.learned if p.home.gradients is gradients], shared)
        self.lay_out()
        self._moved = False
        if self.stepper is not None:
            self.stepper.settle()

    def _settle_order(self) -> None:
        """From now on reduce the buckets in the order in which rank 0's became ready in the pass that has ended."""
        observed, self._observed = self._observed, None
        if not observed or len(self.buckets) == 1:
            return
        places = {bucket: place for place, bucket in enumerate(self.buckets)}
        order = np.array([places[bucket] for bucket in dict.fromkeys([*observed, *self.buckets])])
        self.comm.broadcast(order, 0, "order of the gradient buckets")
        self.buckets = [self.buckets[place] for place in order.tolist()]
        for index, bucket in enumerate(self.buckets):
            bucket.place(index)
        self._index()

    # --- forward passes -----------------------------------------------------------------------------------------------

    def forward(self, outputs: Iterable[Tensor], forward: Forward) -> None:
        """A forward pass has given these outputs."""
        self._latest = forward
        alive = [known for known in self._forwards if known[0]() is not None]
        alive += [(ref(tensor.node), forward) for tensor in outputs if tensor.node is not None]
        self._forwards = alive  # another list, as other threads' passes may be reading

    def weigh(self, weight: float) -> None:
        """Let the latest forward pass weigh so much, instead of its samples."""
        self._latest.samples = weight

    # --- a backward pass ----------------------------------------------------------------------------------------------

    def begin(self, running: Backward) -> None:
        """A backward pass begins: take part if it reaches an output, or a parameter that is used past the outputs."""
        if running.wanted is not None:  # autograd.grad leaves .grad alone
            return
        uses = running.uses
        reached = [parameter in uses for parameter in self._parameters]
        forwards = {forward for node, forward in self._forwards if node() in uses}
        if forwards or True in reached:
            if self._pass is not None:
                self._give_up(self._pass)
            if self.stepper is not None and self.sync:
                self.stepper.begin()
            self._pass = self._begin(reached, forwards or {self._latest})
            running.callbacks.append(self._finish)

    def _gradient_final(self, parameter: Tensor) -> None:
        current = self._pass
        assert current is not None, "begun before any gradient arrives"
        _bring_home(parameter)  # create_graph puts it elsewhere
        if current.syncs:
            bucket = self._bucket_of[parameter]
            bucket.waiting -= 1
            if bucket.waiting <= 0:
                if self._observed is not None:
                    self._observed.append(bucket)
                self._start_reductions(current)

    def _give_up(self, failed: _Pass) -> None:
        """An exception ended a pass midway, so the gradients are worthless. The reductions must be over, though."""
        if self.stepper is not None and failed.next:
            raise RuntimeError(
                "an exception has ended a backward pass that had updated some of the parameters, as backward passes do "
                "with ZeroRedundancyOptimizer(..., overlap_with_ddp=True): load the latest checkpoint, wrap the module "
                "again and make a new optimizer"
            )
        self._pass, self._accumulated = None, _Accumulated()
        for work in failed.works:
            work.wait()
        for _, parameter in self.learned:
            parameter._grad = None

    def _begin(self, reached: list[bool], forwards: set[Forward]) -> _Pass:
        for name, parameter in self.frozen:
            if parameter.needs:
                raise RuntimeError(
                    f"parameter {name} was frozen when the module was wrapped and requires a gradient now: expected "
                    "the parameters to learn to stay the same; wrap the module again"
                )
        for bucket in self.buckets:
            if not bucket.holds():
                self.lay_out()
                break
        held = [parameter for parameter in self._parameters if parameter._grad is not None]
        if not held:
            self._accumulated = _Accumulated()
        for parameter in held:
            _bring_home(parameter)
        samples = sum([forward.samples for forward in forwards])
        factor = self._accumulated.add(samples)
        if factor != 1:
            for parameter in held:
                parameter._grad.array[...] *= parameter.array.dtype.type(factor)
        current = _Pass(self.sync)
        if not samples:
            for parameter in self._parameters:
                if parameter._grad is None:
                    parameter.home.reclaim()[...] = 0
            current.before = [bucket.gradients.copy() for bucket in self.buckets]
        if self.sync:
            self._announce(current, reached)
        return current

    def _announce(self, current: _Pass, reached: list[bool]) -> None:
        """Start the exchange of weights and of what has gradients or has changed; the reductions come after it."""
        mine, message = self._accumulated, self._message
        current.weight = mine.scaled_to * mine.passes
        used = [arrives or p._grad is not None for p, arrives in zip(self._parameters, reached, strict=True)]
        facts = [mine.samples, mine.passes, mine.passes**2, self._layout, self._layout**2, self.replicas.loaded]
        message[:] = [*facts, *used, *self.buffers.state()]
        current.works.append(self.comm.weighted_sum_start(message, 1, lambda: 1, "exchange of sample counts"))
        if self._moved:  # no reduction may start before it is known that all ranks' parameters have moved
            current.works[0].wait()
            self._samples()
            self.share()
        for bucket in self.buckets:
            bucket.waiting = 0
        for parameter, arrives, anything in zip(self._parameters, reached, used, strict=True):
            if arrives:
                self._bucket_of[parameter].waiting += 1
            elif not anything:
                parameter.home.reclaim()[...] = 0

    def _start_reductions(self, current: _Pass) -> None:
        """Start the reduction of every bucket whose turn has come and that waits for no gradient."""
        if current.next == len(self.buckets) or self.buckets[current.next].waiting > 0:
            return
        started = time.perf_counter()
        while current.next < len(self.buckets) and self.buckets[current.next].waiting <= 0:
            bucket = self.buckets[current.next]
            if current.before is not None:
                bucket.gradients[...] = current.before[current.next]
            current.next += 1
            exact = 2 * bucket.gradients.nbytes * (self.comm.size - 1) / self.comm.size
            self.bytes_exact += exact
            if self.check_finite and not current.nonfinite:
                current.nonfinite = 1 + self._first_nonfinite(bucket)
            if self.comm_hook is None:
                self._sent(exact)
                step = None if self.stepper is None else self.stepper.start(bucket)
                work = self.comm.weighted_sum_start(bucket.gradients, current.weight, self._samples, bucket.name, step)
                current.works.append(work)
            else:
                self._call_hook(current, bucket)
        current.exposed += time.perf_counter() - started

    def _call_hook(self, current: _Pass, bucket: Bucket) -> None:
        """Scaled so that the mean over the ranks is the exact mean gradient, hand a bucket to the hook."""
        assert self.comm_hook is not None
        current.works[0].wait()
        whole = self._samples()
        bucket.gradients *= bucket.gradients.dtype.type(current.weight * self.comm.size / whole if whole else 0)
        given = GradBucket(bucket, len(self.buckets), self.comm, self._sent)
        current.hooked.append((bucket, self.comm_hook(given)))

    def _sent(self, count: float) -> None:
        self.bytes_sent += count

    def _finish(self) -> None:
        """The backward pass has ended: wait for the reductions. Gradients are the global mean from here on."""
        current, self._pass = self._pass, None
        assert current is not None, "queued by a pass"
        if not current.syncs:
            for bucket, gradients in zip(self.buckets, current.before or (), strict=False):
                bucket.gradients[...] = gradients
            return
        for bucket in self.buckets[current.next :]:
            for parameter in bucket.tensors:
                if parameter._grad is None:  # part of the graph, but no gradient came
                    parameter.home.reclaim()[...] = 0
            bucket.waiting = 0
        self._start_reductions(current)
        started = time.perf_counter()
        current.works[0].wait()
        total = self._samples()
        self.replicas.hear_of_loads(float(self._message[FACTS - 1]))
        learned = len(self.learned)
        found = self._message.tolist()[FACTS:]
        combined = self.buffers.combine_start(found[learned:], self._accumulated.samples, total)
        flags = self._exchange_nonfinite(current) if self.check_finite else None
        for work in current.works:
            work.wait()
        for bucket, result in current.hooked:
            bucket.take(result.wait() if hasattr(result, "wait") else result)
        combined()
        if flags is not None:
            self.nonfinite = [
                NonFinite(rank, self.learned[int(flag) - 1][0]) for rank, flag in enumerate(flags.tolist()) if flag
            ]
        self.communication += sum([work.seconds for work in current.works])
        self.exposed += current.exposed + time.perf_counter() - started
        if self.stepper is not None:
            self.stepper.finish()
        elif current.before is not None and not total:  # empty batches everywhere
            for bucket, gradients in zip(self.buckets, current.before, strict=True):
                bucket.gradients[...] = gradients
        self.unused = {}
        for (name, parameter), count in zip(self.learned, found, strict=False):
            if count and parameter._grad is None and self.stepper is None:
                parameter._grad = parameter.home.lend()
            if count < self.comm.size:
                self.unused[name] = self.comm.size - int(count)
        self._accumulated = _Accumulated()
        if self._observed is not None:
            self._settle_order()

    def used(self, parameters: Sequence[Tensor]) -> Set[Tensor]:
        """Those that some rank uses in the running pass, asked when the exchange is done."""
        return {parameter for parameter in parameters if self._message[FACTS + self._numbers[parameter]]}

    def _samples(self) -> float:
        """The samples of all ranks, asked when the exchange is done. RuntimeError when the ranks are out of step."""
        size = self.comm.size
        samples, passes, squared_passes, layout, squared_layout, _ = self._message[:FACTS].tolist()
        if squared_passes * size != passes**2:  # equal only if all ranks' numbers are (Cauchy-Schwarz)
            raise RuntimeError(
                f"rank {self.comm.rank} accumulated {self._accumulated.passes} backward passes, the average over all "
                f"ranks is {passes / size:g}: expected the same number under no_sync() on every rank"
            )
        if squared_layout * size != layout**2:
            raise RuntimeError(
                "the ranks' parameters lie in memory in different orders: expected every rank to assign to .data, and "
                "to move the module, as the others do"
            )
        return float(samples)

    # --- what may go wrong --------------------------------------------------------------------------------------------

    def _first_nonfinite(self, bucket: Bucket) -> int:
        """The number of the first learned parameter of the bucket with an infinity or a NaN in its gradient, or -1."""
        gradients = bucket.gradients
        xp = array_module(gradients)
        if xp.isfinite(xp.dot(gradients, gradients)):  # one quick pass; large but finite numbers may get past it
            return -1
        for number, (_, parameter) in enumerate(self.learned):
            if self._bucket_of[parameter] is bucket and not xp.isfinite(parameter.home.gradient).all():
                return number
        return -1

    def _exchange_nonfinite(self, current: _Pass) -> Array:
        """Begin to tell all ranks which parameter's gradient was not finite here: 1 + its number, or 0, by rank."""
        flags = self._flags
        flags[:] = 0
        flags[self.comm.rank] = current.nonfinite
        current.works.append(self.comm.weighted_sum_start(flags, 1, lambda: 1, "exchange of non-finite gradients"))
        return flags

    def before_step(self, optimizer: Optimizer) -> None:
        """RuntimeError when an optimizer is about to step these parameters on gradients that only this rank has."""
        if not self._accumulated.passes or all(p._grad is None for p in self._parameters):
            return
        if steps_any_of(optimizer, {parameter for _, parameter in self.learned}):
            raise RuntimeError(
                f"{type(optimizer).__name__}.step: expected gradients that all ranks share, found those of "
                f"{self._accumulated.passes} backward pass(es) under no_sync(), which only rank {self.comm.rank} has; "
                "leave the last backward pass before a step outside of no_sync(), or drop the gradients by zero_grad()"
            )


def retire_earlier(learned: Named) -> None:
    """Let the reducers that these parameters have be done with them."""
    for earlier in reducers_of([parameter for _, parameter in learned]):
        earlier.retire()


def reducers_of(parameters: Iterable[Tensor]) -> list[Reducer]:
    """The reducers of these parameters, each once."""
    owners = [getattr(hook, "__self__", None) for parameter in parameters for hook in parameter.hooks or ()]
    return list(dict.fromkeys([owner for owner in owners if isinstance(owner, Reducer)]))


class _Accumulated:
    """What backward passes have added up since the last reduction.

    The gradients hold sum(samples * mean gradient) / scaled_to. With batches of one size that is PyTorch's plain sum,
    and nothing is ever rescaled.
    """

    def __init__(self) -> None:
        self.samples, self.passes, self.scaled_to = 0.0, 0, 0.0

    def add(self, samples: float) -> float:
        """Count one more pass; returns by how much to multiply what was accumulated before its gradients arrive."""
        factor = self.scaled_to / samples if samples and self.scaled_to else 1.0
        self.samples += samples
        self.passes += 1
        self.scaled_to = samples or self.scaled_to
        return factor


class _Pass:
    """A reducer's part in one backward pass."""

    def __init__(self, syncs: bool) -> None:
        self.syncs = syncs
        self.weight = 0.0  # what this rank's gradients are multiplied by before they are summed
        self.next = 0  # the bucket whose reduction starts next
        self.before: list[Array] | None = None  # with an empty batch: the gradients to which the pass adds nothing
        self.works: list[Work] = []
        self.hooked: list[tuple[Bucket, Any]] = []  # buckets that a hook reduces, and what it gave
        self.nonfinite = 0  # 1 + the number of the first parameter whose gradient is not finite on this rank
        self.exposed = 0.0  # seconds


def _bring_home(parameter: Tensor) -> None:
    """Make sure that the gradient, if there is one, lies in flat memory and is a tensor of its own."""
    grad, home = parameter._grad, parameter.home
    if grad is not None and grad.array is not home.gradient:
        home.reclaim()[...] = grad.array
        parameter._grad = home.lend()
