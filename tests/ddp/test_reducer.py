"""What the wrapper does in a backward pass beside the mean: weights, order, buffers, hooks, reports and refusals."""

import itertools
import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mpigrad
from mpigrad import Tensor, ddp, nn, optim
from mpigrad.ddp import DistributedDataParallel
from mpigrad.ddp.comm import Communicator, SingleCommunicator, simulated

cross_entropy = nn.functional.cross_entropy
BYTES = 1 / 2**20  # in MiB
TINY = {"bucket_cap_mb": BYTES, "first_bucket_mb": BYTES}  # a bucket per parameter
FEATURES, CLASSES, IGNORED = 6, 4, -100


def model(seed: int = 0, *more: nn.Module) -> nn.Sequential:
    """Numbers that depend on the seed only: the ranks of a simulated world share the default generator."""
    made = nn.Sequential(nn.Linear(FEATURES, 8), *more, nn.ReLU(), nn.Linear(8, CLASSES)).double()
    draw = np.random.default_rng(seed)
    for parameter in made.parameters():
        parameter.data.copy_(mpigrad.from_numpy(draw.normal(size=parameter.shape)))
    return made


def data(count: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    draw = np.random.default_rng(seed)
    return mpigrad.from_numpy(draw.normal(size=(count, FEATURES))), mpigrad.from_numpy(
        draw.integers(CLASSES, size=count)
    )


def parts(counts: list[int]) -> list[slice]:
    ends = np.cumsum(counts).tolist()
    return [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]


def gradients(module: nn.Module) -> list[np.ndarray]:
    return [p.grad.numpy().copy() for p in module.parameters()]


def assert_same(found: list[np.ndarray], expected: list[np.ndarray], rtol: float = 1e-9) -> None:
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-12)


# --- weights ----------------------------------------------------------------------------------------------------------


def masked(size: int) -> tuple[Tensor, Tensor, list[slice]]:
    """Three samples for each rank, of which other numbers are ignored; on the last of several ranks all are."""
    x, labels = data(3 * size)
    for rank in range(size):
        labels[3 * rank : 3 * rank + rank % 3] = IGNORED
    if size > 1:
        labels[-3:] = IGNORED
    return x, labels, parts([3] * size)


def test_the_mean_over_what_is_not_ignored(world: Any) -> None:
    x, labels, ranks = masked(world.size)

    def main() -> Any:
        here = ranks[ddp.get_rank()]
        wrapped = DistributedDataParallel(model(), **TINY)
        loss = cross_entropy(wrapped(x[here]), labels[here], ignore_index=IGNORED)
        wrapped.weight((labels[here] != IGNORED).sum().item())
        loss.backward()
        return gradients(wrapped)

    alone = model()
    cross_entropy(alone(x), labels, ignore_index=IGNORED).backward()
    for found in world(main):
        assert_same(found, gradients(alone))


def test_tokens_in_shards_mode(world: Any) -> None:
    """The bits of one rank, and the mean over all tokens."""
    count, shards = 16, 8
    x, labels = data(count)
    labels[::3] = IGNORED

    def main() -> Any:
        sampler = ddp.ShardedSampler(range(count), count, shuffle=False, shards=shards)
        (here,) = list(sampler)
        wrapped = DistributedDataParallel(model(), shards=shards)
        loss = cross_entropy(wrapped(x[here]), labels[here], ignore_index=IGNORED)
        wrapped.weight((labels[here] != IGNORED).sum().item())
        loss.backward()
        return gradients(wrapped)

    alone = model()
    cross_entropy(alone(x), labels, ignore_index=IGNORED).backward()
    (expected,) = simulated.run(1, lambda: joined(main))
    assert_same(expected, gradients(alone))
    for found in world(main):
        assert_same(found, expected, rtol=0)


def joined(main: Callable[[], Any]) -> Any:
    ddp.init_process_group()
    return main()


@pytest.mark.mpi_skip
@settings(max_examples=50, deadline=None)
@given(
    weights=st.integers(1, 4).flatmap(
        lambda n: st.lists(st.lists(st.floats(0, 9, width=16), min_size=n, max_size=n), min_size=1, max_size=3)
    )
)
def test_any_weights(weights: list[list[float]]) -> None:
    """The mean gradient by these weights, over ranks and accumulated passes."""
    passes, ranks = len(weights), len(weights[0])
    x, labels = data(2 * passes * ranks)

    def at(number: int, rank: int) -> slice:
        return parts([2] * passes * ranks)[number * ranks + rank]

    def main() -> Any:
        ddp.init_process_group()
        wrapped = DistributedDataParallel(model(), **TINY)
        for number in range(passes):
            here = at(number, ddp.get_rank())
            with wrapped.no_sync() if number < passes - 1 else nullcontext():
                loss = cross_entropy(wrapped(x[here]), labels[here]) / passes
                wrapped.weight(weights[number][ddp.get_rank()])
                loss.backward()
        return gradients(wrapped)

    alone, whole = model(), float(np.sum(weights))
    results = simulated.run(ranks, main, timeout=30)
    if whole:
        loss = sum(
            cross_entropy(alone(x[at(n, r)]), labels[at(n, r)]) * (weights[n][r] / whole)
            for n in range(passes)
            for r in range(ranks)
        )
        loss.backward()
        for found in results:
            assert_same(found, gradients(alone))
    else:
        assert not any(g.any() for found in results for g in found)


@pytest.mark.parametrize("weight", [-1, float("nan"), float("inf")])
def test_weights_that_are_none(world: Any, weight: float) -> None:
    def main() -> None:
        with pytest.raises(ValueError, match=r"weight: expected a finite number of at least 0, found (-1|nan|inf)"):
            DistributedDataParallel(model()).weight(weight)

    world(main)


# --- order ------------------------------------------------------------------------------------------------------------


class Crossed(nn.Module):
    """Uses its layers in another order than it has them."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.first, self.middle = (nn.Linear(FEATURES, FEATURES).double() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.first(x)))


class Recording(SingleCommunicator):
    def __init__(self) -> None:
        super().__init__()
        self.started: list[str] = []

    def weighted_sum_start(self, array: Any, weight: float, total: Callable[[], float], name: str) -> Any:
        self.started.append(name)
        return super().weighted_sum_start(array, weight, total, name)

    def duplicate(self, name: str) -> "Recording":
        return self


def test_buckets_follow_what_was_observed(world: Any) -> None:
    """Also where a rank's own order is another one: rank 0's counts, and the sums stay right."""
    x, _ = data(world.size)

    def main() -> Any:
        rank = ddp.get_rank()
        wrapped = DistributedDataParallel(Crossed(), **TINY)
        wrapped.load_state_dict({k: mpigrad.full_like(v, 0.25) for k, v in wrapped.state_dict().items()})
        before = [bucket.names for bucket in wrapped.reducer.buckets]
        found = []
        for _ in range(3):
            wrapped.zero_grad()
            wrapped(x[rank : rank + 1]).sum().backward()
            found.append(gradients(wrapped))
        assert_same(found[1], found[0])
        assert_same(found[2], found[0])
        return before, [bucket.names for bucket in wrapped.reducer.buckets], [b.index for b in wrapped.reducer.buckets]

    for before, after, indices in world(main):
        assert [name for (name,) in before][-1] == "last.weight"
        assert sorted(after) == sorted(before) and indices == list(range(6))
        assert {name for (name,) in after[:2]} == {"last.weight", "last.bias"}
        assert {name for (name,) in after[-2:]} == {"first.weight", "first.bias"}


@pytest.mark.mpi_skip
def test_on_the_wire_in_the_observed_order() -> None:
    comm = Recording()
    wrapped = DistributedDataParallel(Crossed(), communicator=comm, **TINY)
    for _ in range(2):
        comm.started.clear()
        wrapped(data(2)[0]).sum().backward()
    assert [name.partition("(")[2][:5] for name in comm.started[1:]] == ["last."] * 2 + ["middl"] * 2 + ["first"] * 2


def test_a_measured_bucket_size(world: Any) -> None:
    x, labels = data(2 * world.size)

    def main() -> Any:
        here = parts([2] * world.size)[ddp.get_rank()]
        wrapped = DistributedDataParallel(model(), bucket_cap_mb="auto")
        cross_entropy(wrapped(x[here]), labels[here]).backward()
        return gradients(wrapped), wrapped.reducer._caps

    alone = model()
    cross_entropy(alone(x), labels).backward()
    results = world(main)
    for found, caps in results:
        assert_same(found, gradients(alone))
        assert caps == results[0][1] and 2**16 <= caps[0] == caps[1] <= 25 * 2**20


# --- buffers ----------------------------------------------------------------------------------------------------------


def test_statistics_of_batch_norm_are_combined(world: Any) -> None:
    """Each rank's batch moves them, weighted by its samples; they are the same everywhere after backward."""
    counts = [2 + 3 * rank for rank in range(world.size)]
    x, labels = data(sum(counts))

    def main() -> Any:
        here = parts(counts)[ddp.get_rank()]
        wrapped = DistributedDataParallel(model(0, nn.BatchNorm1d(8)))
        for step in range(2):
            with wrapped.no_sync() if step == 0 else nullcontext():
                cross_entropy(wrapped(x[here]), labels[here]).backward()
        own = model(0, nn.BatchNorm1d(8))
        for _ in range(2):
            own(x[here])
        return {k: b.numpy().copy() for k, b in wrapped.named_buffers()}, [b.numpy() for b in own.buffers()]

    results = world(main)
    for place, name in enumerate(("1.running_mean", "1.running_var", "1.num_batches_tracked")):
        expected = np.average([own[place] for _, own in results], axis=0, weights=counts)
        for combined, _ in results:
            assert combined[name].dtype == results[0][0][name].dtype
            np.testing.assert_allclose(combined[name], expected, rtol=1e-12)
            np.testing.assert_array_equal(combined[name], results[0][0][name])
    assert results[0][0]["1.num_batches_tracked"] == 2


class Caching(nn.Module):
    """A layer with a buffer that nobody changes, and one that grows with the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(FEATURES, CLASSES).double()
        self.register_buffer("fixed", mpigrad.tensor([0.1, float("nan"), float("inf")]))
        self.register_buffer("cache", mpigrad.zeros(0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.cache = mpigrad.arange(len(x))
        return self.layer(x)


@pytest.mark.parametrize("broadcast", [True, False])
def test_buffers_that_are_left_alone(world: Any, broadcast: bool) -> None:
    def main() -> None:
        rank = ddp.get_rank()
        wrapped = DistributedDataParallel(Caching(), broadcast_buffers=broadcast)
        fixed = wrapped.module.fixed
        for _ in range(2):
            wrapped(data(rank + 1)[0]).sum().backward()
        assert wrapped.module.fixed is fixed
        np.testing.assert_array_equal(fixed.numpy(), np.float32([0.1, np.nan, np.inf]))
        assert wrapped.module.cache.tolist() == list(range(rank + 1))
        norm = DistributedDataParallel(nn.BatchNorm1d(FEATURES), broadcast_buffers=broadcast)
        norm(data(4, seed=rank)[0].float()).sum().backward()
        means = ddp.world().all_gather_object(norm.module.running_mean.tolist())
        assert (len({tuple(m) for m in means}) == 1) == (broadcast or world.size == 1)

    world(main)


# --- hooks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["future", "tensor", "set_buffer"])
def test_a_hook_that_averages(world: Any, kind: str) -> None:
    """As PyTorch's allreduce_hook; with batches of any sizes the mean of what it is given is the exact mean."""
    counts = [rank % 3 for rank in range(1, world.size + 1)]
    x, labels = data(sum(counts))
    seen: list[Any] = []

    def hook(state: Any, bucket: Any) -> Any:
        if ddp.get_rank() == 0:
            seen.append((state, bucket.index(), bucket.is_last(), [p.shape for p in bucket.parameters()]))
        assert sum(g.numel() for g in bucket.gradients()) == bucket.buffer().numel()
        if kind == "future":
            work = ddp.all_reduce(bucket.buffer().div_(ddp.get_world_size()), async_op=True)
            return work.get_future().then(lambda future: future.value()[0])
        mean = bucket.buffer().clone()
        ddp.all_reduce(mean, op=ddp.ReduceOp.AVG)
        if kind == "tensor":
            return mean
        bucket.set_buffer(mean)
        return bucket.buffer()

    def main() -> Any:
        here = parts(counts)[ddp.get_rank()]
        wrapped = DistributedDataParallel(model(), **TINY)
        wrapped.register_comm_hook("mine", hook)
        with pytest.raises(RuntimeError, match="register_comm_hook can only be called once"):
            wrapped.register_comm_hook(None, hook)
        cross_entropy(wrapped(x[here]), labels[here]).backward()
        return gradients(wrapped)

    alone = model()
    cross_entropy(alone(x), labels).backward()
    for found in world(main):
        assert_same(found, gradients(alone))
    if ddp.get_rank() == 0 and seen:
        assert [(state, index, last) for state, index, last, _ in seen] == [("mine", i, i == 3) for i in range(4)]


def test_hooks_that_are_refused(world: Any) -> None:
    def main() -> None:
        with pytest.raises(TypeError, match="Communication hook must be callable"):
            DistributedDataParallel(model()).register_comm_hook(None, 3)
        with pytest.raises(RuntimeError, match="register_comm_hook: expected a model without shards"):
            DistributedDataParallel(model(), shards=4).register_comm_hook(None, lambda *_: None)

    world(main)


# --- reports ----------------------------------------------------------------------------------------------------------


class Optional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.never = (nn.Linear(FEATURES, 1, bias=False).double() for _ in range(3))

    def forward(self, x: Tensor, use_b: bool) -> Tensor:
        return self.a(x) + self.b(x) if use_b else self.a(x)


@pytest.mark.parametrize("shards", [None, 4])
def test_unused_parameters_are_named(world: Any, shards: int | None) -> None:
    def main() -> None:
        wrapped = DistributedDataParallel(Optional(), shards=shards)
        assert wrapped.unused_parameters() == {}
        x, _ = data(4)
        (here,) = list(ddp.ShardedSampler(range(4), 4, shuffle=False, shards=shards))
        other = {"use_b": True} if ddp.get_rank() == 0 else {"use_b": False}
        wrapped(x[here], **other).mean().backward()
        expected = {"b.weight": world.size - 1, "never.weight": world.size}
        assert wrapped.unused_parameters() == {k: n for k, n in expected.items() if n}
        assert wrapped.module.never.weight.grad is None and wrapped.module.b.weight.grad is not None

    world(main)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_who_brought_what_is_not_finite(world: Any, value: float) -> None:
    """All ranks hear of it in the same pass, and so skip the same step; the next pass is clean."""
    bad = world.size - 1

    def main() -> Any:
        rank, (x, labels) = ddp.get_rank(), data(2)
        wrapped = DistributedDataParallel(model(), **TINY, check_finite=True)
        optimizer = optim.SGD(wrapped.parameters(), lr=0.1)
        found = []
        for step in range(3):
            optimizer.zero_grad()
            loss = cross_entropy(wrapped(x), labels)
            handle = None
            if step == 1 and rank == bad:
                spoil = lambda g: g * mpigrad.tensor([[value], *[[1.0]] * 7], dtype=mpigrad.float64)
                handle = wrapped.module[0].weight.register_hook(spoil)
            loss.backward()
            if handle is not None:
                handle.remove()
            found.append([(f.rank, f.parameter) for f in wrapped.nonfinite()])
            if not wrapped.nonfinite():
                optimizer.step()
        assert all(np.isfinite(p.detach().numpy()).all() for p in wrapped.parameters())
        return found, ddp.digest(wrapped.state_dict())

    results = world(main)
    assert all(found == [[], [(bad, "0.weight")], []] for found, _ in results)
    assert len({digest for _, digest in results}) == 1


def test_reports_that_were_not_asked_for(world: Any) -> None:
    def main() -> None:
        with pytest.raises(RuntimeError, match=r"nonfinite: expected DistributedDataParallel.*check_finite=True"):
            DistributedDataParallel(model()).nonfinite()
        with pytest.raises(RuntimeError, match="overlap: expected a model without shards"):
            DistributedDataParallel(model(), shards=4).overlap()

    world(main)


def test_overlap_is_measured(world: Any) -> None:
    def main() -> None:
        wrapped = DistributedDataParallel(model(), **TINY)
        assert wrapped.overlap() == ddp.Overlap(0.0, 0.0) and wrapped.overlap().hidden == 0
        seen = []
        for _ in range(3):
            wrapped(data(2)[0]).sum().backward()
            seen.append(wrapped.overlap())
        for before, after in itertools.pairwise(seen):
            assert after.communication > before.communication > 0 and after.exposed > before.exposed > 0
        assert all(0 <= found.hidden <= 1 for found in seen)

    world(main)


@pytest.mark.mpi_skip
def test_a_thread_that_communicates_hides_its_time() -> None:
    """While one rank's thread sleeps in a reduction, backward goes on."""

    class Slow(SingleCommunicator):
        start, weighted_sum_start = Communicator.start, Communicator.weighted_sum_start

        def _all_reduce(self, array: Any, op: str) -> None:
            threading.Event().wait(0.02)

        def duplicate(self, name: str) -> "Slow":
            return self

    wrapped = DistributedDataParallel(model(), communicator=Slow(), **TINY)
    wrapped.module[0].weight.register_post_accumulate_grad_hook(lambda p: threading.Event().wait(0.1))
    wrapped(data(2)[0]).sum().backward()
    assert wrapped.overlap().communication > 0.1  # 4 buckets and the message
    assert wrapped.overlap().hidden > 0.1


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_step_on_gradients_of_one_rank(world: Any) -> None:
    def main() -> None:
        x, labels = data(2, seed=ddp.get_rank())
        wrapped, other = DistributedDataParallel(model()), DistributedDataParallel(model(5))
        optimizer, others = (optim.SGD(m.parameters(), lr=0.1) for m in (wrapped, other))
        for m in (wrapped, other):
            cross_entropy(m(x), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        for count in (1, 2):
            with wrapped.no_sync():
                cross_entropy(wrapped(x), labels).backward()
            match = rf"SGD.step: expected gradients that all ranks share, found those of {count} backward pass"
            with pytest.raises(RuntimeError, match=match):
                optimizer.step()
        others.step()  # has nothing to do with it
        optimizer.zero_grad()
        optimizer.step()  # nothing to step on
        cross_entropy(wrapped(x), labels).backward()
        optimizer.step()
        digests = ddp.world().all_gather_object(ddp.digest(wrapped.state_dict()))
        assert len(set(digests)) == 1

    world(main)


def test_pytorchs_other_arguments(world: Any) -> None:
    def main() -> None:
        group = ddp.new_group()
        wrapped = DistributedDataParallel(
            model(),
            device_ids=None,
            process_group=group,
            find_unused_parameters=False,
            gradient_as_bucket_view=True,
            static_graph=True,
        )
        with wrapped.join():
            wrapped(data(2)[0]).sum().backward()
        with pytest.raises(ValueError, match="dim: expected 0"):
            DistributedDataParallel(model(), dim=1)
        with pytest.raises(ValueError, match="check_finite: expected a model without shards"):
            DistributedDataParallel(model(), shards=4, check_finite=True)

    world(main)
