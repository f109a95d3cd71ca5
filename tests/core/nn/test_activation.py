"""Activations as modules against torch: printed form, state, output and gradient."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest

import mpigrad
from mpigrad import nn

Expression = Callable[[Any], Any]

PLAIN = [
    "CELU", "ELU", "GELU", "GLU", "LeakyReLU", "LogSigmoid", "Hardshrink", "Hardsigmoid", "Hardswish",
    "Hardtanh", "Mish", "PReLU", "ReLU", "ReLU6", "RReLU", "SELU", "SiLU", "Sigmoid", "Softplus", "Softshrink",
    "Softsign", "Tanh", "Tanhshrink",
]  # fmt: skip
MADE: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    *[(name, (), {}) for name in PLAIN],
    *[(name, (1,), {}) for name in ("Softmax", "LogSoftmax", "Softmin")],
    ("Softmax", (), {"dim": -1}),
    ("Softmax2d", (), {}),
    ("ELU", (0.5, True), {}),
    ("CELU", (), {"alpha": 2.0}),
    ("GELU", ("tanh",), {}),
    ("GLU", (1,), {}),
    ("LeakyReLU", (0.3,), {"inplace": True}),
    ("Hardshrink", (0.3,), {}),
    ("Softshrink", (), {"lambd": 0.1}),
    ("Hardtanh", (-2, 2), {}),
    ("ReLU", (True,), {}),
    ("ReLU6", (), {"inplace": True}),
    ("RReLU", (0.2, 0.2), {}),
    ("SELU", (True,), {}),
    ("SiLU", (True,), {}),
    ("Mish", (True,), {}),
    ("Hardswish", (True,), {}),
    ("Hardsigmoid", (True,), {}),
    ("Softplus", (2, 3), {}),
    ("Threshold", (0.1, 20), {}),
    ("Threshold", (), {"threshold": 0.1, "value": 2.0, "inplace": True}),
    ("PReLU", (4,), {"init": 0.5}),
]


@pytest.mark.parametrize(("name", "args", "options"), MADE, ids=str)
def test_as_in_torch(
    name: str, args: tuple[Any, ...], options: dict[str, Any], close: Callable[[Expression], None]
) -> None:
    def run(m: Any) -> Any:
        m.manual_seed(1)
        module = getattr(m.nn, name)(*args, **options)
        x = m.randn(2, 4, 2, 2).requires_grad_()
        y = module(x * 2.0)
        (y * y).sum().backward()
        grads = [p.grad for p in module.parameters()]
        return [module, list(module.state_dict()), y, x.grad, grads, module.eval()(x * 2.0)]

    close(run)


@pytest.mark.parametrize("args", [(), (1, 2, 3, 4)])
def test_wrong_arguments(args: Any, same_class: Callable[[Expression], None]) -> None:
    same_class(lambda m: m.nn.Threshold(*args))


def test_signatures(torch: Any) -> None:
    """Names, order and defaults of the settings are torch's."""
    for name in {name for name, *_ in MADE} - {"PReLU"}:
        ours, theirs = (inspect.signature(getattr(m.nn, name)).parameters.values() for m in (mpigrad, torch))
        got = [(p.name, p.default) for p in ours]
        assert got == [(p.name, p.default) for p in theirs][: len(got)], name


def test_wrong_dimensions() -> None:
    with pytest.raises(ValueError, match="expected input to be 3D or 4D"):
        nn.Softmax2d()(mpigrad.ones(2, 2))
