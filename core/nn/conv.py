"""Convolutions as modules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .. import creation
from ..dtypes import dtype as Dtype
from ..ops.windows import Ints, per_dim
from . import functional, init
from .module import Module, Parameter

__all__ = ["Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]

Size = int | Sequence[int]
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class _Convolution(Module):
    """What all convolutions hold; weight and bias from U(-k, k), k = 1/sqrt(weights per output)."""

    ndim: int  # spatial dimensions
    transposed: bool
    padding: str | Ints

    def _build(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size,
        padding: str | Size,
        dilation: Size,
        groups: int,
        bias: bool,
        padding_mode: str,
        device: Any,
        dtype: Dtype | None,
        output_padding: Size = 0,
    ) -> None:
        super().__init__()
        if groups <= 0:
            raise ValueError("groups must be a positive integer")
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if channels % groups:
                raise ValueError(f"{name} must be divisible by groups")
        self.kernel_size, self.stride, self.dilation, self.output_padding = (
            per_dim(v, self.ndim) for v in (kernel_size, stride, dilation, output_padding)
        )
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(f"Invalid padding string {padding!r}, should be one of {{'same', 'valid'}}")
            if padding == "same" and max(self.stride) > 1:
                raise ValueError("padding='same' is not supported for strided convolutions")
            self.padding = padding
        else:
            self.padding = per_dim(padding, self.ndim)
        if padding_mode not in PADDING_MODES:
            raise ValueError(f"padding_mode must be one of {set(PADDING_MODES)}, but got padding_mode='{padding_mode}'")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.padding_mode = padding_mode
        outer, inner = (in_channels, out_channels) if self.transposed else (out_channels, in_channels)
        shape = (outer, inner // groups, *self.kernel_size)
        self.weight = Parameter(creation.empty(shape, device=device, dtype=dtype))
        self.bias = Parameter(creation.empty(out_channels, device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the start values anew."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        fan_in = math.prod(self.weight.shape[1:])
        if self.bias is not None and fan_in:
            init.uniform_(self.bias, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def extra_repr(self) -> str:
        usual = (0,) * self.ndim
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"]
        parts += [f"padding={self.padding}"] if self.padding != usual else []
        parts += [f"dilation={self.dilation}"] if self.dilation != (1,) * self.ndim else []
        parts += [f"output_padding={self.output_padding}"] if self.output_padding != usual else []
        parts += [f"groups={self.groups}"] if self.groups != 1 else []
        parts += ["bias=False"] if self.bias is None else []
        parts += [f"padding_mode={self.padding_mode}"] if self.padding_mode != "zeros" else []
        return ", ".join(parts)


class _Conv(_Convolution):
    transposed = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: str | Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Dtype | None = None,
    ) -> None:
        self._build(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype
        )

    def forward(self, input: Any) -> Any:
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            input, padding = functional.pad(input, self._ends(), self.padding_mode), 0
        conv = getattr(functional, f"conv{self.ndim}d")
        return conv(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)

    def _ends(self) -> list[int]:
        """The padding as `pad` takes it."""
        ends = []
        for i in reversed(range(self.ndim)):
            if self.padding == "same":
                reach = self.dilation[i] * (self.kernel_size[i] - 1)
                ends += [reach // 2, reach - reach // 2]
            else:
                ends += [0 if isinstance(self.padding, str) else self.padding[i]] * 2
        return ends


class _ConvTranspose(_Convolution):
    transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Dtype | None = None,
    ) -> None:
        if padding_mode != "zeros":
            raise ValueError(f'Only "zeros" padding mode is supported for {type(self).__name__}')
        plain = (in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode)
        self._build(*plain, device, dtype, output_padding)

    def forward(self, input: Any, output_size: Sequence[int] | None = None) -> Any:
        extra = self.output_padding if output_size is None else self._output_padding(input.shape, output_size)
        conv = getattr(functional, f"conv_transpose{self.ndim}d")
        return conv(input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation)

    def _output_padding(self, shape: Sequence[int], output_size: Sequence[int]) -> Ints:
        """What is missing to output_size (all dimensions or the spatial ones); ValueError if that cannot be."""
        n = self.ndim
        if len(output_size) not in (n, len(shape)):
            raise ValueError(
                f"ConvTranspose{n}D: for {len(shape)}D input, output_size must have {n} or {len(shape)} elements "
                f"(got {len(output_size)})"
            )
        wanted = tuple(output_size)[-n:]
        padding: Any = self.padding
        numbers = zip(shape[-n:], self.stride, padding, self.dilation, self.kernel_size, strict=True)
        least = [(m - 1) * s - 2 * p + d * (k - 1) + 1 for m, s, p, d, k in numbers]
        most = [low + s - 1 for low, s in zip(least, self.stride, strict=True)]
        if any(not low <= size <= high for low, size, high in zip(least, wanted, most, strict=True)):
            raise ValueError(
                f"requested an output size of {list(wanted)}, but valid sizes range from {least} to {most} "
                f"(for an input of {list(shape[-n:])})"
            )
        return tuple(size - low for size, low in zip(wanted, least, strict=True))


class Conv1d(_Conv):
    """The cross-correlation of (N, C, L) with learned weights; see functional.conv1d."""

    ndim = 1


class Conv2d(_Conv):
    """The cross-correlation of images (N, C, H, W) with learned weights; see functional.conv2d."""

    ndim = 2


class Conv3d(_Conv):
    """The cross-correlation of volumes (N, C, D, H, W) with learned weights; see functional.conv3d."""

    ndim = 3


class ConvTranspose1d(_ConvTranspose):
    """The transpose of a convolution over (N, C, L); see functional.conv_transpose1d."""

    ndim = 1


class ConvTranspose2d(_ConvTranspose):
    """The transpose of a convolution over images (N, C, H, W); see functional.conv_transpose2d."""

    ndim = 2


class ConvTranspose3d(_ConvTranspose):
    """The transpose of a convolution over volumes (N, C, D, H, W); see functional.conv_transpose3d."""

    ndim = 3
