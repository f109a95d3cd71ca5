"""Resampling and rearranging images: the op table and errors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

normal = np.random.default_rng(0).standard_normal


def row(op: str, shape: tuple[int, ...], *arguments: Any, notes: tuple[str, ...] = (), **options: Any) -> Any:
    return (op, lambda m, x: getattr(m.nn.functional, op)(x, *arguments, **options), (normal(shape),), *notes)


ROWS: list[tuple[Any, ...]] = [
    row("pixel_shuffle", (2, 12, 3, 2), 2),
    row("pixel_shuffle", (9, 1, 2), 3),
    row("pixel_unshuffle", (2, 3, 4, 6), 2),
    row("pixel_unshuffle", (1, 3, 6), 3),
    row("channel_shuffle", (2, 6, 2, 3), 2),
    row("channel_shuffle", (2, 6, 3), 3, notes=("contiguous",)),
]
SAME: list[Callable[..., Any]] = [
    lambda m: m.pixel_shuffle(m.zeros(1, 3, 2, 2), 2),
    lambda m: m.pixel_shuffle(m.zeros(2, 2), 2),
    lambda m: m.pixel_shuffle(m.zeros(4, 2, 2), 0),
    lambda m: m.pixel_unshuffle(m.zeros(1, 1, 3, 4), 2),
    lambda m: m.channel_shuffle(m.zeros(1, 3, 2, 2), 2),
    lambda m: m.channel_shuffle(m.zeros(1, 4), 2),
]


@pytest.mark.parametrize("expression", SAME)
def test_as_in_torch(expression: Any, same: Any) -> None:
    same(expression)
