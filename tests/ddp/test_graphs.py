"""The mean gradient whatever graph is recorded: unused, shared, frozen parameters, several models, many passes."""

import gc
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from whole_batch import (
    CLASSES,
    FEATURES,
    TINY,
    Branches,
    assert_same,
    data,
    fill,
    gradients,
    loss,
    mlp,
    mse_loss,
    slices,
    whole,
)

import mpigrad
from mpigrad import Parameter, Tensor, autograd, ddp, nn
from mpigrad.ddp import DistributedDataParallel


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
