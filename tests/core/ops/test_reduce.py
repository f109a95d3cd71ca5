"""Reductions: the op table, integer and half-precision dtypes, and errors."""

from typing import Any

import numpy as np

normal = np.random.default_rng(0).standard_normal
DIMS: list[Any] = [{}, {"dim": 0}, {"dim": -1}, {"dim": 1, "keepdim": True}]
MANY: list[Any] = [{"dim": (0, -1)}, {"dim": (0, 2), "keepdim": True}]
TIES = np.array([[1.0, 3, 3, 2], [3, 1, 0, 3]])


def reduced(op: str, **options: Any) -> Any:
    return lambda m, a: getattr(m, op)(a, **options)


SINGLE = ["sum", "mean", "prod", "var", "std", "max", "min", "argmax", "argmin", "any", "all", "amax", "amin"]
SEVERAL = ["sum", "mean", "var", "std", "amax", "amin", "any", "all", "logsumexp"]
SOFT = ["softmax", "log_softmax", "logsumexp"]
EXTREMES = ["max", "min", "amax", "amin", "argmax", "argmin"]
ROWS: list[tuple[Any, ...]] = [
    *[(op, reduced(op, **dims), (normal((2, 3, 4)),)) for op in SINGLE for dims in DIMS],
    *[(op, reduced(op, **dims), (normal((2, 3, 4)),)) for op in SEVERAL for dims in MANY],
    *[(op, reduced(op, dim=[]), (normal((2, 3, 4)),)) for op in ("sum", "mean", "amax", "amin")],
    *[(op, reduced(op, **dims), (normal(()),)) for op in SINGLE if op not in ("var", "std") for dims in DIMS[:3]],
    *[(op, reduced(op, dim=dim), (normal((2, 3, 4)),)) for op in SOFT for dim in (0, 1, -1)],
    *[(op, reduced(op, dim=dim), (np.asarray(normal(())),), "name") for op in SOFT for dim in (0, -1)],
    *[(op, reduced(op, dim=1), (normal((2, 0)),), "kink") for op in SOFT],
    *[(op, reduced(op, dim=0), (normal((2, 0)),)) for op in SOFT],
    *[(op, reduced(op, **dims), (TIES,), "kink") for op in EXTREMES for dims in ({}, {"dim": 1})],
    *[(op, reduced(op, **dims), (normal((2, 0)),), "kink") for op in ("sum", "mean", "prod") for dims in DIMS[:3]],
    *[(op, reduced(op, dim=0), (normal((2, 0)),)) for op in SINGLE if op not in ("var", "std")],
    *[(op, reduced(op, **o), (normal((2, 3)),)) for op in ("sum", "mean") for o in ({"dtype": None}, {"dim": 0})],
    *[(op, reduced(op, correction=0, dim=1), (normal((2, 3)),)) for op in ("var", "std")],
    *[(op, reduced(op, dim=1, unbiased=False), (normal((2, 3)),)) for op in ("var", "std")],
    *[(op, lambda m, a, op=op: getattr(m, op)(a, 1, False, True), (normal((2, 3)),)) for op in ("var", "std")],
    ("std", reduced("std", dim=1), (np.array([[1.0, 1, 1], [1, 2, 4]]),), "kink"),
    *[("prod", reduced("prod", **d), (np.array([[2.0, 0, 3], [0, 4, 0]]),)) for d in ({}, {"dim": 1}, {"dim": 0})],
    ("prod", reduced("prod"), (np.array([2.0, 0, 3]),)),
    ("max", lambda m, a, b: m.max(a, b), (normal(3), normal((2, 1)))),
    ("min", lambda m, a, b: m.min(a, b), (normal(3), normal((2, 1)))),
    ("sum", lambda m, a: a.sum(dim=0, dtype=m.float64), (normal((2, 3)),)),
    ("mean", lambda m, a: a.mean(dim=0, dtype=m.float64), (normal((2, 3)),)),
    ("sum", lambda m, a: a.sum(dtype=m.float64), (np.arange(3),)),
    ("softmax", lambda m, a: a.softmax(0, dtype=m.float64), (normal(3),)),
    ("softmax", lambda m, a: a.softmax(0), (np.array([1000.0, 0, -1000]),)),
    ("log_softmax", lambda m, a: a.log_softmax(0), (np.array([1000.0, 0, -np.inf]),), "kink"),
    ("logsumexp", lambda m, a: a.logsumexp(0), (np.array([1000.0, 0, -np.inf]),), "kink"),
    ("logsumexp", lambda m, a: a.logsumexp(0), (np.array([-np.inf, -np.inf]),), "kink"),
]  # fmt: skip
