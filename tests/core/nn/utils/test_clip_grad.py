"""Clipping gradients against torch, in flat memory and outside it."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mpigrad
from mpigrad import nn
from mpigrad.core.flat import flatten

Expression = Callable[[Any], Any]


def learned(m: Any, flat: str = "none", dtype: str = "float32") -> list[Any]:
    """Parameters with gradients, one without; in flat memory all, the first two, or none (in torch none)."""
    made = [m.nn.Parameter(m.ones(shape, dtype=getattr(m, dtype))) for shape in ((2, 3), (4,), (), (5,))]
    if m is mpigrad and flat != "none":
        flatten(made if flat == "all" else made[:2])
    sum((p * (i + 1)).sum() for i, p in enumerate(made[:3])).backward()  # type: ignore[union-attr]
    return made


def after(call: Callable[[Any, Any], Any], **options: Any) -> Expression:
    """What the call returns, and the gradients then."""

    def run(m: Any) -> Any:
        parameters = learned(m, **options)
        result = call(m, parameters)
        return [result, [p.grad for p in parameters]]

    return run


CALLS: list[Callable[[Any, Any], Any]] = [
    *[
        lambda m, p, limit=limit, order=order: m.nn.utils.clip_grad_norm_(p, limit, order)
        for limit in (0.5, 100.0)
        for order in (1, 2.0, 3.5, math.inf, "inf", 0, -1)
    ],
    lambda m, p: m.nn.utils.clip_grad_norm_(p[0], 0.1),
    lambda m, p: m.nn.utils.clip_grad_norm_(iter(p), 0.1, error_if_nonfinite=True, foreach=True),
    lambda m, p: m.nn.utils.clip_grad_norm_(p[3:], 0.1),
    lambda m, p: m.nn.utils.clip_grad_value_(p, 1.5),
    lambda m, p: m.nn.utils.clip_grad_value_(p[1], 0.5),
    lambda m, p: m.nn.utils.get_total_norm([v.grad for v in p[:3]]),
    lambda m, p: m.nn.utils.get_total_norm(p[1].grad, 1.0),
    lambda m, p: m.nn.utils.get_total_norm([]),
    lambda m, p: m.nn.utils.clip_grads_with_norm_(p, 0.1, m.tensor(3.0)),
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("flat", ["none", "all", "some"])
def test_as_in_torch(call: Any, flat: str, close: Callable[[Expression], None]) -> None:
    close(after(call, flat=flat))


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_dtypes(dtype: str, torch: Any) -> None:
    results = [after(CALLS[2], dtype=dtype)(m) for m in (mpigrad, torch)]
    assert str(results[0][0].dtype)[8:] == str(results[1][0].dtype)[6:] == dtype
    np.testing.assert_allclose(results[0][0].numpy(), results[1][0].numpy(), rtol=2e-3)
    np.testing.assert_allclose(results[0][1][0].numpy(), results[1][1][0].numpy(), rtol=2e-3)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_not_finite(value: float, same: Callable[[Expression], None]) -> None:
    def run(m: Any, **options: Any) -> Any:
        parameters = learned(m)
        parameters[0].grad[0, 0] = value
        return [m.nn.utils.clip_grad_norm_(parameters, 1.0, **options), [p.grad for p in parameters]]

    same(run)
    same(lambda m: run(m, error_if_nonfinite=True))


def test_an_empty_generator_warns() -> None:
    with pytest.warns(UserWarning, match="is an empty generator"):
        nn.utils.clip_grad_norm_((p for p in []), 1.0)


def test_a_change_is_noticed() -> None:
    parameter = nn.Parameter(mpigrad.ones(3))
    (parameter * 5).sum().backward()
    product = parameter.grad * parameter
    nn.utils.clip_grad_norm_([parameter], 1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()
