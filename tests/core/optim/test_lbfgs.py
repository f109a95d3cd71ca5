"""LBFGS against torch's."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mpigrad

OPTIONS: list[dict[str, Any]] = [
    {"lr": 0.01},
    {"lr": 0.1, "max_iter": 3, "history_size": 2},
    {"line_search_fn": "strong_wolfe"},
    {"line_search_fn": "strong_wolfe", "lr": 3.0, "history_size": 3, "max_iter": 6},
    {"line_search_fn": "strong_wolfe", "max_eval": 4, "lr": 10.0},
    {"line_search_fn": "strong_wolfe", "tolerance_change": 1e-2, "lr": 1e-3},
]


def rosenbrock(m: Any, x: Any, y: Any) -> Any:
    return ((1 - x) ** 2).sum() + (30 * (y - x * x) ** 2).sum() + (x.sum() * y[0, 0]) ** 2


def problem(m: Any, options: dict[str, Any], dtype: str = "float64") -> tuple[Any, Any, Any, list[Any]]:
    x, y = (m.nn.Parameter(m.from_numpy(np.array(v, dtype))) for v in ([-1.2, 0.4, 2.0], [[1.0, -0.3, 0.5]]))
    unused = m.nn.Parameter(m.from_numpy(np.ones(2, dtype)))
    optimizer = m.optim.LBFGS([x, unused, y], **options)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = rosenbrock(m, x, y)
        loss.backward()
        return loss

    return optimizer, closure, unused, [x, y]


def steps(optimizer: Any, closure: Callable[[], Any], owners: list[Any], count: int) -> list[list[float]]:
    seen = []
    for _ in range(count):
        before = optimizer.step(closure)
        state = optimizer.state_dict()["state"][0]
        values = [v for p in owners for v in p.detach().numpy().ravel().tolist()]
        seen.append([before.item(), *values, state["func_evals"], state["n_iter"]])
    return seen


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: ", ".join(map(str, o.values())))
def test_as_in_torch(options: dict[str, Any], torch: Any) -> None:
    seen = {}
    for m in (mpigrad, torch):
        optimizer, closure, unused, owners = problem(m, options)
        seen[m] = steps(optimizer, closure, owners, 6), repr(optimizer)
        assert unused.tolist() == [1, 1]
    np.testing.assert_allclose(seen[mpigrad][0], seen[torch][0], rtol=1e-6, atol=1e-9)
    assert seen[mpigrad][1] == seen[torch][1]


def test_single_precision(torch: Any) -> None:
    ends = []
    for m in (mpigrad, torch):
        optimizer, closure, _, owners = problem(m, {"line_search_fn": "strong_wolfe"}, "float32")
        ends.append(steps(optimizer, closure, owners, 8)[-1][1:7])
        assert owners[0].dtype is m.float32
    np.testing.assert_allclose(*ends, rtol=1e-3)


@pytest.mark.parametrize("options", OPTIONS[:3], ids=lambda o: ", ".join(map(str, o.values())))
def test_state_moves_to_torch_and_back(options: dict[str, Any], torch: Any) -> None:
    def translated(value: Any, m: Any) -> Any:
        if hasattr(value, "detach"):
            return m.from_numpy(np.array(value.detach().numpy()))
        if isinstance(value, dict):
            return {k: translated(v, m) for k, v in value.items()}
        return [translated(v, m) for v in value] if isinstance(value, list) else value

    ends, keys = [], []
    for here, there in ((mpigrad, torch), (torch, mpigrad)):
        optimizer, closure, _, owners = problem(there, options)
        steps(optimizer, closure, owners, 2)
        resumed, again, _, others = problem(here, options)
        for own, other in zip(others, owners, strict=True):
            own.data.copy_(here.from_numpy(other.detach().numpy().copy()))
        resumed.load_state_dict(translated(optimizer.state_dict(), here))
        ends.append(steps(resumed, again, others, 2))
        keys.append(set(optimizer.state_dict()["state"][0]))
    assert keys[0] == keys[1]
    np.testing.assert_allclose(*ends, rtol=1e-6, atol=1e-9)


def test_at_the_minimum_and_errors(same: Callable[..., None]) -> None:
    def still(m: Any) -> Any:
        p = m.nn.Parameter(m.zeros(2))
        optimizer = m.optim.LBFGS([p])

        def closure() -> Any:
            optimizer.zero_grad()
            loss = (p * p).sum()
            loss.backward()
            return loss

        with m.no_grad():
            return optimizer.step(closure).item(), p.tolist(), optimizer.state_dict()["state"]

    same(still)
    same(lambda m: m.optim.LBFGS([{"params": [m.nn.Parameter(m.ones(1))]}, {"params": [m.nn.Parameter(m.ones(1))]}]))
    same(lambda m: m.optim.LBFGS([m.nn.Parameter(m.ones(1))], lr=-1))
    same(lambda m: (lambda o, c, *_: o.step(c))(*problem(m, {"line_search_fn": "golden"})))
