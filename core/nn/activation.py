"""Activations as modules: each is the function of nn.functional of the same name, which says what it computes."""

from __future__ import annotations

from typing import Any

from .. import creation
from ..dtypes import dtype as Dtype
from . import functional
from .module import Module, Parameter
from .settings import Activation

# fmt: off
__all__ = [
    "CELU",
    "ELU",
    "GELU",
    "GLU",
    "SELU",
    "Hardshrink",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LeakyReLU",
    "LogSigmoid",
    "LogSoftmax",
    "Mish",
    "PReLU",
    "RReLU",
    "ReLU",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softmax2d",
    "Softmin",
    "Softplus",
    "Softshrink",
    "Softsign",
    "Tanh",
    "Tanhshrink",
    "Threshold",
]
# fmt: on


class ReLU(Activation):
    """max(x, 0)."""

    inplace: bool = False

    def forward(self, input: Any) -> Any:
        return functional.relu(input, self.inplace)


class Tanh(Activation):
    """The hyperbolic tangent."""

    function = functional.tanh


class Sigmoid(Activation):
    """1 / (1 + exp(-x))."""

    function = functional.sigmoid


class ReLU6(Activation):
    """min(max(x, 0), 6)."""

    function = functional.relu6
    inplace: bool = False


class ELU(Activation):
    """x where x > 0, else alpha * (exp(x) - 1)."""

    function = functional.elu
    alpha: float = 1.0
    inplace: bool = False


class SELU(Activation):
    """The ELU with the constants that keep mean and variance."""

    function = functional.selu
    inplace: bool = False


class CELU(Activation):
    """x where x > 0, else alpha * (exp(x / alpha) - 1)."""

    function = functional.celu
    alpha: float = 1.0
    inplace: bool = False


class LeakyReLU(Activation):
    """x where x > 0, else negative_slope * x."""

    function = functional.leaky_relu
    negative_slope: float = 1e-2
    inplace: bool = False


class RReLU(Activation):
    """x where x > 0, else x times a slope that is drawn from U(lower, upper) in training."""

    lower: float = 1.0 / 8
    upper: float = 1.0 / 3
    inplace: bool = False

    def forward(self, input: Any) -> Any:
        return functional.rrelu(input, self.lower, self.upper, self.training, self.inplace)


class GELU(Activation):
    """x times the cumulative distribution of N(0, 1) at x."""

    function = functional.gelu
    approximate: str = "none"


class SiLU(Activation):
    """x * sigmoid(x)."""

    function = functional.silu
    inplace: bool = False


class Mish(Activation):
    """x * tanh(softplus(x))."""

    function = functional.mish
    inplace: bool = False


class Softplus(Activation):
    """log(1 + exp(beta * x)) / beta."""

    function = functional.softplus
    beta: float = 1.0
    threshold: float = 20.0


class Softsign(Activation):
    """x / (1 + abs(x))."""

    function = functional.softsign


class Tanhshrink(Activation):
    """x - tanh(x)."""

    function = functional.tanhshrink


class Softshrink(Activation):
    """x moved towards 0 by lambd."""

    function = functional.softshrink
    lambd: float = 0.5

    def extra_repr(self) -> str:
        return str(self.lambd)


class Hardshrink(Softshrink):
    """x where abs(x) > lambd, else 0."""

    function = functional.hardshrink


class Hardtanh(Activation):
    """x clipped to [min_val, max_val]."""

    function = functional.hardtanh
    min_val: float = -1.0
    max_val: float = 1.0
    inplace: bool = False


class Hardsigmoid(Activation):
    """(x + 3) / 6 clipped to [0, 1]."""

    function = functional.hardsigmoid
    inplace: bool = False

    def extra_repr(self) -> str:
        return ""


class Hardswish(Hardsigmoid):
    """x * hardsigmoid(x)."""

    function = functional.hardswish


class LogSigmoid(Activation):
    """log(sigmoid(x))."""

    function = functional.logsigmoid


class Threshold(Activation):
    """x where x > threshold, else value."""

    function = functional.threshold
    threshold: float
    value: float
    inplace: bool = False


class GLU(Activation):
    """a * sigmoid(b) of the two halves along dim."""

    function = functional.glu
    dim: int = -1


class Softmax(Activation):
    """exp(x) / sum(exp(x)) along dim."""

    function = functional.softmax
    dim: int | None = None


class LogSoftmax(Activation):
    """log(softmax(x)) along dim."""

    function = functional.log_softmax
    dim: int | None = None


class Softmin(Activation):
    """softmax(-x) along dim."""

    function = functional.softmin
    dim: int | None = None


class Softmax2d(Activation):
    """The softmax over the channels of images (C, H, W) or (N, C, H, W)."""

    def forward(self, input: Any) -> Any:
        if input.ndim not in (3, 4):
            raise ValueError(f"Softmax2d: expected input to be 3D or 4D, got {input.ndim}D instead")
        return functional.softmax(input, -3)


class PReLU(Module):
    """x where x > 0, else weight * x; weight is learned: one number, or one for each of num_parameters channels."""

    def __init__(
        self, num_parameters: int = 1, init: float = 0.25, device: Any = None, dtype: Dtype | None = None
    ) -> None:
        super().__init__()
        self.num_parameters, self.init = num_parameters, init
        self.weight = Parameter(creation.empty(num_parameters, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """All weights `init`."""
        self.weight.data.fill_(self.init)

    def forward(self, input: Any) -> Any:
        return functional.prelu(input, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"
