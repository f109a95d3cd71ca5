"""Activations: the op table, the drawn ones, in-place forms, and how exact float32 is."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mpigrad

Expression = Callable[[Any], Any]
normal = np.random.default_rng(0).standard_normal
SHAPES = [(), (3,), (2, 3), (0,), (2, 4, 3)]


def functional(name: str, *settings: Any, **options: Any) -> Any:
    return lambda m, *inputs: getattr(m.nn.functional, name)(*inputs, *settings, **options)


def in_place(name: str) -> Any:
    return lambda m, x: getattr(m.nn.functional, name)(x * 1.5, inplace=True)


def wide(shape: tuple[int, ...]) -> np.ndarray:
    """On both sides of every kink, and on none."""
    return np.asarray(normal(shape) * 4)


PLAIN = [
    "relu", "relu6", "elu", "selu", "celu", "leaky_relu", "rrelu", "gelu", "silu", "mish", "softplus", "softsign",
    "tanhshrink", "softshrink", "hardshrink", "hardtanh", "hardsigmoid", "hardswish", "logsigmoid",
]  # fmt: skip
SET: list[tuple[str, dict[str, Any]]] = [
    ("elu", {"alpha": 0.3}),
    ("celu", {"alpha": 2.5}),
    ("celu", {"alpha": -0.7}),
    ("leaky_relu", {"negative_slope": 0.3}),
    ("leaky_relu", {"negative_slope": -2.0}),
    ("rrelu", {"lower": 0.2, "upper": 0.4}),
    ("gelu", {"approximate": "tanh"}),
    ("softplus", {"beta": 2.0, "threshold": 3.0}),
    ("softshrink", {"lambd": 2.0}),
    ("hardshrink", {"lambd": 2.0}),
    ("hardtanh", {"min_val": -2, "max_val": 0.5}),
    ("threshold", {"threshold": 0.1, "value": 20}),
]
INPLACE = ["relu", "relu6", "elu", "selu", "celu", "leaky_relu", "rrelu", "silu", "mish", "hardtanh", "hardsigmoid"]
INPLACE += ["hardswish"]
WEIGHTS = [((3,), (1,)), ((), (1,)), ((2, 3), (3,)), ((2, 3, 4), (3,)), ((2, 3, 4), ()), ((0, 3), (3,)), ((4,), (1,))]

ROWS: list[tuple[Any, ...]] = [
    *[(op, functional(op), (wide(s),)) for op in PLAIN for s in SHAPES],
    *[(op, functional(op, **options), (wide((2, 5)),)) for op, options in SET],
    *[(op, in_place(op), (wide((7,)),), "name") for op in INPLACE],
    ("relu", functional("relu"), (np.array([-1, 2]),)),
    *[("prelu", functional("prelu"), (wide(s), np.asarray(normal(w)))) for s, w in WEIGHTS],
    *[("glu", functional("glu", d), (wide((2, 4, 6)),)) for d in (-1, 1, 0)],
    *[("softmin", functional("softmin", dim=d), (wide((2, 3)),)) for d in (0, 1, -1)],
    ("softmin", functional("softmin", dim=1, dtype=None), (wide((2, 3)),)),
    *[
        # the draws differ, the sum does not
        ("gumbel_softmax", lambda m, x, h=h: m.nn.functional.gumbel_softmax(x, 2.0, h, dim=0).sum(0), (wide((4, 3)),))
        for h in (False, True)
    ],
]  # fmt: skip
ROWS = [(*row, "once") if row[0] == "hardsigmoid" else row for row in ROWS]


def drawn(training: bool, dtype: str = "float32", **options: Any) -> Expression:
    def run(m: Any) -> Any:
        m.manual_seed(3)
        x = m.tensor([[-1.0, 2.0, -3.0], [0.0, -0.5, 1.0]], dtype=getattr(m, dtype)).requires_grad_()
        y = m.nn.functional.rrelu(x * 1.0, training=training, **options)
        y.sum().backward()
        return [y, x.grad, m.rand(1)]

    return run


def changed(name: str, *settings: Any) -> Expression:
    """The in-place function: its result is its input, with the gradient of the function."""

    def run(m: Any) -> Any:
        x = m.tensor([-2.0, -0.3, 0.4, 7.0]).requires_grad_()
        y = x * 1.0
        z = getattr(m.nn.functional, name)(y, *settings)
        z.sum().backward()
        return [z is y, y, x.grad, getattr(m.nn.functional, name)(m.tensor([-1.0, 1.0]), *settings)]

    return run


SAME: list[Expression] = [
    drawn(True),
    drawn(True, "float64", lower=0.5, upper=0.75),
    drawn(False),
    drawn(True, inplace=True),
    *[changed(f"{name}_") for name in ("relu", "elu", "selu", "celu", "leaky_relu", "hardtanh", "rrelu")],
    changed("threshold_", 0.1, 5.0),
    changed("elu_", 0.5),
    lambda m: m.nn.functional.gelu(m.ones(1), approximate="sigmoid"),
    lambda m: m.nn.functional.glu(m.ones(3)),
    lambda m: m.nn.functional.glu(m.tensor(1.0)),
    lambda m: m.nn.functional.celu(m.ones(1), 0),
    lambda m: m.nn.functional.prelu(m.ones(2, 3), m.ones(2)),
    lambda m: m.nn.functional.prelu(m.ones(2, 2), m.ones(2, 2)),
    *[
        lambda m, op=op: getattr(m.nn.functional, op)(m.tensor([math.nan, math.inf, -math.inf, 0.0, 1e30, -1e30]))
        for op in PLAIN
        if op not in ("gelu", "silu", "mish")
    ],
]
SAME_CLASS: list[Expression] = [
    lambda m: m.nn.functional.softshrink(m.ones(1), -1),
    *[lambda m, op=op: getattr(m.nn.functional, op)(m.tensor([1, 2])) for op in ("elu", "gelu", "silu", "leaky_relu")],
    lambda m: m.nn.functional.hardtanh(m.ones(1), 1.0, -1.0),
]


@pytest.mark.parametrize("expression", SAME)
def test_as_in_torch(expression: Expression, close: Callable[[Expression], None]) -> None:
    close(expression)


@pytest.mark.parametrize("expression", SAME_CLASS)
def test_error_of_the_same_class(expression: Expression, same_class: Callable[[Expression], None]) -> None:
    same_class(expression)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_of_many_elements(approximate: str, torch: Any) -> None:
    """More than are computed at once, in every floating dtype; the extremes too."""
    values = np.concatenate([np.linspace(-12, 12, 50001), [0.0, 1e4, -1e4]])
    exact = torch.nn.functional.gelu(torch.from_numpy(values), approximate=approximate).numpy()
    for dtype, tolerance in (("float64", 1e-14), ("float32", 4e-7), ("float16", 2e-3)):
        x = mpigrad.from_numpy(values.astype(dtype))
        for y in (mpigrad.nn.functional.gelu(v, approximate) for v in (x, x.requires_grad_())):
            np.testing.assert_allclose(y.detach().numpy(), exact, rtol=tolerance, atol=tolerance)
            assert y.dtype is x.dtype


def test_erf_in_float32() -> None:
    """Nowhere off by more than two units in the last place of 1, nor in relative terms."""
    x = np.concatenate([np.linspace(-6, 6, 100_001), 10.0 ** -np.arange(38.0)]).astype(np.float32)
    exact = np.array([math.erf(v) for v in x.tolist()])
    found = mpigrad.erf(mpigrad.from_numpy(x)).numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, exact, rtol=3e-7)
    np.testing.assert_allclose(found, exact, rtol=0, atol=2e-7)
    ends = mpigrad.erf(mpigrad.tensor([math.inf, -math.inf, math.nan, 1e30, 0.0])).numpy()
    np.testing.assert_array_equal(ends, np.float32([1, -1, math.nan, 1, 0]))


def test_gumbel_softmax_draws_in_proportion() -> None:
    mpigrad.manual_seed(0)
    logits = mpigrad.tensor([0.1, 0.2, 0.7]).log().expand(20000, 3)
    hard = mpigrad.nn.functional.gumbel_softmax(logits, hard=True).numpy()
    assert set(np.unique(hard)) == {0.0, 1.0}
    np.testing.assert_allclose(hard.mean(0), [0.1, 0.2, 0.7], atol=0.015)
