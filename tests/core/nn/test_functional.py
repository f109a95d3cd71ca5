"""Functions and modules that compute the same; dropout's masks and the losses' complaints, against torch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from mpigrad.nn import functional

import mpigrad
from mpigrad import nn

Expression = Callable[[Any], Any]


def logits(m: Any) -> Any:
    return m.tensor([[1.0, 2.0, 3.0], [0.5, 0.0, -1.0]])


def seeded(call: Expression) -> Expression:
    def run(m: Any) -> Any:
        m.manual_seed(5)
        return call(m)

    return run


def dropped(m: Any, p: float, shape: Any = (7, 5), dtype: str = "float32") -> Any:
    """The result, the gradient, and a number drawn afterwards: where the stream stands."""
    x = m.ones(shape, dtype=getattr(m, dtype)).requires_grad_()
    y = m.nn.functional.dropout(x, p)
    y.sum().backward()
    return [y, x.grad, m.rand(1)]


SAME: list[Expression] = [
    *[seeded(lambda m, p=p: dropped(m, p)) for p in (0.0, 0.1, 0.5, 0.9)],
    seeded(lambda m: dropped(m, 0.3, dtype="float64")),
    seeded(lambda m: dropped(m, 0.5, (0, 3))),
    seeded(lambda m: m.nn.functional.dropout(m.ones(3), 0.5, training=False)),
    seeded(lambda m: [(d := m.nn.Dropout(0.5))(m.ones(20)), d.eval()(m.ones(20))]),
    lambda m: m.nn.functional.dropout(m.ones(3), 1.5),
    lambda m: m.nn.Dropout(-0.1),
    lambda m: [m.nn.ReLU()(logits(m)), m.nn.Flatten(0)(logits(m)), m.nn.Identity()(logits(m))],
    lambda m: [u := m.nn.Unflatten(1, (3, 1)), u(logits(m))],
    lambda m: m.nn.Unflatten(1, 3),
    lambda m: m.nn.Unflatten(1, (3, 1.0)),
    lambda m: m.nn.CrossEntropyLoss(reduction="none")(m.zeros(2, 2), m.tensor([0, -100])).shape,
    lambda m: m.nn.functional.cross_entropy(logits(m), m.tensor([0, 1, 2])),
    lambda m: m.nn.functional.nll_loss(logits(m), m.tensor([0])),
    lambda m: m.nn.functional.nll_loss(logits(m), m.tensor([0, 1]), reduction="median"),
    lambda m: m.nn.functional.mse_loss(logits(m), logits(m), reduction="median"),
]
SAME_CLASS: list[Expression] = [
    lambda m: m.nn.functional.cross_entropy(logits(m), m.tensor([0, 3])),
    lambda m: m.nn.functional.cross_entropy(logits(m), m.tensor([0, -1])),
    lambda m: m.nn.functional.cross_entropy(logits(m), m.tensor([0.0, 1.0])),
    lambda m: m.nn.functional.nll_loss(logits(m), m.tensor([0.0, 1.0])),
    lambda m: m.nn.functional.cross_entropy(m.zeros(2, 3, 4), m.zeros(2, 5).long()),
    lambda m: m.nn.functional.cross_entropy(logits(m), m.tensor([0, 1]), label_smoothing=1.5),
    lambda m: m.nn.functional.linear(m.ones(2, 3), m.ones(4, 3), m.ones(3)),
    lambda m: m.nn.functional.linear(m.ones(2, 3), m.ones(4, 3), m.ones(4).double()),
    lambda m: m.nn.functional.linear(m.ones(2, 3), m.ones(4, 3).double()),
]


@pytest.mark.parametrize("expression", SAME)
def test_as_in_torch(expression: Expression, same: Callable[[Expression], None]) -> None:
    same(expression)


@pytest.mark.parametrize("expression", SAME_CLASS)
def test_error_of_the_same_class(expression: Expression, same_class: Callable[[Expression], None]) -> None:
    same_class(expression)


def test_everything_dropped(torch: Any) -> None:
    assert functional.dropout(mpigrad.ones(3), 1.0).tolist() == [0.0] * 3


def test_out_of_bounds_says_what_is_in_bounds() -> None:
    with pytest.raises(IndexError, match=r"Target 3 is out of bounds: expected class indices from 0 to 2\."):
        functional.cross_entropy(logits(mpigrad), mpigrad.tensor([0, 3]))


def test_modules_are_their_functions() -> None:
    x, classes = logits(mpigrad), mpigrad.tensor([2, 0])
    options: Any = (mpigrad.tensor([1.0, 2.0, 3.0]), None, 0, None, "sum", 0.1)
    linear = nn.Linear(3, 2)
    pairs: list[tuple[Any, Any]] = [
        (nn.ReLU()(x), functional.relu(x)),
        (nn.Tanh()(x), functional.tanh(x)),
        (nn.Sigmoid()(x), functional.sigmoid(x)),
        (nn.Softmax(1)(x), functional.softmax(x, 1)),
        (nn.Softmax()(x), functional.softmax(x)),
        (nn.MSELoss(reduction="sum")(x, x * 2), functional.mse_loss(x, x * 2, reduction="sum")),
        (nn.CrossEntropyLoss(*options)(x, classes), functional.cross_entropy(x, classes, *options)),
        (linear(x), functional.linear(x, linear.weight, linear.bias)),
    ]  # fmt: skip
    for got, want in pairs:
        np.testing.assert_array_equal(got.detach().numpy(), want.detach().numpy())
