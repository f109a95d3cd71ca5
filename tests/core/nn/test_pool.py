"""Pooling and sliding windows as modules, against torch."""

from typing import Any

import pytest

MODULES = [
    lambda nn: (nn.MaxPool1d(2), 1),
    lambda nn: (nn.MaxPool2d(2), 2),
    lambda nn: (nn.MaxPool2d((2, 3), 1, 1, 1, True, True), 2),
    lambda nn: (nn.MaxPool3d(2, stride=1), 3),
    lambda nn: (nn.AvgPool1d(2), 1),
    lambda nn: (nn.AvgPool1d(2, 1, 1, True, False), 1),
    lambda nn: (nn.AvgPool2d(2), 2),
    lambda nn: (nn.AvgPool3d(2, count_include_pad=False, padding=1, divisor_override=2), 3),
    lambda nn: (nn.LPPool1d(1, 2, 1), 1),
    lambda nn: (nn.LPPool2d(1, 2), 2),
    lambda nn: (nn.LPPool3d(1, 2, ceil_mode=True), 3),
    lambda nn: (nn.AdaptiveAvgPool1d(2), 1),
    lambda nn: (nn.AdaptiveAvgPool2d((2, None)), 2),
    lambda nn: (nn.AdaptiveAvgPool3d(1), 3),
    lambda nn: (nn.AdaptiveMaxPool1d(3, True), 1),
    lambda nn: (nn.AdaptiveMaxPool2d((2, None)), 2),
    lambda nn: (nn.AdaptiveMaxPool3d(2), 3),
    lambda nn: (nn.Unfold(2, 1, 1, (2, 1)), 2),
    lambda nn: (nn.Unfold(2), 2),
]


@pytest.mark.parametrize("make", MODULES)
def test_as_in_torch(make: Any, same: Any) -> None:
    def pooled(m: Any) -> Any:
        module, n = make(m.nn)
        return repr(module), module(m.arange(2.0 * 4**n).reshape(2, *[4] * n))

    same(pooled)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_pool_and_unpool(n: int, same: Any) -> None:
    def back(m: Any) -> Any:
        pool, unpool = getattr(m.nn, f"MaxPool{n}d")(2, return_indices=True), getattr(m.nn, f"MaxUnpool{n}d")(2)
        x, y = (m.arange(2.0 * size**n).reshape(1, 2, *[size] * n) for size in (4, 5))
        return repr(unpool), unpool(*pool(x)), unpool(*pool(y), output_size=y.shape)

    same(back)


def test_fold(same: Any) -> None:
    same(lambda m: (repr(m.nn.Fold((4, 4), 2)), m.nn.Fold((4, 4), 2)(m.arange(72.0).reshape(2, 4, 9))))
