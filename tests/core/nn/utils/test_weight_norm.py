"""Weight normalisation, parameters as vectors and skipped start values, against torch."""

from collections.abc import Callable
from typing import Any

import pytest

import mpigrad
from mpigrad import nn
from mpigrad.core.flat import flatten

Expression = Callable[[Any], Any]
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")


def normalised(make: Callable[[Any], Any], shape: tuple[int, ...], **options: Any) -> Expression:
    def run(m: Any) -> Any:
        m.manual_seed(2)
        module = m.nn.utils.weight_norm(make(m), **options)
        state = dict(module.state_dict())
        y = module(m.ones(shape))
        (y * y).sum().backward()
        gradients = [p.grad for p in module.parameters()]
        with m.no_grad():
            module.weight_g.mul_(2.0)
        changed = module(m.ones(shape))
        m.nn.utils.remove_weight_norm(module)
        return [state, y, gradients, changed, dict(module.state_dict()), module(m.ones(shape)), module.weight.is_leaf]

    return run


def vector(m: Any) -> Any:
    m.manual_seed(0)
    model = m.nn.Linear(2, 3)
    v = m.nn.utils.parameters_to_vector(model.parameters())
    (v * v).sum().backward()
    m.nn.utils.vector_to_parameters(m.arange(9).float(), model.parameters())
    return [v, model.weight.grad, model.weight, model.bias]


CLOSE: list[Expression] = [
    *[normalised(lambda m: m.nn.Linear(3, 4), (2, 3), dim=d) for d in (0, 1, -1, None)],
    normalised(lambda m: m.nn.Conv2d(2, 4, 3), (1, 2, 5, 5)),
    vector,
    lambda m: m.nn.utils.remove_weight_norm(m.nn.ReLU()),
    lambda m: m.nn.utils.weight_norm(m.nn.utils.weight_norm(m.nn.Linear(1, 1))),
    lambda m: m.nn.utils.weight_norm(m.nn.Linear(1, 1), "other"),
    lambda m: [m.manual_seed(1), m.nn.utils.skip_init(m.nn.Linear, 2, 3).weight.shape, m.rand(2)][1:],
    lambda m: m.nn.utils.skip_init(m.nn.ReLU),
]


@pytest.mark.parametrize("expression", CLOSE, ids=str)
def test_as_in_torch(expression: Expression, close: Callable[[Expression], None]) -> None:
    close(expression)


def test_a_vector_keeps_flat_memory() -> None:
    model = nn.Linear(2, 3)
    (run,) = flatten(model.parameters())
    nn.utils.vector_to_parameters(mpigrad.arange(9).float(), model.parameters())
    assert run.holds() and run.values.tolist() == list(range(9))
    with pytest.raises(TypeError, match=r"expected mpigrad\.Tensor"):
        nn.utils.vector_to_parameters([1.0], model.parameters())  # type: ignore[arg-type]


def test_module_paths() -> None:
    import mpigrad.nn.parameter
    from mpigrad.nn.utils import clip_grad_norm_

    assert mpigrad.nn.parameter.Parameter is nn.Parameter and clip_grad_norm_ is nn.utils.clip_grad_norm_
