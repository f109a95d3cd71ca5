"""Convolutions: the op table and errors."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mpigrad
from mpigrad.core.ops import columns

normal = np.random.default_rng(0).standard_normal


def row(op: str, *shapes: tuple[int, ...], dtype: str = "", **options: Any) -> tuple[Any, ...]:
    """A row for inputs of these shapes."""

    def call(m: Any, *v: Any) -> Any:
        with warnings.catch_warnings(action="ignore"):  # torch warns about "same" with even kernels
            return getattr(m.nn.functional, op)(*v, **options)

    return (op, call, tuple((9 * normal(s)).astype(dtype) if dtype else normal(s) for s in shapes))


ROWS: list[tuple[Any, ...]] = [
    row("conv1d", (2, 3, 7), (4, 3, 3), (4,)),
    row("conv1d", (3, 7), (4, 3, 3), (4,), stride=2),
    row("conv1d", (2, 4, 9), (6, 2, 4), (6,), padding="same", dilation=2, groups=2),
    row("conv1d", (2, 1, 3), (1, 1, 3)),
    row("conv2d", (2, 3, 5, 6), (4, 3, 3, 2)),
    row("conv2d", (2, 3, 5, 6), (4, 3, 3, 2), (4,), padding=(1, 2)),
    row("conv2d", (2, 3, 5, 6), (4, 3, 3, 2), (4,), stride=2, padding=1),
    row("conv2d", (2, 3, 6, 9), (4, 3, 3, 2), (4,), stride=(1, 3), dilation=(2, 1)),
    row("conv2d", (2, 3, 5, 6), (4, 3, 3, 2), (4,), padding="same"),
    row("conv2d", (2, 3, 5, 6), (4, 3, 1, 1), padding="valid"),
    row("conv2d", (3, 5, 6), (4, 3, 3, 2), (4,)),
    row("conv2d", (2, 4, 5, 6), (4, 1, 3, 3), (4,), groups=4, padding=1),
    row("conv2d", (2, 4, 5, 6), (6, 2, 3, 3), (6,), groups=2, stride=2),
    row("conv2d", (1, 1, 5, 5), (20, 1, 2, 2)),
    row("conv2d", (2, 1, 7, 7), (1, 1, 6, 6)),
    row("conv2d", (0, 3, 5, 6), (4, 3, 3, 2), (4,)),
    row("conv2d", (1, 1, 3, 3), (1, 1, 1, 1), padding=2),
    row("conv2d", (1, 2, 4, 4), (3, 2, 3, 3), dtype="int64"),
    row("conv3d", (2, 2, 4, 3, 5), (3, 2, 2, 3, 2), (3,), padding=(1, 0, 1), stride=(1, 2, 1)),
    row("conv3d", (2, 4, 3, 5), (3, 2, 2, 3, 2), (3,), padding="same"),
    row("conv_transpose1d", (2, 3, 4), (3, 2, 3), (2,), stride=3, output_padding=1, padding=1),
    row("conv_transpose1d", (3, 4), (3, 2, 3), (2,)),
    row("conv_transpose1d", (2, 1, 4), (1, 1, 1), padding=1),
    row("conv_transpose2d", (2, 3, 3, 4), (3, 2, 2, 3), (2,)),
    row("conv_transpose2d", (2, 4, 3, 4), (4, 3, 2, 3), (6,), stride=2, groups=2, output_padding=(1, 0)),
    row("conv_transpose2d", (2, 4, 3, 4), (4, 3, 2, 3), stride=(2, 1), dilation=2, output_padding=1, padding=1),
    row("conv_transpose2d", (2, 20, 3, 4), (20, 1, 2, 3), (1,)),
    row("conv_transpose2d", (0, 3, 3, 4), (3, 2, 2, 3), (2,)),
    row("conv_transpose3d", (2, 2, 2, 3, 2), (2, 3, 2, 1, 2), (3,), stride=(1, 2, 2)),
]  # fmt: skip


def conv(name: str, x: tuple[int, ...], w: tuple[int, ...], *b: tuple[int, ...], **options: Any) -> Callable[..., Any]:
    return lambda m: getattr(m, name)(m.zeros(x), m.zeros(w), *[m.zeros(s) for s in b], **options)


IMAGES, WEIGHTS = (1, 4, 5, 5), (8, 4, 3, 3)
SAME: list[Callable[..., Any]] = [
    conv("conv2d", (1, 3, 5, 5), WEIGHTS),
    conv("conv2d", (5,), WEIGHTS),
    conv("conv1d", IMAGES, (8, 4, 3)),
    conv("conv2d", (1, 4, 2, 2), WEIGHTS, padding=0),
    conv("conv2d", IMAGES, WEIGHTS, dilation=3),
    conv("conv2d", IMAGES, WEIGHTS, (3,)),
    conv("conv2d", IMAGES, WEIGHTS, stride=0),
    conv("conv2d", IMAGES, WEIGHTS, padding=-1),
    conv("conv2d", IMAGES, WEIGHTS, dilation=0),
    conv("conv2d", IMAGES, WEIGHTS, groups=0),
    conv("conv2d", IMAGES, WEIGHTS, stride=(1, 2, 3)),
    conv("conv2d", IMAGES, WEIGHTS, stride=(2,)),
    conv("conv2d", IMAGES, WEIGHTS, padding="same", stride=2),
    conv("conv2d", IMAGES, WEIGHTS, padding="full"),
    conv("conv2d", IMAGES, (7, 2, 3, 3), groups=2),
    conv("conv2d", IMAGES, (0, 4, 3, 3)),
    conv("conv_transpose2d", (1, 3, 5, 5), (4, 8, 3, 3)),
    conv("conv_transpose2d", IMAGES, (4, 8, 3, 3), (3,)),
    conv("conv_transpose2d", IMAGES, (4, 8, 3, 3), groups=3),
    conv("conv_transpose2d", IMAGES, (4, 8, 3, 3), output_padding=-1),
    conv("conv_transpose2d", (5,), (4, 8, 3, 3)),
    conv("conv_transpose2d", (1, 4, 1, 1), (4, 8, 3, 3), padding=2),
]  # fmt: skip
SAME_CLASS: list[Callable[..., Any]] = [
    lambda m: m.conv2d(m.zeros(IMAGES).double(), m.zeros(WEIGHTS)),
    lambda m: m.conv2d(m.zeros(IMAGES), m.zeros(WEIGHTS), m.zeros(8).double()),
    conv("conv2d", IMAGES, (8, 4, 3)),
    conv("conv2d", IMAGES, (8, 4, 0, 3)),
    conv("conv_transpose2d", IMAGES, (4, 8, 3, 3), output_padding=1),
]


@pytest.mark.parametrize("expression", SAME)
def test_as_in_torch(expression: Any, same: Any) -> None:
    same(expression)


@pytest.mark.parametrize("expression", SAME_CLASS)
def test_error_class(expression: Any, same_class: Any) -> None:
    same_class(expression)


@pytest.mark.parametrize("stride", [1, 2])
def test_batch_in_blocks(torch: Any, monkeypatch: Any, stride: int) -> None:
    """Three images as blocks of two and one."""
    monkeypatch.setattr(columns, "CACHE", 1)
    monkeypatch.setattr(columns, "MIN_COLUMNS", 64 // stride**2)
    x, w = normal((3, 20, 8, 8)), normal((10, 2, 3, 3))
    found = []
    for m in (mpigrad, torch):
        inputs = [m.from_numpy(a).requires_grad_() for a in (x, w)]
        y = m.conv2d(*inputs, stride=stride, groups=10)
        found.append([v.numpy(force=True) for v in (y, *m.autograd.grad((y * y).sum(), inputs))])
    for got, want in zip(*found, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-9)


def test_half_precision_adds_up_in_float32(torch: Any) -> None:
    """2**15 products of 1 would stop at 2,048 in float16."""
    for m in (torch, mpigrad):
        x = m.ones(1, 4, 64, 64).to(m.float16).requires_grad_()
        w = m.ones(1, 4, 64, 64).to(m.float16).requires_grad_()
        y = m.nn.functional.conv2d(x, w)
        y.backward()
        assert str(y.dtype).endswith("float16") and y.item() == 2**14 and bool((w.grad == 1).all())
