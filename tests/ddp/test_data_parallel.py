"""DistributedDataParallel: N ranks compute what one process computes on the whole batch."""

import gc
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mpigrad
from mpigrad import Parameter, Tensor, autograd, ddp, nn, optim
from mpigrad.core.flat import flatten
from mpigrad.ddp import DistributedDataParallel
from mpigrad.ddp.comm import Communicator, SingleCommunicator, Work, simulated

mse_loss = nn.functional.mse_loss
BYTES = 1 / 2**20  # in MiB
TINY = {"bucket_cap_mb": BYTES, "first_bucket_mb": BYTES}  # a bucket per parameter
FEATURES, CLASSES = 5, 3

# --- the model, the data, and what one process makes of them ----------------------------------------------------------


def fill(module: nn.Module, seed: int) -> None:
    """Numbers that depend on the seed only: the ranks of a simulated world share the default generator."""
    draw = np.random.default_rng(seed)
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data.copy_(mpigrad.from_numpy(np.asarray(draw.normal(size=tensor.shape) * 3).astype(tensor.array.dtype)))


def mlp(seed: int = 0, dtype: mpigrad.dtype = mpigrad.float32) -> nn.Sequential:
    model = nn.Sequential(
        nn.Linear(FEATURES, 7, dtype=dtype), nn.Tanh(), nn.Linear(7, 4, dtype=dtype), nn.ReLU(), nn.Linear(4, CLASSES)
    )
    model[4].to(dtype)
    fill(model, seed)
    return model


def data(count: int, seed: int = 1, dtype: Any = np.float32) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    return draw.normal(size=(count, FEATURES)).astype(dtype), draw.normal(size=(count, CLASSES)).astype(dtype)


def slices(counts: Sequence[int]) -> list[slice]:
    ends = np.cumsum(counts).tolist()
    return [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]


def loss(model: nn.Module, x: np.ndarray, y: np.ndarray) -> Tensor:
    return mse_loss(model(mpigrad.from_numpy(x)), mpigrad.from_numpy(y))


def gradients(model: nn.Module) -> dict[str, np.ndarray | None]:
    return {k: None if p.grad is None else p.grad.numpy().copy() for k, p in model.named_parameters()}


def whole(model: nn.Module, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray | None]:
    """The gradients of one process."""
    loss(model, x, y).backward()
    return gradients(model)


def assert_same(found: dict[str, Any], expected: dict[str, Any], rtol: float = 1e-5) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if value is None:
            assert found[name] is None, f"{name}: expected no gradient"
        else:
            assert found[name] is not None, f"{name}: expected a gradient"
            scale = max(np.abs(value).max(initial=0.0), 1e-3)
            np.testing.assert_allclose(found[name], value, rtol=rtol, atol=rtol * scale, err_msg=name)


SPLITS: dict[str, Callable[[int], list[int]]] = {
    "even": lambda n: [4] * n,
    "uneven": lambda n: [1 + 3 * r for r in range(n)],
    "one has all": lambda n: [0] * (n - 1) + [6],
    "first and last empty": lambda n: [0, *[3] * max(n - 2, 1), 0][:n] if n > 1 else [3],
}


@pytest.fixture(params=SPLITS)
def counts(request: pytest.FixtureRequest, world: Any) -> list[int]:
    """Samples per rank."""
    return SPLITS[request.param](world.size)


# --- the mean gradient ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cap", [1, 64, 150, 25 * 2**20])
def test_equals_one_process(world: Any, counts: list[int], cap: int) -> None:
    x, y = data(sum(counts))

    def main() -> Any:
        here = slices(counts)[ddp.get_rank()]
        model = DistributedDataParallel(mlp(), bucket_cap_mb=cap * BYTES, first_bucket_mb=cap * BYTES)
        return whole(model, x[here], y[here])

    expected = whole(mlp(), x, y)
    for found in world(main):
        assert_same(found, expected)


class Penalized(nn.Module):
    """Has a parameter that only the loss uses."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.penalty = mlp(3, mpigrad.float64), Parameter(mpigrad.tensor([1.0, -2.0], dtype=mpigrad.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


@pytest.mark.mpi_skip
@settings(max_examples=60, deadline=None)
@given(
    counts=st.integers(1, 4).flatmap(  # by pass, then by rank
        lambda n: st.lists(st.lists(st.integers(0, 5), min_size=n, max_size=n), min_size=1, max_size=3)
    ),
    cap=st.sampled_from([1, 300, 10**6]),
    keep_before=st.booleans(),
)
def test_accumulation_equals_one_process(counts: list[list[int]], cap: int, keep_before: bool) -> None:
    """K passes of which K - 1 under no_sync, batches of any sizes: the mean over all samples when the loss is / K.

    A penalty on a parameter that the module itself does not use is part of the loss.
    """
    passes, ranks, samples = len(counts), len(counts[0]), int(np.sum(counts))
    x, y = data(samples, dtype=np.float64)
    flat = slices([count for row in counts for count in row])

    def main() -> Any:
        ddp.init_process_group()
        inner = Penalized()
        model = DistributedDataParallel(inner, bucket_cap_mb=cap * BYTES, first_bucket_mb=cap * BYTES)
        if keep_before:  # nothing in the gradients, but something there
            for parameter in model.parameters():
                parameter.grad = mpigrad.zeros_like(parameter)
        for number in range(passes):
            here = flat[number * ranks + ddp.get_rank()]
            with model.no_sync() if number < passes - 1 else nullcontext():
                ((loss(model, x[here], y[here]) + (inner.penalty**2).sum()) / passes).backward()
        return gradients(model)

    alone = Penalized()
    (loss(alone, x, y) + (alone.penalty**2).sum()).backward()
    expected = gradients(alone) if samples else None
    results = simulated.run(ranks, main, timeout=30)
    for found in results:
        if expected:
            assert_same(found, expected, rtol=1e-9)
        else:
            assert all(not grad.any() for grad in found.values())
        assert_same(found, results[0], rtol=0)


def test_no_sync_is_local(world: Any) -> None:
    def main() -> Any:
        x, y = data(4, seed=ddp.get_rank())
        model = DistributedDataParallel(mlp())
        with model.no_sync():
            found = whole(model, x, y)
            model.zero_grad()
        x, y = data(2, seed=ddp.get_rank() + 10)
        return found, whole(model, x, y)  # what was dropped does not count as a pass

    x, y = (np.concatenate(parts) for parts in zip(*(data(2, r + 10) for r in range(world.size)), strict=True))
    together = whole(mlp(), x, y)
    for rank, (found, after) in enumerate(world(main)):
        assert_same(found, whole(mlp(), *data(4, seed=rank)), rtol=0)
        assert_same(after, together)


def test_synced_passes_add_up(world: Any, counts: list[int]) -> None:
    """Without zero_grad a second reduction adds to the first; also through one graph that is kept."""
    x, y = data(sum(counts))

    def main() -> Any:
        here = slices(counts)[ddp.get_rank()]
        model = DistributedDataParallel(mlp(), **TINY)
        value = loss(model, x[here], y[here])
        value.backward(retain_graph=True)
        value.backward()
        loss(model, x[here], y[here]).backward()
        return gradients(model)

    expected = {k: None if g is None else 3 * g for k, g in whole(mlp(), x, y).items()}
    for found in world(main):
        assert_same(found, expected)


def test_empty_batches_everywhere_change_nothing(world: Any) -> None:
    def main() -> None:
        model = DistributedDataParallel(mlp())
        before = whole(model, *data(3))
        assert_same(whole(model, *data(0)), before)
        model.zero_grad()
        assert not any(g.any() for g in whole(model, *data(0)).values() if g is not None)

    world(main)


@pytest.mark.parametrize("under_no_sync", [False, True])
def test_an_empty_batch_adds_nothing_whatever_its_loss(world: Any, under_no_sync: bool) -> None:
    """The mean over no sample is NaN, and a penalty on the weights has a gradient without any sample."""
    counts = [3, *[0] * (world.size - 1)]

    def with_penalty(model: nn.Module, x: np.ndarray, y: np.ndarray) -> Tensor:
        value = loss(model, x, y) + sum((p * p).sum() for p in model.parameters())
        return value if len(x) else value * float("nan")

    def main() -> Any:
        x, y = data(3)
        model = DistributedDataParallel(mlp())
        count = counts[ddp.get_rank()]
        with model.no_sync() if under_no_sync else nullcontext():
            with_penalty(model, x[:count], y[:count]).backward()
        if under_no_sync:
            with_penalty(model, x, y).backward()
        return gradients(model)

    model = mlp()
    passes = 2 if under_no_sync else 1
    (with_penalty(model, *data(3)) * passes).backward()
    for found in world(main):
        assert_same(found, gradients(model))


# --- replicas ---------------------------------------------------------------------------------------------------------


class Mixed(nn.Module):
    """Several dtypes, frozen parameters, buffers of all kinds, a parameter without elements and one without shape."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, 4)
        self.second = nn.Linear(4, 4, dtype=mpigrad.float64)
        self.third = nn.Linear(4, CLASSES)
        self.scale = Parameter(mpigrad.ones(()))
        self.empty = Parameter(mpigrad.zeros(0, 3))
        self.frozen = Parameter(mpigrad.ones(4), requires_grad=False)
        self.coarse = Parameter(mpigrad.ones(3, dtype=mpigrad.float16))
        for dtype in (mpigrad.float32, mpigrad.int64, mpigrad.bool):
            self.register_buffer(f"of_{dtype.name}", mpigrad.zeros(3, dtype=dtype))
        self.register_buffer("not_saved", mpigrad.zeros(2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.second((self.first(x) * self.frozen).double()).float()
        return self.third(hidden) * self.scale * self.coarse.float() + self.empty.sum()


def test_start_is_rank_0s(world: Any) -> None:
    def main() -> str:
        model = Mixed()
        fill(model, seed=ddp.get_rank())
        DistributedDataParallel(model)
        return ddp.digest(dict(model.named_parameters()) | dict(model.named_buffers()))

    expected = Mixed()
    fill(expected, 0)
    first = ddp.digest(dict(expected.named_parameters()) | dict(expected.named_buffers()))
    assert world(main) == [first] * world.size


@pytest.mark.parametrize("caps", [{}, TINY])
def test_several_dtypes(world: Any, caps: dict[str, float], counts: list[int]) -> None:
    x, y = data(sum(counts))

    def model() -> nn.Module:
        made = Mixed()
        fill(made, 0)
        return made

    def main() -> Any:
        here = slices(counts)[ddp.get_rank()]
        return whole(DistributedDataParallel(model(), **caps), x[here], y[here])

    expected = whole(model(), x, y)
    for found in world(main):
        assert {k: g.dtype for k, g in found.items() if g is not None} == {
            k: g.dtype for k, g in expected.items() if g is not None
        }
        assert_same(
            {k: g for k, g in found.items() if k != "coarse"}, {k: g for k, g in expected.items() if k != "coarse"}
        )
        assert_same({"coarse": found["coarse"]}, {"coarse": expected["coarse"]}, rtol=1e-2)


@pytest.mark.parametrize("optimizer_first", [True, False])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_replicas_stay_equal(world: Any, optimizer_first: bool, momentum: float) -> None:
    """Twenty steps on uneven batches: the same bits on all ranks, and the numbers of one process."""
    size = world.size

    def train(model: nn.Module, wrap: bool, here: Callable[[int], slice]) -> tuple[str, dict[str, np.ndarray]]:
        optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=momentum) if optimizer_first else None
        trained = DistributedDataParallel(model, bucket_cap_mb=64 * BYTES, first_bucket_mb=BYTES) if wrap else model
        optimizer = optimizer or optim.SGD(trained.parameters(), lr=0.01, momentum=momentum)
        for step in range(20):
            x, y = data(2 * size, seed=step)
            optimizer.zero_grad(set_to_none=bool(step % 3))
            loss(trained, x[here(step)], y[here(step)]).backward()
            optimizer.step()
        state = trained.state_dict()
        return ddp.digest(state), {k: v.numpy().copy() for k, v in state.items()}

    def main() -> Any:
        rank = ddp.get_rank()
        split = lambda step: slices([step % 2] * (size - 1) + [2 * size - (step % 2) * (size - 1)])[rank]
        return train(mlp(rank), True, split)

    results = world(main)
    assert len({digest for digest, _ in results}) == 1
    _, alone = train(mlp(0), False, lambda step: slice(None))
    assert_same(results[0][1], alone, rtol=1e-4)


# --- graphs -----------------------------------------------------------------------------------------------------------


class Branches(nn.Module):
    """Uses the branches it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(FEATURES, CLASSES) for _ in range(3))
        fill(self, 5)

    def forward(self, x: Tensor, use: str) -> Tensor:
        first, *others = (getattr(self, name)(x) for name in use)
        return sum(others, first)


@pytest.mark.parametrize("caps", [{}, TINY])
@pytest.mark.parametrize("everywhere, on_last", [("a", "a"), ("a", "ab"), ("ab", "c"), ("abc", "cb")])
def test_unused_parameters(world: Any, caps: dict[str, float], everywhere: str, on_last: str) -> None:
    """Unused on all ranks: no gradient. Unused on some: these contribute zero. The graph may change with each step."""
    size = world.size
    x, y = data(3 * size)
    here = slices([3] * size)

    def used(rank: int, step: int) -> str:
        return on_last if (rank + step) % size == size - 1 else everywhere

    def main() -> Any:
        model, rank = DistributedDataParallel(Branches(), **caps), ddp.get_rank()
        found = []
        for step in range(3):
            model.zero_grad()
            value = model(mpigrad.from_numpy(x[here[rank]]), used(rank, step))
            mse_loss(value, mpigrad.from_numpy(y[here[rank]])).backward()
            found.append(gradients(model))
        return found

    results = world(main)
    for step in range(3):
        model = Branches()
        for rank in range(size):
            value = model(mpigrad.from_numpy(x[here[rank]]), used(rank, step))
            (mse_loss(value, mpigrad.from_numpy(y[here[rank]])) / size).backward()
        for found in results:
            assert_same(found[step], gradients(model))


def test_a_rank_that_uses_none_of_the_parameters(world: Any) -> None:
    """It takes part in the reductions all the same: as with blocks that are skipped at random."""

    class Skipped(nn.Linear):
        def forward(self, x: Tensor, skip: bool) -> Tensor:
            return x if skip else super().forward(x)

    def main() -> Any:
        first, second = nn.Linear(FEATURES, 4), Skipped(4, 4)
        fill(first, 1)
        fill(second, 2)
        chain = DistributedDataParallel(first), DistributedDataParallel(second)
        hidden = chain[0](mpigrad.ones(2, FEATURES))
        chain[1](hidden, skip=ddp.get_rank() == world.size - 1).mean().backward()
        return gradients(second)["bias"]

    for found in world(main):
        if world.size == 1:
            assert found is None
        else:
            np.testing.assert_allclose(found, [(world.size - 1) / world.size / 4] * 4, rtol=1e-6)


def test_frozen_and_shared_parameters(world: Any, counts: list[int]) -> None:
    def model() -> nn.Sequential:
        made = nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.Tanh(), nn.Linear(FEATURES, FEATURES), nn.Linear(5, 3))
        fill(made, 2)
        made[2].weight = made[0].weight
        made[3].bias.requires_grad_(False)
        return made

    x, y = data(sum(counts))

    def main() -> Any:
        here = slices(counts)[ddp.get_rank()]
        wrapped = DistributedDataParallel(model(), **TINY)
        found = whole(wrapped, x[here], y[here])
        wrapped.zero_grad()
        wrapped.module[0].bias.requires_grad_(False)  # frozen later: no gradient any more
        return found, whole(wrapped, x[here], y[here])

    expected, later = model(), model()
    later[0].bias.requires_grad_(False)
    for found, after in world(main):
        assert_same(found, whole(expected, x, y))
        expected.zero_grad()
        assert_same(after, whole(later, x, y))
        later.zero_grad()


def test_a_parameter_that_is_unfrozen_after_wrapping(world: Any) -> None:
    def main() -> None:
        model = mlp()
        model[0].bias.requires_grad_(False)
        wrapped = DistributedDataParallel(model)
        model[0].bias.requires_grad_(True)
        with pytest.raises(RuntimeError, match=r"parameter 0.bias was frozen when the module was wrapped"):
            whole(wrapped, *data(2))

    world(main)


class Nested(nn.Module):
    """Tensors in a dict in a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(FEATURES, 4), nn.Linear(4, CLASSES)
        fill(self, 8)

    def forward(self, *, inputs: dict[str, Any]) -> Any:
        hidden = self.body(inputs["x"])
        return "name", ({"hidden": hidden}, [self.head(hidden), None])


def test_nested_inputs_and_outputs(world: Any, counts: list[int]) -> None:
    """The batch is found in keyword arguments, and a loss may use any of the outputs."""
    x, y = data(sum(counts))

    def run(model: nn.Module, here: slice) -> Any:
        found = []
        for part in ("hidden", "head", "both"):
            model.zero_grad()
            _, (features, (logits, _)) = model(inputs={"note": "", "x": mpigrad.from_numpy(x[here])})
            terms = {"hidden": (features["hidden"] ** 2).mean(), "head": mse_loss(logits, mpigrad.from_numpy(y[here]))}
            (terms["hidden"] + terms["head"] if part == "both" else terms[part]).backward()
            found.append(gradients(model))
        return found

    for results in world(lambda: run(DistributedDataParallel(Nested(), **TINY), slices(counts)[ddp.get_rank()])):
        for found, expected in zip(results, run(Nested(), slice(None)), strict=True):
            assert_same(found, expected)


def test_two_models_and_two_forward_passes(world: Any, counts: list[int]) -> None:
    """As a GAN is trained: the discriminator sees real and generated batches before one backward pass."""
    x, y = data(sum(counts))

    def run(wrap: Callable[[nn.Module], nn.Module], here: slice) -> Any:
        made, judging = nn.Linear(CLASSES, FEATURES), mlp(4)
        fill(made, 9)
        generator, judge = wrap(made), wrap(judging)
        real, noise = mpigrad.from_numpy(x[here]), mpigrad.from_numpy(y[here])
        fake = generator(noise)
        (judge(real).mean() - judge(fake.detach()).mean()).backward()
        found = [gradients(judge), gradients(generator)]
        with mpigrad.no_grad():
            judge(real)
        judge(real)  # a forward pass that no backward pass follows
        judge.zero_grad()
        (judge(fake) ** 2).mean().backward()  # both models in one pass
        return [*found, gradients(judge), gradients(generator)]

    main = lambda: run(lambda m: DistributedDataParallel(m, **TINY), slices(counts)[ddp.get_rank()])
    for results in world(main):
        for found, expected in zip(results, run(lambda m: m, slice(None)), strict=True):
            assert_same(found, expected)


def test_gradients_asked_for_by_autograd_grad(world: Any, counts: list[int]) -> None:
    """They are this rank's, nothing is reduced and no pass is counted; a penalty on them is: second derivatives."""
    x, y = data(sum(counts))

    def run(model: nn.Module, here: slice) -> Any:
        inputs = mpigrad.from_numpy(x[here]).requires_grad_()
        with model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext():
            loss(model, x[here], y[here]).backward()
            before = gradients(model)
            autograd.grad(model(mpigrad.ones(9, FEATURES)).sum(), list(model.parameters()))
            assert_same(gradients(model), before, rtol=0)
        loss(model, x[here], y[here]).backward()
        found = gradients(model)
        model.zero_grad()
        (towards,) = autograd.grad(model(inputs).sum(), inputs, create_graph=True)
        assert all(p.grad is None for p in model.parameters())
        (towards**2).mean().backward()
        return found, gradients(model)

    main = lambda: run(DistributedDataParallel(mlp(), **TINY), slices(counts)[ddp.get_rank()])
    expected = run(mlp(), slice(None))
    for results in world(main):
        for found, correct in zip(results, expected, strict=True):
            assert_same(found, correct)


def test_create_graph(world: Any, counts: list[int]) -> None:
    """Gradients with a graph are reduced too; several parameters may share one gradient tensor."""

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = Parameter(mpigrad.ones(FEATURES)), Parameter(mpigrad.ones(FEATURES))

        def forward(self, x: Tensor) -> Tensor:
            return ((self.a + self.b) * x).sum(1) ** 2

    x, _ = data(sum(counts))

    def run(model: nn.Module, here: slice) -> Any:
        model(mpigrad.from_numpy(x[here])).mean().backward(create_graph=True)
        return {k: p.grad.detach().numpy().copy() for k, p in model.named_parameters()}

    for found in world(lambda: run(DistributedDataParallel(Sum(), **TINY), slices(counts)[ddp.get_rank()])):
        assert_same(found, run(Sum(), slice(None)))


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("under_no_sync", [True, False])
def test_a_backward_pass_that_raises(world: Any, set_to_none: bool, under_no_sync: bool) -> None:
    """The next one is as if it had never been, although some buckets were reduced already."""
    size = world.size
    x, y = data(2 * size)

    def main() -> Any:
        def fail(_: Tensor) -> None:
            raise OSError("in the middle")

        here = slices([2] * size)[ddp.get_rank()]
        model = DistributedDataParallel(mlp(), **TINY)
        handle = model.module[2].bias.register_post_accumulate_grad_hook(fail)
        with pytest.raises(OSError, match="in the middle"), model.no_sync() if under_no_sync else nullcontext():
            whole(model, *data(3))
        handle.remove()
        model.zero_grad(set_to_none)
        first = whole(model, x[here], y[here])
        model.zero_grad(set_to_none)
        return first, whole(model, x[here], y[here])

    for results in world(main):
        for found in results:
            assert_same(found, whole(mlp(), x, y))


def test_a_backward_pass_leaves_nothing(world: Any) -> None:
    """Neither the graph nor anything that knows it lives on, whatever the garbage collector does."""

    def main() -> None:
        model = DistributedDataParallel(mlp(), **TINY)
        for _ in range(2):
            value = loss(model, *data(3))
            node = weakref.ref(value.node)
            value.backward()
            del value
            assert node() is None and not any(known() for known, _ in model.reducer._forwards)

    gc.disable()
    try:
        world(main)
    finally:
        gc.enable()


def test_moved_parameters(world: Any, counts: list[int]) -> None:
    """Another dtype, other memory, gradients that the user assigned: reductions find them."""
    x, y = data(sum(counts))

    def main() -> Any:
        here = slices(counts)[ddp.get_rank()]
        model = DistributedDataParallel(mlp(), **TINY)
        found = [whole(model, x[here], y[here])]
        model.module[2].weight.data = mlp()[2].weight.data.clone()
        model.zero_grad()
        found.append(whole(model, x[here], y[here]))
        model.double()
        model.zero_grad()
        found.append(whole(model, x[here].astype(np.float64), y[here].astype(np.float64)))
        shared = mpigrad.ones(FEATURES, dtype=mpigrad.float64)
        for name, parameter in model.named_parameters():
            parameter.grad = shared[:3] if name == "4.bias" else mpigrad.ones_like(parameter)
        found.append(whole(model, x[here].astype(np.float64), y[here].astype(np.float64)))
        assert shared.tolist() == [1.0] * FEATURES
        return found

    expected = whole(mlp(), x, y)
    added = {k: None if g is None else g + 1 for k, g in expected.items()}
    for results in world(main):
        for found in results[:3]:
            assert_same(found, expected)
        assert_same(results[3], added)


# --- the wrapper ------------------------------------------------------------------------------------------------------


def test_looks_like_the_module(world: Any) -> None:
    def main() -> None:
        plain = Mixed()
        wrapped = DistributedDataParallel(plain)
        assert list(wrapped.state_dict()) == list(plain.state_dict())
        assert list(wrapped.state_dict(prefix="m.")) == [f"m.{key}" for key in plain.state_dict()]
        for view in ("named_parameters", "named_buffers", "named_modules"):
            assert [name for name, _ in getattr(wrapped, view)()] == [name for name, _ in getattr(plain, view)()]
        assert repr(wrapped).startswith("DistributedDataParallel(\n  (module): Mixed(\n    (first): Linear(")
        other = Mixed()
        fill(other, 11)
        assert str(wrapped.load_state_dict(other.state_dict())) == "<All keys matched successfully>"
        assert ddp.digest(wrapped.state_dict()) == ddp.digest(other.state_dict())
        with pytest.raises(RuntimeError, match="Missing key"):
            wrapped.load_state_dict({})
        for mode in (False, True):
            assert wrapped.train(mode) is wrapped
            assert {m.training for m in (wrapped, *plain.modules())} == {mode}
        outer = nn.Sequential(wrapped, nn.ReLU())
        assert list(outer.state_dict()) == [f"0.{key}" for key in plain.state_dict()]

    world(main)


def test_nothing_to_learn(world: Any) -> None:
    def main() -> None:
        for module in (nn.ReLU(), nn.Linear(2, 2).requires_grad_(False)):
            with pytest.raises(RuntimeError, match="DistributedDataParallel is not needed when a module doesn't have"):
                DistributedDataParallel(module)

    world(main)


def different(rank: int, others: str) -> Iterator[tuple[nn.Module, dict[str, Any], str]]:
    """By what rank 1's module differs, its options, and what is told of it."""
    last, double = rank == 1, mpigrad.float64 if rank == 1 else None
    weight = f"module.weight   {others}: trained float32 [2, 3] / rank 1: "
    yield nn.Linear(3, 2 + last), {}, weight + "trained float32 [3, 3]"
    yield nn.Linear(3, 2, dtype=double), {}, weight + "trained float64 [2, 3]"
    yield nn.Linear(3, 2).requires_grad_(not last), {}, weight + "frozen float32 [2, 3]"
    bias = f"module.bias   {others}: trained float32 [2] / rank 1: nothing"
    yield nn.Linear(3, 2, bias=not last), {}, bias
    later = f"module.1.weight   {others}: trained float32 [2, 2] / rank 1: nothing"
    yield nn.Sequential(nn.Linear(2, 2), *[nn.ReLU()] * last, nn.Linear(2, 2)), {}, later
    buckets = f"gradient bucket 0   {others}: 'weight, bias' / rank 1: 'bias'"
    module = nn.Linear(2, 2)
    flatten([module.bias] if last else module.parameters())  # as an earlier optimizer may have done
    yield module, {}, buckets
    yield nn.Linear(2, 2), {"bucket_cap_mb": "auto" if last else None}, f"bucket_cap_mb   {others}: 25 / rank 1: 'auto'"
    yield nn.Linear(2, 2), {"check_finite": last}, f"check_finite   {others}: False / rank 1: True"
    yield nn.Linear(2, 2), {"check_every": 5 + last}, f"check_every   {others}: 5 / rank 1: 6"


@pytest.mark.parametrize("number", range(9))
def test_different_modules(world: Any, number: int) -> None:
    if world.size == 1:
        pytest.skip("one rank differs from nobody")

    def main() -> None:
        others = {2: "rank 0", 3: "ranks 0, 2", 4: "ranks 0, 2, 3"}[world.size]
        module, options, line = list(different(ddp.get_rank(), others))[number]
        with pytest.raises(ddp.RanksDiffer, match="DistributedDataParallel: expected the same module") as caught:
            DistributedDataParallel(module, **options)
        assert f"\n  {line}\n" in str(caught.value)

    world(main)


def test_wrapping_again(world: Any, counts: list[int]) -> None:
    """As a notebook cell that is run twice does. The later wrapper reduces, once; the earlier one refuses."""
    x, y = data(sum(counts))

    def main() -> Any:
        here = slices(counts)[ddp.get_rank()]
        model = mlp()
        earlier, wrapped = DistributedDataParallel(model), DistributedDataParallel(model, **TINY)
        with pytest.raises(RuntimeError, match="this module was wrapped again"):
            earlier(mpigrad.ones(1, FEATURES))
        return whole(wrapped, x[here], y[here])

    for found in world(main):
        assert_same(found, whole(mlp(), x, y))


def test_a_dropped_wrapper_takes_its_thread_along(world: Any) -> None:
    names = lambda: [t.name for t in threading.enumerate()].count("mpigrad gradients")

    def main() -> None:
        for _ in range(3):
            DistributedDataParallel(mlp())
        ddp.barrier()

    before = names()
    world(main)
    for _ in range(1000):
        gc.collect()
        if names() <= before:
            return
    pytest.fail(f"{names() - before} threads are left")


# --- order ------------------------------------------------------------------------------------------------------------


class Recording(SingleCommunicator):
    """Writes down what is started, and how many gradients are final then."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[tuple[str, int]] = []
        self.parameters: list[Parameter] = []

    def weighted_sum_start(self, array: Any, weight: float, total: Callable[[], float], name: str) -> Work:
        self.started.append((name, sum(p.grad is not None for p in self.parameters)))
        return super().weighted_sum_start(array, weight, total, name)

    def duplicate(self, name: str) -> "Recording":
        return self


@pytest.mark.mpi_skip
def test_reductions_start_in_order_while_backward_goes_on() -> None:
    comm = Recording()
    model = mlp()
    wrapped = DistributedDataParallel(model, communicator=comm, **TINY)
    comm.parameters = list(model.parameters())
    for _ in range(2):
        comm.started.clear()
        model.zero_grad()
        loss(wrapped, *data(3)).backward()
        names = [name for name, _ in comm.started]
        assert names[0] == "exchange of sample counts"
        reductions = [name for name in names if name.startswith("reduction of gradient bucket")]
        assert reductions == names[1:7]
        assert [int(name.split()[4]) for name in reductions] == list(range(6))
        assert {name.split()[5][1:-1] for name in reductions} == {name for name, _ in model.named_parameters()}
        final = [count for _, count in comm.started]
        assert final == sorted(final) and final[0] == 0
        assert final[1] <= 2 < len(comm.parameters)  # the first reduction: only the last layer has gradients


@pytest.mark.mpi_skip
def test_order_does_not_depend_on_the_graph() -> None:
    """Gradients that become final in another order wait for their bucket's turn: MPI matches calls by order.

    That is the order in which the first pass has found them.
    """
    comm = Recording()
    wrapped = DistributedDataParallel(Branches(), communicator=comm, **TINY)
    wrapped(mpigrad.ones(2, FEATURES), "bac").sum().backward()
    orders = []
    for use in ("abc", "cba", "b"):
        comm.started.clear()
        wrapped(mpigrad.ones(2, FEATURES), use).sum().backward()
        orders.append([name for name, _ in comm.started])
    assert orders[0] == orders[1] == orders[2] and len(orders[0]) == 7


# --- ranks out of step ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("passes", [lambda r, n: r + 1, lambda r, n: 2 if r == n - 1 else 1], ids=["all", "one"])
def test_different_numbers_of_passes(world: Any, passes: Callable[[int, int], int]) -> None:
    """On every rank, also on one that has the average number."""
    if world.size == 1:
        pytest.skip("one rank differs from nobody")

    def main() -> None:
        model, count = DistributedDataParallel(mlp(), **TINY), passes(ddp.get_rank(), world.size)
        with model.no_sync():
            for _ in range(count - 1):
                loss(model, *data(2)).backward()
        message = f"rank {ddp.get_rank()} accumulated {count} backward passes, the average over all ranks is"
        with pytest.raises(RuntimeError, match=message):
            loss(model, *data(2)).backward()

    world(main)


@pytest.mark.mpi_skip
def test_memory_that_moved_on_one_rank() -> None:
    def main() -> None:
        ddp.init_process_group()
        model = DistributedDataParallel(mlp(), **TINY)
        if ddp.get_rank() == 1:
            model.module[2].weight.data = mpigrad.ones(4, 7)
        with pytest.raises(RuntimeError, match="the ranks' parameters lie in memory in different orders"):
            loss(model, *data(2)).backward()

    simulated.run(3, main, timeout=10)


@pytest.mark.mpi_skip
def test_a_rank_that_skips_its_backward_pass() -> None:
    def main() -> None:
        ddp.init_process_group()
        model: Any = DistributedDataParallel(mlp())
        if ddp.get_rank() != 1:
            loss(model, *data(2)).backward()

    with pytest.raises(ddp.CollectiveTimeout, match=r"for exchange of sample counts \(number .*'gradients'"):
        simulated.run(3, main)


def test_the_communicator_may_be_given(world: Any, counts: list[int]) -> None:
    x, y = data(sum(counts))

    def main() -> Any:
        comm: Communicator = ddp.world().duplicate("mine")
        here = slices(counts)[ddp.get_rank()]
        return whole(DistributedDataParallel(mlp(), communicator=comm), x[here], y[here])

    for found in world(main):
        assert_same(found, whole(mlp(), x, y))
