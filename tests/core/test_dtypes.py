"""Promotion: the dtype of a result against torch's, over all pairs."""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mpigrad
from mpigrad.core import dtypes

NAMES = ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"]
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
        assert dtypes.of(name) is dtypes.of(np.dtype(name)) is kind
        assert kind.itemsize == np.dtype(name).itemsize
        assert kind.is_floating_point == name.startswith("float")
    with pytest.raises(TypeError, match=r"can't convert np\.ndarray of type numpy\.complex64"):
        dtypes.of("complex64")
