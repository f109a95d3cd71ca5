"""Modules: what they hold, their state, and how they print, against torch."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mpigrad
from mpigrad import nn

Expression = Callable[[Any], Any]


def net(m: Any) -> Any:
    """Nested, with a shared layer, a shared parameter, a buffer and modules without parameters."""

    class Block(m.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.scale = m.nn.Parameter(m.tensor([2.0]))
            self.register_buffer("count", m.tensor(3))
            self.register_buffer("cache", m.zeros(2), persistent=False)
            self.register_buffer("nothing", None)
            self.register_parameter("missing", None)
            self.body = m.nn.Sequential(m.nn.Linear(2, 2), m.nn.Tanh())
            self.again = self.body[0]

        def forward(self, x: Any) -> Any:
            return self.again(self.body(x) * self.scale)

        def extra_repr(self) -> str:
            return "scaled"

    m.manual_seed(0)
    model = m.nn.Sequential(
        OrderedDict(first=Block(), drop=m.nn.Dropout(0.1), flat=m.nn.Flatten(), last=m.nn.Linear(2, 2, bias=False))
    )
    model.last.weight = model.first.body[0].weight
    return model


def names(pairs: Any) -> list[str]:
    return [name for name, _ in pairs]


def change(m: Any, **entries: Any) -> Any:
    """A state dict of the net with some entries replaced (None: left out)."""
    state = {**net(m).state_dict(), **entries}
    return {k: v for k, v in state.items() if v is not None}


SAME: list[Expression] = [
    lambda m: list(net(m).state_dict().items()),
    lambda m: list(net(m).named_parameters()),
    lambda m: names(net(m).first.named_parameters(recurse=False)),
    lambda m: [p.shape for p in net(m).parameters()],
    lambda m: list(net(m).named_buffers()),
    lambda m: [names(net(m).named_modules()), names(net(m).named_children()), names(net(m).first.named_children())],
    lambda m: [type(v).__name__ for v in net(m).modules()],
    lambda m: [type(v).__name__ for v in net(m).first.children()],
    lambda m: [len(net(m)), type(net(m)[1]).__name__, type(net(m)[-1]).__name__, names(net(m)[1:3].named_children())],
    lambda m: [type(v).__name__ for v in m.nn.Sequential(m.nn.ReLU()).append(m.nn.Tanh())],
    lambda m: [len(s := m.nn.Sequential(*[m.nn.ReLU()] * 3)), len(list(s.children())), len(list(s))],
    lambda m: [v.training for v in net(m).eval().modules()],
    lambda m: [v.training for v in net(m).eval().train().modules()],
    lambda m: [str(v.dtype) for v in net(m).double().state_dict().values()],
    lambda m: [str(v.dtype) for v in net(m).to(m.float16).state_dict().values()],
    lambda m: [str(v.dtype) for v in net(m).double().float().to("cpu").state_dict().values()],
    lambda m: net(m).to(m.int64),
    lambda m: [p.requires_grad for p in net(m).requires_grad_(False).parameters()],
    lambda m: net(m).eval()(m.ones(3, 2)).shape,
    lambda m: sorted(type(v).__name__ for v in applied(net(m))),
    lambda m: repr(net(m)),
    lambda m: repr(m.nn.Sequential()),
    lambda m: repr(m.nn.Sequential(m.nn.Sequential(m.nn.Linear(1, 2), m.nn.Softmax(dim=1)), m.nn.Sigmoid())),
    lambda m: [repr(v) for v in (m.nn.Identity(), m.nn.MSELoss(), m.nn.CrossEntropyLoss(), m.nn.Flatten(0, 1))],
    lambda m: net(m).load_state_dict(net(m).state_dict()),
    lambda m: net(m).load_state_dict(change(m, **{"first.count": None}), strict=False),
    lambda m: net(m).load_state_dict(change(m, extra=m.zeros(1)), strict=False),
    lambda m: net(m).load_state_dict(change(m, **{"first.count": None, "first.scale": None})),
    lambda m: net(m).load_state_dict(change(m, extra=m.zeros(1), other=m.zeros(1))),
    lambda m: net(m).load_state_dict(change(m, **{"first.count": None, "x": m.ones(1), "last.weight": m.zeros(3, 2)})),
    lambda m: m.nn.Module()(1),
    lambda m: m.nn.Sequential(1),
    lambda m: net(m).register_buffer("first", None),
]  # fmt: skip


def applied(model: Any) -> list[Any]:
    found: list[Any] = []
    model.apply(found.append)
    return found


@pytest.mark.parametrize("expression", SAME, ids=lambda e: f"line {e.__code__.co_firstlineno}")
def test_as_in_torch(expression: Expression, same: Callable[[Expression], None]) -> None:
    same(expression)


def test_wrong_index() -> None:
    with pytest.raises(IndexError, match="index 4 is out of range for a Sequential of 4 modules"):
        net(mpigrad)[4]


def test_state_shares_memory_and_loading_keeps_it() -> None:
    model, other = nn.Linear(2, 3), nn.Linear(2, 3)
    state = model.state_dict()
    assert state["weight"].array is model.weight.array and not state["weight"].requires_grad
    place = model.weight.array
    model.load_state_dict(other.state_dict())
    assert model.weight.array is place and model.weight.tolist() == other.weight.tolist()
    assert model.weight.requires_grad


def test_a_failed_load_changes_nothing() -> None:
    model = nn.Linear(2, 3)
    before = model.weight.tolist()
    with pytest.raises(RuntimeError, match="size mismatch for bias"):
        model.load_state_dict({"weight": mpigrad.zeros(3, 2), "bias": mpigrad.zeros(2)})
    assert model.weight.tolist() == before


def test_loading_casts() -> None:
    model = nn.Linear(2, 1)
    model.load_state_dict({"weight": mpigrad.ones(1, 2).double(), "bias": mpigrad.ones(1).half()})
    assert model.weight.dtype is mpigrad.float32 and model.weight.tolist() == [[1.0, 1.0]]


def test_moving_keeps_the_parameters_and_their_gradients() -> None:
    model = nn.Linear(2, 1)
    weight = model.weight
    model(mpigrad.ones(1, 2)).sum().backward()
    model.double()
    assert model.weight is weight and weight.is_leaf and weight.requires_grad
    assert weight.dtype is weight.grad.dtype is mpigrad.float64
    model(mpigrad.ones(1, 2).double()).sum().backward()
    assert weight.grad.tolist() == [[2.0, 2.0]]


@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad(set_to_none: bool) -> None:
    model = nn.Linear(2, 1)
    (model(mpigrad.ones(1, 2)) ** 2).sum().backward(create_graph=True)
    model.zero_grad(set_to_none=set_to_none)
    if set_to_none:
        assert model.weight.grad is None
    else:
        assert model.weight.grad.tolist() == [[0.0, 0.0]] and not model.weight.grad.requires_grad


@pytest.mark.parametrize("shape", [(3, 5), (64, 32), (1, 1), (10, 784)])
def test_linear_starts_as_torch_does(shape: tuple[int, int], torch: Any) -> None:
    """Bit for bit."""
    states = []
    for m in (mpigrad, torch):
        m.manual_seed(11)
        model = m.nn.Sequential(m.nn.Linear(*shape), m.nn.Linear(shape[1], 4), m.nn.Linear(4, 2, bias=False))
        states.append(model.state_dict())
    for name, value in states[0].items():
        np.testing.assert_array_equal(value.numpy(), states[1][name].numpy(), strict=True)


def test_without_init() -> None:
    class Forgot(nn.Module):
        def __init__(self) -> None:
            pass

    with pytest.raises(AttributeError, match=r"cannot assign buffer before Module\.__init__"):
        Forgot().register_buffer("count", mpigrad.zeros(1))
