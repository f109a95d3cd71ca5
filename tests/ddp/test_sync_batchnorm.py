"""SyncBatchNorm: N ranks against one process with the whole batch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mpigrad
from mpigrad import ddp, nn
from mpigrad.ddp.process_group import get_rank, get_world_size

World = Callable[[Callable[[], Any]], list[Any]]


def batch(channels: int = 3, shape: tuple[int, ...] = (2,), dtype: Any = mpigrad.float64) -> Any:
    """A batch of 12 samples."""
    random = mpigrad.Generator().manual_seed(1)
    return mpigrad.randn(12, channels, *shape, generator=random, dtype=dtype) * 3 + 5


def cuts(size: int) -> list[int]:
    """Uneven pieces of 12 samples; on more than two ranks one has none."""
    return {1: [0, 12], 2: [0, 3, 12], 3: [0, 7, 7, 12], 4: [0, 1, 6, 6, 12]}[size]


def norm(kind: Any, **options: Any) -> Any:
    made = kind(3, dtype=mpigrad.float64, **options)
    with mpigrad.no_grad():
        made.weight.copy_(mpigrad.tensor([0.5, 2.0, -1.0]))
        made.bias.copy_(mpigrad.tensor([0.0, 1.0, -1.0]))
    return made


def loss_of(output: Any, first: int, last: int) -> Any:
    """The mean over samples of a function that differs from sample to sample."""
    scale = mpigrad.arange(12, dtype=mpigrad.float64)[first:last].view(-1, *(1,) * (output.ndim - 1))
    return (output.sin() * (1 + scale)).sum() / max(last - first, 1)


def step(model: Any, x: Any, first: int, last: int) -> tuple[Any, ...]:
    x = x[first:last].clone().requires_grad_()
    output = model(x)
    loss_of(output, first, last).backward()
    return output, x.grad


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-9, atol=1e-9)


def plain(state_dict: Any) -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in state_dict.items()}


@pytest.mark.parametrize("momentum", [0.1, None])
def test_ranks_are_one_batch(world: World, momentum: float | None) -> None:
    x = batch()
    alone = norm(nn.BatchNorm1d, momentum=momentum)
    for _ in range(2):
        alone.zero_grad()
        whole_output, whole_gradient = step(alone, x, 0, 12)

    def on_this_rank() -> Any:
        model = norm(nn.SyncBatchNorm, momentum=momentum)
        first, last = cuts(get_world_size())[get_rank() : get_rank() + 2]
        for _ in range(2):
            model.zero_grad()
            output, gradient = step(model, x, first, last)
        share = (last - first) / 12  # of this rank's loss in the loss of all
        found = (output.detach(), gradient * share, model.weight.grad * share, model.bias.grad * share)
        return *(tensor.numpy() for tensor in found), plain(model.state_dict())

    results = world(on_this_rank)
    outputs, gradients, weights, biases, states = zip(*results, strict=True)
    close(np.concatenate(outputs), whole_output)
    close(np.concatenate(gradients), whole_gradient)
    close(sum(weights), alone.weight.grad)
    close(sum(biases), alone.bias.grad)
    for state in states:
        for name, value in alone.state_dict().items():
            close(state[name], value)


def test_process_group(world: World) -> None:
    """The last two ranks have one batch, the others each their own; so has everybody where no world was joined."""
    x = batch()

    def on_this_rank() -> Any:
        rank, size = get_rank(), get_world_size()
        pair = [max(size - 2, 0), size - 1]
        group = ddp.new_group(sorted(set(pair)))
        mine = x[3 * rank : 3 * rank + 3]
        model = nn.SyncBatchNorm.convert_sync_batchnorm(norm(nn.BatchNorm1d), group)
        whole = x[3 * pair[0] : 3 * size] if rank in pair else mine
        expected = norm(nn.BatchNorm1d)(whole)
        close(model(mine).detach().numpy(), expected[3 * (rank - pair[0]) :][:3] if rank in pair else expected)

    world(on_this_rank)
    close(norm(nn.SyncBatchNorm)(x).detach().numpy(), norm(nn.BatchNorm1d)(x))


def test_wrapped_models_learn_as_one_process_does(world: World) -> None:
    x, goal = batch(shape=(4, 4), dtype=mpigrad.float32), mpigrad.arange(12) % 4

    def build() -> Any:
        mpigrad.manual_seed(3)
        layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 4)]
        return nn.Sequential(*layers)

    def train(model: Any, first: int, last: int) -> Any:
        optimizer = mpigrad.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(5):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[first:last]), goal[first:last]).backward()
            optimizer.step()
        return plain(model.state_dict())

    alone = build()
    expected = train(alone, 0, 12)
    built = build()

    def on_this_rank() -> Any:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(built))
        assert isinstance(model[1], nn.SyncBatchNorm)
        assert list(model.state_dict()) == list(expected)
        first, last = cuts(get_world_size())[get_rank() : get_rank() + 2]
        return train(ddp.DistributedDataParallel(model), first, last)

    for state in world(on_this_rank):
        for name, value in expected.items():
            np.testing.assert_allclose(state[name], value, rtol=2e-4, atol=2e-5, err_msg=name)


def test_losses_that_are_means_over_tokens(world: World) -> None:
    """The wrapper's weight is said after the forward pass, and holds for the gradients of the statistics too."""
    x, goal = batch(shape=()), mpigrad.arange(12) % 4 - 1  # -1 is padding

    def gradients(model: Any, first: int, last: int) -> Any:
        loss = nn.functional.cross_entropy(model(x[first:last]), goal[first:last], ignore_index=-1)
        if isinstance(model, ddp.DistributedDataParallel):
            model.weight(int((goal[first:last] != -1).sum()))
        loss.backward()
        return {name: p.grad.numpy() for name, p in model.named_parameters()}

    def build() -> Any:
        mpigrad.manual_seed(3)
        return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 3)).double()

    expected = gradients(build(), 0, 12)

    def on_this_rank() -> Any:
        first, last = {1: [0, 12], 2: [0, 3, 12], 3: [0, 7, 7, 12], 4: [0, 2, 5, 5, 12]}[get_world_size()][
            get_rank() : get_rank() + 2
        ]
        model = nn.SyncBatchNorm.convert_sync_batchnorm(build())
        return gradients(ddp.DistributedDataParallel(model), first, last)

    for found in world(on_this_rank):
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=1e-9, err_msg=name)


def test_second_derivatives(world: World) -> None:
    x = batch(shape=())

    def curvature(model: Any, first: int, last: int) -> Any:
        """The gradient of sum(gradient ** 2), by the parts of it that are this rank's."""
        mine, share = x[first:last].clone().requires_grad_(), (last - first) / 12
        (gradient,) = mpigrad.autograd.grad(loss_of(model(mine), first, last), mine, create_graph=True)
        ((gradient * share) ** 2).sum().div(share or 1).backward()
        return (mine.grad * share).numpy(), (model.weight.grad * share).numpy()

    expected = curvature(norm(nn.BatchNorm1d), 0, 12)

    def on_this_rank() -> Any:
        first, last = cuts(get_world_size())[get_rank() : get_rank() + 2]
        return curvature(norm(nn.SyncBatchNorm), first, last)

    inputs, weights = zip(*world(on_this_rank), strict=True)
    np.testing.assert_allclose(np.concatenate(inputs), expected[0], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(sum(weights), expected[1], rtol=1e-9, atol=1e-9)


def test_evaluation_and_repr_are_those_of_batch_norm(world: World) -> None:
    def on_this_rank() -> Any:
        model, batch_norm = norm(nn.SyncBatchNorm).eval(), norm(nn.BatchNorm1d).eval()
        assert repr(model) == repr(batch_norm).replace("BatchNorm1d", "SyncBatchNorm")
        mine = batch()[: get_rank() + 1]  # no word between the ranks: they may differ
        close(model(mine).detach().numpy(), batch_norm(mine))

    world(on_this_rank)


def test_conversion_keeps_parameters_buffers_and_settings() -> None:
    model = nn.Sequential(
        nn.BatchNorm1d(3, eps=1e-3, momentum=None), nn.ModuleDict({"a": nn.BatchNorm2d(2, affine=False)})
    )
    model.eval()
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert isinstance(converted[1]["a"], nn.SyncBatchNorm)
    assert not converted[0].training
    assert (converted[0].eps, converted[0].momentum) == (1e-3, None)
    assert all(found is parameters[name] for name, found in converted.named_parameters())
    assert all(found is buffers[name] for name, found in converted.named_buffers())
    assert isinstance(nn.SyncBatchNorm.convert_sync_batchnorm(nn.BatchNorm1d(3)), nn.SyncBatchNorm)


def test_too_few_values(world: World) -> None:
    def on_this_rank() -> Any:
        x = batch(shape=(), dtype=mpigrad.float32)[: 1 if get_rank() == 0 else 0]
        with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
            nn.SyncBatchNorm(3)(x)

    world(on_this_rank)
