"""GradScaler against torch's."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mpigrad

INF, NAN = float("inf"), float("nan")


def scaler(m: Any, **options: Any) -> Any:
    return m.amp.GradScaler("cpu", **{"init_scale": 64.0, "growth_interval": 3, **options})


def optimizer(m: Any) -> tuple[Any, list[Any]]:
    owners = [m.nn.Parameter(m.tensor(v)) for v in ([1.0, 2.0], [[3.0]], [4.0])]
    return m.optim.SGD([{"params": owners[:2]}, {"params": owners[2:], "lr": 0.5}], lr=0.1, momentum=0.9), owners


def run(m: Any, spoiled: dict[int, float], *, clip: bool) -> list[Any]:
    o, owners = optimizer(m)
    s, seen = scaler(m), []
    for step in range(14):
        o.zero_grad()
        loss = (owners[0] ** 2).sum() + owners[1].sum() * m.tensor(spoiled.get(step, 1.0))
        s.scale(loss).backward()
        if clip:
            s.unscale_(o)
        seen.append([p.grad is None or p.grad.tolist() for p in owners])
        s.step(o)
        s.update()
        seen.append([p.tolist() for p in owners] + list(s.state_dict().values()))
    return seen


@pytest.mark.parametrize("clip", [False, True])
def test_as_in_torch(clip: bool, torch: Any) -> None:
    spoiled = {2: INF, 3: NAN, 9: -INF}
    got, want = (run(m, spoiled, clip=clip) for m in (mpigrad, torch))
    flat = [np.concatenate([np.ravel(v).astype(float) for row in seen for v in row]) for seen in (got, want)]
    np.testing.assert_allclose(*flat, rtol=1e-5, atol=1e-6)
    assert [row[3] for row in got[1::2]][::3] == [64, 16, 32, 16, 32]  # the scale went up and down


def test_several_optimizers_share_a_scale(torch: Any) -> None:
    def both(m: Any) -> Any:
        s, pairs = scaler(m), [optimizer(m) for _ in range(2)]
        for (_, owners), gradient in zip(pairs, (1.0, INF), strict=True):
            s.scale((owners[0] * m.tensor(gradient)).sum()).backward()
        for o, _ in pairs:
            s.step(o)
        s.update()
        return [s.get_scale(), [p.tolist() for _, owners in pairs for p in owners]]

    got, want = both(mpigrad), both(torch)
    assert got[0] == want[0] == 32
    np.testing.assert_allclose(
        np.concatenate([np.ravel(v) for v in got[1]]), np.concatenate([np.ravel(v) for v in want[1]])
    )


def test_scale_of_several_outputs(same: Callable[..., None]) -> None:
    same(lambda m: scaler(m).scale([m.ones(2), (m.ones(1), m.zeros(3))]))
    same(lambda m: list(scaler(m).scale(iter([m.ones(2)]))))
    same(lambda m: scaler(m).scale(3))
    for dtype in ("float16", "bfloat16", "float64"):
        same(lambda m: scaler(m, init_scale=2.0**17).scale(m.tensor(3.0, dtype=getattr(m, dtype))))  # noqa: B023
        same(lambda m: m.nn.Linear(2, 1).bfloat16().weight.dtype)


def ready(m: Any, **options: Any) -> tuple[Any, Any]:
    (o, owners), s = optimizer(m), scaler(m, **options)
    s.scale(owners[0].sum()).backward()
    return s, o


def twice(m: Any, *names: str) -> Any:
    s, o = ready(m)
    return [getattr(s, name)(o) for name in names]


def half_gradients(m: Any) -> Any:
    s, p = scaler(m), m.nn.Parameter(m.ones(2).half())
    p.grad = m.ones(2).half()
    s.scale(m.ones(1))
    s.unscale_(m.optim.SGD([p]))


def without_gradients(m: Any) -> Any:
    s = scaler(m)
    s.scale(m.ones(1))
    s.step(optimizer(m)[0])


ERRORS: list[Callable[[Any], Any]] = [
    lambda m: scaler(m, growth_factor=1.0),
    lambda m: scaler(m, backoff_factor=1.0),
    lambda m: scaler(m).unscale_(optimizer(m)[0]),
    lambda m: scaler(m).step(optimizer(m)[0]),
    lambda m: scaler(m).update(),
    lambda m: ready(m)[0].update(),
    lambda m: twice(m, "unscale_", "unscale_"),
    lambda m: twice(m, "step", "step"),
    lambda m: twice(m, "step", "unscale_"),
    lambda m: ready(m)[0].step(ready(m)[1], closure=lambda: 1),
    lambda m: scaler(m).load_state_dict({}),
    half_gradients,
    without_gradients,
]


@pytest.mark.parametrize("act", ERRORS, ids=range(len(ERRORS)))
def test_errors(act: Callable[[Any], Any], same: Callable[..., None]) -> None:
    with pytest.raises((AssertionError, RuntimeError, ValueError)):
        act(mpigrad)
    same(act)


def test_settings(same: Callable[..., None]) -> None:
    def settings(m: Any) -> Any:
        s, _ = ready(m)
        s.update(8.0)
        s.set_growth_factor(3.0)
        s.set_backoff_factor(0.1)
        s.set_growth_interval(7)
        other = scaler(m)
        other.load_state_dict({**s.state_dict(), "_growth_tracker": 5})
        return [other.state_dict(), s.get_growth_factor(), s.get_backoff_factor(), s.get_growth_interval()]

    same(settings)
    same(lambda m: scaler(m).scale(m.ones(1)))
    same(lambda m: scaler(m, init_scale=1 / 3).get_scale() if m is mpigrad else float(np.float32(1 / 3)))


def test_disabled(same: Callable[..., None]) -> None:
    def disabled(m: Any) -> Any:
        o, owners = optimizer(m)
        s = scaler(m, enabled=False)
        loss = s.scale(owners[0].sum())
        loss.backward()
        s.unscale_(o)
        s.step(o)
        s.update()
        s.load_state_dict({})
        return [loss, owners[0], s.state_dict(), s.get_scale(), s.is_enabled()]

    same(disabled)


def test_without_cuda_it_disables_itself(monkeypatch: Any) -> None:
    from mpigrad.core.amp import grad_scaler

    monkeypatch.setattr(grad_scaler, "cuda_device_count", lambda: 0)
    with pytest.warns(UserWarning, match="GradScaler is enabled, but CUDA is not available"):
        assert not mpigrad.amp.GradScaler().is_enabled()
