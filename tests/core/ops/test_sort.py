"""Order: the op table, ties, NaN, printed results and errors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

rng = np.random.default_rng(0)
normal = rng.standard_normal
TIES = np.array([[1.0, 3, 3, 2, 1], [3, 1, 0, 3, 0]])
NAN = np.array([[1.0, np.nan, 3, 0, 7], [np.nan, 1, 0, 3, np.nan], [3, 1, 0, 2, 4]])
MANY = rng.permutation(200).astype(float).reshape(2, 100)
INTS = np.array([[4, 1, 3, 2], [8, 7, 6, 5]])


def called(op: str, *args: Any, **options: Any) -> Any:
    return lambda m, *inputs: getattr(m, op)(*inputs, *args, **options)


TOPS: list[Any] = [{}, {"dim": 0, "largest": False}]
MODES = [TIES, normal((3, 4)), TIES.astype(int), np.array(1.0)]
ORDERS: list[Any] = [{}, {"dim": 0}, {"dim": 1, "descending": True}]
MIDDLES: list[Any] = [{}, {"dim": 0}, {"dim": -1, "keepdim": True}]
QUANTILES: list[Any] = [{}, {"dim": 0}, {"dim": 1, "keepdim": True}, {"keepdim": True}]
ROWS: list[tuple[Any, ...]] = [
    *[(op, called(op, **o), (a,)) for op in ("sort", "argsort") for o in ORDERS for a in (normal((3, 4)), INTS)],
    *[("sort", called("sort", stable=True, dim=1, descending=d), (TIES,), "kink") for d in (False, True)],
    *[(op, called(op, **o), (NAN,), "kink") for op in ("sort", "argsort") for o in ORDERS],
    *[(op, called(op), (a,)) for op in ("sort", "argsort") for a in (np.asarray(normal(())), normal((2, 0)))],
    ("msort", called("msort"), (normal((3, 2)),)),
    *[("topk", called("topk", k, **o), (normal((4, 5)),)) for k in (0, 1, 2, 4) for o in TOPS],
    *[("topk", called("topk", k, largest=largest), (MANY,)) for k in (1, 7, 60) for largest in (True, False)],
    *[("topk", called("topk", 2, largest=largest), (NAN[::2],), "kink") for largest in (True, False)],
    ("topk", called("topk", 1), (np.array(2.0),)),
    ("topk", called("topk", 2), (INTS,)),
    *[("kthvalue", called("kthvalue", k, **o), (normal((3, 4)),)) for k in (1, 3) for o in MIDDLES],
    ("kthvalue", called("kthvalue", 1), (np.array(2.0),)),
    *[(op, called(op, **o), (a,)) for op in ("median", "nanmedian") for o in MIDDLES for a in (normal((3, 4)), INTS)],
    *[(op, called(op, **o), (NAN,), "kink") for op in ("median", "nanmedian") for o in MIDDLES],
    *[(op, called(op, **o), (np.asarray(normal(())),)) for op in ("median", "nanmedian") for o in MIDDLES],
    *[("mode", called("mode", **o), (a,), "kink") for o in MIDDLES for a in MODES],
    *[(op, called(op, 0.3, **o), (normal((3, 4)),), "name") for op in ("quantile", "nanquantile") for o in QUANTILES],
    *[(op, called(op, 0.6, **o), (NAN,), "name", "kink") for op in ("quantile", "nanquantile") for o in QUANTILES],
    *[("quantile", called("quantile", 0.3, 1, interpolation=i), (normal((3, 4)),), "name")
      for i in ("lower", "higher", "midpoint", "nearest")],
    *[("searchsorted", lambda m, s, v, r=r: m.searchsorted(s, v, right=r).float(), (s, v), "constant", "contiguous")
      for r in (False, True) for s, v in (
          (np.array([1.0, 2, 2, 5]), np.array([[0.0, 1, 2], [3, 5, 6]])),
          (np.array([[1.0, 2, 2, 5], [0, 1, 3, 4]]), np.array([[0.0, 1, 2], [3, 5, 0]])),
          (np.array([[1, 2, 2, 5], [0, 1, 3, 4]]), np.array([[0, 1, 2], [3, 5, 0]])),
      )],
    *[("bucketize", lambda m, v, b, r=r: m.bucketize(v, b, right=r), (np.arange(6).reshape(2, 3), np.array([1, 3, 3])))
      for r in (False, True)],
]  # fmt: skip


def test_several_quantiles(same: Callable[[Any], None]) -> None:
    """The dimension of the fractions comes first."""
    for options in QUANTILES:
        same(lambda m, o=options: m.quantile(m.arange(12.0).reshape(3, 4) ** 2, m.tensor([0, 0.4, 0.9, 1]), **o))


def test_search(same: Callable[[Any], None]) -> None:
    """Numbers, sides, an order, and other dtypes."""
    same(lambda m: m.searchsorted(m.tensor([1, 3, 5]), 3))
    same(lambda m: m.searchsorted(m.tensor([1, 3, 5]), m.tensor([3, 4]), side="right", out_int32=True))
    same(lambda m: m.searchsorted(m.tensor([5, 1, 3]), m.tensor([3, 4]), sorter=m.tensor([1, 2, 0])))
    same(lambda m: m.bucketize(2.5, m.tensor([1.0, 2, 3])))


@pytest.mark.parametrize("op", ["sort", "median", "nanmedian", "mode"])
def test_printed(op: str, same: Callable[[Any], None]) -> None:
    """Named results print as PyTorch's."""
    same(lambda m: repr(getattr(m, op)(m.tensor([[1.0, 2], [3, 0]]), 0)))


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.topk(m.ones(3), 4),
        lambda m: m.kthvalue(m.ones(3), 4),
        lambda m: m.kthvalue(m.ones(0), 1),
        lambda m: m.mode(m.ones(2, 0)),
        lambda m: m.sort(m.ones(2), dim=1),
        lambda m: m.quantile(m.ones(2), 1.5),
        lambda m: m.quantile(m.ones(0), 0.5),
        lambda m: m.quantile(m.ones(2, dtype=m.int64), 0.5),
        lambda m: m.quantile(m.ones(2), 0.5, interpolation="cubic"),
        lambda m: m.bucketize(m.ones(2), m.ones(2, 2)),
        lambda m: m.searchsorted(m.ones(2, 3), m.ones(3, 2)),
        lambda m: m.searchsorted(m.ones(2), m.ones(2), side="middle"),
    ],
)
def test_errors(call: Any, same_class: Callable[[Any], None]) -> None:
    """What has no sense is refused as PyTorch refuses it."""
    same_class(call)
