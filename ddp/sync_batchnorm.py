"""SyncBatchNorm: batch normalisation over the batches of all ranks.

It is composed of ops that have gradients already and of one more: the sum over the ranks. So the result, its first and
its second derivatives are those of one process with the whole batch, however the samples are spread.
"""

from __future__ import annotations

from typing import Any, Self

from ..core.autograd import record, wrap
from ..core.nn.batchnorm import BatchNorm
from ..core.nn.module import Module
from ..core.ops.join import cat
from ..core.tensor import Tensor
from .comm.protocol import Communicator
from .forward import Forward, under_way
from .process_group import Group, is_initialized, member

__all__ = ["SyncBatchNorm"]


class SyncBatchNorm(BatchNorm):
    """Each channel of (N, C, ...) at mean 0 and variance 1 over the batches of all ranks, times weight plus bias.

    Every rank calls it equally often, one whose batch is empty too. In evaluation it is an ordinary batch norm.
    Gradients assume that the losses are means over the samples of each rank's batch, or over what
    DistributedDataParallel.weight says, and are combined as the wrapper does it, in proportion. Where a rank's samples
    weigh 0, what they do to the others' statistics is left out. process_group: the ranks (all) that combine
    their batches, as `new_group` gave it; on a rank outside it is an ordinary batch norm.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Group = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        self.process_group = process_group

    def check_dimensions(self, input: Any) -> None:
        """ValueError for less than two dimensions."""
        if input.array.ndim < 2:
            raise ValueError(f"expected at least 2D input (got {input.array.ndim}D input)")

    def normalize(
        self,
        input: Any,
        running_mean: Any,
        running_var: Any,
        weight: Any = None,
        bias: Any = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Any:
        group = member(self.process_group) if training and is_initialized() else None
        if group is None or group.size() == 1:
            return super().normalize(input, running_mean, running_var, weight, bias, training, momentum, eps)
        communicator, forward = group.communicator, under_way.forward or Forward(input.array.shape[0])
        x = input.float() if input.array.itemsize < 4 else input
        axes, channels = [i for i in range(x.ndim) if i != 1], (1, -1, *(1,) * (x.ndim - 2))
        mine = x.array.size // max(x.array.shape[1], 1)
        sums = _over_ranks(communicator, cat((x.sum(axes), x.new_tensor([mine]))), forward)
        count = sums[-1].item()
        if count <= 1:
            raise ValueError(
                f"Expected more than 1 value per channel when training, got {count:.0f} on all ranks together"
            )
        mean = sums[:-1] / count
        unit = x - mean.view(channels)
        variance = _over_ranks(communicator, (unit * unit).sum(axes), forward) / count
        for running, value in ((running_mean, mean), (running_var, variance * (count / (count - 1)))):
            if running is not None:
                running.copy_((1 - momentum) * running + momentum * value.detach())
        value = unit * (variance + eps).rsqrt().view(channels)
        if weight is not None:
            value = value * weight.view(channels)
        if bias is not None:
            value = value + bias.view(channels)
        return value.to(input.dtype)

    @classmethod
    def convert_sync_batchnorm(cls, module: Module, process_group: Group = None) -> Module:
        """The module with every batch norm in it replaced by a SyncBatchNorm of the same parameters and buffers."""
        if isinstance(module, BatchNorm) and not isinstance(module, cls):
            return cls._of(module, process_group)
        for name, child in module.named_children():
            setattr(module, name, cls.convert_sync_batchnorm(child, process_group))
        return module

    @classmethod
    def _of(cls, norm: BatchNorm, process_group: Group) -> Self:
        made = cls(
            norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats, process_group
        ).train(norm.training)
        made._parameters.update(norm._parameters)
        made._buffers.update(norm._buffers)
        return made


def _over_ranks(communicator: Communicator, x: Tensor, forward: Forward) -> Tensor:
    """The sum of x over the ranks, with a gradient.

    The loss of all ranks together is the mean of their losses, in proportion to what they weigh, and each rank computes
    gradients of its own loss alone. So the gradient here is everybody's, in proportion to their weight over mine, which
    is known when backward begins.
    """
    value = x.array.copy()
    communicator.all_reduce(value, name="sum of batch statistics")

    def vjp(g: Any) -> Any:
        ours = g if isinstance(g, Tensor) else wrap(g)
        weight = forward.samples
        result = _over_ranks(communicator, ours * weight, forward) / (weight or 1)
        return result if ours is g else result.array

    return record("AllReduceBackward0", value, (x, vjp))
