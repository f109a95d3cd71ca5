"""Pooling as modules; see the functions of the same names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..ops.windows import per_dim
from . import functional
from .module import Module

# fmt: off
__all__ = [
    "AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveAvgPool3d", "AdaptiveMaxPool1d", "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d", "AvgPool1d", "AvgPool2d", "AvgPool3d", "LPPool1d", "LPPool2d", "LPPool3d", "MaxPool1d",
    "MaxPool2d", "MaxPool3d", "MaxUnpool1d", "MaxUnpool2d", "MaxUnpool3d",
]
# fmt: on

Size = int | Sequence[int]


class _Pool(Module):
    """shown: the attributes that are printed."""

    shown: tuple[str, ...] = ("kernel_size", "stride", "padding")

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)}" for name in self.shown)


class MaxPool1d(_Pool):
    """The largest element of every window of (N, C, L)."""

    shown = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
    pool = staticmethod(functional.max_pool1d)

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.dilation, self.return_indices, self.ceil_mode = padding, dilation, return_indices, ceil_mode

    def forward(self, input: Any) -> Any:
        return self.pool(
            input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices
        )


class MaxPool2d(MaxPool1d):
    """The largest element of every window of images (N, C, H, W)."""

    pool = staticmethod(functional.max_pool2d)


class MaxPool3d(MaxPool1d):
    """The largest element of every window of volumes (N, C, D, H, W)."""

    pool = staticmethod(functional.max_pool3d)


class MaxUnpool1d(_Pool):
    """What MaxPool1d with return_indices found, back in its place, among zeros."""

    ndim = 1
    pool = staticmethod(functional.max_unpool1d)

    def __init__(self, kernel_size: Size, stride: Size | None = None, padding: Size = 0) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = (
            per_dim(v, self.ndim) for v in (kernel_size, kernel_size if stride is None else stride, padding)
        )

    def forward(self, input: Any, indices: Any, output_size: Sequence[int] | None = None) -> Any:
        return self.pool(input, indices, self.kernel_size, self.stride, self.padding, output_size)


class MaxUnpool2d(MaxUnpool1d):
    """What MaxPool2d with return_indices found, back in its place, among zeros."""

    ndim = 2
    pool = staticmethod(functional.max_unpool2d)


class MaxUnpool3d(MaxUnpool1d):
    """What MaxPool3d with return_indices found, back in its place, among zeros."""

    ndim = 3
    pool = staticmethod(functional.max_unpool3d)


class AvgPool1d(_Pool):
    """The mean of every window of (N, C, L)."""

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = (
            per_dim(v, 1) for v in (kernel_size, kernel_size if stride is None else stride, padding)
        )
        self.ceil_mode, self.count_include_pad = ceil_mode, count_include_pad

    def forward(self, input: Any) -> Any:
        return functional.avg_pool1d(
            input, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad
        )


class AvgPool2d(_Pool):
    """The mean of every window of images (N, C, H, W)."""

    pool = staticmethod(functional.avg_pool2d)

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.ceil_mode, self.count_include_pad = padding, ceil_mode, count_include_pad
        self.divisor_override = divisor_override

    def forward(self, input: Any) -> Any:
        return self.pool(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )


class AvgPool3d(AvgPool2d):
    """The mean of every window of volumes (N, C, D, H, W)."""

    pool = staticmethod(functional.avg_pool3d)


class LPPool1d(_Pool):
    """The norm of every window of (N, C, L)."""

    shown = ("norm_type", "kernel_size", "stride", "ceil_mode")
    pool = staticmethod(functional.lp_pool1d)

    def __init__(
        self, norm_type: float, kernel_size: Size, stride: Size | None = None, ceil_mode: bool = False
    ) -> None:
        super().__init__()
        self.norm_type, self.kernel_size, self.stride, self.ceil_mode = norm_type, kernel_size, stride, ceil_mode

    def forward(self, input: Any) -> Any:
        return self.pool(input, float(self.norm_type), self.kernel_size, self.stride, self.ceil_mode)


class LPPool2d(LPPool1d):
    """The norm of every window of images (N, C, H, W)."""

    pool = staticmethod(functional.lp_pool2d)


class LPPool3d(LPPool1d):
    """The norm of every window of volumes (N, C, D, H, W)."""

    pool = staticmethod(functional.lp_pool3d)


class AdaptiveMaxPool1d(_Pool):
    """The largest elements of (N, C, L) in as many windows as output_size says."""

    shown = ("output_size",)
    pool = staticmethod(functional.adaptive_max_pool1d)

    def __init__(self, output_size: Any, return_indices: bool = False) -> None:
        super().__init__()
        self.output_size, self.return_indices = output_size, return_indices

    def forward(self, input: Any) -> Any:
        return self.pool(input, self.output_size, self.return_indices)


class AdaptiveMaxPool2d(AdaptiveMaxPool1d):
    """The largest elements of images (N, C, H, W) in as many windows as output_size says."""

    pool = staticmethod(functional.adaptive_max_pool2d)


class AdaptiveMaxPool3d(AdaptiveMaxPool1d):
    """The largest elements of volumes (N, C, D, H, W) in as many windows as output_size says."""

    pool = staticmethod(functional.adaptive_max_pool3d)


class AdaptiveAvgPool1d(_Pool):
    """The means of (N, C, L) in as many windows as output_size says."""

    shown = ("output_size",)
    pool = staticmethod(functional.adaptive_avg_pool1d)

    def __init__(self, output_size: Any) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, input: Any) -> Any:
        return self.pool(input, self.output_size)


class AdaptiveAvgPool2d(AdaptiveAvgPool1d):
    """The means of images (N, C, H, W) in as many windows as output_size says."""

    pool = staticmethod(functional.adaptive_avg_pool2d)


class AdaptiveAvgPool3d(AdaptiveAvgPool1d):
    """The means of volumes (N, C, D, H, W) in as many windows as output_size says."""

    pool = staticmethod(functional.adaptive_avg_pool3d)
