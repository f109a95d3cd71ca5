"""Normalisation of each channel over the batch."""

from __future__ import annotations

from typing import Any

from .. import creation, dtypes
from ..dtypes import dtype as Dtype
from ..tensor import Tensor
from . import functional
from .normalization import Affine

__all__ = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d"]


class ChannelNorm(Affine):
    """What batch and instance normalisation have in common: the parameters and the running statistics by channel.

    ndims: the numbers of dimensions that the input may have.
    """

    ndims: tuple[int, ...]
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Dtype | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, affine, bias, device, dtype)
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        mean = creation.zeros(num_features, device=device, dtype=dtype) if track_running_stats else None
        var = creation.ones(num_features, device=device, dtype=dtype) if track_running_stats else None
        count = creation.tensor(0, dtype=dtypes.int64, device=device) if track_running_stats else None
        self.register_buffer("running_mean", mean)
        self.register_buffer("running_var", var)
        self.register_buffer("num_batches_tracked", count)

    def reset_running_stats(self) -> None:
        """Mean 0, variance 1, no batches seen."""
        if self.track_running_stats:
            for buffer, value in ((self.running_mean, 0), (self.running_var, 1), (self.num_batches_tracked, 0)):
                assert buffer is not None
                buffer.fill_(value)

    def check_dimensions(self, input: Any) -> None:
        """ValueError unless the input has one of the numbers of dimensions."""
        if input.array.ndim not in self.ndims:
            raise ValueError(
                f"expected {' or '.join(f'{n}D' for n in self.ndims)} input (got {input.array.ndim}D input)"
            )

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )


class BatchNorm(ChannelNorm):
    """What all batch normalisations have in common."""

    normalize = staticmethod(functional.batch_norm)

    def forward(self, input: Any) -> Any:
        self.check_dimensions(input)
        momentum = self.momentum or 0.0
        tracked = self.track_running_stats or not self.training  # what is not tracked is not moved either
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:  # the mean of all batches
                momentum = 1 / self.num_batches_tracked.item()
        return self.normalize(
            input,
            self.running_mean if tracked else None,
            self.running_var if tracked else None,
            self.weight,
            self.bias,
            self.training or (self.running_mean is None and self.running_var is None),
            momentum,
            self.eps,
        )


class BatchNorm1d(BatchNorm):
    """Each channel of (N, C) or (N, C, L) at mean 0 and variance 1 over the batch, times weight plus bias."""

    ndims = (2, 3)


class BatchNorm2d(BatchNorm):
    """Each channel of (N, C, H, W) at mean 0 and variance 1 over the batch, times weight plus bias."""

    ndims = (4,)


class BatchNorm3d(BatchNorm):
    """Each channel of (N, C, D, H, W) at mean 0 and variance 1 over the batch, times weight plus bias."""

    ndims = (5,)
