"""Promotion: the dtype of a result against torch's, over all pairs."""

import operator
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mpigrad
from mpigrad.core import dtypes

NAMES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
OPS = [operator.add, operator.truediv, operator.mul, operator.lt, operator.eq]
NUMBERS = st.sampled_from([True, 2, 1.5])
TENSORS = st.tuples(st.sampled_from(NAMES), st.sampled_from([(2,), (1, 2), ()]))


def made(m: Any, operand: Any) -> Any:
    if not isinstance(operand, tuple):
        return operand
    name, shape = operand
    return m.ones(shape, dtype=getattr(m, name))


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(OPS), TENSORS, TENSORS | NUMBERS, st.booleans())
def test_promotion(torch: Any, op: Callable[..., Any], a: Any, b: Any, turned: bool) -> None:
    pairs = [(made(m, a), made(m, b)) for m in (mpigrad, torch)]
    got, want = (op(*reversed(pair)) if turned else op(*pair) for pair in pairs)
    assert (str(got.dtype)[8:], got.shape) == (str(want.dtype)[6:], tuple(want.shape))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (np.ones(1, np.int64), np.ones(1, np.float32), "float32"),
        (np.ones(1, np.float32), np.ones((), np.float64), "float32"),
        (np.ones(1, np.int64), np.ones((), np.float64), "float64"),
        (np.ones(1, np.uint8), np.ones(1, np.int8), "int16"),
        (np.ones(1, np.float16), 2, "float16"),
        (np.ones((), np.int8), 1.5, "float32"),
        (np.ones(1, np.bool_), 2, "int64"),
        (np.ones(1, np.uint8), True, "uint8"),
        (1, 2.0, "float32"),
    ],
)
def test_rules(a: Any, b: Any, expected: str) -> None:
    assert dtypes.common(a, b) == dtypes.common(b, a) == np.dtype(expected)


def test_names() -> None:
    for name in NAMES:
        kind = getattr(mpigrad, name)
        assert repr(kind) == f"mpigrad.{name}"
        assert dtypes.of(kind.numpy) is kind
        assert kind.numpy.name == name
        assert kind.itemsize == kind.numpy.itemsize
        assert kind.is_floating_point == ("float" in name)
        assert pickle.loads(pickle.dumps(kind)) is kind
    with pytest.raises(TypeError, match=r"can't convert np\.ndarray of type numpy\.complex64"):
        dtypes.of("complex64")


EXPRESSIONS: list[Callable[[Any], Any]] = [
    lambda m: [m.promote_types(getattr(m, a), getattr(m, b)) for a in NAMES for b in NAMES],
    lambda m: [m.can_cast(getattr(m, a), getattr(m, b)) for a in NAMES for b in NAMES],
    lambda m: [
        m.result_type(a, b)
        for a in (m.ones(2), 1, 2.5)
        for b in (m.ones(2, dtype=m.int8), m.tensor(1.0).double(), True)
    ],
    lambda m: [m.finfo(getattr(m, d)) for d in NAMES[:4]] + [m.finfo()],
    lambda m: [
        getattr(m.finfo(getattr(m, d)), n) for d in NAMES[:4] for n in ("bits", "eps", "max", "min", "tiny", "dtype")
    ],
    lambda m: [m.iinfo(getattr(m, d)) for d in NAMES[4:9]] + [m.iinfo(m.int8).bits],
    lambda m: [(getattr(m, d).is_signed, getattr(m, d).is_complex, getattr(m, d).itemsize) for d in NAMES],
    lambda m: m.set_default_dtype(m.int64),
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_as_in_torch(expression: Any, same: Any) -> None:
    same(expression)


@pytest.mark.parametrize(
    "expression", [lambda m: m.finfo(m.int8), lambda m: m.iinfo(m.float32), lambda m: m.set_default_dtype("f")]
)
def test_error_of_the_same_class(expression: Any, same_class: Any) -> None:
    same_class(expression)


HALF_OPS: list[Callable[[Any, Any, Any], Any]] = [
    lambda m, a, b: a @ b.T,
    lambda m, a, b: m.nn.functional.linear(a, b, b[:, 0]),
    lambda m, a, b: a.sum(0) * 0.5,
    lambda m, a, b: a.mean() + 1,
    lambda m, a, b: (a / b.exp()).softmax(-1),
    lambda m, a, b: (a * 0.1 + b).log_softmax(-1),
    lambda m, a, b: m.nn.functional.mse_loss(a, b),
    lambda m, a, b: m.nn.functional.cross_entropy(a, m.tensor([0, 1, 2])),
    lambda m, a, b: m.where(a > b, a, 0.5).relu(),
    lambda m, a, b: a[1:, ::2].reshape(-1) ** 2,
    lambda m, a, b: a.clamp(-0.5, 0.5).sigmoid().tanh(),
    lambda m, a, b: m.cat([a, b.to(a.dtype)]).erf(),
]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("op", HALF_OPS)
def test_halves(op: Callable[[Any, Any, Any], Any], dtype: str, torch: Any) -> None:
    """Values and gradients have the half's dtype, and torch's digits but for a few of the last."""
    draw = np.random.default_rng(0).standard_normal
    a, b = draw((3, 4)), draw((3, 4))
    found = []
    for m in (mpigrad, torch):
        leaves = [m.tensor(v).to(getattr(m, dtype)).requires_grad_() for v in (a, b)]
        value = op(m, *leaves)
        value.sum().backward()
        found.append([value.detach(), *[v.grad for v in leaves if v.grad is not None]])
    for got, want in zip(*found, strict=True):
        assert (str(got.dtype)[8:], got.shape) == (str(want.dtype)[6:], tuple(want.shape))
        tolerance = 2e-2 if dtype == "bfloat16" else 3e-3
        np.testing.assert_allclose(got.double().numpy(), want.double().numpy(), rtol=tolerance, atol=tolerance)


def test_halves_are_computed_in_float32(torch: Any) -> None:
    """Where a half would overflow on the way, and where ones would stop adding up."""
    for m in (mpigrad, torch):
        assert m.tensor([-12.0], dtype=m.float16).sigmoid().item() > 0
        bias = m.zeros(1, dtype=m.bfloat16, requires_grad=True)
        (m.ones(1000, dtype=m.bfloat16) + bias).sum().backward()
        assert bias.grad.item() == 1000
