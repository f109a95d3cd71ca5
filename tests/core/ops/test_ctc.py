"""The loss of connectionist temporal classification: the op table, targets that do not fit, errors."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mpigrad

Expression = Callable[[Any], Any]
draw = np.random.default_rng(0)
LOGITS = draw.normal(size=(7, 4, 5))
TARGETS = np.array([[1, 1, 3], [2, 4, 0], [4, 0, 0], [3, 3, 3]])  # 0, the blank, fills up; the last needs five steps
LENGTHS, STEPS = [3, 2, 0, 3], [7, 5, 3, 4]
BOTH = np.array(STEPS), np.array(LENGTHS)


def loss(*arguments: Any, **options: Any) -> Callable[..., Any]:
    """ctc_loss of logits; its gradient is right towards these only."""
    made = lambda m: [m.from_numpy(v.copy()) if isinstance(v, np.ndarray) else v for v in arguments]
    return lambda m, x: m.nn.functional.ctc_loss(m.nn.functional.log_softmax(x, -1), *made(m), **options)


CONCATENATED = np.concatenate([row[:length] for row, length in zip(TARGETS, LENGTHS, strict=True)])
ROWS: list[tuple[Any, ...]] = [
    *[
        ("ctc_loss", loss(t, *BOTH, reduction=r, zero_infinity=True), (LOGITS,), "once", "name")
        for t, r in itertools.product((TARGETS, CONCATENATED, TARGETS.astype(np.int32)), ("mean", "sum", "none"))
    ],
    ("ctc_loss", loss(TARGETS[:3], STEPS[:3], LENGTHS[:3], reduction="none"), (LOGITS[:, :3],), "once", "name"),
    ("ctc_loss", loss(TARGETS[:2] - 1, STEPS[:2], LENGTHS[:2], blank=4), (LOGITS[:, :2],), "once", "name"),
    ("ctc_loss", loss(TARGETS[0], np.array(7), np.array(3), reduction="none"), (LOGITS[:, 0],), "once", "name"),
    ("ctc_loss", loss(TARGETS[0, :0], [7], [0], reduction="none"), (LOGITS[:, :1],), "once", "name"),
    ("ctc_loss", loss(TARGETS[2:3], [0], [0], reduction="none"), (LOGITS[:, :1],), "once", "name"),
]  # fmt: skip


def test_a_target_that_does_not_fit(close: Callable[[Expression], None]) -> None:
    def run(m: Any) -> Any:
        x = m.from_numpy(LOGITS.copy()).requires_grad_()
        value = loss(TARGETS, STEPS, LENGTHS, reduction="none")(m, x)
        return [value, m.autograd.grad(value.sum(), x)[0]]

    close(run)


def logarithms(m: Any) -> Any:
    return m.from_numpy(LOGITS.copy()).log_softmax(2)


SAME: list[Expression] = [
    lambda m: m.nn.functional.ctc_loss(logarithms(m), m.from_numpy(TARGETS), STEPS, LENGTHS, blank=5),
    lambda m: m.nn.functional.ctc_loss(logarithms(m), m.from_numpy(TARGETS), STEPS[:3], LENGTHS),
    lambda m: m.nn.functional.ctc_loss(logarithms(m), m.from_numpy(TARGETS), STEPS, LENGTHS[:3]),
    lambda m: m.nn.functional.ctc_loss(logarithms(m), m.from_numpy(TARGETS), [8, 5, 3, 4], LENGTHS),
    lambda m: m.nn.functional.ctc_loss(
        logarithms(m), m.from_numpy(TARGETS), m.tensor([7.0, 5, 3, 4]), m.tensor(LENGTHS)
    ),
]


@pytest.mark.parametrize("expression", SAME)
def test_errors_as_in_torch(expression: Expression, same: Callable[[Expression], None]) -> None:
    same(expression)


@pytest.mark.parametrize(
    ("targets", "lengths", "words"),
    [
        (TARGETS + 3, LENGTHS, "expected targets from 0 to 4, found 0 to 7"),
        (TARGETS[:, :2], LENGTHS, r"Expected tensor to have size at least 3 at dimension 1, but got size \[4, 2\]"),
        (CONCATENATED[1:], LENGTHS, r"expected targets of shape \[4, S\] or \[8\], found \[7\]"),
        (TARGETS, [3, 2, -1, 3], "target_lengths must not be negative"),
    ],
)
def test_errors(targets: np.ndarray, lengths: list[int], words: str) -> None:
    with pytest.raises(RuntimeError, match=words):
        mpigrad.nn.functional.ctc_loss(logarithms(mpigrad), mpigrad.from_numpy(targets), STEPS, lengths)


def test_there_is_no_second_derivative() -> None:
    x = mpigrad.from_numpy(LOGITS.copy()).requires_grad_()
    value = loss(TARGETS, STEPS, LENGTHS, zero_infinity=True)(mpigrad, x)
    (first,) = mpigrad.autograd.grad(value, x, create_graph=True)
    with pytest.raises(RuntimeError, match="derivative for aten::_ctc_loss_backward is not implemented"):
        mpigrad.autograd.grad(first.square().sum(), x)
