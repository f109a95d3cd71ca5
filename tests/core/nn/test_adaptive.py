"""The adaptive softmax against torch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

X = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
TARGETS = np.array([0, 9, 3, 2, 5, 1])


def test_as_in_torch(alike: Callable[..., None]) -> None:
    alike(lambda m: m.nn.AdaptiveLogSoftmaxWithLoss(8, 10, [3, 5], 2), X, TARGETS)
    alike(lambda m: m.nn.AdaptiveLogSoftmaxWithLoss(8, 10, (2,), 2.0, True), X, TARGETS)
    alike(lambda m: m.nn.AdaptiveLogSoftmaxWithLoss(8, 10, [2, 8], 2), X, TARGETS % 2)  # nothing in the clusters
    alike(lambda m: m.nn.AdaptiveLogSoftmaxWithLoss(8, 10, [3, 5], 2), X[0], np.array(4))
    alike(lambda m: m.nn.AdaptiveLogSoftmaxWithLoss(8, 10, [3, 5], 2), X, call=lambda f, x: f.log_prob(x))
    alike(lambda m: m.nn.AdaptiveLogSoftmaxWithLoss(8, 10, [3, 5], 2), X, call=lambda f, x: f.predict(x))

    def drawn_anew(m: Any) -> Any:
        module = m.nn.AdaptiveLogSoftmaxWithLoss(8, 10, [3])
        module.reset_parameters()
        return module

    alike(drawn_anew, X, TARGETS)


def result(m: Any, input: Any, target: Any) -> Any:
    return m.nn.AdaptiveLogSoftmaxWithLoss(2, 4, [2])(input, target)


ERRORS: list[Callable[[Any], Any]] = [
    *[
        lambda m, c=c: m.nn.AdaptiveLogSoftmaxWithLoss(2, 4, c)
        for c in ([], [0], [4], [2, 1], [1, 1], [1.5])
    ],
    lambda m: result(m, m.ones(3, 2), m.tensor([0, 4, 1])),
    lambda m: result(m, m.ones(3, 2), m.tensor([0, 1])),
    lambda m: result(m, m.ones(2), m.tensor([0, 1])),
    lambda m: result(m, m.ones(1, 2), m.tensor(0)),
    lambda m: result(m, m.ones(1, 2), m.tensor([[0]])),
]  # fmt: skip


@pytest.mark.parametrize("expression", ERRORS)
def test_errors(expression: Any, same_class: Any) -> None:
    same_class(expression)
