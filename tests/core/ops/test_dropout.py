"""Dropout: the op table with a seed of its own for each row, and errors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

normal = np.random.default_rng(0).standard_normal


def seeded(name: str, *arguments: Any, **options: Any) -> Any:
    """The op at the start of a stream, and what the stream gives next."""

    def call(m: Any, x: Any) -> Any:
        m.manual_seed(3)
        return [getattr(m.nn.functional, name)(x, *arguments, **options), m.rand(1)]

    return call


SHAPES: dict[str, list[tuple[int, ...]]] = {
    "dropout": [(), (5,), (4, 3), (0, 2)],
    "alpha_dropout": [(), (4, 3), (0, 2)],
    "feature_alpha_dropout": [(4, 3), (2, 3, 4), (0, 2)],
    "dropout1d": [(4, 3), (2, 4, 3)],
    "dropout2d": [(2, 3, 2, 2)],
    "dropout3d": [(3, 2, 2, 2), (2, 3, 2, 2, 2)],
}
ROWS: list[tuple[Any, ...]] = [
    *[(name, seeded(name, p, True), (normal(s),)) for name in SHAPES for s in SHAPES[name] for p in (0.3, 0.5, 1.0)],
    ("dropout", seeded("dropout", 0.5, False), (normal(3),)),
    ("dropout", seeded("dropout", 0.0), (normal(3),)),
    ("alpha_dropout", seeded("alpha_dropout", 0.5), (normal(3),)),
]  # fmt: skip

SAME: list[Callable[[Any], Any]] = [
    lambda m: m.nn.functional.dropout(m.ones(2), 1.5),
    lambda m: m.nn.functional.alpha_dropout(m.ones(2), -1),
    lambda m: m.nn.functional.feature_alpha_dropout(m.ones(2), 0.5, True),
    lambda m: m.nn.functional.dropout1d(m.ones(2), 0.5),
    lambda m: (x := m.ones(2), m.nn.functional.dropout(x, 1.0, inplace=True), x)[1:],
]


@pytest.mark.parametrize("expression", SAME)
def test_as_in_torch(expression: Callable[[Any], Any], same: Callable[..., None]) -> None:
    same(expression)
