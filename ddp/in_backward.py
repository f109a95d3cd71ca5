"""StepsInBackward: gradients are reduced and parameters stepped at once, each rank its own slice of each bucket.

A reduction leaves each rank with the mean gradient of one slice before it gives every rank all slices. Here the rank
steps that slice in between, and what it gives to all are the new values: no byte more than the reduction alone sends.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from ..core.backend import Array
from .bucket import Bucket
from .reducer import Reducer, reducers_of

if TYPE_CHECKING:
    from .zero import ZeroRedundancyOptimizer


class StepsInBackward:
    """What the reducer of a DistributedDataParallel is told by, and tells, an optimizer that it is to step.

    ValueError unless the optimizer has just the parameters that one DistributedDataParallel reduces, and one that sums
    gradients plainly.
    """

    def __init__(self, optimizer: ZeroRedundancyOptimizer) -> None:
        self.optimizer, self.reducer = optimizer, _only_reducer(optimizer)
        self._places: dict[Bucket, int] = {}  # which of the optimizer's stretches each bucket is
        self._unanswered = False  # a backward pass has stepped, and the program has not called `step` since

    def connect(self) -> None:
        """From here on let backward passes step. Collective."""
        self.settle()
        self.reducer.stepper = self

    def settle(self) -> None:
        """The parameters lie in other buckets now. Collective."""
        numbers = {parameter: number for number, parameter in enumerate(self.optimizer._numbered())}
        buckets = sorted(self.reducer.buckets, key=lambda bucket: numbers[bucket.tensors[0]])
        self.optimizer._settle_in(buckets)
        self._places = {bucket: place for place, bucket in enumerate(buckets)}

    def begin(self) -> None:
        """A backward pass that reduces begins: from here on the options of the optimizer's groups count."""
        if self._unanswered:
            raise RuntimeError(
                "ZeroRedundancyOptimizer: expected a call of step() between two backward passes, each of which steps "
                "with overlap_with_ddp=True, found none; add up the losses, or run all backward passes but the last "
                "under no_sync(); where only gradients of inputs are wanted, use autograd.grad"
            )
        self.optimizer._forget()
        self.optimizer._take_options()

    def start(self, bucket: Bucket) -> Callable[[Array], None]:
        """The bucket's reduction is about to start; returns what is to be done between its halves."""
        self._unanswered = True
        for parameter in bucket.tensors:
            if parameter._grad is not None:  # used: what backward still needs of it must not be what it becomes now
                parameter.version[0] += 1
        return partial(self._step, bucket)

    def _step(self, bucket: Bucket, own: Array) -> None:
        """Step this rank's slice of a bucket, and put its new values in the place of their gradients."""
        self.optimizer._step_slice(self._places[bucket], self.reducer.used(bucket.tensors))
        own[...] = bucket.values[self._cut(bucket)]

    def _cut(self, bucket: Bucket) -> slice:
        """This rank's slice."""
        comm = self.reducer.comm
        return comm.cuts(bucket.values.size)[comm.rank]

    def finish(self) -> None:
        """All reductions are done: take over the new values. No gradients are left."""
        for bucket in self.reducer.buckets:
            own = self._cut(bucket)
            for others in (slice(0, own.start), slice(own.stop, None)):
                bucket.values[others] = bucket.gradients[others]
            used = self.reducer.used(bucket.tensors)
            for parameter in bucket.tensors:
                if parameter._grad is None and parameter in used:  # by other ranks only
                    parameter.version[0] += 1
                parameter._grad = None

    def answer(self) -> None:
        """The program calls `step`. RuntimeError when backward passes do not step, or no longer, what it optimizes."""
        if self.reducer.retired or self.reducer.stepper is not self:
            what = "the module was wrapped again" if self.reducer.retired else "another optimizer steps its parameters"
            raise RuntimeError(f"ZeroRedundancyOptimizer: {what}; make a new optimizer, or use the later one")
        left = sum([parameter._grad is not None for parameter in self.optimizer._numbered()])
        if left:
            raise RuntimeError(
                "ZeroRedundancyOptimizer: expected gradients of backward passes through DistributedDataParallel, which "
                f"step with overlap_with_ddp=True and leave none, found some that were assigned to {left} "
                "parameter(s); drop them by zero_grad()"
            )
        self._unanswered = False


def _only_reducer(optimizer: ZeroRedundancyOptimizer) -> Reducer:
    parameters = optimizer._numbered()
    found = reducers_of(parameters)
    expected = "ZeroRedundancyOptimizer: with overlap_with_ddp=True, expected "
    if len(found) != 1:
        raise ValueError(
            f"{expected}parameters that one DistributedDataParallel without shards has wrapped, found those of "
            f"{len(found)}; wrap the module before the optimizer is made"
        )
    reducer = found[0]
    missing = [name for name, parameter in reducer.learned if parameter not in frozenset(parameters)]
    if missing or len(parameters) != len(reducer.learned):
        others = f"all but {', '.join(missing)}" if missing else f"{len(parameters) - len(reducer.learned)} more"
        raise ValueError(f"{expected}the parameters that DistributedDataParallel reduces, found {others}")
    if reducer.comm_hook is not None:
        raise ValueError(f"{expected}a DistributedDataParallel without communication hook, found one that has one")
    if reducer.check_finite:
        raise ValueError(
            f"{expected}a DistributedDataParallel without check_finite, which lets the program leave steps out, found "
            "one with it"
        )
    if (reducer.comm.rank, reducer.comm.size) != (optimizer._comm.rank, optimizer._comm.size):
        raise ValueError(
            f"{expected}the process group of the DistributedDataParallel, in which this is rank {reducer.comm.rank} of "
            f"{reducer.comm.size}, found one in which it is rank {optimizer._comm.rank} of {optimizer._comm.size}"
        )
    return reducer
