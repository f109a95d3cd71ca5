"""Matrix products: the op table and errors."""

from typing import Any

import numpy as np

normal = np.random.default_rng(0).standard_normal
PAIRS = [((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 4)), ((2, 3), (3, 4)), ((5, 2, 3), (5, 3, 4)), ((5, 2, 3), (3, 4))]
PAIRS += [((2, 3), (5, 3, 4)), ((5, 2, 3), (3,)), ((3,), (5, 3, 4)), ((5, 1, 2, 3), (4, 3, 2)), ((0, 3), (3, 4))]
PAIRS += [((2, 0), (0, 4)), ((6, 1, 2, 3), (3,)), ((3,), (6, 1, 3, 2)), ((1, 2, 3), (5, 3, 1)), ((0,), (0,))]


def linear(m: Any, *inputs: Any) -> Any:
    return m.nn.functional.linear(*inputs)


ROWS: list[tuple[Any, ...]] = [
    *[("matmul", lambda m, a, b: a @ b, (normal(a), normal(b)), "name") for a, b in PAIRS],
    *[("matmul", lambda m, a, b: m.matmul(a, b), (normal(a), normal(b))) for a, b in PAIRS[:2] + PAIRS[3:5]],
    ("matmul", lambda m, a, b: a @ b, (np.arange(6).reshape(2, 3), np.arange(3))),
    ("matmul", lambda m, a: a @ a.T, (normal((2, 3)),)),
    ("matmul", lambda m, a: a @ a, (normal((3, 3)),)),
    *[("linear", linear, (normal((*s, 3)), normal((4, 3)), normal(4)), "name") for s in ((), (2,), (5,), (2, 5), (0,))],
    *[("linear", linear, (normal((*s, 3)), normal((4, 3))), "name") for s in ((), (2,), (5,), (2, 5), (0,))],
    *[("linear", linear, (normal((2, 3)), normal((4, 3)), *b)) for b in ((), (normal(4),))],
    ("linear", linear, (normal((100, 3)), normal((4, 3)), normal(4))),
]  # fmt: skip
