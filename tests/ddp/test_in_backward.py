"""Optimizers that step while gradients are reduced, against the plain ones after it: the same to the bit."""

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from whole_state import assert_same_state, whole_state

import mpigrad
from mpigrad import ddp, nn, optim
from mpigrad.core.amp import GradScaler
from mpigrad.core.utils import checkpoint
from mpigrad.ddp import DistributedDataParallel, ZeroRedundancyOptimizer
from mpigrad.ddp.comm import simulated

OPTIMIZERS: list[tuple[type[optim.Optimizer], dict[str, Any]]] = [
    (optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    (optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
    (optim.Adagrad, {"lr_decay": 0.1, "initial_accumulator_value": 0.2}),
]
Make = Callable[..., optim.Optimizer]  # of an optimizer, from parameters or groups


class Model(nn.Module):
    """Layers of which each forward pass uses those that it is told."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(7, width), nn.Linear(width, 3)
        self.middle = nn.ModuleList([nn.Linear(width, width) for _ in range(3)])
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x: mpigrad.Tensor, use: tuple[int, ...] = (0, 1, 2)) -> mpigrad.Tensor:
        x = self.norm(self.first(x))
        for number in use:
            x = self.middle[number](x).tanh()
        return self.last(x)


def build(width: int = 12) -> Model:
    mpigrad.manual_seed(1)
    return Model(width)


def wrap(model: nn.Module, **options: Any) -> DistributedDataParallel:
    """In several buckets, and with every step compared on all ranks."""
    return DistributedDataParallel(
        model, **{"bucket_cap_mb": 0.001, "first_bucket_mb": 0.0005, "check_every": 1, **options}
    )


def groups(model: nn.Module) -> list[dict[str, Any]]:
    """Weights and biases, which alternate in memory."""
    parameters = list(model.parameters())
    return [{"params": parameters[::2], "lr": 0.03}, {"params": parameters[1::2]}]


def batch(step: int, samples: int = 4) -> tuple[mpigrad.Tensor, mpigrad.Tensor]:
    draw = np.random.default_rng([step, ddp.get_rank()])
    x, y = (mpigrad.from_numpy(draw.normal(size=(samples, n)).astype(np.float32)) for n in (7, 3))
    return x, y


def backward(model: nn.Module, step: int, *use: Any, samples: int = 4) -> None:
    x, y = batch(step, samples)
    nn.functional.mse_loss(model(x, *use), y).backward()


def compare(
    world: Any,
    run: Callable[[Make], tuple[nn.Module, optim.Optimizer]],
    kind: type[optim.Optimizer] = optim.AdamW,
    **options: Any,
) -> None:
    """Both kinds of optimizer leave the same parameters, buffers, versions and state."""

    def both() -> None:
        plain, optimizer = run(lambda params: kind(params, **options))
        model, in_backward = run(lambda params: ZeroRedundancyOptimizer(params, kind, overlap_with_ddp=True, **options))
        assert all(parameter.grad is None for parameter in model.parameters())
        assert ddp.digest(model.state_dict()) == ddp.digest(plain.state_dict())
        assert [p.version[0] for p in model.parameters()] == [p.version[0] for p in plain.parameters()]
        assert_same_state(whole_state(in_backward), whole_state(optimizer))

    world(both)


@pytest.mark.parametrize(
    ("kind", "options", "width"), [(*case, 36) for case in OPTIMIZERS] + [(*case, 3) for case in OPTIMIZERS[:2]]
)
def test_equals_the_plain_optimizer(
    world: Any, kind: type[optim.Optimizer], options: dict[str, Any], width: int
) -> None:
    """With groups and a schedule, on flat memory that is small (see Lane.few) and large."""

    def run(make: Make) -> Any:
        model = build(width)
        wrapped = wrap(model)
        optimizer = make(groups(model))
        schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)
        for step in range(12):
            optimizer.zero_grad()
            backward(wrapped, step)
            optimizer.step()
            schedule.step()
        assert optimizer.param_groups[0]["lr"] < 1e-4
        assert wrapped.traffic().sent == wrapped.traffic().exact
        return model, optimizer

    compare(world, run, kind, **options)


@pytest.mark.mpi
@pytest.mark.parametrize("transport", ["mpi", "hierarchical"])
def test_over_messages(world: Any, transport: str) -> None:
    """Updates on the communicator's thread, while backward goes on; two ranks can only add in one order."""

    def run() -> None:
        from mpi4py import MPI

        from mpigrad.ddp.comm.hierarchical import HierarchicalCommunicator
        from mpigrad.ddp.comm.mpi import MPICommunicator

        comm = (
            MPICommunicator(MPI.COMM_WORLD, timeout=30)
            if transport == "mpi"
            else HierarchicalCommunicator(MPI.COMM_WORLD, name="machines", timeout=30, node=ddp.get_rank() // 2)
        )
        models = []
        for options in ({}, {"overlap_with_ddp": True}):
            models.append(model := build(36))
            wrapped = wrap(model, communicator=comm)
            optimizer = ZeroRedundancyOptimizer(model.parameters(), optim.SGD, lr=0.1, momentum=0.9, **options)
            for step in range(8):
                optimizer.zero_grad()
                backward(wrapped, step, (step % 3, 2))
                optimizer.step()
        plain, stepped = ([value.numpy() for value in model.state_dict().values()] for model in models)
        for one, other in zip(plain, stepped, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
            assert (comm.size > 2 and transport == "mpi") or one.tobytes() == other.tobytes()
        comm.close()

    world(run)


@pytest.mark.parametrize(("kind", "options"), OPTIMIZERS[:2])
def test_unused_parameters_are_left_alone(world: Any, kind: type[optim.Optimizer], options: dict[str, Any]) -> None:
    """Those that no rank uses; those that some use are stepped. As the plain optimizer does with its grad of None."""

    def run(make: Make) -> Any:
        model = build()
        wrapped = wrap(model)
        optimizer = make(model.parameters())
        for step in range(6):
            use = ((step % 3,), (0, 1, 2), (ddp.get_rank() % 2,))[2 if step in (2, 3) else step % 2]
            optimizer.zero_grad()
            backward(wrapped, step, use)
            optimizer.step()
        return model, optimizer

    compare(world, run, kind, **options)


def test_accumulation_weights_and_empty_batches(world: Any) -> None:
    def run(make: Make) -> Any:
        model = build()
        wrapped = wrap(model)
        optimizer = make(model.parameters())
        for step in range(6):
            optimizer.zero_grad()
            with wrapped.no_sync():
                for part in range(step % 3):
                    backward(wrapped, 10 * step + part, (part,), samples=2 + ddp.get_rank())
            samples = (0 if step == 5 else 4) if ddp.get_rank() else 3 * (step < 4)
            x, y = batch(step, samples)
            model.eval()  # an empty batch has no statistics
            loss = nn.functional.mse_loss(wrapped(x, (step % 2,)), y)
            if step == 2:
                wrapped.weight(5.5 * ddp.get_rank() + 1)
            loss.backward()
            model.train()
            optimizer.step()
        return model, optimizer

    with np.errstate(all="ignore"):
        compare(world, run)


SHAPES: dict[str, list[tuple[tuple[int, ...], str]]] = {
    "three dtypes": [
        ((3, 5), "float32"), ((4,), "float64"), ((2, 3), "float32"), ((7, 1), "float64"), ((9,), "bfloat16"),
    ],
    "one element": [((1,), "float32")],
    "scalar and empty": [((), "float32"), ((0, 3), "float32"), ((5,), "float32")],
}  # fmt: skip


@pytest.mark.parametrize("shapes", SHAPES)
def test_any_sizes_and_dtypes(world: Any, shapes: str) -> None:
    class Parameters(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            draw = np.random.default_rng(3)
            self.all = nn.ParameterList(
                nn.Parameter(mpigrad.from_numpy(draw.normal(size=shape)).to(getattr(mpigrad, dtype)))
                for shape, dtype in SHAPES[shapes]
            )

        def forward(self, x: mpigrad.Tensor) -> mpigrad.Tensor:
            return sum((p.double().square().sum() * x.double().mean() for p in self.all), mpigrad.tensor(0.0).double())

    def run(make: Make) -> Any:
        model = Parameters()
        wrapped = wrap(model)
        optimizer = make(model.parameters())
        for step in range(4):
            optimizer.zero_grad()
            wrapped(mpigrad.ones(2, 3) * (1 + step + ddp.get_rank())).backward()
            optimizer.step()
        return model, optimizer

    compare(world, run)


def test_parameters_that_move_and_states_that_are_loaded(world: Any) -> None:
    def run(make: Make) -> Any:
        model = build()
        wrapped = wrap(model)
        optimizer = make(groups(model))
        for step in range(8):
            if step == 2:
                model.last.weight.data = model.last.weight.data + 1  # out of flat memory
            if step == 3:
                kept = copy.deepcopy((model.state_dict(), whole_state(optimizer)))
            if step == 5:
                for parameter in model.parameters():
                    parameter.data = parameter.data.clone()
            if step == 6:
                model.load_state_dict(kept[0])
                optimizer.load_state_dict(kept[1])
            optimizer.zero_grad()
            backward(wrapped, step)
            optimizer.step()
        return model, optimizer

    compare(world, run)


@pytest.mark.mpi_skip
@pytest.mark.parametrize(("ranks", "later"), [(1, 3), (3, 2), (4, 1), (2, None), (None, 4)])  # None: a plain optimizer
def test_resume_on_another_number_of_ranks(ranks: int | None, later: int | None) -> None:
    def part(size: int | None, start: Any, steps: range) -> Any:
        def run() -> Any:
            ddp.init_process_group()
            model = build()
            if start is not None:
                model.load_state_dict(start[0])
            wrapped = wrap(model, broadcast_buffers=False)
            if size is None:
                optimizer: optim.Optimizer = optim.Adam(model.parameters())
            else:
                optimizer = ZeroRedundancyOptimizer(model.parameters(), optim.Adam, overlap_with_ddp=True)
            if start is not None:
                optimizer.load_state_dict(start[1])
            model.eval()
            for step in steps:
                x = mpigrad.from_numpy(np.random.default_rng(step).integers(-2, 3, (4, 7)).astype(np.float32))
                optimizer.zero_grad()
                wrapped(x).square().mean().backward()  # of the same batch on all ranks
                optimizer.step()
            return model.state_dict(), whole_state(optimizer)

        return simulated.run(size or 1, run, timeout=30)[0]

    values, state = part(later, part(ranks, None, range(4)), range(4, 7))
    expected_values, expected_state = part(None, None, range(7))
    assert state["param_groups"] == expected_state["param_groups"]
    for name, value in expected_values.items():
        np.testing.assert_allclose(values[name].numpy(), value.numpy(), rtol=1e-5, atol=1e-6)
    for number, own in expected_state["state"].items():
        for name, value in own.items():
            np.testing.assert_allclose(state["state"][number][name].numpy(), value.numpy(), rtol=1e-4, atol=1e-7)


def test_each_rank_keeps_its_share(world: Any) -> None:
    def run() -> int:
        model = build(36)
        wrapped = wrap(model)
        optimizer = ZeroRedundancyOptimizer(model.parameters(), optim.AdamW, overlap_with_ddp=True)
        backward(wrapped, 0)
        optimizer.step()
        arrays = [v for values in optimizer.optim.state.values() for n, v in values.items() if n != "step"]
        owners = {id(v.array.base): v.array.base for v in arrays}
        return sum(base.nbytes for base in owners.values())

    whole_state = 2 * 4 * sum(p.numel() for p in build(36).parameters())
    found = world(run)
    assert sum(found) == whole_state
    assert max(found) <= whole_state / len(found) + 2 * 4 * 20  # an element in each bucket


def test_graphs_of_gradients_and_closures(world: Any) -> None:
    """Backward with create_graph=True steps as well; the gradients' graph cannot be used after it, and says so."""

    def run(make: Make) -> Any:
        model = build()
        wrapped = wrap(model)
        optimizer = make(model.parameters())
        x, y = batch(0)
        loss = nn.functional.mse_loss(wrapped(x), y)
        loss.backward(create_graph=True)
        optimizer.step()
        optimizer.zero_grad()

        def closure() -> mpigrad.Tensor:
            loss = nn.functional.mse_loss(wrapped(x), y)
            loss.backward()
            return loss

        assert float(optimizer.step(closure)) < loss.item()
        optimizer.zero_grad()
        return model, optimizer

    compare(world, run)


def test_recomputed_activations(world: Any) -> None:
    """Recomputing in backward finds the values of before."""

    class Recomputing(Model):
        def forward(self, x: mpigrad.Tensor, use: tuple[int, ...] = (0, 1, 2)) -> mpigrad.Tensor:
            x = self.norm(self.first(x))
            x = checkpoint.checkpoint(lambda x: self.middle[1](self.middle[0](x).tanh()).tanh(), x, use_reentrant=False)
            return self.last(checkpoint.checkpoint(lambda x: self.middle[2](x).tanh(), x, use_reentrant=False))

    def run(make: Make) -> Any:
        mpigrad.manual_seed(1)
        model = Recomputing(12)
        wrapped = wrap(model)
        optimizer = make(model.parameters())
        for step in range(3):
            optimizer.zero_grad()
            backward(wrapped, step)
            optimizer.step()
        return model, optimizer

    compare(world, run)


def test_values_that_backward_still_needs_are_not_overwritten_unseen(world: Any) -> None:
    """A graph that uses a parameter behind the tape's back finds a later version of it, and says so."""

    def run() -> None:
        model = nn.Linear(3, 3)
        wrapped = wrap(model)
        ZeroRedundancyOptimizer(model.parameters(), optim.SGD, overlap_with_ddp=True, lr=1.0)
        x = mpigrad.ones(2, 3, requires_grad=True)
        hidden = x * model.weight.detach()[0]  # its backward comes after the weight's gradient
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            wrapped(hidden).sum().backward()

    world(run)


def overlapped(model: nn.Module, kind: Any = optim.SGD, **options: Any) -> ZeroRedundancyOptimizer:
    return ZeroRedundancyOptimizer(model.parameters(), kind, overlap_with_ddp=True, **options)


@pytest.mark.parametrize(
    ("prepare", "parameters", "message"),
    [
        (lambda model: None, None, "that one DistributedDataParallel without shards has wrapped, found those of 0"),
        (lambda model: DistributedDataParallel(model, shards=4), None, "without shards has wrapped, found those of 0"),
        (wrap, lambda model: list(model.parameters())[:-1], "DistributedDataParallel reduces, found all but norm.bias"),
        (wrap, lambda model: [*model.parameters(), mpigrad.ones(1)], "reduces, found 1 more"),
        (lambda model: wrap(model, check_finite=True), None, "without check_finite, which lets the program leave"),
        (
            lambda model: wrap(model).register_comm_hook(None, ddp.fp16_compress_hook),
            None,
            "without communication hook",
        ),
    ],
)
def test_what_cannot_be_stepped_in_backward(world: Any, prepare: Any, parameters: Any, message: str) -> None:
    def run() -> None:
        model = build()
        wrapped = prepare(model)
        with pytest.raises(ValueError, match=message):
            ZeroRedundancyOptimizer(
                parameters(model) if parameters else model.parameters(), optim.SGD, overlap_with_ddp=True
            )
        del wrapped

    world(run)


def test_what_cannot_come_later(world: Any) -> None:
    def run() -> None:
        model = build()
        wrapped = wrap(model)
        optimizer = overlapped(model)
        with pytest.raises(RuntimeError, match="register_comm_hook: expected a model that no ZeroRedundancyOptimizer"):
            wrapped.register_comm_hook(None, ddp.fp16_compress_hook)
        with pytest.raises(ValueError, match="add_param_group: with overlap_with_ddp=True, expected all parameters"):
            optimizer.add_param_group({"params": mpigrad.ones(1)})
        later = overlapped(model)
        with pytest.raises(RuntimeError, match="another optimizer steps its parameters; make a new optimizer"):
            optimizer.step()
        later.step()
        wrap(model)
        with pytest.raises(RuntimeError, match="the module was wrapped again; make a new optimizer"):
            later.step()

    world(run)


def test_gradients_that_no_pass_has_stepped(world: Any) -> None:
    def run() -> None:
        model = build()
        wrapped = wrap(model)
        optimizer = overlapped(model)
        model.last.bias.grad = mpigrad.ones(3)
        with pytest.raises(RuntimeError, match=r"leave none, found some that were assigned to 1 parameter\(s\)"):
            optimizer.step()
        optimizer.zero_grad()
        with wrapped.no_sync():
            backward(wrapped, 0)
        with pytest.raises(RuntimeError, match="expected gradients that all ranks share"):
            optimizer.step()

    world(run)


def test_two_passes_without_a_step(world: Any) -> None:
    """Two updates are not one by the sum of the gradients."""

    def run() -> None:
        model = build()
        wrapped = wrap(model)
        optimizer = overlapped(model)
        for step in range(2):
            backward(wrapped, step)
            optimizer.step()
        optimizer.consolidate_state_dict()
        backward(wrapped, 3)
        with pytest.raises(RuntimeError, match="has not been consolidated on this rank since the last step"):
            optimizer.state_dict()
        with pytest.raises(RuntimeError, match=r"expected a call of step\(\) between two backward passes"):
            backward(wrapped, 4)
        optimizer.step()
        backward(wrapped, 4)

    world(run)


def test_a_scaler_finds_nothing_to_unscale(world: Any) -> None:
    def run() -> None:
        model = build()
        wrapped = wrap(model)
        optimizer = overlapped(model)
        scaler = GradScaler("cpu")
        x, y = batch(0)
        scaler.scale(nn.functional.mse_loss(wrapped(x), y)).backward()
        with pytest.raises(AssertionError, match="No inf checks were recorded for this optimizer"):
            scaler.step(optimizer)

    world(run)


def test_an_exception_in_a_pass_that_has_begun_to_step(world: Any) -> None:
    """Some parameters are a step further than others: nothing goes on from there."""

    def run() -> None:
        model = build()
        wrapped = wrap(model)
        optimizer = overlapped(model)

        def fail(parameter: Any) -> None:
            raise OSError("no more")

        handle = model.last.weight.register_post_accumulate_grad_hook(fail)
        with pytest.raises(OSError, match="no more"):  # before anything was reduced: nothing has happened
            backward(wrapped, 0)
        handle.remove()
        optimizer.zero_grad()
        backward(wrapped, 0)
        optimizer.step()
        model.first.weight.register_post_accumulate_grad_hook(fail)
        with pytest.raises(OSError, match="no more"):
            backward(wrapped, 1)
        with pytest.raises(RuntimeError, match="expected gradients that all ranks share"):
            optimizer.step()
        for _ in range(2):
            with pytest.raises(RuntimeError, match="an exception has ended a backward pass that had updated some"):
                backward(wrapped, 2)

    world(run)


def test_an_error_in_an_update(world: Any) -> None:
    """It is raised by backward on the rank that has it, and ends the wait of the others."""

    class Picky(optim.SGD):
        def _update(self, lane: Any, group: dict[str, Any]) -> None:
            if ddp.get_rank() == ddp.get_world_size() - 1:
                raise ArithmeticError("this rank cannot")
            super()._update(lane, group)

    def run() -> None:
        model = build()
        wrapped = wrap(model)
        overlapped(model, Picky)
        backward(wrapped, 0)

    if world.kind == "mpi":
        pytest.skip("it ends the job")
    with pytest.raises(ArithmeticError, match="this rank cannot"):
        world(run)


def test_ranks_that_differ(world: Any) -> None:
    def run() -> None:
        last = ddp.get_world_size() - 1
        model = build()
        wrap(model)
        differs = ddp.get_rank() == last > 0
        with (
            pytest.raises(RuntimeError, match=f"found others on rank {last} than on rank 0")
            if last
            else contextlib.nullcontext()
        ):
            ZeroRedundancyOptimizer(model.parameters(), optim.SGD, overlap_with_ddp=not differs)

    world(run)
