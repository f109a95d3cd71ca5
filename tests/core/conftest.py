"""The oracle, and outcomes of one expression in both libraries."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import mpigrad

Expression = Callable[[Any], Any]


@pytest.fixture(scope="session")
def torch() -> ModuleType:
    return pytest.importorskip("torch", reason="the oracle extra (torch) is not installed")


def plain(value: Any) -> Any:
    """A result without its library: tensors as (dtype, shape, elements), the rest by repr, torch called mpigrad."""
    if hasattr(value, "detach"):
        return str(value.dtype).rpartition(".")[2], tuple(value.shape), value.detach().tolist()
    if isinstance(value, (tuple, list)):
        return [plain(v) for v in value]
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return repr(value).replace("torch.", "mpigrad.")


def outcome(expression: Expression, m: ModuleType) -> Any:
    """What the expression gives, or the class of its error and the text."""
    try:
        return plain(expression(m))
    except Exception as error:  # noqa: BLE001  (the error is the outcome)
        return type(error), str(error).replace("torch.", "mpigrad.")


@pytest.fixture
def same(torch: ModuleType) -> Callable[[Expression], None]:
    """Assert that an expression of the library gives in mpigrad what it gives in torch, or the same error."""

    def check(expression: Expression) -> None:
        np.testing.assert_equal(outcome(expression, mpigrad), outcome(expression, torch))

    return check


@pytest.fixture
def same_class(torch: ModuleType) -> Callable[[Expression], None]:
    """Assert that an expression raises in mpigrad the class of error that it raises in torch, in words of our own."""

    def check(expression: Expression) -> None:
        (got, text), (want, _) = outcome(expression, mpigrad), outcome(expression, torch)
        assert issubclass(got, want), (got, want, text)

    return check


def assert_close(got: Any, want: Any) -> None:
    """Equal but for the last digits of numbers."""
    if isinstance(got, float) and isinstance(want, float):
        assert got == pytest.approx(want, rel=1e-5, abs=1e-6, nan_ok=True)
    elif isinstance(got, (list, tuple)) and isinstance(want, (list, tuple)):
        assert len(got) == len(want), (got, want)
        for a, b in zip(got, want, strict=True):
            assert_close(a, b)
    elif isinstance(got, dict) and isinstance(want, dict):
        assert_close(list(got.items()), list(want.items()))
    else:
        assert got == want


@pytest.fixture
def close(torch: ModuleType) -> Callable[[Expression], None]:
    """As `same`, for results whose last digits differ."""
    return lambda expression: assert_close(outcome(expression, mpigrad), outcome(expression, torch))
