"""Anomaly mode names the forward line."""

from typing import Any

import pytest

import mpigrad
from mpigrad import autograd


def notes(error: BaseException) -> str:
    return "\n".join(getattr(error, "__notes__", ()))


def test_nan_names_op_and_line() -> None:
    x = mpigrad.tensor([0.0, 1.0], requires_grad=True)
    with autograd.detect_anomaly():
        assert autograd.is_anomaly_enabled()
        y = x.sqrt() * 0  # the line
        with pytest.raises(
            RuntimeError, match="Function 'SqrtBackward0' returned nan values in its 0th output"
        ) as caught:
            y.sum().backward()
    assert "test_anomaly.py" in notes(caught.value) and "x.sqrt() * 0  # the line" in notes(caught.value)
    assert not autograd.is_anomaly_enabled()
    y = x.sqrt() * 0
    y.sum().backward()  # off: NaN passes
    assert x.grad.isnan().any()


def test_errors_name_the_line() -> None:
    x = mpigrad.tensor([2.0, 1.0], requires_grad=True)
    with autograd.detect_anomaly(check_nan=False):
        y = x.exp()  # saved here
        y.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation") as caught:
            y.sum().backward()
    assert "x.exp()  # saved here" in notes(caught.value)


def test_as_a_switch() -> None:
    def value() -> Any:
        return autograd.is_anomaly_enabled()

    with autograd.set_detect_anomaly(True):
        assert value()
        with autograd.set_detect_anomaly(False):
            assert not value()
        assert value()
    assert not value()
    autograd.set_detect_anomaly(True)
    assert value()
    autograd.set_detect_anomaly(False)
    assert not value()
