"""Ops over class indices: the op table, half precision, and memory."""

import itertools
import weakref
from typing import Any

import numpy as np
import pytest

import mpigrad

normal = np.random.default_rng(0).standard_normal
REDUCTIONS = ["mean", "sum", "none"]
CLASSES = {(5, 3): (5,), (3,): (), (2, 3, 4): (2, 4), (2, 3, 2, 2): (2, 2, 2)}
WEIGHT = np.array([0.5, 2.0, 1.5], np.float64)


def functional(name: str, **options: Any) -> Any:
    """The loss, with the weight (a constant) made a tensor."""

    def call(m: Any, *inputs: Any) -> Any:
        made = {k: m.from_numpy(v.copy()) if isinstance(v, np.ndarray) else v for k, v in options.items()}
        if made.get("weight") is not None:
            made["weight"] = made["weight"].to(inputs[0].dtype)
        return getattr(m.nn.functional, name)(*inputs, **made)

    return call


def classes(shape: tuple[int, ...], first: int | None = None) -> np.ndarray:
    made = np.asarray(np.random.default_rng(3).integers(0, 3, CLASSES[shape]))
    if first is not None:
        made.ravel()[:1] = first
    return made


def probabilities(shape: tuple[int, ...]) -> np.ndarray:
    return np.exp(normal(shape))


def notes(shape: tuple[int, ...]) -> list[str]:
    """With its only target ignored, a mean is 0 / 0; torch fails with strided images."""
    return {(3,): ["kink"], (2, 3, 2, 2): ["contiguous"]}.get(shape, [])


def smoothed(shape: tuple[int, ...], target: np.ndarray, **options: Any) -> tuple[Any, ...]:
    return ("cross_entropy", functional("cross_entropy", **options), (normal(shape), target), "name", *notes(shape))


ROWS: list[tuple[Any, ...]] = [
    *[
        (op, functional(op, reduction=r, weight=w, ignore_index=i), (normal(s), classes(s, first)), "name", *notes(s))
        for op, r, w, s in itertools.product(("nll_loss", "cross_entropy"), REDUCTIONS, (None, WEIGHT), CLASSES)
        for i, first in ((-100, None), (1, 1), (-100, -100))
    ],
    *[
        (
            "linear_cross_entropy",
            lambda m, x, w, t, b: m.nn.functional.linear_cross_entropy(x, w, t, linear_bias=b, label_smoothing=0.1),
            (normal((5, 4)[-dims:]), normal((3, *outs, 4)), target, bias),
            "name",
        )
        for dims, outs, target, bias in [
            (2, (), classes((5, 3)), normal(3)),
            (1, (), classes((3,)), None),
            (2, (2,), np.random.default_rng(3).integers(0, 3, (5, 2)), normal((3, 2))),
            (2, (), probabilities((5, 3)), None),
        ]
    ],
    *[
        smoothed(s, classes(s, -100), reduction=r, weight=w, label_smoothing=0.1)
        for r, w, s in itertools.product(REDUCTIONS, (None, WEIGHT), CLASSES)
    ],
    *[
        smoothed(s, probabilities(s), reduction=r, weight=w, label_smoothing=e)
        for r, w, s, e in itertools.product(REDUCTIONS, (None, WEIGHT), CLASSES, (0.0, 0.1))
    ],
    *[("nll_loss", functional("nll_loss"), (normal(s), classes(s)), *notes(s)) for s in CLASSES],
    *[("cross_entropy", functional("cross_entropy"), (normal(s), classes(s)), *notes(s)) for s in CLASSES],
    *[
        (
            "multi_margin_loss",
            functional("multi_margin_loss", p=p, margin=m, weight=w, reduction=r),
            (normal(s), classes(s)),
        )
        for p, m, w, r in itertools.product((1, 2), (1.0, 0.3), (None, WEIGHT), REDUCTIONS)
        for s in ((5, 3), (3,))
    ],
    *[
        (
            "multilabel_margin_loss",
            functional("multilabel_margin_loss", reduction=r),
            (normal(np.shape(t)), np.array(t)),
        )
        for r in REDUCTIONS
        for t in ([[2, 0, -1], [1, -1, 0], [-1, 1, 2], [0, 1, 2]], [1, 2, -1])
    ],
    *[
        ("one_hot", functional("one_hot", **n), (np.array(v),))
        for v in ([[1, 0], [2, 2]], 1)
        for n in ({}, {"num_classes": 4})
    ],
    ("one_hot", functional("one_hot", num_classes=3), (np.zeros((0, 2), np.int64),)),
]  # fmt: skip
MARGINS = {"multi_margin_loss", "multilabel_margin_loss"}  # torch's have names of their own and no second derivative
ROWS = [(*row, "name", "once") if row[0] in MARGINS else row for row in ROWS]


def test_half_precision_is_computed_in_single(torch: Any) -> None:
    """The sum of many exponentials would overflow in float16."""
    values = normal((4, 70000)).astype(np.float16)
    x = mpigrad.from_numpy(values).requires_grad_()
    loss = mpigrad.nn.functional.cross_entropy(x, mpigrad.tensor([0, 1, 2, 3]))
    loss.backward()
    wide = torch.from_numpy(values.astype(np.float32)).requires_grad_()
    expected = torch.nn.functional.cross_entropy(wide, torch.tensor([0, 1, 2, 3]))
    expected.backward()
    assert loss.dtype is mpigrad.float16 and x.grad.dtype is mpigrad.float16
    np.testing.assert_allclose(loss.item(), expected.item(), rtol=1e-3)
    np.testing.assert_allclose(x.grad.numpy(), wide.grad.numpy(), atol=1e-3)


def test_the_logits_are_freed() -> None:
    logits = mpigrad.ones(2, 3, requires_grad=True) * 2.0
    gone = weakref.ref(logits.array)
    loss = mpigrad.nn.functional.cross_entropy(logits, mpigrad.tensor([0, 1]))
    del logits
    assert gone() is None
    loss.backward()


ERRORS: list[Any] = [
    lambda m: m.nn.functional.one_hot(m.tensor([1.0])),
    lambda m: m.nn.functional.one_hot(m.tensor([-1])),
    lambda m: m.nn.functional.one_hot(m.tensor([3]), 3),
    lambda m: m.nn.functional.multi_margin_loss(m.ones(2, 3), m.tensor([0, 1]), p=3),
    lambda m: m.nn.functional.multi_margin_loss(m.ones(2, 3), m.tensor([0, 1]), weight=m.ones(1, 3)),
    lambda m: m.nn.functional.multi_margin_loss(m.ones(2, 3), m.tensor([0, 1, 2])),
    lambda m: m.nn.functional.multilabel_margin_loss(m.ones(2, 3), m.tensor([0, 1])),
    *[
        lambda m, f=f, w=w: getattr(m.nn.functional, f)(m.ones(2, 3), m.tensor([0, 1]), weight=m.ones(*w))
        for f in ("nll_loss", "cross_entropy", "multi_margin_loss")
        for w in ((2,), (3, 1))
    ],
    lambda m: m.nn.functional.nll_loss(m.ones(2, 3), m.tensor([0, 1]), weight=m.ones(3).double()),
    lambda m: m.nn.functional.cross_entropy(m.ones(2, 3), m.ones(2, 3), weight=m.ones(2)),
    lambda m: m.nn.functional.cross_entropy(m.ones(2, 3), m.ones(2, 3), ignore_index=0),
    lambda m: m.nn.functional.cross_entropy(m.ones(2, 3), m.ones(4, 3)),
    lambda m: m.nn.functional.linear_cross_entropy(m.ones(1, 2, 3), m.ones(4, 3), m.tensor([0])),
    lambda m: m.nn.functional.linear_cross_entropy(m.ones(2, 3), m.ones(3), m.tensor([0, 1])),
    lambda m: m.nn.functional.linear_cross_entropy(m.ones(2, 3), m.ones(4, 2), m.tensor([0, 1])),
    lambda m: m.nn.functional.linear_cross_entropy(m.ones(3), m.ones(4, 2, 3), m.tensor([0])),
    lambda m: m.nn.functional.linear_cross_entropy(m.ones(2, 3), m.ones(4, 3), m.tensor([0, 1]), linear_bias=m.ones(3)),
    lambda m: m.nn.functional.linear_cross_entropy(m.ones(2, 3), m.ones(4, 3), m.ones(2, 4), ignore_index=-100),
]


@pytest.mark.parametrize("expression", ERRORS)
def test_error_of_the_same_class(expression: Any, same_class: Any) -> None:
    same_class(expression)
