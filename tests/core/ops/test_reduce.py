"""Reductions: the op table, integer and half-precision dtypes, and errors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

normal = np.random.default_rng(0).standard_normal
DIMS: list[Any] = [{}, {"dim": 0}, {"dim": -1}, {"dim": 1, "keepdim": True}]
MANY: list[Any] = [{"dim": (0, -1)}, {"dim": (0, 2), "keepdim": True}]
GAPS = np.array([[1.0, np.nan, 3, np.nan], [np.nan, 1, 0, 3], [np.nan] * 4])
INTS = np.arange(6).reshape(2, 3) % 4
DEVIATIONS = ("var", "std", "var_mean", "std_mean")


def reduced(op: str, **options: Any) -> Any:
    return lambda m, a: getattr(m, op)(a, **options)


SINGLE = ["sum", "mean", "prod", "var", "std", "any", "all", "std_mean", "var_mean"]
NANS = ["nansum", "nanmean"]
SEVERAL = ["sum", "mean", "var", "std", "any", "all", "logsumexp", "nansum", "nanmean"]
SOFT = ["softmax", "log_softmax", "logsumexp"]
ROWS: list[tuple[Any, ...]] = [
    *[(op, reduced(op, **dims), (normal((2, 3, 4)),)) for op in SINGLE for dims in DIMS],
    *[(op, reduced(op, **dims), (normal((2, 3, 4)),)) for op in SEVERAL for dims in MANY],
    *[(op, reduced(op, dim=[]), (normal((2, 3, 4)),)) for op in ("sum", "mean")],
    *[(op, reduced(op, **dims), (normal(()),)) for op in SINGLE if op not in DEVIATIONS for dims in DIMS[:3]],
    *[(op, reduced(op, dim=dim), (normal((2, 3, 4)),)) for op in SOFT for dim in (0, 1, -1)],
    *[(op, reduced(op, dim=dim), (np.asarray(normal(())),), "name") for op in SOFT for dim in (0, -1)],
    *[(op, reduced(op, dim=1), (normal((2, 0)),), "kink") for op in SOFT],
    *[(op, reduced(op, dim=0), (normal((2, 0)),)) for op in SOFT],
    *[(op, reduced(op, **dims), (normal((2, 0)),), "kink") for op in ("sum", "mean", "prod") for dims in DIMS[:3]],
    *[(op, reduced(op, dim=0), (normal((2, 0)),)) for op in SINGLE if op not in DEVIATIONS],
    *[(op, reduced(op, **o), (normal((2, 3)),)) for op in ("sum", "mean") for o in ({"dtype": None}, {"dim": 0})],
    *[(op, reduced(op, correction=0, dim=1), (normal((2, 3)),)) for op in DEVIATIONS],
    *[(op, reduced(op, dim=1, unbiased=False), (normal((2, 3)),)) for op in DEVIATIONS],
    *[(op, lambda m, a, op=op: getattr(m, op)(a, 1, False, True), (normal((2, 3)),)) for op in DEVIATIONS],
    ("std", reduced("std", dim=1), (np.array([[1.0, 1, 1], [1, 2, 4]]),), "kink"),
    *[("prod", reduced("prod", **d), (np.array([[2.0, 0, 3], [0, 4, 0]]),)) for d in ({}, {"dim": 1}, {"dim": 0})],
    ("prod", reduced("prod"), (np.array([2.0, 0, 3]),)),
    ("sum", lambda m, a: a.sum(dim=0, dtype=m.float64), (normal((2, 3)),)),
    ("mean", lambda m, a: a.mean(dim=0, dtype=m.float64), (normal((2, 3)),)),
    ("sum", lambda m, a: a.sum(dtype=m.float64), (np.arange(3),)),
    *[(op, reduced(op, **dims), (GAPS,), "kink") for op in NANS for dims in ({}, {"dim": 0}, {"dim": 1})],
    *[(op, reduced(op, **dims), (values,)) for op in ("sum", "prod", "any", "all", "count_nonzero")
      for values in (INTS, INTS.astype(np.uint8), INTS.astype(bool)) for dims in ({}, {"dim": 1})],
    ("count_nonzero", lambda m, a: a.count_nonzero(1), (GAPS,), "constant"),
    ("prod", lambda m, a: a.prod(dim=0, dtype=m.float64), (normal((2, 3)),)),
    ("sum", lambda m, a: a.sum(dtype=m.int32), (np.arange(3),)),
    ("mean", lambda m, a: a.mean(dtype=m.float64), (np.arange(3),)),
    ("softmax", lambda m, a: a.softmax(0, dtype=m.float64), (normal(3),)),
    ("softmax", lambda m, a: a.softmax(0), (np.array([1000.0, 0, -1000]),)),
    ("log_softmax", lambda m, a: a.log_softmax(0), (np.array([1000.0, 0, -np.inf]),), "kink"),
    ("logsumexp", lambda m, a: a.logsumexp(0), (np.array([1000.0, 0, -np.inf]),), "kink"),
    ("logsumexp", lambda m, a: a.logsumexp(0), (np.array([-np.inf, -np.inf]),), "kink"),
]  # fmt: skip


@pytest.mark.parametrize("op", ["sum", "mean", "var", "std", "nansum"])
def test_half_precision_adds_up_in_float32(op: str, same: Callable[[Any], None]) -> None:
    """Along either dimension, whatever its stride."""
    for dim in (0, 1):
        same(lambda m, dim=dim: getattr(m, op)(m.full((1000, 1000), 1.001).half()[: 3 if dim else None], dim=dim)[:3])


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.ones(2, dtype=m.int64).mean(),
        lambda m: m.ones(2).mean(dtype=m.int32),
        lambda m: m.ones(2, 2).sum(dim=(0, 0)),
        lambda m: m.ones(2, 2).sum(dim=2),
        lambda m: m.ones(2, dtype=m.int64).var(),
    ],
)
def test_errors(call: Any, same_class: Callable[[Any], None]) -> None:
    """What has no sense is refused as PyTorch refuses it."""
    same_class(call)
