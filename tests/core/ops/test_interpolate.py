"""Interpolation: the op table and errors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

normal = np.random.default_rng(0).standard_normal
SHAPES = {1: (2, 3, 5), 2: (2, 3, 4, 5), 3: (1, 2, 3, 2, 3)}
SMOOTH = {"linear": 1, "bilinear": 2, "bicubic": 2, "trilinear": 3}
SIZES: list[dict[str, Any]] = [{"size": 7}, {"size": 3}, {"scale_factor": 2}, {"scale_factor": 1.7}]
SIZES += [{"scale_factor": 0.7, "recompute_scale_factor": True}, {"size": 1}]


def row(shape: tuple[int, ...], *notes: str, **options: Any) -> tuple[Any, ...]:
    return ("interpolate", lambda m, x: m.nn.functional.interpolate(x, **options), (normal(shape),), *notes)


ROWS: list[tuple[Any, ...]] = [
    *[row(SHAPES[n], mode=m, **size) for m in ("nearest", "nearest-exact", "area") for n in SHAPES for size in SIZES],
    *[
        row(SHAPES[n], mode=mode, align_corners=align, **size)
        for mode, n in SMOOTH.items()
        for align in (True, False)
        for size in SIZES
    ],
    *[
        row(SHAPES[2], mode=mode, align_corners=align, antialias=True, **size)
        for mode, aligns in {"bilinear": (True, False), "bicubic": (True, False), "lanczos": (None,)}.items()
        for align in aligns
        for size in [*SIZES, {"size": (2, 9)}]
    ],
    row((0, 3, 4, 5), size=(2, 3)),
    row((1, 2, 4, 5), size=(4, 5)),
    row((1, 2, 4, 5), scale_factor=(2.0, 0.5), mode="bicubic", align_corners=None),
    row((1, 1, 1, 1), scale_factor=(2.0, 3.0), mode="bilinear"),
]  # fmt: skip


def call(shape: tuple[int, ...], *arguments: Any, **options: Any) -> Callable[[Any], Any]:
    return lambda m: m.nn.functional.interpolate(m.zeros(shape), *arguments, **options)


SAME: list[Callable[[Any], Any]] = [
    *[lambda m, out=out: m.nn.functional.interpolate(m.arange(7.0)[None, None], out) for out in range(1, 70)],
    lambda m: m.nn.functional.interpolate(m.arange(16).reshape(1, 1, 4, 4).to(m.uint8), 3),
    call((1, 1, 4)),
    call((1, 1, 4), 2, 2),
    call((1, 1, 4), 2, mode="bilinear"),
    call((1, 1, 4), 2, align_corners=True),
    call((1, 1, 4, 4), (2, 2, 2)),
    call((1, 1, 4, 4), scale_factor=(2, 2, 2)),
    call((1, 1, 4, 4), 2, recompute_scale_factor=True),
    call((1, 0, 4, 4), 2),
    call((1, 1, 4, 4), 2, antialias=True),
    call((1, 1, 4), 2, mode="linear", antialias=True),
    call((1, 1, 4, 4), 2, mode="lanczos"),
    call((1, 1, 4, 4), 2, mode="lanczos", align_corners=True, antialias=True),
]
SAME_CLASS: list[Callable[[Any], Any]] = [
    call((1, 1, 4), 2, mode="foo"),
    call((1, 1, 4), 2, mode="lanczos"),
    call((1, 4), 2),
    call((1, 1, 4, 4), 0),
    call((1, 1, 4, 4), scale_factor=0.1),
    lambda m: m.nn.functional.interpolate(m.zeros(1, 1, 4, 4).long(), 2),
    lambda m: m.nn.functional.interpolate(m.zeros(1, 1, 4, 4).long(), 2, mode="bilinear"),
]


@pytest.mark.parametrize("expression", SAME)
def test_as_in_torch(expression: Any, same: Any) -> None:
    same(expression)


@pytest.mark.parametrize("expression", SAME_CLASS)
def test_error_class(expression: Any, same_class: Any) -> None:
    same_class(expression)
