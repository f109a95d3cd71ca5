"""Replicas that differ are found and named; what may differ, and what is equal, is left alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mpigrad
from mpigrad import Tensor, ddp, nn, optim
from mpigrad.ddp import DistributedDataParallel, RanksDiffer

OTHERS = {2: "rank 0", 3: "ranks 0, 2", 4: "ranks 0, 2, 3"}
NEVER = 10**6  # steps


def build() -> nn.Sequential:
    """With a frozen layer, a buffer that changes in training, and one that does not."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.Linear(4, 2))
    model[2].requires_grad_(False)
    model.register_buffer("mask", mpigrad.ones(2, 3))
    for parameter in model.parameters():
        parameter.data.fill_(0.25)
    return model


def wrap(model: nn.Module, **options: Any) -> tuple[DistributedDataParallel, optim.Optimizer]:
    wrapped = DistributedDataParallel(model, **options)
    return wrapped, optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.1)


def step(wrapped: nn.Module, *optimizers: optim.Optimizer, seed: int = 0) -> None:
    """On other data on each rank."""
    draw = np.random.default_rng([seed, ddp.get_rank()])
    for optimizer in optimizers:
        optimizer.zero_grad()
    wrapped(mpigrad.from_numpy(draw.normal(size=(4, 3)).astype(np.float32))).square().mean().backward()
    for optimizer in optimizers:
        optimizer.step()


def shard_step(wrapped: nn.Module, optimizer: optim.Optimizer) -> None:
    """On this rank's part of 8 samples in 4 shards."""
    rank, size = ddp.get_rank(), ddp.get_world_size()
    optimizer.zero_grad()
    wrapped(mpigrad.rand(2 * (4 * (rank + 1) // size - 4 * rank // size), 3)).square().mean().backward()
    optimizer.step()


def on_rank_1(action: Callable[[], Any]) -> None:
    if ddp.get_rank() == 1:
        action()


def difference(run: Callable[[], Any]) -> str:
    """The text of the error, the same on all ranks."""
    with pytest.raises(RanksDiffer) as caught:
        run()
    texts = ddp.world().all_gather_object(str(caught.value))
    assert len(set(texts)) == 1
    return texts[0]


def set_to(array: np.ndarray, element: tuple[int, ...], value: float) -> Callable[[], None]:
    return lambda: array.__setitem__(element, value)


Corruption = Callable[[Any, optim.Optimizer], tuple[np.ndarray, tuple[int, ...]]]
CORRUPTIONS: dict[str, Corruption] = {
    "parameter 0.weight, element [3, 1]": lambda m, o: (m[0].weight.array, (3, 1)),
    "parameter 3.bias, element [1]": lambda m, o: (m[3].bias.array, (1,)),
    "parameter 2.weight, element [0, 0]": lambda m, o: (m[2].weight.array, (0, 0)),
    "buffer 1.running_var, element [2]": lambda m, o: (m[1].running_var.array, (2,)),
    "buffer 1.num_batches_tracked, element []": lambda m, o: (m[1].num_batches_tracked.array, ()),
    "buffer mask, element [1, 2]": lambda m, o: (m.mask.array, (1, 2)),
    "exp_avg of 0.bias in Adam, element [3]": lambda m, o: (o.state[m[0].bias]["exp_avg"].array, (3,)),
    "exp_avg_sq of 3.weight in Adam, element [1, 3]": lambda m, o: (o.state[m[3].weight]["exp_avg_sq"].array, (1, 3)),
    "step of 0.bias in Adam, element []": lambda m, o: (o.state[m[0].bias]["step"].array, ()),
}


@pytest.fixture
def several(world: Any) -> Any:
    """Each world of several ranks: one differs from nobody."""
    if world.size == 1:
        pytest.skip("one rank differs from nobody")
    return world


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shards", [None, 4], ids=["plain", "shards"])
def test_one_element_is_found(several: Any, name: str, shards: int | None) -> None:
    def main() -> str:
        model = build()
        wrapped, optimizer = wrap(model, check_every=1, shards=shards)
        shard_step(wrapped, optimizer)
        ddp.check_replicas(wrapped, optimizer)
        array, element = CORRUPTIONS[name](model, optimizer)
        on_rank_1(set_to(array, element, 5))
        return difference(lambda: ddp.check_replicas(wrapped, optimizer))

    text = several(main)[0]
    first, values, reason, last = text.splitlines()
    if name.startswith("step"):  # one number that all parameters share
        name = name.replace("0.bias", "0.weight")
    assert first == f"the ranks' replicas differ, first in {name}:"
    assert values.startswith(f"  {OTHERS[several.size]}: ") and " / rank 1: 5" in values
    assert reason.startswith("the odd one: rank 1;" if several.size > 2 else "look for code that changes the model on")
    assert last == "start again from the latest checkpoint"


@pytest.mark.parametrize("every", [1, 3])
def test_found_at_the_next_step_that_is_compared(several: Any, every: int) -> None:
    def main() -> tuple[int, str]:
        model = build()
        wrapped, optimizer = wrap(model, check_every=every)
        made = 0

        def train() -> None:
            nonlocal made
            for made in range(1, 12):
                if made == 6:
                    on_rank_1(set_to(model[3].weight.array, (1, 2), 9.0))
                step(wrapped, optimizer, seed=made)

        return made, difference(train)

    for _, text in several(main):
        after = {1: 6, 3: 7}[every]  # of 1, 4, 7 and so on
        assert text.startswith(f"the ranks' replicas differ after step {after} of Adam, first in parameter ")


def test_the_first_step_is_compared(several: Any) -> None:
    """A state that was loaded before it differs by rank, say."""

    def main() -> str:
        model = build()
        wrapped, optimizer = wrap(model, check_every=NEVER)
        on_rank_1(lambda: model[2].bias.array.fill(1))
        return difference(lambda: step(wrapped, optimizer))

    assert "after step 1 of Adam, first in parameter" in several(main)[0]


@pytest.mark.parametrize("shards", [None, 4], ids=["plain", "shards"])
@pytest.mark.parametrize("what", ["wrapper", "module", "part", "optimizer"])
def test_what_one_rank_loads_is_compared_soon(several: Any, what: str, shards: int | None) -> None:
    def main() -> str:
        wrapped, optimizer = wrap(build(), check_every=NEVER, shards=shards)

        for _ in range(3):
            shard_step(wrapped, optimizer)
        if what != "optimizer":
            into = {"wrapper": wrapped, "module": wrapped.module, "part": wrapped.module[0]}[what]
            state = {name: tensor + 1 for name, tensor in into.state_dict().items()}
            on_rank_1(lambda: into.load_state_dict(state))
        else:
            other = optimizer.state_dict()
            other["state"] = {n: {k: v + 1 for k, v in own.items()} for n, own in other["state"].items()}
            on_rank_1(lambda: optimizer.load_state_dict(other))
        return difference(lambda: shard_step(wrapped, optimizer))

    assert "after step 4 of Adam, first in parameter 0.weight" in several(main)[0]


def test_all_may_load(world: Any) -> None:
    def main() -> None:
        wrapped, optimizer = wrap(build(), check_every=NEVER)
        step(wrapped, optimizer)
        state, own = {k: v + 1 for k, v in wrapped.state_dict().items()}, optimizer.state_dict()
        wrapped.load_state_dict(state)
        optimizer.load_state_dict(own)
        step(wrapped, optimizer)
        ddp.check_replicas(wrapped, optimizer)

    world(main)


@pytest.mark.parametrize("dtype", [mpigrad.bfloat16, mpigrad.float16, mpigrad.float64])
def test_all_dtypes(several: Any, dtype: mpigrad.dtype) -> None:
    def main() -> str:
        model = nn.Linear(3, 2, dtype=dtype)
        wrapped = DistributedDataParallel(model)
        on_rank_1(set_to(model.weight.array, (0, 2), 3.0))
        return difference(lambda: ddp.check_replicas(wrapped))

    assert "first in parameter weight, element [0, 2]:" in several(main)[0]


def test_signs_of_zero_count_and_bits_of_nan_do_not(several: Any) -> None:
    """Which of two NaNs a sum keeps depends on the order of its terms."""

    def main() -> str:
        model = nn.Linear(4, 1)
        wrapped = DistributedDataParallel(model)
        weight = model.weight.array
        weight[...] = [[0, 0, np.nan, 0]]
        on_rank_1(lambda: np.negative(weight[0, 2:3], out=weight[0, 2:3]))
        ddp.check_replicas(wrapped)
        on_rank_1(set_to(weight, (0, 1), -0.0))
        return difference(lambda: ddp.check_replicas(wrapped))

    text = several(main)[0]
    assert f"[0, 1]:\n  {OTHERS[several.size]}: 0.0 (bits 00000000) / rank 1: -0.0 (bits 80000000)" in text


def test_no_majority(several: Any) -> None:
    def main() -> str:
        model = nn.Linear(1, 1)
        wrapped = DistributedDataParallel(model)
        model.weight.array[...] = ddp.get_rank() // 2 if several.size == 4 else ddp.get_rank()
        return difference(lambda: ddp.check_replicas(wrapped))

    text = several(main)[0]
    assert "odd one" not in text and "look for code that changes the model on some ranks only" in text
    assert several.size < 4 or "  ranks 0, 1: 0.0 (bits 00000000) / ranks 2, 3: 1.0 (bits 3f800000)" in text


def test_buffers_that_wait_for_their_combination(world: Any) -> None:
    """The next reduction makes them equal: no alarm before it, and none after it."""

    def main() -> None:
        model = build()
        wrapped, optimizer = wrap(model, check_every=1)
        x = mpigrad.full((4, 3), float(ddp.get_rank()))
        step(wrapped, optimizer)
        with mpigrad.no_grad():
            on_rank_1(lambda: model(x))
        ddp.check_replicas(wrapped, optimizer)
        with wrapped.no_sync():
            wrapped(x).sum().backward()
        ddp.check_replicas(wrapped)
        if ddp.get_rank() == 1:
            model.mask = mpigrad.zeros(9)  # another shape than on the other ranks
        step(wrapped, optimizer)
        ddp.check_replicas(wrapped, optimizer)

    world(main)


def test_buffers_of_the_ranks_own(world: Any) -> None:
    def main() -> None:
        wrapped, optimizer = wrap(build(), check_every=1, broadcast_buffers=False)
        for seed in range(3):
            step(wrapped, optimizer, seed=seed)
        ddp.check_replicas(wrapped, optimizer)

    world(main)


def test_sharded_state_is_not_compared_but_parameters_are(several: Any) -> None:
    def main() -> str:
        model = build()
        wrapped = DistributedDataParallel(model, check_every=1)
        optimizer = ddp.ZeroRedundancyOptimizer(model.parameters(), optim.Adam, lr=0.1)
        for seed in range(3):
            step(wrapped, optimizer, seed=seed)
        optimizer.state[model[0].weight]["own"] = mpigrad.tensor(float(ddp.get_rank()))
        ddp.check_replicas(wrapped, optimizer)
        on_rank_1(lambda: model[0].weight.array.fill(7))
        return difference(lambda: ddp.check_replicas(wrapped, optimizer))

    assert "first in parameter 0.weight, element [0, 0]" in several(main)[0]


def test_state_that_some_ranks_have_not(several: Any) -> None:
    def main() -> str:
        model = build()
        wrapped, optimizer = wrap(model, check_every=0)
        step(wrapped, optimizer)
        on_rank_1(lambda: optimizer.state.pop(model[3].bias))
        return difference(lambda: ddp.check_replicas(wrapped, optimizer))

    text = several(main)[0]
    assert text.startswith("the ranks' replicas differ: expected the same tensors on every rank, found differences:\n")
    assert f"\n  exp_avg of 3.bias in Adam   {OTHERS[several.size]}: float32 [2] / rank 1: nothing\n" in text


def test_state_in_lists_and_numbers_of_the_ranks_own(several: Any) -> None:
    def main() -> str:
        model = nn.Linear(2, 1)
        wrapped = DistributedDataParallel(model)
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        optimizer.state[model.weight].update(
            history=[mpigrad.zeros(2), None, (mpigrad.ones(3),)], loss=float(ddp.get_rank())
        )
        ddp.check_replicas(wrapped, optimizer)
        on_rank_1(set_to(optimizer.state[model.weight]["history"][2][0].array, (1,), 2.0))
        return difference(lambda: ddp.check_replicas(wrapped, optimizer))

    assert "first in history[2][0] of weight in SGD, element [1]:" in several(main)[0]


def test_two_models_and_three_optimizers(several: Any) -> None:
    """Each model is compared after the steps of the optimizers that it has, one of which both have."""

    def main() -> str:
        one, two = nn.Linear(3, 3), nn.Linear(3, 2)
        first, second = (DistributedDataParallel(m, check_every=1) for m in (one, two))
        optimizers = [
            optim.SGD([one.weight], lr=0.1, momentum=0.9),
            optim.Adam([two.weight], lr=0.1),
            optim.Adam([one.bias, two.bias], lr=0.1),
        ]

        def both(x: Tensor) -> Tensor:
            return second(first(x))

        for seed in range(3):
            step(both, *optimizers, seed=seed)  # type: ignore[arg-type]
        buffer = optimizers[2].state[two.bias]["exp_avg"]
        on_rank_1(set_to(buffer.array, (1,), 3.0))
        ddp.check_replicas(first, optimizers[2])  # of the second model
        ddp.check_replicas(second, optimizers[1])  # of another optimizer
        return difference(lambda: ddp.check_replicas(second, optimizers[2]))

    assert "first in exp_avg of bias in Adam, element [1]:" in several(main)[0]


def test_a_module_without_a_wrapper(several: Any) -> None:
    def main() -> str:
        model = build()
        ddp.check_replicas(model)
        on_rank_1(lambda: model[1].running_mean.array.fill(1))
        return difference(lambda: ddp.check_replicas(model))

    assert "first in buffer 1.running_mean, element [0]" in several(main)[0]


def test_when_nothing_is_compared(world: Any) -> None:
    """check_every=0, between the steps that are due, one rank alone, and wrappers that were replaced."""

    def main() -> None:
        checks: list[str] = []

        def watched(**options: Any) -> tuple[DistributedDataParallel, optim.Optimizer]:
            wrapped, optimizer = wrap(build(), **options)
            check = wrapped.replicas.check
            wrapped.replicas.check = lambda o=None, when="": checks.append(when)  # type: ignore[method-assign, misc]
            assert callable(check)
            return wrapped, optimizer

        wrapped, optimizer = watched(check_every=0)
        step(wrapped, optimizer)
        assert checks == []
        wrapped, optimizer = watched(check_every=2)
        for _ in range(4):
            step(wrapped, optimizer)
        assert checks == [f" after step {n} of Adam" for n in (1, 3)] * (world.size > 1)
        checks.clear()
        again = DistributedDataParallel(wrapped.module, check_every=0)
        step(again, optimizer)
        assert checks == []

    world(main)


def test_check_every_is_a_number_of_steps(world: Any) -> None:
    def main() -> None:
        with pytest.raises(ValueError, match="check_every: expected a number of steps, or 0 for never, found -1"):
            DistributedDataParallel(nn.Linear(1, 1), check_every=-1)

    world(main)
