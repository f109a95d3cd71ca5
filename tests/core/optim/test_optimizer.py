"""All optimizers against torch's: trajectories, state, errors, printed form; and what they share."""

import copy
import importlib
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mpigrad
from mpigrad.core.optim import optimizer as module

# each optimizer with options that cross all of its branches sparsely
CASES: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.05}),
    ("SGD", {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.05}),
    ("SGD", {"momentum": 0.8, "nesterov": True, "weight_decay": 0.05}),
    ("SGD", {"maximize": True, "momentum": 0.5, "weight_decay": 0.1}),
    ("Adam", {}),
    ("Adam", {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1, "amsgrad": True}),
    ("Adam", {"lr": 0.02, "weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True}),
    ("AdamW", {}),
    ("AdamW", {"lr": 0.02, "weight_decay": 0.1, "amsgrad": True, "maximize": True}),
    ("Adamax", {"lr": 0.02}),
    ("Adamax", {"betas": (0.7, 0.9), "eps": 0.1, "weight_decay": 0.1, "maximize": True}),
    ("NAdam", {"lr": 0.02}),
    ("NAdam", {"momentum_decay": 0.1, "weight_decay": 0.1, "maximize": True}),
    ("NAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("RAdam", {"lr": 0.02}),
    ("RAdam", {"betas": (0.8, 0.9), "weight_decay": 0.1, "maximize": True}),
    ("RAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("Adagrad", {"lr": 0.1}),
    ("Adagrad", {"lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5, "maximize": True}),
    ("Adadelta", {}),
    ("Adadelta", {"lr": 0.5, "rho": 0.7, "eps": 1e-3, "weight_decay": 0.1, "maximize": True}),
    ("RMSprop", {}),
    ("RMSprop", {"centered": True, "alpha": 0.8, "weight_decay": 0.1}),
    ("RMSprop", {"centered": True, "momentum": 0.5, "maximize": True}),
    ("RMSprop", {"momentum": 0.9, "eps": 0.1}),
    ("Rprop", {}),
    ("Rprop", {"etas": (0.3, 2.0), "step_sizes": (1e-3, 0.1), "maximize": True}),
    ("Adafactor", {"lr": 0.1}),
    ("Adafactor", {"beta2_decay": -0.5, "eps": (1e-3, 0.5), "d": 2.0, "weight_decay": 0.1, "maximize": True}),
    ("ASGD", {}),
    ("ASGD", {"lambd": 0.1, "alpha": 0.5, "t0": 10, "weight_decay": 0.1, "maximize": True}),
]
IDS = [" ".join([name, *options]) for name, options in CASES]
GROUPS: dict[str, Callable[[list[Any]], list[Any]]] = {
    "one group": lambda p: p,
    "two groups": lambda p: [{"params": p[::2], "lr": 0.01}, {"params": iter(p[1::2])}],
}


def parameters(m: Any, name: str, dtype: str = "float64") -> list[Any]:
    rng = np.random.default_rng(4)
    shapes = [(2, 3), (3,), (), (4, 1), (0,)][: 4 if name == "Adafactor" else 5]  # torch's divides by the size
    return [m.nn.Parameter(m.from_numpy(np.asarray(rng.standard_normal(s), dtype))) for s in shapes]


def give_gradients(m: Any, owners: list[Any], step: int) -> None:
    """In some steps some parameters have no gradient, one of them never; sometimes a gradient of the values as well."""
    rng = np.random.default_rng(step)
    for i, parameter in enumerate(owners):
        parameter.grad = None
        noise = rng.standard_normal(tuple(parameter.shape))
        if (step + i) % (i + 3):
            values = parameter.detach().numpy()
            parameter.grad = m.from_numpy(np.asarray(values + 0.3 * noise, values.dtype))


def trajectory(m: Any, name: str, groups: str, options: dict[str, Any], dtype: str, steps: int = 50) -> Any:
    owners = parameters(m, name, dtype)
    optimizer = getattr(m.optim, name)(GROUPS[groups](owners), **options)
    seen = []
    for step in range(steps):
        give_gradients(m, owners, step)
        if step == 25:
            for group in optimizer.param_groups:
                group["lr"] *= 0.5
        optimizer.step()
        seen.append(np.concatenate([p.detach().numpy().ravel() for p in owners]))
    return optimizer, np.array(seen)


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
@pytest.mark.parametrize("groups", GROUPS)
def test_as_in_torch(name: str, options: dict[str, Any], groups: str, torch: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "CPU_BLOCK", 40)  # five elements a block
    (ours, got), (theirs, want) = (trajectory(m, name, groups, options, "float64") for m in (mpigrad, torch))
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-9)
    assert repr(ours) == repr(theirs)
    assert plain(ours.state_dict()) == approximately(plain(theirs.state_dict()))


@pytest.mark.parametrize(("name", "options"), CASES[::2], ids=IDS[::2])
def test_as_in_torch_in_single_precision(name: str, options: dict[str, Any], torch: Any) -> None:
    (_, got), (_, want) = (trajectory(m, name, "one group", options, "float32") for m in (mpigrad, torch))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)


def plain(value: Any) -> Any:
    """Tensors as (dtype, shape, elements)."""
    if hasattr(value, "detach"):
        return str(value.dtype).rpartition(".")[2], tuple(value.shape), value.detach().numpy().ravel().tolist()
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def approximately(value: Any) -> Any:
    """The same with tolerant numbers."""
    if isinstance(value, dict):
        return {k: approximately(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(approximately(v) for v in value)
    return pytest.approx(value, rel=1e-6, abs=1e-9) if isinstance(value, float) else value


def translated(value: Any, m: Any) -> Any:
    """A state dict with the tensors of another library."""
    if hasattr(value, "detach"):
        return m.from_numpy(value.detach().numpy().copy())
    if isinstance(value, dict):
        return {k: translated(v, m) for k, v in value.items()}
    return type(value)(translated(v, m) for v in value) if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize(("name", "options"), CASES[1::2], ids=IDS[1::2])
def test_state_moves_to_torch_and_back(name: str, options: dict[str, Any], torch: Any) -> None:
    owners, ends = {}, {}
    states = {m: trajectory(m, name, "two groups", options, "float64", 20) for m in (mpigrad, torch)}
    for here, there in ((mpigrad, torch), (torch, mpigrad)):
        start, seen = states[there]
        owners[here] = parameters(here, name)
        filled = np.split(seen[-1], np.cumsum([p.numel() for p in owners[here]])[:-1])
        for parameter, values in zip(owners[here], filled, strict=True):
            parameter.data.copy_(here.from_numpy(values.reshape(tuple(parameter.shape))))
        optimizer = getattr(here.optim, name)(GROUPS["two groups"](owners[here]), **options)
        optimizer.load_state_dict(translated(start.state_dict(), here))
        for step in range(20, 30):
            give_gradients(here, owners[here], step)
            optimizer.step()
        ends[here] = np.concatenate([p.detach().numpy().ravel() for p in owners[here]])
    np.testing.assert_allclose(ends[mpigrad], ends[torch], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", dict(CASES))
def test_signature(name: str, torch: Any) -> None:
    ours, theirs = (
        {k: (p.default, p.kind) for k, p in inspect.signature(getattr(m.optim, name)).parameters.items()}
        for m in (mpigrad, torch)
    )
    assert list(ours.items()) == list(theirs.items())


@pytest.mark.parametrize("name", dict(CASES))
def test_a_state_dict_prints_as_in_torch(name: str, same: Callable[..., None]) -> None:
    same(lambda m: str(getattr(m.optim, name)(one(m)).state_dict()))


def one(m: Any) -> list[Any]:
    return [m.nn.Parameter(m.ones(2))]


ERRORS: list[Callable[[Any], Any]] = [
    lambda m: m.optim.SGD([], lr=0.1),
    lambda m: m.optim.SGD([m.ones(1, requires_grad=True) * 2]),
    lambda m: m.optim.SGD(one(m), lr=-1),
    lambda m: m.optim.SGD(one(m), momentum=-1),
    lambda m: m.optim.SGD(one(m), weight_decay=-1),
    lambda m: m.optim.SGD(one(m), nesterov=True),
    lambda m: m.optim.SGD(one(m), fused=True, foreach=True),
    lambda m: m.optim.SGD([{"params": p} for p in one(m) * 2]),
    lambda m: m.optim.SGD([{"params": set(one(m))}]),
    lambda m: m.optim.SGD(one(m)).add_param_group(one(m)),
    lambda m: m.optim.SGD([("a", one(m)[0]), one(m)[0]]),
    lambda m: m.optim.SGD([("a", one(m)[0])]).add_param_group({"params": one(m)}),
    lambda m: m.optim.SGD([{"params": one(m)}] * 2),
    lambda m: m.optim.SGD(one(m)).load_state_dict({"state": {}, "param_groups": []}),
    lambda m: m.optim.SGD(one(m)).load_state_dict({"state": {}, "param_groups": [{"params": [0, 1]}]}),
    lambda m: m.optim.Adam(one(m), lr=m.ones(2)),
    lambda m: m.optim.Adam(one(m), eps=-1),
    lambda m: m.optim.Adam(one(m), betas=(1.0, 0.9)),
    lambda m: m.optim.AdamW(one(m), betas=(0.5, -0.1)),
    lambda m: m.optim.NAdam(one(m), momentum_decay=-1),
    lambda m: m.optim.Adagrad(one(m), lr_decay=-1),
    lambda m: m.optim.Adagrad(one(m), initial_accumulator_value=-1),
    lambda m: m.optim.Adadelta(one(m), rho=2),
    lambda m: m.optim.RMSprop(one(m), alpha=-1),
    lambda m: m.optim.Rprop(one(m), etas=(1.5, 1.2)),
    lambda m: m.optim.Adafactor(one(m), lr=-1),
    lambda m: m.optim.Adafactor(one(m), beta2_decay=1),
    lambda m: m.optim.Adafactor(one(m), eps=(-1, 1)),
    lambda m: m.optim.Adafactor(one(m), eps=(None, -1)),
    lambda m: m.optim.Adafactor(one(m), d=0.5),
    lambda m: m.optim.Adafactor(one(m), weight_decay=-1),
]


@pytest.mark.parametrize("make", ERRORS, ids=range(len(ERRORS)))
def test_errors(make: Callable[[Any], Any], same: Callable[..., None]) -> None:
    with pytest.raises((ValueError, TypeError, RuntimeError)):
        make(mpigrad)
    same(make)


def test_errors_in_words_of_our_own(same_class: Callable[..., None]) -> None:
    same_class(lambda m: m.optim.SGD(one(m)[0]))
    same_class(lambda m: m.optim.SGD([m.nn.Linear(1, 1)]))
    with pytest.raises(NotImplementedError, match="differentiable"):
        mpigrad.optim.Adam(one(mpigrad), differentiable=True)


def test_groups(same: Callable[..., None]) -> None:
    def grown(m: Any) -> Any:
        optimizer = m.optim.Adam([("first", one(m)[0])], lr=m.tensor(0.5))
        optimizer.add_param_group({"params": [("second", one(m)[0])], "lr": 0.25, "note": "mine"})
        for p in optimizer._numbered() if m is mpigrad else [p for g in optimizer.param_groups for p in g["params"]]:
            p.grad = m.ones(2)
        optimizer.step()
        return [optimizer.state_dict(), [g["params"][0].detach().tolist() for g in optimizer.param_groups]]

    got = plain(grown(mpigrad))
    assert got[0]["param_groups"][1]["note"] == "mine"
    assert got[0]["param_groups"][1]["param_names"] == ["second"]
    np.testing.assert_allclose(got[1], [[0.5, 0.5], [0.75, 0.75]], atol=1e-6)


def test_hooks(torch: Any) -> None:
    def record(m: Any) -> list[Any]:
        optimizer, seen = m.optim.SGD(one(m), lr=0.5), []
        optimizer.register_step_pre_hook(lambda o, args, kwargs: seen.append(["pre", args[0] is o, len(args), kwargs]))
        handle = optimizer.register_step_post_hook(
            lambda o, args, kwargs: seen.append(["post", args[0] is o, len(args), kwargs])
        )
        optimizer.register_step_pre_hook(lambda o, args, kwargs: ((o, lambda: seen.append("closure") or 3), {}))
        optimizer.register_state_dict_pre_hook(lambda o: seen.append("saving"))
        optimizer.register_state_dict_post_hook(lambda o, d: {**d, "more": 1})
        optimizer.register_load_state_dict_pre_hook(lambda o, d: seen.append(sorted(d)))
        optimizer.register_load_state_dict_post_hook(lambda o: seen.append("last"))
        optimizer.register_load_state_dict_post_hook(lambda o: seen.append("loaded"), prepend=True)
        everywhere = importlib.import_module(f"{m.__name__}.optim.optimizer")
        handles = [
            everywhere.register_optimizer_step_pre_hook(lambda o, args, kwargs: seen.append("before all")),
            everywhere.register_optimizer_step_post_hook(lambda o, args, kwargs: seen.append("after all")),
        ]
        seen.append(optimizer.step())
        for each in (handle, *handles):
            each.remove()
        seen.append(optimizer.step())
        optimizer.load_state_dict(optimizer.state_dict())
        optimizer.register_step_pre_hook(lambda o, args, kwargs: 1)
        with pytest.raises(RuntimeError, match="must return None or a tuple"):
            optimizer.step()
        return seen

    assert record(mpigrad) == record(torch)


def test_an_optimizer_of_ones_own(torch: Any) -> None:
    def run(m: Any) -> Any:
        class Mine(m.optim.Optimizer):  # type: ignore[misc]
            def __init__(self, params: Any) -> None:
                super().__init__(params, {"lr": 0.5})

            def step(self, closure: Any = None) -> None:
                for group in self.param_groups:
                    for p in group["params"]:
                        state = self.state[p]
                        state["count"] = state.get("count", 0) + 1
                        p.data.sub_(p.grad * group["lr"])

        optimizer, seen = Mine(one(m)), []
        optimizer.register_step_post_hook(lambda *_: seen.append("stepped"))
        optimizer.param_groups[0]["params"][0].grad = m.ones(2)
        optimizer.step()
        return plain(optimizer.state_dict()), plain(optimizer.param_groups[0]["params"]), seen, repr(optimizer)

    assert run(mpigrad) == run(torch)


@pytest.mark.parametrize("name", ["Adam", "SGD"])
def test_state_is_live_and_forgotten_when_cleared(name: str) -> None:
    parameter = one(mpigrad)[0]
    options = {"momentum": 0.5} if name == "SGD" else {}
    optimizer = getattr(mpigrad.optim, name)([parameter], lr=1.0, **options)
    moves = []
    for turn in range(4):
        if turn == 2:
            optimizer.state.clear()
        if turn == 3:
            for value in optimizer.state[parameter].values():
                value.zero_()
        before = parameter.detach().clone()
        parameter.grad = mpigrad.tensor([1.0, -3.0]) * (turn % 2 + 1)
        optimizer.step()
        moves.append((parameter.detach() - before).tolist())
    assert moves[2] == moves[0]
    if name == "Adam":
        np.testing.assert_allclose(moves[3], moves[0], rtol=1e-6)


def test_copy_of_an_optimizer() -> None:
    optimizer, _ = trajectory(mpigrad, "Adam", "two groups", {}, "float32", 3)
    other = copy.deepcopy(optimizer)
    for o in (optimizer, other):
        give_gradients(mpigrad, o._numbered(), 9)
        o.step()
    assert plain(other.state_dict()) == plain(optimizer.state_dict())
    assert plain(other.param_groups) == plain(optimizer.param_groups)
    assert other.param_groups[0]["params"][0] is not optimizer.param_groups[0]["params"][0]


def test_state_follows_its_parameter_elsewhere() -> None:
    parameter = one(mpigrad)[0]
    optimizer = mpigrad.optim.Adam([parameter])
    parameter.grad = mpigrad.ones(2)
    optimizer.step()
    parameter.data = parameter.data.double()
    parameter.grad = mpigrad.ones(2).double()
    optimizer.step()
    state = optimizer.state[parameter]
    assert state["exp_avg"].dtype is mpigrad.float64
    assert state["step"].item() == 2
    np.testing.assert_allclose(state["exp_avg"].tolist(), [0.19, 0.19], rtol=1e-6)


def test_a_step_allocates_nothing_of_the_size_of_the_model(monkeypatch: Any) -> None:
    import tracemalloc

    parameter = mpigrad.nn.Parameter(mpigrad.zeros(1 << 20))
    for name, options in (("Adam", {"weight_decay": 0.1}), ("SGD", {"momentum": 0.9, "nesterov": True})):
        optimizer = getattr(mpigrad.optim, name)([parameter], lr=0.1, **options)
        parameter.grad = mpigrad.ones(1 << 20)
        optimizer.step()
        tracemalloc.start()
        optimizer.step()
        assert tracemalloc.get_traced_memory()[1] < 1 << 16
        tracemalloc.stop()
