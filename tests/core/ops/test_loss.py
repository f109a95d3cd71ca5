"""Losses: the op table and errors."""

import itertools
from typing import Any

import numpy as np

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
        ("mse_loss", functional("mse_loss", reduction=r), (normal(s), normal(s)))
        for r in REDUCTIONS
        for s in ((), (3,), (2, 3))
    ],
    *[("mse_loss", functional("mse_loss", reduction=r), (normal(3), np.arange(3))) for r in REDUCTIONS],
    *[
        (op, functional(op, reduction=r, weight=w, ignore_index=i), (normal(s), classes(s, first)), "name", *notes(s))
        for op, r, w, s in itertools.product(("nll_loss", "cross_entropy"), REDUCTIONS, (None, WEIGHT), CLASSES)
        for i, first in ((-100, None), (1, 1), (-100, -100))
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
]  # fmt: skip
