"""Learning rates against torch's: over the steps, resumed, saved and loaded, with warnings and errors."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from mpigrad.optim import lr_scheduler

import mpigrad

Make = Callable[..., Any]


class Halves:
    """A callable with a state."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, epoch: float) -> float:
        self.calls += 1
        return 0.5 + self.calls % 3 / 10


CASES: dict[str, Make] = {
    "LambdaLR": lambda m, o, **k: m.LambdaLR(o, [lambda e: 0.95**e, Halves()], **k),
    "MultiplicativeLR": lambda m, o, **k: m.MultiplicativeLR(o, lambda e: 1 - 1 / (e + 2), **k),
    "StepLR": lambda m, o, **k: m.StepLR(o, 7, gamma=0.5, **k),
    "MultiStepLR": lambda m, o, **k: m.MultiStepLR(o, [3, 20, 20, 41], gamma=0.3, **k),
    "ConstantLR": lambda m, o, **k: m.ConstantLR(o, 0.3, total_iters=9, **k),
    "LinearLR": lambda m, o, **k: m.LinearLR(o, 0.2, 0.9, total_iters=33, **k),
    "ExponentialLR": lambda m, o, **k: m.ExponentialLR(o, 0.9, **k),
    "PolynomialLR": lambda m, o, **k: m.PolynomialLR(o, total_iters=35, power=1.7, **k),
    "CosineAnnealingLR": lambda m, o, **k: m.CosineAnnealingLR(o, 13, eta_min=0.01, **k),
    "CosineAnnealingWarmRestarts": lambda m, o, **k: m.CosineAnnealingWarmRestarts(o, 5, 2, eta_min=0.01, **k),
    "warm restarts of one length": lambda m, o, **k: m.CosineAnnealingWarmRestarts(o, 7, **k),
    "CyclicLR": lambda m, o, **k: m.CyclicLR(o, [0.01, 0.02], 0.5, 6, 9, "triangular2", **k),
    "CyclicLR exp_range": lambda m, o, **k: m.CyclicLR(o, 0.01, [0.5, 0.2], 8, mode="exp_range", gamma=0.97, **k),
    "CyclicLR own scale": lambda m, o, **k: m.CyclicLR(
        o, 0.1, 0.5, 4, scale_fn=Halves(), scale_mode="iterations", cycle_momentum=False, **k
    ),
    "OneCycleLR": lambda m, o, **k: m.OneCycleLR(o, [0.5, 0.1], total_steps=60, **k),
    "OneCycleLR three phases": lambda m, o, **k: m.OneCycleLR(
        o, 0.5, epochs=6, steps_per_epoch=11, anneal_strategy="linear", three_phase=True, base_momentum=0.7, **k
    ),
    "ReduceLROnPlateau": lambda m, o: m.ReduceLROnPlateau(o, patience=2, cooldown=3, min_lr=[0.01, 0.1], factor=0.5),
    "ReduceLROnPlateau max": lambda m, o: m.ReduceLROnPlateau(o, "max", patience=1, threshold_mode="abs", factor=0.9),
    "SequentialLR": lambda m, o: m.SequentialLR(
        o, [m.LinearLR(o, 0.1, total_iters=10), m.CosineAnnealingLR(o, 20), m.ExponentialLR(o, 0.8)], [10, 30]
    ),
    "nested SequentialLR": lambda m, o: m.SequentialLR(
        o, [m.SequentialLR(o, [m.ConstantLR(o), m.StepLR(o, 3)], [5]), m.PolynomialLR(o, 30)], [20]
    ),
    "ChainedScheduler": lambda m, o: m.ChainedScheduler([m.ExponentialLR(o, 0.95), m.ConstantLR(o, 0.5, 8)], o),
}
RESUMABLE = [name for name in CASES if not any(k in name for k in ("Plateau", "Sequential", "Chained"))]


def optimizer(m: Any, kind: str = "SGD", lr: Any = 0.3) -> Any:
    groups = [{"params": [m.nn.Parameter(m.ones(1))]}, {"params": [m.nn.Parameter(m.ones(1))], "lr": 0.2}]
    return m.optim.SGD(groups, lr=lr, momentum=0.9) if kind == "SGD" else m.optim.Adam(groups, lr=lr)


def walk(o: Any, scheduler: Any, steps: range) -> list[Any]:
    """The rates and the momentums over some steps."""
    seen = []
    for step in steps:
        o.step()
        metrics = (1 / (1 + min(step, 20)) + 0.1 * (step % 7 == 0),) if "Plateau" in type(scheduler).__name__ else ()
        scheduler.step(*metrics)
        momentums = [g["betas"][0] if "betas" in g else g["momentum"] for g in o.param_groups]
        assert [float(r) for r in scheduler.get_last_lr()] == [float(g["lr"]) for g in o.param_groups]
        seen.append([float(r) for r in scheduler.get_last_lr()] + momentums)
    return seen


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.filterwarnings("ignore:Detected call")  # a nested SequentialLR begins twice, in torch too
@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize("name", CASES)
def test_rates_as_in_torch(name: str, kind: str, torch: Any) -> None:
    seen = []
    for m in (mpigrad, torch):
        o = optimizer(m, kind)
        scheduler = CASES[name](m.optim.lr_scheduler, o)
        start = [scheduler.get_last_lr(), [g["lr"] for g in o.param_groups]]
        seen.append([start, walk(o, scheduler, range(59)), plain(scheduler.state_dict())])
    (got_start, got, got_state), (want_start, want, want_state) = seen
    assert got_start == want_start
    np.testing.assert_allclose(got, want, rtol=1e-12)
    assert got_state.keys() == want_state.keys()
    np.testing.assert_equal(got_state.get("last_epoch"), want_state.get("last_epoch"))


@pytest.mark.filterwarnings("ignore:Detected call")  # a nested SequentialLR begins twice, in torch too
@pytest.mark.parametrize("name", CASES)
def test_saved_and_loaded(name: str, torch: Any) -> None:
    o = optimizer(mpigrad)
    scheduler = CASES[name](lr_scheduler, o)
    walk(o, scheduler, range(23))
    saved = [o.state_dict(), scheduler.state_dict()]
    rest = {}
    for m in (mpigrad, torch):  # the state of ours goes on in both
        other = optimizer(m)
        resumed = CASES[name](m.optim.lr_scheduler, other)
        other.load_state_dict({**other.state_dict(), "param_groups": [dict(g) for g in saved[0]["param_groups"]]})
        resumed.load_state_dict(dict(saved[1]))
        rest[m] = walk(other, resumed, range(23, 50))
    np.testing.assert_allclose(rest[mpigrad], rest[torch], rtol=1e-12)
    np.testing.assert_allclose(walk(o, scheduler, range(23, 50)), rest[mpigrad], rtol=1e-12)


@pytest.mark.parametrize("name", RESUMABLE)
def test_last_epoch(name: str, torch: Any) -> None:
    seen = []
    for m in (mpigrad, torch):
        o = optimizer(m)
        walk(o, CASES[name](m.optim.lr_scheduler, o), range(19))
        resumed = CASES[name](m.optim.lr_scheduler, o, last_epoch=18)
        seen.append([resumed.get_last_lr(), walk(o, resumed, range(19, 40))])
    np.testing.assert_allclose(seen[0][0], seen[1][0], rtol=1e-12)
    np.testing.assert_allclose(seen[0][1], seen[1][1], rtol=1e-12)


@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.parametrize("name", RESUMABLE)
def test_given_epochs(name: str, torch: Any) -> None:
    seen = []
    for m in (mpigrad, torch):
        o = optimizer(m)
        scheduler, rates = CASES[name](m.optim.lr_scheduler, o), []
        o.step()
        for epoch in (3, 12, 0, 33, 34):
            scheduler.step(epoch)
            rates.append(scheduler.get_last_lr())
            scheduler.step()
            rates.append(scheduler.get_last_lr())
        seen.append(rates)
    np.testing.assert_allclose(*seen, rtol=1e-12)


def test_fractions_of_epochs_restart_too(torch: Any) -> None:
    seen = []
    for m in (mpigrad, torch):
        o = optimizer(m)
        scheduler, rates = m.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 3, 2), []
        for epoch in np.linspace(0, 20, 57):
            scheduler.step(float(epoch))
            rates.append(scheduler.get_last_lr())
        seen.append(rates)
    np.testing.assert_allclose(*seen, rtol=1e-12)


def test_rate_in_a_tensor(torch: Any) -> None:
    for name in ("CosineAnnealingLR", "StepLR", "OneCycleLR", "SequentialLR"):
        seen = []
        for m in (mpigrad, torch):
            rate = m.tensor(0.3, dtype=m.float64)
            o = optimizer(m, lr=rate)
            seen.append(walk(o, CASES[name](m.optim.lr_scheduler, o), range(30)))
            assert o.param_groups[0]["lr"] is rate
        np.testing.assert_allclose(*seen, rtol=1e-6)


def caught(act: Callable[[], Any]) -> list[tuple[type, str]]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        act()
    return [(w.category, str(w.message)[:60]) for w in found]


def test_warnings(torch: Any) -> None:
    def early(m: Any) -> Any:
        m.optim.lr_scheduler.StepLR(optimizer(m), 3).step()

    def stepped_before(m: Any) -> Any:
        o = optimizer(m)
        o.step()
        scheduler = m.optim.lr_scheduler.StepLR(o, 3)
        scheduler.step()
        scheduler.step()

    def in_order(m: Any) -> Any:
        o = optimizer(m)
        scheduler = m.optim.lr_scheduler.StepLR(o, 3)
        o.step()
        scheduler.step()
        m.optim.lr_scheduler.ExponentialLR(o, 0.5).step()

    def asked(m: Any) -> Any:
        m.optim.lr_scheduler.StepLR(optimizer(m), 3).get_lr()

    def with_epoch(m: Any) -> Any:
        o = optimizer(m)
        scheduler = m.optim.lr_scheduler.StepLR(o, 3)
        o.step()
        scheduler.step(4)

    for act, count in ((early, 1), (stepped_before, 1), (in_order, 0), (asked, 1), (with_epoch, 1)):
        got, want = caught(lambda: act(mpigrad)), caught(lambda: act(torch))  # noqa: B023
        assert got == want
        assert len(got) == count


def test_a_scheduler_of_ones_own(torch: Any) -> None:
    def run(m: Any) -> Any:
        class Mine(m.optim.lr_scheduler.LRScheduler):  # type: ignore[misc]
            def get_lr(self) -> Any:
                return [base / (self.last_epoch + 1) for base in self.base_lrs]

        o = optimizer(m)
        return walk(o, Mine(o), range(5))

    assert run(mpigrad) == run(torch)


ERRORS: list[Make] = [
    lambda m, o: m.StepLR(3, 1),
    lambda m, o: m.ReduceLROnPlateau(3),
    lambda m, o: m.ReduceLROnPlateau(o, factor=1.0),
    lambda m, o: m.ReduceLROnPlateau(o, "best"),
    lambda m, o: m.ReduceLROnPlateau(o, threshold_mode="best"),
    lambda m, o: m.ReduceLROnPlateau(o, min_lr=[0.1]),
    lambda m, o: m.LambdaLR(o, [lambda e: e]),
    lambda m, o: m.MultiplicativeLR(o, [1, 2]),
    lambda m, o: m.ConstantLR(o, 2.0),
    lambda m, o: m.LinearLR(o, 0.0),
    lambda m, o: m.LinearLR(o, 0.5, 2.0),
    lambda m, o: m.CosineAnnealingWarmRestarts(o, 0),
    lambda m, o: m.CosineAnnealingWarmRestarts(o, 1, 0),
    lambda m, o: m.CosineAnnealingWarmRestarts(o, 1, eta_min=None),
    lambda m, o: m.CosineAnnealingWarmRestarts(o, 1).step(-1),
    lambda m, o: m.CyclicLR(o, [0.1], 0.5),
    lambda m, o: m.CyclicLR(o, 0.1, 0.5, mode="square"),
    lambda m, o: m.OneCycleLR(o, 0.5),
    lambda m, o: m.OneCycleLR(o, 0.5, total_steps=-1),
    lambda m, o: m.OneCycleLR(o, 0.5, epochs=0, steps_per_epoch=3),
    lambda m, o: m.OneCycleLR(o, 0.5, epochs=3, steps_per_epoch=0.5),
    lambda m, o: m.OneCycleLR(o, 0.5, 10, pct_start=2),
    lambda m, o: m.OneCycleLR(o, 0.5, 10, anneal_strategy="square"),
    lambda m, o: m.OneCycleLR(o, 0.5, 4, pct_start=0.7).step(5),
    lambda m, o: m.SequentialLR(o, [], []),
    lambda m, o: m.SequentialLR(o, [m.ReduceLROnPlateau(o)], []),
    lambda m, o: m.SequentialLR(o, [m.StepLR(o, 1)], [2]),
    lambda m, o: m.SequentialLR(o, [3], []),
    lambda m, o: m.ChainedScheduler([]),
    lambda m, o: m.ChainedScheduler([m.ReduceLROnPlateau(o)]),
]


@pytest.mark.filterwarnings("ignore:Detected call", "ignore:The epoch parameter")
@pytest.mark.parametrize("make", ERRORS, ids=range(len(ERRORS)))
def test_errors(make: Make, same: Callable[..., None]) -> None:
    with pytest.raises((ValueError, TypeError)):
        make(lr_scheduler, optimizer(mpigrad))
    same(lambda m: make(m.optim.lr_scheduler, optimizer(m)))


def test_errors_in_words_of_our_own(same_class: Callable[..., None]) -> None:
    same_class(lambda m: m.optim.lr_scheduler.StepLR(optimizer(m), 3, last_epoch=4))
    same_class(lambda m: m.optim.lr_scheduler.LRScheduler(optimizer(m)))
    same_class(lambda m: m.optim.lr_scheduler.ChainedScheduler([m.optim.lr_scheduler.StepLR(optimizer(m), 3)], 3))


def test_another_group_joins(torch: Any) -> None:
    for m in (mpigrad, torch):
        o = optimizer(m)
        scheduler = m.optim.lr_scheduler.ReduceLROnPlateau(o, patience=0)
        fixed = m.optim.lr_scheduler.ReduceLROnPlateau(o, patience=0, min_lr=[0.1, 0.1])
        o.add_param_group({"params": [m.nn.Parameter(m.ones(1))]})
        for _ in range(2):
            scheduler.step(1.0)
        assert scheduler.get_last_lr() == pytest.approx([0.03, 0.02, 0.03])
        fixed.step(1.0)
        with pytest.raises(RuntimeError, match="differs from when `ReduceLROnPlateau` was initialized"):
            fixed.step(1.0)
