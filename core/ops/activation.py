"""Activations: what stands between two layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..autograd import Variable, record, thread, wrap
from ..backend import Array, array_module, kernels
from ..dtypes import of
from ..generator import default_generator
from .elementwise import abs as absolute
from .elementwise import erf, exp, sigmoid, tanh
from .elementwise import relu as _relu
from .erf import BEND, in_blocks, normal_cdf, odd_polynomial
from .erf import sigmoid as sigmoid_
from .inplace import in_place
from .join import cat
from .pointwise import compute, sum_to, unary, where
from .reduce import softmax
from .shape import normalize_dim

# fmt: off
__all__ = [
    "celu", "celu_", "elu", "elu_", "gelu", "glu", "gumbel_softmax", "hardshrink", "hardsigmoid", "hardswish",
    "hardtanh", "hardtanh_", "leaky_relu", "leaky_relu_", "logsigmoid", "mish", "prelu", "relu", "relu6", "relu_",
    "rrelu", "rrelu_", "selu", "selu_", "silu", "softmin", "softplus", "softshrink", "softsign", "tanhshrink",
    "threshold", "threshold_",
]
# fmt: on

# Klambauer et al., 2017, https://arxiv.org/abs/1706.02515
SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


def _floating(input: Any, op: str) -> Array:
    """The elements, checked to be floating point."""
    if input.array.dtype.kind in "biu":
        raise NotImplementedError(f'"{op}" not implemented for {of(input.array.dtype)} tensors')
    return input.array


def _bend(name: str, input: Any, op: str, value: Callable[[Array], Array], vjp: Callable[..., Any]) -> Any:
    """An elementwise op of floating point numbers; op: its name in the error for others."""
    _floating(input, op)
    return compute(f"{name}Backward0", value, (input,), (vjp,))


# --- piecewise linear -------------------------------------------------------------------------------------------------


def relu(input: Any, inplace: bool = False) -> Any:
    """max(x, 0)."""
    return relu_(input) if inplace else _relu(input)


relu_ = in_place(_relu)


def hardtanh(input: Any, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Any:
    """x clipped to [min_val, max_val]."""
    if inplace:
        return hardtanh_(input, min_val, max_val)
    if min_val > max_val:
        raise ValueError("min_val cannot be greater than max_val")
    if input.array.dtype.kind in "iu":
        min_val, max_val = int(min_val), int(max_val)
    elif input.array.dtype.kind == "b":
        raise NotImplementedError("Bool inputs not supported for hardtanh")
    vjp = lambda g, x: g * ((x > min_val) & (x < max_val))
    return compute("HardtanhBackward0", lambda x: np.clip(x, min_val, max_val), (input,), (vjp,))


hardtanh_ = in_place(hardtanh)


def relu6(input: Any, inplace: bool = False) -> Any:
    """min(max(x, 0), 6)."""
    return hardtanh(input, 0.0, 6.0, inplace)


def leaky_relu(input: Any, negative_slope: float = 0.01, inplace: bool = False) -> Any:
    """x where x > 0, else negative_slope * x."""
    if inplace:
        return leaky_relu_(input, negative_slope)
    return _leaky("LeakyRelu", input, negative_slope)


def _leaky(name: str, input: Any, slope: float) -> Any:
    value = lambda x: np.where(x > 0, x, x * slope)
    return _bend(name, input, "leaky_relu_cpu", value, lambda g, x: where(x > 0, g, g * slope))


leaky_relu_ = in_place(leaky_relu)


def threshold(input: Any, threshold: float, value: float, inplace: bool = False) -> Any:
    """x where x > threshold, else value."""
    if inplace:
        return threshold_(input, threshold, value)
    x = input.array
    vjp = lambda g, x: g * ~(x <= threshold)
    return record("ThresholdBackward0", np.where(x <= threshold, x.dtype.type(value), x), (input, vjp, input))


threshold_ = in_place(threshold)


def hardshrink(input: Any, lambd: float = 0.5) -> Any:
    """x where abs(x) > lambd, else 0."""
    outside: Callable[[Any], Any] = lambda x: ~((x >= -lambd) & (x <= lambd))
    return _bend("Hardshrink", input, "hardshrink_cpu", lambda x: x * outside(x), lambda g, x: g * outside(x))


def softshrink(input: Any, lambd: float = 0.5) -> Any:
    """x moved towards 0 by lambd, which must not be negative."""
    if lambd < 0:
        raise RuntimeError(f"lambda must be greater or equal to 0, but found to be {lambd:g}.")
    vjp = lambda g, x: g * ~((x >= -lambd) & (x <= lambd))
    return _bend("Softshrink", input, "softshrink_cpu", lambda x: x - np.clip(x, -lambd, lambd), vjp)


def hardsigmoid(input: Any, inplace: bool = False) -> Any:
    """(x + 3) / 6 clipped to [0, 1]."""
    if inplace:
        return in_place(hardsigmoid)(input)
    vjp = lambda g, x: g * ((x > -3) & (x < 3)) * (1 / 6)
    return _bend("Hardsigmoid", input, "hardsigmoid", lambda x: np.clip(x + 3, 0, 6) * (1 / 6), vjp)


def hardswish(input: Any, inplace: bool = False) -> Any:
    """x * hardsigmoid(x). Source: Howard et al., 2019, https://arxiv.org/abs/1905.02244."""
    if inplace:
        return in_place(hardswish)(input)
    vjp = lambda g, x: g * where(x < 3, (x * (1 / 3) + 0.5) * (x > -3), 1.0)
    return _bend("Hardswish", input, "hardswish_cpu", lambda x: x * (np.clip(x + 3, 0, 6) * (1 / 6)), vjp)


def prelu(input: Any, weight: Any) -> Any:
    """x where x > 0, else weight * x; weight holds one number, or one for each index of dimension 1."""
    x, w = _floating(input, "prelu"), weight.array
    if w.size != 1:
        if x.ndim == 0:
            raise RuntimeError("Not allow zero-dim input tensor.")
        channels = x.shape[1] if x.ndim > 1 else 1
        if channels != w.size:
            raise RuntimeError(
                "Mismatch of parameter numbers and input channel size. "
                f"Found parameter numbers = {w.size} and channel size = {channels}."
            )
    if w.ndim > 1:
        raise RuntimeError(f"prelu: Expected `weight` to be a scalar or 1D tensor, but got: ndim = {w.ndim}")
    slope = weight.reshape([-1 if i == min(1, x.ndim - 1) else 1 for i in range(x.ndim)])
    shape = slope.array.shape
    return record(
        "PreluKernelBackward0",
        np.where(x > 0, x, x * slope.array),
        (input, lambda g, x, w: where(x > 0, g, g * w), input, slope),
        (slope, lambda g, x: sum_to(where(x > 0, 0.0, g * x), shape), input),
    )


def rrelu(
    input: Any, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False, inplace: bool = False
) -> Any:
    """x where x > 0, else x times a slope: drawn from U(lower, upper) in training, their mean otherwise."""
    if lower > upper:
        raise RuntimeError("Lower bound should be less than or equal to the upper bound")
    if inplace:
        return rrelu_(input, lower, upper, training)
    if not training:
        return _leaky("RreluWithNoise", input, (lower + upper) / 2)
    x = _floating(input, "rrelu_with_noise_out_cpu")
    xp = array_module(x)
    slopes, negative = xp.ones_like(x), x <= 0
    count = int(negative.sum())
    slopes[negative] = xp.asarray(default_generator.uniform((count,), lower, upper, np.float64), dtype=x.dtype)
    return record("RreluWithNoiseBackward0", x * slopes, (input, lambda g, slopes: g * slopes, slopes))


rrelu_ = in_place(rrelu)


# --- with exponentials ------------------------------------------------------------------------------------------------


def elu(input: Any, alpha: float = 1.0, inplace: bool = False) -> Any:
    """x where x > 0, else alpha * (exp(x) - 1). Source: Clevert et al., 2015, https://arxiv.org/abs/1511.07289."""
    return elu_(input, alpha) if inplace else _elu(input, alpha, 1.0, 1.0)


def selu(input: Any, inplace: bool = False) -> Any:
    """The ELU with the constants that keep mean and variance. Source: https://arxiv.org/abs/1706.02515."""
    return selu_(input) if inplace else _elu(input, SELU_ALPHA, SELU_SCALE, 1.0)


def celu(input: Any, alpha: float = 1.0, inplace: bool = False) -> Any:
    """x where x > 0, else alpha * (exp(x / alpha) - 1). Source: Barron, 2017, https://arxiv.org/abs/1704.07483."""
    if alpha == 0:
        raise RuntimeError("ZeroDivisionError: alpha cannot be 0 for CELU")
    return celu_(input, alpha) if inplace else _elu(input, alpha, 1.0, 1.0 / alpha, "Celu")


def _elu(input: Any, alpha: float, scale: float, steepness: float, name: str = "Elu") -> Any:
    below = alpha * scale

    def vjp(g: Any, x: Any) -> Any:
        return where(x > 0, g * scale, g * exp(x * steepness) * (below * steepness))

    return _bend(name, input, "elu_cpu", lambda x: np.where(x > 0, x * scale, np.expm1(x * steepness) * below), vjp)


elu_, selu_, celu_ = in_place(elu), in_place(selu), in_place(celu)


def softplus(input: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """log(1 + exp(beta * x)) / beta; x itself where beta * x > threshold."""
    if not isinstance(input, Variable):
        return _softplus(input, beta, threshold)
    vjp = lambda g, x: where(x * beta > threshold, g, g * sigmoid(x * beta))
    return _bend("Softplus", input, "softplus_cpu", lambda x: _softplus(x, beta, threshold), vjp)


def _softplus(x: Array, beta: float, threshold: float) -> Array:
    scaled = x * beta
    return np.where(scaled > threshold, x, np.log1p(np.exp(scaled)) * (1 / beta))


logsigmoid = unary(
    "LogSigmoid",
    lambda x: np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x))),
    lambda g, x: g * sigmoid(-x),
)


def softsign(input: Any) -> Any:
    """x / (1 + abs(x))."""
    return input / (absolute(input) + 1)


def tanhshrink(input: Any) -> Any:
    """x - tanh(x)."""
    return input - tanh(input)


def mish(input: Any, inplace: bool = False) -> Any:
    """x * tanh(softplus(x)). Source: Misra, 2019, https://arxiv.org/abs/1908.08681."""
    if inplace:
        return in_place(mish)(input)

    def vjp(g: Any, x: Any) -> Any:
        bend = tanh(softplus(x))
        return g * (bend + x * sigmoid(x) * (1 - bend * bend))

    return _bend("Mish", input, "mish_cpu", lambda x: x * np.tanh(_softplus(x, 1.0, 20.0)), vjp)


# --- with a gate: x times a number between 0 and 1 --------------------------------------------------------------------
# Forward computes the slope too while the elements are in the cache: backward is one product then, of the same memory
# as the input that PyTorch keeps.


def silu(input: Any, inplace: bool = False) -> Any:
    """x * sigmoid(x). Source: Elfwing et al., 2017, https://arxiv.org/abs/1702.03118."""
    if inplace:
        return in_place(silu)(input)

    return _gated("SiluBackward0", input, _silu, _silu_slope)


def _silu(x: Array, y: Array, slope: Array | None, gate: Array) -> None:
    gate[...] = x
    sigmoid_(gate)
    np.multiply(x, gate, out=y)
    if slope is not None:  # gate * (1 + x - y)
        np.subtract(x, y, out=slope)
        slope += 1
        slope *= gate


def _silu_slope(x: Any) -> Any:
    gate = sigmoid(x)
    return gate * (1 + x * (1 - gate))


def gelu(input: Any, approximate: str = "none") -> Any:
    """x times the cumulative distribution of N(0, 1) at x, or the approximation of it by a tanh.

    Source: Hendrycks and Gimpel, 2016, https://arxiv.org/abs/1606.08415.
    """
    if approximate == "none":
        return _gated("GeluBackward0", input, _gelu, _gelu_slope)
    if approximate == "tanh":
        return _gated("GeluBackward0", input, _gelu_tanh, _gelu_tanh_slope)
    raise RuntimeError("approximate argument must be either none or tanh.")


def _gelu(x: Array, y: Array, slope: Array | None, scratch: Array) -> None:
    gate = y if slope is None else slope
    normal_cdf(x, gate, scratch)
    if slope is None:
        y *= x
        return
    np.multiply(x, gate, out=y)
    scratch *= -0.5
    np.exp(scratch, out=scratch)
    scratch *= x
    scratch *= _DENSITY
    slope += scratch


def _gelu_slope(x: Any) -> Any:
    return (erf(x * math.sqrt(0.5)) + 1) * 0.5 + x * exp(x * x * -0.5) * _DENSITY


_DENSITY = 1 / math.sqrt(2 * math.pi)


def _gelu_tanh(x: Array, y: Array, slope: Array | None, scratch: Array) -> None:
    gate = y if slope is None else slope
    odd_polynomial(x, BEND, gate, scratch)
    sigmoid_(gate)
    if slope is None:
        y *= x
        return
    np.multiply(x, gate, out=y)
    scratch *= 3 * BEND[1]
    scratch += BEND[0]
    scratch *= y
    scratch *= 1 - gate
    slope += scratch


def _gelu_tanh_slope(x: Any) -> Any:
    gate = sigmoid(x * (BEND[0] + x * x * BEND[1]))
    return gate + x * gate * (1 - gate) * (BEND[0] + x * x * (3 * BEND[1]))


def _gated(name: str, input: Any, fill: Callable[..., None], slope_of: Callable[[Any], Any]) -> Any:
    """fill(x, y, slope or None, scratch) computes a part of the value and the slope; slope_of(x) is the slope again.

    The kernel of fill's name computes all of both.
    """
    x = _floating(input, name)
    wide = x.astype(np.float32) if x.dtype.itemsize == 2 else x
    recorded = input.needs and thread.recording
    fast = kernels(wide)
    if fast is not None:
        value, slope = np.empty_like(wide), np.empty_like(wide)
        getattr(fast, fill.__name__.strip("_"))(*(array.reshape(-1) for array in (wide, value, slope)))
    elif recorded:
        value, slope = in_blocks(wide, 2, fill)
    else:
        (value,) = in_blocks(wide, 1, lambda x, y, scratch: fill(x, y, None, scratch))
    if not recorded:
        return record(name, value.astype(x.dtype, copy=False))
    vjp = lambda g, x, slope: g * (slope_of(x) if isinstance(g, Variable) else slope)
    saved = slope.astype(x.dtype, copy=False)
    return record(name, value.astype(x.dtype, copy=False), (input, vjp, input, saved))


def glu(input: Any, dim: int = -1) -> Any:
    """a * sigmoid(b) of the two halves along dim. Source: Dauphin et al., 2016, https://arxiv.org/abs/1612.08083."""
    x = _floating(input, "glu_cpu")
    if x.ndim == 0:
        raise RuntimeError("glu does not support scalars because halving size must be even")
    axis = normalize_dim(dim, x.ndim)
    if x.shape[axis] % 2:
        raise RuntimeError(f"Halving dimension must be even, but dimension {axis} is size {x.shape[axis]}")
    half = x.shape[axis] // 2
    first, second = ((slice(None),) * axis + (part,) for part in (slice(half), slice(half, None)))

    def vjp(g: Any, x: Any) -> Any:
        a, gate = x[first], sigmoid(x[second])
        parts = [g * gate, g * a * gate * (1 - gate)]
        return cat(parts, axis) if isinstance(g, Variable) else np.concatenate(parts, axis)

    return record("GluBackward0", x[first] * sigmoid(x[second]), (input, vjp, input))


# --- over a dimension -------------------------------------------------------------------------------------------------


def softmin(input: Any, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Any:
    """softmax(-x)."""
    return softmax(-input, dim, dtype)


def gumbel_softmax(logits: Any, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1) -> Any:
    """A sample from the Gumbel-softmax distribution; hard: one-hot, with the gradient of the soft one.

    The draws are not PyTorch's. eps is accepted and not used, as there.

    Source: Jang et al., 2016, https://arxiv.org/abs/1611.01144.
    """
    x = _floating(logits, "gumbel_softmax")
    draws = -np.log1p(-default_generator.uniform(x.shape, 0.0, 1.0, np.float64))  # exponential
    gumbels = array_module(x).asarray(-np.log(draws), dtype=x.dtype)
    soft = softmax((logits + wrap(gumbels)) / tau, dim)
    if not hard:
        return soft
    y = soft.array
    chosen = array_module(y).zeros_like(y)
    np.put_along_axis(chosen, np.expand_dims(y.argmax(dim), dim), 1, dim)
    return record("AddBackward0", chosen - y + y, (soft, lambda g: g))
