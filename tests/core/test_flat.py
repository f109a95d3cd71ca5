"""Flat memory: parameters and gradients as views of one array each."""

from typing import Any

import numpy as np
import pytest

import mpigrad
from mpigrad import nn, optim
from mpigrad.core.flat import flatten, gather_gradient, runs


@pytest.fixture
def model() -> nn.Sequential:
    mpigrad.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))


def backward(model: Any) -> None:
    model(mpigrad.ones(5, 4)).sum().backward()


def everything(model: Any) -> list[Any]:
    return [(p.tolist(), p.grad.tolist()) for p in model.parameters()]


def test_parameters_and_gradients_are_views_of_one_array(model: nn.Sequential) -> None:
    backward(model)
    before = everything(model)
    (run,) = flatten(model.parameters())
    assert run.tensors == tuple(model.parameters())
    assert everything(model) == before
    assert run.values.shape == run.gradients.shape == (4 * 3 + 3 + 3 * 2 + 2,)
    np.testing.assert_array_equal(run.values, np.concatenate([p.array.ravel() for p in model.parameters()]))
    np.testing.assert_array_equal(run.gradients, np.concatenate([p.grad.array.ravel() for p in model.parameters()]))
    run.values[:] = 1
    run.gradients[:] = 2
    assert all(np.all(p.array == 1) and np.all(p.grad.array == 2) for p in model.parameters())


def test_flattening_again_changes_nothing(model: nn.Sequential) -> None:
    (first,) = flatten(model.parameters())
    (second,) = flatten(model.parameters())
    assert first.values.base is second.values.base
    assert [r.tensors for r in flatten(list(model[2].parameters()))] == [tuple(model[2].parameters())]


def test_one_array_per_dtype_and_gaps_part_runs(model: nn.Sequential) -> None:
    model[2].double()
    assert [r.values.dtype for r in flatten(model.parameters())] == [np.float32, np.float64]
    a, b, c = (nn.Parameter(mpigrad.zeros(n)) for n in (1, 2, 3))
    flatten([a, b, c])
    assert [r.tensors for r in runs([c, a])] == [(a,), (c,)]
    assert [r.tensors for r in runs([c, b])] == [(b, c)]


def test_gradients_are_computed_in_their_place(model: nn.Sequential, monkeypatch: pytest.MonkeyPatch) -> None:
    """The product for a weight's gradient is written to flat memory: no array in between, no copy."""
    (run,) = flatten(model.parameters())
    written = []
    matmul = np.matmul

    def watched(*args: Any, out: Any = None) -> Any:
        written.append(out)
        return matmul(*args, out=out)

    monkeypatch.setattr(np, "matmul", watched)
    backward(model)
    assert [id(out) for out in written] == [id(model[i].weight.home.gradient) for i in (2, 0)]
    for parameter in model.parameters():
        assert parameter.grad.array is parameter.home.gradient
        assert np.shares_memory(parameter.grad.array, run.gradients)


def test_gradients_accumulate_in_their_place(model: nn.Sequential) -> None:
    flatten(model.parameters())
    backward(model)
    once = [p.grad.array.copy() for p in model.parameters()]
    kept = [p.grad for p in model.parameters()]
    backward(model)
    for parameter, grad, first in zip(model.parameters(), kept, once, strict=True):
        assert parameter.grad is grad and grad.array is parameter.home.gradient
        np.testing.assert_allclose(grad.array, 2 * first, rtol=1e-6)


def test_a_weight_used_twice() -> None:
    layer = nn.Linear(2, 2, bias=False)
    flatten(layer.parameters())
    (layer(mpigrad.ones(1, 2)) + layer(mpigrad.tensor([[2.0, 3.0]]))).sum().backward()
    assert layer.weight.grad.tolist() == [[3.0, 4.0], [3.0, 4.0]]


def test_a_gradient_that_somebody_keeps_survives_the_next_pass(model: nn.Sequential) -> None:
    flatten(model.parameters())
    backward(model)
    kept = [p.grad for p in model.parameters()]
    before = [g.tolist() for g in kept]
    model.zero_grad()
    (model(mpigrad.ones(5, 4)) * 7).sum().backward()
    assert [g.tolist() for g in kept] == before
    assert all(p.grad.array is p.home.gradient for p in model.parameters())


def test_an_assigned_gradient_is_gathered(model: nn.Sequential) -> None:
    weight = model[0].weight
    flatten(model.parameters())
    given = mpigrad.ones(3, 4)
    weight.grad = given
    gather_gradient(weight)
    assert weight.grad is given and given.array is weight.home.gradient
    weight.grad = None
    backward(model)
    assert given.tolist() == mpigrad.ones(3, 4).tolist()


def test_replaced_data_finds_a_new_home(model: nn.Sequential) -> None:
    """Every step again: a home that went must not be mistaken for the one that came in its place."""
    optimizer = optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    (first,) = flatten(model.parameters())
    assert first.holds()
    velocity = np.zeros((3, 4), np.float32)
    for k in range(1, 6):
        model[0].weight.data = mpigrad.full((3, 4), float(k))
        assert model[0].weight.home is None and not first.holds()
        optimizer.zero_grad()
        backward(model)
        expected = model[0].weight.grad.array + 0.9 * velocity
        optimizer.step()
        velocity = optimizer.state[model[0].weight]["momentum_buffer"].array.copy()
        np.testing.assert_allclose(velocity, expected, rtol=1e-6)
        np.testing.assert_allclose(model[0].weight.array, k - velocity, rtol=1e-6)
        assert model[0].weight.grad.array is model[0].weight.home.gradient


def test_the_optimizer_works_on_the_memory_it_finds(model: nn.Sequential) -> None:
    """Flattened before the optimizer came (as data parallelism does, in buckets), after it, or not at all."""
    twins = [nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)) for _ in range(3)]
    for i, twin in enumerate(twins):
        twin.load_state_dict(model.state_dict())
        if i == 1:
            flatten(reversed(list(twin[2].parameters())))
        optimizer = optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
        if i == 2:
            flatten(twin.parameters())
        for _ in range(3):
            optimizer.zero_grad()
            backward(twin)
            optimizer.step()
    assert everything(twins[0]) == everything(twins[1]) == everything(twins[2])
