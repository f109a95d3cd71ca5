"""Special functions."""

from typing import Any

import numpy as np
import pytest

import mpigrad

normal = np.random.default_rng(0).standard_normal
X = np.array([[-1.7, -0.3, 0.4], [0.9, 2.5, 6.0]])


def whole(*values: Any) -> np.ndarray:
    return np.array(values, np.float64)


def method(name: str) -> Any:
    return lambda m, *inputs: getattr(m, name)(*inputs)


def special(name: str) -> Any:
    return lambda m, *inputs: getattr(m.special, name)(*inputs)


ROWS: list[tuple[Any, ...]] = [
    *[(op, method(op), (X,)) for op in ("erfc", "i0", "sinc", "lgamma")],
    *[(op, method(op), (np.abs(X),)) for op in ("digamma",)],
    ("erfinv", method("erfinv"), (X / 7,)),
    ("logit", method("logit"), (np.abs(X) / 7,)),
    ("logit", lambda m, a: [m.logit(a, 0.3), a.logit(eps=1e-6)], (whole(-1, 0.2, 0.5, 0.9, 2),), "kink"),
    *[("polygamma", lambda m, a, n=n: [m.polygamma(n, a), a.polygamma(n)], (np.abs(X),), "name") for n in (0, 1, 2)],
    ("mvlgamma", lambda m, a: [m.mvlgamma(a, 1), a.mvlgamma(3)], (np.abs(X) + 2,), "name"),
    *[(op, method(op), (X, b)) for op in ("logaddexp", "logaddexp2") for b in (normal(3), normal((2, 1)))],
    *[
        (op, special(op), (X,))
        for op in (
            "expit",
            "erf",
            "erfc",
            "erfcx",
            "exp2",
            "expm1",
            "i0",
            "i0e",
            "i1",
            "i1e",
            "log_ndtr",
            "sinc",
        )
    ],
    *[(op, special(op), (np.abs(X),)) for op in ("digamma", "psi", "gammaln", "entr", "log1p")],
    ("ndtr", special("ndtr"), (X,), "name"),
    ("ndtri", special("ndtri"), (np.abs(X) / 7,)),
    *[(op, special(op), (X, np.abs(X) + 0.1)) for op in ("xlogy", "xlog1py")],
    *[(op, special(op), (X, 1)) for op in ("softmax", "log_softmax", "logsumexp")],
    ("multigammaln", special("multigammaln"), (np.abs(X) + 2, 2), "name"),
]


@pytest.mark.parametrize("op", ["gammainc", "gammaincc", "zeta"])
def test_without_derivative(op: str, torch: Any) -> None:
    got, want = (getattr(m.special, op)(m.tensor(np.abs(X) + 1), m.tensor(np.abs(X))) for m in (mpigrad, torch))
    np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-10)


def test_special_values(torch: Any) -> None:
    values = whole(np.nan, np.inf, -np.inf, 0, -0.0, 1, -1, 30, -30)
    for op in ("erf", "erfc", "erfinv", "logit", "sinc", "lgamma", "digamma", "entr", "ndtri", "i0"):
        got, want = (
            getattr(m.special, op.replace("lgamma", "gammaln"))(m.tensor(values)).numpy() for m in (mpigrad, torch)
        )
        np.testing.assert_allclose(got, want, rtol=1e-10, err_msg=op)


@pytest.mark.parametrize("expression", [lambda m: m.polygamma(-1, m.ones(1)), lambda m: m.mvlgamma(m.ones(1), 0)])
def test_errors(expression: Any, same_class: Any) -> None:
    same_class(expression)
