"""Training in shards: the same bits from every world, and the right ones."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_info

import mpigrad
from mpigrad import Tensor, autograd, ddp, nn, optim
from mpigrad.core import backend
from mpigrad.ddp import DistributedDataParallel, ShardedSampler
from mpigrad.ddp.comm import Communicator, SingleCommunicator, simulated

F = nn.functional
V = 8
STEPS = 50


@pytest.fixture(autouse=True)
def sizes_decide_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a wrapper changes for the whole process is as before when the test is over."""
    monkeypatch.setattr(backend, "LARGE", backend.LARGE)


class CNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.conv2, self.norm2 = nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4, momentum=None)
        self.head = nn.Linear(36, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.conv1(x.view(-1, 1, 8, 8))).relu()
        return self.head(self.norm2(self.conv2(x)).relu().flatten(1))


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, 24), nn.ReLU(), nn.Dropout(0.3), nn.Linear(24, 24), nn.Tanh(), nn.Dropout(0.1), nn.Linear(24, 10)
    )


def images(count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    return draw.random((count, 64)).astype(np.float32), draw.integers(0, 10, count)


def wrapped(model: nn.Module, communicator: Communicator, shards: int = V) -> DistributedDataParallel:
    return DistributedDataParallel(model, shards=shards, communicator=communicator)


def sampler(length: int, batch: int, communicator: Communicator, shards: int = V) -> ShardedSampler:
    return ShardedSampler(
        range(length), batch, shards=shards, rank=communicator.rank, world_size=communicator.size, seed=5
    )


def train(build: Callable[[], nn.Module], communicator: Communicator) -> str:
    """The digest after 50 steps: global batches of 52 and short ones of 40, clipped gradients, momentum."""
    mpigrad.manual_seed(3)
    model = wrapped(build(), communicator)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    batches, (x, y) = sampler(300, 52, communicator), images()
    for _ in range(-(-STEPS // len(batches))):
        for chosen in batches:
            loss = F.cross_entropy(model(mpigrad.tensor(x[chosen])), mpigrad.tensor(y[chosen]))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    assert model.shards is not None and model.shards.step >= STEPS
    return ddp.digest(model.state_dict())


def alone(function: Callable[[Communicator], Any]) -> Any:
    """The result in a world of one rank, wherever this runs."""
    return function(SingleCommunicator())


MODELS = pytest.mark.parametrize("build", [mlp, CNN], ids=["mlp with dropout", "cnn with batch norm"])


@MODELS
def test_the_same_bits_in_every_world(world: Any, build: Callable[[], nn.Module]) -> None:
    expected = alone(lambda communicator: train(build, communicator))
    assert set(world(lambda: train(build, ddp.world()))) == {expected}


@pytest.mark.mpi_skip
@MODELS
def test_the_same_bits_on_as_many_ranks_as_shards(build: Callable[[], nn.Module]) -> None:
    expected = alone(lambda communicator: train(build, communicator))

    def main() -> str:
        assert simulated.current.communicator is not None
        return train(build, simulated.current.communicator)

    assert set(simulated.run(V, main, timeout=30)) == {expected}


@pytest.mark.mpi
@pytest.mark.parametrize("transport", ["shm", "mpi", "hierarchical"])
@MODELS
def test_the_same_bits_on_every_transport(build: Callable[[], nn.Module], transport: str) -> None:
    expected = alone(lambda communicator: train(build, communicator))
    ddp.init_process_group(timeout=30, transport=transport)
    assert train(build, ddp.world()) == expected
    ddp.destroy_process_group()


# what users compute of a module's outputs: row by row, of as many rows as the rank's batch has
OF_ROWS: dict[str, Callable[[Tensor], Tensor]] = {
    "activations": lambda x: (
        F.gelu(x) + F.gelu(x, approximate="tanh") + F.silu(x) + F.relu(x) + F.elu(x) + F.softplus(x)
    ),
    "functions": lambda x: x.exp() + x.abs().log1p() + x.tanh() + x.sigmoid() + x.sin() * x.cos() + x.erf() + x**3,
    "softmax": lambda x: F.softmax(x, 1) + F.log_softmax(x, 1) + x.logsumexp(1, keepdim=True),
    "norms": lambda x: F.layer_norm(x, (300,)) + F.normalize(x) + x.mean(1, keepdim=True) + x.std(1, keepdim=True),
    "losses": lambda x: F.cross_entropy(x, x.detach().argmin(1), reduction="none", label_smoothing=0.1).view(-1, 1) * x,
}


@pytest.mark.parametrize("name", OF_ROWS)
def test_a_row_does_not_depend_on_the_others(name: str) -> None:
    x = np.random.default_rng(0).standard_normal((61, 300)).astype(np.float32)  # so large that kernels compute it
    g = np.random.default_rng(1).standard_normal((61, 300)).astype(np.float32)
    wrapped(small(), SingleCommunicator())

    def rows(lo: int, hi: int) -> np.ndarray:
        part = mpigrad.tensor(x[lo:hi], requires_grad=True)
        value = OF_ROWS[name](part)
        value.backward(mpigrad.tensor(g[lo:hi]))
        assert part.grad is not None
        return np.concatenate([value.detach().numpy(), part.grad.numpy()], 1)

    parts = [rows(lo, hi) for lo, hi in itertools.pairwise([0, 1, 2, 9, 40, 61])]
    np.testing.assert_array_equal(np.concatenate(parts), rows(0, 61))


# --- against one process without shards -------------------------------------------------------------------------------


def small(dtype: Any = mpigrad.float64) -> nn.Module:
    mpigrad.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)


def data(count: int) -> tuple[Tensor, Tensor]:
    draw = np.random.default_rng(count)
    return mpigrad.tensor(draw.standard_normal((count, 5))), mpigrad.tensor(draw.standard_normal((count, 3)))


def here(count: int, shards: int = V) -> slice:
    """This rank's part of a global batch."""
    mine = ddp.tree.Cut(shards, ddp.get_world_size()).samples_of(ddp.get_rank(), count)
    return slice(mine.start, mine.stop)


def gradients(model: nn.Module) -> list[np.ndarray | None]:
    return [None if p.grad is None else p.grad.numpy().copy() for p in model.parameters()]


def assert_close(found: list[Any], expected: list[Any]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.mpi_skip
@settings(max_examples=40, deadline=None)
@given(ranks=st.integers(1, 4), extra=st.integers(0, 7), counts=st.lists(st.integers(0, 20), min_size=1, max_size=3))
def test_gradients_are_those_of_the_whole_batch(ranks: int, extra: int, counts: list[int]) -> None:
    shards, reference = ranks + extra, small()
    for count in counts:
        if count:
            x, y = data(count)
            F.mse_loss(reference(x), y).backward()

    def main() -> list[Any]:
        ddp.init_process_group(timeout=30)
        model = DistributedDataParallel(small(), shards=shards)
        for count in counts:  # one backward pass after the other adds up, as in one process
            x, y = (t[here(count, shards)] for t in data(count))
            F.mse_loss(model(x), y).backward()
        ddp.destroy_process_group()
        return gradients(model)

    for found in simulated.run(ranks, main, timeout=30):
        assert_close(found, gradients(reference))


class Pair(NamedTuple):
    first: Tensor
    more: dict[str, Any]


class Nested(nn.Module):
    """Two inputs in containers, three outputs in others, one of them without gradient, and a parameter of no use."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.unused = nn.Linear(5, 3), nn.Linear(5, 3), nn.Linear(2, 2)

    def forward(self, *, inputs: dict[str, Any], sign: float) -> Pair:
        first, (second,) = inputs["first"], inputs["second"]
        a, b = self.a(first), self.b(second) * sign
        return Pair(a + b, {"list": [b, a.detach().argmax(1)], "text": "as it is"})


def nested() -> nn.Module:
    mpigrad.manual_seed(2)
    return Nested().double()


def test_containers_inputs_that_learn_and_unused_parameters(world: Any) -> None:
    def step(model: nn.Module, rows: slice) -> tuple[list[Any], np.ndarray, Tensor]:
        x, y = data(21)
        x, y, z = x[rows].requires_grad_(), y[rows], x[rows]
        first, more = model(inputs={"first": (x * 2).tanh(), "second": [z]}, sign=-1.0)
        b, best = more["list"]
        assert more["text"] == "as it is" and best.dtype is mpigrad.int64 and not best.requires_grad
        (F.mse_loss(first, y) + b.square().mean() / 2).backward()
        assert x.grad is not None
        return gradients(model), x.grad.numpy() * len(y), best

    model = nested()
    expected, slopes, best = step(model, slice(21))

    def main() -> None:
        rows = here(21)
        found, mine, mine_best = step(DistributedDataParallel(nested(), shards=V), rows)
        assert_close(found, expected)
        np.testing.assert_allclose(mine, slopes[rows], rtol=1e-9)
        np.testing.assert_array_equal(mine_best.numpy(), best.numpy()[rows])

    world(main)


def test_outputs_with_several_rows_for_each_sample(world: Any) -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 6, dtype=mpigrad.float64)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x).view(-1, 3)

    def step(communicator: Communicator, shards: int | None) -> list[Any]:
        mpigrad.manual_seed(0)
        model = Tokens()
        trained: nn.Module = DistributedDataParallel(model, shards=shards, communicator=communicator)
        mine = ddp.tree.Cut(V, communicator.size).samples_of(communicator.rank, 21)
        x, y = data(21)
        output = trained(x[mine.start : mine.stop])
        F.mse_loss(output, y.repeat(2, 1)[mine.start * 2 : mine.stop * 2]).backward()
        return gradients(model)

    expected = alone(lambda communicator: step(communicator, None))
    world(lambda: assert_close(step(ddp.world(), V), expected))
    exact = alone(lambda communicator: step(communicator, V))

    def main() -> None:
        for a, b in zip(step(ddp.world(), V), exact, strict=True):
            np.testing.assert_array_equal(a, b)

    world(main)


def test_several_forward_passes_in_one_backward_pass(world: Any) -> None:
    def step(model: nn.Module, rows: slice) -> list[Any]:
        (x, y), (other, _) = data(19), data(19)
        twice = model(mpigrad.cat((model(x[rows]).tanh(), other[rows, :2]), 1))  # its own output is its input, too
        loss = F.mse_loss(model(other[rows]), y[rows]) + F.mse_loss(twice, y[rows])
        loss.backward(retain_graph=True)
        loss.backward()
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            loss.backward()
        return gradients(model)

    model = small()
    expected = step(model, slice(19))

    def main() -> None:
        assert_close(step(DistributedDataParallel(small(), shards=V), here(19)), expected)

    world(main)


def test_gradients_asked_for_by_autograd_grad(world: Any) -> None:
    def slopes(model: nn.Module, rows: slice) -> np.ndarray:
        x, y = data(20)
        x = x[rows].requires_grad_()
        (found,) = autograd.grad(F.mse_loss(model(x), y[rows], reduction="sum"), x)
        assert found is not None and all(p.grad is None for p in model.parameters())
        return found.numpy()

    expected = slopes(small(), slice(20))

    def main() -> None:
        model = DistributedDataParallel(small(), shards=V)
        np.testing.assert_allclose(slopes(model, here(20)), expected[here(20)], rtol=1e-9)

    world(main)


@pytest.mark.parametrize("dtype", [mpigrad.bfloat16, mpigrad.float16])
def test_halves_are_added_up_in_float32(world: Any, dtype: Any) -> None:
    class Casting(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.to(dtype))

    def build() -> nn.Module:
        mpigrad.manual_seed(1)
        return nn.Sequential(nn.Linear(5, 6), Casting(6, 3, dtype=dtype))

    def mixed(communicator: Communicator) -> str:
        model = wrapped(build(), communicator)
        assert model.shards is not None
        mine = model.shards.cut.samples_of(communicator.rank, 30)
        x, y = (t[mine.start : mine.stop].float() for t in data(30))
        F.mse_loss(model(x).float(), y).backward()
        return ddp.digest({str(i): p.grad for i, p in enumerate(model.parameters()) if p.grad is not None})

    expected = alone(mixed)
    assert set(world(lambda: mixed(ddp.world()))) == {expected}


# --- random numbers and buffers ---------------------------------------------------------------------------------------


def test_random_numbers_are_a_function_of_seed_step_and_shard(world: Any) -> None:
    def masks(communicator: Communicator, seed: int, step: int, mode: bool = True) -> np.ndarray:
        mpigrad.manual_seed(seed)
        model = wrapped(nn.Sequential(nn.Dropout(0.5), nn.Linear(40, 40)), communicator).train(mode)
        with mpigrad.no_grad():
            model.module[1].weight.copy_(mpigrad.eye(40))
            model.module[1].bias.zero_()
        before = mpigrad.get_rng_state().numpy()
        assert model.shards is not None
        model.shards.step = step
        mine = model.shards.cut.samples_of(communicator.rank, 16)
        found = model(mpigrad.ones(len(mine), 40)).detach().numpy()
        np.testing.assert_array_equal(mpigrad.get_rng_state().numpy(), before)  # nothing was drawn from it
        assert model.shards.step == step + mode
        return np.concatenate(communicator.all_gather_object(found))

    first = alone(lambda communicator: masks(communicator, 0, 0))
    assert 0.4 < (first == 0).mean() < 0.6
    assert len({rows.tobytes() for rows in first.reshape(V, 2, 40)}) == V  # the shards differ
    for seed, step in ((0, 1), (1, 0)):
        assert (alone(lambda c, seed=seed, step=step: masks(c, seed, step)) != first).any()

    def main() -> None:
        np.testing.assert_array_equal(masks(ddp.world(), 0, 0), first)
        assert masks(ddp.world(), 0, 0, mode=False).all()

    world(main)


class Counting(nn.Module):
    """Buffers that are changed in place, assigned, counted, and left alone."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", mpigrad.tensor([1.0, -0.0, np.inf]))
        self.register_buffer("assigned", mpigrad.zeros(5))
        self.register_buffer("calls", mpigrad.tensor(0))
        self.register_buffer("constant", mpigrad.tensor([-0.0, np.nan]))
        self.layer = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        assert (self.calls.item(), self.mean[0].item()) == (self.expected_calls, self.expected_mean)
        self.mean[0] = 0.5 * self.mean[0] + 0.5 * x.mean().item()
        self.calls += 1
        self.assigned = self.assigned * 0.9 + x.detach().mean(0).float()
        return self.layer(x.float() * self.assigned)  # which the graph keeps

    expected_calls, expected_mean = 0, 1.0


@pytest.mark.parametrize("recording", [True, False])
def test_buffers_are_combined(world: Any, recording: bool) -> None:
    count = 21
    x, _ = data(count)
    edges = [count * v // V for v in range(V + 1)]
    mean = sum(x[a:b].mean().item() * (b - a) for a, b in itertools.pairwise(edges)) / count

    def main() -> str:
        mpigrad.manual_seed(0)
        model = DistributedDataParallel(module := Counting(), shards=V)
        held, version = module.assigned, module.assigned.version[0]
        with mpigrad.set_grad_enabled(recording):
            for step in range(2):
                output = model(x[here(count)])
                assert output.requires_grad == recording
                module.expected_calls, module.expected_mean = step + 1, module.mean[0].item()
        assert module.assigned is held and held.version[0] > version
        assert module.calls.item() == 2
        np.testing.assert_allclose(module.mean[0].item(), 0.25 + 0.75 * mean, rtol=1e-6)
        np.testing.assert_allclose(held.numpy(), 1.9 * x.mean(0).numpy(), rtol=1e-5)
        assert np.signbit(module.mean[1].item()) and module.mean[2].item() == np.inf
        assert np.signbit(module.constant[0].item()) and np.isnan(module.constant[1].item())
        if recording:
            output.sum().backward()  # through each shard's own `assigned`
        return ddp.digest(
            {"gradient": module.layer.weight.grad, **model.state_dict()} if recording else model.state_dict()
        )

    assert len(set(world(main))) == 1


def test_blas_computes_on_one_thread(world: Any) -> None:
    def main() -> None:
        DistributedDataParallel(small(), shards=V)
        assert {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"} == {1}

    world(main)


# --- what is not possible ---------------------------------------------------------------------------------------------


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3, dtype=mpigrad.float64)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(self.layer(x), y)


def penalty(model: nn.Module) -> None:
    x, y = (t[here(24)] for t in data(24))
    loss = F.mse_loss(model(x), y)
    (loss + next(model.parameters()).square().sum()).backward()


def twice(model: nn.Module) -> None:
    model(data(24)[0][here(24)]).sum().backward(create_graph=True)


def uneven(model: nn.Module) -> None:
    model(data(24)[0][: 24 // ddp.get_world_size() + (ddp.get_rank() == 0)])


def last_is_short(model: nn.Module) -> None:
    x, y = (t[here(24)] for t in data(24))
    model(x, y[:-1] if ddp.get_rank() == ddp.get_world_size() - 1 else y)


BAD: list[tuple[Callable[[], nn.Module], Callable[[nn.Module], Any], type[Exception], str]] = [
    (small, penalty, RuntimeError, "found one that uses 0.weight itself; let the module compute that part"),
    (small, twice, RuntimeError, "expected a backward pass without create_graph=True"),
    (
        Whole,
        lambda model: model(*(t[here(24)] for t in data(24))),
        ValueError,
        r"found one of shape \[\] for 3 samples",
    ),
    (
        Whole,
        last_is_short,
        ValueError,
        r"first dimension is the batch, the same for all, found (shapes|others on rank)",
    ),
    (small, lambda model: model(), ValueError, "found shapes none"),
    (small, lambda model: model(mpigrad.ones(())), ValueError, r"found shapes \[\]"),
]


@pytest.mark.parametrize("build, use, error, message", BAD)
def test_errors(world: Any, build: Any, use: Any, error: type[Exception], message: str) -> None:
    def main() -> None:
        model = DistributedDataParallel(build(), shards=V)
        with pytest.raises(error, match=message):
            use(model)

    world(main)


def test_sync_batchnorm_is_refused(world: Any) -> None:
    """It would normalise over whichever shards the ranks compute at the same time."""

    def main() -> None:
        with pytest.raises(ValueError, match="shards: expected a model without SyncBatchNorm"):
            DistributedDataParallel(nn.Sequential(nn.Linear(3, 3), nn.SyncBatchNorm(3)), shards=V)

    world(main)


def test_batches_that_are_no_shards(world: Any) -> None:
    def main() -> None:
        model = DistributedDataParallel(small(), shards=V)
        if ddp.get_world_size() > 1:
            with pytest.raises(
                ValueError, match=r"of the \d+ samples of a global batch in 8 shards, found \[.*shards=8"
            ):
                uneven(model)
        with pytest.raises(ValueError, match=r"at least one for each of \d rank\(s\), found 0"):
            DistributedDataParallel(small(), shards=0)

    world(main)


def test_a_backward_pass_that_raises_leaves_nothing_behind(world: Any) -> None:
    reference = small()
    x, y = data(24)
    F.mse_loss(reference(x), y).backward()

    def main() -> None:
        def fail(_: Tensor) -> None:
            raise ArithmeticError

        model = DistributedDataParallel(small(), shards=V)
        mine = here(24)
        loss = F.mse_loss(model(x[mine]), y[mine])
        handle = model.module[0].weight.register_hook(fail)
        with pytest.raises(ArithmeticError):
            loss.backward()
        handle.remove()
        model.zero_grad()
        F.mse_loss(model(x[mine]), y[mine]).backward()
        assert_close(gradients(model), gradients(reference))

    world(main)
