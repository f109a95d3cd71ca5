"""Parametrised modules against torch."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

Expression = Callable[[Any], Any]


def doubling(m: Any, inverse: bool = True) -> Any:
    class Double(m.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any) -> Any:
            return x * 2

        if inverse:

            def right_inverse(self, x: Any) -> Any:
                return x / 2

    return Double()


def changed(change: Callable[[Any, Any], Any], make: Any = lambda m: m.nn.Linear(3, 2)) -> Expression:
    """A module after a change: how it prints, its state, output, gradients."""

    def run(m: Any) -> Any:
        m.manual_seed(3)
        module = make(m)
        result = change(m, module)
        y = module(m.ones((1, 3)) if not hasattr(module, "kernel_size") else m.ones((1, 3, 4, 4)))
        (y * y).sum().backward()
        learned = [(name, p.grad) for name, p in module.named_parameters()]
        return [repr(module), dict(module.state_dict()), y, learned, result, module.weight]

    return run


def double(m: Any, module: Any, **options: Any) -> None:
    m.nn.utils.parametrize.register_parametrization(module, "weight", doubling(m, **options))


def twice(m: Any, module: Any) -> None:
    double(m, module)
    double(m, module)


def assigned(m: Any, module: Any) -> Any:
    double(m, module)
    module.weight = m.ones(2, 3)
    return [module.weight, module.parametrizations.weight.original]


def removed(m: Any, module: Any, **options: Any) -> Any:
    twice(m, module)
    m.nn.utils.parametrize.remove_parametrizations(module, "weight", **options)
    return [type(module).__name__, m.nn.utils.parametrize.is_parametrized(module)]


def copied(m: Any, module: Any) -> Any:
    m.nn.utils.parametrizations.weight_norm(module)
    copy = deepcopy(module)
    with m.no_grad():
        copy.parametrizations.weight.original0.mul_(3.0)
    return [copy.weight, module.weight]


def normed(m: Any, module: Any, leave: bool = True, **options: Any) -> None:
    m.nn.utils.parametrizations.weight_norm(module, **options)
    if not leave:
        m.nn.utils.parametrize.remove_parametrizations(module, "weight")


def spectral(m: Any, module: Any, train: bool = True, **options: Any) -> Any:
    m.nn.utils.parametrizations.spectral_norm(module, **options)
    return module.train(train).training


CLOSE: list[Expression] = [
    changed(double),
    changed(lambda m, module: double(m, module, inverse=False)),
    changed(twice),
    changed(assigned),
    changed(removed),
    changed(lambda m, module: removed(m, module, leave_parametrized=False)),
    changed(copied),
    changed(normed),
    changed(lambda m, module: normed(m, module, dim=None)),
    changed(lambda m, module: normed(m, module, leave=False)),
    changed(spectral),
    changed(lambda m, module: spectral(m, module, train=False, n_power_iterations=3)),
    changed(lambda m, module: spectral(m, module, dim=1)),
    changed(spectral, lambda m: m.nn.ConvTranspose2d(3, 2, 2)),
    lambda m: normed(m, m.nn.ReLU()),
    lambda m: spectral(m, m.nn.Linear(1, 1), name="other"),
    lambda m: spectral(m, m.nn.Linear(1, 1), n_power_iterations=0),
    lambda m: spectral(m, m.nn.Linear(1, 1), dim=2),
    lambda m: m.nn.utils.parametrize.remove_parametrizations(m.nn.Linear(1, 1), "weight"),
    lambda m: m.nn.utils.parametrize.register_parametrization(m.nn.Linear(2, 1), "weight", m.nn.Flatten(0)),
]


@pytest.mark.parametrize("expression", CLOSE, ids=str)
def test_as_in_torch(expression: Expression, close: Callable[[Expression], None]) -> None:
    close(expression)


def test_without_an_inverse(same_class: Callable[[Expression], None]) -> None:
    def run(m: Any) -> None:
        module = m.nn.Linear(3, 2)
        double(m, module, inverse=False)
        module.weight = m.ones(2, 3)

    same_class(run)
