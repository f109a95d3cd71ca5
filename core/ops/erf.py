"""The error function and the normal distribution in float32, by one polynomial: seven times as quick as SciPy's erf."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..backend import Array, array_module, special

# log(cdf(x) / cdf(-x)) = x * P(x^2) for the cumulative distribution of N(0, 1), so that cdf(x) is the sigmoid of it and
# erf(x / sqrt(2)) = tanh(x * P(x^2) / 2). Fitted for least relative error of erf by linear programming over 900
# Chebyshev nodes in 0 < x < 5.6, where erf becomes 1 in float32: 1e-7, with float32 arithmetic 2e-7 everywhere.
LOG_ODDS = (1.595769273, 0.0726686964, -6.782262376e-05, -1.095634158e-04, 7.746110465e-06, -2.505133534e-07,
            3.134525605e-09)  # fmt: skip
BEND = (2 * math.sqrt(2 / math.pi), 2 * math.sqrt(2 / math.pi) * 0.044715)  # the first terms in GELU's approximation
_ERF = tuple(p * 2**k / math.sqrt(2) for k, p in enumerate(LOG_ODDS))
BLOCK = 2**14  # elements that are computed at once: their temporaries stay in the cache


def in_blocks(x: Array, outputs: int, fill: Callable[..., None]) -> list[Array]:
    """New arrays like x, which fill(part, *parts of the outputs, scratch) computes part by part, in one dimension."""
    flat = array_module(x).ascontiguousarray(x).reshape(-1)
    made = [np.empty_like(flat) for _ in range(outputs)]
    step = BLOCK if isinstance(x, np.ndarray) else max(x.size, 1)
    scratch = np.empty_like(flat[:step])
    for start in range(0, x.size, step):
        part = flat[start : start + step]
        fill(part, *[out[start : start + step] for out in made], scratch[: part.size])
    return [out.reshape(x.shape) for out in made]


def odd_polynomial(x: Array, coefficients: tuple[float, ...], out: Array, square: Array) -> None:
    """out = x * (c[0] + c[1] x^2 + c[2] x^4 + ...), and square = x^2."""
    np.multiply(x, x, out=square)
    np.multiply(square, coefficients[-1], out=out)
    for c in coefficients[-2:0:-1]:
        out += c
        out *= square
    out += coefficients[0]
    out *= x


def erf(x: Array) -> Array:
    """The error function, 2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x. Half precision has float32's."""
    if x.dtype == np.float64 or not isinstance(x, np.ndarray):
        return special(x).erf(x).astype(x.dtype, copy=False)

    def fill(part: Array, out: Array, square: Array) -> None:
        odd_polynomial(part, _ERF, out, square)
        np.tanh(out, out=out)

    return in_blocks(x.astype(np.float32, copy=False), 1, fill)[0].astype(x.dtype, copy=False)


def normal_cdf(x: Array, out: Array, square: Array) -> None:
    """out = the cumulative distribution of N(0, 1) at x, and square = x^2."""
    if x.dtype == np.float64:
        np.multiply(x, math.sqrt(0.5), out=out)
        out[...] = special(x).erf(out)
        out += 1
        out *= 0.5
        np.multiply(x, x, out=square)
    else:
        odd_polynomial(x, LOG_ODDS, out, square)
        sigmoid(out)


def sigmoid(x: Any) -> None:
    """x = 1 / (1 + exp(-x)), in place."""
    np.negative(x, out=x)
    np.exp(x, out=x)
    x += 1
    np.reciprocal(x, out=x)
