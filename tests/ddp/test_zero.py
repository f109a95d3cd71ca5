"""The sharded optimizer against the plain one: the same parameters and the same whole state, to the bit."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from whole_state import assert_same_state, whole_state

import mpigrad
from mpigrad import ddp, nn, optim
from mpigrad.core import backend
from mpigrad.ddp import ZeroRedundancyOptimizer
from mpigrad.ddp.comm import Communicator, SingleCommunicator, simulated

OPTIMIZERS: list[tuple[type[optim.Optimizer], dict[str, Any]]] = [
    (optim.SGD, {"lr": 0.1}),
    (optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    (optim.Adam, {"lr": 0.01, "amsgrad": True}),
    (optim.AdamW, {"weight_decay": 0.1}),
    (optim.RMSprop, {"momentum": 0.5, "centered": True}),
    (optim.Adagrad, {"lr_decay": 0.1, "initial_accumulator_value": 0.2}),
]


def build(width: int) -> nn.Module:
    mpigrad.manual_seed(1)
    return nn.Sequential(nn.Linear(7, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 3))


def groups(model: nn.Module, **options: Any) -> list[dict[str, Any]]:
    """Weights and biases, which alternate in memory."""
    parameters = list(model.parameters())
    return [{"params": parameters[::2], **options}, {"params": parameters[1::2]}]


def compare(world: Any, run: Callable[[Callable[..., Any]], Any], kind: type[optim.Optimizer]) -> None:
    """What run(make) gives (parameters, state dict) is the same whether `make` makes plain or sharded optimizers."""

    def both() -> None:
        values, state = run(kind)
        sharded_values, sharded_state = run(lambda *args, **options: ZeroRedundancyOptimizer(args[0], kind, **options))
        assert ddp.digest(sharded_values) == ddp.digest(values)
        assert_same_state(sharded_state, state)

    world(both)


@pytest.mark.parametrize(
    ("kind", "options", "width"), [(*case, 36) for case in OPTIMIZERS] + [(*case, 5) for case in OPTIMIZERS[:2]]
)
def test_equals_the_plain_optimizer(
    world: Any, kind: type[optim.Optimizer], options: dict[str, Any], width: int
) -> None:
    """20 steps under DistributedDataParallel, with groups, a schedule and clipping.

    A width of 5 makes 88 elements, of which SGD rounds as PyTorch does; 36 makes 1731, of which ranks own 1024 or less.
    """

    def run(make: Callable[..., Any]) -> Any:
        model = build(width)
        optimizer = make(groups(model, lr=0.03), **options)
        schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
        wrapped = ddp.DistributedDataParallel(model, bucket_cap_mb=0.001)  # it moves the gradients
        draw = np.random.default_rng(ddp.get_rank())
        for _ in range(20):
            inputs, targets = (mpigrad.from_numpy(draw.normal(size=(4, n)).astype(np.float32)) for n in (7, 3))
            optimizer.zero_grad()
            nn.functional.mse_loss(wrapped(inputs), targets).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            schedule.step()
        assert optimizer.param_groups[0]["lr"] < 1e-4
        return model.state_dict(), whole_state(optimizer)

    compare(world, run, kind)


@pytest.mark.parametrize(("kind", "options"), [OPTIMIZERS[0], OPTIMIZERS[3]])
def test_the_same_bits_in_every_world_in_shards_mode(
    world: Any, kind: type[optim.Optimizer], options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the plain optimizer in one process makes them."""
    monkeypatch.setattr(backend, "LARGE", backend.LARGE)  # a wrapper in shards mode changes it for the process

    def train(communicator: Communicator, make: Callable[..., Any]) -> str:
        model = build(36)
        optimizer = make(model.parameters(), **options)
        wrapped = ddp.DistributedDataParallel(model, shards=4, communicator=communicator)
        rank, size = communicator.rank, communicator.size
        batches = ddp.ShardedSampler(range(40), 12, shards=4, rank=rank, world_size=size)
        draw = np.random.default_rng(0)
        inputs, targets = (mpigrad.from_numpy(draw.normal(size=(40, n)).astype(np.float32)) for n in (7, 3))
        for chosen in batches:
            optimizer.zero_grad()
            nn.functional.mse_loss(wrapped(inputs[chosen]), targets[chosen]).backward()
            optimizer.step()
        return ddp.digest(model.state_dict())

    def run() -> None:
        expected = train(SingleCommunicator(), kind)
        sharded = lambda params, **options: ZeroRedundancyOptimizer(params, kind, **options)
        assert train(ddp.world(), sharded) == expected

    world(run)


def parameters(*kinds: tuple[tuple[int, ...], str]) -> list[nn.Parameter]:
    draw = np.random.default_rng(3)
    return [
        nn.Parameter(mpigrad.from_numpy(draw.normal(size=shape)).to(getattr(mpigrad, name))) for shape, name in kinds
    ]


def give_gradients(parameters: list[nn.Parameter], step: int, without: int | None = None) -> None:
    """The same on every rank, to all of them but one."""
    draw = np.random.default_rng(step)
    for number, parameter in enumerate(parameters):
        gradient = mpigrad.from_numpy(draw.normal(size=parameter.shape)).to(parameter.dtype)
        parameter.grad = None if number == without else gradient


SHAPES = {
    "three dtypes": [
        ((3, 5), "float32"), ((4,), "float64"), ((2, 3), "float32"), ((7, 1), "float64"), ((9,), "bfloat16"),
    ],
    "one element": [((1,), "float32")],
    "scalar and empty": [((), "float32"), ((0, 3), "float32"), ((5,), "float32")],
    "one each": [((), "float32")] * 3,
}  # fmt: skip


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize(("kind", "options"), [OPTIMIZERS[1], OPTIMIZERS[3]])
def test_any_sizes_and_dtypes(world: Any, kind: type[optim.Optimizer], options: dict[str, Any], shapes: str) -> None:
    def run(make: Callable[..., Any]) -> Any:
        own = parameters(*SHAPES[shapes])
        optimizer = make(own, **options)
        for step in range(5):
            give_gradients(own, step)
            optimizer.step()
        return dict(enumerate(own)), whole_state(optimizer)

    compare(world, run, kind)


@pytest.mark.parametrize("kind", [optim.AdamW, optim.Adagrad])
def test_parameters_that_miss_steps_move_and_come_later(world: Any, kind: type[optim.Optimizer]) -> None:
    def run(make: Callable[..., Any]) -> Any:
        own = parameters(((5, 3), "float32"), ((4,), "float32"), ((11,), "float32"), ((2, 2), "float32"))
        optimizer = make(own[:3])
        for step in range(12):
            if step == 6:
                optimizer.add_param_group({"params": own[3:], "lr": 0.5})
            if step == 8:
                own[1].data = own[1].data + 1  # out of flat memory
            if step > 9:
                for parameter in own:
                    parameter.data = parameter.data.clone()
            give_gradients(own, step, without=step % 4 if step % 3 else None)
            optimizer.step()
        versions = mpigrad.tensor([parameter.version[0] for parameter in own])
        return {**dict(enumerate(own)), "versions": versions}, whole_state(optimizer)

    compare(world, run, kind)


def test_each_rank_keeps_its_share(world: Any) -> None:
    def run() -> int:
        model = build(36)
        optimizer = ZeroRedundancyOptimizer(groups(model), optim.AdamW)
        give_gradients(list(model.parameters()), 0)
        optimizer.step()
        assert optimizer.state_is_sharded and not optimizer.state
        arrays = [v for values in optimizer.optim.state.values() for n, v in values.items() if n != "step"]
        assert all(v.array.base is not None for v in arrays)  # views: what they keep alive is
        owners = {id(v.array.base): v.array.base for v in arrays}
        return sum(base.nbytes for base in owners.values())

    whole = 2 * 4 * sum(p.numel() for p in build(36).parameters())
    found = world(run)
    assert sum(found) == whole
    assert max(found) <= whole / len(found) + 2 * 4 * len(found)


def trained(make: Callable[..., Any], start: Any, steps: range) -> Any:
    """Parameters and state after some steps, from those of an earlier call."""
    model = build(6)
    optimizer = make(groups(model, lr=0.02))
    if start is not None:
        model.load_state_dict(start[0])
        optimizer.load_state_dict(start[1])
    for step in steps:
        give_gradients(list(model.parameters()), step)
        optimizer.step()
    return model.state_dict(), whole_state(optimizer)


@pytest.mark.mpi_skip
@pytest.mark.parametrize(("kind", "options"), OPTIMIZERS)
@pytest.mark.parametrize(("ranks", "later"), [(1, 3), (3, 2), (4, 1), (2, None), (None, 4)])  # None: the plain one
def test_resume_on_another_number_of_ranks(
    kind: type[optim.Optimizer], options: dict[str, Any], ranks: int | None, later: int | None
) -> None:
    def part(world_size: int | None, start: Any, steps: range) -> Any:
        def run() -> Any:
            ddp.init_process_group()
            sharded = lambda params: ZeroRedundancyOptimizer(params, kind, **options)
            return trained(sharded if world_size else plain, start, steps)

        return simulated.run(world_size or 1, run, timeout=30)[0]

    plain = lambda params: kind(params, **options)
    expected = trained(plain, None, range(8))
    found = part(later, part(ranks, None, range(5)), range(5, 8))
    assert ddp.digest(found[0]) == ddp.digest(expected[0])
    assert_same_state(found[1], expected[1])


def test_going_on_from_a_saved_state(world: Any) -> None:
    def run() -> None:
        make = lambda params: ZeroRedundancyOptimizer(params, optim.Adam)
        saved = trained(make, None, range(4))
        found = trained(make, saved, range(4, 8))
        expected = trained(make, None, range(8))
        assert ddp.digest(found[0]) == ddp.digest(expected[0])
        assert_same_state(found[1], expected[1])
        other = trained(optim.Adam, saved, range(4, 4))
        assert_same_state(saved[1], other[1])  # what was saved is a copy: no step has changed it

    world(run)


def test_state_is_where_it_was_consolidated_until_the_next_step(world: Any) -> None:
    def run() -> None:
        own = parameters(((5, 3), "float32"))
        optimizer = ZeroRedundancyOptimizer(own, optim.Adam)
        last = ddp.get_world_size() - 1
        with pytest.raises(RuntimeError, match="has not been consolidated on this rank"):
            optimizer.state_dict()
        give_gradients(own, 0)
        optimizer.step()
        optimizer.consolidate_state_dict(to=last)
        if ddp.get_rank() == last:
            assert optimizer.state_dict()["state"][0]["exp_avg"].shape == (5, 3)
        else:
            with pytest.raises(RuntimeError, match=rf"`consolidate_state_dict\(to={ddp.get_rank()}\)` on all ranks"):
                optimizer.state_dict()
        optimizer.step()
        with pytest.raises(RuntimeError, match="since the last step"):
            optimizer.state_dict()
        with pytest.raises(ValueError, match=rf"expected a rank from 0 to {last}, found {last + 1}"):
            optimizer.consolidate_state_dict(last + 1)

    world(run)


def test_part_of_the_world(world: Any) -> None:
    """The ranks of a group share the state of their model."""

    def run() -> None:
        members = range(math.ceil(ddp.get_world_size() / 2))
        group = ddp.new_group(list(members))
        own = parameters(((5, 3), "float32"))
        give_gradients(own, 0)
        if ddp.get_rank() in members:
            optimizer = ZeroRedundancyOptimizer(own, optim.Adam, group)
            optimizer.step()
            assert sum(v["exp_avg"].numel() for v in optimizer.optim.state.values()) <= 15 / len(members) + 1
            assert optimizer.step(lambda: 7.0) == 7.0

    world(run)


def test_gradients_that_are_not_shared_are_refused(world: Any) -> None:
    def run() -> None:
        model = ddp.DistributedDataParallel(build(5))
        optimizer = ZeroRedundancyOptimizer(model.parameters(), optim.Adam)
        with model.no_sync():
            model(mpigrad.ones(2, 7)).sum().backward()
        with pytest.raises(RuntimeError, match="expected gradients that all ranks share"):
            optimizer.step()

    world(run)


@pytest.mark.parametrize(
    ("kind", "options", "error", "message"),
    [
        (optim.LBFGS, {}, TypeError, "element by element, as SGD and Adam do, found LBFGS, which works on whole"),
        (optim.Adafactor, {}, TypeError, "element by element, as SGD and Adam do, found Adafactor"),
        (optim.SGD, {"lr": -1}, ValueError, "Invalid learning rate: -1"),
    ],
)
def test_errors(world: Any, kind: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    def run() -> None:
        with pytest.raises(error, match=message):
            ZeroRedundancyOptimizer(parameters(((3,), "float32")), kind, **options)

    world(run)


@pytest.mark.parametrize("what", ["parameters", "optimizer_class"])
def test_ranks_that_differ(world: Any, what: str) -> None:
    def run() -> None:
        last = ddp.get_world_size() - 1
        differs = ddp.get_rank() == last > 0
        own = parameters(((3 + (differs and what == "parameters"),), "float32"))
        kind = optim.AdamW if differs and what == "optimizer_class" else optim.Adam
        with (
            pytest.raises(RuntimeError, match=f"found others on rank {last} than on rank 0") if last else nullcontext()
        ):
            ZeroRedundancyOptimizer(own, kind)

    world(run)
