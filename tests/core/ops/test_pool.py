"""Pooling: the op table and errors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mpigrad

draw = np.random.default_rng(0)


def row(op: str, shape: tuple[int, ...], *arguments: Any, notes: tuple[str, ...] = (), **options: Any) -> Any:
    """Distinct values, so that maxima have derivatives."""
    values = draw.permutation(np.prod(shape)).reshape(shape) / 8.0 - 1
    return (op, lambda m, x: getattr(m.nn.functional, op)(x, *arguments, **options), (values,), *notes)


def unpool(n: int, shape: tuple[int, ...], *arguments: Any, **options: Any) -> tuple[Any, ...]:
    def call(m: Any, x: Any) -> Any:
        values, indices = getattr(m.nn.functional, f"max_pool{n}d")(x, *arguments, return_indices=True)
        return getattr(m.nn.functional, f"max_unpool{n}d")(values * 2, indices, *arguments, **options)

    return (f"max_unpool{n}d", call, (draw.permutation(np.prod(shape)).reshape(shape) / 8.0,))


ROWS: list[tuple[Any, ...]] = [
    row("max_pool1d", (2, 3, 7), 2),
    row("max_pool1d", (3, 7), 3, 1, 1, 2, return_indices=True),
    row("max_pool2d", (2, 3, 4, 6), 2),
    row("max_pool2d", (2, 3, 4, 6), 2, return_indices=True),
    row("max_pool2d", (2, 3, 6, 7), 3, 2, 1),
    row("max_pool2d", (3, 6, 7), (3, 2), (2, 1), (1, 1), return_indices=True, ceil_mode=True),
    row("max_pool2d", (2, 7, 9), 2, 3, 1, 3, ceil_mode=True),
    row("max_pool2d", (2, 7, 9), 1, return_indices=True),
    row("max_pool2d", (2, 7, 9), (1, 2), (3, 1)),
    row("max_pool2d", (1, 20, 20), 17, 3),
    row("max_pool2d", (0, 3, 4, 6), 2),
    ("max_pool2d", lambda m, x: m.max_pool2d(x, 2), (np.arange(16).reshape(1, 4, 4),)),
    ("max_pool2d", lambda m, x: m.max_pool2d(x, 2, 1), (np.maximum(draw.standard_normal((2, 6, 6)), 0),), "kink"),
    row("max_pool3d", (2, 2, 4, 3, 5), 2),
    row("max_pool3d", (2, 4, 3, 5), (2, 3, 2), 1, (1, 1, 0), return_indices=True),
    unpool(1, (2, 3, 8), 2),
    unpool(1, (3, 8), 3, 2),
    unpool(2, (2, 3, 4, 6), 2),
    unpool(2, (2, 3, 5, 7), 2, output_size=(5, 7)),
    unpool(2, (2, 3, 5, 7), 2, output_size=(2, 3, 5, 7)),
    (*unpool(2, (3, 5, 7), 3, 2, 1), "kink", "once"),  # one element may be the largest of two windows
    unpool(3, (1, 2, 4, 2, 4), 2),
    row("avg_pool1d", (2, 3, 7), 2),
    row("avg_pool1d", (3, 7), 3, 2, 1, ceil_mode=True),
    row("avg_pool2d", (2, 3, 4, 6), 2),
    row("avg_pool2d", (2, 3, 6, 7), 3, 2, 1),
    row("avg_pool2d", (3, 6, 7), (3, 2), (2, 1), 1, ceil_mode=True),
    row("avg_pool2d", (3, 6, 7), 3, 2, 1, ceil_mode=True, count_include_pad=False),
    row("avg_pool2d", (3, 6, 7), 3, 2, 1, divisor_override=4),
    row("avg_pool2d", (3, 3, 4), 1),
    row("avg_pool2d", (0, 3, 4, 6), 2),
    ("avg_pool2d", lambda m, x: m.nn.functional.avg_pool2d(x, 2), (-np.arange(16).reshape(1, 4, 4),)),
    row("avg_pool3d", (2, 2, 4, 3, 5), 2, 1, 1, count_include_pad=False),
    row("lp_pool1d", (2, 3, 8), 2, 3, notes=("name",)),
    row("lp_pool2d", (2, 3, 5, 6), 2.0, (2, 3), 2, ceil_mode=True),
    row("lp_pool3d", (1, 2, 4, 4, 4), 3, 2),
    row("adaptive_avg_pool1d", (2, 3, 7), 3),
    row("adaptive_avg_pool1d", (3, 8), 1),
    row("adaptive_avg_pool2d", (2, 3, 5, 7), (3, None)),
    row("adaptive_avg_pool2d", (3, 4, 6), 2),
    row("adaptive_avg_pool2d", (3, 2, 3), (5, 4)),
    row("adaptive_avg_pool2d", (2, 3, 5, 7), 1),
    row("adaptive_avg_pool3d", (2, 5, 3, 4), (2, 2, 3)),
    row("adaptive_max_pool1d", (2, 3, 7), 3),
    row("adaptive_max_pool1d", (3, 7), 3, return_indices=True),
    row("adaptive_max_pool2d", (2, 3, 5, 7), (3, None)),
    row("adaptive_max_pool2d", (3, 4, 6), 2, return_indices=True),
    row("adaptive_max_pool3d", (2, 5, 3, 4), (2, 2, 3)),
]


def call(op: str, shape: tuple[int, ...], *arguments: Any, **options: Any) -> Callable[[Any], Any]:
    return lambda m: getattr(m.nn.functional, op)(m.zeros(shape), *arguments, **options)


def unpooled(shape: tuple[int, ...], place: int, *arguments: Any, **options: Any) -> Callable[[Any], Any]:
    return lambda m: m.nn.functional.max_unpool2d(
        m.zeros(1, 1, 2, 2), m.full(shape, place, dtype=m.int64), *arguments, **options
    )


SAME: list[Callable[[Any], Any]] = [
    call("max_pool2d", (1, 1, 4, 4), 2, padding=2),
    call("max_pool2d", (1, 1, 2, 2), 3),
    call("max_pool2d", (1, 1, 4, 4), (2, 2, 2)),
    call("max_pool2d", (1, 1, 4, 4), 2, padding=-1),
    call("max_pool3d", (1, 1, 1, 1), 2),
    call("avg_pool2d", (1, 1, 4, 4), 2, padding=2),
    call("avg_pool2d", (1, 1, 4, 4), (2, 2, 2)),
    call("avg_pool2d", (1, 1, 4, 4), 2, divisor_override=0),
    call("avg_pool2d", (1, 1, 1, 4), 2),
    call("adaptive_avg_pool2d", (1, 1, 4, 4), (2, 2, 2)),
    call("adaptive_avg_pool2d", (2, 3, 5, 7), 0),
    call("adaptive_max_pool2d", (3, 4, 6), (0, 2), return_indices=True),
    unpooled((1, 1, 2, 2), 99, 2),
    unpooled((1, 1, 2, 3), 0, 2),
    unpooled((1, 1, 2, 2), 0, 2, output_size=(9, 9)),
    unpooled((1, 1, 2, 2), 0, 2, output_size=(1, 4, 4)),
]  # fmt: skip
SAME_CLASS: list[Callable[[Any], Any]] = [
    call("max_pool1d", (1, 1, 4), 2, padding=2),
    call("max_pool1d", (1, 1, 1), 2),
    call("max_pool2d", (4, 4), 2),
    call("max_pool2d", (1, 0, 4, 4), 2),
    call("max_pool2d", (1, 1, 4, 4), 0),
    call("max_pool2d", (1, 1, 4, 4), 2, 0),
    call("max_pool2d", (1, 1, 4, 4), 2, dilation=0),
    call("avg_pool2d", (1, 1, 4, 4), 2, 0),
    call("avg_pool1d", (4,), 2),
    call("adaptive_avg_pool2d", (1, 1, 4, 4), -1),
    call("adaptive_avg_pool1d", (4,), 2),
    call("adaptive_max_pool2d", (1, 1, 0, 4), 2),
    lambda m: m.max_pool2d(m.zeros(1, 4, 4) > 0, 2),
    lambda m: m.max_pool1d(m.zeros(1, 4).long(), 2),
    lambda m: m.nn.functional.adaptive_max_pool1d(m.zeros(1, 4).long(), 2),
    lambda m: m.nn.functional.max_unpool2d(m.zeros(1, 2, 2), m.zeros(1, 2, 2), 2),
]


@pytest.mark.parametrize("expression", SAME)
def test_as_in_torch(expression: Any, same: Any) -> None:
    same(expression)


@pytest.mark.parametrize("expression", SAME_CLASS)
def test_error_class(expression: Any, same_class: Any) -> None:
    same_class(expression)


def test_nan_and_infinity_are_maxima_too(same: Any) -> None:
    """Of NaN the last one, of equal elements the first one that is no padding."""
    nan, inf = float("nan"), float("inf")
    rows = [[1.0, nan, nan, 0.0, 2.0, nan], [-inf] * 6, [inf, 1.0, inf, inf, 0.0, -inf]]

    def pooled(m: Any) -> Any:
        x = m.tensor([rows]).requires_grad_()
        y, where = m.nn.functional.max_pool1d(x, 3, 2, 1, return_indices=True)
        y.backward(m.tensor([[[inf, 1.0, 2.0], [3.0, inf, 1.0], [1.0, 1.0, nan]]]))
        return y, where, x.grad

    same(pooled)


def test_maxima_are_not_views() -> None:
    x = mpigrad.zeros(1, 4, 4)
    mpigrad.max_pool2d(x, 1).add_(1)
    mpigrad.max_pool2d(x, 1, 2).add_(1)
    assert not x.array.any()
