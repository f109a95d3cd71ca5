"""unfold and fold: the op table and errors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

normal = np.random.default_rng(0).standard_normal


def row(op: str, shape: tuple[int, ...], *arguments: Any, **options: Any) -> tuple[Any, ...]:
    return (op, lambda m, x: getattr(m.nn.functional, op)(x, *arguments, **options), (normal(shape),))


ROWS: list[tuple[Any, ...]] = [
    row("unfold", (2, 3, 4, 5), 2),
    row("unfold", (3, 4, 5), (2, 3)),
    row("unfold", (2, 3, 4, 5), (2, 1), dilation=2, padding=(1, 0), stride=(1, 2)),
    row("unfold", (0, 3, 4, 5), 2),
    row("fold", (2, 12, 12), (4, 5), 2),
    row("fold", (18, 9), (4, 5), (2, 3)),
    row("fold", (2, 6, 12), (4, 5), (2, 1), dilation=2, padding=(1, 0), stride=(1, 2)),
]
SAME: list[Callable[..., Any]] = [
    lambda m: m.nn.functional.unfold(m.zeros(1, 1, 4, 4), 5),
    lambda m: m.nn.functional.fold(m.zeros(1, 4, 8), (4, 4), 2),
    lambda m: m.nn.functional.fold(m.zeros(1, 5, 9), (4, 4), 2),
]


@pytest.mark.parametrize("expression", SAME)
def test_as_in_torch(expression: Any, same: Any) -> None:
    same(expression)
