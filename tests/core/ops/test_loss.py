"""Losses that compare tensors: the op table, the older arguments, warnings and errors."""

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mpigrad

Expression = Callable[[Any], Any]
normal = np.random.default_rng(0).standard_normal
REDUCTIONS = ["mean", "sum", "none"]
PAIRS = [((), ()), ((3,), (3,)), ((2, 3), (2, 3))]


def functional(name: str, *args: Any, **options: Any) -> Any:
    """The loss; arrays among the options become constant tensors of the input's dtype."""

    def call(m: Any, *inputs: Any) -> Any:
        made = {
            k: m.from_numpy(v.copy()).to(inputs[0].dtype) if isinstance(v, np.ndarray) else v
            for k, v in options.items()
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return getattr(m.nn.functional, name)(*inputs, *args, **made)

    return call


def constant(m: Any, value: Any, dtype: Any) -> Any:
    return m.from_numpy(value.copy()).to(dtype) if isinstance(value, np.ndarray) else value


def signs(shape: tuple[int, ...]) -> np.ndarray:
    return np.where(normal(shape) > 0, 1, -1)


def probabilities(shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-normal(shape))))


def positive(shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(np.abs(normal(shape)) + 0.3)


WEIGHT, SIGNS = positive((2, 3)), signs((2, 3))
ROWS: list[tuple[Any, ...]] = [
    *[
        (op, functional(op, reduction=r, **o), (normal(a), normal(b)))
        for op, o in (
            ("l1_loss", {}),
            ("mse_loss", {}),
            ("smooth_l1_loss", {}),
            ("smooth_l1_loss", {"beta": 0.3}),
            ("smooth_l1_loss", {"beta": 0.0}),
            ("huber_loss", {}),
            ("huber_loss", {"delta": 0.3}),
        )
        for r, (a, b) in itertools.product(REDUCTIONS, [*PAIRS, ((2, 3), (3,)), ((2, 1), (1, 3))])
    ],
    *[("mse_loss", functional("mse_loss", reduction=r), (normal(3), np.arange(3))) for r in REDUCTIONS],
    ("mse_loss", functional("mse_loss"), (normal((0, 3)), normal((0, 3))), "kink"),
    *[
        (op, functional(op, reduction=r, weight=WEIGHT), (normal((2, 3)), normal((2, 3))))
        for op, r in itertools.product(("l1_loss", "mse_loss", "huber_loss"), REDUCTIONS)
    ],
    *[
        ("binary_cross_entropy", functional("binary_cross_entropy", reduction=r, weight=w), (probabilities(s), t))
        for r, w in itertools.product(REDUCTIONS, (None, np.array([0.5, 2.0, 1.0])))
        for s, t in (((2, 3), probabilities((2, 3))), ((3,), np.array([0.0, 1.0, 1.0])))
    ],
    *[
        (
            "binary_cross_entropy_with_logits",
            functional("binary_cross_entropy_with_logits", reduction=r, weight=w, pos_weight=p),
            (normal((2, 3)) * 3, probabilities((2, 3))),
        )
        for r, w, p in itertools.product(REDUCTIONS, (None, WEIGHT), (None, np.array([0.5, 2.0, 1.0])))
    ],
    *[
        ("kl_div", functional("kl_div", reduction=r, log_target=t), (normal(s), normal(s) if t else positive(s)))
        for r, t in itertools.product([*REDUCTIONS, "batchmean"], (False, True))
        for s in ((3,), (2, 3))
    ],
    *[
        (
            "poisson_nll_loss",
            functional("poisson_nll_loss", log_input=i, full=f, reduction=r),
            (positive((2, 3)), positive((2, 3)) * 2),
        )
        for i, f, r in itertools.product((True, False), (True, False), REDUCTIONS)
    ],
    *[
        ("gaussian_nll_loss", functional("gaussian_nll_loss", full=f, reduction=r), (normal((2, 3)), normal((2, 3)), v))
        for f, r in itertools.product((True, False), REDUCTIONS)
        for v in (positive((2, 3)), positive((2, 1)), positive((2,)), 0.5)
    ],
    *[
        ("hinge_embedding_loss", functional("hinge_embedding_loss", 0.5, reduction=r), (normal((2, 3)), signs((2, 3))))
        for r in REDUCTIONS
    ],
    *[
        (op, functional(op, 0.5, reduction=r), (normal(4), normal(4), signs((4,))))
        for op in ("margin_ranking_loss",)
        for r in REDUCTIONS
    ],
    *[
        ("cosine_embedding_loss", functional("cosine_embedding_loss", 0.1, reduction=r), inputs)
        for r in REDUCTIONS
        for inputs in ((normal((4, 3)), normal((4, 3)), signs((4,))), (normal(3), normal(3), signs(())))
    ],
    *[
        (
            "soft_margin_loss",  # torch's has no gradient for the target
            lambda m, x, r=r: m.nn.functional.soft_margin_loss(x, constant(m, SIGNS, x.dtype), reduction=r),
            (normal((2, 3)),),
        )
        for r in REDUCTIONS
    ],
    *[
        (
            "multilabel_soft_margin_loss",
            functional("multilabel_soft_margin_loss", reduction=r, weight=w),
            (normal((2, 3)), np.round(probabilities((2, 3)))),
        )
        for r, w in itertools.product(REDUCTIONS, (None, np.array([0.5, 2.0, 1.0])))
    ],
    *[
        (op, functional(op, reduction=r, swap=s, margin=0.7, **o), (normal((4, 3)), normal((4, 3)), normal((4, 3))))
        for r, s in itertools.product(REDUCTIONS, (False, True))
        for op, o in (
            ("triplet_margin_loss", {}),
            ("triplet_margin_loss", {"p": 1, "eps": 1e-3}),
            ("triplet_margin_with_distance_loss", {}),
            ("triplet_margin_with_distance_loss", {"distance_function": lambda a, b: ((a - b) ** 2).sum(-1)}),
        )
    ],
]  # fmt: skip
# torch calls the sum of a weighted loss by its fused name; broadcast inputs have their views in between
NAMED = {"kl_div", "binary_cross_entropy", "binary_cross_entropy_with_logits", "margin_ranking_loss"}
NAMED |= {"triplet_margin_loss", "triplet_margin_with_distance_loss"}
ROWS = [(*row, "name") if row[0] in NAMED else row for row in ROWS]


def pair(m: Any) -> Any:
    return m.tensor([[1.0, -2.0], [0.5, 3.0]]), m.tensor([[0.0, 1.0], [1.0, 1.0]])


def told(call: Expression) -> Expression:
    """The result with the warnings."""

    def run(m: Any) -> Any:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = call(m)
        return [result, [(w.category.__name__, str(w.message).replace("torch.", "mpigrad.")) for w in caught]]

    return run


SAME: list[Expression] = [
    told(lambda m: m.nn.functional.mse_loss(m.ones(3, 1), m.zeros(3))),
    told(lambda m: m.nn.functional.l1_loss(m.ones(3, 1), m.zeros(3))),
    told(lambda m: m.nn.functional.kl_div(*pair(m))),
    *[
        told(lambda m, a=a, r=r: m.nn.functional.mse_loss(*pair(m), size_average=a, reduce=r))
        for a, r in itertools.product((None, False, True), repeat=2)
    ],
    told(lambda m: m.nn.L1Loss(False)(*pair(m))),
    told(lambda m: m.nn.NLLLoss(None, None, -100, False)(*[pair(m)[0], m.tensor([0, 1])])),
    lambda m: m.nn.functional.binary_cross_entropy(m.tensor([0.0, 1.0, 0.0]), m.tensor([1.0, 0.0, 0.5])),
    lambda m: m.nn.functional.binary_cross_entropy(m.tensor([0.5]), m.tensor([1.0, 0.0])),
    lambda m: m.nn.functional.binary_cross_entropy(m.tensor([1.5]), m.tensor([1.0])),
    lambda m: m.nn.functional.binary_cross_entropy_with_logits(m.tensor([0.5]), m.tensor([1.0, 0.0])),
    lambda m: m.nn.functional.binary_cross_entropy_with_logits(m.tensor([300.0, -300.0]), m.tensor([0.0, 1.0])),
    lambda m: m.nn.functional.mse_loss(*pair(m), weight=m.ones(2)),
    lambda m: m.nn.functional.smooth_l1_loss(*pair(m), beta=-1.0),
    lambda m: m.nn.functional.huber_loss(*pair(m), delta=0.0),
    lambda m: m.nn.functional.gaussian_nll_loss(*pair(m), m.ones(3)),
    lambda m: m.nn.functional.gaussian_nll_loss(*pair(m), -m.ones(2, 2)),
    lambda m: m.nn.functional.gaussian_nll_loss(*pair(m), m.ones(2, 2), reduction="median"),
    lambda m: m.nn.functional.gaussian_nll_loss(*pair(m), m.zeros(2, 2)),
    lambda m: m.nn.functional.margin_ranking_loss(m.ones(2), m.ones(2), m.ones(1, 2)),
    lambda m: m.nn.functional.triplet_margin_loss(m.ones(2), m.ones(2), m.ones(2), margin=-1),
    lambda m: m.nn.functional.triplet_margin_with_distance_loss(m.ones(2), m.ones(2), m.ones(1, 2)),
    lambda m: m.nn.functional.poisson_nll_loss(*pair(m), reduction="median"),
    lambda m: m.nn.functional.cosine_embedding_loss(m.ones(2, 3), m.ones(2, 3), m.ones(2, 2)),
]  # fmt: skip


@pytest.mark.parametrize("expression", SAME)
def test_as_in_torch(expression: Expression, close: Callable[[Expression], None]) -> None:
    close(expression)


def test_a_weight_of_another_shape_names_the_sizes() -> None:
    with pytest.raises(RuntimeError, match=r"size of tensor a \(2\) must match the size of tensor b \(3\)"):
        mpigrad.nn.functional.binary_cross_entropy_with_logits(*pair(mpigrad), pos_weight=mpigrad.ones(3))
