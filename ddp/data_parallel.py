"""DistributedDataParallel: after `loss.backward()` every rank holds the exact mean gradient over all ranks' samples.

While backward goes on, each bucket of gradients that is complete is reduced, in index order, on the communicator's
thread. What is summed is gradient times samples, divided by all ranks' samples, so ranks with a short or an empty
batch weigh what they hold.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self
from weakref import WeakKeyDictionary
from zlib import crc32

import numpy as np

from ..core.autograd import Node, RemovableHandle, queue_callback, running_backward, thread
from ..core.backend import Array
from ..core.flat import move_gradients
from ..core.nn.module import Module
from ..core.tensor import Tensor
from .bucket import MIB, Bucket, make_buckets
from .comm.protocol import Communicator, Work
from .process_group import world
from .shards import Shards

FACTS = 5  # what a rank tells of itself before each reduction, beside which parameters it uses


class DistributedDataParallel(Module):
    """Wraps a module for data-parallel training; call it as you would call the module.

    Parameters and buffers start as rank 0's. bucket_cap_mb (25) and first_bucket_mb: bucket sizes in MiB. The names in
    state dicts are the module's own. device_ids (one device at most), output_device and find_unused_parameters are
    there for PyTorch's callers: the module is computed where its parameters lie, and unused ones need no flag.
    RuntimeError when the module has nothing to learn, when the ranks' modules differ, or before init_process_group.
    Wrapping a module again retires its earlier wrapper.

    The loss is a mean over the batch, and the batch is the first dimension of the first tensor that the module is
    called with. Every rank runs equally many backward passes, one with an empty batch too: it adds nothing, whatever
    its loss.

    Under `no_sync()` gradients accumulate locally; the next backward pass outside reduces them. K passes give K times
    the mean gradient over all their samples: divide the loss by K, as in one process. Gradients that were there before
    the K passes stay part of the sum, exactly so when each rank's batches are of one size.

    shards: compute in that many parts of each global batch, so that the same bits come out on any number of ranks up to
    it (also where dropout and batch norm are used); feed it by ShardedSampler(..., shards=...). Every tensor that the
    module takes or gives has the samples as its first dimension. Every forward and every backward pass communicates,
    in evaluation and under no_sync() too: use `.module` for what only one rank does. To the bit are gradients of losses
    that are means over samples, times powers of two; see shards.py, and `.shards.step` for going on after a restart.
    """

    def __init__(
        self,
        module: Module,
        device_ids: Sequence[Any] | None = None,
        output_device: Any = None,
        *,
        bucket_cap_mb: float | None = None,
        first_bucket_mb: float = 1,
        find_unused_parameters: bool = True,
        shards: int | None = None,
        communicator: Communicator | None = None,
    ) -> None:
        super().__init__()
        if device_ids is not None and len(device_ids) > 1:
            raise ValueError(f"device_ids: one rank drives one device, found {list(device_ids)}")
        self.module = module
        self._learned = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        self._frozen = [(name, p) for name, p in module.named_parameters() if not p.requires_grad]
        self._caps = (first_bucket_mb * MIB, (25 if bucket_cap_mb is None else bucket_cap_mb) * MIB)
        self._comm = (communicator or world()).duplicate("gradients")
        self._buckets: list[Bucket] = []
        self._lay_out()
        _check_same_module(self._comm, module, self._buckets, shards)
        if shards is None:
            self._share()
        self._message = self._comm.allocate(FACTS + len(self._learned), np.dtype(np.float64))
        if not self._learned:
            raise RuntimeError(
                "DistributedDataParallel is not needed when a module doesn't have any parameters that require a "
                "gradient."
            )
        self._broadcast()
        self.shards = None if shards is None else Shards(module, self._learned, self._comm, shards)
        self._sync = True
        self._pass: _Pass | None = None
        self._accumulated = _Accumulated()
        self._forwards: WeakKeyDictionary[Node, _Forward] = WeakKeyDictionary()  # by the node of each output
        self._latest = _Forward(1)
        self._retired = False
        self._hooks: list[RemovableHandle] = []
        for _, parameter in self._learned:
            for hook in list(parameter.hooks or ()):
                earlier = getattr(hook, "__self__", None)
                if isinstance(earlier, DistributedDataParallel):
                    earlier._retire()
            if self.shards is not None:
                continue
            self._hooks.append(parameter.register_hook(self._reached))
            self._hooks.append(parameter.register_post_accumulate_grad_hook(self._gradient_final))

    def _retire(self) -> None:
        """Another wrapper takes the parameters over."""
        self._retired = True
        for hook in self._hooks:
            hook.remove()

    def _lay_out(self) -> None:
        self._buckets = make_buckets(self._learned, *self._caps)
        self._bucket_of = {tensor: bucket for bucket in self._buckets for tensor in bucket.tensors}
        self._layout = crc32("".join(bucket.name for bucket in self._buckets).encode()) % 2**20
        self._moved = True

    def _share(self) -> None:
        """Let the gradients lie where the communicator reduces them best, once all ranks have laid out theirs alike."""
        for gradients in {id(b.home.gradients): b.home.gradients for b in self._buckets}.values():
            if isinstance(gradients, np.ndarray):
                shared = self._comm.allocate(gradients.size, gradients.dtype)
                move_gradients([p for _, p in self._learned if p.home.gradients is gradients], shared)
        self._lay_out()
        self._moved = False

    def _broadcast(self) -> None:
        for bucket in self._buckets:
            self._comm.broadcast(bucket.values, 0, "broadcast of parameters")
        for _, tensor in (*self._frozen, *self.module.named_buffers()):
            self._comm.broadcast(tensor.array, 0, "broadcast of buffers")

    # --- the wrapped module -----------------------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self._retired:
            raise RuntimeError("this module was wrapped again: use the later DistributedDataParallel")
        if self.shards is not None:
            return self.shards.forward(args, kwargs)
        output = self.module(*args, **kwargs)
        if thread.recording:
            forward = self._latest = _Forward(_batch_size((args, kwargs)))
            for tensor in _tensors(output):
                if tensor.node is not None:
                    self._forwards[tensor.node] = forward
                    tensor.register_hook(self._reached)
        return output

    def named_modules(
        self, memo: set[Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """The wrapped module and everything below it, under its own names."""
        return self.module.named_modules(memo, prefix, remove_duplicate)

    def state_dict(self, *, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """The wrapped module's."""
        return self.module.state_dict(destination=destination, prefix=prefix, keep_vars=keep_vars)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Into the wrapped module; load the same on every rank."""
        return self.module.load_state_dict(state_dict, strict, assign)

    def train(self, mode: bool = True) -> Self:
        """Set training mode on the wrapped module."""
        super().train(mode)
        self.training = mode
        return self

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Within the block backward passes accumulate gradients on each rank and communicate nothing."""
        before, self._sync = self._sync, False
        try:
            yield
        finally:
            self._sync = before

    # --- a backward pass --------------------------------------------------------------------------------------------

    def _reached(self, gradient: Tensor) -> None:
        """A gradient comes to an output, or to a parameter that a loss uses past the outputs."""
        if running_backward().wanted is None and not self._retired:  # autograd.grad leaves .grad alone
            self._current()

    def _gradient_final(self, parameter: Tensor) -> None:
        current = self._current()
        _bring_home(parameter)  # create_graph puts it elsewhere
        if current.syncs:
            self._bucket_of[parameter].waiting -= 1
            self._start_reductions(current)

    def _current(self) -> _Pass:
        """This wrapper's part in the running backward pass; begun at the first event, before any gradient arrives."""
        running = running_backward()
        if self._pass is None or self._pass.running is not running:
            if self._pass is not None:
                self._give_up(self._pass)
            self._pass = self._begin(running)
            queue_callback(self._finish)
        return self._pass

    def _give_up(self, failed: _Pass) -> None:
        """An exception ended a pass midway, so the gradients are worthless. The reductions must be over, though."""
        self._pass, self._accumulated = None, _Accumulated()
        for work in failed.works:
            work.wait()
        for _, parameter in self._learned:
            parameter._grad = None

    def _begin(self, running: Any) -> _Pass:
        for name, parameter in self._frozen:
            if parameter.needs:
                raise RuntimeError(
                    f"parameter {name} was frozen when the module was wrapped and requires a gradient now: expected "
                    "the parameters to learn to stay the same; wrap the module again"
                )
        if not all(bucket.holds() for bucket in self._buckets):
            self._lay_out()
        for _, parameter in self._learned:
            _bring_home(parameter)
        if all(p._grad is None for _, p in self._learned):
            self._accumulated = _Accumulated()
        forwards = {f for node, f in self._forwards.items() if running.reaches(node)}
        samples = sum(f.samples for f in forwards or {self._latest})
        factor = self._accumulated.add(samples)
        if factor != 1:
            for _, parameter in self._learned:
                if parameter._grad is not None:
                    parameter._grad.array[...] *= parameter.array.dtype.type(factor)
        current = _Pass(running, self._sync)
        if not samples:
            for _, parameter in self._learned:
                if parameter._grad is None:
                    parameter.home.reclaim()[...] = 0
            current.before = [bucket.gradients.copy() for bucket in self._buckets]
        if self._sync:
            self._announce(current)
        return current

    def _announce(self, current: _Pass) -> None:
        """Start the exchange of sample counts and of which parameters have gradients; the reductions come after it."""
        mine = self._accumulated
        current.weight = mine.scaled_to * mine.passes
        current.used = [p._grad is not None or current.running.reaches(p) for _, p in self._learned]
        facts = [mine.samples, mine.passes, mine.passes**2, self._layout, self._layout**2]
        current.message = self._message
        current.message[:] = [*facts, *current.used]
        current.works.append(self._comm.weighted_sum_start(current.message, 1, lambda: 1, "exchange of sample counts"))
        if self._moved:  # no reduction may start before it is known that all ranks' parameters have moved
            current.works[0].wait()
            self._samples(current)
            self._share()
        for bucket in self._buckets:
            bucket.waiting = 0
        for (_, parameter), used in zip(self._learned, current.used, strict=True):
            if current.running.reaches(parameter):
                self._bucket_of[parameter].waiting += 1
            elif not used:
                parameter.home.reclaim()[...] = 0

    def _start_reductions(self, current: _Pass) -> None:
        """Start the reduction of every bucket whose turn has come and that waits for no gradient."""
        while current.next < len(self._buckets) and self._buckets[current.next].waiting <= 0:
            bucket = self._buckets[current.next]
            if current.before is not None:
                bucket.gradients[...] = current.before[current.next]
            current.next += 1
            total = lambda: self._samples(current)
            current.works.append(self._comm.weighted_sum_start(bucket.gradients, current.weight, total, bucket.name))

    def _finish(self) -> None:
        """The backward pass has ended: wait for the reductions. Gradients are the global mean from here on."""
        current, self._pass = self._pass, None
        assert current is not None, "queued by a pass"
        if not current.syncs:
            for bucket, gradients in zip(self._buckets, current.before or (), strict=False):
                bucket.gradients[...] = gradients
            return
        for bucket in self._buckets[current.next :]:
            for parameter in bucket.tensors:
                if parameter._grad is None:  # part of the graph, but no gradient came
                    parameter.home.reclaim()[...] = 0
            bucket.waiting = 0
        self._start_reductions(current)
        current.works[0].wait()
        self._samples(current)
        for work in current.works:
            work.wait()
        current.works.clear()  # they know the pass, and the pass knows the graph
        if current.before is not None and not current.message[0]:  # empty batches everywhere
            for bucket, gradients in zip(self._buckets, current.before, strict=True):
                bucket.gradients[...] = gradients
        for (_, parameter), anybodys in zip(self._learned, current.message[FACTS:], strict=True):
            if anybodys and parameter._grad is None:
                parameter._grad = parameter.home.lend()
        self._accumulated = _Accumulated()

    def _samples(self, current: _Pass) -> float:
        """The samples of all ranks, asked when the exchange is done. RuntimeError when the ranks are out of step."""
        size = self._comm.size
        samples, passes, squared_passes, layout, squared_layout = current.message[:FACTS].tolist()
        if squared_passes * size != passes**2:  # equal only if all ranks' numbers are (Cauchy-Schwarz)
            raise RuntimeError(
                f"rank {self._comm.rank} accumulated {self._accumulated.passes} backward passes, the average over all "
                f"ranks is {passes / size:g}: expected the same number under no_sync() on every rank"
            )
        if squared_layout * size != layout**2:
            raise RuntimeError(
                "the ranks' parameters lie in memory in different orders: expected every rank to assign to .data, and "
                "to move the module, as the others do"
            )
        return float(samples)


class _Forward:
    """One forward pass, and the samples of its batch."""

    __slots__ = ("samples",)

    def __init__(self, samples: int) -> None:
        self.samples = samples


class _Accumulated:
    """What backward passes have added up since the last reduction.

    The gradients hold sum(samples * mean gradient) / scaled_to. With batches of one size that is PyTorch's plain sum,
    and nothing is ever rescaled.
    """

    def __init__(self) -> None:
        self.samples, self.passes, self.scaled_to = 0, 0, 0

    def add(self, samples: int) -> float:
        """Count one more pass; returns by how much to multiply what was accumulated before its gradients arrive."""
        factor = self.scaled_to / samples if samples and self.scaled_to else 1.0
        self.samples += samples
        self.passes += 1
        self.scaled_to = samples or self.scaled_to
        return factor


class _Pass:
    """A wrapper's part in one backward pass."""

    def __init__(self, running: Any, syncs: bool) -> None:
        self.running, self.syncs = running, syncs
        self.weight = 0.0  # what this rank's gradients are multiplied by before they are summed
        self.next = 0  # the bucket whose reduction starts next
        self.before: list[Array] | None = None  # with an empty batch: the gradients to which the pass adds nothing
        self.works: list[Work] = []
        self.used: list[bool] = []  # which parameters have a gradient on this rank
        self.message: Any = None  # after the exchange: sums over all ranks, from [5] on how many use each parameter


def _bring_home(parameter: Tensor) -> None:
    """Make sure that the gradient, if there is one, lies in flat memory and is a tensor of its own."""
    grad, home = parameter._grad, parameter.home
    if grad is not None and grad.array is not home.gradient:
        home.reclaim()[...] = grad.array
        parameter._grad = home.lend()


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)


def _batch_size(inputs: Any) -> int:
    """The first dimension of the first tensor; 1 without tensors, or for a scalar."""
    first = next(_tensors(inputs), None)
    return first.array.shape[0] if first is not None and first.array.ndim else 1


def _check_same_module(comm: Communicator, module: Module, buckets: list[Bucket], shards: int | None) -> None:
    """RuntimeError on every rank, naming the first difference, unless all wrap the same parameters and buffers."""
    mine: list[Any] = [
        (name, list(t.shape), t.dtype.name, t.requires_grad)
        for name, t in (*module.named_parameters(), *module.named_buffers())
    ]
    mine += [bucket.name for bucket in buckets]
    mine.append(f"shards={shards}")
    everyone = comm.all_gather_object(mine, "comparison of the ranks' modules")
    for rank, theirs in enumerate(everyone):
        if theirs != everyone[0]:
            pairs = [(a, b) for a, b in zip(everyone[0], theirs, strict=False) if a != b]
            expected, found = pairs[0] if pairs else (f"{len(everyone[0])} tensors", f"{len(theirs)} tensors")
            raise RuntimeError(
                f"DistributedDataParallel: expected the same module on every rank, found a difference between rank 0 "
                f"{expected} and rank {rank} {found}; build the model from the same arguments everywhere"
            )
