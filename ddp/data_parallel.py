"""DistributedDataParallel: after `loss.backward()` every rank holds the exact mean gradient over all ranks' samples.

While backward goes on, each bucket of gradients that is complete is reduced, in index order, on the communicator's
thread. What is summed is gradient times samples, divided by all ranks' samples, so ranks with a short or an empty
batch weigh what they hold.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Self
from weakref import WeakKeyDictionary

import numpy as np

from ..core.autograd import Node, queue_callback, running_backward, thread, wrap
from ..core.flat import gather_gradient, runs
from ..core.nn.module import Module
from ..core.tensor import Tensor
from .bucket import MIB, Bucket, make_buckets
from .comm.protocol import Communicator, Work
from .process_group import world


class DistributedDataParallel(Module):
    """Wraps a module for data-parallel training; call it as you would call the module.

    Parameters and buffers start as rank 0's. bucket_cap_mb and first_bucket_mb: bucket sizes in MiB. The names in
    state dicts are the module's own. RuntimeError when the module has nothing to learn, when the ranks' modules differ,
    or before init_process_group.

    Under `no_sync()` gradients accumulate locally; the next backward pass outside reduces them. K passes give K times
    the mean gradient over all their samples: divide the loss by K, as in one process.
    """

    def __init__(
        self,
        module: Module,
        *,
        bucket_cap_mb: float = 25,
        first_bucket_mb: float = 1,
        communicator: Communicator | None = None,
    ) -> None:
        super().__init__()
        self.module = module
        self._learned = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        if not self._learned:
            raise RuntimeError(
                "DistributedDataParallel is not needed when a module doesn't have any parameters that require a "
                "gradient."
            )
        self._caps = (first_bucket_mb * MIB, bucket_cap_mb * MIB)
        self._comm = (communicator or world()).duplicate("gradients")
        _check_same_module(self._comm, module)
        self._buckets: list[Bucket] = []
        self._lay_out()
        self._broadcast()
        self._sync = True
        self._pass: _Pass | None = None
        self._accumulated = _Accumulated()
        self._forwards: WeakKeyDictionary[Node, _Forward] = WeakKeyDictionary()  # by the node of each output
        for _, parameter in self._learned:
            parameter.register_post_accumulate_grad_hook(self._gradient_final)

    def _lay_out(self) -> None:
        self._buckets = make_buckets(self._learned, *self._caps)
        self._bucket_of = {tensor: bucket for bucket in self._buckets for tensor in bucket.tensors}

    def _broadcast(self) -> None:
        for run in runs(p for _, p in self._learned):
            self._comm.broadcast(run.values, 0, "broadcast of parameters")
        frozen = [p for p in self.module.parameters() if p not in self._bucket_of]
        for tensor in (*frozen, *self.module.buffers()):
            self._comm.broadcast(tensor.array, 0, "broadcast of buffers")

    # --- the wrapped module -----------------------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = self.module(*args, **kwargs)
        if thread.recording:
            forward = _Forward(_batch_size((args, kwargs)))
            for tensor in _tensors(output):
                if tensor.node is not None:
                    self._forwards[tensor.node] = forward
                    tensor.register_hook(self._output_reached)
        return output

    def named_modules(self, memo: set[Module] | None = None, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """The wrapped module and everything below it, under its own names."""
        return self.module.named_modules(memo, prefix)

    def state_dict(self, *, prefix: str = "") -> OrderedDict[str, Tensor]:
        """The wrapped module's."""
        return self.module.state_dict(prefix=prefix)

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True) -> Any:
        """Into the wrapped module; load the same on every rank."""
        return self.module.load_state_dict(state_dict, strict)

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

    def _output_reached(self, gradient: Tensor) -> None:
        self._current()

    def _gradient_final(self, parameter: Tensor) -> None:
        current = self._current()
        if current.syncs:
            self._bucket_of[parameter].waiting -= 1
            self._start_reductions(current)

    def _current(self) -> _Pass:
        """This wrapper's part in the running backward pass; begun at the first event, before any gradient arrives."""
        running = running_backward()
        if self._pass is None or self._pass.running is not running:
            self._pass = self._begin(running)
            queue_callback(self._finish)
        return self._pass

    def _begin(self, running: Any) -> _Pass:
        if not all(bucket.holds() for bucket in self._buckets):
            self._lay_out()
        for _, parameter in self._learned:
            gather_gradient(parameter)
        if all(p._grad is None for _, p in self._learned):
            self._accumulated = _Accumulated()
        forwards = {f for node, f in self._forwards.items() if running.reaches(node)}
        factor = self._accumulated.add(sum(f.samples for f in forwards) if forwards else 1)
        if factor != 1:
            for bucket in self._buckets:
                bucket.gradients *= bucket.gradients.dtype.type(factor)
        current = _Pass(running, self._sync)
        if self._sync:
            self._announce(current)
        return current

    def _announce(self, current: _Pass) -> None:
        """Start the exchange of sample counts and of which parameters have gradients; the reductions come after it."""
        mine, comm = self._accumulated, self._comm
        current.used = [p._grad is not None or current.running.reaches(p) for _, p in self._learned]
        message = current.message = np.array([mine.samples, mine.passes, *current.used], np.float64)

        def exchange() -> None:
            comm._all_reduce(message, "sum")
            if message[1] != mine.passes * comm.size:
                raise RuntimeError(
                    f"rank {comm.rank} accumulated {mine.passes} backward passes, the average over all ranks is "
                    f"{message[1] / comm.size:g}: expected the same number under no_sync() on every rank"
                )
            current.scale = mine.scaled_to * mine.passes / message[0] if message[0] else 0.0

        current.works.append(comm.start(exchange, "exchange of sample counts"))
        for bucket in self._buckets:
            bucket.waiting = 0
        for (_, parameter), used in zip(self._learned, current.used, strict=True):
            if current.running.reaches(parameter):
                self._bucket_of[parameter].waiting += 1
            elif not used:
                parameter.home.gradient[...] = 0

    def _start_reductions(self, current: _Pass) -> None:
        """Start the reduction of every bucket whose turn has come and that waits for no gradient."""
        while current.next < len(self._buckets) and self._buckets[current.next].waiting <= 0:
            bucket = self._buckets[current.next]
            current.next += 1
            current.works.append(self._comm.start(partial(self._reduce, bucket, current), bucket.name))

    def _reduce(self, bucket: Bucket, current: _Pass) -> None:
        if current.scale != 1:
            bucket.gradients *= bucket.gradients.dtype.type(current.scale)
        self._comm._all_reduce(bucket.gradients, "sum")

    def _finish(self) -> None:
        """The backward pass has ended: wait for the reductions. Gradients are the global mean from here on."""
        current, self._pass = self._pass, None
        if current is None or not current.syncs:
            return
        for bucket in self._buckets[current.next :]:
            for parameter in bucket.tensors:
                if parameter._grad is None:  # part of the graph, but no gradient came
                    parameter.home.gradient[...] = 0
            bucket.waiting = 0
        self._start_reductions(current)
        for work in current.works:
            work.wait()
        for (_, parameter), anybodys in zip(self._learned, current.message[2:], strict=True):
            if anybodys and parameter._grad is None:
                parameter._grad = wrap(parameter.home.gradient)
        self._accumulated = _Accumulated()


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
        self.scale = 1.0  # what this rank's gradients are multiplied by before they are summed
        self.next = 0  # the bucket whose reduction starts next
        self.works: list[Work] = []
        self.used: list[bool] = []  # which parameters have a gradient on this rank
        self.message: Any = None  # after the exchange: all samples, all passes, on how many ranks each is used


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


def _check_same_module(comm: Communicator, module: Module) -> None:
    """RuntimeError on every rank, naming the first difference, unless all wrap the same parameters and buffers."""
    mine = [
        (name, list(t.shape), t.dtype.name, t.requires_grad)
        for name, t in (*module.named_parameters(), *module.named_buffers())
    ]
    everyone = comm.all_gather_object(mine, "comparison of the ranks' modules")
    for rank, theirs in enumerate(everyone):
        if theirs != everyone[0]:
            pairs = [(a, b) for a, b in zip(everyone[0], theirs, strict=False) if a != b]
            expected, found = pairs[0] if pairs else (f"{len(everyone[0])} tensors", f"{len(theirs)} tensors")
            raise RuntimeError(
                f"DistributedDataParallel: expected the same module on every rank, found a difference between rank 0 "
                f"{expected} and rank {rank} {found}; build the model from the same arguments everywhere"
            )
