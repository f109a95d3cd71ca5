"""Lengths and distances: the op table and errors."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

Expression = Callable[[Any], Any]
normal = np.random.default_rng(0).standard_normal


def functional(name: str, *args: Any, **options: Any) -> Any:
    return lambda m, *inputs: getattr(m.nn.functional, name)(*inputs, *args, **options)


def cdist(p: float) -> Any:
    return lambda m, a, b: m.cdist(a, b, p)


ROWS: list[tuple[Any, ...]] = [
    *[("normalize", functional("normalize", p, d), (normal((2, 3)),)) for p in (1, 2, 3) for d in (0, 1, -1)],
    ("normalize", functional("normalize", float("inf")), (normal((2, 3)),)),
    ("normalize", functional("normalize"), (np.zeros((2, 3)),), "kink"),
    ("normalize", functional("normalize", dim=0, eps=5.0), (normal((2, 3)),)),
    *[
        ("pairwise_distance", functional("pairwise_distance", p, keepdim=k), (normal(a), normal(b)))
        for p, k in itertools.product((1, 2, 3.5), (False, True))
        for a, b in (((4, 3), (4, 3)), ((4, 3), (3,)), ((3,), (3,)), ((2, 1, 3), (4, 3)))
    ],
    *[
        ("cosine_similarity", functional("cosine_similarity", **o), (normal(a), normal(b)), *["kink"][: "eps" in o])
        for a, b, o in (
            ((4, 3), (4, 3), {}),
            ((4, 3), (4, 3), {"dim": 0}),
            ((3,), (3,), {"dim": 0}),
            ((2, 1, 3), (4, 3), {"dim": -1}),
            ((4, 3), (4, 3), {"eps": 9.0}),
        )
    ],
    *[("cdist", cdist(p), (normal((4, 3)), normal((5, 3))), "once") for p in (1.0, 2.0, 3.0)],
    ("cdist", cdist(2.0), (normal((2, 4, 3)), normal((2, 5, 3))), "once"),
    *[
        ("bilinear", functional("bilinear"), (normal((*s, 3)), normal((*s, 4)), normal((2, 3, 4)), *bias))
        for s in ((), (5,), (2, 5))
        for bias in ((), (normal(2),))
    ],
]  # fmt: skip
ROWS = [(*row, "name") for row in ROWS]  # norms have other names in torch

SAME_CLASS: list[Expression] = [
    lambda m: m.nn.functional.cosine_similarity(m.ones(2, 3), m.ones(2, 4)),
    lambda m: m.nn.functional.cosine_similarity(m.tensor([[1]]), m.tensor([[1]])),
    lambda m: m.nn.functional.bilinear(m.ones(2, 3), m.ones(3, 4), m.ones(1, 3, 4)),
    lambda m: m.nn.functional.bilinear(m.ones(2, 3), m.ones(2, 3), m.ones(1, 3, 4)),
    lambda m: m.cdist(m.ones(3), m.ones(2, 3)),
    lambda m: m.cdist(m.ones(2, 3), m.ones(2, 4)),
]


@pytest.mark.parametrize("expression", SAME_CLASS)
def test_error_of_the_same_class(expression: Expression, same_class: Callable[[Expression], None]) -> None:
    same_class(expression)
