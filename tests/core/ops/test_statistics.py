"""Counting and covariance: the op table, several results, and errors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

normal = np.random.default_rng(0).standard_normal
INTS = np.array([[3, 1, 1], [2, 3, 3]])
ALL: Any = {"return_inverse": True, "return_counts": True}


def called(op: str, *args: Any, **options: Any) -> Any:
    return lambda m, *inputs: getattr(m, op)(*inputs, *args, **options)


COUNTED: list[Any] = [{}, ALL, {"dim": 0, **ALL}, {"dim": 1, **ALL}, {"return_counts": True}]
ROWS: list[tuple[Any, ...]] = [
    *[(op, called(op, **o), (INTS,)) for op in ("unique", "unique_consecutive") for o in COUNTED],
    *[(op, called(op, **ALL), (np.array([2.0, 1, np.nan, 1, np.nan]),), "constant")
      for op in ("unique", "unique_consecutive")],
    *[(op, called(op, **ALL), (np.zeros(0, int),)) for op in ("unique", "unique_consecutive")],
    *[("bincount", called("bincount", **o), (INTS.reshape(-1),)) for o in ({}, {"minlength": 6})],
    ("bincount", called("bincount"), (np.zeros(0, int),)),
    ("bincount", lambda m, a, w: m.bincount(a, w.detach()), (np.array([1, 1, 3]), normal(3))),
    *[("histc", lambda m, a, args=args: a.detach().histc(*args), (normal(50),)) for args in ((), (5,), (4, -1, 1.5))],
    *[("cov", called("cov", **o), (a,), "name") for o in ({}, {"correction": 0}) for a in (normal((3, 5)), normal(5))],
    ("cov", lambda m, a, f: m.cov(a, fweights=f), (normal((3, 4)), np.array([1, 2, 3, 1])), "name"),
    ("cov", lambda m, a: m.cov(a, aweights=m.tensor([0.5, 1, 2, 1], dtype=a.dtype)), (normal((3, 4)),), "name"),
    *[("corrcoef", called("corrcoef"), (a,), "name") for a in (normal((3, 5)),)],
]  # fmt: skip


def test_histogram_of_equal_elements(same: Callable[[Any], None]) -> None:
    """A range without width is widened by one on either side."""
    same(lambda m: m.histc(m.ones(3), 4))
    same(lambda m: m.histc(m.tensor([1.0, float("nan")]), 4, 0, 2))


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.bincount(m.tensor([-1])),
        lambda m: m.bincount(m.tensor([1.0])),
        lambda m: m.bincount(m.tensor([1]), m.tensor([1, 2])),
        lambda m: m.histc(m.tensor([1.0, float("nan")]), 4),
        lambda m: m.histc(m.tensor([1, 2])),
        lambda m: m.histc(m.ones(2), 0),
        lambda m: m.cov(m.ones(2, 2, 2)),
        lambda m: m.unique(m.ones(2), dim=1),
    ],
)
def test_errors(call: Any, same_class: Callable[[Any], None]) -> None:
    """What has no sense is refused as PyTorch refuses it."""
    same_class(call)
