"""Running results and differences: the op table, half precision and errors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mpigrad.core.backend import accumulate, accumulate_by_doubling

normal = np.random.default_rng(0).standard_normal
TIES = np.array([[1.0, 3, 3, 2], [3, 1, 0, 3], [0, 0, 5, 5]])
NAN = np.array([[1.0, np.nan, 3, np.nan], [np.nan, 1, 0, 3]])
ZEROS = np.array([[2.0, 0, 3, 4], [0, 4, 0, 1], [1, 2, 3, 0], [1, 2, 3, 4]])
OPS = ["cumsum", "cumprod", "cummax", "cummin", "logcumsumexp"]


def along(op: str, dim: int) -> Any:
    return lambda m, a: getattr(m, op)(a, dim)


ROWS: list[tuple[Any, ...]] = [
    *[(op, along(op, dim), (normal((2, 3, 4)),)) for op in OPS for dim in (0, 1, -1)],
    *[(op, along(op, 0), (np.asarray(normal(())),)) for op in OPS],
    *[(op, along(op, 1), (normal((2, 0)),)) for op in OPS],
    *[(op, along(op, dim), (TIES,), "kink") for op in ("cummax", "cummin") for dim in (0, 1)],
    *[(op, along(op, 1), (NAN,), "kink") for op in ("cummax", "cummin")],
    *[("cumprod", along("cumprod", dim), (ZEROS,)) for dim in (0, 1)],
    ("cumprod", along("cumprod", 0), (np.array(0.0),)),
    ("logcumsumexp", along("logcumsumexp", 0), (np.array([1000.0, 0, -1000, 999]),)),
    *[(op, along(op, 1), (np.arange(6).reshape(2, 3) % 4,)) for op in OPS[:4]],
    *[(op, along(op, 1), (np.arange(6, dtype=np.uint8).reshape(2, 3) > 2,)) for op in ("cumsum", "cumprod")],
    ("cumsum", lambda m, a: a.cumsum(0, dtype=m.float64), (np.arange(3),)),
    ("cumsum", lambda m, a: a.cumsum(dim=0, dtype=m.int32), (np.arange(3),)),
    ("cumprod", lambda m, a: a.cumprod(0, dtype=m.float64), (normal(3),)),
    ("diff", lambda m, a: m.diff(a), (normal((2, 3)),)),
    ("diff", lambda m, a: m.diff(a, n=2, dim=0), (normal((4, 3)),)),
    ("diff", lambda m, a: m.diff(a, n=5), (normal((2, 3)),), "name"),
    ("diff", lambda m, a: a.diff(n=0), (normal((2, 3)),), "constant"),
    ("diff", lambda m, a, b: m.diff(a, prepend=b, append=b), (normal((2, 3)), normal((2, 1)))),
    ("diff", lambda m, a: m.diff(a), (np.array([True, False, False, True]),)),
]  # fmt: skip


@pytest.mark.parametrize("op", OPS)
def test_errors(op: str, same: Callable[[Any], None]) -> None:
    """A dimension must exist; what is returned prints as in PyTorch."""
    same(lambda m: getattr(m, op)(m.ones(2, 3), 2))
    same(lambda m: repr(getattr(m, op)(m.ones(2), 0)))


def test_half_precision_adds_up_in_float32(same: Callable[[Any], None]) -> None:
    """Only results are rounded to half precision."""
    same(lambda m: m.full((3000,), 1.0).half().cumsum(0)[-2:])


def test_in_place(same: Callable[[Any], None]) -> None:
    """The running result in the place of the elements."""
    same(lambda m: m.arange(4.0).cumsum_(0))
    same(lambda m: m.ones(4).mul_(2).cumprod_(0))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("function", [np.maximum, np.logaddexp])
def test_doubling(axis: int, function: Any) -> None:
    """What stands in for NumPy's accumulate elsewhere gives the same."""
    array = normal((5, 8, 1))
    np.testing.assert_allclose(accumulate_by_doubling(function, array, axis), accumulate(function, array, axis))
