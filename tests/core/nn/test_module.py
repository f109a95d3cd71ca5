"""Modules: what they hold, their state, and how they print, against torch."""

import pickle
from collections import OrderedDict
from collections.abc import Callable
from copy import copy, deepcopy
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


def assigned(m: Any, **values: Any) -> Any:
    """The net's first module after assignments, by all that it holds."""
    block = net(m).first
    for name, value in values.items():
        setattr(block, name, value)
    return held(block)


def held(block: Any) -> Any:
    views = (block._parameters, block._buffers, block._modules, block.state_dict())
    return [{k: type(v).__name__.replace("Buffer", "Tensor") for k, v in view.items()} for view in views]


def without(m: Any, name: str) -> Any:
    block = net(m).first
    delattr(block, name)
    return [held(block), hasattr(block, name)]


def counting(m: Any) -> Any:
    class Counting(m.nn.Linear):  # type: ignore[misc, name-defined]
        count = 0

        def get_extra_state(self) -> Any:
            return self.count

        def set_extra_state(self, state: Any) -> None:
            self.count = state

    return Counting(1, 1)


def extra(m: Any) -> Any:
    first, second = counting(m), counting(m)
    first.count = 3
    result = second.load_state_dict(first.state_dict())
    return [list(first.state_dict()), second.count, result]


def loaded(m: Any, **options: Any) -> Any:
    """Whether the tensors are taken over, and their dtypes."""
    model = net(m)
    state = {k: v.double() if v.dtype.is_floating_point else v for k, v in net(m).state_dict().items()}
    model.first.scale.requires_grad_(False)
    before = model.first.scale
    model.load_state_dict(state, **options)
    after = model.first.scale
    return [before is after, [(str(v.dtype), v.requires_grad) for v in (after, model.first.count, model.last.weight)]]


def state_hooks(m: Any) -> Any:
    seen: list[Any] = []
    model, other = net(m), net(m)
    model.first.register_state_dict_pre_hook(lambda *a: seen.append(a[1:]))
    handle = model.register_state_dict_post_hook(lambda mod, d, prefix, meta: seen.append((len(d), prefix)))
    state = model.state_dict(prefix="x.")
    handle.remove()
    model.state_dict()
    other.first.register_load_state_dict_pre_hook(lambda mod, d, prefix, *rest: seen.append((prefix, rest[1:])))
    other.register_load_state_dict_pre_hook(lambda mod, d, *rest: d.update({k[2:]: d.pop(k) for k in list(d)}))
    other.register_load_state_dict_post_hook(lambda mod, keys: seen.append(keys))
    other.load_state_dict(state)
    return [list(state), seen]


def forgiven(m: Any) -> Any:
    """A hook that makes a missing key no error."""
    model = net(m)
    model.register_load_state_dict_post_hook(lambda mod, keys: keys.missing_keys.clear())
    return model.load_state_dict(change(m, **{"first.scale": None}))


def replaced(m: Any) -> Any:
    model = net(m)
    model.set_submodule("first.body.1", m.nn.ReLU())
    model.set_submodule("first.new", m.nn.Sequential())
    return names(model.named_modules())


def copied(m: Any) -> Any:
    model = net(m)
    copy = deepcopy(model)
    m.nn.init.zeros_(copy.first.scale)
    shared = copy.last.weight is copy.first.body[0].weight
    return [shared, copy.first.again is copy.first.body[0], model.first.scale, copy.first.scale, repr(copy)]


def frozen(m: Any) -> Any:
    """A sub-module that never trains says so by overriding train."""

    class Frozen(m.nn.Linear):  # type: ignore[misc, name-defined]
        def train(self, mode: bool = True) -> Any:
            return super().train(False)

    return [v.training for v in m.nn.Sequential(Frozen(1, 1), m.nn.ReLU()).train().modules()]


SAME: list[Expression] = [
    lambda m: held(net(m).first),
    lambda m: list(net(m).named_parameters("p", remove_duplicate=False)),
    lambda m: list(net(m).named_buffers("p", recurse=False)),
    lambda m: list(net(m).first.named_buffers("p", recurse=False)),
    lambda m: names(net(m).named_modules(prefix="p", remove_duplicate=False)),
    lambda m: assigned(m, scale=None, count=None, body=None),
    lambda m: assigned(m, scale=m.nn.Parameter(m.ones(3)), missing=m.nn.Parameter(m.ones(3)), extra=m.ones(3)),
    lambda m: assigned(m, scale=m.ones(2)),
    lambda m: assigned(m, scale=1),
    lambda m: assigned(m, body=m.ones(2)),
    lambda m: assigned(m, body="text"),
    lambda m: assigned(m, count=m.ones(2), cache=m.ones(1), nothing=m.ones(3)),
    lambda m: assigned(m, count=5),
    lambda m: assigned(m, count=m.nn.Parameter(m.ones(2))),
    lambda m: assigned(m, count=m.nn.ReLU()),
    lambda m: assigned(m, body=m.nn.Parameter(m.ones(2))),
    lambda m: assigned(m, a=m.nn.Buffer(m.ones(2)), b=m.nn.Buffer(m.ones(2), persistent=False), c=1),
    lambda m: assigned(m, forward=m.nn.Parameter(m.ones(2))),
    lambda m: assigned(m, scale=m.nn.Buffer(m.ones(2))),
    *[lambda m, name=name: without(m, name) for name in ("scale", "cache", "body", "count", "training", "none")],
    lambda m: m.nn.Module().register_buffer("a.b", None),
    lambda m: m.nn.Module().register_buffer("", None),
    lambda m: m.nn.Module().register_buffer(1, None),
    lambda m: m.nn.Module().register_parameter("a.b", None),
    lambda m: m.nn.Module().register_parameter("", None),
    lambda m: m.nn.Module().register_parameter(1, None),
    lambda m: m.nn.Module().register_parameter("a", "text"),
    lambda m: m.nn.Module().register_parameter("a", m.ones(2)),
    lambda m: m.nn.Module().register_parameter("forward", None),
    lambda m: m.nn.Module().add_module("a.b", None),
    lambda m: m.nn.Module().add_module("", None),
    lambda m: m.nn.Module().add_module(1, None),
    lambda m: m.nn.Module().add_module("a", 1),
    lambda m: m.nn.Module().register_module("forward", None),
    lambda m: m.nn.Module().missing,
    lambda m: [n for n in dir(net(m).first) if n in ("scale", "body", "count", "0", "forward")],
    lambda m: [net(m).get_submodule(""), net(m).get_submodule("first.body.1")],
    lambda m: [net(m).get_parameter("first.body.0.weight"), net(m).get_buffer("first.count")],
    lambda m: net(m).get_submodule("first.other"),
    lambda m: net(m).get_submodule("first.scale"),
    lambda m: net(m).get_parameter("first.count"),
    lambda m: net(m).get_parameter("first.other"),
    lambda m: net(m).get_buffer("first.scale"),
    replaced,
    lambda m: net(m).set_submodule("", m.nn.ReLU()),
    lambda m: net(m).set_submodule("first", 1),
    lambda m: net(m).set_submodule("first.scale", m.nn.ReLU()),
    lambda m: net(m).set_submodule("first.other", m.nn.ReLU(), strict=True),
    lambda m: list(net(m).state_dict(destination={"before": 1}, prefix="p.")),
    lambda m: [v.requires_grad for v in net(m).state_dict(keep_vars=True).values()],
    extra,
    lambda m: counting(m).load_state_dict(m.nn.Linear(1, 1).state_dict()),
    lambda m: m.nn.Linear(1, 1).load_state_dict(counting(m).state_dict()),
    loaded,
    lambda m: loaded(m, assign=True),
    lambda m: net(m).load_state_dict([]),
    lambda m: net(m).load_state_dict(change(m, **{"first.scale": 1})).missing_keys,
    lambda m: net(m).load_state_dict(change(m, **{"first.count": m.tensor([7])})).missing_keys,
    state_hooks,
    forgiven,
    copied,
    frozen,
    lambda m: net(m).train("no"),
    lambda m: [str(v.dtype) for v in net(m).type(m.float64).state_dict().values()],
    lambda m: [str(v.dtype) for v in net(m).half().state_dict().values()],
    lambda m: [str(v.dtype) for v in net(m).to(m.zeros(1).double()).state_dict().values()],
    lambda m: [v.shape for v in net(m).to_empty(device="cpu").state_dict().values()],
    lambda m: list(net(m).state_dict().items()),
    lambda m: list(net(m).named_parameters()),
    lambda m: names(net(m).first.named_parameters(recurse=False)),
    lambda m: [p.shape for p in net(m).parameters()],
    lambda m: list(net(m).named_buffers()),
    lambda m: [names(net(m).named_modules()), names(net(m).named_children()), names(net(m).first.named_children())],
    lambda m: [type(v).__name__ for v in net(m).modules()],
    lambda m: [type(v).__name__ for v in m.nn.Sequential(*[m.nn.ReLU()] * 2).modules(remove_duplicate=False)],
    lambda m: [type(v).__name__ for v in net(m).first.children()],
    lambda m: [len(net(m)), type(net(m)[1]).__name__, type(net(m)[-1]).__name__, names(net(m)[1:3].named_children())],
    lambda m: [type(v).__name__ for v in m.nn.Sequential(m.nn.ReLU()).append(m.nn.Tanh())],
    lambda m: [len(s := m.nn.Sequential(*[m.nn.ReLU()] * 3)), len(list(s.children())), len(list(s))],
    lambda m: [v.training for v in net(m).eval().modules()],
    lambda m: [v.training for v in net(m).eval().train().modules()],
    lambda m: [str(v.dtype) for v in net(m).double().state_dict().values()],
    lambda m: [str(v.dtype) for v in net(m).to(m.float16).state_dict().values()],
    lambda m: [str(v.dtype) for v in net(m).double().float().to("cpu").state_dict().values()],
    lambda m: [str(v.dtype) for v in net(m).to(memory_format=m.channels_last).state_dict().values()],
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


@pytest.mark.parametrize("expression", SAME)
def test_as_in_torch(expression: Expression, same: Callable[[Expression], None]) -> None:
    same(expression)


def test_a_module_takes_no_parameters_name(same_class: Callable[[Expression], None]) -> None:
    same_class(lambda m: assigned(m, scale=m.nn.ReLU()))


def test_wrong_index() -> None:
    with pytest.raises(IndexError, match="index 4 is out of range"):
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
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict({"weight": mpigrad.zeros(3, 2)})
    assert model.weight.tolist() == before


def test_a_deleted_buffer_is_forgotten() -> None:
    model = nn.Module()
    model.register_buffer("count", mpigrad.ones(1), persistent=False)
    del model.count
    assert not model._non_persistent_buffers_set
    model.count = nn.Parameter(mpigrad.ones(1))
    del model.count
    model.register_buffer("count", mpigrad.ones(1))
    model.other, model.count = 1, None
    assert list(model.state_dict()) == []


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


def test_a_shallow_copy_registers_for_itself() -> None:
    model = nn.Linear(1, 1)
    other = copy(model)
    other.more = nn.Parameter(mpigrad.ones(1))
    assert other.weight is model.weight and names(model.named_parameters()) == ["weight", "bias"]


def test_is_not_pickled() -> None:
    with pytest.raises(TypeError, match=r"save its state_dict\(\) with mpigrad\.save_file"):
        pickle.dumps(nn.Linear(1, 1))


def test_writing_to_the_views_registers() -> None:
    model = nn.Linear(1, 1)
    model._parameters["scale"] = nn.Parameter(mpigrad.ones(1))
    del model._parameters["bias"]
    assert names(model.named_parameters()) == ["weight", "scale"] and not hasattr(model, "bias")
    with pytest.raises(KeyError):
        model._buffers["weight"]


@pytest.mark.skipif(mpigrad.cuda.is_available(), reason="it would move")
def test_a_gpu_that_is_not_here() -> None:
    for device in ((), (None,), (0,), ("cuda:0",)):
        with pytest.raises(RuntimeError, match="a CUDA device was asked for"):
            mpigrad.nn.Linear(1, 1).cuda(*device)
