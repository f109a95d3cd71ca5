"""What ranks train on parts of, and what one process makes of the whole batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np

import mpigrad
from mpigrad import Parameter, Tensor, ddp, nn, optim
from mpigrad.ddp.comm import Communicator

mse_loss = nn.functional.mse_loss
cross_entropy = nn.functional.cross_entropy
BYTES = 1 / 2**20  # in MiB
TINY = {"bucket_cap_mb": BYTES, "first_bucket_mb": BYTES}  # a bucket per parameter
FEATURES, CLASSES = 5, 3


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


def classifier(seed: int = 0, *more: nn.Module) -> nn.Sequential:
    made = nn.Sequential(nn.Linear(FEATURES, 8), *more, nn.ReLU(), nn.Linear(8, CLASSES)).double()
    draw = np.random.default_rng(seed)
    for parameter in made.parameters():
        parameter.data.copy_(mpigrad.from_numpy(draw.normal(size=parameter.shape)))
    return made


def labelled(count: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    draw = np.random.default_rng(seed)
    inputs, labels = draw.normal(size=(count, FEATURES)), draw.integers(CLASSES, size=count)
    return mpigrad.from_numpy(inputs), mpigrad.from_numpy(labels)


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


def assert_trains_alike(one: Communicator, other: Communicator) -> None:
    """Over two communicators of the same ranks the losses of a training are the same, and the ranks stay equal."""

    def train(comm: Communicator) -> list[float]:
        mpigrad.manual_seed(7)
        model = ddp.DistributedDataParallel(nn.Linear(FEATURES, CLASSES), communicator=comm)
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        inputs, labels = (part[6 * comm.rank : 6 * comm.rank + 6] for part in labelled(6 * comm.size))
        losses = []
        for _ in range(5):
            loss = cross_entropy(model(inputs.float()), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert len(set(comm.all_gather_object(ddp.digest(model.state_dict())))) == 1
        return losses

    np.testing.assert_allclose(train(one), train(other), rtol=1e-6)


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


class Branches(nn.Module):
    """Uses the branches it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(FEATURES, CLASSES) for _ in range(3))
        fill(self, 5)

    def forward(self, x: Tensor, use: str) -> Tensor:
        first, *others = (getattr(self, name)(x) for name in use)
        return sum(others, first)
