"""Normalisation: the op table, running statistics and errors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

Expression = Callable[[Any], Any]
normal = np.random.default_rng(0).standard_normal


def functional(name: str, *arguments: Any, **options: Any) -> Any:
    """The op, with what follows its input made optional tensors."""
    return lambda m, x, *tensors: getattr(m.nn.functional, name)(x, *arguments, *tensors, **options)


def by_statistics(name: str, training: bool) -> Any:
    """batch_norm or instance_norm with running statistics, which are constants."""

    def call(m: Any, x: Any, *tensors: Any) -> Any:
        seen = [m.from_numpy(v).to(x.dtype) for v in (np.linspace(-1, 1, 3), np.linspace(0.5, 2, 3))]
        return [getattr(m.nn.functional, name)(x, *seen, *[*tensors, None, None][:2], training), *seen]

    return call


ROWS: list[tuple[Any, ...]] = [
    *[
        ("layer_norm", functional("layer_norm", n), (normal(s), *[normal(n) for _ in range(count)]), *notes)
        for s, n, *notes in (((2, 3, 4), (4,)), ((3, 4), (3, 4)), ((5, 3, 2), (3, 2)), ((0, 3), (3,)), ((4,), (4,)))
        for count in (0, 1, 2)
    ],
    *[
        ("rms_norm", functional("rms_norm", n), (normal(s), *[normal(n) for _ in range(count)]), "name")
        for s, n in (((2, 3, 4), (4,)), ((3, 4), (3, 4)), ((2, 0, 3), (3,)))
        for count in (0, 1)
    ],
    ("rms_norm", functional("rms_norm", (3,), eps=0.1), (normal((2, 3)),), "name"),
    *[
        ("group_norm", functional("group_norm", g), (normal(s), *[normal(s[1]) for _ in range(count)]))
        for s, g in (((2, 4, 3), 2), ((2, 4), 1), ((2, 3, 2, 2), 3), ((2, 6, 2, 1, 2), 2))
        for count in (0, 1, 2)
    ],
    *[
        (op, by_statistics(op, training), (normal(s), *[normal(3) for _ in range(count)]), "name")
        for op in ("batch_norm", "instance_norm")
        for s in ((4, 3), (2, 3, 4), (2, 3, 2, 2), (2, 3, 2, 1, 2))
        if len(s) > 2 or op == "batch_norm"
        for training in (False, True)
        for count in (0, 1, 2)
    ],
    ("batch_norm", functional("batch_norm", None, None, training=True), (normal((3, 2)),)),
    ("batch_norm", functional("batch_norm", None, None, training=True, eps=0.5), (normal((3, 2, 4)),)),
    ("instance_norm", functional("instance_norm"), (normal((2, 3, 4)),), "name"),
    *[
        ("local_response_norm", functional("local_response_norm", size, 0.5, 0.7, 2.0), (normal(s),))
        for size in (1, 2, 3)
        for s in ((2, 4, 3), (2, 3, 2, 2), (1, 2, 0))
    ],
]  # fmt: skip

SAME: list[Expression] = [
    lambda m: m.nn.functional.layer_norm(m.ones(2, 3), (3,), None, m.arange(3.0), 0.5),
    lambda m: m.nn.functional.layer_norm(m.ones(2, 3), (4,)),
    lambda m: m.nn.functional.layer_norm(m.ones(2, 3), (3,), m.ones(2)),
    lambda m: m.nn.functional.layer_norm(m.ones(2, 3), (3,), m.ones(3), m.ones(4)),
    lambda m: m.nn.functional.group_norm(m.ones(2, 3), 2),
    lambda m: m.nn.functional.group_norm(m.ones(3), 1),
    lambda m: m.nn.functional.batch_norm(m.ones(1, 3), None, None, training=True),
    lambda m: m.nn.functional.batch_norm(m.ones(4, 3), None, None),
    lambda m: m.nn.functional.batch_norm(m.ones(4, 3), m.ones(2), m.ones(3)),
    lambda m: m.nn.functional.batch_norm(m.ones(4, 3), None, None, m.ones(2), training=True),
    lambda m: m.nn.functional.batch_norm(m.ones(4, 3), None, None, training=True, eps=0.0),
    lambda m: m.nn.functional.instance_norm(m.ones(2, 3, 1)),
    lambda m: m.nn.functional.layer_norm(m.tensor([[1.0, 3.0]]).half(), (2,)),
]
SAME_CLASS: list[Expression] = [
    lambda m: m.nn.functional.layer_norm(m.ones(2, 3), ()),
    lambda m: m.nn.functional.layer_norm(m.ones(2, 3), (3,), m.ones(3).double()),
    lambda m: m.nn.functional.local_response_norm(m.ones(2, 3), 2),
    lambda m: m.nn.functional.batch_norm(m.ones(3), m.zeros(3), m.ones(3)),
]


@pytest.mark.parametrize("expression", SAME)
def test_as_in_torch(expression: Expression, same: Callable[[Expression], None]) -> None:
    same(expression)


@pytest.mark.parametrize("expression", SAME_CLASS)
def test_error_of_the_same_class(expression: Expression, same_class: Callable[[Expression], None]) -> None:
    same_class(expression)


def partly(m: Any) -> Any:
    """Gradients towards some of the inputs, one after the other, with the same weights changed in between."""
    x, w, g = m.tensor([[1.0, 2.0, 4.0]]).requires_grad_(), m.tensor([1.0, 2.0, 3.0]).requires_grad_(), m.ones(1, 3)
    y = m.nn.functional.layer_norm(x, (3,), w)
    first = m.autograd.grad(y, [w], g, retain_graph=True)
    g[0, 0] = 5
    return [first, m.autograd.grad(y, [x], g), w.grad]


def test_gradients_towards_some_inputs(same: Callable[[Expression], None]) -> None:
    same(lambda m: [[round(v, 4) for v in t.flatten().tolist()] for part in partly(m)[:2] for t in part])


def test_rms_norm_of_halves(same: Callable[..., None]) -> None:
    for dtype in ("float16", "bfloat16"):
        x = lambda m: m.tensor([[0.01, -0.02, 0.03]], dtype=getattr(m, dtype))  # noqa: B023
        same(lambda m: m.nn.functional.rms_norm(x(m), (3,)))  # noqa: B023
