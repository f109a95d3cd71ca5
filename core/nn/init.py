"""Start values for parameters, drawn from PyTorch's stream in PyTorch's order."""

from __future__ import annotations

import math
import warnings

import numpy as np

from ..autograd import no_grad
from ..backend import array_module, to_host
from ..generator import Generator, default_generator
from ..tensor import Tensor

GAINS = {"linear": 1, "sigmoid": 1, "tanh": 5.0 / 3, "relu": math.sqrt(2.0), "selu": 3.0 / 4}
GAINS |= dict.fromkeys([f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)], 1)


@no_grad()
def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Generator | None = None) -> Tensor:
    """U(a, b)."""
    tensor.uniform_(a, b, generator=generator)
    return tensor


@no_grad()
def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None) -> Tensor:
    """N(mean, std**2)."""
    tensor.normal_(mean, std, generator=generator)
    return tensor


@no_grad()
def constant_(tensor: Tensor, val: float) -> Tensor:
    """All val."""
    tensor.fill_(val)
    return tensor


def zeros_(tensor: Tensor) -> Tensor:
    """All 0."""
    return constant_(tensor, 0.0)


def ones_(tensor: Tensor) -> Tensor:
    """All 1."""
    return constant_(tensor, 1.0)


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor by which a nonlinearity shrinks the variance. ValueError for an unknown one."""
    if nonlinearity == "leaky_relu":
        if param is not None and (isinstance(param, bool) or not isinstance(param, (int, float))):
            raise ValueError(f"negative_slope {param} not a valid number")
        return math.sqrt(2.0 / (1 + (0.01 if param is None else param) ** 2))
    if nonlinearity not in GAINS:
        raise ValueError(f"Unsupported nonlinearity {nonlinearity}; expected leaky_relu or one of {', '.join(GAINS)}")
    return GAINS[nonlinearity]


def _fans(tensor: Tensor) -> tuple[int, int]:
    """Inputs and outputs of one unit; ValueError below two dimensions."""
    if tensor.ndim < 2:
        raise ValueError("Fan in and fan out can not be computed for tensor with fewer than 2 dimensions")
    field = math.prod(tensor.shape[2:])
    return tensor.shape[1] * field, tensor.shape[0] * field


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"Mode {mode} not supported, please use one of ['fan_in', 'fan_out']")
    if 0 in tensor.shape:
        warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=4)
        return 0.0
    fan = _fans(tensor)[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(fan)


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """U(-b, b) with b = gain * sqrt(3 / fan). Source: He et al., 2015, https://arxiv.org/abs/1502.01852."""
    bound = math.sqrt(3.0) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """N(0, gain**2 / fan). Source: He et al., 2015, https://arxiv.org/abs/1502.01852."""
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity), generator)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """U(-b, b) with b = gain * sqrt(6 / (fan_in + fan_out)). Source: Glorot and Bengio, 2010."""
    bound = math.sqrt(3.0) * gain * math.sqrt(2.0 / float(sum(_fans(tensor))))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """N(0, gain**2 * 2 / (fan_in + fan_out)). Source: Glorot and Bengio, 2010."""
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / float(sum(_fans(tensor)))), generator)


@no_grad()
def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Generator | None = None,
) -> Tensor:
    """N(mean, std**2) within [a, b], by rejection: of normals, or of uniforms where few normals would lie there."""
    if mean < a - 2 * std or mean > b + 2 * std:
        warnings.warn(
            "mean is more than 2 std from [a, b] in nn.init.trunc_normal_. "
            "The distribution of values may be incorrect.",
            stacklevel=2,
        )
    draws, shape, dtype = generator or default_generator, tensor.array.shape, tensor.array.dtype
    inside = math.erf((b - mean) / std / math.sqrt(2)) - math.erf((a - mean) / std / math.sqrt(2))
    if inside / 2 > 0.3:
        low, high = dtype.type(a), dtype.type(b)
        values = draws.normal(shape, mean, std, dtype)
        while (outside := (values < low) | (values > high)).any():
            values = np.where(outside, draws.normal(shape, mean, std, dtype), values)
    else:
        highest = -0.5 * ((max(a, min(mean, b)) - mean) / std) ** 2
        values, pending = np.zeros(shape, dtype), np.ones(shape, bool)
        while pending.any():
            candidates = draws.uniform(shape, a, b, dtype)
            values = np.where(pending, candidates, values)
            log_density = np.square((candidates - mean) / std) * -0.5 - highest
            pending &= np.log(draws.uniform(shape, 0.0, 1.0, dtype)) > log_density
    return _assign(tensor, values)


def _assign(tensor: Tensor, values: np.ndarray) -> Tensor:
    """Give the tensor values that were drawn on the host."""
    tensor._write(array_module(tensor.array).asarray(values))
    return tensor


@no_grad()
def eye_(tensor: Tensor) -> Tensor:
    """The identity matrix: as many inputs are preserved as there are outputs."""
    if tensor.ndim != 2:
        raise ValueError("Only tensors with 2 dimensions are supported")
    return _assign(tensor, np.eye(*tensor.shape, dtype=tensor.array.dtype))


@no_grad()
def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """The identity of convolutions: 1 in the middle of the window from each input channel to its output channel."""
    if tensor.ndim not in (3, 4, 5):
        raise ValueError("Only tensors with 3, 4, or 5 dimensions are supported")
    if tensor.shape[0] % groups:
        raise ValueError("dim 0 must be divisible by groups")
    values = np.zeros(tensor.shape, tensor.array.dtype)
    per_group = tensor.shape[0] // groups
    channels = np.arange(min(per_group, tensor.shape[1]))
    for group in range(groups):
        values[(group * per_group + channels, channels, *[n // 2 for n in tensor.shape[2:]])] = 1
    return _assign(tensor, values)


@no_grad()
def orthogonal_(tensor: Tensor, gain: float = 1, generator: Generator | None = None) -> Tensor:
    """Orthonormal rows (or columns, of which there are fewer), times gain; dimensions beyond two are flattened.

    Source: Saxe et al., 2013, https://arxiv.org/abs/1312.6120; the signs: Mezzadri, 2006, math-ph/0609050.
    """
    if tensor.ndim < 2:
        raise ValueError("Only tensors with 2 or more dimensions are supported")
    if not tensor.numel():
        return tensor
    rows, dtype = tensor.shape[0], tensor.array.dtype
    draws = (generator or default_generator).normal((rows, tensor.numel() // rows), 0.0, 1.0, dtype)
    tall = draws.T if rows < draws.shape[1] else draws
    q, r = np.linalg.qr(tall.astype(np.float32) if dtype.itemsize == 2 else tall)
    q = q * np.sign(np.diagonal(r))
    return _assign(tensor, ((q.T if tall is not draws else q) * gain).reshape(tensor.shape).astype(dtype))


@no_grad()
def sparse_(tensor: Tensor, sparsity: float, std: float = 0.01, generator: Generator | None = None) -> Tensor:
    """N(0, std**2), and 0 at a share `sparsity` of each column, chosen by the default generator (Martens, 2010)."""
    if tensor.ndim != 2:
        raise ValueError("Only tensors with 2 dimensions are supported")
    rows, columns = tensor.shape
    normal_(tensor, 0, std, generator)
    values = to_host(tensor.array).copy()
    for column in range(columns):
        values[default_generator.randperm(rows)[: math.ceil(sparsity * rows)], column] = 0
    return _assign(tensor, values)
