"""Averaged weights against torch's."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mpigrad

AVERAGES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "mean": lambda u: {},
    "swa": lambda u: {"avg_fn": u.get_swa_avg_fn()},
    "swa, many": lambda u: {"multi_avg_fn": u.get_swa_multi_avg_fn()},
    "ema": lambda u: {"avg_fn": u.get_ema_avg_fn(0.9)},
    "ema, many": lambda u: {"multi_avg_fn": u.get_ema_multi_avg_fn(0.8), "use_buffers": True},
    "own": lambda u: {"avg_fn": lambda average, current, count: average * 0.5 + current / (count + 2)},
}


def batches(m: Any) -> list[Any]:
    rng = np.random.default_rng(0)
    return [m.from_numpy(rng.standard_normal((6, 3)).astype("f")) for _ in range(5)]


@pytest.mark.parametrize("name", AVERAGES)
def test_averages_as_in_torch(name: str, torch: Any) -> None:
    ends = []
    for m in (mpigrad, torch):
        m.manual_seed(0)
        model = m.nn.Sequential(m.nn.Linear(3, 4), m.nn.BatchNorm1d(4), m.nn.Linear(4, 2))
        averaged = m.optim.swa_utils.AveragedModel(model, **AVERAGES[name](m.optim.swa_utils))
        optimizer = m.optim.SGD(model.parameters(), lr=0.1)
        for batch in batches(m):
            optimizer.zero_grad()
            (model(batch) ** 2).sum().backward()
            optimizer.step()
            averaged.update_parameters(model)
        assert all(p.requires_grad for p in averaged.parameters())
        m.optim.swa_utils.update_bn([(batch, None) for batch in batches(m)], averaged)
        assert averaged.module[1].momentum == 0.1
        averaged.eval()
        ends.append([averaged(batches(m)[0]), *averaged.state_dict().values()])
        keys = list(averaged.state_dict())
        assert keys[0] == "n_averaged"
        assert averaged.n_averaged.item() == 5
    for got, want in zip(*ends, strict=True):
        np.testing.assert_allclose(got.detach().numpy(), want.detach().numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"anneal_strategy": "linear", "anneal_epochs": 5}, {"anneal_epochs": 0}])
def test_rates_as_in_torch(options: dict[str, Any], torch: Any) -> None:
    seen = []
    for m in (mpigrad, torch):
        groups = [{"params": [m.nn.Parameter(m.ones(1))], "lr": lr} for lr in (0.5, 0.01)]
        optimizer = m.optim.SGD(groups)
        decay = m.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        scheduler, rates = m.optim.swa_utils.SWALR(optimizer, [0.05, 0.2], **options), []
        for step in range(20):
            optimizer.step()
            (decay if step < 4 else scheduler).step()
            rates.append([group["lr"] for group in optimizer.param_groups])
        seen.append(rates)
    np.testing.assert_allclose(*seen, rtol=1e-9)


def test_errors(same: Callable[..., None]) -> None:
    def model(m: Any) -> Any:
        return m.nn.Linear(1, 1)

    same(lambda m: m.optim.swa_utils.AveragedModel(model(m), avg_fn=abs, multi_avg_fn=abs))
    same(lambda m: m.optim.swa_utils.get_ema_avg_fn(1.5))
    same(lambda m: m.optim.swa_utils.get_ema_multi_avg_fn(-1))
    same(lambda m: m.optim.swa_utils.SWALR(m.optim.SGD(model(m).parameters()), [1, 2]))
    same(lambda m: m.optim.swa_utils.SWALR(m.optim.SGD(model(m).parameters()), 1, anneal_strategy="square"))
    same(lambda m: m.optim.swa_utils.SWALR(m.optim.SGD(model(m).parameters()), 1, anneal_epochs=-1))
