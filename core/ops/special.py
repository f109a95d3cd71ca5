"""Special functions: SciPy's (CuPy's on a GPU) with their derivatives. `mpigrad.special` is this module."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..autograd import Variable, wrap
from ..backend import Array, special
from ..dtypes import FLOATING, floating
from .elementwise import cos, exp, log, sigmoid, sign
from .elementwise import erf as erf
from .elementwise import exp2 as exp2
from .elementwise import expm1 as expm1
from .elementwise import log1p as log1p
from .elementwise import round as round
from .elementwise import xlogy as xlogy
from .pointwise import Op, binary, compute, unary, where
from .reduce import log_softmax as log_softmax
from .reduce import logsumexp as logsumexp
from .reduce import softmax as softmax

# fmt: off
__all__ = [
    "digamma", "erfc", "erfinv", "i0", "lgamma", "logaddexp", "logaddexp2", "logit", "mvlgamma", "polygamma", "sinc",
]
# fmt: on

ROOT_PI, ROOT_TAU = math.sqrt(math.pi), math.sqrt(2 * math.pi)


def scipy(name: str) -> Callable[..., Array]:
    """SciPy's function of this name, for arrays of one dtype."""
    return lambda *arrays: getattr(special(arrays[0]), name)(*arrays)


expit = sigmoid
erfc = unary("Erfc", scipy("erfc"), lambda g, x: g * exp(-x * x) * (-2 / ROOT_PI), to_float=True)
erfcx: Op = unary("SpecialErfcx", scipy("erfcx"), lambda g, x, y: g * (2 * x * y - 2 / ROOT_PI), to_float=True)
erfinv = unary("Erfinv", scipy("erfinv"), lambda g, y: g * exp(y * y) * (ROOT_PI / 2), to_float=True)
ndtr = unary("SpecialNdtr", scipy("ndtr"), lambda g, x: g * exp(x * x * -0.5) / ROOT_TAU, to_float=True)
ndtri = unary("SpecialNdtri", scipy("ndtri"), lambda g, y: g * exp(y * y * 0.5) * ROOT_TAU, to_float=True)
log_ndtr = unary(
    "SpecialLogNdtr",
    scipy("log_ndtr"),
    lambda g, x: g / erfcx(x * -math.sqrt(0.5)) * math.sqrt(2 / math.pi),
    to_float=True,
)
entr = unary("SpecialEntr", scipy("entr"), lambda g, x: g * -(log(x) + 1), to_float=True)
lgamma = gammaln = unary("Lgamma", lambda x: _gammaln(x), lambda g, x: g * digamma(x), to_float=True)
digamma: Op = unary("Digamma", scipy("digamma"), lambda g, x: g * polygamma(1, x), to_float=True)
psi = digamma
i0: Op = unary("I0", scipy("i0"), lambda g, x: g * i1(x), to_float=True)
i1: Op = unary("SpecialI1", scipy("i1"), lambda g, x, y: g * (i0(x) - _over(y, x, 0.5)), to_float=True)
i0e: Op = unary("SpecialI0E", scipy("i0e"), lambda g, x, y: g * (i1e(x) - sign(x) * y), to_float=True)
i1e: Op = unary(
    "SpecialI1E", scipy("i1e"), lambda g, x, y: g * (i0e(x) - y * sign(x) - _over(y, x, 0.5)), to_float=True
)
sinc = unary(
    "Sinc",
    np.sinc,
    lambda g, x, y: g * where(x == 0, 0.0, (cos(x * math.pi) - y) / where(x == 0, 1.0, x)),
    to_float=True,
)
logaddexp = binary(
    "Logaddexp",
    np.logaddexp,
    lambda g, a, b: g * sigmoid(a - b),
    lambda g, a, b: g * sigmoid(b - a),
    refuses="biu",
    numbers="",
)
logaddexp2 = binary(
    "Logaddexp2",
    np.logaddexp2,
    lambda g, a, b: g * sigmoid((a - b) * math.log(2)),
    lambda g, a, b: g * sigmoid((b - a) * math.log(2)),
    refuses="biu",
    numbers="",
)
xlog1py = binary(
    "SpecialXlog1Py",
    scipy("xlog1py"),
    lambda g, a, b: where((a == 0) & (b <= -1), 0.0, g * log1p(b)),
    lambda g, a, b: g * a / (b + 1),
    to_float=True,
)
zeta = binary("SpecialZeta", scipy("zeta"), to_float=True)
gammainc = binary("SpecialGammainc", scipy("gammainc"), to_float=True, refuses="biu", numbers="")
gammaincc = binary("SpecialGammaincc", scipy("gammaincc"), to_float=True, refuses="biu", numbers="")


def _gammaln(x: Array) -> Array:
    return np.where(x == -math.inf, math.inf, special(x).gammaln(x))


def _over(y: Any, x: Any, limit: float) -> Any:
    """y / x, and its limit at 0."""
    return where(x == 0, limit, y / where(x == 0, 1.0, x))


def polygamma(n: int, input: Any) -> Any:
    """The n-th derivative of digamma; RuntimeError for n < 0.

    Source: https://dlmf.nist.gov/5.15 (by the Hurwitz zeta function).
    """
    if n < 0:
        raise RuntimeError("polygamma(n, x) does not support negative n.")
    if n == 0:
        return digamma(input)
    factor = (-1.0) ** (n + 1) * math.factorial(n)
    value: Callable[[Array], Array] = lambda x: special(x).zeta(x.dtype.type(n + 1), x) * factor
    if not isinstance(input, Variable):
        return value(input)
    source = input if input.array.dtype.kind in FLOATING else wrap(floating(input.array))
    return compute("PolygammaBackward0", value, (source,), (lambda g, x: g * polygamma(n + 1, x),))


def logit(input: Any, eps: float | None = None) -> Any:
    """log(x / (1 - x)), of x clamped to [eps, 1 - eps] where eps is given."""
    source = input if input.array.dtype.kind in FLOATING else wrap(floating(input.array))
    low, high = (0.0, 1.0) if eps is None else (eps, 1 - eps)

    def value(x: Array) -> Array:
        return special(x).logit(x if eps is None else np.clip(x, low, high))

    outside = math.nan if eps is None else 0.0
    vjp = lambda g, x: where((x >= low) & (x <= high), g / (x * (1 - x)), outside)
    return compute("LogitBackward0", value, (source,), (vjp,))


def mvlgamma(input: Any, p: int) -> Any:
    """The logarithm of the multivariate gamma function of dimension p.

    Source: https://dlmf.nist.gov/35.3.
    """
    if p < 1:
        raise RuntimeError("p has to be greater than or equal to 1")
    source = input if input.array.dtype.kind in FLOATING else wrap(floating(input.array))
    total = lgamma(source)
    for j in range(1, p):
        total = total + lgamma(source - j / 2)
    return total + p * (p - 1) / 4 * math.log(math.pi)


multigammaln = mvlgamma
