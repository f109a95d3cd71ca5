"""Sampling images at places: the op table, gradients (torch has no second ones here) and errors."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mpigrad

normal = np.random.default_rng(0).standard_normal
SHAPES = {2: ((2, 3, 4, 5), (2, 3, 6, 2)), 3: ((1, 2, 3, 2, 4), (1, 2, 3, 2, 3))}


def sampled(**options: Any) -> Callable[..., Any]:
    def call(m: Any, x: Any, grid: Any) -> Any:
        with warnings.catch_warnings(action="ignore"):
            return m.nn.functional.grid_sample(x, grid, **options)

    return call


def affine(size: tuple[int, ...], **options: Any) -> Callable[..., Any]:
    def call(m: Any, theta: Any) -> Any:
        with warnings.catch_warnings(action="ignore"):
            return m.nn.functional.affine_grid(theta, size, **options)

    return call


CASES = [
    (n, {"mode": mode, "padding_mode": padding, "align_corners": align})
    for n in SHAPES
    for mode in ("bilinear", "nearest", "bicubic")
    for padding in ("zeros", "border", "reflection")
    for align in (True, False)
    if n == 2 or mode != "bicubic"
]
ROWS: list[tuple[Any, ...]] = [
    *[("grid_sample", sampled(**o), tuple(map(normal, SHAPES[n])), "constant", "kink") for n, o in CASES],
    ("grid_sample", sampled(), (normal((0, 3, 4, 5)), normal((0, 2, 3, 2))), "constant"),
    (
        "grid_sample",
        sampled(padding_mode="reflection", align_corners=True),
        (normal((1, 1, 1, 3)), normal((1, 2, 3, 2))),
        *("constant", "kink"),
    ),
    ("affine_grid", affine((2, 1, 3, 4)), (normal((2, 2, 3)),), "name"),
    ("affine_grid", affine((2, 1, 1, 4), align_corners=True), (normal((2, 2, 3)),), "name"),
    ("affine_grid", affine((1, 1, 3, 2, 4)), (normal((1, 3, 4)),), "name"),
]  # fmt: skip


@pytest.mark.parametrize(("n", "options"), CASES)
def test_gradients(n: int, options: dict[str, Any], torch: Any) -> None:
    x, grid = (normal(shape) for shape in SHAPES[n])
    found = []
    for m in (mpigrad, torch):
        inputs = [m.from_numpy(a).requires_grad_() for a in (x, grid)]
        y = sampled(**options)(m, *inputs)
        found.append([v.numpy() for v in m.autograd.grad((y * y).sum(), inputs)])
    for got, want in zip(*found, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_places_that_are_no_numbers_or_too_large_read_zero(mode: str) -> None:
    places = mpigrad.tensor([[[[float("nan"), 0.0], [1e30, 0.0], [0.0, -float("inf")]]]])
    read = mpigrad.nn.functional.grid_sample(mpigrad.ones(1, 1, 2, 2), places, mode, align_corners=False)
    assert read.shape == (1, 1, 1, 3) and not read.array.any()


def call(x: tuple[int, ...], grid: tuple[int, ...], **options: Any) -> Callable[[Any], Any]:
    return lambda m: sampled(**options)(m, m.zeros(x), m.zeros(grid))


SAME: list[Callable[[Any], Any]] = [
    call((1, 1, 4, 4), (2, 2, 2, 2)),
    call((1, 1, 4, 4), (1, 2, 2, 3)),
    call((1, 1, 4, 4), (1, 2, 2)),
    call((1, 1, 4, 4), (1, 2, 2, 2), mode="x"),
    call((1, 1, 4, 4), (1, 2, 2, 2), padding_mode="x"),
    call((1, 1, 4, 4, 4), (1, 2, 2, 2, 3), mode="bicubic"),
    call((1, 1, 0, 4), (1, 2, 2, 2)),
    lambda m: sampled(align_corners=False)(
        m, m.arange(4.0).reshape(1, 1, 2, 2).bfloat16(), m.zeros(1, 1, 1, 2).bfloat16()
    ),
    lambda m: affine((1, 1, 2, 2))(m, m.zeros(1, 2, 3).long()),
    lambda m: affine((1, 1, 2))(m, m.zeros(1, 2, 3)),
    lambda m: affine((1, 1, 2, 2))(m, m.zeros(1, 3, 3)),
    lambda m: affine((1, 1, 0, 2))(m, m.zeros(1, 2, 3)),
]


@pytest.mark.parametrize("expression", SAME)
def test_as_in_torch(expression: Any, same: Any) -> None:
    same(expression)


def test_error_class(same_class: Any) -> None:
    same_class(lambda m: sampled()(m, m.zeros(1, 1, 4, 4), m.zeros(1, 2, 2, 2).double()))
    same_class(lambda m: affine((1, 1, 2, 2))(m, m.zeros(2, 2, 3)))
