"""Scaled dot-product attention: the op table and errors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

normal = np.random.default_rng(0).standard_normal
MASK = np.array([[True, False, True, True], [False, False, False, False], [True, True, True, False]])


def attention(**options: Any) -> Any:
    """The op at the start of a stream, with the mask, if any, as the last input."""

    def call(m: Any, q: Any, k: Any, v: Any, mask: Any = None) -> Any:
        m.manual_seed(1)
        if hasattr(m, "compile"):  # of torch's two ways this one has second derivatives
            with m.nn.attention.sdpa_kernel(m.nn.attention.SDPBackend.MATH):
                return m.nn.functional.scaled_dot_product_attention(q, k, v, mask, **options)
        return m.nn.functional.scaled_dot_product_attention(q, k, v, mask, **options)

    return call


def inputs(*lead: int, rows: int = 3, keys: int = 4, width: int = 2, out: int = 2, heads: int | None = None) -> Any:
    few = lead if heads is None else (*lead[:-1], heads)
    return normal((*lead, rows, width)), normal((*few, keys, width)), normal((*few, keys, out))


ROWS: list[tuple[Any, ...]] = [
    ("scaled_dot_product_attention", attention(**options), arrays, "name")
    for options, arrays in [
        *[({}, inputs(*lead)) for lead in ((), (2,), (2, 3), (1, 2, 2), (0, 2))],
        ({}, inputs(2, 2, out=3)),
        ({"is_causal": True}, inputs(2, 2)),
        ({"is_causal": True}, inputs(2, 2, rows=4, keys=2)),
        ({"scale": 0.3}, inputs(2, 2)),
        ({"scale": 0.3}, tuple(a * 10 for a in inputs(1, 2))),
        ({"dropout_p": 0.4}, inputs(2, 2)),
        ({"dropout_p": 0.4, "is_causal": True}, inputs(2, 2)),
        ({}, (*inputs(2, 2)[:3], MASK)),
        ({}, (*inputs(2, 2)[:3], np.stack([MASK[None], ~MASK[None]]))),
        ({}, (*inputs(2, 2)[:3], normal((3, 4)))),
        ({}, (*inputs(2, 2)[:3], normal((2, 1, 3, 4)))),
        ({"enable_gqa": True}, inputs(2, 4, heads=2)),
        ({"enable_gqa": True}, (*inputs(2, 4, heads=2), normal((2, 4, 3, 4)))),
        ({"enable_gqa": True, "is_causal": True}, inputs(2, 2, heads=1)),
    ]
]

SAME: list[Callable[[Any], Any]] = [
    lambda m: m.nn.functional.scaled_dot_product_attention(m.ones(2), m.ones(2, 2), m.ones(2, 2)),
    lambda m: m.nn.functional.scaled_dot_product_attention(
        m.ones(2, 2), m.ones(2, 2), m.ones(2, 2), m.ones(2, 2), is_causal=True
    ),
    lambda m: m.nn.functional.scaled_dot_product_attention(*m.ones(3, 1, 2, 2)).shape,
    lambda m: (
        m.nn.functional.scaled_dot_product_attention(
            *m.ones(3, 1, 1, 2, 2), m.ones(2, 2, dtype=m.bool).tril(-1) if hasattr(m.ones(1), "tril") else None
        ).shape
    ),
]
SAME_CLASS: list[Callable[[Any], Any]] = [
    lambda m: m.nn.functional.scaled_dot_product_attention(m.ones(2, 2).double(), m.ones(2, 2), m.ones(2, 2)),
    lambda m: m.nn.functional.scaled_dot_product_attention(*m.ones(3, 2, 2), m.ones(2, 2).long()),
    lambda m: m.nn.functional.scaled_dot_product_attention(
        m.ones(1, 3, 2, 2), m.ones(1, 2, 2, 2), m.ones(1, 2, 2, 2), enable_gqa=True
    ),
]


@pytest.mark.parametrize("expression", SAME)
def test_as_in_torch(expression: Callable[[Any], Any], same: Callable[..., None]) -> None:
    same(expression)


@pytest.mark.parametrize("expression", SAME_CLASS)
def test_error_of_the_same_class(expression: Callable[[Any], Any], same_class: Callable[..., None]) -> None:
    same_class(expression)


def test_rows_far_below_the_largest_score(torch: Any) -> None:
    """Their exponentials underflow beside the largest one of all rows."""
    import mpigrad

    q = np.array([[[300.0], [0.5]]], np.float32)
    k = np.array([[[1.0], [2.0]]], np.float32)
    got, want = (
        m.nn.functional.scaled_dot_product_attention(*map(m.from_numpy, (q, k, k))).numpy() for m in (mpigrad, torch)
    )
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_heads_are_joined_without_a_copy() -> None:
    import mpigrad

    q = mpigrad.ones(2, 3, 4, 5)
    assert mpigrad.nn.functional.scaled_dot_product_attention(q, q, q).transpose(1, 2).is_contiguous()


def test_a_result_changed_in_place(same_class: Callable[..., None]) -> None:
    """The gradient needs it."""

    def expression(m: Any) -> Any:
        q = m.ones(1, 1, 2, 2).requires_grad_()
        y = m.nn.functional.scaled_dot_product_attention(q, q, q)
        y.mul_(2)
        y.sum().backward()

    same_class(expression)
