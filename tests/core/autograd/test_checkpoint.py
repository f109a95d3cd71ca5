"""Checkpointing saves nothing and gives the same gradients."""

import weakref
from typing import Any

import pytest
from mpigrad.autograd.checkpoint import checkpoint, checkpoint_sequential

import mpigrad
from mpigrad import nn


def block(width: int = 4) -> Any:
    mpigrad.manual_seed(1)
    return nn.Sequential(nn.Linear(width, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, width))


def gradients(run: Any) -> Any:
    model = block()
    x = mpigrad.linspace(-1, 1, 12).reshape(3, 4).requires_grad_()
    mpigrad.manual_seed(2)
    value = run(model, x)
    (value**2).sum().backward()
    return value.tolist(), x.grad.tolist(), [p.grad.tolist() for p in model.parameters()], mpigrad.rand(1).tolist()


@pytest.mark.parametrize(
    "run",
    [
        lambda model, x: checkpoint(model, x),
        lambda model, x: checkpoint(model, x, use_reentrant=False),
        lambda model, x: checkpoint(lambda y: model(y), x),
        lambda model, x: checkpoint(lambda y: checkpoint(model, y), x),
        lambda model, x: checkpoint_sequential(model, 2, x),
    ],
)
def test_same_gradients(run: Any) -> None:
    assert gradients(run) == gradients(lambda model, x: model(x))


def test_second_derivatives_and_retained_graphs() -> None:
    def found(run: Any) -> Any:
        x = mpigrad.tensor([1.0, 2.0], dtype=mpigrad.float64, requires_grad=True)
        y = run(lambda v: v.exp() * v**2, x * 1).sum()
        (g,) = mpigrad.autograd.grad(y, x, create_graph=True)
        y.backward(retain_graph=True)
        (h,) = mpigrad.autograd.grad((g * g).sum(), x)
        return g.tolist(), h.tolist(), x.grad.tolist()

    assert found(checkpoint) == found(lambda function, x: function(x))


def test_nothing_is_kept() -> None:
    seen: list[Any] = []

    def function(x: Any) -> Any:
        y = x.exp()
        seen.append(weakref.ref(y))
        return y * y

    x = mpigrad.ones(3, requires_grad=True)
    z = checkpoint(function, x)
    assert len(seen) == 1 and seen[0]() is None
    z.sum().backward()
    assert len(seen) == 2 and all(reference() is None for reference in seen)


def test_another_graph_is_an_error() -> None:
    calls: list[int] = []

    def function(x: Any) -> Any:
        calls.append(1)
        return x.exp() if len(calls) == 1 else x.sin()

    y = checkpoint(function, mpigrad.ones(2, requires_grad=True))
    with pytest.raises(RuntimeError, match="must record the same ops"):
        y.sum().backward()
