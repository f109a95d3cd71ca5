"""SGD against torch's, its state, and a training run on the digits against live and stored figures."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from mpigrad.data import DataLoader, digits

import mpigrad
from mpigrad import nn, optim

OPTIONS: list[dict[str, Any]] = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "dampening": 0.3},
    {"momentum": 0.8, "nesterov": True},
    {"weight_decay": 0.1},
    {"momentum": 0.9, "weight_decay": 0.05, "nesterov": True},
    {"maximize": True, "momentum": 0.5, "weight_decay": 0.1},
]


def tensors(m: Any, values: list[np.ndarray]) -> list[Any]:
    return [m.nn.Parameter(m.from_numpy(v.copy())) for v in values]


def trajectory(m: Any, groups: Callable[[list[Any]], list[Any]], options: dict[str, Any]) -> list[np.ndarray]:
    """Five parameters over 50 steps; in some steps some have no gradient, and halfway the rates change."""
    rng = np.random.default_rng(4)
    parameters = tensors(m, [rng.standard_normal(s) for s in ((2, 3), (3,), (), (4, 1), (0,))])
    optimizer = m.optim.SGD(groups(parameters), **{"lr": 0.05, **options})
    seen = []
    for step in range(50):
        optimizer.zero_grad(set_to_none=step % 7 != 0)
        for i, parameter in enumerate(parameters):
            gradient = rng.standard_normal(tuple(parameter.shape))
            if (step + i) % (i + 3):
                ((parameter - m.from_numpy(np.asarray(gradient))) ** 2).sum().backward()
        if step == 25:
            for group in optimizer.param_groups:
                group["lr"] *= 0.5
                group["momentum"] = 0.7
        optimizer.step()
        seen.append(np.concatenate([p.detach().numpy().ravel() for p in parameters]))
    return seen


GROUPS: dict[str, Callable[[list[Any]], list[Any]]] = {
    "one group": lambda p: p,
    "two groups": lambda p: [{"params": p[::2], "lr": 0.01, "momentum": 0.6}, {"params": p[1::2]}],
}


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: ", ".join(o) or "plain")
@pytest.mark.parametrize("groups", GROUPS)
def test_as_in_torch(options: dict[str, Any], groups: str, torch: Any) -> None:
    got, want = (trajectory(m, GROUPS[groups], options) for m in (mpigrad, torch))
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-9)


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


def test_state_dict_is_as_torch_lays_it_out(torch: Any) -> None:
    states = []
    for m in (mpigrad, torch):
        model = m.nn.Linear(2, 2)
        optimizer = m.optim.SGD([{"params": [model.weight]}, {"params": [model.bias], "lr": 0.5}], lr=0.1, momentum=0.9)
        model(m.ones(1, 2)).sum().backward()
        optimizer.step()
        states.append(optimizer.state_dict())
    got, want = states
    assert list(got["state"]) == list(want["state"])
    for i, values in want["state"].items():
        assert got["state"][i]["momentum_buffer"].tolist() == values["momentum_buffer"].tolist()
    for ours, theirs in zip(got["param_groups"], want["param_groups"], strict=True):
        assert ours == {k: theirs[k] for k in ours}


def test_another_layout_of_groups_is_refused() -> None:
    _, optimizer = small()
    other = optim.SGD([nn.Parameter(mpigrad.zeros(1))], lr=0.1)
    with pytest.raises(ValueError, match=r"parameter groups of sizes \[2, 2\], this optimizer has groups of \[1\]"):
        other.load_state_dict(optimizer.state_dict())


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


ERRORS: list[tuple[Callable[[Any], Any], str]] = [
    (lambda m: m.optim.SGD([], lr=0.1), "optimizer got an empty parameter list"),
    (lambda m: m.optim.SGD(m.nn.Linear(1, 1).weight), "should be an iterable of Tensors or dicts"),
    (lambda m: m.optim.SGD([m.nn.Linear(1, 1)]), "optimizer can only optimize Tensors, but one of the params is"),
    (lambda m: m.optim.SGD([m.ones(1, requires_grad=True) * 2]), "can't optimize a non-leaf Tensor"),
    (lambda m: m.optim.SGD(m.nn.Linear(1, 1).parameters(), lr=-1), "Invalid learning rate: -1"),
    (lambda m: m.optim.SGD(m.nn.Linear(1, 1).parameters(), momentum=-1), "Invalid momentum value: -1"),
    (lambda m: m.optim.SGD(m.nn.Linear(1, 1).parameters(), weight_decay=-1), "Invalid weight_decay value: -1"),
    (lambda m: m.optim.SGD(m.nn.Linear(1, 1).parameters(), nesterov=True), "Nesterov momentum requires a momentum"),
    (lambda m: m.optim.SGD([{"params": p} for p in [m.nn.Parameter(m.ones(1))] * 2]), "more than one parameter group"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "text"), ERRORS, ids=[text for _, text in ERRORS])
def test_errors(make: Callable[[Any], Any], text: str, same_class: Callable[..., None]) -> None:
    with pytest.raises((ValueError, TypeError), match=text):
        make(mpigrad)
    same_class(make)


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
