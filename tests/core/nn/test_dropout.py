"""Dropout as modules, against torch: the same seed drops the same."""

from collections.abc import Callable

import numpy as np
import pytest

X = np.random.default_rng(0).standard_normal((3, 4, 2, 2, 2)).astype(np.float32)
CASES = [
    *[(name, X[..., 0, 0]) for name in ("Dropout", "Dropout1d", "AlphaDropout", "FeatureAlphaDropout")],
    ("Dropout1d", X[..., 0, 0, 0]),
    ("Dropout2d", X[..., 0]),
    ("Dropout3d", X),
    ("Dropout3d", X[0]),
    ("AlphaDropout", X),
]


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("name", "x"), CASES)
def test_module(name: str, x: np.ndarray, p: float, alike: Callable[..., None]) -> None:
    alike(lambda m: getattr(m.nn, name)(p), x)
    alike(lambda m: getattr(m.nn, name)(p, inplace=True), x, call=lambda f, v: (u := v * 2, f(u)))


@pytest.mark.parametrize("name", ["Dropout", "AlphaDropout", "Dropout2d"])
def test_probability_is_checked(name: str, same: Callable[..., None]) -> None:
    same(lambda m: getattr(m.nn, name)(1.5))
