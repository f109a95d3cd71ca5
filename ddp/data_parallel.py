"""DistributedDataParallel: after `loss.backward()` every rank holds the exact mean gradient over all ranks' samples.

The wrapper is a module like any other; what happens in a backward pass is in reducer.py, and in shards.py for the mode
in which any number of ranks computes the same bits.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from ..core.autograd import thread
from ..core.nn.module import Module
from .agreement import ALIKE, compare
from .bucket import MIB, Bucket, GradBucket, make_buckets, measured_size
from .buffers import Replicated
from .comm.protocol import Communicator
from .facts import facts_of
from .forward import Forward, under_way
from .process_group import ProcessGroup, world
from .reducer import NonFinite, Overlap, Reducer, Traffic, retire_earlier
from .replicas import Replicas
from .shards import Shards
from .sync_batchnorm import SyncBatchNorm
from .wrapper import Wrapper, batch_size, tensors


class DistributedDataParallel(Wrapper):
    """Wraps a module for data-parallel training; call it as you would call the module.

    Parameters and buffers start as rank 0's. The names in state dicts are the module's own. The loss is a mean over the
    batch, and the batch is the first dimension of the first tensor that the module is called with; `weight` says
    otherwise. Every rank runs equally many backward passes, one with an empty batch too: it adds nothing, whatever its
    loss. RuntimeError when the module has nothing to learn, when the ranks' modules differ, or before
    init_process_group. Wrapping a module again retires its earlier wrapper.

    bucket_cap_mb (25) and first_bucket_mb (1): sizes in MiB of the pieces in which gradients are reduced, or "auto":
    measured once. After the first pass they are reduced in the order in which rank 0's became ready.

    Under `no_sync()` gradients accumulate locally; the next backward pass outside reduces them. K passes give K times
    the mean gradient over all their samples: divide the loss by K, as in one process. Gradients that were there before
    the K passes stay part of the sum, exactly so when each rank's batches are of one size. An optimizer's step on
    gradients that were not reduced is a RuntimeError.

    Buffers that the ranks change, as batch norm does its statistics, are combined by every backward pass that reduces:
    all move by the mean over the samples of how far each rank's have moved. broadcast_buffers=False: each rank keeps
    its own. check_finite: look for infinities and NaN in the gradients before they are reduced, for `nonfinite`.

    check_every: prove after so many steps of an optimizer that the ranks still have the same parameters, buffers and
    optimizer state (0: never); see `check_replicas`. Also after the first step, and after the first one since the
    module, a part of it or an optimizer has loaded a state dict, on one rank or on all.

    device_ids (one device at most), output_device, find_unused_parameters, static_graph, gradient_as_bucket_view and
    init_sync are there for PyTorch's callers and change nothing: the module is computed where its parameters lie,
    unused parameters need no flag, and gradients are views of the buckets.

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
        dim: int = 0,
        broadcast_buffers: bool = True,
        init_sync: bool = True,
        process_group: ProcessGroup | None = None,
        bucket_cap_mb: float | Literal["auto"] | None = None,
        find_unused_parameters: bool = True,
        check_reduction: bool = False,
        gradient_as_bucket_view: bool = True,
        static_graph: bool = False,
        *,
        first_bucket_mb: float = 1,
        check_finite: bool = False,
        check_every: int = 100,
        shards: int | None = None,
        communicator: Communicator | None = None,
    ) -> None:
        super().__init__(module)
        if device_ids is not None and len(device_ids) > 1:
            raise ValueError(f"device_ids: one rank drives one device, found {list(device_ids)}")
        if dim != 0:
            raise ValueError(f"dim: expected 0, the first dimension is the batch, found {dim}")
        if check_every < 0:
            raise ValueError(f"check_every: expected a number of steps, or 0 for never, found {check_every}")
        if shards is not None and any(isinstance(part, SyncBatchNorm) for part in module.modules()):
            raise ValueError(
                "shards: expected a model without SyncBatchNorm, which combines what the ranks compute at the same "
                "time; use BatchNorm, whose statistics the shards combine"
            )
        if check_finite and shards is not None:
            raise ValueError("check_finite: expected a model without shards, found shards too; look at the gradients")
        learned = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        frozen = [(name, p) for name, p in module.named_parameters() if not p.requires_grad]
        if communicator is None:
            communicator = world(process_group)
        comm = communicator.duplicate("gradients")
        if bucket_cap_mb is None:
            bucket_cap_mb = 25
        caps = (first_bucket_mb * MIB, (25 if bucket_cap_mb == "auto" else bucket_cap_mb) * MIB)
        buckets = make_buckets(learned, *caps)
        _check_same_module(
            comm,
            module,
            buckets,
            shards=shards,
            bucket_cap_mb=bucket_cap_mb,
            first_bucket_mb=first_bucket_mb,
            check_every=check_every,
            check_finite=check_finite,
            broadcast_buffers=broadcast_buffers,
        )
        if not learned:
            raise RuntimeError(
                "DistributedDataParallel is not needed when a module doesn't have any parameters that require a "
                "gradient."
            )
        for bucket in buckets:
            comm.broadcast(bucket.values, 0, "broadcast of parameters")
        for _, tensor in (*frozen, *module.named_buffers()):
            comm.broadcast(tensor.array, 0, "broadcast of buffers")
        retire_earlier(learned)
        self.shards: Shards | None = None
        self.reducer: Reducer | None = None
        if shards is not None:
            self.replicas = Replicas(module, comm, check_every, module.buffers)
            self.shards = Shards(module, learned, self.replicas, comm, shards)
        else:
            if bucket_cap_mb == "auto":  # measured by all ranks, as all have been found to ask for it
                caps = (measured_size(comm),) * 2
            buffers = Replicated(module, comm, without=not broadcast_buffers)
            self.replicas = Replicas(module, comm, check_every, buffers.in_step)
            self.reducer = Reducer(learned, frozen, buffers, self.replicas, comm, caps, check_finite)
        if check_every:
            self.replicas.check(when=" after rank 0's were broadcast")

    # --- the wrapped module -----------------------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.shards is not None:
            return self.shards.forward(args, kwargs)
        reducer = self._reducing("forward")
        if reducer.retired:
            raise RuntimeError("this module was wrapped again: use the later DistributedDataParallel")
        around, forward = under_way.forward, Forward(batch_size((args, kwargs)))
        under_way.forward = forward
        try:
            output = self.module(*args, **kwargs)
        finally:
            under_way.forward = around
        if thread.recording:
            reducer.forward(tensors(output), forward)
        return output

    def _loaded(self) -> None:
        if self.reducer is not None:
            self.reducer.buffers.remember()

    # --- synchronisation ----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Within the block backward passes accumulate gradients on each rank and communicate nothing."""
        with contextlib.nullcontext() if self.reducer is None else self.reducer.without_sync():
            yield

    @contextlib.contextmanager
    def join(self, divide_by_initial_world_size: bool = True, enable: bool = True, **kwargs: Any) -> Iterator[None]:
        """PyTorch's block for ranks with batches of different sizes, which need nothing here."""
        yield

    def weight(self, weight: float) -> None:
        """Say over how many tokens, pixels or unmasked elements the loss of the latest forward pass is a mean.

        Call it between forward and backward, on every rank; without it the samples of the batch are the weight. 0: the
        pass adds nothing on this rank. ValueError unless weight is finite and not negative.
        """
        weight = float(weight)
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"weight: expected a finite number of at least 0, found {weight}")
        (self.shards or self._reducing("weight")).weigh(weight)

    def register_comm_hook(self, state: Any, hook: Callable[[Any, GradBucket], Any]) -> None:
        """Let hook(state, bucket) average the buckets, in their order, instead of the exact reduction.

        It returns the averaged gradients as a tensor, or a future of them (something with `wait`). RuntimeError for a
        second hook, with shards, and with an optimizer that steps in backward (overlap_with_ddp=True).
        """
        reducer = self._reducing("register_comm_hook")
        if not callable(hook):
            raise TypeError("Communication hook must be callable.")
        if reducer.comm_hook is not None:
            raise RuntimeError("register_comm_hook can only be called once.")
        if reducer.stepper is not None:
            raise RuntimeError(
                "register_comm_hook: expected a model that no ZeroRedundancyOptimizer(..., overlap_with_ddp=True) "
                "steps, which reduces gradients itself"
            )
        reducer.comm_hook = lambda bucket: hook(state, bucket)

    # --- reports ------------------------------------------------------------------------------------------------------

    def unused_parameters(self) -> dict[str, int]:
        """By name the parameters that the latest reduced pass did not use everywhere, and on how many ranks not."""
        return dict((self.shards or self._reducing("unused_parameters")).unused)

    def nonfinite(self) -> list[NonFinite]:
        """Which ranks brought infinities or NaN into the latest reduction, the same list on every rank.

        Of each such rank the first parameter, in the order of reduction. Empty when all gradients were finite: a step
        that is skipped when it is not is skipped by all ranks. RuntimeError without check_finite=True.
        """
        reducer = self._reducing("nonfinite")
        if not reducer.check_finite:
            raise RuntimeError("nonfinite: expected DistributedDataParallel(..., check_finite=True)")
        return list(reducer.nonfinite)

    def overlap(self) -> Overlap:
        """How much of the communication was hidden behind the computation of backward passes, so far."""
        reducer = self._reducing("overlap")
        return Overlap(reducer.communication, reducer.exposed)

    def traffic(self) -> Traffic:
        """How many bytes of gradients this rank has sent, and how many it would have without a communication hook."""
        reducer = self._reducing("traffic")
        return Traffic(reducer.bytes_sent, reducer.bytes_exact)

    def _reducing(self, name: str) -> Reducer:
        """RuntimeError in shards mode, in which gradients are reduced another way."""
        if self.reducer is None:
            raise RuntimeError(f"{name}: expected a model without shards")
        return self.reducer


def _check_same_module(comm: Communicator, module: Module, buckets: Sequence[Bucket], **options: Any) -> None:
    """RanksDiffer unless all ranks wrap the same parameters and buffers, laid out and treated alike."""
    facts = facts_of("module", module)
    for name, value in options.items():
        facts |= facts_of(name, value)
    for bucket in buckets:
        facts |= facts_of(f"gradient bucket {bucket.index}", ", ".join(bucket.names))
    compare(comm, facts, "DistributedDataParallel: expected the same module on every rank", ALIKE)
