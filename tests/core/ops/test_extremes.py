"""Extremes: the op table, NaN, ties, printed results and errors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

normal = np.random.default_rng(0).standard_normal
DIMS: list[Any] = [{}, {"dim": 0}, {"dim": -1}, {"dim": 1, "keepdim": True}]
MANY: list[Any] = [{"dim": (0, -1)}, {"dim": (0, 2), "keepdim": True}]
TIES = np.array([[1.0, 3, 3, 2], [3, 1, 0, 3]])
NAN = np.array([[1.0, np.nan, 3, np.nan], [np.nan, 1, 0, 3], [0, 1, 2, 2]])


def reduced(op: str, **options: Any) -> Any:
    return lambda m, a: getattr(m, op)(a, **options)


ONE = ["max", "min", "argmax", "argmin", "aminmax", "amax", "amin"]
ROWS: list[tuple[Any, ...]] = [
    *[(op, reduced(op, **dims), (normal((2, 3, 4)),)) for op in ONE for dims in DIMS],
    *[(op, reduced(op, **dims), (normal((2, 3, 4)),)) for op in ("amax", "amin") for dims in [*MANY, {"dim": []}]],
    *[(op, reduced(op, **dims), (np.asarray(normal(())),)) for op in ONE for dims in DIMS[:3]],
    *[(op, reduced(op, **dims), (v,), "kink") for op in ONE for dims in ({}, {"dim": 1}) for v in (TIES, NAN)],
    *[(op, reduced(op, dim=0), (normal((2, 0)),)) for op in ONE],
    *[(op, reduced(op, dim=0), (values,)) for op in ONE for values in (np.arange(6).reshape(2, 3) % 4,)],
    *[(op, reduced(op, dim=0), (TIES > 1,)) for op in ("max", "min", "amax", "amin")],
    *[(op, lambda m, a, b, op=op: getattr(m, op)(a, b), (normal(3), normal((2, 1)))) for op in ("max", "min")],
]  # fmt: skip


@pytest.mark.parametrize("op", ONE)
def test_of_nothing(op: str, same: Callable[[Any], None], same_class: Callable[[Any], None]) -> None:
    """No elements have no extreme, and a dimension must exist."""
    (same_class if op == "aminmax" else same)(lambda m: getattr(m, op)(m.ones(2, 0), dim=1))
    same_class(lambda m: getattr(m, op)(m.ones(0)))
    same(lambda m: getattr(m, op)(m.ones(2, 3), dim=2))
    same_class(lambda m: m.argmax(m.tensor([True])))


@pytest.mark.parametrize("op", ["max", "min", "aminmax"])
def test_printed(op: str, same: Callable[[Any], None]) -> None:
    """Named results print as PyTorch's, and have its names."""
    same(lambda m: repr(getattr(m, op)(m.tensor([[1.0, 2], [3, 0]]), dim=0)))
