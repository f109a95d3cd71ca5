"""Padding: the op table and errors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mpigrad

normal = np.random.default_rng(0).standard_normal


def row(shape: tuple[int, ...], *arguments: Any, notes: tuple[str, ...] = ()) -> tuple[Any, ...]:
    return ("pad", lambda m, x: m.nn.functional.pad(x, *arguments), (normal(shape),), *notes)


def name(mode: str) -> tuple[str, ...]:
    """torch's circular padding is one node in C++ style."""
    return ("name",) if mode == "circular" else ()


ROWS: list[tuple[Any, ...]] = [
    row((2, 3), (1, 2)),
    row((2, 3), (1, 0, 0, 3), "constant", 2.5),
    row((2, 3), (-1, 2, 1, -1), "constant", -1),
    row((), ()),
    row((3,), ()),
    row((0, 2), (1, 1)),
    row((2, 1, 3), (-3, 0)),
    row((2, 1, 3), (-3, 0), "circular", notes=("name",)),
    row((2, 1, 0), (0, 0, 1, 0), "circular", notes=("name",)),
    ("pad", lambda m, x: m.nn.functional.pad(x, (1, 1), value=2), (np.arange(6).reshape(2, 3),)),
    ("pad", lambda m, x: m.nn.functional.pad(x, (2, 1), "reflect"), (np.arange(6).reshape(2, 3),)),
    *[
        row(shape, pad, mode, notes=name(mode))
        for mode in ("reflect", "replicate", "circular")
        for shape, pad in [
            ((2, 4), (3, 1)),
            ((2, 3, 5), (-1, 2)),
            ((2, 3, 4), (2, 1, 1, 0)),
            ((1, 2, 3, 4), (0, 0, 2, 1)),
            ((1, 2, 2, 3, 2), (1, 1, 2, 0, 1, 1)),
            ((0, 2, 3), (1, 1)),
        ]
    ],
]
SAME: list[Callable[..., Any]] = [
    lambda m: m.nn.functional.pad(m.zeros(1, 1, 3), (1,)),
    lambda m: m.nn.functional.pad(m.zeros(3), (1, 1, 1, 1)),
    lambda m: m.nn.functional.pad(m.zeros(3), (-2, -2)),
    lambda m: m.nn.functional.pad(m.zeros(2, 3), (1, 2, -3, 5)),
    lambda m: m.nn.functional.pad(m.zeros(1, 2, 3), (1, -2, -3, 2)),
    lambda m: m.nn.functional.pad(m.zeros(3), (1, 1), "reflect"),
    lambda m: m.nn.functional.pad(m.zeros(1, 1, 3), (3, 1), "reflect"),
    lambda m: m.nn.functional.pad(m.zeros(1, 1, 3), (4, 1), "circular"),
    lambda m: m.nn.functional.pad(m.zeros(1, 1, 3, 3), (1, 1), "replicate"),
    lambda m: m.nn.functional.pad(m.zeros(1, 1, 3), (1, 1), "foo"),
    lambda m: m.nn.functional.pad(m.zeros(1, 1, 3), (1, 1), "reflect", 2.0),
    lambda m: m.nn.functional.pad(m.zeros(3) > 0, (1, 1), value=1),
]
SAME_CLASS: list[Callable[..., Any]] = [
    lambda m: m.nn.functional.pad(m.zeros(1, 0, 3), (1, 1, 1, 1), "reflect"),
    lambda m: m.nn.functional.pad(m.zeros(1, 1, 3), (-2, -2), "replicate"),
    lambda m: m.nn.functional.pad(m.zeros(1, 0, 3), (1, 1), "reflect"),
    lambda m: m.nn.functional.pad(m.zeros(1, 1, 3), (-2, -2), "circular"),
]


@pytest.mark.parametrize("expression", SAME)
def test_as_in_torch(expression: Any, same: Any) -> None:
    same(expression)


@pytest.mark.parametrize("expression", SAME_CLASS)
def test_error_class(expression: Any, same_class: Any) -> None:
    same_class(expression)


def test_padding_circularly_what_is_cut_away() -> None:
    """PyTorch returns elements that nobody has set."""
    with pytest.raises(RuntimeError, match="leaves nothing of dimension 2"):
        mpigrad.nn.functional.pad(mpigrad.zeros(1, 2, 3), (-3, 1), "circular")


def test_result_is_a_copy(same: Any) -> None:
    def changed(m: Any) -> Any:
        x = m.zeros(1, 3)
        m.nn.functional.pad(x, (0, 0)).add_(1)
        m.nn.functional.pad(x, (0, 0), "replicate").add_(1)
        return x

    same(changed)
