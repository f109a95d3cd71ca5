"""What an optimizer does around its rule, by the example of SGD, and training against live and stored figures."""

import itertools
from typing import Any

import numpy as np
import pytest
from mpigrad.data import DataLoader, digits

import mpigrad
from mpigrad import nn, optim


def small(seed: int = 0) -> tuple[Any, Any]:
    mpigrad.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
    return model, optim.SGD(
        [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.2}], lr=0.1, momentum=0.9
    )


def train(model: Any, optimizer: Any, steps: range) -> list[float]:
    losses = []
    for step in steps:
        optimizer.zero_grad()
        loss = (model(mpigrad.arange(8).reshape(2, 4).float() / (step + 1)) ** 2).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_state_round_trip_continues_identically() -> None:
    whole = train(*small(), range(10))
    model, optimizer = small()
    first = train(model, optimizer, range(5))
    other, resumed = small(seed=1)
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(optimizer.state_dict())
    assert first + train(other, resumed, range(5, 10)) == whole
    assert train(model, optimizer, range(5, 10)) == whole[5:]  # the copy shares nothing


def test_momentum_may_begin_late() -> None:
    parameter = nn.Parameter(mpigrad.zeros(1))
    optimizer = optim.SGD([parameter], lr=1.0)
    for momentum in (0.0, 0.5, 0.5):
        optimizer.param_groups[0]["momentum"] = momentum
        parameter.grad = mpigrad.ones(1)
        optimizer.step()
    assert parameter.tolist() == [-1 - 1 - 1.5]


def test_parameters_without_gradients_stay() -> None:
    model, optimizer = small()
    before = [p.tolist() for p in model.parameters()]
    optimizer.step()
    assert [p.tolist() for p in model.parameters()] == before


def test_step_is_noticed_by_autograd() -> None:
    model, optimizer = small()
    loss = model(mpigrad.ones(1, 4)).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_closure_and_zero_grad() -> None:
    model, optimizer = small()

    def closure() -> Any:
        optimizer.zero_grad()
        loss = model(mpigrad.ones(1, 4)).sum()
        loss.backward()
        return loss

    first, second = optimizer.step(closure), optimizer.step(closure)
    assert second.item() < first.item()
    optimizer.zero_grad(set_to_none=False)
    assert all(not p.grad.array.any() for p in model.parameters())
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def digit_losses(m: Any, batches: list[Any]) -> list[float]:
    """100 steps of a small network on the digits."""
    m.manual_seed(0)
    model = m.nn.Sequential(m.nn.Linear(64, 32), m.nn.ReLU(), m.nn.Linear(32, 10))
    optimizer = m.optim.SGD(model.parameters(), lr=0.5, momentum=0.5)
    losses = []
    for images, classes in batches:
        optimizer.zero_grad()
        loss = m.nn.functional.cross_entropy(model(m.from_numpy(images)), m.from_numpy(classes))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.fixture(scope="module")
def batches() -> list[Any]:
    loader = DataLoader(digits(), batch_size=32, shuffle=True, generator=mpigrad.Generator().manual_seed(7))
    endless = itertools.chain.from_iterable(itertools.repeat(loader))
    return [[t.numpy() for t in batch] for batch in itertools.islice(endless, 100)]


# every tenth loss, computed by torch 2.13
STORED = [2.0280068, 1.3427864, 0.6673955, 0.5769607, 0.4816582, 0.3166826, 0.2507374, 0.4871683, 0.2096287, 0.2028421]


def test_training_as_stored(batches: list[Any]) -> None:
    np.testing.assert_allclose(digit_losses(mpigrad, batches)[9::10], STORED, rtol=1e-5)


def test_training_as_in_torch(batches: list[Any], torch: Any) -> None:
    np.testing.assert_allclose(digit_losses(mpigrad, batches), digit_losses(torch, batches), rtol=1e-5)
